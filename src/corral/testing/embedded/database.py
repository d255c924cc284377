"""The server's state: the tree, its watches, and the last zxid. Every change is applied here."""

from __future__ import annotations

import struct
from collections.abc import Callable

from corral.wire import messages

from . import acls
from .acls import AccessList
from .codes import OK
from .releases import Release, rules
from .server_connection import ServerConnection
from .tree import Node, Tree, parent_of
from .watches import Firing, ServerWatches
from .writes import Change, Creation, Deletion, NewAcl, NewData

__all__ = ["NO_ZXID", "Database", "event"]

NO_ZXID = -1
"""In a header: no zxid."""

_NOTIFICATION = struct.Struct(">iiqi")
_CONNECTED = 3


class Database:
    """The tree with its watches; `wall` returns milliseconds since the epoch."""

    def __init__(self, *, version: Release, wall: Callable[[], int]) -> None:
        self.tree = Tree()
        self.watches: ServerWatches[ServerConnection] = ServerWatches(version=rules(version))
        self.zxid = 0
        """The last zxid. A handler increments it for each write, before the write is checked."""
        self._wall = wall
        self._events_have_zxids = version == "3.9"
        self._hides_events = version in ("3.8", "3.9")

    def apply(self, change: Change) -> Node:
        """Apply a change with the last zxid, and send its events. Returns the changed node."""
        tree, watches, path = self.tree, self.watches, change.path
        if isinstance(change, NewData):
            node = tree.nodes[path]
            node.data = change.data
            node.version = change.version
            node.mzxid = self.zxid
            node.mtime = self._wall()
            self._notify(watches.data_changed(path), node.acl)
            return node
        if isinstance(change, Creation):
            node = change.node(self.zxid, self._wall())
            parent = tree.create(path, node, change.creations)
            own, of_parent = watches.created(path, parent_of(path) or "/")
            self._notify(own, node.acl)
            self._notify(of_parent, parent.acl)
            return node
        if isinstance(change, Deletion):
            node, parent = tree.delete(path, self.zxid)
            own, of_parent = watches.deleted(path, parent_of(path) or "/")
            self._notify(own, node.acl)
            self._notify(of_parent, parent.acl)
            return node
        node = tree.nodes[path]
        if isinstance(change, NewAcl):
            node.acl = change.acl
            node.aversion = change.version
        return node

    def _notify(self, firing: Firing[ServerConnection], acl: AccessList) -> None:
        """Send an event to the watchers that may read its node; before the fix of CVE-2024-23944, to all. All
        their watches have fired."""
        kind, path, watchers = firing
        if watchers:
            frame = event(kind, path, self.zxid if self._events_have_zxids else NO_ZXID)
            for connection in watchers:
                if not self._hides_events or acl.allows(acls.READ, connection.identities):
                    connection.send(frame)


def event(kind: int, path: str, zxid: int) -> bytes:
    """The frame of an event."""
    body = messages.WATCH_EVENT.encode(kind, _CONNECTED, path)
    return _NOTIFICATION.pack(16 + len(body), messages.NOTIFICATION_XID, zxid, OK) + body
