"""Connect: from nothing to a usable session. Leaving is not measured.

The floor opens a socket, sends the connect request and reads the answer: one round trip. Round trips,
connections and bytes (in both directions) are counted by a relay through which one more client connects.
Budget: one round trip.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import SESSION_TIMEOUT, Bench, Budget, Meter, Turn, Workload
from clients import Client, load
from server import tapped

TIMES = 10


async def count(address: str, name: str) -> dict[str, float]:
    """What connecting costs on the network."""
    async with tapped(address) as tap, load(name)(tap.address, SESSION_TIMEOUT):
        return {
            "round trips": tap.round_trips,
            "connections": tap.connections,
            "bytes": tap.sent + tap.received,
        }


async def run(bench: Bench) -> None:
    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        connect = load(name)
        counts = await count(bench.address, name)

        async def turn(meter: Meter) -> None:
            for _ in range(TIMES):
                async with AsyncExitStack() as connected:
                    with meter(1):
                        await connected.enter_async_context(connect(bench.address, SESSION_TIMEOUT))
            meter.counts.update(counts)

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(
    name="connect",
    title="connect",
    run=run,
    unit="ms",
    budgets=[Budget("round trips", 1)],
)
