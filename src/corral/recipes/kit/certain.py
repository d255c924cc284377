"""Writes that are repeated until their outcome is certain."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from corral import errors
from corral.session.requests import PatientRequest
from corral.session.session import Session
from corral.types import Acl
from corral.wire import messages

from .ops import EPHEMERAL, Outcome, Write
from .rounds import MOST_ROUNDS

__all__ = ["CertainTransaction", "GuaranteedDelete", "UntilCertain", "create_certainly", "delete_certainly"]

logger = logging.getLogger("corral.recipes")


class UntilCertain(ABC):
    """A write of one session that does no harm when it is carried out twice (`requests.Waiter`).

    It is sent again after each connection that breaks on it: what the old server passed on was ordered before
    that, so the new answer tells what happened (S2). It needs no task, and nobody's cancel stops it. It gives
    up when the server refuses it, when the loss is hopeless (`errors.ConnectionLoss.is_hopeless`), and after
    `MOST_ROUNDS` answers that cannot be used.
    """

    __slots__ = ("_body", "_op", "_path", "_session", "_session_id", "_useless")

    def __init__(
        self, session: Session, op: messages.Operation, body: bytes, path: str, session_id: int
    ) -> None:
        self._session = session
        self._op = op
        self._body = body
        self._path = path
        self._session_id = session_id
        self._useless = 0

    def send(self) -> None:
        """Send it, for the first time or again."""
        request = PatientRequest(self._op, self._body, self._path, self, bound_to=self._session_id)
        self._session.submit_now(request)

    def done(self) -> bool:
        return False

    @abstractmethod
    def set_result(self, result: Any, /) -> None:
        """The server has answered."""

    def set_exception(self, error: BaseException, /) -> None:
        if isinstance(error, errors.ConnectionLoss):
            again = not error.is_hopeless
        else:
            self._useless += 1
            again = isinstance(error, errors.ReplyError) and self._useless % MOST_ROUNDS != 0
        if again:
            self.send()
        else:
            self.failed(error)

    @abstractmethod
    def failed(self, error: BaseException) -> None:
        """The server has refused it, the session is over, or it is given up: then the outcome is unknown."""


class GuaranteedDelete(UntilCertain):
    """Deletes a znode of ours until it is gone: deleted, found missing, or gone with its session.

    The name of the znode is ours alone, so deleting it twice does no harm. When it gives up, that is logged,
    and `on_done` gets the error; otherwise `on_done` gets None.
    """

    __slots__ = ("_on_done",)

    def __init__(
        self,
        session: Session,
        full: str,
        session_id: int,
        on_done: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        super().__init__(session, messages.DELETE, messages.encode_delete(full, -1), full, session_id)
        self._on_done = on_done
        self.send()

    def set_result(self, result: Any, /) -> None:
        if self._on_done is not None:
            self._on_done(None)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, errors.NoNode | errors.SessionError):
            self.set_result(None)
            return
        logger.warning(
            "znode %s stays until its session ends, or until it is released again: %s", self._path, error
        )
        if self._on_done is not None:
            self._on_done(error)


class _Create(UntilCertain):
    """Creates a znode whose name is ours alone: if it exists, we have created it."""

    __slots__ = ("_answered", "_on_created")

    def __init__(
        self, session: Session, body: bytes, path: str, session_id: int, on_created: Callable[[], None]
    ) -> None:
        super().__init__(session, messages.CREATE2, body, path, session_id)
        self._on_created = on_created
        self._answered: asyncio.Future[None] = session.loop.create_future()
        self.send()

    async def wait(self) -> None:
        await self._answered

    def done(self) -> bool:
        return self._answered.done()

    def set_result(self, result: Any, /) -> None:
        if not self._answered.done():
            self._answered.set_result(None)
            self._on_created()

    def set_exception(self, error: BaseException, /) -> None:
        if not self._answered.done():  # else it must not be sent again, behind the delete
            super().set_exception(error)

    def failed(self, error: BaseException) -> None:
        if isinstance(error, errors.NodeExists):
            self.set_result(None)
        else:
            self._answered.set_exception(error)


async def create_certainly(
    session: Session,
    full: str,
    path: str,
    data: bytes,
    acl: tuple[Acl, ...],
    session_id: int,
    on_created: Callable[[], None],
) -> None:
    """Create an ephemeral znode whose name is ours alone, in this session. `path` is what errors name.

    `on_created` is called when the answer is read: whatever the server had sent before it, such as the events
    of watches, has been noticed by then, and nothing that it has sent after it. Raises `NoNode`, other
    refusals, and `SessionExpired`. On cancel, and on any error, the znode may exist: delete it.
    """
    body = messages.encode_create(full, data, acl, EPHEMERAL)
    await _Create(session, body, path, session_id, on_created).wait()


async def delete_certainly(session: Session, full: str, session_id: int) -> None:
    """Delete a znode of ours, and wait until it is gone. Raises the error with which that was given up. On
    cancel it goes on."""
    gone: asyncio.Future[BaseException | None] = session.loop.create_future()

    def is_done(failure: BaseException | None) -> None:
        if not gone.done():
            gone.set_result(failure)

    GuaranteedDelete(session, full, session_id, is_done)
    failure = await gone
    if failure is not None:
        raise failure


class CertainTransaction(UntilCertain):
    """A transaction until its outcome is certain. `on_done` gets the outcome, or the error with which it was
    given up. It gets nothing if the session is over."""

    __slots__ = ("_on_done",)

    def __init__(
        self,
        session: Session,
        writes: list[Write],
        path: str,
        session_id: int,
        on_done: Callable[[Outcome | errors.CorralError], None],
    ) -> None:
        super().__init__(session, messages.MULTI, messages.encode_multi(writes), path, session_id)
        self._on_done = on_done

    def set_result(self, results: Any, /) -> None:
        self._on_done(Outcome.of(results))

    def failed(self, error: BaseException) -> None:
        if isinstance(error, errors.CorralError) and not isinstance(error, errors.SessionError):
            self._on_done(error)
