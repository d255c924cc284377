"""Sessions that lapse and sessions that expire: who is notified of what, and when; what continues (S2 to S4,
S9)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Literal

import pytest
from fault_support import states_of, until_state, within

import corral
from corral import State
from corral.testing import FaultProxy, LocalServer, after, before, committed
from support import block, turns, until

Connect = Callable[..., corral.Client]

T = 2.0
"""The session timeout of tests in which a session must end."""

LONG = {"session_timeout": 4.0, "tick_time": 4.0}
"""For tests of the time between the end of the lease and that of the session: a client that is configured
with a long tick lets its lease end at least half of T sooner."""


@contextlib.asynccontextmanager
async def disconnected(proxy: FaultProxy) -> AsyncIterator[None]:
    """Nothing passes in either direction; attempts to connect get no answer."""
    async with proxy.black_hole():
        await proxy.cut()
        yield
        # An attempt that the client has given up may reach the server after its current connection was made,
        # and would take the session over.
        await proxy.cut()


async def node_gone(zk: corral.Client, path: str) -> bool:
    return await zk.exists(path) is None


async def only_left(zk: corral.Client, *names: str) -> bool:
    return set(await zk.children("/")) <= set(names)


async def in_line(zk: corral.Client, path: str) -> list[str]:
    """The names of the nodes in a line, in order."""
    return [contender.name for contender in await zk.lock(path).contenders()]


async def stands_in_line(zk: corral.Client, path: str, count: int) -> bool:
    return len(await in_line(zk, path)) == count


async def hold(lock: corral.Lock, held: asyncio.Future[corral.Held], told: Callable[[], object]) -> None:
    """Hold a lock until the body is cancelled, and record when that is."""
    async with lock as mine:
        held.set_result(mine)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            told()


async def test_lapsed_and_resumed(connect: Connect, proxy: FaultProxy, other: corral.Client) -> None:
    """S3: what is held is lost when the lease ends; the session is resumed if the server still has it.
    Waiters, watches and ephemerals continue; the node of the lost lock is deleted."""
    await other.create("/node", b"before")
    theirs = await other.lock("/line").acquire()
    async with connect(to=proxy.address, **LONG) as zk, states_of(zk) as states:
        session = zk.session_id
        await zk.create("/ephemeral", ephemeral=True)
        events = zk.watch("/node")
        await anext(events)
        event = asyncio.create_task(anext(events))
        waiting = asyncio.create_task(zk.lock("/line").acquire())
        await until(lambda: stands_in_line(other, "/line", 2), "it stands in the line")
        line = await in_line(other, "/line")
        held = await zk.lock("/lock").acquire()

        async def lease_is_short() -> bool:
            return (zk.statistics().lease_left or 0) < LONG["session_timeout"] - LONG["tick_time"] / 2 + 0.5

        # From then on the lease ends well before the session, by what the client assumes for half a tick.
        await until(lease_is_short, "the lease is proven by heartbeats")
        async with disconnected(proxy):
            writing = asyncio.create_task(zk.create("/written-meanwhile"))
            assert isinstance(await within(held.wait_lost()), corral.LockLost)
            assert zk.state is State.LAPSED
            assert not held.is_valid
            await other.set("/node", b"after")
        await until_state(zk, State.CONNECTED)
        await turns()
        assert states == [State.CONNECTED, State.SUSPENDED, State.LAPSED, State.CONNECTED]
        assert zk.session_id == session
        assert await within(writing) == "/written-meanwhile"
        await until(lambda: stands_in_line(other, "/lock", 0), "the lost lock's node is removed")
        stat = await other.exists("/ephemeral")
        assert stat is not None
        assert stat.ephemeral_owner == session
        assert (await within(event)).data == b"after"
        assert await in_line(other, "/line") == line
        await theirs.release()
        assert (await within(waiting)).session_id == session
        again = await within(zk.lock("/lock").acquire())
        assert again.is_valid
        assert again.fencing_token > held.fencing_token


@pytest.mark.parametrize("by_server", [True, False], ids=["the server says so", "the client gives up"])
async def test_states_of_an_expired_session(
    connect: Connect, proxy: FaultProxy, other: corral.Client, by_server: bool
) -> None:
    """S3: the states are connected, suspended, lapsed (if something is held), expired, and connected again
    with another session, without any action by the user, and whichever side notices first that the old
    session is over."""
    async with (
        connect(to=proxy.address, session_timeout=T) as holder,
        connect(to=proxy.address, session_timeout=T) as idle,
        states_of(holder) as with_lapse,
        states_of(idle) as without_lapse,
    ):
        clients = [holder, idle]
        sessions = [zk.session_id for zk in clients]
        await asyncio.gather(*(zk.create("/e-", ephemeral=True, sequential=True) for zk in clients))
        await holder.lock("/lock").acquire()
        async with disconnected(proxy):
            if by_server:
                await until(lambda: only_left(other, "lock"), "the server has ended the sessions")
            else:
                await asyncio.gather(*(until_state(zk, State.EXPIRED) for zk in clients))
        await asyncio.gather(*(until_state(zk, State.CONNECTED) for zk in clients))
        assert not {0, *sessions} & {zk.session_id for zk in clients}
        assert without_lapse == [State.CONNECTED, State.SUSPENDED, State.EXPIRED, State.CONNECTED]
        assert with_lapse == [*without_lapse[:2], State.LAPSED, *without_lapse[2:]]


@pytest.mark.parametrize("lease", ["quorum", "ping"])
async def test_told_before_the_next_holds(
    connect: Connect, server_address: str, other: corral.Client, lease: Literal["quorum", "ping"]
) -> None:
    """S3, L4: a holder that is cut off is notified before another client, which waits in line, acquires, at
    whatever point of the heartbeat period it is cut off."""
    order: list[str] = []

    async def contend(number: int) -> None:
        path = f"/lock-{number}"
        # Each point of a heartbeat comes twice: once with a silent connection, once with one that ends.
        moment = (before, committed, after)[number % 3]
        heartbeat = moment("transaction" if lease == "quorum" else "ping", nth=number + 1)
        async with (
            FaultProxy(server_address) as proxy,
            connect(to=proxy.address, session_timeout=T, lease=lease) as zk,
        ):
            held = asyncio.get_running_loop().create_future()
            holding = asyncio.create_task(hold(zk.lock(path), held, lambda: order.append(f"{number} told")))
            mine = await within(held)
            waiting = asyncio.create_task(other.lock(path).acquire())
            waiting.add_done_callback(lambda _: order.append(f"{number} next"))
            async with proxy.black_hole(heartbeat) as hole:
                await within(hole.fired.wait())
                if number % 2:
                    await proxy.cut()  # the client notices this, but silence only by the clock
                next_one = await within(waiting)
                assert holding.done()
                with pytest.raises(corral.LockLost):
                    await holding
                assert not mine.is_valid
                assert next_one.is_valid
                assert next_one.fencing_token > mine.fencing_token
        await next_one.release()

    numbers = range(6)
    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(contend(number))
    for number in numbers:
        assert [entry for entry in order if entry.startswith(f"{number} ")] == [
            f"{number} told",
            f"{number} next",
        ]


async def test_lease_goes_on(connect: Connect, proxy: FaultProxy, other: corral.Client) -> None:
    """S3: an idle holder with a healthy connection keeps what it holds, for more than twice its session
    timeout."""
    async with connect(session_timeout=T) as quorum, connect(session_timeout=T, lease="ping") as ping:
        clients = {"/quorum": quorum, "/ping": ping}
        held = [await zk.lock(path).acquire() for path, zk in clients.items()]
        async with connect(to=proxy.address, session_timeout=2 * T) as clock:
            await clock.create("/clock", ephemeral=True)
            async with proxy.black_hole():
                await until(lambda: node_gone(other, "/clock"), "twice the time is over, as the server says")
        assert all(each.is_valid for each in held)
        for path, zk in clients.items():
            assert zk.state is State.CONNECTED
            assert len(await in_line(other, path)) == 1


@pytest.mark.parametrize("by_server", [True, False], ids=["the server says so", "the client gives up"])
async def test_requests_over_the_end_of_a_session(
    connect: Connect, proxy: FaultProxy, other: corral.Client, by_server: bool
) -> None:
    """S2: requests that were not sent when the session ended are sent in the next one, in order. Those that
    make no sense without the old one, ephemerals and requests that depend on a lock, raise
    `SessionExpired`."""
    async with connect(to=proxy.address, session_timeout=T) as zk:
        session = zk.session_id
        await zk.create("/ephemeral", ephemeral=True)
        held = await zk.lock("/lock").acquire()
        async with disconnected(proxy):
            guarded = held.transaction()
            guarded.create("/by-the-holder")
            bound = [
                asyncio.create_task(zk.create("/another-ephemeral", ephemeral=True)),
                asyncio.create_task(guarded.commit()),
                asyncio.create_task(zk.create("/line-", ephemeral=True, sequential=True)),
            ]
            unbound = [
                asyncio.create_task(zk.create("/node", b"1")),
                asyncio.create_task(zk.set("/node", b"2", version=0)),
                asyncio.create_task(zk.get("/node")),
                asyncio.create_task(zk.set("/node", b"3", version=1)),
                asyncio.create_task(zk.children("/")),
            ]
            await turns()
            if by_server:
                await until(lambda: node_gone(other, "/ephemeral"), "the server has ended the session")
            else:
                await until_state(zk, State.EXPIRED)
        refused = await within(asyncio.gather(*bound, return_exceptions=True))
        assert [type(error) for error in refused] == [corral.SessionExpired] * 3
        created, _, read, changed, names = await within(asyncio.gather(*unbound))
        assert (created, read[0], changed.version) == ("/node", b"2", 2)
        assert "node" in names
        assert not {"ephemeral", "another-ephemeral", "by-the-holder"} & set(names)
        assert zk.session_id not in (0, session)


async def test_in_flight_over_the_end_of_a_session(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S2: of the requests in flight when the connection was lost for good, a write raises `ConnectionLoss`,
    and a read is answered in the new session."""
    async with connect(to=proxy.address, session_timeout=T) as zk:
        await zk.create("/ephemeral", ephemeral=True)
        async with proxy.black_hole() as held:
            writing = asyncio.create_task(zk.create("/node"))
            reading = asyncio.create_task(zk.children("/"))
            await held.arrived()
            await proxy.cut()
            with pytest.raises(corral.ConnectionLoss, match="create '/node'"):
                await within(writing)
            await until(lambda: node_gone(other, "/ephemeral"), "the server has ended the session")
        assert await within(reading) == []


@pytest.mark.parametrize("by_server", [True, False], ids=["the server says so", "the client gives up"])
async def test_waiters_and_watches_over_the_end_of_a_session(
    connect: Connect, proxy: FaultProxy, other: corral.Client, by_server: bool
) -> None:
    """S3, W3: a waiter for a lock joins again, at the end of the line; a watch reports the last state, and
    continues."""
    await other.create("/node", b"before")
    theirs = await other.lock("/line").acquire()
    async with connect(to=proxy.address, session_timeout=T) as zk, connect() as third:
        session = zk.session_id
        events = zk.watch("/node")
        await anext(events)
        event = asyncio.create_task(anext(events))
        waiting = asyncio.create_task(zk.lock("/line", data=b"zk").acquire())
        await until(lambda: stands_in_line(other, "/line", 2), "it stands in the line")
        behind = asyncio.create_task(third.lock("/line", data=b"third").acquire())
        await until(lambda: stands_in_line(other, "/line", 3), "another stands behind it")
        async with disconnected(proxy):
            await until(lambda: stands_in_line(other, "/line", 2), "the server has ended the session")
            if not by_server:
                await until_state(zk, State.EXPIRED)
            await other.set("/node", b"after")
        assert (await within(event)).data == b"after"
        await until(lambda: stands_in_line(other, "/line", 3), "it stands in the line again")
        line = await other.lock("/line").contenders()
        assert [contender.data for contender in line] == [b"", b"third", b"zk"]
        assert line[-1].stat.ephemeral_owner == zk.session_id != session
        await theirs.release()
        await (await within(behind)).release()
        mine = await within(waiting)
        assert mine.session_id == zk.session_id
        assert mine.is_valid
        await other.set("/node", b"later")
        assert (await within(anext(events))).data == b"later"


@pytest.mark.parametrize("waits_for", ["the answer", "something else"])
async def test_blocked_loop_is_told_before_any_answer(
    connect: Connect, proxy: FaultProxy, waits_for: str
) -> None:
    """S9: if the event loop was blocked for longer than the lease, the holder is cancelled before an answer
    in the socket is delivered, and never gets that answer."""
    order: list[str] = []

    async def hold_and_block(zk: corral.Client) -> None:
        async with zk.lock("/lock") as held:
            async with proxy.black_hole(after("exists")) as passed:
                reading = asyncio.ensure_future(zk.exists("/"))
                reading.add_done_callback(lambda _: order.append("answered"))
                waiting = asyncio.ensure_future(
                    zk.exists("/") if waits_for == "the answer" else asyncio.Event().wait()
                )
                await passed.fired.wait()
            # The answers are in the socket, and the client has not run since, to read them.
            block(zk.session_timeout)  # the subject of this test
            assert not held.is_valid
            try:
                await waiting
                order.append("went on")
            finally:
                order.append("told")
                await asyncio.wait([reading])

    async with connect(to=proxy.address, session_timeout=T) as zk:
        with pytest.raises(corral.LockLost):
            await hold_and_block(zk)
    assert order == ["told", "answered"]


async def test_ensemble_that_went_back_in_time(real_servers: None) -> None:
    """S4: when every server has seen less than the client has, as after a restore, waiting requests raise an
    error with the missing zxid; what is held is lost; a new client can be opened."""
    async with LocalServer() as server, corral.connect(server.address, session_timeout=T) as zk:
        await zk.create("/node")
        held = await zk.lock("/lock").acquire()
        for _ in range(100):  # each session takes the new server two zxids further
            newest = (await zk.set("/node", b"new")).mzxid
        await server.stop()
        server.wipe()
        await server.start()
        reading = asyncio.create_task(zk.get("/node"))
        acquiring = asyncio.create_task(zk.lock("/another").acquire())
        event = asyncio.create_task(anext(zk.watch("/node")))
        assert isinstance(await within(held.wait_lost()), corral.LockLost)
        for waiting in (reading, acquiring, event):
            with pytest.raises(corral.EnsembleBehind) as raised:
                await within(waiting)
            theirs, ours = re.findall(r"0x([0-9a-f]+)", str(raised.value))
            assert int(theirs, 16) < newest <= int(ours, 16)
        async with corral.connect(server.address, session_timeout=T) as fresh:
            assert await fresh.children("/") == ["zookeeper"]
