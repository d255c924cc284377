"""What everything has in common that is taken in turn: acquired, entered, released, and shared by tasks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Generic, TypeVar

from corral import errors

from .held import Held
from .line import Line, Place
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

    @abstractmethod
    async def _take(self, *, wait: bool) -> H | None: ...

    def _hold(self, line: Line, place: Place, task: asyncio.Task[object] | None) -> H | None:
        """Hold it by a place in a line; None if it was lost in the same breath: its node is being removed."""
        site = self._site
        held = self._held_type(site, line, place, task, self)
        site.holders.add(site.full, held)
        if held.begin():
            return held
        self.over(held)
        return None

    def over(self, held: Held) -> None:
        """Its owner is done with it; for `Held`."""
        self._site.holders.discard(self._site.full, held)

    def _acquired(self) -> list[Held]:
        return [held for held in self._site.holders.of(self._site.full) if held.via is self]

    async def release(self) -> None:
        """Release what this task acquired through this object, else what another task holds through it.

        See `Held.release`. Raises `UsageStateError` if nothing is acquired.
        """
        task = asyncio.current_task(self._session.check_place())
        acquired = self._acquired()
        # Our own first, lost or not: whoever comes late with it must not release what another holds by now.
        # Of several the newest: the others are lost, but for the leases of a semaphore.
        ours = [held for held in acquired if held.owner is task]
        candidates = ours or [held for held in acquired if held.is_valid] or acquired
        if not candidates:
            raise errors.UsageStateError(f"{self.name} is not acquired through this object")
        await candidates[-1].release()

    async def __aenter__(self) -> H:
        held = await self._take(wait=True)
        assert held is not None
        held.enter(held.owner)
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
        return f"<{type(self).__name__} {self.path!r}, {'acquired' if self._acquired() else 'not acquired'}>"
