"""The local copy of a subtree, and what each of its readers has still to receive. Pure data.

The copy has a node only if it has the node's parent. Readers receive a parent's creation before those of its
children, and its deletion after theirs.

A reader's *news* are paths, in the order of delivery, each with the state of the node that the reader
received last. Their number is bounded by the tree (W2), and a node that was created and deleted unseen
makes no event."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from corral import paths
from corral.types import EventKind, Znode
from corral.watch.shared import Cursor

__all__ = ["TreeChange", "TreeCopy", "TreeCursor"]

TreeChange: TypeAlias = "tuple[EventKind, str, Znode | None]"
"""How a node has changed, its full path, and what it is now."""

Identity: TypeAlias = "tuple[int, int] | None"
"""Tells two states of a node apart: czxid and mzxid, or None if the node does not exist."""

_UNREPORTED: Identity = (-1, -1)
"""Of the root alone, which is reported even if it does not exist."""
_COMPLETE = ""
"""In a cursor's news: the mark behind the initial nodes. No node has such a path."""


def _identity(node: Znode | None) -> Identity:
    return None if node is None else (node.stat.czxid, node.stat.mzxid)


class TreeCursor(Cursor):
    """What a reader has still to receive."""

    __slots__ = ("active", "complete", "news", "reported", "wants_events")

    def __init__(self, *, complete: bool = False, wants_events: bool = True) -> None:
        self.wants_events = wants_events
        """Whether it receives events at all: a cache reads the copy instead."""
        self.complete = complete
        """Whether the reader has received all initial nodes."""
        self.active = False
        """Whether the copy has all that was being read when the reader joined."""
        self.reported: dict[str, Identity] | None = None
        """What the reader has received, while it is not active; None if it never received anything."""
        self.news: OrderedDict[str, Identity] | None = None
        """The paths to report, each with what the reader received last; None while it is not active."""


class TreeCopy:
    """The nodes of a subtree, by full path."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.nodes: dict[str, Znode] = {}
        """Each behind its parent."""
        self.children: dict[str, dict[str, None]] = {}
        """The full paths of the children of each node that has any."""
        self.has_news = False
        """Whether a reader has something new to receive. Whoever wakes the readers resets it."""
        self._listeners: dict[TreeCursor, None] = {}

    def clear(self) -> None:
        """Forget all nodes, without events."""
        self.nodes, self.children = {}, {}

    # The nodes

    def publish(self, path: str, node: Znode | None) -> list[str]:
        """Set the state of a node. Returns the paths of removed nodes that may exist: read them again."""
        before = self.nodes.get(path)
        doubtful = []
        if before is not None and (node is None or before.stat.czxid != node.stat.czxid):
            for each in reversed(self.subtree(path)):
                if node is not None and self.nodes[each].stat.czxid > node.stat.czxid:
                    doubtful.append(each)  # it is a child of the node that exists now
                self._remove(each)
            before = None
        if node is None:
            return doubtful
        if before is None:
            self.nodes[path] = node
            if path != self.root:
                self.children.setdefault(paths.parent_of(path), {})[path] = None
        elif before.stat.mzxid == node.stat.mzxid:
            # Its children have changed, or one transaction has set it twice, which only the version shows.
            same = before.stat.version == node.stat.version
            self.nodes[path] = Znode(before.data if same else node.data, node.stat)
            return doubtful
        else:
            self.nodes[path] = node
        self._note(path, before, moved=before is None)
        return doubtful

    def subtree(self, path: str) -> list[str]:
        """A node and all its descendants, each before its children."""
        found = [path]
        for each in found:  # the list grows meanwhile
            found += self.children.get(each, ())
        return found

    def _remove(self, path: str) -> None:
        before = self.nodes.pop(path)
        self.children.pop(path, None)
        if path != self.root:
            siblings = self.children[paths.parent_of(path)]
            del siblings[path]
            if not siblings:
                del self.children[paths.parent_of(path)]
        self._note(path, before, moved=True)

    # The readers

    def activate(self, cursor: TreeCursor) -> None:
        """Report changes to a reader from now on; first, whatever it has not received yet."""
        cursor.active = self.has_news = True
        if not cursor.wants_events:
            return
        reported, cursor.reported = cursor.reported, None
        cursor.news = news = OrderedDict()
        self._listeners[cursor] = None
        if reported is None and cursor.complete:
            return  # it receives only changes from now on
        if reported is None:
            reported = {self.root: _UNREPORTED}
        for path in reversed(reported):  # the deletions, children before their parents
            if path not in self.nodes and reported[path] is not None:
                news[path] = reported[path]
        for path, node in self.nodes.items():
            if reported.get(path) != _identity(node):
                news[path] = reported.get(path)
        if not cursor.complete:
            news[_COMPLETE] = None

    def deactivate(self, cursor: TreeCursor) -> None:
        """Stop reporting to a reader. What it has received is kept, in case it joins again."""
        cursor.active = False
        self._listeners.pop(cursor, None)
        news, cursor.news = cursor.news, None
        if news is not None:
            cursor.reported = {path: _identity(node) for path, node in self.nodes.items()}
            # Deleted nodes come last, and backwards: `activate` reports deletions in the reverse order.
            cursor.reported.update((path, last) for path, last in reversed(news.items()) if path != _COMPLETE)

    def next_change(self, cursor: TreeCursor) -> TreeChange | None:
        """Take the next change that a reader has to receive, if there is one."""
        news = cursor.news
        while news:
            path, reported = news.popitem(last=False)
            if path == _COMPLETE:
                cursor.complete = True
                return EventKind.COMPLETE, self.root, None
            node = self.nodes.get(path)
            kind = _kind(reported, node, complete=cursor.complete)
            if kind is not None:
                return kind, path, node
        return None

    def _note(self, path: str, before: Znode | None, *, moved: bool) -> None:
        """Add a path to the news of all readers; those without news of it have received `before`."""
        for cursor in self._listeners:
            news = cursor.news
            assert news is not None
            self.has_news = True
            if path not in news:
                news[path] = _identity(before)
            elif news[path] is None and path not in self.nodes:
                del news[path]  # created and deleted unseen
            elif moved and news[path] != _UNREPORTED:
                news.move_to_end(path)  # behind its parent or its children


def _kind(reported: Identity, node: Znode | None, *, complete: bool) -> EventKind | None:
    """The event for a reader that received `reported` of a node which is `node` now; None for no event."""
    if reported == _UNREPORTED:
        return EventKind.ABSENT if node is None else EventKind.PRESENT
    if node is None:
        return None if reported is None else EventKind.DELETED
    if reported == _identity(node):
        return None
    if reported is None or reported[0] != node.stat.czxid:
        return EventKind.CREATED if complete or reported is not None else EventKind.PRESENT
    return EventKind.CHANGED
