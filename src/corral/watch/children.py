"""Which children a node has, as an async iterator (W1 to W5)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from corral.session.watches import Kind
from corral.types import ChildrenEvent, EventKind, Stat
from corral.wire import messages

from .feed import Feeds, Place, ReadFeed
from .reader import Reader

__all__ = ["ChildrenWatch"]


class Family(NamedTuple):
    """A node's children, and its own `Stat`: None if it does not exist."""

    children: frozenset[str]
    stat: Stat | None


NOBODY = Family(frozenset(), None)


class ChildrenFeed(ReadFeed[Family]):
    """The newest known children of one node."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str) -> None:
        super().__init__(feeds, key, full, path, messages.CHILDREN2, Kind.CHILDREN, NOBODY)

    def state_of(self, answer: Any) -> Family:
        names, stat = answer
        return Family(frozenset(names), stat)

    def is_behind(self, state: Family, newest: Stat) -> bool:
        # The same set is no news, whatever else it comes with: servers before 3.5.5 may tell an older pzxid
        # after one that was told by another server (ZOOKEEPER-3125).
        stat, known = state.stat, self.state
        return (
            stat is not None
            and stat.pzxid < newest.pzxid
            and (known is None or known.children != state.children)
        )


class ChildrenWatch(Reader[ChildrenFeed, Place, ChildrenEvent]):
    """Which children a node has, as events: those now, then each change, with who came and who went.

    Use it as ``async for event in zk.watch_children(path)``, or as ``async with zk.watch_children(path) as
    events`` for a definite end. Leaving the loop, an exception, or dropping the object ends the watch; the
    server's watch goes with the last reader of the path in this client.

    **Promised**: the first event is the set now, or that there is no such node; what follows is never older,
    and never the same set twice; the last one is always delivered, over reconnects, other servers and new
    sessions. A reader that is slow gets the newest set. **Not promised**: every set in between. So a child
    that was deleted and created again meanwhile is no news; `watch_tree` with ``depth=1`` tells of that.

    **On cancel** of ``anext`` nothing is lost: the next one gives what this one would have given. **On loss**
    of the connection it waits. It raises what `NodeWatch` does, and the next ``anext`` tries again.

    Each change reads the names of all children, whose number the server does not limit: a node with a hundred
    thousand of them is better watched by `watch_tree`.
    """

    _verb = "watch_children"
    _seen: Family | None = None

    def __init__(self, feeds: Feeds, full: str, path: str) -> None:
        super().__init__(feeds, full, path, Place())

    def _find(self) -> ChildrenFeed:
        key = (ChildrenFeed, self._full)
        return self._feeds.get(key, lambda: ChildrenFeed(self._feeds, key, self._full, self._path))

    def _take(self, feed: ChildrenFeed, place: Place) -> ChildrenEvent | None:
        state = feed.state
        if state is None:
            return None
        children, stat = state
        before = self._seen or NOBODY
        if self._seen is None:
            kind = EventKind.ABSENT if stat is None else EventKind.PRESENT
        elif stat is None:
            if before.stat is None:
                return None
            kind = EventKind.DELETED
        elif before.stat is None or before.stat.czxid != stat.czxid:
            kind = EventKind.CREATED
        elif before.children == children:
            return None
        else:
            kind = EventKind.CHANGED
        self._seen = state
        return ChildrenEvent(
            kind, self._path, children, children - before.children, before.children - children, stat
        )
