"""A ZooKeeper ensemble on local JVMs, on free loopback ports.

    async with LocalEnsemble(3) as ensemble:
        leader = await ensemble.leader()
        await leader.kill()

It needs what `LocalServer` needs, and does not outlive the test run either.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, TypeAlias, TypeVar, Unpack

from corral import acl
from corral.client import connect
from corral.errors import (
    ConnectionLoss,
    NewConfigNoQuorum,
    ReconfigInProgress,
    UsageStateError,
    UsageValueError,
)
from corral.members import EnsembleConfig, EnsembleMember, QuorumAddress
from corral.testing.event_loop import running_loop
from corral.testing.network import LOOPBACK
from corral.testing.network.peers import Peer, PeerNetwork

from .base import ANSWER_TIMEOUT, POLL, ServerStatus, ServerUnavailable, StartedInBlock
from .local import LocalOptions, LocalServer
from .ports import PORT_ATTEMPTS, free_ports
from .process import PortTaken, ServerProcess, start_all, stop_all

__all__ = ["LocalEnsemble"]

_BYPASSES_PROXIES = {
    "reconfigEnabled": "the servers then take over their leader's configuration, with its own addresses",
    "sslQuorum": "the addresses in what servers tell each other can then not be replaced",
}
"""Settings that let servers learn each other's real addresses, past the proxies, and how."""

_T = TypeVar("_T")


class LocalEnsemble(StartedInBlock):
    """Several `LocalServer` that replicate one tree; three by default.

    ``init_limit`` and ``sync_limit`` are ZooKeeper's, in ticks: how long a follower may take to join, and how
    long leader and follower wait for each other before they give up. The rest are `LocalOptions`, which apply
    to every server.

    With ``partitionable=True``, `partition` can cut servers off from each other. Their traffic then passes
    through proxies in this process, in the event loop of the first `start`: use the ensemble in that loop
    only (else `UsageStateError`), and do not block it. Without it, an ensemble belongs to no event loop.

    With ``reconfigurable=True``, its members are configured dynamically: `add_server` and `remove_server`
    change them while it runs, and so may a client with the credentials `superuser`.
    """

    def __init__(
        self,
        n: int = 3,
        *,
        init_limit: int = 20,
        sync_limit: int = 5,
        partitionable: bool = False,
        reconfigurable: bool = False,
        **options: Unpack[LocalOptions],
    ) -> None:
        if n < 2:
            raise UsageValueError(
                f"an ensemble has at least two servers, not {n}; LocalServer is a single one"
            )
        if reconfigurable:
            if partitionable:
                raise UsageValueError(
                    "an ensemble cannot be both partitionable and reconfigurable, since "
                    f"{_BYPASSES_PROXIES['reconfigEnabled']}; leave out one of them"
                )
            self._password = secrets.token_hex(16)
            options = _reconfigurable(options, self._password)
        if partitionable:
            for name, why in _BYPASSES_PROXIES.items():
                value = options.get("extra_config", {}).get(name, "false")
                if value.strip().lower() != "false":
                    raise UsageValueError(
                        f"extra_config {name}={value!r}: a partitionable ensemble cannot have it, since "
                        f"{why}; leave out that or partitionable"
                    )
        self._limits = {"initLimit": str(init_limit), "syncLimit": str(sync_limit)}
        self._partitionable = partitionable
        self._reconfigurable = reconfigurable
        self._options = options
        self._network: PeerNetwork | None = None  # opened by the first start, closed by `close`
        self._servers = [_Member(self, number, options) for number in range(1, n + 1)]
        self._last_number = n
        self._ports_are_final = False  # true once a start has succeeded

    def __repr__(self) -> str:
        return f"<LocalEnsemble {self._servers}>"

    @property
    def servers(self) -> list[LocalServer]:
        """The servers, running or not. Each can be stopped, killed, paused, wiped and started on its own."""
        return list(self._servers)

    @property
    def hosts(self) -> str:
        """The connect string, with every server's address. `UsageStateError` before the first `start`."""
        return ",".join(server.address for server in self._servers)

    async def start(self) -> None:
        """Start the servers that are down, and wait until every one serves clients.

        Raises `ServerUnavailable` if one of them does not within `start_timeout` seconds. If this fails or is
        cancelled, the servers that it started are killed.
        """
        running_loop()
        self._check_loop()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                if not self._ports_are_final:
                    await self._configure()
                down = [process for process in self._processes() if not process.running]
                await start_all(down, self._processes()[0].settings.start_timeout)
            except BaseException as error:
                if not self._ports_are_final:
                    await self._close_network()
                if self._ports_are_final or attempt == PORT_ATTEMPTS or not isinstance(error, PortTaken):
                    raise
            else:
                self._ports_are_final = True
                return

    async def stop(self) -> None:
        """Shut all servers down in parallel, as `LocalServer.stop` does. If cancelled, they are killed."""
        await stop_all(self._processes())

    async def kill(self) -> None:
        """Kill all servers, as `LocalServer.kill` does. It does not wait, so it cannot be cancelled."""
        for process in self._processes():
            process.kill()

    async def close(self) -> None:
        """Kill all servers and remove their data. May be called repeatedly and in any state.

        If cancelled, this is done all the same; only the connections between the servers of a partitionable
        ensemble may still be closing.
        """
        for process in self._processes():
            process.close()
        self._ports_are_final = False
        await self._close_network()

    @contextlib.asynccontextmanager
    async def partition(self, *servers: LocalServer) -> AsyncIterator[None]:
        """Cut these servers off from the others, but not from their clients.

            async with ensemble.partition(follower):
                ...

        Inside the block nothing passes between the two sides and no connection is closed, as if a switch
        between them were down. A server that is started meanwhile is cut off, too. When the block ends, what
        was withheld is delivered, as by TCP. Partitions may overlap: two servers are connected only while no
        partition separates them.

        A follower stops serving when it has not heard from its leader for ``sync_limit`` ticks, and a leader
        when it has not heard from a quorum for that long. Until then each answers what it can answer alone.
        After the block, `followers` waits until all serve under one leader.

        `UsageStateError` if the ensemble is not partitionable or was not started; `UsageValueError` if
        `servers` are none or all of its servers, or contain another one.
        """
        if not self._partitionable:
            raise UsageStateError(
                f"{self!r} cannot be partitioned: its servers talk to each other directly; make it with "
                "LocalEnsemble(..., partitionable=True)"
            )
        numbers = {self._number_of(server) for server in servers}
        if not 0 < len(numbers) < len(self._servers):
            raise UsageValueError(
                f"a partition has servers on both sides, so at least 1 and at most {len(self._servers) - 1} "
                f"can be cut off from the others, not {len(numbers)}"
            )
        if self._network is None:
            raise UsageStateError(f"{self!r} has no network to partition; call start() first")
        self._check_loop()
        async with self._network.partition(numbers):
            yield

    @property
    def superuser(self) -> tuple[str, bytes]:
        """The credentials, for ``auth=``, of a client that may do everything, such as reconfigure.
        `UsageStateError` if the ensemble is not reconfigurable."""
        self._check_reconfigurable()
        return "digest", f"super:{self._password}".encode()

    async def add_server(
        self, *, role: Literal["participant", "observer"] = "participant", **options: Unpack[LocalOptions]
    ) -> LocalServer:
        """Start another server, and make it a member; `options` override those of the ensemble.

        Returns when it has served and the ensemble has its new configuration; an observer may then pause for
        a moment, as it connects to the leader again. Raises `ServerUnavailable` if that
        takes longer than `start_timeout` seconds, and `UsageStateError` if the ensemble is not reconfigurable
        or not started. If this fails or is cancelled, the server is killed; it may be a member nevertheless.
        """
        self._check_reconfigurable()
        config = await self._config()
        self._last_number += 1
        server = _Member(self, self._last_number, {**self._options, **options})
        try:
            for attempt in range(1, PORT_ATTEMPTS + 1):
                client, quorum, election = free_ports(3)
                address = QuorumAddress(LOOPBACK, quorum, election)
                member = EnsembleMember(self._last_number, (address,), role, f"{LOOPBACK}:{client}")
                members = [*map(str, config.members), str(member)]
                server._process.configure(client, self._limits, members=members)
                try:
                    await server.start()
                    break
                except PortTaken:
                    if attempt == PORT_ATTEMPTS:
                        raise
            await self._change(lambda config: config.member(member.id) == member, joining=[member])
        except BaseException:
            server._process.close()
            raise
        self._servers.append(server)
        return server

    async def remove_server(self, server: LocalServer, *, drain: float = 0.0) -> None:
        """Remove a server from the members, then stop it and remove its data.

        It goes on serving its clients for `drain` seconds at most, or until none is connected to it. If it is
        the leader, the others elect a new one. Raises `UsageValueError` for a server that is not one of the
        ensemble, and what `add_server` raises. If this fails or is cancelled, the server runs on, as a member
        or not; call it again.
        """
        self._check_reconfigurable()
        number = self._number_of(server)
        await self._change(lambda config: config.member(number) is None, leaving=[number])
        deadline = time.monotonic() + drain
        while time.monotonic() < deadline and await _has_clients(server):  # noqa: ASYNC110 - nothing to await
            await asyncio.sleep(POLL)
        await server.stop()
        await server.close()
        self._servers = [each for each in self._servers if each is not server]

    async def _change(
        self,
        is_done: Callable[[EnsembleConfig], bool],
        *,
        joining: Sequence[EnsembleMember] = (),
        leaving: Sequence[int] = (),
    ) -> None:
        """Reconfigure until the configuration is as wanted."""
        deadline = time.monotonic() + self._processes()[0].settings.start_timeout
        async with connect(self._running_hosts(), auth=[self.superuser]) as zk:
            while True:
                await zk.sync()
                if is_done(await zk.ensemble.config()):
                    return
                try:
                    await zk.ensemble.reconfigure(joining=joining, leaving=leaving)
                except (ConnectionLoss, NewConfigNoQuorum, ReconfigInProgress) as error:
                    if time.monotonic() > deadline:
                        raise ServerUnavailable(f"the ensemble was not reconfigured: {error}") from error
                    await asyncio.sleep(POLL)

    async def _config(self) -> EnsembleConfig:
        async with connect(self._running_hosts(), auth=[self.superuser]) as zk:
            await zk.sync()
            return await zk.ensemble.config()

    def _running_hosts(self) -> str:
        hosts = [server.address for server in self._awake()]
        if not hosts:
            raise UsageStateError(f"{self!r} does not run; call start() first")
        return ",".join(hosts)

    def _check_reconfigurable(self) -> None:
        if not self._reconfigurable:
            raise UsageStateError(
                f"{self!r} cannot be reconfigured; make it with LocalEnsemble(..., reconfigurable=True)"
            )

    async def leader(self, timeout: float = 30.0) -> LocalServer:
        """Wait until a server leads, and return it; `ServerUnavailable` after `timeout` seconds.

        This is what running servers report: a leader that is cut off from the others reports that it leads
        until it notices. If two do, the one of the newer epoch is returned. Paused servers are not asked.
        Cancelling it is safe, as it is for `followers`: it only asks.
        """

        def newest_leader(statuses: _Statuses) -> LocalServer | None:
            leaders = {server: epoch for server, (epoch, role) in statuses.items() if role == "leader"}
            return max(leaders, key=leaders.__getitem__, default=None)

        return await self._wait_for(newest_leader, timeout)

    async def followers(self, timeout: float = 30.0) -> list[LocalServer]:
        """Wait until every server that runs and is not paused serves under one leader; return its followers.

        `ServerUnavailable` after `timeout` seconds.
        """

        def settled_followers(statuses: _Statuses) -> list[LocalServer] | None:
            roles = [status.role for status in statuses.values()]
            if len(roles) < len(self._awake()) or roles.count("leader") != 1:
                return None
            return [server for server, status in statuses.items() if status.role == "follower"]

        return await self._wait_for(settled_followers, timeout)

    def _processes(self) -> list[ServerProcess]:
        return [server._process for server in self._servers]

    async def _configure(self) -> None:
        """Choose the ports of every server, and write their configuration files."""
        n = len(self._servers)
        ports = free_ports(3 * n)
        peers = {i + 1: Peer(ports[n + i], ports[2 * n + i]) for i in range(n)}
        if self._partitionable:
            self._network = PeerNetwork(peers)
            await self._network.open()
        for number, (process, port) in enumerate(zip(self._processes(), ports, strict=False), start=1):
            addresses = self._network.as_seen_by(number) if self._network is not None else peers
            members = {f"server.{other}": str(peer) for other, peer in addresses.items()}
            if self._reconfigurable:
                lines = [
                    f"{name}={peer}:participant;{LOOPBACK}:{client}"
                    for (name, peer), client in zip(members.items(), ports, strict=False)
                ]
                process.configure(port, self._limits, members=lines)
            else:
                process.configure(port, {**self._limits, **members})

    def _number_of(self, server: LocalServer) -> int:
        for each in self._servers:
            if each is server:
                return each.number
        raise UsageValueError(f"{server!r} is not a server of {self!r}; choose from its .servers")

    def _check_loop(self) -> None:
        """Raise in any event loop but the one whose proxies connect the servers, if there are proxies."""
        if self._network is not None:
            self._network.check_loop()

    async def _close_network(self) -> None:
        if self._network is not None:
            await self._network.close()
            self._network = None

    def _awake(self) -> list[_Member]:
        return [server for server in self._servers if server.running and not server.paused]

    async def _wait_for(self, choose: Callable[[_Statuses], _T | None], timeout: float) -> _T:
        """Poll the servers for their status until `choose` returns something other than None."""
        self._check_loop()
        deadline = time.monotonic() + timeout
        while True:
            awake = self._awake()
            answers = await asyncio.gather(*(server._server_status(ANSWER_TIMEOUT) for server in awake))
            statuses: _Statuses = {
                server: answer for server, answer in zip(awake, answers, strict=True) if answer
            }
            chosen = choose(statuses)
            if chosen is not None:
                return chosen
            if time.monotonic() > deadline:
                roles = {server.address: status.role for server, status in statuses.items()}
                raise ServerUnavailable(
                    f"the ensemble did not settle within {timeout:g} s: of {len(awake)} servers that run, "
                    f"those that serve are {roles}"
                )
            await asyncio.sleep(POLL)


class _Member(LocalServer):
    """A server whose ports and configuration its ensemble chooses."""

    def __init__(self, ensemble: LocalEnsemble, number: int, options: LocalOptions) -> None:
        super().__init__(**options)
        self.number = number
        self._process = ServerProcess(
            self._process.settings, options.get("java"), number, secure=options.get("secure")
        )
        self.classpath = options.get("classpath")
        self._ensemble = ensemble

    async def start(self, *, wait: bool = True) -> None:
        running_loop()
        self._process.check_down()
        self._ensemble._check_loop()  # in another loop it would not reach its peers
        await start_all([self._process], self._process.settings.start_timeout, wait=wait)


def _reconfigurable(options: LocalOptions, password: str) -> LocalOptions:
    """These options, with what lets the superuser change the members."""
    config = {"reconfigEnabled": "true", "standaloneEnabled": "false", **options.get("extra_config", {})}
    digest = {"zookeeper.DigestAuthenticationProvider.superDigest": acl.digest("super", password)[0].id}
    properties = {**options.get("java_properties", {}), **digest}
    return {**options, "extra_config": config, "java_properties": properties}


async def _has_clients(server: LocalServer) -> bool:
    """Whether clients are connected to the server, with their sessions."""
    try:
        return "sid=" in await server.four_letter_word("cons")
    except OSError:
        return False


_Statuses: TypeAlias = dict[LocalServer, ServerStatus]
"""The status of each server that serves."""
