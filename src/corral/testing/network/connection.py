"""One connection through a proxy: two sockets, and between them a flow in each direction.

A flow asks the proxy's faults about each parcel, and passes it on or withholds it. A subclass of
`ProxiedConnection` may cut the bytes into messages; here a parcel is what one read returned.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, cast

from .faults import NEVER, NOW, BlackHoleFault, Fault, Parcel

__all__ = ["Flow", "ProxiedConnection", "ProxyState", "RewriteOpening"]

_WITHHELD_BEFORE_PUSHBACK = 1 << 20
"""Bytes that one direction withholds before its sender is no longer read from, as behind a full window."""

_FLUSH_POLL = 0.001
"""Seconds between two polls of a transport's write buffer; there is no event to wait for."""

RewriteOpening: TypeAlias = Callable[[bytes], "tuple[bytes, int] | None"]
"""Takes a client's first bytes. Returns their replacement, and how many of them it replaces; None to wait for
more bytes."""


class ProxyState:
    """What a proxy and its connections share."""

    def __init__(self, target: tuple[str, int], rewrite_opening: RewriteOpening | None) -> None:
        self.target = target
        self.rewrite_opening = rewrite_opening
        self.connections: set[ProxiedConnection] = set()
        self.faults: list[Fault] = []
        self.black_holes: list[BlackHoleFault] = []
        """Those of the faults that count what they withhold."""
        self.refusals = 0
        """How many faults refuse new connections now."""
        self.accepted = 0
        self.connectable = asyncio.Event()
        """Cleared by a black hole for requests: not even a SYN reaches the server."""
        self.connectable.set()

    def update_connectable(self) -> None:
        """Call when a black hole has begun or ended."""
        if any(hole.withholds(to_server=True) for hole in self.black_holes):
            self.connectable.clear()
        else:
            self.connectable.set()


class ProxiedConnection:
    """One connection through the proxy: two sockets, and a flow in each direction."""

    def __init__(self, state: ProxyState) -> None:
        self.state = state
        self.number = 0
        """Which of the proxy's connections it is, counted from 1; 0 until it is accepted."""
        self.client = _Side(self)
        self.server = _Side(self)
        self.requests = Flow(self, self.client, self.server, to_server=True)
        self.replies = Flow(self, self.server, self.client, to_server=False)
        self.client.inward, self.client.outward = self.requests, self.replies
        self.server.inward, self.server.outward = self.replies, self.requests
        self.closing = False
        """Whether nothing passes any more."""
        self.closed = asyncio.Event()
        """Set when both sockets are closed."""
        self._connecting: asyncio.Task[None] | None = None
        self._unaware: _Side | None = None  # of a half-open connection, the side that still has it

    # Hooks for a proxy that parses the bytes

    def parcels(self, flow: Flow, data: bytes) -> Iterable[Parcel]:
        """Cut incoming bytes into parcels."""
        return (Parcel(data, asyncio.get_running_loop().time(), None),)

    def remainder(self, flow: Flow) -> bytes:
        """Bytes that came in and did not complete a parcel before their sender closed."""
        return b""

    def about_to_pass(self, flow: Flow, parcel: Parcel) -> None:
        """Called before a parcel passes; and again later, if a fault that begins here withholds it."""

    def passed(self, flow: Flow, parcel: Parcel) -> None:
        """Called after a parcel has passed."""

    # Opening and closing

    def side_connected(self, side: _Side) -> None:
        """One of the sockets is connected."""
        if self.closing:
            side.abort(reset=False)
        elif side is self.server:
            self.requests.deliver()
        elif self.state.refusals:
            self.closing = True
            side.abort(reset=True)
        else:
            self.state.accepted += 1
            self.number = self.state.accepted
            self.state.connections.add(self)
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)

    async def _connect(self) -> None:
        try:
            await self.state.connectable.wait()
            await asyncio.get_running_loop().create_connection(lambda: self.server, *self.state.target)
        except OSError:
            self.cut(reset=True)  # a proxy cannot refuse a connection that it has accepted

    def _connected(self, task: asyncio.Task[None]) -> None:
        # A callback, because a task that is cancelled before its first step runs no `finally`.
        if task.cancelled():
            # uvloop never reports the end of a connection whose opening was cancelled after it was made.
            self.server.abort(reset=False)
            self.server.lost.set()
        self._connecting = None
        self.check_closed()

    def cut(self, *, reset: bool) -> None:
        """Close both sockets now. The server always gets FIN, so that it reads everything it was sent."""
        self.stop()
        self.client.abort(reset=reset)
        self.server.abort(reset=False)

    def stop(self) -> None:
        """Let nothing pass any more."""
        self.closing = True
        self.requests.discard()
        self.replies.discard()
        if self._connecting is not None:
            self._connecting.cancel()

    def cut_when_sent(self, *, reset: bool) -> None:
        """Let nothing more pass, and close each socket when it has sent what was passed on to it."""
        self.stop()
        self.server.close()
        transport = self.client.transport
        if transport is not None and transport.get_write_buffer_size() and not self.client.lost.is_set():
            asyncio.get_running_loop().call_later(_FLUSH_POLL, lambda: self.cut_when_sent(reset=reset))
        else:
            self.client.abort(reset=reset)

    def half_open(self, gone: Literal["server", "client"]) -> None:
        """Close the connection for the side that is `gone`; the other side does not notice."""
        self.stop()
        closed, self._unaware = (self.server, self.client) if gone == "server" else (self.client, self.server)
        closed.close()
        self._unaware.drain()

    def end_half_open(self) -> None:
        """Reset the side that has not noticed."""
        if self._unaware is not None:
            self._unaware.abort(reset=True)

    def side_closed(self, side: _Side, *, reset: bool) -> None:
        """One of the sockets is closed."""
        side.outward.discard()
        if self._unaware is None or side is self._unaware:
            side.inward.source_closed(reset=reset)
        self.check_closed()

    def check_closed(self) -> None:
        """If both sockets are closed, leave the proxy."""
        sides = [side for side in (self.client, self.server) if side.transport is not None]
        if self._connecting is None and all(side.lost.is_set() for side in sides):
            self.closing = True
            for side in (self.client, self.server):
                side.inward.discard()  # or the timer of a delay would outlive the connection
            self.state.connections.discard(self)
            self.closed.set()


class _Side(asyncio.Protocol):
    """One of a connection's two sockets."""

    inward: Flow
    """What it receives."""
    outward: Flow
    """What it sends."""

    def __init__(self, connection: ProxiedConnection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connection.side_connected(self)

    def data_received(self, data: bytes) -> None:
        self.inward.receive(data)

    def pause_writing(self) -> None:
        self.outward.set_sink_full(True)

    def resume_writing(self) -> None:
        self.outward.set_sink_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._connection.side_closed(self, reset=exc is not None)

    def drain(self) -> None:
        """Keep reading; nothing of it passes."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """Close after sending what was written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self, *, reset: bool) -> None:
        """Close at once, with RST or with FIN."""
        if self.transport is None or self.lost.is_set():
            return
        if reset:
            linger = struct.pack("ii", 1, 0)  # on, for zero seconds: the kernel then sends RST
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()


class Flow:
    """One direction of a connection: a queue of parcels that faults withhold or let pass."""

    def __init__(self, connection: ProxiedConnection, source: _Side, sink: _Side, *, to_server: bool) -> None:
        self.to_server = to_server
        self.end: Parcel | None = None
        """Set when the source has closed. The sink is closed when this parcel may pass."""
        self._connection = connection
        self._state = connection.state
        self._source = source
        self._sink = sink
        self._queue: deque[Parcel] = deque()
        self._queued_bytes = 0
        self._opening: bytes | None = None  # a client's first bytes, while they may be rewritten
        if to_server and self._state.rewrite_opening is not None:
            self._opening = b""
        self._reset = False  # whether the source was reset
        self._sink_full = False
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, data: bytes) -> None:
        """The source has sent something."""
        if self._connection.closing:
            return
        for hole in self._state.black_holes:
            if hole.withholds(to_server=self.to_server):
                hole.count(len(data))
        if self._opening is not None:
            data = self._rewrite(data)
        for parcel in self._connection.parcels(self, data) if data else ():
            self.enqueue(parcel)
        self.deliver()

    def _rewrite(self, data: bytes) -> bytes:
        """The bytes that may pass, once the opening is complete; nothing before that."""
        assert self._opening is not None
        assert self._state.rewrite_opening is not None
        self._opening += data
        rewritten = self._state.rewrite_opening(self._opening)
        if rewritten is None:
            return b""
        replacement, replaced = rewritten
        data, self._opening = replacement + self._opening[replaced:], None
        return data

    def enqueue(self, parcel: Parcel) -> None:
        """Add a parcel behind the others."""
        self._queue.append(parcel)
        self._queued_bytes += len(parcel.data)

    def deliver(self) -> None:
        """Pass on every parcel that nothing withholds any more, and after the last one the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink = self._sink.transport
        while sink is not None and self._queue:
            parcel = self._queue[0]
            if self._is_withheld(parcel) or self._connection.closing:
                break
            self._queue.popleft()
            self._queued_bytes -= len(parcel.data)
            if not self._sink.lost.is_set():
                sink.write(parcel.data)
                self._connection.passed(self, parcel)
        if sink is not None and self.end is not None and not self._queue and not self._connection.closing:
            self._pass_end(self.end)
        self._regulate_reading()

    def _pass_end(self, end: Parcel) -> None:
        if self._is_withheld(end):
            return  # a FIN or an RST does not get through a black hole either
        if self._reset:
            self._sink.abort(reset=True)
        else:
            self._sink.close()

    def _is_withheld(self, parcel: Parcel) -> bool:
        """Whether a fault withholds the first parcel. If only for a time, a timer calls `deliver` after
        it."""
        loop = asyncio.get_running_loop()
        due = self._due(parcel)
        if due <= loop.time():
            self._connection.about_to_pass(self, parcel)
            due = self._due(parcel)  # a fault may begin with this very parcel
            if due <= loop.time():
                return False
        if due != NEVER and not self._connection.closing:
            self._timer = loop.call_at(due, self.deliver)
        return True

    def _due(self, parcel: Parcel) -> float:
        return max(
            (fault.until(parcel, to_server=self.to_server) for fault in self._state.faults), default=NOW
        )

    def source_closed(self, *, reset: bool) -> None:
        """The source has closed, or was reset. The sink is closed likewise, when the faults let that pass."""
        now = asyncio.get_running_loop().time()
        self.end = Parcel(b"", now, None)
        self._reset = reset
        if reset:
            self.discard()
        elif remainder := (self._opening or b"") + self._connection.remainder(self):
            self.enqueue(Parcel(remainder, now, None))
        self.deliver()

    def discard(self) -> None:
        """Drop everything that was withheld."""
        self._queue.clear()
        self._queued_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set_sink_full(self, full: bool) -> None:
        """The sink's write buffer is full, or has room again."""
        self._sink_full = full
        self._regulate_reading()

    def _regulate_reading(self) -> None:
        """Read from the source only while there is room for what it sends."""
        source = self._source.transport
        if source is None or source.is_closing():
            return
        full = self._sink_full or self._queued_bytes >= _WITHHELD_BEFORE_PUSHBACK
        wanted = self._connection.closing or not full
        if wanted and not source.is_reading():
            source.resume_reading()
        elif not wanted and source.is_reading():
            source.pause_reading()
