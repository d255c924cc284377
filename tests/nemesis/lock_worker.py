"""A worker: acquires a lock, stays for a while, writes what the lock protects, and records what it sees. It
is a process of its own, ``python lock_worker.py ORDERS``, that runs until its standard input ends. After a
first byte there all its stays are short.

It is a careful user of corral, unless its orders name a way to be wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from record import Recorder, Why

import corral

Way = Literal["corral", "deaf", "by ping", "deaf and unfenced", "kazoo", "kazoo with a listener"]
"""How a worker holds a lock: correctly; staying in the body despite the cancellation; with a lease that
proves nothing; staying, and writing whether or not the lock is held; or through kazoo (`kazoo_worker`)."""

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
    """The node below which there are a lock and a log for each lock. Each write adds a node to the log."""
    session_timeout: float
    tick_time: float | None = None
    locks: Sequence[int] = (0,)
    """The locks that it acquires, concurrently and independently. With more than one, a fault may hit it
    while it holds several; with one, a connection may be silent while the lock is held."""
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


def lock_path(orders: Orders, lock: int) -> str:
    """The path of a lock."""
    return f"{orders.root}/lock-{lock}"


def log_path(orders: Orders, lock: int) -> str:
    """The path of the writes that it protects."""
    return f"{orders.root}/log-{lock}"


class Worker:
    """Acquires the locks repeatedly."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._dice = random.Random(orders.seed)
        self._record = Recorder(orders.record, orders.number)
        self.hurry = asyncio.Event()
        """Once it is set, no more stays are long."""

    async def run(self) -> None:
        """Run until cancelled."""
        asyncio.get_running_loop().set_exception_handler(self._complain)
        orders = self._orders
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
                for lock in orders.locks:
                    tasks.create_task(self._take_turns(zk, lock))

    async def _take_turns(self, zk: corral.Client, lock: int) -> None:
        while True:
            try:
                async with zk.lock(lock_path(self._orders, lock)) as held:
                    await self._hold(zk, lock, held)
            except corral.LockLost:
                pass
            except Exception as error:
                self._record.note("failed", text=repr(error))
                await asyncio.sleep(1)  # otherwise it would fill the record

    async def _hold(self, zk: corral.Client, lock: int, held: corral.Held) -> None:
        """The body: the recorded stay begins with its first step and ends with its last."""
        token = held.fencing_token
        self._record.note("entered", lock=lock, token=token)
        why: Why = "done"
        try:
            if self._orders.way.startswith("deaf"):
                await _in_spite_of_all(self._stay(zk, lock, held))
            else:
                await self._stay(zk, lock, held)
        except asyncio.CancelledError:
            why = "ended" if held.is_valid else "told"
            raise
        except corral.SessionError:
            why = "refused"
            raise
        finally:
            self._record.note("left", lock=lock, token=token, text=why)

    async def _stay(self, zk: corral.Client, lock: int, held: corral.Held) -> None:
        dice, orders = self._dice, self._orders
        long = dice.random() < orders.long_ones and not self.hurry.is_set()
        end = time.monotonic() + dice.uniform(*(orders.long if long else orders.short))
        quiet = dice.random() < orders.quiet_ones
        while True:
            await self._write(zk, lock, held)
            left = end - time.monotonic()
            if left <= 0 or (long and self.hurry.is_set()):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left if quiet else min(left, dice.uniform(0.02, 0.3))):
                    await (self.hurry.wait() if long else asyncio.sleep(left))

    async def _write(self, zk: corral.Client, lock: int, held: corral.Held) -> None:
        """Add a node to the log, whose name has the token; the server adds the number."""
        token = held.fencing_token
        path = f"{log_path(self._orders, lock)}/{token}-{self._orders.number}-"
        try:
            if self._orders.way == "deaf and unfenced":
                created: object = await zk.create(path, sequential=True)
            else:
                async with held.transaction() as tx:
                    tx.create(path, sequential=True)
                created = tx.results[0]
        except corral.ConnectionLoss:
            self._record.note("unknown", lock=lock, token=token)
        else:
            self._record.note("wrote", lock=lock, token=token, text=str(created).rpartition("/")[2])

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._record.note("failed", text=f"only the event loop saw it: {context}")

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
                self._record.note("stalled", since=began)


async def _in_spite_of_all(body: Coroutine[Any, Any, None]) -> None:
    """Run to its end what should have been cancelled; then pass the cancellation on."""
    task = asyncio.ensure_future(body)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(corral.SessionError):
            await task
        raise


class _Formatter(logging.Formatter):
    """Log lines have the record's time."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{time.monotonic():.3f}"


async def main(orders: Orders) -> None:
    """Run a worker until its standard input ends: its parent has closed it, or is dead."""
    loop = asyncio.get_running_loop()
    worker = Worker(orders)
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


if __name__ == "__main__":
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    asyncio.run(main(Orders(**json.loads(sys.argv[1]))))
