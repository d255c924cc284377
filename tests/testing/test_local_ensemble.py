"""LocalEnsemble, with three real ZooKeeper processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator

import pytest
from raw_session import RawSession

from corral.errors import UsageStateError, UsageValueError
from corral.testing import LocalEnsemble, ServerUnavailable
from corral.testing.servers import ensemble as ensemble_module
from corral.testing.servers.ports import free_ports
from support import started

pytestmark = pytest.mark.usefixtures("real_servers")


@pytest.fixture(scope="module")
def running() -> Iterator[LocalEnsemble]:
    """One ensemble for the module, started and closed in its own event loops."""
    ensemble = LocalEnsemble(3)
    with started(ensemble):
        yield ensemble


@pytest.fixture
async def ensemble(running: LocalEnsemble) -> LocalEnsemble:
    """The module's ensemble, with every server running."""
    for server in running.servers:
        if server.paused:
            server.resume()
    await running.start()
    await running.followers()
    return running


async def test_one_leads_and_the_others_follow(ensemble: LocalEnsemble) -> None:
    """After start every server serves and knows its role; `hosts` lists all of them."""
    leader, followers = await ensemble.leader(), await ensemble.followers()
    assert len(followers) == 2
    assert {leader, *followers} == set(ensemble.servers)
    assert [await server.role() for server in followers] == ["follower", "follower"]
    assert await leader.role() == "leader"
    assert ensemble.hosts == ",".join(server.address for server in ensemble.servers)


async def test_the_servers_replicate_one_tree(ensemble: LocalEnsemble) -> None:
    """A write through one follower can be read from the leader."""
    follower = (await ensemble.followers())[0]
    async with RawSession(follower.address) as session:
        assert await session.create("/shared") == 0
    async with RawSession((await ensemble.leader()).address) as session:
        assert await session.exists("/shared") == 0


async def test_a_new_leader_follows_a_killed_one(ensemble: LocalEnsemble) -> None:
    """When the leader is killed another server is elected; the old leader comes back at its port, as a
    follower."""
    old = await ensemble.leader()
    address = old.address
    await old.kill()
    new = await ensemble.leader()
    assert new is not old
    assert len(await ensemble.followers()) == 1
    await old.start()
    assert old.address == address
    assert await old.role() == "follower"
    assert await ensemble.leader() is new


async def test_a_paused_leader_is_replaced(ensemble: LocalEnsemble) -> None:
    """A leader that is paused is not asked. The others elect a new one, which is reported even while the old
    one, when it is resumed, still considers itself the leader."""
    old = await ensemble.leader()
    old.pause()
    new = await ensemble.leader()
    assert new is not old
    old.resume()
    assert await ensemble.leader() is new
    assert len(await ensemble.followers()) == 2


async def test_no_quorum_is_no_leader(ensemble: LocalEnsemble) -> None:
    """Without a quorum no server serves: a server can be started without waiting, and waiting is bounded."""
    for server in ensemble.servers:
        await server.kill()
    first = ensemble.servers[0]
    await first.start(wait=False)
    assert first.running
    assert await first.role() is None
    with pytest.raises(ServerUnavailable, match=r"of 1 servers that run, those that serve are \{\}"):
        await ensemble.leader(timeout=0)
    with pytest.raises(ServerUnavailable, match="did not settle"):
        await ensemble.followers(timeout=0)


async def test_a_restart_keeps_data_and_ports(ensemble: LocalEnsemble) -> None:
    """When all servers are stopped and started, the ensemble keeps its addresses and its data."""
    hosts = ensemble.hosts
    async with RawSession(ensemble.servers[0].address) as session:
        assert await session.create("/kept") == 0
    await ensemble.stop()
    assert not any(server.running for server in ensemble.servers)
    await ensemble.start()
    assert ensemble.hosts == hosts
    async with RawSession(ensemble.servers[2].address) as session:
        assert await session.exists("/kept") == 0


async def test_a_wiped_follower_is_filled_again(ensemble: LocalEnsemble) -> None:
    """A server whose data was removed gets them from the leader when it comes back."""
    follower = (await ensemble.followers())[0]
    async with RawSession(follower.address) as session:
        assert await session.create("/restored") == 0
    await follower.kill()
    follower.wipe()
    await follower.start()
    async with RawSession(follower.address) as session:
        assert await session.exists("/restored") == 0


async def test_a_cancelled_start_leaves_no_process() -> None:
    """Cancelling start while the servers come up kills all of them."""
    ensemble = LocalEnsemble(3)
    starting = asyncio.create_task(ensemble.start())
    await asyncio.sleep(0)  # to its first wait: the JVMs are started, and cannot serve yet
    pids = [server.pid for server in ensemble.servers]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await ensemble.close()
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("which", [[0], [3, 4, 5], [6]], ids=["client", "quorum", "election"])
async def test_a_port_that_was_taken_meanwhile(which: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process takes a port before its server binds it, all servers start again with other ports.

    Only the leader binds the quorum port, so there each server that might lead needs another one.
    """
    unlucky = free_ports(9)
    choices = itertools.chain([unlucky], map(free_ports, itertools.repeat(9)))
    monkeypatch.setattr(ensemble_module, "free_ports", lambda count: next(choices))
    async with contextlib.AsyncExitStack() as stack:
        for index in which:
            somebody = await asyncio.start_server(
                lambda _, writer: writer.close(), "127.0.0.1", unlucky[index]
            )
            await stack.enter_async_context(somebody)
        ensemble = await stack.enter_async_context(LocalEnsemble(3))
        assert not {int(server.address.rpartition(":")[2]) for server in ensemble.servers} & {*unlucky}
        assert len(await ensemble.followers()) == 2


def test_wrong_use_is_an_error() -> None:
    """A single server is refused; before the start there is no connect string and no server to start."""
    with pytest.raises(UsageValueError, match="LocalServer"):
        LocalEnsemble(1)
    ensemble = LocalEnsemble(3)
    with pytest.raises(UsageStateError):
        _ = ensemble.hosts
    with pytest.raises(UsageStateError, match=r"start\(\) of the ensemble"):
        asyncio.run(ensemble.servers[0].start())
