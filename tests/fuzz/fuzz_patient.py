"""The client that gets the lies, with its workers: how it is entered, observed while it recovers, and
left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection

from fuzz_checks import FINAL, Checks, where_is
from fuzz_liar import Liar
from fuzz_plan import CYCLES, Plan
from fuzz_watchers import WATCHERS
from fuzz_workers import LEAF, Stage

import corral

CLOSING = 6.0
"""A client is closed within so many seconds: 5, and the time to be cancelled."""
STOPPING = 10.0
"""Workers end within so many seconds, in addition to a session timeout if they are cancelled."""
LOOKS_EVERY = 0.25
MAY_CLOSE = {
    "xid", "a_reply", "bits", "byte", "code", "zxid", "the_body_of_another", "request_truncated",
    "request_under_another_number",
}  # fmt: skip
"""The lies after which a client may end with an error: they refuse its credentials, or its last zxid."""

Make = Callable[..., corral.Client]


class Patient:
    """See the module's docstring."""

    def __init__(self, plan: Plan, checks: Checks, liar: Liar, make: Make) -> None:
        self.zk: corral.Client | None = None
        self.tasks: list[asyncio.Task[None]] = []
        """The tasks of its workers."""
        self.honest_since: float | None = None
        """When the lies ended."""
        self._plan = plan
        self._checks = checks
        self._liar = liar
        self._make = make
        self._done: set[str] = set()
        self._progress = asyncio.Event()
        self._leaving = False
        self._final: BaseException | None = None

    def _is_over(self) -> bool:
        return self.honest_since is not None

    # Entering

    async def enter(self, address: str) -> None:
        """Open a client with a session: the first one that gets a session."""
        loop, limit = asyncio.get_running_loop(), self._plan.connect_timeout
        while True:
            self.zk = zk = self._make(
                address, session_timeout=self._plan.timeout, connect_timeout=limit, **self._plan.options
            )
            began, was_over = loop.time(), self.honest_since
            try:
                async with asyncio.timeout(limit + CLOSING + 1):
                    await zk.__aenter__()
                return
            except TimeoutError:
                self._checks.violated("entering hangs")
                raise
            except Exception as error:
                self._checks.error("entering", error)
                late = was_over is not None and began - was_over > self._plan.bound
                if late or not isinstance(error, corral.ConnectTimeout | corral.AuthFailed):
                    self._checks.violated(f"entering fails with {type(error).__name__}", error)
                    raise asyncio.CancelledError from error
                self._checks.require(loop.time() - began <= limit + CLOSING, "entering is late", error)
                # In virtual time a user who retries without a pause would cause a storm of connections that
                # is not the client's.
                await asyncio.sleep(0.1)

    # Working

    def start(self) -> None:
        """Start the workers."""
        for number, name in enumerate(self._plan.workers):
            self.tasks.append(asyncio.create_task(self._work(name, number), name=name))

    async def _work(self, name: str, number: int) -> None:
        assert self.zk is not None
        rng = random.Random(f"{self._plan.seed} {name}")
        is_true = lambda: not self._liar.was_believable  # noqa: E731
        stage = Stage(self.zk, rng, self._checks, number, is_true, self._is_over)
        task = asyncio.current_task()
        assert task is not None
        while not self._leaving:
            counts = self._is_over() or name in WATCHERS
            try:
                await stage.give_up()
                await CYCLES[name](stage)
                if counts and self._is_over():
                    self._is_done(name)
                    await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                self._checks.violated(f"{name} was cancelled, and nobody had")
            except FINAL as error:
                self._is_told(name, error)
                return
            except Exception as error:
                self._checks.error(name, error)
            await stage.pause()

    def _is_done(self, name: str) -> None:
        self._done.add(name)
        self._progress.set()

    def _is_told(self, name: str, error: BaseException) -> None:
        """A worker got an error that says that the client cannot be used any more."""
        self._is_done(name)
        if not self._leaving:
            self._final = error
            may_be = isinstance(error, corral.AuthFailed | corral.EnsembleBehind) and MAY_CLOSE & set(
                self._liar.kinds
            )
            self._checks.require(may_be, f"{name} is told {type(error).__name__}, for no reason", error)

    async def look(self) -> None:
        """Check that no connection is kept if the next answer is not received within half a session
        timeout."""
        assert self.zk is not None
        session, loop = self.zk._session, asyncio.get_running_loop()
        first, since = 0, loop.time()
        while True:
            await asyncio.sleep(LOOKS_EVERY)
            in_flight, timeout = session._machine.requests.in_flight, session.timeout
            due = in_flight[0].xid if in_flight and session.server is not None else 0
            if due != first:
                first, since = due, loop.time()
            elif due and timeout <= 2 * self._plan.timeout:
                waits = loop.time() - since
                said = f"{in_flight[0]} for {waits:.2f} s at T = {timeout:g}"
                in_time = waits <= timeout / 2 + LOOKS_EVERY
                self._checks.require(in_time, "unanswered, and the connection is kept", said)

    # Recovering

    async def recover(self) -> None:
        """Wait until each worker has completed a cycle that began after the last lie, within the time that
        this may take."""
        assert self.zk is not None
        assert self.honest_since is not None
        try:
            async with asyncio.timeout_at(self.honest_since + self._plan.bound):
                while not self._done >= set(self._plan.workers):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            self._tell_of(
                "has not recovered", (each for each in self.tasks if each.get_name() not in self._done)
            )
        try:
            await self._get(self._plan.bound)
        except TimeoutError:
            self._checks.violated("get hangs", f"{self.zk!r}, final: {self._final!r}")
        except FINAL as error:
            self._checks.require(self._final, f"get is told {type(error).__name__}, for no reason", error)
        except Exception as error:
            self._checks.violated(f"get raised {type(error).__name__}", error)

    async def _get(self, limit: float) -> None:
        assert self.zk is not None
        async with asyncio.timeout(limit):
            while True:
                try:
                    await self.zk.get(LEAF)
                    return
                except corral.ConnectionLoss:
                    await asyncio.sleep(0.01)

    def _tell_of(self, what: str, tasks: Collection[asyncio.Task[None]] | object) -> None:
        for task in tasks:  # type: ignore[attr-defined]
            where = where_is(task.get_coro())
            last = where.rpartition(" > ")[2]
            self._checks.violated(f"{task.get_name()} {what} at {last}", f"{self.zk!r}: {where}")

    # Leaving

    async def leave(self, *, workers_first: bool) -> None:
        """Close the client; its workers are cancelled before, or find it closed."""
        assert self.zk is not None
        loop = asyncio.get_running_loop()
        self._leaving = True
        if workers_first:
            for task in self.tasks:
                task.cancel()
            await self._stopped("goes on, cancelled,", self._plan.timeout + STOPPING)
        began = loop.time()
        try:
            async with asyncio.timeout(10 * CLOSING):
                await self.zk.__aexit__(None, None, None)
        except TimeoutError:
            self._checks.violated("leaving hangs")
        except Exception as error:
            self._checks.violated(f"leaving raised {type(error).__name__}", error)
        self._checks.require(loop.time() - began <= CLOSING, "leaving is late", loop.time() - began)
        await self._stopped("goes on, its client closed,", STOPPING)
        try:
            await self._get(1.0)
            self._checks.violated("get works after leaving")
        except TimeoutError:
            self._checks.violated("get hangs after leaving")
        except FINAL:
            pass
        except Exception as error:
            self._checks.violated(f"get raised {type(error).__name__} after leaving", error)

    async def _stopped(self, what: str, limit: float) -> None:
        if self.tasks:
            _, still = await asyncio.wait(self.tasks, timeout=limit)
            self._tell_of(what, [task for task in self.tasks if task in still])
