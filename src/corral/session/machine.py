"""The law of a session: bytes and `now` in, bytes and answers out. No I/O, no clock, no tasks.

Theory of operation
-------------------
One session lives over many connections, one after another. For each, in this order: `connection_made` gives
the connect request to send; `receive_data` takes what the server sends; `data_to_send` gives what is to be
sent; `connection_lost` says that the connection is gone. `tick` is to be called when `deadline()` is reached.
Whoever drives the machine looks at `close_reason` after each entry: if it is set, the connection is to be
closed, for that reason.

Two rules:

1. Every entry that is given `now` first moves the clock (`advance`), so a lease that has lapsed is declared
   before any answer is resolved. asyncio runs ready I/O before due timers: after a blocked loop an answer
   would otherwise wake a body that holds no longer (S9).
2. `_change` alone sets `state`, and only as `states.TRANSITIONS` has it.

Answers go straight to whoever waits (`requests.Waiter`): there is no event object in between. What a server
says is held against what it was asked before anybody hears of it (`gate`).

Who recovers what: the session restores *subscriptions* (credentials, watches) on a new connection. What was
*known* (is that node mine? what is the newest state?) is restored by the recipes and watches that knew it.

The numbers
-----------
T is the negotiated session timeout. A server that hears nothing for T ends the session; we make it hear us
every T/3, and take a connection for dead when the oldest request is unanswered, and no other was answered,
for T/2: whatever else the server sends meanwhile, and however much of an answer has come. That leaves T/6 to
find another server; it is what ZooKeeper's own clients do, with 1/3 and 2/3. While something is held there is
a heartbeat every T/6, and T/3 for its answer; that leaves T/6 to go elsewhere before the lease ends, and more
with a short tick.

How far the ensemble is
-----------------------
`last_zxid` goes with each connect request, and a server that is behind it turns us away, so a zxid that is
too great would shut us out of every server. On one connection zxids never fall. So when one does, one of the
two was wrong: the connection is dropped, and what counts is the newest zxid that a later answer has
confirmed.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from corral import errors
from corral.types import State
from corral.wire import framing, messages
from corral.wire.compile import DecodeError

from . import gate
from .auth import Credentials
from .lease_holds import INFINITY, Heartbeat, LeaseHold, LeaseHolds
from .requests import Request, Requests, Waiter
from .states import TRANSITIONS, Transition
from .watch_registry import WatchRegistry

logger = logging.getLogger("corral.session")

PING_AFTER = 1 / 3
SILENCE_LIMIT = 1 / 2
# The leader rounds expiry up by at most a tick, which is at most T/2 by a server's defaults.
EXPIRY_MARGIN = 1 / 2

_NO_PASSWORD = bytes(16)


class WriteObserver(Protocol):
    """Whoever wants to see what this client writes."""

    def wrote(self, op: messages.Operation, body: bytes, result: Any, /) -> None:
        """The server has answered a write, perhaps a transaction that it refused. Whoever waits for the
        answer is told after this. Must not raise."""

    async def wait_current(self) -> None:
        """Wait until what was written is known, where the answer did not say. Raises nothing of its own."""


class ConnectionPhase(enum.Enum):
    """Where the connection stands. Not part of the state: a session survives its connections."""

    DOWN = "down"
    HANDSHAKE = "handshake"
    UP = "up"


# Plainly named, since these are asked about for each message: before Python 3.12 looking up a member of an
# enumeration takes as long as calling a function.
_DOWN, _HANDSHAKE, _UP = ConnectionPhase.DOWN, ConnectionPhase.HANDSHAKE, ConnectionPhase.UP
_LAPSED = State.LAPSED
_NEED_DATA, _OVERSIZED = framing.NEED_DATA, framing.OVERSIZED
_HEADER = messages.REPLY_HEADER.size
_unpack_header = messages.REPLY_HEADER.unpack_from
_decode_event = messages.WATCH_EVENT.decode
_gate_checks = gate.CHECKS
_MULTI = messages.MULTI
_FINAL = (State.AUTH_FAILED, State.CLOSED)


class Machine:
    """One session. `timeout` in seconds is what is asked for until a server has said what it grants."""

    def __init__(
        self,
        timeout: float,
        *,
        credentials: Sequence[Credentials] = (),
        half_tick: float | None = None,
        lease_by_ping: bool = False,
        max_request: int = framing.DEFAULT_MAX_REQUEST,
        max_reply: int = framing.DEFAULT_MAX_REPLY,
        on_state: Callable[[State], None] = lambda state: None,
    ) -> None:
        self.state = State.SUSPENDED
        self.phase = _DOWN
        self.close_reason: str | None = None
        """Why the connection is to be closed, or None."""
        self.session_id = 0
        self.timeout = timeout
        self.last_zxid = 0
        """The newest transaction seen. It outlives the session: time does not run backwards for a client."""
        self.watches = WatchRegistry(self._say_of_watches, max_request=max_request)
        self.observers: dict[WriteObserver, None] = {}
        """Who is shown this client's own writes, as they are answered."""
        self.requests = Requests()
        self.closing = False
        self.fate: errors.SessionError | None = None
        """Why there will be no session any more, where that is neither our closing nor our credentials."""
        # For the log, as of the last change of `state`.
        self.why_lost = ""
        self.why_over = ""
        self.lost_held = ""
        self.contact = -INFINITY
        """When a server was last heard of."""
        self.deadline_moved = False
        """Whether `deadline` may be nearer than it was when it was last asked for."""
        self._armed_deadline = INFINITY
        """What `deadline` was when it was last asked for."""

        self._requested_timeout = timeout
        self._password = _NO_PASSWORD
        self._credentials = list(credentials)
        self._by_ping = lease_by_ping
        self._max_reply = max_reply
        self._on_state = on_state
        self._frames = framing.Frames(max_reply)

        self._holdings = LeaseHolds(
            timeout, half_tick, by_ping=lease_by_ping, watches=self.watches, submit=self.submit
        )
        self._lease = self._holdings.lease

        self._connect_sent = 0.0
        self._last_sent = 0.0
        self._answered_at = 0.0  # when a request was last answered in its turn, or the connection began
        self._ping_sent: float | None = None
        self._credentials_unanswered = 0
        self._is_established = False  # whether the credentials with which the connection began were taken
        self._set_watches_unanswered = 0
        self._set_up_at = 0.0  # when these two were sent
        self._in_hand: Request | None = None  # what the answer that is being read belongs to
        self._connection_zxid = 0  # the newest of the answers on this connection
        self._confirmed_zxid = 0  # the newest that a later answer was not behind
        self._zxid_when_lost = 0

    # Entries of the connection

    def connection_made(self, now: float) -> bytes:
        """A connection is open: what to send first."""
        self.advance(now)
        self.phase = _HANDSHAKE
        self.close_reason = None
        self._frames = framing.Frames(self._max_reply)
        self._connect_sent = now
        self._connection_zxid = 0
        self.requests.purge()
        body = messages.encode_connect(
            self.last_zxid, self._requested_timeout, self.session_id, self._password, False
        )
        return len(body).to_bytes(4, "big") + body

    def buffer(self) -> memoryview:
        """Where the connection is to put what it receives."""
        return self._frames.writable()

    def receive_data(self, now: float, count: int) -> None:
        """`count` bytes were put into `buffer()`."""
        frames = self._frames
        frames.wrote(count)
        self.advance(now)
        try:
            if self.phase is _HANDSHAKE:
                gate.check_greeting(frames.received_first())
            while (end := frames.next()) != _NEED_DATA:
                if end == _OVERSIZED:
                    self._oversized(now)
                elif self.phase is _UP:
                    self._frame(now, frames.view, frames.start, end)
                else:
                    self._handshake(now, frames.view, frames.start, end)
                if self.close_reason is not None or self.phase is _DOWN:
                    break
        except (framing.StreamError, DecodeError, gate.Misfit) as error:
            self._fail_in_hand(error)
            self._request_close(f"the server's bytes make no sense: {error}")
        except gate.Stranger as error:
            self._request_close(str(error))
        except Exception as defect:
            self._fail_in_hand(defect)
            raise

    def _fail_in_hand(self, error: Exception) -> None:
        """What an answer has led to is an error: nobody else would ever tell whoever waits for it."""
        request, self._in_hand = self._in_hand, None
        if request is not None:
            request.reject(_useless(request, error))

    def data_to_send(self, now: float, *, urgent_only: bool = False) -> list[bytes]:
        """What to send now, as pieces to be joined; with `urgent_only` what cannot wait for the socket."""
        out: list[bytes] = []
        if self.phase is not _UP or self.close_reason is not None:
            return out
        self.advance(now)
        if urgent_only:
            out.extend(self.requests.urgent)
            self.requests.urgent.clear()
        else:
            self.requests.take(now, out)
        if out:
            self._last_sent = now
        return out

    def has_output(self) -> bool:
        """Whether `data_to_send` would have something to send."""
        requests = self.requests
        return self.phase is _UP and bool(requests.urgent or requests.waiting)

    def connection_lost(self, now: float, why: str) -> None:
        """The connection is gone, or never came to be."""
        self.advance(now)
        if self.phase is _DOWN:
            return
        self.deadline_moved = True
        if self.phase is _UP:
            self._zxid_when_lost = self.last_zxid
        elif self.close_reason is None:
            try:
                gate.check_greeting(self._frames.received_first(), is_all=True)
            except gate.Stranger as error:
                self._request_close(str(error))
        self.phase = _DOWN
        self._ping_sent = None
        self._holdings.disconnected()
        for request, losses in self.requests.reclaim(now):
            request.reject(self._final_error() if self.closing else _loss(request, losses, why))
        for request in self.requests.drop_bound(self.session_id):  # reads that were taken back
            request.reject(self._expired_error())
        self.why_lost = why
        if Transition.DISCONNECTED in TRANSITIONS[self.state]:
            self._change(Transition.DISCONNECTED)
        self.advance(now)  # without a connection the session can be over by now

    def tick(self, now: float, due: float | None = None) -> None:
        """The time given by `deadline` has come. `due` is when this was to be called, if that is known."""
        self.advance(now)
        if due is not None:
            self._holdings.note_lateness(now - due)
            self.advance(now)
        if self.phase is not _UP or self.close_reason is not None:
            return
        heartbeat = self._holdings.heartbeat
        if heartbeat is not None and now >= self._holdings.due():
            self._request_close(f"no answer to a heartbeat for {now - heartbeat.sent:.2f} s")
        elif now >= self._silence_due():
            self._request_close(f"no answer for {now - self._awaited_since():.2f} s")
        elif now >= self._holdings.due():
            self._send_heartbeat(now)
        elif self._ping_sent is None and now >= self._last_sent + self.timeout * PING_AFTER:
            self._send_ping(now)

    def arm_deadline(self) -> float:
        """When `tick` is to be called next, at the latest; infinite for never. Clears `deadline_moved`."""
        self.deadline_moved = False
        self._armed_deadline = self.deadline()
        return self._armed_deadline

    def deadline(self) -> float:
        """What `arm_deadline` would say now."""
        due = self._holdings.end
        if self.phase is _UP and self.close_reason is None:
            due = min(due, self._silence_due())
            if self._ping_sent is None:
                due = min(due, self._last_sent + self.timeout * PING_AFTER)
            due = min(due, self._holdings.due())
        elif self.phase is _DOWN and self.session_id:
            due = min(due, self._expiry_due())
        return due

    # Entries of the session's users

    def submit(self, request: Request) -> None:
        """Queue a request; it is answered sooner or later, or rejected at once if it never can be."""
        if self.closing or self.state in _FINAL:
            request.reject(self._final_error())
        elif request.bound_to and request.bound_to != self.session_id:
            request.reject(self._expired_error())
        else:
            if request.watches is not None and self.watches.covers(request.watches[0]):
                request.watches, request.body = None, messages.without_watch(request.body)
            self.requests.add(request)

    def hold(self, hold: LeaseHold, now: float) -> None:
        """Tell `hold` when the lease ends, and keep it from ending: heartbeats from now on."""
        if self.closing or self.state in _FINAL:
            hold.lost(self._final_error(), now)
            return
        self._holdings.add(hold, now)
        self.deadline_moved = (
            self.deadline_moved or min(self._holdings.end, self._holdings.due()) < self._armed_deadline
        )
        self.advance(now)

    def unhold(self, hold: LeaseHold) -> None:
        """It is given up; no more is said to it."""
        self._holdings.discard(hold)

    def is_held(self, hold: LeaseHold, now: float) -> bool:
        """Whether it is held at `now`: by the clock, not by what has been noticed so far."""
        return hold in self._holdings and now < self._holdings.end

    def describe_held(self) -> str:
        """What is held, for a log line; empty for nothing."""
        return self._holdings.describe()

    def lease_end(self) -> float:
        """Until when something held would be safe, by the proofs there are."""
        return self._holdings.possible_end()

    def add_credentials(self, credentials: Credentials) -> None:
        """Authenticate with these too, now and on each connection to come."""
        if self.closing or self.state in _FINAL:
            raise self._final_error()
        self._credentials.append(credentials)
        if self.phase is _UP:
            self._credentials_unanswered += 1
            self.requests.urgent.append(_frame(messages.AUTH_XID, messages.AUTH.opcode, credentials.encode()))

    def close(self, now: float, waiter: Waiter) -> bool:
        """End the session: what waits is rejected, what is held is lost, the server is told last.

        `waiter` hears of the server's answer, or of why there will be none. False if there is no session
        to end.
        """
        self.advance(now)
        self.closing = True
        self._holdings.lose_all(self._final_error(), now)
        self.fail_waiting(self._final_error())
        if not self.session_id:
            return False
        self.requests.add(Request(messages.CLOSE, b"", None, waiter, bound_to=self.session_id))
        return True

    def end(self, now: float, error: BaseException | None = None) -> None:
        """Nothing more will come: reject everything. `error` if that is because something broke."""
        self.advance(now)
        self.closing = True
        self.phase = _DOWN
        self.session_id = 0
        reason = self._final_error(error)
        self._holdings.lose_all(reason, now)
        for request in self.requests.drop_all():
            request.reject(reason)
        if self.state is not State.CLOSED:
            self._change(Transition.CLOSED)
        self.watches.reset()  # whoever watches asks again, and is told that it is over

    def fail_waiting(self, error: errors.SessionError) -> None:
        """Reject what waits to be sent."""
        for request in self.requests.drop_waiting():
            request.reject(error)

    def disown_zxid(self, newest: int) -> bool:
        """Go back to the newest zxid that was confirmed, if an ensemble at `newest` may have been there."""
        if not self._confirmed_zxid <= newest < self.last_zxid:
            return False
        self.last_zxid = self._confirmed_zxid
        return True

    # The clock

    def advance(self, now: float) -> None:
        """Declare what `now` has made true: a lease that has lapsed, a session that is over."""
        self._holdings.now = now
        if now >= self._holdings.end:
            self._lapse(now)
        if self.phase is _DOWN and self.session_id and now >= self._expiry_due():
            self._expire(f"no server was heard of for {now - self.contact:.2f} s")

    def _lapse(self, now: float) -> None:
        ended = self._holdings.end
        self.why_over = f"the lease of session 0x{self.session_id:x} lapsed"
        self.lost_held = self._holdings.describe()
        self._holdings.lose_all(
            errors.LockLost("the lease lapsed: that the session is alive could no longer be proven"), ended
        )
        if Transition.LEASE_ENDED in TRANSITIONS[self.state]:
            self._change(Transition.LEASE_ENDED)

    def _silence_due(self) -> float:
        return self._awaited_since() + self.timeout * SILENCE_LIMIT

    def _awaited_since(self) -> float:
        """Since when an answer is waited for and none has come; infinite while none is due."""
        asked = INFINITY
        if self.requests.in_flight:
            asked = self.requests.in_flight[0].sent_at
        if self._ping_sent is not None and self._ping_sent < asked:
            asked = self._ping_sent
        since = asked if asked > self._answered_at else self._answered_at
        if not self._is_established or self._set_watches_unanswered:
            since = min(since, self._set_up_at)
        return since

    def _expiry_due(self) -> float:
        return self.contact + self.timeout * (1 + EXPIRY_MARGIN)

    # What is said without being asked

    def _send_ping(self, now: float) -> None:
        self._ping_sent = now
        self.requests.urgent.append(_frame(messages.PING_XID, messages.PING.opcode, b""))

    def _send_heartbeat(self, now: float) -> None:
        heartbeat = self._holdings.begin_heartbeat(now, self._heartbeat_answered)
        if self._by_ping:
            if self._ping_sent is None:
                self._send_ping(now)
            return
        self.requests.send_first(Request(messages.MULTI, heartbeat.encode(), None, heartbeat), now)

    def _heartbeat_answered(self) -> None:
        self.deadline_moved = True  # the next one is due before this one would have been late

    # What the server says

    def _handshake(self, now: float, view: memoryview, start: int, end: int) -> None:
        reply = messages.decode_connect_reply(view, start, end)
        gate.check_connect_reply(reply, self._requested_timeout, self.session_id)
        self.contact = now
        if reply.timeout <= 0 or reply.session_id == 0:
            if self.session_id:
                self._expire("the server said so")
            self._request_close("the server has no such session")
            return
        created = reply.session_id != self.session_id
        self.timeout = reply.timeout
        self.deadline_moved = True
        self.session_id = reply.session_id
        self._password = reply.password
        self.phase = _UP
        self._last_sent = self._connect_sent
        self._answered_at = self._set_up_at = now
        self._is_established = False
        self.requests.connected(reply.timeout)
        self._lease.connected(self._connect_sent, reply.timeout, created=created)
        self._holdings.connected(now)
        urgent = self.requests.urgent
        self._credentials_unanswered = len(self._credentials)
        self._set_watches_unanswered = 0
        for credentials in self._credentials:
            urgent.append(_frame(messages.AUTH_XID, messages.AUTH.opcode, credentials.encode()))
        for op, body in self.watches.rearm(self._zxid_when_lost):
            urgent.append(_frame(messages.SET_WATCHES_XID, op.opcode, body))
            self._set_watches_unanswered += 1
        self.watches.invalidate_persistent()
        self._establish()

    def _establish(self) -> None:
        """A server takes our requests, once it has taken our credentials."""
        if self._credentials_unanswered == 0 and not self._is_established:
            self._is_established = True
            self._change(Transition.ESTABLISHED)

    def _frame(self, now: float, view: memoryview, start: int, end: int) -> None:
        if end - start < _HEADER:
            raise framing.StreamError(f"a reply of {end - start} bytes")
        xid, zxid, code = _unpack_header(view, start)
        start += _HEADER
        self.contact = now
        if self.state is _LAPSED and self._is_established:
            self._change(Transition.ESTABLISHED)  # lapsed with the connection open, and it is alive after all
        if xid >= 0:
            self._answer(now, xid, zxid, code, view, start, end)
            self._in_hand = None
        elif xid == messages.NOTIFICATION_XID:
            kind, _, path = _decode_event(view, start, end)
            if kind in _EVENTS:  # newer servers may tell of others
                gate.check_event_path(path)
                self.watches.notify(kind, path, zxid)
        elif xid == messages.PING_XID:
            self._note_zxid(zxid)
            self._ping_answered(now)
        elif xid == messages.AUTH_XID:
            self._credentials_answered(code)
        elif xid == messages.SET_WATCHES_XID:
            self._watches_answered(code)
        else:
            raise framing.StreamError(f"a reply with the unknown xid {xid}")

    def _credentials_answered(self, code: int) -> None:
        if not self._credentials_unanswered:
            raise gate.Misfit("an answer to credentials that were not presented")
        if code:
            self._refuse_credentials(code)
            return
        self._credentials_unanswered -= 1
        self._establish()

    def _watches_answered(self, code: int) -> None:
        if not self._set_watches_unanswered:
            raise gate.Misfit("an answer about watches that were not to be set again")
        if code:
            self._request_close(f"the server did not set our watches again (error code {code})")
            return
        self._set_watches_unanswered -= 1
        if self._set_watches_unanswered == 0:
            self.watches.confirm_rearmed()

    def _note_zxid(self, zxid: int) -> None:
        """An answer tells how far the server is. Those that are none of the ensemble's (0, -1) say
        nothing, nor does one that tells the same as the answer before it."""
        before, last = self._connection_zxid, self.last_zxid
        if zxid <= 0 or zxid == before:
            return
        gate.check_zxid(zxid, last)
        if zxid < before:
            self.last_zxid = self._confirmed_zxid
            raise gate.Misfit(f"transaction 0x{zxid:x} after 0x{before:x}")
        if before:
            self._confirmed_zxid = before
        self._connection_zxid = zxid
        if zxid > last:
            self.last_zxid = zxid

    def _answer(
        self, now: float, xid: int, zxid: int, code: int, view: memoryview, start: int, end: int
    ) -> None:
        request = self.requests.answered(xid, end - start)
        if request is None and code == errors.Unimplemented.code:
            # Servers answer an operation that they do not know beside all others, and hang up.
            request = self.requests.answered_out_of_turn(xid)
            if request is not None:
                self._request_close("the server does not know an operation, and hangs up")
        if request is None:
            raise framing.StreamError(f"an answer with xid {xid}, which is not the next one due")
        self._in_hand = (
            request  # in flight no more: until it is settled, `receive_data` sees to it that it ends
        )
        if zxid != self._connection_zxid:
            self._note_zxid(zxid)
        self._answered_at = now
        if code:
            self._refused(request, code)
            return
        op, sent = request.op, request.sent_at
        failure: errors.CorralError | None = None
        try:
            result = op.decode_reply(view, start, end)
            check = _gate_checks.get(op)
            if check is not None:
                check(request.body, result, zxid, self.session_id)
            if op is _MULTI and (refusal := _session_error_in(result)):
                self._out_of_session(request, refusal)
                return
        except (DecodeError, gate.Misfit) as error:
            failure = _useless(request, error)
        if request.watches is not None:
            self.watches.answered(*request.watches, op, 0)
        lease = self._lease
        if sent >= lease.touch_due:
            lease.answered(sent, now)
            self._holdings.renew()
        if failure is not None:
            request.reject(failure)
            return
        if op.is_write:
            if sent >= lease.proof_due:
                lease.proven(sent, now)
                self._holdings.renew()
            if self.observers:
                self._show_observers(request, result)
        request.resolve(result)

    def _refused(self, request: Request, code: int) -> None:
        """The server answers with an error code."""
        if code in _SESSION_ERRORS:
            self._out_of_session(request, code)
            return
        if request.watches is not None:
            self.watches.answered(*request.watches, request.op, code)
        request.reject(errors.server_error(code, request.op.name, request.path))

    def _show_observers(self, request: Request, result: Any) -> None:
        for observer in tuple(self.observers):
            try:
                observer.wrote(request.op, request.body, result)
            except Exception as error:
                logger.error("an observer of writes failed; please report this", exc_info=error)

    def _say_of_watches(self, request: Request) -> None:
        # Without a connection there is nothing to remove: watches go with it.
        if request.op is messages.ADD_WATCH or self.phase is _UP:
            self.submit(request)

    def _oversized(self, now: float) -> None:
        if self.phase is not _UP:
            raise framing.StreamError("a frame over the limit where a session is to begin")
        xid, zxid, code = messages.REPLY_HEADER.unpack_from(self._frames.view, self._frames.start)
        size = self._frames.skip()
        request = self.requests.answered(xid, self._max_reply)
        if request is None:
            raise framing.StreamError(f"a frame of {size} bytes, over the limit of {self._max_reply}")
        self.contact = self._answered_at = now
        if request.watches is not None:
            self.watches.answered(*request.watches, request.op, code)
        request.reject(
            errors.ReplyError(
                request.op.name,
                request.path,
                f"the answer is {size:,} bytes, over the limit of {self._max_reply:,}; raise max_reply",
            )
        )
        self._note_zxid(zxid)

    def _ping_answered(self, now: float) -> None:
        if self._ping_sent is None:
            return
        sent, self._ping_sent = self._ping_sent, None
        self.deadline_moved = True
        self._lease.answered(sent, now)
        self._holdings.renew()
        if self._by_ping and self._holdings.heartbeat is not None:
            self._holdings.heartbeat.set_result(())

    def _out_of_session(self, request: Request, code: int) -> None:
        """The server refused for the session's sake: certainly not applied, so it may be sent again."""
        self._request_close("the session is not on this connection any more")
        if code == _SESSION_EXPIRED:
            bound = request.bound_to
            self._expire("the server said so")
            if bound:
                request.reject(self._expired_error())
                return
        if request.attempts < 2 and not isinstance(request.waiter, Heartbeat):
            self.requests.refused(request)
        elif code == _SESSION_EXPIRED:
            request.reject(self._expired_error())
        else:
            request.reject(errors.server_error(code, request.op.name, request.path))

    def _expire(self, why: str) -> None:
        self.why_over = f"session 0x{self.session_id:x} expired ({why})"
        self.lost_held = self._holdings.describe()
        over, self.session_id = self.session_id, 0
        self.timeout = self._requested_timeout  # what was granted was granted to that session
        self._password = _NO_PASSWORD
        error = errors.SessionExpired(f"session 0x{over:x} expired: {why}")
        self._holdings.lose_all(error, self.contact)
        for request in self.requests.drop_bound(self.session_id):
            request.reject(error)
        if Transition.SESSION_ENDED in TRANSITIONS[self.state]:
            self._change(Transition.SESSION_ENDED)
        self.watches.reset()

    def _refuse_credentials(self, code: int) -> None:
        logger.error("the server refused our credentials (error code %d)", code)
        self._change(Transition.CREDENTIALS_REFUSED)
        error = self._final_error()
        self._holdings.lose_all(error, self.contact)
        for request in self.requests.drop_all():
            request.reject(error)
        self.watches.reset()
        self._request_close("the server refused our credentials")

    def _request_close(self, why: str) -> None:
        if self.close_reason is None:
            self.close_reason = why

    def _change(self, change: Transition) -> None:
        self.state, before = TRANSITIONS[self.state][change], self.state
        # While closing, only the end is news.
        if self.state is not before and (not self.closing or self.state is State.CLOSED):
            logger.debug("session 0x%x: %s, as %s", self.session_id, self.state.value, change.value)
            self._on_state(self.state)

    def _final_error(self, broken: BaseException | None = None) -> errors.SessionError:
        if self.fate is not None:
            return type(self.fate)(*self.fate.args)
        if self.state is State.AUTH_FAILED:
            return errors.AuthFailed("a server refused our credentials; open a client with the right ones")
        error = errors.ClientClosed(
            "the client was closed" if broken is None else f"the client broke: {broken!r}"
        )
        error.__cause__ = broken
        return error

    def _expired_error(self) -> errors.SessionExpired:
        return errors.SessionExpired("the session that this depended on has expired")


_EVENTS = frozenset((1, 2, 3, 4))
"""The kinds of events that watches tell of: created, deleted, data changed, children changed."""

_SESSION_EXPIRED = -112
_SESSION_ERRORS = (_SESSION_EXPIRED, errors.SessionMoved.code)


def _session_error_in(results: Sequence[messages.MultiResult]) -> int:
    """A transaction that the session's end has refused says so in one of its results, not in its header."""
    for result in results:
        if result.error in _SESSION_ERRORS:
            return result.error
    return 0


def _loss(request: Request, losses: int, why: str) -> errors.ConnectionLoss:
    problem = f"the connection was lost before the answer came, so the outcome is unknown ({why})"
    if losses > 1:
        problem += f"; {losses} connections in a row broke on this request"
    loss = errors.ConnectionLoss(request.op.name, request.path, problem)
    loss.losses = losses
    return loss


def _useless(request: Request, error: Exception) -> errors.CorralError:
    """The error for an answer that cannot be used."""
    if isinstance(error, DecodeError):
        problem = f"the answer does not decode: {error}"
    elif isinstance(error, gate.Misfit):
        problem = f"the answer does not fit the request: {error}"
    else:
        defect = errors.InternalError(f"{errors.describe(request.op.name, request.path)}: {error!r}")
        defect.__cause__ = error
        return defect
    return errors.ReplyError(request.op.name, request.path, problem)


def _frame(xid: int, opcode: int, body: bytes) -> bytes:
    return messages.REQUEST_HEADER.pack(len(body) + 8, xid, opcode) + body
