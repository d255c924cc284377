"""TLS: handshakes, and reads. Only corral and the floor, on a server of their own with a secure port.

``tls-connect`` is from nothing to a usable session, as in `connect`; ``tls-get`` is 1,000 reads of a node of
100 bytes in flight, as in `get`. Both clients check the server's certificate (ECDSA, P-256), which openssl
makes.

The floor has the same context on the same event loop, so TLS itself costs both the same.
Budget: 1.3 times the floor's CPU time.
"""

from __future__ import annotations

import functools
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import corral
from bench import SESSION_TIMEOUT, Bench, Budget, Meter, Workload
from clients.corral_client import CorralClient
from clients.floor_client import Floor, open_floor
from corral.testing import LocalServer, SecurePort
from server import ROOT, make_nodes

TIMES = 10
IN_FLIGHT = 1000
PATH = f"{ROOT}/tls-get"

Secured = Floor | CorralClient


@asynccontextmanager
async def floor(address: str, tls: ssl.SSLContext) -> AsyncIterator[Secured]:
    client = await open_floor(address, SESSION_TIMEOUT, tls=tls)
    yield client
    await client.close()


@asynccontextmanager
async def ours(address: str, tls: ssl.SSLContext) -> AsyncIterator[Secured]:
    async with corral.connect(address, ssl=tls, session_timeout=SESSION_TIMEOUT) as zk:
        yield CorralClient(zk)


Connect = Callable[[], AbstractAsyncContextManager[Secured]]
CLIENTS: dict[str, Callable[[str, ssl.SSLContext], AbstractAsyncContextManager[Secured]]] = {
    "floor": floor,
    "corral": ours,
}


def certificate(directory: Path) -> Path:
    """A key and its own certificate."""
    pem = directory / "server.pem"
    command = (
        "openssl req -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=zk "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {pem} -out {directory}/ca.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    pem.write_bytes(pem.read_bytes() + (directory / "ca.pem").read_bytes())
    return pem


async def connecting(
    name: str, connect: Connect, stack: AsyncExitStack
) -> Callable[[Meter], Awaitable[None]]:
    async def turn(meter: Meter) -> None:
        for _ in range(TIMES):
            async with AsyncExitStack() as connected:
                with meter(1):
                    await connected.enter_async_context(connect())
        meter.counts["handshakes a second"] = 1 / meter.measures["wall"]

    return turn


async def reading(name: str, connect: Connect, stack: AsyncExitStack) -> Callable[[Meter], Awaitable[None]]:
    client = await stack.enter_async_context(connect())

    async def turn(meter: Meter) -> None:
        with meter(IN_FLIGHT * TIMES):
            for _ in range(TIMES):
                await client.gets_at_once(PATH, IN_FLIGHT)

    return turn


Prepare = Callable[[str, Connect, AsyncExitStack], Awaitable[Callable[[Meter], Awaitable[None]]]]


async def run(bench: Bench, prepare: Prepare) -> None:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        secure = SecurePort(certificate=certificate(directory))
        server = await stack.enter_async_context(LocalServer(tick_time=2.0, secure=secure))
        await make_nodes(server.address, [PATH], b"x" * 100)
        tls = ssl.create_default_context(cafile=directory / "ca.pem")
        turns = {}
        for name in bench.clients:
            if name in CLIENTS:
                connect = functools.partial(CLIENTS[name], server.secure_address, tls)
                turns[name] = await prepare(name, connect, stack)
        await bench.repeat(turns)


WORKLOADS = (
    Workload(
        name="tls-connect",
        title="connect, with TLS",
        run=functools.partial(run, prepare=connecting),
        unit="ms",
        budgets=[Budget("cpu", 1.3, of_floor=True)],
    ),
    Workload(
        name="tls-get",
        title="pipelined get, 1,000 in flight, with TLS",
        run=functools.partial(run, prepare=reading),
        budgets=[Budget("cpu", 1.3, of_floor=True)],
    ),
)
