"""Ending somebody's session on any server: by taking it over, and closing it.

That is all that it takes, since a session belongs to whoever knows its id and its password. Its client sees
what it sees when its time is up: its connection closes, its ephemerals are gone, and the next server that it
asks does not know the session any more.
"""

from __future__ import annotations

import asyncio
import contextlib

from corral.wire import messages

__all__ = ["end_session"]

LIMIT = 10.0
"""Seconds for all of it; a server that serves takes milliseconds."""

# What is asked for; a server grants what it likes, and the session does not live long enough to need it.
_TIMEOUT = 10.0


async def end_session(host: str, port: int, session_id: int, password: bytes) -> None:
    """End a session on the server at an address. Nothing happens if it is over already.

    Raises `OSError` (`TimeoutError` is one) if the server cannot be reached, or does not answer within
    `LIMIT` seconds. Cancelled, it may have been done.
    """
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(_framed(messages.encode_connect(0, _TIMEOUT, session_id, password)))
            reply = await _frame(reader)
            if messages.decode_connect_reply(reply, 0, len(reply)).timeout <= 0:
                return
            writer.write(messages.REQUEST_HEADER.pack(8, 1, messages.CLOSE.opcode))
            await _frame(reader)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(f"{host}:{port} closed the connection without an answer") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
