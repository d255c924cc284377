"""A node's events as the server sends them, from a persistent watch."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from corral import paths
from corral.session.watchers import WatchEvent, WatchKind
from corral.types import RawEvent, RawKind

from .reader import Reader
from .shared import Cursor, Feed, Feeds

__all__ = ["RawWatch"]

# At most how many events wait for one reader, and how many characters their paths have together. Beyond that
# they are dropped, and the reader gets `RawKind.MISSED`.
BACKLOG = 10_000
BACKLOG_SIZE = 10_000_000

_KINDS = {
    WatchEvent.ARMED: RawKind.MISSED,
    WatchEvent.CREATED: RawKind.CREATED,
    WatchEvent.DELETED: RawKind.DELETED,
    WatchEvent.DATA_CHANGED: RawKind.DATA_CHANGED,
    WatchEvent.CHILDREN_CHANGED: RawKind.CHILDREN_CHANGED,
}


class RawCursor(Cursor):
    """The events that a reader has not taken yet."""

    __slots__ = ("_events", "_size")

    def __init__(self) -> None:
        self._events: deque[tuple[RawKind, str, int]] = deque()
        self._size = 0  # of their paths, in characters

    def add(self, kind: RawKind, path: str, zxid: int, root: str) -> None:
        """Append an event. If there are too many, `RawKind.MISSED` replaces all before it."""
        if kind is RawKind.MISSED or len(self._events) >= BACKLOG or self._size > BACKLOG_SIZE:
            self.clear()
            self._events.append((RawKind.MISSED, root, -1))
        if kind is not RawKind.MISSED:
            self._events.append((kind, path, zxid))
            self._size += len(path)

    def take(self) -> tuple[RawKind, str, int] | None:
        """Remove and return the next event."""
        if not self._events:
            return None
        event = self._events.popleft()
        if event[0] is not RawKind.MISSED:
            self._size -= len(event[1])
        return event

    def clear(self) -> None:
        """Drop all events."""
        self._events.clear()
        self._size = 0


class RawFeed(Feed):
    """The persistent watch of a path, and the readers of its events."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, kind: WatchKind) -> None:
        super().__init__(feeds, key, full, path)
        self._kind = kind
        self._watching = False
        self._armed = False

    @property
    def is_fresh(self) -> bool:
        return True

    def join(self, cursor: Cursor) -> None:
        super().join(cursor)
        if self._armed:
            assert isinstance(cursor, RawCursor)
            cursor.add(RawKind.MISSED, self.full, -1, self.full)

    def demand(self) -> None:
        if not self._watching:
            self._watching = True
            self.session.watch(self.full, self, self._kind)

    def stop(self) -> None:
        self._watching = self._armed = False
        self.session.unwatch(self.full, self, self._kind)

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        if change is WatchEvent.UNKNOWN:
            return  # the watch was lost: ARMED follows when it is set again, and becomes MISSED
        if change is WatchEvent.ARMED:
            self._armed = True
        elif not self._armed:
            return  # another watch reported it; our first event is that our watch is set
        for cursor in self.cursors:
            assert isinstance(cursor, RawCursor)
            cursor.add(_KINDS[change], path, zxid, self.full)
        self.wake(None)

    def refused(self, error: BaseException, /) -> None:
        self.stop()
        self.wake(self.refusal(error, "watch_raw"))


class RawWatch(Reader[RawFeed, RawCursor, RawEvent]):
    """A znode's events as the server sends them, every one.

    Use it as ``async for event in zk.watch_raw(path)``, or as ``async with zk.watch_raw(path) as events``
    for a definite end. The first event is `RawKind.MISSED`: the watch is set, and what happened before is
    unknown. `MISSED` comes again after each reconnect, because servers lose the events of an outage
    (ZOOKEEPER-4698), and when more than 10,000 events, or 10 million characters of their paths, wait for a
    reader: those are dropped. Read whatever you depend on again after each `MISSED`.

    Without `recursive`, events report the znode's creation, deletion, new data, and changes of its set of
    children. With `recursive`, they report creation, deletion and new data of the znode and of all its
    descendants. Events carry no state: `watch`, `watch_children` and `watch_tree` do, and need no such care.

    **On cancel** of ``anext`` no event is lost. **On loss** of the connection ``anext`` waits, without a
    limit. It raises `Unimplemented` if the server has no persistent watches (ZooKeeper before 3.6);
    `ConnectionLoss` if `ConnectionLoss.MOST_LOSSES` connections in a row broke on the request that sets the
    watch, after which the next ``anext`` tries again; `SessionError` when the client is closed.
    """

    _verb = "watch_raw"

    def __init__(self, feeds: Feeds, full: str, path: str, chroot: str, kind: WatchKind) -> None:
        super().__init__(feeds, full, path, RawCursor())
        self._chroot = chroot
        self._kind = kind

    def _find_feed(self) -> RawFeed:
        key = (RawFeed, self._full, self._kind)
        self._cursor.clear()  # of events from before the reader left
        return self._feeds.get(key, lambda: RawFeed(self._feeds, key, self._full, self._path, self._kind))

    def _next_event(self, feed: RawFeed, cursor: RawCursor) -> RawEvent | None:
        event = cursor.take()
        if event is None:
            return None
        kind, full, zxid = event
        return RawEvent(kind, paths.strip(self._chroot, full), zxid if zxid > 0 else None)
