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

from . import gate
from .handshake import AUTH_FAILED, AUTH_REQUIRED, frame
from .hosts import Address
from .sasl.base import Exchange, Refused
from .tls import Tls, open_connection

__all__ = ["LIMIT", "probe_zxid"]

LIMIT = 10.0
"""Seconds for all of it; a healthy server takes milliseconds."""

_TIMEOUT = 10.0
"""The requested session timeout in seconds; the session does not live long enough to need it."""

_LONGEST_ANSWER = 64 * 1024
"""Bytes; the answers have fewer than a hundred, except for SASL's."""
_HEADER = messages.REPLY_HEADER.size


async def probe_zxid(
    host: str,
    port: int,
    session_id: int = 0,
    password: bytes = bytes(16),
    *,
    exchange: Exchange | None = None,
    limit: float = LIMIT,
    tls: Tls | None = None,
    server_name: str = "",
) -> int | None:
    """Close a session on the server at an address: a new one, or the one with `session_id` and `password`;
    with `tls`, `server_name` is what its certificate must be for; after a SASL `exchange`, if one is given,
    since a server may require it.

    Returns the zxid of the session's end, or None if the session was over already.

    Raises `OSError` (of which `TimeoutError` is one) if the server cannot be reached, closes the connection
    without an answer, sends an invalid one, refuses us, or does not answer within `limit` seconds. On cancel
    the session may have been closed.
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
            token = None if exchange is None else exchange.first
            while exchange is not None and token is not None:
                writer.write(frame(0, messages.SASL.opcode, messages.SASL.request.encode(token)))
                answer = await _answer(reader, host, port)
                token = exchange.step(messages.SASL.decode_reply(answer, _HEADER, len(answer)))
            writer.write(messages.REQUEST_HEADER.pack(8, 1, messages.CLOSE.opcode))
            answer = await _answer(reader, host, port)
            return int(messages.REPLY_HEADER.unpack_from(answer)[1])
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(f"{host}:{port} closed the connection without an answer") from error
        except (DecodeError, struct.error, gate.Misfit, Refused) as error:
            raise ConnectionAbortedError(f"{host}:{port} sent an invalid answer: {error}") from error
        finally:
            writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, host: str, port: int) -> bytes:
    answer = await _frame(reader)
    code = messages.REPLY_HEADER.unpack_from(answer)[2]
    if code in (AUTH_FAILED, AUTH_REQUIRED):
        raise ConnectionAbortedError(f"{host}:{port} refuses us (error code {code})")
    return answer


async def _frame(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4))
    if size > _LONGEST_ANSWER:
        raise DecodeError(f"a frame of {size} bytes")
    return await reader.readexactly(size)
