"""An item of a queue while it is handled: a claim that is held, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from corral import errors
from corral.types import Stat

from .claim import Claim, Ending
from .context import RecipeContext
from .holding import Holding, HoldPhase, Recipe
from .protected import QueueNode
from .queue_items import QueueItems

__all__ = ["JobHolding"]

logger = logging.getLogger("corral.recipes")


class JobHolding(Holding):
    """A claim. Its release acknowledges the item, gives it back, or puts it aside."""

    def __init__(
        self,
        context: RecipeContext,
        items: QueueItems,
        claim: Claim,
        acquirer: asyncio.Task[object] | None,
        recipe: Recipe,
    ) -> None:
        super().__init__(context, claim, claim.node, acquirer, recipe)
        self.claim = claim
        self._items = items

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"item {self.claim.name!r} of {self.recipe.name}"

    @property
    def conditions(self) -> Sequence[tuple[str, int]]:
        return self.claim.conditions

    def is_node(self, stat: Stat) -> bool:
        return stat.czxid == self._place.czxid  # the next claim on the item has the same path

    async def done(self) -> None:
        """Acknowledge the item; see `corral.Job.done`."""
        self._choose(Ending.DONE)
        await super().release()
        if self.phase is HoldPhase.LOST:
            raise self._lost_error()
        if self.claim.ending is not Ending.DONE:
            raise errors.UsageStateError(f"{self.name} was {self.claim.ending.value} already")

    async def release(self) -> None:
        self._choose(Ending.GIVEN_BACK)
        await super().release()

    def drop_soon(self) -> None:
        """Nobody refers to it any more: give it back, unless it was entered or has ended. The garbage
        collector calls this from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the session with it
            self._session.loop.call_soon_threadsafe(self._drop)

    def _drop(self) -> None:
        if self.phase is HoldPhase.HELD and self.owner is None:
            logger.warning("%s was taken and dropped; enter it with 'async with', or call done()", self.name)
            self.start_release()

    async def leave(self, exc: BaseException | None) -> None:
        self._choose(Ending.DONE if exc is None else self._items.ending_of_failed(self.claim))
        await super().leave(exc)
        if exc is None and self.phase is HoldPhase.LOST:
            raise self._lost_error()

    def _choose(self, ending: Ending) -> None:
        if self.phase is HoldPhase.HELD or self._failure is not None:
            self.claim.ending = ending

    def lost(self, error: errors.SessionError, ended: float) -> None:
        if self.phase is HoldPhase.RELEASING and self.claim.ending is Ending.DONE:
            # The acknowledgement goes on while the session lives, since the item was done in time. But
            # whoever waits for it learns that it may be too late.
            self._end_lost(error, ended)
            return
        if self.phase is HoldPhase.HELD:
            self.claim.ending = Ending.GIVEN_BACK
        super().lost(error, ended)

    def _left(self, place: QueueNode, failure: BaseException | None) -> None:
        if isinstance(failure, errors.LockLost) and self.phase is HoldPhase.RELEASING:
            self._session.unhold(self)
            self._end_lost(failure, self._session.clock())
        else:
            super()._left(place, failure)

    def _end_lost(self, error: errors.SessionError, ended: float) -> None:
        self._failure = None
        self._error, self._ended = error, ended
        self._enter(HoldPhase.LOST)
