"""Answers that outlive whoever waits for them, and nodes that are deleted until it is certain.

A future is gone when the task that awaits it is cancelled, and the answer that comes later is dropped. A
recipe cannot afford that: the answer to a create has the name of the node that must be removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from corral import errors
from corral.session.requests import Request
from corral.session.supervisor import Session
from corral.wire import messages

logger = logging.getLogger("corral.recipes")


class Outcome:
    """What became of a request. Waiting for it may be cancelled; the outcome comes all the same."""

    __slots__ = ("_error", "_loop", "_settled", "_then", "_value", "_wake", "_withdrawn")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._settled = False
        self._withdrawn = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._wake: asyncio.Future[None] | None = None
        self._then: Callable[[Any, BaseException | None], None] | None = None

    # What the session sees of it (`session.requests.Waiter`)

    def done(self) -> bool:
        return self._withdrawn

    def set_result(self, result: Any, /) -> None:
        self._value = result
        self._settle()

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self._settle()

    def _settle(self) -> None:
        self._settled = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        if self._then is not None:
            self._then(self._value, self._error)

    # What the recipe sees of it

    async def wait(self) -> Any:
        """The answer, or its error. On cancel the outcome is still to come: see `when_settled`."""
        if not self._settled:
            self._wake = self._loop.create_future()
            await self._wake
        if self._error is not None:
            raise self._error
        return self._value

    def when_settled(self, then: Callable[[Any, BaseException | None], None]) -> None:
        """Call `then` with the answer and the error (one is None), now or when it comes."""
        if self._settled:
            then(self._value, self._error)
        else:
            self._then = then

    def withdraw(self) -> None:
        """The request was not sent yet, and is not to be."""
        self._withdrawn = True


class Removal:
    """Deletes a node of ours until it is certain: answered, found gone, or gone with its session.

    Sent again after each connection that is lost over it: the name is ours alone, so deleting twice does no
    harm. It needs no task, and does not stop for anybody's cancel.
    """

    __slots__ = ("_on_done", "_path", "_session", "_session_id")

    def __init__(
        self, session: Session, path: str, session_id: int, on_done: Callable[[], None] | None = None
    ) -> None:
        self._session = session
        self._path = path
        self._session_id = session_id
        self._on_done = on_done
        self._send()

    def _send(self) -> None:
        body = messages.encode_delete(self._path, -1)
        self._session.submit(Request(messages.DELETE, body, self._path, self, bound_to=self._session_id))

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        if self._on_done is not None:
            self._on_done()

    def set_exception(self, exception: BaseException, /) -> None:
        if isinstance(exception, errors.ConnectionLoss):
            self._send()
            return
        if not isinstance(exception, errors.NoNode | errors.SessionError):
            logger.warning("%s stays until its session ends: %s", self._path, exception)
        self.set_result(None)
