"""The nemesis: carries out a plan of faults, and repairs every one of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager as Block
from typing import Any, TypeVar

from crew import Crew, Worker
from plan import SERVER_FAULTS, Fault

import corral
from corral.testing import LocalEnsemble, LocalServer, ServerUnavailable

_LOOK = 0.01  # seconds between two checks of whether a worker holds a lock
_SETTLED = 0.15  # a stay that has lasted for so many seconds is a long one
_PATIENCE = 1.5  # seconds to wait for a holder or a leader before another target is hit
_COMMITS = 8.0  # seconds in which an ensemble that serves commits a write


class Nemesis:
    """Carries out faults of an ensemble and of one crew."""

    def __init__(self, ensemble: LocalEnsemble, crew: Crew) -> None:
        self.done: Counter[str] = Counter()
        """How many faults of each kind there were."""
        self._ensemble = ensemble
        self._crew = crew
        self._hit: set[LocalServer | Worker] = set()  # the current targets of faults: one fault at a time
        self._leader = ensemble.servers[0]  # the last known leader
        self._server_faults: dict[str, Callable[[LocalServer], Block[None]]] = {
            "server killed": self._killed,
            "server paused": self._paused,
            "server cut off": self._ensemble.partition,
        }
        self._worker_faults: dict[str, Callable[[Worker], Block[None]]] = {
            "links black-holed": self._black_holed,
            "answers black-holed": self._answers_black_holed,
            "links cut": self._cut,
            "worker killed": self._worker_killed,
            "worker stopped": self._stopped,
        }

    async def carry_out(self, plan: Sequence[Fault]) -> None:
        """Carry out all faults of a plan. When this returns, raises or is cancelled, each is repaired."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as faults:
            for fault in plan:
                faults.create_task(self._inflict(fault, began))

    async def heal(self) -> None:
        """Wait until the ensemble serves as before."""
        await self._ensemble.start()
        await self._ensemble.followers()
        if not await self._commits():
            # ZooKeeper 3.8.0: a leader may commit nothing any more when all its followers have left it and are
            # back before it has noticed. Clients can do nothing about that.
            self._crew.recorder.note("fault", text="server killed: the leader, which commits nothing")
            async with self._killed(await self._ensemble.leader()):
                pass
            await self._ensemble.start()
            await self._ensemble.followers()
            self._crew.recorder.note("mended", text="server killed: the leader, which commits nothing")
        self._crew.recorder.note("healed")

    async def _commits(self) -> bool:
        """Whether the ensemble commits a write: that of a new session."""
        try:
            async with corral.connect(self._crew.hosts, connect_timeout=_COMMITS):
                return True
        except corral.ConnectTimeout:
            return False

    async def _inflict(self, fault: Fault, began: float) -> None:
        now = asyncio.get_running_loop().time
        await asyncio.sleep(began + fault.at - now())
        block: Block[None]
        target: LocalServer | Worker | None
        if fault.kind in SERVER_FAULTS:
            if (server := await self._server(fault)) is None:
                return
            target, block = server, self._server_faults[fault.kind](server)
            name = f"server {self._ensemble.servers.index(server) + 1}"
        else:
            if (worker := await self._worker(fault)) is None:
                return
            target, block = worker, self._worker_faults[fault.kind](worker)
            name = str(worker)
        self._hit.add(target)
        what = f"{fault.kind}: {name}, as {fault.part}, for {fault.seconds:.1f} s"
        try:
            self.done[fault.kind] += 1
            self._crew.recorder.note("fault", text=what)
            async with block:
                await asyncio.sleep(began + fault.end - now())
            self._crew.recorder.note("mended", text=what)
        finally:
            self._hit.discard(target)

    # The targets

    async def _server(self, fault: Fault) -> LocalServer | None:
        """The server that has the role now; another one, if that is hit already; None if there is none left
        to hit."""
        with contextlib.suppress(TimeoutError, ServerUnavailable):
            async with asyncio.timeout(_PATIENCE):
                self._leader = await self._ensemble.leader()
        servers = self._ensemble.servers
        followers = _rotated([server for server in servers if server is not self._leader], fault.which)
        order: list[LocalServer | None]
        if fault.part == "the leader":
            order = [self._leader, *followers]
        elif fault.part == "a follower":
            order = [*followers, self._leader]
        else:
            holder = await self._holder(fault)
            order = [holder.attached_to if holder is not None else None, *_rotated(servers, fault.which)]
        return next(
            (server for server in order if server is not None and server.running and server not in self._hit),
            None,
        )

    async def _worker(self, fault: Fault) -> Worker | None:
        """The worker that has the role now; another one, if that is hit already."""
        holder = await self._holder(fault) if fault.part == "the holder" else None
        order = [holder, *_rotated(self._crew.workers, fault.which)]
        return next((worker for worker in order if worker is not None and worker not in self._hit), None)

    async def _holder(self, fault: Fault) -> Worker | None:
        """A worker that holds a lock for a long stay, as soon as there is one; None if none holds any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while not self._crew.holders(_SETTLED):
                    await asyncio.sleep(_LOOK)
        holders = self._crew.holders(_SETTLED) or self._crew.holders(0)
        return holders[fault.which % len(holders)] if holders else None

    # The faults

    @contextlib.asynccontextmanager
    async def _killed(self, server: LocalServer) -> AsyncIterator[None]:
        await server.kill()
        try:
            yield
        finally:
            await server.start(wait=False)  # while others are down or cut off it may not serve for a while

    @contextlib.asynccontextmanager
    async def _paused(self, server: LocalServer) -> AsyncIterator[None]:
        server.pause()
        try:
            yield
        finally:
            server.resume()

    @contextlib.asynccontextmanager
    async def _black_holed(self, worker: Worker, **ways: Any) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as holes:
            for link in worker.links:
                await holes.enter_async_context(link.black_hole(**ways))
            yield

    def _answers_black_holed(self, worker: Worker) -> Block[None]:
        """Its requests arrive, and its session stays alive; it receives nothing."""
        return self._black_holed(worker, requests=False)

    @contextlib.asynccontextmanager
    async def _cut(self, worker: Worker) -> AsyncIterator[None]:
        for link in worker.links:
            await link.cut(reset=True)
        yield

    @contextlib.asynccontextmanager
    async def _worker_killed(self, worker: Worker) -> AsyncIterator[None]:
        worker.kill()
        # It may have been in a body until now.
        self._crew.recorder.note("died", worker=worker.number)
        try:
            yield
        finally:
            self._crew.start(worker)

    @contextlib.asynccontextmanager
    async def _stopped(self, worker: Worker) -> AsyncIterator[None]:
        self._crew.recorder.note("stopped", worker=worker.number)
        worker.send(signal.SIGSTOP)
        try:
            yield
        finally:
            worker.send(signal.SIGCONT)
            self._crew.recorder.note("resumed", worker=worker.number)


_A = TypeVar("_A")


def _rotated(items: Sequence[_A], by: int) -> list[_A]:
    by %= len(items)
    return [*items[by:], *items[:by]]
