"""A client's connection to an embedded server until the TLS handshake is over."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from .protocol import ProtocolOwner, ServerProtocol

__all__ = ["TlsAcceptor"]

_SHUTDOWN_TIMEOUT = 1.0
"""Seconds that a client has to answer the end of TLS, before its connection is closed without it."""


class TlsAcceptor(asyncio.Protocol):
    """Shakes hands, and gives the connection to a `ServerProtocol`. `on_made` and `on_end` are called with
    the acceptor: `on_made` returns False if the server is closing."""

    def __init__(
        self,
        owner: ProtocolOwner,
        context: ssl.SSLContext,
        on_made: Callable[[TlsAcceptor], bool],
        on_end: Callable[[TlsAcceptor], None],
    ) -> None:
        self._owner = owner
        self._context = context
        self._on_made = on_made
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._on_made(self):
            self.look()
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is None:  # lost while the server was paused
            self._on_end(self)

    def look(self) -> None:
        """Begin, stop or continue, as the server's state demands."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._owner.paused:
            transport.pause_reading()
        elif self._task is None:
            transport.pause_reading()  # until TLS reads
            self._task = self._owner.loop.create_task(self._shake_hands(transport))
            self._task.add_done_callback(lambda _: self._on_end(self))
        else:
            transport.resume_reading()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        stand_in = _StandIn()
        try:
            if transport.is_closing():
                return
            secured: asyncio.Transport | None = await self._owner.loop.start_tls(
                transport,
                stand_in,
                self._context,
                server_side=True,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
            # asyncio also returns, with None, if the connection was lost in the handshake.
            if secured is not None and not stand_in.is_lost:
                stand_in.hand_over(secured, ServerProtocol(self._owner))
        except OSError:
            transport.abort()
        except BaseException:
            transport.abort()
            raise

    def abort(self) -> None:
        """Close at once."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()


class _StandIn(asyncio.Protocol):
    """Has the connection until the handshake is over, and keeps what the client sends with the end of it."""

    def __init__(self) -> None:
        self.is_lost = False
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def hand_over(self, transport: asyncio.Transport, protocol: ServerProtocol) -> None:
        """Give the connection to its protocol."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        data = self._received
        while data and not transport.is_closing():
            buffer = protocol.get_buffer(len(data))
            piece, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(piece)] = piece
            protocol.buffer_updated(len(piece))
