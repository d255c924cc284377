"""Mirrors, which check a watch's events against its guarantees; and the true state, read by other means."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeAlias

import corral
from corral import ChildrenEvent, Event, EventKind
from corral.testing.servers.base import four_letter_word


class NodeMirror:
    """The last state that a reader of one node got; checks each event."""

    def __init__(self) -> None:
        self.now: tuple[bytes, int, int] | None = None
        self.zxid = 0
        self.complete = False

    def take(self, event: Event) -> None:
        """Take one event."""
        first, self.complete = not self.complete, True
        now = None if event.stat is None else (event.data or b"", event.stat.czxid, event.stat.mzxid)
        assert first or now != self.now, f"{event} is told twice"
        if event.stat is not None:
            assert event.stat.mzxid > self.zxid, f"{event} is older than what was told before"
            self.zxid = event.stat.mzxid
        self.now = now


class ChildrenMirror:
    """The last state that a reader of children got; checks each event."""

    def __init__(self) -> None:
        self.now: frozenset[str] | None = None
        self.czxid = self.pzxid = 0
        self.complete = False

    def take(self, event: ChildrenEvent) -> None:
        """Take one event."""
        first, self.complete = not self.complete, True
        before = self.now or frozenset()
        assert event.children == before - event.removed | event.added
        assert not event.added & before
        assert event.removed <= before
        if event.stat is not None:
            assert event.stat.pzxid > self.pzxid, f"{event} is older than what was told before"
            assert self.now != event.children or event.stat.czxid > self.czxid, f"{event} is told twice"
            self.pzxid, self.czxid = event.stat.pzxid, event.stat.czxid
        else:
            assert first or self.now is not None, f"{event} is told twice"
        self.now = None if event.stat is None else event.children


class TreeMirror:
    """A copy of a tree that is built from a reader's events; checks each event."""

    def __init__(self, root: str, now: dict[str, tuple[bytes, int, int]] | None = None) -> None:
        self.now = {} if now is None else now
        """The initial content; if given, no initial events are expected."""
        self.complete = now is not None
        self._root = root
        self._newest = {path: mzxid for path, (_, _, mzxid) in self.now.items()}

    def take(self, event: Event) -> None:
        """Take one event."""
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
        assert now[2] > self._newest.get(path, 0), f"{event} is told twice, or behind a newer state"
        self._newest[path] = now[2]
        if before is None:
            assert kind is (EventKind.CREATED if self.complete else EventKind.PRESENT)
        else:
            assert kind is (EventKind.CHANGED if now[1] == before[1] else EventKind.CREATED)
        self.now[path] = now


Mirror: TypeAlias = "NodeMirror | ChildrenMirror | TreeMirror"


async def contents(zk: corral.Client, path: str) -> dict[str, tuple[bytes, int, int]]:
    """The content of a tree, read by other means than a watch."""
    try:
        data, stat = await zk.get(path)
    except corral.NoNode:
        return {}
    found = {path: (data, stat.czxid, stat.mzxid)}
    for below in await asyncio.gather(*(contents(zk, f"{path}/{name}") for name in await zk.children(path))):
        found |= below
    return found


def shown(cache: corral.Cache) -> dict[str, tuple[bytes, int, int]]:
    """The content of a tree as a cache shows it."""
    return {path: (data, stat.czxid, stat.mzxid) for path, (data, stat) in cache.items()}


async def node_contents(zk: corral.Client, path: str) -> tuple[bytes, int, int] | None:
    """The content of a node, read by other means than a watch."""
    return (await contents(zk, path)).get(path)


async def children_contents(zk: corral.Client, path: str) -> frozenset[str] | None:
    """The children of a node, read by other means than a watch."""
    try:
        return frozenset(await zk.children(path))
    except corral.NoNode:
        return None


async def watches_on(address: str) -> int:
    """How many watches of any kind the server has for all sessions; nothing more is reported about those of
    children."""
    answer = await four_letter_word(address, "mntr")
    [count] = [line.split()[1] for line in answer.splitlines() if line.startswith("zk_watch_count")]
    return int(count)


async def watching_sessions(address: str, full: str) -> int:
    """How many sessions have a watch on the full path, as the server reports."""
    answer = await four_letter_word(address, "wchp")
    sessions_by_path: Counter[str] = Counter()
    path = ""
    for line in answer.splitlines():
        if line.startswith("/"):
            path = line
        elif line.strip():
            sessions_by_path[path] += 1
    return sessions_by_path[full]
