"""Requests that wait for their answers: the only owner of what is queued and what is in flight.

Three places: *urgent* (what the session itself must say first: credentials, watches, heartbeats), *waiting*
(users' requests, in their order) and *in flight* (sent, unanswered, in the order of sending, which is the
order in which a session is answered). When the connection breaks, `reclaim` decides what becomes of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from corral import errors
from corral.wire import messages
from corral.wire.messages import Operation

if TYPE_CHECKING:
    from .watches import Kind

# A server stops reading from its connections while it has globalOutstandingLimit (1,000) requests unanswered,
# so a longer flight gains nothing; and it is what a heartbeat may find before itself.
MAX_IN_FLIGHT = 1000
# So that large writes do not pile up in front of a heartbeat either.
MAX_BYTES_IN_FLIGHT = 4 * 1024 * 1024

_pack_header = messages.REQUEST_HEADER.pack
_FIRST_XID = 1
_LAST_XID = 0x7FFFFFFF


class Waiter(Protocol):
    """Whoever waits for an answer: an `asyncio.Future`, or anything that behaves so."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class Nobody:
    """A waiter for answers that nobody waits for."""

    def done(self) -> bool:
        """Never: what was asked for is to be sent all the same."""
        return False

    def set_result(self, result: Any, /) -> None:
        """Ignore it."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Ignore it."""


NOBODY = Nobody()


class Request:
    """One request: what to send, who waits, and what is known of its fate."""

    __slots__ = (
        "attempts", "body", "bound_to", "op", "path", "refused", "sent_at", "unclaimed", "waiter", "watches",
        "xid",
    )  # fmt: skip

    def __init__(
        self,
        op: Operation,
        body: bytes,
        path: str | None,
        waiter: Waiter,
        *,
        bound_to: int = 0,
        watches: tuple[str, Kind] | None = None,
    ) -> None:
        self.op = op
        self.body = body
        self.path = path
        """As the caller named it: for error messages only."""
        self.waiter = waiter
        self.bound_to = bound_to
        """The session without which the request means nothing, or 0."""
        self.watches = watches
        """The full path that the server watches from now on, if this read asks it to, and what of it."""
        self.xid = 0
        """What the server will answer under; 0 until it is sent."""
        self.sent_at = 0.0
        self.attempts = 0
        self.refused = False
        """Whether the server has said that it was not applied, so that even a write may be sent again."""
        self.unclaimed: tuple[Any, BaseException | None] | None = None
        """The answer and the error (one is None) of one that was sent, if they came when its waiter had
        gone. A future is gone as soon as its task is cancelled, and the task is told of that a turn of the
        loop later: what comes between the two is here."""

    @property
    def sent(self) -> bool:
        """Whether it has been on the wire, so that its outcome may be unknown."""
        return self.attempts > 0

    def resolve(self, result: Any) -> None:
        """Give the waiter its answer; if it waits no more, note it."""
        if not self.waiter.done():
            self.waiter.set_result(result)
        else:
            self.unclaimed = (result, None)

    def reject(self, error: BaseException) -> None:
        """Give the waiter an error; if it waits no more, note it."""
        if not self.waiter.done():
            self.waiter.set_exception(error)
        else:
            self.unclaimed = (None, error)

    def __repr__(self) -> str:
        return f"<{errors.describe(self.op.name, self.path)} xid={self.xid} attempts={self.attempts}>"


class Requests:
    """The three places, and the numbering of what goes from one to the next."""

    def __init__(self) -> None:
        self.urgent: deque[bytes] = deque()
        self.waiting: deque[Request] = deque()
        self.in_flight: deque[Request] = deque()
        self._bytes_in_flight = 0
        self._xid = _FIRST_XID - 1

    def take(self, now: float, out: list[bytes]) -> None:
        """Append to `out` what may be sent now, and note it as in flight since `now`."""
        if self.urgent:
            out.extend(self.urgent)
            self.urgent.clear()
        waiting, in_flight = self.waiting, self.in_flight
        while waiting and len(in_flight) < MAX_IN_FLIGHT and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            request = waiting.popleft()
            if request.waiter.done():
                continue  # cancelled before it was sent: certainly not applied
            self._send(request, now, out)

    def send_first(self, request: Request, now: float) -> None:
        """Send a request of the session's own before all that waits, whatever is in flight."""
        self._send(request, now, self.urgent)

    def _send(self, request: Request, now: float, out: list[bytes] | deque[bytes]) -> None:
        self._xid = xid = self._xid + 1 if self._xid < _LAST_XID else _FIRST_XID
        request.xid = xid
        request.sent_at = now
        request.attempts += 1
        request.refused = False
        body = request.body
        size = len(body)
        self._bytes_in_flight += size
        self.in_flight.append(request)
        out.append(_pack_header(size + 8, xid, request.op.opcode))
        out.append(body)

    def answered(self, xid: int) -> Request | None:
        """The request that an answer with `xid` belongs to: the oldest in flight, or the stream is broken."""
        if not self.in_flight or self.in_flight[0].xid != xid:
            return None
        request = self.in_flight.popleft()
        self._bytes_in_flight -= len(request.body)
        return request

    def answered_out_of_turn(self, xid: int) -> Request | None:
        """The request in flight that an answer with `xid` belongs to, wherever it stands."""
        for request in self.in_flight:
            if request.xid == xid:
                self.in_flight.remove(request)
                self._bytes_in_flight -= len(request.body)
                return request
        return None

    def refused(self, request: Request) -> None:
        """Take back a request that was certainly not applied: `reclaim` has it sent again, in its turn."""
        request.refused = True
        self.in_flight.appendleft(request)
        self._bytes_in_flight += len(request.body)

    def reclaim(self) -> Iterator[Request]:
        """The connection is gone: reads go back to wait, in order; yields those whose outcome is unknown.

        A read on which the connection has died twice is yielded too: it may be what kills it. So is a write
        that nobody waits for: whoever has left it may still come for its outcome.
        """
        unanswered = list(self.in_flight)
        self.in_flight.clear()
        self._bytes_in_flight = 0
        self.urgent.clear()
        lost = []
        for request in reversed(unanswered):
            if not request.refused and (request.op.is_write or request.attempts >= 2):
                lost.append(request)
            elif not request.waiter.done():
                self.waiting.appendleft(request)
        yield from reversed(lost)

    def drop_bound(self, session_id: int) -> list[Request]:
        """Take out what waits and means nothing in the session that there is now (0 for none)."""
        dropped = [request for request in self.waiting if request.bound_to not in (0, session_id)]
        if dropped:
            self.waiting = deque(request for request in self.waiting if request.bound_to in (0, session_id))
        return dropped

    def drop_all(self) -> list[Request]:
        """Take out everything, sent or not."""
        dropped = [*self.in_flight, *self.waiting]
        self.in_flight.clear()
        self.waiting.clear()
        self.urgent.clear()
        self._bytes_in_flight = 0
        return dropped
