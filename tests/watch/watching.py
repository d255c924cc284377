"""What the tests of watches share: reading one with patience, and what is registered, here and on the server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import corral
from corral import EventKind, RawKind
from corral.testing._server import four_letter_word
from support import PATIENCE, turns, until

E = TypeVar("E")


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
