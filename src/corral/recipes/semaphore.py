"""A semaphore: so many may hold it at once."""

from __future__ import annotations

import asyncio

from corral import errors
from corral.wire import messages

from .held import Held
from .layouts import SEMAPHORE_LEASE, SEMAPHORE_LOCK
from .line import Contender, Line, Place, PlaceLost
from .queued import LEAST_LEASE, Queued
from .site import Site
from .watched import Watched

__all__ = ["Semaphore"]


class Semaphore(Queued[Held]):
    """A semaphore of `limit` leases on a path, fair. Made by ``zk.semaphore(path, limit)``.

    ``async with semaphore as lease:`` waits for a lease, in the order of coming; what the body is told on a
    loss is in `Held`. One object may be shared by many tasks, and one task may hold several leases; one that
    has all of them gets `AlreadyHeld`.

    Everybody has to agree on the limit. It is kept in the data of ``path/leases``; whoever comes with another
    while leases are held gets `LimitMismatch`. When none is held the next one's is taken.

    What happens on cancel and on loss is as for `Lock`. Fencing tokens tell leases apart, but are not in the
    order of entering. The algorithm is that of Curator's ``InterProcessSemaphoreV2``, which shares the leases
    (and neither sees nor disturbs the limit): whoever waits for a lease holds a lock meanwhile, in whose
    line the others stand. kazoo's ``Semaphore`` must not be used on the same path: it would starve.
    """

    kind = "semaphore"
    _held_type = Held

    def __init__(self, site: Site, limit: int) -> None:
        super().__init__(site)
        self.limit = limit
        self._locks = Line(site.nodes, site.session, f"{site.full.rstrip('/')}/locks", SEMAPHORE_LOCK)
        self._leases = Line(site.nodes, site.session, f"{site.full.rstrip('/')}/leases", SEMAPHORE_LEASE)

    async def _take(self, *, wait: bool) -> Held | None:
        task = asyncio.current_task(self._session.check_place())
        if wait:
            self._check(task)
        while True:
            try:
                place = await self._stand(wait=wait)
            except PlaceLost:
                continue
            if place is None:
                return None
            held = self._hold(self._leases, place, task)
            if held is not None:
                return held

    def _check(self, task: asyncio.Task[object] | None) -> None:
        """Raise `AlreadyHeld` if the task has all leases, and would wait for itself."""
        mine = [
            held
            for held in self._site.holders.by_task(self._site.full, task)
            if isinstance(held.via, Semaphore)
        ]
        if len(mine) >= self.limit:
            raise errors.AlreadyHeld(
                f"all {self.limit} leases of {self.name} are held by this task already, so it would wait for "
                "itself; release one first, or pass the Held on"
            )

    async def _stand(self, *, wait: bool) -> Place | None:
        """Wait for the lock, and with it for a lease."""
        locks = self._locks
        turn, names = await locks.join(self._site.data, self._site.acl)
        try:
            if not locks.is_alone(turn, names):
                if not wait and await locks.ahead(turn, names):
                    return None
                await locks.wait_turn(turn, names)
            return await self._lease(turn, wait=wait)
        finally:
            locks.leave(turn)

    async def _lease(self, turn: Place, *, wait: bool) -> Place | None:
        """Wait for a lease. We have the lock, so nobody comes to stand ahead of us."""
        leases, least = self._leases, self._session.timeout * LEAST_LEASE
        place, names = await leases.join(self._site.data, self._site.acl)
        try:
            if place.session_id != turn.session_id:  # the lock went with the session that it was of
                raise PlaceLost
            ahead = await leases.ahead(place, names)
            await self._agree(turn, is_used=ahead > 0)
            if ahead >= self.limit:
                if not wait:
                    leases.leave(place)
                    return None
                await self._wait_for_room(place)
            if not leases.is_proven(place, least):
                await leases.confirm(place, least)
        except BaseException:
            leases.leave(place)
            raise
        return place

    async def _wait_for_room(self, place: Place) -> None:
        with Watched(self._session, self._leases.full, messages.CHILDREN) as line:
            while await self._leases.ahead(place, await line.read() or ()) >= self.limit:
                await line.changed()

    async def _agree(self, turn: Place, *, is_used: bool) -> None:
        """See to it that the limit on the server is ours. While we have the lock nobody else looks at it; so
        it is set only by who has it, or it could be changed under those who came after a session of ours."""
        path = self._leases.full
        while True:
            try:
                data, stat = await self._session.request(
                    messages.GET, messages.encode_get(path, False), path, bound_to=turn.session_id
                )
                theirs = _limit_in(data)
                if theirs == self.limit:
                    return
                if is_used and data:  # nothing is there while only Curator has used it
                    raise errors.LimitMismatch(self.path, self.limit, theirs, data)
                ops = [
                    (messages.CHECK, messages.encode_check(turn.path, -1)),
                    (messages.SET, messages.encode_set(path, b"%d" % self.limit, stat.version)),
                ]
                has_lock, is_set = await self._session.request(
                    messages.MULTI, messages.encode_multi(ops), path, bound_to=turn.session_id
                )
            except errors.ConnectionLoss:
                continue
            except (errors.NoNode, errors.SessionExpired):
                raise PlaceLost from None
            if has_lock.error == errors.NoNode.code:
                raise PlaceLost
            if is_set.error == 0:
                return
            if is_set.error not in (errors.BadVersion.code, errors.NoNode.code):
                raise errors.server_error(is_set.error, "set", path)

    async def holders(self) -> list[Contender]:
        """Who holds a lease, in the order of coming, with their data, as of the connected server."""
        self._session.check_place()
        return (await self._leases.contenders())[: self.limit]

    async def waiters(self) -> list[Contender]:
        """Who waits for a lease, in order, with their data. (Somebody who is just about to take one is seen
        here for a moment.)"""
        self._session.check_place()
        return await self._locks.contenders()

    def __repr__(self) -> str:
        return f"<Semaphore {self.path!r} of {self.limit}, {len(self._acquired())} acquired>"


def _limit_in(data: bytes) -> int | None:
    """The limit that the data of the leases tells; None if it is no number, or none that can be a limit."""
    return int(data) if data.isdigit() and len(data) <= 10 else None
