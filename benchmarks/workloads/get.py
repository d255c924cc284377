"""Pipelined get: 1,000 reads of a node of 100 bytes in flight, each in a task of its own.

The floor sends them in one write, and resolves one future for each as the replies come.
Budget: 1.3 times the floor's CPU time for one read.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import Bench, Budget, Meter, Turn, Workload
from clients import Client
from server import ROOT, make_nodes

IN_FLIGHT = 1000
TIMES = 10
PATH = f"{ROOT}/get"


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [PATH], b"x" * 100)

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        async def turn(meter: Meter) -> None:
            with meter(IN_FLIGHT * TIMES):
                for _ in range(TIMES):
                    await client.gets_at_once(PATH, IN_FLIGHT)

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="get",
    title="pipelined get, 1,000 in flight",
    run=run,
    budgets=[Budget("cpu", 1.3, of_floor=True)],
)
