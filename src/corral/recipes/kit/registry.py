"""What is held through one client (L7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

__all__ = ["HeldRegistry", "Owned", "to_release"]


class Owned(Protocol):
    """Something held, as its owners see it."""

    @property
    def owner(self) -> asyncio.Task[object] | None:
        """The task that entered it."""

    @property
    def acquirer(self) -> asyncio.Task[object] | None:
        """The task that acquired it."""

    @property
    def is_valid(self) -> bool:
        """Whether it is held now."""


H = TypeVar("H", bound=Owned)


class HeldRegistry(Generic[H]):
    """What is held through one client, by full path."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[H]] = {}

    def by_task(self, full: str, task: asyncio.Task[object] | None) -> list[H]:
        """What the task has entered at a path, and holds."""
        held = self._by_path.get(full)
        if held is None or task is None:
            return []
        return [each for each in held if each.owner is task and each.is_valid]

    def of(self, full: str) -> Sequence[H]:
        """What is held at a path, or was lost and its body still runs, in the order of acquiring."""
        return self._by_path.get(full, ())

    def add(self, full: str, held: H) -> None:
        """It is held from now on, or still, since the server refused its release."""
        self._by_path.setdefault(full, []).append(held)

    def discard(self, full: str, held: H) -> None:
        """Its owner is done with it."""
        of_path = self._by_path.get(full)
        if of_path is not None and held in of_path:
            of_path.remove(held)
            if not of_path:
                del self._by_path[full]


def to_release(acquired: Sequence[H], task: asyncio.Task[object] | None) -> list[H]:
    """Which of those held through one object a task means when it releases that object.

    Its own come first, lost or not: a task that comes late must not release what another holds by now.
    """
    return (
        [each for each in acquired if (each.owner or each.acquirer) is task]
        or [each for each in acquired if each.acquirer is task]
        or [each for each in acquired if each.is_valid]
        or list(acquired)
    )
