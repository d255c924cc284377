"""Opens, or resumes, a session and closes it at once, and returns how far the ensemble is.

Resuming ends another client's session on any server, given its id and password. That client sees what it sees
when its session expires: the connection closes, the ephemerals are deleted, and the next server does not know
the session.
"""

from __future__ import annotations

import asyncio
import struct

from corral.wire import messages
from corral.wire.compile import DecodeError

from .hosts import Address
from .tls import Tls, open_connection

__all__ = ["LIMIT", "probe_zxid"]

LIMIT = 10.0
"""Seconds for all of it; a healthy server takes milliseconds."""

_TIMEOUT = 10.0
"""The requested session timeout in seconds; the session does not live long enough to need it."""

_LONGEST_ANSWER = 4096
"""Bytes; the answers have fewer than a hundred."""


async def probe_zxid(
    host: str,
    port: int,
    session_id: int = 0,
    password: bytes = bytes(16),
    *,
    limit: float = LIMIT,
    tls: Tls | None = None,
    server_name: str = "",
) -> int | None:
    """Close a session on the server at an address: a new one, or the one with `session_id` and `password`;
    with `tls`, `server_name` is what its certificate must be for.

    Returns the zxid of the session's end, or None if the session was over already.

    Raises `OSError` (of which `TimeoutError` is one) if the server cannot be reached, closes the connection
    without an answer, sends an invalid one, or does not answer within `limit` seconds. On cancel the session
    may have been closed.
    """
    async with asyncio.timeout(limit):
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await open_connection(protocol, Address(host, port), tls, server_name)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        try:
            connect = messages.encode_connect(0, _TIMEOUT, session_id, password)
            writer.write(len(connect).to_bytes(4) + connect)
            answer = await _frame(reader)
            if messages.decode_connect_reply(answer, 0, len(answer)).timeout <= 0:
                return None
            writer.write(messages.REQUEST_HEADER.pack(8, 1, messages.CLOSE.opcode))
            answer = await _frame(reader)
            return int(messages.REPLY_HEADER.unpack_from(answer)[1])
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(f"{host}:{port} closed the connection without an answer") from error
        except (DecodeError, struct.error) as error:
            raise ConnectionAbortedError(f"{host}:{port} sent an invalid answer: {error}") from error
        finally:
            writer.transport.abort()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4))
    if size > _LONGEST_ANSWER:
        raise DecodeError(f"a frame of {size} bytes")
    return await reader.readexactly(size)
