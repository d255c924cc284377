"""How far the ensemble is, as far as a client can know. No I/O.

The newest zxid goes with each connect request, and a server that is behind it rejects the connection. A zxid
that is too great would therefore shut the client out of every server. On one connection zxids never decrease.
If one does, one of the two was wrong: the connection is dropped, and the client falls back to the newest zxid
that a later answer has confirmed.
"""

from __future__ import annotations

from . import gate


class ZxidTracker:
    """The newest transactions seen by one client. They outlive its sessions, so that a client never goes back
    in time."""

    def __init__(self) -> None:
        self.last = 0
        """The newest transaction seen."""
        self.connection = 0
        """The newest transaction seen on this connection; 0 before the first answer."""
        self.when_lost = 0
        """The newest confirmed transaction when the connection was lost. Watches are set again from there:
        the server sends the events of later changes. An unconfirmed zxid might be too great, and hide one."""
        self.confirmed = 0
        """The newest one that a later answer on the same connection was not behind."""

    def connected(self) -> None:
        """A new connection begins."""
        self.connection = 0

    def disconnected(self) -> None:
        """The connection of the session is lost."""
        self.when_lost = self.confirmed

    def answered(self, zxid: int) -> None:
        """An answer has this zxid; 0 and -1 are not the ensemble's and are ignored. Raises `gate.Misfit` if
        the ensemble cannot be there."""
        before, last = self.connection, self.last
        if 0 < before == last < zxid < last + gate.MOST_GROWTH:
            self.confirmed = before
            self.last = self.connection = zxid
            return
        if zxid <= 0:
            return
        if zxid > last:
            if zxid >= last + gate.MOST_GROWTH:
                raise gate.Misfit(f"transaction 0x{zxid:x} cannot follow 0x{last:x}")
            self.last = zxid
        elif zxid < before:
            self.last = self.confirmed
            raise gate.Misfit(f"transaction 0x{zxid:x} after 0x{before:x}")
        if before:
            self.confirmed = before
        self.connection = zxid

    def disown(self, newest: int) -> bool:
        """Fall back to the newest confirmed zxid, if an ensemble at `newest` may have been there. Returns
        whether it did."""
        if not self.confirmed <= newest < self.last:
            return False
        self.last = self.confirmed
        return True
