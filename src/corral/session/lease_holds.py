"""What is held by virtue of the session, until when, and the heartbeats that keep it so. No I/O.

Two things have to be known of what is held: that the session is alive, and that the node which stands for it
is there.

*The session*, and with it everything held: a heartbeat each T/6, a quorum write that checks one of the held
nodes. Its answer, whatever it says, is the proof (`lease`).

*Each node*: from the first heartbeat after it is held on, it is watched. A session is answered in order, so
when a heartbeat is answered every deletion that the quorum knew of before has been told. However many are
held, each learns within T/6 that its node is gone, at the price of one read for each, once. A node that we
may not read is asked for by existence with each heartbeat instead: that needs no permission, and servers with
the fix for CVE-2024-23944 withhold the events of nodes that a client may not read.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from corral import errors
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
# Of the loop's observed lateness: how much of T it may take from the lease, and the least that it takes.
MOST_LATENESS = 1 / 8
LEAST_LATENESS = 1 / 100
# How many held nodes a log line names.
_SHOWN = 5


class LeaseHold(Protocol):
    """Something held by virtue of the session: a node of ours that others wait to see go."""

    @property
    def node(self) -> str:
        """The node's full path."""

    @property
    def checked(self) -> str:
        """The full path of what a heartbeat checks: the node, or what has to be there if it is."""

    @property
    def is_leaving(self) -> bool:
        """Whether its holder is deleting the node, so that it goes is no loss."""

    def lost(self, error: errors.SessionError, ended: float) -> None:
        """It is held no longer; `ended` is until when it was, by the machine's clock. Must not raise."""


class LeaseHolds:
    """The holds of one session, and their one lease."""

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
        """The heartbeat that is under way."""
        self._holds: dict[LeaseHold, _NodeCheck | None] = {}
        self._watches = watches
        self._submit = submit
        self._next_heartbeat = 0.0
        self._lateness = 0.0

    def __bool__(self) -> bool:
        return bool(self._holds)

    def __contains__(self, hold: LeaseHold) -> bool:
        return hold in self._holds

    def add(self, hold: LeaseHold, now: float) -> None:
        """It is held from now on; or still, after it could not be released."""
        if not self._holds:
            self._next_heartbeat = now + self.lease.timeout * HEARTBEAT_EVERY
        self._holds.setdefault(hold, None)
        self.renew()

    def discard(self, hold: LeaseHold) -> None:
        """It is given up; no more is said to it."""
        check = self._holds.pop(hold, None)
        if check is not None:
            check.stop()
        self.renew()

    def lose_all(self, error: errors.SessionError, ended: float) -> None:
        """Everything is lost, and told so."""
        for check in self._holds.values():
            if check is not None:
                check.stop()
        holds, self._holds = self._holds, {}
        self.end = INFINITY
        for hold in holds:
            _tell(hold, error, ended)

    def describe(self) -> str:
        """What is held, for a log line: the first few nodes, and how many."""
        nodes = [hold.node for hold in self._holds]
        shown = ", ".join(nodes[:_SHOWN])
        return shown if len(nodes) <= _SHOWN else f"{shown} and {len(nodes) - _SHOWN:,} more"

    # The nodes

    def watch(self, check: _NodeCheck, path: str) -> None:
        """Watch a held node, and ask for it so that the watch is set."""
        self._watches.add(path, check, WatchKind.NODE)
        self._ask(messages.GET, messages.encode_get(path, True), path, check, watches=(path, WatchKind.NODE))

    def unwatch(self, check: _NodeCheck, path: str) -> None:
        """Watch it no more: it is gone, or going."""
        self._watches.forget(path, check, WatchKind.NODE)

    def ask_exists(self, check: _NodeCheck, path: str) -> None:
        """Ask whether a held node is there."""
        self._ask(messages.EXISTS, messages.encode_exists(path, False), path, check)

    def _ask(
        self,
        op: messages.Operation,
        body: bytes,
        path: str,
        check: _NodeCheck,
        watches: tuple[str, WatchKind] | None = None,
    ) -> None:
        self._submit(Request(op, body, path, _Look(check, path), watches=watches))

    def node_gone(self, hold: LeaseHold) -> None:
        """The node of a hold is not there, and its holder has not deleted it."""
        if hold not in self._holds or hold.is_leaving:
            return
        self.discard(hold)
        logger.warning("%s was deleted by somebody else: it is held no longer", hold.node)
        _tell(hold, errors.LockLost(f"its node {hold.node!r} was deleted by somebody else"), self.now)

    # The lease

    def renew(self) -> None:
        """The lease clock, or our lateness, or what is held, has changed."""
        self.end = self.possible_end() if self._holds else INFINITY

    def possible_end(self) -> float:
        """Until when something held would be safe, by the proofs there are."""
        return self.lease.end - max(self._lateness, self.lease.timeout * LEAST_LATENESS)

    def note_lateness(self, late: float) -> None:
        """The event loop was so late (seconds); it decays, so one stall does not shorten leases for ever."""
        self._lateness = max(min(late, self.lease.timeout * MOST_LATENESS), self._lateness * 0.9)
        self.renew()

    # Heartbeats

    def connected(self, now: float) -> None:
        """There is a new connection: the first write on it makes its start a proof, so have one at once."""
        self._next_heartbeat = now
        self.renew()

    def disconnected(self) -> None:
        """The connection is gone, and a heartbeat on it."""
        self.lease.disconnected()
        self.heartbeat = None

    def due(self) -> float:
        """When the next heartbeat is to be sent, or when the one under way counts as unanswered."""
        if self.heartbeat is not None:
            return self.heartbeat.sent + self.lease.timeout * HEARTBEAT_LIMIT
        return self._next_heartbeat if self._holds else INFINITY

    def begin_heartbeat(self, now: float, answered: Callable[[], None]) -> Heartbeat:
        """The next heartbeat, which checks one of the holds in turn; `answered` is called when it is. All
        nodes that are not watched yet are asked for as well."""
        for hold, check in self._holds.items():
            if check is None:
                check = self._holds[hold] = _NodeCheck(hold, self)
            check.look()
        hold = next(iter(self._holds))
        self._holds[hold] = self._holds.pop(hold)  # it goes to the end: they take turns
        self.heartbeat = Heartbeat(self, hold, now, answered)
        return self.heartbeat

    def settle(self, heartbeat: Heartbeat, results: Sequence[messages.MultiResult]) -> None:
        """A heartbeat was answered: if its node is gone, that one is lost."""
        if heartbeat is not self.heartbeat:
            return
        self.heartbeat = None
        self._next_heartbeat = heartbeat.sent + self.lease.timeout * HEARTBEAT_EVERY
        hold = heartbeat.hold
        if results and results[0].error == errors.NoNode.code and heartbeat.checked == hold.checked:
            self.node_gone(hold)
        self.renew()


def _tell(hold: LeaseHold, error: errors.SessionError, ended: float) -> None:
    try:
        hold.lost(error, ended)
    except Exception as defect:  # of this holder alone: the others have to be told
        logger.error("the holder of %s could not be told; please report this", hold.node, exc_info=defect)


class _Known(enum.Enum):
    """What is known of a held node."""

    NOTHING = "it is to be asked for"
    ASKED = "it was asked for, with a watch"
    WATCHED = "it is there, and its deletion will be told"
    UNREADABLE = "it has to be asked for with each heartbeat"
    OVER = "it does not matter any more"


class _NodeCheck:
    """Finds out when the node of one hold goes (`watches.Watcher`)."""

    __slots__ = ("_hold", "_holdings", "_known", "_path")

    def __init__(self, hold: LeaseHold, holdings: LeaseHolds) -> None:
        self._hold = hold
        self._holdings = holdings
        self._known = _Known.NOTHING
        self._path = ""  # what is watched, if anything is

    @property
    def is_over(self) -> bool:
        """Whether it does not matter any more."""
        return self._known is _Known.OVER

    def look(self) -> None:
        """Ask for the node, unless it is known that its deletion will be told."""
        path = self._hold.checked
        if self._known is _Known.UNREADABLE:
            self._holdings.ask_exists(self, path)
        elif self._known is _Known.NOTHING or (self._known is _Known.WATCHED and path != self._path):
            self._known = _Known.ASKED
            self._move_to(path)
            self._holdings.watch(self, path)

    def stop(self) -> None:
        """It does not matter any more."""
        self._known = _Known.OVER
        self._move_to("")

    def _move_to(self, path: str) -> None:
        before, self._path = self._path, path
        if before:
            self._holdings.unwatch(self, before)

    # The watcher

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        """What is watched has changed."""
        if self._known is _Known.OVER:
            return
        self._known = _Known.NOTHING  # the next heartbeat looks
        if change is WatchEvent.DELETED and path == self._hold.checked:
            self._holdings.node_gone(self._hold)

    # The answers, about the path that was asked for

    def found(self, path: str) -> None:
        """The node is there."""
        if self._known is _Known.ASKED and path == self._path:
            self._known = _Known.WATCHED

    def not_found(self, path: str, error: BaseException) -> None:
        """The node is gone, or not to be read, or the answer was lost."""
        if isinstance(error, errors.NoNode):
            self._known = _Known.NOTHING
            if path == self._hold.checked:  # else it is another that has to be there by now
                self._holdings.node_gone(self._hold)
        elif self._known is not _Known.ASKED:
            return
        elif isinstance(error, errors.NoAuth | errors.ReplyError) or (
            isinstance(error, errors.ConnectionLoss) and error.is_hopeless
        ):
            self._known = _Known.UNREADABLE
            self._move_to("")
        else:
            self._known = _Known.NOTHING


class _Look:
    """Waits for the answer to one request for a held node (`requests.Waiter`)."""

    __slots__ = ("_check", "_path")

    def __init__(self, check: _NodeCheck, path: str) -> None:
        self._check = check
        self._path = path

    def done(self) -> bool:
        """Whether the node does not matter any more."""
        return self._check.is_over

    def set_result(self, result: Any, /) -> None:
        self._check.found(self._path)

    def set_exception(self, error: BaseException, /) -> None:
        self._check.not_found(self._path, error)


class Heartbeat:
    """One heartbeat under way, and the waiter for its answer (`requests.Waiter`)."""

    __slots__ = ("_answered", "_holdings", "checked", "hold", "sent")

    def __init__(
        self, holdings: LeaseHolds, hold: LeaseHold, sent: float, answered: Callable[[], None]
    ) -> None:
        self._holdings = holdings
        self._answered = answered
        self.hold = hold
        self.checked = hold.checked
        self.sent = sent

    def encode(self) -> bytes:
        """The transaction that it consists of."""
        return messages.encode_multi([(messages.CHECK, messages.encode_check(self.checked, -1))])

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self._holdings.settle(self, result)
        self._answered()

    def set_exception(self, exception: BaseException, /) -> None:
        """Whatever broke it, the connection's end or another heartbeat follows."""
        self.set_result(())
