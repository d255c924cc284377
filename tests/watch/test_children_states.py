"""A watch of children: the current set, then each change of it (W1), the newest only (W2), shared (W4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from watching import next_of, tells_nothing, told_of

import corral
from client_support import requests_seen
from corral import ChildrenEvent, EventKind
from corral.testing import FaultProxy
from corral.wire import messages
from support import turns

Change = Callable[[corral.Client], Awaitable[object]]


async def test_first_event_of_a_node_that_exists(zk: corral.Client, other: corral.Client) -> None:
    """W1: the first event has the current set, with the node's stat as the server returns it; all children
    are new."""
    await other.create("/node/a", make_parents=True)
    await other.create("/node/b")
    names, stat = await zk.children("/node", with_stat=True)
    event = await next_of(zk.watch_children("/node"))
    there = frozenset(names)
    assert there == {"a", "b"}
    assert event == ChildrenEvent(EventKind.PRESENT, "/node", there, there, frozenset(), stat)
    assert event.exists


async def test_first_event_of_a_node_without_children(zk: corral.Client, other: corral.Client) -> None:
    """W1: a node without children exists."""
    await other.create("/node")
    event = await next_of(zk.watch_children("/node"))
    assert (event.kind, event.children, event.exists) == (EventKind.PRESENT, frozenset(), True)


async def test_first_event_of_a_node_that_does_not_exist(zk: corral.Client) -> None:
    """W1: the absence of the node is a state, too."""
    nobody: frozenset[str] = frozenset()
    event = await next_of(zk.watch_children("/node"))
    assert event == ChildrenEvent(EventKind.ABSENT, "/node", nobody, nobody, nobody, None)
    assert not event.exists


async def test_each_change_in_turn(zk: corral.Client, other: corral.Client) -> None:
    """W1: a reader that keeps up sees each change, with the children that were added and removed."""

    async def clear(zk: corral.Client) -> None:
        async with zk.transaction() as tx:
            tx.delete("/node/b")
            tx.delete("/node")

    async def several(zk: corral.Client) -> None:
        async with zk.transaction() as tx:
            tx.create("/node/c")
            tx.create("/node/d")
            tx.delete("/node/a")

    seen = []
    async with zk.watch_children("/node") as events:
        assert (await next_of(events)).kind is EventKind.ABSENT
        changes: list[Change] = [
            lambda zk: zk.create("/node"),
            lambda zk: zk.create("/node/a"),
            several,
            lambda zk: zk.create("/node/b"),
            lambda zk: zk.delete("/node/c"),
            lambda zk: zk.delete("/node/d"),
            clear,
            lambda zk: zk.create("/node"),
        ]
        for change in changes:
            event = await told_of(change(other), events)
            assert event.path == "/node"
            assert event.exists is (event.stat is not None)
            seen.append((event.kind, *("".join(sorted(names)) for names in event[2:5])))
    assert seen == [
        (EventKind.CREATED, "", "", ""),
        (EventKind.CHANGED, "a", "a", ""),
        (EventKind.CHANGED, "cd", "cd", "a"),
        (EventKind.CHANGED, "bcd", "b", ""),
        (EventKind.CHANGED, "bd", "", "c"),
        (EventKind.CHANGED, "b", "", "d"),
        (EventKind.DELETED, "", "", "b"),
        (EventKind.CREATED, "", "", ""),
    ]


async def test_what_is_no_change_of_the_set(zk: corral.Client, other: corral.Client) -> None:
    """W1: no two equal sets follow each other. The node's data, and nodes below the children, are not
    watched. A child that was created and deleted between two reads is not reported; one that was deleted and
    created again is reported as both."""
    await other.create("/node/a", make_parents=True)
    async with zk.watch_children("/node") as events:
        await next_of(events)
        await other.set("/node", b"data")
        await other.set("/node/a", b"data")
        await other.create("/node/a/below")
        await tells_nothing(zk, events)
        async with other.transaction() as tx:
            tx.delete("/node/a/below")
            tx.delete("/node/a")
            tx.create("/node/a")
            tx.create("/node/passing")
            tx.delete("/node/passing")
        await tells_nothing(zk, events)
        event = await told_of(other.create("/node/b"), events)
        assert (event.kind, event.children, event.added) == (EventKind.CHANGED, {"a", "b"}, {"b"})


async def test_data_costs_nothing(proxied: corral.Client, proxy: FaultProxy, other: corral.Client) -> None:
    """W4: a change of a node's data does not make the client list its children again."""
    await other.create("/node")
    async with requests_seen(proxy) as requests, proxied.watch_children("/node") as events:
        await next_of(events)
        await other.set("/node", b"data")
        await tells_nothing(proxied, events)
        assert requests.count(messages.CHILDREN2) == 1


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
async def test_node_that_comes_and_goes_unseen(zk: corral.Client, other: corral.Client, waits: bool) -> None:
    """W1: absence is not reported twice: a node that was created and deleted unseen is no change."""
    async with zk.watch_children("/node") as events:
        assert (await next_of(events)).kind is EventKind.ABSENT
        waiting = asyncio.create_task(next_of(events)) if waits else None
        await turns()
        async with other.transaction() as tx:
            tx.create("/node")
            tx.create("/node/a")
            tx.delete("/node/a")
            tx.delete("/node")
        if waiting is None:
            await tells_nothing(zk, events)
            event = await told_of(other.create("/node"), events)
        else:
            for _ in range(4):
                await zk.exists("/node")
                await turns()
            assert not waiting.done()
            await other.create("/node")
            event = await waiting
        assert event.kind is EventKind.CREATED
        assert (await told_of(other.create("/node/b"), events)).added == {"b"}


async def test_created_while_it_is_being_read(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W1, W3: a node that is created just after the server answered that it does not exist is reported, and
    so are its later changes."""
    async with proxied.watch_children("/node") as events:
        async with proxy.black_hole(requests=False) as held:
            waiting = asyncio.create_task(next_of(events))
            await held.arrived()
            await other.create("/node")
            await other.create("/node/a")
        event = await waiting
        assert (event.kind, event.children) == (EventKind.PRESENT, {"a"})
        assert (await told_of(other.create("/node/b"), events)).added == {"b"}
        await other.delete("/node", recursive=True)
        while event.kind is not EventKind.DELETED:
            event = await next_of(events)
        assert event.children == frozenset()
