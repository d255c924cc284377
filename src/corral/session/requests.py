"""Requests that wait for their answers: the only owner of what is queued and what is in flight.

Three places: *urgent* (what the session itself must say first: credentials, watches, heartbeats), *waiting*
(users' requests, in their order) and *in flight* (sent, unanswered, in the order of sending, which is the
order in which a session is answered). When the connection breaks, `reclaim` decides what becomes of each.

How many are in flight
----------------------
A heartbeat that is sent now is answered behind all that is in
flight, so that must not take long: a part of T, over any network on which the session can live. The number of
requests and the bytes of the requests say little, since a read of a few bytes may be answered with a
megabyte. So a connection begins with `FIRST_FLIGHT` requests, doubles that with each round trip, and never
has more in flight than are answered with `MAX_BYTES_IN_FLIGHT`, going by the answers that came.

What breaks connections
-----------------------
A request may be what the connection breaks on: too large for this server, unknown to it, or disliked by
something in between. Whoever repeats it by itself (a watch, a lock) would break one connection after another,
and everybody else's writes with them. So it is counted, for each request with the same operation and body,
how many connections in a row broke while it was unanswered. Those on which one broke are sent again together,
and nothing else until they are answered; from the second on each is sent alone. None overtakes another: a
pipelined pair, such as a write and the list that must be read behind it, relies on the order.
`ConnectionLoss.losses` tells the count to whoever repeats it, and when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

from corral import errors
from corral.wire import messages
from corral.wire.messages import Operation

from .watchers import WatchKind

# A server stops reading from its connections while it has globalOutstandingLimit (1,000) requests unanswered,
# so a longer flight gains nothing; and it is what a heartbeat may find before itself.
MAX_IN_FLIGHT = 1000
# Bytes, of requests as of answers, that may be in front of a heartbeat.
MAX_BYTES_IN_FLIGHT = 4 * 1024 * 1024
FIRST_FLIGHT = 32
# Requests and answers of this size are not counted in bytes: there may be as many as there may ever be.
_SMALL = MAX_BYTES_IN_FLIGHT // MAX_IN_FLIGHT
# How fast the expected size of an answer falls again after a large one.
_FORGETTING = 1 / 16
# For how long, in T, it is remembered on which request a connection broke that nobody asks for again.
_MEMORY = 4
# How many, and how many bytes of large ones, may wait before those are looked for whose waiter has gone.
_PURGE_COUNT = 64
_PURGE_BYTES = 1024 * 1024
_LARGE = 16 * 1024

logger = logging.getLogger("corral.session")

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
        "attempts", "body", "bound_to", "is_own", "losses", "op", "path", "refused", "sent_at", "unclaimed",
        "waiter", "watches", "xid",
    )  # fmt: skip

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
        self.is_own = False
        """Whether the session itself has sent it, such as a heartbeat, whatever else waits."""
        self.losses = 0
        """On how many connections in a row it broke, as of when it was last sent."""
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
        try:
            if not self.waiter.done():
                self.waiter.set_result(result)
            else:
                self.unclaimed = (result, None)
        except Exception as defect:
            self._waiter_broke(defect)

    def reject(self, error: BaseException) -> None:
        """Give the waiter an error; if it waits no more, note it."""
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
        """A waiter has raised: that ends what it waits for, and not the session, which has other waiters."""
        logger.error("the answer to %r could not be taken; please report this", self, exc_info=defect)
        error = errors.InternalError(f"{errors.describe(self.op.name, self.path)}: {defect!r}")
        error.__cause__ = defect
        with contextlib.suppress(Exception):  # it has raised once, and is logged
            self.waiter.set_exception(error)

    def __repr__(self) -> str:
        return f"<{errors.describe(self.op.name, self.path)} xid={self.xid} attempts={self.attempts}>"


_Key: TypeAlias = "tuple[int, bytes]"


class Requests:
    """The three places, and the numbering of what goes from one to the next."""

    def __init__(self) -> None:
        self.urgent: deque[bytes] = deque()
        self.waiting: deque[Request] = deque()
        self.in_flight: deque[Request] = deque()
        self.timeout = 0.0
        """The session timeout T in seconds."""
        self._bytes_in_flight = 0  # of those that are not small
        self._xid = _FIRST_XID - 1
        # With how many waiting, or how many bytes of large ones more, it is worth looking for what nobody
        # waits for any more: twice what was left last time, so that looking costs a part of queueing.
        self._purge_count = _PURGE_COUNT
        self._purge_bytes = _PURGE_BYTES
        self._large_bytes = 0
        # How many may be in flight, and the size of an answer that is expected.
        self._window = FIRST_FLIGHT
        self._expected = 0.0
        self._adapt_above = -1  # how large an answer must be to say anything new about the window
        # On how many connections in a row each request broke. Of those in flight: how many are the session's
        # own, how many are suspected, and whether one of these is to be alone.
        self._losses: dict[_Key, int] = {}
        self._own = 0
        self._suspects = 0
        self._is_alone = False
        self._is_plain = True  # whether all in flight are small users' requests that are not suspected
        self._lost_at = 0.0

    def add(self, request: Request) -> None:
        """Queue it behind all that waits."""
        waiting = self.waiting
        waiting.append(request)
        if len(waiting) > self._purge_count:
            self.purge()
        if len(request.body) > _LARGE:
            self._large_bytes += len(request.body)
            if self._large_bytes > self._purge_bytes:
                self.purge()

    def purge(self) -> None:
        """Throw out what waits and nobody waits for: in a long outage that could be all of it (timed out)."""
        self.waiting = deque(request for request in self.waiting if not request.waiter.done())
        self._purge_count = max(_PURGE_COUNT, 2 * len(self.waiting))
        self._purge_bytes = max(_PURGE_BYTES, sum(len(request.body) for request in self.waiting))
        self._large_bytes = 0

    def connected(self, timeout: float) -> None:
        """There is a new connection, of a session with this timeout in seconds."""
        self.timeout = timeout
        self._window = FIRST_FLIGHT
        self._adapt_above = -1

    def take(self, now: float, out: list[bytes]) -> None:
        """Append to `out` what may be sent now, and note it as in flight since `now`."""
        if self.urgent:
            out.extend(self.urgent)
            self.urgent.clear()
        waiting, in_flight, window = self.waiting, self.in_flight, self._window
        while waiting and len(in_flight) < window and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            request = waiting.popleft()
            if request.waiter.done():
                continue  # cancelled before it was sent: certainly not applied
            if self._losses and not self._may_send(request, now):
                waiting.appendleft(request)
                return
            self._send(request, now, out)

    def _may_send(self, request: Request, now: float) -> bool:
        """Whether the first that waits may go out beside what is in flight, as connections have broken on
        some (see above)."""
        losses = request.losses = self._losses.get(_key(request), 0)
        others = len(self.in_flight) - self._own - self._suspects
        if losses == 0:
            if self._suspects == 0 and now > self._lost_at + _MEMORY * self.timeout:
                self._losses.clear()  # nobody has asked for those again
            return self._suspects == 0
        if losses == 1:
            return others == 0 and not self._is_alone
        return others == 0 and self._suspects == 0

    def send_first(self, request: Request, now: float) -> None:
        """Send a request of the session's own before all that waits, whatever is in flight."""
        request.is_own = True
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
        out.append(_pack_header(size + 8, xid, request.op.opcode))
        out.append(body)

    def _account(self, request: Request, size: int) -> None:
        """A large one, one of the session's own, or a suspected one, is in flight."""
        self._is_plain = False
        if size > _SMALL:
            self._bytes_in_flight += size
        if request.is_own:
            self._own += 1
        elif request.losses:
            self._suspects += 1
            self._is_alone = request.losses >= 2

    def answered(self, xid: int, size: int) -> Request | None:
        """The request that an answer of `size` bytes with `xid` belongs to: the oldest in flight, or the
        stream is broken."""
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
        """The request in flight that an answer with `xid` belongs to, wherever it stands."""
        for request in self.in_flight:
            if request.xid == xid:
                self.in_flight.remove(request)
                self._landed(request)
                return request
        return None

    def _landed(self, request: Request) -> None:
        """It is in flight no more, and has not broken the connection."""
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
        """Take back a request that was certainly not applied: `reclaim` has it sent again, in its turn."""
        request.refused = True
        self.in_flight.appendleft(request)
        self._account(request, len(request.body))

    def reclaim(self, now: float) -> Iterator[tuple[Request, int]]:
        """The connection is gone: reads go back to wait, in order; yields those whose outcome is unknown,
        each with the number of connections in a row that broke on it.

        A read on which the connection has died twice is yielded too: it may be what kills it. So is a write
        that nobody waits for: whoever has left it may still come for its outcome.
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

    def drop_bound(self, session_id: int) -> list[Request]:
        """Take out what waits and means nothing in the session that there is now (0 for none)."""
        dropped = [request for request in self.waiting if request.bound_to not in (0, session_id)]
        if dropped:
            self.waiting = deque(request for request in self.waiting if request.bound_to in (0, session_id))
        return dropped

    def drop_waiting(self) -> list[Request]:
        """Take out all that was not sent, or is to be sent again."""
        dropped = list(self.waiting)
        self.waiting.clear()
        return dropped

    def drop_all(self) -> list[Request]:
        """Take out everything, sent or not."""
        dropped = [*self.in_flight, *self.drop_waiting()]
        self._nothing_in_flight()
        return dropped


def _key(request: Request) -> _Key:
    return request.op.opcode, request.body
