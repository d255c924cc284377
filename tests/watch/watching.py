"""Helpers of the watch tests: reading a watch with a time limit, and what is registered in the client and on
the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar

import corral
from corral import EventKind, RawKind
from corral.wire import messages
from corral.wire.messages import Operation
from support import PATIENCE, turns, until
from watch_support import (
    ChildrenMirror,
    Mirror,
    NodeMirror,
    TreeMirror,
    children_contents,
    contents,
    node_contents,
)

E = TypeVar("E")
Change = Callable[[corral.Client], Awaitable[object]]


async def next_of(events: AsyncIterator[E]) -> E:
    """The next event, if it comes in time."""
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def told_of(change: Awaitable[object], events: AsyncIterator[E]) -> E:
    """The event that a waiting reader gets for a change."""
    waiting = asyncio.create_task(next_of(events))
    await turns()
    await change
    return await waiting


async def first_of(events: corral.TreeWatch) -> list[corral.Event]:
    """The initial events of a tree watch, without the one that completes them."""
    first: list[corral.Event] = []
    while (event := await next_of(events)).kind is not EventKind.COMPLETE:
        first.append(event)
    return first


async def tells_nothing(zk: corral.Client, events: AsyncIterator[object]) -> None:
    """Checks that the server's events so far cause none for the reader: the reader waits, and still waits
    when all requests are answered."""
    waiting = asyncio.create_task(next_of(events))
    for _ in range(4):  # one for the event, one for the read, and twice that for children of a missing node
        await zk.exists("/")
        await turns()
    assert not waiting.done(), f"told of {waiting.result()}"
    waiting.cancel()
    await asyncio.wait([waiting])


def registered(zk: corral.Client) -> tuple[int, int]:
    """How many feeds and how many watched paths a client has."""
    return len(zk._feeds), sum(zk.statistics().watches.values())


async def until_unregistered(zk: corral.Client) -> None:
    """Wait until the client has no watch left."""

    async def unregistered() -> bool:
        return registered(zk) == (0, 0)

    await until(unregistered, "the client has no watch left")


Reader: TypeAlias = (  # all that can be iterated
    "corral.NodeWatch | corral.ChildrenWatch | corral.TreeWatch | corral.RawWatch | corral.ValueWatch[bytes]"
)


class WatchKind(NamedTuple):
    """One kind of watch, and a change of /node, the n-th of its kind, that it reports in one event."""

    verb: str
    read: Operation | None
    """The operation that reads a state."""
    change: Callable[[corral.Client, int], Awaitable[object]]
    shows: Callable[[Any, int], bool]

    @property
    def states(self) -> bool:
        """Whether its events are states, of which none is lost."""
        return self.read is not None

    def make(self, zk: corral.Client, path: str = "/node") -> Reader:
        """A watch of this kind."""
        if self.verb == "value(...).watch":
            return zk.value(path, default=b"").watch()
        watch: Reader = getattr(zk, self.verb)(path)
        return watch


async def begin(events: Reader) -> None:
    """Read the initial events of a watch."""
    if isinstance(events, corral.TreeWatch):
        await first_of(events)
    else:
        await next_of(events)


KINDS = {
    "node": WatchKind(
        "watch",
        messages.GET,
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda event, n: event.data == b"%d" % n,
    ),
    "value": WatchKind(
        "value(...).watch",
        messages.GET,
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda current, n: current.value == b"%d" % n,
    ),
    "children": WatchKind(
        "watch_children",
        messages.CHILDREN2,
        lambda zk, n: zk.create(f"/node/{n}"),
        lambda event, n: str(n) in event.added,
    ),
    "tree": WatchKind(
        "watch_tree",
        messages.MULTI_READ,
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda event, n: event.data == b"%d" % n,
    ),
    "raw": WatchKind(
        "watch_raw",
        None,
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda event, n: event.kind is RawKind.DATA_CHANGED,
    ),
}
STATES = [name for name, kind in KINDS.items() if kind.states]


# Trees


async def grow(zk: corral.Client, *paths: str) -> None:
    """Create nodes, each with its path as data."""
    for path in paths:
        await zk.create(path, path.encode())


def fail_at_bad(path: str) -> bool:
    """Wants everything, and raises for the bad node."""
    if "bad" in path:
        raise LookupError(path)
    return True


async def recreate(zk: corral.Client, *paths: str) -> None:
    """Delete nodes, children first, and create them again, all at once."""
    async with zk.transaction() as tx:
        for path in reversed(paths):
            tx.delete(path)
        for path in paths:
            tx.create(path, path.encode())


def random_changes(dice: random.Random) -> Iterator[Change]:
    """Changes of a tree, each of them possible after the previous ones."""
    nodes: dict[str, int] = {}  # with the number of their children
    while True:
        leaves = [path for path, children in nodes.items() if not children]
        action = dice.choice(["create", "create", "create", "set", "set", "delete", "recreate"])
        if action == "create":
            parent = dice.choice(["", *(path for path in nodes if path.count("/") < 5)])
            path = f"{parent}/{dice.randrange(4)}" if parent else "/tree"
            if path not in nodes and (parent or not nodes):
                nodes[path] = 0
                if parent:
                    nodes[parent] += 1
                yield lambda zk, path=path: zk.create(path, b"created")
        elif action == "set" and nodes:
            path, data = dice.choice(list(nodes)), dice.choice([b"one", b"another"])
            yield lambda zk, path=path, data=data: zk.set(path, data)
        elif action == "delete" and leaves:
            path = dice.choice(leaves)
            del nodes[path]
            if path != "/tree":
                nodes[path.rpartition("/")[0]] -= 1
            yield lambda zk, path=path: zk.delete(path)
        elif action == "recreate" and leaves:
            path = dice.choice(leaves)
            yield lambda zk, path=path: recreate(zk, path)


# Histories


async def follow_cache(zk: corral.Client, path: str, follower: Follower) -> None:
    """Pass a cache's changes to a follower, and check that the cache agrees with them."""
    async with zk.cache(path) as cache:
        follower.mirror.now = {each: (data, stat.czxid, stat.mzxid) for each, (data, stat) in cache.items()}
        follower.mirror.complete = True
        follower.news.set()
        async for event in cache.changes():
            node = cache.get(event.path)
            # It may be newer, but not older.
            assert node is None or event.stat is None or node.stat.mzxid >= event.stat.mzxid
            follower.take(event)


Step: TypeAlias = Callable[[corral.Client, str], Awaitable[object]]


class History(NamedTuple):
    """The changes of a node, step by step, and one way of following them."""

    follow: Callable[[corral.Client, str, Follower], Coroutine[Any, Any, None]]
    """Pass the events to a follower, for ever."""
    mirror: Callable[[str], Mirror]
    truth: Callable[[corral.Client, str], Awaitable[Any]]
    """The final content of the mirror."""
    steps: list[Step]


def _following(
    watch: Callable[[corral.Client, str], Any],
) -> Callable[[corral.Client, str, Follower], Coroutine[Any, Any, None]]:
    async def follow(zk: corral.Client, path: str, follower: Follower) -> None:
        async with watch(zk, path) as events:
            async for event in events:
                follower.take(event)

    return follow


def _emptied(zk: corral.Client, path: str) -> Awaitable[object]:
    return zk.delete(path, recursive=True)


_NODE_STEPS: list[Step] = [
    lambda zk, path: zk.create(path, b"0"),
    lambda zk, path: zk.set(path, b"1"),
    lambda zk, path: zk.delete(path),
    lambda zk, path: zk.create(path, b"3"),
    lambda zk, path: zk.delete(path),
    lambda zk, path: zk.create(path, b"5"),
    lambda zk, path: zk.set(path, b"6"),
]
_CHILDREN_STEPS: list[Step] = [
    lambda zk, path: zk.create(path),
    lambda zk, path: zk.create(f"{path}/a"),
    lambda zk, path: zk.create(f"{path}/b"),
    lambda zk, path: zk.delete(f"{path}/a"),
    _emptied,
    lambda zk, path: zk.create(path),
    lambda zk, path: zk.create(f"{path}/b"),
]
_TREE_STEPS: list[Step] = [
    lambda zk, path: zk.create(path, b"0"),
    lambda zk, path: zk.create(f"{path}/a", b"1"),
    lambda zk, path: zk.create(f"{path}/a/b", b"2"),
    lambda zk, path: zk.set(f"{path}/a", b"3"),
    lambda zk, path: zk.create(f"{path}/a/b/c", b"4"),
    lambda zk, path: zk.set(f"{path}/a/b/c", b"5"),
    lambda zk, path: zk.delete(f"{path}/a/b", recursive=True),
    _emptied,
    lambda zk, path: zk.create(f"{path}/a/b", b"8", make_parents=True),
    lambda zk, path: zk.set(path, b"9"),
]

HISTORIES = {
    "node": History(
        _following(lambda zk, path: zk.watch(path)), lambda _: NodeMirror(), node_contents, _NODE_STEPS
    ),
    "children": History(
        _following(lambda zk, path: zk.watch_children(path)),
        lambda _: ChildrenMirror(),
        children_contents,
        _CHILDREN_STEPS,
    ),
    "tree": History(_following(lambda zk, path: zk.watch_tree(path)), TreeMirror, contents, _TREE_STEPS),
    "cache": History(follow_cache, TreeMirror, contents, _TREE_STEPS),
}


class Follower:
    """A task that follows a node, and must end with the server's state."""

    def __init__(self, history: History, zk: corral.Client, path: str) -> None:
        self.history = history
        self.mirror: Any = history.mirror(path)
        self.news = asyncio.Event()
        self._path = path
        self._task = asyncio.create_task(history.follow(zk, path, self))
        self._task.add_done_callback(lambda _: self.news.set())

    def take(self, event: Any) -> None:
        """Take an event."""
        self.mirror.take(event)
        self.news.set()

    async def __aenter__(self) -> Follower:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            await self._task

    async def knows(self, other: corral.Client) -> None:
        """Wait until it has the server's state."""
        truth = await self.history.truth(other, self._path)
        try:
            async with asyncio.timeout(PATIENCE):
                while not (self.mirror.complete and self.mirror.now == truth):
                    if self._task.done():
                        await self._task
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"the state now, {truth}, is not told; last was {self.mirror.now}") from None

    async def write(self, other: corral.Client, steps: slice, *, paced: bool = False) -> None:
        """Apply the node's history; `paced`: each step once the previous one is known."""
        for step in self.history.steps[steps]:
            await step(other, self._path)
            if paced:
                await self.knows(other)
