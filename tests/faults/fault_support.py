"""Helpers of the fault tests: sequences of states, and scripted servers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import corral
from corral import State
from support import PATIENCE

T = TypeVar("T")


async def within(awaitable: Awaitable[T]) -> T:
    """The result of an awaitable, with a time limit."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until_state(zk: corral.Client, *wanted: State) -> State:
    """Wait until a client is in one of some states."""
    async with asyncio.timeout(PATIENCE):
        async for state in zk.states():
            if state in wanted:
                return state
    raise AssertionError(f"{zk} never was {wanted}")


@contextlib.asynccontextmanager
async def states_of(zk: corral.Client) -> AsyncIterator[list[State]]:
    """All states of a client from now on, in order."""
    seen: list[State] = []

    async def follow() -> None:
        async for state in zk.states():
            seen.append(state)

    following = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        following.cancel()
        await asyncio.wait([following])


# Scripted servers

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SESSION_ID = 0x1234


@contextlib.asynccontextmanager
async def speaking(*conversations: Conversation) -> AsyncIterator[str]:
    """A server on a free port; yields its address. The n-th connection gets the n-th conversation, and later
    ones the last. When a conversation ends its connection is closed."""
    left = list(conversations)
    writers: set[asyncio.StreamWriter] = set()
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers.add(writer)
        talking.add(task)
        task.add_done_callback(talking.discard)
        converse = left.pop(0) if len(left) > 1 else left[0]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await converse(reader, writer)
        writer.close()
        writers.discard(writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()  # which ends its conversation
        if talking:
            await asyncio.wait(talking)
        await listening.wait_closed()


def frame(body: bytes) -> bytes:
    """A message, with its length."""
    return struct.pack(">i", len(body)) + body


def reply(xid: int, error: int = 0, body: bytes = b"", *, zxid: int = 1) -> bytes:
    """An answer to a request."""
    return frame(struct.pack(">iqi", xid, zxid, error) + body)


def granted(timeout: float = 2.0, session_id: int = SESSION_ID) -> bytes:
    """The answer of a server that accepts a connect request."""
    body = struct.pack(">iiqi16s?", 0, round(timeout * 1000), session_id, 16, bytes(16), False)
    return frame(body)


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next message from the client."""
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))


async def take_the_session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the connect request as a server does."""
    await read_frame(reader)
    writer.write(granted())


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read until the client closes the connection."""
    while await reader.read(1 << 16):
        pass


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the connection and close it."""


async def refuse_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A valid server without any node: it answers pings, and NoNode to everything else."""
    await take_the_session(reader, writer)
    while True:
        request = await read_frame(reader)
        xid, opcode = struct.unpack_from(">ii", request)
        writer.write(reply(xid, 0 if opcode in (11, -11) else -101))


def saying(*pieces: bytes) -> Conversation:
    """Accepts the session, answers the first request with these bytes, and then sends nothing more."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_the_session(reader, writer)
        await read_frame(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await say_nothing(reader, writer)

    return converse


def greeting_with(*pieces: bytes, then_close: bool) -> Conversation:
    """Answers the connect request with these bytes."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)
        for piece in pieces:
            writer.write(piece)
        if not then_close:
            await say_nothing(reader, writer)

    return converse
