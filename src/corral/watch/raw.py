"""Events as the server sends them, by a persistent watch."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from corral import paths
from corral.session.watches import Change, Kind
from corral.types import RawEvent, RawKind

from .feed import Feed, Feeds, Place
from .reader import Reader

__all__ = ["RawWatch"]

# How many events wait for a reader, at most, and how many characters their paths have together. More are
# dropped, and that is told.
BACKLOG = 10_000
BACKLOG_SIZE = 10_000_000

_KINDS = {
    Change.ARMED: RawKind.MISSED,
    Change.CREATED: RawKind.CREATED,
    Change.DELETED: RawKind.DELETED,
    Change.DATA_CHANGED: RawKind.DATA_CHANGED,
    Change.CHILDREN_CHANGED: RawKind.CHILDREN_CHANGED,
}


class RawPlace(Place):
    """The events that a reader has not taken yet."""

    __slots__ = ("_events", "_size")

    def __init__(self) -> None:
        self._events: deque[tuple[RawKind, str, int]] = deque()
        self._size = 0  # of their paths

    def add(self, kind: RawKind, path: str, zxid: int, root: str) -> None:
        """One more; if that is too many, they are exchanged for the word that some were missed."""
        if kind is RawKind.MISSED or len(self._events) >= BACKLOG or self._size > BACKLOG_SIZE:
            self.clear()
            self._events.append((RawKind.MISSED, root, -1))
        if kind is not RawKind.MISSED:
            self._events.append((kind, path, zxid))
            self._size += len(path)

    def take(self) -> tuple[RawKind, str, int] | None:
        """The next one."""
        if not self._events:
            return None
        event = self._events.popleft()
        if event[0] is not RawKind.MISSED:
            self._size -= len(event[1])
        return event

    def clear(self) -> None:
        """Forget them."""
        self._events.clear()
        self._size = 0


class RawFeed(Feed):
    """The persistent watch of a path, and who wants its events."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, kind: Kind) -> None:
        super().__init__(feeds, key, full, path)
        self._kind = kind
        self._followed = False
        self._armed = False

    @property
    def is_fresh(self) -> bool:
        return True

    def join(self, place: Place) -> None:
        super().join(place)
        if self._armed:
            assert isinstance(place, RawPlace)
            place.add(RawKind.MISSED, self.full, -1, self.full)

    def demand(self) -> None:
        if not self._followed:
            self._followed = True
            self.session.watch(self.full, self, self._kind)

    def end(self) -> None:
        self._unfollow()

    def _unfollow(self) -> None:
        self._followed = self._armed = False
        self.session.unwatch(self.full, self, self._kind)

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        if change is Change.UNKNOWN:
            return  # what that may have been is told when the watch is there again
        if change is Change.ARMED:
            self._armed = True
        elif not self._armed:
            return  # another watch has told of it; the first event is that ours is set
        for place in self.places:
            assert isinstance(place, RawPlace)
            place.add(_KINDS[change], path, zxid, self.full)
        self.wake(None)

    def refused(self, error: BaseException, /) -> None:
        self._unfollow()
        self.wake(self.why_refused(error, "watch_raw"))


class RawWatch(Reader[RawFeed, RawPlace, RawEvent]):
    """A znode's events as the server sends them, each of them.

    Use it as ``async for event in zk.watch_raw(path)``, or as ``async with zk.watch_raw(path) as events`` for
    a definite end. The first event is `RawKind.MISSED`: the watch is set, what was before is not known. It
    comes again after each reconnect, since servers lose what happened meanwhile (ZOOKEEPER-4698), and where
    more than 10,000 events, or 10 MB of paths, wait for a reader; they are dropped then. Read what you need
    whenever it comes.

    Of one znode: its creation, deletion, new data, and that its set of children has changed. If `recursive`,
    creation, deletion and new data of it and of all below it. Events carry no states: `watch`,
    `watch_children` and `watch_tree` do, and need no such care.

    **On cancel** of ``anext`` nothing is lost. **On loss** of the connection it waits. Raises `Unimplemented`
    if the server has no persistent watches (ZooKeeper before 3.6), `ConnectionLoss` if
    `ConnectionLoss.MOST_LOSSES` connections in a row broke on the request that sets the watch (the next
    ``anext`` tries again), `SessionError` when the client is closed.
    """

    _verb = "watch_raw"

    def __init__(self, feeds: Feeds, full: str, path: str, chroot: str, kind: Kind) -> None:
        super().__init__(feeds, full, path, RawPlace())
        self._chroot = chroot
        self._kind = kind

    def _find(self) -> RawFeed:
        key = (RawFeed, self._full, self._kind)
        self._place.clear()  # what is left from before it left
        return self._feeds.get(key, lambda: RawFeed(self._feeds, key, self._full, self._path, self._kind))

    def _take(self, feed: RawFeed, place: RawPlace) -> RawEvent | None:
        event = place.take()
        if event is None:
            return None
        kind, full, zxid = event
        return RawEvent(kind, paths.strip(self._chroot, full), zxid if zxid > 0 else None)
