"""One client's connection to an embedded server: frames from a socket to the core, and back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Protocol, cast

from corral.wire.framing import NEED_DATA, OVERSIZED, Frames, StreamError

from . import words
from .link import Link
from .zookeeper import ZooKeeper

__all__ = ["Connection", "Host"]

_WORD = 4
"""The bytes of a frame's length, or of a four letter word in place of the first one."""

_GATHER = 64 * 1024
"""Bytes of answers after which they are written, although more was asked in the same piece: so that a client
that does not read is found out before everything it has asked is in memory."""

_LINGER = 1.0
"""Seconds that a client has to read the rest of its answers, once the server has closed the connection."""


class Host(Protocol):
    """What a connection needs of the server that it is to."""

    @property
    def core(self) -> ZooKeeper:
        """Whoever answers."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where connections live."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""

    @property
    def paused(self) -> bool:
        """Whether nothing is to be read at the moment."""

    def welcomes(self, connection: Connection) -> bool:
        """A connection was made; if False it comes too late."""

    def leaves(self, connection: Connection) -> None:
        """A connection is gone."""

    def plan(self) -> None:
        """The core's deadline may have moved."""


class Connection(asyncio.BufferedProtocol):
    """A client of an embedded server. What it is sent in one turn of the loop goes out in one write."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._link: Link | None = None
        """What the core knows of it: nothing, while the server is paused and has not noticed it yet."""
        # Whose a request over the limit is does not matter: its length alone refuses it.
        self._frames = Frames(host.core.config.jute_maxbuffer, peek=0)
        self._came = 0  # bytes
        self._begun = False
        """Whether it was seen to what the connection begins with."""
        self._out: list[bytes] = []
        self._out_size = 0
        self._flush_due = False
        self._serving = False
        """Whether requests are being answered: then what is sent is written when that is done."""
        self._writable = True
        self._lingering: asyncio.TimerHandle | None = None

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._host.welcomes(self):
            self.look()
        else:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.writable()

    def buffer_updated(self, nbytes: int) -> None:
        self._frames.wrote(nbytes)
        self._came += nbytes
        self._serve()

    def eof_received(self) -> bool:
        return False  # a client that will not say any more is gone, as for the real server

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._lingering is not None:
            self._lingering.cancel()
        self._host.leaves(self)
        link, self._link = self._link, None
        if link is not None:
            link.lost(self._host.clock())

    def pause_writing(self) -> None:
        self._writable = False  # a client that does not read its answers is not asked what else it wants
        self.look()

    def resume_writing(self) -> None:
        self._writable = True
        self.look()

    # For the server

    def look(self) -> None:
        """Whether something is to be read may have changed; if it is, handle what has come."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._host.paused or not self._writable:
            transport.pause_reading()
            return
        transport.resume_reading()
        if self._link is None:
            host, port = (transport.get_extra_info("peername") or ("127.0.0.1", 0))[:2]
            self._link = self._host.core.accept(self, self._host.clock(), host=host, port=port)
        self._serve()

    def abort(self) -> None:
        """End it at once, as the kernel does for a process that was killed."""
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """Its event loop is closed: tell the client, as far as that can still be done."""
        transport, self._transport = self._transport, None
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None:  # uvloop has none any more: it has closed it
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def flush(self) -> None:
        """Write what is to be sent."""
        self._flush_due = False
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)

    # What the core needs (`link.Client`)

    def send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_size += len(frame)
        if not (self._serving or self._flush_due):
            self._flush_due = True
            self._host.loop.call_soon(self.flush)

    def close(self) -> None:
        self.flush()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.close()
        if transport.get_write_buffer_size():
            self._lingering = self._host.loop.call_later(_LINGER, transport.abort)

    # Inside

    def _begins(self) -> bool:
        """See to what the connection begins with; whether that is frames."""
        if self._came < _WORD:
            return False
        self._begun = True
        word = words.known(bytes(self._frames.view[:_WORD]))
        if word is not None:
            self.send(self._host.core.answer(word, self._host.clock()).encode())
            self.close()
            return False
        return True

    def _serve(self) -> None:
        """Handle the frames that are there."""
        link, frames, host = self._link, self._frames, self._host
        if host.paused:
            self.look()  # uvloop reads once after `connection_made`, whatever was asked for there
            return
        if link is None or not (self._begun or self._begins()):
            return
        now = host.clock()
        self._serving = True
        while self._writable and link.is_open:
            try:
                end = frames.next()
            except StreamError:
                end = OVERSIZED
            if end == NEED_DATA:
                break
            if end == OVERSIZED:
                self._hang_up()
                break
            link.received(now, frames.view[frames.start : end])
            if self._out_size > _GATHER:
                self.flush()
        self._serving = False
        self.flush()
        host.plan()

    def _hang_up(self) -> None:
        """What comes makes no sense as frames."""
        self.close()
        if self._link is not None:
            self._link.lost(self._host.clock())
