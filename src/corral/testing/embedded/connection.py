"""One client's connection to an embedded server: frames from a socket to the core, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from corral.wire.framing import NEED_DATA, OVERSIZED, Frames, StreamError

from . import words
from .link import Link
from .zookeeper import ZooKeeper

__all__ = ["Connection", "Host"]

_WORD = 4
"""How many bytes tell whether a connection begins with a four letter word or with the length of a frame."""


class Host(Protocol):
    """What a connection needs of the server that it is to."""

    @property
    def core(self) -> ZooKeeper:
        """Whoever answers."""

    @property
    def paused(self) -> bool:
        """Whether nothing is to be read at the moment."""

    @property
    def connections(self) -> set[Connection]:
        """Those that are open."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""

    def plan(self) -> None:
        """The core's deadline may have moved."""


class Connection(asyncio.BufferedProtocol):
    """A client of an embedded server. What is to be sent in one turn of the loop goes out in one write."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._link: Link | None = None
        self._opening = bytearray()
        self._receiving = memoryview(bytearray(_WORD))
        self._frames = Frames(host.core.config.jute_maxbuffer)
        self._out: list[bytes] = []
        self._flush_due = False
        self._writable = True

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername") or ("127.0.0.1", 0)
        self._link = self._host.core.accept(self, self._host.clock(), host=peer[0], port=peer[1])
        self._host.connections.add(self)
        self.look()

    def get_buffer(self, sizehint: int) -> memoryview:
        if len(self._opening) < _WORD:
            return self._receiving[len(self._opening) :]
        return self._frames.writable()

    def buffer_updated(self, nbytes: int) -> None:
        if len(self._opening) == _WORD:
            self._frames.wrote(nbytes)
        else:
            begun = len(self._opening)
            self._opening += self._receiving[begun : begun + nbytes]
            if len(self._opening) < _WORD:
                return
            word = words.known(self._opening)
            if word is not None:
                self.send(self._host.core.answer(word, self._host.clock()).encode())
                self.close()
                return
            self._frames.feed(self._opening)
        self.look()

    def eof_received(self) -> bool:
        return False  # a client that will not say any more is gone, as for the real server

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._host.connections.discard(self)
        if self._link is not None:
            self._link.lost(self._host.clock())

    def pause_writing(self) -> None:
        self._writable = False  # a client that does not read its answers is not asked what else it wants
        self.look()

    def resume_writing(self) -> None:
        self._writable = True
        self.look()

    # For the server

    def look(self) -> None:
        """Handle what has come in, unless nothing is to be read now."""
        transport, link = self._transport, self._link
        if transport is None or link is None or transport.is_closing():
            return
        if self._host.paused or not self._writable:
            transport.pause_reading()
            return
        transport.resume_reading()
        frames, now = self._frames, self._host.clock()
        while link.is_open and self._writable:
            try:
                end = frames.next()
            except StreamError:
                end = OVERSIZED
            if end == NEED_DATA:
                break
            if end == OVERSIZED:
                self.close()
                link.lost(now)
                break
            link.received(now, frames.view[frames.start : end])
        self._flush()
        self._host.plan()

    def abort(self) -> None:
        """End it at once, as the kernel does for a process that was killed."""
        if self._transport is not None:
            self._transport.abort()

    # What the core needs (`link.Client`)

    def send(self, frame: bytes) -> None:
        self._out.append(frame)
        if not self._flush_due and self._transport is not None:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        self._flush_due = False
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()
