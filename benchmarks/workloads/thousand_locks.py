"""A thousand locks at once from one client: acquire 1,000 different locks, then release all of them.

Each acquire and each release runs in its own task, made by the workload, as a caller would do several things
at once; for kazoo it is a thread. The floor adds no other task, and only two futures, for the create and the
list.
Budget: 1.5 times the floor's CPU time for one lock.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import Bench, Budget, Meter, Turn, Workload
from clients import Client
from server import ROOT, make_nodes, requests_of

COUNT = 1000


async def run(bench: Bench) -> None:
    paths = {name: [f"{ROOT}/locks/{name}/{number}" for number in range(COUNT)] for name in bench.clients}
    await make_nodes(bench.address, [path for each in paths.values() for path in each])

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        async def turn(meter: Meter) -> None:
            before = await requests_of(bench.address, [client.session_id])
            with meter(COUNT):
                await client.locks_at_once(paths[name])
            after = await requests_of(bench.address, [client.session_id])
            meter.counts["requests"] = (after - before) / COUNT

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="thousand-locks",
    title="1,000 locks at once from one client",
    run=run,
    budgets=[Budget("cpu", 1.5, of_floor=True)],
)
