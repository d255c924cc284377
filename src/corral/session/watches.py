"""The only owner of the server's watches: which there are, and who wants to know (W7). No I/O.

There is an entry for each path and kind, with all who watch it, and with whether the server has a watch for
it now. Several watchers share one server watch (W4). The session restores the *subscription* after a
reconnect (`rearm`); what was known before, the watchers find out again when they are fired.

Kinds, and why they never mix on a path
---------------------------------------
*One-shot* watches (NODE, CHILDREN) are set by a read, and an event uses them up; each watcher reads again,
with a watch, when it cares to. *Persistent* ones (PERSISTENT: a node and which children it has; RECURSIVE:
all nodes from a path downwards) are asked for once, and tell of every change.

Up to 3.8 a session has one watch a path and table, and the last one set wins: a read with a watch, at the
path of a recursive one, silently ends that (ZOOKEEPER-4466), and so does the removal of any kind. So what a
persistent watch tells of is not watched a second time: it *covers* the one-shot watches at its path, and a
recursive one those below it, which are fed by its events (`covers`; the session then takes the watch out
of the reads). When it ends, those it fed look again, each with a watch of its own.

A reconnect sets persistent watches again, but what happened meanwhile is lost (ZOOKEEPER-4698; one-shot
watches are compared with a zxid and lose nothing). So everybody who depends on one looks again then.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from corral import errors
from corral.wire import framing, messages
from corral.wire.messages import Operation

from .requests import NOBODY, Request

logger = logging.getLogger("corral.session")

# The largest body, in bytes, of a message that sets watches again; larger only for a single path. A server
# whose limit we were not told may have a jute.maxbuffer as small as 32 KiB, and closes the connection on a
# larger frame: then no connection would ever last.
CHUNK = 16 * 1024
# What such a message has beside the paths: a zxid and the lengths of five lists.
_CHUNK_OVERHEAD = 8 + 5 * 4


class Kind(enum.Enum):
    """What is watched."""

    CHILDREN = "children"
    """Which children a node has, until that changes."""
    NODE = "node"
    """A node's existence and data, until one of them changes."""
    PERSISTENT = "persistent"
    """A node's existence, its data, and which children it has."""
    RECURSIVE = "recursive"
    """Existence and data of a node and of all below it."""


class Change(enum.IntEnum):
    """What a watcher is told. The numbers from 1 on are the protocol's event types."""

    ARMED = -1
    """Nothing happened, but a persistent watch is set: what happens from now on is told."""
    UNKNOWN = 0
    """Anything may have happened: the watch was lost."""
    CREATED = 1
    DELETED = 2
    DATA_CHANGED = 3
    CHILDREN_CHANGED = 4


class Watcher(Protocol):
    """Whoever wants to know that something changed."""

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        """What is at the full path has changed, and may have again: look. `zxid` is that of the transaction
        where the server tells it (3.9), else -1. Called from within the session; must not raise."""


class PersistentWatcher(Watcher, Protocol):
    """Whoever wants a persistent watch."""

    def refused(self, error: BaseException, /) -> None:
        """The watch could not be set: the server refused it, it is too large to send, or connection after
        connection broke on it. It is not tried again until somebody watches anew. Must not raise."""


class Armed(enum.Enum):
    """What the server has for an entry."""

    NO = "no watch"
    DATA = "a watch on a node that exists"
    EXIST = "a watch on a node that does not exist"
    CHILDREN = "a watch on the children of a node"
    ASKED = "asked for: what is asked from now on comes after it"
    PERSISTENT = "a persistent watch"
    RECURSIVE = "a persistent watch of a subtree"


_NO, _ASKED = Armed.NO, Armed.ASKED
_WHEN_SET = {
    Kind.NODE: Armed.DATA,
    Kind.CHILDREN: Armed.CHILDREN,
    Kind.PERSISTENT: Armed.PERSISTENT,
    Kind.RECURSIVE: Armed.RECURSIVE,
}
# The protocol's modes of addWatch.
_MODES = {Kind.PERSISTENT: 0, Kind.RECURSIVE: 1}
PERSISTENT_KINDS = tuple(_MODES)
# What to remove each by. The numbers for the persistent ones alone are 3.9's; older servers know "any".
_REMOVED_BY = {
    Kind.CHILDREN: messages.WATCHER_CHILDREN,
    Kind.NODE: messages.WATCHER_DATA,
    Kind.PERSISTENT: messages.WATCHER_ANY,
    Kind.RECURSIVE: messages.WATCHER_ANY,
}


class _Entry:
    __slots__ = ("armed", "asking", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.armed = _NO
        self.asking: _Asking | None = None

    def fire(self, change: Change, path: str, zxid: int = -1) -> None:
        for watcher in tuple(self.watchers):
            try:
                watcher.fire(change, path, zxid)
            except Exception as defect:  # of this watcher alone: the others and the session go on
                logger.error("a watcher of %r failed; please report this", path, exc_info=defect)


class _Asking:
    """Waits for the answer to a request for a persistent watch."""

    def __init__(self, registry: WatchRegistry, path: str, kind: Kind, entry: _Entry) -> None:
        self._registry = registry
        self._path = path
        self._kind = kind
        self._entry = entry

    def done(self) -> bool:
        """Whether nobody wants it any more, or it was asked for again."""
        return self._entry.asking is not self

    def set_result(self, result: object, /) -> None:
        self._registry.established(self._path, self._kind)

    def set_exception(self, error: BaseException, /) -> None:
        self._registry.not_established(self._path, self._kind, error)


class WatchRegistry:
    """Watches by full path and kind. `submit` takes what is to be said to the server about them; no message
    is larger than `max_request`, in bytes."""

    def __init__(
        self,
        submit: Callable[[Request], None] = lambda request: None,
        *,
        max_request: int = framing.DEFAULT_MAX_REQUEST,
    ) -> None:
        self._submit = submit
        self._max_request = max_request
        self._chunk = min(CHUNK, max_request // 2)
        self._nodes: dict[str, _Entry] = {}
        self._children: dict[str, _Entry] = {}
        self._persistent: dict[str, _Entry] = {}
        self._recursive: dict[str, _Entry] = {}
        self._by_kind = {
            Kind.NODE: self._nodes,
            Kind.CHILDREN: self._children,
            Kind.PERSISTENT: self._persistent,
            Kind.RECURSIVE: self._recursive,
        }
        # How many recursive watches there are by the length of their paths, so that finding those above a
        # path costs what is watched, however long the path is that a server names.
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def add(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> None:
        """`watcher` is to be fired when what it watches may have changed, until it is removed.

        A one-shot watch is then set by a read, with `Request.watches`; a persistent one is asked for here.
        """
        entries = self._by_kind[kind]
        entry = entries.get(path)
        if entry is None:
            entry = entries[path] = _Entry()
            if kind is Kind.RECURSIVE:
                self._lengths[len(path)] = self._lengths.get(len(path), 0) + 1
        entry.watchers[watcher] = None
        if kind in _MODES:
            if self._is_set(path, kind):
                watcher.fire(Change.ARMED, path, -1)
            else:
                self._ask(path)

    def remove(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> None:
        """`watcher` is to be fired no more; the server's watch goes with the last of them."""
        entries = self._by_kind[kind]
        entry = entries.get(path)
        if entry is None or watcher not in entry.watchers:
            return
        del entry.watchers[watcher]
        if entry.watchers:
            return
        self._drop(path, kind)
        entry.asking = None
        if entry.armed is not _NO:
            # First, and then whoever was fed by it reads, with a watch of their own: else that would go too.
            self._remove(path, kind)
            if kind in _MODES:
                # That ends all that the session has at this path, and what it has asked for there.
                for others in self._by_kind.values():
                    if other := others.get(path):
                        other.armed, other.asking = _NO, None
                self._ask(path)
                if other := self._recursive.get(path):
                    other.fire(Change.UNKNOWN, path)
                self._unfed(path)
        elif kind in _MODES:
            self._ask(path)  # it was refused, and another that waits for its end was not asked for

    def forget(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> None:
        """As `remove`, for a one-shot watch of a node that is gone or that we are deleting: nothing is sent,
        since the deletion uses the server's watch up, and its event is ignored if nobody else watches."""
        assert kind not in _MODES, "the end of a node does not end a persistent watch"
        entry = self._by_kind[kind].get(path)
        if entry is not None and entry.watchers.pop(watcher, watcher) is None and not entry.watchers:
            self._drop(path, kind)

    def _drop(self, path: str, kind: Kind) -> None:
        del self._by_kind[kind][path]
        if kind is Kind.RECURSIVE:
            left = self._lengths.pop(len(path)) - 1
            if left:
                self._lengths[len(path)] = left

    def _remove(self, path: str, kind: Kind) -> None:
        if kind not in _MODES and self._is_persistent(path):
            return  # removing this kind would end the other one too
        body = messages.encode_remove_watches(path, _REMOVED_BY[kind])
        self._submit(Request(messages.REMOVE_WATCHES, body, path, NOBODY))

    # What the server has

    def armed(self, path: str, armed: Armed, kind: Kind = Kind.NODE) -> bool:
        """The server has set a one-shot watch. Whether somebody still wants it."""
        entry = self._by_kind[kind].get(path)
        if entry is None:
            return False
        entry.armed = armed
        return True

    def answered(self, path: str, kind: Kind, op: Operation, code: int) -> None:
        """A read that sets a watch was answered: note whether the server has it now."""
        if code == 0:
            armed = _WHEN_SET[kind]
        elif code == errors.NoNode.code and op is messages.EXISTS:
            armed = Armed.EXIST
        else:
            return
        if not self.armed(path, armed, kind):
            self._remove(path, kind)  # whoever wanted it has left while the read was on its way

    def is_armed(self, path: str, kind: Kind = Kind.NODE) -> bool:
        """Whether the server will tell us of the next change, by a watch of its own."""
        entry = self._by_kind[kind].get(path)
        return entry is not None and entry.armed not in (_NO, _ASKED)

    def covers(self, path: str) -> bool:
        """Whether a persistent watch tells of all that a one-shot watch of the path would tell of."""
        if not self._recursive and not self._persistent:
            return False
        return self._is_persistent(path) or any(entry.armed is not _NO for entry in self._above(path))

    # Persistent watches

    def _ask(self, path: str) -> None:
        """Ask for the persistent watch of a path that is wanted and that nothing gives yet."""
        # Only one: asking for the other would end the recursive one, which tells of the same.
        kind = Kind.RECURSIVE if path in self._recursive else Kind.PERSISTENT
        entry = self._by_kind[kind].get(path)
        if entry is None or entry.armed is not _NO:
            return
        entry.armed = _ASKED
        entry.asking = asking = _Asking(self, path, kind, entry)
        body = messages.encode_add_watch(path, _MODES[kind])
        size = len(body) + 8
        if size > self._max_request:
            asking.set_exception(errors.FrameTooLarge("add_watch", path, size, self._max_request))
        else:
            self._submit(Request(messages.ADD_WATCH, body, path, asking))

    def established(self, path: str, kind: Kind) -> None:
        """The server has set a persistent watch."""
        told = kind is Kind.RECURSIVE and path in self._persistent and self._is_set(path, Kind.PERSISTENT)
        # Up to 3.8 it has taken the place of whatever the session had at this path.
        for lesser in (Kind.NODE, Kind.CHILDREN, Kind.PERSISTENT):
            other = self._by_kind[lesser].get(path)
            if lesser is not kind and other is not None and other.armed is not _ASKED:
                other.armed = _NO
        entry = self._by_kind[kind][path]
        entry.armed, entry.asking = _WHEN_SET[kind], None
        self._tell_armed(path, persistent=not told)

    def not_established(self, path: str, kind: Kind, error: BaseException) -> None:
        """A persistent watch was refused, or is not known to be there."""
        entry = self._by_kind[kind][path]
        entry.armed, entry.asking = _NO, None
        if isinstance(error, errors.ConnectionLoss) and not error.is_hopeless:
            self._ask(path)
            entry.fire(Change.UNKNOWN, path)
        else:
            for watcher in tuple(entry.watchers):
                persistent: PersistentWatcher = watcher  # type: ignore[assignment]  # by its kind
                persistent.refused(error)
        self._unfed(path)

    def _is_persistent(self, path: str) -> bool:
        """Whether the server has, or was asked for, a persistent watch at this very path."""
        return any(
            entry is not None and entry.armed is not _NO
            for entry in (self._persistent.get(path), self._recursive.get(path))
        )

    def _is_set(self, path: str, kind: Kind) -> bool:
        """Whether all that such a persistent watch tells of is told now."""
        recursive = self._recursive.get(path)
        if recursive is not None and recursive.armed is Armed.RECURSIVE:
            return True
        return kind is Kind.PERSISTENT and self._persistent[path].armed is Armed.PERSISTENT

    def _tell_armed(self, path: str, *, persistent: bool = True) -> None:
        for kind in _MODES if persistent else (Kind.RECURSIVE,):
            entry = self._by_kind[kind].get(path)
            if entry is not None and self._is_set(path, kind):
                entry.fire(Change.ARMED, path)

    def _unfed(self, path: str) -> None:
        """What a persistent watch was to tell of may have been lost: those it feeds look again."""
        below = path if path == "/" else path + "/"
        for entries in (self._nodes, self._children):
            for each, entry in list(entries.items()):
                if entry.armed is _NO and (each == path or each.startswith(below)):
                    entry.fire(Change.UNKNOWN, each)

    def _above(self, path: str) -> Iterator[_Entry]:
        """The recursive watches at a path and above it, the nearest first."""
        recursive, length = self._recursive, len(path)
        for each in sorted(self._lengths, reverse=True):
            if each == length or (each < length and (each == 1 or path[each] == "/")):
                entry = recursive.get(path[:each])
                if entry is not None:
                    yield entry

    # Events

    def notify(self, event: int, path: str, zxid: int = -1) -> None:
        """The server has told of an event; it has used up its one-shot watches, both if a node is gone."""
        for concerned, entries in ((_NODE_EVENTS, self._nodes), (_CHILDREN_EVENTS, self._children)):
            change = concerned.get(event)
            entry = entries.get(path) if change is not None else None
            if entry is not None and change is not None:
                entry.armed = _NO
                entry.fire(change, path, zxid)
        if self._recursive or self._persistent:
            self._notify_persistent(event, path, zxid)

    def _notify_persistent(self, event: int, path: str, zxid: int) -> None:
        change = _ALL_EVENTS.get(event)
        if change is None:
            return
        entry = self._persistent.get(path)
        if entry is not None:
            entry.fire(change, path, zxid)
        if change is Change.CHILDREN_CHANGED:
            return  # a recursive watch tells of the child itself instead
        for entry in list(self._above(path)):
            entry.fire(change, path, zxid)
        if change is not Change.DATA_CHANGED and path != "/":
            parent = path[: path.rindex("/")] or "/"
            for entries in (self._children, self._persistent):
                entry = entries.get(parent)
                if entry is not None and entry.armed is _NO:
                    entry.fire(Change.CHILDREN_CHANGED, parent, zxid)

    # Reconnects

    def rearm(self, zxid: int) -> Iterator[tuple[Operation, bytes]]:
        """Messages that set every watch again; the server fires one-shot ones if there was a change after
        `zxid`. For the persistent ones see `look_again`. No message is over `CHUNK` or half of the largest
        request, unless a single path is."""
        chunk: dict[Armed, list[str]] = {armed: [] for armed in Armed}
        size = 0  # of the paths in the chunk, as they are encoded
        everything = [each for entries in self._by_kind.values() for each in entries.items()]
        for path, entry in everything:
            if entry.armed is _NO or entry.armed is _ASKED:  # it may have ended between two chunks
                continue
            encoded = 4 + len(path.encode())
            if size and _CHUNK_OVERHEAD + size + encoded > self._chunk:
                yield _set_again(zxid, chunk)
                chunk, size = {armed: [] for armed in Armed}, 0
                if entry.armed is _NO or entry.armed is _ASKED:
                    continue
            chunk[entry.armed].append(path)
            size += encoded
        if size:
            yield _set_again(zxid, chunk)

    def look_again(self) -> None:
        """Persistent watches are being set again, and have lost what happened: who depends on one looks."""
        for kind in _MODES:
            for path, entry in list(self._by_kind[kind].items()):
                if entry.armed is _WHEN_SET[kind]:
                    entry.fire(Change.UNKNOWN, path)
        for entries in (self._nodes, self._children):
            for path, entry in list(entries.items()):
                if entry.armed is _NO and self.covers(path):
                    entry.fire(Change.UNKNOWN, path)

    def set_again(self) -> None:
        """The server has done all that `rearm` says."""
        for path in {**self._recursive, **self._persistent}:
            self._tell_armed(path)

    def reset(self) -> None:
        """The session is over and its watches with it: everybody looks again."""
        everything = [each for entries in self._by_kind.values() for each in entries.items()]
        for _, entry in everything:
            entry.armed, entry.asking = _NO, None
        for path in {**self._recursive, **self._persistent}:
            self._ask(path)
        for path, entry in everything:
            entry.fire(Change.UNKNOWN, path)


def _set_again(zxid: int, chunk: dict[Armed, list[str]]) -> tuple[Operation, bytes]:
    one_shot = (chunk[Armed.DATA], chunk[Armed.EXIST], chunk[Armed.CHILDREN])
    persistent, recursive = chunk[Armed.PERSISTENT], chunk[Armed.RECURSIVE]
    if persistent or recursive:
        return messages.SET_WATCHES2, messages.encode_set_watches2(zxid, *one_shot, persistent, recursive)
    return messages.SET_WATCHES, messages.encode_set_watches(zxid, *one_shot)  # which older servers know


_ALL_EVENTS: dict[int, Change] = {int(change): change for change in Change if change > 0}
_NODE_EVENTS = {
    event: change for event, change in _ALL_EVENTS.items() if change is not Change.CHILDREN_CHANGED
}
_CHILDREN_EVENTS: dict[int, Change] = {
    int(change): change for change in (Change.DELETED, Change.CHILDREN_CHANGED)
}
