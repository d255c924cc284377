"""The life of a client's session: one task that starts everything and takes everything down.

Opening and closing only signal this task and wait for it, so they may happen in different tasks (S8). It
starts and ends the tasks beside it: the one that connects (`dial`), and short jobs of recipes. If one of them
breaks, every waiter gets an error, and so does whoever closes the client.

A program ends by cancelling every task at once, this one included. The clients' users then clean up, and need
the session for that. A cancelled supervisor therefore waits for the other tasks, within bounds, and closes
the session on the server before it ends. Otherwise the locks and ephemerals of each service that is stopped
would stay until they expire.
"""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from corral import errors
from corral.types import State

from .clock import Clock
from .connection import Connection
from .contact import ContactLog
from .dial import Dialer
from .hosts import Resolver
from .machine import Machine
from .read_only import ReadOnlyFallback
from .sasl.base import Mechanism
from .states import ConnectionPhase
from .timer import DeadlineTimer
from .tls import Tls

logger = logging.getLogger("corral.session")

# Closing waits for the server's answer for this part of T at most, and for this many seconds at most.
CLOSE_PART = 1 / 3
CLOSE_SECONDS = 5.0
# Tasks of clients, which do not wait for each other when a program ends.
_OURS: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()


class Supervisor:
    """Runs one session in `loop`. `use` is called with each connection before it is attempted."""

    def __init__(
        self,
        machine: Machine,
        resolver: Resolver,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rng: random.Random,
        connect_timeout: float | None,
        tls: Tls | None,
        contact: ContactLog,
        use: Callable[[Connection], None],
        sasl: Mechanism | None = None,
        fallback: ReadOnlyFallback | None = None,
    ) -> None:
        self.timer = DeadlineTimer(machine, clock, loop, on_tick=self._after_tick, on_error=self._fail)
        self._machine = machine
        self._resolver = resolver
        self._loop = loop
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._dialer = Dialer(
            machine,
            resolver,
            rng,
            clock=clock,
            connect_timeout=connect_timeout,
            tls=tls,
            use=use,
            on_entry=self.timer.rearm,
            contact=contact,
            sasl=sasl,
            fallback=fallback,
        )
        if fallback is not None:
            fallback.on_defect = self._fail
        self._stop: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._is_hurried = False  # whether a second cancel ends every wait

    # Opening and closing

    async def open(self) -> None:
        """Start, and wait until there is a session. On any error nothing is left."""
        self._task = self._loop.create_task(self._supervise(), name="corral supervisor")
        _OURS.add(self._task)
        limit = self._connect_timeout
        try:
            async with asyncio.timeout(limit) as scope:
                await self._ready
        except BaseException as error:
            tried = self._resolver.describe()
            # Not cancelled: a session that is granted in this very turn must be closed on the server, too.
            self._stop_soon()
            await self._wait_down(self._task)
            if isinstance(error, TimeoutError) and scope.expired():
                raise errors.ConnectTimeout(f"no session within connect_timeout={limit} s; {tried}") from None
            raise

    async def _wait_down(self, task: asyncio.Task[None]) -> None:
        """Wait for the end after opening failed. Cancelled once more, do not wait for any server."""
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            self._is_hurried = True
            task.cancel()
            await asyncio.wait([task])
            raise

    async def close(self) -> None:
        """Close the session on the server, and wait until everything is down: bounded by `CLOSE_PART` and
        `CLOSE_SECONDS`. Cancelling the wait does not stop the closing. Raises `InternalError` if a defect
        ended the session."""
        assert self._task is not None
        self._stop_soon()
        await asyncio.wait([self._task])
        if self._failure is not None:
            raise _internal_error(self._failure)

    def established(self) -> None:
        """There is a session."""
        if not self._ready.done():
            self._ready.set_result(None)

    def spawn(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a job beside the session; it is cancelled when the session ends."""
        # Not in a task group of anyio, which can start tasks from within tasks alone: jobs are started from
        # callbacks.
        task = self._loop.create_task(job, name=name)
        _OURS.add(task)
        self._jobs.add(task)
        task.add_done_callback(self._job_done)
        return task

    def _job_done(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    # The task

    async def _supervise(self) -> None:
        dialing = self.spawn(self._dialer.run(), "corral connection")
        dialing.add_done_callback(self._dialing_done)
        try:
            await self._wait_stopped()
            if self._failure is None:
                await self._close_session(dialing)
        except Exception as error:
            self._fail(error)
        finally:
            self._take_down()
            jobs = list(self._jobs)
            for job in jobs:
                job.cancel()
            if jobs:
                await asyncio.wait(jobs)
            await self._resolver.close()

    async def _wait_stopped(self) -> None:
        """Wait until somebody closes the client, or something breaks it."""
        try:
            await asyncio.shield(self._stop)
        except asyncio.CancelledError:
            # The program ends and cancels every task: the tasks that use the client end first.
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            if not self._is_hurried:
                await self._wait_for_others()

    async def _wait_for_others(self) -> None:
        deadline = self._loop.time() + self._closing_bound()
        others = {task for task in asyncio.all_tasks() if task not in _OURS}
        while others and not self._stop.done() and (left := deadline - self._loop.time()) > 0:
            done, _ = await asyncio.wait(
                {*others, self._stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            others.difference_update(done)

    def _closing_bound(self) -> float:
        return min(self._machine.timeout * CLOSE_PART, CLOSE_SECONDS)

    async def _close_session(self, dialing: asyncio.Task[None]) -> None:
        answer: asyncio.Future[Any] = self._loop.create_future()
        # Whatever the outcome, nothing follows from it, also if this task is cancelled first.
        answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        machine = self._machine
        if machine.state is not State.AUTH_FAILED and machine.close(self._clock(), answer):
            if self._dialer.connection is not None:
                self._dialer.connection.flush_soon()
            if machine.phase is ConnectionPhase.UP or not dialing.done():
                await asyncio.wait([answer], timeout=self._closing_bound())
            if not answer.done():
                answer.cancel()
                logger.warning(
                    "session 0x%x could not be closed on a server; its ephemerals stay until it expires",
                    machine.session_id,
                )
        # Drop the connection before the task that may still be making it is cancelled: uvloop does not call
        # `connection_lost` if `create_connection` was cancelled.
        self._dialer.stop()
        connection = self._dialer.connection
        if connection is not None and connection.made:
            connection.drop("the client is closed")
            await asyncio.wait([connection.lost])

    def _take_down(self) -> None:
        self.timer.stop()
        self._machine.end(self._clock(), self._failure)
        if self._dialer.connection is not None:
            self._dialer.connection.drop("the client is closed")
        if self._ready.done():
            return
        if self._failure is not None:
            self._ready.set_exception(_internal_error(self._failure))
        else:
            self._ready.set_exception(errors.ClientClosed("the client was closed"))
        self._ready.exception()  # marks it as retrieved: perhaps nobody waits

    def _stop_soon(self) -> None:
        if not self._stop.done():
            self._stop.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """A defect of ours: end everything, with an error for each waiter."""
        if self._failure is None:
            self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            logger.critical("the client broke: please report this", exc_info=error)
        self._stop_soon()

    def _dialing_done(self, dialing: asyncio.Task[None]) -> None:
        """It ends by itself if no server will ever grant a session."""
        if self._machine.state is State.AUTH_FAILED and not self._ready.done():
            self._ready.set_exception(self._machine.final_error())

    def _after_tick(self) -> None:
        if self._dialer.connection is not None:
            self._dialer.connection.follow_machine()


def _internal_error(failure: Exception) -> errors.InternalError:
    error = errors.InternalError(f"the client broke, please report this: {failure!r}")
    error.__cause__ = failure
    return error
