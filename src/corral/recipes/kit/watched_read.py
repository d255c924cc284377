"""Reading a znode, or its children, again after each change."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from corral import errors
from corral.session.session import Session
from corral.session.watchers import WatchEvent, WatchKind
from corral.wire import messages
from corral.wire.messages import Operation

__all__ = ["WatchEvent", "WatchedRead"]

_ENCODE = {
    messages.GET: messages.encode_get,
    messages.EXISTS: messages.encode_exists,
    messages.CHILDREN: messages.encode_children,
}
# How often a node that we may not read is read again, as a part of T: see `WatchedRead`.
LOOK_AGAIN_EVERY = 1 / 3


class WatchedRead:
    """Reads with a watch, inside a ``with`` block: `read`, then `changed` until it is worth reading again.

    If we may not read a node (`NoAuth`), its existence is read instead. Servers from 3.9 on refuse that as
    well, which tells that the node exists; servers with the fix for CVE-2024-23944 (3.8.4) send no events of
    such a node. Then `changed` therefore also returns after a third of the session timeout.
    """

    __slots__ = ("_fired", "_full", "_is_unreadable", "_kind", "_op", "_path", "_session")

    def __init__(self, session: Session, full: str, op: Operation, path: str) -> None:
        self._session = session
        self._full = full
        self._path = path  # what errors call it
        self._op = op
        self._kind = WatchKind.CHILDREN if op is messages.CHILDREN else WatchKind.NODE
        self._is_unreadable = False
        self._fired: asyncio.Future[WatchEvent] = session.loop.create_future()

    def __enter__(self) -> WatchedRead:
        self._session.watch(self._full, self, self._kind)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._session.unwatch(self._full, self, self._kind)

    @classmethod
    def of_existence(cls, session: Session, full: str, path: str) -> WatchedRead:
        """Reads the `Stat` of a znode, which may not exist."""
        return cls(session, full, messages.EXISTS, path)

    @property
    def fired(self) -> asyncio.Future[WatchEvent]:
        """The next change, for somebody who waits for something else, too. Do not cancel it."""
        return self._fired

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        if not self._fired.done():
            self._fired.set_result(change)

    async def read(self) -> Any:
        """The answer; None if there is no such node. `changed` reports every later change.

        Only `EXISTS` watches a node that does not exist. For a node that we may not read the answer is its
        `Stat`, or the refusal. On loss of the connection it repeats the request, and raises `ConnectionLoss`
        when that is hopeless.
        """
        while True:
            body = _ENCODE[self._op](self._full, True)
            watches = (self._full, self._kind)
            try:
                return await self._session.ask(self._op, body, self._path, watches=watches, at_once=True)
            except errors.NoNode:
                return None
            except errors.NoAuth as refusal:
                if self._op is messages.CHILDREN:
                    raise
                self._is_unreadable = True
                if self._op is messages.EXISTS:
                    return refusal
                self._op = messages.EXISTS

    async def changed(self, or_when: asyncio.Future[Any] | None = None) -> WatchEvent:
        """Wait until what was read may have changed, or `or_when` is done."""
        if self._is_unreadable or or_when is not None:
            awaited: list[asyncio.Future[Any]] = [self._fired]
            if or_when is not None:
                awaited.append(or_when)
            await asyncio.wait(
                awaited,
                timeout=self._session.timeout * LOOK_AGAIN_EVERY if self._is_unreadable else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not self._fired.done():
                return WatchEvent.UNKNOWN
        change = await self._fired
        self._fired = self._session.loop.create_future()
        return change
