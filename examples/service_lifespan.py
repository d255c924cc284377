"""A service that opens its client for its lifespan, registers itself, and refuses work while it is cut off.

`lifespan` has the shape that FastAPI and Starlette expect; here a plain asyncio server stands for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator

import corral
import zookeeper


class Service:
    """Answers "ready" or "suspended", by the state of its session."""

    def __init__(self) -> None:
        self.zk: corral.Client | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        await reader.readline()
        ready = self.zk is not None and self.zk.state is corral.State.CONNECTED
        writer.write(b"ready\n" if ready else b"suspended\n")
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def lifespan(service: Service, hosts: str, address: str) -> AsyncIterator[None]:
    """Registered while the service runs: the ephemeral node goes with the session, however that ends."""
    async with corral.connect(hosts) as zk:
        service.zk = zk
        await zk.create(
            "/examples/web/", address.encode(), ephemeral=True, sequential=True, make_parents=True
        )
        yield
        service.zk = None


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Start the service, find it by its registration, ask it, and see it go."""
    service = Service()
    server = await asyncio.start_server(service.handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, corral.connect(hosts) as client:
        async with lifespan(service, hosts, f"{host}:{port}"):
            names = await client.children("/examples/web")
            address, _ = await client.get(f"/examples/web/{names[0]}")
            print(f"found {names[0]} at {address.decode()}")
            reader, writer = await asyncio.open_connection(*address.decode().split(":"))
            writer.write(b"how are you?\n")
            answer = (await reader.readline()).decode().strip()
            writer.close()
            await writer.wait_closed()
            print(f"it says: {answer}")
        left = await client.children("/examples/web")
        print(f"registered after its end: {left}")
    return answer == "ready" and not left


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
