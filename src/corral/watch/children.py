"""The set of a node's children, as an async iterator (W1 to W5)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

from corral.session.watchers import WatchKind
from corral.types import ChildrenEvent, EventKind, Stat
from corral.wire import messages

from .read import ReadFeed
from .reader import Reader
from .shared import Cursor, Feeds

__all__ = ["ChildrenWatch"]


class ChildrenState(NamedTuple):
    """The names of a node's children, and the node's own `Stat`: None if it does not exist."""

    children: frozenset[str]
    stat: Stat | None


NO_NODE = ChildrenState(frozenset(), None)


class ChildrenFeed(ReadFeed[ChildrenState]):
    """The newest known children of one node."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str) -> None:
        super().__init__(feeds, key, full, path, messages.CHILDREN2, WatchKind.CHILDREN, NO_NODE)

    def state_of(self, answer: Any) -> ChildrenState:
        names, stat = answer
        return ChildrenState(frozenset(names), stat)

    def is_older(self, state: ChildrenState, newest: Stat) -> bool:
        # An equal set is never older, whatever its pzxid: a server before 3.5.5 may answer with an older
        # pzxid than another server did (ZOOKEEPER-3125).
        stat, known = state.stat, self.state
        return (
            stat is not None
            and stat.pzxid < newest.pzxid
            and (known is None or known.children != state.children)
        )


class ChildrenWatch(Reader[ChildrenFeed, Cursor, ChildrenEvent]):
    """The children of a znode as events: the set now, then each change, with the names added and removed.

    Use it as ``async for event in zk.watch_children(path)``, or as ``async with zk.watch_children(path) as
    events`` for a definite end. Leaving the loop, an exception, or dropping the object ends the watch. The
    server's watch is removed when the last reader of the path in this client has left.

    **Promised**: The first event is the current set, or that the znode does not exist. Later events are never
    older, and never repeat a set. The last set is always delivered, across reconnects, other servers and new
    sessions. A slow reader gets the newest set. **Not promised**: every set in between. A child that was
    deleted and created again in between makes no event; `watch_tree` with ``depth=1`` reports it.

    **On cancel** of ``anext`` no event is lost: the next ``anext`` returns it. **On loss** of the connection
    ``anext`` waits. It raises the errors of `NodeWatch`, and the next ``anext`` tries again.

    Each change reads the names of all children, whose number the server does not limit: for a znode with a
    hundred thousand children `watch_tree` is cheaper.
    """

    _verb = "watch_children"
    _seen: ChildrenState | None = None

    def __init__(self, feeds: Feeds, full: str, path: str) -> None:
        super().__init__(feeds, full, path, Cursor())

    def _find_feed(self) -> ChildrenFeed:
        key = (ChildrenFeed, self._full)
        return self._feeds.get(key, lambda: ChildrenFeed(self._feeds, key, self._full, self._path))

    def _next_event(self, feed: ChildrenFeed, cursor: Cursor) -> ChildrenEvent | None:
        state = feed.state
        if state is None:
            return None
        children, stat = state
        before = self._seen or NO_NODE
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
