"""What is held by one znode in one line: locks, both sides of a read/write lock, leadership."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from corral import errors, paths

from .context import RecipeContext
from .held import Held
from .holding import Holding
from .line import Contender, Line
from .lockable import Lockable
from .node_names import Layout
from .order import numbers
from .protected import QueueNode
from .rounds import Rounds

__all__ = ["QueueLock"]

logger = logging.getLogger("corral.recipes")

H = TypeVar("H", bound=Held)


class QueueLock(Lockable[H]):
    """What is held by a znode in one line that no znode ahead blocks."""

    def __init__(self, context: RecipeContext, layout: Layout) -> None:
        super().__init__(context)
        self._line = Line(context, context.full, layout)

    async def locked(self) -> bool:
        """Whether anybody holds it, this client included, as the connected server knows it.

        On cancel nothing changes. On loss of the connection it repeats the request, and gives up as `Lock`
        does.
        """
        self._session.ensure_loop()
        return bool(numbers(await self._line.listing(), self._line.layout.contenders))

    async def contenders(self) -> list[Contender]:
        """The holder (first) and the waiters, in order, with their data.

        On cancel nothing changes. On loss of the connection it repeats the request, and gives up as `Lock`
        does.
        """
        self._session.ensure_loop()
        return await self._line.contenders()

    async def evict(self, contender: Contender | None = None) -> Contender | None:
        """Delete a contender's znode, or that of the first in line: for operators, if a holder hangs.

        Returns the contender, or None if there was none. The next in line holds at once. The evicted holder
        learns of it by its next heartbeat, at most T/6 later (T is its session timeout). Until then both may
        act: only the fencing token and `Held.transaction` keep them apart. An evicted waiter learns of it
        when its turn comes, and joins the line again, at the end.

        It requires the permissions READ and DELETE on the path. The contender's data need not be readable.

        On loss of the connection it continues, with the same contender, and raises `ConnectionLoss` when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on the same request. On cancel it may have
        been carried out: pass the contender to repeat it, or the next in line may be evicted.
        """
        self._session.ensure_loop()
        if contender is None:
            contender = await self._line.first()
            if contender is None:
                return None
        path = paths.named(self._context.chroot, paths.join(self.path, contender.name))
        if not await self._line.remove(contender, path):
            return None
        owner = contender.stat.ephemeral_owner
        logger.warning("%s was evicted from %s: session 0x%x", contender.name, self.name, owner)
        return contender

    async def _stand(self, rounds: Rounds, *, wait: bool) -> QueueNode | None:
        context, line = self._context, self._line
        node, ahead = await line.join(context.data, context.acl, rounds)
        is_seen = True
        try:
            if ahead.total:
                if not wait:
                    line.leave(node)
                    return None
                is_seen = await line.wait_turn(node, ahead, rounds)
            if not line.is_proven(node):
                await line.confirm(node)
            elif not is_seen:
                await line.check(node)
        except BaseException:
            line.leave(node)
            raise
        return node

    def _refuse_reentry(self, mine: Sequence[Holding], *, wait: bool) -> None:
        for holding in mine:
            if numbers([holding.node], self._line.layout.contenders):  # it is in this very line
                raise errors.AlreadyHeld(
                    f"this task holds {holding.name} already and would wait for itself; "
                    f"{self._remedy(holding)}"
                )

    def _remedy(self, holding: Holding) -> str:
        return f"{self._kind}s are not re-entrant: release it first, or pass the Held on"
