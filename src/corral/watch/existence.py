"""Whether a node exists, as `wait_present` and `wait_absent` ask: without the permission to read it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from corral import errors
from corral.session.watches import Kind
from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import Operation

from .feed import Feeds, ReadFeed
from .node import ABSENT, NodeWatch, Snapshot

__all__ = ["ExistenceWatch"]


# In seconds, when it looks again for the first time.
FIRST_LOOK = 0.1


class ExistenceFeed(ReadFeed[Snapshot]):
    """Whether a node exists; with its data, if that is asked for and we may read it.

    ``exists`` needs no permission. But servers with the fix for CVE-2024-23944 (3.8.4, 3.9.2) do not tell of
    what happens to a node that we may not read. So as long as somebody waits it looks again: soon at first,
    then at intervals that double up to the session timeout.
    """

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, *, reads_data: bool) -> None:
        super().__init__(feeds, key, full, path, messages.EXISTS, Kind.NODE, ABSENT)
        self._reads_data = reads_data
        self._stat: Stat | None = None  # while the data of the node that has it is read
        self._timer: asyncio.TimerHandle | None = None
        self._interval = FIRST_LOOK

    def demand(self) -> None:
        super().demand()
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._interval = min(2 * self._interval, self.session.timeout)
        if self.is_awaited:
            self.stale = True
            self.demand()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().end()

    def state_of(self, answer: Any) -> Snapshot:
        return None, answer

    def set_result(self, result: Any, /) -> None:
        if self._reading is messages.GET:
            self._reading = None
            self._offer(result)
        elif self._reads_data:
            self._reading, self._stat = None, result
            self._read(messages.GET)
        else:
            super().set_result(result)

    def set_exception(self, error: BaseException, /) -> None:
        if self._reading is messages.GET and isinstance(error, errors.NoNode):
            self._reading = None
            self._misread("it is there and is not there, by turns")  # or it was deleted since: look
        elif self._reading is messages.GET and isinstance(error, errors.NoAuth):
            self._reading = None
            self._offer((None, self._stat))
        else:
            super().set_exception(error)

    def _question(self, op: Operation) -> tuple[bytes, tuple[str, Kind] | None]:
        if op is messages.GET:
            return messages.encode_get(self.full, False), None  # the watch is set already
        return super()._question(op)


class ExistenceWatch(NodeWatch):
    """As `NodeWatch`, of a node that we may not be allowed to read: the events' data is None then, and always
    unless `reads_data`."""

    def __init__(self, feeds: Feeds, full: str, path: str, *, reads_data: bool) -> None:
        super().__init__(feeds, full, path)
        self._reads_data = reads_data

    def _find(self) -> ReadFeed[Snapshot]:
        key = (ExistenceFeed, self._full, self._reads_data)
        return self._feeds.get(
            key, lambda: ExistenceFeed(self._feeds, key, self._full, self._path, reads_data=self._reads_data)
        )
