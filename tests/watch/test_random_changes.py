"""Random changes, faults and slow readers: every follower can rebuild the tree from its events (W1, W3, W6).

Cases that random changes rarely produce have tests of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest
from watching import next_of

import corral
from corral import EventKind, Stat
from corral.testing import FaultProxy, before
from corral.watch.tree import reads
from support import PATIENCE, turns, until
from watch_support import ChildrenMirror, TreeMirror, children_contents, contents, shown

STEPS = 60
NAMES = ["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/a", "b/a/a", "a/a/a/a"]
FEW_NAMES = ["a", "a/a"]
"""Few names, so that the same node is often deleted and created again."""


async def follow_tree(tree: TreeMirror, events: corral.TreeWatch, dice: random.Random) -> None:
    """A reader of the tree that is sometimes slow."""
    async for event in events:
        tree.take(event)
        await be_slow(dice)


async def follow_children(family: ChildrenMirror, events: corral.ChildrenWatch, dice: random.Random) -> None:
    """The same for children."""
    async for event in events:
        family.take(event)
        await be_slow(dice)


async def be_slow(dice: random.Random) -> None:
    """Let other tasks run, sometimes for long."""
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
            case 7 | 8:  # several at once
                again = [zk.delete(f"{path}/a"), zk.delete(path), zk.create(path), zk.create(f"{path}/a")]
                await asyncio.gather(*again, return_exceptions=True)


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
    """W1, W2, W3, W6: the tree can be rebuilt, event by event, from every watch and cache, whatever the
    writer does and however slow the reader is, across lost connections and expired sessions. In the end it
    equals the server's tree. The watching client's own writes are in its cache at once."""
    dice = random.Random(seed)
    names = dice.choice([NAMES, FEW_NAMES])
    # The fewer nodes one read requests, the more changes can come between the reads of one tree.
    monkeypatch.setattr(reads, "FIRST_BATCH", dice.choice([1, 1, 2, 32]))
    monkeypatch.setattr(reads, "LARGEST_BATCH", dice.choice([1, 2, 512]))
    monkeypatch.setattr(reads, "AT_ONCE", dice.choice([1, 1, 4]))
    late = dice.randrange(STEPS)
    families = {name: ChildrenMirror() for name in ("/tree", "/tree/a", "/tree/a/a")}
    if dice.random() < 0.5:
        await other.create("/tree", b"first")
        for _ in range(10):
            await change(other, dice, names)
    async with (
        connect(to=proxy.address) as zk,
        zk.cache("/tree") as cache,
        asyncio.TaskGroup() as tasks,
    ):
        trees = [TreeMirror("/tree", shown(cache)), TreeMirror("/tree"), TreeMirror("/tree")]
        following = [tasks.create_task(follow_tree(trees[0], cache.changes(), dice))]
        following.append(tasks.create_task(follow_tree(trees[1], zk.watch_tree("/tree"), dice)))
        for name, family in families.items():
            following.append(tasks.create_task(follow_children(family, zk.watch_children(name), dice)))
        for step in range(STEPS):
            if step == late:
                following.append(tasks.create_task(follow_tree(trees[2], zk.watch_tree("/tree"), dice)))
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
                    assert node is None or node.stat.mzxid >= stat.mzxid  # or another has changed it
            else:
                await change(other, dice, names)
            if dice.random() < 0.5:
                await turns(dice.randrange(1000, 1060))
        if await other.exists("/tree") is None:
            await other.create("/tree")
        expected = await contents(other, "/tree")

        async def is_told() -> bool:
            return cache.is_current and all(
                each == expected for each in [shown(cache), *(t.now for t in trees)]
            )

        async def families_are_told() -> bool:
            return all(
                [family.now == await children_contents(other, name) for name, family in families.items()]
            )

        await until(is_told, "every follower knows the tree", PATIENCE)
        await until(families_are_told, "every follower knows the children", PATIENCE)
        for task in following:
            task.cancel()
    assert all(each.complete for each in trees)


async def until_known(events: corral.TreeWatch, tree: TreeMirror, other: corral.Client) -> None:
    """Read on until the copy equals the server's tree."""
    while not tree.complete or tree.now != await contents(other, "/tree"):
        tree.take(await next_of(events))


def read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on trees are read node by node, one after the other's answer."""
    for name in ("FIRST_BATCH", "LARGEST_BATCH", "AT_ONCE"):
        monkeypatch.setattr(reads, name, 1)


async def recreate_one_by_one(zk: corral.Client, *paths: str) -> None:
    """Delete nodes and create them again; the argument has parents first."""
    for path in reversed(paths):
        await zk.delete(path)
    for path in paths:
        await zk.create(path)


async def test_what_waits_for_a_parent_keeps_its_children_waiting(
    zk: corral.Client, other: corral.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W1: three levels are created again, and read one by one, first from the middle downwards, then from the
    top: none is reported before its parent, and none twice."""
    read_one_by_one(monkeypatch)
    tree = TreeMirror("/tree")
    for path in ("/tree", "/tree/a", "/tree/a/a", "/tree/a/a/a"):
        await other.create(path)
    async with zk.watch_tree("/tree") as events:
        await until_known(events, tree, other)
        await other.set("/tree/a/a", b"the first to be read")  # nobody waits: it is not read yet
        await other.set("/tree/a/a/a", b"the second")
        await recreate_one_by_one(other, "/tree/a", "/tree/a/a", "/tree/a/a/a")
        await zk.sync()
        await until_known(events, tree, other)


async def test_loading_that_is_begun_anew(
    connect: Callable[..., corral.Client],
    proxy: FaultProxy,
    other: corral.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W1, W6: while a tree is read again after a reconnect, the connection is lost again before a child is
    read, and its parent is created again meanwhile: the child is not reported before its parent, and not
    twice."""
    read_one_by_one(monkeypatch)
    tree = TreeMirror("/tree")
    for path in ("/tree", "/tree/a", "/tree/a/a"):
        await other.create(path)
    async with connect(to=proxy.address) as zk, zk.watch_tree("/tree") as events:
        await until_known(events, tree, other)
        following = asyncio.create_task(anext(events))
        third_read = before("multi_read", nth=3)  # after those of the root and of /tree/a
        async with proxy.black_hole(third_read) as held:
            await proxy.cut()
            async with asyncio.timeout(PATIENCE):
                await held.fired.wait()
            await recreate_one_by_one(other, "/tree/a", "/tree/a/a")
            await proxy.cut()
        async with asyncio.timeout(PATIENCE):
            tree.take(await following)
        await until_known(events, tree, other)


def test_what_must_not_be_told_is_refused() -> None:
    """The mirror that checks the events in these tests can fail."""

    def refuses(*events: corral.Event) -> bool:
        tree = TreeMirror("/tree")
        try:
            for event in events:
                tree.take(event)
        except AssertionError:
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
