"""A service that opens a client for its lifespan, stays registered, and reports whether it is ready.

A registration is an ephemeral node, which the servers remove when the session expires. `zk.registration`
creates it again in each new session. `lifespan` has the form that FastAPI and Starlette expect; a plain
asyncio server stands in for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator

import corral
import zookeeper
from corral.testing import FaultProxy


class Service:
    """Answers "ready" or "not ready" to a load balancer, or to Kubernetes."""

    def __init__(self) -> None:
        self.registration: corral.Registration | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await reader.readline()
        is_ready = self.registration is not None and self.registration.is_present
        writer.write(b"ready\n" if is_ready else b"not ready\n")
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def lifespan(service: Service, hosts: str, address: str) -> AsyncIterator[None]:
    """Keep the service registered from before the first request until after the last."""
    async with (
        corral.connect(hosts) as zk,
        zk.registration(f"/examples/web/{address}", address.encode()) as service.registration,
    ):
        yield
    service.registration = None


async def ask(address: str) -> str:
    """Ask the service whether it is ready, and return its answer."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(b"are you ready?\n")
    answer = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return answer


async def becomes(address: str, wanted: str) -> None:
    """Ask until the service gives this answer."""
    async with asyncio.timeout(20):
        while (answer := await ask(address)) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    print(f"the service answers: {answer}")


async def registered_in(client: corral.Client, address: str) -> int:
    """The id of the session that owns the registration; 0 if there is none."""
    stat = await client.exists(f"/examples/web/{address}")
    session_id = 0 if stat is None else stat.ephemeral_owner
    print(f"registered: {f'in session 0x{session_id:x}' if session_id else 'no'}")
    return session_id


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Start the service, expire its session, and check that its registration goes and comes back."""
    service = Service()
    server = await asyncio.start_server(service.handle, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    proxied = hosts.split(",")[0]
    async with server, FaultProxy(proxied) as network, corral.connect(proxied) as client:
        async with lifespan(service, network.address, address):
            await becomes(address, "ready")
            first = await registered_in(client, address)
            async with network.refuse():  # the client cannot open its next session yet
                await network.expire()
                await becomes(address, "not ready")
                meanwhile = await registered_in(client, address)
            await becomes(address, "ready")
            second = await registered_in(client, address)
        at_the_end = await registered_in(client, address)
    return 0 != first != second != 0 and not meanwhile and not at_the_end


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
