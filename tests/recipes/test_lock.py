"""The lock without failures: one holder, in order, at the promised cost; who may release, and who is
listed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from lock_support import Tap

import corral
from corral.testing import FaultProxy
from corral.wire.messages import (
    CHILDREN,
    CREATE2,
    DELETE,
    EXISTS,
    GET,
    MULTI,
    PING,
    SET,
)
from line_kinds import LOCK_NAME
from support import PATIENCE, children, settle, until_line, within

Connect = Callable[..., corral.Client]


# L1: one at a time, in order, one watch each


async def test_a_thousand_waiters(connect: Connect, proxy: FaultProxy, tap: Tap) -> None:
    """L1: with a thousand waiters, each release sends an event to one of them. That one lists the line or
    reads its own node, once, and sets no new watch. From the first release to the last, the server gets one
    deletion and one of these reads for each holder."""
    crowd, order = 1000, list[int]()

    async def wait(client: corral.Client, number: int) -> None:
        async with client.lock("/lock"):
            order.append(number)

    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(proxy.address, session_timeout=10)) for _ in range(10)
        ]
        await clients[0].create("/lock")
        held = await clients[0].lock("/lock").acquire()
        waiters = [asyncio.create_task(wait(clients[number % 10], number)) for number in range(crowd)]
        await tap.seen(lambda: len(tap.watched) == crowd)
        for client in clients:
            await settle(client)
        start = len(tap.messages)
        await held.release()
        await asyncio.gather(*waiters)
        assert sorted(order) == list(range(crowd))
        assert len(tap.events(start)) == crowd
        asked = tap.requests(start)
        assert asked.count(DELETE) == crowd + 1
        assert asked.count(CHILDREN) + asked.count(EXISTS) <= crowd
        assert not {*asked} - {DELETE, CHILDREN, EXISTS, SET}


async def test_a_holder_costs_one_small_write_now_and_then(
    connect: Connect, proxy: FaultProxy, tap: Tap
) -> None:
    """S3: while nothing happens a holder's session sends only heartbeats, once it has set its watch."""
    async with connect(proxy.address, session_timeout=2.0) as zk, zk.lock("/lock"):
        start = len(tap.messages)
        await tap.seen(lambda: len(tap.requests(start, ours=False)) >= 5)
        said = list(tap.requests(start, ours=False))
        assert set(said) <= {MULTI, PING, GET}
        assert said.count(GET) <= 1
        assert MULTI in tap.requests(start, ours=False)


# L2: the cost


async def test_an_uncontended_acquire_is_one_round_trip(
    connect: Connect, proxy: FaultProxy, tap: Tap
) -> None:
    """L2: create and list are both sent before any answer has come, and nothing after them; a release is one
    request."""
    async with connect(proxy.address, session_timeout=10.0) as zk:
        await zk.create("/lock")
        start = len(tap.messages)
        async with proxy.black_hole(requests=False):
            task = asyncio.create_task(zk.lock("/lock").acquire())
            await tap.seen(lambda: len(tap.requests(start)) >= 2)
            assert not task.done()
        held = await within(task)
        assert tap.requests(start) == [CREATE2, CHILDREN]
        await held.release()
        assert tap.requests(start) == [CREATE2, CHILDREN, DELETE]


async def test_create_and_list_are_one_write(connect: Connect, proxy: FaultProxy, tap: Tap) -> None:
    """L2: create and list are sent in one write."""
    async with connect(proxy.address, session_timeout=10.0) as zk:
        await zk.create("/lock")
        async with proxy.black_hole() as held:
            start = len(tap.messages)
            task = asyncio.create_task(zk.lock("/lock").acquire())
            await within(held.arrived())  # the first piece: this continues before another is read
            assert tap.requests(start) == [CREATE2, CHILDREN]
        await (await within(task)).release()


async def test_a_handoff_costs_no_list(
    connect: Connect, other: corral.Client, proxy: FaultProxy, tap: Tap
) -> None:
    """L2: with one node ahead, a waiter sets one watch. When it is woken it checks its own node with one
    small read; it does not list the line."""
    async with connect(proxy.address, session_timeout=10.0) as zk:
        async with other.lock("/lock"):
            task = asyncio.create_task(zk.lock("/lock").acquire())
            await until_line(other, "/lock", 2)
            await tap.seen(lambda: GET in tap.requests())
        held = await within(task)
        assert tap.requests() == [CREATE2, CHILDREN, GET, EXISTS]
        await held.release()


# L5: the fencing token, and guarded transactions


async def test_the_fencing_token_grows(connect: Connect, zk: corral.Client, other: corral.Client) -> None:
    """L5: the token is the zxid of the node's creation. It grows with each acquisition, across clients, and
    also when the parent was created again and the numbers in the names start again."""
    tokens, numbers = [], []
    await zk.create("/lock")  # not left to the lock, whose container might be removed at any time
    for client in (zk, other, zk, other):
        async with client.lock("/lock") as held:
            name = held.node.rpartition("/")[2]
            stat = await zk.exists(f"/lock/{name}")
            assert stat is not None
            assert held.fencing_token == stat.czxid
            assert held.session_id == stat.ephemeral_owner == client.session_id
            tokens.append(held.fencing_token)
            match = LOCK_NAME.fullmatch(name)
            assert match is not None
            numbers.append(int(match["number"]))
        if len(tokens) == 2:
            await zk.delete("/lock")
            await zk.create("/lock")
    assert tokens == sorted(set(tokens))
    assert numbers == [0, 1, 0, 1]


# L6: release


# L7: one object, many tasks


async def test_release_through_the_object_never_takes_anothers_hold(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """L7: if the first hold of a shared object was lost, its late release does not affect the second hold,
    and the second holder releases its own."""
    lock = zk.lock("/lock")
    lost, second_done = asyncio.Event(), asyncio.Event()

    async def loser() -> None:
        held = await lock.acquire()
        await other.delete(held.node.removeprefix(root))
        await held.wait_lost()
        lost.set()
        await second_done.wait()
        await lock.release()

    async def second() -> corral.Held:
        held = await lock.acquire()
        await lock.release()
        assert not held.is_valid
        assert await children(other, "/lock") == []
        held = await lock.acquire()
        second_done.set()
        await late
        return held

    late = asyncio.create_task(loser())
    await within(lost.wait())
    held = await within(asyncio.create_task(second()))
    assert held.is_valid
    await held.release()


async def test_release_of_the_second_hold_of_a_task(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """L7: a task that has lost a hold, knows it, and has acquired again, releases the second hold through the
    object."""
    lock = zk.lock("/lock")
    first = await lock.acquire()
    await other.delete(first.node.removeprefix(root))
    await within(first.wait_lost())
    second = await within(lock.acquire())
    await lock.release()
    assert not second.is_valid
    assert await children(other, "/lock") == []


# L9: holders and waiters
