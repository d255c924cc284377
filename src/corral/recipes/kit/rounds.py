"""The bound of every loop in a recipe that starts over without waiting."""

from __future__ import annotations

from corral import errors

__all__ = ["MOST_ROUNDS", "Rounds"]

MOST_ROUNDS = 16
"""How many times in a row a recipe starts over without having waited for anything in between."""


class Rounds:
    """Counts how often a recipe starts over without having waited, and gives up at `MOST_ROUNDS`. Without
    this bound, a server whose answers lead nowhere would get requests as fast as it answers them."""

    _count = 0

    def again(self, error: errors.CorralError) -> None:
        """Start over because of `error`. Raises `error` at the last round."""
        self._count += 1
        if self._count >= MOST_ROUNDS:
            raise error

    def waited(self) -> None:
        """The recipe waited for something, and it happened: count from zero."""
        self._count = 0
