"""One-shot and persistent watches of one client at one path, and below it: no reader misses an event (W7).

Up to 3.8 the last watch that a session sets at a path replaces the others (ZOOKEEPER-4466); later they
coexist. So each test runs on the server of the run, and on embedded servers of both kinds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal, NamedTuple

import pytest

import corral
from corral import RawKind
from corral.testing import EmbeddedServer
from corral.testing.servers.base import four_letter_word
from support import PATIENCE, turns, until


class Site(NamedTuple):
    """A server, a client that watches, and another that makes changes."""

    address: str
    root: str
    zk: corral.Client
    other: corral.Client

    async def watched(self) -> dict[str, int]:
        """How many sessions watch each path, as the server reports; that includes watches of nodes and trees,
        not of children."""
        found: dict[str, int] = {}
        path = ""
        for line in (await four_letter_word(self.address, "wchp")).splitlines():
            if line.startswith("/"):
                path = line
            elif line.strip() and path.startswith(self.root + "/"):
                found[path.removeprefix(self.root)] = found.get(path.removeprefix(self.root), 0) + 1
        return found

    async def until_watched(self, *paths: str) -> None:
        """Wait until the server has one watch for each of these paths, and no other."""

        async def so() -> bool:
            return await self.watched() == dict.fromkeys(paths, 1)

        await until(so, f"one watch of each of {paths}, and no other")


@pytest.fixture(params=["the run's", "3.8", "3.9"])
async def site(
    request: pytest.FixtureRequest, server_address: str, root: str, connect: Callable[..., corral.Client]
) -> AsyncIterator[Site]:
    """The server of the run, or an embedded one."""
    if request.param == "the run's":
        async with connect() as zk, connect() as other:
            yield Site(server_address, root, zk, other)
        return
    version: Literal["3.8", "3.9"] = request.param
    async with (
        EmbeddedServer(version=version) as server,
        corral.connect(server.address) as zk,
        corral.connect(server.address) as other,
    ):
        yield Site(server.address, "", zk, other)


class Follower:
    """A task that follows a path. `knows` says whether it has got a change of `target`: of new data, and of a
    new child."""

    def __init__(self, zk: corral.Client, path: str) -> None:
        self.zk, self.path = zk, path
        self.begun = asyncio.Event()
        self.task = asyncio.create_task(self.follow())

    async def follow(self) -> None:
        raise NotImplementedError

    def knows(self, target: str, data: bytes, child: str) -> bool:
        raise NotImplementedError

    async def ready(self) -> None:
        """Wait until its watch is set on the server."""
        async with asyncio.timeout(PATIENCE):
            await self.begun.wait()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


class Node(Follower):
    data: bytes | None = None

    async def follow(self) -> None:
        async for event in self.zk.watch(self.path):
            self.data = event.data
            self.begun.set()

    def knows(self, target: str, data: bytes, child: str) -> bool:
        return self.data == data


class Children(Follower):
    children: frozenset[str] = frozenset()

    async def follow(self) -> None:
        async for event in self.zk.watch_children(self.path):
            self.children = event.children
            self.begun.set()

    def knows(self, target: str, data: bytes, child: str) -> bool:
        return child in self.children


class Tree(Follower):
    async def follow(self) -> None:
        self.states: dict[str, bytes | None] = {}
        async for event in self.zk.watch_tree(self.path):
            self.states[event.path] = event.data
            if event.kind is corral.EventKind.COMPLETE:
                self.begun.set()

    def knows(self, target: str, data: bytes, child: str) -> bool:
        return self.states.get(target) == data and f"{target}/{child}" in self.states


class Copy(Follower):
    async def follow(self) -> None:
        async with self.zk.cache(self.path) as self.cache:
            self.begun.set()
            await asyncio.get_running_loop().create_future()

    def knows(self, target: str, data: bytes, child: str) -> bool:
        node = self.cache.get(target)
        return node is not None and node.data == data and f"{target}/{child}" in self.cache


class Raw(Follower):
    recursive = False

    async def follow(self) -> None:
        self.seen: set[tuple[RawKind, str]] = set()
        async for event in self.zk.watch_raw(self.path, recursive=self.recursive):
            self.seen.add((event.kind, event.path))
            self.begun.set()

    def knows(self, target: str, data: bytes, child: str) -> bool:
        told = {(RawKind.DATA_CHANGED, target), (RawKind.CHILDREN_CHANGED, target)}
        if told <= self.seen:
            self.seen.clear()  # the next change is a new one
            return True
        return False


class RecursiveRaw(Raw):
    recursive = True

    def knows(self, target: str, data: bytes, child: str) -> bool:
        return (RawKind.CREATED, f"{target}/{child}") in self.seen


async def change(site: Site, target: str, number: int, *followers: Follower) -> None:
    """New data and a new child, which all followers must get."""
    await site.other.set(target, b"%d" % number)
    await site.other.create(f"{target}/child-{number}")
    await told(target, number, *followers)


async def told(target: str, number: int, *followers: Follower) -> None:
    """Wait until all followers know of a change."""
    for follower in followers:

        async def knows(follower: Follower = follower) -> bool:
            return follower.knows(target, b"%d" % number, f"child-{number}")

        await until(knows, f"{type(follower).__name__} was told of change {number}", patience=5.0)


@pytest.mark.parametrize("leaves_first", ["one-shot", "persistent"])
@pytest.mark.parametrize("comes_first", ["one-shot", "persistent"])
@pytest.mark.parametrize("one_shot", [Node, Children])
@pytest.mark.parametrize(
    ("persistent", "target"),
    [
        (Tree, "/a"),
        (Tree, "/a/b"),
        (Copy, "/a"),
        (Copy, "/a/b"),
        (Raw, "/a"),
        (RecursiveRaw, "/a"),
        (RecursiveRaw, "/a/b"),
    ],
)
async def test_nobody_misses_anything(
    site: Site,
    persistent: type[Follower],
    target: str,
    one_shot: type[Follower],
    comes_first: str,
    leaves_first: str,
) -> None:
    """W7, W6, W5: at the path of a persistent watch, and below it, one-shot watches report each change, and
    so does the persistent one, whichever was first. Together they are one watch on the server. When one
    leaves, the other stays."""
    await site.other.create("/a/b", make_parents=True)
    kinds = {"one-shot": (one_shot, target), "persistent": (persistent, "/a")}
    followers: dict[str, Follower] = {}
    for name in sorted(kinds, key=lambda name: name != comes_first):
        kind, path = kinds[name]
        followers[name] = kind(site.zk, path)
        await followers[name].ready()
        await turns()
    for number in range(3):
        await change(site, target, number, *followers.values())
    await site.until_watched("/a")
    await followers.pop(leaves_first).leave()
    [staying] = followers.values()
    for number in range(3, 6):
        await change(site, target, number, staying)
    if leaves_first == "one-shot":
        await site.until_watched("/a")
    elif one_shot is Node:
        await site.until_watched(target)
    await staying.leave()
    await site.until_watched()
    assert sum(site.zk.statistics().watches.values()) == 0


@pytest.mark.parametrize("kinds", [(Tree, Raw), (Raw, Tree), (Raw, RecursiveRaw), (RecursiveRaw, Raw)])
@pytest.mark.parametrize("leaves", [0, 1])
async def test_both_kinds_of_persistent_watches(
    site: Site, kinds: tuple[type[Follower], type[Follower]], leaves: int
) -> None:
    """W7: a watch of a node and one of the tree from there share the server's watch of the path, or replace
    each other."""
    await site.other.create("/a")
    followers = []
    for kind in kinds:
        followers.append(kind(site.zk, "/a"))
        await followers[-1].ready()
    for number in range(2):
        await change(site, "/a", number, *followers)
    await site.until_watched("/a")
    await followers.pop(leaves).leave()
    await site.zk.exists("/a")
    await site.zk.exists("/a")  # by now the server has handled the requests
    for number in range(2, 4):
        await change(site, "/a", number, *followers)
    await site.until_watched("/a")
    await followers[0].leave()
    await site.until_watched()


@pytest.mark.parametrize("tree", ["first", "second"])
@pytest.mark.parametrize("leaves", [True, False], ids=["tree leaves", "tree stays"])
@pytest.mark.parametrize("below", [True, False], ids=["below", "at"])
async def test_lock_waiter_in_a_tree(site: Site, below: bool, leaves: bool, tree: str) -> None:
    """W7, L1: a waiter for a lock gets the event when the holder's node is deleted, although a tree with that
    node in it, or from it, is watched, or was."""
    held = await site.other.lock("/lock").acquire()
    node = held.node.removeprefix(site.other.chroot_path)
    path = "/lock" if below else node
    if tree == "first":
        follower = Tree(site.zk, path)
        await follower.ready()
    acquiring = asyncio.create_task(site.zk.lock("/lock").acquire())

    async def in_line() -> bool:
        return len(await site.other.children("/lock")) == 2

    await until(in_line, "it stands in the line")
    await site.zk.exists(node)  # after the read that sets the waiter's watch, so that one has been answered
    if tree == "second":
        follower = Tree(site.zk, path)
        await follower.ready()
    if tree == "first":
        await site.until_watched(path)
    if leaves:
        await follower.leave()
        await site.until_watched(node)
    await held.release()
    async with asyncio.timeout(PATIENCE):
        await (await acquiring).release()
    if not leaves:
        await follower.leave()
    await site.until_watched()


async def test_all_of_it_over_a_reconnect(
    connect: Callable[..., corral.Client], other: corral.Client, proxy: corral.testing.FaultProxy
) -> None:
    """W7, W3, W6: changes made while disconnected are found by all, including those that the persistent watch
    feeds (ZOOKEEPER-4698)."""
    await other.create("/a/b", make_parents=True)
    async with connect(to=proxy.address) as zk:
        site = Site("", "", zk, other)
        followers = [
            kind(zk, path)
            for kind, path in ((Tree, "/a"), (Node, "/a/b"), (Children, "/a/b"), (Copy, "/a/b"))
        ]
        for follower in followers:
            await follower.ready()
        await change(site, "/a/b", 1, *followers)
        async with proxy.refuse():
            await proxy.cut()
            await change(site, "/a/b", 2)
            await change(site, "/a/b", 3)
        await told("/a/b", 3, *followers)
        await change(site, "/a/b", 4, *followers)
        for follower in followers:
            await follower.leave()
