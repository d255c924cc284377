"""One run: a scenario, a liar and the weather from one seed; first lies, then honesty; and what it is held to.

    python tests/fuzz/fuzz_run.py 1234 [1235 ...]   # tells what was done, and what was wrong

A run is the same each time for the same seed and the same PYTHONHASHSEED.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from fuzz_checks import FINAL, Checks, Log, summary, where_is
from fuzz_liar import Liar, Weather, choose_style, expire_all
from fuzz_loop import MeasuredLoop, Spins
from fuzz_relay import LyingProxy
from fuzz_watchers import LAST_NAME, WATCHERS
from fuzz_workers import LAST, LEAF, WATCHED, WORKERS, Cycle, Stage

import corral
from corral.testing import EmbeddedServer

CLOSING = 6.0
"""Seconds within which a client is closed: 5, and what it takes to be cancelled."""
LONGEST_TURN = 1.0
"""Seconds of processor time that one turn of the loop may take."""
REQUESTS, CONNECTS, LINES = 2000, 40, 20
"""How many there may be in a second, on average and beside a start."""
NEW_IN_3_6 = ("watching_tree", "watching_some", "watching_raw", "caching")

Make = Callable[..., corral.Client]


@dataclass
class Report:
    """What a run has shown."""

    seed: int
    scenario: str = ""
    violations: list[str] = field(default_factory=list)
    lies: list[str] = field(default_factory=list)
    weather: list[str] = field(default_factory=list)
    numbers: str = ""
    longest: float = 0.0

    def __str__(self) -> str:
        done = sorted(self.lies + self.weather, key=lambda each: float(each.split()[0]))
        left_out = [f"... {len(done) - 60} more"] if len(done) > 60 else []
        lines = [f"seed {self.seed}: {self.scenario}", *self.violations, *done[:60], *left_out, self.numbers]
        return "\n  ".join(lines)


def run(seed: int, make: Make = corral.connect) -> Report:
    """Run a seed. `make` makes the client that is lied to."""
    one = Run(seed, make)
    rng = random.Random(f"loop {seed}")
    latency = rng.choice(((0.00002, 0.0001), (0.0005, 0.003)))
    fragment = rng.choice((*(None,) * 8, 30, 200))
    with _observed(one.checks), mock.patch("os.urandom", random.Random(seed).randbytes):
        loop = MeasuredLoop(seed=seed, latency=latency, fragment=fragment)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(one.main(loop))
        except Spins as spins:
            one.checks.violated("the loop spins", spins)
        one.report.longest = loop.longest
        del loop, runner
        gc.collect()  # "exception was never retrieved" is said when a future goes
    one.report.violations = one.checks.violations
    return one.report


class Run:
    """See `run`."""

    def __init__(self, seed: int, make: Make) -> None:
        self.checks = Checks()
        self.report = Report(seed)
        self._seed = seed
        self._make = make
        self._rng = rng = random.Random(seed)
        self._timeout: float = rng.choice((1.0, 2.0, 4.0, 4.0, 10.0))
        self._bound = 6 * self._timeout + 30
        self._version: Any = rng.choice(("3.8", "3.8", "3.8", "3.9", "3.5"))
        self._lies_from_the_start = rng.random() < 0.3
        self._leaves_early = rng.random() < 0.1
        self._options = {"lease": "ping"} if rng.random() < 0.1 else {}
        if rng.random() < 0.2:
            self._options["auth"] = [("digest", b"user:secret")]  # type: ignore[assignment]
        every = {**WORKERS, **WATCHERS}
        names = [name for name in every if self._version != "3.5" or name not in NEW_IN_3_6]
        self._cycles = {name: every[name] for name in rng.sample(names, k=rng.choice((1, 2, 4, 6)))}
        self._done: set[str] = set()
        self._progress = asyncio.Event()
        self._over = False
        self._leaving = False
        self._final: BaseException | None = None

    # The timeline

    async def main(self, loop: MeasuredLoop) -> None:
        """All of it."""
        task = asyncio.current_task()
        assert task is not None
        complaints: list[str] = []
        loop.set_exception_handler(
            lambda _, context: complaints.append(f"{context['message']}: {context.get('exception')!r:.300}")
        )
        self._began, self._requests = loop.time(), 0
        try:
            async with asyncio.timeout(10 * self._timeout + 2 * self._bound + 100):
                async with self._stage(loop, task) as (server, proxy, other):
                    await self._play(loop, server, proxy, other)
        except TimeoutError:
            self.checks.violated("the run hangs", where_is(task.get_coro()))
        except asyncio.CancelledError:
            task.uncancel()
            self.checks.require(self.checks.violations, "the run was cancelled, and nobody had")
        for _ in range(10):
            await asyncio.sleep(0)
        left = [each for each in asyncio.all_tasks() if each is not task]
        for each in left:
            self.checks.violated(f"a task is left: {where_is(each.get_coro())}", each)
        for timer in getattr(loop, "_scheduled", ()):
            if not timer.cancelled() and not left:
                self.checks.violated("a timer is left", timer)
        for complaint in complaints:
            self.checks.violated(f"only the loop saw {complaint.partition(':')[0]}", complaint)
        self.checks.require(loop.longest < LONGEST_TURN, "the loop is blocked", f"{loop.longest:.1f} s")

    @contextlib.asynccontextmanager
    async def _stage(
        self, loop: MeasuredLoop, task: asyncio.Task[Any]
    ) -> AsyncIterator[tuple[EmbeddedServer, LyingProxy, corral.Client]]:
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(EmbeddedServer(seed=self._seed, version=self._version))
            other = await stack.enter_async_context(corral.connect(server.address))
            proxy = await stack.enter_async_context(LyingProxy(server.address))

            def count() -> None:
                self._requests += 1
                if self._requests > REQUESTS * (loop.time() - self._began) + 5000 and not self.checks.violations:
                    self.checks.violated("a storm of requests", f"{self._requests} in {loop.time() - self._began} s")
                    task.cancel()

            proxy.on_request = count
            for path in (WATCHED, LEAF, "/own", "/lines"):
                await other.create(path, b"first")
            yield server, proxy, other

    async def _play(
        self, loop: MeasuredLoop, server: EmbeddedServer, proxy: LyingProxy, other: corral.Client
    ) -> None:
        rng, log = self._rng, Log(self.checks)
        style = choose_style(rng)
        self._liar = liar = Liar(rng, style, loop.time)
        weather = Weather(rng, proxy, server, self._timeout)
        lies = ", ".join(lie.name for lie in style.lies[:4])
        self.report.scenario = (
            f"T={self._timeout:g}, server {self._version}, {', '.join(self._cycles)}; {style.name} ({lies}) at "
            f"{style.rate:g} of {style.target or 'all'}, at most {style.most}, {self._options or ''}"
            f"{', from the start' if self._lies_from_the_start else ''}{', leaves early' if self._leaves_early else ''}"
        )
        self.report.lies, self.report.weather = liar.told, weather.told
        logger = logging.getLogger("corral")
        logger.addHandler(log)
        tasks: list[asyncio.Task[None]] = []
        background = [asyncio.create_task(self._stir(other)), asyncio.create_task(self._rival(other))]
        if style.name == "honest" or rng.random() < 0.3:
            background.append(asyncio.create_task(weather.run()))
        if self._lies_from_the_start:
            proxy.tell = liar.tell
        directing = asyncio.create_task(self._direct(loop, proxy, other, background))
        try:
            zk = await self._enter(loop, proxy)
            tasks = [
                asyncio.create_task(self._work(name, cycle, zk, number), name=name)
                for number, (name, cycle) in enumerate(self._cycles.items())
            ]
            background.append(asyncio.create_task(self._sample(loop, zk)))
            if not self._leaves_early:
                await directing
                await self._recovered(loop, zk, tasks)
            else:
                await asyncio.sleep(rng.uniform(0, 3 * self._timeout))
            await self._leave(loop, zk, tasks)
        finally:
            for task in (directing, *background, *tasks):
                task.cancel()
            await asyncio.wait((directing, *background, *tasks))
            with contextlib.suppress(Exception):
                await self._zk.close()  # where the run was broken off
            if not directing.cancelled() and directing.exception():
                raise directing.exception() or AssertionError
            logger.removeHandler(log)
            took = loop.time() - self._began
            self.report.numbers = (
                f"{took:.1f} s, {self._requests} requests, {proxy.accepted} connections, {log.lines} lines, "
                f"{len(liar.told)} lies: {', '.join(sorted(liar.kinds))}"
            )
        self.checks.require(proxy.accepted <= CONNECTS * took + 40, "a storm of connects", self.report.numbers)
        self.checks.require(log.lines <= LINES * took + 200, "too much is logged", self.report.numbers)

    async def _direct(
        self, loop: MeasuredLoop, proxy: LyingProxy, other: corral.Client, background: list[asyncio.Task[None]]
    ) -> None:
        """Lies, and then honesty: whoever was in the middle leaves, and what he has left is cleared away."""
        rng = self._rng
        await asyncio.sleep(rng.uniform(0, self._timeout))
        proxy.tell = self._liar.tell
        await asyncio.sleep(self._timeout * rng.choice((0.5, 1.0, 2.0, 4.0)))
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        proxy.tell = None
        self._over = True
        self._honest_at = loop.time()
        self._liar.note("honest from here on")
        await proxy.cut(reset=rng.random() < 0.5)
        if rng.random() < 0.4:
            await expire_all(proxy)
            self._liar.note("its sessions were ended")
        # The nodes of which a client was told that they were never made are in its lines for ever.
        await _until_done(lambda: other.delete("/lines", recursive=True), corral.NoNode)
        for path in (WATCHED, LEAF, "/own", f"{WATCHED}/{LAST_NAME}"):
            await _until_done(lambda path=path: other.create(path), corral.NodeExists)
            await _until_done(lambda path=path: other.set(path, LAST))
        if "following_leaders" not in self._cycles:
            return
        with contextlib.suppress(corral.LockLost):
            async with other.election("/lines/election"):
                await asyncio.sleep(2.0)  # a leader that is new, and gone again

    async def _enter(self, loop: MeasuredLoop, proxy: LyingProxy) -> corral.Client:
        limit = self._rng.choice((2.0, 15.0))
        while True:
            self._zk = zk = self._make(
                proxy.address, session_timeout=self._timeout, connect_timeout=limit, **self._options
            )
            was_over, began = self._over, loop.time()
            try:
                async with asyncio.timeout(limit + CLOSING + 1):
                    await zk.__aenter__()
                return zk
            except TimeoutError:
                self.checks.violated("entering hangs")
                raise
            except Exception as error:
                self.checks.error("entering", error)
                late = was_over and loop.time() - self._honest_at > self._bound
                if late or not isinstance(error, corral.ConnectTimeout | corral.AuthFailed):
                    self.checks.violated(f"entering fails with {type(error).__name__}", error)
                    raise asyncio.CancelledError from error
                self.checks.require(loop.time() - began <= limit + CLOSING, "entering is late", error)

    async def _work(self, name: str, cycle: Cycle, zk: corral.Client, number: int) -> None:
        rng = random.Random(f"{self._seed} {name}")
        stage = Stage(zk, rng, self.checks, number, lambda: not self._liar.was_believable, lambda: self._over)
        task = asyncio.current_task()
        assert task is not None
        while True:
            counts = self._over or name in WATCHERS
            try:
                await cycle(stage)
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                self.checks.violated(f"{name} was cancelled, and nobody had")
            except FINAL as error:
                self._ended(name, error)
                return
            except Exception as error:
                self.checks.error(name, error)
                await asyncio.sleep(0.05)
            else:
                if self._leaving:
                    return
                if counts and self._over:
                    self._done.add(name)
                    self._progress.set()
                    await asyncio.sleep(0.5)
            await stage.pause()

    def _ended(self, name: str, error: BaseException) -> None:
        """A worker was told that the client is of no use any more."""
        self._done.add(name)
        self._progress.set()
        if self._leaving:
            return
        self._final = error
        lied = self._liar.was_believable or self._liar.kinds & {"xid", "drip"}
        may_be = lied and (isinstance(error, corral.AuthFailed | corral.EnsembleBehind))
        self.checks.require(may_be, f"{name} is told {type(error).__name__}, for no reason", error)

    async def _recovered(self, loop: MeasuredLoop, zk: corral.Client, tasks: list[asyncio.Task[None]]) -> None:
        """Wait until each worker has got through a cycle; or until the time is up."""
        try:
            async with asyncio.timeout_at(self._honest_at + self._bound):
                while not self._done >= set(self._cycles):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            for task in tasks:
                if task.get_name() not in self._done:
                    where = where_is(task.get_coro())
                    self.checks.violated(
                        f"{task.get_name()} has not recovered at {where.rpartition(' > ')[2]}", f"{zk}: {where}"
                    )
        try:
            async with asyncio.timeout(self._bound):
                while True:
                    try:
                        await zk.get(LEAF)
                        break
                    except corral.ConnectionLoss:
                        continue
        except TimeoutError:
            self.checks.violated("get hangs", f"{zk!r}, final: {self._final!r}")
        except FINAL as error:
            self.checks.require(self._final, f"get is told {type(error).__name__}, for no reason", error)
        except Exception as error:
            self.checks.violated(f"get raised {type(error).__name__}", error)

    async def _leave(self, loop: MeasuredLoop, zk: corral.Client, tasks: list[asyncio.Task[None]]) -> None:
        self._leaving = True
        if self._rng.random() < 0.5:
            await self._stopped(tasks, cancel=True)
        began = loop.time()
        try:
            async with asyncio.timeout(60):
                await zk.__aexit__(None, None, None)
        except TimeoutError:
            self.checks.violated("leaving hangs")
        except Exception as error:
            self.checks.violated(f"leaving raised {type(error).__name__}", error)
        self.checks.require(loop.time() - began <= CLOSING, "leaving is late", loop.time() - began)
        await self._stopped(tasks, cancel=False)
        try:
            async with asyncio.timeout(1):
                await zk.get(LEAF)
            self.checks.violated("get works after leaving")
        except TimeoutError:
            self.checks.violated("get hangs after leaving")
        except FINAL:
            pass
        except Exception as error:
            self.checks.violated(f"get raised {type(error).__name__} after leaving", error)

    async def _stopped(self, tasks: list[asyncio.Task[None]], *, cancel: bool) -> None:
        """Each worker ends soon: it is cancelled, or the client is closed."""
        for task in tasks:
            if cancel:
                task.cancel()
        how = "cancelled" if cancel else "its client closed"
        _, still = await asyncio.wait(tasks, timeout=self._timeout + 10 if cancel else 10)
        for task in still:
            where = where_is(task.get_coro())
            self.checks.violated(f"{task.get_name()} goes on, {how}, at {where.rpartition(' > ')[2]}", where)

    # Others

    async def _sample(self, loop: MeasuredLoop, zk: corral.Client) -> None:
        """No connection is kept on which a request has no answer for half a session timeout."""
        session = zk._session
        while True:
            await asyncio.sleep(0.25)
            in_flight, timeout = session._machine.requests.in_flight, session.timeout
            if in_flight and session.server is not None and timeout <= 2 * self._timeout:
                waits = loop.time() - in_flight[0].sent_at
                said = f"{in_flight[0]} for {waits:.2f} s at T = {timeout:g}"
                self.checks.require(waits <= timeout / 2 + 0.5, "unanswered, and the connection is kept", said)

    async def _stir(self, other: corral.Client) -> None:
        """Change what is watched."""
        rng = random.Random(f"{self._seed} stir")
        while True:
            await asyncio.sleep(rng.choice((0.01, 0.1, 0.5)))
            path = rng.choice((WATCHED, *(f"{WATCHED}/{number}" for number in range(3))))
            with contextlib.suppress(corral.ServerError, corral.ConnectionLoss):
                await rng.choice(
                    (
                        lambda path=path: other.set(path, rng.randbytes(3)),
                        lambda path=path: other.create(f"{path}/x" if path == WATCHED else path),
                        lambda path=path: other.delete(f"{path}/x" if path == WATCHED else path, recursive=True),
                    )
                )()

    async def _rival(self, other: corral.Client) -> None:
        """Somebody else takes turns."""
        rng = random.Random(f"{self._seed} rival")
        while True:
            await asyncio.sleep(rng.choice((0.01, 0.1, 0.5)))
            recipe: Any = rng.choice(
                (
                    other.lock("/lines/lock"), other.rwlock("/lines/rw").write(), other.rwlock("/lines/rw").read(),
                    other.election("/lines/election"), other.semaphore("/lines/semaphore", 2),
                )
            )  # fmt: skip
            with contextlib.suppress(corral.SessionError, corral.LimitMismatch, corral.ConnectionLoss, TimeoutError):
                async with asyncio.timeout(1), recipe:
                    await asyncio.sleep(rng.choice((0.01, 0.3)))


async def _until_done(act: Callable[[], Any], *done: type[Exception]) -> None:
    """Have something done that does no harm when it is done twice."""
    while True:
        try:
            await act()
            return
        except done:
            return
        except (corral.ConnectionLoss, corral.ReplyError):
            continue


@contextlib.contextmanager
def _observed(checks: Checks) -> Iterator[None]:
    """Take note of what Python itself says: of resources, and of errors that nobody could be told of."""

    def unraisable(said: Any) -> None:
        checks.violated(f"unraisable {said.exc_type.__name__}", f"{said.exc_value!r} {said.err_msg} {said.object!r}")

    gc.collect()
    gc.freeze()  # what is there by now is not looked through after each run
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
        for each in told:
            checks.violated(f"{each.category.__name__} {each.filename.rpartition('/')[2]}", each.message)
    finally:
        sys.unraisablehook = hook


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    for argument in sys.argv[1:]:
        found = run(int(argument))
        print(found, f"\n  {summary(found.violations) or 'nothing is wrong'}")
