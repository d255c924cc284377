"""How anything is measured here: workloads and their budgets, rounds that take turns, and the meter.

A noisy machine must be noisy for all clients alike. So those of one workload are all connected to the same
server at once and take turns round by round, each round beginning with another one; the first round warms up
and is not counted. Ratios are between medians of one such run, and of no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

from clients import Client, load

SESSION_TIMEOUT = 10.0
CONNECT_LIMIT = 60.0
CLOSE_LIMIT = 20.0


@dataclass(frozen=True)
class Budget:
    """The design's bound on one of corral's measures: so many times the floor's, or as it is."""

    measure: str
    bound: float
    of_floor: bool = False
    at_least: bool = False
    """Whether more is better."""

    def excess(self, figure: float) -> float:
        """By how much of the bound it is missed, if that is above 0."""
        return (self.bound - figure if self.at_least else figure - self.bound) / self.bound


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be done, and what it may cost."""

    name: str
    title: str
    run: Callable[[Bench], Coroutine[Any, Any, None]]
    unit: Literal["us", "ms", "s"] = "us"
    """In which times are shown; they are kept in seconds."""
    main: Literal["cpu", "wall"] = "cpu"
    """The measure that tells."""
    budgets: Sequence[Budget] = ()
    slow: bool = False
    """Whether a third of the rounds, and two at the least, must do."""
    alone: PrepareAlone | None = None
    """How a turn is prepared in a process of its own, if they are taken so; see `alone.py`."""
    any_loop: bool = False
    """Whether the event loop does not matter, so that one of them says it all."""
    turn_limit: float = 60.0
    """Seconds after which a client that has not done its turn is left out from there on."""

    def rounds(self, asked: int) -> int:
        """How many rounds to count."""
        return max(min(2, asked), asked // 3) if self.slow else asked

    def limit(self, asked: int) -> float:
        """Seconds after which the whole of it is given up: far more than it takes, unless it hangs."""
        return 2 * CONNECT_LIMIT + self.turn_limit * (1 + self.rounds(asked))


class Meter:
    """What one client's turn took; may be used several times in a turn.

    CPU time is that of the whole process, with all threads of it.
    """

    def __init__(self) -> None:
        self._operations = 0
        self._cpu = self._wall = 0.0
        self.counts: dict[str, float] = {}
        """What else was counted, by name."""

    @contextlib.contextmanager
    def __call__(self, operations: int) -> Iterator[None]:
        """Measure what does so many operations."""
        gc.collect()  # nobody pays for what another has left
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.took(operations, cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)

    def took(self, operations: int, *, cpu: float, wall: float) -> None:
        """So many operations took so many seconds."""
        self._operations += operations
        self._cpu += cpu
        self._wall += wall

    @property
    def measures(self) -> dict[str, float]:
        """Seconds of CPU and of wall time for one operation, and what else was counted."""
        return {"cpu": self._cpu / self._operations, "wall": self._wall / self._operations, **self.counts}


Turn = Callable[[Meter], Awaitable[None]]
Prepare = Callable[[str, Client, AsyncExitStack], Awaitable[Turn]]
"""Gets a client's name and the client, and gives what it is to do in each round."""
PrepareAlone = Callable[[str, str, Client, AsyncExitStack], Awaitable[Turn]]
"""As `Prepare`, where the server's address is not at hand: it comes first."""


def runner(loop: str) -> asyncio.Runner:
    """What runs a coroutine on the event loop of that name."""
    if loop != "uvloop":
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@dataclass(frozen=True)
class Bench:
    """One workload on one event loop: what it is given, and where its measures go."""

    address: str
    loop: str
    clients: Sequence[str]
    rounds: int
    turn_limit: float
    record: Callable[[str, dict[str, float]], None]
    """Takes a client's name and the measures of one of its turns."""
    fail: Callable[[str, str], None]
    """Takes a client's name, and why it is left out from now on."""

    async def take_turns(self, prepare: Prepare) -> None:
        """Connect every client, and let each do its turn in every round."""
        stack = AsyncExitStack()
        turns: dict[str, Turn] = {}

        async def enter(name: str) -> None:
            client = await stack.enter_async_context(load(name)(self.address, SESSION_TIMEOUT))
            turns[name] = await prepare(name, client, stack)

        for name in self.clients:
            await self._attempt(name, enter(name), CONNECT_LIMIT)
        await self.repeat(turns)
        with contextlib.suppress(Exception):  # what was measured counts, even if a client cannot be closed
            async with asyncio.timeout(CLOSE_LIMIT):
                await stack.aclose()

    async def repeat(self, turns: dict[str, Turn], seldom: Collection[str] = ()) -> None:
        """The rounds: a first one that is not counted, then as many as were asked for. `seldom` are those who
        take so long that they have their turns only in the first and the last that count."""
        gc.collect()
        gc.freeze()  # what stands by now is not walked again at the expense of whoever is measured
        for number in range(self.rounds + 1):
            names = [name for name in turns if name not in seldom or number in (1, self.rounds)]
            first = number % max(1, len(names))
            for name in names[first:] + names[:first]:
                meter = Meter()
                if not await self._attempt(name, turns[name](meter), self.turn_limit):
                    del turns[name]
                elif number:
                    self.record(name, meter.measures)

    async def _attempt(self, name: str, work: Awaitable[None], limit: float) -> bool:
        """Whether it was done; if not it is reported, and the others go on."""
        try:
            async with asyncio.timeout(limit) as scope:
                await work
        except Exception as error:
            self.fail(name, f"did not finish in {limit:g} s" if scope.expired() else f"failed: {error!r}")
            return False
        return True
