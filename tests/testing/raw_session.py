"""A ZooKeeper session in thirty lines, with hand-packed frames: these tests need no client, least of all
ours."""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Self

CREATE, EXISTS = 1, 3
NO_NODE = -101
TIMEOUT = 10.0


class RawSession:
    """One session on one connection, with one request at a time."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._xid = 0

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            await self._exchange(struct.pack(">iqiqi16s?", 0, 0, 10_000, 0, 16, bytes(16), False))
        except BaseException:
            self._writer.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def create(self, path: str) -> int:
        """Create an empty persistent node; returns the error code."""
        acl = struct.pack(">iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
        return await self._request(CREATE, _string(path) + _string("") + acl + struct.pack(">i", 0))

    async def exists(self, path: str) -> int:
        return await self._request(EXISTS, _string(path) + b"\0")

    async def read_end(self) -> bytes:
        """Wait for the end of the connection; returns what was received before."""
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.read()

    async def _request(self, opcode: int, body: bytes) -> int:
        self._xid += 1
        reply = await self._exchange(struct.pack(">ii", self._xid, opcode) + body)
        xid, _, error = struct.unpack_from(">iqi", reply)
        assert xid == self._xid
        return int(error)

    async def _exchange(self, body: bytes) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            self._writer.write(struct.pack(">i", len(body)) + body)
            length = int.from_bytes(await self._reader.readexactly(4))
            return await self._reader.readexactly(length)


def _string(value: str) -> bytes:
    return struct.pack(">i", len(value)) + value.encode()
