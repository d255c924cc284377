"""10,000 watched paths in one client: the CPU time and the memory for setting the watches.

A watcher is as in `follow`, and so is the floor's. The figures, for each watcher, are the CPU time from
nothing until it has its node's first state; by how many bytes the process has grown when all watchers have
that; and the CPU time for one change, when another process changes all nodes at once. Each turn runs in a
process of its own (`alone.py`), to measure memory; the peers, which take long, have fewer turns.
The design has no budget except that of `follow`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from alone import alone, grown
from bench import Bench, Meter, Turn, Workload
from clients import PEERS, Client, Tally
from server import ROOT, make_nodes
from writer import writer

NAME = "watched-paths"
COUNT = 10_000


def paths_of(client: str) -> list[str]:
    """The nodes that a client watches."""
    return [f"{ROOT}/{NAME}/{client}/{number}" for number in range(COUNT)]


async def run(bench: Bench) -> None:
    def renewed(client: str) -> Turn:
        turn_alone = alone(bench, NAME, client)

        async def turn(meter: Meter) -> None:
            await make_nodes(bench.address, paths_of(client))  # no data again, which the turn waits for
            await turn_alone(meter)

        return turn

    await bench.repeat({client: renewed(client) for client in bench.clients}, seldom=PEERS)


async def prepare(address: str, name: str, client: Client, stack: AsyncExitStack) -> Turn:
    paths = paths_of(name)
    source = await stack.enter_async_context(writer(address, paths))
    tally = Tally(COUNT)

    async def turn(meter: Meter) -> None:
        with grown(meter, "bytes a watch", COUNT), meter(COUNT):
            all_started = tally.expect(b"")
            await client.follow(paths, tally)
            await all_started
        following = Meter()
        with following(COUNT):
            await source.change(tally)
        meter.counts["CPU us a change seen"] = following.measures["cpu"] * 1e6

    return turn


WORKLOAD = Workload(
    name=NAME,
    title="10,000 watched paths, setting one watch",
    run=run,
    alone=prepare,
    slow=True,
    any_loop=True,
    turn_limit=120.0,
)
