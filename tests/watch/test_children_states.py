"""What a watch of children tells: the set now, then each change of it (W1), the newest alone (W2), shared (W4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from watching import next_of, tells_nothing, told_of

import corral
from client_support import requests_seen
from corral import Acl, ChildrenEvent, EventKind
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, turns, until

Count = Callable[[], Awaitable[int]]
Change = Callable[[corral.Client], Awaitable[object]]


async def test_first_event_of_a_node_that_exists(zk: corral.Client, other: corral.Client) -> None:
    """W1: the first event is the set now, with the node's stat as the server gives it; all of them are new."""
    await other.create("/node/a", make_parents=True)
    await other.create("/node/b")
    names, stat = await zk.children("/node", with_stat=True)
    event = await next_of(zk.watch_children("/node"))
    there = frozenset(names)
    assert there == {"a", "b"}
    assert event == ChildrenEvent(EventKind.PRESENT, "/node", there, there, frozenset(), stat)
    assert event.exists


async def test_first_event_of_a_node_without_children(zk: corral.Client, other: corral.Client) -> None:
    """W1: a node that has no children exists all the same."""
    await other.create("/node")
    event = await next_of(zk.watch_children("/node"))
    assert (event.kind, event.children, event.exists) == (EventKind.PRESENT, frozenset(), True)


async def test_first_event_of_a_node_that_does_not_exist(zk: corral.Client) -> None:
    """W1: that there is no such node is a state too."""
    nobody: frozenset[str] = frozenset()
    event = await next_of(zk.watch_children("/node"))
    assert event == ChildrenEvent(EventKind.ABSENT, "/node", nobody, nobody, nobody, None)
    assert not event.exists


async def test_each_change_in_turn(zk: corral.Client, other: corral.Client) -> None:
    """W1: a reader that keeps up sees each change, with who came and who went."""

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


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
async def test_node_that_is_created_again(zk: corral.Client, other: corral.Client, waits: bool) -> None:
    """W1: a node that was deleted and created again is told as created, though its children have the same names."""

    async def recreate() -> None:
        async with other.transaction() as tx:
            tx.delete("/node/a")
            tx.delete("/node")
            tx.create("/node")
            tx.create("/node/a")

    await other.create("/node/a", make_parents=True)
    async with zk.watch_children("/node") as events:
        first = await next_of(events)
        if waits:
            second = await told_of(recreate(), events)
        else:
            await recreate()
            second = await next_of(events)
    assert (second.kind, second.children) == (EventKind.CREATED, {"a"})
    assert first.stat is not None
    assert second.stat is not None
    assert second.stat.czxid > first.stat.czxid


async def test_what_is_no_change_of_the_set(zk: corral.Client, other: corral.Client) -> None:
    """W1: never two equal sets in a row: data is somebody else's to watch, and so is what is below the children; who
    came and went between two reads was not there, and who went and came was."""
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
    """W4: a change of a node's data does not have its children listed again."""
    await other.create("/node")
    async with requests_seen(proxy) as requests, proxied.watch_children("/node") as events:
        await next_of(events)
        await other.set("/node", b"data")
        await tells_nothing(proxied, events)
        assert requests.count(messages.CHILDREN2) == 1


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
async def test_node_that_comes_and_goes_unseen(zk: corral.Client, other: corral.Client, waits: bool) -> None:
    """W1: absent is not told twice: a node that was created and deleted unseen is no change."""
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
    """W1, W3: a node that is created just as the server has said that there is none is told all the same, and so is
    what happens to it then."""
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


async def test_reader_that_stays_away_gets_the_newest(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W2: a thousand changes while nobody asks are not read; the next `anext` reads once, and that is one event."""
    await other.create("/node")
    await other.create("/node/first")
    async with requests_seen(proxy) as requests, proxied.watch_children("/node") as events:
        await next_of(events)
        await asyncio.gather(*(other.create(f"/node/{number}") for number in range(500)))
        await asyncio.gather(*(other.delete(f"/node/{number}") for number in range(499)))
        await other.delete("/node/first")
        assert requests.count(messages.CHILDREN2) == 1
        event = await next_of(events)
        assert event[2:5] == ({"499"}, {"499"}, {"first"})
        assert requests.count(messages.CHILDREN2) == 2
        await tells_nothing(proxied, events)


async def test_path_is_the_one_that_was_asked_for(zk: corral.Client, other: corral.Client) -> None:
    """W1: events name the path as their reader did, also below a chroot that others read through."""
    await other.create("/team/node/a", make_parents=True)
    below = zk.chroot("/team")
    async with zk.watch_children("/team/node") as whole, below.watch_children("/node") as part:
        for number in range(2):
            events = [await next_of(whole), await next_of(part)]
            assert [event.path for event in events] == ["/team/node", "/node"]
            assert [event.added for event in events] == [frozenset("ab"[number])] * 2
            if not number:
                await other.create("/team/node/b")
    async with below.watch_children("/") as root:
        assert await next_of(root) == (await next_of(zk.watch_children("/team")))._replace(path="/")


async def test_late_reader_begins_with_the_set_now(zk: corral.Client, other: corral.Client) -> None:
    """W1: who joins others on a path begins with the set now, not with the last one they were told."""
    await other.create("/node/a", make_parents=True)
    async with zk.watch_children("/node") as early, zk.watch_children("/node") as late:
        await next_of(early)
        await other.create("/node/b")
        await zk.sync()
        event = await next_of(late)
        assert (event.kind, event.children, event.added) == (EventKind.PRESENT, {"a", "b"}, {"a", "b"})
        event = await next_of(early)
        assert (event.kind, event.children, event.added) == (EventKind.CHANGED, {"a", "b"}, {"b"})


async def test_refused_read_is_raised_and_asked_again(zk: corral.Client, other: corral.Client) -> None:
    """W1: a server's refusal is raised to all who wait; the next `anext` asks again, and goes on from there."""
    await other.create("/node/a", make_parents=True)
    other.add_auth("digest", b"user:secret")
    only_user = [Acl.digest("user", "secret")]
    async with zk.watch_children("/node") as events, zk.watch_children("/node") as more:
        for kind, children in ((EventKind.PRESENT, {"a"}), (EventKind.CHANGED, {"a", "b"})):
            if kind is EventKind.CHANGED:
                await other.create("/node/b")
                await zk.sync()
            await other.set_acl("/node", only_user)
            answers = await asyncio.gather(next_of(events), next_of(more), return_exceptions=True)
            assert [type(answer) for answer in answers] == [corral.NoAuth] * 2
            with pytest.raises(corral.NoAuth, match="'/node'"):
                await next_of(events)
            await other.set_acl("/node", corral.OPEN_ACL)
            for each in (events, more):
                event = await next_of(each)
                assert (event.kind, event.children) == (kind, children)
        assert (await told_of(other.create("/node/c"), events)).added == {"c"}


async def test_two_tasks_on_one_watch(zk: corral.Client, other: corral.Client) -> None:
    """W1: one watch has one reader: the second task is told so, and the first is not disturbed."""
    async with zk.watch_children("/node") as events:
        await next_of(events)
        first = asyncio.create_task(next_of(events))
        await turns()
        with pytest.raises(corral.UsageStateError, match=r"'/node'.*zk\.watch_children\(\) in each"):
            await anext(events)
        await other.create("/node")
        assert (await first).kind is EventKind.CREATED


async def test_closed_watch_has_ended(zk: corral.Client) -> None:
    """W5: a watch that was left ends for whoever iterates it, now and later."""
    async with zk.watch_children("/node") as events:
        await next_of(events)
        waiting = asyncio.create_task(anext(events, None))
        await turns()
    async with asyncio.timeout(PATIENCE):
        assert await waiting is None
        assert await anext(events, None) is None


async def test_a_thousand_readers_cost_the_server_one(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watch_count: Count
) -> None:
    """W4: a thousand tasks on one path are one watch on the server, one read a change, and one good-bye."""
    await other.create("/node")
    changes = 5
    last_seen = [-1] * 1000

    async def follow(number: int) -> None:
        async for event in proxied.watch_children("/node"):
            last_seen[number] = len(event.children)
            if len(event.children) == changes:
                return

    async def all_have_seen(count: int) -> bool:
        return last_seen == [count] * 1000

    async with requests_seen(proxy) as requests:
        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(follow(number))
            await until(lambda: all_have_seen(0), "all have begun")
            assert await watch_count() == 1
            for number in range(changes):
                await other.create(f"/node/{number}")
                await until(lambda count=number + 1: all_have_seen(count), "all have seen the change")
        await until(lambda: nobody(watch_count), "the watch is gone")
        await proxied.sync()
    assert requests.count(messages.CHILDREN2) == 1 + changes
    assert requests.count(messages.REMOVE_WATCHES) == 1


async def nobody(watch_count: Count) -> bool:
    return await watch_count() == 0
