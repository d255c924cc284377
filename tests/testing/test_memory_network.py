"""The network of a VirtualLoop behaves as TCP does under asyncio's own loop: each of these tests runs with
both."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
from collections.abc import Awaitable
from typing import Any, cast

import pytest
from loops import LOOPBACK, Recorder, both, pair, run, settle, this, virtual

from corral.errors import UsageValueError
from corral.testing.virtual.loop import VirtualLoop
from corral.testing.virtual.memory_network import WINDOW

# The network: TCP under asyncio is the reference


@both
async def test_what_is_written_comes_and_is_answered() -> None:
    """Bytes arrive in order, in both directions, and the end arrives after them."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(echo, LOOPBACK, 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for word in (b"one", b"two", b"three"):
            writer.write(word)
            assert await reader.readexactly(len(word)) == word
        writer.writelines([b"fo", b"ur"])
        writer.write_eof()
        assert await reader.read() == b"four"
        writer.close()
        await writer.wait_closed()


@both
async def test_nothing_happens_within_a_write() -> None:
    """The effect of a write, or of a close, at the other end comes in a later loop turn."""
    async with pair() as (client, server):
        client.transport.write(b"x")
        client.transport.close()
        assert server.events == ["made"]
        await server.saw("lost")
        assert server.events == ["made", "data", "eof", "lost"]
        assert client.events == ["made", "lost"]


@both
async def test_a_connection_is_made_before_anything_comes() -> None:
    """What a server sends first arrives after `connection_made`; the addresses of both ends are known."""

    class Greeter(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(b"hello")

    async with pair(server=Greeter()) as (client, server):
        await client.got(5)
        assert client.events == ["made", "data"]
        mine, theirs = client.transport.get_extra_info, server.transport.get_extra_info
        assert mine("peername") == theirs("sockname") == theirs("socket").getsockname()
        assert mine("sockname") == theirs("peername") == mine("socket").getsockname()
        assert mine("socket").getpeername() == mine("peername")
        assert mine("socket").fileno() not in (-1, theirs("socket").fileno())
    assert mine("socket").fileno() == theirs("socket").fileno() == -1


@both
async def test_a_reader_that_does_not_read_stops_the_writer() -> None:
    """The amount of data in transit is bounded: beyond it the writer is told to pause, and to resume once the
    data is read."""
    sent = os.urandom(1 << 23)  # more than a kernel buffers
    async with pair(server=Recorder(reads=False)) as (client, server):
        client.transport.set_write_buffer_limits(high=1 << 15, low=1 << 10)
        for start in range(0, len(sent), 1 << 12):
            client.transport.write(sent[start : start + (1 << 12)])
        await settle()
        assert client.events == ["made", "pause"]
        assert server.events == ["made"]
        assert client.transport.get_write_buffer_size() > 1 << 15
        server.transport.resume_reading()
        assert await server.got(len(sent)) == sent
        await client.saw("resume")


@both
async def test_closing_sends_what_was_written_first() -> None:
    """After `close` nothing more is read; the connection ends after the data that was written before."""
    sent = os.urandom(1 << 22)
    async with pair() as (client, server):
        client.transport.write(sent)
        client.transport.close()
        assert client.transport.is_closing()
        await server.saw("lost")
        assert bytes(server.received) == sent
        assert (client.error, server.error) == (None, None)
        assert server.events == ["made", "data", "eof", "lost"]


@both
async def test_aborting_loses_what_is_not_sent_yet() -> None:
    """`abort` closes at once, whatever is still buffered; the peer sees the end, without an error."""
    async with pair(server=Recorder(reads=False)) as (client, server):
        client.transport.write(bytes(1 << 23))
        await settle()
        client.transport.abort()
        await client.saw("lost")
        server.transport.resume_reading()
        await server.saw("lost")
        assert 0 < len(server.received) < 1 << 23
        assert (client.error, server.error) == (None, None)


@both
async def test_a_half_closed_connection_goes_on_the_other_way() -> None:
    """After a half-close the answer can still be received, if the other side keeps the connection open."""
    async with pair(server=Recorder(keeps_open=True)) as (client, server):
        client.transport.write(b"question")
        client.transport.write_eof()
        await server.saw("eof")
        assert not server.transport.is_closing()
        server.transport.write(b"answer")
        server.transport.close()
        await client.saw("lost")
        assert bytes(client.received) == b"answer"
        assert client.events == ["made", "data", "eof", "lost"]
        assert (client.error, server.error) == (None, None)


@both
async def test_an_end_closes_unless_it_is_kept_open() -> None:
    """Unless `eof_received` returns True, the transport closes by itself, after it has sent its data."""

    class LastWord(Recorder):
        def eof_received(self) -> bool:
            self.transport.write(b"bye")
            return super().eof_received()

    async with pair(server=LastWord()) as (client, server):
        client.transport.write_eof()
        await server.saw("lost")
        await client.saw("lost")
        assert bytes(client.received) == b"bye"
        assert (client.error, server.error) == (None, None)


@both
async def test_closing_with_something_unread_is_a_reset() -> None:
    """If a side closes with unread data, its peer gets a reset."""
    async with pair(server=Recorder(reads=False)) as (client, server):
        client.transport.write(b"never read")
        await settle()
        server.transport.abort()
        await client.saw("lost")
        assert isinstance(client.error, ConnectionResetError)
        assert server.error is None
        assert "eof" not in client.events


@both
async def test_closing_without_lingering_is_a_reset() -> None:
    """With SO_LINGER 0 the peer gets RST; data that arrived before it can still be read."""
    async with pair() as (client, server):
        client.transport.pause_reading()
        server.transport.write(b"last words")
        await settle()
        server.linger_not()
        server.transport.abort()
        await settle()
        assert client.events == ["made"]
        client.transport.resume_reading()
        await client.saw("lost")
        assert bytes(client.received) == b"last words"
        assert isinstance(client.error, ConnectionResetError)


@both
async def test_a_writer_to_one_who_has_closed_is_reset() -> None:
    """Data that arrives at a closed socket is answered with RST; after a FIN that is a broken pipe."""
    async with pair(Recorder(keeps_open=True)) as (client, server):
        server.transport.close()
        await client.saw("eof")
        client.transport.write(b"into the void")
        await settle()
        assert "lost" not in client.events
        client.transport.write(b"and again")
        await client.saw("lost")
        assert isinstance(client.error, BrokenPipeError)


@both
async def test_what_crosses_a_close_is_reset() -> None:
    """Data that crosses the peer's close is lost, and the sender is notified."""
    async with pair(Recorder(keeps_open=True)) as (client, server):
        client.transport.write(b"crossing")
        server.transport.abort()
        await settle()
        client.transport.write(b"is there anybody?")
        await settle()
        client.transport.write(b"no")
        await client.saw("lost")
        assert isinstance(client.error, ConnectionResetError | BrokenPipeError)


@both
async def test_a_paused_writer_hears_of_a_reset() -> None:
    """A transport that can neither send nor read is still notified of an RST."""
    async with pair(server=Recorder(reads=False)) as (client, server):
        client.transport.write(bytes(1 << 23))
        client.transport.pause_reading()
        await settle()
        server.transport.abort()
        await client.saw("lost")
        assert isinstance(client.error, ConnectionResetError)


@both
async def test_a_connection_that_was_reset_cannot_be_half_closed() -> None:
    """A side that has not noticed the reset yet gets an error when it half-closes."""
    async with pair() as (client, server):
        client.transport.pause_reading()
        server.linger_not()
        server.transport.abort()
        await settle()
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            client.transport.write_eof()


@both
async def test_a_paused_reader_does_not_hear_of_the_end() -> None:
    """The end of the stream comes after its data: neither is delivered while reading is paused."""
    async with pair() as (client, server):
        client.transport.pause_reading()
        assert not client.transport.is_reading()
        server.transport.write(b"data")
        server.transport.close()
        await server.saw("lost")
        await settle()
        assert client.events == ["made"]
        client.transport.resume_reading()
        await client.saw("lost")
        assert client.events == ["made", "data", "eof", "lost"]


@both
async def test_a_buffered_protocol_gets_no_more_than_its_buffer() -> None:
    """Each read fills a buffer that the protocol provides, in as many steps as necessary."""

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.sizes: list[int] = []
            self.received = bytearray()
            self.ended = asyncio.Event()
            self._buffer = bytearray(7)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self._buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.sizes.append(nbytes)
            self.received += self._buffer[:nbytes]

        def connection_lost(self, exc: Exception | None) -> None:
            self.ended.set()

    sent = os.urandom(1000)
    async with pair(Buffered()) as (client, server):
        server.transport.write(sent)
        server.transport.close()
        await client.ended.wait()
        assert bytes(client.received) == sent
        assert len(client.sizes) >= 1000 // 7
        assert 1 <= min(client.sizes) <= max(client.sizes) <= 7


@both
async def test_where_nobody_listens_a_connection_is_refused() -> None:
    """Before a server listens, and after it has closed, connecting raises `ConnectionRefusedError`, and
    nothing is left."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, LOOPBACK, 0, start_serving=False)
    address = server.sockets[0].getsockname()
    with pytest.raises(ConnectionRefusedError) as refused:
        await loop.create_connection(Recorder, *address)
    assert refused.value.errno == errno.ECONNREFUSED
    await server.start_serving()
    transport, _ = await loop.create_connection(Recorder, *address)
    await settle()
    server.close()
    assert server.sockets == ()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, *address)
    assert not transport.is_closing()  # closing a server does not close its connections
    transport.close()
    await settle()
    await server.wait_closed()


@both
async def test_what_a_server_has_not_accepted_is_reset_when_it_closes() -> None:
    """A connection that the server never accepted."""
    loop = asyncio.get_running_loop()
    accepted: list[Recorder] = []
    server = await loop.create_server(lambda: accepted.append(Recorder()), LOOPBACK, 0)  # type: ignore[arg-type, return-value]
    sock, client = server.sockets[0], Recorder()
    loop.remove_reader(sock.fileno())  # it listens, and does not accept
    await loop.create_connection(lambda: client, *sock.getsockname())
    server.close()
    await client.saw("lost")
    assert isinstance(client.error, ConnectionResetError)
    assert accepted == []


@both
async def test_a_port_is_taken_once() -> None:
    """Two servers cannot have the same address; with port 0 each gets a free port."""
    loop = asyncio.get_running_loop()
    one = await loop.create_server(Recorder, LOOPBACK, 0)
    two = await loop.create_server(Recorder, LOOPBACK, 0)
    port = one.sockets[0].getsockname()[1]
    assert 0 != port != two.sockets[0].getsockname()[1]
    for host in (LOOPBACK, "0.0.0.0"):
        with pytest.raises(OSError, match="bind on address") as taken:
            await loop.create_server(Recorder, host, port)
        assert taken.value.errno == errno.EADDRINUSE
    other = await loop.create_server(Recorder, "127.0.0.2", port)
    for server in (one, two, other):
        server.close()
        await server.wait_closed()
    with pytest.raises(TypeError):
        await loop.create_server(Recorder, LOOPBACK, port, ssl=cast(Any, True))
    again = await loop.create_server(Recorder, LOOPBACK, port)
    again.close()


@both
async def test_a_server_on_every_address_is_found_by_each() -> None:
    """A server that listens on every address, and a client that binds to a local address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    for host in (LOOPBACK, "127.0.0.7"):
        for source, sockname in ((None, LOOPBACK), (("127.0.0.3", 0), "127.0.0.3")):
            transport, _ = await loop.create_connection(Recorder, host, port, local_addr=source)
            assert transport.get_extra_info("peername") == (host, port)
            assert transport.get_extra_info("sockname")[0] == sockname
            transport.abort()
    await settle()
    server.close()


@both
async def test_a_connection_whose_making_is_cancelled_is_none() -> None:
    """At whatever loop turn connecting is cancelled, no transport is left, and the server sees at most a
    FIN."""
    loop = asyncio.get_running_loop()
    seen: list[Recorder] = []

    def accept() -> Recorder:
        seen.append(Recorder())
        return seen[-1]

    server = await loop.create_server(accept, LOOPBACK, 0)
    for turns in range(6):
        connecting = asyncio.ensure_future(loop.create_connection(Recorder, *server.sockets[0].getsockname()))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            transport, _ = await connecting
            transport.close()
    await settle()
    for recorder in seen:
        await recorder.saw("lost")
        assert recorder.error is None
    server.close()


# Names, and features of the network in memory only


@virtual
async def test_a_name_has_the_addresses_it_was_given() -> None:
    """`hosts` is the name service: a name may have several addresses, tried in order; other names are not
    found."""
    loop = this()
    loop.hosts["zk1"] = ["10.0.0.1", "127.9.8.7", "::1"]
    infos = await loop.getaddrinfo("zk1", 2181, type=socket.SOCK_STREAM)
    assert [info[4][:2] for info in infos] == [("10.0.0.1", 2181), ("127.9.8.7", 2181), ("::1", 2181)]
    loop.hosts["one"] = "10.0.0.9"
    assert [info[4] for info in await loop.getaddrinfo("one", 7)] == [("10.0.0.9", 7)]
    assert [info[4][0] for info in await loop.getaddrinfo("zk1", 1, family=socket.AF_INET6)] == ["::1"]
    with pytest.raises(
        socket.gaierror, match=r"'zk2' is not known in this VirtualLoop; add it to loop\.hosts"
    ):
        await loop.getaddrinfo("zk2", 2181)
    server = await loop.create_server(Recorder, "127.9.8.7", 2181)
    transport, _ = await loop.create_connection(Recorder, "zk1", 2181)
    assert transport.get_extra_info("peername") == ("127.9.8.7", 2181)
    transport.close()
    server.close()
    await settle()


@virtual
async def test_localhost_is_both_loopback_addresses() -> None:
    """A server on "localhost" is reachable by name and by each address, IPv4 and IPv6, at one port."""
    loop = this()
    server = await loop.create_server(Recorder, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    for host in ("localhost", LOOPBACK, "::1", "0:0:0:0:0:0:0:1"):
        transport, _ = await loop.create_connection(Recorder, host, port)
        assert transport.get_extra_info("peername")[1] == port
        transport.close()
    server.close()
    await settle()


@virtual
async def test_a_server_without_a_host_is_at_every_address() -> None:
    """A server without a host is reachable by IPv4 and IPv6. A free port is one that nobody has requested by
    number."""
    loop = this()
    server = await loop.create_server(Recorder, None, 0)
    port = server.sockets[0].getsockname()[1]
    for host in ("10.1.2.3", "fd00::7"):
        transport, _ = await loop.create_connection(Recorder, host, port)
        assert transport.get_extra_info("sockname")[0] == host
        transport.close()
    with_number = await loop.create_server(Recorder, LOOPBACK, port + 3)  # two were used by the clients
    without = await loop.create_server(Recorder, LOOPBACK, 0)
    assert without.sockets[0].getsockname()[1] == port + 4
    for each in (server, with_number, without):
        each.close()
    await settle()


@virtual
async def test_so_many_bytes_are_under_way_and_no_more() -> None:
    """Unread data is sent up to the window size; the rest stays with the writer."""
    async with pair(server=Recorder(reads=False)) as (client, _):
        client.transport.write(bytes(1 << 20))
        assert client.transport.get_write_buffer_size() == (1 << 20) - WINDOW
        await settle()
        assert client.transport.get_write_buffer_size() == (1 << 20) - WINDOW


@virtual
async def test_where_every_address_refuses_all_are_named() -> None:
    """If every address of a name refuses, asyncio's own error lists all of them."""
    loop = this()
    with pytest.raises(OSError, match=r"Multiple exceptions: .*127\.0\.0\.1.*, .*::1"):
        await loop.create_connection(Recorder, "localhost", 1)


@virtual
async def test_there_is_no_real_network() -> None:
    """Functions that need an operating system's socket raise at once."""
    loop = this()
    with socket.socket() as sock:
        sock.setblocking(False)
        refused: list[Awaitable[object]] = [
            loop.sock_connect(sock, (LOOPBACK, 1)),
            loop.sock_recv(sock, 1),
            loop.sock_sendall(sock, b"x"),
            loop.create_connection(Recorder, sock=cast(None, sock)),
            loop.create_server(Recorder, sock=cast(None, sock)),
            loop.create_unix_server(Recorder, "/nowhere"),
        ]
        for each in refused:
            with pytest.raises(
                NotImplementedError, match="VirtualLoop has no real network: connect and listen"
            ):
                await each


def test_a_latency_is_how_long_a_piece_is_under_way() -> None:
    """A handshake and an exchange take a round trip each, and order is kept."""

    async def main() -> None:
        loop = this()
        async with pair() as (client, server):
            assert loop.time() == 1000 + 2 * 0.25
            client.transport.write(b"a")
            await server.got(1)
            assert loop.time() == 1000 + 3 * 0.25
            server.transport.close()
            await client.saw("lost")
            assert loop.time() == 1000 + 4 * 0.25

    run(main(), functools.partial(VirtualLoop, latency=0.25))


def test_a_fragmented_stream_is_cut_anywhere() -> None:
    """With ``fragment=1`` a reader gets single bytes; otherwise at most that many at a time, varying with the
    seed."""

    def sizes(fragment: int, seed: int) -> list[int]:
        found: list[int] = []

        class Sizes(Recorder):
            def data_received(self, data: bytes) -> None:
                found.append(len(data))
                super().data_received(data)

        async def main() -> None:
            async with pair(server=Sizes()) as (client, server):
                client.transport.write(bytes(300))
                await server.got(300)

        run(main(), functools.partial(VirtualLoop, fragment=fragment, seed=seed))
        return found

    assert sizes(1, 0) == [1] * 300
    assert set(sizes(10, 0)) == set(range(1, 11))
    assert sizes(10, 0) == sizes(10, 0) != sizes(10, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latency": -1.0}, "latency=-1.0: give seconds, 0 or more"),
        ({"latency": (2.0, 1.0)}, r"latency=\(2.0, 1.0\)"),
        ({"latency": float("nan")}, "latency=nan"),
        ({"fragment": 0}, "fragment=0: a read gets at least 1 byte"),
    ],
)
def test_a_loop_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    """The error has the value, the rule and the remedy."""
    with pytest.raises(UsageValueError, match=said):
        VirtualLoop(**options)
