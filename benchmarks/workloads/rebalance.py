"""A partition of 1,000 items and 20 members, each with a session of its own: one of them leaves.

Measured is the time from its leaving until the other 19 own all items again. That includes the time for which
the members must not have changed (`SETTLE`), which no client can save. Then the member comes back, which is
not measured. CPU time is that of all members, in one process. Requests are counted by the server. The peers
have no such recipe that could be compared: kazoo's stops everybody while items move.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import corral
from bench import SESSION_TIMEOUT, Bench, Meter, Turn, Workload
from server import ROOT, requests_of

MEMBERS = 20
ITEMS = 1000
SETTLE = 0.2


class Shares:
    """What each member owns."""

    def __init__(self) -> None:
        self._owned: dict[corral.Partition[int], frozenset[int]] = {}
        self._changed = asyncio.Event()

    async def follow(self, partition: corral.Partition[int]) -> None:
        """Note what a member owns, until it leaves."""
        try:
            async for mine in partition:
                self._owned[partition] = mine
                self._changed.set()
        finally:
            del self._owned[partition]

    async def all_owned(self, members: int) -> None:
        """Wait until so many members own all items, each some of them."""
        while len(self._owned) != members or sum(map(len, self._owned.values())) != ITEMS:
            self._changed.clear()
            await self._changed.wait()


async def run(bench: Bench) -> None:
    if "corral" not in bench.clients:
        return
    shares = Shares()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = [
            await stack.enter_async_context(corral.connect(bench.address, session_timeout=SESSION_TIMEOUT))
            for _ in range(MEMBERS)
        ]
        session_ids = [zk.session_id for zk in clients]

        def member(zk: corral.Client) -> corral.Partition[int]:
            return zk.partition(f"{ROOT}/rebalance", range(ITEMS), settle=SETTLE)

        for zk in clients[1:]:
            tasks.create_task(shares.follow(await stack.enter_async_context(member(zk))))

        async def turn(meter: Meter) -> None:
            async with AsyncExitStack() as leaving:
                partition = await leaving.enter_async_context(member(clients[0]))
                following = asyncio.create_task(shares.follow(partition))
                await shares.all_owned(MEMBERS)
                before = await requests_of(bench.address, session_ids)
                following.cancel()
                await asyncio.wait([following])
                with meter(1):
                    await leaving.aclose()
                    await shares.all_owned(MEMBERS - 1)
                meter.counts["requests"] = await requests_of(bench.address, session_ids) - before

        turns: dict[str, Turn] = {"corral": turn}
        await bench.repeat(turns)
        await stack.aclose()  # the members leave, and so the tasks end


WORKLOAD = Workload(
    name="rebalance",
    title=f"{ITEMS:,} items and {MEMBERS} members, one leaves",
    run=run,
    unit="ms",
    main="wall",
)
