"""Whether a node exists, without the permission to read it: for `wait_present` and `wait_absent`."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from corral import errors
from corral.session.watchers import WatchKind
from corral.types import HIDDEN_STAT, Stat
from corral.wire import messages
from corral.wire.messages import Operation

from .node import NO_NODE, NodeState, NodeWatch
from .read import FLICKERS, ReadFeed
from .shared import Feeds

__all__ = ["ExistenceWatch"]

# The first interval of polling, in seconds.
FIRST_POLL = 0.1
# Of a node that exists, but whose `Stat` the server does not show us.


class ExistenceFeed(ReadFeed[NodeState]):
    """Whether a node exists; also its data, if `reads_data` is set and its ACL lets us read it.

    Servers with the fix for CVE-2024-23944 (3.8.4, 3.9.2) send no events of a node that we may not read, and
    refuse ``exists`` for it with `NoAuth`, which says that it exists. Therefore the feed also polls while a
    reader waits, at intervals that double from `FIRST_POLL` to the session timeout.
    """

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, *, reads_data: bool) -> None:
        super().__init__(feeds, key, full, path, messages.EXISTS, WatchKind.NODE, NO_NODE)
        self._reads_data = reads_data
        self._stat: Stat | None = None  # of the node whose data is being read
        self._timer: asyncio.TimerHandle | None = None
        self._interval = FIRST_POLL

    def demand(self) -> None:
        super().demand()
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._poll)

    def _poll(self) -> None:
        self._timer = None
        self._interval = min(2 * self._interval, self.session.timeout)
        if self.has_waiters:
            self.stale = True
            self.demand()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().stop()

    def state_of(self, answer: Any) -> NodeState:
        return None, answer

    def set_result(self, result: Any, /) -> None:
        if self._reading is messages.GET:
            self._reading = None
            self._accept(result)
        elif self._reads_data:
            self._reading, self._stat = None, result
            self._read(messages.GET)
        else:
            super().set_result(result)

    def set_exception(self, error: BaseException, /) -> None:
        if self._reading is messages.GET and isinstance(error, errors.NoNode):
            self._reading = None
            self._misread(FLICKERS)  # or it was deleted between the two reads
        elif self._reading is messages.GET and isinstance(error, errors.NoAuth):
            self._reading = None
            self._accept((None, self._stat))
        elif isinstance(error, errors.NoAuth):
            self._reading = None
            newest = self._newest
            self._publish((None, HIDDEN_STAT))
            self._newest = newest
        else:
            super().set_exception(error)

    def _request(self, op: Operation) -> tuple[bytes, tuple[str, WatchKind] | None]:
        if op is messages.GET:
            return messages.encode_get(self.full, False), None  # `exists` has set the watch
        return super()._request(op)


class ExistenceWatch(NodeWatch):
    """A `NodeWatch` that needs no permission to read. The events' data is None if we may not read it, and
    always unless `reads_data` is set."""

    def __init__(self, feeds: Feeds, full: str, path: str, *, reads_data: bool) -> None:
        super().__init__(feeds, full, path)
        self._reads_data = reads_data

    def _find_feed(self) -> ReadFeed[NodeState]:
        key = (ExistenceFeed, self._full, self._reads_data)
        return self._feeds.get(
            key, lambda: ExistenceFeed(self._feeds, key, self._full, self._path, reads_data=self._reads_data)
        )
