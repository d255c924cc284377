"""A service that opens a client for its lifespan, stays registered, and reports whether it is ready.

A registration is an ephemeral node, which the servers remove when the session expires. `Registration` creates
it again in each new session. `lifespan` has the form that FastAPI and Starlette expect; a plain asyncio
server stands in for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator

import corral
import zookeeper
from corral.testing import FaultProxy


class Registration:
    """An ephemeral node that is created again whenever the client has a new session."""

    def __init__(self, zk: corral.Client, path: str, data: bytes) -> None:
        self._zk = zk
        self._path = path
        self._data = data
        self._session_id = 0  # the session that owns the node, as last seen

    @property
    def is_ready(self) -> bool:
        """Whether the client is connected and the node belongs to its session, as last seen."""
        return self._zk.state is corral.State.CONNECTED and self._session_id == self._zk.session_id

    async def keep(self) -> None:
        """Register again in each new session, until the client is closed."""
        async for state in self._zk.states():
            if state is corral.State.CONNECTED and not self.is_ready:
                await self.register()

    async def register(self) -> None:
        """Create the node, and return when it belongs to the current session."""
        while True:
            try:
                stat = await self._zk.exists(self._path)
                if stat is None:
                    await self._zk.create(self._path, self._data, ephemeral=True, make_parents=True)
                elif stat.ephemeral_owner == self._zk.session_id:
                    self._session_id = stat.ephemeral_owner
                    return
                else:  # it belongs to an earlier process, whose session has not expired yet
                    await self._zk.wait_absent(self._path)
            except (corral.ConnectionLoss, corral.NodeExists, corral.SessionExpired):
                continue  # read again: the node may have been created


class Service:
    """Answers "ready" or "not ready" to a load balancer, or to Kubernetes."""

    def __init__(self) -> None:
        self.zk: corral.Client | None = None
        self.registration: Registration | None = None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await reader.readline()
        is_ready = self.registration is not None and self.registration.is_ready
        writer.write(b"ready\n" if is_ready else b"not ready\n")
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def lifespan(service: Service, hosts: str, address: str) -> AsyncIterator[None]:
    """Keep the service registered from before the first request until after the last."""
    async with corral.connect(hosts) as zk:
        service.zk = zk
        service.registration = Registration(zk, f"/examples/web/{address}", address.encode())
        await service.registration.register()
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(service.registration.keep())
            yield
            keeping.cancel()
    service.zk = service.registration = None


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
