"""What is held through one client (L7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .held import Held

__all__ = ["Holders"]


class Holders:
    """What is held through one client, by full path: who, and through which object."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Held]] = {}

    def by_task(self, full: str, task: asyncio.Task[object] | None) -> list[Held]:
        """What the task holds at a path already."""
        return [each for each in self.of(full) if each.owner is task and each.is_valid]

    def of(self, full: str) -> Sequence[Held]:
        """What is held at a path, or was lost and is not given up yet, in the order of acquiring."""
        return self._by_path.get(full, ())

    def add(self, full: str, held: Held) -> None:
        """It is held now."""
        self._by_path.setdefault(full, []).append(held)

    def discard(self, full: str, held: Held) -> None:
        """Its owner is done with it."""
        of_path = self._by_path.get(full)
        if of_path is not None and held in of_path:
            of_path.remove(held)
            if not of_path:
                del self._by_path[full]
