"""A client's life on a real server: connecting, states, closing, tasks, cancellation, and its API by
example."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from client_support import asks_for, requests_seen
from corral import State
from corral.session.state_stream import LIMIT, StateQueue, StateStream
from corral.testing import EmbeddedServer, FaultProxy, LocalServer, Message
from corral.testing.embedded.process import Process
from corral.testing.network import LOOPBACK
from corral.testing.servers.base import four_letter_word
from corral.testing.servers.ports import free_ports
from corral.wire import messages
from support import PATIENCE, children, turns, until

Connect = Callable[..., corral.Client]
Situation = Callable[[FaultProxy, corral.Client], contextlib.AbstractAsyncContextManager[None]]


class Footprint:
    """A snapshot of tasks, sockets and timers, to find later what is new."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._sockets = self._open_sockets()
        self._timers = self._live_timers()

    def new(self) -> list[object]:
        """What was created since, and still exists."""
        tasks = {task for task in asyncio.all_tasks() - self._tasks if not task.done()}
        return [
            *(tasks - {asyncio.current_task()}),
            *(self._open_sockets() - self._sockets),
            *(self._live_timers() - self._timers),
        ]

    async def restored(self) -> None:
        """Wait until nothing new is left; a server in this process closes its sockets a little later."""
        for _ in range(round(PATIENCE / 0.01)):  # not asyncio.timeout, whose timer would be new
            if not self.new():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"left behind: {self.new()}")

    @staticmethod
    def _open_sockets() -> set[str]:
        found = set()
        for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed already
                found.add(os.readlink(entry))
        return {link for link in found if link.startswith("socket:")}

    @staticmethod
    def _live_timers() -> set[asyncio.TimerHandle]:
        # asyncio's own list of timers, which has no public accessor; uvloop has none.
        timers: list[asyncio.TimerHandle] = getattr(asyncio.get_running_loop(), "_scheduled", [])
        return {timer for timer in timers if not timer.cancelled() and not is_of_a_server(timer)}


def is_of_a_server(timer: asyncio.TimerHandle) -> bool:
    """Whether an embedded server in this loop has set it: that server still expires sessions."""
    return isinstance(getattr(timer._callback, "__self__", None), Process)  # type: ignore[attr-defined]


async def ended(awaitable: Awaitable[Any]) -> Any:
    """The result or the error of an awaitable; fails if it hangs."""
    async with asyncio.timeout(PATIENCE):
        return (await asyncio.gather(awaitable, return_exceptions=True))[0]


async def nobody_connected(proxy: FaultProxy) -> None:
    """Wait until the proxy has no client connection."""

    async def none() -> bool:
        return proxy.connections == 0

    await until(none, f"nobody is connected to {proxy}")
    await proxy.cut()  # there is none left to cut: this waits for the proxy to close its sockets


async def is_open(address: str, session_id: int) -> bool:
    """Whether the session exists on the server."""
    return f"0x{session_id:x}" in (await four_letter_word(address, "dump")).split()


# The API


async def test_the_api_by_example(server_address: str, root: str, other: corral.Client) -> None:
    """The lines of the design's first section work as they are written there."""
    await other.create("/config")
    for version in range(3):
        await other.set("/config", b"v%d" % (version + 1))
    await other.create("/audit")
    fenced: list[int] = []
    reloaded: list[bytes | None] = []
    reload = reloaded.append

    class store:
        @staticmethod
        async def save(report: str, fencing_token: int) -> None:
            fenced.append(fencing_token)

    report = "report"

    async with corral.connect(f"{server_address},{server_address}{root}", session_timeout=10) as zk:
        # nodes
        path = await zk.create("/jobs/job-", b"payload", sequential=True, ephemeral=True, make_parents=True)
        data, stat = await zk.get("/jobs")
        stat = await zk.set("/jobs", b"v2", version=stat.version)
        found = await zk.exists("/jobs")
        names = await zk.children("/jobs")
        assert (path, data, found, names) == ("/jobs/job-0000000000", b"", stat, ["job-0000000000"])
        await zk.delete("/jobs", recursive=True)
        assert await zk.exists("/jobs") is None

        # all or nothing
        async with zk.transaction() as tx:
            tx.check("/config", version=3)
            tx.set("/config", b"v4")
            tx.create("/audit/entry-", b"...", sequential=True)
        assert (await zk.get("/config"))[0] == b"v4"

        # locks
        async with zk.lock("/locks/nightly") as held:
            await store.save(report, fencing_token=held.fencing_token)

        lock = zk.lock("/locks/nightly")
        async with asyncio.timeout(PATIENCE):
            held = await lock.acquire()
            fenced.append(held.fencing_token)
        assert await other.lock("/locks/nightly").try_acquire() is None
        await lock.release()
        again = await lock.try_acquire()
        assert again is not None
        fenced.append(again.fencing_token)
        await lock.release()
        assert fenced == sorted(set(fenced))
        assert len(fenced) == 3

        # watches
        async for event in zk.watch("/config"):
            reload(event.data)
            if reloaded[-1] == b"v5":
                break
            await other.set("/config", b"v5")
        assert reloaded == [b"v4", b"v5"]
        async with zk.watch("/config") as events:
            first = await anext(events)
        assert (first.kind, first.path, first.data) == (corral.EventKind.PRESENT, "/config", b"v5")
        assert first.stat == await zk.exists("/config")


def test_everything_public_is_exported_once() -> None:
    """`__all__` has every public name, once; every other name has an underscore or is a module."""
    assert len(set(corral.__all__)) == len(corral.__all__)
    assert all(hasattr(corral, name) for name in corral.__all__)


async def test_reprs(connect: Connect) -> None:
    """A repr says what the object is, what it belongs to, and its state."""
    zk = connect()
    assert "suspended" in repr(zk)
    async with zk:
        lock, watch = zk.chroot("/team").lock("/l"), zk.watch("/n")
        assert repr(watch) == "<NodeWatch of '/n', not started>"
        assert repr(lock) == "<Lock '/l', not acquired>"
        for part in (f"below {zk.chroot_path!r}", "connected", f"session 0x{zk.session_id:x}"):
            assert part in repr(zk)
        assert f"{zk.chroot_path}/team" in repr(zk.chroot("/team"))
        held = await lock.acquire()
        assert repr(lock) == "<Lock '/l', acquired>"
        assert repr(held) == f"<Held lock '/l', held, fencing_token={held.fencing_token}>"
        async with watch:
            await anext(watch)
            assert repr(watch) == "<NodeWatch of '/n', watching>"
        assert repr(watch) == "<NodeWatch of '/n', closed>"
        await held.release()
        assert repr(held) == f"<Held lock '/l', released, fencing_token={held.fencing_token}>"
        tx = zk.transaction()
        tx.check("/a")
        tx.create("/b")
        assert repr(tx) == "<Transaction of 2: check '/a', create '/b'>"
    assert "closed" in repr(zk)
    assert "session" not in repr(zk)


# Connecting


@pytest.mark.parametrize("how", ["string", "list", "environment"])
async def test_where_the_servers_are(
    server_address: str, root: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Servers and chroot are taken from the argument, otherwise from CORRAL_HOSTS."""
    monkeypatch.setenv("CORRAL_HOSTS", f"{server_address}{root}" if how == "environment" else "nowhere:1")
    hosts = {"string": f"{server_address}{root}", "list": [server_address], "environment": None}[how]
    async with corral.connect(hosts) as zk:
        assert zk.server == server_address
        assert zk.chroot_path == ("" if how == "list" else root)
        assert await zk.exists("/") is not None
    assert zk.server is None


async def test_a_name_is_resolved(server_address: str) -> None:
    """S1: a server may be given by name; each address of the name is tried."""
    port = server_address.rpartition(":")[2]
    async with corral.connect(f"localhost:{port}") as zk:
        assert zk.server is not None
        assert zk.server.endswith(f":{port}")


async def test_the_server_decides_on_the_timeout(connect: Connect) -> None:
    """session_timeout is the requested one, and later the granted one."""
    zk = connect(session_timeout=999)
    assert zk.session_timeout == 999
    assert zk.session_id == 0
    async with zk:
        assert 0 < zk.session_timeout < 999
        assert zk.session_id != 0


async def test_unreachable_servers(connect: Connect) -> None:
    """If no server answers, entering raises ConnectTimeout, which names each server and the reason. Nothing
    is left, and the client is closed."""
    refusing = [f"{LOOPBACK}:{port}" for port in free_ports(2)]
    before = Footprint()
    zk = corral.connect([*refusing, "no..name"], connect_timeout=0.3)
    with pytest.raises(corral.ConnectTimeout) as caught:
        await zk.__aenter__()
    message = str(caught.value)
    assert "connect_timeout=0.3" in message
    for server in refusing:
        assert f"{server}: [Errno {errno.ECONNREFUSED}]" in message
    assert "no..name:2181: name not resolved" in message
    await before.restored()
    assert zk.state is State.CLOSED
    with pytest.raises(corral.ClientClosed):
        await zk.get("/")


@pytest.mark.parametrize("others", [0, 1])
async def test_connect_timeout_names_each_server(proxy: FaultProxy, others: int) -> None:
    """The error also names a server that accepts the connection and is silent, and one that was not tried in
    time."""
    servers = [proxy.address, *(f"{LOOPBACK}:{port}" for port in free_ports(others))]
    before = Footprint()
    async with proxy.black_hole():
        with pytest.raises(corral.ConnectTimeout) as caught:
            await corral.connect(servers, connect_timeout=0.2, session_timeout=10).__aenter__()
        await nobody_connected(proxy)
    for server in servers:
        assert f"{server}: " in str(caught.value)
    assert f"{proxy.address}: no answer" in str(caught.value)
    await before.restored()


async def test_a_silent_server_does_not_stop_the_search(server_address: str, proxy: FaultProxy) -> None:
    """S1: if the first server accepts connections and is silent, the client tries the next one."""
    async with proxy.black_hole():
        while proxy.accepted < 2:
            async with asyncio.timeout(PATIENCE):
                async with corral.connect([proxy.address, server_address], session_timeout=1) as zk:
                    assert zk.server == server_address
                    assert await zk.exists("/") is not None


async def test_the_order_is_random(server_address: str, proxy: FaultProxy) -> None:
    """S1: clients with the same list spread over its servers."""
    used = set()
    async with asyncio.timeout(PATIENCE):
        while len(used) < 2:
            async with corral.connect([server_address, proxy.address]) as zk:
                used.add(zk.server)


async def test_waiting_for_ever(connect: Connect, proxy: FaultProxy) -> None:
    """connect_timeout=None waits until there is a server, however long that takes."""
    async with proxy.refuse():
        entering = asyncio.create_task(connect(proxy.address, connect_timeout=None).__aenter__())
        await turns(100)
        assert not entering.done()
    async with asyncio.timeout(PATIENCE):
        zk = await entering
    assert await zk.exists("/") is not None
    await zk.close()


# Refused credentials


async def test_refused_credentials(connect: Connect, proxy: FaultProxy) -> None:
    """S6: entering with credentials that the server refuses raises AuthFailed, and leaves nothing."""
    zk = connect(proxy.address, auth=[("nosuchscheme", b"secret")])
    before = Footprint()
    with pytest.raises(corral.AuthFailed, match="credentials"):
        await zk.__aenter__()
    await nobody_connected(proxy)
    await before.restored()
    with pytest.raises(corral.SessionError):
        await zk.get("/")


async def test_credentials_refused_later(connect: Connect, proxy: FaultProxy, other: corral.Client) -> None:
    """S6: if credentials that were added later are refused, the client cannot be used any more: everything
    that waits, and every later call, raises AuthFailed. What it holds is lost, and it does not reconnect."""
    await other.create("/n")
    async with connect(proxy.address, session_timeout=10) as zk:
        states, lock = zk.states(), zk.lock("/l")
        watch = zk.watch("/n")
        await anext(watch)
        held = await lock.acquire()
        waiting = [
            asyncio.create_task(ended(awaitable))
            for awaitable in (anext(watch), zk.lock("/l").contenders(), zk.chroot("/n").get("/"))
        ]
        second = asyncio.create_task(ended(zk.lock("/l").acquire()))
        await turns()
        zk.add_auth("nosuchscheme", b"secret")
        assert [state async for state in states][-1] is State.AUTH_FAILED
        accepted = proxy.accepted  # the refusal may be lost with its connection, and come on the next
        assert isinstance(await ended(held.wait_lost()), corral.LockLost)
        assert not held.is_valid
        results = await asyncio.gather(*waiting)
        assert isinstance(results[0], corral.AuthFailed)
        # A server that refuses resets the connection, and the refusal may be lost with what else it had sent.
        # If that happens five times in a row, a request in flight is given up before it is known.
        last = await second
        assert isinstance(last, corral.AuthFailed) or (
            isinstance(last, corral.ConnectionLoss) and last.losses == corral.ConnectionLoss.MOST_LOSSES
        )
        for call in (zk.get("/n"), zk.create("/x"), lock.acquire(), zk.exists("/"), anext(zk.watch("/n"))):
            assert isinstance(await ended(call), corral.AuthFailed)
        await nobody_connected(proxy)
        assert proxy.accepted == accepted
        assert zk.state is State.AUTH_FAILED
    assert zk.state is State.CLOSED


# States


async def test_states_tell_each_change(connect: Connect, proxy: FaultProxy) -> None:
    """S3: `states` yields the current state, then each change: when the connection is cut, suspended and
    connected again; at the end, closed."""
    zk = connect(proxy.address)
    early = zk.states()
    async with zk:
        states = zk.states()
        assert await anext(states) is zk.state is State.CONNECTED
        await proxy.cut()
        assert await anext(states) is State.SUSPENDED
        assert await anext(states) is State.CONNECTED
        late = zk.states()
    assert [state async for state in states] == [State.CLOSED]
    assert [state async for state in states] == []
    over = [State.SUSPENDED, State.CONNECTED, State.SUSPENDED, State.CONNECTED, State.CLOSED]
    assert [state async for state in early] == over  # a slow reader has missed nothing
    assert [state async for state in late] == over[-2:]
    assert [state async for state in zk.states()] == [State.CLOSED]


async def test_a_very_slow_reader_of_states_misses_the_oldest() -> None:
    """A reader that is very far behind loses the oldest states, never the newest; memory is bounded."""
    queue = StateQueue(State.SUSPENDED)
    stream = StateStream(queue, lambda: None)
    told = [State.CONNECTED, State.SUSPENDED] * 1000 + [State.CONNECTED, State.CLOSED]
    for state in told:
        queue.put(state)
    seen = [state async for state in stream]
    assert len(seen) == LIMIT
    assert seen == told[-len(seen) :]


async def test_states_are_for_one_reader(connect: Connect) -> None:
    """A second task that reads the same stream gets an error; the first continues. A cancelled reader loses
    nothing."""
    async with connect() as zk:
        states = zk.states()
        await anext(states)
        reader = asyncio.create_task(ended(anext(states)))
        await turns()
        with pytest.raises(corral.UsageStateError, match="states"):
            await anext(states)
        reader.cancel()
        await asyncio.wait([reader])
        reader = asyncio.create_task(ended(anext(states)))
        await turns()
        assert not reader.done()
    assert await reader is State.CLOSED


# Closing


# Situations in which a client is closed while callers wait.


@contextlib.asynccontextmanager
async def connected(proxy: FaultProxy, zk: corral.Client) -> AsyncIterator[None]:
    """With a connection."""
    yield


@contextlib.asynccontextmanager
async def disconnected(proxy: FaultProxy, zk: corral.Client) -> AsyncIterator[None]:
    """Without a server; the client has noticed that."""
    states = zk.states()
    async with proxy.refuse():
        await proxy.cut()
        async for state in states:
            if state is State.SUSPENDED:
                break
        yield


@contextlib.asynccontextmanager
async def in_flight(proxy: FaultProxy, zk: corral.Client) -> AsyncIterator[None]:
    """The server answers, and its answers do not arrive."""
    async with proxy.black_hole(requests=False):
        yield


@contextlib.asynccontextmanager
async def black_hole(proxy: FaultProxy, zk: corral.Client) -> AsyncIterator[None]:
    """Nothing passes in either direction."""
    async with proxy.black_hole():
        yield


REQUESTS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "read": lambda zk: zk.get("/n"),
    "write": lambda zk: zk.set("/n", b"new"),
    "ephemeral": lambda zk: zk.create("/e", ephemeral=True),
    "parents": lambda zk: zk.create("/a/b/c", make_parents=True),
    "recursive delete": lambda zk: zk.delete("/n", recursive=True),
    "acquire": lambda zk: zk.lock("/free").acquire(),
    "try_acquire": lambda zk: zk.lock("/free").try_acquire(),
    "contenders": lambda zk: zk.lock("/l").contenders(),
    "first of a watch": lambda zk: anext(zk.watch("/n")),
}
EVENTS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "lock": lambda zk: zk.lock("/l").acquire(),
    "watch": lambda zk: _second_event(zk),
    "watch of nothing": lambda zk: _second_event(zk, "/none"),
}


async def _second_event(zk: corral.Client, path: str = "/n") -> object:
    async with zk.watch(path) as events:
        await anext(events)
        return await anext(events)


def what_came(waiting: dict[str, asyncio.Task[Any]]) -> dict[str, str]:
    """The name of the error that each waiter got."""
    return {name: type(task.result()).__name__ if task.done() else "hangs" for name, task in waiting.items()}


@pytest.mark.parametrize("situation", [disconnected, in_flight, black_hole])
async def test_closing_wakes_requests(
    connect: Connect, proxy: FaultProxy, other: corral.Client, situation: Situation
) -> None:
    """S5: a request that waits for a connection or for its answer ends with ClientClosed when the client is
    closed. Closing ends, whatever the network does."""
    await other.create("/n")
    before = Footprint()
    async with connect(proxy.address, session_timeout=2) as zk, situation(proxy, zk):
        waiting = {name: asyncio.create_task(ended(call(zk))) for name, call in REQUESTS.items()}
        await turns()
        assert what_came(waiting) == dict.fromkeys(REQUESTS, "hangs")
        assert await ended(zk.close()) is None
        await turns()
        assert what_came(waiting) == dict.fromkeys(REQUESTS, "ClientClosed")
        assert "closed" in str(waiting["read"].result())
    await nobody_connected(proxy)
    await before.restored()


@pytest.mark.parametrize("situation", [connected, disconnected, black_hole])
async def test_closing_wakes_who_waits_for_others(
    connect: Connect, proxy: FaultProxy, other: corral.Client, situation: Situation
) -> None:
    """S5: so do calls that wait for other clients: in the line of a lock, or for a change of a node."""
    await other.create("/n")
    async with other.lock("/l"), connect(proxy.address, session_timeout=2) as zk:
        async with requests_seen(proxy) as seen:
            waiting = {name: asyncio.create_task(ended(call(zk))) for name, call in EVENTS.items()}

            async def settled() -> bool:
                # The requests that set their watches: a read each, and an `exists` if there is no node.
                return seen.count(messages.GET, messages.EXISTS) == 4

            await until(settled, "they wait")
        await zk.exists("/")  # after this the watches are set
        async with situation(proxy, zk):
            assert what_came(waiting) == dict.fromkeys(EVENTS, "hangs")
            assert await ended(zk.close()) is None
            await turns()
            assert what_came(waiting) == dict.fromkeys(EVENTS, "ClientClosed")


async def test_closing_tells_the_holder(connect: Connect, proxy: FaultProxy, other: corral.Client) -> None:
    """S5, L4: what is held is lost when the client is closed. The holder is notified before the server is
    told, and then others can hold at once."""
    async with connect(proxy.address) as zk:
        held = await zk.lock("/l").acquire()
        waiting = asyncio.create_task(held.wait_lost())
        await turns()
        async with proxy.black_hole():
            closing = asyncio.create_task(zk.close())
            await turns()
            assert not closing.done()
            assert waiting.done()  # and the server has not been told yet
            assert not held.is_valid
        await closing
        error = await waiting
        assert isinstance(error, corral.LockLost)
        assert "closed" in str(error)
    await other.sync()
    assert await other.lock("/l").try_acquire() is not None


async def test_closing_leaves_nothing(connect: Connect, server_address: str) -> None:
    """S5: when a client is closed none of its tasks, sockets or timers is left, and the server has no
    session."""
    before = Footprint()
    async with connect() as zk:
        session = zk.session_id
        await zk.create("/e", ephemeral=True)
        async with zk.lock("/l"), zk.watch("/e") as events:
            await anext(events)
            assert await is_open(server_address, session)
            assert before.new() != []
    await before.restored()
    assert not await is_open(server_address, session)


async def test_closing_is_bounded(real_servers: None) -> None:
    """S5: closing ends even if the server is paused, and leaves nothing in the client."""
    async with LocalServer() as server:
        before = Footprint()
        async with corral.connect(server.address, session_timeout=1) as zk:
            await zk.create("/e", ephemeral=True)
            server.pause()
            assert await ended(zk.close()) is None
        await before.restored()


async def test_closing_twice_and_at_once(connect: Connect, server_address: str) -> None:
    """S5: several tasks may close a client, repeatedly; each call returns when it is closed."""
    async with connect() as zk:
        session = zk.session_id
        assert await asyncio.gather(zk.close(), zk.close(), zk.chroot("/a").close()) == [None] * 3
        assert not await is_open(server_address, session)
        await zk.close()
    assert zk.state is State.CLOSED


def test_a_loop_that_ends_while_a_client_closes() -> None:
    """S8: closing is cancelled twice, and then the loop ends all its tasks: no exception is left that nobody
    has retrieved."""
    complaints: list[dict[str, Any]] = []

    async def main(server: EmbeddedServer) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        entered = asyncio.Event()

        async def use() -> None:
            async with corral.connect(server.address):
                entered.set()
                await asyncio.Event().wait()

        using = asyncio.create_task(use())
        await entered.wait()
        server.pause()
        for _ in range(2):
            using.cancel()
            await turns()
        await asyncio.wait([using])

    with EmbeddedServer(thread=True) as server:
        asyncio.run(main(server))
    gc.collect()  # futures log unretrieved exceptions when they are collected
    assert complaints == []


@pytest.mark.parametrize("after", range(1, 8))
async def test_a_cancelled_close_closes(connect: Connect, server_address: str, after: int) -> None:
    """S5, S8: cancelling the wait, after any number of loop turns, does not stop the closing."""
    async with connect() as zk:
        session = zk.session_id
        closing = asyncio.create_task(zk.close())
        await turns(after)
        closing.cancel()
        await asyncio.wait([closing])

        async def gone() -> bool:
            return not await is_open(server_address, session)

        await until(gone, "the session is closed")


async def test_closing_while_it_opens(connect: Connect, proxy: FaultProxy) -> None:
    """S5: if a client is closed while it is being entered, entering raises ClientClosed."""
    before = Footprint()
    async with proxy.black_hole():
        zk = connect(proxy.address)
        entering = asyncio.create_task(ended(zk.__aenter__()))
        await turns()
        await zk.close()
        assert isinstance(await entering, corral.ClientClosed)
        await nobody_connected(proxy)
    await before.restored()


async def test_a_client_that_was_never_opened_can_be_closed(connect: Connect) -> None:
    """S5: closing a client that was not entered does nothing."""
    zk = connect()
    await zk.close()
    async with zk:
        assert zk.state is State.CONNECTED


# Tasks


async def in_another_task(awaitable: Awaitable[Any]) -> Any:
    """Await it in a new task."""

    async def run() -> Any:
        return await awaitable

    return await asyncio.create_task(run())


@pytest.fixture
async def opened(connect: Connect) -> AsyncIterator[corral.Client]:
    """A client that pytest-asyncio enters and leaves in different tasks."""
    async with connect() as zk, zk.lock("/fixture"), zk.watch("/") as events:
        await anext(events)
        yield zk


async def test_in_a_fixture(opened: corral.Client, other: corral.Client) -> None:
    """S8: a fixture may enter client, lock and watch in one task and leave them in another."""
    assert await opened.exists("/") is not None
    assert await other.lock("/fixture").try_acquire() is None


async def test_enter_and_exit_in_different_tasks(
    connect: Connect, server_address: str, other: corral.Client
) -> None:
    """S8: client, lock and watch may be entered in a task that ends, and left in another."""
    zk = connect()
    await in_another_task(zk.__aenter__())
    session = zk.session_id
    await zk.create("/n")
    lock, watch = zk.lock("/l"), zk.watch("/n")
    held = await in_another_task(lock.__aenter__())
    events = await in_another_task(watch.__aenter__())
    assert (await in_another_task(anext(events))).kind is corral.EventKind.PRESENT
    assert held.is_valid
    assert await other.lock("/l").try_acquire() is None
    await in_another_task(watch.__aexit__(None, None, None))
    await in_another_task(lock.__aexit__(None, None, None))
    await other.sync()
    assert await children(other, "/l") == []
    await in_another_task(zk.__aexit__(None, None, None))
    assert not await is_open(server_address, session)


async def test_an_exit_stack_that_moves(connect: Connect, other: corral.Client) -> None:
    """S8: an exit stack that one task fills and another closes leaves nothing."""

    async def fill() -> contextlib.AsyncExitStack:
        async with contextlib.AsyncExitStack() as stack:
            zk = await stack.enter_async_context(connect())
            await stack.enter_async_context(zk.lock("/l"))
            events = await stack.enter_async_context(zk.watch("/l"))
            await anext(events)
            return stack.pop_all()

    before = Footprint()
    stack = await in_another_task(fill())
    assert len(await other.children("/l")) == 1
    await in_another_task(stack.aclose())
    await other.sync()
    assert await children(other, "/l") == []
    await before.restored()


async def test_connecting_can_be_cancelled_anywhere(connect: Connect, proxy: FaultProxy) -> None:
    """S8: if entering is cancelled, after any number of loop turns, it ends at once and leaves nothing: no
    task, no timer, and no connection on the server."""
    before = Footprint()
    for count in range(10_000):
        zk = connect(proxy.address)
        entering = asyncio.create_task(zk.__aenter__())
        await turns(count)
        if entering.done():
            await zk.close()
            break
        entering.cancel()
        assert isinstance(await ended(entering), asyncio.CancelledError)
        assert zk.state is not State.CONNECTED
        await nobody_connected(proxy)
        await before.restored()
    assert count > 3
    assert zk.state is State.CLOSED


async def test_cancelled_as_the_session_comes(
    connect: Connect, server_address: str, proxy: FaultProxy
) -> None:
    """S8: if entering is cancelled in the very turn in which the session is established, the session is ended
    on the server."""
    zk = connect(proxy.address)
    entering = asyncio.create_task(zk.__aenter__())
    while zk.state is not State.CONNECTED:
        await asyncio.sleep(0)
    session = zk.session_id
    if entering.done():  # the loop has run it before this task
        await zk.close()
    else:
        entering.cancel()
        assert isinstance(await ended(entering), asyncio.CancelledError)
    assert not await is_open(server_address, session)
    assert zk.state is State.CLOSED


# Under load


async def test_a_lock_is_kept_under_load(real_time: None, connect: Connect, proxy: FaultProxy) -> None:
    """S1, S3: ten thousand requests at once do not delay the heartbeats of a lock: these are sent in between.
    The lock is kept for longer than the session timeout, and every request is answered."""
    gets = heartbeats = within_a_batch = 0

    def count(message: Message) -> bool:
        nonlocal gets, heartbeats, within_a_batch
        gets += asks_for(messages.GET)(message)
        if asks_for(messages.MULTI)(message):
            heartbeats += 1
            # After all earlier requests, it would come when a whole batch has been sent.
            within_a_batch += gets % 10_000 != 0
        return False

    # Ten thousand tasks block the loop for a while on a busy machine, and the lease must last longer than
    # that.
    async with connect(proxy.address, session_timeout=6) as zk:
        await zk.create("/n", b"data")
        async with zk.lock("/l") as held, proxy.record(count), asyncio.timeout(PATIENCE):
            while heartbeats <= 7 or within_a_batch < 3:  # six make a session timeout
                answers = await asyncio.gather(*(zk.get("/n") for _ in range(10_000)))
                assert [data for data, _ in answers] == [b"data"] * 10_000
            assert held.is_valid
        assert proxy.accepted == 1


# Logging


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What corral logs at INFO and above."""
    with caplog.at_level(logging.INFO, "corral"):
        yield caplog


def warnings_in(log: pytest.LogCaptureFixture) -> list[str]:
    """The messages at WARNING and above."""
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]


async def test_a_normal_life_is_quiet(connect: Connect, log: pytest.LogCaptureFixture) -> None:
    """Connecting, waiting for locks, giving up, watches, refusals, a short outage and closing log no
    warning."""
    async with connect() as zk, connect() as rival:
        async with zk.lock("/l"):
            waiting = asyncio.create_task(rival.lock("/l").acquire())
            async with zk.watch("/l") as events:
                await anext(events)
            assert await rival.lock("/l").try_acquire() is None
        held = await waiting
        await held.release()
        giving_up = asyncio.create_task(zk.lock("/l").acquire())
        await turns()
        giving_up.cancel()
        await asyncio.wait([giving_up])
        with pytest.raises(corral.NoNode):
            await zk.get("/none")
    assert warnings_in(log) == []
    assert log.records != []


async def test_a_cut_is_two_lines(connect: Connect, proxy: FaultProxy, log: pytest.LogCaptureFixture) -> None:
    """The loss of the connection and the reconnect are one line each: which server and why, what is held, and
    how long it took."""
    async with connect(proxy.address) as zk, zk.lock("/l") as held:
        await proxy.cut(reset=True)
        await zk.exists("/")
        lost, back = warnings_in(log)
        for part in (f"contact lost: {proxy.address}: ", "holding, for ", held.node):
            assert part in lost
        for part in (f"session 0x{zk.session_id:x} is on {proxy.address} after ", " s; nothing was lost"):
            assert part in back


async def test_rounds_in_vain_are_no_warnings(
    connect: Connect, proxy: FaultProxy, log: pytest.LogCaptureFixture
) -> None:
    """While there is no server, one warning is logged; the outcome of each round, server by server, is logged
    at DEBUG."""

    def rounds() -> list[str]:
        return [text for record in log.records if "trying on" in (text := record.getMessage())]

    async def three_rounds() -> bool:
        return len(rounds()) >= 3

    [port] = free_ports(1)
    dead = f"{LOOPBACK}:{port}"
    async with connect(f"{dead},{proxy.address}") as zk:
        log.set_level(logging.DEBUG, "corral.session")
        log.clear()
        async with proxy.refuse():
            await proxy.cut()
            await until(three_rounds, "three rounds in vain")
        await zk.exists("/")
    assert len(warnings_in(log)) == 2
    for part in (f"{dead}: [Errno {errno.ECONNREFUSED}]", f"{proxy.address}: "):
        assert part in rounds()[-1]


async def test_a_session_that_could_not_be_closed_is_a_warning(
    connect: Connect, proxy: FaultProxy, log: pytest.LogCaptureFixture
) -> None:
    """S5: closing logs once if the session, with its ephemerals, had to be left to expire."""
    async with connect(proxy.address, session_timeout=1) as zk:
        session = zk.session_id
        async with proxy.refuse():
            await proxy.cut()
            await zk.close()
    message = warnings_in(log)[-1]
    assert f"0x{session:x}" in message
    assert "ephemerals" in message
