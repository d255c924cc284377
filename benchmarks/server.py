"""What is asked of the server that all clients are measured against, and a tap on the wire to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import corral
from clients.floor_client import connect

ROOT = "/corral-benchmarks"
"""What everything is made below."""

WARMING_ROUNDS = 20
WARMING_REQUESTS = 1000


async def make_nodes(address: str, paths: Iterable[str] | Mapping[str, bytes], data: bytes = b"") -> None:
    """Create nodes, with their parents; those that are there are given the data, of which a mapping has each
    node's."""
    each = paths if isinstance(paths, Mapping) else dict.fromkeys(paths, data)
    async with corral.connect(address) as zk:

        async def make(path: str, data: bytes) -> None:
            try:
                await zk.create(path, data, make_parents=True)
            except corral.NodeExists:
                await zk.set(path, data)

        await asyncio.gather(*(make(path, data) for path, data in each.items()))


async def warm(address: str) -> None:
    """Give the server's JVM time to compile what it will do: reads, writes and locks."""
    data, lock = f"{ROOT}/warm/data", f"{ROOT}/warm/lock"
    await make_nodes(address, [data, lock])
    async with connect(address, 10.0) as floor:
        for _ in range(WARMING_ROUNDS):
            await floor.gets_at_once(data, WARMING_REQUESTS)
            await floor.sets_at_once(data, b"x" * 100, WARMING_REQUESTS)
            await floor.locks_in_turn(lock, WARMING_REQUESTS // 10)


async def clear(address: str) -> None:
    """Remove everything that was made."""
    async with corral.connect(address) as zk:
        with suppress(corral.NoNode):
            await zk.delete(ROOT, recursive=True)


async def connections(address: str) -> dict[int, int]:
    """By its id, how many requests the server has received from each session that is connected."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"cons")
    answer = (await reader.read(-1)).decode()
    writer.close()
    if "not in the whitelist" in answer:
        raise LookupError("the server does not answer 'cons': allow it by its 4lw.commands.whitelist")
    found = re.findall(r"recved=(\d+).*?sid=0x([0-9a-f]+)", answer)
    return {int(session_id, 16): int(received) for received, session_id in found}


async def children(address: str, path: str) -> list[str]:
    """The names below a node, as of this server."""
    async with connect(address, 10.0) as floor:
        return [name.decode() for name in await floor.children(path)]


async def requests_of(address: str, session_ids: Iterable[int]) -> int:
    """How many requests the server has received from these sessions on their present connections."""
    received = await connections(address)
    return sum(received[session_id] for session_id in session_ids)


@dataclass
class Tap:
    """A relay that counts what passes. It is in the way, so nothing is timed through it."""

    address: str = ""
    connections: int = 0
    sent: int = 0
    """Bytes from the client."""
    received: int = 0
    """Bytes to the client."""
    round_trips: int = 0
    """How often a client went on to speak when it had been spoken to, or began to."""

    def reset(self) -> None:
        """Count from zero."""
        self.connections = self.sent = self.received = self.round_trips = 0


@asynccontextmanager
async def tapped(address: str) -> AsyncIterator[Tap]:
    """A tap in front of a server."""
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
