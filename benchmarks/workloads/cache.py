"""A cache of a subtree: from nothing to a live copy of 20,101 nodes, or 100,101, with 20 bytes of data each.

Wall time ends when the copy has all nodes and gets every change. Memory is the growth of the process by then,
divided by the number of nodes, so each turn runs in a process of its own (`alone.py`). Requests are counted
by the server. The copy is checked to have all nodes; leaving is not measured.

The floor (`clients/floor_tree.py`) sets one persistent recursive watch and reads all nodes by `multiRead` in
hundreds; its copy is a dict. The peers send one request or more for each node and take tens of seconds, so
they have fewer turns, and none with the larger tree.
Budget: 0.5 s, and 1,000 bytes a node, for the smaller tree. The design has none for the larger one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack

from alone import alone, grown
from bench import Bench, Budget, Meter, Turn, Workload
from clients import PEERS, Client
from server import ROOT, make_nodes, requests_of

DIRECTORIES = 100
DATA = b"x" * 20


def tree(root: str, leaves: int) -> Iterator[str]:
    """The paths of all nodes, parents before their children."""
    yield root
    for directory in range(DIRECTORIES):
        yield (path := f"{root}/{directory:03}")
        yield from (f"{path}/{leaf:04}" for leaf in range(leaves))


async def run(bench: Bench, name: str, leaves: int, without: Sequence[str]) -> None:
    await make_nodes(bench.address, tree(f"{ROOT}/{name}", leaves), DATA)
    clients = (client for client in bench.clients if client not in without)
    await bench.repeat({client: alone(bench, name, client) for client in clients}, seldom=PEERS)


async def prepare(
    address: str, name: str, client: Client, stack: AsyncExitStack, *, path: str, count: int
) -> Turn:
    async def turn(meter: Meter) -> None:
        before = await requests_of(address, [client.session_id])
        with grown(meter, "bytes a node", count), meter(1):
            size = await stack.enter_async_context(client.cache(path))
        after = await requests_of(address, [client.session_id])
        meter.counts["requests a node"] = (after - before) / count
        if size() != count:
            raise AssertionError(f"the copy has {size()} nodes of {count}")

    return turn


def workload(name: str, leaves: int, budgets: Sequence[Budget] = (), without: Sequence[str] = ()) -> Workload:
    """One of the two workloads."""
    count = 1 + DIRECTORIES * (1 + leaves)
    return Workload(
        name=name,
        title=f"cache of {count:,} nodes, until live",
        run=functools.partial(run, name=name, leaves=leaves, without=without),
        alone=functools.partial(prepare, path=f"{ROOT}/{name}", count=count),
        unit="s",
        main="wall",
        budgets=budgets,
        slow=True,
        any_loop=True,
        turn_limit=150.0,
    )


WORKLOADS = (
    workload("cache", 200, [Budget("wall", 0.5), Budget("bytes a node", 1000)]),
    workload("large-cache", 1000, without=PEERS),
)
