"""A copy of a subtree, and what each of its readers has still to be told. Pure data.

The copy has a node only if it has its parent. Readers are told of a parent's creation before its children's,
and of their deletions before its own.

What a reader has to be told is kept as paths, in the order to tell, each with what it was last told of that
node. So it is bounded by the tree (W2), and what came and went unseen is no news.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from corral import paths
from corral.types import EventKind, Znode

from .feed import Place

__all__ = ["TreeCopy", "TreePlace"]

Identity: TypeAlias = "tuple[int, int] | None"
"""What tells two states of a node apart: czxid and mzxid; None where there is no node."""

_UNTOLD: Identity = (-1, -1)
"""Of the root alone, which is told of even if it does not exist."""
_COMPLETE = ""
"""In a place's news: the mark behind what was there at first. No node has such a path."""


def _identity(node: Znode | None) -> Identity:
    return None if node is None else (node.stat.czxid, node.stat.mzxid)


class TreePlace(Place):
    """A reader's place: what it has still to be told."""

    __slots__ = ("admitted", "complete", "listens", "news", "told")

    def __init__(self, *, complete: bool = False, listens: bool = True) -> None:
        self.listens = listens
        """Whether it is to be told anything at all: a cache looks by itself."""
        self.complete = complete
        """Whether it was told all that there was at first."""
        self.admitted = False
        """Whether all is known that was being read when it came."""
        self.told: dict[str, Identity] | None = None
        """What it was told, while it is not admitted; None if it was never told anything."""
        self.news: OrderedDict[str, Identity] | None = None
        """Paths to tell of, with what it was told of each; None while it is not admitted."""


class TreeCopy:
    """The nodes of a subtree, by full path."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.nodes: dict[str, Znode] = {}
        """Each behind its parent."""
        self.children: dict[str, dict[str, None]] = {}
        """The full paths of the children of those that have any."""
        self.has_news = False
        """Whether somebody has something new to be told; for whoever wakes them, to be set back by them."""
        self._listeners: dict[TreePlace, None] = {}

    def clear(self) -> None:
        """Forget everything; nobody is told."""
        self.nodes, self.children = {}, {}

    # The nodes

    def publish(self, path: str, node: Znode | None) -> list[str]:
        """A node is so now. Returns what was forgotten with it although it may be there: read it again."""
        before = self.nodes.get(path)
        doubtful = []
        if before is not None and (node is None or before.stat.czxid != node.stat.czxid):
            for each in reversed(self.below(path)):
                if node is not None and self.nodes[each].stat.czxid > node.stat.czxid:
                    doubtful.append(each)  # below the one that is there now
                self._forget(each)
            before = None
        if node is None:
            return doubtful
        if before is None:
            self.nodes[path] = node
            if path != self.root:
                self.children.setdefault(paths.parent_of(path), {})[path] = None
        elif before.stat.mzxid == node.stat.mzxid:
            # Its children may have changed; or one transaction has set it twice, and only the version tells.
            same = before.stat.version == node.stat.version
            self.nodes[path] = Znode(before.data if same else node.data, node.stat)
            return doubtful
        else:
            self.nodes[path] = node
        self._note(path, before, moved=before is None)
        return doubtful

    def below(self, path: str) -> list[str]:
        """A node and all below it, each before its children."""
        found = [path]
        for each in found:  # which grows
            found += self.children.get(each, ())
        return found

    def _forget(self, path: str) -> None:
        before = self.nodes.pop(path)
        self.children.pop(path, None)
        if path != self.root:
            siblings = self.children[paths.parent_of(path)]
            del siblings[path]
            if not siblings:
                del self.children[paths.parent_of(path)]
        self._note(path, before, moved=True)

    # Who is told

    def admit(self, place: TreePlace) -> None:
        """From now on a reader is told; first, of what it was not told yet."""
        place.admitted = self.has_news = True
        if not place.listens:
            return
        told, place.told = place.told, None
        place.news = news = OrderedDict()
        self._listeners[place] = None
        if told is None and place.complete:
            return  # it is told of changes from now on, and no more
        if told is None:
            told = {self.root: _UNTOLD}
        for path in reversed(told):  # the deletions, children before their parents
            if path not in self.nodes and told[path] is not None:
                news[path] = told[path]
        for path, node in self.nodes.items():
            if told.get(path) != _identity(node):
                news[path] = told.get(path)
        if not place.complete:
            news[_COMPLETE] = None

    def dismiss(self, place: TreePlace) -> None:
        """A reader is told no more; what it was told is noted, should it come again."""
        place.admitted = False
        self._listeners.pop(place, None)
        news, place.news = place.news, None
        if news is not None:
            place.told = {path: _identity(node) for path, node in self.nodes.items()}
            # Those that are gone stay in the order in which `admit` tells it: backwards.
            place.told.update((path, told) for path, told in reversed(news.items()) if path != _COMPLETE)

    def next_change(self, place: TreePlace) -> tuple[EventKind, str, Znode | None] | None:
        """What a reader is to be told next: how it changed, the full path, and what it is now."""
        news = place.news
        while news:
            path, told = news.popitem(last=False)
            if path == _COMPLETE:
                place.complete = True
                return EventKind.COMPLETE, self.root, None
            node = self.nodes.get(path)
            kind = _kind(told, node, complete=place.complete)
            if kind is not None:
                return kind, path, node
        return None

    def _note(self, path: str, before: Znode | None, *, moved: bool) -> None:
        """There is news of a path for all who have been told of what was `before`."""
        for place in self._listeners:
            news = place.news
            assert news is not None
            self.has_news = True
            if path not in news:
                news[path] = _identity(before)
            elif news[path] is None and path not in self.nodes:
                del news[path]  # it came and went, and the reader has missed it
            elif moved and news[path] != _UNTOLD:
                news.move_to_end(path)  # behind its parent, or its children


def _kind(told: Identity, node: Znode | None, *, complete: bool) -> EventKind | None:
    """What to tell of a node that is so now, to whom it was told so; None for nothing."""
    if told == _UNTOLD:
        return EventKind.ABSENT if node is None else EventKind.PRESENT
    if node is None:
        return None if told is None else EventKind.DELETED
    if told == _identity(node):
        return None
    if told is None or told[0] != node.stat.czxid:
        return EventKind.CREATED if complete or told is not None else EventKind.PRESENT
    return EventKind.CHANGED
