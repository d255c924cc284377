"""A live local copy of a subtree: what a `TreeFeed` knows, read without any I/O."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from corral import errors, paths
from corral.types import Znode

from .feed import Feeds
from .tree import TreeWatch
from .tree_copy import TreeCopy, TreePlace
from .tree_feed import TreeFeed, find_feed
from .wanted import Wanted

__all__ = ["Cache"]


class Cache(Mapping[str, Znode]):
    """A live local copy of a subtree, by path: ``async with zk.cache("/config") as cache:``.

    It enters when it is complete. Then it is a mapping from paths to `Znode` (data and `Stat`), whose reads
    wait for nothing and send nothing: ``cache.get("/config/a")``, ``"/config/a" in cache``, ``for path in
    cache``, parents before their children. What is read in one go, without an ``await``, is one state of it.

    **Promised**: each node's states follow one another as `NodeWatch` promises it, and the last one arrives,
    over reconnects, other servers and new sessions. What this client has written by its verbs and
    transactions is there as soon as they return. **Not promised**: that two nodes are as they were at one
    instant; that what others have written is there at once. While the connection is down it shows what was
    known last (`is_current`), and it is read again when there is one.

    **On cancel** of entering nothing is left; entering raises `UsageStateError` if the cache is closed
    meanwhile. **On loss** of the connection entering waits. Entering raises what `TreeWatch` does:
    `Unimplemented` if the server has no persistent watches (ZooKeeper before 3.6), `NoAuth` if we may not
    read the node at its path, `SessionError` if the client is closed.

    If such a thing happens later, the cache has *failed*: reading raises it, each time a new copy. A failed
    cache tries again by itself, at intervals that grow to 0.9 seconds; to 10 seconds where each attempt costs
    a connection or a large answer. Reading raises until the whole subtree was read again. It does not try
    again when the client is closed or a server refuses our credentials.

    Nodes below that we may not read are left out, with what is below them; the first is logged.

    A `Stat` is as of when the node itself was last created or set: a change of its children does not renew
    it. `children` knows them. Many caches and tree watches of one path in one client share one copy.
    """

    def __init__(self, feeds: Feeds, full: str, path: str, chroot: str, wanted: Wanted) -> None:
        self._feeds = feeds
        self._full = full
        self._path = path
        self._chroot = chroot
        self._wanted = wanted
        self._place = TreePlace(listens=False)
        self._feed: TreeFeed | None = None
        self._end: weakref.finalize[[TreeFeed, TreePlace], Cache] | None = None

    async def __aenter__(self) -> Self:
        self._feeds.session.check_place()
        if self._feed is not None:
            raise errors.UsageStateError(
                f"this cache of {self._path!r} is open already; share it, or make another with zk.cache()"
            )
        self._feed = feed = find_feed(self._feeds, self._full, self._path, self._wanted)
        feed.join(self._place)
        self._end = weakref.finalize(self, _leave_soon, feed, self._place)
        self._end.atexit = False
        try:
            feed.keep_current(1)
            await feed.until_admitted(self._place)
            if self._feed is not feed:
                raise errors.UsageStateError(f"this cache of {self._path!r} was closed while it was entered")
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it, as leaving ``async with`` does; twice does no harm."""
        feed, self._feed = self._feed, None
        if feed is not None and self._end is not None and self._end.detach():
            _leave(feed, self._place)

    @property
    def is_current(self) -> bool:
        """Whether it shows all that this client could know: it is connected, and has nothing to read."""
        return self._feed is not None and self._feed.is_current

    def children(self, path: str) -> list[str]:
        """The names of a node's children, in no order; none if there is no such node."""
        copy = self._opened()
        return [each.rpartition("/")[2] for each in copy.children.get(paths.resolve(self._chroot, path), ())]

    def changes(self) -> TreeWatch:
        """What changes from now on, as events: ``async for event in cache.changes():``. See `TreeWatch`."""
        self._opened()
        return TreeWatch(self._feeds, self._full, self._path, self._chroot, self._wanted, changes_only=True)

    # As a mapping

    def __getitem__(self, path: str) -> Znode:
        node = self._opened().nodes.get(paths.resolve(self._chroot, path))
        if node is None:
            raise KeyError(path)
        return node

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and paths.resolve(self._chroot, path) in self._opened().nodes

    def __iter__(self) -> Iterator[str]:
        chroot = self._chroot
        return (paths.strip(chroot, full) for full in self._opened().nodes)

    def __len__(self) -> int:
        return len(self._opened().nodes)

    def _opened(self) -> TreeCopy:
        feed = self._feed
        if feed is None:
            raise errors.UsageStateError(
                f"this cache of {self._path!r} is not open; use it in 'async with zk.cache(...) as cache:'"
            )
        if feed.failure is not None:
            raise errors.fresh(feed.failure)
        return feed.copy

    __hash__ = object.__hash__  # it is one thing, however equal it may be to another mapping

    def __repr__(self) -> str:
        feed = self._feed
        if feed is None:
            return f"<Cache of {self._path!r}, not open>"
        state = "current" if feed.is_current else "not current"
        return f"<Cache of {self._path!r}, {len(feed.copy.nodes):,} znodes, {state}>"


def _leave(feed: TreeFeed, place: TreePlace) -> None:
    feed.keep_current(-1)
    feed.leave(place)


def _leave_soon(feed: TreeFeed, place: TreePlace) -> None:
    feed.run_soon(_leave, feed, place)
