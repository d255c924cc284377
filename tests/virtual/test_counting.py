"""Counting while connections break at random, sessions expire, tasks are cancelled, and marks are deleted."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy, before, committed
from support import until

CLIENTS = 4
TASKS = 2
WRITES = 12
"""Of each task."""
T = 4.0
"""The session timeout, in seconds."""


class Tally:
    """What became of each write."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self.unknown: list[str] = []
        self.numbers: list[int] = []
        """What adds have returned."""
        self.unknown_adds = 0


async def work(zk: corral.Client, name: str, tally: Tally, rng: random.Random) -> None:
    """Write names into a list, and count them; now and then without the patience to wait."""
    names = zk.value("/names", codec=corral.JSON, default=[])
    counter = zk.counter("/count")
    for number in range(WRITES):
        write = f"{name}{number}"
        try:
            async with asyncio.timeout(rng.uniform(0, 1) if rng.random() < 0.2 else None):
                await names.update(lambda old, write=write: [*old, write])
            tally.acknowledged.append(write)
        except (corral.ConnectionLoss, TimeoutError):
            tally.unknown.append(write)
        try:
            async with asyncio.timeout(rng.uniform(0, 1) if rng.random() < 0.2 else None):
                tally.numbers.append(await counter.add(1))
        except (corral.ConnectionLoss, TimeoutError):
            tally.unknown_adds += 1
        await asyncio.sleep(rng.expovariate(10))


async def break_things(proxy: FaultProxy, zk: corral.Client, rng: random.Random, done: Counter[str]) -> None:
    """One fault after the other, for ever, on one client."""
    while True:
        kind = rng.choice(
            ["cut", "request lost", "reply lost", "black hole", "expired", "expired in between"]
        )
        reset = rng.random() < 0.5
        if kind == "cut":
            await proxy.cut(reset=reset)
        elif kind == "black hole":
            async with proxy.black_hole():
                await asyncio.sleep(rng.uniform(0, 2 * T))
        elif kind == "expired":
            with contextlib.suppress(corral.UsageStateError):  # no session is connected
                await proxy.expire()
        else:
            lost = before if kind == "request lost" else committed
            async with proxy.cut_at(lost("transaction"), reset=reset) as cut:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(T):
                        await cut.fired.wait()
                        if kind == "expired in between":
                            async with proxy.refuse():
                                if zk.session_id:
                                    await proxy.expire(zk.session_id)
        done[kind] += 1
        await asyncio.sleep(rng.expovariate(2))


async def delete_marks(other: corral.Client, rng: random.Random) -> None:
    """Somebody who tidies up what is not his."""
    while True:
        await asyncio.sleep(rng.expovariate(1))
        for path in ("/names", "/count"):
            with contextlib.suppress(corral.NoNode):
                for name in await other.children(path):
                    await other.delete(f"{path}/{name}")


@pytest.mark.parametrize("seed", range(12))
async def test_every_acknowledged_write_is_applied_once(
    server: EmbeddedServer, other: corral.Client, seed: int
) -> None:
    """X1: each acknowledged write was applied once, each other one once or not at all; no add returns a number that
    another one has returned; no mark stays."""
    rng, tally, done = random.Random(seed), Tally(), Counter[str]()
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(FaultProxy(server.address)) for _ in range(CLIENTS)]
        clients = [
            await stack.enter_async_context(corral.connect(proxy.address, session_timeout=T))
            for proxy in proxies
        ]
        faults = [
            asyncio.create_task(break_things(proxy, zk, random.Random(rng.random()), done))
            for proxy, zk in zip(proxies, clients, strict=True)
        ]
        if seed % 2:
            faults.append(asyncio.create_task(delete_marks(other, random.Random(rng.random()))))
        try:
            async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
                for client, zk in enumerate(clients):
                    for task in range(TASKS):
                        name = f"{client}-{task}-"
                        group.create_task(work(zk, name, tally, random.Random(rng.random())))
        finally:
            for fault in faults:
                fault.cancel()
            await asyncio.gather(*faults, return_exceptions=True)
    names: list[str] = (await other.value("/names", codec=corral.JSON).get()).value
    total = await other.counter("/count").get()
    written = Counter(names)
    assert [name for name, count in written.items() if count > 1] == []
    assert [name for name in tally.acknowledged if not written[name]] == []
    assert set(names) <= {*tally.acknowledged, *tally.unknown}
    assert len(set(tally.numbers)) == len(tally.numbers)
    assert len(tally.numbers) <= total <= len(tally.numbers) + tally.unknown_adds
    assert tally.unknown
    assert done.total() > CLIENTS

    async def no_marks() -> bool:
        return not await other.children("/names") and not await other.children("/count")

    await until(no_marks, "no mark is left")
