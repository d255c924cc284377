"""An exclusive lock: whoever is first in the line holds it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from corral import errors, paths
from corral.wire import messages

from .held import Held
from .layouts import Layout, numbers
from .line import Contender, Line, Place, Rounds
from .queued import LEAST_LEASE, H, Queued
from .site import Site

__all__ = ["InLine", "Lock"]

logger = logging.getLogger("corral.recipes")


class InLine(Queued[H]):
    """What is held by standing in one line with nobody ahead who blocks."""

    def __init__(self, site: Site, layout: Layout) -> None:
        super().__init__(site)
        self._line = Line(site, site.full, layout)

    async def _stand(self, rounds: Rounds, *, wait: bool) -> Place | None:
        site, line, least_lease = self._site, self._line, self._session.timeout * LEAST_LEASE
        place, ahead = await line.join(site.data, site.acl, rounds)
        is_seen = True
        try:
            if ahead.number:
                if not wait:
                    line.leave(place)
                    return None
                is_seen = await line.wait_turn(place, ahead, rounds)
            if not line.is_proven(place, least_lease):
                await line.confirm(place, least_lease)
            elif not is_seen:
                await line.check(place)
        except BaseException:
            line.leave(place)
            raise
        return place

    def _check(self, mine: Sequence[Held], *, wait: bool) -> None:
        for held in mine:
            if numbers([held.node], self._line.layout.contenders):  # it stands in this very line
                raise errors.AlreadyHeld(
                    f"{held.name} is held by this task already, so it would wait for itself; "
                    f"{self._remedy(held)}"
                )

    def _remedy(self, held: Held) -> str:
        return f"{self.kind}s are not re-entrant: release it first, or pass the Held on"

    async def locked(self) -> bool:
        """Whether anybody holds it, us included, as of the connected server.

        Cancelling it changes nothing. On loss of the connection it asks again, and gives up as `Lock` does.
        """
        self._session.ensure_loop()
        return bool(numbers((await self._line.listing()).names, self._line.layout.contenders))

    async def contenders(self) -> list[Contender]:
        """Who holds it and who waits, in order, with their data; the first holds it.

        Cancelling it changes nothing. On loss of the connection it asks again, and gives up as `Lock` does.
        """
        self._session.ensure_loop()
        return await self._line.contenders()

    async def evict(self, contender: Contender | None = None) -> Contender | None:
        """Remove a contender's node, or that of whoever is first: an operator's act, against one that hangs.

        Returns who was removed; None if there was nobody. The next in line holds at once. The one removed is
        told by its next heartbeat, so at most T/6 later (T is its session timeout): until then both act. Only
        the fencing token and `Held.transaction` keep them apart. One that waits finds out when its turn
        comes, and stands in line again, at the end.

        It takes the READ permission on the path, and DELETE; the contender's data need not be readable.

        On loss of the connection it goes on, with the same one, and gives up with `ConnectionLoss` when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on one and the same request. On cancel it may
        have been done: to do it again give the contender, or the next in line may be removed.
        """
        if contender is None:
            self._session.ensure_loop()
            contender = await self._line.first()
            if contender is None:
                return None
        body = messages.encode_delete(paths.join(self._line.full, contender.name), -1)
        owner = contender.stat.ephemeral_owner
        tried = False
        while True:
            try:
                await self._session.request(messages.DELETE, body, paths.join(self.path, contender.name))
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
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
    that has entered the path already gets `AlreadyHeld`, rather than wait for itself. What was acquired and
    not entered refuses nobody. Uncontended, acquiring takes one round trip.

    **On cancel** (a timeout is one) `acquire` ends at once, and the node that it made, or may have made, is
    removed as soon as a server can be reached. **On loss** of the connection it goes on waiting, and after
    an expired session, or when somebody has removed its node, it stands in line again, at the end.

    Waiting for others has no bound but the caller's timeout. Retrying has: `acquire` gives up with
    `ConnectionLoss` when five connections in a row broke on one and the same request
    (`ConnectionLoss.MOST_LOSSES`), and with `NoNode` when 16 times in a row its node, or the line itself, was
    gone with nothing waited for in between. Then, too, its node is removed.

    It takes the permissions CREATE, READ and DELETE on the path; the nodes of others need not be readable.
    The end of one that is not is noticed within a third of the session timeout.

    The algorithm is ZooKeeper's lock recipe, with Curator's node names: ``InterProcessMutex`` on the same
    path stands in the same line. kazoo's ``Lock`` is waited for, but waits for us only with
    ``extra_lock_patterns=["-lock-"]``; with ``layout="kazoo"`` both wait for each other, and Curator for
    neither. No setting has all three in one line, unless kazoo is taught Curator's names.
    """

    kind = "lock"
    _held_type = Held
