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


class Change(enum.IntEnum):
    """What a watcher is told. The numbers are the protocol's event types."""

    UNKNOWN = 0
    """Anything may have happened: the watch was lost."""
    CREATED = 1
    DELETED = 2
    DATA_CHANGED = 3


class Watcher(Protocol):
    """Whoever wants to know that a node changed."""

    def fire(self, change: Change) -> None:
        """It has changed, and may have again: look. Called from within the session; must not raise."""


class Armed(enum.Enum):
    """What the server has for a path. The two differ only in how they are set again after a reconnect."""

    NO = "no watch"
    DATA = "a watch on a node that exists"
    EXIST = "a watch on a node that does not exist"


class _Entry:
    __slots__ = ("armed", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.armed = Armed.NO


class WatchRegistry:
    """Watches on single nodes, by full path."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, path: str, watcher: Watcher) -> None:
        """`watcher` is to be fired when the node at `path` may have changed, until it is removed."""
        entry = self._entries.get(path)
        if entry is None:
            entry = self._entries[path] = _Entry()
        entry.watchers[watcher] = None

    def remove(self, path: str, watcher: Watcher) -> bool:
        """`watcher` is to be fired no more. Whether the server has a watch now that nobody wants."""
        entry = self._entries.get(path)
        if entry is None or watcher not in entry.watchers:
            return False
        del entry.watchers[watcher]
        if entry.watchers:
            return False
        del self._entries[path]
        return entry.armed is not Armed.NO

    def armed(self, path: str, armed: Armed) -> bool:
        """The server has set a watch. Whether somebody still wants it."""
        entry = self._entries.get(path)
        if entry is None:
            return False
        entry.armed = armed
        return True

    def is_armed(self, path: str) -> bool:
        """Whether the server will tell us of the next change."""
        entry = self._entries.get(path)
        return entry is not None and entry.armed is not Armed.NO

    def notify(self, kind: int, path: str) -> None:
        """The server has told of an event, and has used up its watch."""
        entry = self._entries.get(path)
        change = _NODE_EVENTS.get(kind)
        if entry is not None and change is not None:
            entry.armed = Armed.NO
            for watcher in tuple(entry.watchers):
                watcher.fire(change)

    def rearm(self, zxid: int) -> Iterator[tuple[Operation, bytes]]:
        """Messages that set every watch again; the server fires those whose node changed after `zxid`."""
        data: list[str] = []
        exist: list[str] = []
        size = 0
        for path, entry in list(self._entries.items()):  # a watch may end between two chunks
            if entry.armed is Armed.NO:
                continue
            if size >= CHUNK:
                yield messages.SET_WATCHES, messages.encode_set_watches(zxid, data, exist, [])
                data, exist, size = [], [], 0
            (data if entry.armed is Armed.DATA else exist).append(path)
            size += 4 + 3 * len(path)  # at most three bytes a character: others are forbidden in paths
        if data or exist:
            yield messages.SET_WATCHES, messages.encode_set_watches(zxid, data, exist, [])

    def reset(self) -> None:
        """The session is over and its watches with it: everybody looks again."""
        entries = list(self._entries.values())
        for entry in entries:
            entry.armed = Armed.NO
        for entry in entries:
            for watcher in tuple(entry.watchers):
                watcher.fire(Change.UNKNOWN)


_NODE_EVENTS: dict[int, Change] = {int(change): change for change in Change if change is not Change.UNKNOWN}
