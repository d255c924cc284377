"""An exclusive lock: whoever is first in the line holds it."""

from __future__ import annotations

import asyncio
import logging

from corral import errors
from corral.wire import messages

from .held import Held
from .layouts import Layout, numbers
from .line import Contender, Line, PlaceLost
from .queued import LEAST_LEASE, H, Queued
from .site import Site

__all__ = ["InLine", "Lock"]

logger = logging.getLogger("corral.recipes")


class InLine(Queued[H]):
    """What is held by standing in one line with nobody ahead who blocks."""

    def __init__(self, site: Site, layout: Layout) -> None:
        super().__init__(site)
        self._line = Line(site.nodes, site.session, site.full, layout)

    async def _take(self, *, wait: bool) -> H | None:
        task = asyncio.current_task(self._session.check_place())
        site = self._site
        if site.holders.of(site.full):
            self._check(task)
        line, least_lease = self._line, self._session.timeout * LEAST_LEASE
        while True:
            place, names = await line.join(site.data, site.acl)
            try:
                if not line.is_alone(place, names):
                    if not wait and await line.ahead(place, names):
                        line.leave(place)
                        return None
                    await line.wait_turn(place, names)
                if not line.is_proven(place, least_lease):
                    await line.confirm(place, least_lease)
            except PlaceLost:
                line.leave(place)
                continue
            except BaseException:
                line.leave(place)
                raise
            held = self._hold(line, place, task)
            if held is not None:
                return held

    def _check(self, task: asyncio.Task[object] | None) -> None:
        """Raise `AlreadyHeld` if the task would wait for itself."""
        for held in self._site.holders.by_task(self._site.full, task):
            if numbers([held.node], self._line.layout.contenders):  # it stands in this very line
                raise errors.AlreadyHeld(
                    f"{held.name} is held by this task already, so it would wait for itself; "
                    f"{self._remedy(held)}"
                )

    def _remedy(self, held: Held) -> str:
        return f"{self.kind}s are not re-entrant: release it first, or pass the Held on"

    async def locked(self) -> bool:
        """Whether anybody holds it, us included, as of the connected server."""
        self._session.check_place()
        return bool(numbers(await self._line.names(), self._line.layout.contenders))

    async def contenders(self) -> list[Contender]:
        """Who holds it and who waits, in order, with their data; the first holds it."""
        self._session.check_place()
        return await self._line.contenders()

    async def evict(self, contender: Contender | None = None) -> Contender | None:
        """Remove a contender's node, or that of whoever is first: an operator's act, against one that hangs.

        Returns who was removed; None if there was nobody. The next in line holds at once. The one removed is
        told by its next heartbeat, so at most T/6 later (T is its session timeout): until then both act. Only
        the fencing token and `Held.transaction` keep them apart. One that waits finds out when its turn comes
        or, where it looks at nothing then, by its first heartbeat.

        On loss of the connection it goes on, with the same one. On cancel it may have been done: to do it
        again give the contender, or the next in line may be removed.
        """
        if contender is None:
            self._session.check_place()
            contender = await self._line.first()
            if contender is None:
                return None
        path = f"{self._line.full.rstrip('/')}/{contender.name}"
        owner = contender.stat.ephemeral_owner
        tried = False
        while True:
            try:
                await self._session.request(messages.DELETE, messages.encode_delete(path, -1), contender.name)
            except errors.ConnectionLoss:
                tried = True
                continue
            except errors.NoNode:
                if not tried:
                    return None
            break
        logger.warning("%s was broken: %s, of session 0x%x, is removed", self.name, contender.name, owner)
        return contender


class Lock(InLine[Held]):
    """An exclusive lock on a path, fair, for tasks, processes and machines. Made by ``zk.lock(path)``.

    ``async with lock as held:`` waits in line, runs the body and releases; what the body is told on a loss
    is in `Held`. One object may be shared by many tasks, as `asyncio.Lock` is. It is not re-entrant: a task
    that holds the path already gets `AlreadyHeld`. Uncontended, acquiring takes one round trip.

    **On cancel** (a timeout is one) `acquire` ends at once, and the node that it made, or may have made, is
    removed as soon as a server can be reached. **On loss** of the connection it goes on waiting, and after
    an expired session it stands in line again, at the end.

    The algorithm is ZooKeeper's lock recipe, with Curator's node names: ``InterProcessMutex`` on the same
    path stands in the same line. kazoo's ``Lock`` is waited for, but waits for us only with
    ``extra_lock_patterns=["-lock-"]``; with ``layout="kazoo"`` both wait for each other, and Curator for
    neither. No setting has all three in one line, unless kazoo is taught Curator's names.
    """

    kind = "lock"
    _held_type = Held
