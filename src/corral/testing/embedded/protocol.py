"""The asyncio protocol of one client's connection: it passes frames from a socket to the core, and back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Protocol, cast

from corral.wire.framing import NEED_DATA, OVERSIZED, Frames, StreamError

from . import four_letter_words
from .server_connection import ServerConnection
from .zookeeper import ZooKeeper

__all__ = ["ProtocolOwner", "ServerProtocol"]

_WORD = 4
"""Bytes of a frame's length, and of a four letter word, which a connection may begin with instead."""

_GATHER = 64 * 1024
"""Bytes of answers after which they are written, even if more requests were received in the same read. A
client that does not read its answers is then noticed before all of them are in memory."""

_LINGER = 1.0
"""Seconds that a client has to read the rest of its answers after the server has closed the connection."""


class ProtocolOwner(Protocol):
    """What a connection needs of its server."""

    @property
    def core(self) -> ZooKeeper:
        """The server's core, which answers requests."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of all connections."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""

    @property
    def paused(self) -> bool:
        """Whether connections must not read now."""

    def add(self, protocol: ServerProtocol) -> bool:
        """A connection was made; returns False if the server is closing."""

    def remove(self, protocol: ServerProtocol) -> None:
        """A connection was lost."""

    def plan(self) -> None:
        """Call when the core's deadline may have changed."""


class ServerProtocol(asyncio.BufferedProtocol):
    """A client's connection. Everything that is sent in one turn of the loop goes out in one write."""

    def __init__(self, owner: ProtocolOwner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._connection: ServerConnection | None = None
        """Its counterpart in the core; None while a paused server has not noticed it yet."""
        # No need to peek: the length of a frame over the limit is enough to refuse it.
        self._frames = Frames(owner.core.config.jute_maxbuffer, peek=0)
        self._received = 0  # bytes
        self._begun = False
        """Whether the first bytes were checked for a four letter word."""
        self._out: list[bytes] = []
        self._out_size = 0
        self._flush_due = False
        self._serving = False
        """Whether requests are being answered; then answers are written when that is done."""
        self._writable = True
        self._lingering: asyncio.TimerHandle | None = None

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._owner.add(self):
            self.look()
        else:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.writable()

    def buffer_updated(self, nbytes: int) -> None:
        self._frames.wrote(nbytes)
        self._received += nbytes
        self._serve()

    def eof_received(self) -> bool:
        return False  # closes the connection, as the real server does

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._lingering is not None:
            self._lingering.cancel()
        self._owner.remove(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.lost(self._owner.clock())

    def pause_writing(self) -> None:
        self._writable = False  # read no more requests from a client that does not read its answers
        self.look()

    def resume_writing(self) -> None:
        self._writable = True
        self.look()

    # For the server

    def look(self) -> None:
        """Start or stop reading, as the server's and the transport's state demand; handle buffered
        requests."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._owner.paused or not self._writable:
            transport.pause_reading()
            return
        transport.resume_reading()
        if self._connection is None:
            host, port = (transport.get_extra_info("peername") or ("127.0.0.1", 0))[:2]
            self._connection = self._owner.core.accept(self, self._owner.clock(), host=host, port=port)
        self._serve()

    def abort(self) -> None:
        """Close at once, as the kernel does for a killed process."""
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """Close the socket, if that is still possible, after the event loop was closed."""
        transport, self._transport = self._transport, None
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None:  # None with uvloop, which has closed it
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def flush(self) -> None:
        """Write the buffered answers."""
        self._flush_due = False
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)

    # FrameTransport

    def send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_size += len(frame)
        if not (self._serving or self._flush_due):
            self._flush_due = True
            self._owner.loop.call_soon(self.flush)

    def close(self) -> None:
        self.flush()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.close()
        if transport.get_write_buffer_size():
            self._lingering = self._owner.loop.call_later(_LINGER, transport.abort)

    # Incoming frames

    def _begins(self) -> bool:
        """Check the first bytes for a four letter word, and answer it; True if the connection has frames."""
        if self._received < _WORD:
            return False
        self._begun = True
        word = four_letter_words.known(bytes(self._frames.view[:_WORD]))
        if word is not None:
            self.send(four_letter_words.answer(self._owner.core, word, self._owner.clock()).encode())
            self.close()
            return False
        return True

    def _serve(self) -> None:
        """Handle the complete frames in the buffer."""
        connection, frames, owner = self._connection, self._frames, self._owner
        if owner.paused:
            self.look()  # uvloop reads once after `connection_made`, even if reading was paused there
            return
        if connection is None or not (self._begun or self._begins()):
            return
        now = owner.clock()
        self._serving = True
        while self._writable and connection.is_open:
            try:
                end = frames.next()
            except StreamError:
                end = OVERSIZED
            if end == NEED_DATA:
                break
            if end == OVERSIZED:
                self._hang_up()
                break
            connection.received(now, frames.view[frames.start : end])
            if self._out_size > _GATHER:
                self.flush()
        self._serving = False
        self.flush()
        owner.plan()

    def _hang_up(self) -> None:
        """Close the connection because of an invalid frame."""
        self.close()
        if self._connection is not None:
            self._connection.lost(self._owner.clock())
