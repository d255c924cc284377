"""A semaphore: so many may hold it at once."""

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
    """A semaphore of `limit` leases on a path, fair. Made by ``zk.semaphore(path, limit)``.

    ``async with semaphore as lease:`` waits for a lease, in the order of coming; what the body is told on a
    loss is in `Held`. One object may be shared by many tasks, and one task may hold several leases; one that
    has entered all of them gets `AlreadyHeld`.

    Everybody has to agree on the limit. It is kept in the data of ``path/leases``; whoever comes with another
    while leases are held gets `LimitMismatch`. When none is held the next one's is taken.

    What happens on cancel and on loss, and when it gives up, is as for `Lock`; to set the limit takes the
    permission WRITE on ``path/leases``. Fencing tokens tell leases apart, but are not in the
    order of entering. The algorithm is that of Curator's ``InterProcessSemaphoreV2``, which shares the leases
    (and neither sees nor disturbs the limit): whoever waits for a lease holds a lock meanwhile, in whose
    line the others stand. kazoo's ``Semaphore`` must not be used on the same path: it would starve.
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
                f"all {self.limit} leases of {self.name} are held by this task already, so it would wait for "
                "itself; release one first, or pass the Held on"
            )

    async def _stand(self, rounds: Rounds, *, wait: bool) -> QueueNode | None:
        """Wait for the lock, and with it for a lease."""
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
        """Wait for a lease. We have the lock, so nobody comes to stand ahead of us."""
        leases = self._line
        place, ahead = await leases.join(self._context.data, self._context.acl, rounds)
        try:
            if place.session_id != turn.session_id:  # the lock went with the session that it was of
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
        """See to it that the limit on the server is ours. While we have the lock nobody else looks at it; so
        it is set only by who has it, or it could be changed under those who came after a session of ours."""
        full, path, session = self._line.full, self._line.path, self._session
        tries = Rounds()
        while True:
            try:
                data, stat = await ops.get(session, full, path, bound_to=turn.session_id)
                theirs = _limit_in(data)
                if theirs == self.limit:
                    return
                if is_used and data:  # nothing is there while only Curator has used it
                    raise errors.LimitMismatch(self.path, self.limit, theirs, data)
                writes = [ops.check(turn.path), ops.set_data(full, b"%d" % self.limit, stat.version)]
                # Sent again after a lost connection: if it was applied before, this says BadVersion.
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
        """Who holds a lease, in the order of coming, with their data, as of the connected server.

        Cancelling it changes nothing. On loss of the connection it asks again, and gives up as `Lock` does.
        """
        self._session.check_place()
        return (await self._line.contenders())[: self.limit]

    async def waiters(self) -> list[Contender]:
        """Who waits for a lease, in order, with their data. (Somebody who is just about to take one is seen
        here for a moment.) On cancel and on loss as `holders`."""
        self._session.check_place()
        return await self._locks.contenders()

    def __repr__(self) -> str:
        return f"<Semaphore {self.path!r} of {self.limit}, {len(self._acquired())} acquired>"


def _limit_in(data: bytes) -> int | None:
    """The limit that the data of the leases tells; None if it is no number, or none that can be a limit."""
    return int(data) if data.isdigit() and len(data) <= 10 else None
