"""Raw events: each event that the server sends, in order, and the event that says that some were missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from watching import next_of, registered, tells_nothing, told_of

import corral
from client_support import requests_seen
from corral import RawEvent, RawKind
from corral.testing import FaultProxy
from corral.wire import messages
from support import turns

Watchers = Callable[[str], Awaitable[int]]

BACKLOG = 10_000
PER_TRANSACTION = 1_000


async def several(events: corral.RawWatch, count: int) -> list[tuple[RawKind, str]]:
    """The next events, without their zxids."""
    return [(await next_of(events))[:2] for _ in range(count)]


@pytest.mark.parametrize("recursive", [False, True], ids=["one node", "recursive"])
async def test_first_event(zk: corral.Client, other: corral.Client, recursive: bool) -> None:
    """The first event says that nothing is known of earlier changes; nothing else is reported about them."""
    await other.create("/node", b"x")
    async with zk.watch_raw("/node", recursive=recursive) as events:
        assert await next_of(events) == RawEvent(RawKind.MISSED, "/node", None)
        await tells_nothing(zk, events)


async def change_all(zk: corral.Client) -> None:
    """Every kind of change of a node and of its subtree."""
    await zk.create("/node")
    await zk.set("/node", b"1")
    await zk.set("/node", b"2")
    await zk.create("/node/a")
    await zk.set("/node/a", b"3")
    await zk.create("/node/a/b")
    await zk.delete("/node/a/b")
    await zk.delete("/node/a")
    await zk.delete("/node")
    await zk.create("/node2")


OF_ONE = [
    (RawKind.CREATED, "/node"),
    (RawKind.DATA_CHANGED, "/node"),
    (RawKind.DATA_CHANGED, "/node"),
    (RawKind.CHILDREN_CHANGED, "/node"),
    (RawKind.CHILDREN_CHANGED, "/node"),
    (RawKind.DELETED, "/node"),
]
OF_ALL = [
    (RawKind.CREATED, "/node"),
    (RawKind.DATA_CHANGED, "/node"),
    (RawKind.DATA_CHANGED, "/node"),
    (RawKind.CREATED, "/node/a"),
    (RawKind.DATA_CHANGED, "/node/a"),
    (RawKind.CREATED, "/node/a/b"),
    (RawKind.DELETED, "/node/a/b"),
    (RawKind.DELETED, "/node/a"),
    (RawKind.DELETED, "/node"),
]


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
@pytest.mark.parametrize(
    ("recursive", "expected"), [(False, OF_ONE), (True, OF_ALL)], ids=["one node", "recursive"]
)
async def test_each_event_in_order(
    zk: corral.Client,
    other: corral.Client,
    recursive: bool,
    expected: list[tuple[RawKind, str]],
    waits: bool,
) -> None:
    """Each change is one event, whether a reader waits or not. A watch of one node gets its own changes and
    those of its list of children; a watch of a subtree gets the changes of each node. The zxid is that of the
    change, if the server sends it."""
    async with zk.watch_raw("/node", recursive=recursive) as events:
        await next_of(events)
        reading = asyncio.create_task(several(events, len(expected))) if waits else None
        await turns()
        await change_all(other)
        assert await (reading or several(events, len(expected))) == expected
        await tells_nothing(zk, events)
        event, stat = await told_of(other.create("/node"), events), await zk.exists("/node")
        assert stat is not None
        assert event.zxid in (None, stat.czxid)


async def test_recreated_in_one_transaction(zk: corral.Client, other: corral.Client) -> None:
    """Changes that no later read could show are reported, too."""
    await other.create("/node")
    async with zk.watch_raw("/node") as events:
        await next_of(events)
        async with other.transaction() as tx:
            tx.delete("/node")
            tx.create("/node")
        assert await several(events, 2) == [(RawKind.DELETED, "/node"), (RawKind.CREATED, "/node")]


async def test_paths_are_those_of_the_reader(zk: corral.Client, other: corral.Client) -> None:
    """Events have paths as their reader names them, also below a chroot."""
    await other.create("/team")
    below = zk.chroot("/team")
    async with (
        zk.watch_raw("/team", recursive=True) as whole,
        below.watch_raw("/", recursive=True) as root,
        below.watch_raw("/node") as part,
    ):
        assert [(await next_of(events)).path for events in (whole, root, part)] == ["/team", "/", "/node"]
        await other.create("/team/node")
        assert [(await next_of(events)).path for events in (whole, root, part)] == [
            "/team/node",
            "/node",
            "/node",
        ]


async def test_late_reader(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers
) -> None:
    """W4: a reader that joins later begins with the same first event, without another watch on the server,
    and gets what follows."""
    async with requests_seen(proxy) as requests:
        async with proxied.watch_raw("/node") as early, proxied.watch_raw("/node") as late:
            await next_of(early)
            await other.create("/node")
            await proxied.exists("/node")
            assert (await next_of(late)).kind is RawKind.MISSED
            await other.delete("/node")
            assert (await next_of(late)).kind is RawKind.DELETED
            assert await several(early, 2) == [(RawKind.CREATED, "/node"), (RawKind.DELETED, "/node")]
            assert await watchers("/node") == 1
        await proxied.sync()
        assert await watchers("/node") == 0
    assert (requests.count(messages.ADD_WATCH), requests.count(messages.REMOVE_WATCHES)) == (1, 1)
    assert registered(proxied) == (0, 0)


@pytest.mark.parametrize("recursive", [False, True], ids=["one node", "recursive"])
async def test_reconnect(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, recursive: bool
) -> None:
    """W3: after a reconnect the reader is notified that events may have been missed, and then gets each event
    again."""
    await other.create("/node")
    async with proxied.watch_raw("/node", recursive=recursive) as events:
        await next_of(events)
        async with proxy.refuse():
            await proxy.cut()
            await other.set("/node", b"unseen")
        assert await next_of(events) == RawEvent(RawKind.MISSED, "/node", None)
        assert (await told_of(other.set("/node", b"seen"), events)).kind is RawKind.DATA_CHANGED
        # Not read before the next reconnect, it counts as missed.
        await other.set("/node", b"seen")
        await proxied.exists("/node")
        await proxy.cut()
        await proxied.exists("/node")
        assert (await next_of(events)).kind is RawKind.MISSED
        await tells_nothing(proxied, events)


async def test_a_backlog_is_bounded(zk: corral.Client, other: corral.Client) -> None:
    """W2: a reader that does not read keeps ten thousand events at most, the newest ones, after one that says
    that some were missed; a reader that reads gets all."""
    await other.create("/node")
    total = BACKLOG + PER_TRANSACTION
    read = 0

    async def read_all(events: corral.RawWatch) -> None:
        nonlocal read
        while read < total:
            assert (await next_of(events)).kind is RawKind.DATA_CHANGED
            read += 1

    async with zk.watch_raw("/node") as slow, zk.watch_raw("/node") as quick:
        await next_of(slow)
        await next_of(quick)
        reading = asyncio.create_task(read_all(quick))
        for _ in range(total // PER_TRANSACTION):
            async with other.transaction() as tx:
                for _ in range(PER_TRANSACTION):
                    tx.set("/node", b"x")
            await zk.exists("/node")
        await reading
        assert (await next_of(slow)).kind is RawKind.MISSED
        left = 0
        while True:
            waiting = asyncio.ensure_future(anext(slow))
            await turns(3)
            if not waiting.done():
                break
            assert waiting.result().kind is RawKind.DATA_CHANGED
            left += 1
        assert 0 < left < BACKLOG
        await other.delete("/node")
        assert (await waiting).kind is RawKind.DELETED
