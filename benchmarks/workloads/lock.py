"""Uncontended lock cycle: acquire a lock that nobody else wants, and release it, repeatedly.

The floor creates its ephemeral node and lists the line in one write. If the list has one name it is first,
otherwise it parses the names. Then it deletes its node. That is three requests in two round trips. Requests
are counted by the server, round trips by a relay through which one more client of that kind runs one cycle.
Budget: 1.3 times the floor's CPU time, two round trips.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import SESSION_TIMEOUT, Bench, Budget, Meter, Turn, Workload
from clients import Client, load
from server import ROOT, make_nodes, requests_of, tapped

TIMES = 100


async def count_round_trips(address: str, name: str, path: str) -> int:
    """How often a client waits for the server in one lock cycle."""
    async with tapped(address) as tap, load(name)(tap.address, SESSION_TIMEOUT) as client:
        await client.locks_in_turn(path, 1)  # the first cycle may look for the parent node
        tap.reset()
        await client.locks_in_turn(path, 1)
        return tap.round_trips


async def run(bench: Bench) -> None:
    await make_nodes(bench.address, [f"{ROOT}/lock/{name}" for name in bench.clients])

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        path = f"{ROOT}/lock/{name}"
        round_trips = await count_round_trips(bench.address, name, path)

        async def turn(meter: Meter) -> None:
            before = await requests_of(bench.address, [client.session_id])
            with meter(TIMES):
                await client.locks_in_turn(path, TIMES)
            after = await requests_of(bench.address, [client.session_id])
            meter.counts.update({"requests": (after - before) / TIMES, "round trips": round_trips})

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="lock",
    title="uncontended lock cycle",
    run=run,
    budgets=[Budget("cpu", 1.3, of_floor=True), Budget("round trips", 2)],
)
