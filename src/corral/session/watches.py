"""The only owner of the server's watches: which there are, and who wants to know (W7). No I/O.

A server's watch of a node is one-shot and belongs to the session's connection. So there is an entry a
path, with all who watch it, and with whether the server has a watch for it now. Several watchers share one
server watch (W4). An event uses it up and fires every watcher; each reads again, with a watch, when it
cares to.

The session restores the *subscription* after a reconnect (`rearm`); what was known before, the watchers
find out again when they are fired.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Protocol

from corral.wire import messages
from corral.wire.messages import Operation

# What one message that sets watches again may hold in paths, in bytes. Well below any server's frame limit.
CHUNK = 128 * 1024


class Kind(enum.IntEnum):
    """What is watched of a node. The numbers are the protocol's, to remove one by."""

    CHILDREN = 1
    """Which children there are."""
    NODE = 2
    """Its existence and its data."""


class Change(enum.IntEnum):
    """What a watcher is told. The numbers are the protocol's event types."""

    UNKNOWN = 0
    """Anything may have happened: the watch was lost."""
    CREATED = 1
    DELETED = 2
    DATA_CHANGED = 3
    CHILDREN_CHANGED = 4


class Watcher(Protocol):
    """Whoever wants to know that a node changed."""

    def fire(self, change: Change) -> None:
        """It has changed, and may have again: look. Called from within the session; must not raise."""


class Armed(enum.Enum):
    """What the server has for a path. They differ only in how they are set again after a reconnect."""

    NO = "no watch"
    DATA = "a watch on a node that exists"
    EXIST = "a watch on a node that does not exist"
    CHILDREN = "a watch on the children of a node"


class _Entry:
    __slots__ = ("armed", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.armed = Armed.NO


class WatchRegistry:
    """Watches on single nodes and on their children, by full path."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Entry] = {}
        self._children: dict[str, _Entry] = {}
        self._by_kind = {Kind.NODE: self._nodes, Kind.CHILDREN: self._children}

    def __len__(self) -> int:
        return len(self._nodes) + len(self._children)

    def add(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> None:
        """`watcher` is to be fired when the node at `path`, or which children it has, may have changed, until
        it is removed."""
        entries = self._by_kind[kind]
        entry = entries.get(path)
        if entry is None:
            entry = entries[path] = _Entry()
        entry.watchers[watcher] = None

    def remove(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> bool:
        """`watcher` is to be fired no more. Whether the server has a watch now that nobody wants."""
        entries = self._by_kind[kind]
        entry = entries.get(path)
        if entry is None or watcher not in entry.watchers:
            return False
        del entry.watchers[watcher]
        if entry.watchers:
            return False
        del entries[path]
        return entry.armed is not Armed.NO

    def armed(self, path: str, armed: Armed, kind: Kind = Kind.NODE) -> bool:
        """The server has set a watch. Whether somebody still wants it."""
        entry = self._by_kind[kind].get(path)
        if entry is None:
            return False
        entry.armed = armed
        return True

    def is_armed(self, path: str) -> bool:
        """Whether the server will tell us of the next change of the node."""
        entry = self._nodes.get(path)
        return entry is not None and entry.armed is not Armed.NO

    def notify(self, event: int, path: str) -> None:
        """The server has told of an event, and has used up its watch; both of them, if a node is gone."""
        for concerned, entries in ((_NODE_EVENTS, self._nodes), (_CHILDREN_EVENTS, self._children)):
            change = concerned.get(event)
            entry = entries.get(path) if change is not None else None
            if entry is not None and change is not None:
                entry.armed = Armed.NO
                for watcher in tuple(entry.watchers):
                    watcher.fire(change)

    def rearm(self, zxid: int) -> Iterator[tuple[Operation, bytes]]:
        """Messages that set every watch again; the server fires those whose node changed after `zxid`."""
        chunk: dict[Armed, list[str]] = {armed: [] for armed in Armed}
        size = 0
        for path, entry in [*self._nodes.items(), *self._children.items()]:  # one may end between two chunks
            if entry.armed is Armed.NO:
                continue
            if size >= CHUNK:
                yield _set_again(zxid, chunk)
                chunk, size = {armed: [] for armed in Armed}, 0
            chunk[entry.armed].append(path)
            size += 4 + 3 * len(path)  # at most three bytes a character: others are forbidden in paths
        if size:
            yield _set_again(zxid, chunk)

    def reset(self) -> None:
        """The session is over and its watches with it: everybody looks again."""
        entries = [*self._nodes.values(), *self._children.values()]
        for entry in entries:
            entry.armed = Armed.NO
        for entry in entries:
            for watcher in tuple(entry.watchers):
                watcher.fire(Change.UNKNOWN)


def _set_again(zxid: int, chunk: dict[Armed, list[str]]) -> tuple[Operation, bytes]:
    return messages.SET_WATCHES, messages.encode_set_watches(
        zxid, chunk[Armed.DATA], chunk[Armed.EXIST], chunk[Armed.CHILDREN]
    )


_NODE_EVENTS: dict[int, Change] = {
    int(change): change for change in (Change.CREATED, Change.DELETED, Change.DATA_CHANGED)
}
_CHILDREN_EVENTS: dict[int, Change] = {
    int(change): change for change in (Change.DELETED, Change.CHILDREN_CHANGED)
}
