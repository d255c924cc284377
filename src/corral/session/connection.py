"""One socket: what comes in goes to the machine, what the machine wants said goes out once a loop turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from .hosts import Address
from .machine import Machine
from .states import ConnectionPhase

logger = logging.getLogger("corral.connection")

_UP = ConnectionPhase.UP


class Connection(asyncio.BufferedProtocol):
    """The adapter between a transport and the machine. `on_entry` is called after each entry into the
    machine, since its deadline may have moved."""

    def __init__(
        self,
        machine: Machine,
        clock: Callable[[], float],
        address: Address,
        on_entry: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.address = address
        self.established: asyncio.Future[None] = loop.create_future()
        """Resolved when the handshake is over, one way or the other."""
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        """The single truth of "it is over": resolved in `connection_lost`, with what ended it. Wait for it
        shielded: a cancelled wait must not make the next one believe that it has been resolved."""
        self._machine = machine
        self._clock = clock
        self._on_entry = on_entry
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._flush_due: asyncio.Handle | None = None
        self._paused = False
        self._broken: Exception | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.made = False
        """Whether there ever was a transport, so that `lost` will be resolved."""

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self._transport = cast(asyncio.Transport, transport)
        try:
            greeting = self._machine.connection_made(self._clock())
            self.bytes_sent += len(greeting)
            self._transport.write(greeting)
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
        if machine.phase is _UP and not self.established.done():
            self.established.set_result(None)
        if machine.deadline_moved:
            self._on_entry()

    def eof_received(self) -> bool:
        return False  # a server that has stopped talking to us has closed: FIN, RST and silence are one event

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        why = self._machine.close_reason or (f"{exc}" if exc else "the server closed it")
        try:
            self._machine.connection_lost(self._clock(), f"{self.address}: {why}")
            self._on_entry()
        except Exception as error:
            self._broken = error
        if not self.established.done():
            self.established.set_result(None)
        if not self.lost.done():
            self.lost.set_result(self._broken or exc)

    # For the session

    def flush_soon(self) -> None:
        """Write what the machine has to say at the end of this loop turn: one write for all of it."""
        if self._flush_due is None:
            self._flush_due = self._loop.call_soon(self._flush)

    def flush_now(self) -> None:
        """Write it now, if it would be the first thing that is on its way: whoever has asked for it has no
        more to say, and is spared a turn of the loop. Others that ask in this turn are gathered as ever."""
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
        if self._transport is None:
            return
        try:
            # A full socket buffer holds back the users' requests, not the heartbeat behind which they wait.
            pieces = self._machine.data_to_send(self._clock(), urgent_only=self._paused)
        except Exception as error:
            self._break(error)
            return
        if pieces:
            data = b"".join(pieces)
            self.bytes_sent += len(data)
            self._transport.write(data)

    def _break(self, error: Exception) -> None:
        """A defect of ours: it must reach the supervisor, not only the loop's exception handler."""
        self._broken = self._broken or error
        if self._transport is not None:
            self._transport.abort()

    def drop(self, why: str) -> None:
        """Close at once, whatever is still unsent; `lost` is resolved soon after."""
        if self._transport is not None:
            logger.debug("dropping the connection to %s: %s", self.address, why)
            self._transport.abort()

    def __repr__(self) -> str:
        return f"<Connection to {self.address}, {'open' if self._transport else 'closed'}>"
