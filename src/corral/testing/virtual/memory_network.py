"""TCP without an operating system: listeners, sockets, and what is under way between them, in memory.

Only the kernel is imitated here, as Linux is on its loopback interface. What is above it is asyncio's own:
its transports and servers run on these sockets, so that flow control, half-close, the order of callbacks and
TLS are not another's idea of them. `corral.testing.virtual.loop` puts the two together.

- *Under way*: a piece of what was sent arrives after the network's latency, behind what was sent before it.
- *The window*: what is under way to a socket, and what it has not read yet, are bounded; its peer is not
  writable beyond that.
- *The end*: closing sends FIN; or RST if something was left unread, or lingering was set to zero. To what
  comes for a socket that is closed, the answer is RST. What came before an RST can still be read.
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
"""As the socket module has it: host and port first, and two more numbers with IPv6."""

FIRST_DESCRIPTOR = 1 << 30
"""File descriptors in memory are numbered from here, beyond all that an operating system gives."""

WINDOW = 1 << 16
"""Bytes that may be under way to a socket or wait there to be read."""

_EPHEMERAL_PORTS = range(32_768, 61_000)
_ANY: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_LINGER = struct.Struct("ii")


class _Sign(enum.Enum):
    """What may come instead of bytes."""

    FIN = "the peer sends no more"
    RST = "there is no connection any more"


_Segment: TypeAlias = bytes | _Sign
_Buffer: TypeAlias = bytes | bytearray | memoryview


def sock_addr(family: int, host: str, port: int) -> SockAddr:
    """The address as sockets of that family have it."""
    return (host, port, 0, 0) if family == socket.AF_INET6 else (host, port)


class _Endpoint:
    """What asyncio asks of any socket. It never blocks."""

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
        """A number that is no real file descriptor; -1 once closed, as ever."""
        return -1 if self.closed else self._descriptor

    def setblocking(self, flag: bool) -> None:
        """Nothing here ever blocks."""

    def getsockname(self) -> SockAddr:
        return self._sockname

    def getpeername(self) -> SockAddr:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    def setsockopt(self, level: int, option: int, value: int | _Buffer) -> None:
        """Remember an option. Lingering is the one that means something here."""
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | _Buffer:
        return self._options.get((level, option), 0)

    def close(self) -> None:
        self.closed = True

    def ready(self) -> int:
        """Of the selectors' EVENT_READ and EVENT_WRITE, those that would not block."""
        raise NotImplementedError


class Listener(_Endpoint):
    """A socket that listens, at one address or at several."""

    def __init__(self, network: MemoryNetwork, family: int, addresses: Sequence[SockAddr]) -> None:
        super().__init__(network, family, addresses[0])
        self.listening = False
        self._addresses = addresses
        self._backlog: deque[MemorySocket] = deque()

    def listen(self, backlog: int) -> None:
        """Accept connections from now on, however many; until then they are refused."""
        self.listening = True

    def accept(self) -> tuple[MemorySocket, SockAddr]:
        if not self._backlog:
            raise BlockingIOError
        accepted = self._backlog.popleft()
        return accepted, accepted.getpeername()

    def close(self) -> None:
        """Give the addresses free; what was not accepted yet is reset."""
        if self.closed:
            return
        super().close()
        self._network.unbind(self._addresses)
        for sock in self._backlog:
            sock.reset()

    def ready(self) -> int:
        return selectors.EVENT_READ if self._backlog else 0

    def connected(self, sock: MemorySocket) -> None:
        """A client has connected; `sock` is the server's end."""
        self._backlog.append(sock)
        self._network.stir(self)


class MemorySocket(_Endpoint):
    """One end of a connection."""

    peer: MemorySocket

    def __init__(self, network: MemoryNetwork, family: int, sockname: SockAddr, peername: SockAddr) -> None:
        super().__init__(network, family, sockname)
        self._peername = peername
        self._unread = bytearray()
        self._coming = 0  # bytes that are under way to this end
        self._ended = False  # FIN has come
        self._reset = False  # RST has come
        self._error = 0  # the errno of it, until it was told once
        self.latest = float("-inf")
        """When the last of what is under way to this end arrives."""

    def getpeername(self) -> SockAddr:
        return self._peername

    def send(self, data: _Buffer) -> int:
        """Send as much as the window takes; returns how many bytes."""
        self._tell_error()
        room = self._room()
        if room <= 0:
            raise BlockingIOError
        with memoryview(data).cast("B") as view:
            piece = bytes(view[:room])
        self.peer._coming += len(piece)
        self._network.post(self.peer, piece)
        return len(piece)

    def sendmsg(self, buffers: Iterable[_Buffer]) -> int:
        """Send as much of several buffers as the window takes; returns how many bytes."""
        sent = 0
        for buffer in buffers:
            try:
                sent += self.send(buffer)
            except BlockingIOError:
                break
        return sent

    def recv(self, size: int) -> bytes:
        """What has come, up to `size` bytes; empty at the end."""
        if self._unread:
            size = min(size, self._network.fragment(len(self._unread)))
            data = bytes(self._unread[:size])
            del self._unread[:size]
            self._network.stir(self.peer)  # which may have more room now
            return data
        if self._ended:
            return b""  # of an RST behind a FIN only a writer is told, on Linux
        self._tell_error()
        raise BlockingIOError

    def recv_into(self, buffer: _Buffer) -> int:
        """As `recv`, into a buffer; returns how many bytes."""
        with memoryview(buffer).cast("B") as view:
            data = self.recv(len(view))
            view[: len(data)] = data
        return len(data)

    def shutdown(self, how: int) -> None:
        """Send FIN behind what was sent. Reading is not affected."""
        if self._reset:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        if how != socket.SHUT_RD:
            self._network.post(self.peer, _Sign.FIN)

    def close(self) -> None:
        """Send FIN behind what was sent; or RST, if something is unread or lingering was set to zero."""
        if self.closed:
            return
        super().close()
        if self._unread or self._lingers_not():
            self.reset()
        else:
            self._network.post(self.peer, _Sign.FIN)

    def reset(self) -> None:
        """Send RST, and be closed."""
        super().close()
        self._network.post(self.peer, _Sign.RST)

    def ready(self) -> int:
        readable = bool(self._unread) or self._ended or self._reset
        writable = self._reset or self._room() > 0
        return selectors.EVENT_READ * readable | selectors.EVENT_WRITE * writable

    def arrived(self, segment: _Segment) -> None:
        """Something that was under way is here."""
        if isinstance(segment, bytes):
            self._coming -= len(segment)
        if segment is _Sign.RST:
            self._reset = True
            self._error = errno.EPIPE if self._ended else errno.ECONNRESET
        elif segment is _Sign.FIN:
            self._ended = True
        elif self.closed:
            self.reset()
        elif isinstance(segment, bytes):
            self._unread += segment
        self._network.stir(self)

    def _room(self) -> int:
        return WINDOW - self.peer._coming - len(self.peer._unread)

    def _lingers_not(self) -> bool:
        linger = self._options.get((socket.SOL_SOCKET, socket.SO_LINGER))
        return linger is not None and not isinstance(linger, int) and _LINGER.unpack(linger) == (1, 0)

    def _tell_error(self) -> None:
        error, self._error = self._error, 0
        if error:
            raise OSError(error, os.strerror(error))


class MemoryNetwork:
    """All that listens and is connected, and what is under way. Any address is at hand, loopback or not."""

    def __init__(
        self, clock: Callable[[], float], latency: Callable[[], float], fragment: Callable[[int], int]
    ) -> None:
        """`latency` gives the seconds that the next piece is under way; `fragment` how many of so many bytes
        the next read gets."""
        self.latency = latency
        self.fragment = fragment
        self._clock = clock
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._endpoints: weakref.WeakValueDictionary[int, _Endpoint] = weakref.WeakValueDictionary()
        self._descriptors = itertools.count(FIRST_DESCRIPTOR)
        self._ports = itertools.cycle(_EPHEMERAL_PORTS)
        self._under_way: list[tuple[float, int, MemorySocket, _Segment]] = []  # a heap
        self._sent = itertools.count()
        # Descriptors that may have become ready, in that order, as epoll has it: so the order of events is
        # that of their causes, and those that nothing happens to cost nothing.
        self._stirred: dict[int, None] = {}

    def adopt(self, endpoint: _Endpoint) -> int:
        """Give a new endpoint its descriptor."""
        descriptor = next(self._descriptors)
        self._endpoints[descriptor] = endpoint
        return descriptor

    # Connecting

    def bind(self, addresses: Sequence[tuple[int, SockAddr]]) -> Listener:
        """A listener at all of these addresses, each with its family; port 0 is a free one for them all."""
        family, first = addresses[0]
        port = first[1] or self._free_port()
        bound = [sock_addr(each, address[0], address[1] or port) for each, address in addresses]
        for address in bound:
            if self._is_taken(address):
                said = os.strerror(errno.EADDRINUSE).lower()
                raise OSError(
                    errno.EADDRINUSE, f"error while attempting to bind on address {address!r}: {said}"
                )
        listener = Listener(self, family, bound)
        for address in bound:
            self._listeners[_key(address)] = listener
        return listener

    def unbind(self, addresses: Sequence[SockAddr]) -> None:
        """Nobody listens there any more."""
        for address in addresses:
            self._listeners.pop(_key(address), None)

    def connect(self, family: int, address: SockAddr, source: SockAddr | None = None) -> MemorySocket:
        """A connection to whoever listens there, from `source` if that matters; else it is refused."""
        host, port = _key(address)
        listener = self._listeners.get((host, port)) or self._listeners.get((_ANY[family], port))
        if listener is None or not listener.listening:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {address}")
        if source is None:  # as Linux chooses it
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

    # What is under way

    def post(self, receiver: MemorySocket, segment: _Segment) -> None:
        """Have something arrive, behind all that is under way to the same end."""
        receiver.latest = max(self._clock() + self.latency(), receiver.latest)
        heapq.heappush(self._under_way, (receiver.latest, next(self._sent), receiver, segment))

    def next_arrival(self) -> float:
        """When something arrives next; infinity if nothing is under way."""
        return self._under_way[0][0] if self._under_way else float("inf")

    def stir(self, endpoint: _Endpoint) -> None:
        """An endpoint may have become ready, or somebody asks about it who did not before."""
        self.stir_descriptor(endpoint.fileno())

    def stir_descriptor(self, descriptor: int) -> None:
        """As `stir`, by its number."""
        self._stirred[descriptor] = None

    def poll(self, wanted: Mapping[int, selectors.SelectorKey]) -> list[tuple[selectors.SelectorKey, int]]:
        """Let arrive what is due, and return who is ready of those that are wanted, as a selector does."""
        while self._under_way and self._under_way[0][0] <= self._clock():
            _, _, receiver, segment = heapq.heappop(self._under_way)
            receiver.arrived(segment)
        ready = []
        for descriptor in tuple(self._stirred):
            key, endpoint = wanted.get(descriptor), self._endpoints.get(descriptor)
            events = endpoint.ready() & key.events if key is not None and endpoint is not None else 0
            if key is not None and events:
                ready.append((key, events))  # and asked again next time: a selector is level-triggered
            else:
                del self._stirred[descriptor]
        return ready

    def close(self) -> None:
        """Forget everything."""
        self._under_way.clear()
        self._listeners.clear()
        self._stirred.clear()


def _key(address: SockAddr) -> tuple[str, int]:
    """An address as it is compared: there is more than one way to write one in IPv6."""
    return str(ipaddress.ip_address(address[0])), address[1]
