"""A semaphore: so many may hold it at once."""

from __future__ import annotations

from collections.abc import Sequence

from corral import errors, paths
from corral.wire import messages

from .held import Held
from .layouts import SEMAPHORE_LEASE, SEMAPHORE_LOCK
from .line import Contender, Line, Place, PlaceLost, Rounds
from .queued import LEAST_LEASE, Queued
from .site import Site
from .watched import Watched

__all__ = ["Semaphore"]


class Semaphore(Queued[Held]):
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

    kind = "semaphore"
    _held_type = Held

    def __init__(self, site: Site, limit: int) -> None:
        super().__init__(site)
        self.limit = limit
        self._locks = Line(site, paths.join(site.full, "locks"), SEMAPHORE_LOCK)
        self._line = Line(site, paths.join(site.full, "leases"), SEMAPHORE_LEASE)

    def _check(self, mine: Sequence[Held], *, wait: bool) -> None:
        if wait and sum(isinstance(held.via, Semaphore) for held in mine) >= self.limit:
            raise errors.AlreadyHeld(
                f"all {self.limit} leases of {self.name} are held by this task already, so it would wait for "
                "itself; release one first, or pass the Held on"
            )

    async def _stand(self, rounds: Rounds, *, wait: bool) -> Place | None:
        """Wait for the lock, and with it for a lease."""
        locks = self._locks
        turn, ahead = await locks.join(self._site.data, self._site.acl, rounds)
        try:
            if ahead.number:
                if not wait:
                    return None
                if not await locks.wait_turn(turn, ahead, rounds):
                    await locks.check(turn)
            return await self._lease(turn, rounds, wait=wait)
        finally:
            locks.leave(turn)

    async def _lease(self, turn: Place, rounds: Rounds, *, wait: bool) -> Place | None:
        """Wait for a lease. We have the lock, so nobody comes to stand ahead of us."""
        leases, least = self._line, self._session.timeout * LEAST_LEASE
        place, ahead = await leases.join(self._site.data, self._site.acl, rounds)
        try:
            if place.session_id != turn.session_id:  # the lock went with the session that it was of
                raise PlaceLost
            await self._agree(turn, is_used=ahead.number > 0)
            if ahead.number >= self.limit:
                if not wait:
                    leases.leave(place)
                    return None
                await self._wait_for_room(place, rounds)
            if not leases.is_proven(place, least):
                await leases.confirm(place, least)
        except BaseException:
            leases.leave(place)
            raise
        return place

    async def _wait_for_room(self, place: Place, rounds: Rounds) -> None:
        leases = self._line
        with Watched(self._session, leases.full, messages.CHILDREN, leases.path) as line:
            while await leases.count_ahead(place, await line.read() or ()) >= self.limit:
                await line.changed()
                rounds.waited()

    async def _agree(self, turn: Place, *, is_used: bool) -> None:
        """See to it that the limit on the server is ours. While we have the lock nobody else looks at it; so
        it is set only by who has it, or it could be changed under those who came after a session of ours."""
        full, path, session = self._line.full, self._line.path, self._session
        tries = Rounds()
        while True:
            try:
                data, stat = await session.ask(
                    messages.GET, messages.encode_get(full, False), path, bound_to=turn.session_id
                )
                theirs = _limit_in(data)
                if theirs == self.limit:
                    return
                if is_used and data:  # nothing is there while only Curator has used it
                    raise errors.LimitMismatch(self.path, self.limit, theirs, data)
                ops = [
                    (messages.CHECK, messages.encode_check(turn.path, -1)),
                    (messages.SET, messages.encode_set(full, b"%d" % self.limit, stat.version)),
                ]
                # Sent again after a lost connection: if it was applied before, this says BadVersion.
                has_lock, is_set = await session.ask(
                    messages.MULTI, messages.encode_multi(ops), path, bound_to=turn.session_id
                )
            except (errors.NoNode, errors.SessionExpired):
                raise PlaceLost from None
            if has_lock.error == errors.NoNode.code:
                raise PlaceLost
            if is_set.error == 0:
                return
            refusal = errors.server_error(is_set.error, "set", path)
            if not isinstance(refusal, errors.BadVersion | errors.NoNode):
                raise refusal
            tries.again(refusal)

    async def holders(self) -> list[Contender]:
        """Who holds a lease, in the order of coming, with their data, as of the connected server.

        Cancelling it changes nothing. On loss of the connection it asks again, and gives up as `Lock` does.
        """
        self._session.ensure_loop()
        return (await self._line.contenders())[: self.limit]

    async def waiters(self) -> list[Contender]:
        """Who waits for a lease, in order, with their data. (Somebody who is just about to take one is seen
        here for a moment.) On cancel and on loss as `holders`."""
        self._session.ensure_loop()
        return await self._locks.contenders()

    def __repr__(self) -> str:
        return f"<Semaphore {self.path!r} of {self.limit}, {len(self.acquired())} acquired>"


def _limit_in(data: bytes) -> int | None:
    """The limit that the data of the leases tells; None if it is no number, or none that can be a limit."""
    return int(data) if data.isdigit() and len(data) <= 10 else None
