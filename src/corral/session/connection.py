"""One connection: received bytes go to the machine, and what the machine sends is written once a loop
turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from .clock import Clock
from .hosts import Address
from .machine import Machine
from .states import ConnectionPhase

logger = logging.getLogger("corral.connection")

_UP = ConnectionPhase.UP


class Connection(asyncio.BufferedProtocol):
    """The adapter between a transport and the machine. `on_entry` is called after an entry into the machine
    that may have moved its deadline."""

    def __init__(
        self,
        machine: Machine,
        clock: Clock,
        address: Address,
        on_entry: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.address = address
        self.established: asyncio.Future[None] = loop.create_future()
        """Resolved when the handshake has succeeded or failed."""
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        """Resolved by `connection_lost`, with the cause: the only proof that the connection is over. Wait for
        it shielded: cancelling a wait must not resolve it."""
        self.made = False
        """Whether there ever was a transport. If not, `lost` is never resolved."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self._machine = machine
        self._clock = clock
        self._on_entry = on_entry
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._flush_due: asyncio.Handle | None = None
        self._is_up = False  # whether the handshake has succeeded
        self._is_paused = False
        self._is_leaving = False
        self._defect: Exception | None = None

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self._transport = cast(asyncio.Transport, transport)
        try:
            connect = self._machine.connection_made(self._clock())
            self.bytes_sent += len(connect)
            self._transport.write(connect)
            self._on_entry()
        except Exception as error:
            self._break(error)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._machine.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        machine = self._machine
        try:
            machine.receive_data(self._clock(), nbytes)
        except Exception as error:
            self._break(error)
            return
        if machine.close_reason is not None:
            self.drop(machine.close_reason)
        elif machine.has_output():
            self.flush_soon()
        if not self._is_up:
            self._shake_hands()
        if machine.deadline_moved:
            self._on_entry()

    def _shake_hands(self) -> None:
        """The connection is not up yet, or has just become so."""
        if self._machine.phase is _UP:
            self._is_up = True
            self._resolve_established()
        elif self._transport is not None and (token := self._machine.take_token()) is not None:
            self.bytes_sent += len(token)
            self._transport.write(token)

    def eof_received(self) -> bool:
        return False  # close: FIN, RST and silence are one event

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = self._is_leaving
        self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost.done():
            return  # it was abandoned
        self._transport = None
        why = self._machine.close_reason or (f"{exc}" if exc else "the server closed it")
        try:
            self._machine.connection_lost(self._clock(), f"{self.address}: {why}")
            self._on_entry()
        except Exception as error:
            self._defect = error
        self._resolve_established()
        if not self.lost.done():
            self.lost.set_result(self._defect or exc)

    def abandon(self) -> None:
        """Opening the connection was cancelled, or failed. If it was made by then, it is lost from now on:
        uvloop does not call `connection_lost` for it any more, which asyncio does a turn later."""
        if self.made:
            self.drop("opening it was given up")
            self.connection_lost(None)

    def _resolve_established(self) -> None:
        if not self.established.done():
            self.established.set_result(None)

    # For the session

    def flush_soon(self) -> None:
        """Write what the machine sends at the end of this loop turn: one write for all of it."""
        if self._flush_due is None:
            self._flush_due = self._loop.call_soon(self._flush)

    def flush_now(self) -> None:
        """Write at once if no request is in flight, which saves a turn of the loop; else at the end of this
        turn. What others send in this turn is still written together, as only the first of them finds nothing
        in flight."""
        if self._machine.requests.in_flight:
            self.flush_soon()
            return
        if self._flush_due is not None:
            self._flush_due.cancel()
        self._flush()

    def follow_machine(self) -> None:
        """Do what the machine wants after an entry that was not this connection's: close, or send."""
        if self._machine.close_reason is not None:
            self.drop(self._machine.close_reason)
        elif self._machine.has_output():
            self.flush_soon()

    def _flush(self) -> None:
        self._flush_due = None
        transport = self._transport
        if transport is None:
            return
        try:
            # A full socket buffer holds back the users' requests, but not the heartbeat on which their
            # session depends.
            pieces = self._machine.data_to_send(self._clock(), urgent_only=self._is_paused)
        except Exception as error:
            self._break(error)
            return
        if pieces:
            data = b"".join(pieces)
            self.bytes_sent += len(data)
            transport.write(data)

    def _break(self, error: Exception) -> None:
        """A defect of ours: it must reach the supervisor, not only the loop's exception handler."""
        self._defect = self._defect or error
        if self._transport is not None:
            self._transport.abort()

    def send_last(self) -> None:
        """Send what is urgent, but none of the users' requests any more: those wait for the next
        connection."""
        self._is_paused = self._is_leaving = True
        self.flush_soon()

    @property
    def is_open(self) -> bool:
        """Whether there is a transport."""
        return self._transport is not None

    def drop(self, why: str, farewell: bytes = b"") -> None:
        """Close at once, and discard what is unsent; `farewell` is sent if it can be sent at once. `lost` is
        resolved soon after."""
        if self._transport is not None:
            logger.debug("dropping the connection to %s: %s", self.address, why)
            if farewell:
                self._transport.write(farewell)
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<Connection to {self.address}, {'open' if self._transport else 'closed'}>"
