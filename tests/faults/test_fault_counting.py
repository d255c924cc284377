"""Counting on three servers while they are killed, paused and cut off from each other (X1)."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import pytest
from fault_support import within

import corral
from corral.testing import LocalEnsemble
from support import until

CLIENTS = 6
SESSION_TIMEOUT = 4.0


class Crew:
    """Clients that write names into a list, and count them, until they are told to stop."""

    def __init__(self, path: str) -> None:
        self.acknowledged: list[str] = []
        self.unknown: list[str] = []
        self.numbers: list[int] = []
        self.unknown_adds = 0
        self.going_on = True
        self._path = path

    async def work(self, zk: corral.Client, name: str) -> None:
        names = zk.value(f"{self._path}/names", codec=corral.JSON, default=[])
        counter = zk.counter(f"{self._path}/count")
        number = 0
        while self.going_on:
            number += 1
            write = f"{name}-{number}"
            try:
                await names.update(lambda old, write=write: [*old, write])
                self.acknowledged.append(write)
            except corral.ConnectionLoss:
                self.unknown.append(write)
            try:
                self.numbers.append(await counter.add(1))
            except corral.ConnectionLoss:
                self.unknown_adds += 1

    async def more(self, count: int = 20) -> None:
        """Wait until more was acknowledged."""
        goal = len(self.acknowledged) + count

        async def enough() -> bool:
            return len(self.acknowledged) >= goal

        await until(enough, "writes are acknowledged again")


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_counting_while_servers_fail(servers: LocalEnsemble, how: str) -> None:
    """X1: the leader fails, and then a follower: each acknowledged write was applied once, each other one once or not at
    all, and no two adds return the same number."""
    await count(servers, how)


async def test_counting_while_servers_are_cut_off(real_servers: None) -> None:
    """X1: so it is when they are cut off from each other, and still talk to their clients for a while."""
    async with LocalEnsemble(3, partitionable=True) as servers:
        await count(servers, "cut off")


async def count(servers: LocalEnsemble, how: str) -> None:
    """Count, while first the leader and then a follower fails, and see that it was right."""
    path = f"/counting-{uuid.uuid4().hex[:8]}"
    crew = Crew(path)
    clients = [
        corral.connect(servers.hosts, session_timeout=SESSION_TIMEOUT, tick_time=0.5) for _ in range(CLIENTS)
    ]
    async with asyncio.TaskGroup() as group:

        async def run(zk: corral.Client, name: str) -> None:
            async with zk:
                await crew.work(zk, name)

        for number, client in enumerate(clients):
            group.create_task(run(client, f"{number}"))
        await crew.more()
        for role in ("leader", "follower"):
            victim = await servers.leader() if role == "leader" else (await servers.followers())[0]
            if how == "killed":
                await victim.kill()
                await crew.more()
                await victim.start()
            elif how == "paused":
                victim.pause()
                await crew.more()
                victim.resume()
            else:
                async with servers.partition(victim):
                    await crew.more()
            await crew.more()
        crew.going_on = False
    async with corral.connect(servers.hosts) as other:
        await within(other.sync())
        names: list[str] = (await other.value(f"{path}/names", codec=corral.JSON).get()).value
        total = await other.counter(f"{path}/count").get()
        written = Counter(names)
        assert [name for name, count in written.items() if count > 1] == []
        assert [name for name in crew.acknowledged if not written[name]] == []
        assert set(names) <= {*crew.acknowledged, *crew.unknown}
        assert len(set(crew.numbers)) == len(crew.numbers)
        assert len(crew.numbers) <= total <= len(crew.numbers) + crew.unknown_adds
        for name in ("names", "count"):
            assert await other.children(f"{path}/{name}") == []
        await other.delete(path, recursive=True)
        print(f"{how}: {len(crew.acknowledged)} acknowledged, {len(crew.unknown)} unknown")
