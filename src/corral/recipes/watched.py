"""A node, or its children, read again when they have changed."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from corral import errors
from corral.session.requests import Request
from corral.session.supervisor import Session
from corral.session.watches import Change, Kind
from corral.wire import messages
from corral.wire.messages import Operation

__all__ = ["Watched"]

_ENCODE = {
    messages.GET: messages.encode_get,
    messages.EXISTS: messages.encode_exists,
    messages.CHILDREN: messages.encode_children,
}


class Watched:
    """Reads with a watch, while ``with`` lasts: `read`, then `changed` until it is worth reading again."""

    def __init__(self, session: Session, path: str, op: Operation) -> None:
        self._session = session
        self._path = path
        self._op = op
        self._kind = Kind.CHILDREN if op is messages.CHILDREN else Kind.NODE
        self._body = _ENCODE[op](path, True)
        self._watches = (path, self._kind)
        self._fired: asyncio.Future[Change] = session.loop.create_future()

    def __enter__(self) -> Watched:
        self._session.watch(self._path, self, self._kind)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._session.unwatch(self._path, self, self._kind)

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        if not self._fired.done():
            self._fired.set_result(change)

    async def read(self) -> Any:
        """The answer; None where there is no such node. Whatever changes it from here on, `changed` tells.

        A node that is not there is watched only by `EXISTS`.
        """
        session = self._session
        while True:
            answer = session.loop.create_future()
            session.submit_now(Request(self._op, self._body, self._path, answer, watches=self._watches))
            try:
                return await answer
            except errors.NoNode:
                return None
            except errors.ConnectionLoss:
                continue

    async def changed(self) -> Change:
        """Wait until what was read may be another by now."""
        change = await self._fired
        self._fired = self._session.loop.create_future()
        return change
