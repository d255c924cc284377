"""A client of a server's port that exchanges single frames. It sends exactly what a test passes to it, valid
or not."""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Any, NamedTuple, Self

from corral import acl
from corral.wire import messages
from corral.wire.messages import ConnectReply, Operation

PATIENCE = 30.0
"""A wait that takes longer than this many seconds has failed. It does not measure speed."""
EPHEMERAL = 1


class Reply(NamedTuple):
    """An answer, not decoded."""

    xid: int
    zxid: int
    error: int
    body: bytes


class FrameClient:
    """One connection. ``async with`` opens it; leaving closes it without a close request."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.xid = 0

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        await asyncio.sleep(0)  # in this turn the transport closes

    def cut(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()

    async def begin(
        self, timeout: float = 4.0, session: ConnectReply | None = None, zxid: int = 0
    ) -> ConnectReply | None:
        """Request a new session, or resume one; None if the connection is closed instead."""
        known = (session.session_id, session.password) if session is not None else (0, bytes(16))
        self.send(messages.encode_connect(zxid, timeout, *known, False))
        frame = await self.frame()
        return None if frame is None else messages.decode_connect_reply(frame, 0, len(frame))

    def send(self, *frames: bytes) -> None:
        """Send frames in one write, each with its length in front. Does nothing if the connection is
        closed."""
        if not self.writer.is_closing():
            self.writer.write(b"".join(struct.pack(">i", len(frame)) + frame for frame in frames))

    def request(self, operation: Operation, *fields: Any) -> bytes:
        """A request's frame, with the next xid."""
        self.xid += 1
        return struct.pack(">ii", self.xid, operation.opcode) + operation.request.encode(*fields)

    async def frame(self) -> bytes | None:
        """The next frame; None at the end of the connection, however it ends."""
        async with asyncio.timeout(PATIENCE):
            try:
                length = int.from_bytes(await self.reader.readexactly(4))
                return await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def reply(self) -> Reply | None:
        """The next frame, decoded as an answer."""
        frame = await self.frame()
        return None if frame is None else Reply(*struct.unpack_from(">iqi", frame), frame[16:])

    async def ask(self, operation: Operation, *fields: Any) -> int:
        """Send a request and wait for the answer; returns its error code."""
        self.send(self.request(operation, *fields))
        reply = await self.reply()
        assert reply is not None, "the connection was closed"
        assert reply.xid == self.xid
        return reply.error

    async def create(self, path: str, data: bytes = b"", flags: int = 0) -> int:
        """Create a node; returns the error code."""
        return await self.ask(messages.CREATE, path, data, list(acl.OPEN), flags)

    async def exists(self, path: str) -> bool:
        """Whether a node exists."""
        return await self.ask(messages.EXISTS, path, False) == 0

    async def rest(self) -> bytes:
        """Everything received until the connection ends."""
        came = bytearray()
        async with asyncio.timeout(PATIENCE):
            try:
                while piece := await self.reader.read(1 << 20):
                    came += piece
            except ConnectionError:
                pass
        return bytes(came)


async def is_refused(address: str) -> bool:
    """Whether connections to this address are refused."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.transport.abort()
    await asyncio.sleep(0)
    return False
