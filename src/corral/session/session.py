"""The session as the client, recipes and watches use it. All of it belongs to the event loop that opened
it."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from corral import errors
from corral.acl import OPEN
from corral.statistics import Statistics
from corral.types import Acl, State
from corral.wire import framing
from corral.wire.messages import Operation

from .auth import Credentials
from .clock import Clock, clock_and_rng
from .connection import Connection
from .contact import ContactLog
from .departure import depart
from .hosts import Address, Resolver
from .lease_holds import LeaseHold
from .machine import Machine, WriteObserver
from .read_only import ReadOnlyFallback
from .requests import PatientRequest, Request
from .sasl.base import Mechanism
from .state_stream import StateQueue, StateStream
from .states import ConnectionPhase
from .supervisor import Supervisor
from .tls import Tls
from .watch_registry import PERSISTENT_KINDS
from .watchers import Watcher, WatchKind

# Looking up the names of new members may take this part of T.
MEMBERS_LOOK_UP_PART = 1 / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to keep a session. Times in seconds, sizes in bytes."""

    servers: tuple[Address, ...]
    timeout: float
    connect_timeout: float | None
    credentials: Sequence[Credentials] = ()
    sasl: Mechanism | None = None
    lease_by_ping: bool = False
    tick_time: float | None = None
    max_request: int = framing.DEFAULT_MAX_REQUEST
    max_reply: int = framing.DEFAULT_MAX_REPLY
    default_acl: tuple[Acl, ...] = OPEN
    tls: Tls | None = None
    read_only: bool | Literal["wait"] = False
    """Whether a read-only server may answer reads, and what becomes of writes then: True for refusing
    them."""


class Session:
    """One session. It is open from `open` to `close`."""

    def __init__(self, options: Options) -> None:
        self.loop: asyncio.AbstractEventLoop
        """The event loop that opened the session."""
        self.clock: Clock
        """The time in seconds; it only increases. Set by `open`."""
        self.rng: random.Random
        """The source of randomness. Set by `open`."""
        self.max_body = options.max_request - 8  # the request header is part of the frame
        """The largest body of a request, in bytes."""
        self.default_acl = options.default_acl
        """The access control list of the znodes that are created without one."""
        self._options = options
        self._make_machine = partial(
            Machine,
            options.timeout,
            credentials=options.credentials,
            half_tick=None if options.tick_time is None else options.tick_time / 2,
            lease_by_ping=options.lease_by_ping,
            max_reply=options.max_reply,
            max_request=options.max_request,
        )
        self._machine = self._make_machine(on_state=self._state_changed)
        self._fallback: ReadOnlyFallback | None = None
        self._contact = ContactLog()
        self._state_queues: weakref.WeakSet[StateQueue] = weakref.WeakSet()
        self._connection: Connection | None = None  # the newest one: the dialer's
        self._bytes_sent = self._bytes_received = 0  # on the connections before that one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: Supervisor | None = None

    # Opening and closing

    async def open(self) -> None:
        """Connect, and wait until there is a session; on any error nothing is left."""
        if self._loop is not None:
            raise errors.UsageStateError(
                "this client was opened before; make another with corral.connect(), or share this one"
            )
        try:
            self._loop = self.loop = loop = asyncio.get_running_loop()
        except RuntimeError:
            raise _no_loop() from None
        self.clock, self.rng = clock_and_rng(loop)
        self._opened_at = self.clock()
        self._resolver = Resolver(self._options.servers, self.rng)
        if self._options.read_only:
            self._fallback = ReadOnlyFallback(
                self._machine,
                lambda on_state: self._make_machine(on_state=on_state),
                writes_wait=self._options.read_only == "wait",
                clock=self.clock,
                loop=loop,
            )
        self._supervisor = Supervisor(
            self._machine,
            self._resolver,
            loop=loop,
            clock=self.clock,
            rng=self.rng,
            connect_timeout=self._options.connect_timeout,
            tls=self._options.tls,
            contact=self._contact,
            use=self._use,
            sasl=self._options.sasl,
            fallback=self._fallback,
        )
        await self._supervisor.open()

    async def close(self) -> None:
        """Close the session on the server, and wait until everything is down; see `Supervisor.close`."""
        if self._supervisor is not None:
            self.ensure_loop()
            await self._supervisor.close()

    def ensure_loop(self) -> asyncio.AbstractEventLoop:
        """Raise `UsageStateError` unless this is the event loop that opened the session; returns it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise _no_loop() from None
        if loop is self._loop:
            return loop
        if self._loop is None:
            raise errors.UsageStateError(
                "this client is not open; use it inside 'async with corral.connect(...) as zk:'"
            )
        raise errors.UsageStateError(
            "this client belongs to another event loop (another thread, or a forked process?); open one here"
        )

    def _check_loop(self) -> None:
        if self._loop is not None:  # states can be read before the session is opened
            self.ensure_loop()

    # Requests

    def request(
        self, op: Operation, body: bytes, path: str | None, *, bound_to: int = 0
    ) -> asyncio.Future[Any]:
        """Send a request; the future has its answer. Cancelling it does not stop a request that was sent."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or loop is not self._loop:
            self.ensure_loop()
            raise AssertionError("unreachable")
        future: asyncio.Future[Any] = loop.create_future()
        self.submit(Request(op, body, path, future, bound_to=bound_to))
        return future

    def request_patiently(
        self, op: Operation, body: bytes, path: str | None, *, bound_to: int = 0
    ) -> asyncio.Future[Any]:
        """As `request`, by a `PatientRequest`."""
        future: asyncio.Future[Any] = self.ensure_loop().create_future()
        self.submit(PatientRequest(op, body, path, future, bound_to=bound_to))
        return future

    async def ask(
        self,
        op: Operation,
        body: bytes,
        path: str | None,
        *,
        bound_to: int = 0,
        watches: tuple[str, WatchKind] | None = None,
        at_once: bool = False,
        is_patient: bool = False,
    ) -> Any:
        """Send a request that may be executed twice, and send it again after each lost connection. With
        `at_once` as `submit_now` does; with `is_patient` as a `PatientRequest`.

        Raises `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on it.
        """
        send = self.submit_now if at_once else self.submit
        kind = PatientRequest if is_patient else Request
        while True:
            answer: asyncio.Future[Any] = self.ensure_loop().create_future()
            send(kind(op, body, path, answer, bound_to=bound_to, watches=watches))
            try:
                return await answer
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
                if op.is_write:
                    kind = PatientRequest  # it may have been carried out: do not say that it was refused

    def submit(self, request: Request) -> None:
        """Send a request at the end of this turn of the loop, in one write with all others of the turn.
        Raises `FrameTooLarge` before anything is sent."""
        if len(request.body) > self.max_body:
            raise self._too_large(request.op, request.body, request.path)
        self._machine.submit(request)
        if self._connection is not None:
            self._connection.flush_soon()

    def submit_now(self, request: Request, behind: Request | None = None) -> None:
        """Send a request, and `behind` it another one that is not larger, at once if no request is in flight;
        else as `submit`. For callers that send nothing else in this turn of the loop."""
        if len(request.body) > self.max_body:
            raise self._too_large(request.op, request.body, request.path)
        self._machine.submit(request)
        if behind is not None:
            self._machine.submit(behind)
        if self._connection is not None:
            self._connection.flush_now()

    def check_size(self, op: Operation, body: bytes, path: str | None) -> None:
        """Raise `FrameTooLarge` if a request with this body would not be sent."""
        if len(body) > self.max_body:
            raise self._too_large(op, body, path)

    def _too_large(self, op: Operation, body: bytes, path: str | None) -> errors.FrameTooLarge:
        return errors.FrameTooLarge(op.name, path, len(body) + 8, self._options.max_request)

    # Watches and observers

    def watch(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
        """Fire `watcher` when the node at the full path may have changed. A one-shot watch is set by a read
        that is sent with `Request.watches`. A persistent one is requested here: requests from now on are
        executed after it."""
        self._machine.watches.add(path, watcher, kind)
        if kind in PERSISTENT_KINDS:
            self._flush_soon()

    def unwatch(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
        """Do not fire it any more. Removing the last watcher removes the server's watch."""
        self._machine.watches.remove(path, watcher, kind)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._connection is not None and self._machine.has_output():
            self._connection.flush_soon()

    def observe(self, observer: WriteObserver) -> None:
        """Call `observer` with each write of this client, before its waiter is resolved."""
        self._machine.observers[observer] = None

    def unobserve(self, observer: WriteObserver) -> None:
        """Do not call it any more."""
        self._machine.observers.pop(observer, None)

    @property
    def is_observed(self) -> bool:
        """Whether the writes of this client are observed."""
        return bool(self._machine.observers)

    async def wait_caches_current(self) -> None:
        """Wait until all observers know the effect of the answered writes, where an answer did not have
        it."""
        for observer in tuple(self._machine.observers):
            await observer.wait_current()

    # The lease

    def hold(self, hold: LeaseHold) -> None:
        """Keep the lease, and notify `hold` when it ends, which may be at once."""
        self._machine.hold(hold, self.clock())
        if self._machine.deadline_moved and self._supervisor is not None:
            self._supervisor.timer.rearm()

    def unhold(self, hold: LeaseHold) -> None:
        """Its holder has released it."""
        self._machine.unhold(hold)

    def is_held(self, hold: LeaseHold) -> bool:
        """Whether it is held now, by the clock."""
        return self._machine.is_held(hold, self.clock())

    def check_lease(self) -> None:
        """Declare the lease lapsed if the clock says so. Without this, the next timer or answer does."""
        self._machine.advance(self.clock())

    @property
    def lease_left(self) -> float:
        """Seconds until something held now would be lost, by the proofs so far; may be negative."""
        return self._machine.lease_end() - self.clock()

    # The state

    @property
    def state(self) -> State:
        """The state now."""
        return self._machine.state

    @property
    def session_id(self) -> int:
        """The session's id on the server; 0 while there is none."""
        return self._machine.session_id

    @property
    def timeout(self) -> float:
        """The session timeout in seconds: the granted one, or the requested one until then."""
        return self._machine.timeout

    @property
    def is_secure(self) -> bool:
        """Whether it connects by TLS."""
        return self._options.tls is not None

    @property
    def server(self) -> Address | None:
        """The connected server, if one is."""
        connected = self._connection is not None and self._machine.phase is ConnectionPhase.UP
        return self._connection.address if connected and self._connection else None

    @property
    def server_name(self) -> str | None:
        """The ``host:port`` of the connected server, or of the read-only one, or None."""
        if self._machine.reads is not None:
            return self._machine.reads.server
        return None if self.server is None else str(self.server)

    def states(self) -> StateStream:
        """The state now, then each change, for one reader."""
        queue = StateQueue(self._machine.state)
        self._state_queues.add(queue)
        return StateStream(queue, self._check_loop)

    def statistics(self, *, caches: int, cached_znodes: int) -> Statistics:
        """What the session knows of itself, with two numbers that its watches know."""
        self._check_loop()
        machine, connection, fallback = self._machine, self._connection, self._fallback
        history = machine.history
        held = tuple(machine.held_nodes())
        return Statistics(
            server=self.server_name,
            session_id=machine.session_id,
            session_timeout=machine.timeout,
            state=machine.state,
            state_age=0.0 if self._loop is None else self.clock() - max(history.state_since, self._opened_at),
            sessions_opened=history.sessions_opened,
            reconnects=max(0, history.connections_established - 1),
            in_flight=len(machine.requests.in_flight) + (0 if fallback is None else fallback.in_flight),
            waiting=len(machine.requests.waiting),
            held=held,
            lease_left=self.lease_left if held else None,
            watches=machine.watches.counts(),
            caches=caches,
            cached_znodes=cached_znodes,
            bytes_sent=self._bytes_sent
            + (0 if connection is None else connection.bytes_sent)
            + (0 if fallback is None else fallback.bytes_sent),
            bytes_received=self._bytes_received
            + (0 if connection is None else connection.bytes_received)
            + (0 if fallback is None else fallback.bytes_received),
        )

    def add_credentials(self, credentials: Credentials) -> None:
        """Authenticate with these, too, now and on each connection to come."""
        self.ensure_loop()
        credentials.check_size(self._options.max_request)
        self._machine.add_credentials(credentials)
        if self._connection is not None:
            self._connection.flush_soon()

    def final_error(self) -> errors.SessionError:
        """The error of every request once there will be no session any more."""
        return self._machine.final_error()

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None] | None:
        """Run a job beside the session; it is cancelled when the session ends. None if it is over."""
        if self._supervisor is None or self._machine.closing:
            return None
        return self._supervisor.spawn(job(), name)

    async def use_members(self, servers: Sequence[Address]) -> None:
        """Connect to these servers from now on; without any, to those of the options, which otherwise remain
        as a fallback. If the connected server was among the last ones and is not any more, the session moves
        to another one as soon as what was sent is answered."""
        left = await self._resolver.use(servers, self.timeout * MEMBERS_LOOK_UP_PART)
        connection = self._connection
        if connection is not None and connection.address in left:
            depart(self._machine, connection, self.clock(), "it has left the ensemble")

    def _use(self, connection: Connection) -> None:
        if self._connection is not None:
            self._bytes_sent += self._connection.bytes_sent
            self._bytes_received += self._connection.bytes_received
        self._connection = connection

    def _state_changed(self, state: State) -> None:
        self._log_contact(state)
        for queue in tuple(self._state_queues):
            queue.put(state)
        if state in (State.CONNECTED, State.READ_ONLY) and self._supervisor is not None:
            self._supervisor.established()

    def _log_contact(self, state: State) -> None:
        machine, now = self._machine, self.clock()
        server = str(self._connection.address) if self._connection is not None else "no server"
        if state is State.CONNECTED:
            self._contact.back(now, server, f"session 0x{machine.session_id:x}")
        elif state is State.READ_ONLY and machine.reads is not None:
            self._contact.read_only(now, machine.reads.server)
        elif state is State.SUSPENDED:
            self._contact.lost(now, machine.history.loss_reason, machine.describe_held(), self.lease_left)
        elif state in (State.LAPSED, State.EXPIRED):
            self._contact.ended(now, machine.history.end_reason, machine.history.lost_nodes)


def _no_loop() -> errors.UsageStateError:
    return errors.UsageStateError(
        "a corral client is used from within its asyncio event loop; no such loop is running here "
        "(trio, another thread, or a forked process?); see asyncio.run_coroutine_threadsafe()"
    )
