"""What everything has in common that is acquired in turn, entered, released, and shared by tasks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

from corral import errors

from .context import RecipeContext
from .held import Held
from .holding import Holding
from .line import Line, PlaceLost
from .protected import QueueNode
from .registry import to_release
from .rounds import MOST_ROUNDS, Rounds

__all__ = ["Lockable"]

H = TypeVar("H", bound=Held)


class Lockable(ABC, Generic[H]):
    """Something that tasks, processes and machines acquire in turn."""

    _kind: ClassVar[str]
    """What messages call it."""
    _held_type: type[H]
    _holding_type: type[Holding] = Holding
    _line: Line
    """Where a znode of ours means that it is held."""

    def __init__(self, context: RecipeContext) -> None:
        self.path = context.path
        self._context = context
        self._session = context.session
        self._entered: list[Holding] = []

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self._kind} {self.path!r}"

    async def acquire(self) -> H:
        """Wait in line until it is held.

        See the class for what happens on cancel and on loss, and for the errors.
        """
        holding = await self._take(wait=True)
        assert holding is not None
        return self._held_type(holding)

    async def try_acquire(self) -> H | None:
        """Acquire it if that needs no waiting for others; otherwise return None.

        On cancel and on loss it behaves as `acquire`: no znode of ours stays in the line.
        """
        holding = await self._take(wait=False)
        return None if holding is None else self._held_type(holding)

    async def _take(self, *, wait: bool) -> Holding | None:
        task = asyncio.current_task(self._session.ensure_loop())
        context = self._context
        if mine := context.shared.held.by_task(context.full, task):
            self._refuse_reentry(mine, wait=wait)
        rounds = Rounds()
        while True:
            try:
                place = await self._stand(rounds, wait=wait)
            except PlaceLost:
                pass
            else:
                if place is None:
                    return None
                holding = self._holding_type(context, self._line, place, task, self)
                if holding.begin():
                    return holding
            problem = (
                f"its znode was deleted {MOST_ROUNDS} times in a row before it was held; "
                "find out who deletes the znodes of this line"
            )
            rounds.again(errors.NoNode("acquire", self.path, problem))

    @abstractmethod
    def _refuse_reentry(self, mine: Sequence[Holding], *, wait: bool) -> None:
        """Raise `AlreadyHeld` if the task, which has entered these and holds them, would wait for itself."""

    @abstractmethod
    async def _stand(self, rounds: Rounds, *, wait: bool) -> QueueNode | None:
        """Wait for our turn, if `wait`. Returns the node by which it is held, or None if it is not our turn.

        Raises `PlaceLost` if the node was lost meanwhile. On that, on cancel and on any error no node of ours
        stays.
        """

    def _acquired(self) -> list[Holding]:
        """What is held through this object, or was lost and its body still runs, in the order of
        acquiring."""
        of_path = self._context.shared.held.of(self._context.full)
        return [holding for holding in of_path if holding.recipe is self]

    async def release(self) -> None:
        """Release what this task entered through this object, or acquired and nobody has entered. If there is
        nothing, release what another task holds through it.

        On cancel, on loss, and where the server refuses: see `Held.release`. Raises `UsageStateError` if
        nothing is acquired.
        """
        task = asyncio.current_task(self._session.ensure_loop())
        # Of several the newest: the others are lost, except for leases of a semaphore.
        candidates = to_release(self._acquired(), task)
        if not candidates:
            raise errors.UsageStateError(f"{self.name} is not acquired through this object")
        await candidates[-1].release()

    async def __aenter__(self) -> H:
        holding = await self._take(wait=True)
        assert holding is not None
        holding.enter(holding.acquirer)
        self._entered.append(holding)
        return self._held_type(holding)

    def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        entered = self._entered
        if not entered:
            raise errors.UsageStateError(f"{self.name} was not entered; use 'async with'")
        holding = entered[0] if len(entered) == 1 else self._entered_last()
        entered.remove(holding)
        return holding.leave(exc)

    def _entered_last(self) -> Holding:
        """What the current task entered last: it may enter again after a loss. A task that has not entered
        leaves for a task that is done, or else for the one that entered first, if only one is valid."""
        task, entered = asyncio.current_task(self._session.loop), self._entered
        for each in reversed(entered):
            if each.owner is task:
                return each
        for each in entered:
            if each.owner is None or each.owner.done():
                return each
        if sum(each.is_valid for each in entered) > 1:
            raise errors.UsageStateError(
                f"several tasks have entered {self.name}, and this is none of them; if another task is to "
                "leave a block, enter the result of acquire()"
            )
        return entered[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}, {'acquired' if self._acquired() else 'not acquired'}>"
