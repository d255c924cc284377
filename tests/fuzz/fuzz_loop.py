"""The event loop of a run: a `VirtualLoop` that measures how long it is blocked, and detects a client that
never waits."""

from __future__ import annotations

import time
from typing import Any

from corral.testing import VirtualLoop

MOST_TURNS = 100_000
"""If no time passes for so many turns of the loop, it is spinning."""


class Spins(Exception):
    """No time passes any more, since something is always ready to run."""


class MeasuredLoop(VirtualLoop):
    """A loop that counts and measures its turns."""

    def __init__(self, **options: Any) -> None:
        self.longest = 0.0
        """Processor time, in real seconds, of the longest turn."""
        self._turns = 0
        self._at = 0.0
        super().__init__(**options)

    def _run_once(self) -> None:
        began = time.thread_time()
        super()._run_once()  # type: ignore[misc]  # typeshed does not have it
        self.longest = max(self.longest, time.thread_time() - began)
        self._turns += 1
        if self.time() != self._at:
            self._at, self._turns = self.time(), 0
        elif self._turns > MOST_TURNS:
            self._turns = 0
            raise Spins(f"{MOST_TURNS:,} turns of the loop at {self._at} s")
