"""Workers on three real servers that count, queue, share out and do once, and a nemesis (`test_nemesis`)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from base_worker import Trade
from crew import Crew
from outcome import Tell
from plan import SECONDS, SEED, Fault, T, plan
from service_checker import Remains, ServiceVerdict, check_services, idle
from service_worker import SHARDS

import corral
from corral.testing import LocalEnsemble
from nemesis import Nemesis
from support import PATIENCE, until

pytestmark = [pytest.mark.usefixtures("real_servers"), pytest.mark.timeout(120 + 2 * SECONDS)]

WORKERS = 4
TRADES: list[Trade] = ["count", "put", "take", "share", "once"]
SHARD_NAMES = [f"shard {number}" for number in range(SHARDS)]
LONG = (0.5 * T, 2 * T)
"""How long a long stay lasts, in seconds: most are longer than a session."""
LONG_ONES = 0.15
"""The share of long stays. So most of the time a worker is in a body for longer than a session lasts."""


async def test_services_under_a_nemesis(servers: LocalEnsemble, tmp_path: Path, tell: Tell) -> None:
    """X1, Q1, P1: servers are killed, paused and cut off from their peers; workers are killed, and cut off
    from the servers. Each add is counted once, each item that was put is handled, and nothing is had by two
    workers at once: no item, no shard, and no job that must run once, which has one result."""
    async with Crew(
        tmp_path / "services",
        [()] * WORKERS,
        [servers.servers] * WORKERS,
        seed=SEED,
        trades=TRADES,
        long=LONG,
        long_ones=LONG_ONES,
    ) as crew:
        nemesis = Nemesis(servers, crew)
        await nemesis.carry_out(plan(SEED, SECONDS))
        await nemesis.heal()
        crew.hurry()

        async def all_go_on() -> bool:
            return not idle(crew.record.read(), SHARD_NAMES)

        with contextlib.suppress(AssertionError):  # the checker reports what did not
            await until(all_go_on, "everything goes on")
        await crew.end()
        remains = await what_remains(crew)
    verdict = check_services(crew.record.read(), SHARD_NAMES, remains)
    tell(f"services, seed {SEED}, {SECONDS:g} s", verdict, nemesis.done)
    assert not verdict.problems, crew.record.path
    assert nemesis.done.total()


async def what_remains(crew: Crew) -> Remains:
    """The state of the services when the workers have ended. The queue is emptied."""
    async with asyncio.timeout(PATIENCE), corral.connect(crew.hosts) as zk:
        await zk.sync()
        queue, items = zk.queue(f"{crew.root}/queue"), []
        while await queue.size():  # those of workers that were killed wait for the end of their sessions
            async with queue.take() as job:
                items.append((f"item {job.data.decode()}", job.name))
        results = {}
        for name in await zk.children(crew.root):
            if name.startswith("job ") and (record := await zk.once(f"{crew.root}/{name}").record()):
                results[name] = record.data.decode()
        return Remains(await zk.counter(f"{crew.root}/counter").get(), items, results)


STAYS = (2 * T, 3 * T)
"""For how many seconds careless workers handle an item."""
TAKERS = 4
"""How many items each handles at once, so that somebody takes an item soon that another has lost."""
CUTS = 16
"""How often their links are cut, so that answers are lost."""
HOLES = 6
"""How often one of them is cut off for longer than a session lasts. One is enough, most times."""
LOOK = 0.25
"""Seconds between two checks of whether each violation was found."""


async def test_careless_workers_are_found(servers: LocalEnsemble, tmp_path: Path) -> None:
    """The checker finds adds that are repeated blindly, consumers and owners that ignore their cancellation,
    and jobs that are run without a lock. (This shows that the test above can fail.)"""
    leader = await servers.leader()
    cuts = [
        Fault(at, at, "links cut", "a worker", number) for number, at in enumerate(_times(0.2, 0.15, CUTS))
    ]
    holes = [
        Fault(at, at + 2 * T, "links black-holed", "a worker", number)
        for number, at in enumerate(_times(T, 2.5 * T, HOLES))
    ]
    crew = Crew(
        tmp_path / "careless",
        [()] * 2,
        [[leader]] * 2,
        seed=SEED,
        trades=[*TRADES, *["take"] * (TAKERS - 1)],
        way="careless",
        long=STAYS,
        long_ones=1.0,
    )
    verdicts: list[ServiceVerdict] = []

    async def judged() -> bool:
        await asyncio.sleep(LOOK)
        verdict = check_services(crew.record.read())
        verdicts.append(verdict)
        at_once = {overlap.first.thing.split()[0] for overlap in verdict.overlaps}
        return bool(verdict.adds and verdict.results and at_once == {"item", "shard", "job"})

    async with crew:
        raging = asyncio.create_task(Nemesis(servers, crew).carry_out([*cuts, *holes]))
        try:
            await until(judged, "everything is found", 2 * PATIENCE)
        finally:
            raging.cancel()
            await asyncio.wait([raging])
    assert verdicts[-1].problems
    assert not verdicts[-1].failures


def _times(first: float, every: float, count: int) -> list[float]:
    return [first + number * every for number in range(count)]
