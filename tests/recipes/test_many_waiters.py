"""Many waiters of one line in one process: their requests, and their memory while they wait."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from lock_support import Rig, Tap, ended

import corral
from client_support import asks_for
from corral.testing import EmbeddedServer, FaultProxy, before, committed
from corral.wire.messages import CHILDREN, CREATE2, EXISTS
from support import PATIENCE, children, settle, turns, until_line, within

MANY = 300

KINDS: dict[str, Callable[[corral.Client], Any]] = {
    "lock": lambda zk: zk.lock("/line"),
    "election": lambda zk: zk.election("/line"),
    "write lock": lambda zk: zk.rwlock("/line").write(),
    "semaphore": lambda zk: zk.semaphore("/sem", 1),
}


async def crowd(
    rig: Rig, make: Callable[[corral.Client], Any], many: int = MANY
) -> list[asyncio.Task[corral.Held]]:
    """This many waiters, all of them waiting behind a holder."""
    waiters = [asyncio.create_task(make(rig.zk).acquire()) for _ in range(many)]
    await rig.tap.seen(lambda: len(rig.tap.watched) == many)
    await settle(rig.zk)
    return waiters


@pytest.fixture
async def line(rig: Rig) -> str:
    """The path of an existing line."""
    for path in ("/line", "/sem", "/sem/locks", "/sem/leases"):
        await rig.zk.create(path)
    return "/line"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_crowd_costs_a_list_or_two(rig: Rig, line: str, kind: str) -> None:
    """L2: of waiters that join together, through any objects of one client, the first lists the line at once,
    since nothing is in flight then. All others share one list, sent after all their creates."""
    await KINDS[kind](rig.other).acquire()
    ahead = asyncio.create_task(KINDS[kind](rig.other).acquire())
    await until_line(
        rig.other, "/sem/locks" if kind == "semaphore" else "/line", 1 if kind == "semaphore" else 2
    )
    start = len(rig.tap.messages)
    waiters = await crowd(rig, KINDS[kind])
    asked = rig.tap.requests(start)
    assert asked.count(CREATE2) == MANY
    assert asked.count(CHILDREN) <= 2
    last_create = len(asked) - asked[::-1].index(CREATE2)
    assert CHILDREN in asked[last_create:]
    for task in (*waiters, ahead):
        task.cancel()
    await asyncio.wait(waiters)


async def test_they_are_served_in_order(rig: Rig, line: str) -> None:
    """L1: each waiter that shares a list finds who is ahead of it: one holds at a time, in the order of the
    line."""
    tokens: list[int] = []
    inside = 0

    async def work(client: corral.Client) -> None:
        nonlocal inside
        async with client.lock("/line") as held:
            inside += 1
            assert inside == 1
            tokens.append(held.fencing_token)
            await asyncio.sleep(0)
            inside -= 1

    async with rig.other.lock("/line"):
        tasks = [asyncio.create_task(work(client)) for client in (rig.zk, rig.other) for _ in range(50)]
        await until_line(rig.other, "/line", 101)
    await within(asyncio.gather(*tasks))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 100


async def test_readers_and_writers_share_it(rig: Rig, line: str) -> None:
    """L1: waiters that wait for others than their neighbours share the list as well: readers wait for the
    last writer."""
    rw = rig.zk.rwlock("/line")
    async with rig.other.rwlock("/line").write():
        start = len(rig.tap.messages)
        sides = [(rw.read if place % 3 else rw.write)() for place in range(30)]
        tasks = [asyncio.create_task(side.acquire()) for side in sides]
        await until_line(rig.other, "/line", 31)
        assert rig.tap.requests(start).count(CHILDREN) <= 2
    first = await within(tasks[0])
    assert [task.done() for task in tasks].count(True) == 1
    await first.release()
    for reader in await within(asyncio.gather(*tasks[1:3])):
        assert reader.is_valid
        assert not tasks[3].done()
        await reader.release()
    for task in tasks[3:]:
        await (await within(task)).release()


def strings_about(path: str) -> tuple[int, int]:
    """How many strings contain the name of a node in the line, and their size in bytes."""
    seen: dict[int, str] = {}
    for each in gc.get_objects():
        for part in gc.get_referents(each):
            if isinstance(part, str) and "-lock-" in part and (path in part or part.startswith("_c_")):
                seen[id(part)] = part
    return len(seen), sum(map(sys.getsizeof, seen.values()))


async def test_what_a_waiter_keeps(rig: Rig, line: str) -> None:
    """K4: a waiter keeps the names of its own node and of the one before it, and no list of the line, so
    memory grows with the number of waiters, not with its square. (If each kept its list, there would be as
    many strings for each waiter as there are waiters.)"""
    held = await rig.other.lock("/line").acquire()
    waiters = await crowd(rig, KINDS["lock"])
    rig.tap.messages.clear()
    gc.collect()
    count, _ = strings_about("/line")
    assert count <= 12 * MANY  # including those of the server, in this process, and of the proxy
    lists = [
        each
        for each in gc.get_objects()
        if isinstance(each, list | frozenset | dict) and len(each) >= MANY - 10
    ]
    of_names = [each for each in lists if all(isinstance(name, str) and "-lock-" in name for name in each)]
    assert len(of_names) <= 4  # the server's
    for task in waiters:
        task.cancel()
    await asyncio.wait(waiters)
    await held.release()


# Failures among the waiters that share a list


@pytest.fixture
async def busy(rig: Rig, line: str) -> AsyncIterator[asyncio.Event]:
    """`rig.zk` has sent a request that is not answered until the event is set: meanwhile joining waiters wait
    to be sent."""
    over = asyncio.Event()

    async def hole() -> None:
        async with rig.proxy.black_hole():
            rig.zk._session.request(EXISTS, EXISTS.request.encode("/", False), "/")
            opened.set()
            await over.wait()

    opened = asyncio.Event()
    task = asyncio.create_task(hole())
    await opened.wait()
    yield over
    over.set()
    await task


@pytest.mark.parametrize("who", ["the first", "the last", "all but one"])
async def test_one_who_shares_is_cancelled(rig: Rig, busy: asyncio.Event, who: str) -> None:
    """L3: a waiter that is cancelled, before or after its list is sent, leaves no node, and takes nothing
    from those that share the list."""
    waiters = [asyncio.create_task(rig.zk.lock("/line").acquire()) for _ in range(5)]
    await asyncio.sleep(0)
    cancelled = {
        "the first": waiters[:1],
        "the last": waiters[-1:],
        "all but one": waiters[:2] + waiters[3:],
    }[who]
    for task in cancelled:
        task.cancel()
    busy.set()
    for task in cancelled:
        await ended(task)
    for task in waiters:
        if task not in cancelled:
            await (await within(task)).release()
    await until_line(rig.other, "/line", 0)


async def test_all_who_share_are_cancelled(rig: Rig, busy: asyncio.Event) -> None:
    """L3: then nothing is sent, and a waiter that joins afterwards does not wait for a list that is never
    sent."""
    waiters = [asyncio.create_task(rig.zk.lock("/line").acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    start = len(rig.tap.messages)
    for task in waiters:
        task.cancel()
    for task in waiters:
        await ended(task)
    late = asyncio.create_task(rig.zk.lock("/line").acquire())
    asked = asyncio.create_task(rig.zk.lock("/line").locked())
    busy.set()
    held = await within(late)
    assert await within(asked)
    assert rig.tap.requests(start).count(CREATE2) == 1
    await held.release()


async def test_one_whose_create_is_too_large(rig: Rig, busy: asyncio.Event) -> None:
    """S7: a waiter whose request cannot be sent gets the error; those that would have shared its list
    continue."""
    first = asyncio.create_task(rig.zk.lock("/line").acquire())
    await asyncio.sleep(0)
    with pytest.raises(corral.FrameTooLarge):
        await rig.zk.lock("/line", data=bytes(2_000_000)).acquire()
    busy.set()
    await (await within(first)).release()


@pytest.mark.parametrize("lost", ["before", "committed"])
@pytest.mark.parametrize("operation", [CREATE2, CHILDREN], ids=["create", "list"])
async def test_the_connection_breaks_on_those_who_share(
    rig: Rig, line: str, operation: Any, lost: str
) -> None:
    """L1, L3: each waiter finds the outcome of its own create: all get their turn, and none leaves a second
    node."""
    at = before if lost == "before" else committed
    async with rig.proxy.cut_at(at(match=asks_for(operation), nth=2), reset=True):
        waiters = [asyncio.create_task(rig.zk.lock("/line").acquire()) for _ in range(20)]
        for _ in range(len(waiters)):
            [task], _ = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
            await (await within(task)).release()
            waiters.remove(task)
    assert await children(rig.other, "/line") == []


async def test_the_session_expires_on_those_who_share(rig: Rig, busy: asyncio.Event) -> None:
    """L3, S2: waiters whose creates were not sent when the session expired join in the next one."""
    waiters = [asyncio.create_task(rig.zk.lock("/line").acquire()) for _ in range(5)]
    await asyncio.sleep(0)
    await rig.proxy.expire(rig.zk.session_id)
    busy.set()
    await rig.proxy.cut()
    for task in waiters:
        held = await within(task)
        assert held.session_id == rig.zk.session_id
        await held.release()
    await until_line(rig.other, "/line", 0)


async def test_a_list_is_put_off_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """L3: the first waiter does not wait for its list for ever while others join and share it."""
    monkeypatch.setattr("corral.recipes.kit.listing.MOST_SHARERS", 10)
    tap = Tap()
    async with (
        EmbeddedServer() as server,
        FaultProxy(server.address) as proxy,
        proxy.record(tap.note),
        corral.connect(server.address) as other,
        corral.connect(proxy.address) as zk,
    ):
        await other.create("/line")
        async with other.lock("/line"):
            tasks = [asyncio.create_task(zk.lock("/line").acquire()) for _ in range(101)]
            await until_line(other, "/line", 102)
            await settle(zk)
            assert tap.counts[CHILDREN] == 11
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_a_list_that_waited_for_the_connection(rig: Rig) -> None:
    """S2: a list that waits for a connection is replaced by one after a create that is sent at once, and is
    not shared any more after that."""
    await rig.other.create("/line")
    states = rig.zk.states()
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        while await anext(states) is not corral.State.SUSPENDED:
            pass
        looking = asyncio.create_task(rig.zk.lock("/line").locked())
        await turns()
    while await anext(states) is not corral.State.CONNECTED:
        pass
    # In this turn the connection is idle, and the waiting requests are not sent yet.
    held = await within(rig.zk.lock("/line").acquire())
    assert await within(looking)
    assert await within(rig.zk.lock("/line").locked())
    await held.release()
    assert not await within(rig.zk.lock("/line").locked())
