"""20 sessions on one lock: each acquires and releases it ten times, and is nearly always in line.

So nearly each of the 200 handoffs is through a watch. The floor has 20 connections. Each creates its node and
lists the line in one write, reads the nearest node ahead with a watch, and waits for the event. It lists the
line again if more than one node was ahead when it joined, since those may have been deleted in any order.
Then it deletes its node. That is five requests, one of which is sent together with another.
Budget: 1.5 times the floor's CPU time for one handoff.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from bench import SESSION_TIMEOUT, Bench, Budget, Meter, Turn, Workload
from clients import Client, load
from server import ROOT, make_nodes, requests_of

SESSIONS = 20
TIMES = 10


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [f"{ROOT}/handoffs/{name}" for name in bench.clients])

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        connect = load(name)
        others = [
            await stack.enter_async_context(connect(bench.address, SESSION_TIMEOUT))
            for _ in range(SESSIONS - 1)
        ]
        everyone = [client, *others]
        session_ids = [each.session_id for each in everyone]

        async def turn(meter: Meter) -> None:
            handoffs = SESSIONS * TIMES
            before = await requests_of(bench.address, session_ids)
            with meter(handoffs):
                await asyncio.gather(
                    *(each.locks_in_turn(f"{ROOT}/handoffs/{name}", TIMES) for each in everyone)
                )
            after = await requests_of(bench.address, session_ids)
            meter.counts["requests"] = (after - before) / handoffs

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="handoffs",
    title="20 sessions on one lock, one handoff",
    run=run,
    budgets=[Budget("cpu", 1.5, of_floor=True)],
)
