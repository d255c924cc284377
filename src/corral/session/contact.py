"""The log of an outage: a line when contact is lost, a line when it is back, and reminders in between.

All of these are at WARNING, on the logger ``corral.session``; docs/logging.md explains each line. Each
attempt to connect is logged at DEBUG. Connections that break all the time would write as many lines as an
outage each second. Therefore at most `MOST_LINES` of them are written in `PERIOD` seconds. Reminders, and
lines about something held that was lost, are always written.
"""

from __future__ import annotations

import logging
from collections import deque

logger = logging.getLogger("corral.session")

FIRST_REMINDER = 60.0
"""Seconds from the loss of contact to the first reminder. The interval doubles with each."""
MOST_LINES = 10
PERIOD = 1800.0


class ContactLog:
    """Writes the lines of one client. Times are of the session's clock, in seconds."""

    def __init__(self) -> None:
        self._lost_at: float | None = None
        self._remind_at = 0.0
        self._interval = FIRST_REMINDER
        self._was_connected = False
        self._read_only_on: str | None = None  # the read-only server that answers reads
        self._over: list[str] = []  # the leases and sessions that ended in this outage
        self._written: deque[float] = deque(maxlen=MOST_LINES)
        self._left_out = 0

    def lost(self, now: float, why: str, held: str, lease_left: float) -> None:
        """The session's connection is lost. `why` names its server, `held` what is held."""
        self._begin_outage(now)
        self._read_only_on = None
        holds = f"; holding, for {max(0.0, lease_left):.1f} s more: {held}" if held else "; nothing is held"
        self._write(now, f"contact lost: {why}{holds}")

    def unreachable(self, now: float, servers: str) -> None:
        """All servers were tried, and none granted the session."""
        if self._lost_at is None:
            self._begin_outage(now)
            self._write(now, f"no server takes the session; trying on: {servers}")
        elif now >= self._remind_at:
            self._interval *= 2
            self._remind_at = now + self._interval
            what = "without contact" if self._read_only_on is None else "read-only"
            line = f"{what} for {now - self._lost_at:.0f} s; trying on: {servers}"
            self._write(now, line, always=True)
        else:
            logger.debug("no server takes the session; trying on: %s", servers)

    def read_only(self, now: float, server: str) -> None:
        """A read-only server answers reads, while no server accepts the session."""
        self._begin_outage(now)
        if self._read_only_on != server:
            self._read_only_on = server
            self._write(now, f"read-only: {server} answers reads, and no server takes writes; trying on")

    def ended(self, now: float, what: str, held: str) -> None:
        """The lease has lapsed or the session has expired. `held` names what was lost with it; empty for
        nothing."""
        self._over.append(what)
        self._begin_outage(now)
        if held:
            self._write(now, f"{what}; what it held is lost: {held}", always=True)
        else:
            self._write(now, f"{what}; nothing was held")

    def back(self, now: float, server: str, session: str) -> None:
        """A server has accepted the session, or granted a new one."""
        if self._was_connected and self._lost_at is not None:
            over = ", ".join(dict.fromkeys(self._over))
            kept = f"lost meanwhile: {over}" if over else "nothing was lost"
            self._write(now, f"{session} is on {server} after {now - self._lost_at:.1f} s; {kept}")
        elif self._lost_at is not None:
            self._write(now, f"{session} is on {server}, after {now - self._lost_at:.1f} s of trying")
        else:
            logger.info("%s is on %s", session, server)
        self._was_connected = True
        self._lost_at = self._read_only_on = None
        self._over.clear()

    def _begin_outage(self, now: float) -> None:
        if self._lost_at is None:
            self._lost_at = now
            self._interval = FIRST_REMINDER
            self._remind_at = now + FIRST_REMINDER

    def _write(self, now: float, line: str, *, always: bool = False) -> None:
        is_full = len(self._written) == MOST_LINES and now - self._written[0] < PERIOD
        if is_full and not always:
            self._left_out += 1
            logger.debug("%s", line)
            return
        if self._left_out:
            line += f" ({self._left_out} lines like this were left out; DEBUG has them)"
            self._left_out = 0
        self._written.append(now)
        logger.warning("%s", line)
