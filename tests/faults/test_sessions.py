"""Sessions under faults of servers and networks (S1 to S4, S7, S9), on real ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

import corral
from corral import Client, State
from corral.testing import LocalEnsemble, LocalServer, TcpProxy
from support import PATIENCE, turns, until

T = 2.0
"""Session timeout where a test waits for one to end."""


@contextlib.asynccontextmanager
async def connected_to(ensemble: LocalEnsemble, server: LocalServer, timeout: float) -> AsyncIterator[Client]:
    """A client of the whole ensemble whose connection is to `server`: the order is random, so try."""
    while True:
        async with corral.connect(ensemble.hosts, session_timeout=timeout) as zk:
            if zk.server == server.address:
                yield zk
                return


async def longest_gap(zk: Client, over: asyncio.Event) -> float:
    """Read on until `over`, and tell the longest time between two answers. No read may fail."""
    last, longest = time.monotonic(), 0.0
    while not over.is_set():
        await zk.get("/zookeeper")
        now = time.monotonic()
        last, longest = now, max(longest, now - last)
        await asyncio.sleep(0.005)
    return longest


@pytest.mark.parametrize("role", ["follower", "leader"])
@pytest.mark.parametrize("how", ["kill", "stop", "pause"])
async def test_the_connected_server_fails(
    ensemble: LocalEnsemble, how: str, role: str, record_property: Callable[[str, object], None]
) -> None:
    """S1: with the connected one of three killed, stopped or silent, the session and a held lock are kept."""
    server = await ensemble.leader() if role == "leader" else (await ensemble.followers())[0]
    async with connected_to(ensemble, server, timeout=10.0) as zk:
        session, over = zk.session_id, asyncio.Event()
        async with zk.lock("/faults/lock") as held:
            reading = asyncio.create_task(longest_gap(zk, over))
            await turns()
            if how == "pause":
                server.pause()
            else:
                await (server.kill() if how == "kill" else server.stop())
            try:

                async def elsewhere() -> bool:
                    return zk.server not in (None, server.address)

                await until(elsewhere, "another server has the session")
                async with held.transaction() as tx:
                    tx.check("/faults")
            finally:
                server.resume() if how == "pause" else await server.start()
            over.set()
            record_property(f"longest gap, {role}, {how}, T = 10 s", f"{await reading:.2f} s")
            assert held.is_valid
        assert zk.session_id == session
    await ensemble.leader()
    await ensemble.followers()


async def test_a_silent_server_first(zookeeper: str) -> None:
    """S1: a server that accepts and says nothing does not hold up connecting: each attempt is bounded."""
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, asyncio.TaskGroup() as group:
        for _ in range(6):  # in random order: each of six first, in one run in sixty-four not once
            group.create_task(enter_and_leave(f"127.0.0.1:{port},{zookeeper}"))


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what comes until the client goes."""
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


async def enter_and_leave(hosts: str) -> None:
    async with corral.connect(hosts, session_timeout=4.0) as zk:
        assert zk.state is State.CONNECTED


async def test_killed_and_started_again() -> None:
    """S1, S4, W3: over a restart of the only server the session, its watches and place in line live on."""
    async with LocalServer() as server:
        async with (
            corral.connect(server.address, session_timeout=10.0) as zk,
            corral.connect(server.address, session_timeout=10.0) as other,
        ):
            await zk.create("/a", b"0")
            held = await other.lock("/lock").acquire()
            session, events = zk.session_id, zk.watch("/a")
            assert (await anext(events)).data == b"0"
            waiting_event = asyncio.create_task(anext(events))
            waiting_lock = asyncio.create_task(zk.lock("/lock").acquire())

            async def in_line() -> bool:
                return len(await other.children("/lock")) == 2

            await until(in_line, "both stand in the line")
            await server.kill()
            waiting_read = asyncio.create_task(zk.get("/a"))
            await server.start()
            async with asyncio.timeout(PATIENCE):
                assert (await waiting_read)[0] == b"0"
                await other.set("/a", b"1")
                assert (await waiting_event).data == b"1"
                await held.release()
                await (await waiting_lock).release()
            assert zk.session_id == session
            events.close()


@pytest.mark.parametrize("lease", ["quorum", "ping"])
async def test_told_before_another_holds(
    connect: Callable[..., Client], proxy: TcpProxy, other: Client, lease: str
) -> None:
    """S3, L4: cut off, a holder is told before another can hold; the session goes on if a server takes it."""
    order: list[str] = []
    async with connect(proxy.address, session_timeout=T, lease=lease) as zk:
        states: list[State] = []

        async def follow() -> None:
            async for state in zk.states():
                states.append(state)

        following = asyncio.create_task(follow())

        async def hold() -> None:
            async with zk.lock("/lock"):
                order.append("held")
                try:
                    await asyncio.Event().wait()
                finally:
                    order.append("told")

        async def take_over() -> None:
            async with other.lock("/lock"):
                order.append("other")

        holding = asyncio.create_task(hold())

        async def is_held() -> bool:
            return order == ["held"]

        await until(is_held, "it is held")
        taking = asyncio.create_task(take_over())
        async with proxy.black_hole(), asyncio.timeout(PATIENCE):
            with pytest.raises(corral.LockLost):
                await holding
            await taking
        assert order == ["held", "told", "other"]

        async def again() -> bool:
            return zk.state is State.CONNECTED

        await until(again, "there is a session again")
        await zk.create("/after")
    await following
    assert states[:3] == [State.CONNECTED, State.SUSPENDED, State.LAPSED]
    assert states[-1] is State.CLOSED


async def test_a_lapse_spares_what_waits(
    connect: Callable[..., Client], proxy: TcpProxy, other: Client
) -> None:
    """S3: when the lease lapses and the session is resumed, waiters and watches go on, and the lost lock's
    node is removed."""
    await other.create("/a", b"0")
    async with connect(proxy.address, session_timeout=6.0) as zk, other.lock("/busy") as theirs:
        session = zk.session_id
        events = zk.watch("/a")
        await anext(events)
        held = await zk.lock("/lock").acquire()
        waiting = asyncio.create_task(zk.lock("/busy").acquire())
        async with proxy.refuse():
            await proxy.cut()
            async with asyncio.timeout(PATIENCE):
                assert isinstance(await held.wait_lost(), corral.LockLost)
            assert zk.state is State.LAPSED
            await other.set("/a", b"1")
        async with asyncio.timeout(PATIENCE):
            assert (await anext(events)).data == b"1"

        async def removed() -> bool:
            return await other.children("/lock") == []

        await until(removed, "the lost lock's node is gone")
        if zk.session_id == session:  # else the server had expired it meanwhile: then it stands in line again
            assert zk.state is State.CONNECTED
        await theirs.release()
        async with asyncio.timeout(PATIENCE):
            await (await waiting).release()
        events.close()


async def test_expired_by_the_server(connect: Callable[..., Client], proxy: TcpProxy, other: Client) -> None:
    """S2, S3: when the server has expired the session, what was unsent is carried over, but for what meant
    nothing without it, and a waiter stands in line again."""
    async with connect(proxy.address, session_timeout=T) as zk, other.lock("/busy") as theirs:
        session = zk.session_id
        await zk.create("/mine", ephemeral=True)
        waiting = asyncio.create_task(zk.lock("/busy").acquire())

        async def in_line() -> bool:
            return len(await other.children("/busy")) == 2

        await until(in_line, "the waiter is in the line")
        async with proxy.black_hole():

            async def expired() -> bool:
                return await other.exists("/mine") is None

            await until(expired, "the server has expired the session")
            await proxy.cut()
            unbound = asyncio.create_task(zk.create("/carried"))
            bound = asyncio.create_task(zk.create("/bound", ephemeral=True))
            await turns()
        async with asyncio.timeout(PATIENCE):
            assert await unbound == "/carried"
            with pytest.raises(corral.SessionExpired):
                await bound
            assert zk.session_id not in (0, session)
            assert await other.exists("/bound") is None
            await theirs.release()
            held = await waiting
        assert held.session_id == zk.session_id
        await held.release()


async def test_a_blocked_loop_is_told_first(zk: Client) -> None:
    """S9: a body that blocked the event loop beyond its lease is told before it is given any answer."""
    order: list[str] = []

    async def block() -> None:
        async with zk.lock("/lock"):
            reading = asyncio.create_task(zk.exists("/lock"))
            reading.add_done_callback(lambda _: order.append("answer"))
            await turns(3)
            time.sleep(zk.session_timeout)  # blocking is what this is about
            try:
                await asyncio.Event().wait()
            finally:
                order.append("told")
                await asyncio.wait([reading])

    with pytest.raises(corral.LockLost):
        await block()
    assert order == ["told", "answer"]


async def test_an_ensemble_that_went_back_in_time() -> None:
    """S4: when every server has seen less than the client, what waits is told so, and waits no longer."""
    async with LocalServer() as server, corral.connect(server.address, session_timeout=T) as zk:
        await zk.create("/a")
        await server.stop()
        server.wipe()
        await server.start()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(corral.EnsembleBehind, match="0x"):
                await zk.get("/a")


@pytest.mark.parametrize(
    "says",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, b"\0\0\0\2hi", b"\x7f\xff\xff\xff"],
    ids=["nothing", "http", "ones", "short", "huge"],
)
async def test_a_server_that_makes_no_sense(says: bytes) -> None:
    """S7: whatever answers on the port, connecting is bounded, and the error tells what became of it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4)
        writer.write(says)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    nonsense = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = nonsense.sockets[0].getsockname()
    async with nonsense, asyncio.timeout(PATIENCE):
        with pytest.raises(corral.ConnectTimeout, match=f"{host}:{port}"):
            async with corral.connect(f"{host}:{port}", session_timeout=T, connect_timeout=0.5):
                pass
