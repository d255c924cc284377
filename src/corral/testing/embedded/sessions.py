"""Sessions: their ids, passwords and timeouts, and when they expire. Times here are whole milliseconds.

A server does not expire a session when its timeout has passed, but at the end of that tick: sessions are kept
in buckets, one for each tick, and the server expires one bucket at a time. A session thus lives for its
timeout and up to one tick more. Each request moves it to a later bucket.

Ids look like those of server number 1: a 1 in the highest byte, a start that differs from server to server,
and a count in the lowest two bytes. As in a real server, the password is computed from the id and the
server's key, so it is not stored.
"""

from __future__ import annotations

import hashlib
from typing import Generic, TypeVar

__all__ = ["PASSWORD_SIZE", "Session", "Sessions"]

PASSWORD_SIZE = 16

L = TypeVar("L")
"""The connection of a session."""


class Session(Generic[L]):
    """One session."""

    __slots__ = ("bucket", "connection", "id", "is_local", "timeout")

    def __init__(self, session_id: int, timeout: int, *, is_local: bool) -> None:
        self.id = session_id
        self.timeout = timeout
        """The timeout that was negotiated last; a session that moves to another connection negotiates
        again."""
        self.is_local = is_local
        """Whether it exists only on this read-only server, without a transaction."""
        self.connection: L | None = None
        """Its connection now; None while it has none."""
        self.bucket = 0
        """When it expires, unless its client is heard from."""


class Sessions(Generic[L]):
    """The sessions that are alive, and when each expires."""

    def __init__(self, tick: int, least: int, most: int, key: bytes, now: int) -> None:
        self._tick = tick
        self._least = least
        self._most = most
        self._key = key
        start = int.from_bytes(hashlib.blake2b(key, digest_size=5).digest()) >> 8
        self._next_id = 1 << 56 | start << 16
        self._by_id: dict[int, Session[L]] = {}
        self._buckets: dict[int, dict[Session[L], None]] = {}
        self.next_look = self._end_of_tick(now)
        """When sessions are checked for expiry next."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._by_id

    def find(self, session_id: int) -> Session[L] | None:
        """The session with this id; None if it is not alive."""
        return self._by_id.get(session_id)

    def ids(self) -> list[int]:
        """The ids of all sessions that are alive, oldest first."""
        return list(self._by_id)

    def negotiate(self, timeout: int) -> int:
        """The timeout that a client gets when it requests this one."""
        return max(self._least, min(timeout, self._most))

    def password(self, session_id: int) -> bytes:
        """The password that a client needs to move the session to another connection."""
        return hashlib.blake2b(
            session_id.to_bytes(8, signed=True), key=self._key, digest_size=PASSWORD_SIZE
        ).digest()

    def open(self, timeout: int, now: int, *, is_local: bool) -> Session[L]:
        """Open a session with a negotiated timeout."""
        session: Session[L] = Session(self._next_id, timeout, is_local=is_local)
        self._next_id += 1
        self._by_id[session.id] = session
        self.touch(session, now)
        return session

    def touch(self, session: Session[L], now: int) -> None:
        """The client was heard from: move the session to a later bucket."""
        bucket = self._end_of_tick(now + session.timeout)
        if bucket != session.bucket:
            self._take_out(session)
            session.bucket = bucket
            self._buckets.setdefault(bucket, {})[session] = None

    def remove(self, session: Session[L]) -> None:
        """Remove a session that has ended."""
        del self._by_id[session.id]
        self._take_out(session)

    def expired(self, now: int) -> list[Session[L]]:
        """The sessions that have expired, earliest first; the caller removes them."""
        if now < self.next_look:
            return []
        self.next_look = self._end_of_tick(now)
        due = sorted(bucket for bucket in self._buckets if bucket <= now)
        return [session for bucket in due for session in self._buckets[bucket]]

    def restart(self, now: int) -> None:
        """Start the timeout of each session anew; drop a read-only server's own sessions."""
        for session in list(self._by_id.values()):
            if session.is_local:
                self.remove(session)
            else:
                self.touch(session, now)
        self.next_look = self._end_of_tick(now)

    def deadline(self) -> int | None:
        """When the next session expires, if no client is heard from; None without sessions."""
        return min(self._buckets, default=None)

    def buckets(self) -> dict[int, list[int]]:
        """The ids of the sessions, by expiry."""
        return {bucket: [session.id for session in self._buckets[bucket]] for bucket in sorted(self._buckets)}

    def _end_of_tick(self, time: int) -> int:
        return (time // self._tick + 1) * self._tick

    def _take_out(self, session: Session[L]) -> None:
        bucket = self._buckets.get(session.bucket)
        if bucket is not None:
            del bucket[session]
            if not bucket:
                del self._buckets[session.bucket]
