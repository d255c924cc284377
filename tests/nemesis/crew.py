"""The workers of a run: their processes, their links to the servers, and their record."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from base_worker import Orders
from checker import Written
from lock_worker import log_path
from plan import TICK, T
from record import Record, Recorder

import corral
from corral.testing import FaultProxy, LocalServer
from corral.testing.servers.jvm import (
    kill_with_parent,  # the kernel kills a worker, stopped or not, when the tests die
)
from support import PATIENCE, until

_HERE = Path(__file__).parent
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(corral.__file__).parents[1])}


class Worker:
    """One worker: its process, and its links, one to each of its servers, which pass through this process."""

    def __init__(self, orders: Orders, servers: Sequence[LocalServer], directory: Path) -> None:
        self.number = orders.number
        self.locks = orders.locks
        self.servers = servers
        self.links = [FaultProxy(server.address) for server in servers]
        self._orders = orders
        self._complaints = directory / f"worker-{orders.number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lives = 0

    def __str__(self) -> str:
        return f"worker {self.number}"

    @property
    def attached_to(self) -> LocalServer | None:
        """The server that it is connected to, or tries to connect to."""
        return next(
            (server for server, link in zip(self.servers, self.links, strict=True) if link.connections), None
        )

    def start(self) -> None:
        """Start the process, with new random numbers each time."""
        orders = replace(
            self._orders,
            hosts=",".join(link.address for link in self.links),
            seed=self._orders.seed * 1000 + self._lives,
        )
        self._lives += 1
        name = "kazoo" if orders.way.startswith("kazoo") else "service" if orders.trades else "lock"
        script = _HERE / f"{name}_worker.py"
        with open(self._complaints, "ab") as complaints:
            # Popen as for servers: only we observe its end. Exceptions that only a finalizer sees are on its
            # standard error.
            self._process = subprocess.Popen(
                [*kill_with_parent(), sys.executable, "-W", "error", str(script), orders.encode()],
                stdin=subprocess.PIPE,
                stdout=complaints,
                stderr=complaints,
                env=_ENVIRONMENT,
            )

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def tell_to_hurry(self) -> None:
        """From now on its stays are short."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, and `failure` reports that
            self._process.stdin.write(b"!")
            self._process.stdin.flush()

    def tell_to_end(self) -> None:
        """Close its standard input, upon which it should end."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process, stopped or not, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    @property
    def failure(self) -> str | None:
        """A description of what went wrong with a process that should have ended by itself."""
        assert self._process is not None
        status = self._process.poll()
        complaints = self._complaints.read_text(errors="replace")
        if status == 0 and "Traceback" not in complaints:
            return None
        return f"ended with status {status}: {complaints[-1000:]}"


class Crew:
    """Workers that contend for the same locks, or share services, each with its own links to its servers.

    ``async with`` starts them and waits until one of them is in a body; at the end it kills those that are
    left.
    """

    def __init__(
        self,
        directory: Path,
        locks: Sequence[Sequence[int]],
        servers: Sequence[Sequence[LocalServer]],
        **orders: Any,
    ) -> None:
        """For each worker the locks that it acquires, and the servers that it knows; `orders` has the other
        fields of `Orders`."""
        directory.mkdir()
        self._record_path = directory / "record.jsonl"
        self.recorder = Recorder(self._record_path)
        self.record = Record(self._record_path)
        self.hosts = ",".join({server.address: None for known in servers for server in known})
        self.root = f"/{directory.name}"
        self._orders = Orders(
            record=str(self._record_path),
            hosts="",  # known when a worker's links are open
            number=-1,
            root=self.root,
            session_timeout=T,
            **orders,
        )
        self._locks = sorted({lock for taken in locks for lock in taken})
        self.workers = [
            Worker(
                replace(
                    self._orders,
                    number=number,
                    locks=taken,
                    seed=self._orders.seed * 1000 + number,
                    # A lease is longer if the tick is known: half of the workers use all of it.
                    tick_time=TICK if number % 2 else None,
                ),
                known,
                directory,
            )
            for number, (taken, known) in enumerate(zip(locks, servers, strict=True))
        ]
        self._open = contextlib.AsyncExitStack()

    def holders(self, at_least: float) -> list[Worker]:
        """The workers in a body that have been there for so long (seconds)."""
        self.record.read()
        now = time.monotonic()
        return [
            worker
            for worker in self.workers
            if any(
                entry.worker == worker.number and now - entry.at >= at_least
                for entry in self.record.inside.values()
            )
        ]

    def start(self, worker: Worker) -> None:
        """Start a worker, for the first time or again."""
        worker.start()
        for lock in worker.locks or (-1,):
            self.recorder.note("started", worker=worker.number, lock=lock)

    async def __aenter__(self) -> Self:
        async with corral.connect(self.hosts) as zk:
            for lock in self._locks:
                await zk.create(log_path(self._orders, lock), make_parents=True)
        async with contextlib.AsyncExitStack() as opening:
            opening.callback(self.recorder.close)
            for worker in self.workers:
                for link in worker.links:
                    await opening.enter_async_context(link)
            for worker in self.workers:
                opening.callback(worker.kill)
                self.start(worker)
            await self._enter(1, "somebody is in")
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def hurry(self) -> None:
        """From now on all stays are short."""
        for worker in self.workers:
            worker.tell_to_hurry()

    async def all_enter(self) -> None:
        """Wait until each worker has entered with each of its locks after this moment. From now on all stays
        are short."""
        self.hurry()
        await self._enter(sum(len(worker.locks) for worker in self.workers), "each is in once more")

    async def _enter(self, count: int, what: str) -> None:
        begin = len(self.record.read())

        async def entered() -> bool:
            since = self.record.read()[begin:]
            return len({(event.worker, event.lock) for event in since if event.what == "entered"}) >= count

        await until(entered, what)

    async def end(self) -> None:
        """Let the workers end by themselves, and record those that did not end as they should."""
        self.recorder.note("over")
        for worker in self.workers:
            worker.tell_to_end()
        for worker in self.workers:
            with contextlib.suppress(AssertionError):  # if it never became true
                await until(worker.ended, f"{worker} ends", PATIENCE / 2)
            if (failure := worker.failure) is not None:
                self.recorder.note("failed", worker=worker.number, text=failure)

    async def written(self) -> list[Written]:
        """What the workers have written, as the servers have it."""
        written = []
        async with asyncio.timeout(PATIENCE), corral.connect(self.hosts) as zk:
            await zk.sync()
            for lock in self._locks:
                for name in await zk.children(log_path(self._orders, lock)):
                    written.append(Written(lock, int(name[-10:]), int(name.partition("-")[0]), name))
        return written
