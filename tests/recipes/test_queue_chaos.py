"""Q1 under chance: producers and consumers of a queue whose connections are cut and whose sessions expire, at random."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

import corral
from corral.testing import FaultProxy
from support import turns, within

PATH = "/jobs"
SESSION_TIMEOUT = 2.0
CONSUMERS = 4
PRODUCERS = 2
ITEMS = 20
"""Of each producer."""


class Record:
    """What has happened, by what the workers themselves saw."""

    def __init__(self) -> None:
        self.acknowledged = set[bytes]()
        self.unknown = set[bytes]()
        self.done = Counter[bytes]()
        self.attempts: dict[bytes, list[int]] = {}
        self.inside: dict[bytes, list[corral.Job]] = {}
        self.wrong = list[str]()

    def enter(self, job: corral.Job) -> None:
        """A body begins: no other one may believe that it has the item."""
        inside = self.inside.setdefault(job.data, [])
        if any(each.is_valid for each in inside):
            self.wrong.append(f"{job.data!r} is handled by two at once")
        inside.append(job)
        attempts = self.attempts.setdefault(job.data, [])
        if attempts and attempts[-1] >= job.attempt:
            self.wrong.append(f"{job.data!r}: attempt {job.attempt} after {attempts}")
        attempts.append(job.attempt)
        if self.done[job.data]:
            self.wrong.append(f"{job.data!r} is handed out after it was done")

    def leave(self, job: corral.Job) -> None:
        self.inside[job.data].remove(job)


async def produce(zk: corral.Client, name: int, record: Record, dice: random.Random) -> None:
    queue = zk.queue(PATH)
    for number in range(ITEMS):
        item = b"%d-%d" % (name, number)
        try:
            async with asyncio.timeout(dice.choice([0.05, None, None])):
                await queue.put(item, priority=dice.choice([1, 100]))
        except (TimeoutError, corral.ConnectionLoss):
            record.unknown.add(item)
        else:
            record.acknowledged.add(item)
        await asyncio.sleep(dice.random() / 3)


async def cut_after(proxy: FaultProxy, count: int) -> None:
    await turns(count)
    await proxy.cut(reset=True)


async def consume(zk: corral.Client, proxy: FaultProxy, record: Record, dice: random.Random) -> None:
    """Take items and handle them, well or not; and end some just as the connection is cut."""
    queue = zk.queue(PATH)
    while True:
        taking = queue.take()
        try:
            async with asyncio.timeout(dice.choice([0.3, 3.0])):
                job = await taking.__aenter__()
        except TimeoutError:
            continue
        error: Exception | None = None
        record.enter(job)
        try:
            await asyncio.sleep(dice.random() / 2)
            if dice.random() < 0.3:
                error = ValueError("of the body")
        except BaseException as other:
            record.leave(job)
            with suppress(corral.LockLost):
                await taking.__aexit__(type(other), other, None)
                raise
            continue
        record.leave(job)
        cutting = asyncio.create_task(cut_after(proxy, dice.randrange(20))) if dice.random() < 0.5 else None
        try:
            await taking.__aexit__(type(error) if error else None, error, None)
        except corral.LockLost:
            continue
        finally:
            if cutting is not None:
                await cutting
        if error is None:
            record.done[job.data] += 1


async def break_one(proxy: FaultProxy, dice: random.Random) -> None:
    match dice.randrange(4):
        case 0:  # for longer than a session lives; the others go on meanwhile
            async with proxy.black_hole():
                await asyncio.sleep(SESSION_TIMEOUT * (1 + dice.random()))
        case 1:
            async with proxy.refuse():
                await proxy.cut(reset=True)
                await asyncio.sleep(dice.random() * SESSION_TIMEOUT)
        case _:
            await proxy.cut(reset=dice.random() < 0.5)


async def break_things(proxies: list[FaultProxy], dice: random.Random, end: float) -> None:
    """Until the end, at most one fault at each proxy at a time."""
    loop = asyncio.get_running_loop()

    async def break_again(proxy: FaultProxy) -> None:
        while loop.time() < end:
            await asyncio.sleep(dice.random())
            await break_one(proxy, dice)

    await asyncio.gather(*map(break_again, proxies))


@asynccontextmanager
async def workers(
    connect: Callable[..., corral.Client], address: str
) -> AsyncIterator[tuple[list[FaultProxy], list[corral.Client]]]:
    """Clients, each behind a proxy of its own."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(FaultProxy(address)) for _ in range(CONSUMERS + PRODUCERS)]
        clients = [
            await stack.enter_async_context(connect(to=proxy.address, session_timeout=SESSION_TIMEOUT))
            for proxy in proxies
        ]
        yield proxies, clients


@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_or_doubled(
    connect: Callable[..., corral.Client], server_address: str, other: corral.Client, seed: int
) -> None:
    """Q1, X1: each item that `put` has acknowledged is handled until it is done, by one consumer at a time, with attempts
    that grow, and not after it was done; each item is there once, whatever answers were lost."""
    dice, record = random.Random(seed), Record()
    loop = asyncio.get_running_loop()
    async with workers(connect, server_address) as (proxies, clients):
        consuming = [
            asyncio.create_task(consume(zk, proxy, record, dice))
            for zk, proxy in zip(clients[:CONSUMERS], proxies, strict=False)
        ]
        breaking = asyncio.create_task(break_things(proxies, dice, loop.time() + 10))
        producing = [
            asyncio.create_task(produce(zk, number, record, dice))
            for number, zk in enumerate(clients[CONSUMERS:])
        ]
        await within(asyncio.gather(breaking, *producing))
        async with asyncio.timeout(120):
            async for size in other.queue(PATH).watch_size():
                if size == 0:
                    break
        for task in consuming:
            task.cancel()
        ended = await asyncio.gather(*consuming, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    assert record.wrong == []
    handled = set(record.attempts)
    assert record.acknowledged <= handled, f"never handed out: {record.acknowledged - handled}"
    assert handled <= record.acknowledged | record.unknown
    assert max(record.done.values()) == 1
    assert await other.children(f"{PATH}/taken") == []
    attempts = [attempt for each in record.attempts.values() for attempt in each]
    assert max(attempts) > 1, "nothing has happened"
    print(f"{len(attempts)} attempts at {len(handled)} items, {len(record.unknown)} puts of unknown outcome")
