"""The one task of a client: it connects, keeps time for the machine, and takes everything down at the end.

Opening and closing a session only signal this task and wait for it, so they may happen in different tasks
(S8). Every other task of the client is a child of the task group in here. If the supervisor breaks, every
waiter is told, and so is whoever closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc

from corral import errors
from corral.types import State
from corral.wire import framing
from corral.wire.messages import Operation

from .auth import Credentials
from .connection import Connection
from .holdings import Hold
from .hosts import Address, Backoff, Resolver
from .machine import Machine, Phase, WriteObserver
from .requests import Request
from .state_stream import StateStream
from .visit import visit
from .watches import PERSISTENT_KINDS, Kind, Watcher

logger = logging.getLogger("corral.session")

# Closing waits no longer than this part of T, and no longer than this many seconds, for the server's answer.
CLOSE_PART = 1 / 3
CLOSE_SECONDS = 5.0
# A connection that held this long, in seconds, was a good one: the next retry is at once.
GOOD_CONNECTION = 1.0
# The least that one attempt is given, in seconds, however many servers share T.
LEAST_ATTEMPT = 0.2

if hasattr(time, "CLOCK_BOOTTIME"):  # Linux: counts while the machine is suspended, as the server's does
    default_clock: Callable[[], float] = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
else:
    default_clock = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a session is to be kept. Times in seconds, sizes in bytes."""

    servers: tuple[Address, ...]
    timeout: float
    connect_timeout: float | None
    credentials: Sequence[Credentials] = ()
    lease_by_ping: bool = False
    tick_time: float | None = None
    max_request: int = framing.DEFAULT_MAX_REQUEST
    max_reply: int = framing.DEFAULT_MAX_REPLY


class Session:
    """One session and the task that keeps it. All methods belong to the event loop that opened it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.clock: Callable[[], float] = default_clock
        """The time in seconds; it only grows."""
        self._max_body = options.max_request - 8  # the request header is part of the frame
        self._machine = Machine(
            options.timeout,
            credentials=options.credentials,
            half_tick=None if options.tick_time is None else options.tick_time / 2,
            lease_by_ping=options.lease_by_ping,
            max_reply=options.max_reply,
            on_state=self._state_changed,
        )
        self._rng = random.Random()
        self._resolver = Resolver(options.servers, self._rng)
        self._backoff = Backoff(self._rng)
        self._listeners: weakref.WeakSet[StateStream] = weakref.WeakSet()
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._failure: BaseException | None = None
        self._rejection: _Rejection | None = None
        self._left = False  # whether the server has been told, as far as it could be

    # Opening and closing

    async def open(self) -> None:
        """Start the supervisor and wait until there is a session; on any error nothing is left."""
        if self._loop is not None:
            raise errors.UsageStateError(
                "this client was opened before; make another with corral.connect(), or share this one"
            )
        self._loop = asyncio.get_running_loop()
        self._take_time_and_chance(self._loop)
        self._stopping = asyncio.Event()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._supervisor = self._loop.create_task(self._supervise(), name="corral supervisor")
        limit = self._options.connect_timeout
        try:
            async with asyncio.timeout(limit) as scope:
                await self._ready
        except BaseException as error:
            said = self._resolver.describe()
            # Not cancelled: should the session come in this very tick, it is to be ended on the server too.
            self._stopping.set()
            await asyncio.wait([self._supervisor])
            if isinstance(error, TimeoutError) and scope.expired():
                raise errors.ConnectTimeout(f"no session within connect_timeout={limit} s; {said}") from None
            raise

    def _take_time_and_chance(self, loop: Any) -> None:
        """In a loop of tests both are the test's (`corral.testing.VirtualLoop`)."""
        if getattr(loop, "virtual", False):
            self.clock = loop.time
            self._rng.seed(loop.rng.random())

    async def close(self) -> None:
        """End the session on the server and wait until everything is down: bounded, see `CLOSE_PART`.

        Cancelling the wait does not stop the closing. Raises what broke the supervisor, if anything did.
        """
        if self._supervisor is None:
            return
        self.check_place()
        self._stopping.set()
        await asyncio.wait([self._supervisor])
        if self._failure is not None:
            raise self._failure

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that opened the session; for those who run in it."""
        assert self._loop is not None
        return self._loop

    def check_place(self) -> asyncio.AbstractEventLoop:
        """Raise `UsageStateError` unless this is the event loop that opened the session; returns it."""
        try:
            loop = asyncio.get_running_loop()
            if loop is self._loop:
                return loop
        except RuntimeError:
            raise errors.UsageStateError(
                "a corral client is used from within its event loop; there is none running here "
                "(another thread, or a forked process?); see asyncio.run_coroutine_threadsafe()"
            ) from None
        if self._loop is None:
            raise errors.UsageStateError(
                "this client is not open; use it inside 'async with corral.connect(...) as zk:'"
            )
        raise errors.UsageStateError(
            "this client belongs to another event loop (another thread, or a forked process?); open one here"
        )

    def _check_loop(self) -> None:
        if self._loop is not None:  # states can be read before the session is opened
            self.check_place()

    @property
    def max_body(self) -> int:
        """The largest body of a request, in bytes."""
        return self._max_body

    # For the client and the recipes

    def request(
        self, op: Operation, body: bytes, path: str | None, *, bound_to: int = 0
    ) -> asyncio.Future[Any]:
        """Send a request; the future has its answer. Cancelling it stops nothing that is on its way."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or loop is not self._loop:
            self.check_place()
            raise AssertionError("unreachable")
        future: asyncio.Future[Any] = loop.create_future()
        self.submit(Request(op, body, path, future, bound_to=bound_to))
        return future

    async def ask(self, op: Operation, body: bytes, path: str | None, *, bound_to: int = 0) -> Any:
        """Send a request that does no harm when it is carried out twice, and again after each lost connection.

        Raises `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on it.
        """
        while True:
            try:
                return await self.request(op, body, path, bound_to=bound_to)
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise

    def submit(self, request: Request) -> None:
        """Send a request, with all that is asked for in this turn of the loop. Raises `FrameTooLarge`, before
        anything is sent."""
        if len(request.body) > self._max_body:
            raise self._too_large(request)
        self._machine.submit(request)
        if self._connection is not None:
            self._connection.flush_soon()

    def submit_now(self, *requests: Request) -> None:
        """As `submit`, but at once if nothing is under way: for whoever has no more to say, and waits."""
        for request in requests:
            if len(request.body) > self._max_body:
                raise self._too_large(request)
        for request in requests:
            self._machine.submit(request)
        if self._connection is not None:
            self._connection.flush_now()

    def _too_large(self, request: Request) -> errors.FrameTooLarge:
        size, limit = len(request.body) + 8, self._options.max_request
        return errors.FrameTooLarge(request.op.name, request.path, size, limit)

    def watch(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> None:
        """Fire `watcher` when what is at the full path may have changed: of a one-shot kind once a read has
        set the watch, one that was sent with `Request.watches`; a persistent one is asked for here, so that
        all that is asked from now on comes after it."""
        self._machine.watches.add(path, watcher, kind)
        if kind in PERSISTENT_KINDS:
            self._flush_soon()

    def unwatch(self, path: str, watcher: Watcher, kind: Kind = Kind.NODE) -> None:
        """Fire it no more; the server's watch goes with the last of them."""
        self._machine.watches.remove(path, watcher, kind)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._connection is not None and self._machine.has_output():
            self._connection.flush_soon()

    def observe(self, observer: WriteObserver) -> None:
        """Show `observer` each write of this client, before whoever waits for it has the answer."""
        self._machine.observers[observer] = None

    def unobserve(self, observer: WriteObserver) -> None:
        """Show it no more."""
        self._machine.observers.pop(observer, None)

    @property
    def is_observed(self) -> bool:
        """Whether somebody wants to see the state that a write leaves."""
        return bool(self._machine.observers)

    async def observers_settled(self) -> None:
        """Wait until those who observe know what an answered write has left, where its answer did not say."""
        for observer in tuple(self._machine.observers):
            await observer.settled()

    def hold(self, hold: Hold) -> None:
        """Keep the lease, and tell `hold` when it ends; may tell at once."""
        self._machine.hold(hold, self.clock())
        if self._machine.restless:
            self._rearm_timer()

    def unhold(self, hold: Hold) -> None:
        """It is given up."""
        self._machine.unhold(hold)

    def is_held(self, hold: Hold) -> bool:
        """Whether it is held now, by the clock."""
        return self._machine.is_held(hold, self.clock())

    def check_lease(self) -> None:
        """Declare a lapsed lease now, if the clock says so and nothing has come in to notice it."""
        self._machine.advance(self.clock())

    @property
    def lease_left(self) -> float:
        """Seconds until something held now would be lost, by the proofs there are; may be negative."""
        return self._machine.lease_end() - self.clock()

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._machine.state

    @property
    def session_id(self) -> int:
        """The session's id on the server; 0 while there is none."""
        return self._machine.session_id

    @property
    def timeout(self) -> float:
        """The session timeout in seconds: as negotiated, or as asked for until then."""
        return self._machine.timeout

    @property
    def server(self) -> Address | None:
        """The server that is connected, if one is."""
        connected = self._connection is not None and self._machine.phase is Phase.UP
        return self._connection.address if connected and self._connection else None

    def states(self) -> StateStream:
        """The state now, then each change, for one reader."""
        stream = StateStream(self._machine.state, self._check_loop)
        self._listeners.add(stream)
        return stream

    def add_credentials(self, credentials: Credentials) -> None:
        """Authenticate with these too, now and on each connection to come."""
        self.check_place()
        credentials.check_size(self._options.max_request)
        self._machine.add_credentials(credentials)
        if self._connection is not None:
            self._connection.flush_soon()

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run a job of the session's own beside it; it ends with the session at the latest."""
        if self._group is not None and not self._machine.closing:
            self._group.start_soon(job, name=name)

    # The supervisor

    async def _supervise(self) -> None:
        broken: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._keep_connected, name="corral connection")
                await self._stopping.wait()
                await self._say_farewell()
                group.cancel_scope.cancel()
        except Exception as error:
            broken = error
            while isinstance(broken, ExceptionGroup) and len(broken.exceptions) == 1:
                broken = broken.exceptions[0]
            self._failure = broken
            logger.critical("the client broke: please report this", exc_info=broken)
        finally:
            self._group = None
            if self._timer is not None:
                self._timer.cancel()
            self._machine.end(self.clock(), broken or self._failure)
            if self._connection is not None:
                self._connection.drop("the client is closed")
            if not self._ready.done():
                self._ready.set_exception(self._failure or errors.ClientClosed("the client was closed"))
                self._ready.exception()  # whoever waits is told; that nobody waits is no news

    async def _say_farewell(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert self._loop is not None
        answer: asyncio.Future[Any] = self._loop.create_future()
        # However it ends there is no more to be done, also if this task is cancelled before.
        answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        if self._machine.state is not State.AUTH_FAILED and self._machine.close(self.clock(), answer):
            if self._connection is not None:
                self._connection.flush_soon()
            await asyncio.wait([answer], timeout=min(self.timeout * CLOSE_PART, CLOSE_SECONDS))
            if not answer.done():
                answer.cancel()
                logger.warning(
                    "session 0x%x could not be closed on a server; its ephemerals stay until it expires",
                    self.session_id,
                )
        self._left = True
        if self._connection is not None and self._connection.made:
            self._connection.drop("the client is closed")
            await asyncio.wait([self._connection.lost])

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._stopping.set()

    async def _keep_connected(self) -> None:
        last: Address | None = None
        rounds = 0
        turned_away: list[Address] = []
        while True:
            await anyio.sleep(self._backoff.next(turned_away=bool(turned_away)))
            bound = self._attempt_bound(rounds)
            addresses = await self._resolver.round(bound, last=last)
            turned_away = []
            for address in addresses:
                began, session_id = self.clock(), self._machine.session_id
                connection = await self._attempt(address, bound)
                if self._gave_up():
                    return
                if session_id and not self._machine.session_id:
                    self._backoff.reset()  # it expired: the new one can be had at once
                    break
                if connection is None:
                    if self._resolver.failures.get(str(address)) == _TURNED_AWAY:
                        turned_away.append(address)
                    continue
                _raise_unless_network(await asyncio.shield(connection.lost))
                if self._left or self._gave_up():
                    return
                last, rounds, self._rejection = address, 0, None
                if self.clock() - began >= GOOD_CONNECTION:
                    self._backoff.reset()
                break
            else:
                rounds += 1
                level = logging.WARNING if rounds == 1 else logging.INFO
                logger.log(level, "no server has taken the session; trying on: %s", self._resolver.describe())
                if turned_away:
                    await self._turned_away(self._rng.choice(turned_away), bound)
                else:
                    self._rejection = None

    def _attempt_bound(self, rounds: int) -> float:
        """Seconds for one attempt: all servers within T/3 at first, then twice as long with each vain round,
        for servers that are slow rather than silent."""
        share = self.timeout / (3 * max(1, len(self._options.servers)))
        return min(max(share, LEAST_ATTEMPT) * 2.0 ** min(rounds, 10), self.timeout / 2)

    async def _attempt(self, address: Address, bound: float) -> Connection | None:
        """Connect and shake hands, within `bound` seconds; None if that failed, and then nothing is left."""
        assert self._loop is not None
        connection = Connection(self._machine, self.clock, address, self._rearm_timer, self._loop)
        self._connection = connection
        contact = self._machine.contact
        self._resolver.trying(address)
        try:
            async with asyncio.timeout(bound):
                await self._loop.create_connection(lambda: connection, address.host, address.port)
                await asyncio.shield(connection.established)
        except OSError as error:  # a TimeoutError is one
            connection.drop(f"no session within {bound:.2f} s")
            self._resolver.failed(address, str(error) or f"no answer within {bound:.2f} s")
        except BaseException:
            connection.drop("the client is closed")
            raise
        else:
            if self._machine.phase is Phase.UP:
                logger.info("session 0x%x is on %s", self.session_id, address)
                return connection
            if self._machine.contact == contact:
                self._resolver.failed(address, _TURNED_AWAY)
            else:
                self._resolver.failed(address, self._machine.condemned or "the server closed the connection")
        if connection.made:
            _raise_unless_network(await asyncio.shield(connection.lost))
        return None

    async def _turned_away(self, address: Address, bound: float) -> None:
        """Find out whether it is us whom they turn away, having seen less than we have: then it would be for
        ever. Servers without a leader, or with too many clients, do the same to anybody, for a while.

        A new session is a transaction. If one that begins now is older than what we have seen, what we have
        seen was undone.
        """
        now, newest = self.clock(), self._machine.last_zxid
        rejection = self._rejection = self._rejection or _Rejection(now)
        if now - rejection.since <= self.timeout or not newest:
            return
        if rejection.zxid is None:
            with contextlib.suppress(OSError):
                rejection.zxid = await visit(address.host, address.port, limit=bound)
        if rejection.zxid is None:
            return
        if rejection.zxid >= newest:
            self._rejection = None  # it will take us
            return
        self._machine.fail_waiting(
            errors.EnsembleBehind(
                f"{address} turns us away, and is at transaction 0x{rejection.zxid:x}, but we have seen "
                f"0x{newest:x}: the ensemble was restored from a backup or wiped; open a new client"
            )
        )

    def _gave_up(self) -> bool:
        """Whether no server will take us, ever."""
        if self._machine.state is not State.AUTH_FAILED:
            return False
        if not self._ready.done():
            self._ready.set_exception(errors.AuthFailed("a server refused our credentials"))
        return True

    # The machine's time, and its news

    def _rearm_timer(self) -> None:
        due = self._machine.deadline()
        if self._timer is not None:
            if self._timer_due <= due:
                return  # it will find out by itself that there is nothing to do yet
            self._timer.cancel()
            self._timer = None
        if due != float("inf") and self._loop is not None and self._machine.state is not State.CLOSED:
            self._timer_due = due
            self._timer = self._loop.call_later(max(0.0, due - self.clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._machine.tick(self.clock(), self._timer_due)
            connection = self._connection
            if connection is not None:
                if self._machine.condemned is not None:
                    connection.drop(self._machine.condemned)
                elif self._machine.has_output():
                    connection.flush_soon()
            self._rearm_timer()
        except Exception as error:
            self._fail(error)

    def _state_changed(self, state: State) -> None:
        if state is State.CONNECTED and not self._ready.done():
            self._ready.set_result(None)
        for listener in tuple(self._listeners):
            listener.tell(state)


@dataclass
class _Rejection:
    """Servers take the connection and close it without a word, round after round, and none takes us."""

    since: float
    zxid: int | None = None
    """At which transaction somebody was served who has seen nothing yet."""


def _raise_unless_network(ended_by: BaseException | None) -> None:
    """What ends a connection is the network, or a bug of ours that must reach the supervisor."""
    if ended_by is not None and not isinstance(ended_by, OSError):
        raise ended_by


_TURNED_AWAY = "the server took the connection and closed it without a word"
