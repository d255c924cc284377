"""A relay in front of a real server that changes answers and invents events."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable

from corral.wire import messages

Lie = Callable[[int, bytes, int, bytes], tuple[int, bytes]]
"""Gets an operation's opcode, the body of its request, and the code and body of the answer; returns the code
and body to answer instead."""


def truth(opcode: int, request: bytes, code: int, body: bytes) -> tuple[int, bytes]:
    """The answer is not changed."""
    return code, body


def _frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


async def _read(reader: asyncio.StreamReader) -> bytes:
    [length] = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


class Liar:
    """A relay with a function that replaces answers, which a test may exchange; `address` is where it
    listens."""

    def __init__(self, target: str) -> None:
        self.lie: Lie = truth
        self.address = ""
        self.asked = 0
        """How many requests for data, existence or children were received."""
        self._target = target
        self._clients: list[asyncio.StreamWriter] = []

    def tell(self, change: int, path: str) -> None:
        """Send an event to all clients."""
        header = messages.REPLY_HEADER.pack(messages.NOTIFICATION_XID, -1, 0)
        for client in self._clients:
            client.write(_frame(header + messages.WATCH_EVENT.encode(change, 3, path)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        host, _, port = self._target.rpartition(":")
        try:
            to_read, to_write = await asyncio.open_connection(host, int(port))
        except BaseException:
            writer.close()
            raise
        self._clients.append(writer)
        asked: dict[int, tuple[int, bytes]] = {}

        async def pass_requests() -> None:
            to_write.write(_frame(await _read(reader)))  # the connect request
            while True:
                frame = await _read(reader)
                xid, opcode = struct.unpack_from(">ii", frame)
                asked[xid] = opcode, frame[8:]
                self.asked += opcode in _READS
                to_write.write(_frame(frame))

        async def pass_answers() -> None:
            writer.write(_frame(await _read(to_read)))
            while True:
                frame = await _read(to_read)
                xid, zxid, code = messages.REPLY_HEADER.unpack_from(frame)
                body = frame[messages.REPLY_HEADER.size :]
                if xid > 0:
                    code, body = self.lie(*asked.pop(xid), code, body)
                writer.write(_frame(messages.REPLY_HEADER.pack(xid, zxid, code) + body))

        directions = [asyncio.create_task(pass_requests()), asyncio.create_task(pass_answers())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.close()
            to_write.close()
            for each in directions:
                each.cancel()
            await asyncio.gather(*directions, return_exceptions=True)


_READS = {
    op.opcode
    for op in (messages.GET, messages.EXISTS, messages.CHILDREN, messages.CHILDREN2, messages.MULTI_READ)
}


@contextlib.asynccontextmanager
async def lying(target: str) -> AsyncIterator[Liar]:
    """A relay in front of the server at `target`."""
    liar = Liar(target)
    connections: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(liar.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    liar.address = f"127.0.0.1:{port}"
    try:
        yield liar
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
