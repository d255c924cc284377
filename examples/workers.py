"""Several workers take turns under one lock, each with its own session, as separate processes would have.

In its turn a worker appends a line to a shared journal, in a transaction that is applied only while it holds
the lock. A watcher prints each change that it sees. At the end the example checks the journal: every turn is
there, no two overlapped, and the fencing tokens only grew.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
import uuid

import corral
import zookeeper


class Inside:
    """Counts the workers that hold the lock, now and at most."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


async def work(name: str, hosts: str, turns: int, inside: Inside) -> None:
    """Acquire the lock `turns` times, and write each turn to the journal."""
    async with corral.connect(hosts) as zk:
        lock = zk.lock("/lock", data=name.encode())
        for turn in range(1, turns + 1):
            async with lock as held:
                with inside:
                    journal, stat = await zk.get("/journal")
                    await asyncio.sleep(0.02)  # the work; without the lock, others would write meanwhile
                    line = f"{name} turn {turn} token {held.fencing_token}\n"
                    async with held.transaction() as tx:
                        tx.set("/journal", journal + line.encode(), version=stat.version)


async def follow(zk: corral.Client) -> int:
    """Print new lines of the journal until it ends with "done"; return the number of changes seen."""
    seen = printed = 0
    async with zk.watch("/journal") as events:
        async for event in events:
            lines = (event.data or b"").decode().splitlines()
            for line in lines[printed:]:
                print(f"  {line}")
            seen, printed = seen + (event.kind is corral.EventKind.CHANGED), len(lines)
            if lines and lines[-1] == "done":
                break
    return seen


def check(journal: list[str], expected: int, inside: Inside) -> bool:
    """Print what the journal proves, and return whether it is as expected."""
    tokens = [int(line.rpartition(" ")[2]) for line in journal]
    results = {
        f"turns taken: {len(journal)} of {expected}": len(journal) == expected,
        f"no overlap: never more than {inside.most} inside": inside.most == 1,
        f"fencing tokens increasing: {tokens[0] if tokens else 0} .. {tokens[-1] if tokens else 0}": all(
            a < b for a, b in itertools.pairwise(tokens)
        ),
    }
    for what, good in results.items():
        print(f"{'ok  ' if good else 'FAIL'} {what}")
    return all(results.values())


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Run the workers and the watcher, then check the journal."""
    root = f"/corral-workers-{uuid.uuid4().hex[:8]}"
    inside = Inside()
    async with corral.connect(hosts) as zk:
        print(f"connected: {zk}")
        await zk.create(root)
        try:
            below = zk.chroot(root)
            await below.create("/journal")
            watching = asyncio.create_task(follow(below))
            began = time.perf_counter()
            async with asyncio.TaskGroup() as workers:
                for number in range(1, arguments.workers + 1):
                    workers.create_task(work(f"worker-{number}", hosts + root, arguments.turns, inside))
            took = time.perf_counter() - began
            journal, stat = await below.get("/journal")
            await below.set("/journal", journal + b"done\n", version=stat.version)
            seen = await watching
        finally:
            await zk.delete(root, recursive=True)
    print(f"{arguments.workers} workers, {took:.2f} s; the watcher saw {seen} changes, the last one included")
    return check(journal.decode().splitlines(), arguments.workers * arguments.turns, inside)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4, help="how many workers (default: 4)")
    parser.add_argument("--turns", type=int, default=5, help="how often each takes the lock (default: 5)")
    zookeeper.run(main, parser)
