"""A server that answers as ClickHouse Keeper does, where that differs from ZooKeeper; by Keeper's sources, since
none was run.

It is a relay in front of an embedded server. It resumes no session, gives sessions no password, ends the
connection without an answer at a close and at an operation that it does not know, leaves the body of
addWatch's answer out, and rejects connections while it has no leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

from corral.testing import EmbeddedServer
from corral.wire import messages
from corral.wire.messages import Operation

REJECTED = struct.pack(">iiqi16s", 42, 10_000, -1, 16, bytes(16))
"""The answer to a connect request while there is no leader."""


class Keeper:
    """One server at an address, in front of an embedded one. It does not know the operations of `lacks`."""

    def __init__(self, server: EmbeddedServer, lacks: frozenset[Operation] = frozenset()) -> None:
        self.has_leader = True
        self.connects = 0
        self._server = server
        self._ending = {operation.opcode for operation in lacks} | {messages.CLOSE.opcode}
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[Keeper]:
        """Listen at an address."""

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        async with await asyncio.start_server(accepted, host, port):
            try:
                yield self
            finally:
                await self.break_connections()

    async def break_connections(self) -> None:
        """End all connections; their sessions stay until they expire."""
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            asked = messages.decode_connect(await _frame(reader), 0, 44)
            self.connects += 1
            if not self.has_leader:
                writer.write(_framed(REJECTED))
                return
            host, _, port = self._server.address.rpartition(":")
            to_read, to_write = await asyncio.open_connection(host, int(port))
            with contextlib.closing(to_write):
                to_write.write(_framed(messages.encode_connect(0, asked.timeout, 0, bytes(16))))
                granted = messages.decode_connect_reply(await _frame(to_read), 0, 36)
                answer = messages.encode_connect_reply(granted.timeout, granted.session_id, bytes(16))
                writer.write(_framed(answer[:-1]))
                opcodes: dict[int, int] = {}
                answers = asyncio.create_task(self._pass_answers(to_read, writer, opcodes))
                try:
                    async for frame in self._requests(reader, opcodes):
                        to_write.write(_framed(frame))
                    if opcodes.get(0) == messages.CLOSE.opcode:
                        to_write.write(_framed(struct.pack(">ii", 0, messages.CLOSE.opcode)))
                        await asyncio.wait([answers])
                finally:
                    answers.cancel()
                    await asyncio.gather(answers, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, opcodes: dict[int, int]) -> AsyncIterator[bytes]:
        while True:
            frame = await _frame(reader)
            xid, opcode = struct.unpack_from(">ii", frame)
            if opcode in self._ending:
                opcodes[0] = opcode
                return
            opcodes[xid] = opcode
            yield frame

    @staticmethod
    async def _pass_answers(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opcodes: dict[int, int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            (xid,) = struct.unpack_from(">i", frame)
            if opcodes.get(xid) == messages.CLOSE.opcode:
                continue
            if opcodes.get(xid) == messages.ADD_WATCH.opcode:
                frame = frame[: messages.REPLY_HEADER.size]
            writer.write(_framed(frame))


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body
