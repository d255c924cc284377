"""What is held by virtue of the session, until when, and the heartbeats that keep it so. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from corral import errors
from corral.wire import messages

from .lease import LeaseClock

logger = logging.getLogger("corral.session")

INFINITY = float("inf")

# Parts of T: see "The numbers" in `machine`.
HEARTBEAT_EVERY = 1 / 6
HEARTBEAT_LIMIT = 1 / 3
# Of the loop's observed lateness: how much of T it may take from the lease, and the least that it takes.
MOST_LATENESS = 1 / 8
LEAST_LATENESS = 1 / 100
# Holds whose nodes one heartbeat checks; with more, heartbeats take turns.
CHECKS_PER_HEARTBEAT = 100


class Hold(Protocol):
    """Something held by virtue of the session: a node of ours that others wait to see go."""

    @property
    def node(self) -> str:
        """The node's full path."""

    @property
    def checked(self) -> str:
        """The full path of what a heartbeat checks: the node, or what has to be there if it is."""

    def lost(self, error: errors.SessionError, ended: float) -> None:
        """It is held no longer; `ended` is until when it was, by the machine's clock. Must not raise."""


class Holdings:
    """The holds of one session, and their one lease."""

    def __init__(self, timeout: float, half_tick: float | None, *, by_ping: bool) -> None:
        self.lease = LeaseClock(timeout, half_tick, by_ping=by_ping)
        self.end = INFINITY
        """When the lease of what is held ends; infinite while nothing is held."""
        self.heartbeat: Heartbeat | None = None
        """The heartbeat that is under way."""
        self._holds: dict[Hold, None] = {}
        self._next_heartbeat = 0.0
        self._lateness = 0.0

    def __bool__(self) -> bool:
        return bool(self._holds)

    def __contains__(self, hold: Hold) -> bool:
        return hold in self._holds

    def add(self, hold: Hold, now: float) -> None:
        """It is held from now on."""
        if not self._holds:
            self._next_heartbeat = now + self.lease.timeout * HEARTBEAT_EVERY
        self._holds[hold] = None
        self.renew()

    def discard(self, hold: Hold) -> None:
        """It is given up; no more is said to it."""
        self._holds.pop(hold, None)
        self.renew()

    def lose_all(self, error: errors.SessionError, ended: float) -> None:
        """Everything is lost, and told so."""
        holds, self._holds = self._holds, {}
        self.end = INFINITY
        for hold in holds:
            hold.lost(error, ended)

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
        """The next heartbeat, which checks as many holds as it may; `answered` is called when it is."""
        batch = list(self._holds)[:CHECKS_PER_HEARTBEAT]
        if len(batch) < len(self._holds):
            for hold in batch:  # they go to the end: take turns
                self._holds[hold] = self._holds.pop(hold)
        self.heartbeat = Heartbeat(self, batch, now, answered)
        return self.heartbeat

    def settle(self, heartbeat: Heartbeat, results: Sequence[messages.MultiResult]) -> None:
        """A heartbeat was answered: those whose node is gone are lost."""
        if heartbeat is not self.heartbeat:
            return
        self.heartbeat = None
        self._next_heartbeat = heartbeat.sent + self.lease.timeout * HEARTBEAT_EVERY
        for hold, result in zip(heartbeat.batch, results, strict=False):
            if result.error == errors.NoNode.code and hold in self._holds:
                del self._holds[hold]
                self._next_heartbeat = heartbeat.sent  # the server checked nothing behind the one refused
                logger.warning("%s was deleted by somebody else: it is held no longer", hold.node)
                gone = errors.LockLost(f"its node {hold.node!r} was deleted by somebody else")
                hold.lost(gone, heartbeat.sent)
        self.renew()


class Heartbeat:
    """One heartbeat under way, and the waiter for its answer (`requests.Waiter`)."""

    __slots__ = ("_answered", "_holdings", "batch", "sent")

    def __init__(
        self, holdings: Holdings, batch: Sequence[Hold], sent: float, answered: Callable[[], None]
    ) -> None:
        self._holdings = holdings
        self._answered = answered
        self.batch = batch
        self.sent = sent

    def encode(self) -> bytes:
        """The transaction that it consists of."""
        checks = [(messages.CHECK, messages.encode_check(hold.checked, -1)) for hold in self.batch]
        return messages.encode_multi(checks)

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self._holdings.settle(self, result)
        self._answered()

    def set_exception(self, exception: BaseException, /) -> None:
        """Whatever broke it, the connection's end or another heartbeat follows."""
        self.set_result(())
