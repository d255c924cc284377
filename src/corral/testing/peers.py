"""The network between the servers of an ensemble, made so that it can be partitioned.

For each server and each other one a proxy stands before the other's quorum port, and one before its election
port: a server's configuration calls its peers by those, and itself by its own ports. So each link between two
servers, whichever of them has opened it, goes through proxies of that pair alone.

Servers keep to such configurations, which differ, as long as they are static ones (``reconfigEnabled``, off
by default): `QuorumPeer` takes over its leader's only with dynamic reconfiguration. One thing tells addresses
all the same. Of two servers the one of the larger id opens the connection on the election port; the smaller
one, if it was first, says who it is and under which address it listens (`QuorumCnxManager.InitialMessage`),
is hung up on, and is called back at that address. It would be its own, past the proxies, so the proxy puts
in its place that of the one that leads back.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Collection, Mapping
from typing import NamedTuple

from corral.errors import UsageStateError
from corral.testing._server import LOOPBACK, POLL
from corral.testing.tcp import Link, TcpProxy

__all__ = ["Peer", "PeerNetwork", "rewrite_election_address"]

_INITIAL_MESSAGE = struct.Struct(">qqi")
"""Its version, the sender's id and the length of the address; then the address, as ``host:port``."""

_VERSIONS = (-0x10000, -0xFFFF)
"""Of the initial message: with one address, and with several, parted by ``|``."""

_QUORUM_PATIENCE = 5.0
"""Seconds for which a learner is kept waiting for a leader that does not listen yet; see `_PatientLink`."""

_LONGEST_ADDRESS = 2048
"""As long as a server takes (`QuorumCnxManager.maxBuffer`)."""


class Peer(NamedTuple):
    """Where a server listens for its peers."""

    quorum_port: int
    election_port: int

    def __str__(self) -> str:
        """As ``zoo.cfg`` has it."""
        return f"{LOOPBACK}:{self.quorum_port}:{self.election_port}"


class PeerNetwork:
    """The proxies between servers. Opened, used and closed in one event loop, which carries all they say."""

    def __init__(self, peers: Mapping[int, Peer]) -> None:
        """`peers` has the servers by their ids. They need not run."""
        self._peers = peers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = contextlib.AsyncExitStack()
        self._quorum = {pair: self._quorum_proxy(*pair) for pair in self._pairs()}
        self._election = {pair: self._election_proxy(*pair) for pair in self._pairs()}

    async def open(self) -> None:
        """Open the proxies. If this fails or is cancelled, none is open."""
        self._loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as opening:
            for proxy in (*self._quorum.values(), *self._election.values()):
                await opening.enter_async_context(proxy)
            self._open = opening.pop_all()

    async def close(self) -> None:
        """Close the proxies, and with them every link. May be called again."""
        self.check_loop()
        await self._open.aclose()

    def check_loop(self) -> None:
        """Raise if the event loop that runs is not the one that carries what the servers say."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise UsageStateError(
                "the network of a partitionable ensemble lives in the event loop that started it, "
                f"{self._loop!r}, and this is {asyncio.get_running_loop()!r}: use the ensemble in one loop"
            )

    def as_seen_by(self, observer: int) -> dict[int, Peer]:
        """Where a server has to look for each: for itself at its own ports, for the others at proxies."""

        def port(proxy: TcpProxy) -> int:
            return int(proxy.address.rpartition(":")[2])

        return {
            other: peer
            if other == observer
            else Peer(port(self._quorum[observer, other]), port(self._election[observer, other]))
            for other, peer in self._peers.items()
        }

    @contextlib.asynccontextmanager
    async def partition(self, servers: Collection[int]) -> AsyncIterator[None]:
        """Nothing passes between these servers and the others, and nothing is closed.

        All links stop within one turn of the event loop, and go on within one.
        """
        async with contextlib.AsyncExitStack() as holes:
            for one, other in self._pairs():
                if (one in servers) != (other in servers):
                    await holes.enter_async_context(self._quorum[one, other].black_hole())
                    await holes.enter_async_context(self._election[one, other].black_hole())
            yield

    def _pairs(self) -> list[tuple[int, int]]:
        return [(one, other) for one in self._peers for other in self._peers if one != other]

    def _quorum_proxy(self, one: int, other: int) -> TcpProxy:
        return _PatientProxy(f"{LOOPBACK}:{self._peers[other].quorum_port}")

    def _election_proxy(self, one: int, other: int) -> TcpProxy:
        def rewrite(opening: bytes) -> tuple[bytes, int] | None:
            return rewrite_election_address(opening, self._election[other, one].address)

        return TcpProxy(f"{LOOPBACK}:{self._peers[other].election_port}", rewrite_opening=rewrite)


def rewrite_election_address(opening: bytes, address: str) -> tuple[bytes, int] | None:
    """Put an address into a server's first words on the election port.

    Returns what stands for how many of the bytes, or None if it takes more of them to know. What is no such
    message stays as it is: no server listens to it anyway.
    """
    if len(opening) < _INITIAL_MESSAGE.size:
        return None
    version, server, length = _INITIAL_MESSAGE.unpack_from(opening)
    if version not in _VERSIONS or not 0 < length <= _LONGEST_ADDRESS:
        return b"", 0
    end = _INITIAL_MESSAGE.size + length
    if len(opening) < end:
        return None
    encoded = address.encode("ascii")
    return _INITIAL_MESSAGE.pack(version, server, len(encoded)) + encoded, end


class _PatientProxy(TcpProxy):
    """A proxy whose server may be a little late."""

    def _make_link(self) -> Link:
        return _PatientLink(self)


class _PatientLink(Link):
    """A connection that is not reset when the server refuses it at first.

    A learner may look for the leader before that has opened its port. Refused, it tries again, five times in
    as many seconds; but reset after it was connected, which is all that a proxy can do, it votes again, alone
    in its round, and the leader waits for it for ``init_limit`` ticks. (Seen: 7 of 24 elections.)
    """

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _QUORUM_PATIENCE
        while True:
            await self.proxy._connectable.wait()
            try:
                await loop.create_connection(lambda: self.server, *self.proxy._target)
            except OSError:
                if loop.time() > deadline:
                    self.cut(reset=True)
                    return
                await asyncio.sleep(POLL)
            else:
                return
