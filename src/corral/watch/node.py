"""One node as an async iterator: the state now, then each change, never older after newer (W1 to W5)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeAlias

from corral.session.watches import Kind
from corral.types import Event, EventKind, Stat
from corral.wire import messages

from .feed import Feeds, Place, ReadFeed
from .reader import Reader

__all__ = ["ABSENT", "NodeWatch", "Snapshot"]

Snapshot: TypeAlias = "tuple[bytes | None, Stat | None]"
"""A state of a node: its data (None if it was not read) and its `Stat`; both None if it does not exist."""

ABSENT: Snapshot = (None, None)


class NodeFeed(ReadFeed[Snapshot]):
    """The newest known state of one node."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str) -> None:
        super().__init__(feeds, key, full, path, messages.GET, Kind.NODE, ABSENT)

    def state_of(self, answer: Any) -> Snapshot:
        snapshot: Snapshot = answer
        return snapshot


class NodeWatch(Reader[ReadFeed[Snapshot], Place, Event]):
    """The states of one node, as events: the state now, then each change.

    Use it as ``async for event in zk.watch(path)``, or as ``async with zk.watch(path) as events`` for a
    definite end. Leaving the loop, an exception, or dropping the object ends the watch; the server's watch
    goes with the last reader of the path in this client.

    **Promised**: the first event is the state now, present or absent; what follows is never older, and never
    the same state twice; the last state is always delivered, over reconnects, other servers and new
    sessions. A reader that is slow gets the newest state. **Not promised**: every state in between.

    **On cancel** of ``anext`` nothing is lost: the next one gives what this one would have given. **On loss**
    of the connection it waits, for as long as that lasts. Raises, each time a copy for each reader, and the
    next ``anext`` tries again: `ServerError`, such as `NoAuth`; `ConnectionLoss` if
    `ConnectionLoss.MOST_LOSSES` connections in a row broke on the read; `ReplyError` if the answer is over
    `max_reply`, or if the server answers with an older state than before, 11 times in a row. Raises
    `SessionError` when the client is closed, or has no session any more.

    Changes made while the ACL does not let us read the node are not told, and a server with the fix for
    CVE-2024-23944 uses up the watch on them: then later ones are not either, until the next reconnect.
    """

    _seen: Snapshot | None = None

    def __init__(self, feeds: Feeds, full: str, path: str) -> None:
        super().__init__(feeds, full, path, Place())

    def _find(self) -> ReadFeed[Snapshot]:
        key = (NodeFeed, self._full)
        return self._feeds.get(key, lambda: NodeFeed(self._feeds, key, self._full, self._path))

    def _take(self, feed: ReadFeed[Snapshot], place: Place) -> Event | None:
        state = feed.state
        if state is None:
            return None
        data, stat = state
        if self._seen is None:
            kind = EventKind.ABSENT if stat is None else EventKind.PRESENT
        else:
            seen = self._seen[1]
            if stat is None:
                if seen is None:
                    return None
                kind = EventKind.DELETED
            # Not the version, which starts again when a node is re-created.
            elif seen is None or seen.czxid != stat.czxid:
                kind = EventKind.CREATED
            elif seen.mzxid == stat.mzxid:
                return None
            else:
                kind = EventKind.CHANGED
        self._seen = state
        return Event(kind, self._path, data, stat)
