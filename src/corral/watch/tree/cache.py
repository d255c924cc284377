"""A live local copy of a subtree, which is read without I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from corral import paths
from corral.types import Znode
from corral.watch.shared import Feeds

from .copy import TreeCopy
from .filter import TreeFilter
from .kept import KeptCopy
from .watch import TreeWatch

__all__ = ["Cache"]


class Cache(Mapping[str, Znode]):
    """A live local copy of a subtree, by path: ``async with zk.cache("/config") as cache:``.

    Entering waits until the copy is complete. The cache is then a mapping from paths to `Znode` (data and
    `Stat`) whose reads never wait and send nothing: ``cache.get("/config/a")``, ``"/config/a" in cache``,
    ``for path in cache``, parents before their children. Between two ``await`` expressions it does not
    change.

    **Promised**: each znode's states follow one another as `NodeWatch` promises, and the last one arrives,
    across reconnects, other servers and new sessions. What this client writes by its verbs and transactions
    is in the cache as soon as they return. **Not promised**: a consistent snapshot across znodes; that other
    clients' writes are there at once. While the connection is down the cache shows the last known states
    (`is_current` is false), and after a reconnect the subtree is read again.

    **On cancel** of entering nothing is left. **On loss** of the connection entering waits, without a
    limit. It raises the errors of `TreeWatch`: `Unimplemented` if the server has no persistent watches
    (ZooKeeper before 3.6), `NoAuth` if we may not read the znode at the cache's path, `SessionError` if the
    client is closed. It raises `UsageStateError` if the cache is closed meanwhile.

    If such an error occurs later, the cache has *failed*: each read raises a new copy of the error until
    the whole subtree was read again. A failed cache retries by itself, at intervals that grow to 0.9
    seconds, or to 10 seconds where each attempt costs a connection or a large answer. It does not retry
    when the client is closed or a server has refused our credentials.

    Descendants that we may not read are left out, together with their own descendants; the first such znode
    is logged. A `Stat` dates from when its znode was last created or set: a change of the children does not
    update it; see `children`. All caches and tree watches of one path, depth and filter in a client share
    one copy."""

    def __init__(self, feeds: Feeds, full: str, path: str, chroot: str, tree: TreeFilter) -> None:
        self._feeds = feeds
        self._full = full
        self._path = path
        self._chroot = chroot
        self._tree = tree
        self._kept = KeptCopy(feeds, path, tree, what="cache", factory="cache(...)")

    async def __aenter__(self) -> Self:
        await self._kept.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the cache, as leaving ``async with`` does. Closing it again has no effect."""
        self._kept.close()

    @property
    def is_current(self) -> bool:
        """Whether the client is connected and every change that it has heard of is in the cache."""
        return self._kept.is_current

    def children(self, path: str) -> list[str]:
        """The names of a znode's children, in no order; empty if there is no such znode."""
        copy = self._opened()
        return [each.rpartition("/")[2] for each in copy.children.get(paths.resolve(self._chroot, path), ())]

    def changes(self) -> TreeWatch:
        """All changes from now on, as events: ``async for event in cache.changes():``. See `TreeWatch`."""
        self._opened()
        return TreeWatch(self._feeds, self._full, self._path, self._chroot, self._tree, changes_only=True)

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
        return self._kept.checked()

    __hash__ = object.__hash__  # by identity, although it compares as a mapping does

    def __repr__(self) -> str:
        if not self._kept.is_open:
            return f"<Cache of {self._path!r}, not open>"
        state = "current" if self.is_current else "not current"
        return f"<Cache of {self._path!r}, {len(self._kept.copy.nodes):,} znodes, {state}>"
