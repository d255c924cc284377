"""Workers on three real servers, and a nemesis: no two hold a lock at once, and no worker is stuck.

Workers are processes, each with its own links to the servers (`crew`), and record what they do (`record`). A
plan of faults is made from a seed (`plan`) and carried out (`nemesis`). Defects are found in the record
(`checker`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from base_worker import Way
from checker import Verdict, check
from crew import Crew
from outcome import Tell
from plan import SECONDS, SEED, Fault, Kind, Part, T, plan

from corral.testing import LocalEnsemble, LocalServer
from nemesis import Nemesis
from support import until

pytestmark = [pytest.mark.usefixtures("real_servers"), pytest.mark.timeout(120 + 2 * SECONDS)]

LOCKS = [(0, 1, 2), (0, 1, 2), (0,), (0,), (1,), (1,)]
"""The locks that each worker acquires."""

WAY = os.environ.get("CORRAL_NEMESIS_WAY", "corral")
"""How workers hold the lock, see `base_worker.Way`. The defects of another way, or of kazoo's, are reported
as failures."""


async def rage(servers: LocalEnsemble, crew: Crew, faults: list[Fault]) -> tuple[Verdict, Nemesis]:
    """Carry out a plan, wait until everything has settled, and check the record."""
    nemesis = Nemesis(servers, crew)
    await nemesis.carry_out(faults)
    await nemesis.heal()
    with contextlib.suppress(AssertionError):  # the checker reports those that did not
        await crew.all_enter()
    await crew.end()
    return check(crew.record.read(), await crew.written()), nemesis


async def test_no_two_hold_it_at_once(servers: LocalEnsemble, tmp_path: Path, tell: Tell) -> None:
    """L1, L4, L5, S3: servers are killed, paused and cut off from their peers; workers are killed, and cut
    off from the servers, also for longer than a session lasts. No two are in the body at once, tokens and
    fenced writes are in order, and each worker enters again."""
    async with Crew(
        tmp_path / "exclusion", LOCKS, [servers.servers] * len(LOCKS), seed=SEED, way=WAY
    ) as crew:
        verdict, nemesis = await rage(servers, crew, plan(SEED, SECONDS))
    tell(f"{WAY}, seed {SEED}, {SECONDS:g} s", verdict, nemesis.done)
    assert not verdict.problems, crew.record.path
    assert verdict.reasons["done"]
    assert nemesis.done.total()


async def test_tokens_are_in_order_where_overlaps_cannot_be_excluded(
    servers: LocalEnsemble, tmp_path: Path, tell: Tell
) -> None:
    """L5, S9: workers are also stopped by SIGSTOP, so a holder can sleep through the loss of its lock. It is
    notified when it wakes; tokens and fenced writes are in order nevertheless."""
    seconds = SECONDS * 0.6
    async with Crew(tmp_path / "stops", LOCKS, [servers.servers] * len(LOCKS), seed=SEED, way=WAY) as crew:
        verdict, nemesis = await rage(servers, crew, plan(SEED, seconds, stops=True))
    tell(f"{WAY}, with SIGSTOP, seed {SEED}, {seconds:g} s", verdict, nemesis.done)
    assert not verdict.problems, crew.record.path
    assert nemesis.done["worker stopped"]


BREAKING = 2 * T
"""Seconds of a fault in which a broken lock fails: the end of a session, and some time for two workers to be
in."""
STAY = 3 * T
"""Seconds that a holder stays then: longer than the fault."""
LOOK = 0.25
"""Seconds between two checks of whether a violation was found."""


async def test_a_broken_lock_is_found(servers: LocalEnsemble, tmp_path: Path) -> None:
    """The checker finds a body that ignores its cancellation; a lease by pings, behind a server that is cut
    off; and unfenced writes of a worker that was stopped. (This shows that the tests here can fail.)"""
    leader, followers = await servers.leader(), await servers.followers()

    async def run(
        way: Way, known: Sequence[LocalServer], kind: Kind, part: Part, found: str, *, quiet: float = 1.0
    ) -> Verdict:
        """Run two workers, each with one server. There is one fault, and another for each next holder, until
        `found` accepts the verdict. (On a machine that stalls it may take more than one.)"""
        faults = [Fault(begin, begin + BREAKING, kind, part, 0) for begin in (0.2, STAY, 2 * STAY)]
        crew = Crew(
            tmp_path / way.replace(" ", "-"),
            [(0,)] * len(known),
            [[server] for server in known],
            seed=SEED,
            way=way,
            long=(STAY, STAY),
            long_ones=1.0,
            quiet_ones=quiet,
        )
        verdicts: list[Verdict] = []

        async def judged() -> bool:
            await asyncio.sleep(LOOK)
            written = await crew.written() if found == "unfenced" else ()
            verdicts.append(check(crew.record.read(), written))
            return bool(getattr(verdicts[-1], found))

        async with crew:
            raging = asyncio.create_task(Nemesis(servers, crew).carry_out(faults))
            try:
                await until(judged, f"{way}: it is found")
            finally:
                raging.cancel()
                await asyncio.wait([raging])
        return verdicts[-1]

    both = [leader, leader]
    runs: list[asyncio.Task[Verdict]] = []
    async with asyncio.TaskGroup() as group:
        for running in (
            run("deaf", both, "links black-holed", "the holder", "overlaps"),
            run("by ping", followers, "server cut off", "the holder's server", "overlaps"),
            run("deaf and unfenced", both, "worker stopped", "the holder", "unfenced", quiet=0.0),
        ):
            runs.append(group.create_task(running))
    for verdict in [running.result() for running in runs]:
        assert verdict.problems
        assert not verdict.disorder
        assert not verdict.failures
