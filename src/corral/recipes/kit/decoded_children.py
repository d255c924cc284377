"""The children of a znode as values, for recipes whose members are znodes (N2).

All readers of one path in a client share one copy of the children, by the feed of a tree of depth 1. Each
reader decodes a child once for each of its states, however many children there are.
"""

from __future__ import annotations

import bisect
from abc import abstractmethod
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from corral.types import EventKind, Znode
from corral.watch.reader import Reader
from corral.watch.tree.copy import TreeCopy, TreeCursor
from corral.watch.tree.filter import TreeFilter
from corral.watch.tree.follow import TreeFeed, find_feed
from corral.watch.tree.kept import KeptCopy

from .context import RecipeContext

__all__ = ["ChildrenChange", "Decode", "DecodedChildren", "DecodedWatch", "keep_children"]

T = TypeVar("T")
E = TypeVar("E")

Decode: TypeAlias = Callable[[str, Znode], T | None]
"""What a child with this name is; None for one that is to be ignored. Raises nothing."""


class ChildrenChange(NamedTuple, Generic[T]):
    """How the children have changed since the last change."""

    added: tuple[T, ...]
    removed: tuple[T, ...]
    changed: tuple[T, ...]


class DecodedChildren(Generic[T]):
    """The children of a znode, decoded as a reader takes its news from the copy."""

    def __init__(self, decode: Decode[T]) -> None:
        self._decode = decode
        self._names: list[str] = []  # sorted
        self._values: list[T] = []  # in the same order: a tuple of them is made for each change

    @property
    def values(self) -> tuple[T, ...]:
        """The children now, in the order of their names."""
        return tuple(self._values)

    def take(self, copy: TreeCopy, cursor: TreeCursor) -> ChildrenChange[T] | None:
        """Take all news of a reader. None if nothing has changed, except for the first time, when all
        children were added."""
        added, removed, changed = list[T](), list[T](), list[T]()
        is_first = False
        while (news := copy.next_change(cursor)) is not None:
            kind, full, node = news
            if kind is EventKind.COMPLETE:
                is_first = True
                continue
            if full == copy.root:
                continue
            name = full.rpartition("/")[2]
            index = bisect.bisect_left(self._names, name)
            is_there = index < len(self._names) and self._names[index] == name
            before = self._values[index] if is_there else None
            after = None if node is None else self._decode(name, node)
            if before == after:
                continue
            if after is None:
                assert before is not None
                del self._names[index], self._values[index]
                removed.append(before)
            elif before is None:
                self._names.insert(index, name)
                self._values.insert(index, after)
                added.append(after)
            else:
                self._values[index] = after
                changed.append(after)
        if is_first or added or removed or changed:
            return ChildrenChange(tuple(added), tuple(removed), tuple(changed))
        return None


class DecodedWatch(Reader[TreeFeed, TreeCursor, E], Generic[T, E]):
    """The children of the path of a context, for one reader."""

    def __init__(self, context: RecipeContext, decode: Decode[T]) -> None:
        super().__init__(context.shared.feeds, context.full, context.path, TreeCursor())
        self._children = DecodedChildren(decode)

    @abstractmethod
    def _event(self, values: tuple[T, ...], change: ChildrenChange[T]) -> E:
        """The event for a change, after which these are the children."""

    def _find_feed(self) -> TreeFeed:
        return find_feed(self._feeds, self._full, self._path, _children_of(self._full))

    def _next_event(self, feed: TreeFeed, cursor: TreeCursor) -> E | None:
        change = self._children.take(feed.copy, cursor)
        return None if change is None else self._event(self._children.values, change)


def keep_children(context: RecipeContext, *, what: str, factory: str) -> KeptCopy:
    """A copy of the children of the path of a context, with news for one reader."""
    tree = _children_of(context.full)
    feeds = context.shared.feeds
    return KeptCopy(feeds, context.path, tree, what=what, factory=factory, wants_events=True)


def _children_of(full: str) -> TreeFilter:
    return TreeFilter(full, depth=1)
