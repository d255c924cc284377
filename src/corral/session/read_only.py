"""Reads on a read-only server, while no server accepts the session (T3).

A server that has lost its quorum may go on as a *read-only server* (``readonlymode.enabled``). It answers
reads from its copy of the data, which is frozen, and refuses writes. It takes only clients that say that they
accept this, and only in sessions of its own: it refuses the ensemble's sessions, which it could not keep
alive.

Reading there therefore takes a connection beside the session's, with a machine of its own. It shares the
session's watches, zxids and credentials, and nothing else, so nothing that a read-only server answers can
renew a lease, or prolong the belief in the session. The session's own machine is as it is without any
connection. Its clock ends what is held, and then the session. The dialer goes on to try all servers with the
session: that is the search for a server that takes writes. When one accepts the session, the connection
beside it is closed, and the reads that were not answered go to that server.

Watches are in one place at a time. They are set again here from the zxid of when the session lost its
connection, and there again from the zxid that was seen last here, so no change is missed. A read-only server
may lag behind, as any other, but it is never behind what the client has seen: otherwise it turns us away.

Which request goes where
------------------------
- Reads go to the read-only server, ahead of all writes that wait. Reads that are bound to the session, and
  patient ones (`requests.PatientRequest`), wait with the writes, in order.
- Writes, and `sync`, which a read-only server refuses, are rejected with `NotReadOnly`, or wait if the user
  wants that. Patient ones always wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from corral import errors
from corral.types import State
from corral.wire import messages

from .clock import Clock
from .connection import Connection
from .hosts import Address
from .machine import Machine
from .requests import Request
from .timer import DeadlineTimer

__all__ = ["ReadOnlyFallback"]

logger = logging.getLogger("corral.session")

TAKES_WRITES = "it takes writes by now"
CLOSING = "the client is being closed"
REFUSED = "as a read-only server it does not take us"


class ReadOnlyFallback:
    """Finds read-only servers for the reads of `session`. `make_machine` makes a machine like that one."""

    def __init__(
        self,
        session: Machine,
        make_machine: Callable[[Callable[[State], None]], Machine],
        *,
        writes_wait: bool,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.session = session
        self.make_machine = make_machine
        self.writes_wait = writes_wait
        self.clock = clock
        self.loop = loop
        self.on_defect: Callable[[BaseException], None] = lambda defect: None
        """Called with a defect of ours that has broken a connection."""
        self._last: _Reading | None = None
        self._bytes_sent = self._bytes_received = 0  # on the connections before the last one

    async def visit(
        self, address: Address, connect: Callable[[Machine, Connection], Awaitable[None]]
    ) -> str | None:
        """Have a server answer reads from now on. Returns why it does not; None if it does.

        `connect` opens the connection and waits until it is established or lost. If it raises, or is
        cancelled, the connection is closed.
        """
        if self._last is not None:
            self._bytes_sent, self._bytes_received = self.bytes_sent, self.bytes_received
        self._last = reading = _Reading(self, address)
        try:
            await connect(reading.machine, reading.connection)
            is_ready = await reading.ready
        except BaseException:
            reading.end()
            raise
        if not is_ready:
            return reading.machine.close_reason or REFUSED
        if not reading.machine.is_read_only:
            reading.end()  # and this session, which the session's own would leave without use
            return TAKES_WRITES
        if self.session.closing:
            reading.end()
            return CLOSING
        self.session.enter_read_only(self.clock(), reading)
        return None

    @property
    def in_flight(self) -> int:
        """How many reads are sent and unanswered."""
        return 0 if self._last is None else len(self._last.machine.requests.in_flight)

    @property
    def bytes_sent(self) -> int:
        """On all connections to read-only servers."""
        return self._bytes_sent + (0 if self._last is None else self._last.connection.bytes_sent)

    @property
    def bytes_received(self) -> int:
        """On all connections to read-only servers."""
        return self._bytes_received + (0 if self._last is None else self._last.connection.bytes_received)


class _Reading:
    """One connection to a read-only server (`machine.Reads`)."""

    def __init__(self, fallback: ReadOnlyFallback, address: Address) -> None:
        self.address = address
        self.machine = fallback.make_machine(self._state_changed)
        self.machine.read_for(fallback.session)
        self.ready: asyncio.Future[bool] = fallback.loop.create_future()
        """Whether the server accepts our reads; resolved when that is known."""
        self._fallback = fallback
        self._timer = DeadlineTimer(
            self.machine, fallback.clock, fallback.loop, on_tick=self._ticked, on_error=fallback.on_defect
        )
        self.connection = Connection(self.machine, fallback.clock, address, self._timer.rearm, fallback.loop)
        self.connection.lost.add_done_callback(self._lost)

    # machine.Reads

    @property
    def server(self) -> str:
        return str(self.address)

    def take(self, request: Request, /) -> bool:
        if request.is_patient:
            return False
        op = request.op
        if op.is_write or op is messages.SYNC:
            if self._fallback.writes_wait:
                return False
            request.reject(errors.NotReadOnly(op.name, request.path))
            return True
        if request.bound_to:
            return False
        self.machine.submit(request)
        self.connection.flush_soon()
        return True

    def present(self, credentials: bytes, /) -> None:
        self.machine.present(credentials)
        self.connection.flush_soon()

    def end(self) -> list[Request]:
        self._timer.stop()
        requests, farewell = self.machine.surrender()
        self.connection.drop("reads are answered elsewhere", farewell)
        return requests

    # What happens to it

    def _state_changed(self, state: State) -> None:
        if state is State.CONNECTED and not self.ready.done():
            self.ready.set_result(True)
        elif state is State.AUTH_FAILED:
            self._leave(f"{self.address}: it refused our credentials")

    def _ticked(self) -> None:
        self.connection.follow_machine()

    def _lost(self, lost: asyncio.Future[BaseException | None]) -> None:
        self._timer.stop()
        if not self.ready.done():
            self.ready.set_result(False)
        self._leave(self.machine.history.loss_reason)
        defect = lost.result()
        if defect is not None and not isinstance(defect, OSError):
            self._fallback.on_defect(defect)

    def _leave(self, why: str) -> None:
        session = self._fallback.session
        if session.reads is self:
            session.leave_read_only(self._fallback.clock(), why)
