"""Q1: kazoo's `LockingQueue` puts, gets, holds and consumes in the same queue as we do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from interop_support import within

import corral

kazoo_client = pytest.importorskip("kazoo.client")
kazoo_queue = pytest.importorskip("kazoo.recipe.queue")

PATIENCE = 30.0


@pytest.fixture
def locking_queue(server: str, place: str) -> Iterator[Callable[[], Any]]:
    """Makes kazoo's queues, each with a session of its own."""
    clients = []

    def make() -> Any:
        client = kazoo_client.KazooClient(server)
        clients.append(client)
        client.start(timeout=PATIENCE)
        return kazoo_queue.LockingQueue(client, place)

    yield make
    for client in clients:
        client.stop()
        client.close()


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call kazoo, which blocks, in a thread."""
    return await within(asyncio.to_thread(function, *arguments))


async def test_kazoo_gets_what_we_put(
    zk: corral.Client, place: str, locking_queue: Callable[[], Any]
) -> None:
    """Q1: in our order; what it holds we are not handed; what it consumes is gone, and what it releases we are handed."""
    queue, kazoo = zk.queue(place), await call(locking_queue)
    await queue.put_many([b"b", b"c"])
    await queue.put(b"a", priority=1)
    assert await call(len, kazoo) == 3
    assert await call(kazoo.get, PATIENCE) == b"a"
    assert await call(kazoo.holds_lock)
    async with queue.take() as job:
        assert (job.data, job.attempt) == (b"b", 1)
        assert await call(kazoo.consume)
    assert await call(kazoo.get, PATIENCE) == b"c"
    assert await queue.try_take() is None
    taking = asyncio.ensure_future(queue.take())
    assert await call(kazoo.release)
    async with await within(taking) as job:
        assert (job.data, job.attempt) == (b"c", 1)  # kazoo's attempts do not count
    assert await call(len, kazoo) == 0


async def test_we_are_handed_what_kazoo_puts(
    zk: corral.Client, place: str, locking_queue: Callable[[], Any]
) -> None:
    """Q1: in its order; what we hold it does not get, what we give back it gets, and what is done is gone."""
    queue, kazoo = zk.queue(place), await call(locking_queue)
    await call(kazoo.put_all, [b"b", b"c"])
    await call(kazoo.put, b"a", 1)
    async with queue.take() as job:
        assert (job.data, job.priority) == (b"a", 1)
        assert await call(kazoo.get, PATIENCE) == b"b"
        assert await call(kazoo.consume)
    job = await within(asyncio.ensure_future(queue.take()))
    assert job.data == b"c"
    assert await call(kazoo.get, 0.1) is None
    getting = asyncio.create_task(call(kazoo.get, PATIENCE))
    await job.release()
    assert await getting == b"c"
    assert await call(kazoo.consume)
    assert await queue.size() == 0


async def test_a_consumer_of_each_waits(
    zk: corral.Client, other: corral.Client, place: str, locking_queue: Callable[[], Any]
) -> None:
    """Q1: both wait for items, which either of them puts; each gets one."""
    kazoo, putter = await call(locking_queue), await call(locking_queue)
    getting = asyncio.create_task(call(kazoo.get, PATIENCE))
    taking = asyncio.ensure_future(zk.queue(place).take())
    await other.queue(place).put(b"ours")
    await call(putter.put, b"kazoo's")
    got, job = await getting, await within(taking)
    assert {got, job.data} == {b"ours", b"kazoo's"}
    await job.done()
    assert await call(kazoo.consume)
    assert await other.queue(place).size() == 0


async def test_consumers_of_both_share_the_items(
    zk: corral.Client, other: corral.Client, place: str, locking_queue: Callable[[], Any]
) -> None:
    """Q1: nobody is handed what another one holds, and each item is handled once."""
    count, handled = 40, Counter[bytes]()

    async def consume(client: corral.Client) -> None:
        async for job in client.queue(place):
            async with job:
                handled[job.data] += 1

    async def consume_by_kazoo(kazoo: Any) -> None:
        while (data := await call(kazoo.get, 1.0)) is not None:
            handled[data] += 1
            assert await call(kazoo.consume)

    queues = [await call(locking_queue) for _ in range(2)]
    ours = [asyncio.create_task(consume(client)) for client in (zk, other)]
    theirs = [asyncio.create_task(consume_by_kazoo(kazoo)) for kazoo in queues]
    putter = await call(locking_queue)
    for number in range(count // 2):
        await zk.queue(place).put(b"ours %d" % number, priority=number)
        await call(putter.put, b"theirs %d" % number, number)

    async def run_empty() -> None:
        async for size in zk.queue(place).watch_size():
            if size == 0:
                return

    await within(run_empty())
    await within(asyncio.gather(*theirs))
    for task in ours:
        task.cancel()
    await asyncio.wait(ours)
    assert len(handled) == count
    assert set(handled.values()) == {1}
