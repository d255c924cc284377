"""The servers that are compared: anything that accepts connections and has a clock."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Protocol

from corral.testing.embedded.releases import Release

PATIENCE = 10.0
"""After so many seconds without a message a server counts as having none to send."""


class Silent(Exception):
    """The server neither sends a frame nor closes the connection."""


class Connection(Protocol):
    """One connection; frames are without their length."""

    def send(self, *frames: bytes) -> None:
        """Send the frames in one write. Does nothing if the connection is gone."""

    def receive(self) -> bytes | None:
        """The next frame; None at the end of the connection. Raises `Silent` if there is neither."""

    def drop(self) -> None:
        """End the connection; when this returns the server has noticed."""


class Side(Protocol):
    """A server."""

    skew: float
    """Seconds by which `clock` may differ from the clock that gives transactions their times."""
    release: Release
    """The release of ZooKeeper that it is, or behaves like."""

    def connect(self) -> Connection:
        """Open a connection, on which nothing was sent yet."""

    def clock(self) -> float:
        """The server's wall clock, in seconds since the epoch."""

    def wait(self, connection: Connection) -> None:
        """Let time pass until something arrives on the connection, possibly its end."""


class SocketConnection:
    """A blocking socket: programs run one after the other, and each read has a time limit."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()

    def send(self, *frames: bytes) -> None:
        with contextlib.suppress(OSError):  # the reader notices it
            self._socket.sendall(b"".join(struct.pack(">i", len(frame)) + frame for frame in frames))

    def receive(self) -> bytes | None:
        head = self._take(4)
        return None if head is None else self._take(int.from_bytes(head))

    def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise Silent(f"nothing for {PATIENCE} s") from None
            except OSError:
                data = b""
            if not data:
                self._socket.close()
                return None
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def drop(self) -> None:
        # The server removes the connection before it closes its end, so this returns when it is removed.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(Silent):
            while self.receive() is not None:
                pass
        self._socket.close()


class SocketSide:
    """A server at an address: a real ZooKeeper, or the embedded one with its asyncio server around it."""

    skew = 1.0
    """Both are this machine's clock, but it may be adjusted."""

    def __init__(self, address: str, release: Release) -> None:
        self.address = address
        self.release = release

    def connect(self) -> Connection:
        return SocketConnection(self.address)

    def clock(self) -> float:
        return time.time()

    def wait(self, connection: Connection) -> None:
        pass  # time passes by itself, and the reader waits for it
