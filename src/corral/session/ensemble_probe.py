"""A session of a moment: opened, or taken over by its id and password, and closed at once.

Taking one over is how to end somebody's session on any server, since it belongs to whoever knows these two.
Its client sees what it sees when its time is up: its connection closes, its ephemerals are gone, and the next
server that it asks does not know the session any more.
"""

from __future__ import annotations

import asyncio
import struct

from corral.wire import messages
from corral.wire.compile import DecodeError

__all__ = ["LIMIT", "probe_zxid"]

LIMIT = 10.0
"""Seconds for all of it; a server that serves takes milliseconds."""

_TIMEOUT = 10.0
"""What is asked for; a server grants what it likes, and the session does not live long enough to need it."""

_LONGEST_ANSWER = 4096
"""Bytes; what is to come is below a hundred."""


async def probe_zxid(
    host: str, port: int, session_id: int = 0, password: bytes = bytes(16), *, limit: float = LIMIT
) -> int | None:
    """End a session on the server at an address, without `session_id` a new one; None if it was over.

    Returns the newest transaction that the server has applied by then, which includes the session's end.

    Raises `OSError` (`TimeoutError` is one) if the server cannot be reached, closes the connection without an
    answer, says what is none, or does not answer within `limit` seconds. Cancelled, it may have been done.
    """
    async with asyncio.timeout(limit):
        reader, writer = await asyncio.open_connection(host, port)
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
            raise ConnectionAbortedError(f"{host}:{port} says what is no answer: {error}") from error
        finally:
            writer.transport.abort()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4))
    if size > _LONGEST_ANSWER:
        raise DecodeError(f"a frame of {size} bytes")
    return await reader.readexactly(size)
