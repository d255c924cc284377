"""LocalEnsemble.partition, with three real ZooKeeper processes, some of them cut off from the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from raw_session import NO_NODE, RawSession

from corral.errors import UsageStateError, UsageValueError
from corral.testing import LocalEnsemble, LocalServer
from corral.testing.network import LOOPBACK
from corral.testing.network.peers import PeerNetwork, rewrite_election_address
from corral.testing.servers import ensemble as ensemble_module
from corral.testing.servers.ports import free_ports
from support import until

pytestmark = pytest.mark.usefixtures("real_servers")

SOON = 4
"""A sync_limit, in ticks of half a second, after which a server that is cut off soon leaves."""

LATE = 60
"""A sync_limit after which a server does not leave within a test."""


@pytest.fixture
async def ensemble() -> AsyncIterator[LocalEnsemble]:
    """Three servers that leave two seconds after they were cut off."""
    async with LocalEnsemble(3, sync_limit=SOON, partitionable=True) as servers:
        await servers.followers()
        yield servers


@pytest.fixture
async def patient() -> AsyncIterator[LocalEnsemble]:
    """Three servers that do not leave within a test."""
    async with LocalEnsemble(3, sync_limit=LATE, partitionable=True) as servers:
        await servers.followers()
        yield servers


async def until_roles(expected: dict[LocalServer, str | None]) -> None:
    async def so() -> bool:
        return [await server.role() for server in expected] == list(expected.values())

    await until(so, f"{expected}")


async def write(server: LocalServer, path: str) -> None:
    async with RawSession(server.address) as session:
        assert await session.create(path) == 0


async def until_read(server: LocalServer, path: str) -> None:
    async with RawSession(server.address) as session:

        async def there() -> bool:
            return await session.exists(path) == 0

        await until(there, f"{path} on {server}")


def network(ensemble: LocalEnsemble) -> PeerNetwork:
    assert ensemble._network is not None
    return ensemble._network


async def test_a_follower_that_is_cut_off_leaves_while_the_others_go_on(ensemble: LocalEnsemble) -> None:
    """The minority stops serving after syncLimit; the majority continues under its leader. After the block
    the server is a follower again, and has what was written meanwhile."""
    leader = await ensemble.leader()
    cut_off, other = await ensemble.followers()
    async with ensemble.partition(cut_off):
        await until_roles({cut_off: None})
        await write(other, "/meanwhile")
        assert await ensemble.leader() is leader
        assert await other.role() == "follower"
    assert len(await ensemble.followers()) == 2
    assert await ensemble.leader() is leader
    await until_read(cut_off, "/meanwhile")


async def test_a_leader_that_is_cut_off_is_replaced(ensemble: LocalEnsemble) -> None:
    """The majority elects another leader, and the old one stops serving. After the block all three serve
    under the new one."""
    old = await ensemble.leader()
    one, other = await ensemble.followers()
    async with ensemble.partition(old):
        await until_roles({old: None})

        async def replaced() -> bool:
            return {await one.role(), await other.role()} == {"leader", "follower"}

        await until(replaced, "one of the others leads")
        new = await ensemble.leader()
        assert new is not old
        await write(new, "/meanwhile")
    assert old in await ensemble.followers()
    assert await ensemble.leader() is new
    await until_read(old, "/meanwhile")


async def test_servers_that_are_cut_off_together_hear_each_other(ensemble: LocalEnsemble) -> None:
    """Only links between the two sides are cut: the two servers on one side continue, and the third
    leaves."""
    leader = await ensemble.leader()
    follower, third = await ensemble.followers()
    async with ensemble.partition(leader, follower):
        await until_roles({third: None})
        await write(follower, "/meanwhile")
        assert await ensemble.leader() is leader
    await ensemble.followers()
    await until_read(third, "/meanwhile")


async def test_nothing_passes_and_nothing_is_closed(patient: LocalEnsemble) -> None:
    """Messages across the cut are withheld, clients stay connected, and at the end everything is delivered on
    the existing connections: neither side has noticed anything."""
    leader = await patient.leader()
    cut_off, other = await patient.followers()
    logged = {server: len(server.log) for server in patient.servers}
    async with RawSession(cut_off.address) as session:
        async with patient.partition(cut_off):
            await write(leader, "/meanwhile")
            await until_read(other, "/meanwhile")
            assert await session.exists("/meanwhile") == NO_NODE
            assert await cut_off.role() == "follower"
            writing = asyncio.create_task(session.create("/from-the-other-side"))
            await write(leader, "/later")
            assert not writing.done()
        assert await writing == 0
        assert await session.exists("/meanwhile") == 0
    await until_read(leader, "/from-the-other-side")
    for server, start in logged.items():
        assert "GOODBYE" not in server.log[start:]
        assert "LOOKING" not in server.log[start:]


async def test_a_death_across_the_cut_is_not_noticed(patient: LocalEnsemble) -> None:
    """The end of a connection is withheld, too: a leader notices that a follower was killed when the
    partition is over."""
    leader = await patient.leader()
    cut_off, other = await patient.followers()
    pair = patient.servers.index(cut_off) + 1, patient.servers.index(leader) + 1
    to_leader = network(patient)._quorum[pair]
    logged = len(leader.log)
    async with patient.partition(cut_off):
        await cut_off.kill()

        async def seen_here() -> bool:
            return to_leader.connections == 0

        await until(seen_here, "the proxy has seen the end")
        await write(other, "/meanwhile")  # a round trip between the leader and the other follower
        assert "GOODBYE" not in leader.log[logged:]

    async def noticed() -> bool:
        return "GOODBYE" in leader.log[logged:]

    await until(noticed, "the leader takes leave of it")
    await cut_off.start()
    assert await cut_off.role() == "follower"


@pytest.mark.parametrize("wiped", [False, True], ids=["with its data", "wiped"])
async def test_a_server_that_is_started_in_a_partition_does_not_get_through(
    patient: LocalEnsemble, wiped: bool
) -> None:
    """A server that is restarted while cut off does not find the others; after the block it follows, and has
    what was written meanwhile."""
    cut_off, other = await patient.followers()
    await write(other, "/before")
    async with patient.partition(cut_off):
        await cut_off.stop()
        if wiped:
            cut_off.wipe()
        logged = len(cut_off.log)
        await cut_off.start(wait=False)

        async def votes_again() -> bool:
            return "Notification time out: 1600" in cut_off.log[logged:]

        await until(votes_again, "it has asked for votes for more than a second")
        assert await cut_off.role() is None
        said = cut_off.log[logged:]
        assert "n.sid:" in said  # its own vote is all that it receives
        assert not [
            server
            for number, server in enumerate(patient.servers, start=1)
            if server is not cut_off and f"n.sid:{number}" in said
        ]
        await write(other, "/meanwhile")
    await until_roles({cut_off: "follower"})
    await until_read(cut_off, "/before")
    await until_read(cut_off, "/meanwhile")


async def test_partitions_overlap(ensemble: LocalEnsemble) -> None:
    """Sides that are separated by any of several partitions stay separated, in whichever order the partitions
    end."""
    leader = await ensemble.leader()
    one, other = await ensemble.followers()
    async with contextlib.AsyncExitStack() as second:
        async with ensemble.partition(one):
            await second.enter_async_context(ensemble.partition(other))
            await until_roles({one: None, other: None, leader: None})

        async def two_serve() -> bool:
            return {await one.role(), await leader.role()} == {"leader", "follower"}

        await until(two_serve, "the one that is connected again serves with the leader")
        assert await other.role() is None
    assert len(await ensemble.followers()) == 2


async def test_each_server_can_end_and_start_alone(ensemble: LocalEnsemble) -> None:
    """Servers that are stopped, killed, wiped and started one by one reconnect through the proxies, and so do
    all of them together."""
    for end in (LocalServer.kill, LocalServer.stop):
        for victim in (await ensemble.leader(), (await ensemble.followers())[0]):
            await end(victim)
            assert len(await ensemble.followers()) == 1
            victim.wipe()
            await victim.start()
            assert len(await ensemble.followers()) == 2
    await write(await ensemble.leader(), "/kept")
    await ensemble.stop()
    await ensemble.start()
    for server in ensemble.servers:
        await until_read(server, "/kept")


async def test_no_link_goes_past_the_proxies(ensemble: LocalEnsemble) -> None:
    """Whichever of two servers opened a connection, to the quorum port or the election port, initially or
    again: all connections to a server's own ports come from this process."""
    for victim in (
        await ensemble.leader(),
        (await ensemble.followers())[0],
    ):  # so that each has to connect again
        await victim.kill()
        await ensemble.followers()
        await victim.start()
    ports = {port for peer in network(ensemble)._peers.values() for port in peer}
    ours = {os.readlink(entry) for entry in _links(Path("/proc/self/fd"))}
    callers = [
        f"socket:[{inode}]"
        for state, remote_port, inode in _sockets()
        if state == "01" and remote_port in ports  # established
    ]
    assert len(callers) >= 2 + 3  # followers to their leader; one for votes for each pair
    assert set(callers) <= ours


def _links(directory: Path) -> list[Path]:
    return [entry for entry in directory.iterdir() if entry.is_symlink()]


def _sockets() -> list[tuple[str, int, str]]:
    """The state, the remote port and the inode of each TCP socket of this host, IPv4 and IPv6."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [(fields[3], int(fields[2].rpartition(":")[2], 16), fields[9]) for fields in lines]


@pytest.mark.parametrize("version", [-65536, -65535], ids=["one address", "several"])
def test_the_election_address_is_replaced(version: int) -> None:
    """In the greeting of a server its address is replaced, as soon as the greeting is complete; what follows
    is unchanged."""
    address = b"127.0.0.1:11111" if version == -65536 else b"127.0.0.1:11111|127.0.0.1:22222"
    opening = struct.pack(">qqi", version, 3, len(address)) + address
    for cut in range(len(opening)):
        assert rewrite_election_address(opening[:cut], "127.0.0.1:4") is None
    for rest in (b"", b"\0\0\0\x24 a vote"):
        instead, of = rewrite_election_address(opening + rest, "127.0.0.1:4") or (b"", 0)
        assert instead == struct.pack(">qqi", version, 3, 11) + b"127.0.0.1:4"
        assert (opening + rest)[of:] == rest


@pytest.mark.parametrize(
    "opening",
    [
        struct.pack(">qqi", 3, 4, 5),
        struct.pack(">qqi", -65536, 4, 0),
        struct.pack(">qqi", -65536, 4, 1 << 30),
    ],
    ids=["no version", "no address", "too long"],
)
def test_what_is_no_greeting_stays_as_it_is(opening: bytes) -> None:
    """Bytes that are not a valid greeting are passed on unchanged, and no more is awaited."""
    assert rewrite_election_address(opening, "127.0.0.1:4") == (b"", 0)


@pytest.mark.parametrize("which", [[3, 4, 5], [6]], ids=["quorum", "election"])
async def test_a_port_that_was_taken_meanwhile(which: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process takes a port before its server binds it, all servers start again with other ports
    and proxies."""
    unlucky = free_ports(9)
    choices = iter([unlucky, free_ports(9)])
    monkeypatch.setattr(ensemble_module, "free_ports", lambda count: next(choices))
    async with contextlib.AsyncExitStack() as stack:
        for index in which:
            somebody = await asyncio.start_server(lambda _, writer: writer.close(), LOOPBACK, unlucky[index])
            await stack.enter_async_context(somebody)
        ensemble = await stack.enter_async_context(LocalEnsemble(3, sync_limit=SOON, partitionable=True))
        assert next(choices, None) is None
        cut_off = (await ensemble.followers())[0]
        async with ensemble.partition(cut_off):
            await until_roles({cut_off: None})


async def test_a_cancelled_start_leaves_neither_process_nor_port() -> None:
    """Cancelling start while the servers come up kills all of them, and closes the proxies."""
    ensemble = LocalEnsemble(3, partitionable=True)
    starting = asyncio.create_task(ensemble.start())

    async def launched() -> bool:
        return all(server.running for server in ensemble.servers)

    await until(launched, "the JVMs have been started")
    pids = [server.pid for server in ensemble.servers]
    peers = network(ensemble).as_seen_by(1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for port in (port for peer in peers.values() for port in peer):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(LOOPBACK, port)
    await ensemble.close()


async def test_closed_in_a_partition(ensemble: LocalEnsemble) -> None:
    """An ensemble may be closed inside the block; what was withheld is lost with it."""
    async with ensemble.partition(ensemble.servers[0]):
        await ensemble.close()
        with pytest.raises(UsageStateError, match=r"call start\(\) first"):
            await ensemble.partition(ensemble.servers[0]).__aenter__()
    await ensemble.start()
    assert len(await ensemble.followers()) == 2


async def test_another_event_loop(ensemble: LocalEnsemble) -> None:
    """A partitionable ensemble belongs to the loop that started it. In another loop its methods raise;
    `close` does so after it has killed the servers."""
    server = ensemble.servers[0]
    await server.kill()
    calls: list[Callable[[], Awaitable[object]]] = [
        ensemble.start,
        ensemble.leader,
        ensemble.followers,
        ensemble.partition(server).__aenter__,
        server.start,
        ensemble.close,
    ]

    async def call(method: Callable[[], Awaitable[object]]) -> None:
        await method()

    for method in calls:
        with pytest.raises(UsageStateError, match="lives in the event loop that started it"):
            await asyncio.to_thread(asyncio.run, call(method))
    assert not any(server.running for server in ensemble.servers)
    await ensemble.close()


def test_an_ensemble_that_is_not_partitionable() -> None:
    """An ensemble without `partitionable=True` cannot be partitioned; the error says how to make one that
    can."""
    ensemble = LocalEnsemble(3)
    with pytest.raises(UsageStateError, match=r"LocalEnsemble\(\.\.\., partitionable=True\)"):
        asyncio.run(_enter(ensemble, ensemble.servers[0]))


def test_wrong_use_is_an_error() -> None:
    """A partition needs a started ensemble, two sides of its own servers, and servers that use the addresses
    that they are given."""
    ensemble, foreign = LocalEnsemble(3, partitionable=True), LocalServer()
    one, other, third = ensemble.servers
    with pytest.raises(UsageStateError, match=r"call start\(\) first"):
        asyncio.run(_enter(ensemble, one))
    with pytest.raises(
        UsageValueError, match=r"is not a server of <LocalEnsemble.*choose from its \.servers"
    ):
        asyncio.run(_enter(ensemble, one, foreign))
    for servers in ([], [one, other, third]):
        with pytest.raises(UsageValueError, match=f"at least 1 and at most 2 .* not {len(servers)}"):
            asyncio.run(_enter(ensemble, *servers))
    for setting in ("reconfigEnabled", "sslQuorum"):
        with pytest.raises(UsageValueError, match=f"{setting}='true'.*leave out"):
            LocalEnsemble(3, partitionable=True, extra_config={setting: "true"})
        LocalEnsemble(3, partitionable=True, extra_config={setting: "false"})
        LocalEnsemble(3, extra_config={setting: "true"})


async def _enter(ensemble: LocalEnsemble, *servers: LocalServer) -> None:
    async with ensemble.partition(*servers):
        pass
