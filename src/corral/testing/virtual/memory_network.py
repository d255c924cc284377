"""TCP without an operating system: listeners, sockets, and the segments in transit between them, in memory.

Only the kernel is imitated, as Linux behaves on its loopback interface. asyncio's own transports and servers
run on these sockets, so flow control, half-close, the order of callbacks and TLS are the real ones.
`corral.testing.virtual.loop` connects the two.

- *Transit*: a segment arrives after the network's latency, behind those that were sent before it.
- *The window*: the bytes in transit to a socket and the bytes it has not read yet are bounded; beyond that,
  its peer is not writable.
- *Closing*: closing sends FIN; or RST, if data was left unread or SO_LINGER was set to zero. A segment that
  arrives at a closed socket is answered with RST. Data that arrived before an RST can still be read.
"""

from __future__ import annotations

import enum
import errno
import heapq
import ipaddress
import itertools
import os
import selectors
import socket
import struct
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["FIRST_DESCRIPTOR", "Listener", "MemoryNetwork", "MemorySocket", "SockAddr", "sock_addr"]

SockAddr: TypeAlias = tuple[Any, ...]
"""An address as in the socket module: host and port, and two more numbers with IPv6."""

FIRST_DESCRIPTOR = 1 << 30
"""The first descriptor in memory; the operating system never assigns one that large."""

WINDOW = 1 << 16
"""Bytes that may be in transit to a socket or unread there."""

_EPHEMERAL_PORTS = range(32_768, 61_000)
_ANY: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_LINGER = struct.Struct("ii")


class _Flag(enum.Enum):
    """A segment without data."""

    FIN = "the peer sends no more"
    RST = "the connection is reset"


_Segment: TypeAlias = bytes | _Flag
_Buffer: TypeAlias = bytes | bytearray | memoryview


def sock_addr(family: int, host: str, port: int) -> SockAddr:
    """The address in the form of sockets of that family."""
    return (host, port, 0, 0) if family == socket.AF_INET6 else (host, port)


class _Endpoint:
    """The interface that asyncio uses of any socket. It never blocks."""

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, network: MemoryNetwork, family: int, sockname: SockAddr) -> None:
        self.family = family
        self.closed = False
        self._network = network
        self._sockname = sockname
        self._options: dict[tuple[int, int], int | _Buffer] = {}
        self._descriptor = network.adopt(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._sockname}{', closed' if self.closed else ''}>"

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def fileno(self) -> int:
        """A number that is no real file descriptor; -1 when closed, as for a real socket."""
        return -1 if self.closed else self._descriptor

    def setblocking(self, flag: bool) -> None:
        """Does nothing, since these sockets never block."""

    def getsockname(self) -> SockAddr:
        return self._sockname

    def getpeername(self) -> SockAddr:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    def setsockopt(self, level: int, option: int, value: int | _Buffer) -> None:
        """Store an option. Only SO_LINGER has an effect."""
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | _Buffer:
        return self._options.get((level, option), 0)

    def close(self) -> None:
        self.closed = True

    def ready(self) -> int:
        """Which of the selectors' EVENT_READ and EVENT_WRITE it is ready for."""
        raise NotImplementedError


class Listener(_Endpoint):
    """A listening socket, at one address or several."""

    def __init__(self, network: MemoryNetwork, family: int, addresses: Sequence[SockAddr]) -> None:
        super().__init__(network, family, addresses[0])
        self.listening = False
        self._addresses = addresses
        self._backlog: deque[MemorySocket] = deque()

    def listen(self, backlog: int) -> None:
        """Accept connections from now on, without a bound; until then they are refused."""
        self.listening = True

    def accept(self) -> tuple[MemorySocket, SockAddr]:
        if not self._backlog:
            raise BlockingIOError
        accepted = self._backlog.popleft()
        return accepted, accepted.getpeername()

    def close(self) -> None:
        """Release the addresses, and reset connections that were not accepted yet."""
        if self.closed:
            return
        super().close()
        self._network.unbind(self._addresses)
        for sock in self._backlog:
            sock.reset()

    def ready(self) -> int:
        return selectors.EVENT_READ if self._backlog else 0

    def connected(self, sock: MemorySocket) -> None:
        """Queue a client's connection; `sock` is the server's end."""
        self._backlog.append(sock)
        self._network.mark(self)


class MemorySocket(_Endpoint):
    """One end of a connection."""

    peer: MemorySocket

    def __init__(self, network: MemoryNetwork, family: int, sockname: SockAddr, peername: SockAddr) -> None:
        super().__init__(network, family, sockname)
        self._peername = peername
        self._unread = bytearray()
        self._in_transit = 0  # bytes on their way to this end
        self._ended = False  # FIN has arrived
        self._reset = False  # RST has arrived
        self._error = 0  # its errno, until it was raised once
        self.latest = float("-inf")
        """When the last segment in transit to this end arrives."""

    def getpeername(self) -> SockAddr:
        return self._peername

    def send(self, data: _Buffer) -> int:
        """Send as much as the window allows; returns how many bytes."""
        self._raise_error()
        room = self._room()
        if room <= 0:
            raise BlockingIOError
        with memoryview(data).cast("B") as view:
            piece = bytes(view[:room])
        self.peer._in_transit += len(piece)
        self._network.post(self.peer, piece)
        return len(piece)

    def sendmsg(self, buffers: Iterable[_Buffer]) -> int:
        """Send as much of several buffers as the window allows; returns how many bytes."""
        sent = 0
        for buffer in buffers:
            try:
                sent += self.send(buffer)
            except BlockingIOError:
                break
        return sent

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes that have arrived; empty after FIN."""
        if self._unread:
            size = min(size, self._network.fragment(len(self._unread)))
            data = bytes(self._unread[:size])
            del self._unread[:size]
            self._network.mark(self.peer)  # it may be writable now
            return data
        if self._ended:
            return b""  # on Linux, an RST behind a FIN is an error for writers only
        self._raise_error()
        raise BlockingIOError

    def recv_into(self, buffer: _Buffer) -> int:
        """As `recv`, into a buffer; returns how many bytes."""
        with memoryview(buffer).cast("B") as view:
            data = self.recv(len(view))
            view[: len(data)] = data
        return len(data)

    def shutdown(self, how: int) -> None:
        """Send FIN behind the data. Reading is not affected."""
        if self._reset:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        if how != socket.SHUT_RD:
            self._network.post(self.peer, _Flag.FIN)

    def close(self) -> None:
        """Send FIN behind the data; or RST, if data is unread or SO_LINGER was set to zero."""
        if self.closed:
            return
        super().close()
        if self._unread or self._resets_on_close():
            self.reset()
        else:
            self._network.post(self.peer, _Flag.FIN)

    def reset(self) -> None:
        """Send RST, and close."""
        super().close()
        self._network.post(self.peer, _Flag.RST)

    def ready(self) -> int:
        readable = bool(self._unread) or self._ended or self._reset
        writable = self._reset or self._room() > 0
        return selectors.EVENT_READ * readable | selectors.EVENT_WRITE * writable

    def arrived(self, segment: _Segment) -> None:
        """Handle a segment that arrives."""
        if isinstance(segment, bytes):
            self._in_transit -= len(segment)
        if segment is _Flag.RST:
            self._reset = True
            self._error = errno.EPIPE if self._ended else errno.ECONNRESET
        elif segment is _Flag.FIN:
            self._ended = True
        elif self.closed:
            self.reset()
        elif isinstance(segment, bytes):
            self._unread += segment
        self._network.mark(self)

    def _room(self) -> int:
        return WINDOW - self.peer._in_transit - len(self.peer._unread)

    def _resets_on_close(self) -> bool:
        linger = self._options.get((socket.SOL_SOCKET, socket.SO_LINGER))
        return linger is not None and not isinstance(linger, int) and _LINGER.unpack(linger) == (1, 0)

    def _raise_error(self) -> None:
        error, self._error = self._error, 0
        if error:
            raise OSError(error, os.strerror(error))


class MemoryNetwork:
    """All listeners, sockets, and segments in transit. Every address is local, loopback or not."""

    def __init__(
        self, clock: Callable[[], float], latency: Callable[[], float], fragment: Callable[[int], int]
    ) -> None:
        """`latency` returns how many seconds the next segment is in transit; `fragment` how many of the given
        number of bytes the next read gets."""
        self.latency = latency
        self.fragment = fragment
        self._clock = clock
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._endpoints: weakref.WeakValueDictionary[int, _Endpoint] = weakref.WeakValueDictionary()
        self._descriptors = itertools.count(FIRST_DESCRIPTOR)
        self._ports = itertools.cycle(_EPHEMERAL_PORTS)
        self._in_transit: list[tuple[float, int, MemorySocket, _Segment]] = []  # a heap
        self._sent = itertools.count()
        # Descriptors that may have become ready, in the order of their events, as with epoll. Idle ones cost
        # nothing.
        self._marked: dict[int, None] = {}

    def adopt(self, endpoint: _Endpoint) -> int:
        """Register a new endpoint, and return its descriptor."""
        descriptor = next(self._descriptors)
        self._endpoints[descriptor] = endpoint
        return descriptor

    # Connecting

    def bind(self, addresses: Sequence[tuple[int, SockAddr]]) -> Listener:
        """Make a listener at all of these addresses, each with its family; port 0 chooses one free port for
        all."""
        family, first = addresses[0]
        port = first[1] or self._free_port()
        bound = [sock_addr(each, address[0], address[1] or port) for each, address in addresses]
        for address in bound:
            if self._is_taken(address):
                text = os.strerror(errno.EADDRINUSE).lower()
                raise OSError(
                    errno.EADDRINUSE, f"error while attempting to bind on address {address!r}: {text}"
                )
        listener = Listener(self, family, bound)
        for address in bound:
            self._listeners[_key(address)] = listener
        return listener

    def unbind(self, addresses: Sequence[SockAddr]) -> None:
        """Release addresses."""
        for address in addresses:
            self._listeners.pop(_key(address), None)

    def connect(self, family: int, address: SockAddr, source: SockAddr | None = None) -> MemorySocket:
        """Connect to the listener at an address, from `source` if given; `ConnectionRefusedError` if there is
        none."""
        host, port = _key(address)
        listener = self._listeners.get((host, port)) or self._listeners.get((_ANY[family], port))
        if listener is None or not listener.listening:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {address}")
        if source is None:  # as Linux chooses
            source = ("127.0.0.1" if host.startswith("127.") else host, 0)
        sockname = sock_addr(family, source[0], source[1] or self._free_port())
        client = MemorySocket(self, family, sockname, address)
        server = MemorySocket(self, family, address, sockname)
        client.peer, server.peer = server, client
        listener.connected(server)
        return client

    def _free_port(self) -> int:
        taken = {port for _, port in self._listeners}
        return next(port for port in self._ports if port not in taken)

    def _is_taken(self, address: SockAddr) -> bool:
        host, port = _key(address)
        anywhere = host in _ANY.values()
        return any(
            port == other_port and (anywhere or other in (host, *_ANY.values()))
            for other, other_port in self._listeners
        )

    # Transit and readiness

    def post(self, receiver: MemorySocket, segment: _Segment) -> None:
        """Send a segment; it arrives behind all others in transit to the same end."""
        receiver.latest = max(self._clock() + self.latency(), receiver.latest)
        heapq.heappush(self._in_transit, (receiver.latest, next(self._sent), receiver, segment))

    def next_arrival(self) -> float:
        """When the next segment arrives; infinity if none is in transit."""
        return self._in_transit[0][0] if self._in_transit else float("inf")

    def mark(self, endpoint: _Endpoint) -> None:
        """Have the next `poll` check an endpoint that may have become ready."""
        self.mark_descriptor(endpoint.fileno())

    def mark_descriptor(self, descriptor: int) -> None:
        """As `mark`, by descriptor; also for one that a selector has just registered."""
        self._marked[descriptor] = None

    def poll(self, wanted: Mapping[int, selectors.SelectorKey]) -> list[tuple[selectors.SelectorKey, int]]:
        """Deliver the segments that are due, and return which of the `wanted` descriptors are ready."""
        while self._in_transit and self._in_transit[0][0] <= self._clock():
            _, _, receiver, segment = heapq.heappop(self._in_transit)
            receiver.arrived(segment)
        ready = []
        for descriptor in tuple(self._marked):
            key, endpoint = wanted.get(descriptor), self._endpoints.get(descriptor)
            events = endpoint.ready() & key.events if key is not None and endpoint is not None else 0
            if key is not None and events:
                ready.append((key, events))  # it stays marked: a selector is level-triggered
            else:
                del self._marked[descriptor]
        return ready

    def close(self) -> None:
        """Forget everything."""
        self._in_transit.clear()
        self._listeners.clear()
        self._marked.clear()


def _key(address: SockAddr) -> tuple[str, int]:
    """The key by which addresses are compared; an IPv6 address has several spellings."""
    return str(ipaddress.ip_address(address[0])), address[1]
