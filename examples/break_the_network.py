"""Tests your own code on a network that breaks exactly where you say, and then everywhere.

A service counts visits in a znode. Its first version treats a lost answer as a failure and tries again:
`every_cut` finds where it counts one visit twice. The second version finds out whether the lost write was
applied.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Awaitable, Callable

import corral
import zookeeper
from corral.testing import FaultProxy, committed
from corral.testing.enumerators import Run, every_cut

# corral logs two lines for each outage, and this example causes a hundred of them.
logging.getLogger("corral.session").setLevel(logging.ERROR)

Count = Callable[[corral.Client, str], Awaitable[None]]


async def naive(zk: corral.Client, path: str) -> None:
    """Count a visit, and try again after any error."""
    while True:
        try:
            data, stat = await zk.get(path)
            await zk.set(path, b"%d" % (int(data) + 1), version=stat.version)
        except (corral.ConnectionLoss, corral.BadVersion):
            continue
        return


async def careful(zk: corral.Client, path: str) -> None:
    """Count a visit under a lock. If an answer is lost, check whether the write was applied."""
    async with zk.lock(f"{path}-lock") as held:
        data, stat = await zk.get(path)
        wanted = b"%d" % (int(data) + 1)
        while (await zk.get(path))[0] != wanted:
            try:
                async with held.transaction() as tx:  # applied only while the lock is held
                    tx.set(path, wanted, version=stat.version)
            except corral.ConnectionLoss:
                continue


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Break the connection at one message, then at every message."""
    proxied = hosts.split(",")[0]
    async with FaultProxy(proxied) as proxy, corral.connect(proxied) as observer:
        root = await observer.create("/examples/visits-", sequential=True, make_parents=True)

        # At one point: the server creates the znode, and its answer is lost.
        async with corral.connect(proxy.address) as zk, proxy.cut_at(committed("create")) as cut:
            try:
                await zk.create(f"{root}/lost")
            except corral.ConnectionLoss as error:
                print(f"cut at {cut.message}; the client raised: {error}")
        await observer.sync()
        created = await observer.exists(f"{root}/lost") is not None
        print(f"was it created? {created}")

        # At every point: a new run each time, checked through a connection that is not cut.
        numbers = itertools.count()

        async def broken_by_cuts(count: Count, name: str) -> int:
            async def scenario(run: Run) -> None:
                path = f"{root}/{next(numbers)}"
                await observer.create(path, b"0")
                async with corral.connect(proxy.address) as zk:

                    async def one_visit() -> None:
                        await count(zk, path)

                    (await run.operation(one_visit())).result()
                await observer.sync()
                visits, _ = await observer.get(path)
                assert visits == b"1", f"one visit was counted as {visits.decode()}"

            report = await every_cut(proxy, scenario, what=name)
            print(report)
            return len(report.broken)

        caught = await broken_by_cuts(naive, "naive")
        left = await broken_by_cuts(careful, "careful")
        await observer.delete(root, recursive=True)
        return created and caught > 0 and left == 0


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
