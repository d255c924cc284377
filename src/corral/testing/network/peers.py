"""The network between the servers of an ensemble, with proxies that can partition it.

For each ordered pair of servers, one proxy stands before the second server's quorum port, and one before its
election port. Each server's configuration lists its peers at those proxies, and itself at its own ports.
Every connection between two servers, whichever of them opens it, thus passes through proxies of that pair
only.

Servers keep these differing configurations as long as they are static (``reconfigEnabled`` is off by
default): only with dynamic reconfiguration does `QuorumPeer` adopt its leader's configuration.

There is one message that carries an address. Of two servers, the one with the larger id opens the connection
to the election port. If the one with the smaller id is first, it sends its id and the address it listens on
(`QuorumCnxManager.InitialMessage`); the other closes the connection, and connects to that address. It would
be the server's own, past the proxies, so the proxy replaces it by the address of the proxy that leads back.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Collection, Mapping
from typing import NamedTuple

from corral.errors import UsageStateError

from . import LOOPBACK
from .connection import ProxiedConnection
from .tcp import TcpProxy

__all__ = ["Peer", "PeerNetwork", "rewrite_election_address"]

_INITIAL_MESSAGE = struct.Struct(">qqi")
"""The message's version, the sender's id and the length of the address; then the address, as
``host:port``."""

_VERSIONS = (-0x10000, -0xFFFF)
"""Versions of the initial message: with one address, and with several that ``|`` separates."""

_CONNECT_PATIENCE = 5.0
"""Seconds that a learner's connection waits for a leader that does not listen yet; see
`_PatientConnection`."""

_CONNECT_POLL = 0.02
"""Seconds between two attempts to connect to a server that does not listen yet."""

_LONGEST_ADDRESS = 2048
"""The most that a server accepts (`QuorumCnxManager.maxBuffer`)."""


class Peer(NamedTuple):
    """Where a server listens for its peers."""

    quorum_port: int
    election_port: int

    def __str__(self) -> str:
        """The value of ``server.N`` in ``zoo.cfg``."""
        return f"{LOOPBACK}:{self.quorum_port}:{self.election_port}"


class PeerNetwork:
    """The proxies between servers. It is opened, used and closed in one event loop, which carries their
    traffic."""

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
        """Close the proxies, and with them every connection. May be called repeatedly."""
        self.check_loop()
        await self._open.aclose()

    def check_loop(self) -> None:
        """Raise `UsageStateError` in any event loop but the one that carries the servers' traffic."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise UsageStateError(
                "the network of a partitionable ensemble lives in the event loop that started it, "
                f"{self._loop!r}, and this is {asyncio.get_running_loop()!r}: use the ensemble in one loop"
            )

    def as_seen_by(self, observer: int) -> dict[int, Peer]:
        """The addresses for a server's configuration: its own ports for itself, proxies for the others."""

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

        All connections stop within one turn of the event loop, and go on within one.
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
    """Replace the address in the first message that a server sends to an election port.

    Returns the replacement and how many bytes it replaces, or None to wait for more bytes. Bytes that are no
    such message are left as they are: a server closes the connection for them.
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
    """A proxy that waits a little for its server to listen."""

    def _make_connection(self) -> ProxiedConnection:
        return _PatientConnection(self._state)


class _PatientConnection(ProxiedConnection):
    """A connection that is not reset when the server refuses it at first.

    A learner may connect before the leader has opened its port. If it is refused, it tries again, five times
    in as many seconds. But a proxy can only reset a connection that it has accepted. A learner whose
    connection is reset votes again, alone in its round, and the leader waits for it for ``init_limit`` ticks.
    (Seen in 7 of 24 elections.)
    """

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CONNECT_PATIENCE
        while True:
            await self.state.connectable.wait()
            try:
                await loop.create_connection(lambda: self.server, *self.state.target)
            except OSError:
                if loop.time() > deadline:
                    self.cut(reset=True)
                    return
                await asyncio.sleep(_CONNECT_POLL)
            else:
                return
