"""A semaphore: at most `limit` holders at once."""

from __future__ import annotations

from collections.abc import Sequence

from corral import errors, paths

from .kit import ops
from .kit.context import RecipeContext
from .kit.held import Held
from .kit.holding import Holding
from .kit.line import Contender, Line, PlaceLost
from .kit.lockable import Lockable
from .kit.node_names import SEMAPHORE_LEASE, SEMAPHORE_LOCK
from .kit.protected import QueueNode
from .kit.rounds import Rounds

__all__ = ["Semaphore"]


class Semaphore(Lockable[Held]):
    """A fair semaphore with `limit` leases on a path. Made by ``zk.semaphore(path, limit)``.

    ``async with semaphore as lease:`` waits for a lease, first come, first served. `Held` says what happens
    to the body on a loss. Tasks may share one object, and one task may hold several leases. A task that has
    entered all of them gets `AlreadyHeld`.

    All clients must agree on the limit, which is kept in the data of ``path/leases``. While leases are held,
    a client with another limit gets `LimitMismatch`. When none is held, the limit of the next client applies.

    On cancel and on loss, and in when it gives up, it behaves as `Lock` does. Setting the limit requires the
    permission WRITE on ``path/leases``. Fencing tokens distinguish leases, but do not follow the order of
    entering. The algorithm is that of Curator's ``InterProcessSemaphoreV2``, which shares the leases and
    ignores the limit: a client that waits for a lease holds a lock meanwhile, and the others wait in the line
    of that lock. Do not use kazoo's ``Semaphore`` on the same path: it would starve.
    """

    _kind = "semaphore"
    _held_type = Held

    def __init__(self, context: RecipeContext, limit: int) -> None:
        super().__init__(context)
        self.limit = limit
        self._locks = Line(context, paths.join(context.full, "locks"), SEMAPHORE_LOCK)
        self._line = Line(context, paths.join(context.full, "leases"), SEMAPHORE_LEASE)

    def _refuse_reentry(self, mine: Sequence[Holding], *, wait: bool) -> None:
        if wait and sum(isinstance(holding.recipe, Semaphore) for holding in mine) >= self.limit:
            raise errors.AlreadyHeld(
                f"this task holds all {self.limit} leases of {self.name} already and would wait for itself; "
                "release one first, or pass the Held on"
            )

    async def _stand(self, rounds: Rounds, *, wait: bool) -> QueueNode | None:
        """Wait for the lock, and then, holding it, for a lease."""
        locks = self._locks
        turn, ahead = await locks.join(self._context.data, self._context.acl, rounds)
        try:
            if ahead.total:
                if not wait:
                    return None
                if not await locks.wait_turn(turn, ahead, rounds):
                    await locks.check(turn)
            return await self._lease(turn, rounds, wait=wait)
        finally:
            locks.leave(turn)

    async def _lease(self, turn: QueueNode, rounds: Rounds, *, wait: bool) -> QueueNode | None:
        """Wait for a lease. We hold the lock, so nobody joins ahead of us."""
        leases = self._line
        place, ahead = await leases.join(self._context.data, self._context.acl, rounds)
        try:
            if place.session_id != turn.session_id:  # the lock was lost with its session
                raise PlaceLost
            await self._agree(turn, is_used=ahead.total > 0)
            if ahead.total >= self.limit:
                if not wait:
                    leases.leave(place)
                    return None
                await leases.wait_fewer_ahead(place, self.limit, rounds)
            if not leases.is_proven(place):
                await leases.confirm(place)
        except BaseException:
            leases.leave(place)
            raise
        return place

    async def _agree(self, turn: QueueNode, *, is_used: bool) -> None:
        """Check that the limit on the server is ours, or set it. Only the holder of the lock may do that:
        otherwise a client whose session has expired could change it under those who came later."""
        full, path, session = self._line.full, self._line.path, self._session
        tries = Rounds()
        while True:
            try:
                data, stat = await ops.get(session, full, path, bound_to=turn.session_id)
                theirs = _limit_in(data)
                if theirs == self.limit:
                    return
                if is_used and data:  # it is empty while only Curator has used it
                    raise errors.LimitMismatch(self.path, self.limit, theirs, data)
                writes = [ops.check(turn.path), ops.set_data(full, b"%d" % self.limit, stat.version)]
                # If it is repeated after it was applied, and the answer lost, this is a BadVersion.
                outcome = await ops.multi(session, writes, path, bound_to=turn.session_id)
            except (errors.NoNode, errors.SessionExpired):
                raise PlaceLost from None
            if outcome.refused is None:
                return
            if outcome.is_refused(0, errors.NoNode):
                raise PlaceLost
            refusal = outcome.error("set", path)
            if not isinstance(refusal, errors.BadVersion | errors.NoNode):
                raise refusal
            tries.again(refusal)

    async def holders(self) -> list[Contender]:
        """The holders of leases, in the order in which they joined, with their data, as the connected server
        knows them.

        On cancel nothing changes. On loss of the connection it repeats the request, and gives up as `Lock`
        does.
        """
        self._session.ensure_loop()
        return (await self._line.contenders())[: self.limit]

    async def waiters(self) -> list[Contender]:
        """The clients that wait for a lease, in order, with their data. A client that is about to take a
        lease is among them for a moment. On cancel and on loss it behaves as `holders`."""
        self._session.ensure_loop()
        return await self._locks.contenders()

    def __repr__(self) -> str:
        return f"<Semaphore {self.path!r} of {self.limit}, {len(self._acquired())} acquired>"


def _limit_in(data: bytes) -> int | None:
    """The limit in the data of the leases; None if that is not a number, or not a possible limit."""
    return int(data) if data.isdigit() and len(data) <= 10 else None
