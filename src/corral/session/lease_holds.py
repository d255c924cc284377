"""What is held by virtue of the session, until when, and the heartbeats that prove it. No I/O.

Two things must hold: the session is alive, and the node that represents what is held exists.

*The session*: a heartbeat each T/6, which is a quorum write that checks one of the held nodes. Its answer,
whatever it is, proves that the session was alive (`lease`). One heartbeat serves all that is held.

*Each node* is watched, from the first heartbeat after it is held. Answers and events arrive in one order, so
when a heartbeat is answered, the events of all earlier deletions have arrived. However many nodes are held,
each loss is noticed within T/6, at the price of one read for each node, once. A node that we may not read is
checked by `exists` with each heartbeat instead: `exists` needs no permission, and servers with the fix for
CVE-2024-23944 send no events of nodes that a client may not read.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from corral import errors
from corral.types import Stat
from corral.wire import messages

from .lease import LeaseClock
from .requests import Request
from .watch_registry import WatchRegistry
from .watchers import WatchEvent, WatchKind

logger = logging.getLogger("corral.session")

INFINITY = float("inf")

# Parts of T: see "The numbers" in `machine`.
HEARTBEAT_EVERY = 1 / 6
HEARTBEAT_LIMIT = 1 / 3
# The part of T by which the event loop's observed lateness shortens the lease: at most, and at least.
MOST_LATENESS = 1 / 8
LEAST_LATENESS = 1 / 100
# How many held nodes a log line names.
_SHOWN = 5


class LeaseHold(Protocol):
    """Something held by virtue of the session: a node of ours whose deletion others wait for."""

    @property
    def node(self) -> str:
        """The node's full path."""

    @property
    def checked(self) -> str:
        """The full path that a heartbeat checks: the node, or one that exists as long as it does."""

    @property
    def is_leaving(self) -> bool:
        """Whether its holder is deleting the node: then its deletion is no loss."""

    def is_node(self, stat: Stat) -> bool:
        """Whether the node with this `Stat` is ours, and not one that another client has created there
        since."""

    def lost(self, error: errors.SessionError, ended: float) -> None:
        """It is lost. It was held until `ended`, by the machine's clock. Must not raise."""


class LeaseHolds:
    """The holds of one session, and the lease that they share."""

    def __init__(
        self,
        timeout: float,
        half_tick: float | None,
        *,
        by_ping: bool,
        watches: WatchRegistry,
        submit: Callable[[Request], None],
    ) -> None:
        self.lease = LeaseClock(timeout, half_tick, by_ping=by_ping)
        self.now = 0.0
        """The time as of the last entry into the machine."""
        self.end = INFINITY
        """When the lease of what is held ends; infinite while nothing is held."""
        self.heartbeat: Heartbeat | None = None
        """The heartbeat under way."""
        self._holds: dict[LeaseHold, _NodeCheck | None] = {}
        self._watches = watches
        self._submit = submit
        self._next_heartbeat = 0.0
        self._lateness = 0.0
        self._slack = timeout * LEAST_LATENESS
        """By how many seconds the lease of what is held ends before the session's."""

    def __bool__(self) -> bool:
        return bool(self._holds)

    def __contains__(self, hold: LeaseHold) -> bool:
        return hold in self._holds

    def add(self, hold: LeaseHold, now: float) -> None:
        """It is held from now on; or still, if its release was refused."""
        if not self._holds:
            self._next_heartbeat = now + self.lease.timeout * HEARTBEAT_EVERY
        self._holds.setdefault(hold, None)
        self.renew()

    def discard(self, hold: LeaseHold) -> None:
        """It is released: it is not notified any more."""
        check = self._holds.pop(hold, None)
        if check is not None:
            check.stop()
        self.renew()

    def lose_all(self, error: errors.SessionError, ended: float) -> None:
        """Everything is lost: notify each hold."""
        for check in self._holds.values():
            if check is not None:
                check.stop()
        holds, self._holds = self._holds, {}
        self.end = INFINITY
        for hold in holds:
            _notify(hold, error, ended)

    def nodes(self) -> list[str]:
        """The full paths of what is held."""
        return [hold.node for hold in self._holds]

    def describe(self) -> str:
        """What is held, for a log line: the first few nodes, and how many more."""
        nodes = self.nodes()
        shown = ", ".join(nodes[:_SHOWN])
        return shown if len(nodes) <= _SHOWN else f"{shown} and {len(nodes) - _SHOWN:,} more"

    # The nodes

    def watch(self, check: _NodeCheck, path: str) -> None:
        """Watch a held node, by a read with a watch."""
        self._watches.add(path, check, WatchKind.NODE)
        self._read(messages.GET, messages.encode_get(path, True), path, check, watches=(path, WatchKind.NODE))

    def unwatch(self, check: _NodeCheck, path: str) -> None:
        """Do not watch it any more: it is deleted, or being deleted."""
        self._watches.forget(path, check, WatchKind.NODE)

    def check_exists(self, check: _NodeCheck, path: str) -> None:
        """Check that a held node exists."""
        self._read(messages.EXISTS, messages.encode_exists(path, False), path, check)

    def _read(
        self,
        op: messages.Operation,
        body: bytes,
        path: str,
        check: _NodeCheck,
        watches: tuple[str, WatchKind] | None = None,
    ) -> None:
        self._submit(Request(op, body, path, _NodeRead(check, path), watches=watches))

    def node_gone(self, hold: LeaseHold) -> None:
        """The node of a hold does not exist; unless its holder is deleting it, the hold is lost."""
        if hold not in self._holds or hold.is_leaving:
            return
        self.discard(hold)
        logger.warning("%s was deleted by somebody else: it is held no longer", hold.node)
        _notify(hold, errors.LockLost(f"its node {hold.node!r} was deleted by somebody else"), self.now)

    # The lease

    def renew(self) -> None:
        """Compute `end` anew: the lease, our lateness, or what is held has changed."""
        self.end = self.possible_end() if self._holds else INFINITY

    def possible_end(self) -> float:
        """When something held now would be lost, by the proofs so far."""
        return self.lease.end - self._slack

    def note_lateness(self, late: float) -> None:
        """The event loop was `late` seconds late. It decays: one stall does not shorten leases for ever."""
        self._lateness = max(min(late, self.lease.timeout * MOST_LATENESS), self._lateness * 0.9)
        self._allow_for_lateness()

    def _allow_for_lateness(self) -> None:
        self._slack = max(self._lateness, self.lease.timeout * LEAST_LATENESS)
        self.renew()

    # Heartbeats

    def connected(self, now: float) -> None:
        """A new connection: send a heartbeat at once, since the answer to the first write proves its
        start."""
        self._next_heartbeat = now
        self._allow_for_lateness()

    def disconnected(self) -> None:
        """The connection is lost, and the heartbeat on it."""
        self.lease.disconnected()
        self.heartbeat = None

    def due(self) -> float:
        """When the next heartbeat is due, or when the one under way counts as unanswered."""
        if self.heartbeat is not None:
            return self.heartbeat.sent + self.lease.timeout * HEARTBEAT_LIMIT
        return self._next_heartbeat if self._holds else INFINITY

    def begin_heartbeat(self, now: float, answered: Callable[[], None]) -> Heartbeat:
        """The next heartbeat, which checks one of the holds in turn; `answered` is called with its answer.
        Nodes that are not watched yet are read as well."""
        for hold, check in self._holds.items():
            if check is None:
                check = self._holds[hold] = _NodeCheck(hold, self)
            check.look()
        hold = next(iter(self._holds))
        self._holds[hold] = self._holds.pop(hold)  # to the end: they take turns
        self.heartbeat = Heartbeat(self, hold, now, answered)
        return self.heartbeat

    def settle(self, heartbeat: Heartbeat, results: Sequence[messages.MultiResult]) -> None:
        """A heartbeat was answered. If its node does not exist, that hold is lost."""
        if heartbeat is not self.heartbeat:
            return
        self.heartbeat = None
        self._next_heartbeat = heartbeat.sent + self.lease.timeout * HEARTBEAT_EVERY
        hold = heartbeat.hold
        if results and results[0].error == errors.NoNode.code and heartbeat.checked == hold.checked:
            self.node_gone(hold)
        self.renew()


def _notify(hold: LeaseHold, error: errors.SessionError, ended: float) -> None:
    try:
        hold.lost(error, ended)
    except Exception as defect:  # the other holders must be notified all the same
        logger.error("the holder of %s could not be notified; please report this", hold.node, exc_info=defect)


class _Known(enum.Enum):
    """What is known of a held node."""

    NOTHING = "it must be read"
    REQUESTED = "a read with a watch is under way"
    WATCHED = "it exists and is watched"
    UNREADABLE = "it must be checked with each heartbeat"
    OVER = "it is held no longer"


class _NodeCheck:
    """Notices the deletion of one hold's node (`watchers.Watcher`)."""

    __slots__ = ("_hold", "_holds", "_known", "_path")

    def __init__(self, hold: LeaseHold, holds: LeaseHolds) -> None:
        self._hold = hold
        self._holds = holds
        self._known = _Known.NOTHING
        self._path = ""  # the watched path, if any

    @property
    def is_over(self) -> bool:
        """Whether the node is held no longer."""
        return self._known is _Known.OVER

    def look(self) -> None:
        """Read the node, unless it is watched."""
        path = self._hold.checked
        if self._known is _Known.UNREADABLE:
            self._holds.check_exists(self, path)
        elif self._known is _Known.NOTHING or (self._known is _Known.WATCHED and path != self._path):
            self._known = _Known.REQUESTED
            self._move_to(path)
            self._holds.watch(self, path)

    def stop(self) -> None:
        """The node is held no longer."""
        self._known = _Known.OVER
        self._move_to("")

    def _move_to(self, path: str) -> None:
        before, self._path = self._path, path
        if before:
            self._holds.unwatch(self, before)

    # The watcher

    def fire(self, event: WatchEvent, path: str, zxid: int, /) -> None:
        """The watched node has changed."""
        if self._known is _Known.OVER:
            return
        self._known = _Known.NOTHING  # the next heartbeat reads it
        if event is WatchEvent.DELETED and path == self._hold.checked:
            self._holds.node_gone(self._hold)

    # The answers, with the path that was requested

    def found(self, path: str, stat: Stat) -> None:
        """A node exists at the path."""
        if path == self._hold.checked and not self._hold.is_node(stat):
            self._known = _Known.NOTHING
            self._holds.node_gone(self._hold)
        elif self._known is _Known.REQUESTED and path == self._path:
            self._known = _Known.WATCHED

    def not_found(self, path: str, error: BaseException) -> None:
        """The node does not exist, or we may not read it, or the answer was lost."""
        if isinstance(error, errors.NoNode):
            self._known = _Known.NOTHING
            if path == self._hold.checked:  # else another node is checked by now
                self._holds.node_gone(self._hold)
        elif self._known is not _Known.REQUESTED:
            return
        elif isinstance(error, errors.NoAuth | errors.ReplyError) or (
            isinstance(error, errors.ConnectionLoss) and error.is_hopeless
        ):
            self._known = _Known.UNREADABLE
            self._move_to("")
        else:
            self._known = _Known.NOTHING


class _NodeRead:
    """Waits for the answer to one read of a held node (`requests.Waiter`)."""

    __slots__ = ("_check", "_path")

    def __init__(self, check: _NodeCheck, path: str) -> None:
        self._check = check
        self._path = path

    def done(self) -> bool:
        """Whether the node is held no longer."""
        return self._check.is_over

    def set_result(self, result: Any, /) -> None:
        self._check.found(self._path, result if isinstance(result, Stat) else result[1])

    def set_exception(self, error: BaseException, /) -> None:
        self._check.not_found(self._path, error)


class Heartbeat:
    """A heartbeat under way, and the waiter for its answer (`requests.Waiter`)."""

    __slots__ = ("_answered", "_holds", "checked", "hold", "sent")

    def __init__(self, holds: LeaseHolds, hold: LeaseHold, sent: float, answered: Callable[[], None]) -> None:
        self._holds = holds
        self._answered = answered
        self.hold = hold
        self.checked = hold.checked
        self.sent = sent

    def encode(self) -> bytes:
        """The body of its transaction."""
        return messages.encode_multi([(messages.CHECK, messages.encode_check(self.checked, -1))])

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self._holds.settle(self, result)
        self._answered()

    def set_exception(self, exception: BaseException, /) -> None:
        """Whatever the error, the end of the connection or another heartbeat follows."""
        self.set_result(())
