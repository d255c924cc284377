"""A subtree as an async iterator (W1 to W6)."""

from __future__ import annotations

from corral import paths
from corral.types import Event
from corral.watch.reader import Reader
from corral.watch.shared import Feeds

from .copy import TreeCursor
from .filter import TreeFilter
from .follow import TreeFeed, find_feed

__all__ = ["TreeWatch"]


class TreeWatch(Reader[TreeFeed, TreeCursor, Event]):
    """The states of all znodes of a subtree as events: those now, then each change.

    Use it as ``async for event in zk.watch_tree(path)``, or as ``async with zk.watch_tree(path) as events``
    for a definite end. It first yields each znode that exists, parents before their children
    (`EventKind.PRESENT`; `ABSENT` if there is no znode at `path`), then one event `COMPLETE`, then changes.
    Leaving the loop, an exception, or dropping the object ends the watch. The server's watch is removed when
    the last reader of the tree in this client has left.

    **Promised**: for each znode what `NodeWatch` promises. A parent's creation comes before those of its
    children, and its deletion after theirs. A slow reader gets the newest state of each znode: at most one
    event per znode waits for it, and the memory for them is bounded by the tree. **Not promised**: every
    state in between; any other order of changes of different znodes; a consistent snapshot across znodes.

    **On cancel** of ``anext`` no event is lost. **On loss** of the connection ``anext`` waits, without a
    limit. After the reconnect the whole subtree is read again, because persistent watches lose the events
    of an outage (ZOOKEEPER-4698); only differences are reported.

    It raises `Unimplemented` if the server has no persistent watches (ZooKeeper before 3.6); `NoAuth` if we
    may not read the znode at `path`; what `only` raises; `ConnectionLoss` if `ConnectionLoss.MOST_LOSSES`
    connections in a row broke on one request; `ReplyError` if the answer for one znode is over `max_reply`,
    or if the server repeatedly answers with states that are older than those before, or with children
    without their parents; `SessionError` when the client is closed. Each reader gets its own copy of an
    error. The next ``anext`` tries again, and continues after the events delivered before.

    Descendants that we may not read are left out, together with their own descendants; the first such znode
    is logged. A `Stat` dates from when its znode was last created or set: a change of the children does not
    update it."""

    _verb = "watch_tree"

    def __init__(
        self, feeds: Feeds, full: str, path: str, chroot: str, tree: TreeFilter, *, changes_only: bool = False
    ) -> None:
        super().__init__(feeds, full, path, TreeCursor(complete=changes_only))
        self._chroot = chroot
        self._tree = tree
        if changes_only:
            self._join()

    def _find_feed(self) -> TreeFeed:
        return find_feed(self._feeds, self._full, self._path, self._tree)

    def _next_event(self, feed: TreeFeed, cursor: TreeCursor) -> Event | None:
        change = feed.copy.next_change(cursor)
        if change is None:
            return None
        kind, full, node = change
        data, stat = (None, None) if node is None else node
        return Event(kind, paths.strip(self._chroot, full), data, stat)
