"""Service discovery: a service of 2,000 instances with 170 bytes of JSON each, until it is followed.

Wall time is until all instances are decoded and the client will be told of every change. Memory is by how
much the process has grown by then, for each instance, so each turn is taken in a process of its own
(`alone.py`). Then one of them is changed 200 times, each time after the change before was seen: shown is the
CPU time that a change takes, until there is a tuple of all instances that has it. The changes are made from
another process.

The floor (`clients/floor_tree.py`) sets one persistent recursive watch, reads all nodes by `multiRead` in
hundreds, and keeps what `json.loads` makes of them; of a change it reads and decodes the one node. The peers
have no such recipe. The design has no budget.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

from alone import alone, grown
from bench import Bench, Meter, Turn, Workload
from clients import PEERS, Client, Discoverer
from server import ROOT, make_nodes
from writer import writer

COUNT = 2000
CHANGES = 200
BASE, SERVICE = f"{ROOT}/discovery", "web"


def instance(number: int, weight: int = 0) -> bytes:
    """One of them, as Curator writes it."""
    fields = {
        "name": SERVICE,
        "id": f"{number:04}",
        "address": f"10.0.{number // 256}.{number % 256}",
        "port": 8080,
        "sslPort": None,
        "payload": {"version": "1.2", "weight": weight},
        "registrationTimeUTC": 1795412562658,
        "serviceType": "STATIC",
        "uriSpec": None,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def path(number: int) -> str:
    return f"{BASE}/{SERVICE}/{number:04}"


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, {path(number): instance(number) for number in range(COUNT)})
    clients = [name for name in bench.clients if name not in PEERS]
    await bench.repeat({name: alone(bench, "discovery", name) for name in clients})


async def prepare(address: str, name: str, client: Client, stack: AsyncExitStack) -> Turn:
    assert isinstance(client, Discoverer)
    last = COUNT - 1
    source = await stack.enter_async_context(writer(address, [path(last)]))

    async def turn(meter: Meter) -> None:
        with grown(meter, "bytes an instance", COUNT), meter(1):
            events = await stack.enter_async_context(client.discover(BASE, SERVICE))
            found = await anext(events)
        if len(found) != COUNT:
            raise AssertionError(f"{len(found)} instances are known, of {COUNT}")
        following = Meter()
        with following(CHANGES):
            for change in range(CHANGES):
                source.send(instance(last, change + 1))
                found = await anext(events)
        meter.counts["us of CPU a change"] = following.measures["cpu"] * 1e6

    return turn


WORKLOAD = Workload(
    name="discovery",
    title=f"a service of {COUNT:,} instances, until followed",
    run=run,
    alone=prepare,
    unit="ms",
    main="wall",
    slow=True,
    any_loop=True,
)
