"""One change seen by 1,000 independent watchers of a path in one client.

With asyncio a watcher is a task in an ``async for``; with the peers it is a callback. (aiozk reads once for
all callbacks that share one `DataWatcher` object, but independent parts of a program do not share one.)
Another process changes the node. The floor reads once for each change, with the watch, and then resolves the
futures of 1,000 tasks. The figure is the CPU time for one watcher to see one change.
Budget: one read for each change.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import Bench, Budget, Meter, Turn, Workload
from clients import Client, Tally
from server import ROOT, make_nodes, requests_of
from writer import writer

COUNT = 1000
CHANGES = 5


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [f"{ROOT}/watchers/{name}" for name in bench.clients])

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        path = f"{ROOT}/watchers/{name}"
        source = await stack.enter_async_context(writer(bench.address, [path]))
        tally = Tally(COUNT)
        all_started = tally.expect(b"")
        await client.watch(path, COUNT, tally)
        await all_started

        async def turn(meter: Meter) -> None:
            before = await requests_of(bench.address, [client.session_id])
            with meter(COUNT * CHANGES):
                for _ in range(CHANGES):
                    await source.change(tally)
            after = await requests_of(bench.address, [client.session_id])
            meter.counts["reads"] = (after - before) / CHANGES

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="watchers",
    title="one change, 1,000 watchers of the node",
    run=run,
    budgets=[Budget("reads", 1)],
)
