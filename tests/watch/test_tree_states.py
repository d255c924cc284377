"""A watch of a tree: all nodes, then each change (W1), the newest state of each node only (W2), shared (W4),
by one recursive watch (W6)."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from watching import (
    fail_at_bad,
    first_of,
    grow,
    next_of,
    tells_nothing,
    told_of,
)

import corral
from client_support import requests_seen
from corral import Event, EventKind, acl
from corral.testing import FaultProxy
from corral.wire import messages
from watch_support import TreeMirror, contents

Watchers = Callable[[str], Awaitable[int]]
Change = Callable[[corral.Client], Awaitable[object]]

WRITES = 1000
MANY = 700
"""More nodes than one request lists before it is known that they have children; a load begins with a few at a
time."""
ONLY_USER = acl.digest("user", "secret")


async def paths_of(events: corral.TreeWatch) -> list[str]:
    """The paths of a tree's initial events."""
    return [event.path for event in await first_of(events)]


async def test_first_events(zk: corral.Client, other: corral.Client) -> None:
    """W1: first each existing node, as `get` returns it, parents before their children; then the event that
    says that these were all."""
    there = ["/tree", "/tree/a", "/tree/b", "/tree/a/1", "/tree/a/2", "/tree/b/1", "/tree/a/1/x", "/tree/b-"]
    await grow(other, *there, "/tree2", "/trees")
    async with zk.watch_tree("/tree") as events:
        first = await first_of(events)
        assert sorted(event.path for event in first) == sorted(there)
        for number, event in enumerate(first):
            assert event == Event(EventKind.PRESENT, event.path, *await zk.get(event.path))
            assert event.path == "/tree" or event.path.rpartition("/")[0] in {
                each.path for each in first[:number]
            }
        await tells_nothing(zk, events)


async def test_complete_has_no_state(zk: corral.Client, other: corral.Client) -> None:
    """W1: the event that completes the initial ones has no node's state."""
    await grow(other, "/tree")
    async with zk.watch_tree("/tree") as events:
        await next_of(events)
        event = await next_of(events)
    assert event == Event(EventKind.COMPLETE, "/tree", None, None)
    assert not event.exists


async def test_root_that_does_not_exist_yet(zk: corral.Client, other: corral.Client) -> None:
    """W1: the absence of the tree is a state, too, and complete; the tree may then be created, and deleted
    again."""
    async with zk.watch_tree("/tree") as events:
        assert await first_of(events) == [Event(EventKind.ABSENT, "/tree", None, None)]
        created = await told_of(other.create("/tree", b"root"), events)
        assert created == Event(EventKind.CREATED, "/tree", *await zk.get("/tree"))
        created = await told_of(other.create("/tree/a"), events)
        assert created == Event(EventKind.CREATED, "/tree/a", *await zk.get("/tree/a"))
        await other.delete("/tree", recursive=True)
        gone = [await next_of(events) for _ in range(2)]
        assert gone == [Event(EventKind.DELETED, path, None, None) for path in ("/tree/a", "/tree")]
        await tells_nothing(zk, events)
        assert (await told_of(other.create("/tree"), events)).kind is EventKind.CREATED


async def test_each_change_in_turn(zk: corral.Client, other: corral.Client) -> None:
    """W1: a reader that keeps up sees each change of each node, with the resulting state."""
    await grow(other, "/tree", "/tree/a")
    changes: list[tuple[Change, EventKind, str, bytes | None]] = [
        (lambda zk: zk.set("/tree/a", b"1"), EventKind.CHANGED, "/tree/a", b"1"),
        (lambda zk: zk.set("/tree/a", b"1"), EventKind.CHANGED, "/tree/a", b"1"),
        (lambda zk: zk.create("/tree/a/b", b"2"), EventKind.CREATED, "/tree/a/b", b"2"),
        (lambda zk: zk.create("/tree/a/b/c"), EventKind.CREATED, "/tree/a/b/c", b""),
        (lambda zk: zk.set("/tree/a/b/c", b"3"), EventKind.CHANGED, "/tree/a/b/c", b"3"),
        (lambda zk: zk.delete("/tree/a/b/c"), EventKind.DELETED, "/tree/a/b/c", None),
        (lambda zk: zk.delete("/tree/a/b"), EventKind.DELETED, "/tree/a/b", None),
        (lambda zk: zk.create("/tree/a/b"), EventKind.CREATED, "/tree/a/b", b""),
        (lambda zk: zk.set("/tree", b"4"), EventKind.CHANGED, "/tree", b"4"),
    ]
    async with zk.watch_tree("/tree") as events:
        await first_of(events)
        for change, kind, path, data in changes:
            event = await told_of(change(other), events)
            assert event[:3] == (kind, path, data)
            if event.stat is not None:
                assert event[2:] == await zk.get(path)


async def test_what_comes_and_goes_unseen(zk: corral.Client, other: corral.Client) -> None:
    """W1, W2: a node that was created and deleted between two reads causes no event, and neither does the new
    stat of its parent."""
    await grow(other, "/tree")
    async with zk.watch_tree("/tree") as events, zk.watch_tree("/tree") as slow:
        await first_of(events)
        await first_of(slow)
        async with other.transaction() as tx:
            tx.create("/tree/passing")
            tx.delete("/tree/passing")
        await tells_nothing(zk, events)
        # A change that one reader has seen, another may have missed.
        assert (await told_of(other.create("/tree/passing"), events)).kind is EventKind.CREATED
        assert (await told_of(other.delete("/tree/passing"), events)).kind is EventKind.DELETED
        await tells_nothing(zk, slow)


async def test_slow_reader_beside_a_quick_one(zk: corral.Client, other: corral.Client) -> None:
    """W1, W2: if another reader's reads have moved the copy on, a reader that was away gets one event for
    each node, with its newest state. A deleted node comes before its deleted parent, a created one after its
    parent, in whichever order they changed."""
    again = ["/tree/again", "/tree/again/a"]
    await grow(other, "/tree", "/tree/a", "/tree/gone", "/tree/gone/too", *again)
    async with zk.watch_tree("/tree") as quick, zk.watch_tree("/tree") as slow:
        await first_of(quick)
        await first_of(slow)
        for number in range(50):
            assert (await told_of(other.set("/tree/a", b"%d" % number), quick)).data == b"%d" % number
        for path in ("/tree/gone", "/tree/gone/too", *reversed(again)):
            await told_of(other.set(path, b"x"), quick)
        for path in ("/tree/gone/too", "/tree/gone", *reversed(again)):
            await told_of(other.delete(path), quick)
        for path in (*again, "/tree/new", "/tree/new/a"):
            await told_of(other.create(path), quick)
            await told_of(other.set(path, b"x"), quick)
        assert [(await next_of(slow))[:3] for _ in range(7)] == [
            (EventKind.CHANGED, "/tree/a", b"49"),
            (EventKind.DELETED, "/tree/gone/too", None),
            (EventKind.DELETED, "/tree/gone", None),
            (EventKind.CREATED, "/tree/again", b"x"),
            (EventKind.CREATED, "/tree/again/a", b"x"),
            (EventKind.CREATED, "/tree/new", b"x"),
            (EventKind.CREATED, "/tree/new/a", b"x"),
        ]
        await tells_nothing(zk, slow)


async def test_memory_does_not_grow_with_the_writes(zk: corral.Client, other: corral.Client) -> None:
    """W2: for a reader that stays away, a thousand writes leave less in memory than ten of them have data,
    even if another reader causes reads of them."""
    size = 10_000
    await grow(other, "/tree", "/tree/a")
    async with zk.watch_tree("/tree") as quick, zk.watch_tree("/tree") as slow:
        await first_of(quick)
        await first_of(slow)
        reached = asyncio.create_task(reach(quick, b"%0*d" % (size, WRITES - 1)))
        await other.set("/tree/a", bytes(size))
        tracemalloc.start()
        try:
            for number in range(WRITES):
                await other.set("/tree/a", b"%0*d" % (size, number))
            await reached
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 10 * size
        assert (await next_of(slow)).data == b"%0*d" % (size, WRITES - 1)


async def test_deletions_after_other_changes(zk: corral.Client, other: corral.Client) -> None:
    """W1: the deletion of a node comes after those of its subtree, even if the node changed first, and
    nothing was read since."""
    below = ["/tree/a", "/tree/a/b", "/tree/a/b/c", "/tree/a/b/d"]
    await grow(other, "/tree", *below)
    async with zk.watch_tree("/tree") as events:
        await first_of(events)
        for path in below:
            await other.set(path, b"new")
        await other.delete("/tree/a", recursive=True)
        await zk.exists("/")  # answered after the last event
        gone = [await next_of(events) for _ in below]
        assert {event.kind for event in gone} == {EventKind.DELETED}
        order = [event.path for event in gone]
        assert sorted(order) == below
        assert order[2:] == ["/tree/a/b", "/tree/a"]
        await tells_nothing(zk, events)


async def test_memory_does_not_grow_with_what_has_passed(zk: corral.Client, other: corral.Client) -> None:
    """W2: nodes that were created and deleted, each with another name, leave nothing in memory for a reader
    that stays away."""
    await grow(other, "/tree")
    async with zk.watch_tree("/tree") as quick, zk.watch_tree("/tree") as slow:
        await first_of(quick)
        await first_of(slow)
        for number in range(20):
            assert (await told_of(other.create(f"/tree/{number}"), quick)).kind is EventKind.CREATED
            assert (await told_of(other.delete(f"/tree/{number}"), quick)).kind is EventKind.DELETED
        assert not slow._cursor.news  # no public attribute shows what a reader has still to get
        await tells_nothing(zk, slow)


async def reach(events: corral.TreeWatch, data: bytes) -> None:
    """Read on until a node has this data."""
    while (await next_of(events)).data != data:
        pass


DEPTHS = [
    (0, ["/tree"]),
    (1, ["/tree", "/tree/a", "/tree/b"]),
    (2, ["/tree", "/tree/a", "/tree/b", "/tree/a/1"]),
    (3, ["/tree", "/tree/a", "/tree/b", "/tree/a/1", "/tree/a/1/x"]),
    (None, ["/tree", "/tree/a", "/tree/b", "/tree/a/1", "/tree/a/1/x"]),
]


@pytest.mark.parametrize(("depth", "there"), DEPTHS, ids=["0", "1", "2", "3", "all"])
async def test_depth(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, depth: int | None, there: list[str]
) -> None:
    """W6: that many levels below the root are followed; deeper nodes are neither reported nor read."""
    everything = ["/tree", "/tree/a", "/tree/b", "/tree/a/1", "/tree/a/1/x"]
    await grow(other, *everything)
    async with requests_seen(proxy) as requests, proxied.watch_tree("/tree", depth=depth) as events:
        assert sorted(await paths_of(events)) == sorted(there)
        for path in everything:
            if path in there:
                assert (await told_of(other.set(path, b"new"), events))[:2] == (EventKind.CHANGED, path)
            else:
                before = requests.count(messages.MULTI_READ)
                await other.set(path, b"new")
                await other.create(f"{path}/new")
                await tells_nothing(proxied, events)
                assert requests.count(messages.MULTI_READ) == before


async def test_only(proxied: corral.Client, proxy: FaultProxy, other: corral.Client) -> None:
    """W6: unwanted nodes are left out with their subtrees; the root is always wanted."""
    asked: set[str] = set()

    def wanted(path: str) -> bool:
        asked.add(path)
        return path.endswith("+")

    await grow(
        other, "/tree", "/tree/a+", "/tree/b", "/tree/b/1+", "/tree/a+/1+", "/tree/a+/2", "/tree/a+/2/x+"
    )
    async with requests_seen(proxy) as requests, proxied.watch_tree("/tree", only=wanted) as events:
        assert await paths_of(events) == ["/tree", "/tree/a+", "/tree/a+/1+"]
        before = requests.count(messages.MULTI_READ)
        for path in ("/tree/b", "/tree/b/1+", "/tree/a+/2", "/tree/a+/2/x+"):
            await other.set(path, b"new")
        await other.create("/tree/c")
        await other.create("/tree/b/2+")
        await tells_nothing(proxied, events)
        assert requests.count(messages.MULTI_READ) == before
        assert (await told_of(other.create("/tree/d+"), events)).path == "/tree/d+"
    assert "/tree" not in asked


async def test_only_that_fails(zk: corral.Client, other: corral.Client) -> None:
    """W6: an exception of `only` is raised to its reader, and affects no other."""

    await grow(other, "/tree", "/tree/a")
    async with zk.watch_tree("/tree", only=fail_at_bad) as events, zk.watch_tree("/tree") as well:
        assert await paths_of(events) == ["/tree", "/tree/a"]
        await first_of(well)
        waiting = asyncio.create_task(next_of(events))
        await told_of(other.create("/tree/bad"), well)
        with pytest.raises(LookupError, match="/tree/bad"):
            await waiting
        await other.delete("/tree/bad")
        await other.set("/tree/a", b"new")
        assert (await next_of(events))[:3] == (EventKind.CHANGED, "/tree/a", b"new")


async def test_paths_are_those_of_the_reader(zk: corral.Client, other: corral.Client) -> None:
    """W1: events and `only` get paths as their reader names them, also below a chroot, whose root is a node,
    too."""
    await grow(other, "/team", "/team/tree", "/team/tree/a", "/team/tree/b")
    below = zk.chroot("/team")
    async with (
        zk.watch_tree("/team/tree") as whole,
        below.watch_tree("/tree") as part,
        below.watch_tree("/tree", only=lambda path: path == "/tree/a") as picked,
        below.watch_tree("/", depth=2) as root,
    ):
        assert sorted(await paths_of(whole)) == ["/team/tree", "/team/tree/a", "/team/tree/b"]
        assert sorted(await paths_of(part)) == ["/tree", "/tree/a", "/tree/b"]
        assert sorted(await paths_of(picked)) == ["/tree", "/tree/a"]
        assert sorted(await paths_of(root)) == ["/", "/tree", "/tree/a", "/tree/b"]
        await other.set("/team/tree/a", b"new")
        for events in (part, picked, root):
            assert (await next_of(events)).path == "/tree/a"
        await other.delete("/team/tree/a")
        assert (await next_of(root))[:2] == (EventKind.DELETED, "/tree/a")
        assert (await told_of(other.set("/team", b"new"), root)).path == "/"


async def test_root_of_the_server(server_address: str, root: str, other: corral.Client) -> None:
    """W6: the server's own root can be the root of a tree like any other node."""

    def ours(path: str) -> bool:
        return f"{root}/".startswith(f"{path}/") or path.startswith(f"{root}/")

    await grow(other, "/a")
    async with corral.connect(server_address) as zk, zk.watch_tree("/", only=ours) as events:
        first = await paths_of(events)
        assert first[0] == "/"
        assert first[-2:] == [root, f"{root}/a"]
        assert (await told_of(other.create("/b"), events))[:2] == (EventKind.CREATED, f"{root}/b")
        assert (await told_of(other.delete("/a"), events))[:2] == (EventKind.DELETED, f"{root}/a")


async def test_nodes_that_we_may_not_read(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """W6: nodes that the ACL hides from us are left out with their subtrees, and the first of them is logged.
    Once we may read such a node, its next change reports it, and its subtree."""
    await grow(other, "/tree", "/tree/a", "/tree/x", "/tree/y", "/tree/x/1", "/tree/x/1/2")
    other.add_auth("digest", b"user:secret")
    for path in ("/tree/x", "/tree/y"):
        await other.set_acl(path, ONLY_USER)
    with caplog.at_level(logging.WARNING, "corral.watch"):
        async with zk.watch_tree("/tree") as events:
            assert await paths_of(events) == ["/tree", "/tree/a"]
            assert (await told_of(other.set("/tree/a", b"new"), events)).path == "/tree/a"
            await other.set_acl("/tree/x", corral.acl.OPEN)
            await tells_nothing(zk, events)
            await other.set("/tree/x", b"new")
            now = [(await next_of(events))[:2] for _ in range(3)]
            assert now == [(EventKind.CREATED, path) for path in ("/tree/x", "/tree/x/1", "/tree/x/1/2")]
            assert (await told_of(other.set("/tree/x/1", b"new"), events)).path == "/tree/x/1"
            await other.set_acl("/tree/y", corral.acl.OPEN)
    [record] = [record for record in caplog.records if record.name == "corral.watch"]
    assert "'/tree'" in record.getMessage()
    assert "/tree/" in record.getMessage()


async def test_root_that_we_may_not_read(zk: corral.Client, other: corral.Client) -> None:
    """W1: a refusal of the root is raised to all that wait; the next `anext` requests it again, and continues
    from there."""
    await grow(other, "/tree", "/tree/a")
    other.add_auth("digest", b"user:secret")
    async with zk.watch_tree("/tree") as events, zk.watch_tree("/tree") as more:
        await other.set_acl("/tree", ONLY_USER)
        answers = await asyncio.gather(next_of(events), next_of(more), return_exceptions=True)
        assert [type(answer) for answer in answers] == [corral.NoAuth] * 2
        with pytest.raises(corral.NoAuth, match=r"watch_tree.*'/tree'"):
            await next_of(events)
        await other.set_acl("/tree", corral.acl.OPEN)
        for each in (events, more):
            assert await paths_of(each) == ["/tree", "/tree/a"]
        await other.set("/tree", b"new")
        await zk.sync()
        await other.set_acl("/tree", ONLY_USER)
        with pytest.raises(corral.NoAuth):
            await next_of(events)
        await other.set_acl("/tree", corral.acl.OPEN)
        for each in (events, more):
            assert (await next_of(each))[:3] == (EventKind.CHANGED, "/tree", b"new")
            await tells_nothing(zk, each)


LARGE = 900_000


async def test_large_nodes(
    connect: Callable[..., corral.Client], proxy: FaultProxy, other: corral.Client
) -> None:
    """S7, W6: nodes that together exceed the reply limit are requested in smaller and smaller groups, until
    they fit."""
    names = [f"/tree/{number}" for number in range(8)]
    await other.create("/tree")
    await asyncio.gather(*(other.create(name, name.encode() * (LARGE // len(name))) for name in names))
    async with connect(to=proxy.address, max_reply=2_000_000) as zk:
        async with requests_seen(proxy) as requests, zk.watch_tree("/tree") as events:
            first = await first_of(events)
            assert {
                event.path: event.data[: len(event.path)].decode() for event in first[1:] if event.data
            } == {name: name for name in names}
            loading = requests.count(messages.MULTI_READ)
            assert loading == 1 + 1 + 2 + 4  # the root, all eight, four at a time, and two
            await other.set("/tree/0", b"small")
            assert (await next_of(events)).data == b"small"
            await asyncio.gather(*(other.set(name, bytes(LARGE)) for name in names))
            assert {(await next_of(events)).path for _ in names} == set(names)


async def test_a_node_that_is_too_large(connect: Callable[..., corral.Client], other: corral.Client) -> None:
    """S7: a single node that exceeds the reply limit raises an error that says so; it is not requested
    endlessly."""
    await grow(other, "/tree", "/tree/a")
    await other.create("/tree/large", bytes(LARGE))
    async with connect(max_reply=500_000) as zk, zk.watch_tree("/tree") as events:
        for _ in range(2):
            with pytest.raises(corral.ReplyError, match=r"/tree.*500,000"):
                await first_of(events)
        await other.set("/tree/large", b"small")
        assert sorted(await paths_of(events)) == ["/tree", "/tree/a", "/tree/large"]


async def test_late_reader_begins_with_the_tree_now(zk: corral.Client, other: corral.Client) -> None:
    """W1: a reader that joins others begins with all nodes that exist now, including those that the others
    have not read yet."""
    await grow(other, "/tree", "/tree/a", "/tree/b")
    async with zk.watch_tree("/tree") as early, zk.watch_tree("/tree") as late:
        await first_of(early)
        await other.delete("/tree/a")
        await other.set("/tree/b", b"new")
        await other.create("/tree/c")
        await zk.sync()
        first = {event.path: (event.kind, event.data) for event in await first_of(late)}
        assert first == {
            "/tree": (EventKind.PRESENT, b"/tree"),
            "/tree/b": (EventKind.PRESENT, b"new"),
            "/tree/c": (EventKind.PRESENT, b""),
        }
        assert {(await next_of(early))[:2] for _ in range(3)} == {
            (EventKind.DELETED, "/tree/a"),
            (EventKind.CHANGED, "/tree/b"),
            (EventKind.CREATED, "/tree/c"),
        }
        for each in (early, late):
            await tells_nothing(zk, each)


async def test_many_nodes(zk: corral.Client, other: corral.Client) -> None:
    """W1, W6: a tree with more nodes than one request reads is reported completely: leaves, and nodes with
    children."""
    top = [f"/tree/{number}" for number in range(MANY)]
    below = [f"{path}/{name}" for path in top[::7] for name in ("a", "b")]
    deep = [f"{path}/c" for path in below[::5]]
    await other.create("/tree")
    for level in (top, below, deep):
        await asyncio.gather(*(other.create(path, path.encode()) for path in level))
    async with zk.watch_tree("/tree") as events:
        mirror = TreeMirror("/tree")
        for event in await first_of(events):
            mirror.take(event)
        assert mirror.now == await contents(other, "/tree")
        assert len(mirror.now) == 1 + len(top) + len(below) + len(deep)


async def test_long_names(connect: Callable[..., corral.Client], other: corral.Client) -> None:
    """S7, W6: no request for a tree exceeds the server's limit, however long the names are."""
    pad = "\u20ac" * 900  # three bytes each
    names = [f"/tree/{pad}{number}" for number in range(100)]
    await other.create("/tree")
    await asyncio.gather(*(other.create(name) for name in names))
    async with connect(max_request=20_000) as zk, zk.watch_tree("/tree") as events:
        assert sorted(await paths_of(events)) == sorted(["/tree", *names])
        await asyncio.gather(*(other.set(name, b"new") for name in names))
        assert {(await next_of(events)).path for _ in names} == set(names)


@pytest.mark.parametrize("verb", ["watch_tree", "cache"])
async def test_what_cannot_be_right(zk: corral.Client, verb: str) -> None:
    """An invalid depth or filter is refused before anything is sent."""
    make = getattr(zk, verb)
    for depth in (-1, 1.5, "1", True):
        with pytest.raises(corral.UsageError, match="depth"):
            make("/tree", depth=depth)
    for only in ("/tree/a", ["/tree/a"], 1):
        with pytest.raises(corral.UsageError, match="only"):
            make("/tree", only=only)
    for path in ("tree", "/tree/", "/a//b", "/a/../b", ""):
        with pytest.raises(corral.UsageError):
            make(path)
