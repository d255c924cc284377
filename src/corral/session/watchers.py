"""What the registry of watches and whoever watches say to each other: kinds, events, and the watchers'
protocols."""

from __future__ import annotations

import enum
from typing import Protocol


class WatchKind(enum.Enum):
    """What is watched."""

    CHILDREN = "children"
    """The set of a node's children; one-shot."""
    NODE = "node"
    """A node's existence and data; one-shot."""
    PERSISTENT = "persistent"
    """A node's existence, its data, and the set of its children."""
    RECURSIVE = "recursive"
    """The existence and data of a node and of all its descendants."""


class WatchEvent(enum.IntEnum):
    """What a watcher is notified of. The numbers from 1 on are the protocol's event types."""

    ARMED = -1
    """A persistent watch is set: each change from now on makes an event."""
    UNKNOWN = 0
    """The watch was lost: anything may have happened."""
    CREATED = 1
    DELETED = 2
    DATA_CHANGED = 3
    CHILDREN_CHANGED = 4


class Watcher(Protocol):
    """Whoever watches a path."""

    def fire(self, event: WatchEvent, path: str, zxid: int, /) -> None:
        """Something happened at the full path, and more may have: read again.

        `zxid` is the transaction's if the server sends it (from 3.9 on), else -1. Called from within the
        session; must not raise."""


class PersistentWatcher(Watcher, Protocol):
    """Whoever watches a path by a persistent watch."""

    def refused(self, error: BaseException, /) -> None:
        """The watch could not be set: the server refused it, or its request is too large, or
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on it. It is not tried again until another
        watcher is added. Must not raise."""
