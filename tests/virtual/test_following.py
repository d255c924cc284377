"""A client that follows the members of its ensemble. Each of two proxies in front of one embedded server is a
member."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy, before
from corral.testing.enumerators import InvariantViolated, Report, Run, Scenario, every_cancel, every_cut
from support import until, within

T = 6.0
"""The session timeout, in seconds."""


@pytest.fixture
async def second(server: EmbeddedServer) -> AsyncIterator[FaultProxy]:
    """The other member."""
    async with FaultProxy(server.address) as between:
        yield between


def member(number: int, address: str) -> str:
    """A line of the configuration."""
    return f"server.{number}=10.0.0.{number}:2888:3888:participant;{address}"


def following(to: FaultProxy) -> corral.Client:
    return corral.connect(to.address, session_timeout=T, follow_members=True)


async def until_on(zk: corral.Client, member: FaultProxy) -> None:
    """Wait until a client is connected to a member."""

    async def is_there() -> bool:
        return zk.server == member.address

    await until(is_there, f"the client is on {member.address}")


async def until_told(zk: corral.Client, members: int) -> None:
    """Wait until a client has been told of a configuration with so many members, and has acted on it."""
    async for config in zk.ensemble.watch():
        if len(config.members) == members:
            break
    for _ in range(3):
        await zk.exists("/")


async def test_the_session_moves_before_its_server_goes(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy
) -> None:
    """S1, S2: when its server leaves the ensemble, the client finishes what it has sent, and moves its session to a
    member that it was not told of at first. No write is lost, whenever it is made, and locks stay held."""
    server.reconfigure([member(1, proxy.address), member(2, second.address)])
    async with following(proxy) as zk:
        session = zk.session_id
        held = await zk.lock("/lock").acquire()
        await until_told(zk, 2)
        writes = list[asyncio.Task[str]]()
        async with proxy.delay(0.2, requests=False):  # so that writes are in flight whenever it moves
            while zk.server != second.address:
                writes.append(asyncio.create_task(zk.create(f"/w-{len(writes)}")))
                await asyncio.sleep(0.02)
                if len(writes) == 10:
                    server.reconfigure([member(2, second.address)])
                assert len(writes) < 1000
            assert await asyncio.gather(*writes) == [f"/w-{number}" for number in range(len(writes))]
        assert zk.session_id == session
        assert held.is_valid
        assert zk.statistics().reconnects == 1
        await held.release()


async def test_a_proxy_is_no_member_that_left(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy
) -> None:
    """S1: a server that never was a member may be another name of one: the client stays until it goes, and then
    finds the members."""
    server.reconfigure([member(2, second.address)])
    async with following(proxy) as zk:
        await until_told(zk, 1)
        assert zk.server == proxy.address
        await proxy.cut()
        await until_on(zk, second)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["server.1=10.0.0.1:2888:3888:participant"],
        ["server.1=10.0.0.1:2888:3888:participant;10.0.0.1:2181"],
        ["server.1=0.0.0.0:2888:3888:participant;0.0.0.0:2181"],
    ],
    ids=["none", "no client address", "dead", "unusable"],
)
async def test_the_given_hosts_remain_a_fallback(
    server: EmbeddedServer, proxy: FaultProxy, lines: list[str]
) -> None:
    """S1: if no member answers, or none tells a usable address, the hosts that the user gave are tried."""
    if lines:
        server.reconfigure(lines)
    async with following(proxy) as zk:
        session = zk.session_id
        await until_told(zk, len(lines))
        await proxy.cut()
        assert await zk.exists("/none") is None
        assert zk.server == proxy.address
        assert zk.session_id == session


async def test_a_port_alone_is_at_the_quorum_address(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy
) -> None:
    """S1: a member that accepts clients at all its addresses is reached at its quorum address."""
    host, _, port = second.address.rpartition(":")
    server.reconfigure([f"server.2={host}:2888:3888:participant;0.0.0.0:{port}"])
    async with following(proxy) as zk:
        await until_told(zk, 1)
        await proxy.cut()
        await until_on(zk, second)


async def test_the_server_falls_silent_while_it_is_left(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy
) -> None:
    """S1, S2: a server that left, and does not answer any more, is left as any silent one, in half the session timeout.
    What was not sent to it is sent to the next one, and the client stays there."""
    server.reconfigure([member(1, proxy.address), member(2, second.address)])
    async with following(proxy) as zk:
        await until_told(zk, 2)
        async with proxy.black_hole(before("exists")) as hole:  # the read that is its last one
            server.reconfigure([member(2, second.address)])
            await within(hole.fired.wait())
            began = asyncio.get_running_loop().time()
            assert await zk.create("/w") == "/w"
            assert asyncio.get_running_loop().time() - began == pytest.approx(T / 2, abs=0.1)
            assert zk.server == second.address
        for _ in range(3):
            await zk.exists("/")
        assert zk.statistics().reconnects == 1


async def test_what_cannot_be_followed_is_logged_once(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """T4: a configuration that makes no sense is logged, once, and changes nothing. The next one is followed."""
    server.reconfigure(["server.one=nonsense"])
    with caplog.at_level(logging.INFO, "corral.session"):
        async with following(proxy) as zk:
            await asyncio.sleep(T / 2)
            server.reconfigure(["server.one=nonsense"])
            await asyncio.sleep(10 * T)
            server.reconfigure([member(2, second.address)])

            async def is_told() -> bool:
                return "the ensemble's members (version" in caplog.text

            await until(is_told, "the next configuration is taken")
            await proxy.cut()
            await until_on(zk, second)
    said = [record.message for record in caplog.records if "members" in record.message]
    assert [line.partition(":")[0] for line in said] == [
        "the ensemble's members are not followed",
        "the ensemble's members (version 0x4) are 127.0.0.1",
    ]


async def test_leaving_ends_following(server: EmbeddedServer, proxy: FaultProxy) -> None:
    """S5: a client that follows leaves nothing when it is closed, or cancelled while it enters."""
    async with following(proxy) as zk:
        assert await zk.ensemble.config() == corral.EnsembleConfig(0, ())
    zk = following(proxy)
    for turns in range(30):
        entering = asyncio.create_task(zk.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await entering
        await zk.close()
        zk = following(proxy)
    assert not server.zookeeper.connections


# Every cut and every cancel


def require(condition: object, what: str) -> None:
    if not condition:
        raise InvariantViolated(what)


def moving(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy, observer: corral.Client
) -> Scenario:
    """A client moves while it holds a lock and writes."""

    async def scenario(run: Run) -> None:
        both = [member(1, proxy.address), member(2, second.address)]
        server.reconfigure(both)
        async with following(proxy) as zk:
            session = zk.session_id
            held = await zk.lock("/lock").acquire()
            await until_told(zk, 2)
            server.reconfigure(both[1:])
            outcome = await run.operation(zk.create("/w-", sequential=True))
            await until_on(zk, second)
            require(zk.session_id == session, "the session was lost")
            require(held.is_valid, "the lock was lost")
            if outcome.error is not None:
                require(isinstance(outcome.error, corral.ConnectionLoss), repr(outcome.error))
            elif not outcome.cancelled:
                require(await observer.exists(outcome.result()), "an acknowledged write is not there")
            await held.release()

    return scenario


def tell(report: Report) -> None:
    print(report)
    assert not report.broken, str(report)
    assert report.reached, str(report)


async def test_every_cut_of_a_move(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy, other: corral.Client
) -> None:
    """S2: the connection is cut at each message while the client moves: it arrives with its session and its lock."""
    tell(await every_cut(proxy, moving(server, proxy, second, other), what="a move: cuts"))


async def test_every_cancel_of_a_move(
    server: EmbeddedServer, proxy: FaultProxy, second: FaultProxy, other: corral.Client
) -> None:
    """S8: a write is cancelled wherever it waits while the client moves: nothing is left, and it arrives."""
    tell(await every_cancel(proxy, moving(server, proxy, second, other), what="a move: cancels"))
