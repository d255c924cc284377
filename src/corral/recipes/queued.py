"""What everything has in common that is taken in turn: acquired, entered, released, and shared by tasks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Generic, TypeVar

from corral import errors

from .held import Held
from .holders import to_release
from .line import MOST_ROUNDS, Line, Place, PlaceLost, Rounds
from .site import Site

__all__ = ["Queued"]

# A holder starts with at least this part of T on its lease: enough for the first heartbeat and its answer.
LEAST_LEASE = 1 / 4

H = TypeVar("H", bound=Held)


class Queued(ABC, Generic[H]):
    """Something that tasks, processes and machines take in turn."""

    kind: ClassVar[str]
    """What messages call it."""
    _held_type: type[H]
    _line: Line
    """Where a node of ours means that it is held."""

    def __init__(self, site: Site) -> None:
        self.path = site.path
        self._site = site
        self._session = site.session
        self._entered: list[H] = []

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.kind} {self.path!r}"

    async def acquire(self) -> H:
        """Wait in line until it is ours.

        See the class for what happens on cancel and on loss, and for what else is raised.
        """
        held = await self._take(wait=True)
        assert held is not None
        return held

    async def try_acquire(self) -> H | None:
        """Take it if that needs no waiting for others, else return None, without waiting in line.

        On cancel and on loss as `acquire`: nothing of ours stays in the line.
        """
        return await self._take(wait=False)

    async def _take(self, *, wait: bool) -> H | None:
        task = asyncio.current_task(self._session.ensure_loop())
        site = self._site
        if mine := site.holders.by_task(site.full, task):
            self._check(mine, wait=wait)
        rounds = Rounds()
        while True:
            try:
                place = await self._stand(rounds, wait=wait)
            except PlaceLost:
                pass
            else:
                if place is None:
                    return None
                held = self._hold(place, task)
                if held is not None:
                    return held
            problem = (
                f"its node was removed {MOST_ROUNDS} times in a row before it was held; "
                "find out who deletes the nodes of this line"
            )
            rounds.again(errors.NoNode("acquire", self.path, problem))

    @abstractmethod
    def _check(self, mine: Sequence[Held], *, wait: bool) -> None:
        """Raise `AlreadyHeld` if a task that has entered these, and holds them, would wait for itself."""

    @abstractmethod
    async def _stand(self, rounds: Rounds, *, wait: bool) -> Place | None:
        """Wait for our turn, if `wait`; returns the place that holds, or None if it is not our turn.

        Raises `PlaceLost` if the place was lost meanwhile. On that, on cancel and on any error no node of
        ours is left.
        """

    def _hold(self, place: Place, task: asyncio.Task[object] | None) -> H | None:
        """Hold it by a place in a line; None if it was lost in the same breath: its node is being removed."""
        site = self._site
        held = self._held_type(site, self._line, place, task, self)
        site.holders.add(site.full, held)
        if held.begin():
            return held
        self.over(held)
        return None

    def over(self, held: Held) -> None:
        """Its owner is done with it; for `Held`."""
        self._site.holders.discard(self._site.full, held)

    def kept(self, held: Held) -> None:
        """Its owner was done with it, but the server refused to remove it; for `Held`."""
        self._site.holders.add(self._site.full, held)

    def acquired(self) -> list[Held]:
        """What is held through this object, or was lost and is not given up yet, in the order of
        acquiring."""
        return [held for held in self._site.holders.of(self._site.full) if held.via is self]

    async def release(self) -> None:
        """Release what this task entered, or acquired and nobody has entered, through this object; if it has
        nothing there, what another task holds through it.

        On cancel, on loss and where the server refuses it: see `Held.release`. Raises `UsageStateError` if
        nothing is acquired.
        """
        task = asyncio.current_task(self._session.ensure_loop())
        # Of several the newest: the others are lost, but for the leases of a semaphore.
        candidates = to_release(self.acquired(), task)
        if not candidates:
            raise errors.UsageStateError(f"{self.name} is not acquired through this object")
        await candidates[-1].release()

    async def __aenter__(self) -> H:
        held = await self._take(wait=True)
        assert held is not None
        held.enter(held.acquirer)
        self._entered.append(held)
        return held

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        entered = self._entered
        if not entered:
            raise errors.UsageStateError(f"{self.name} was not entered; use 'async with'")
        held = entered[0] if len(entered) == 1 else self._entered_last()
        entered.remove(held)
        await held.__aexit__(exc_type, exc, tb)

    def _entered_last(self) -> H:
        """What the current task entered last (twice, if it entered again after a loss). A task that has not
        entered leaves for one that is done, or for the one that did first if at most one can be meant."""
        task, entered = asyncio.current_task(self._session.loop), self._entered
        for each in reversed(entered):
            if each.owner is task:
                return each
        for each in entered:
            if each.owner is None or each.owner.done():
                return each
        if sum(each.is_valid for each in entered) > 1:
            raise errors.UsageStateError(
                f"several tasks have entered {self.name}, and this is none of them; for a block that another "
                "task leaves, acquire() and enter what that returns"
            )
        return entered[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}, {'acquired' if self.acquired() else 'not acquired'}>"
