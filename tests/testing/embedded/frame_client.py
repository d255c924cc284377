"""A client of a server's port, frame by frame: it says what a test wants said, and has no manners of its own."""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Any, NamedTuple, Self

from corral.types import OPEN_ACL
from corral.wire import messages
from corral.wire.messages import ConnectReply, Operation

PATIENCE = 30.0
"""Seconds after which a wait has failed; never a measure of how fast something is."""
EPHEMERAL = 1


class Reply(NamedTuple):
    """An answer, not decoded."""

    xid: int
    zxid: int
    error: int
    body: bytes


class FrameClient:
    """One connection. ``async with`` opens it; leaving closes it without a word."""

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
        await asyncio.sleep(0)  # in which the transport goes

    def cut(self) -> None:
        """Be gone."""
        self.writer.transport.abort()

    async def begin(
        self, timeout: float = 4.0, session: ConnectReply | None = None, zxid: int = 0
    ) -> ConnectReply | None:
        """Ask for a new session, or for one that there was; None if the connection is closed instead."""
        known = (session.session_id, session.password) if session is not None else (0, bytes(16))
        self.send(messages.encode_connect(zxid, timeout, *known, False))
        frame = await self.frame()
        return None if frame is None else messages.decode_connect_reply(frame, 0, len(frame))

    def send(self, *frames: bytes) -> None:
        """Send frames in one write; their lengths are put before them. Nothing, if the connection is closed."""
        if not self.writer.is_closing():
            self.writer.write(b"".join(struct.pack(">i", len(frame)) + frame for frame in frames))

    def request(self, operation: Operation, *fields: Any) -> bytes:
        """A request's frame, with the next xid."""
        self.xid += 1
        return struct.pack(">ii", self.xid, operation.opcode) + operation.request.encode(*fields)

    async def frame(self) -> bytes | None:
        """The next frame; None at the end of the connection, in whatever way it ends."""
        async with asyncio.timeout(PATIENCE):
            try:
                length = int.from_bytes(await self.reader.readexactly(4))
                return await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def reply(self) -> Reply | None:
        """The next frame, as an answer."""
        frame = await self.frame()
        return None if frame is None else Reply(*struct.unpack_from(">iqi", frame), frame[16:])

    async def ask(self, operation: Operation, *fields: Any) -> int:
        """Send a request and wait for the answer, its error code."""
        self.send(self.request(operation, *fields))
        reply = await self.reply()
        assert reply is not None, "the connection was closed"
        assert reply.xid == self.xid
        return reply.error

    async def create(self, path: str, data: bytes = b"", flags: int = 0) -> int:
        """Create a node; the error code."""
        return await self.ask(messages.CREATE, path, data, list(OPEN_ACL), flags)

    async def exists(self, path: str) -> bool:
        """Whether there is a node."""
        return await self.ask(messages.EXISTS, path, False) == 0

    async def rest(self) -> bytes:
        """All that comes until the connection ends."""
        came = bytearray()
        async with asyncio.timeout(PATIENCE):
            try:
                while piece := await self.reader.read(1 << 20):
                    came += piece
            except ConnectionError:
                pass
        return bytes(came)


async def is_refused(address: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.transport.abort()
    await asyncio.sleep(0)
    return False
