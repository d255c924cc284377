"""A TCP proxy that stands between a client and a server, and breaks the network on demand.

    async with TcpProxy("127.0.0.1:2181") as proxy:
        async with corral.connect(proxy.address) as zk:
            async with proxy.black_hole():
                ...

It knows only bytes and connections; `FaultProxy` also knows ZooKeeper's messages.

A fault is an asynchronous context manager that ends with its block; faults may be nested and may overlap.
When a fault ends, what it withheld is delivered in order, as TCP would retransmit it. That holds even if the
sender has closed the connection meanwhile, since a kernel keeps sending for a closed socket. It is lost if
the receiver has closed, or if the connection was reset or `cut`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Literal, Self

from corral.errors import UsageStateError, UsageValueError
from corral.testing.event_loop import running_loop, wait_until_accepted

from . import LOOPBACK
from .connection import ProxiedConnection, ProxyState, RewriteOpening
from .faults import BlackHoleFault, Delay, Fault, Withheld

__all__ = ["TcpProxy"]


class TcpProxy:
    """A proxy on a free loopback port; clients connect to `address`.

    ``async with`` opens it, and on leaving closes the port and every connection. Leaving does not wait for
    the peers, and may be cancelled. It belongs to the event loop that it is entered in. As with ZooKeeper,
    when one side closes, the whole connection is closed.
    """

    def __init__(self, target: str, *, rewrite_opening: RewriteOpening | None = None) -> None:
        """`target` is the server, as ``host:port``; it need not run yet.

        `rewrite_opening` may replace the first bytes of each client: it gets those that have arrived, and
        returns their replacement and how many of them it replaces, or None to wait for more.
        """
        host, colon, port = target.rpartition(":")
        if not colon or not port.isdecimal():
            raise UsageValueError(f"a proxy's target is host:port, as in 127.0.0.1:2181, not {target!r}")
        self._state = ProxyState((host, int(port)), rewrite_opening)
        self._listener: asyncio.Server | None = None
        self._address: str | None = None

    def __repr__(self) -> str:
        host, port = self._state.target
        return f"<{type(self).__name__} to {host}:{port}, {self.connections} connections>"

    @property
    def address(self) -> str:
        """Where clients connect, as ``host:port``; `UsageStateError` before the block is entered.

        It is still known after the block, when connections to it are refused.
        """
        if self._address is None:
            raise UsageStateError("a proxy has no address before its block; use 'async with proxy:'")
        return self._address

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far; refused ones do not count."""
        return self._state.accepted

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return sum(not each.client.lost.is_set() for each in self._state.connections)

    async def __aenter__(self) -> Self:
        loop = running_loop()
        self._listener = await loop.create_server(lambda: self._make_connection().client, LOOPBACK, 0)
        self._address = f"{LOOPBACK}:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._state.refusals += 1  # what is accepted while the proxy closes is reset
        try:
            await wait_until_accepted(asyncio.get_running_loop())
        finally:
            self._listener.close()
        await self.cut()
        await self._listener.wait_closed()

    def _make_connection(self) -> ProxiedConnection:
        return ProxiedConnection(self._state)

    # The faults

    async def cut(self, *, reset: bool = False) -> None:
        """Close every connection now, with FIN or, with ``reset=True``, with RST; new ones are accepted.

        What was withheld is lost. The connections are closed before the first wait, which lasts until the
        event loop has reported them closed. If cancelled, they are closed all the same.
        """
        connections = list(self._state.connections)
        for connection in connections:
            connection.cut(reset=reset)
        for connection in connections:
            await connection.closed.wait()

    @contextlib.asynccontextmanager
    async def black_hole(self, *, requests: bool = True, replies: bool = True) -> AsyncIterator[Withheld]:
        """Nothing passes and nothing is closed, in both directions or in one.

        New connections are accepted and stay silent; they reach the server when the fault ends. With
        ``requests=False`` the server gets the clients' requests and carries them out, while its answers are
        withheld: ``await withheld.arrived()``, then `cut`.
        """
        withheld = Withheld()
        async with self._black_hole(BlackHoleFault(withheld, requests=requests, replies=replies)):
            yield withheld

    @contextlib.asynccontextmanager
    async def delay(
        self, seconds: float, *, requests: bool = True, replies: bool = True
    ) -> AsyncIterator[None]:
        """Everything passes `seconds` after it arrived, in both directions or in one; order is kept."""
        async with self._fault(Delay(seconds, requests=requests, replies=replies)):
            yield

    @contextlib.asynccontextmanager
    async def refuse(self) -> AsyncIterator[None]:
        """New connections are reset at once; open ones go on."""
        self._state.refusals += 1
        try:
            yield
        finally:
            self._state.refusals -= 1

    @contextlib.asynccontextmanager
    async def half_open(self, *, gone: Literal["server", "client"] = "server") -> AsyncIterator[object]:
        """One side of the connections that are open now is gone, and the other side does not notice.

        As after a crash, or when a firewall has forgotten the connection: for the side that is `gone` it is
        closed; for the other it stays open, and what that side sends is lost. When the fault ends, it is
        reset, as by a host that does not know it. New connections pass as usual.
        """
        connections = list(self._state.connections)
        for connection in connections:
            connection.half_open(gone)
        try:
            yield None
        finally:
            for connection in connections:
                connection.end_half_open()

    @contextlib.asynccontextmanager
    async def _black_hole(self, hole: BlackHoleFault) -> AsyncIterator[None]:
        self._state.black_holes.append(hole)
        self._state.update_connectable()
        try:
            async with self._fault(hole):
                yield
        finally:
            self._state.black_holes.remove(hole)
            self._state.update_connectable()

    @contextlib.asynccontextmanager
    async def _fault(self, fault: Fault) -> AsyncIterator[None]:
        self._state.faults.append(fault)
        try:
            yield
        finally:
            self._state.faults.remove(fault)
            for connection in list(self._state.connections):
                connection.requests.deliver()
                connection.replies.deliver()
