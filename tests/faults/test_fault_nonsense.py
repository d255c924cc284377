"""Servers that send invalid answers: nothing hangs, and no such answer is used (S1, S7)."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import pytest
from fault_support import (
    Conversation,
    close_at_once,
    frame,
    granted,
    greeting_with,
    refuse_everything,
    reply,
    say_nothing,
    saying,
    speaking,
    states_of,
    within,
)

import corral
from corral import State
from corral.session.ensemble_probe import probe_zxid

T = 0.6
"""The requested timeout, so that attempts are short; these servers grant 2 s."""

HUGE = struct.pack(">i", 0x7FFFFFFF)
NEGATIVE = struct.pack(">i", -1)

HANDSHAKES = {
    "closes": close_at_once,
    "takes the request and closes": greeting_with(then_close=True),
    "says nothing": say_nothing,
    "half an answer, and silence": greeting_with(granted()[:20], then_close=False),
    "half an answer, and closes": greeting_with(granted()[:20], then_close=True),
    "a length of two gigabytes, and silence": greeting_with(HUGE, then_close=False),
    "a frame of two gigabytes": greeting_with(HUGE, bytes(100_000), then_close=False),
    "a negative length": greeting_with(NEGATIVE, then_close=False),
    "an empty frame": greeting_with(frame(b""), then_close=False),
    "a short frame": greeting_with(frame(b"too short"), then_close=False),
    "a password that is longer than the frame": greeting_with(
        frame(struct.pack(">iiqi", 0, 2000, 1, 1000)), then_close=False
    ),
    "a negative timeout": greeting_with(granted(timeout=-1), then_close=False),
    "no session": greeting_with(granted(session_id=0), then_close=False),
    "another protocol": greeting_with(b"HTTP/1.1 400 Bad Request\r\n\r\n", then_close=False),
    "another protocol, and closes": greeting_with(b"HTTP/1.1 400 Bad Request\r\n\r\n", then_close=True),
    "zeros": greeting_with(bytes(1000), then_close=False),
    "ones": greeting_with(b"\xff" * 1000, then_close=False),
}

by_handshake = pytest.mark.parametrize("server", HANDSHAKES.values(), ids=HANDSHAKES)


async def enter(hosts: str, connect_timeout: float) -> None:
    async with corral.connect(hosts, session_timeout=T, connect_timeout=connect_timeout):
        pass


@by_handshake
async def test_connecting_to_nonsense(server: Conversation) -> None:
    """S1, S7: whatever a server answers to a connect request, entering ends at its timeout, and the error has
    the outcome of the attempts."""
    async with speaking(server) as address:
        with pytest.raises(corral.ConnectTimeout, match=rf"connect_timeout=0\.4 s; {address}: \w+"):
            await within(enter(address, connect_timeout=0.4))


@by_handshake
async def test_nonsense_is_passed_over(server: Conversation) -> None:
    """S1: a server with invalid answers does not keep a client from a valid one, whatever the order."""
    async with speaking(server) as bad, speaking(refuse_everything) as good, asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(within(enter(f"{bad},{good}", connect_timeout=25.0)))


@by_handshake
async def test_a_visit_to_nonsense(server: Conversation) -> None:
    """S4: when a server with invalid answers is asked for its zxid, the result is an error, or that there was
    no session."""
    async with speaking(server) as address:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError):
            assert await within(probe_zxid(host, int(port), limit=0.4)) is None


REFUSAL = reply(1, -101)
"""The answer to the first request, if the client still reads it: the answer before must have ended the
connection."""

ANSWERS = {
    "an unknown number": saying(reply(99), REFUSAL),
    "a number that is not its turn": saying(reply(2, -101), REFUSAL),
    "a negative number that means nothing": saying(reply(-7), REFUSAL),
    "a length of two gigabytes, and silence": saying(HUGE),
    "a frame of two gigabytes": saying(HUGE, bytes(100_000)),
    "a negative length": saying(NEGATIVE, REFUSAL),
    "an empty frame": saying(frame(b""), REFUSAL),
    "a frame shorter than a header": saying(frame(b"short"), REFUSAL),
    "half an answer, and silence": saying(REFUSAL[:10]),
    "a notification that does not decode": saying(reply(-1, 0, b"\0\0"), REFUSAL),
    "a notification of a path without end": saying(reply(-1, 0, struct.pack(">iii", 1, 3, 1 << 20)), REFUSAL),
    "zeros": saying(bytes(1000), REFUSAL),
    "ones": saying(b"\xff" * 1000, REFUSAL),
    "silence": saying(),
}

by_answer = pytest.mark.parametrize("server", ANSWERS.values(), ids=ANSWERS)


@by_answer
async def test_read_answered_with_nonsense(server: Conversation) -> None:
    """S7: an invalid stream is dropped; a read on it is sent again, on the next connection."""
    async with speaking(server, refuse_everything) as address:
        async with corral.connect(address, session_timeout=T) as zk, states_of(zk) as states:
            session = zk.session_id
            with pytest.raises(corral.NoNode):
                await within(zk.get("/node"))
            assert zk.session_id == session
            assert states == [State.CONNECTED, State.SUSPENDED, State.CONNECTED]


@by_answer
async def test_write_answered_with_nonsense(server: Conversation) -> None:
    """S7, S2: a write on an invalid stream raises `ConnectionLoss`; the next one is answered."""
    async with speaking(server, refuse_everything) as address:
        async with corral.connect(address, session_timeout=T) as zk:
            with pytest.raises(corral.ConnectionLoss, match="delete '/node'"):
                await within(zk.delete("/node"))
            with pytest.raises(corral.NoNode):
                await within(zk.delete("/node"))


async def test_server_that_never_makes_sense() -> None:
    """S2, S7: a read on which two connections break fails, since it may be the cause."""
    async with speaking(ANSWERS["ones"]) as address:
        async with corral.connect(address, session_timeout=T) as zk:
            with pytest.raises(corral.ConnectionLoss, match="get '/node'"):
                await within(zk.get("/node"))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(reply(1, 0, b"\0\0\0\1"), "does not decode", id="cut short"),
        pytest.param(reply(1, 0, bytes(2000)), "over the limit of 1,024", id="over the limit"),
    ],
)
@pytest.mark.parametrize("writes", [False, True], ids=["read", "write"])
async def test_answer_that_cannot_be_used(answer: bytes, says: str, writes: bool) -> None:
    """S7: an answer that is too large or cannot be decoded fails its own request, which is not sent again;
    the connection is kept, and the next answer is used."""
    async with speaking(saying(answer, reply(2, -101)), close_at_once) as address:
        async with corral.connect(address, session_timeout=T, max_reply=1024) as zk:
            operation = zk.set("/node", b"") if writes else zk.get("/node")
            following = asyncio.gather(operation, zk.get("/other"), return_exceptions=True)
            unusable, refused = await within(following)
            assert isinstance(unusable, corral.ReplyError)
            assert isinstance(refused, corral.NoNode)
            assert says in str(unusable)
            assert zk.state is State.CONNECTED


async def test_server_that_trickles() -> None:
    """S1: an answer that arrives byte by byte is valid."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
        for byte in granted():
            writer.write(bytes([byte]))
            await writer.drain()
        await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
        for byte in reply(1, -101):
            writer.write(bytes([byte]))
            await writer.drain()
        await say_nothing(reader, writer)

    async with speaking(converse) as address, corral.connect(address, session_timeout=T) as zk:
        with pytest.raises(corral.NoNode):
            await within(zk.get("/node"))
