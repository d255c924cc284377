"""What all watches have in common, tested with each kind (W1 to W5); what is specific to one kind has its own
file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from watching import KINDS, STATES, Reader, WatchKind, begin, grow, next_of, recreate, tells_nothing, told_of

import corral
from client_support import Seen, requests_seen
from corral import EventKind, acl
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, turns, until

Count = Callable[[], Awaitable[int]]

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_state = pytest.mark.parametrize("kind", [KINDS[name] for name in STATES], ids=STATES)
EVENTS = [name for name in STATES if name != "value"]
"""Those whose items say how a state came about."""
every_event = pytest.mark.parametrize("kind", [KINDS[name] for name in EVENTS], ids=EVENTS)
ONLY_USER = acl.digest("user", "secret")


def reads(requests: Seen, kind: WatchKind) -> int:
    """How often a state was read."""
    return 0 if kind.read is None else requests.count(kind.read)


async def next_state(events: Reader) -> Any:
    """The next event that carries a state."""
    while getattr(event := await next_of(events), "kind", None) is EventKind.COMPLETE:
        pass
    return event


@every_kind
async def test_two_tasks_on_one_watch(zk: corral.Client, other: corral.Client, kind: WatchKind) -> None:
    """W1: A watch has one reader: a second task gets an error that names the remedy; the first is not disturbed."""
    await other.create("/node")
    async with kind.make(zk) as events:
        await begin(events)
        first = asyncio.create_task(next_of(events))
        await turns()
        with pytest.raises(
            corral.UsageStateError, match=rf"two tasks.*'/node'.*zk\.{re.escape(kind.verb)}\(\) in each"
        ):
            await anext(events)
        await kind.change(other, 1)
        assert kind.shows(await first, 1)


@every_kind
async def test_closed_watch_has_ended(zk: corral.Client, other: corral.Client, kind: WatchKind) -> None:
    """W5: The iteration of a closed watch ends, for a task that waits and for one that comes later; events that were
    not delivered yet are dropped."""
    await other.create("/node")
    async with kind.make(zk) as events:
        await begin(events)
        waiting = asyncio.create_task(anext(events, None))
        await turns()
    async with asyncio.timeout(PATIENCE):
        assert await waiting is None
        assert await anext(events, None) is None
    async with kind.make(zk) as events:
        await begin(events)
        await kind.change(other, 1)
        await zk.exists("/node")
    assert await anext(events, None) is None


@every_kind
async def test_path_is_the_readers(zk: corral.Client, other: corral.Client, kind: WatchKind) -> None:
    """W1: Events have the path that their reader gave, through a chroot too, whose root is a znode like another."""
    await other.create("/team/node", make_parents=True)
    readers = [
        (kind.make(zk, "/team/node"), "/team/node"),
        (kind.make(zk.chroot("/team")), "/node"),
        (kind.make(zk.chroot("/team/node"), "/"), "/"),
    ]
    for events, path in readers:
        assert (await next_of(events)).path == path
    await kind.change(other.chroot("/team"), 1)
    for events, path in readers:
        event = await next_state(events)
        assert event.path == path
        assert kind.shows(event, 1)
        events.close()


@every_event
async def test_late_reader_begins_with_the_state_now(
    zk: corral.Client, other: corral.Client, kind: WatchKind
) -> None:
    """W1: A reader that joins others begins with the current state, not with the one that they received last."""
    await other.create("/node")
    async with kind.make(zk) as early, kind.make(zk) as late:
        await begin(early)
        await kind.change(other, 1)
        await zk.sync()
        event = await next_of(late)
        assert event.kind is EventKind.PRESENT
        assert kind.shows(event, 1)
        event = await next_of(early)
        assert event.kind is EventKind.CHANGED
        assert kind.shows(event, 1)


@every_event
@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
async def test_node_that_is_created_again(
    zk: corral.Client, other: corral.Client, kind: WatchKind, waits: bool
) -> None:
    """W1: States differ by their zxids: a node created again with the same data, version and children is another node."""
    await grow(other, "/node", "/node/a")
    async with kind.make(zk) as events:
        first: Any = await next_of(events)
        if isinstance(events, corral.TreeWatch):
            await begin(events)
        if waits:
            second: Any = await told_of(recreate(other, "/node", "/node/a"), events)
        else:
            await recreate(other, "/node", "/node/a")
            second = await next_of(events)
        while second.path != first.path:  # a tree may report first that the child was deleted
            second = await next_of(events)
        assert second.kind is EventKind.CREATED
        assert second[1:3] == first[1:3]
        assert second.stat.czxid > first.stat.czxid


@every_state
async def test_reader_that_stays_away_gets_the_newest(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, kind: WatchKind
) -> None:
    """W2: Of a thousand changes while no reader waits nothing is read; the next `anext` reads once, for one event."""
    await other.create("/node")
    async with requests_seen(proxy) as requests, kind.make(proxied) as events:
        await begin(events)
        before = reads(requests, kind)
        for number in range(1000):
            await kind.change(other, number)
        await proxied.exists("/")  # answered after the last event
        assert reads(requests, kind) == before
        assert kind.shows(await next_of(events), 999)
        assert reads(requests, kind) == before + 1
        await tells_nothing(proxied, events)


@every_kind
async def test_a_thousand_readers_cost_the_server_one(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watch_count: Count, kind: WatchKind
) -> None:
    """W4: A thousand tasks on one path cost one watch on the server, one read per change, and one request that removes
    the watch; a task that keeps up sees each change."""
    await other.create("/node")
    changes = 5
    seen = [-1] * 1000

    async def follow(number: int) -> None:
        async with kind.make(proxied) as events:
            await begin(events)
            seen[number] = 0
            for change in range(1, changes + 1):
                assert kind.shows(await next_of(events), change)
                seen[number] = change

    async def all_have_seen(change: int) -> bool:
        return set(seen) == {change}

    async def unwatched() -> bool:
        return await watch_count() == 0

    async with requests_seen(proxy) as requests:
        async with asyncio.TaskGroup() as group:
            for number in range(len(seen)):
                group.create_task(follow(number))
            await until(lambda: all_have_seen(0), "all have begun")
            assert await watch_count() in (
                1,
                2,
            )  # servers count a persistent watch twice: of data, of children
            begun = reads(requests, kind)
            assert begun <= 1
            for change in range(1, changes + 1):
                await kind.change(other, change)
                await until(lambda change=change: all_have_seen(change), "all have seen the change")
        await until(unwatched, "the server's watch is gone")
        await proxied.sync()
    assert reads(requests, kind) == begun + (changes if kind.states else 0)
    assert requests.count(messages.REMOVE_WATCHES) == 1


@every_event
async def test_refused_read_is_raised_and_tried_again(
    zk: corral.Client, other: corral.Client, kind: WatchKind
) -> None:
    """W1, W4: All waiting readers raise the server's refusal; the next `anext` tries again, and continues from there."""
    await other.create("/node")
    other.add_auth("digest", b"user:secret")
    async with kind.make(zk) as events, kind.make(zk) as more:
        for change, expected in ((1, EventKind.PRESENT), (2, EventKind.CHANGED)):
            await kind.change(other, change)
            await other.set_acl("/node", ONLY_USER)
            await zk.sync()
            answers = await asyncio.gather(next_of(events), next_of(more), return_exceptions=True)
            assert [type(answer) for answer in answers] == [corral.NoAuth] * 2
            with pytest.raises(corral.NoAuth, match="'/node'"):
                await next_of(events)
            await other.set_acl("/node", corral.acl.OPEN)
            for each in (events, more):
                event = await next_of(each)
                assert event.kind is expected
                assert kind.shows(event, change)
                if expected is EventKind.PRESENT and isinstance(each, corral.TreeWatch):
                    await begin(each)
        assert kind.shows(await told_of(kind.change(other, 3), events), 3)
