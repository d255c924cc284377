"""Nodes of ours that are deleted until it is certain that they are gone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from corral import errors
from corral.session.requests import Request
from corral.session.session import Session
from corral.wire import messages

logger = logging.getLogger("corral.recipes")


# How often an answer that cannot be used is asked for again.
MOST_TRIES = 16


class Removal:
    """Deletes a node of ours until it is certain: answered, found gone, or gone with its session.

    Sent again after each connection that is lost over it: the name is ours alone, so deleting twice does no
    harm. It needs no task, and does not stop for anybody's cancel. It ends without success when the server
    refuses it, and when it is hopeless (`errors.ConnectionLoss.is_hopeless`); that is logged, and given to
    `on_done`, which gets None otherwise.
    """

    __slots__ = ("_on_done", "_path", "_session", "_session_id", "_tries")

    def __init__(
        self,
        session: Session,
        path: str,
        session_id: int,
        on_done: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        self._session = session
        self._path = path
        self._session_id = session_id
        self._on_done = on_done
        self._tries = 0
        self._send()

    def _send(self) -> None:
        body = messages.encode_delete(self._path, -1)
        self._session.submit_now(Request(messages.DELETE, body, self._path, self, bound_to=self._session_id))

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        if self._on_done is not None:
            self._on_done(None)

    def set_exception(self, exception: BaseException, /) -> None:
        if isinstance(exception, errors.NoNode | errors.SessionError):
            self.set_result(None)
            return
        if isinstance(exception, errors.ConnectionLoss):
            again = not exception.is_hopeless
        else:
            self._tries += 1
            again = isinstance(exception, errors.ReplyError) and self._tries < MOST_TRIES
        if again:
            self._send()
            return
        logger.warning(
            "node %s stays until its session ends, or until its release is tried again: %s",
            self._path,
            exception,
        )
        if self._on_done is not None:
            self._on_done(exception)
