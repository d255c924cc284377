"""What all workers have in common. A worker is a process of its own, ``python <script> ORDERS``, that works
through one client, records what it sees, and runs until its standard input ends. After a first byte there all
its stays are short.

It is a careful user of corral, unless its orders name a way to be wrong.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import logging
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from record import Recorder, Why

import corral

Way = Literal["corral", "deaf", "by ping", "deaf and unfenced", "kazoo", "kazoo with a listener", "careless"]
"""How a worker holds a lock: correctly; staying in the body despite the cancellation; with a lease that
proves nothing; staying, and writing whether or not the lock is held; or through kazoo (`kazoo_worker`).
"careless" is for services (`service_worker`): wrong in each of its trades."""

Trade = Literal["count", "put", "take", "share", "once"]
"""What a worker does with services: adds to a counter; puts items into a queue; takes them from it; owns
items of a partition; runs jobs that must run once."""

TURN = 0.02
"""Seconds between two checks of whether the process still runs."""
STALL = 0.1
"""Seconds without processor time that are recorded."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """The instructions of a worker."""

    record: str
    hosts: str
    number: int
    seed: int
    root: str
    """The node below which there are a lock and a log for each lock, or what the trades use. Each write adds
    a node to the log."""
    session_timeout: float
    tick_time: float | None = None
    locks: Sequence[int] = (0,)
    """The locks that it acquires, concurrently and independently. With more than one, a fault may hit it
    while it holds several; with one, a connection may be silent while the lock is held."""
    trades: Sequence[Trade] = ()
    """What it does with services. It has either locks or trades."""
    way: Way = "corral"
    short: Sequence[float] = (0.003, 0.1)
    long: Sequence[float] = (3.0, 10.0)
    """The shortest and the longest duration of short stays, and of long ones (seconds)."""
    long_ones: float = 0.08
    """The share of long stays: most of the time a worker is in a body for longer than a session lasts."""
    quiet_ones: float = 0.6
    """The share of stays with a single write. A write that is not answered would also show that something is
    wrong."""

    def encode(self) -> str:
        return json.dumps(asdict(self))


class Worker(abc.ABC):
    """Works through one client, in several tasks."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.dice = random.Random(orders.seed)
        self.record = Recorder(orders.record, orders.number)
        self.hurry = asyncio.Event()
        """Once it is set, no more stays are long."""

    async def run(self) -> None:
        """Run until cancelled."""
        asyncio.get_running_loop().set_exception_handler(self._complain)
        orders = self.orders
        async with (
            self._watching_the_clock(),
            corral.connect(
                orders.hosts,
                session_timeout=orders.session_timeout,
                tick_time=orders.tick_time,
                connect_timeout=None,
                lease="ping" if orders.way == "by ping" else "quorum",
            ) as zk,
        ):
            async with asyncio.TaskGroup() as tasks:
                for task in self.tasks(zk):
                    tasks.create_task(task)

    @abc.abstractmethod
    def tasks(self, zk: corral.Client) -> Iterable[Coroutine[Any, Any, None]]:
        """What it does at the same time."""

    async def stay(self, *, long: bool) -> None:
        """Wait for the time of a short stay, or of a long one."""
        least, most = self.orders.long if long else self.orders.short
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.dice.uniform(least, most)):
                await (self.hurry.wait() if long else asyncio.get_running_loop().create_future())

    def is_long(self) -> bool:
        """Whether the next stay is a long one."""
        return self.dice.random() < self.orders.long_ones and not self.hurry.is_set()

    @contextlib.contextmanager
    def inside(
        self, held: corral.Held | None, *, lock: int = -1, thing: str = "", token: int = 0, name: str = ""
    ) -> Iterator[None]:
        """The body: the recorded stay begins with its first step and ends with its last. What it has is
        `held`, if it is held."""
        self.record.note("entered", lock=lock, thing=thing, token=token, text=name)
        why: Why = "done"
        try:
            yield
        except asyncio.CancelledError:
            why = "ended" if held is not None and held.is_valid else "told"
            raise
        except corral.SessionError:
            why = "refused"
            raise
        except Exception:
            why = "failed"
            raise
        finally:
            self.record.note("left", lock=lock, thing=thing, token=token, text=why)

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.record.note("failed", text=f"only the event loop saw it: {context}")

    @contextlib.asynccontextmanager
    async def _watching_the_clock(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._note_stalls())
        try:
            yield
        finally:
            watching.cancel()

    async def _note_stalls(self) -> None:
        """Record when the process got no processor time. A loop that was blocked by its own work, which uses
        the processor, does not count."""
        while True:
            began, used = time.monotonic(), time.process_time()
            await asyncio.sleep(TURN)
            late = time.monotonic() - began - TURN
            if late > STALL and time.process_time() - used < late / 2:
                self.record.note("stalled", since=began)


class _Formatter(logging.Formatter):
    """Log lines have the record's time."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{time.monotonic():.3f}"


async def _main(worker: Worker) -> None:
    """Run a worker until its standard input ends: its parent has closed it, or is dead."""
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(worker.run())

    def listen() -> None:
        if os.read(sys.stdin.fileno(), 1):
            worker.hurry.set()
        else:
            loop.remove_reader(sys.stdin.fileno())  # otherwise it would be readable in each turn of the loop
            work.cancel()

    loop.add_reader(sys.stdin.fileno(), listen)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def main(kind: Callable[[Orders], Worker]) -> None:
    """Run a worker of this kind by the orders on the command line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    asyncio.run(_main(kind(Orders(**json.loads(sys.argv[1])))))
