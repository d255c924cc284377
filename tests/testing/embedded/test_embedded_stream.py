"""EmbeddedServer: what clients send, in any pieces, valid or not, with real sockets and in memory."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest
from frame_client import EPHEMERAL, FrameClient

import corral
from corral.testing import EmbeddedServer, FaultProxy, VirtualLoop, committed
from corral.wire import messages as m
from corral.wire.framing import DEFAULT_MAX_REQUEST

VIRTUAL_TOO = True

LIMIT = 5000
CONNECT = m.encode_connect(0, 4.0, 0, bytes(16), False)


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """A server that accepts small frames only."""
    async with EmbeddedServer(jute_maxbuffer=LIMIT) as own:
        yield own


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[FrameClient]:
    """A session."""
    async with FrameClient(server.address) as own:
        await own.begin()
        yield own


@pytest.fixture
async def bystander(server: EmbeddedServer) -> AsyncIterator[FrameClient]:
    """A correct client, which must be served as usual when the test is over."""
    async with FrameClient(server.address) as own:
        await own.begin(timeout=20.0)  # a test that keeps the processor busy must not end this session
        assert await own.create("/bystander", flags=EPHEMERAL) == 0
        yield own
        assert await own.exists("/bystander")


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


# Pieces


async def test_requests_byte_by_byte(server: EmbeddedServer) -> None:
    """It makes no difference in how many pieces a stream arrives."""
    async with FrameClient(server.address) as client:
        stream = framed(CONNECT, client.request(m.EXISTS, "/", False), client.request(m.GET, "/none", False))
        for number in range(len(stream)):
            client.writer.write(stream[number : number + 1])
            await asyncio.sleep(0)
        assert await client.frame() is not None
        replies = [await client.reply(), await client.reply()]
        assert [reply and (reply.xid, reply.error) for reply in replies] == [(1, 0), (2, -101)]


async def test_many_requests_in_one_piece(server: EmbeddedServer) -> None:
    """Requests may follow the connect request in the same piece; all are answered in order."""
    async with FrameClient(server.address) as client:
        client.send(CONNECT, *(client.request(m.EXISTS, "/", False) for _ in range(3000)))
        assert await client.frame() is not None
        xids = [reply.xid for _ in range(3000) if (reply := await client.reply())]
        assert xids == list(range(1, 3001))


async def test_the_largest_frame_passes(client: FrameClient) -> None:
    """A frame of exactly `jute_maxbuffer` bytes is served."""
    empty = len(client.request(m.SET, "/a", b"", -1))
    assert await client.create("/a") == 0
    assert await client.ask(m.SET, "/a", bytes(LIMIT - empty), -1) == 0


# Invalid frames


@pytest.mark.parametrize(
    "nonsense",
    [
        struct.pack(">i", -1),
        struct.pack(">i", -(2**31)),
        struct.pack(">i", 2**31 - 1) + bytes(100),
        struct.pack(">i", LIMIT + 1) + bytes(LIMIT + 1),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS hello
        framed(b""),
        framed(b"short"),
    ],
    ids=["-1", "least", "largest", "over the limit", "http", "tls", "empty", "short"],
)
@pytest.mark.parametrize("when", ["at first", "later"])
async def test_what_is_no_frame_closes_the_connection(
    server: EmbeddedServer, bystander: FrameClient, nonsense: bytes, when: str
) -> None:
    """An invalid frame closes the connection without an answer to it, after the answers to earlier requests;
    the session stays."""
    async with FrameClient(server.address) as client:
        session = await client.begin() if when == "later" else None
        first = framed(client.request(m.SYNC, "/")) if session else b""
        client.writer.write(first + nonsense)
        assert len(await client.rest()) == (4 + 16 + 5 if session else 0)
    if session is not None:
        async with FrameClient(server.address) as client:
            assert await client.begin(session=session) == session


@pytest.mark.parametrize("when", ["at first", "later"])
@pytest.mark.parametrize("length", [0, -1, -(2**31), DEFAULT_MAX_REQUEST + 1, 2**31 - 1])
async def test_a_length_alone_closes_the_connection(server_address: str, length: int, when: str) -> None:
    """A length that is negative, zero or over the limit closes the connection, before any further byte
    arrives. A real server does the same. The session stays."""
    async with FrameClient(server_address) as client:
        session = await client.begin() if when == "later" else None
        client.writer.write(struct.pack(">i", length))
        assert await client.rest() == b""
    if session is not None:
        async with FrameClient(server_address) as client:
            assert await client.begin(session=session) == session


async def test_garbage_behind_the_end_of_a_session_is_not_read(
    server: EmbeddedServer, client: FrameClient, bystander: FrameClient
) -> None:
    """Bytes after a close request are ignored."""
    client.writer.write(framed(client.request(m.CLOSE)) + b"\xff" * 10_000)
    assert len(await client.rest()) in (0, 4 + 16)  # a reset may overtake the answer
    assert len(server.zookeeper.sessions) == 1


# Ends of connections


async def test_a_connection_lost_within_a_frame(server: EmbeddedServer, bystander: FrameClient) -> None:
    """An incomplete request is not handled, and the session can be resumed."""
    async with FrameClient(server.address) as client:
        session = await client.begin()
        client.writer.write(framed(client.request(m.DELETE, "/bystander", -1))[:-1])
        await client.writer.drain()
        client.writer.close()
        await client.writer.wait_closed()
    async with FrameClient(server.address) as client:
        assert await client.begin(session=session) == session
        assert await client.exists("/bystander")


async def test_a_client_that_half_closes_is_answered_and_gone(client: FrameClient) -> None:
    """If a client half-closes, its earlier requests are answered, then the connection ends, as with a real
    server."""
    client.send(client.request(m.SYNC, "/"), client.request(m.SYNC, "/"))
    client.writer.write_eof()
    assert len(await client.rest()) == 2 * (4 + 16 + 5)


async def test_a_client_that_does_not_read(server: EmbeddedServer, bystander: FrameClient) -> None:
    """The server stops reading from a client whose answers pile up. When the client reads, it gets all of
    them, in order."""
    async with FrameClient(server.address) as client:
        await client.begin()
        await client.create("/large", bytes(4000))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        link = list(server.zookeeper.connections)[-1]
        client.send(*(client.request(m.GET, "/large", False) for _ in range(20_000)))
        received = 0
        while received <= 2 or link.packets_received != received:  # two are from before
            received = link.packets_received
            assert await bystander.exists("/bystander")  # it is served meanwhile
        assert received < 10_000
        process = server._process
        assert process is not None
        held = sum(
            each._transport.get_write_buffer_size() for each in process._connections if each._transport
        )
        assert held < 1_000_000  # of 80 MB
        assert [each._transport.is_reading() for each in process._connections if each._transport] == [
            True,
            False,
        ]
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for xid in range(2, 20_002):
            reply = await client.reply()
            assert reply is not None
            assert (reply.xid, reply.error) == (xid, 0)


# Four letter words


@pytest.mark.parametrize(
    "word", [b"ruok", b"srvr", b"stat", b"mntr", b"conf", b"cons", b"dump", b"wchs", b"isro"]
)
@pytest.mark.parametrize("pieces", [1, 4], ids=["whole", "byte by byte"])
async def test_words_are_answered(
    server: EmbeddedServer, client: FrameClient, word: bytes, pieces: int
) -> None:
    """A four letter word is answered with text, then the connection is closed."""
    async with FrameClient(server.address) as asking:
        for number in range(pieces):
            asking.writer.write(word[number * 4 // pieces : (number + 1) * 4 // pieces])
            await asyncio.sleep(0)
        answer = (await asking.rest()).decode()
    assert answer
    if word in (b"ruok", b"isro", b"conf"):  # the others contain counters that may change
        assert answer == await server.four_letter_word(word.decode())


@pytest.mark.parametrize("word", [b"ruok\n", b"ruok\r\n", b"ruok" + bytes(1000)])
async def test_a_word_with_something_behind_it(server: EmbeddedServer, word: bytes) -> None:
    """A word with a newline behind it, as from `echo ruok | nc`, is answered."""
    async with FrameClient(server.address) as asking:
        asking.writer.write(word)
        assert await asking.rest() == b"imok"


async def test_a_word_and_a_half_close(server: EmbeddedServer) -> None:
    """A word followed by a half-close, as from `nc -N`, is answered."""
    async with FrameClient(server.address) as asking:
        asking.writer.write(b"ruok")
        asking.writer.write_eof()
        assert await asking.rest() == b"imok"


async def test_words_that_are_none_close_the_connection(server: EmbeddedServer) -> None:
    """Unknown words close the connection without an answer, and without waiting for more; words that are
    disabled are answered with that."""
    for word, answer in ((b"what", b""), (b"what\n", b""), (b"stmk", b"stmk is not executed because")):
        async with FrameClient(server.address) as asking:
            asking.writer.write(word)
            assert (await asking.rest())[:28] == answer


async def test_a_word_in_a_session_is_a_length(client: FrameClient) -> None:
    """A word is recognized only at the start of a connection; later it is read as a length."""
    client.writer.write(b"ruok" + bytes(100))
    assert await client.rest() == b""


# Client, proxy and server in one loop


async def test_a_client_a_proxy_and_a_server_in_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corral client is served through a proxy that breaks its connection; in a VirtualLoop this takes no
    socket."""
    if isinstance(asyncio.get_running_loop(), VirtualLoop):
        monkeypatch.setattr("socket.socket.__init__", None)
    async with EmbeddedServer() as server, FaultProxy(server.address) as proxy:
        async with corral.connect(proxy.address, session_timeout=4) as zk:
            async with zk.lock("/locks/one") as held:
                async with proxy.cut_at(committed("create")):
                    with pytest.raises(corral.ConnectionLoss):
                        await zk.create("/unknown")
                assert held.is_valid
            assert await zk.exists("/unknown")
            assert proxy.accepted == 2
        assert len(server.zookeeper.sessions) == 0
