"""20 sessions on one queue: each takes and acknowledges ten of 200 items of 100 bytes that are there.

So all contend for the first item all the time, and nobody has any work to do in between: the worst case.
kazoo's is its LockingQueue, on the same layout. There is no floor, and aiozk has no queue. The measure that
tells is that of requests, counted by the server. The design has no budget for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack
from typing import cast

import corral
from bench import SESSION_TIMEOUT, Bench, Meter, Turn, Workload
from clients import Client, Consumer, load
from server import ROOT, requests_of

SESSIONS = 20
TIMES = 10
ITEM = b"x" * 100


async def run(bench: Bench) -> None:
    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        connect = load(name)
        others = [
            await stack.enter_async_context(connect(bench.address, SESSION_TIMEOUT))
            for _ in range(SESSIONS - 1)
        ]
        everyone = [cast(Consumer, each) for each in (client, *others)]
        session_ids = [each.session_id for each in (client, *others)]
        path = f"{ROOT}/queue/{name}"

        async def turn(meter: Meter) -> None:
            count = SESSIONS * TIMES
            async with corral.connect(bench.address) as zk:
                await zk.queue(path).put_many([ITEM] * count)
            before = await requests_of(bench.address, session_ids)
            with meter(count):
                await asyncio.gather(*(each.consumes(path, TIMES) for each in everyone))
            after = await requests_of(bench.address, session_ids)
            meter.counts["requests"] = (after - before) / count

        return turn

    having = [name for name in bench.clients if name in ("corral", "kazoo")]
    await dataclasses.replace(bench, clients=having).take_turns(prepare)


WORKLOAD = Workload(name="queue", title="20 sessions on one queue, an item", run=run, main="wall", slow=True)
