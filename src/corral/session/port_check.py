"""Tells secure ports and plain ports apart, if a server closes the connection without a word.

A plain port of ZooKeeper takes the beginning of a TLS handshake for the length of a frame, and a secure port
takes a connect request for no TLS: both close the connection without an answer (seen with 3.8 and 3.9). So
does a server that has no leader. Speaking the other language shows which it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import cast

from .hosts import Address

__all__ = ["PLAIN_PORT", "SECURE_PORT", "is_plain_port", "is_secure_port"]

PLAIN_PORT = "it is a plain port; connect to the server's secureClientPort, or without ssl="
SECURE_PORT = "it is a secure port; connect with ssl=, or to the server's clientPort"

_WORD = b"srvr"
"""A four letter word that servers execute by default."""


async def is_secure_port(address: Address, limit: float) -> bool:
    """Whether what listens there answers the beginning of a TLS handshake, within `limit` seconds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(
            ssl.MemoryBIO(), hello, server_hostname=address.host.partition("%")[0]
        ).do_handshake()
    answer = await _answer(address, hello.read(), limit)
    return answer[:2] in (b"\x15\x03", b"\x16\x03")  # an alert, or the server's side of the handshake


async def is_plain_port(address: Address, limit: float) -> bool:
    """Whether what listens there answers a four letter word as a ZooKeeper server does, within `limit`
    seconds."""
    answer = await _answer(address, _WORD, limit)
    return answer.startswith(
        (b"Zook", b"srvr", b"This")
    )  # also if the word is not allowed, or it does not serve


async def _answer(address: Address, question: bytes, limit: float) -> bytes:
    """The first bytes of the answer; empty if there is none."""
    asking = _Asking(question)
    try:
        async with asyncio.timeout(limit):
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: asking, address.host, address.port
            )
            try:
                await asking.answered.wait()
            finally:
                transport.abort()
    except OSError:
        pass
    return asking.answer


class _Asking(asyncio.Protocol):
    """A connection that asks one question. (A stream would have asyncio report a reset that nobody reads.)"""

    def __init__(self, question: bytes) -> None:
        self.answer = b""
        self.answered = asyncio.Event()
        """Set when the answer can be told apart, or the connection is lost."""
        self._question = question

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._question)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if len(self.answer) >= len(_WORD):
            self.answered.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.answered.set()
