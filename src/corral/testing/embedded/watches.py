"""The server's watches: which connection gets which events.

There are two tables, since a path may have data watches (set by get and exists) and child watches at the same
time. Changes fire them as follows:

- a node is created: data watches of its path, then child watches of its parent;
- its data is set: data watches of its path;
- it is deleted: data watches of its path, child watches of its path, child watches of its parent.

A watch has a mode: one-shot (removed when it fires), persistent, or persistent and recursive (fires for all
descendants, but never for a change of children). A firing sends a connection one event, even if it watches in
several modes; a deletion sends it one event, even if it is in both tables.

Releases differ. Up to 3.8, a connection has one mode for each path and table, and the last one set wins
(ZOOKEEPER-4466: a one-shot watch silently ends the recursive one); a recursive watch is in both tables; and
checkWatches finds the watches of other connections. In 3.9, modes exist side by side and are removed
separately, and checkWatches finds only the connection's own watches.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from .codes import MARSHALLING_ERROR, NO_WATCHER, Refused
from .tree import Node

__all__ = ["CHILDREN_CHANGED", "CREATED", "DATA_CHANGED", "DELETED", "Firing", "Mode", "ServerWatches"]

CREATED: Final = 1
DELETED: Final = 2
DATA_CHANGED: Final = 3
CHILDREN_CHANGED: Final = 4
"""The types of events; the numbers are the protocol's."""

W = TypeVar("W")
"""The watcher: a connection."""

Firing = tuple[int, str, Iterable[W]]
"""The type of an event, its path, and the watchers that get it."""


class Mode(enum.IntFlag):
    """How often, and for which paths, a watch fires."""

    ONE_SHOT = 1
    PERSISTENT = 2
    RECURSIVE = 4


_ONE_SHOT, _PERSISTENT, _RECURSIVE = (int(mode) for mode in Mode)  # plain: flags are slow
_EVERY = _ONE_SHOT | _PERSISTENT | _RECURSIVE


class _Table(Generic[W]):
    """The watches of one of the two tables: by path, by watcher, the modes as bits."""

    def __init__(self, *, side_by_side: bool) -> None:
        self._side_by_side = side_by_side
        self.by_path: dict[str, dict[W, int]] = {}
        self.by_watcher: dict[W, dict[str, None]] = {}
        self._recursive = 0  # how many; while there are none, ancestors need no lookup

    def add(self, path: str, watcher: W, mode: int) -> None:
        watchers = self.by_path.setdefault(path, {})
        before = watchers.get(watcher, 0)
        after = before | mode if self._side_by_side else mode
        watchers[watcher] = after
        self.by_watcher.setdefault(watcher, {})[path] = None
        self._count(before, after)

    def fire(self, path: str, kind: int) -> dict[W, None]:
        """Fire the watches of an event: remove the one-shot ones, and return the watchers."""
        found: dict[W, None] = {}
        watchers = self.by_path.get(path)
        if watchers is not None:
            for watcher, modes in list(watchers.items()):
                if modes == _RECURSIVE and kind == CHILDREN_CHANGED:
                    continue
                found[watcher] = None
                if modes & _ONE_SHOT:
                    self._set(path, watchers, watcher, modes & ~_ONE_SHOT)
        if self._recursive and kind != CHILDREN_CHANGED:
            while len(path) > 1:
                path = path[: path.rindex("/")] or "/"
                for watcher, modes in self.by_path.get(path, {}).items():
                    if modes & _RECURSIVE:
                        found[watcher] = None
        return found

    def remove(self, path: str, watcher: W, modes: int) -> bool:
        """Remove a connection's watches of these modes; returns whether it had any."""
        watchers = self.by_path.get(path)
        if watchers is None or not watchers.get(watcher, 0) & modes:
            return False
        self._set(path, watchers, watcher, watchers[watcher] & ~modes)
        if self._side_by_side and not self.by_watcher[watcher]:
            del self.by_watcher[watcher]
        return True

    def modes(self, path: str, watcher: W) -> int:
        watchers = self.by_path.get(path)
        return 0 if watchers is None else watchers.get(watcher, 0)

    def knows(self, path: str) -> bool:
        """Whether a path has any watcher.

        A real server fails to look up the ancestors of a path that does not begin with a slash: at once if
        the path has no slash at all, otherwise only when it looks, which is while there is a recursive watch.
        For the empty path it does not look.
        """
        known = path in self.by_path
        if path and not path.startswith("/") and ("/" not in path or (self._recursive and not known)):
            raise Refused(MARSHALLING_ERROR)
        return known and path != ""

    def forget(self, watcher: W) -> None:
        for path in self.by_watcher.pop(watcher, ()):
            watchers = self.by_path[path]
            self._count(watchers.pop(watcher), 0)
            if not watchers:
                del self.by_path[path]

    def count(self) -> int:
        return sum(map(len, self.by_path.values()))

    def _set(self, path: str, watchers: dict[W, int], watcher: W, modes: int) -> None:
        self._count(watchers[watcher], modes)
        if modes:
            watchers[watcher] = modes
            return
        del watchers[watcher]
        del self.by_watcher[watcher][path]
        if not watchers:
            del self.by_path[path]

    def _count(self, before: int, after: int) -> None:
        self._recursive += bool(after & _RECURSIVE) - bool(before & _RECURSIVE)


class ServerWatches(Generic[W]):
    """All watches of a server."""

    def __init__(self, *, version: str) -> None:
        self._side_by_side = version != "3.8"
        self._data: _Table[W] = _Table(side_by_side=self._side_by_side)
        self._children: _Table[W] = _Table(side_by_side=self._side_by_side)

    # Setting

    def watch_data(self, path: str, watcher: W) -> None:
        """Set a one-shot data watch: it fires when the node is created, changed or deleted."""
        self._data.add(path, watcher, _ONE_SHOT)

    def watch_children(self, path: str, watcher: W) -> None:
        """Set a one-shot child watch: it fires when the node's children change, or it is deleted."""
        self._children.add(path, watcher, _ONE_SHOT)

    def watch_persistently(self, path: str, watcher: W, mode: Mode) -> None:
        """Set a persistent or recursive watch."""
        self._data.add(path, watcher, int(mode))
        if mode is Mode.PERSISTENT or not self._side_by_side:
            self._children.add(path, watcher, int(mode))

    def restore(
        self,
        watcher: W,
        zxid: int,
        data: Sequence[str],
        exist: Sequence[str],
        children: Sequence[str],
        persistent: Sequence[str],
        recursive: Sequence[str],
        find: Callable[[str], Node | None],
    ) -> list[tuple[int, str]]:
        """Set the watches again that a client had when its last zxid was `zxid`.

        If a one-shot watch would have fired since, it is not set, and its event is returned instead.
        Persistent watches are always set, and the events that they missed are lost (ZOOKEEPER-4698).
        """
        missed: list[tuple[int, str]] = []
        for path in data:
            node = find(path)
            if node is None:
                missed.append((DELETED, path))
            elif node.mzxid > zxid:
                missed.append((DATA_CHANGED, path))
            else:
                self.watch_data(path, watcher)
        for path in exist:
            if find(path) is not None:
                missed.append((CREATED, path))
            else:
                self.watch_data(path, watcher)
        for path in children:
            node = find(path)
            if node is None:
                missed.append((DELETED, path))
            elif node.pzxid > zxid:
                missed.append((CHILDREN_CHANGED, path))
            else:
                self.watch_children(path, watcher)
        for path in persistent:
            self.watch_persistently(path, watcher, Mode.PERSISTENT)
        for path in recursive:
            self.watch_persistently(path, watcher, Mode.RECURSIVE)
        return missed

    # Firing

    def created(self, path: str, parent: str) -> tuple[Firing[W], Firing[W]]:
        """Fire the watches of a node's creation. The first firing is subject to its ACL, the second to its
        parent's."""
        return (
            (CREATED, path, self._data.fire(path, CREATED)),
            (CHILDREN_CHANGED, parent, self._children.fire(parent, CHILDREN_CHANGED)),
        )

    def data_changed(self, path: str) -> Firing[W]:
        """Fire the watches of a node's new data."""
        return DATA_CHANGED, path, self._data.fire(path, DATA_CHANGED)

    def deleted(self, path: str, parent: str) -> tuple[Firing[W], Firing[W]]:
        """Fire the watches of a node's deletion. The first firing is subject to its ACL, the second to its
        parent's."""
        watchers = self._data.fire(path, DELETED)
        watchers.update(self._children.fire(path, DELETED))
        return (
            (DELETED, path, watchers),
            (CHILDREN_CHANGED, parent, self._children.fire(parent, CHILDREN_CHANGED)),
        )

    # Checking and removing

    def check(self, path: str, kind: int, watcher: W) -> None:
        """Refuse if there is no such watch; `kind` is the protocol's watcher type."""
        tables, modes = self._of_kind(kind)
        if self._side_by_side:
            known = any(table.modes(path, watcher) & modes for table in tables)
        else:
            known = any([table.knows(path) for table in tables])  # a list: each table may refuse
        if not known:
            raise Refused(NO_WATCHER)

    def remove(self, path: str, kind: int, watcher: W) -> None:
        """Remove the connection's watches of a type, without an event; refuse if there is none."""
        tables, modes = self._of_kind(kind)
        if not any(
            [table.remove(path, watcher, modes) for table in tables]
        ):  # a list: remove from each table
            raise Refused(NO_WATCHER)

    def _of_kind(self, kind: int) -> tuple[tuple[_Table[W], ...], int]:
        """The tables that have the watches of a type, and its modes."""
        both = (self._data, self._children)
        if kind == 3:
            return both, _EVERY
        if kind in (1, 2):
            return (both[2 - kind],), _ONE_SHOT if self._side_by_side else _EVERY
        if kind in (4, 5) and self._side_by_side:
            return both, _PERSISTENT if kind == 4 else _RECURSIVE
        raise Refused(MARSHALLING_ERROR)

    def forget(self, watcher: W) -> None:
        """Remove all watches of a connection."""
        self._data.forget(watcher)
        self._children.forget(watcher)

    # Inspection

    def count(self) -> int:
        """How many watches there are in both tables."""
        return self._data.count() + self._children.count()

    def data_paths(self) -> dict[str, list[W]]:
        """The data watchers of each path. A server's reports have only this table."""
        return {path: list(watchers) for path, watchers in self._data.by_path.items()}

    def child_paths(self) -> dict[str, list[W]]:
        """The child watchers of each path."""
        return {path: list(watchers) for path, watchers in self._children.by_path.items()}

    def data_watchers(self) -> dict[W, list[str]]:
        """The paths whose data each connection watches; it includes connections whose watches have all
        fired."""
        return {watcher: list(paths) for watcher, paths in self._data.by_watcher.items()}
