"""Requests to the server that all clients are measured against, and a relay that counts traffic."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import corral
from clients.floor_client import connect

ROOT = "/corral-benchmarks"
"""Every node is created below this."""

WARMING_ROUNDS = 20
WARMING_REQUESTS = 1000


async def make_nodes(address: str, paths: Iterable[str] | Mapping[str, bytes], data: bytes = b"") -> None:
    """Create nodes, with their parents. Existing ones get the data; a mapping has the data of each node."""
    each = paths if isinstance(paths, Mapping) else dict.fromkeys(paths, data)
    async with corral.connect(address) as zk:

        async def make(path: str, data: bytes) -> None:
            try:
                await zk.create(path, data, make_parents=True)
            except corral.NodeExists:
                await zk.set(path, data)

        await asyncio.gather(*(make(path, data) for path, data in each.items()))


async def warm(address: str) -> None:
    """Let the server's JVM compile the code for later requests: reads, writes and locks."""
    data, lock = f"{ROOT}/warm/data", f"{ROOT}/warm/lock"
    await make_nodes(address, [data, lock])
    async with connect(address, 10.0) as floor:
        for _ in range(WARMING_ROUNDS):
            await floor.gets_at_once(data, WARMING_REQUESTS)
            await floor.sets_at_once(data, b"x" * 100, WARMING_REQUESTS)
            await floor.locks_in_turn(lock, WARMING_REQUESTS // 10)


async def clear(address: str) -> None:
    """Delete everything that was created."""
    async with corral.connect(address) as zk:
        with suppress(corral.NoNode):
            await zk.delete(ROOT, recursive=True)


async def connections(address: str) -> dict[int, int]:
    """For each connected session, by its id, how many requests the server has received."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"cons")
    answer = (await reader.read(-1)).decode()
    writer.close()
    if "not in the whitelist" in answer:
        raise LookupError("the server does not answer 'cons': add it to the server's 4lw.commands.whitelist")
    found = re.findall(r"recved=(\d+).*?sid=0x([0-9a-f]+)", answer)
    return {int(session_id, 16): int(received) for received, session_id in found}


async def children(address: str, path: str) -> list[str]:
    """The names of the children of a node, as this server has them."""
    async with connect(address, 10.0) as floor:
        return [name.decode() for name in await floor.children(path)]


async def requests_of(address: str, session_ids: Iterable[int]) -> int:
    """How many requests the server has received from these sessions on their current connections."""
    received = await connections(address)
    return sum(received[session_id] for session_id in session_ids)


@dataclass
class Tap:
    """A relay that counts what passes. It adds latency, so no times are measured through it."""

    address: str = ""
    connections: int = 0
    sent: int = 0
    """Bytes from the client."""
    received: int = 0
    """Bytes to the client."""
    round_trips: int = 0
    """How often the client sent something for the first time, or after it had received something."""

    def reset(self) -> None:
        """Count from zero."""
        self.connections = self.sent = self.received = self.round_trips = 0


@asynccontextmanager
async def tapped(address: str) -> AsyncIterator[Tap]:
    """A relay in front of a server."""
    tap = Tap()
    host, _, port = address.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(host, int(port))
        tap.connections += 1
        spoken_to = True

        async def forth() -> None:
            nonlocal spoken_to
            while data := await client.read(65536):
                tap.sent += len(data)
                tap.round_trips += spoken_to
                spoken_to = False
                to_server.write(data)
            to_server.close()

        async def back() -> None:
            nonlocal spoken_to
            while data := await server.read(65536):
                tap.received += len(data)
                spoken_to = True
                to_client.write(data)
            to_client.close()

        tasks.update((asyncio.ensure_future(forth()), asyncio.ensure_future(back())))

    listener = await asyncio.start_server(serve, "127.0.0.1")
    tap.address = "{}:{}".format(*listener.sockets[0].getsockname())
    yield tap
    listener.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
