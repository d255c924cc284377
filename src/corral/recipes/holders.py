"""What is held through one client (L7), and what its recipes share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .held import Held
from .listing import Lists

__all__ = ["Holders", "to_release"]


class Holders:
    """What is held through one client, by full path: who, and through which object."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Held]] = {}
        self.lists = Lists()
        """The lists of lines that are asked for through this client."""

    def by_task(self, full: str, task: asyncio.Task[object] | None) -> list[Held]:
        """What the task has entered at a path, and holds."""
        held = self._by_path.get(full)
        if held is None or task is None:
            return []
        return [each for each in held if each.owner is task and each.is_valid]

    def of(self, full: str) -> Sequence[Held]:
        """What is held at a path, or was lost and is not given up yet, in the order of acquiring."""
        return self._by_path.get(full, ())

    def add(self, full: str, held: Held) -> None:
        """It is held now, or, its release having been refused, still."""
        self._by_path.setdefault(full, []).append(held)

    def discard(self, full: str, held: Held) -> None:
        """Its owner is done with it."""
        of_path = self._by_path.get(full)
        if of_path is not None and held in of_path:
            of_path.remove(held)
            if not of_path:
                del self._by_path[full]


def to_release(acquired: Sequence[Held], task: asyncio.Task[object] | None) -> list[Held]:
    """Which of those held through one object a task means that releases them through it.

    Its own first, lost or not: whoever comes late must not release what another holds by now.
    """
    return (
        [each for each in acquired if (each.owner or each.acquirer) is task]
        or [each for each in acquired if each.acquirer is task]
        or [each for each in acquired if each.is_valid]
        or list(acquired)
    )
