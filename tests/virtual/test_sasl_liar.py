"""SASL with servers that lie, say nothing, or know too little. In virtual time, since most of it is waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import corral
from corral.testing import EmbeddedServer
from corral.wire import messages
from sasl_servers import BOB, USERS
from support import within


class Liar(asyncio.Protocol):
    """A server that grants each session, and answers tokens from a script: None is no answer."""

    def __init__(self, script: list[bytes | None]) -> None:
        self._script = list(script)
        self._is_connected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._is_connected:
            self._is_connected = True
            body = messages.encode_connect_reply(4.0, 7, b"p" * 16)
        else:
            challenge = self._script.pop(0) if self._script else None
            if challenge is None:
                return
            body = messages.REPLY_HEADER.pack(0, 0, 0) + messages.SASL.reply.encode(challenge)
        self._transport.write(len(body).to_bytes(4) + body)


@contextlib.asynccontextmanager
async def lying(script: list[bytes | None]) -> AsyncIterator[str]:
    """The address of such a server."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Liar(script), "127.0.0.1", 0) as server:
        yield "127.0.0.1:" + str(server.sockets[0].getsockname()[1])


def open_as(hosts: str | list[str], sasl: corral.DigestMD5 = BOB, **options: Any) -> corral.Client:
    return corral.connect(hosts, sasl=sasl, session_timeout=4.0, **options)


CHALLENGE = b'realm="zk-sasl-md5",nonce="abc",charset=utf-8,algorithm=md5-sess'


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([None], "no session within"),
        ([b"", None], "0 times the directive 'nonce'"),
        ([b'nonce="abc"'], "0 times the directive 'algorithm'"),
        ([CHALLENGE + b',nonce="def"'], "2 times the directive 'nonce'"),
        ([CHALLENGE.replace(b"md5-sess", b"md4")], "the algorithm b'md4'"),
        ([CHALLENGE + b',qop="auth-conf"'], "offers only the protection b'auth-conf'"),
        ([CHALLENGE.replace(b"utf-8", b"ebcdic")], "the charset b'ebcdic'"),
        ([CHALLENGE.replace(b'"abc"', b'""')], "an empty nonce"),
        ([b"\x00nonsense"], "malformed at byte 0"),
        ([CHALLENGE, b"rspauth=00000000000000000000000000000000"], "has not proven that it knows the secret"),
        ([CHALLENGE, b""], "has not proven that it knows the secret"),
        ([CHALLENGE, CHALLENGE], "has not proven that it knows the secret"),
        ([CHALLENGE, b"rspauth=\x00"], "malformed at byte 0"),
    ],
)
async def test_a_server_that_cannot_be_trusted(script: list[bytes | None], reason: str) -> None:
    """T2, S7: a challenge that cannot be used, silence, or a server that does not prove that it knows the secret:
    the server is not used, nothing else is sent to it, and the error says why, within `connect_timeout`."""
    async with lying(script) as address:
        zk = open_as(address, connect_timeout=2.0)
        with pytest.raises(corral.ConnectTimeout) as raised:
            await within(zk.__aenter__())
        assert reason in str(raised.value) or reason == "no session within"
        assert address in str(raised.value)


async def test_another_server_is_tried() -> None:
    """T2, S1: beside a server that says nothing in the exchange, the client finds one that does."""
    async with lying([]) as address, EmbeddedServer(sasl=USERS) as good:
        async with open_as([address, good.address]) as zk:
            assert zk.server == good.address


async def test_latin_1_only() -> None:
    """T2: a server that knows no UTF-8 is not sent what it would misread."""
    script: list[bytes | None] = [CHALLENGE.replace(b"charset=utf-8,", b"")]
    async with lying(script) as address:
        with pytest.raises(corral.AuthFailed, match="ISO 8859-1"):
            await within(open_as(address, corral.DigestMD5("密", "hush")).__aenter__())
