"""One session as a state machine: bytes and `now` in, bytes and answers out. No I/O, no clock, no tasks.

Theory of operation
-------------------
A session outlives its connections, of which it has one at a time. For each, in this order: `connection_made`
returns the connect request; `receive_data` takes what the server sends; `data_to_send` returns what is to be
sent; `connection_lost` ends it. Call `tick` when `deadline()` is reached. After each entry look at
`close_reason`: if it is set, close the connection.

Two rules:

1. Every entry that takes `now` first moves the clock (`advance`), so a lapsed lease is declared before any
   answer is resolved. asyncio runs ready I/O before due timers: after a blocked loop an answer would
   otherwise resume a body that no longer holds its lock (S9).
2. `_change` alone sets `state`, as `states.TRANSITIONS` has it.

Answers go straight to the waiters (`requests.Waiter`), without an event object in between. `gate` checks each
answer against its request first.

Who recovers what: on a new connection the session restores *subscriptions* (credentials, watches). Recipes
and watches restore *knowledge* (is that node mine, what is the newest state).

The numbers
-----------
T is the negotiated session timeout. A server that hears nothing for T expires the session. We send something
every T/3. A connection counts as dead when the oldest request is unanswered, and no other was answered, for
T/2, whatever else the server sends meanwhile, and however much of an answer has arrived. That leaves T/6 to
find another server; ZooKeeper's own clients use 1/3 and 2/3. While something is held, a heartbeat is sent
every T/6, and may take T/3. That leaves T/6 to reconnect before the lease ends, and more with a short tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from corral import errors
from corral.types import State
from corral.wire import framing, messages
from corral.wire.compile import DecodeError

from . import failures, gate
from .auth import Credentials
from .handshake import AUTH_REQUIRED, Handshake, frame
from .history import History
from .lease_holds import INFINITY, Heartbeat, LeaseHold, LeaseHolds
from .refused_acl import invalid_acl
from .requests import OwnRequest, Request, Requests, Waiter
from .sasl.base import Exchange, Refused
from .states import FINAL, TRANSITIONS, ConnectionPhase, Transition
from .watch_registry import WatchRegistry
from .zxids import ZxidTracker

logger = logging.getLogger("corral.session")

PING_AFTER = 1 / 3
SILENCE_LIMIT = 1 / 2
# The leader rounds expiry up by at most a tick, which is at most T/2 by a server's defaults.
EXPIRY_MARGIN = 1 / 2


class WriteObserver(Protocol):
    """Observes the writes of this client."""

    def wrote(self, op: messages.Operation, body: bytes, result: Any, /) -> None:
        """The server has answered a write, which may be a refused transaction. Called before the write's
        waiter is resolved. Must not raise."""

    async def wait_current(self) -> None:
        """Wait until the effect of the writes is known, where an answer did not have it. Raises nothing of
        its own."""


class Reads(Protocol):
    """Reads on a read-only server while no server accepts the session; see `read_only`."""

    @property
    def server(self) -> str:
        """The server, for log lines and statistics."""

    def take(self, request: Request, /) -> bool:
        """Send a read, or reject a write. False if the request must wait for a server that accepts the
        session."""

    def present(self, credentials: bytes, /) -> None:
        """Send a message that presents credentials."""

    def end(self) -> list[Request]:
        """Close the connection; returns the reads that are unanswered, in order."""


# Module constants, since these are compared for each message: before Python 3.12 looking up a member of an
# enumeration takes as long as a function call.
_DOWN, _UP = ConnectionPhase.DOWN, ConnectionPhase.UP
_HANDSHAKE, _SASL = ConnectionPhase.HANDSHAKE, ConnectionPhase.SASL
_LAPSED = State.LAPSED
_NEED_DATA, _OVERSIZED = framing.NEED_DATA, framing.OVERSIZED
_HEADER = messages.REPLY_HEADER.size
_unpack_header = messages.REPLY_HEADER.unpack_from
_decode_event = messages.WATCH_EVENT.decode
_gate_checks = gate.CHECKS
_MULTI = messages.MULTI


class Machine:
    """One session. `timeout` in seconds is the requested one, until a server has granted another.

    It has at most 30 attributes: beyond that CPython looks up each of them in a dictionary of its own, which
    makes a lock a tenth slower.
    """

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
        self.history = History()
        self.zxids = ZxidTracker()
        self.watches = WatchRegistry(self._submit_about_watches, max_request=max_request)
        self.observers: dict[WriteObserver, None] = {}
        """Whoever observes this client's writes."""
        self.requests = Requests()
        self.closing = False
        self.fatal_error: errors.SessionError | None = None
        """Why there will be no session any more, unless the client was closed or its credentials were
        refused."""
        self.last_contact = -INFINITY
        """When a server was last heard from."""
        self.deadline_moved = False
        """Whether `deadline` may be earlier than when it was last armed."""
        self.reads: Reads | None = None
        """The reads on a read-only server, while one answers them."""

        self._diverts = False  # whether requests are rejected at once, or may be taken by `reads`
        self._armed_deadline = INFINITY
        self._by_ping = lease_by_ping
        self._max_reply = max_reply
        self._on_state = on_state
        self._frames = framing.Frames(max_reply)
        self._handshake = Handshake(timeout, credentials)
        self._holds = LeaseHolds(
            timeout, half_tick, by_ping=lease_by_ping, watches=self.watches, submit=self.submit
        )
        self._lease = self._holds.lease
        self._last_sent = 0.0
        self._answered_at = 0.0  # when a request was last answered in its turn, or the connection began
        self._ping_sent: float | None = None
        self._in_hand: Request | None = None  # whose answer is being read

    # Entries of the connection

    def prepare(self, server: str, exchange: Exchange | None = None) -> None:
        """The next connection is to `server`, and begins with this SASL exchange, if any."""
        self._handshake.prepare(server, exchange)

    def connection_made(self, now: float) -> bytes:
        """A connection is open; returns the first bytes to send."""
        self.advance(now)
        self.phase = _HANDSHAKE
        self.close_reason = None
        self._frames = framing.Frames(self._max_reply)
        self.requests.purge()
        self.zxids.connected()
        return self._handshake.begin(now, self.zxids.last, self.session_id)

    def buffer(self) -> memoryview:
        """Where the connection puts the bytes that it receives."""
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
                if self.phase is _UP and end >= 0:
                    self._frame(now, frames.view, frames.start, end)
                elif end == _OVERSIZED:
                    self._oversized(now)
                elif self.phase is _HANDSHAKE:
                    self._greeted(now, frames.view, frames.start, end)
                elif self.phase is _SASL:
                    self._token_answered(now, frames.view, frames.start, end)
                else:
                    break
                if self.close_reason is not None:
                    break
        except (framing.StreamError, DecodeError, gate.Misfit) as error:
            self._fail_in_hand(error)
            self._request_close(f"the server's bytes make no sense: {error}")
        except (gate.Stranger, gate.TurnedAway) as error:
            self._request_close(str(error))
        except Exception as defect:
            self._fail_in_hand(defect)
            raise

    def _fail_in_hand(self, error: Exception) -> None:
        """Reading an answer raised `error`: reject its request, which is no longer in flight."""
        request, self._in_hand = self._in_hand, None
        if request is not None:
            request.reject(failures.unusable_answer(request, error))

    def data_to_send(self, now: float, *, urgent_only: bool = False) -> list[bytes]:
        """What to send now, as pieces to be joined; with `urgent_only` without the users' requests."""
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

    def take_token(self) -> bytes | None:
        """What the SASL exchange sends now, if anything. Only before the connection is up."""
        return self._handshake.take_token() if self.phase is _SASL and self.close_reason is None else None

    def has_output(self) -> bool:
        """Whether `data_to_send` would return anything."""
        requests = self.requests
        return self.phase is _UP and bool(requests.urgent or requests.waiting)

    def connection_lost(self, now: float, why: str) -> None:
        """The connection is lost, or was never made, for the reason `why`."""
        self.advance(now)
        if self.phase is _DOWN:
            return
        self.deadline_moved = True
        if self.phase is _UP:
            self.zxids.disconnected()
        elif self.phase is _HANDSHAKE and self.close_reason is None:
            try:
                gate.check_greeting(self._frames.received_first(), is_all=True)
            except gate.Stranger as error:
                self._request_close(str(error))
        self.phase = _DOWN
        self._ping_sent = None
        self._holds.disconnected()
        for request, losses in self.requests.reclaim(now):
            request.reject(
                self.final_error() if self.closing else failures.connection_lost(request, losses, why)
            )
        if self.closing and self.session_id and not self._handshake.can_resume:
            self._expire("the server does not resume sessions")  # so it cannot be closed any more, either
        for request in self.requests.drop_bound(self.session_id):  # reads that were taken back
            request.reject(failures.session_expired())
        if self.reads is None:  # else an attempt has failed while reads are answered
            self.history.loss_reason = why
            self._change(Transition.DISCONNECTED)
        self.advance(now)  # only without a connection does the clock expire a session

    def tick(self, now: float, due: float | None = None) -> None:
        """The time given by `deadline` has come. `due` is when this call was due, if that is known."""
        self.advance(now)
        if due is not None:
            self._holds.note_lateness(now - due)
            self.advance(now)
        if self.phase is not _UP or self.close_reason is not None:
            return
        heartbeat = self._holds.heartbeat
        if heartbeat is not None and now >= self._holds.due():
            self._request_close(f"no answer to a heartbeat for {now - heartbeat.sent:.2f} s")
        elif now >= self._silence_due():
            self._request_close(f"no answer for {now - self._awaited_since():.2f} s")
        elif now >= self._holds.due():
            self._send_heartbeat(now)
        elif self._ping_sent is None and now >= self._last_sent + self.timeout * PING_AFTER:
            self._send_ping(now)

    def arm_deadline(self) -> float:
        """Returns `deadline()`, and remembers it: `deadline_moved` refers to that."""
        self.deadline_moved = False
        self._armed_deadline = self.deadline()
        return self._armed_deadline

    def deadline(self) -> float:
        """When `tick` must be called, at the latest; infinite for never."""
        due = self._holds.end
        if self.phase is _UP and self.close_reason is None:
            due = min(due, self._silence_due())
            if self._ping_sent is None:
                due = min(due, self._last_sent + self.timeout * PING_AFTER)
            due = min(due, self._holds.due())
        elif self.phase is _DOWN and self.session_id:
            due = min(due, self._expiry_due())
        return due

    # Entries of the session's users

    def submit(self, request: Request) -> None:
        """Queue a request. It is rejected at once if it can never be answered."""
        if self._diverts and self._divert(request):
            return
        if request.bound_to and request.bound_to != self.session_id:
            request.reject(failures.session_expired())
        else:
            if request.watches is not None and self.watches.covers(request.watches[0]):
                request.watches, request.body = None, messages.without_watch(request.body)
            self.requests.add(request)

    def _divert(self, request: Request) -> bool:
        """Whether a request is rejected, or answered by a read-only server, instead of being queued."""
        if self._is_over:
            request.reject(self.final_error())
            return True
        if request.bound_to and request.bound_to != self.session_id:
            return False
        return self.reads is not None and self.reads.take(request)

    @property
    def _is_over(self) -> bool:
        """Whether requests are rejected at once."""
        return self.closing or self.state in FINAL

    def hold(self, hold: LeaseHold, now: float) -> None:
        """Send heartbeats for `hold` from now on, and notify it when it is lost, which may be at once."""
        if self._is_over:
            hold.lost(self.final_error(), now)
            return
        holds, armed = self._holds, self._armed_deadline
        holds.add(hold, now)
        if holds.end < armed or holds.due() < armed:
            self.deadline_moved = True
        self.advance(now)

    def unhold(self, hold: LeaseHold) -> None:
        """Its holder has released it: it is not notified any more."""
        self._holds.discard(hold)

    def is_held(self, hold: LeaseHold, now: float) -> bool:
        """Whether it is held at `now`, by the clock; the loss may not have been noticed yet."""
        return hold in self._holds and now < self._holds.end

    def held_nodes(self) -> list[str]:
        """The full paths of the nodes that are held."""
        return self._holds.nodes()

    def describe_held(self) -> str:
        """The nodes that are held, for a log line; empty if there are none."""
        return self._holds.describe()

    def lease_end(self) -> float:
        """When something held now would be lost, by the proofs so far."""
        return self._holds.possible_end()

    def add_credentials(self, credentials: Credentials) -> None:
        """Authenticate with these, too, now and on each connection to come."""
        if self._is_over:
            raise self.final_error()
        is_connected = self.phase is _UP
        auth = self._handshake.add_credentials(credentials, is_connected=is_connected)
        if is_connected:
            self.requests.urgent.append(auth)
        elif self.reads is not None:
            self.reads.present(auth)

    def leave(self, why: str) -> None:
        """Close the connection, which still works, for the reason `why`."""
        self._request_close(why)

    def close(self, now: float, waiter: Waiter) -> bool:
        """Close the session: reject what waits, lose what is held, and send the close request last.

        `waiter` gets the server's answer, or the error in its place. Returns false if there is no session to
        close.
        """
        self.advance(now)
        self.closing = self._diverts = True
        self._take_reads_back()
        self._holds.lose_all(self.final_error(), now)
        self.fail_waiting(self.final_error())
        if not self.session_id:
            return False
        self.requests.add(Request(messages.CLOSE, b"", None, waiter, bound_to=self.session_id))
        return True

    def end(self, now: float, error: BaseException | None = None) -> None:
        """Nothing follows: reject everything. `error` is the defect that caused it, if one did."""
        self.advance(now)
        self.closing = self._diverts = True
        self._take_reads_back()
        self.phase = _DOWN
        self.session_id = 0
        reason = self.final_error(error)
        self._holds.lose_all(reason, now)
        for request in self.requests.drop_all():
            request.reject(reason)
        self._change(Transition.CLOSED)
        self.watches.reset()  # the watchers read again, and get the final error

    def fail_waiting(self, error: errors.SessionError) -> None:
        """Reject the requests that wait to be sent."""
        for request in self.requests.drop_waiting():
            request.reject(error)

    # Read-only servers. The session's clock, lease and holds know nothing of them: what one answers proves
    # nothing about the session (S3).

    def enter_read_only(self, now: float, reads: Reads) -> None:
        """A read-only server answers reads from now on, until a server accepts the session, or
        `leave_read_only`."""
        self.advance(now)
        self.reads = reads
        self._diverts = True
        self._change(Transition.READ_ONLY_FOUND)
        self.requests.purge()
        for request in self.requests.drop_waiting():
            self.submit(request)

    def leave_read_only(self, now: float, why: str) -> None:
        """The connection to the read-only server is lost."""
        self.advance(now)
        self._take_reads_back()
        self.history.loss_reason = why
        self._change(Transition.DISCONNECTED)

    def _take_reads_back(self) -> None:
        reads, self.reads = self.reads, None
        if reads is not None:
            self._diverts = self._is_over
            self.requests.put_back(reads.end())

    def read_for(self, session: Machine) -> None:
        """Be the connection to a read-only server for another machine: share its watches, its zxids and its
        credentials. The session here is one of the read-only server's own."""
        self.watches, self.zxids = session.watches, session.zxids
        self._handshake.read_for(session._handshake)

    @property
    def is_read_only(self) -> bool:
        """Whether the connected server is a read-only one."""
        return self._handshake.is_read_only

    def present(self, credentials: bytes) -> None:
        """Send a message that presents credentials, which `read_for` shares."""
        self._handshake.credentials_sent()
        self.requests.urgent.append(credentials)

    def surrender(self) -> tuple[list[Request], bytes]:
        """The connection is given up: returns its requests, which may be sent elsewhere, and the last bytes
        to send, which close the session."""
        was_up, self.phase = self.phase is _UP, _DOWN
        if was_up:
            self.zxids.disconnected()
        return self.requests.surrender(), frame(0, messages.CLOSE.opcode, b"") if was_up else b""

    # The clock

    def advance(self, now: float) -> None:
        """Declare what has become true by `now`: a lapsed lease, an expired session."""
        self._holds.now = now
        if now >= self._holds.end:
            self._lapse(now)
        if self.phase is _DOWN and self.session_id and now >= self._expiry_due():
            self._expire(f"no server was heard of for {now - self.last_contact:.2f} s")

    def _lapse(self, now: float) -> None:
        ended = self._holds.end
        self.history.end_reason = f"the lease of session 0x{self.session_id:x} lapsed"
        self.history.lost_nodes = self._holds.describe()
        self._holds.lose_all(
            errors.LockLost("the lease lapsed: that the session is alive could no longer be proven"), ended
        )
        self._change(Transition.LEASE_ENDED)
        if self.reads is not None:
            self._change(Transition.READ_ONLY_FOUND)

    def _silence_due(self) -> float:
        return self._awaited_since() + self.timeout * SILENCE_LIMIT

    def _awaited_since(self) -> float:
        """Since when answers have been due and none has come; infinite while none is due."""
        asked = INFINITY
        if self.requests.in_flight:
            asked = self.requests.in_flight[0].sent_at
        if self._ping_sent is not None and self._ping_sent < asked:
            asked = self._ping_sent
        since = asked if asked > self._answered_at else self._answered_at
        return min(since, self._handshake.waiting_since)

    def _expiry_due(self) -> float:
        return self.last_contact + self.timeout * (1 + EXPIRY_MARGIN)

    # Pings and heartbeats

    def _send_ping(self, now: float) -> None:
        self._ping_sent = now
        self.requests.urgent.append(frame(messages.PING_XID, messages.PING.opcode, b""))

    def _send_heartbeat(self, now: float) -> None:
        heartbeat = self._holds.begin_heartbeat(now, self._heartbeat_answered)
        if self._by_ping:
            if self._ping_sent is None:
                self._send_ping(now)
            return
        self.requests.send_first(OwnRequest(messages.MULTI, heartbeat.encode(), None, heartbeat), now)

    def _heartbeat_answered(self) -> None:
        self.deadline_moved = True  # the next one is due before this one would have been late

    # What the server sends

    def _greeted(self, now: float, view: memoryview, start: int, end: int) -> None:
        handshake = self._handshake
        reply = handshake.decode_reply(view, start, end, self.session_id)
        self.last_contact = now
        if reply.timeout <= 0 or reply.session_id == 0:
            if self.session_id:
                self._expire("the server said so")
            self._request_close("the server has no such session")
            return
        if self.session_id not in (0, reply.session_id):
            self._expire("the server does not resume sessions, and has opened a new one")
        self._take_reads_back()
        created = reply.session_id != self.session_id
        self.history.sessions_opened += created
        self.timeout = reply.timeout
        self.session_id = reply.session_id
        self._lease.connected(handshake.connect_sent, reply.timeout, created=created)
        self._holds.connected(now)
        self.deadline_moved = True
        if handshake.granted(reply.password):
            self.phase = _SASL
        else:
            self._up(now)

    def _token_answered(self, now: float, view: memoryview, start: int, end: int) -> None:
        # Not a contact: tokens do not prolong the session on the server.
        try:
            is_over = self._handshake.token_answered(view, start, end)
        except Refused as refused:
            self._refuse_credentials(self._handshake.describe_refusal(str(refused)))
        else:
            if is_over:
                self._up(now)

    def _up(self, now: float) -> None:
        """Credentials, watches and requests may be sent."""
        self.phase = _UP
        self.history.connections_established += 1
        self._last_sent = self._handshake.connect_sent  # since then only tokens, which do not count
        self._answered_at = now
        self.deadline_moved = True
        self.requests.connected(self.timeout)
        set_watches = self.watches.rearm(self.zxids.when_lost)
        self.requests.urgent.extend(self._handshake.set_up(now, set_watches))
        self.watches.invalidate_persistent()
        self._check_ready()

    def _check_ready(self) -> None:
        if self._handshake.check_ready():
            self._change(Transition.ESTABLISHED)

    def _frame(self, now: float, view: memoryview, start: int, end: int) -> None:
        if end - start < _HEADER:
            raise framing.StreamError(f"a reply of {end - start} bytes")
        xid, zxid, code = _unpack_header(view, start)
        start += _HEADER
        self.last_contact = now
        if self.state is _LAPSED and self._handshake.is_ready:
            self._change(Transition.ESTABLISHED)  # the lease lapsed while the connection was alive
        if xid >= 0:
            self._answer(now, xid, zxid, code, view, start, end)
            self._in_hand = None
        elif xid == messages.NOTIFICATION_XID:
            event_type, _, path = _decode_event(view, start, end)
            if event_type in _EVENTS:  # newer servers may send others
                gate.check_event_path(path)
                self.watches.notify(event_type, path, zxid)
        elif xid == messages.PING_XID:
            if code == AUTH_REQUIRED:
                self._require_auth()
                return
            self.zxids.answered(zxid)
            self._ping_answered(now)
        elif xid == messages.AUTH_XID:
            self._credentials_answered(code)
        elif xid == messages.SET_WATCHES_XID:
            self._watches_answered(code)
        else:
            raise framing.StreamError(f"a reply with the unknown xid {xid}")

    def _credentials_answered(self, code: int) -> None:
        self._handshake.credentials_answered()
        if code:
            server = self._handshake.server
            self._refuse_credentials(
                f"{server} refused our credentials (error code {code}); open a client with the right ones"
            )
        else:
            self._check_ready()

    def _watches_answered(self, code: int) -> None:
        is_last = self._handshake.watches_answered()
        if code == AUTH_REQUIRED:
            self._require_auth()
        elif code:
            self._request_close(f"the server did not set our watches again (error code {code})")
        elif is_last:
            self.watches.confirm_rearmed()

    def _answer(
        self, now: float, xid: int, zxid: int, code: int, view: memoryview, start: int, end: int
    ) -> None:
        request = self.requests.answered(xid, end - start)
        if request is None:
            request = self._answered_out_of_turn(xid, code)
        self._in_hand = request  # no longer in flight: on an error `receive_data` rejects it
        zxids = self.zxids
        if zxid != zxids.connection:
            zxids.answered(zxid)
        elif zxid > zxids.confirmed:
            zxids.confirmed = zxid
        self._answered_at = now
        if code:
            self._refused(request, code, zxid)
            return
        op, sent = request.op, request.sent_at
        try:
            result = op.decode_reply(view, start, end)
            check = _gate_checks.get(op)
            if check is not None:
                check(request.body, result, zxid, self.session_id)
            if op is _MULTI and (refusal := _session_error_in(result)):
                self._out_of_session(request, refusal)
                return
        except (DecodeError, gate.Misfit) as error:
            self._unusable(request, error, now)
            return
        if request.watches is not None:
            self.watches.answered(*request.watches, op, 0)
        lease = self._lease
        if sent >= lease.touch_due:
            lease.answered(sent, now)
            self._holds.renew()
        if op.is_write:
            if sent >= lease.proof_due:
                lease.proven(sent, now)
                self._holds.renew()
            if self.observers:
                self._show_observers(request, result)
        request.resolve(result)

    def _answered_out_of_turn(self, xid: int, code: int) -> Request:
        """The request of an answer that is not the oldest one's: servers answer an unknown operation out of
        turn, and close the connection."""
        if code == errors.Unimplemented.code:
            request = self.requests.answered_out_of_turn(xid)
            if request is not None:
                self._request_close(_UNKNOWN_OPERATION)
                return request
        raise framing.StreamError(f"an answer with xid {xid}, which is not the next one due")

    def _unusable(self, request: Request, error: Exception, now: float) -> None:
        """The server has executed the request, but its answer cannot be used."""
        if request.watches is not None:
            self.watches.answered(*request.watches, request.op, 0)
        self._lease.answered(request.sent_at, now)
        self._holds.renew()
        request.reject(failures.unusable_answer(request, error))

    def _refused(self, request: Request, code: int, zxid: int) -> None:
        """The server answers with an error code."""
        if code in _SESSION_ERRORS:
            self._out_of_session(request, code)
            return
        if code == AUTH_REQUIRED:
            self._require_auth()
            request.reject(self.final_error())
            return
        if code == errors.Unimplemented.code and zxid < 0:  # the operation is unknown, not only switched off
            self._request_close(_UNKNOWN_OPERATION)
        if request.watches is not None:
            self.watches.answered(*request.watches, request.op, code)
        if code == errors.InvalidAcl.code:
            request.reject(invalid_acl(request.op, request.body, request.path))
        else:
            request.reject(failures.refused(request, code, self._handshake.server))

    def _show_observers(self, request: Request, result: Any) -> None:
        for observer in tuple(self.observers):
            try:
                observer.wrote(request.op, request.body, result)
            except Exception as error:
                logger.error("an observer of writes failed; please report this", exc_info=error)

    def _submit_about_watches(self, request: Request) -> None:
        # Without a connection there is nothing to remove: the server removes watches with the connection.
        if request.op is messages.ADD_WATCH or self.phase is _UP:
            self.submit(request)

    def _oversized(self, now: float) -> None:
        if self.phase is not _UP:
            raise framing.StreamError("a frame over the limit in place of the answer to the connect request")
        xid, zxid, code = messages.REPLY_HEADER.unpack_from(self._frames.view, self._frames.start)
        size = self._frames.skip()
        request = self.requests.answered(xid, self._max_reply)
        if request is None:
            raise framing.StreamError(f"a frame of {size} bytes, over the limit of {self._max_reply}")
        self.last_contact = self._answered_at = now
        if request.watches is not None:
            self.watches.answered(*request.watches, request.op, code)
        request.reject(failures.oversized_answer(request, size, self._max_reply))
        self.zxids.answered(zxid)

    def _ping_answered(self, now: float) -> None:
        if self._ping_sent is None:
            return
        sent, self._ping_sent = self._ping_sent, None
        self.deadline_moved = True
        self._lease.answered(sent, now)
        self._holds.renew()
        if self._by_ping and self._holds.heartbeat is not None:
            self._holds.heartbeat.set_result(())

    def _out_of_session(self, request: Request, code: int) -> None:
        """The server refused the request, as the session is over or has moved: it was not applied, and may be
        sent again."""
        self._request_close("the session is not on this connection any more")
        if code == _SESSION_EXPIRED:
            bound = request.bound_to
            self._expire("the server said so")
            if bound:
                request.reject(failures.session_expired())
                return
        if request.attempts < 2 and not isinstance(request.waiter, Heartbeat):
            self.requests.refused(request)
        elif code == _SESSION_EXPIRED:
            request.reject(failures.session_expired())
        else:
            request.reject(errors.server_error(code, request.op.name, request.path))

    def _expire(self, why: str) -> None:
        self.history.end_reason = f"session 0x{self.session_id:x} expired ({why})"
        self.history.lost_nodes = self._holds.describe()
        over, self.session_id = self.session_id, 0
        self.timeout = self._handshake.requested_timeout  # another one was granted to that session alone
        self._handshake.forget_session()
        error = errors.SessionExpired(f"session 0x{over:x} expired: {why}")
        self._holds.lose_all(error, self.last_contact)
        for request in self.requests.drop_bound(self.session_id):
            request.reject(error)
        self._change(Transition.SESSION_ENDED)
        if self.reads is not None:
            self._change(Transition.READ_ONLY_FOUND)
        self.watches.reset()

    def refuse_credentials(self, now: float, why: str) -> None:
        """There are no credentials with which a session could be opened: the client ends."""
        self.advance(now)
        self._refuse_credentials(why)

    def _require_auth(self) -> None:
        """The server answers nothing on connections that have not authenticated, and closes this one."""
        self._refuse_credentials(
            f"{self._handshake.server} requires authentication, and this client has none that it accepts "
            f"(error code {AUTH_REQUIRED}): pass sasl= to connect(), or auth= with a scheme that it requires"
        )

    def _refuse_credentials(self, why: str) -> None:
        logger.error("%s", why)
        self._handshake.refusal = why
        self._change(Transition.CREDENTIALS_REFUSED)
        error = self.final_error()
        self._holds.lose_all(error, self.last_contact)
        for request in self.requests.drop_all():
            request.reject(error)
        self.watches.reset()
        self._request_close("the server refused our credentials")

    def _request_close(self, why: str) -> None:
        if self.close_reason is None:
            self.close_reason = why

    def _change(self, transition: Transition) -> None:
        """Change the state. Raises `KeyError` for a transition that the table does not have."""
        self.state, before = TRANSITIONS[self.state][transition], self.state
        if self.state is before:
            return
        self.history.state_since = self._holds.now
        self._diverts = self._diverts or self.state in FINAL
        if not self.closing or self.state is State.CLOSED:  # while closing, only the end is news
            logger.debug("session 0x%x: %s, as %s", self.session_id, self.state.value, transition.value)
            self._on_state(self.state)

    def final_error(self, broken: BaseException | None = None) -> errors.SessionError:
        """The error of everything that is still requested, once there will be no session any more."""
        if self.fatal_error is not None:
            return type(self.fatal_error)(*self.fatal_error.args)
        if self.state is State.AUTH_FAILED:
            return errors.AuthFailed(self._handshake.refusal)
        error = errors.ClientClosed(
            "the client was closed" if broken is None else f"the client broke: {broken!r}"
        )
        error.__cause__ = broken
        return error


_UNKNOWN_OPERATION = "the server does not know an operation, and closes the connection"

_EVENTS = frozenset((1, 2, 3, 4))
"""The types of events of watches: created, deleted, data changed, children changed."""

_SESSION_EXPIRED = -112
_SESSION_ERRORS = (_SESSION_EXPIRED, errors.SessionMoved.code)


def _session_error_in(results: Sequence[messages.MultiResult]) -> int:
    """The error code of a transaction that was refused as the session is over, which is in one of its
    results; 0 for any other."""
    for result in results:
        if result.error in _SESSION_ERRORS:
            return result.error
    return 0
