"""How everything is measured: workloads and their budgets, rounds in which the clients take turns, and the
meter.

If the machine is noisy, it must be noisy for all clients. So all clients of a workload are connected to the
same server at the same time and take turns in each round, and each round begins with another client. The
first round warms up and is not counted. Ratios are between medians of one such run only.
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
    """The design's limit for one of corral's measures, either as a multiple of the floor's, or absolute."""

    measure: str
    bound: float
    of_floor: bool = False
    at_least: bool = False
    """Whether it is a minimum."""

    def excess(self, figure: float) -> float:
        """By which fraction of the limit it is missed, if positive."""
        return (self.bound - figure if self.at_least else figure - self.bound) / self.bound


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is to be done, and what it may cost."""

    name: str
    title: str
    run: Callable[[Bench], Coroutine[Any, Any, None]]
    unit: Literal["us", "ms", "s"] = "us"
    """The unit in which times are shown; they are stored in seconds."""
    main: Literal["cpu", "wall"] = "cpu"
    """The measure that matters."""
    budgets: Sequence[Budget] = ()
    slow: bool = False
    """Whether only a third of the rounds are run, two at least."""
    alone: PrepareAlone | None = None
    """Prepares a turn in a process of its own, if the workload uses those; see `alone.py`."""
    any_loop: bool = False
    """Whether the event loop makes no difference, so that one of them is enough."""
    turn_limit: float = 60.0
    """A client that takes longer than so many seconds for a turn is left out of the rest."""

    def rounds(self, asked: int) -> int:
        """How many rounds to count."""
        return max(min(2, asked), asked // 3) if self.slow else asked

    def limit(self, asked: int) -> float:
        """The workload is aborted after so many seconds: far more than it takes, unless it hangs."""
        return 2 * CONNECT_LIMIT + self.turn_limit * (1 + self.rounds(asked))


class Meter:
    """Measures one client's turn; may be used several times in a turn.

    CPU time is that of the whole process, including all threads.
    """

    def __init__(self) -> None:
        self._operations = 0
        self._cpu = self._wall = 0.0
        self.counts: dict[str, float] = {}
        """Other counts, by name."""

    @contextlib.contextmanager
    def __call__(self, operations: int) -> Iterator[None]:
        """Measure the block, which does so many operations."""
        gc.collect()  # no client pays for the garbage of another
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.took(operations, cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)

    def took(self, operations: int, *, cpu: float, wall: float) -> None:
        """Record that so many operations took so many seconds."""
        self._operations += operations
        self._cpu += cpu
        self._wall += wall

    @property
    def measures(self) -> dict[str, float]:
        """CPU and wall time in seconds for one operation, and the other counts."""
        return {"cpu": self._cpu / self._operations, "wall": self._wall / self._operations, **self.counts}


Turn = Callable[[Meter], Awaitable[None]]
Prepare = Callable[[str, Client, AsyncExitStack], Awaitable[Turn]]
"""Called with a client's name and the client; returns what it does in each round."""
PrepareAlone = Callable[[str, str, Client, AsyncExitStack], Awaitable[Turn]]
"""As `Prepare`, but the server's address comes first."""


def runner(loop: str) -> asyncio.Runner:
    """A runner with the event loop of that name."""
    if loop != "uvloop":
        return asyncio.Runner()
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@dataclass(frozen=True)
class Bench:
    """One workload on one event loop: its settings, and where its results go."""

    address: str
    loop: str
    clients: Sequence[str]
    rounds: int
    turn_limit: float
    record: Callable[[str, dict[str, float]], None]
    """Called with a client's name and the measures of one of its turns."""
    fail: Callable[[str, str], None]
    """Called with a client's name, and the reason why it is left out from now on."""

    async def take_turns(self, prepare: Prepare) -> None:
        """Connect every client, and let each take its turn in every round."""
        stack = AsyncExitStack()
        turns: dict[str, Turn] = {}

        async def enter(name: str) -> None:
            client = await stack.enter_async_context(load(name)(self.address, SESSION_TIMEOUT))
            turns[name] = await prepare(name, client, stack)

        for name in self.clients:
            await self._attempt(name, enter(name), CONNECT_LIMIT)
        await self.repeat(turns)
        with contextlib.suppress(Exception):  # the results count even if a client cannot be closed
            async with asyncio.timeout(CLOSE_LIMIT):
                await stack.aclose()

    async def repeat(self, turns: dict[str, Turn], seldom: Collection[str] = ()) -> None:
        """Run the rounds: a first one that is not counted, then the requested number. `seldom` are clients
        that take so long that they only take part in the first and the last round that count."""
        gc.collect()
        gc.freeze()  # existing objects are not traversed at the expense of the client that is measured
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
        """Returns whether it succeeded; a failure is reported, and the other clients continue."""
        try:
            async with asyncio.timeout(limit) as scope:
                await work
        except Exception as error:
            self.fail(name, f"did not finish in {limit:g} s" if scope.expired() else f"failed: {error!r}")
            return False
        return True
