"""TcpProxy: what passes, what is withheld, and what is lost, with an echo server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import pytest

from corral.errors import UsageStateError, UsageValueError
from corral.testing import TcpProxy
from corral.testing.network import LOOPBACK
from corral.testing.servers.ports import free_ports

T = TypeVar("T")


async def within(awaitable: Awaitable[T]) -> T:
    """Wait for something that must happen, with a time limit."""
    return await asyncio.wait_for(awaitable, 10)


async def turns(count: int = 20) -> None:
    """Let the event loop run some turns, in which something unexpected could happen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until a condition is true for which there is no event."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


class Echo:
    """A server that sends back what it receives, and records it.

    With `pieces` it answers as a server that reads messages: once a message is complete, in pieces of that
    many bytes.
    """

    def __init__(self, pieces: int | None = None) -> None:
        self._pieces = pieces
        self.received = bytearray()
        self.accepted = 0
        self.ended = asyncio.Event()  # the first time that a client left
        self.resets = 0  # how many of them left with a reset
        self._grew = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.address = f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()

    async def got(self, n: int) -> bytes:
        """Wait until `n` bytes were received; returns everything received."""
        while len(self.received) < n:
            self._grew.clear()
            await within(self._grew.wait())
        return bytes(self.received)

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        if self._pieces is None:
            return await reader.read(65536)
        try:
            length = await reader.readexactly(4)
            return length + await reader.readexactly(int.from_bytes(length))
        except asyncio.IncompleteReadError:
            return b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        try:
            while data := await self._read(reader):
                self.received += data
                self._grew.set()
                for start in range(0, len(data), self._pieces or len(data)):
                    writer.write(data[start : start + (self._pieces or len(data))])
                    await writer.drain()
                    await asyncio.sleep(0)
        except ConnectionError:
            self.resets += 1
        self.ended.set()
        writer.close()


class Client:
    """A connection through a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self, n: int) -> bytes:
        return await within(self.reader.readexactly(n))

    async def rest(self) -> bytes:
        """What is received until the end; ConnectionResetError if that is a reset."""
        return await within(self.reader.read())


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with Echo() as server:
        yield server


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(echo.address) as between:
        yield between


@contextlib.asynccontextmanager
async def connection(proxy: TcpProxy) -> AsyncIterator[Client]:
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await within(asyncio.open_connection(host, int(port)))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await within(writer.wait_closed())


async def arrives(client: Client, data: bytes) -> None:
    """Check that what is sent comes back."""
    client.writer.write(data)
    assert await client.get(len(data)) == data


def reset(writer: asyncio.StreamWriter) -> None:
    """Close it with RST."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def request(xid: int, payload: bytes = b"") -> bytes:
    return frame(struct.pack(">i", xid) + payload)


async def test_bytes_pass_both_ways(proxy: TcpProxy, echo: Echo) -> None:
    """Without a fault the proxy passes everything on; it counts its connections."""
    async with connection(proxy) as client:
        client.writer.write(b"hello")
        assert await client.get(5) == b"hello"
        async with connection(proxy) as second:
            second.writer.write(b"!")
            assert await second.get(1) == b"!"
            assert (proxy.connections, proxy.accepted) == (2, 2)
    await proxy.cut()
    assert (proxy.connections, proxy.accepted) == (0, 2)
    assert echo.accepted == 2


async def test_much_data_passes_whole(proxy: TcpProxy) -> None:
    """More data than all buffers hold arrives complete and in order, even if the client reads late."""
    data = b"".join(request(n, bytes(1000)) for n in range(8000))
    async with connection(proxy) as client:
        writing = asyncio.create_task(write_all(client, data))
        assert await client.get(len(data)) == data
        await within(writing)


async def write_all(client: Client, data: bytes) -> None:
    client.writer.write(data)
    await client.writer.drain()


async def test_an_end_passes_in_both_directions(proxy: TcpProxy, echo: Echo) -> None:
    """When one peer closes, the other sees the end, after everything that was sent before."""
    async with connection(proxy) as client:
        client.writer.write(b"bye")
        client.writer.close()
        await within(echo.ended.wait())
        assert bytes(echo.received) == b"bye"
    async with connection(proxy) as client:
        client.writer.write(b"stay")
        assert await client.get(4) == b"stay"
        echo.hang_up()
        assert await client.rest() == b""


async def test_a_reset_passes(proxy: TcpProxy, echo: Echo) -> None:
    """When the server resets a connection, so does the proxy."""
    async with connection(proxy) as client:
        client.writer.write(b"a")
        await client.get(1)
        reset(echo._writers[0])
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_nothing_passes_a_black_hole(proxy: TcpProxy, echo: Echo) -> None:
    """In a black hole nothing arrives and nothing is closed; when it ends, everything that was sent is
    delivered."""
    async with connection(proxy) as client:
        client.writer.write(b"before")
        await client.get(6)
        async with proxy.black_hole() as held:
            client.writer.write(b"within")
            await within(held.arrived(6))
            assert held.bytes == 6
            assert bytes(echo.received) == b"before"
            assert proxy.connections == 1
        assert await client.get(6) == b"within"
        assert bytes(echo.received) == b"beforewithin"


async def test_a_black_hole_swallows_replies_too(proxy: TcpProxy, echo: Echo) -> None:
    """What the server sends into a black hole is withheld as well."""
    async with connection(proxy) as client:
        client.writer.write(b"a")
        await client.get(1)
        async with proxy.black_hole() as held:
            echo._writers[0].write(b"unasked")
            await within(held.arrived(7))
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
        assert await client.get(7) == b"unasked"


async def test_a_black_hole_accepts_and_stays_silent(proxy: TcpProxy, echo: Echo) -> None:
    """A new connection is accepted, and the server sees nothing of it before the fault ends."""
    async with contextlib.AsyncExitStack() as stack:
        async with proxy.black_hole() as held:
            client = await stack.enter_async_context(connection(proxy))
            client.writer.write(b"anybody?")
            await within(held.arrived(8))
            assert echo.accepted == 0
        assert await client.get(8) == b"anybody?"
        assert echo.accepted == 1


async def test_black_holes_overlap(proxy: TcpProxy, echo: Echo) -> None:
    """Of two overlapping black holes, the end of one lets nothing pass."""
    async with contextlib.AsyncExitStack() as stack:
        outer = await stack.enter_async_context(proxy.black_hole())
        async with proxy.black_hole():
            pass
        client = await stack.enter_async_context(connection(proxy))
        client.writer.write(b"?")
        await within(outer.arrived())
        assert echo.accepted == 0


async def test_what_a_closed_sender_sent_comes_out_of_a_black_hole(proxy: TcpProxy, echo: Echo) -> None:
    """A request sent into a black hole reaches the server when it ends, even if the client has gone: late,
    and followed by the end of the connection."""
    async with connection(proxy) as client:
        client.writer.write(b"a")
        await client.get(1)
        async with proxy.black_hole() as held:
            client.writer.write(b"late")
            client.writer.close()
            await within(held.arrived(4))
            await until(lambda: not proxy.connections)  # the client's end has reached the proxy
            assert not echo.ended.is_set()
        await within(echo.ended.wait())
        assert bytes(echo.received) == b"alate"


async def test_what_a_sender_sent_that_was_reset_is_lost(proxy: TcpProxy, echo: Echo) -> None:
    """If the client reset its connection, its withheld bytes are not delivered, since a kernel would not send
    them either."""
    async with connection(proxy) as client:
        await arrives(client, b"a")
        async with proxy.black_hole() as held:
            client.writer.write(b"lost")
            await within(held.arrived(4))
            reset(client.writer)
            await until(lambda: not proxy.connections)
        await within(echo.ended.wait())
        assert echo.resets == 1
        assert bytes(echo.received) == b"a"


@pytest.mark.parametrize("by_reset", [False, True], ids=["FIN", "RST"])
async def test_an_end_does_not_pass_a_black_hole(proxy: TcpProxy, echo: Echo, by_reset: bool) -> None:
    """When one peer closes, the other sees that when the black hole ends, not before, even if nothing else is
    withheld."""
    async with connection(proxy) as client:
        client.writer.write(b"a")
        await client.get(1)
        async with proxy.black_hole() as held:
            if by_reset:
                reset(client.writer)
            else:
                client.writer.close()
            await until(lambda: not proxy.connections)  # the end has reached the proxy
            async with connection(proxy) as another:  # anything that could pass would have passed by now
                another.writer.write(b"b")
                await within(held.arrived(1))
            assert not echo.ended.is_set()
        await within(echo.ended.wait())


async def test_a_full_black_hole_pushes_back(proxy: TcpProxy, echo: Echo) -> None:
    """The amount withheld is bounded: a sender that continues is blocked, as by a full window."""
    data = frame(bytes(32 << 20))
    async with connection(proxy) as client:
        async with proxy.black_hole() as held:
            writing = asyncio.create_task(write_all(client, data))
            await within(held.arrived(1 << 20))
            await turns(1000)  # in which all of it would have come
            assert held.bytes < len(data) // 4
            assert not writing.done()
            assert not echo.received
        assert await client.get(len(data)) == data
        await within(writing)


async def test_held_replies_come_late(proxy: TcpProxy, echo: Echo) -> None:
    """While replies are held requests reach the server; the replies are delivered when the fault ends."""
    async with connection(proxy) as client:
        async with proxy.black_hole(requests=False) as held:
            client.writer.write(b"write")
            await within(held.arrived(5))
            assert await echo.got(5) == b"write"
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
        assert await client.get(5) == b"write"


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_held_replies_are_lost_by_a_cut(proxy: TcpProxy, echo: Echo, reset: bool) -> None:
    """A cut while replies are held: the server handled the request and the client never learns that."""
    async with connection(proxy) as client:
        async with proxy.black_hole(requests=False) as held:
            client.writer.write(b"write")
            await within(held.arrived())
            await within(proxy.cut(reset=reset))
        assert bytes(echo.received) == b"write"
        if reset:
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            assert await client.rest() == b""


async def test_refused_connections_are_reset(proxy: TcpProxy, echo: Echo) -> None:
    """While refused, new connections are reset; open ones continue. Afterwards all is as before."""
    async with connection(proxy) as old:
        old.writer.write(b"1")
        await old.get(1)
        async with proxy.refuse():
            with pytest.raises(ConnectionResetError):
                async with connection(proxy) as client:
                    await client.rest()
            old.writer.write(b"2")
            assert await old.get(1) == b"2"
        assert proxy.accepted == 1
        async with connection(proxy) as client:
            client.writer.write(b"3")
            assert await client.get(1) == b"3"
    assert echo.accepted == 2


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_cut_ends_every_connection(proxy: TcpProxy, echo: Echo, reset: bool) -> None:
    """A cut ends the existing connections, with FIN or RST, on both sides; new ones are accepted."""
    async with connection(proxy) as first, connection(proxy) as second:
        for client in (first, second):
            client.writer.write(b"x")
            await client.get(1)
        await within(proxy.cut(reset=reset))
        assert proxy.connections == 0
        for client in (first, second):
            if reset:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
            else:
                assert await client.rest() == b""
        await within(echo.ended.wait())
        async with connection(proxy) as third:
            third.writer.write(b"y")
            assert await third.get(1) == b"y"


async def test_a_dead_target_resets_the_client() -> None:
    """A client of a proxy whose server is down is reset at once; when the server is back, it is served."""
    port = free_ports(1)[0]
    async with TcpProxy(f"{LOOPBACK}:{port}") as proxy:
        with pytest.raises(ConnectionResetError):
            async with connection(proxy) as client:
                await client.rest()
        async with await asyncio.start_server(lambda _, writer: writer.close(), LOOPBACK, port):
            async with connection(proxy) as client:
                assert await client.rest() == b""


async def test_leaving_closes_everything(echo: Echo) -> None:
    """Leaving with connections that are open, silent or stuck ends all of them, and leaves no task."""
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        async with TcpProxy(echo.address) as proxy:
            address = proxy.address
            used = await stack.enter_async_context(connection(proxy))
            used.writer.write(b"x")
            await used.get(1)
            hole = await stack.enter_async_context(proxy.black_hole())
            silent = await stack.enter_async_context(connection(proxy))
            silent.writer.write(b"y")
            await within(hole.arrived())
        assert proxy.connections == 0
        for client in (used, silent):
            assert await client.rest() == b""
        host, _, port = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
        await within(echo.ended.wait())
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


async def test_leaving_just_after_a_connection_was_accepted(echo: Echo) -> None:
    """Connections whose connection to the server has not begun are ended, too."""
    async with contextlib.AsyncExitStack() as stack:
        async with TcpProxy(echo.address) as proxy:
            client = await stack.enter_async_context(connection(proxy))
            await until(lambda: proxy.accepted > 0)
            await within(proxy.cut())
        assert await client.rest() == b""


async def test_an_address_needs_an_open_proxy() -> None:
    """A proxy that is not entered has no address, and raises an error that says so."""
    with pytest.raises(UsageStateError, match="no address before its block"):
        _ = TcpProxy("127.0.0.1:2181").address


def test_it_works_on_uvloop() -> None:
    """The faults work the same with uvloop: an end, a reset, a black hole, held replies."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with Echo() as echo, TcpProxy(echo.address) as proxy:
            await test_nothing_passes_a_black_hole(proxy, echo)
            async with connection(proxy) as client:
                client.writer.write(b"x")
                await client.get(1)
                await within(proxy.cut(reset=True))
                with pytest.raises(ConnectionResetError):
                    await client.rest()
        async with Echo() as echo, TcpProxy(echo.address) as proxy:
            await test_held_replies_come_late(proxy, echo)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    ("requests", "replies"), [(True, True), (True, False), (False, True)], ids=["both", "requests", "replies"]
)
async def test_a_delay_withholds_its_ways(proxy: TcpProxy, echo: Echo, requests: bool, replies: bool) -> None:
    """In the slow direction nothing passes early; the other direction is as fast as usual. What has not
    passed when the delay ends passes then."""
    async with connection(proxy) as client:
        await arrives(client, b"before")
        async with proxy.delay(3600, requests=requests, replies=replies):
            async with proxy.black_hole(replies=False) as hole:  # it reports what has arrived
                client.writer.write(b"late")
                await within(hole.arrived(4))
            if requests:
                echo._writers[0].write(b"unasked")
                if not replies:
                    assert await client.get(7) == b"unasked"
                await turns()
                assert bytes(echo.received) == b"before"
            else:
                assert await echo.got(10) == b"beforelate"
                await turns()
                assert client.reader._buffer == b""  # type: ignore[attr-defined]
        assert await client.get(11 if requests and replies else 4) in (b"late", b"unaskedlate")


async def test_a_delay_keeps_the_order(proxy: TcpProxy) -> None:
    """Delayed data arrives in order, including what was sent while other data was in transit; also with
    nested delays, and when the longer one ends first."""
    data = b"".join(b"%03d" % n for n in range(60))
    async with connection(proxy) as client, proxy.delay(0.005):
        for start in range(0, len(data), 3):
            client.writer.write(data[start : start + 3])
            if start == 60:
                async with proxy.delay(0.01):
                    client.writer.write(b"mid")
                    await turns()
            await turns()
        assert await client.get(len(data) + 3) == data[:63] + b"mid" + data[63:]


async def test_an_end_is_delayed_too(proxy: TcpProxy, echo: Echo) -> None:
    """The end of a connection is delayed, too: it comes after everything that was sent before."""
    async with proxy.delay(0.005), connection(proxy) as client:
        client.writer.write(b"bye")
        client.writer.close()
        await within(echo.ended.wait())
    assert bytes(echo.received) == b"bye"


async def test_a_half_open_connection_whose_server_has_gone(proxy: TcpProxy, echo: Echo) -> None:
    """The server sees the end. The client sees nothing, what it sends is lost, and in the end it is reset.
    New connections pass."""
    async with connection(proxy) as client:
        await arrives(client, b"before")
        async with proxy.half_open():
            await within(echo.ended.wait())
            client.writer.write(b"lost")
            async with connection(proxy) as another:
                await arrives(another, b"new")
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
            assert not client.reader.at_eof()
        with pytest.raises(ConnectionResetError):
            await client.rest()
    assert bytes(echo.received) == b"beforenew"


async def test_a_half_open_connection_whose_client_has_gone(proxy: TcpProxy, echo: Echo) -> None:
    """The client sees the end. The server sees nothing, what it sends is lost, and in the end it is reset.
    New connections pass."""
    async with connection(proxy) as client:
        await arrives(client, b"before")
        async with proxy.half_open(gone="client"):
            echo._writers[0].write(b"lost")
            assert await client.rest() == b""
            another = contextlib.AsyncExitStack()
            await arrives(await another.enter_async_context(connection(proxy)), b"new")
            assert not echo.ended.is_set()
        await within(echo.ended.wait())
        assert echo.resets == 1
        await another.aclose()
    assert bytes(echo.received) == b"beforenew"


async def test_who_is_not_told_is_not_held_up(proxy: TcpProxy, echo: Echo) -> None:
    """Everything that the remaining side sends is lost, and does not block it: neither what it was sending
    before, held up by a black hole, nor what it sends later."""
    data = bytes(32 << 20)
    async with connection(proxy) as client:
        await arrives(client, b"before")
        async with proxy.black_hole() as held:
            writing = asyncio.create_task(write_all(client, data))
            await within(held.arrived(1 << 20))
            await turns(1000)
            assert not writing.done()
            async with proxy.half_open():
                await within(writing)
                await within(write_all(client, data))
    assert bytes(echo.received) == b"before"


async def test_who_stays_half_open_may_go(proxy: TcpProxy) -> None:
    """The side that was not notified may close by itself; then there is nothing to reset, and nothing is
    left."""
    async with proxy.half_open(), connection(proxy) as later:
        await arrives(later, b"not half-open")
        async with proxy.half_open():
            later.writer.close()
            await until(lambda: not proxy.connections)


@pytest.mark.parametrize("step", [1, 1000], ids=["byte by byte", "whole"])
async def test_rewriting_what_a_client_says_first(echo: Echo, step: int) -> None:
    """The first bytes of each client are rewritten, once there are enough; what follows passes unchanged."""

    def rewrite(opening: bytes) -> tuple[bytes, int] | None:
        return (b"goodbye", 5) if len(opening) >= 5 else None

    data = b"hello, world, hello"
    async with TcpProxy(echo.address, rewrite_opening=rewrite) as proxy, connection(proxy) as client:
        for start in range(0, len(data), step):
            client.writer.write(data[start : start + step])
            await asyncio.sleep(0)
        assert await client.get(21) == b"goodbye, world, hello"


async def test_an_opening_that_stays_too_short(echo: Echo) -> None:
    """If a client closes before it has sent enough bytes to be rewritten, they pass unchanged."""
    async with TcpProxy(echo.address, rewrite_opening=lambda _: None) as proxy:
        async with connection(proxy) as client:
            client.writer.write(b"hel")
            client.writer.close()
            await within(echo.ended.wait())
    assert bytes(echo.received) == b"hel"


@pytest.mark.parametrize("target", ["", "localhost", "localhost:", "localhost:http", ":x"])
def test_a_target_that_is_none(target: str) -> None:
    """A target that is not host:port is refused, with an error that quotes it."""
    with pytest.raises(UsageValueError, match=r"host:port, as in \S+, not"):
        TcpProxy(target)


@pytest.mark.parametrize("later", range(6))
async def test_whoever_connects_as_it_ends_is_turned_away(later: int) -> None:
    """A connection that the loop has accepted in the turn in which the proxy ends is closed, too."""
    loop = asyncio.get_running_loop()
    async with TcpProxy(f"{LOOPBACK}:1") as proxy:
        host, _, port = proxy.address.rpartition(":")
        client = socket.create_connection((host, int(port)))
        for _ in range(later):
            await asyncio.sleep(0)
    gc.collect()  # a socket that was not closed warns when it is collected
    with client:
        client.setblocking(False)
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(30):
                assert await loop.sock_recv(client, 1) == b""


async def test_the_address_of_a_closed_proxy() -> None:
    """A proxy's address stays known after its block, for traffic that still mentions it while it closes."""
    async with TcpProxy("127.0.0.1:1") as proxy:
        address = proxy.address
    assert proxy.address == address
