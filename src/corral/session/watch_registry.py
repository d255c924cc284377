"""The only owner of the server's watches: which ones exist, and who watches (W7). No I/O.

There is an entry for each path and kind. It has the watchers, and whether the server has a watch for it now.
Several watchers share one server watch (W4). After a reconnect the session restores the *subscriptions*
(`rearm`); the watchers restore *knowledge*: they read again when they are fired.

Kinds, and why they never mix on a path
---------------------------------------
*One-shot* watches (NODE, CHILDREN) are set by a read, and an event removes them. Each watcher reads again,
with a watch, when it wants to. *Persistent* watches (PERSISTENT, RECURSIVE) are set once, and every change
makes an event.

Up to 3.8 a server has one watch for each session, path and table, and the newest replaces the others: a read
with a watch, at the path of a recursive watch, silently removes that (ZOOKEEPER-4466), and so does the
removal of any kind. We therefore never set a one-shot watch that a persistent one covers; the registry
derives its events (`covers`; the session clears the watch flag of the reads). A persistent watch covers the
one-shot watches at its path, and a recursive one those below it, too. When it is removed, the watchers that
it fed are fired, and set watches of their own.

A reconnect sets persistent watches again, but the events of the meantime are lost (ZOOKEEPER-4698; one-shot
watches are compared with a zxid and lose nothing). All who depend on a persistent watch are therefore fired
then."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterator

from corral import errors
from corral.wire import framing, messages
from corral.wire.messages import Operation

from .requests import NOBODY, Nobody, Request
from .watchers import PersistentWatcher, Watcher, WatchEvent, WatchKind

logger = logging.getLogger("corral.session")

# The largest body, in bytes, of a message that sets watches again; only a single path may exceed it. The
# server's jute.maxbuffer, which we do not know, may be as small as 32 KiB. A server closes the connection on
# a larger frame: no connection would last.
CHUNK = 16 * 1024
# Such a message has a zxid and the lengths of five lists beside the paths.
_CHUNK_OVERHEAD = 8 + 5 * 4


class WatchState(enum.Enum):
    """What the server has for an entry."""

    NO = "no watch"
    DATA = "a watch on a node that exists"
    EXIST = "a watch on a node that does not exist"
    CHILDREN = "a watch on the children of a node"
    REQUESTED = "a persistent watch is requested: requests from now on are executed after it"
    PERSISTENT = "a persistent watch"
    RECURSIVE = "a recursive persistent watch"


_NO, _REQUESTED = WatchState.NO, WatchState.REQUESTED
_WHEN_SET = {
    WatchKind.NODE: WatchState.DATA,
    WatchKind.CHILDREN: WatchState.CHILDREN,
    WatchKind.PERSISTENT: WatchState.PERSISTENT,
    WatchKind.RECURSIVE: WatchState.RECURSIVE,
}
# The protocol's modes of addWatch.
_MODES = {WatchKind.PERSISTENT: 0, WatchKind.RECURSIVE: 1}
PERSISTENT_KINDS = tuple(_MODES)
# The protocol's types of removeWatches. 3.9 has types for each persistent kind; older servers know "any".
_REMOVED_BY = {
    WatchKind.CHILDREN: messages.WATCHER_CHILDREN,
    WatchKind.NODE: messages.WATCHER_DATA,
    WatchKind.PERSISTENT: messages.WATCHER_ANY,
    WatchKind.RECURSIVE: messages.WATCHER_ANY,
}


class _Entry:
    __slots__ = ("request", "watch_state", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.watch_state = _NO
        self.request: _AddWatch | None = None
        """The request for a persistent watch that is under way."""

    def fire(self, event: WatchEvent, path: str, zxid: int = -1) -> None:
        for watcher in tuple(self.watchers):
            try:
                watcher.fire(event, path, zxid)
            except Exception as defect:  # the other watchers and the session go on
                logger.error("a watcher of %r failed; please report this", path, exc_info=defect)


class _AddWatch:
    """Waits for the answer to a request for a persistent watch (`requests.Waiter`)."""

    def __init__(self, registry: WatchRegistry, path: str, kind: WatchKind, entry: _Entry) -> None:
        self._registry = registry
        self._path = path
        self._kind = kind
        self._entry = entry

    def done(self) -> bool:
        """Whether the entry does not want this answer: it has no watcher left, or another request."""
        return self._entry.request is not self

    def set_result(self, result: object, /) -> None:
        self._registry.established(self._path, self._kind)

    def set_exception(self, error: BaseException, /) -> None:
        self._registry.not_established(self._path, self._kind, error)


class _Removal(Nobody):
    """Waits for the answer to the removal of a one-shot watch, whatever it is; but notes that the server ends
    the connection on it, as before ZooKeeper 3.5."""

    def __init__(self, registry: WatchRegistry) -> None:
        self._registry = registry

    def done(self) -> bool:
        """Whether it need not be sent any more."""
        return not self._registry.can_remove

    def set_exception(self, error: BaseException, /) -> None:
        if isinstance(error, errors.Unimplemented | errors.ConnectionLoss):
            self._registry.can_remove = False


class WatchRegistry:
    """Watches by full path and kind. `submit` sends requests about them, none larger than `max_request`
    bytes."""

    def __init__(
        self,
        submit: Callable[[Request], None] = lambda request: None,
        *,
        max_request: int = framing.DEFAULT_MAX_REQUEST,
    ) -> None:
        self._submit = submit
        self._max_request = max_request
        self._chunk = min(CHUNK, max_request // 2)
        self.can_remove = True
        """Whether the server knows how to remove a watch. Otherwise it ends the connection of whoever asks,
        and one-shot watches that nobody needs stay there until they fire."""
        self._nodes: dict[str, _Entry] = {}
        self._children: dict[str, _Entry] = {}
        self._persistent: dict[str, _Entry] = {}
        self._recursive: dict[str, _Entry] = {}
        self._by_kind = {
            WatchKind.NODE: self._nodes,
            WatchKind.CHILDREN: self._children,
            WatchKind.PERSISTENT: self._persistent,
            WatchKind.RECURSIVE: self._recursive,
        }
        # The number of recursive watches by the length of their paths. Finding those above a path then costs
        # as much as there are watches, however long the path is that a server names.
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def counts(self) -> dict[str, int]:
        """The number of watched paths by the kind's value."""
        return {kind.value: len(entries) for kind, entries in self._by_kind.items()}

    def add(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
        """Fire `watcher` whenever what it watches may have changed, until it is removed.

        A one-shot watch is set by a read with `Request.watches`; a persistent one is requested here.
        """
        entries = self._by_kind[kind]
        entry = entries.get(path)
        if entry is None:
            entry = entries[path] = _Entry()
            if kind is WatchKind.RECURSIVE:
                self._lengths[len(path)] = self._lengths.get(len(path), 0) + 1
        entry.watchers[watcher] = None
        if kind in _MODES:
            if self._is_set(path, kind):
                watcher.fire(WatchEvent.ARMED, path, -1)
            else:
                self._request_missing(path)

    def remove(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
        """Do not fire `watcher` any more. Removing the last watcher removes the server's watch."""
        entries = self._by_kind[kind]
        entry = entries.get(path)
        if entry is None or watcher not in entry.watchers:
            return
        del entry.watchers[watcher]
        if entry.watchers:
            return
        self._drop(path, kind)
        entry.request = None
        if entry.watch_state is not _NO:
            # Before the watchers that it fed set watches of their own: the removal would remove those, too.
            self._remove(path, kind)
            if kind in _MODES:
                # The server removes all that the session has at this path, requests under way included.
                for others in self._by_kind.values():
                    if other := others.get(path):
                        other.watch_state, other.request = _NO, None
                self._request_missing(path)
                if other := self._recursive.get(path):
                    other.fire(WatchEvent.UNKNOWN, path)
                self._invalidate_covered(path)
        elif kind in _MODES:
            self._request_missing(path)  # this one was refused; the other kind has not been requested yet

    def forget(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
        """As `remove`, for a one-shot watch of a node that is deleted, or that we are deleting. Nothing is
        sent: the deletion removes the server's watch, and its event is ignored if nobody else watches."""
        assert kind not in _MODES, "the deletion of a node does not remove a persistent watch"
        entry = self._by_kind[kind].get(path)
        if entry is not None and entry.watchers.pop(watcher, watcher) is None and not entry.watchers:
            self._drop(path, kind)

    def _drop(self, path: str, kind: WatchKind) -> None:
        del self._by_kind[kind][path]
        if kind is WatchKind.RECURSIVE:
            left = self._lengths.pop(len(path)) - 1
            if left:
                self._lengths[len(path)] = left

    def _remove(self, path: str, kind: WatchKind) -> None:
        if kind not in _MODES and self._is_persistent(path):
            return  # removing this kind would remove the persistent one
        if kind not in _MODES and not self.can_remove:
            return
        body = messages.encode_remove_watches(path, _REMOVED_BY[kind])
        waiter = NOBODY if kind in _MODES else _Removal(self)
        self._submit(Request(messages.REMOVE_WATCHES, body, path, waiter))

    # What the server has

    def mark_set(self, path: str, state: WatchState, kind: WatchKind = WatchKind.NODE) -> bool:
        """Note that the server has set a one-shot watch. Returns whether anybody still watches."""
        entry = self._by_kind[kind].get(path)
        if entry is None:
            return False
        entry.watch_state = state
        return True

    def answered(self, path: str, kind: WatchKind, op: Operation, code: int) -> None:
        """A read with a watch was answered with this error code: note whether the server has set the
        watch."""
        if code == 0:
            state = _WHEN_SET[kind]
        elif code == errors.NoNode.code and op is messages.EXISTS:
            state = WatchState.EXIST
        else:
            return
        if not self.mark_set(path, state, kind):
            self._remove(path, kind)  # the last watcher was removed while the read was under way

    def covers(self, path: str) -> bool:
        """Whether persistent watches report every event that a one-shot watch of the path would."""
        if not self._recursive and not self._persistent:
            return False
        return self._is_persistent(path) or any(entry.watch_state is not _NO for entry in self._above(path))

    # Persistent watches

    def _request_missing(self, path: str) -> None:
        """Request the persistent watch of a path if there is a watcher for one and it is neither set nor
        requested."""
        # Only one: a PERSISTENT one would replace the RECURSIVE one, which reports the same events.
        kind = WatchKind.RECURSIVE if path in self._recursive else WatchKind.PERSISTENT
        entry = self._by_kind[kind].get(path)
        if entry is None or entry.watch_state is not _NO:
            return
        entry.watch_state = _REQUESTED
        entry.request = waiter = _AddWatch(self, path, kind, entry)
        body = messages.encode_add_watch(path, _MODES[kind])
        size = len(body) + 8
        if size > self._max_request:
            waiter.set_exception(errors.FrameTooLarge("add_watch", path, size, self._max_request))
        else:
            self._submit(Request(messages.ADD_WATCH, body, path, waiter))

    def established(self, path: str, kind: WatchKind) -> None:
        """The server has set a persistent watch."""
        # Otherwise PERSISTENT watchers would be notified twice.
        was_armed = (
            kind is WatchKind.RECURSIVE
            and path in self._persistent
            and self._is_set(path, WatchKind.PERSISTENT)
        )
        # Up to 3.8 it has replaced all other watches of the session at this path.
        for lesser in (WatchKind.NODE, WatchKind.CHILDREN, WatchKind.PERSISTENT):
            other = self._by_kind[lesser].get(path)
            if lesser is not kind and other is not None and other.watch_state is not _REQUESTED:
                other.watch_state = _NO
        entry = self._by_kind[kind][path]
        entry.watch_state, entry.request = _WHEN_SET[kind], None
        self._notify_armed(path, persistent=not was_armed)

    def not_established(self, path: str, kind: WatchKind, error: BaseException) -> None:
        """A persistent watch was refused, or may not have been set."""
        entry = self._by_kind[kind][path]
        entry.watch_state, entry.request = _NO, None
        if isinstance(error, errors.ConnectionLoss) and not error.is_hopeless:
            self._request_missing(path)
            entry.fire(WatchEvent.UNKNOWN, path)
        else:
            for watcher in tuple(entry.watchers):
                persistent: PersistentWatcher = watcher  # type: ignore[assignment]  # by its kind
                persistent.refused(error)
        self._invalidate_covered(path)

    def _is_persistent(self, path: str) -> bool:
        """Whether a persistent watch is set or requested at this very path."""
        return any(
            entry is not None and entry.watch_state is not _NO
            for entry in (self._persistent.get(path), self._recursive.get(path))
        )

    def _is_set(self, path: str, kind: WatchKind) -> bool:
        """Whether the server reports all events of such a persistent watch now."""
        recursive = self._recursive.get(path)
        if recursive is not None and recursive.watch_state is WatchState.RECURSIVE:
            return True
        return kind is WatchKind.PERSISTENT and self._persistent[path].watch_state is WatchState.PERSISTENT

    def _notify_armed(self, path: str, *, persistent: bool = True) -> None:
        for kind in _MODES if persistent else (WatchKind.RECURSIVE,):
            entry = self._by_kind[kind].get(path)
            if entry is not None and self._is_set(path, kind):
                entry.fire(WatchEvent.ARMED, path)

    def _invalidate_covered(self, path: str) -> None:
        """A persistent watch at this path was removed: fire the one-shot watchers that it fed."""
        below = path if path == "/" else path + "/"
        for entries in (self._nodes, self._children):
            for each, entry in list(entries.items()):
                if entry.watch_state is _NO and (each == path or each.startswith(below)):
                    entry.fire(WatchEvent.UNKNOWN, each)

    def _above(self, path: str) -> Iterator[_Entry]:
        """The recursive watches at a path and above it, the nearest first."""
        recursive, length = self._recursive, len(path)
        for each in sorted(self._lengths, reverse=True):
            if each == length or (each < length and (each == 1 or path[each] == "/")):
                entry = recursive.get(path[:each])
                if entry is not None:
                    yield entry

    # Events

    def notify(self, event_type: int, path: str, zxid: int = -1) -> None:
        """The server has sent an event. It has removed its one-shot watches; both kinds if the node is
        deleted."""
        for concerned, entries in ((_NODE_EVENTS, self._nodes), (_CHILDREN_EVENTS, self._children)):
            event = concerned.get(event_type)
            entry = entries.get(path) if event is not None else None
            if entry is not None and event is not None:
                entry.watch_state = _NO
                entry.fire(event, path, zxid)
        if self._recursive or self._persistent:
            self._notify_persistent(event_type, path, zxid)

    def _notify_persistent(self, event_type: int, path: str, zxid: int) -> None:
        event = _ALL_EVENTS.get(event_type)
        if event is None:
            return
        entry = self._persistent.get(path)
        if entry is not None:
            entry.fire(event, path, zxid)
        if event is WatchEvent.CHILDREN_CHANGED:
            return  # a recursive watch reports the child's own event instead
        for entry in list(self._above(path)):
            entry.fire(event, path, zxid)
        if event is not WatchEvent.DATA_CHANGED and path != "/":
            parent = path[: path.rindex("/")] or "/"
            for entries in (self._children, self._persistent):
                entry = entries.get(parent)
                if entry is not None and entry.watch_state is _NO:
                    entry.fire(WatchEvent.CHILDREN_CHANGED, parent, zxid)

    # Reconnects

    def rearm(self, zxid: int) -> Iterator[tuple[Operation, bytes]]:
        """Messages that set every watch again; the server fires one-shot ones that missed a change after
        `zxid`.

        For persistent ones see `invalidate_persistent`. No message is larger than `CHUNK` or half of the
        largest request, unless a single path is."""
        chunk: dict[WatchState, list[str]] = {state: [] for state in WatchState}
        size = 0  # of the paths in the chunk, encoded
        everything = [each for entries in self._by_kind.values() for each in entries.items()]
        for path, entry in everything:
            if (
                entry.watch_state is _NO or entry.watch_state is _REQUESTED
            ):  # it may have been removed between two chunks
                continue
            encoded = 4 + len(path.encode())
            if size and _CHUNK_OVERHEAD + size + encoded > self._chunk:
                yield _set_watches_message(zxid, chunk)
                chunk, size = {state: [] for state in WatchState}, 0
                if entry.watch_state is _NO or entry.watch_state is _REQUESTED:
                    continue
            chunk[entry.watch_state].append(path)
            size += encoded
        if size:
            yield _set_watches_message(zxid, chunk)

    def invalidate_persistent(self) -> None:
        """Persistent watches are being set again, and events were lost: fire all who depend on one."""
        for kind in _MODES:
            for path, entry in list(self._by_kind[kind].items()):
                if entry.watch_state is _WHEN_SET[kind]:
                    entry.fire(WatchEvent.UNKNOWN, path)
        for entries in (self._nodes, self._children):
            for path, entry in list(entries.items()):
                if entry.watch_state is _NO and self.covers(path):
                    entry.fire(WatchEvent.UNKNOWN, path)

    def confirm_rearmed(self) -> None:
        """The server has carried out all messages of `rearm`."""
        for path in {**self._recursive, **self._persistent}:
            self._notify_armed(path)

    def reset(self) -> None:
        """The session is over and its watches with it: request the persistent ones anew, and fire
        everyone."""
        everything = [each for entries in self._by_kind.values() for each in entries.items()]
        for _, entry in everything:
            entry.watch_state, entry.request = _NO, None
        for path in {**self._recursive, **self._persistent}:
            self._request_missing(path)
        for path, entry in everything:
            entry.fire(WatchEvent.UNKNOWN, path)


def _set_watches_message(zxid: int, chunk: dict[WatchState, list[str]]) -> tuple[Operation, bytes]:
    one_shot = (chunk[WatchState.DATA], chunk[WatchState.EXIST], chunk[WatchState.CHILDREN])
    persistent, recursive = chunk[WatchState.PERSISTENT], chunk[WatchState.RECURSIVE]
    if persistent or recursive:
        return messages.SET_WATCHES2, messages.encode_set_watches2(zxid, *one_shot, persistent, recursive)
    return messages.SET_WATCHES, messages.encode_set_watches(zxid, *one_shot)  # which older servers know


_ALL_EVENTS: dict[int, WatchEvent] = {int(event): event for event in WatchEvent if event > 0}
_NODE_EVENTS = {
    number: event for number, event in _ALL_EVENTS.items() if event is not WatchEvent.CHILDREN_CHANGED
}
_CHILDREN_EVENTS: dict[int, WatchEvent] = {
    int(event): event for event in (WatchEvent.DELETED, WatchEvent.CHILDREN_CHANGED)
}
