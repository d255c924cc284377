"""Leader election: the first in the line of candidates leads."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from corral import errors

from .kit.held import Held
from .kit.holding import Holding
from .kit.line import Contender
from .kit.queue_lock import QueueLock
from .leader_watch import LeaderWatch

__all__ = ["Election"]

logger = logging.getLogger("corral.recipes")

T = TypeVar("T")


class Election(QueueLock[Held]):
    """An election on a path. Made by ``zk.election(path, data=b"host-7")``.

    ``async with election as leadership:`` becomes a candidate, waits to lead and runs the body. `Held` says
    what happens to the body when leadership is lost. Leaving the body resigns. `run` does this again and
    again. `leaders` observes without being a candidate. `data` is what others see of a candidate.

    On cancel and on loss it behaves as `Lock` does. The algorithm is that of `Lock`, with the node names of
    Curator's ``LeaderLatch``, which uses the same line. ``layout="kazoo"`` is for kazoo's ``Election``.
    """

    _kind = "leadership of"
    _held_type = Held

    async def run(self, lead: Callable[[Held], Awaitable[T]]) -> T:
        """Wait to lead, and call `lead` with the `Held`. When leadership is lost, `lead` is cancelled and
        this client becomes a candidate again. When `lead` returns, resign and return its result.

        An exception of `lead` ends the run. Once leadership is lost, a `SessionError` or `ConnectionLoss` of
        `lead` does not. Raises `SessionError` when the client cannot have a session any more, and gives up
        where `Lock` does. On cancel it resigns, or leaves the line. On loss of the connection it continues as
        `Lock` does.
        """
        while True:
            held = await self.acquire()
            try:
                async with held:
                    return await lead(held)
            except errors.LockLost as lost:
                if await held.wait_lost() is None:
                    raise  # of another lock, in `lead`; leadership was resigned
                logger.info("a candidate again: %s", lost)

    async def candidates(self) -> list[Contender]:
        """The leader (first) and the other candidates, in order, with their data. See `contenders`."""
        return await self.contenders()

    async def leader(self) -> Contender | None:
        """The leader, as the connected server knows it; None if there is none.

        On cancel nothing changes. On loss of the connection it repeats the request, and gives up as `Lock`
        does. Raises `NoNode` if the first of the list was gone when it was read, 16 times in a row.
        """
        self._session.ensure_loop()
        return await self._line.first()

    def leaders(self) -> LeaderWatch:
        """The current leader, then each new one; None while there is none: ``async for leader in ...``."""
        return LeaderWatch(self._context.shared.feeds, self._line)

    def _remedy(self, holding: Holding) -> str:
        return "resign first, or pass the Held on"
