"""A TCP proxy that stands between a client and a server, and breaks the network on demand.

    async with TcpProxy(server.address) as proxy:
        async with corral.connect(proxy.address) as zk:
            async with proxy.black_hole():
                ...

A fault is an asynchronous context manager that undoes itself; faults may be nested and overlap. What a fault
withholds is delivered when it ends, in order, as TCP would send it again; even if its sender has closed the
connection meanwhile, since a kernel goes on sending for it. It is lost if the receiver has closed, or if the
connection was reset or `cut`.

The faults on single messages know of ZooKeeper no more than that a message is a length and a body, and that
a body begins with the number by which request and reply are paired.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, cast

from corral.errors import UsageStateError
from corral.testing._server import LOOPBACK

__all__ = ["Held", "Loss", "TcpProxy"]

_HELD_BEFORE_PUSHBACK = 1 << 20
"""Bytes that one direction withholds before its sender is no longer read from, as behind a full window."""

_LARGEST_FRAME = 1 << 28
"""A length above this is none: what flows is not ZooKeeper's (TLS, four letter words), and just passes."""


class Held:
    """What a fault is withholding."""

    def __init__(self, *, requests: bool, replies: bool) -> None:
        self.bytes = 0
        """How many bytes were withheld since the fault began."""
        self._requests = requests
        self._replies = replies
        self._grew = asyncio.Event()

    async def arrived(self, n: int = 1) -> None:
        """Wait until at least `n` bytes were withheld since the fault began. Cancelling it is safe."""
        while self.bytes < n:
            self._grew.clear()
            await self._grew.wait()

    def _stops(self, flow: _Flow) -> bool:
        return self._requests if flow.to_server else self._replies

    def _count(self, n: int) -> None:
        self.bytes += n
        self._grew.set()


class Loss:
    """A fault that loses one message, and the connection with it."""

    def __init__(self, match: Callable[[bytes], bool], *, of_reply: bool) -> None:
        self.fired = asyncio.Event()
        """Set when the message was lost and the client's connection is being reset."""
        self._match = match
        self._of_reply = of_reply
        self._link: _Link | None = None  # on which the matching request passed, whose reply is to be lost
        self._xid = b""

    def _awaits(self, link: _Link) -> bool:
        """Whether the reply to lose is still to come on this connection."""
        return self._link is link and not self.fired.is_set()

    def _takes(self, flow: _Flow, body: bytes) -> bool:
        """Whether this message is the one to lose; of a request whose reply is, takes note."""
        if self.fired.is_set():
            return False
        if not flow.to_server:
            return self._link is flow.link and body[:4] == self._xid
        unclaimed = self._link is None or self._link.over  # that connection died without the reply
        if not unclaimed or not self._match(body):
            return False
        if self._of_reply:
            self._link, self._xid = flow.link, body[:4]
        return not self._of_reply


class TcpProxy:
    """A proxy on a free loopback port; clients connect to `address`.

    ``async with`` opens it, and on leaving closes the port and every connection; leaving does not wait for
    anybody else, and may be cancelled. It belongs to the event loop it is entered in. As with ZooKeeper, an
    end of one direction is the end of the connection.
    """

    def __init__(self, target: str) -> None:
        """`target` is the server, as ``host:port``; it need not be there yet."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self.accepted = 0
        """How many connections were accepted so far; refused ones do not count."""
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._held: list[Held] = []
        self._losses: list[Loss] = []
        self._refusals = 0
        self._connectable = (
            asyncio.Event()
        )  # cleared by a black hole: nothing gets to the server, no SYN either
        self._connectable.set()

    def __repr__(self) -> str:
        return f"<TcpProxy to {self._target[0]}:{self._target[1]}, {self.connections} connections>"

    @property
    def address(self) -> str:
        """Where clients connect, as ``host:port``."""
        if self._listener is None:
            raise UsageStateError("a proxy has an address inside its async with block")
        return f"{LOOPBACK}:{self._listener.sockets[0].getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return sum(not link.client.lost.is_set() for link in self._links)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Link(self).client, LOOPBACK, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        self._refusals += 1  # what the kernel has accepted already
        await self.cut()
        await self._listener.wait_closed()

    async def cut(self, *, reset: bool = False) -> None:
        """Close every connection now, with FIN or, with ``reset=True``, with RST; new ones are accepted.

        What was withheld is lost. The closing is done before the first wait; this waits until it is seen.
        """
        links = list(self._links)
        for link in links:
            link.cut(reset=reset)
        for link in links:
            await link.gone.wait()

    @contextlib.asynccontextmanager
    async def black_hole(self) -> AsyncIterator[Held]:
        """Nothing passes either way, and nothing is closed.

        New connections are accepted and stay silent; the server gets to see them when the fault ends.
        """
        self._connectable.clear()
        try:
            async with self._holding(Held(requests=True, replies=True)) as held:
                yield held
        finally:
            if not any(other._requests for other in self._held):
                self._connectable.set()

    @contextlib.asynccontextmanager
    async def hold_replies(self) -> AsyncIterator[Held]:
        """What clients send reaches the server; what the server sends is withheld.

        So that a write is carried out while its answer is under way: ``await held.arrived()``, then `cut`.
        """
        async with self._holding(Held(requests=False, replies=True)) as held:
            yield held

    @contextlib.asynccontextmanager
    async def refuse(self) -> AsyncIterator[None]:
        """New connections are reset at once; those that are open go on."""
        self._refusals += 1
        try:
            yield
        finally:
            self._refusals -= 1

    @contextlib.asynccontextmanager
    async def lose_request(self, match: Callable[[bytes], bool]) -> AsyncIterator[Loss]:
        """The first request that matches is lost, and its connection reset: the server never has it.

        `match` is given the body of each request: the number it is paired by and the operation code, four
        bytes each, then the rest. It is not asked about a connection's first message, which has neither.
        """
        async with self._losing(Loss(match, of_reply=False)) as loss:
            yield loss

    @contextlib.asynccontextmanager
    async def lose_reply(self, match: Callable[[bytes], bool]) -> AsyncIterator[Loss]:
        """The reply to the first request that matches is lost, and its connection reset: the server has
        carried the request out, and the client never knows. `match` is as in `lose_request`.

        If the connection ends otherwise before that reply, the next request that matches is taken.
        """
        async with self._losing(Loss(match, of_reply=True)) as loss:
            yield loss

    @contextlib.asynccontextmanager
    async def _holding(self, held: Held) -> AsyncIterator[Held]:
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)
            self._release()

    @contextlib.asynccontextmanager
    async def _losing(self, loss: Loss) -> AsyncIterator[Loss]:
        self._losses.append(loss)
        try:
            yield loss
        finally:
            self._losses.remove(loss)
            self._release()

    def _release(self) -> None:
        for link in list(self._links):
            link.requests.release()
            link.replies.release()


class _Link:
    """One connection through the proxy: two sockets, and a flow in each direction."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy
        self.client = _Side(self)
        self.server = _Side(self)
        self.requests = _Flow(self, self.client, self.server, to_server=True)
        self.replies = _Flow(self, self.server, self.client, to_server=False)
        self.client.inward, self.client.outward = self.requests, self.replies
        self.server.inward, self.server.outward = self.replies, self.requests
        self.over = False  # nothing passes any more
        self.gone = asyncio.Event()  # both sockets are closed
        self._connecting: asyncio.Task[None] | None = None

    def opened(self, side: _Side) -> None:
        if self.over:
            side.abort(reset=False)
        elif side is self.server:
            self.requests.release()
        elif self.proxy._refusals:
            self.over = True
            side.abort(reset=True)
        else:
            self.proxy.accepted += 1
            self.proxy._links.add(self)
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)

    async def _connect(self) -> None:
        try:
            await self.proxy._connectable.wait()
            await asyncio.get_running_loop().create_connection(lambda: self.server, *self.proxy._target)
        except OSError:
            self.cut(reset=True)  # for the client, what is nearest to being refused

    def _connected(self, _: asyncio.Task[None]) -> None:
        # A callback, since a task that is cancelled before its first step runs no `finally`.
        self._connecting = None
        self.check_gone()

    def cut(self, *, reset: bool) -> None:
        """Close both sockets now; the server always sees FIN, so that it reads all that it was sent."""
        self.over = True
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.abort(reset=reset)
        self.server.abort(reset=False)

    def loses(self, flow: _Flow, body: bytes) -> bool:
        """Whether a fault takes this message; then the connection is as good as gone."""
        for loss in self.proxy._losses:
            if loss._takes(flow, body):
                loss.fired.set()
                self.over = True
                self.client.abort(reset=True)
                self.server.close()  # after what it was sent before
                return True
        return False

    def check_gone(self) -> None:
        sides = [side for side in (self.client, self.server) if side.transport is not None]
        if self._connecting is None and all(side.lost.is_set() for side in sides):
            self.over = True
            self.proxy._links.discard(self)
            self.gone.set()


class _Side(asyncio.Protocol):
    """One of a connection's two sockets."""

    inward: _Flow  # what it receives
    outward: _Flow  # what it sends

    def __init__(self, link: _Link) -> None:
        self._link = link
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        self.inward.receive(data)

    def pause_writing(self) -> None:
        self.outward.push_back(True)

    def resume_writing(self) -> None:
        self.outward.push_back(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.outward.drop()
        self.inward.end(reset=exc is not None)
        self._link.check_gone()

    def close(self) -> None:
        """Close, after what was written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self, *, reset: bool) -> None:
        """Close at once, with RST or with FIN."""
        if self.transport is None or self.lost.is_set():
            return
        if reset:
            linger = struct.pack("ii", 1, 0)  # on, for no time: the kernel then sends RST
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class _Flow:
    """One direction of a connection: cuts it into messages, asks the faults, and passes on or withholds."""

    def __init__(self, link: _Link, source: _Side, sink: _Side, *, to_server: bool) -> None:
        self.link = link
        self.to_server = to_server
        self._source = source
        self._sink = sink
        self._withheld = bytearray()
        self._ended = False  # the source has closed; so will the sink, after what is withheld
        self._reset = False  # the source was reset
        self._sink_full = False
        self._framed = True  # until a length makes no sense
        self._greeted = False  # whether the first message has passed, which is unlike the others
        self._partial = bytearray()  # the message that is coming in, with its length
        self._passed = 0  # how much of it was passed on already

    def receive(self, data: bytes) -> None:
        if self.link.over:
            return
        self._partial += data
        while (end := self._end_of_message()) is not None:
            body = bytes(self._partial[4:end])
            greeting, self._greeted = not self._greeted, True
            if not greeting and self.link.loses(self, body):
                return
            self._pass(end)
            del self._partial[:end]
            self._passed = 0
        # A reply that is to be lost must not be begun; it is known once it is whole.
        if self.to_server or not any(loss._awaits(self.link) for loss in self.link.proxy._losses):
            self._pass(len(self._partial))
        if not self._framed:
            self._partial.clear()
            self._passed = 0

    def release(self) -> None:
        """A fault has ended, or the sink is there: pass on what nothing withholds any more."""
        self.receive(b"")
        self._settle()

    def end(self, *, reset: bool) -> None:
        """The source has closed, or was reset: then so will the sink, when it would get to know."""
        self._ended = True
        self._reset = reset
        if reset:
            self._withheld.clear()
        self._settle()

    def drop(self) -> None:
        """The sink has closed."""
        self._withheld.clear()

    def push_back(self, full: bool) -> None:
        self._sink_full = full
        self._regulate()

    def _end_of_message(self) -> int | None:
        if not self._framed or len(self._partial) < 4:
            return None
        length = int.from_bytes(self._partial[:4], signed=True)
        self._framed = 0 <= length <= _LARGEST_FRAME
        return 4 + length if self._framed and len(self._partial) >= 4 + length else None

    def _pass(self, end: int) -> None:
        """Pass on what has come in of the message up to there."""
        data = self._partial[self._passed : end]
        self._passed = end
        if not data or self._sink.lost.is_set():
            return
        self._withheld += data
        for held in self.link.proxy._held:
            if held._stops(self):
                held._count(len(data))
        self._settle()

    def _settle(self) -> None:
        """Write what is withheld, and then the end, if nothing stands in the way."""
        if self.link.over:
            self._withheld.clear()
        sink = self._sink.transport
        if sink is not None and not any(held._stops(self) for held in self.link.proxy._held):
            if self._withheld and not self._sink.lost.is_set():
                sink.write(bytes(self._withheld))
                self._withheld.clear()
            if self._ended and self._reset:
                self._sink.abort(reset=True)
            elif self._ended:
                self._sink.close()
        self._regulate()

    def _regulate(self) -> None:
        """Read from the source only while what it sends can go somewhere."""
        source = self._source.transport
        if source is None or source.is_closing():
            return
        wanted = not self._sink_full and len(self._withheld) < _HELD_BEFORE_PUSHBACK
        if wanted and not source.is_reading():
            source.resume_reading()
        elif not wanted and source.is_reading():
            source.pause_reading()
