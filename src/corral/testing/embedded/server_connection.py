"""A client's connection, as the server's core sees it: the peer's address and identities, and its session.

The core knows no sockets. A `FrameTransport` has one: it calls `ServerConnection.received` for each frame
that arrives. The core calls it back with frames to send, synchronously, during that call or when an event
occurs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

from .acls import Identity
from .hashing import hash_of
from .sasl import SaslExchange
from .sessions import Session

__all__ = ["Buffer", "Core", "FrameTransport", "ServerConnection"]

Buffer = bytes | bytearray | memoryview

_REPLY = struct.Struct(">iiqi")
_REPLY_SIZE = 16


class FrameTransport(Protocol):
    """Sends frames to a client. Neither method may raise, or call back into the core."""

    def send(self, frame: bytes) -> None:
        """Send a whole frame, with its length in front."""

    def close(self) -> None:
        """Close the connection after sending what is buffered. Called at most once, and not after `lost`."""


class Core(Protocol):
    """The server behind a connection."""

    def received(self, connection: ServerConnection, now: float, frame: Buffer) -> None:
        """Handle a frame."""

    def lost(self, connection: ServerConnection, now: float) -> None:
        """Forget a connection that is closed."""


class ServerConnection:
    """One connection to the server."""

    __slots__ = (
        "_core",
        "_transport",
        "established",
        "host",
        "identities",
        "is_open",
        "last_opcode",
        "last_xid",
        "last_zxid",
        "packets_received",
        "packets_sent",
        "port",
        "sasl",
        "session",
    )

    def __init__(self, core: Core, transport: FrameTransport, host: str, port: int, established: int) -> None:
        self._core = core
        self._transport = transport
        self.host = host
        self.port = port
        self.established = established
        """Milliseconds since the epoch."""
        self.identities: Sequence[Identity] = (("ip", host),)
        self.session: Session[ServerConnection] | None = None
        """Its session, from the connect request on."""
        self.sasl: SaslExchange | None = None
        """The exchange of SASL tokens, from its first token to its end."""
        self.is_open = True
        self.packets_received = 0
        self.packets_sent = 0
        self.last_opcode = 0
        self.last_xid = -1
        self.last_zxid = 0

    @property
    def session_id(self) -> int:
        """The id of its session, or 0."""
        return 0 if self.session is None else self.session.id

    def received(self, now: float, frame: Buffer) -> None:
        """Handle a frame, without its length. After a close it is ignored."""
        if self.is_open:
            self._core.received(self, now, frame)

    def lost(self, now: float) -> None:
        """The peer has closed the connection. Its session lives on until it expires."""
        if self.is_open:
            self.is_open = False
            self._core.lost(self, now)

    def send(self, frame: bytes) -> None:
        """Send a whole frame."""
        self.packets_sent += 1
        self._transport.send(frame)

    def reply(self, xid: int, zxid: int, error: int, body: bytes = b"") -> None:
        """Send the answer to a request."""
        self.packets_sent += 1
        self._transport.send(_REPLY.pack(_REPLY_SIZE + len(body), xid, zxid, error) + body)

    def close(self) -> None:
        """Close the connection from the server's side."""
        if self.is_open:
            self.is_open = False
            self._transport.close()

    def add_identity(self, identity: Identity) -> None:
        """Add an identity that the client has proven. They are ordered as in a real server's hash set."""
        if identity not in self.identities:
            known = (*self.identities, identity)
            # The table is doubled when it is three quarters full.
            slots = max(16, 1 << (len(known) * 4 // 3).bit_length())
            self.identities = sorted(known, key=lambda identity: _hash(identity) & slots - 1)


def _hash(identity: Identity) -> int:
    # Of a record of two strings, as a Java hash table uses it.
    scheme, name = map(_plain_hash, identity)
    value = ((17 * 37 + scheme) * 37 + name) & 0xFFFFFFFF
    return value ^ value >> 16


def _plain_hash(text: str) -> int:
    mixed = hash_of(text)
    return mixed ^ mixed >> 16
