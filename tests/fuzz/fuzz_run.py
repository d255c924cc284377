"""One run: a client, a liar and network faults from one seed; first with lies, then without; and the checks.

    python tests/fuzz/fuzz_run.py 1234 [1235 ...]   # shows what was done, and what was wrong

A run is the same each time for the same seed and the same PYTHONHASHSEED.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import resource
import sys
import warnings
from collections.abc import Iterator, Sequence
from unittest import mock

from fuzz_checks import Checks, Log, where_is
from fuzz_liar import Liar, Weather, expire_all
from fuzz_loop import MeasuredLoop, Spins
from fuzz_others import clear_away, come_and_go, prepare, stir, take_turns
from fuzz_patient import Make, Patient
from fuzz_plan import Plan, Report, make_plan
from fuzz_relay import LyingProxy

import corral
from corral.testing import EmbeddedServer

MOST_MEMORY = 300_000
"""KiB by which the process may grow in one run."""
LONGEST_TURN = 1.0
"""Seconds of processor time that one turn of the loop may take."""
REQUESTS, CONNECTS, LINES = 2000, 40, 20
"""How many there may be in a second, on average."""
REQUESTS_AT_ONCE, CONNECTS_AT_ONCE, LINES_AT_ONCE = 5000, 40, 200
REQUESTS_PER_LIST = 25_000
"""If a server claims that there are ten thousand names, each of them is read."""


def run(seed: int, make: Make = corral.connect, workers: Sequence[str] | None = None) -> Report:
    """Run a seed. `make` makes the client that gets the lies; `workers` replaces the seed's workers."""
    checks = Checks()
    report = Report(make_plan(seed, workers), checks.violations)
    rng = random.Random(f"{seed} network")
    memory = _most_memory()
    latency = rng.choice(((0.00002, 0.0001), (0.0005, 0.003)))
    fragment = rng.choice((*(None,) * 8, 100, 500))
    # GUIDs are determined by the seed, too.
    with _observed(checks), mock.patch("os.urandom", random.Random(f"{seed} names").randbytes):
        loop = MeasuredLoop(seed=seed, latency=latency, fragment=fragment)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(Run(loop, report, checks, make).main())
        except Spins as spins:
            checks.violated("the loop spins", spins)
        checks.require(loop.longest < LONGEST_TURN, "the loop is blocked", f"{loop.longest:.1f} s")
        del runner
        gc.collect()  # futures log "exception was never retrieved" when they are collected
    grown = _most_memory() - memory
    checks.require(grown < MOST_MEMORY, "too much memory", f"{grown:,} KiB more")
    return report


def _most_memory() -> int:
    """The peak memory of the process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Run:
    """What happens in the event loop of a run."""

    def __init__(self, loop: MeasuredLoop, report: Report, checks: Checks, make: Make) -> None:
        self._loop = loop
        self._report = report
        self._plan: Plan = report.plan
        self._checks = checks
        self._rng = random.Random(f"{self._plan.seed} run")
        self._liar = Liar(self._rng, self._plan.style, loop.time)
        report.lies = self._liar.told
        self._patient = Patient(self._plan, checks, self._liar, make)
        self._log = Log(checks)
        self._began = loop.time()
        self._requests = 0
        self._is_stormy = False

    async def main(self) -> None:
        """The whole run; afterwards nothing is left."""
        task, complaints = asyncio.current_task(), list[str]()
        assert task is not None
        self._task = task
        self._loop.set_exception_handler(
            lambda _, context: complaints.append(f"{context['message']}: {context.get('exception')!r:.300}")
        )
        logger = logging.getLogger("corral")
        logger.addHandler(self._log)
        try:
            async with asyncio.timeout(10 * self._plan.timeout + 2 * self._plan.bound + 100):
                await self._play()
        except TimeoutError:
            self._checks.violated("the run hangs", where_is(task.get_coro()))
        except asyncio.CancelledError:
            task.uncancel()
            self._checks.require(self._checks.violations, "the run was cancelled, and nobody had")
        finally:
            logger.removeHandler(self._log)
        for _ in range(10):
            await asyncio.sleep(0)
        left = [each for each in asyncio.all_tasks() if each is not task]
        for each in left:
            self._checks.violated(f"a task is left: {where_is(each.get_coro())}", each)
        timers = [timer for timer in self._loop._scheduled if not timer.cancelled()]
        self._checks.require(left or not timers, "a timer is left", timers)
        for complaint in complaints:
            self._checks.violated(f"only the loop saw {complaint.partition(':')[0]}", complaint)

    async def _play(self) -> None:
        plan = self._plan
        async with (
            EmbeddedServer(seed=plan.seed, version=plan.version) as server,
            corral.connect(server.address) as other,
            LyingProxy(server.address) as proxy,
        ):
            await prepare(other)
            proxy.on_request = self._on_request
            weather = Weather(self._rng, proxy, server, plan.timeout)
            self._report.weather = weather.told
            background = [
                asyncio.create_task(stir(other, plan.seed)),
                asyncio.create_task(take_turns(other, plan.seed)),
            ]
            if plan.has_weather:
                background.append(asyncio.create_task(weather.run()))
            directing = asyncio.create_task(self._direct(proxy, other, background))
            try:
                await self._treat(proxy.address, directing)
            finally:
                await _end(directing, *background, *self._patient.tasks)
                with contextlib.suppress(Exception):
                    if self._patient.zk is not None:
                        await self._patient.zk.close()  # in case the run was aborted
                self._count(proxy.accepted)
            if not directing.cancelled():
                directing.result()

    async def _treat(self, address: str, directing: asyncio.Task[None]) -> None:
        """The life of the client that gets the lies."""
        patient = self._patient
        await patient.enter(address)
        patient.start()
        looking = asyncio.create_task(patient.look())
        try:
            if self._plan.leaves_after is None:
                await directing
                await patient.recover()
            else:
                await asyncio.sleep(self._plan.leaves_after)
        finally:
            await _end(looking)
        await patient.leave(workers_first=self._rng.random() < 0.5)

    async def _direct(
        self, proxy: LyingProxy, other: corral.Client, background: list[asyncio.Task[None]]
    ) -> None:
        """First lies, then none: the proxy stops lying, connections are cut, and what the lies left is
        cleaned up."""
        plan = self._plan
        if plan.honest_before is not None:
            await asyncio.sleep(plan.honest_before)
        proxy.tell = self._liar.tell
        await asyncio.sleep(plan.lying)
        await _end(*background)
        proxy.tell = None
        self._patient.honest_since = self._loop.time()
        self._liar.note("honest from here on")
        await proxy.cut(reset=self._rng.random() < 0.5)
        if plan.ends_sessions:
            await expire_all(proxy)
            self._liar.note("its sessions were ended")
        await clear_away(other)
        if "following_leaders" in plan.workers:
            background.append(asyncio.create_task(come_and_go(other)))

    def _on_request(self) -> None:
        self._requests += 1
        took = self._loop.time() - self._began
        may_be = REQUESTS * took + REQUESTS_AT_ONCE + REQUESTS_PER_LIST * self._liar.kinds["names"]
        if self._requests > may_be and not self._is_stormy:
            self._is_stormy = True
            self._checks.violated("a storm of requests", f"{self._requests} in {took:.1f} s")
            self._task.cancel()  # otherwise it would take for ever

    def _count(self, accepted: int) -> None:
        took, lines, told = self._loop.time() - self._began, self._log.lines, self._liar.told
        said = self._report.numbers = (
            f"{took:.1f} s, {self._requests} requests, {accepted} connections, {lines} lines, "
            f"{len(told)} lies: {', '.join(sorted(self._liar.kinds))}"
        )
        self._checks.require(accepted <= CONNECTS * took + CONNECTS_AT_ONCE, "a storm of connects", said)
        self._checks.require(lines <= LINES * took + LINES_AT_ONCE, "too much is logged", said)


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancel them, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@contextlib.contextmanager
def _observed(checks: Checks) -> Iterator[None]:
    """Record what Python itself reports: unclosed resources, and exceptions that nobody could catch."""

    def unraisable(said: sys.UnraisableHookArgs) -> None:
        name = said.exc_type.__name__
        checks.violated(f"unraisable {name}", f"{said.exc_value!r} {said.err_msg} {said.object!r}")

    gc.collect()
    gc.freeze()  # existing objects are not examined after each run
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
    for argument in sys.argv[1:]:
        found = run(int(argument))
        print(found, f"\n  {found.signatures or 'nothing is wrong'}")
