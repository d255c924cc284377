"""Writes that are applied exactly once, although their answers may be lost (X1).

The znode alone cannot tell what happened to a write whose answer was lost: equal bytes prove nothing, since
another client may have written the same. The write therefore travels in one transaction with a *mark*: an
ephemeral child of the znode, whose data becomes a GUID of this write. After a loss a quorum write is answered
first (S2), and then the mark tells.

The mark is created before the write, not with it. Its absence then proves nothing but that it was deleted: by
somebody, or by the server with our session, which a server may do before it tells us. A mark that is created
by the transaction itself would make that look like a transaction that was not applied, and the write would be
applied twice. Only where the znode does not exist yet does the transaction that creates it create the mark,
too. If a mark that should be there is missing while the znode exists, nobody can tell any more: the write
raises `ConnectionLoss`, never a guess. If the znode is gone, all that was written is gone with it.

The tasks of one client write one after another, so that they never compete with each other. They share one
mark, which is deleted as soon as none of them is writing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from corral import errors, paths
from corral.session.requests import PatientRequest, Request
from corral.session.session import Session
from corral.types import Acl
from corral.wire import messages

from . import ops
from .certain import GuaranteedDelete
from .node_names import PROTECTED
from .ops import Outcome, Write
from .rounds import Rounds

__all__ = ["Known", "MarkedWrites", "Marks"]


class Known(NamedTuple):
    """Data of a znode, and the version that it has."""

    data: bytes
    version: int


class _Mark:
    """The mark of one client at one znode."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.users = 0
        self.full = ""
        self.session_id = 0
        """The session in which the mark exists, or may exist; 0 for none."""
        self.created: asyncio.Future[object] | None = None
        """The answer to its create; None once it is known to exist."""
        self.known: Known | None = None
        self.deletion: _Deletion | None = None
        """Its deletion, if nobody uses it."""


class _Deletion(GuaranteedDelete):
    """Deletes a mark, unless it is used again before that is sent."""

    __slots__ = ("_is_withdrawn", "_requests")

    def __init__(
        self,
        session: Session,
        full: str,
        session_id: int,
        on_done: Callable[[BaseException | None], None],
    ) -> None:
        self._is_withdrawn = False
        self._requests: list[Request] = []
        super().__init__(session, full, session_id, on_done)

    def send(self) -> None:
        # At the end of the turn of the loop: a task that writes again at once keeps the mark. If it deletes
        # the znode instead, that is behind this.
        request = PatientRequest(self._op, self._body, self._path, self, bound_to=self._session_id)
        self._requests.append(request)
        self._session.submit(request)

    def done(self) -> bool:
        return self._is_withdrawn

    def withdraw(self) -> bool:
        """Do not send it. False if it was sent already."""
        self._is_withdrawn = not any(request.sent for request in self._requests)
        return self._is_withdrawn


class Marks:
    """The marks of one client, by the full path of the marked znode, and by the path that errors name: what
    is below one znode, and marked there, need not wait for its neighbours."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str], _Mark] = {}

    @contextlib.asynccontextmanager
    async def at(
        self, session: Session, full: str, path: str, acl: tuple[Acl, ...]
    ) -> AsyncIterator[MarkedWrites]:
        """The writes to the znode at `full`, once the client's other tasks have finished theirs. `path` is
        what errors name; `acl` is for the mark, and must let us read and write it."""
        session.ensure_loop()
        key = full, path
        mark = self._by_path.get(key)
        if mark is None or (mark.deletion is not None and not mark.deletion.withdraw()):
            mark = self._by_path[key] = _Mark()
        mark.deletion = None
        mark.users += 1
        try:
            async with mark.turn:
                yield MarkedWrites(session, mark, full, path, acl)
        finally:
            mark.users -= 1
            if not mark.users:
                self._retire(session, key, mark)

    def _retire(self, session: Session, key: tuple[str, str], mark: _Mark) -> None:
        """Nobody writes any more: delete the mark."""

        def deleted(error: BaseException | None) -> None:
            if error is not None:
                mark.deletion = None  # we may not delete it: use it again, rather than create one more
            elif self._by_path.get(key) is mark:
                del self._by_path[key]

        if mark.created is not None:
            mark.created.cancel()  # it is not sent, if it was not sent yet
        if mark.session_id:
            mark.deletion = _Deletion(session, mark.full, mark.session_id, deleted)
        else:
            deleted(None)


class MarkedWrites:
    """The writes of one task to one znode. Made by `Marks.at`, which gives the task its turn."""

    def __init__(self, session: Session, mark: _Mark, full: str, path: str, acl: tuple[Acl, ...]) -> None:
        self._session = session
        self._mark = mark
        self._full = full
        self._path = path
        self._acl = acl

    @property
    def known(self) -> Known | None:
        """What a task of this client has just written to the znode, if it is likely to be there still."""
        return self._mark.known

    @known.setter
    def known(self, known: Known | None) -> None:
        self._mark.known = known

    def prepare(self) -> None:
        """Send the create of the mark, if there is none in this session. `write` does so as well, and waits
        for the answer; a read that is sent in between travels with it."""
        mark, session_id = self._mark, self._session.session_id
        if not session_id or (mark.session_id == session_id and not _has_failed(mark.created)):
            return
        full = mark.full
        if mark.session_id != session_id:
            # A new name: the mark of the session before may still be there.
            full = paths.join(self._full, f"{PROTECTED.prefix}{PROTECTED.new_guid()}-mark")
        body = messages.encode_create(full, b"", self._acl, ops.EPHEMERAL)
        created = self._session.request(messages.CREATE, body, self._path, bound_to=session_id)
        mark.full, mark.session_id, mark.created = full, session_id, created
        created.add_done_callback(_has_failed)  # the task may end without waiting for it

    async def write(self, writes: Sequence[Write]) -> Outcome:
        """Apply all writes or none, once. Refusals are in the outcome.

        If the znode does not exist, `writes` must create it. On loss of the connection it finds out whether
        they were applied, and sends them again if not. Raises `ConnectionLoss` if that cannot be known any
        more, or is hopeless, and `NoAuth` if we may not create the mark. On cancel they may be applied.
        """
        mark, session, rounds = self._mark, self._session, Rounds()
        token = PROTECTED.new_guid().encode()
        while True:
            had_mark = await self._ensure_mark(rounds)
            if had_mark:
                last = ops.set_data(mark.full, token)
            else:
                last = ops.create(mark.full, token, self._acl, ops.EPHEMERAL)
            body = messages.encode_multi([*writes, last])
            try:
                answer = await session.request(messages.MULTI, body, self._path, bound_to=mark.session_id)
                outcome = Outcome.of(answer)
            except errors.SessionExpired:
                continue  # nothing was applied
            except (errors.ConnectionLoss, errors.ReplyError) as error:
                if not await self._was_applied(token, error, had_mark=had_mark):
                    if isinstance(error, errors.ReplyError):
                        rounds.again(error)
                    elif error.is_hopeless:
                        raise
                    continue
                outcome = Outcome(None, 0)
            if outcome.refused is None:
                mark.created = None
                await session.wait_caches_current()
                return outcome
            if outcome.refused < len(writes):
                return outcome
            refusal = outcome.error("set", self._path)
            if not had_mark or not isinstance(refusal, errors.NoNode):
                raise self._explained(refusal)
            mark.session_id = 0  # somebody has deleted it, and nothing was applied
            rounds.again(refusal)

    async def _ensure_mark(self, rounds: Rounds) -> bool:
        """Return when the mark exists in the current session: True. If the znode does not exist: False."""
        mark, session = self._mark, self._session
        while True:
            await ops.current_session(session, self._full, self._path)
            self.prepare()
            if mark.created is None:
                return True
            try:
                await mark.created
            except errors.NodeExists:
                pass  # it was sent before, and its answer was lost
            except errors.NoNode:
                return False
            except errors.SessionExpired:
                continue
            except errors.ReplyError as error:
                rounds.again(error)
                continue
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
                continue
            except errors.ServerError as refusal:
                raise self._explained(refusal) from None
            mark.created = None
            return True

    async def _was_applied(self, token: bytes, error: errors.OperationError, *, had_mark: bool) -> bool:
        """Whether the transaction with this token was applied, although its answer was lost."""
        session, mark, path = self._session, self._mark, self._path
        try:
            check = [ops.check(mark.full)]
            await ops.multi(session, check, path, bound_to=mark.session_id, is_patient=True)
            data, _ = await ops.get(session, mark.full, path, bound_to=mark.session_id)
            return data == token
        except errors.SessionExpired:
            problem = "the session ended before it was known whether the write was applied"
        except errors.NoAuth:
            problem = "acl= does not let us read the mark that tells whether the write was applied"
        except errors.NoNode:
            mark.session_id = 0
            try:
                stat = await ops.exists(session, self._full, path)
            except errors.NoNode:
                return False
            except errors.NoAuth:
                stat = None
            if not had_mark and stat is not None and stat.cversion == 0:
                return False  # the transaction would have created the mark in it
            problem = "the mark that tells whether the write was applied was deleted"
        raise errors.ConnectionLoss(error.operation, path, problem) from error

    def _explained(self, refusal: errors.ServerError) -> errors.ServerError:
        if not isinstance(refusal, errors.NoAuth):
            return refusal
        problem = (
            "writing exactly once needs a child of the znode, for a moment: the znode's ACL must grant us "
            "CREATE and DELETE, and acl= must grant READ and WRITE"
        )
        return errors.NoAuth(refusal.operation, self._path, problem)


def _has_failed(created: asyncio.Future[object] | None) -> bool:
    """Whether the create of a mark has to be sent again."""
    if created is None or not created.done():
        return False
    return created.cancelled() or not isinstance(created.exception(), errors.NodeExists | None)
