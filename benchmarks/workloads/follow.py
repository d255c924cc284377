"""5,000 watched nodes: all are changed at once, and each change is seen by the node's watcher.

A watcher is as in `watchers`. Another process changes the nodes. The floor has a task for each node, which
waits for the event, reads with a watch, and decodes data and Stat.
Budget: 1.5 times the floor's CPU time for one change seen.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import Bench, Budget, Meter, Turn, Workload
from clients import Client, Tally
from server import ROOT, make_nodes
from writer import writer

COUNT = 5000


async def run(bench: Bench) -> None:
    paths = {name: [f"{ROOT}/follow/{name}/{number}" for number in range(COUNT)] for name in bench.clients}
    await make_nodes(bench.address, [path for each in paths.values() for path in each])

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        source = await stack.enter_async_context(writer(bench.address, paths[name]))
        tally = Tally(COUNT)
        all_started = tally.expect(b"")
        await client.follow(paths[name], tally)
        await all_started

        async def turn(meter: Meter) -> None:
            with meter(COUNT):
                await source.change(tally)

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="follow",
    title="5,000 watched nodes, one change seen",
    run=run,
    budgets=[Budget("cpu", 1.5, of_floor=True)],
)
