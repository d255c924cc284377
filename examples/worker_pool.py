"""A pool of workers that share out shards among themselves, while workers come and go.

Each worker is a member of one partition, with its own session, as separate processes would have. It runs a
task for each shard that is its own. Shards move when a worker joins, leaves, or is without a connection for
longer than its session timeout. At the end the example checks what the tasks have noted: no shard was ever
worked on by two workers, and each time that the pool had settled, every shard had a worker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator

import corral
import zookeeper
from corral.testing import FaultProxy

SHARDS = [f"shard-{number}" for number in range(64)]


class Board:
    """What the tasks note: who works on which shard."""

    def __init__(self) -> None:
        self.workers: dict[str, str] = {}
        self.overlaps: list[str] = []

    @contextlib.asynccontextmanager
    async def working(self, worker: str, shard: str) -> AsyncIterator[None]:
        """Note that this worker works on this shard, inside the block."""
        if shard in self.workers:
            self.overlaps.append(f"{shard}: {self.workers[shard]} and {worker}")
        self.workers[shard] = worker
        try:
            yield
        finally:
            del self.workers[shard]

    async def settled(self, *workers: str) -> None:
        """Wait until each shard has a worker, each worker has a shard, and nobody else has one; print it."""
        async with asyncio.timeout(30):
            while len(self.workers) < len(SHARDS) or {*self.workers.values()} != {*workers}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        shares = Counter(self.workers.values())
        print("  " + ", ".join(f"{worker} has {shares[worker]}" for worker in sorted(shares)))


async def work(name: str, hosts: str, path: str, board: Board) -> None:
    """A worker: it takes part until it is cancelled."""

    async def consume(shard: str, held: corral.Held) -> None:
        """The work on one shard. It is cancelled before the shard is another worker's."""
        async with board.working(name, shard):
            await asyncio.Event().wait()  # for example: read the shard's queue, and store its results

    async with (
        corral.connect(hosts, session_timeout=2) as zk,
        zk.partition(path, SHARDS, data=name.encode(), settle=0.2) as partition,
    ):
        await partition.run(consume)


async def stop(worker: asyncio.Task[None]) -> None:
    """End a worker, as a process ends that is told to stop."""
    worker.cancel()
    await asyncio.wait([worker])


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Let workers come and go, and check the board."""
    path, board = f"/corral-worker-pool-{uuid.uuid4().hex[:8]}", Board()
    workers: dict[str, asyncio.Task[None]] = {}

    def start(name: str, hosts: str) -> None:
        workers[name] = asyncio.create_task(work(name, hosts, path, board))

    async with FaultProxy(hosts.split(",")[0]) as network:
        print("two workers:")
        start("ann", hosts)
        start("bob", hosts)
        await board.settled("ann", "bob")
        print("a third one joins:")
        start("cleo", network.address)
        await board.settled("ann", "bob", "cleo")
        print("it loses its connection, and its session with it:")
        async with network.black_hole():
            await board.settled("ann", "bob")
        print("it is back:")
        await board.settled("ann", "bob", "cleo")
        print("one leaves:")
        await stop(workers.pop("ann"))
        await board.settled("bob", "cleo")
        for worker in workers.values():
            await stop(worker)
    async with corral.connect(hosts) as zk:
        left = await zk.children(f"{path}/members") if await zk.exists(f"{path}/members") else []
        await zk.delete(path, recursive=True)
    print(f"worked on by two at once: {board.overlaps or 'none'}; members left: {left or 'none'}")
    return not board.overlaps and not left and not board.workers


if __name__ == "__main__":
    zookeeper.run(
        main,
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter),
    )
