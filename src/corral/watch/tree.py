"""A subtree as an async iterator (W1 to W6). How it is followed is in `tree_feed.py`."""

from __future__ import annotations

from corral import paths
from corral.types import Event

from .feed import Feeds
from .reader import Reader
from .tree_copy import TreePlace
from .tree_feed import TreeFeed, find_feed
from .wanted import Wanted

__all__ = ["TreeWatch"]


class TreeWatch(Reader[TreeFeed, TreePlace, Event]):
    """The states of all nodes of a subtree, as events: those now, then each change.

    Use it as ``async for event in zk.watch_tree(path)``, or as ``async with zk.watch_tree(path) as events``
    for a definite end. First each node that there is, parents before their children (`EventKind.PRESENT`;
    `ABSENT` if there is no node at `path`), then one event `COMPLETE`, then changes. Leaving the loop, an
    exception, or dropping the object ends the watch; the server's watch goes with the last reader in this
    client.

    **Promised**: for each node what `NodeWatch` promises. A parent's creation is told before its children's,
    and their deletions before its own. A reader that is slow gets the newest state of each node, and never
    more events than there are nodes that it has not been told of: what it costs is bounded by the tree.
    **Not promised**: every state in between; the order of changes of different nodes otherwise; that what is
    told of different nodes was so at one instant.

    **On cancel** of ``anext`` nothing is lost. **On loss** of the connection it waits, and then reads the
    whole subtree again, since persistent watches lose what happened meanwhile (ZOOKEEPER-4698); only what has
    changed is told. Raises, each time a copy for each reader: `Unimplemented` if the server has no persistent
    watches (ZooKeeper before 3.6), `NoAuth` if we may not read the node at `path`, what `only` raises,
    `ConnectionLoss` if `ConnectionLoss.MOST_LOSSES` connections in a row broke on one request, `ReplyError`
    if the answer for one node is over `max_reply`, or if the server goes on answering with states that are
    older than those before or without parents, `SessionError` when the client is closed. The next ``anext``
    tries again, and goes on from what was told before.

    Nodes below that we may not read are left out, with what is below them; the first is logged. A `Stat` is
    as of when the node itself was last created or set: a change of its children does not renew it.
    """

    _verb = "watch_tree"

    def __init__(
        self, feeds: Feeds, full: str, path: str, chroot: str, wanted: Wanted, *, changes_only: bool = False
    ) -> None:
        super().__init__(feeds, full, path, TreePlace(complete=changes_only))
        self._chroot = chroot
        self._wanted = wanted
        if changes_only:
            self._join()

    def _find(self) -> TreeFeed:
        return find_feed(self._feeds, self._full, self._path, self._wanted)

    def _take(self, feed: TreeFeed, place: TreePlace) -> Event | None:
        change = feed.copy.next_change(place)
        if change is None:
            return None
        kind, full, node = change
        data, stat = (None, None) if node is None else node
        return Event(kind, paths.strip(self._chroot, full), data, stat)
