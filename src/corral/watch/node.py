"""One node as an async iterator: the state now, then each change, never older after newer (W1 to W5)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, TypeAlias, TypeVar

from corral.session.watchers import WatchKind
from corral.types import Event, EventKind, Stat
from corral.wire import messages

from .read import ReadFeed
from .reader import Reader
from .shared import Cursor, Feeds

__all__ = ["NO_NODE", "NodeReader", "NodeState", "NodeWatch"]

E = TypeVar("E")

NodeState: TypeAlias = "tuple[bytes | None, Stat | None]"
"""A node's data (None if it was not read) and its `Stat`; both None if it does not exist."""

NO_NODE: NodeState = (None, None)


class NodeFeed(ReadFeed[NodeState]):
    """The newest known state of one node."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str) -> None:
        super().__init__(feeds, key, full, path, messages.GET, WatchKind.NODE, NO_NODE)

    def state_of(self, answer: Any) -> NodeState:
        state: NodeState = answer
        return state


class NodeReader(Reader[ReadFeed[NodeState], Cursor, E]):
    """Iterates over the states of one znode, in the form that the subclass gives them."""

    _seen: NodeState | None = None

    def __init__(self, feeds: Feeds, full: str, path: str) -> None:
        super().__init__(feeds, full, path, Cursor())

    def _find_feed(self) -> ReadFeed[NodeState]:
        key = (NodeFeed, self._full)
        return self._feeds.get(key, lambda: NodeFeed(self._feeds, key, self._full, self._path))

    def _next_event(self, feed: ReadFeed[NodeState], cursor: Cursor) -> E | None:
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
            # Compare czxids, not versions: the version starts at 0 again when a node is created again.
            elif seen is None or seen.czxid != stat.czxid:
                kind = EventKind.CREATED
            elif seen.mzxid == stat.mzxid:
                return None
            else:
                kind = EventKind.CHANGED
        self._seen = state
        return self._item(Event(kind, self._path, data, stat))

    @abstractmethod
    def _item(self, event: Event) -> E:
        """What `anext` returns for a state."""


class NodeWatch(NodeReader[Event]):
    """The states of one znode as events: the state now, then each change.

    Use it as ``async for event in zk.watch(path)``, or as ``async with zk.watch(path) as events`` for a
    definite end. Leaving the loop, an exception, or dropping the object ends the watch. The server's watch is
    removed when the last reader of the path in this client has left.

    **Promised**: The first event is the current state, present or absent. Later events are never older, and
    never repeat a state. The last state is always delivered, across reconnects, other servers and new
    sessions. A slow reader gets the newest state. **Not promised**: every state in between.

    **On cancel** of ``anext`` no event is lost: the next ``anext`` returns it. **On loss** of the
    connection ``anext`` waits until there is one again, without a limit. It raises `ServerError`, such as
    `NoAuth`, if the server refuses the read; `ConnectionLoss` if `ConnectionLoss.MOST_LOSSES` connections
    in a row broke on the read; `ReplyError` if the answer is over `max_reply`, or if the server answers
    with an older state than before 11 times in a row. After these the next ``anext`` tries again. It raises
    `SessionError` when the client is closed or cannot have a session any more. Each reader gets its own
    copy of an error.

    Changes made while the ACL denies us reading are not reported. On a server with the fix for CVE-2024-23944
    such a change also uses up the watch, and later changes are not reported until the next reconnect.
    """

    def _item(self, event: Event) -> Event:
        return event
