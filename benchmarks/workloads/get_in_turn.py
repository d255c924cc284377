"""Sequential get: reads of a node of 100 bytes, each sent when the previous one was answered.

The result is mostly the cost of the event loop: a write, a read and a task to resume for each. The floor does
only that. The design has no budget for this.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import Bench, Meter, Turn, Workload
from clients import Client
from server import ROOT, make_nodes

TIMES = 500
PATH = f"{ROOT}/get-in-turn"


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [PATH], b"x" * 100)

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        async def turn(meter: Meter) -> None:
            with meter(TIMES):
                await client.gets_in_turn(PATH, TIMES)

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(name="get-in-turn", title="sequential get", run=run)
