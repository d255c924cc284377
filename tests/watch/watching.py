"""What the tests of watches share: reading one with patience, and what is registered, here and on the server."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar

import corral
from corral import Event, EventKind, RawKind
from corral.testing._server import four_letter_word
from support import PATIENCE, turns, until

E = TypeVar("E")
Change = Callable[[corral.Client], Awaitable[object]]


async def watches_on(address: str) -> int:
    """How many watches of any kind the server has for all its sessions: of those of children it says no more."""
    answer = await four_letter_word(address, "mntr")
    [count] = [line.split()[1] for line in answer.splitlines() if line.startswith("zk_watch_count")]
    return int(count)


async def watching_sessions(address: str, full: str) -> int:
    """How many sessions have a watch on the full path, by what the server says."""
    answer = await four_letter_word(address, "wchp")
    sessions_by_path: Counter[str] = Counter()
    path = ""
    for line in answer.splitlines():
        if line.startswith("/"):
            path = line
        elif line.strip():
            sessions_by_path[path] += 1
    return sessions_by_path[full]


async def next_of(events: AsyncIterator[E]) -> E:
    """The next event, if it comes within our patience."""
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def told_of(change: Awaitable[object], events: AsyncIterator[E]) -> E:
    """The event that a reader gets who waits while the change is made."""
    waiting = asyncio.create_task(next_of(events))
    await turns()
    await change
    return await waiting


async def first_of(events: corral.TreeWatch) -> list[corral.Event]:
    """What a watch of a tree tells first, without the event that completes it."""
    first: list[corral.Event] = []
    while (event := await next_of(events)).kind is not EventKind.COMPLETE:
        first.append(event)
    return first


async def tells_nothing(zk: corral.Client, events: AsyncIterator[object]) -> None:
    """There is no news in what the server has told so far: a reader waits, and goes on waiting when everything that
    it has asked for is answered."""
    waiting = asyncio.create_task(next_of(events))
    for _ in range(4):  # of a change one hears, and then reads, and of children who are not there twice
        await zk.exists("/")
        await turns()
    assert not waiting.done(), f"told of {waiting.result()}"
    waiting.cancel()
    await asyncio.wait([waiting])


def registered(zk: corral.Client) -> tuple[int, int]:
    """How many feeds and how many watched paths a client has: no public attribute tells."""
    return len(zk._feeds), len(zk._session._machine.watches)


async def until_unregistered(zk: corral.Client) -> None:
    """Wait until the client has no watch left."""

    async def unregistered() -> bool:
        return registered(zk) == (0, 0)

    await until(unregistered, "the client has no watch left")


Reader: TypeAlias = (
    "corral.NodeWatch | corral.ChildrenWatch | corral.TreeWatch | corral.RawWatch"  # whatever can be iterated
)


class WatchKind(NamedTuple):
    """One kind of watch of /node, and a change that it tells of, the n-th of its kind, in one event."""

    make: Callable[[corral.Client], Reader]
    change: Callable[[corral.Client, int], Awaitable[object]]
    shows: Callable[[Any, int], bool]
    states: bool = True
    """Whether its events are states, of which none is lost."""


async def begin(events: Reader) -> None:
    """Read what a watch tells at first."""
    if isinstance(events, corral.TreeWatch):
        await first_of(events)
    else:
        await next_of(events)


KINDS = {
    "node": WatchKind(
        lambda zk: zk.watch("/node"),
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda event, n: event.data == b"%d" % n,
    ),
    "children": WatchKind(
        lambda zk: zk.watch_children("/node"),
        lambda zk, n: zk.create(f"/node/{n}"),
        lambda event, n: str(n) in event.added,
    ),
    "tree": WatchKind(
        lambda zk: zk.watch_tree("/node"),
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda event, n: event.data == b"%d" % n,
    ),
    "raw": WatchKind(
        lambda zk: zk.watch_raw("/node"),
        lambda zk, n: zk.set("/node", b"%d" % n),
        lambda event, n: event.kind is RawKind.DATA_CHANGED,
        states=False,
    ),
}
STATES = [name for name, kind in KINDS.items() if kind.states]


# Trees


async def grow(zk: corral.Client, *paths: str) -> None:
    """Create nodes, each with its path as data."""
    for path in paths:
        await zk.create(path, path.encode())


async def recreate(zk: corral.Client, *paths: str) -> None:
    """Delete nodes, children first, and create them again, all at once."""
    async with zk.transaction() as tx:
        for path in reversed(paths):
            tx.delete(path)
        for path in paths:
            tx.create(path, path.encode())


class TreeMirror:
    """A copy that is made of a reader's events, which it holds to what they promise."""

    def __init__(self, root: str) -> None:
        self.now: dict[str, tuple[bytes, int, int]] = {}
        self.complete = False
        self._root = root

    def take(self, event: Event) -> None:
        """Take in one event."""
        path, kind = event.path, event.kind
        if kind is EventKind.COMPLETE:
            assert not self.complete
            self.complete = True
            return
        before = self.now.get(path)
        if event.stat is None:
            assert not [each for each in self.now if each.startswith(f"{path}/")], (
                f"{path} before its children"
            )
            assert (kind is EventKind.DELETED) is (before is not None)
            self.now.pop(path, None)
            return
        parent = path.rpartition("/")[0]
        assert path == self._root or parent in self.now, f"{path} before its parent"
        now = (event.data or b"", event.stat.czxid, event.stat.mzxid)
        assert now != before, f"{event} is told twice"
        if before is None:
            assert kind is (EventKind.CREATED if self.complete else EventKind.PRESENT)
        else:
            assert now[2] > before[2], f"{event} is older than {before}"
            assert kind is (EventKind.CHANGED if now[1] == before[1] else EventKind.CREATED)
        self.now[path] = now


def random_changes(dice: random.Random) -> Iterator[Change]:
    """Changes of a tree, each possible after the ones before it."""
    nodes: dict[str, int] = {}  # with how many children each has
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


async def contents(zk: corral.Client, path: str) -> dict[str, tuple[bytes, int, int]]:
    """What a tree is, read by other means than a watch."""
    try:
        data, stat = await zk.get(path)
    except corral.NoNode:
        return {}
    found = {path: (data, stat.czxid, stat.mzxid)}
    for name in await zk.children(path):
        found |= await contents(zk, f"{path}/{name}")
    return found
