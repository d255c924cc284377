"""Where a session gets its time and its random numbers."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

Clock = Callable[[], float]

if hasattr(time, "CLOCK_BOOTTIME"):  # Linux: it advances while the machine is suspended, as the server's does
    default_clock: Clock = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
else:
    default_clock = time.monotonic


@runtime_checkable
class DeterministicLoop(Protocol):
    """An event loop that determines time and chance in it, such as `corral.testing.VirtualLoop`."""

    rng: random.Random

    def time(self) -> float:
        """Seconds."""


def clock_and_rng(loop: asyncio.AbstractEventLoop) -> tuple[Clock, random.Random]:
    """The clock, in seconds that only increase, and the source of randomness for a session in this loop."""
    if isinstance(loop, DeterministicLoop):
        return loop.time, random.Random(loop.rng.random())
    return default_clock, random.Random()
