"""Pipelined set: 1,000 writes of 100 bytes in flight, each in a task of its own.

The floor sends them in one write, and resolves one future for each as the replies come. The design has no
separate budget for this; it is that of get.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import Bench, Meter, Turn, Workload
from clients import Client
from server import ROOT, make_nodes

IN_FLIGHT = 1000
TIMES = 5
DATA = b"x" * 100


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [f"{ROOT}/set/{name}" for name in bench.clients])

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        async def turn(meter: Meter) -> None:
            with meter(IN_FLIGHT * TIMES):
                for _ in range(TIMES):
                    await client.sets_at_once(f"{ROOT}/set/{name}", DATA, IN_FLIGHT)

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(name="set", title="pipelined set, 1,000 in flight", run=run)
