"""Writes that are applied exactly once, although their answers may be lost (X1).

The znode alone cannot tell what happened to a versioned write whose answer was lost: equal bytes prove
nothing, since another client may have written the same. The write therefore travels in one transaction with
a *mark*: an ephemeral child of the znode, whose data is a GUID of this write. After the reconnect a quorum
write is answered first (S2), and then the mark tells. If the session is over, the mark is gone with it, and
nobody can tell any more: then the write raises `ConnectionLoss`, never a guess.

The tasks of one client write one after another, so that they never compete with each other. They share one
mark, which is deleted as soon as none of them is writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from corral import errors, paths
from corral.session.session import Session
from corral.types import Acl
from corral.wire import messages

from . import ops
from .certain import GuaranteedDelete
from .node_names import PROTECTED
from .ops import Outcome, Write
from .rounds import Rounds

__all__ = ["MarkedWrites", "Marks"]


class Marks:
    """The marked writes of one client, by the full path of the marked znode, and what errors name."""

    def __init__(self) -> None:
        self._by_path: dict[tuple[str, str], MarkedWrites] = {}

    def at(self, session: Session, full: str, path: str, acl: tuple[Acl, ...]) -> MarkedWrites:
        """The writes to the znode at `full`; `path` is what errors name. Use them in ``async with``."""
        writes = self._by_path.get((full, path))
        if writes is None:
            writes = self._by_path[full, path] = MarkedWrites(self._by_path, session, full, path, acl)
        return writes


class MarkedWrites:
    """The writes of one client to one znode: ``async with`` waits for the client's own writes before."""

    def __init__(
        self,
        by_path: dict[tuple[str, str], MarkedWrites],
        session: Session,
        full: str,
        path: str,
        acl: tuple[Acl, ...],
    ) -> None:
        self._by_path = by_path
        self._session = session
        self._full = full
        self._path = path
        self._acl = acl
        self._mark = ""
        self._marked_in = 0
        """The session in which the mark exists, or may exist; 0 for none."""
        self._turn = asyncio.Lock()
        self._users = 0

    async def __aenter__(self) -> Self:
        self._users += 1
        try:
            await self._turn.acquire()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._turn.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        # In the next turn of the loop: a task that writes again at once keeps the mark.
        self._session.loop.call_soon(self._retire)

    def _retire(self) -> None:
        """Delete the mark, unless somebody is writing."""
        key = self._full, self._path
        if self._users or self._by_path.get(key) is not self:
            return
        del self._by_path[key]
        if self._marked_in:
            GuaranteedDelete(self._session, self._mark, self._marked_in)

    async def write(self, writes: Sequence[Write]) -> Outcome:
        """Apply all writes or none, once. Refusals are in the outcome.

        On loss of the connection it finds out whether they were applied, and sends them again if not. Raises
        `ConnectionLoss` if the session ended before that was known, or when it is hopeless. On cancel they
        may be applied.
        """
        session, rounds = self._session, Rounds()
        token = PROTECTED.new_guid().encode()
        while True:
            session_id = await ops.current_session(session, self._full, self._path)
            had_mark = self._marked_in == session_id
            try:
                outcome = await self._send(writes, token, session_id)
            except errors.SessionExpired:
                continue  # nothing was applied
            except (errors.ConnectionLoss, errors.ReplyError) as error:
                if await self._was_applied(token, session_id, error, had_mark=had_mark):
                    outcome = Outcome(None, 0)
                elif isinstance(error, errors.ReplyError):
                    rounds.again(error)
                    continue
                elif error.is_hopeless:
                    raise
                else:
                    continue
            if outcome.refused == len(writes):  # the mark
                refusal = outcome.error("create", self._path)
                if not isinstance(refusal, errors.NoNode | errors.NodeExists):
                    raise refusal
                # Somebody has deleted the mark. Or the parent, which no write has created.
                self._marked_in = 0
                rounds.again(refusal)
                continue
            if outcome.refused is None:
                await session.wait_caches_current()
            return outcome

    async def _send(self, writes: Sequence[Write], token: bytes, session_id: int) -> Outcome:
        if self._marked_in == session_id:
            mark = ops.set_data(self._mark, token)
        else:
            # A new name: the mark of the session before may still be there.
            self._mark = paths.join(self._full, f"{PROTECTED.prefix}{PROTECTED.new_guid()}-mark")
            mark = ops.create(self._mark, token, self._acl, ops.EPHEMERAL)
            self._marked_in = session_id  # it may exist from now on, whatever becomes of this task
        body = messages.encode_multi([*writes, mark])
        answer = await self._session.request(messages.MULTI, body, self._path, bound_to=session_id)
        outcome = Outcome.of(answer)
        if outcome.refused is not None and mark[0] is messages.CREATE:
            self._marked_in = 0
        return outcome

    async def _was_applied(
        self, token: bytes, session_id: int, error: errors.OperationError, *, had_mark: bool
    ) -> bool:
        """Whether the transaction with this token was applied, although its answer was lost."""
        session, mark, path = self._session, self._mark, self._path
        try:
            await ops.multi(session, [ops.check(mark)], path, bound_to=session_id)
            data, _ = await ops.get(session, mark, path, bound_to=session_id)
        except errors.SessionExpired:
            problem = "the session ended before it was known whether the write was applied"
            raise errors.ConnectionLoss(error.operation, path, problem) from error
        except errors.NoNode:
            self._marked_in = 0
            if not had_mark or await ops.is_gone(session, self._full, path, bound_to=session_id):
                return False  # it was not created; or its parent is deleted, and all that was written
            problem = "the mark that tells whether the write was applied was deleted by somebody else"
            raise errors.ConnectionLoss(error.operation, path, problem) from error
        return data == token
