"""A server that answers as ClickHouse Keeper does (`keeper.py`), in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from keeper import Keeper
from virtually import PORT, now, run

import corral
from corral import State
from corral.testing import EmbeddedServer
from corral.wire import messages

T = 10.0
HOSTS = f"10.0.0.1:{PORT}"


@contextlib.asynccontextmanager
async def keeper(*lacks: messages.Operation) -> AsyncIterator[tuple[Keeper, EmbeddedServer]]:
    """One, with the embedded server behind it."""
    async with (
        EmbeddedServer(seed=1, tick_time=T / 10) as server,
        Keeper(server, frozenset(lacks)).listening("10.0.0.1", PORT) as front,
    ):
        yield front, server


async def until(zk: corral.Client, wanted: State) -> list[State]:
    seen = []
    async for state in zk.states():
        seen.append(state)
        if state is wanted:
            break
    return seen


def test_one_that_rejects_us_is_passed_over() -> None:
    """S1: a server without a leader turns everybody away: another one is found at once. If all reject us, the
    error says why."""

    async def main() -> None:
        async with keeper() as (front, server):
            front.has_leader = False
            async with Keeper(server).listening("10.0.0.2", PORT):
                began = now()
                async with corral.connect(f"{HOSTS},10.0.0.2:{PORT}", session_timeout=T) as zk:
                    assert zk.state is State.CONNECTED
                    assert now() - began < 1
            with pytest.raises(corral.ConnectTimeout, match="turns everybody away: it has no leader"):
                async with corral.connect(HOSTS, session_timeout=T, connect_timeout=3):
                    pass

    run(main)


def test_being_rejected_ends_nothing_by_itself() -> None:
    """S3, S4: a rejection is no end of the session, and no sign of an ensemble that was wiped, however long it
    lasts; clients try on, as while servers elect a leader, and not more often."""

    async def main() -> None:
        async with keeper() as (front, _), corral.connect(HOSTS, session_timeout=T) as zk:
            await zk.create("/node")
            front.has_leader = False
            await front.break_connections()
            await until(zk, State.SUSPENDED)
            session, before = zk.session_id, front.connects
            await asyncio.sleep(3.0)
            assert 12 < front.connects - before < 40  # a fifth of a second apart, not ever longer
            await asyncio.sleep(T / 2 - 3.0)
            assert (zk.session_id, zk.state) == (session, State.SUSPENDED)
            await asyncio.sleep(60)
            assert zk.state is State.EXPIRED
            assert front.connects - before < 240
            front.has_leader = True
            await until(zk, State.CONNECTED)
            assert await zk.exists("/node") is not None

    run(main)


def test_a_lost_connection_is_a_lost_session() -> None:
    """S3, L4: a server that resumes no session opens a new one instead. Ours has expired for us, and what it
    held is lost, although its nodes stay until the server finds out."""

    async def main() -> None:
        async with keeper() as (front, server), corral.connect(HOSTS, session_timeout=T) as zk:
            session, began = zk.session_id, now()
            lock = zk.lock("/lock")
            held = await lock.acquire()
            await front.break_connections()
            await held.wait_lost()
            await until(zk, State.CONNECTED)
            assert now() - began < T / 2
            assert zk.session_id not in (0, session)
            assert session in server.zookeeper.sessions
            began = now()
            async with lock:
                assert now() - began <= 2 * T

    run(main)


def test_what_is_watched_and_registered_goes_on() -> None:
    """W3, N1: watches and registrations go on in the new session."""

    async def main() -> None:
        async with keeper() as (front, _), corral.connect(HOSTS, session_timeout=T) as zk:
            async with (
                zk.watch("/node") as events,
                zk.watch_tree("/tree") as changes,
                zk.registration("/here", b"x"),
            ):
                assert not (await anext(events)).exists
                await zk.create("/tree/1", make_parents=True)
                await front.break_connections()
                await until(zk, State.EXPIRED)
                await until(zk, State.CONNECTED)
                await zk.create("/node", b"new")
                assert (await anext(events)).data == b"new"
                async with asyncio.timeout(3 * T):
                    async for change in changes:
                        if change.path == "/tree/1":
                            break
                    while (stat := await zk.exists("/here")) is None or (
                        stat.ephemeral_owner != zk.session_id
                    ):
                        await asyncio.sleep(0.1)

    run(main)


def test_a_close_is_not_answered() -> None:
    """S5: the end of the connection is the answer to a close: it is not waited for any longer."""

    async def main() -> None:
        async with keeper() as (_, server):
            async with corral.connect(HOSTS, session_timeout=T) as zk:
                await zk.create("/mine", ephemeral=True)
                began = now()
            assert now() - began < 0.1
            await asyncio.sleep(0.1)
            assert server.zookeeper.sessions.ids() == []

    run(main)


def test_an_unknown_operation_is_given_up() -> None:
    """S2: a server that ends the connection at an operation that it does not know is not asked for ever: a
    lock raises `ConnectionLoss` that says so, and the client works on. Watches are not removed again."""

    async def main() -> None:
        lacks = (messages.CREATE2, messages.REMOVE_WATCHES)
        async with keeper(*lacks) as (front, _), corral.connect(HOSTS, session_timeout=T) as zk:
            await zk.ensure_path("/lock")
            async with asyncio.timeout(10 * T):
                with pytest.raises(corral.ConnectionLoss, match="connections in a row broke on this request"):
                    await zk.lock("/lock").acquire()
            for _ in range(5):
                async with zk.watch("/lock") as events:
                    await anext(events)
                await asyncio.sleep(1)
            before = front.connects
            for _ in range(5):
                async with zk.watch("/lock") as events:
                    await anext(events)
                await asyncio.sleep(1)
            assert front.connects == before
            assert await zk.children("/lock") == []

    run(main)
