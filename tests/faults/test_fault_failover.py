"""Servers that fail while a client uses them: killed, stopped or silent, one of three or the only one (S1,
S4)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from fault_support import say_nothing, speaking, until_state, within

import corral
from corral import State
from corral.testing import FaultProxy, LocalEnsemble, LocalServer, Server
from support import PATIENCE, turns, until

SESSION_TIMEOUT = 4.0


@contextlib.asynccontextmanager
async def connected_to(ensemble: LocalEnsemble, server: LocalServer) -> AsyncIterator[corral.Client]:
    """A client of the whole ensemble that is connected to `server`: the order is random, so it tries until it
    is."""
    while True:
        async with corral.connect(ensemble.hosts, session_timeout=SESSION_TIMEOUT, tick_time=0.5) as zk:
            if zk.server == server.address:
                yield zk
                return


class Reading:
    """A task that reads without pause: the effect of a fault on its user is the longest gap between
    answers."""

    def __init__(self, zk: corral.Client, path: str) -> None:
        self.longest_gap = 0.0
        self.answers = 0
        self._zk = zk
        self._path = path
        self._task = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        last = time.monotonic()
        while True:
            try:
                await self._zk.get(self._path)
            except corral.ConnectionLoss:
                continue  # one read lost two servers, as may happen during an election
            now = time.monotonic()
            last, self.longest_gap = now, max(self.longest_gap, now - last)
            self.answers += 1
            await asyncio.sleep(0)

    async def more_answers(self) -> None:
        """Wait until reads are answered again."""
        goal = self.answers + 2  # the first may have been in flight

        async def answered() -> bool:
            assert not self._task.done()
            return self.answers >= goal

        await until(answered, "reads are answered again")

    async def end(self) -> float:
        """Stop, and return the longest gap in seconds."""
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.longest_gap


async def fail(server: Server, how: str) -> None:
    if how == "paused":
        server.pause()
    elif how == "killed":
        await server.kill()
    else:
        await server.stop()


@pytest.mark.parametrize("role", ["follower", "leader"])
@pytest.mark.parametrize("how", ["killed", "stopped", "paused"])
async def test_the_connected_server_fails(
    servers: LocalEnsemble, how: str, role: str, record_property: Callable[[str, object], None]
) -> None:
    """S1: when our server fails, in any way, the session continues on another one, with its ephemerals,
    watches and requests. What is held stays held, or its holder is notified."""
    victim = await servers.leader() if role == "leader" else (await servers.followers())[0]
    [observed, *_] = [server for server in servers.servers if server is not victim]
    path = f"/failover-{uuid.uuid4().hex[:8]}"
    async with connected_to(servers, victim) as zk, connected_to(servers, observed) as other:
        session = zk.session_id
        await zk.create(path, b"before")
        await zk.create(f"{path}/ephemeral", ephemeral=True)
        held = await zk.lock(f"{path}/lock").acquire()
        events = zk.watch(path)
        await anext(events)
        reading = Reading(zk, path)
        await reading.more_answers()

        await fail(victim, how)

        async def moved() -> bool:
            return zk.server not in (None, victim.address)

        await until(moved, "another server has the session")
        await reading.more_answers()
        gap = await reading.end()
        assert zk.session_id == session
        change = asyncio.create_task(anext(events))
        await for_certain(lambda: other.set(path, b"after"))
        assert (await within(change)).data == b"after"
        assert (await zk.get(path))[0] == b"after"
        with contextlib.suppress(corral.NodeExists):
            await for_certain(lambda: zk.create(f"{path}/later", ephemeral=True))
        stat = await other.exists(f"{path}/ephemeral")
        assert stat is not None
        assert stat.ephemeral_owner == session
        kept = held.is_valid
        if kept:
            await for_certain(lambda: set_as_holder(held, path))  # the server confirms it
        else:
            assert isinstance(await within(held.wait_lost()), corral.LockLost)
        if role == "follower":
            assert kept  # there was a server all the time
        record_property("longest gap between reads", f"{gap:.2f} s")
        record_property("lock", "kept" if kept else "lost")
        print(f"{role} {how}, T = {SESSION_TIMEOUT} s: gap {gap:.2f} s, lock {'kept' if kept else 'lost'}")


async def set_as_holder(held: corral.Held, path: str) -> None:
    async with held.transaction() as tx:
        tx.set(path, b"by the holder")


async def for_certain(write: Callable[[], Awaitable[object]]) -> None:
    """Write, again if the connection is lost: for writes that may be applied twice."""
    while True:
        try:
            await within(write())
        except corral.ConnectionLoss:
            continue
        return


@pytest.mark.parametrize("role", ["follower", "leader"])
async def test_holder_on_a_server_that_falls_silent(servers: LocalEnsemble, role: str) -> None:
    """S3, L4: a holder that knows only a server that falls silent is notified before another client holds, on
    the remaining servers. When that server is back, the holder gets another session."""
    victim = await servers.leader() if role == "leader" else (await servers.followers())[0]
    rest = ",".join(server.address for server in servers.servers if server is not victim)
    path = f"/silent-{uuid.uuid4().hex[:8]}"
    order: list[str] = []
    async with (
        corral.connect(victim.address, session_timeout=2.0) as zk,
        corral.connect(rest, session_timeout=10.0) as other,
    ):
        session = zk.session_id
        mine = await zk.lock(path).acquire()
        losing = asyncio.create_task(mine.wait_lost())
        losing.add_done_callback(lambda _: order.append("told"))
        waiting = asyncio.create_task(other.lock(path).acquire())
        waiting.add_done_callback(lambda _: order.append("next"))
        await until(lambda: has_children(other, path, 2), "the other stands in the line")
        victim.pause()
        theirs = await within(waiting)
        assert order == ["told", "next"]
        assert theirs.fencing_token > mine.fencing_token
        victim.resume()
        await within(zk.exists(path))
        assert zk.session_id not in (0, session)
        assert theirs.is_valid
        await theirs.release()


@contextlib.asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A port whose listener accepts no more connections: the kernel does not answer a SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def paused(server: Server) -> AsyncIterator[str]:
    """A server that is paused: the kernel still accepts connections to it."""
    async with server:
        server.pause()
        yield server.address


@pytest.fixture(params=["no answer to SYN", "a paused server", "no answer to the handshake"])
def silent(
    request: pytest.FixtureRequest, real_time: None, make_server: Callable[..., Server]
) -> Callable[[], contextlib.AbstractAsyncContextManager[str]]:
    """Makes a context manager for something that accepts no session; entered, it returns its address."""
    return {
        "no answer to SYN": full_backlog,
        "a paused server": lambda: paused(make_server()),
        "no answer to the handshake": lambda: speaking(say_nothing),
    }[request.param]


async def test_connecting_past_a_silent_server(
    connect: Callable[..., corral.Client],
    server_address: str,
    root: str,
    silent: Callable[[], contextlib.AbstractAsyncContextManager[str]],
) -> None:
    """S1: every wait while connecting is bounded: a server that is silent costs its share of T/3, and the
    next one is tried. The order is random, so several clients enter at once."""
    async with silent() as address, asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(enter_and_read(f"{address},{server_address}{root}"))


async def enter_and_read(hosts: str) -> None:
    async with asyncio.timeout(PATIENCE), corral.connect(hosts, session_timeout=2.0) as zk:
        assert await zk.children("/") == []


async def test_reconnecting_past_silent_servers(
    proxy: FaultProxy,
    root: str,
    silent: Callable[[], contextlib.AbstractAsyncContextManager[str]],
) -> None:
    """S1: after a connection is lost the other servers are tried first. If they are silent, the lost one is
    reached again within the session timeout: the session and its ephemerals are kept."""
    async with silent() as first, silent() as second:
        hosts = f"{first},{second},{proxy.address}{root}"
        async with corral.connect(hosts, session_timeout=SESSION_TIMEOUT) as zk:
            session = zk.session_id
            await zk.create("/ephemeral", ephemeral=True)
            await proxy.cut()
            stat = await within(zk.exists("/ephemeral"))
            assert stat is not None
            assert stat.ephemeral_owner == zk.session_id == session


async def test_silence_after_the_session_is_given_up_too(
    server_address: str, root: str, proxy: FaultProxy
) -> None:
    """S1: a connection on which an answer is due for half of T is dropped, and another server is tried."""
    async with corral.connect(f"{proxy.address}{root}", session_timeout=SESSION_TIMEOUT) as zk:
        session = zk.session_id
        async with proxy.black_hole():
            reading = asyncio.create_task(zk.children("/"))
            await until_state(zk, State.SUSPENDED)
        assert await within(reading) == []
        assert zk.session_id == session


async def test_idle_connection_is_watched_over(proxy: FaultProxy, root: str) -> None:
    """S1: a silent connection is detected although no requests are made: there are pings."""
    async with corral.connect(f"{proxy.address}{root}", session_timeout=SESSION_TIMEOUT) as zk:
        async with proxy.black_hole():
            await until_state(zk, State.SUSPENDED)
        await until_state(zk, State.CONNECTED)


async def test_without_a_quorum_requests_wait(servers: LocalEnsemble) -> None:
    """S2, S4: a server without a quorum rejects every client without an answer, as does one that has seen
    less than the client. Requests wait nevertheless, beyond the end of the session, and are answered in the
    end."""
    alone = await servers.leader()
    async with corral.connect(alone.address, session_timeout=SESSION_TIMEOUT, tick_time=0.5) as zk:
        path = await zk.create("/quorum-", sequential=True)
        for each in await servers.followers():
            await each.stop()
        await until_state(zk, corral.State.SUSPENDED)
        reading = asyncio.create_task(zk.get(path))
        await until_state(zk, corral.State.EXPIRED)
        await asyncio.wait([reading], timeout=SESSION_TIMEOUT)
        assert not reading.done()
        await servers.start()
        data, _ = await within(reading)
        assert data == b""
        await zk.delete(path)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_the_only_server_is_restarted(server: Server, how: str) -> None:
    """S1, S4, W3: when the only server was down and is back, the session continues with everything: a waiting
    read, a lock that is held, a place in a line, a watch."""
    async with (
        corral.connect(server.address, session_timeout=10.0) as zk,
        corral.connect(server.address, session_timeout=10.0) as other,
    ):
        session = zk.session_id
        await zk.create("/node", b"before")
        await zk.create("/ephemeral", ephemeral=True)
        held = await zk.lock("/held").acquire()
        theirs = await other.lock("/line").acquire()
        waiting = asyncio.create_task(zk.lock("/line").acquire())
        await until(lambda: has_children(other, "/line", 2), "it stands in the line")
        events = zk.watch("/node")
        await anext(events)
        event = asyncio.create_task(anext(events))

        await fail(server, how)
        await until_state(zk, State.SUSPENDED)
        reading = asyncio.create_task(zk.get("/node"))
        await turns()
        assert not reading.done()
        await server.start()

        assert (await within(reading))[0] == b"before"
        assert zk.session_id == session
        assert held.is_valid
        async with held.transaction() as tx:
            tx.set("/node", b"by the holder")
        assert (await within(event)).data == b"by the holder"
        stat = await within(other.exists("/ephemeral"))
        assert stat is not None
        assert stat.ephemeral_owner == session
        assert await has_children(other, "/line", 2)
        assert not waiting.done()
        await within(theirs.release())
        mine = await within(waiting)
        assert mine.session_id == session


async def has_children(zk: corral.Client, path: str, count: int) -> bool:
    return len(await zk.children(path)) == count
