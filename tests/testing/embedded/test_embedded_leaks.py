"""EmbeddedServer keeps nothing of clients that are gone, however they left."""

from __future__ import annotations

import asyncio
import collections
import gc
import socket
import struct
import types
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from frame_client import EPHEMERAL, PATIENCE, FrameClient

import corral
from corral import acl
from corral.testing import EmbeddedServer, FaultProxy, VirtualLoop
from corral.wire import messages as m

CONNECT = m.encode_connect(0, 4.0, 0, bytes(16), False)
DESCRIPTORS = Path("/proc/self/fd")


def requests(number: int, *, closes: bool) -> bytes:
    """The requests of a session that uses everything that a server keeps for one: an ephemeral, watches of
    each kind, and an identity; followed by a close, if requested."""
    asked = [
        (m.AUTH, (0, "digest", b"user:secret")),
        (m.CREATE, (f"/mine-{number}", b"data", list(acl.OPEN), EPHEMERAL)),
        (m.GET, (f"/mine-{number}", True)),
        (m.EXISTS, (f"/none-{number}", True)),
        (m.CHILDREN, ("/", True)),
        (m.ADD_WATCH, ("/zookeeper", 1)),
        *([(m.CLOSE, ())] if closes else []),
    ]
    frames = [CONNECT]
    for xid, (operation, fields) in enumerate(asked, 1):
        frames.append(struct.pack(">ii", xid, operation.opcode) + operation.request.encode(*fields))
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


class State:
    """Everything that exists of a server: in its core, its process, Python, the event loop, and the operating
    system."""

    def __init__(self, server: EmbeddedServer) -> None:
        gc.collect()
        core, process = server.zookeeper, server._process
        assert process is not None
        loop = asyncio.get_running_loop()
        self.links = len(core.connections)
        self.sessions = len(core.sessions)
        self.watches = core.watches.count(), len(core.watches.data_watchers())
        self.ephemerals = len(core.tree.ephemerals)
        self.nodes = len(core.tree.nodes)
        self.connections = len(process._connections)
        self.in_core = reachable(core)
        self.alive = collections.Counter(
            type(each).__qualname__
            for each in gc.get_objects()
            if str(type(each).__module__).startswith(("corral.testing.embedded", "corral.wire.framing"))
            or isinstance(each, asyncio.BaseTransport)
        )
        self.tasks = len(asyncio.all_tasks())
        self.timers = len([timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()])
        self.descriptors = len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.exists() else 0

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    def __repr__(self) -> str:
        return repr(vars(self))


def reachable(core: object) -> collections.Counter[str]:
    """The objects that a server's core refers to, counted by type."""
    seen, counts = {id(core)}, collections.Counter[str]()
    held = [core]
    while held:
        for each in gc.get_referents(held.pop()):
            if id(each) not in seen and not isinstance(
                each, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType
            ):
                seen.add(id(each))
                counts[type(each).__name__] += isinstance(each, int | str | bytes | float) is False
                held.append(each)
    return counts


async def sessions(server: EmbeddedServer, count: int) -> None:
    """Open sessions and close them, a hundred at a time."""
    host, _, port = server.address.rpartition(":")
    loop = asyncio.get_running_loop()
    for _ in range(count // 100):
        socks = []
        for number in range(100):
            sock = socket.create_connection((host, int(port)))  # the kernel accepts, so this does not block
            sock.sendall(SAID[number])
            sock.setblocking(False)
            socks.append(sock)
        for sock in socks:
            while await loop.sock_recv(sock, 65536):
                pass
            sock.close()


SAID = [requests(number, closes=True) for number in range(100)]


async def settled(server: EmbeddedServer) -> State:
    """The state once the last connection is gone."""
    process = server._process
    assert process is not None
    async with asyncio.timeout(PATIENCE):
        while process._connections:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.001)
    return State(server)


async def test_thousands_of_sessions_leave_nothing() -> None:
    """Thousands of sessions, opened, used and closed, leave no object, entry, task, timer or socket."""
    async with EmbeddedServer(tick_time=60) as server:
        await sessions(server, 200)
        before = await settled(server)
        await sessions(server, 2_000)
        after = await settled(server)
        assert after == before
        assert (after.links, after.sessions, after.watches, after.ephemerals) == (0, 0, (0, 0), 0)
        assert server.zookeeper.zxid == 3 * 2_200


async def test_clients_leave_nothing() -> None:
    """The same for corral's own clients, each with a lock, an ephemeral and a watch."""
    async with EmbeddedServer(tick_time=60) as server:

        async def use() -> None:
            async with corral.connect(server.address, session_timeout=120) as zk:
                await zk.ensure_path("/lock")  # else it is a container, which the server removes at some time
                await zk.create("/mine", ephemeral=True)
                async with zk.lock("/lock"), zk.watch("/mine") as events:
                    await anext(events)

        await use()
        before = await settled(server)
        for _ in range(200):
            await use()
        assert await settled(server) == before


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run it in a virtual event loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(test)


@pytest.mark.parametrize("end", ["silent", "gone", "closed", "cut", "unread", "expire()", "restart"])
def test_sessions_that_end_otherwise_leave_nothing(end: str) -> None:
    """Sessions whose clients fall silent, leave with an RST or a FIN, are cut off by a proxy, do not read,
    are expired by a test, or live through a restart: when they have expired nothing is left."""

    async def some(server: EmbeddedServer, proxy: FaultProxy) -> None:
        clients = [FrameClient(proxy.address if end == "cut" else server.address) for _ in range(100)]
        for number, client in enumerate(clients):
            await client.__aenter__()
            client.writer.write(requests(number, closes=False))
            for _ in range(7):
                await client.frame()
            if end == "unread":
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.send(*(client.request(m.GET, "/large", False) for _ in range(3)))
        assert len(server.zookeeper.sessions) == 100
        match end:
            case "gone":
                for client in clients:
                    client.cut()
            case "closed":
                for client in clients:
                    client.writer.close()
            case "cut":
                await proxy.cut()
            case "expire()":
                for session_id in server.zookeeper.sessions.ids():
                    await server.expire(session_id)
            case "restart":
                await server.kill()
                await server.start()
        await asyncio.sleep(30)
        assert len(server.zookeeper.sessions) == 0
        for client in clients:
            client.cut()
        await asyncio.sleep(1)

    async def test() -> None:
        async with EmbeddedServer() as server, FaultProxy(server.address) as proxy:
            async with FrameClient(server.address) as client:
                await client.begin()
                await client.create("/large", bytes(500_000))
            await asyncio.sleep(30)
            await some(server, proxy)
            before = State(server)
            for _ in range(3):
                await some(server, proxy)
            assert State(server) == before
            assert (before.links, before.sessions, before.watches, before.ephemerals) == (0, 0, (0, 0), 0)
            assert before.connections == before.timers == 0

    run(test())


def test_connections_without_a_session_leave_nothing() -> None:
    """The same for connections that send nothing, half a frame, or a four letter word, and leave."""

    async def some(server: EmbeddedServer) -> None:
        for said in (b"", b"\0\0", CONNECT[:10], b"ruok", b"what", b"\xff\xff\xff\xff"):
            for _ in range(50):
                async with FrameClient(server.address) as client:
                    client.writer.write(said)
                    await asyncio.sleep(0.001)
        await asyncio.sleep(1)

    async def test() -> None:
        async with EmbeddedServer() as server:
            await some(server)
            before = State(server)
            await some(server)
            assert State(server) == before
            assert before.links == before.connections == before.timers == 0

    run(test())
