"""20 sessions on one counter: each adds one, ten times, as fast as it can.

So nearly each add competes with others, and is tried several times. The floor reads the number and sets it by
the version that it has read, until that is not refused; if an answer were lost it would not know whether it
has counted, and neither do the peers. corral's adds are applied exactly once, for which each session creates
and deletes a mark in each turn, and sets it with each add. The sum is checked after each turn.
No budget: with that many who compete, luck decides how often each tries. Requests are counted by the server.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import corral
from bench import SESSION_TIMEOUT, Bench, Meter, Turn, Workload
from clients import Client, load
from server import ROOT, make_nodes, requests_of

SESSIONS = 20
TIMES = 10


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [f"{ROOT}/counters/{name}" for name in bench.clients], b"0")

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        connect, path = load(name), f"{ROOT}/counters/{name}"
        others = [
            await stack.enter_async_context(connect(bench.address, SESSION_TIMEOUT))
            for _ in range(SESSIONS - 1)
        ]
        observer = await stack.enter_async_context(corral.connect(bench.address))
        everyone = [client, *others]
        session_ids = [each.session_id for each in everyone]

        async def turn(meter: Meter) -> None:
            adds = SESSIONS * TIMES
            start = await observer.counter(path, layout="kazoo").get()
            before = await requests_of(bench.address, session_ids)
            with meter(adds):
                await asyncio.gather(*(each.adds_in_turn(path, TIMES) for each in everyone))
            after = await requests_of(bench.address, session_ids)
            meter.counts["requests"] = (after - before) / adds
            counted = await observer.counter(path, layout="kazoo").get() - start
            assert counted == adds, f"{counted} of {adds} adds were counted"

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(name="counters", title="20 sessions on one counter, an add", run=run)
