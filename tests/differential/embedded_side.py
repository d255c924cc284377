"""The embedded server without sockets: its core, called in this thread, with a clock that a program advances.

Each frame takes a moment, so that no two transactions have the same time by accident.
"""

from __future__ import annotations

import math
import struct
from collections import deque

from sides import Connection, Silent

from corral.testing.embedded.server_connection import ServerConnection
from corral.testing.embedded.zookeeper import Config, Release, ZooKeeper

MOMENT = 1 / 128
"""Seconds; a binary fraction, which adds up exactly."""
MOST_TICKS = 100
"""How often the server may have a deadline that leads to nothing."""


class EmbeddedSide:
    """One embedded server, for one program."""

    skew = 1 / 500
    """What is lost by rounding to milliseconds."""

    def __init__(self, *, tick: float, most: float, sweep: float, release: Release) -> None:
        self.release = release
        self._wall = 1_700_000_000.0
        self.now = 1000.0
        self._started = self.now
        self.core = ZooKeeper(
            Config(tick_time=tick, max_session_timeout=most, container_check_interval=sweep, version=release),
            now=self.now,
            wall=self._wall,
        )

    def connect(self) -> Connection:
        return _CoreConnection(self)

    def clock(self) -> float:
        return self._wall + self.now - self._started

    def moment(self) -> float:
        """Let a moment pass; returns the time after it."""
        self.now += MOMENT
        return self.now

    def wait(self, connection: Connection) -> None:
        assert isinstance(connection, _CoreConnection)
        for _ in range(MOST_TICKS):
            if connection.has_news:
                return
            deadline = self.core.deadline()
            if math.isinf(deadline):
                return
            self.now = max(self.now, deadline)
            self.core.tick(self.now)


class _Client:
    """The interface of a connection for the core."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.ended = False

    def send(self, frame: bytes) -> None:
        assert not self.ended, "sent after the end"
        length, body = struct.unpack_from(">i", frame)[0], bytes(frame[4:])
        assert length == len(body), "a frame with a wrong length"
        self.frames.append(body)

    def close(self) -> None:
        assert not self.ended, "closed twice"
        self.ended = True


class _CoreConnection:
    """A connection as a program sees it."""

    def __init__(self, side: EmbeddedSide) -> None:
        self._side = side
        self._client = _Client()
        self._link: ServerConnection = side.core.accept(self._client, side.moment())

    @property
    def has_news(self) -> bool:
        """Whether there is something to read, possibly the end."""
        return bool(self._client.frames) or self._client.ended

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            if not self._client.ended:
                self._link.received(self._side.moment(), frame)

    def receive(self) -> bytes | None:
        if self._client.frames:
            return self._client.frames.popleft()
        if self._client.ended:
            return None
        raise Silent("the core is done")

    def drop(self) -> None:
        if not self._client.ended:
            self._client.ended = True
            self._link.lost(self._side.moment())
