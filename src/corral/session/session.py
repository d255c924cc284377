"""The one task of a client: it keeps time for the machine, and takes everything down at the end.

Opening and closing a session only signal this task and wait for it, so they may happen in different tasks
(S8). The tasks beside it, the one that connects (`dial`) and short jobs of recipes, are started and ended by
it. If one of them breaks, every waiter is told, and so is whoever closes.

asyncio ends a program by cancelling every task at once, this one too. The clients' owners are then on their
way out, and their clean-up needs the session; so a cancelled supervisor waits for them, within bounds, and
closes the session on the server before it ends. Else the locks and ephemerals of each service that is stopped
would stay until they expire.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from corral import errors
from corral.types import State
from corral.wire import framing
from corral.wire.messages import Operation

from .auth import Credentials
from .connection import Connection
from .contact import ContactLog
from .dial import Dialer
from .hosts import Address, Backoff, Resolver
from .lease_holds import LeaseHold
from .machine import Machine, WriteObserver
from .requests import Request
from .state_stream import StateStream
from .states import ConnectionPhase
from .watch_registry import PERSISTENT_KINDS
from .watchers import Watcher, WatchKind

logger = logging.getLogger("corral.session")

# Closing waits no longer than this part of T, and no longer than this many seconds, for the server's answer.
CLOSE_PART = 1 / 3
CLOSE_SECONDS = 5.0
# Tasks of clients, which do not wait for each other when a program ends.
_OURS: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

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
            max_request=options.max_request,
        )
        self._rng = random.Random()
        self._resolver = Resolver(options.servers, self._rng)
        self._backoff = Backoff(self._rng)
        self._contact = ContactLog()
        self._listeners: weakref.WeakSet[StateStream] = weakref.WeakSet()
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self.loop: asyncio.AbstractEventLoop
        """The event loop that opened the session; for those who run in it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._is_hurried = False  # whether nothing is to be waited for any more

    # Opening and closing

    async def open(self) -> None:
        """Start the supervisor and wait until there is a session; on any error nothing is left."""
        if self._loop is not None:
            raise errors.UsageStateError(
                "this client was opened before; make another with corral.connect(), or share this one"
            )
        try:
            self._loop = self.loop = loop = asyncio.get_running_loop()
        except RuntimeError:
            raise _no_loop() from None
        self._take_time_and_chance(loop)
        self._stop: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._supervisor = loop.create_task(self._supervise(), name="corral supervisor")
        _OURS.add(self._supervisor)
        limit = self._options.connect_timeout
        try:
            async with asyncio.timeout(limit) as scope:
                await self._ready
        except BaseException as error:
            said = self._resolver.describe()
            # Not cancelled: should the session come in this very tick, it is to be ended on the server too.
            self._stop_soon()
            await self._until_down(self._supervisor)
            if isinstance(error, TimeoutError) and scope.expired():
                raise errors.ConnectTimeout(f"no session within connect_timeout={limit} s; {said}") from None
            raise

    async def _until_down(self, supervisor: asyncio.Task[None]) -> None:
        """Wait for the end of what never came to be. Cancelled again, take no leave of any server."""
        try:
            await asyncio.wait([supervisor])
        except asyncio.CancelledError:
            self._is_hurried = True
            supervisor.cancel()
            await asyncio.wait([supervisor])
            raise

    def _take_time_and_chance(self, loop: Any) -> None:
        """In a loop of tests both are the test's (`corral.testing.VirtualLoop`)."""
        if getattr(loop, "virtual", False):
            self.clock = loop.time
            self._rng.seed(loop.rng.random())

    async def close(self) -> None:
        """End the session on the server and wait until everything is down: bounded, see `CLOSE_PART`.

        Cancelling the wait does not stop the closing. Raises `InternalError` if the supervisor broke.
        """
        if self._supervisor is None:
            return
        self.ensure_loop()
        self._stop_soon()
        await asyncio.wait([self._supervisor])
        if self._failure is not None:
            raise _internal_error(self._failure)

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
            self.ensure_loop()
            raise AssertionError("unreachable")
        future: asyncio.Future[Any] = loop.create_future()
        self.submit(Request(op, body, path, future, bound_to=bound_to))
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
    ) -> Any:
        """Send a request that does no harm when it is carried out twice, and again after each lost
        connection. `at_once` is for whoever has no more to say, as `submit_now` is.

        Raises `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on it.
        """
        send = self.submit_now if at_once else self.submit
        while True:
            answer: asyncio.Future[Any] = self.ensure_loop().create_future()
            send(Request(op, body, path, answer, bound_to=bound_to, watches=watches))
            try:
                return await answer
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

    def submit_now(self, request: Request, behind: Request | None = None) -> None:
        """As `submit`, and `behind` it another that is not larger, but at once if nothing is under way: for
        whoever has no more to say, and waits."""
        if len(request.body) > self._max_body:
            raise self._too_large(request)
        self._machine.submit(request)
        if behind is not None:
            self._machine.submit(behind)
        if self._connection is not None:
            self._connection.flush_now()

    def _too_large(self, request: Request) -> errors.FrameTooLarge:
        size, limit = len(request.body) + 8, self._options.max_request
        return errors.FrameTooLarge(request.op.name, request.path, size, limit)

    def watch(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
        """Fire `watcher` when what is at the full path may have changed: of a one-shot kind once a read has
        set the watch, one that was sent with `Request.watches`; a persistent one is asked for here, so that
        all that is asked from now on comes after it."""
        self._machine.watches.add(path, watcher, kind)
        if kind in PERSISTENT_KINDS:
            self._flush_soon()

    def unwatch(self, path: str, watcher: Watcher, kind: WatchKind = WatchKind.NODE) -> None:
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

    async def wait_caches_current(self) -> None:
        """Wait until those who observe know what an answered write has left, where its answer did not say."""
        for observer in tuple(self._machine.observers):
            await observer.wait_current()

    def hold(self, hold: LeaseHold) -> None:
        """Keep the lease, and tell `hold` when it ends; may tell at once."""
        self._machine.hold(hold, self.clock())
        if self._machine.deadline_moved:
            self._rearm_timer()

    def unhold(self, hold: LeaseHold) -> None:
        """It is given up."""
        self._machine.unhold(hold)

    def is_held(self, hold: LeaseHold) -> bool:
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
        connected = self._connection is not None and self._machine.phase is ConnectionPhase.UP
        return self._connection.address if connected and self._connection else None

    def states(self) -> StateStream:
        """The state now, then each change, for one reader."""
        stream = StateStream(self._machine.state, self._check_loop)
        self._listeners.add(stream)
        return stream

    def add_credentials(self, credentials: Credentials) -> None:
        """Authenticate with these too, now and on each connection to come."""
        self.ensure_loop()
        credentials.check_size(self._options.max_request)
        self._machine.add_credentials(credentials)
        if self._connection is not None:
            self._connection.flush_soon()

    def spawn(self, job: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run a job of the session's own beside it; it ends with the session at the latest."""
        if self._loop is not None and not self._machine.closing:
            self._run_beside(self._loop, job(), name)

    def _run_beside(
        self, loop: asyncio.AbstractEventLoop, job: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        # Not by a task group of anyio, which may be told of new tasks only from within a task: jobs are begun
        # from callbacks.
        task = loop.create_task(job, name=name)
        _OURS.add(task)
        self._tasks.add(task)
        task.add_done_callback(self._job_done)
        return task

    def _job_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    # The supervisor

    async def _supervise(self) -> None:
        loop = self.loop
        dialer = Dialer(
            self._machine,
            self._resolver,
            self._backoff,
            self._rng,
            clock=self.clock,
            connect_timeout=self._options.connect_timeout,
            use=self._use,
            on_entry=self._rearm_timer,
            contact=self._contact,
        )
        dialing = self._run_beside(loop, dialer.run(), "corral connection")
        dialing.add_done_callback(self._dialing_done)
        try:
            await self._until_stopped()
            if self._failure is None:
                await self._say_farewell(dialer, dialing)
        except Exception as error:
            self._fail(error)
        finally:
            self._take_down()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await self._resolver.close()

    async def _until_stopped(self) -> None:
        """Wait until somebody closes the client, or something breaks it."""
        try:
            await asyncio.shield(self._stop)
        except asyncio.CancelledError:
            # Every task is being cancelled, as the program ends: those who use the client come first.
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            if not self._is_hurried:
                await self._until_others_end()

    async def _until_others_end(self) -> None:
        deadline = self.loop.time() + self._closing_bound()
        others = {task for task in asyncio.all_tasks() if task not in _OURS}
        while others and not self._stop.done() and (left := deadline - self.loop.time()) > 0:
            done, _ = await asyncio.wait(
                {*others, self._stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            others.difference_update(done)

    def _closing_bound(self) -> float:
        return min(self.timeout * CLOSE_PART, CLOSE_SECONDS)

    async def _say_farewell(self, dialer: Dialer, dialing: asyncio.Task[None]) -> None:
        answer: asyncio.Future[Any] = self.loop.create_future()
        # However it ends there is no more to be done, also if this task is cancelled before.
        answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        machine = self._machine
        if machine.state is not State.AUTH_FAILED and machine.close(self.clock(), answer):
            if self._connection is not None:
                self._connection.flush_soon()
            if machine.phase is ConnectionPhase.UP or not dialing.done():
                await asyncio.wait([answer], timeout=self._closing_bound())
            if not answer.done():
                answer.cancel()
                logger.warning(
                    "session 0x%x could not be closed on a server; its ephemerals stay until it expires",
                    self.session_id,
                )
        # The connection goes before the task that may still be at connecting it is cancelled: uvloop tells a
        # protocol nothing of its end if `create_connection` was cancelled.
        dialer.stop()
        if self._connection is not None and self._connection.made:
            self._connection.drop("the client is closed")
            await asyncio.wait([self._connection.lost])

    def _take_down(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._machine.end(self.clock(), self._failure)
        if self._connection is not None:
            self._connection.drop("the client is closed")
        if self._ready.done():
            return
        if self._failure is not None:
            self._ready.set_exception(_internal_error(self._failure))
        else:
            self._ready.set_exception(errors.ClientClosed("the client was closed"))
        self._ready.exception()  # whoever waits is told; that nobody waits is no news

    def _stop_soon(self) -> None:
        if not self._stop.done():
            self._stop.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """Something of ours broke: everything ends, and everybody is told."""
        if self._failure is None:
            self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            logger.critical("the client broke: please report this", exc_info=error)
        self._stop_soon()

    def _use(self, connection: Connection) -> None:
        self._connection = connection

    def _dialing_done(self, dialing: asyncio.Task[None]) -> None:
        """No server will take us, ever, if it has ended by itself."""
        if self._machine.state is State.AUTH_FAILED and not self._ready.done():
            self._ready.set_exception(errors.AuthFailed("a server refused our credentials"))

    # The machine's time, and its news

    def _rearm_timer(self) -> None:
        due = self._machine.arm_deadline()
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
                if self._machine.close_reason is not None:
                    connection.drop(self._machine.close_reason)
                elif self._machine.has_output():
                    connection.flush_soon()
            self._rearm_timer()
        except Exception as error:
            self._fail(error)

    def _state_changed(self, state: State) -> None:
        self._note_contact(state)
        if state is State.CONNECTED and not self._ready.done():
            self._ready.set_result(None)
        for listener in tuple(self._listeners):
            listener.tell(state)

    def _note_contact(self, state: State) -> None:
        machine, now = self._machine, self.clock()
        server = str(self._connection.address) if self._connection is not None else "no server"
        if state is State.CONNECTED:
            self._contact.back(now, server, f"session 0x{machine.session_id:x}")
        elif state is State.SUSPENDED:
            self._contact.lost(now, machine.loss_reason, machine.describe_held(), self.lease_left)
        elif state in (State.LAPSED, State.EXPIRED):
            self._contact.ended(now, machine.end_reason, machine.lost_nodes)


def _no_loop() -> errors.UsageStateError:
    return errors.UsageStateError(
        "a corral client is used from within its asyncio event loop; no such loop is running here "
        "(trio, another thread, or a forked process?); see asyncio.run_coroutine_threadsafe()"
    )


def _internal_error(failure: Exception) -> errors.InternalError:
    error = errors.InternalError(f"the client broke, please report this: {failure!r}")
    error.__cause__ = failure
    return error
