"""A TCP proxy that stands between a client and a server, and breaks the network on demand.

    async with TcpProxy("127.0.0.1:2181") as proxy:
        async with corral.connect(proxy.address) as zk:
            async with proxy.black_hole():
                ...

It knows bytes and connections alone; `FaultProxy` knows ZooKeeper's messages as well.

A fault is an asynchronous context manager that undoes itself; faults may be nested and overlap. What a fault
withholds is delivered when it ends, in order, as TCP would send it again; even if its sender has closed the
connection meanwhile, since a kernel goes on sending for it. It is lost if the receiver has closed, or if the
connection was reset or `cut`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self, TypeAlias, cast

from corral.errors import UsageStateError, UsageValueError
from corral.testing._server import LOOPBACK, running_loop, until_accepted

__all__ = ["Delay", "Held", "Link", "Parcel", "TcpProxy"]

_HELD_BEFORE_PUSHBACK = 1 << 20
"""Bytes that one direction withholds before its sender is no longer read from, as behind a full window."""

_FLUSH_POLL = 0.001
"""Seconds between two looks at whether a transport has sent what it was given; nothing tells."""

_NOW = float("-inf")
_NEVER = float("inf")

RewriteOpening: TypeAlias = Callable[[bytes], "tuple[bytes, int] | None"]
"""Given a client's first bytes: what to pass on in place of how many of them, or None while it needs more."""


class Parcel(NamedTuple):
    """What passes, or is withheld, as a whole."""

    data: bytes
    arrived: float
    """When it came, by the event loop's clock."""
    content: object
    """What a proxy that knows more than bytes has made of it."""


class Fault(Protocol):
    """What may stand in the way of a parcel."""

    def until(self, flow: Flow, parcel: Parcel) -> float:
        """Until when the parcel, which is the next to pass, is withheld; minus infinity to let it pass."""


class Held:
    """What a black hole is withholding."""

    def __init__(self, *, requests: bool, replies: bool, open_: bool = True) -> None:
        self.bytes = 0
        """How many bytes were withheld since the fault began."""
        self._requests = requests
        self._replies = replies
        self._open = open_
        self._grew = asyncio.Event()

    async def arrived(self, n: int = 1) -> None:
        """Wait until at least `n` bytes were withheld since the fault began. Cancelling it is safe."""
        while self.bytes < n:
            self._grew.clear()
            await self._grew.wait()

    def until(self, flow: Flow, parcel: Parcel) -> float:
        return _NEVER if self._stops(flow) else _NOW

    def _stops(self, flow: Flow) -> bool:
        return self._open and (self._requests if flow.to_server else self._replies)

    def _count(self, n: int) -> None:
        self.bytes += n
        self._grew.set()


class Delay:
    """Each parcel passes so much later than it came."""

    def __init__(self, seconds: float, *, requests: bool, replies: bool) -> None:
        self._seconds = seconds
        self._requests = requests
        self._replies = replies

    def until(self, flow: Flow, parcel: Parcel) -> float:
        concerned = self._requests if flow.to_server else self._replies
        return parcel.arrived + self._seconds if concerned else _NOW


class TcpProxy:
    """A proxy on a free loopback port; clients connect to `address`.

    ``async with`` opens it, and on leaving closes the port and every connection; leaving does not wait for
    anybody else, and may be cancelled. It belongs to the event loop it is entered in. As with ZooKeeper, an
    end of one direction is the end of the connection.
    """

    def __init__(self, target: str, *, rewrite_opening: RewriteOpening | None = None) -> None:
        """`target` is the server, as ``host:port``; it need not be there yet.

        `rewrite_opening` may change the first bytes of each connection's client: given those that have come
        so far, it returns what to pass on in place of how many of them, or None while it needs more.
        """
        host, colon, port = target.rpartition(":")
        if not colon or not port.isdecimal():
            raise UsageValueError(f"a proxy's target is host:port, not {target!r}")
        self._target = host, int(port)
        self.accepted = 0
        """How many connections were accepted so far; refused ones do not count."""
        self._rewrite_opening = rewrite_opening
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._faults: list[Fault] = []
        self._holes: list[Held] = []  # those of the faults that count what they withhold
        self._refusals = 0
        self._connectable = asyncio.Event()  # cleared by a black hole: not even a SYN gets to the server
        self._connectable.set()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} to {self._target[0]}:{self._target[1]}, {self.connections} connections>"
        )

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
        self._listener = await running_loop().create_server(lambda: self._make_link().client, LOOPBACK, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._refusals += 1  # from here on nobody is welcome
        try:
            await until_accepted(asyncio.get_running_loop())
        finally:
            self._listener.close()
        await self.cut()
        await self._listener.wait_closed()

    def _make_link(self) -> Link:
        return Link(self)

    # The faults

    async def cut(self, *, reset: bool = False) -> None:
        """Close every connection now, with FIN or, with ``reset=True``, with RST; new ones are accepted.

        What was withheld is lost. The connections are closed before the first wait, which is for the event
        loop to report them closed. Cancelled, they are closed all the same.
        """
        links = list(self._links)
        for link in links:
            link.cut(reset=reset)
        for link in links:
            await link.gone.wait()

    @contextlib.asynccontextmanager
    async def black_hole(self, *, requests: bool = True, replies: bool = True) -> AsyncIterator[Held]:
        """Nothing passes, and nothing is closed: neither way, or one way only.

        New connections are accepted and stay silent; the server gets to see them when the fault ends. With
        ``requests=False`` what clients send reaches the server and is carried out, while its answers are
        under way: ``await held.arrived()``, then `cut`.
        """
        async with self._hole(Held(requests=requests, replies=replies)) as held:
            yield held

    @contextlib.asynccontextmanager
    async def delay(
        self, seconds: float, *, requests: bool = True, replies: bool = True
    ) -> AsyncIterator[None]:
        """Everything passes `seconds` later than it came, both ways or one; order is kept."""
        async with self._fault(Delay(seconds, requests=requests, replies=replies)):
            yield

    @contextlib.asynccontextmanager
    async def refuse(self) -> AsyncIterator[None]:
        """New connections are reset at once; those that are open go on."""
        self._refusals += 1
        try:
            yield
        finally:
            self._refusals -= 1

    @contextlib.asynccontextmanager
    async def half_open(self, *, gone: Literal["server", "client"] = "server") -> AsyncIterator[object]:
        """One side of the connections that are open now has gone, and the other is not told.

        As after a crash, or when a firewall has forgotten the connection: for the side that has `gone` it is
        closed; the other one's stays open, and what it sends is lost. When the fault ends it is reset, as by
        a host that does not know it. New connections pass as ever.
        """
        links = list(self._links)
        for link in links:
            link.split(gone)
        try:
            yield None
        finally:
            for link in links:
                link.rejoin()

    @contextlib.asynccontextmanager
    async def _hole(self, held: Held) -> AsyncIterator[Held]:
        self._holes.append(held)
        self._connect_if_possible()
        try:
            async with self._fault(held):
                yield held
        finally:
            self._holes.remove(held)
            self._connect_if_possible()

    @contextlib.asynccontextmanager
    async def _fault(self, fault: Fault) -> AsyncIterator[None]:
        self._faults.append(fault)
        try:
            yield
        finally:
            self._faults.remove(fault)
            for link in list(self._links):
                link.requests.settle()
                link.replies.settle()

    def _connect_if_possible(self) -> None:
        if any(hole._open and hole._requests for hole in self._holes):
            self._connectable.clear()
        else:
            self._connectable.set()


class Link:
    """One connection through the proxy: two sockets, and a flow in each direction."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy
        self.number = 0
        """Which of the proxy's connections it is, from 1; 0 until it is accepted."""
        self.client = _Side(self)
        self.server = _Side(self)
        self.requests = Flow(self, self.client, self.server, to_server=True)
        self.replies = Flow(self, self.server, self.client, to_server=False)
        self.client.inward, self.client.outward = self.requests, self.replies
        self.server.inward, self.server.outward = self.replies, self.requests
        self.over = False
        """Whether nothing passes any more."""
        self.gone = asyncio.Event()
        """Set when both sockets are closed."""
        self._connecting: asyncio.Task[None] | None = None
        self._deaf: _Side | None = None  # of a half-open connection, the side that is not told

    # What a proxy that knows more than bytes does otherwise

    def parcels(self, flow: Flow, data: bytes) -> Iterable[Parcel]:
        """What has come in, as what is to pass or to be withheld as a whole."""
        return (Parcel(data, asyncio.get_running_loop().time(), None),)

    def rest(self, flow: Flow) -> bytes:
        """What has come in and is no whole parcel, as its sender is gone."""
        return b""

    def next(self, flow: Flow, parcel: Parcel) -> None:
        """A parcel is about to pass. Said again if it is withheld after all, by a fault that begins here."""

    def passed(self, flow: Flow, parcel: Parcel) -> None:
        """A parcel was passed on."""

    # Its life

    def opened(self, side: _Side) -> None:
        if self.over:
            side.abort(reset=False)
        elif side is self.server:
            self.requests.settle()
        elif self.proxy._refusals:
            self.over = True
            side.abort(reset=True)
        else:
            self.proxy.accepted += 1
            self.number = self.proxy.accepted
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
        self.close()
        self.client.abort(reset=reset)
        self.server.abort(reset=False)

    def close(self) -> None:
        """Nothing passes any more."""
        self.over = True
        self.requests.drop()
        self.replies.drop()
        if self._connecting is not None:
            self._connecting.cancel()

    def cut_when_sent(self, *, reset: bool) -> None:
        """Close both sockets as soon as each was sent what was passed on to it; nothing more passes."""
        self.close()
        self.server.close()
        transport = self.client.transport
        if transport is not None and transport.get_write_buffer_size() and not self.client.lost.is_set():
            asyncio.get_running_loop().call_later(_FLUSH_POLL, lambda: self.cut_when_sent(reset=reset))
        else:
            self.client.abort(reset=reset)

    def split(self, gone: Literal["server", "client"]) -> None:
        """One side has gone and the other is not told."""
        self.close()
        left, self._deaf = (self.server, self.client) if gone == "server" else (self.client, self.server)
        left.close()
        self._deaf.drain()

    def rejoin(self) -> None:
        """The side that was not told hears of it."""
        if self._deaf is not None:
            self._deaf.abort(reset=True)

    def ended(self, side: _Side, *, reset: bool) -> None:
        """One of the sockets is closed."""
        side.outward.drop()
        if self._deaf is None or side is self._deaf:
            side.inward.end(reset=reset)
        self.check_gone()

    def check_gone(self) -> None:
        sides = [side for side in (self.client, self.server) if side.transport is not None]
        if self._connecting is None and all(side.lost.is_set() for side in sides):
            self.over = True
            for side in (self.client, self.server):
                side.inward.drop()  # or the timer of a delay would outlive the connection
            self.proxy._links.discard(self)
            self.gone.set()


class _Side(asyncio.Protocol):
    """One of a connection's two sockets."""

    inward: Flow
    """What it receives."""
    outward: Flow
    """What it sends."""

    def __init__(self, link: Link) -> None:
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
        self._link.ended(self, reset=exc is not None)

    def drain(self) -> None:
        """Go on reading, for nobody."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

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


class Flow:
    """One direction of a connection: asks the faults about each parcel, and passes it on or withholds it."""

    def __init__(self, link: Link, source: _Side, sink: _Side, *, to_server: bool) -> None:
        self.link = link
        self.to_server = to_server
        self._source = source
        self._sink = sink
        self._withheld: deque[Parcel] = deque()
        self._withheld_bytes = 0
        self._opening: bytes | None = None  # a client's first bytes, while they may be rewritten
        if to_server and link.proxy._rewrite_opening is not None:
            self._opening = b""
        self._end: Parcel | None = None  # the source has closed; so will the sink, after what is withheld
        self._reset = False  # the source was reset
        self._sink_full = False
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, data: bytes) -> None:
        """The source has sent something."""
        if self.link.over:
            return
        for hole in self.link.proxy._holes:
            if hole._stops(self):
                hole._count(len(data))
        if self._opening is not None:
            data = self._open(data)
        for parcel in self.link.parcels(self, data) if data else ():
            self._withhold(parcel)
        self.settle()

    def _open(self, data: bytes) -> bytes:
        """The bytes that may pass, once it is known what to make of the first ones."""
        assert self._opening is not None
        assert self.link.proxy._rewrite_opening is not None
        self._opening += data
        rewritten = self.link.proxy._rewrite_opening(self._opening)
        if rewritten is None:
            return b""
        instead, of = rewritten
        data, self._opening = instead + self._opening[of:], None
        return data

    def _withhold(self, parcel: Parcel) -> None:
        self._withheld.append(parcel)
        self._withheld_bytes += len(parcel.data)

    def settle(self) -> None:
        """Pass on what nothing withholds any more, and then the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink = self._sink.transport
        while sink is not None and self._withheld:
            parcel = self._withheld[0]
            if self._waits(parcel) or self.link.over:
                break
            self._withheld.popleft()
            self._withheld_bytes -= len(parcel.data)
            if not self._sink.lost.is_set():
                sink.write(parcel.data)
                self.link.passed(self, parcel)
        if sink is not None and self._end is not None and not self._withheld and not self.link.over:
            self._pass_end(self._end)
        self._regulate()

    def _pass_end(self, end: Parcel) -> None:
        if self._waits(end):
            return  # a FIN or an RST does not get through a black hole either
        if self._reset:
            self._sink.abort(reset=True)
        else:
            self._sink.close()

    def _waits(self, parcel: Parcel) -> bool:
        """Whether the next parcel has to wait; if for a time, it is looked at again then."""
        loop = asyncio.get_running_loop()
        due = self._due(parcel)
        if due <= loop.time():
            self.link.next(self, parcel)
            due = self._due(parcel)  # a fault may begin with this very parcel
            if due <= loop.time():
                return False
        if due != _NEVER and not self.link.over:
            self._timer = loop.call_at(due, self.settle)
        return True

    def _due(self, parcel: Parcel) -> float:
        return max((fault.until(self, parcel) for fault in self.link.proxy._faults), default=_NOW)

    def end(self, *, reset: bool) -> None:
        """The source has closed, or was reset: then so will the sink, when it would get to know."""
        now = asyncio.get_running_loop().time()
        self._end = Parcel(b"", now, None)
        self._reset = reset
        if reset:
            self.drop()
        elif rest := (self._opening or b"") + self.link.rest(self):
            self._withhold(Parcel(rest, now, None))
        self.settle()

    def drop(self) -> None:
        """Nothing that was withheld will pass."""
        self._withheld.clear()
        self._withheld_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def push_back(self, full: bool) -> None:
        """Whether the sink can take no more for now."""
        self._sink_full = full
        self._regulate()

    def _regulate(self) -> None:
        """Read from the source only while what it sends can go somewhere."""
        source = self._source.transport
        if source is None or source.is_closing():
            return
        full = self._sink_full or self._withheld_bytes >= _HELD_BEFORE_PUSHBACK
        wanted = self.link.over or not full
        if wanted and not source.is_reading():
            source.resume_reading()
        elif not wanted and source.is_reading():
            source.pause_reading()
