"""Requests and their answers: the only owner of what is queued and what is in flight.

There are three places: *urgent* (the session's own messages, which go first: credentials, watches,
heartbeats), *waiting* (users' requests, in order) and *in flight* (sent and unanswered, in the order of
sending, which is the order of the answers). When the connection is lost, `reclaim` decides what becomes of
each request.

How many are in flight
----------------------
A heartbeat is answered behind all that is in flight. That must take only a part of T, on every network on
which the session can live. The number and the size of the requests say little, since a short read may be
answered with a megabyte. A connection therefore begins with `FIRST_FLIGHT` requests in flight and doubles
that with each round trip. It never has more in flight than would be answered with `MAX_BYTES_IN_FLIGHT`, by
the sizes of the answers so far.

What breaks connections
-----------------------
A request may itself break the connection: it may be too large for the server, unknown to it, or rejected by
something in between. Whoever sends it again (a watch, a lock) would break one connection after another, and
lose everybody else's writes with each. `Requests` therefore counts, for each operation and body, how many
connections in a row broke while such a request was unanswered. After one, these requests are sent together,
apart from all others. After two or more, each is sent alone. No request overtakes another: a pipelined pair,
such as a write and the list that must be read after it, relies on the order. `ConnectionLoss.losses` has the
count, so that whoever repeats a request knows when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias

from corral import errors
from corral.wire import messages
from corral.wire.messages import Operation

from .watchers import WatchKind

# A server stops reading from its connections while it has globalOutstandingLimit (1,000) unanswered requests:
# more in flight gain nothing, and a heartbeat waits behind all of them.
MAX_IN_FLIGHT = 1000
# Bytes of requests, and of answers, that may be ahead of a heartbeat.
MAX_BYTES_IN_FLIGHT = 4 * 1024 * 1024
FIRST_FLIGHT = 32
# Requests and answers up to this size are not counted in bytes: MAX_IN_FLIGHT of them fit.
_SMALL = MAX_BYTES_IN_FLIGHT // MAX_IN_FLIGHT
# How fast the expected size of an answer decreases after a large one.
_FORGETTING = 1 / 16
# For how long, in T, the count of a request is kept that is not sent again.
_MEMORY = 4
# With how many requests waiting, or bytes of large ones, those are dropped that nobody waits for.
_PURGE_COUNT = 64
_PURGE_BYTES = 1024 * 1024
_LARGE = 16 * 1024

logger = logging.getLogger("corral.session")

_pack_header = messages.REQUEST_HEADER.pack
_FIRST_XID = 1
_LAST_XID = 0x7FFFFFFF


class Waiter(Protocol):
    """Waits for an answer: an `asyncio.Future`, or anything with these methods of one."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class Nobody:
    """The waiter of requests whose answers nobody needs."""

    def done(self) -> bool:
        """Never: the request is sent all the same."""
        return False

    def set_result(self, result: Any, /) -> None:
        """Ignore it."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Ignore it."""


NOBODY = Nobody()


class Request:
    """One request: what to send, who waits for the answer, and what is known of its outcome."""

    __slots__ = (
        "attempts", "body", "bound_to", "losses", "op", "path", "refused", "sent_at", "unclaimed", "waiter",
        "watches", "xid",
    )  # fmt: skip

    is_own = False
    """Whether it is an `OwnRequest`."""

    def __init__(
        self,
        op: Operation,
        body: bytes,
        path: str | None,
        waiter: Waiter,
        *,
        bound_to: int = 0,
        watches: tuple[str, WatchKind] | None = None,
    ) -> None:
        self.op = op
        self.body = body
        self.path = path
        """As the caller names it; for error messages only."""
        self.waiter = waiter
        self.bound_to = bound_to
        """The session outside which the request must not be executed, or 0."""
        self.watches = watches
        """The full path and kind of the watch that this read sets, or None."""
        self.xid = 0
        """The number of its answer; 0 until it is sent."""
        self.sent_at = 0.0
        self.attempts = 0
        self.losses = 0
        """The number of connections in a row that broke on it, as of when it was last sent."""
        self.refused = False
        """Whether the server has refused it without executing it: then even a write may be sent again."""
        self.unclaimed: tuple[Any, BaseException | None] | None = None
        """The answer and the error, one of which is None, if they arrived after the future was cancelled but
        before its task resumed. See `hand_over`."""

    @property
    def sent(self) -> bool:
        """Whether it was ever sent: then its outcome may be unknown."""
        return self.attempts > 0

    def resolve(self, result: Any) -> None:
        """Give the waiter its answer; keep it in `unclaimed` if the waiter is done."""
        try:
            if not self.waiter.done():
                self.waiter.set_result(result)
            else:
                self.unclaimed = (result, None)
        except Exception as defect:
            self._waiter_broke(defect)

    def reject(self, error: BaseException) -> None:
        """Give the waiter an error; keep it in `unclaimed` if the waiter is done."""
        try:
            if not self.waiter.done():
                self.waiter.set_exception(error)
            else:
                self.unclaimed = (None, error)
        except Exception as defect:
            self._waiter_broke(defect)

    def hand_over(self, waiter: Waiter) -> None:
        """The future that waits was cancelled: give the answer to `waiter` in its place, also one that has
        arrived.

        A request that was not sent is not sent, and `waiter` gets nothing: there is no outcome to follow.
        """
        future = self.waiter
        assert isinstance(future, asyncio.Future), "only a future is handed over"
        if not self.sent:
            return
        self.waiter = waiter
        # It may have arrived in the turn of the cancel: before it, in the future; after it, in `unclaimed`.
        outcome = self.unclaimed
        if future.done() and not future.cancelled():
            error = future.exception()
            outcome = (None if error else future.result(), error)
        if outcome is None:
            return
        result, error = outcome
        if error is None:
            self.resolve(result)
        else:
            self.reject(error)

    def _waiter_broke(self, defect: Exception) -> None:
        """A waiter has raised: its wait ends with an error. The session goes on, for the other waiters."""
        logger.error("the answer to %r could not be taken; please report this", self, exc_info=defect)
        error = errors.InternalError(f"{errors.describe(self.op.name, self.path)}: {defect!r}")
        error.__cause__ = defect
        with contextlib.suppress(Exception):  # it may raise again; the first defect is logged
            self.waiter.set_exception(error)

    def __repr__(self) -> str:
        return f"<{errors.describe(self.op.name, self.path)} xid={self.xid} attempts={self.attempts}>"

    is_patient = False
    """Whether it waits for a server that takes writes, whatever the user wants: a read-only server neither
    answers it, as reads, nor has it refused, as writes."""


class PatientRequest(Request):
    """A read that is about what a write before it does, or a write whose refusal would leave something
    behind or say too much: whether it was carried out before is unknown."""

    __slots__ = ()

    is_patient = True


class OwnRequest(Request):
    """A request of the session itself: a heartbeat. See `Requests.send_first`."""

    __slots__ = ()
    is_own = True


_Key: TypeAlias = "tuple[int, bytes]"


class Requests:
    """The three places, and the numbering of requests."""

    def __init__(self) -> None:
        self.urgent: deque[bytes] = deque()
        self.waiting: deque[Request] = deque()
        self.in_flight: deque[Request] = deque()
        self.timeout = 0.0
        """The session timeout T in seconds."""
        self._bytes_in_flight = 0  # of those that are not small
        self._xid = _FIRST_XID - 1
        # When to drop what nobody waits for: at twice what was left last time, so that the search costs a
        # constant for each request.
        self._purge_count = _PURGE_COUNT
        self._purge_bytes = _PURGE_BYTES
        self._large_bytes = 0
        # How many requests may be in flight, and the expected size of an answer.
        self._window = FIRST_FLIGHT
        self._expected = 0.0
        self._adapt_above = -1  # only larger answers change the window
        # How many connections in a row broke on each request. Of those in flight: how many are the session's
        # own, how many are suspected (some connection broke on them), and whether one of these must be alone.
        self._losses: dict[_Key, int] = {}
        self._own = 0
        self._suspects = 0
        self._is_alone = False
        self._is_plain = True  # whether all in flight are small, users' and not suspected
        self._lost_at = 0.0

    def add(self, request: Request) -> None:
        """Queue a request behind all that wait."""
        waiting = self.waiting
        waiting.append(request)
        if len(waiting) > self._purge_count or len(request.body) > _LARGE:
            self._bound_memory(len(request.body))

    def _bound_memory(self, size: int) -> None:
        """Many requests wait, or a large one was added."""
        if size > _LARGE:
            self._large_bytes += size
        if len(self.waiting) > self._purge_count or self._large_bytes > self._purge_bytes:
            self.purge()

    def purge(self) -> None:
        """Drop what nobody waits for. After a long outage that may be all of it, timed out."""
        self.waiting = deque(request for request in self.waiting if not request.waiter.done())
        self._purge_count = max(_PURGE_COUNT, 2 * len(self.waiting))
        self._purge_bytes = max(_PURGE_BYTES, sum(len(request.body) for request in self.waiting))
        self._large_bytes = 0

    def connected(self, timeout: float) -> None:
        """There is a new connection, with this session timeout in seconds."""
        self.timeout = timeout
        self._window = FIRST_FLIGHT
        self._adapt_above = -1

    def take(self, now: float, out: list[bytes]) -> None:
        """Append to `out` what may be sent now. It is in flight from `now` on."""
        if self.urgent:
            out.extend(self.urgent)
            self.urgent.clear()
        waiting, in_flight, window = self.waiting, self.in_flight, self._window
        while waiting and len(in_flight) < window and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            request = waiting.popleft()
            if request.waiter.done():
                continue  # cancelled before it was sent: not executed
            if self._losses and not self._may_send(request, now):
                waiting.appendleft(request)
                return
            self._send(request, now, out)

    def _may_send(self, request: Request, now: float) -> bool:
        """Whether the first waiting request may be sent beside what is in flight, although connections have
        broken on some requests (see above)."""
        losses = request.losses = self._losses.get(_key(request), 0)
        others = len(self.in_flight) - self._own - self._suspects
        if losses == 0:
            if self._suspects == 0 and now > self._lost_at + _MEMORY * self.timeout:
                self._losses.clear()  # these were not sent again
            return self._suspects == 0
        if losses == 1:
            return others == 0 and not self._is_alone
        return others == 0 and self._suspects == 0

    def send_first(self, request: OwnRequest, now: float) -> None:
        """Send a request of the session's own ahead of all that wait, whatever is in flight."""
        self._send(request, now, self.urgent)

    def _send(self, request: Request, now: float, out: list[bytes] | deque[bytes]) -> None:
        self._xid = xid = self._xid + 1 if self._xid < _LAST_XID else _FIRST_XID
        request.xid = xid
        request.sent_at = now
        request.attempts += 1
        body = request.body
        size = len(body)
        self.in_flight.append(request)
        if size > _SMALL or request.is_own or request.losses:
            self._account(request, size)
        header = _pack_header(size + 8, xid, request.op.opcode)
        if size > _SMALL:
            out.append(header)
            out.append(body)
        else:
            out.append(header + body)

    def _account(self, request: Request, size: int) -> None:
        """A large request, one of the session's own, or a suspected one is in flight."""
        self._is_plain = False
        if size > _SMALL:
            self._bytes_in_flight += size
        if request.is_own:
            self._own += 1
        elif request.losses:
            self._suspects += 1
            self._is_alone = request.losses >= 2

    def answered(self, xid: int, size: int) -> Request | None:
        """The request of an answer with `xid` and `size` bytes: the oldest in flight. None if it is not that
        one's: then the stream is broken."""
        in_flight = self.in_flight
        if not in_flight or in_flight[0].xid != xid:
            return None
        request = in_flight.popleft()
        if not self._is_plain:
            self._landed(request)
        if size > self._adapt_above:
            self._adapt_window(size)
        return request

    def _adapt_window(self, size: int) -> None:
        expected = self._expected
        self._expected = expected = max(size, expected + (size - expected) * _FORGETTING)
        self._window = min(self._window + 1, MAX_IN_FLIGHT, int(MAX_BYTES_IN_FLIGHT / (expected + 1)) + 1)
        self._adapt_above = _SMALL if self._window == MAX_IN_FLIGHT else -1

    def answered_out_of_turn(self, xid: int) -> Request | None:
        """The request in flight that has this `xid`, whether or not it is the oldest."""
        for request in self.in_flight:
            if request.xid == xid:
                self.in_flight.remove(request)
                self._landed(request)
                return request
        return None

    def _landed(self, request: Request) -> None:
        """It is answered, so it has not broken the connection."""
        size = len(request.body)
        if size > _SMALL:
            self._bytes_in_flight -= size
        if request.is_own:
            self._own -= 1
        elif request.losses:
            self._suspects -= 1
            self._is_alone = False
            self._losses.pop(_key(request), None)
            request.losses = 0
        self._is_plain = not (self._bytes_in_flight or self._own or self._suspects)

    def refused(self, request: Request) -> None:
        """Take back a request that was not executed: `reclaim` sends it again, in its turn."""
        request.refused = True
        self.in_flight.appendleft(request)
        self._account(request, len(request.body))

    def reclaim(self, now: float) -> Iterator[tuple[Request, int]]:
        """The connection is lost: requeue the reads, in order, and yield the requests whose outcome is
        unknown, each with the number of connections in a row that broke on it.

        A read that was in flight at two losses is yielded, too, since it may be the cause. So is a write that
        nobody waits for: it may still be handed over (`Request.hand_over`).
        """
        unanswered = list(self.in_flight)
        self._nothing_in_flight()
        if unanswered:
            self._lost_at = now
            self._losses = losses = self._count_losses(unanswered)
        lost = []
        for request in reversed(unanswered):
            count = losses.get(_key(request), 1)
            is_suspect = request.attempts >= 2 or count >= errors.ConnectionLoss.MOST_LOSSES
            if not request.refused and (request.op.is_write or is_suspect):
                lost.append((request, count))
            elif not request.waiter.done():
                request.refused = False
                self.waiting.appendleft(request)
        self.purge()
        yield from reversed(lost)

    def _count_losses(self, unanswered: list[Request]) -> dict[_Key, int]:
        before = self._losses
        counted = {
            key: before.get(key, 0) + 1
            for key in (_key(each) for each in unanswered if not each.refused and not each.is_own)
        }
        for request in self.waiting if before else ():
            if (key := _key(request)) in before:
                counted.setdefault(key, before[key])
        return counted

    def _nothing_in_flight(self) -> None:
        self.in_flight.clear()
        self.urgent.clear()
        self._bytes_in_flight = self._own = self._suspects = 0
        self._is_alone = False
        self._is_plain = True

    def surrender(self) -> list[Request]:
        """The connection is given up, which is no fault of these requests: take out all of them, in order.
        They are reads, and will be sent elsewhere."""
        for request in self.in_flight:
            request.attempts -= 1
        return self.drop_all()

    def put_back(self, requests: Iterable[Request]) -> None:
        """Queue requests ahead of all that wait."""
        self.waiting.extendleft(reversed(list(requests)))

    def drop_bound(self, session_id: int) -> list[Request]:
        """Take out what waits and is bound to another session than this one (0 for none)."""
        dropped = [request for request in self.waiting if request.bound_to not in (0, session_id)]
        if dropped:
            self.waiting = deque(request for request in self.waiting if request.bound_to in (0, session_id))
        return dropped

    def drop_waiting(self) -> list[Request]:
        """Take out all that wait to be sent, or to be sent again."""
        dropped = list(self.waiting)
        self.waiting.clear()
        return dropped

    def drop_all(self) -> list[Request]:
        """Take out all requests, sent or not."""
        dropped = [*self.in_flight, *self.drop_waiting()]
        self._nothing_in_flight()
        return dropped


def _key(request: Request) -> _Key:
    return request.op.opcode, request.body
