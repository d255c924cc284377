"""A watch of a node: the current state, then each change, never backwards (W1); what a reader may do with
it."""

from __future__ import annotations

import asyncio

import pytest
from watching import next_of, told_of

import corral
from corral import EventKind
from corral.testing import FaultProxy
from support import turns


async def test_first_event_of_a_node_that_exists(zk: corral.Client, other: corral.Client) -> None:
    """W1: the first event is the current state, with data and stat as `get` returns them."""
    await other.create("/node", b"now")
    event = await next_of(zk.watch("/node"))
    data, stat = await zk.get("/node")
    assert event == corral.Event(EventKind.PRESENT, "/node", data, stat)
    assert event.exists


async def test_first_event_of_a_node_that_does_not_exist(zk: corral.Client) -> None:
    """W1: the first event is the current state; the absence of the node is one, too."""
    event = await next_of(zk.watch("/node"))
    assert event == corral.Event(EventKind.ABSENT, "/node", None, None)
    assert not event.exists


async def test_each_change_in_turn(zk: corral.Client, other: corral.Client) -> None:
    """W1: a reader that keeps up sees each change, with the resulting state."""
    async with zk.watch("/node") as events:
        assert (await next_of(events)).kind is EventKind.ABSENT
        created = await told_of(other.create("/node", b"one"), events)
        changed = await told_of(other.set("/node", b"two"), events)
        deleted = await told_of(other.delete("/node"), events)
        again = await told_of(other.create("/node", b"one"), events)
    assert [(event.kind, event.data) for event in (created, changed, deleted, again)] == [
        (EventKind.CREATED, b"one"),
        (EventKind.CHANGED, b"two"),
        (EventKind.DELETED, None),
        (EventKind.CREATED, b"one"),
    ]
    assert created.stat is not None
    assert changed.stat is not None
    assert again.stat is not None
    assert (changed.stat.czxid, changed.stat.version) == (created.stat.czxid, 1)
    assert again.stat.czxid > changed.stat.mzxid
    assert (deleted.stat, deleted.exists, deleted.path) == (None, False, "/node")


async def test_same_data_is_another_state(zk: corral.Client, other: corral.Client) -> None:
    """W1: states differ by their zxids: a write of the same data is another state."""
    await other.create("/node", b"same")
    async with zk.watch("/node") as events:
        first = await next_of(events)
        second = await told_of(other.set("/node", b"same"), events)
    assert (second.kind, second.data) == (EventKind.CHANGED, b"same")
    assert first.stat is not None
    assert second.stat is not None
    assert second.stat.mzxid > first.stat.mzxid


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
async def test_never_two_equal_states_in_a_row(zk: corral.Client, other: corral.Client, waits: bool) -> None:
    """W1: a node that was created and deleted between two reads is no change: absence is not reported
    twice."""
    async with zk.watch("/node") as events:
        assert (await next_of(events)).kind is EventKind.ABSENT
        waiting = asyncio.create_task(next_of(events)) if waits else None
        await turns()
        async with other.transaction() as tx:
            tx.create("/node", b"passing")
            tx.delete("/node")
        await zk.sync()
        await zk.exists("/node")  # the watch has had its event by now, and has read
        if waiting is None:
            waiting = asyncio.create_task(next_of(events))
            await zk.exists("/node")
        await turns()
        await other.create("/node", b"staying")
        event = await waiting
    assert (event.kind, event.data) == (EventKind.CREATED, b"staying")


async def test_created_while_it_is_being_read(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W1, W3: a node that is created just after the server answered that it does not exist is reported."""
    async with proxied.watch("/node") as events:
        async with proxy.black_hole(requests=False) as held:
            waiting = asyncio.create_task(next_of(events))
            await held.arrived()
            await other.create("/node", b"just now")
        event = await waiting
        assert (event.kind, event.data) == (EventKind.PRESENT, b"just now")
        assert (await told_of(other.delete("/node"), events)).kind is EventKind.DELETED


async def test_children_are_no_change_of_their_parent(zk: corral.Client, other: corral.Client) -> None:
    """W1: a watch of a node reports its data, not its children."""
    await other.create("/node")
    async with zk.watch("/node") as events:
        await next_of(events)
        waiting = asyncio.create_task(next_of(events))
        await other.create("/node/child")
        await other.delete("/node/child")
        await other.set("/node", b"at last")
        assert (await waiting).data == b"at last"


async def test_watch_of_the_chroot_itself(zk: corral.Client, other: corral.Client) -> None:
    """W1: the root of a chroot is a node like any other."""
    async with zk.watch("/") as events:
        assert (await next_of(events)).path == "/"
        assert (await told_of(other.set("/", b"new"), events)).data == b"new"
