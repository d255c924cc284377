"""Random changes, faults and slow readers: whoever follows a tree can build it from what is told (W1, W3, W6).

What random changes find too seldom is in tests of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest

import corral
from corral import EventKind, Stat, Znode
from corral.testing import FaultProxy, before
from corral.watch import tree_reads
from support import PATIENCE, turns, until

STEPS = 60
NAMES = ["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/a", "b/a/a", "a/a/a/a"]
FEW_NAMES = ["a", "a/a"]
"""For the same to be deleted and created again all the time."""


class Follower:
    """Builds the tree from the events, and sees to it that each fits what was told before."""

    def __init__(self, *, complete: bool) -> None:
        self.nodes: dict[str, Znode] = {}
        self.complete = complete
        self._newest: dict[str, int] = {}

    def take(self, event: corral.Event) -> None:
        path, known = event.path, self.nodes.get(event.path)
        if event.kind is EventKind.COMPLETE:
            assert not self.complete
            self.complete = True
        elif event.kind is EventKind.ABSENT:
            assert (path, self.nodes) == ("/tree", {})
        elif event.kind is EventKind.DELETED:
            del self.nodes[path]
            assert not [each for each in self.nodes if each.startswith(path + "/")]
        else:
            assert event.data is not None
            assert event.stat is not None
            assert event.stat.mzxid > self._newest.get(path, 0)
            self._newest[path] = event.stat.mzxid
            if event.kind is EventKind.CHANGED:
                assert known is not None
                assert known.stat.czxid == event.stat.czxid
            else:
                assert event.kind is (EventKind.CREATED if self.complete or known else EventKind.PRESENT)
                assert known is None or known.stat.czxid < event.stat.czxid
            assert path == "/tree" or path.rpartition("/")[0] in self.nodes
            self.nodes[path] = Znode(event.data, event.stat)

    async def follow(self, events: corral.TreeWatch, dice: random.Random) -> None:
        async for event in events:
            self.take(event)
            if dice.random() < 0.3:
                await turns(dice.choice([3, 30, 300]))


class FamilyFollower:
    """Builds a set of children from the events."""

    def __init__(self) -> None:
        self.children: frozenset[str] | None = None

    async def follow(self, events: corral.ChildrenWatch, dice: random.Random) -> None:
        last: corral.ChildrenEvent | None = None
        async for event in events:
            before = frozenset[str]() if last is None else last.children
            assert event.children == (before | event.added) - event.removed
            assert not event.added & before
            assert event.removed <= before
            if last is not None and event.kind is EventKind.CHANGED:
                assert event.added or event.removed
            last, self.children = event, event.children if event.exists else None
            if dice.random() < 0.3:
                await turns(dice.choice([3, 30, 300]))


async def change(zk: corral.Client, dice: random.Random, names: list[str]) -> None:
    """One random change."""
    path = "/tree/" + dice.choice(names)
    data = dice.randbytes(3)
    with contextlib.suppress(corral.NoNode, corral.NodeExists, corral.NotEmpty, corral.TransactionFailed):
        match dice.randrange(9):
            case 0 | 1:
                await zk.create(path, data)
            case 2:
                await zk.create(path, data, make_parents=True)
            case 3:
                await zk.set(path, data)
            case 4:
                await zk.delete(path)
            case 5:
                await zk.delete(dice.choice([path, path, "/tree"]), recursive=True)
            case 6:
                async with zk.transaction() as tx:
                    tx.delete(path)
                    tx.create(path, data)
                    tx.set(path, data + b"!")
            case 7 | 8:  # all on its way at once
                again = [zk.delete(f"{path}/a"), zk.delete(path), zk.create(path), zk.create(f"{path}/a")]
                await asyncio.gather(*again, return_exceptions=True)


async def truth(zk: corral.Client) -> dict[str, tuple[bytes, int, int]]:
    """What the tree is, read by somebody else."""
    found = {}
    for path in ("/tree", *(f"/tree/{name}" for name in {*NAMES, *(f"{name}/a" for name in NAMES)})):
        with contextlib.suppress(corral.NoNode):
            data, stat = await zk.get(path)
            found[path] = (data, stat.czxid, stat.mzxid)
    return found


def told(nodes: dict[str, Znode]) -> dict[str, tuple[bytes, int, int]]:
    """The same of what was told."""

    def brief(data: bytes, stat: Stat) -> tuple[bytes, int, int]:
        return data, stat.czxid, stat.mzxid

    return {path: brief(*node) for path, node in nodes.items()}


@pytest.mark.parametrize("breaking", [False, True], ids=["no faults", "faults"])
@pytest.mark.parametrize("seed", range(20))
async def test_the_tree_is_what_was_told(
    connect: Callable[..., corral.Client],
    proxy: FaultProxy,
    other: corral.Client,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    breaking: bool,
) -> None:
    """W1, W2, W3, W6: from every watch and cache the tree can be built, event by event, whatever the writer does and
    however slow the reader is, over lost connections and expired sessions; in the end it is what it is on the
    server. What the watching client writes itself is in its cache at once."""
    dice = random.Random(seed)
    names = dice.choice([NAMES, FEW_NAMES])
    # The fewer nodes a read asks for, the more can come between those of one tree.
    monkeypatch.setattr(tree_reads, "FIRST_BATCH", dice.choice([1, 1, 2, 32]))
    monkeypatch.setattr(tree_reads, "LARGEST_BATCH", dice.choice([1, 2, 512]))
    monkeypatch.setattr(tree_reads, "AT_ONCE", dice.choice([1, 1, 4]))
    trees = [Follower(complete=False), Follower(complete=False), Follower(complete=True)]
    families = {name: FamilyFollower() for name in ("/tree", "/tree/a", "/tree/a/a")}
    if dice.random() < 0.5:
        await other.create("/tree", b"first")
        for _ in range(10):
            await change(other, dice, names)
    async with (
        connect(to=proxy.address) as zk,
        zk.cache("/tree") as cache,
        asyncio.TaskGroup() as tasks,
    ):
        trees[2].nodes = dict(cache)
        following = [tasks.create_task(trees[2].follow(cache.changes(), dice))]
        following.append(tasks.create_task(trees[0].follow(zk.watch_tree("/tree"), dice)))
        for name, family in families.items():
            following.append(tasks.create_task(family.follow(zk.watch_children(name), dice)))
        for step in range(STEPS):
            if step == STEPS // 2:
                following.append(tasks.create_task(trees[1].follow(zk.watch_tree("/tree"), dice)))
            if breaking and dice.random() < 0.15:
                if dice.random() < 0.2 and zk.session_id:
                    await proxy.expire(zk.session_id)
                else:
                    await proxy.cut(reset=dice.random() < 0.5)
            if dice.random() < 0.2:
                path, data = "/tree/" + dice.choice(NAMES), dice.randbytes(4)
                with contextlib.suppress(corral.NoNode, corral.ConnectionLoss):
                    stat = await zk.set(path, data)
                    node = cache.get(path)
                    assert node is None or node.stat.mzxid >= stat.mzxid  # or another has gone on since
            else:
                await change(other, dice, names)
            if dice.random() < 0.5:
                await turns(dice.randrange(1000, 1060))
        if await other.exists("/tree") is None:
            await other.create("/tree")
        expected = await truth(other)

        async def is_told() -> bool:
            nodes = [each.nodes for each in trees]
            return cache.is_current and all(told(each) == expected for each in [*nodes, dict(cache)])

        async def families_are_told() -> bool:
            for name, family in families.items():
                names = None
                with contextlib.suppress(corral.NoNode):
                    names = frozenset(await other.children(name))
                if family.children != names:
                    return False
            return True

        await until(is_told, "every follower knows the tree", PATIENCE)
        await until(families_are_told, "every follower knows the children", PATIENCE)
        for task in following:
            task.cancel()
    assert all(each.complete for each in trees)


async def known(events: corral.TreeWatch, follower: Follower, other: corral.Client) -> None:
    """Read on until what was told is what there is."""
    async with asyncio.timeout(PATIENCE):
        while not follower.complete or told(follower.nodes) != await truth(other):
            follower.take(await anext(events))


def read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on trees are read node by node, each when the one before it was answered."""
    for name in ("FIRST_BATCH", "LARGEST_BATCH", "AT_ONCE"):
        monkeypatch.setattr(tree_reads, name, 1)


async def recreate(zk: corral.Client, *paths: str) -> None:
    """Delete nodes and create them again; parents are named first."""
    for path in reversed(paths):
        await zk.delete(path)
    for path in paths:
        await zk.create(path)


async def test_what_waits_for_a_parent_keeps_its_children_waiting(
    zk: corral.Client, other: corral.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W1: three levels are created again, and read one by one from the middle downwards and only then from the top:
    none is told before its parent, and none twice."""
    read_one_by_one(monkeypatch)
    follower = Follower(complete=False)
    for path in ("/tree", "/tree/a", "/tree/a/a", "/tree/a/a/a"):
        await other.create(path)
    async with zk.watch_tree("/tree") as events:
        await known(events, follower, other)
        await other.set("/tree/a/a", b"the first to be read")  # nobody waits: it is not read yet
        await other.set("/tree/a/a/a", b"the second")
        await recreate(other, "/tree/a", "/tree/a/a", "/tree/a/a/a")
        await zk.sync()
        await known(events, follower, other)


async def test_loading_that_is_begun_anew(
    connect: Callable[..., corral.Client],
    proxy: FaultProxy,
    other: corral.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W1, W6: while a tree is read again after a reconnect the connection is lost once more, before a child is read, and
    its parent is created again meanwhile: the child is not told before it, and not twice."""
    read_one_by_one(monkeypatch)
    follower = Follower(complete=False)
    for path in ("/tree", "/tree/a", "/tree/a/a"):
        await other.create(path)
    async with connect(to=proxy.address) as zk, zk.watch_tree("/tree") as events:
        await known(events, follower, other)
        following = asyncio.create_task(anext(events))
        third_read = before("multi_read", nth=3)  # after those of the root and of /tree/a
        async with proxy.black_hole(third_read) as held:
            await proxy.cut()
            async with asyncio.timeout(PATIENCE):
                await held.fired.wait()
            await recreate(other, "/tree/a", "/tree/a/a")
            await proxy.cut()
        async with asyncio.timeout(PATIENCE):
            follower.take(await following)
        await known(events, follower, other)


def test_the_follower_can_fail() -> None:
    """What the test above is held to by its followers does refuse what must not be told."""

    def refuses(*events: corral.Event) -> bool:
        follower = Follower(complete=False)
        try:
            for event in events:
                follower.take(event)
        except (AssertionError, KeyError):
            return True
        return False

    def event(kind: EventKind, path: str, czxid: int = 0, mzxid: int = 0) -> corral.Event:
        stat = Stat(czxid, mzxid, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0) if mzxid else None
        return corral.Event(kind, path, b"" if stat else None, stat)

    root = event(EventKind.PRESENT, "/tree", 1, 1)
    complete = event(EventKind.COMPLETE, "/tree")
    child = event(EventKind.CREATED, "/tree/a", 2, 2)
    assert not refuses(root, complete, child)
    assert refuses(root, child), "a change before the first state is complete"
    assert refuses(root, complete, child, child), "a state that is told twice"
    assert refuses(root, complete, event(EventKind.DELETED, "/tree/a")), "the end of what was not there"
    assert refuses(root, complete, child, event(EventKind.DELETED, "/tree")), "the end of a parent first"
    assert refuses(root, complete, event(EventKind.CREATED, "/tree/a/b", 3, 3)), "a child without its parent"
    assert refuses(root, complete, child, event(EventKind.CHANGED, "/tree/a", 3, 3)), (
        "a change of another node"
    )
