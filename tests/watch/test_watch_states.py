"""What a watch tells: the state now, then each change, forward only (W1); what a reader may do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import corral
from corral import Acl, EventKind, Perm
from corral.testing import FaultProxy
from support import PATIENCE, turns

Change = Callable[[corral.Client], Awaitable[object]]


async def next_event(events: corral.NodeWatch) -> corral.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def after(change: Awaitable[object], events: corral.NodeWatch) -> corral.Event:
    """The event that a reader gets who waits while the change is made."""
    waiting = asyncio.create_task(next_event(events))
    await turns()
    await change
    return await waiting


async def test_first_event_of_a_node_that_exists(zk: corral.Client, other: corral.Client) -> None:
    """W1: the first event is the state now: what is there, with its data and stat as `get` gives them."""
    await other.create("/node", b"now")
    event = await next_event(zk.watch("/node"))
    data, stat = await zk.get("/node")
    assert event == corral.Event(EventKind.PRESENT, "/node", data, stat)
    assert event.exists


async def test_first_event_of_a_node_that_does_not_exist(zk: corral.Client) -> None:
    """W1: the first event is the state now: that nothing is there is a state too."""
    event = await next_event(zk.watch("/node"))
    assert event == corral.Event(EventKind.ABSENT, "/node", None, None)
    assert not event.exists


async def test_each_change_in_turn(zk: corral.Client, other: corral.Client) -> None:
    """W1: a reader that keeps up sees each change, with what it made of the node."""
    async with zk.watch("/node") as events:
        assert (await next_event(events)).kind is EventKind.ABSENT
        created = await after(other.create("/node", b"one"), events)
        changed = await after(other.set("/node", b"two"), events)
        deleted = await after(other.delete("/node"), events)
        again = await after(other.create("/node", b"one"), events)
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


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        pytest.param(lambda zk: recreate(zk, b"same"), EventKind.CREATED, id="deleted and created again"),
        pytest.param(lambda zk: zk.set("/node", b"same"), EventKind.CHANGED, id="set to what it was"),
    ],
)
async def test_same_data_is_another_state(
    zk: corral.Client, other: corral.Client, change: Change, kind: EventKind, waits: bool
) -> None:
    """W1: states are told apart by transactions: the same data and the same version can be another state."""
    await other.create("/node", b"same")
    async with zk.watch("/node") as events:
        first = await next_event(events)
        if waits:
            second = await after(change(other), events)
        else:
            await change(other)
            second = await next_event(events)
    assert (second.kind, second.data) == (kind, b"same")
    assert first.stat is not None
    assert second.stat is not None
    assert second.stat.mzxid > first.stat.mzxid


async def recreate(zk: corral.Client, data: bytes) -> None:
    """In one transaction, so that nobody sees the node gone."""
    async with zk.transaction() as tx:
        tx.delete("/node")
        tx.create("/node", data)


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
async def test_never_two_equal_states_in_a_row(zk: corral.Client, other: corral.Client, waits: bool) -> None:
    """W1: what was created and deleted between two reads is no change: absent is not told twice."""
    async with zk.watch("/node") as events:
        assert (await next_event(events)).kind is EventKind.ABSENT
        waiting = asyncio.create_task(next_event(events)) if waits else None
        await turns()
        async with other.transaction() as tx:
            tx.create("/node", b"passing")
            tx.delete("/node")
        await zk.sync()
        await zk.exists("/node")  # the watch has been told by now, and has looked
        if waiting is None:
            waiting = asyncio.create_task(next_event(events))
            await zk.exists("/node")
        await turns()
        await other.create("/node", b"staying")
        event = await waiting
    assert (event.kind, event.data) == (EventKind.CREATED, b"staying")


async def test_created_while_it_is_being_read(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W1, W3: a node that is created just as the server has said that there is none is told all the same."""
    async with proxied.watch("/node") as events:
        async with proxy.black_hole(requests=False) as held:
            waiting = asyncio.create_task(next_event(events))
            await held.arrived()
            await other.create("/node", b"just now")
        event = await waiting
        assert (event.kind, event.data) == (EventKind.PRESENT, b"just now")
        assert (await after(other.delete("/node"), events)).kind is EventKind.DELETED


async def test_children_are_no_change_of_their_parent(zk: corral.Client, other: corral.Client) -> None:
    """W1: a watch of a node is of its data; what happens below it is another matter."""
    await other.create("/node")
    async with zk.watch("/node") as events:
        await next_event(events)
        waiting = asyncio.create_task(next_event(events))
        await other.create("/node/child")
        await other.delete("/node/child")
        await other.set("/node", b"at last")
        assert (await waiting).data == b"at last"


async def test_path_is_the_one_that_was_asked_for(zk: corral.Client, other: corral.Client) -> None:
    """W1: events name the path as their reader did, also below a chroot that others read through."""
    await other.create("/team/config", b"x", make_parents=True)
    async with zk.watch("/team/config") as whole, zk.chroot("/team").watch("/config") as below:
        assert (await next_event(whole)).path == "/team/config"
        assert (await next_event(below)).path == "/config"
        await other.delete("/team/config")
        assert (await next_event(whole)).path == "/team/config"
        assert (await next_event(below)).path == "/config"


async def test_watch_of_the_chroot_itself(zk: corral.Client, other: corral.Client) -> None:
    """W1: the root of a chroot is a node like another."""
    async with zk.watch("/") as events:
        assert (await next_event(events)).path == "/"
        assert (await after(other.set("/", b"new"), events)).data == b"new"


async def test_late_reader_begins_with_the_state_now(zk: corral.Client, other: corral.Client) -> None:
    """W1: who joins others on a path begins with the state now, not with the last one they were told."""
    await other.create("/node", b"old")
    async with zk.watch("/node") as early, zk.watch("/node") as late:
        await next_event(early)
        await other.set("/node", b"new")
        await zk.sync()
        event = await next_event(late)
    assert (event.kind, event.data) == (EventKind.PRESENT, b"new")


async def test_refused_read_is_raised_and_asked_again(zk: corral.Client, other: corral.Client) -> None:
    """W1: a server's refusal is raised to who waits; the next `anext` asks again, and goes on from there."""
    await other.create("/node", b"one")
    other.add_auth("digest", b"user:secret")
    only_user = [Acl.digest("user", "secret")]
    async with zk.watch("/node") as events:
        for expected, then in ((EventKind.PRESENT, b"one"), (EventKind.CHANGED, b"two")):
            await other.set("/node", then)
            await other.set_acl("/node", only_user)
            await zk.sync()
            for _ in range(2):
                with pytest.raises(corral.NoAuth, match="'/node'"):
                    await next_event(events)
            await other.set_acl("/node", [*only_user, Acl.world(Perm.READ)])
            event = await next_event(events)
            assert (event.kind, event.data) == (expected, then)
        assert (await after(other.set("/node", b"three"), events)).data == b"three"


async def test_refusal_reaches_every_reader(zk: corral.Client, other: corral.Client) -> None:
    """W4: readers that share a read share its refusal, and the next state too."""
    await other.create("/node", b"x")
    other.add_auth("digest", b"user:secret")
    only_user = [Acl.digest("user", "secret")]
    await other.set_acl("/node", only_user)
    watches = [zk.watch("/node") for _ in range(3)]
    answers = await asyncio.gather(*map(next_event, watches), return_exceptions=True)
    assert [type(answer) for answer in answers] == [corral.NoAuth] * 3
    await other.set_acl("/node", [*only_user, Acl.world(Perm.READ)])
    assert {event.data for event in await asyncio.gather(*map(next_event, watches))} == {b"x"}


async def test_two_tasks_on_one_watch(zk: corral.Client, other: corral.Client) -> None:
    """W1: one watch has one reader: the second task is told so, and the first is not disturbed."""
    async with zk.watch("/node") as events:
        await next_event(events)
        first = asyncio.create_task(next_event(events))
        await turns()
        with pytest.raises(corral.UsageStateError, match=r"two tasks.*'/node'.*zk\.watch\(\) in each"):
            await anext(events)
        await other.create("/node", b"x")
        assert (await first).data == b"x"


async def test_closed_watch_has_ended(zk: corral.Client) -> None:
    """W5: a watch that was left ends for whoever iterates it, now and later."""
    async with zk.watch("/node") as events:
        await next_event(events)
        waiting = asyncio.create_task(anext(events, None))
        await turns()
    async with asyncio.timeout(PATIENCE):
        assert await waiting is None
        assert await anext(events, None) is None
