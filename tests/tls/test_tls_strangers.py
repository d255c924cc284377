"""What answers is no ZooKeeper with TLS: the error says what it is, and nothing hangs (T1)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import cast

import pytest

import corral
from corral.testing import EmbeddedServer, TcpProxy, VirtualLoop
from support import turns, until, within
from tls_support import Pki, embedded, listening, refusal

ConnectSecure = Callable[..., corral.Client]


class Closing(asyncio.Protocol):
    """Closes a connection at once, or when it has received something."""

    def __init__(self, *, at_once: bool, answer: bytes = b"") -> None:
        self._at_once = at_once
        self._answer = answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._at_once:
            self._transport.write(self._answer)
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(self._answer)
        self._transport.close()


async def test_plain_client_at_a_secure_port(secure: str) -> None:
    """T1: a client without TLS is told that the port is a secure one."""
    why = await refusal(corral.connect(secure, connect_timeout=1.0))
    assert "closed it without a word: it is a secure port; connect with ssl=" in why


async def test_tls_client_at_a_plain_port(server_address: str, pki: Pki) -> None:
    """T1: a client with TLS is told that the port is a plain one."""
    why = await refusal(corral.connect(server_address, ssl=pki.trusting(), connect_timeout=1.0))
    assert "in the TLS handshake: it is a plain port; connect to the server's secureClientPort" in why


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_server_that_closes_in_the_handshake(pki: Pki, at_once: bool) -> None:
    """T1: a server closes the connection before or after the client's first message; the error says so, and
    does not take it for a plain port of ZooKeeper."""
    async with listening(lambda: Closing(at_once=at_once)) as address:
        why = await refusal(corral.connect(address, ssl=pki.trusting(), connect_timeout=0.7))
        assert why.endswith(f"{address}: the server closed the connection in the TLS handshake")


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_server_that_answers_in_clear_text(pki: Pki, at_once: bool) -> None:
    """T1: a server answers a handshake with text, or speaks first."""
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4
    async with listening(lambda: Closing(at_once=at_once, answer=answer)) as address:
        why = await refusal(corral.connect(address, ssl=pki.trusting(), connect_timeout=0.7))
        assert "what the server sends is no TLS" in why or why.endswith("in the TLS handshake")


async def test_another_service_with_tls(pki: Pki) -> None:
    """T1: a server that speaks first, in TLS: the error shows what it sends."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Closing(at_once=True, answer=b"220 mail.example ESMTP\r\n"),
        "127.0.0.1",
        0,
        ssl=pki.authority.server_context(pki.server),
    )
    try:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        why = await refusal(corral.connect(address, ssl=pki.trusting(), connect_timeout=0.7))
        assert (
            "no ZooKeeper: its bytes make no sense (b'220 mail.example', which looks like SMTP or FTP)" in why
        )
    finally:
        server.close()
        await server.wait_closed()


async def test_a_server_that_is_silent_in_the_handshake(pki: Pki) -> None:
    """T1: a server that does not answer holds up nothing but its own attempt, whose time is bounded."""
    async with listening(asyncio.Protocol) as silent, listening(lambda: Closing(at_once=True)) as closing:
        began = asyncio.get_running_loop().time()
        client = corral.connect(f"{silent},{closing}", ssl=pki.trusting(), connect_timeout=1.0)
        why = await refusal(client)
        assert f"{silent}: no TLS connection within" in why
        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            assert asyncio.get_running_loop().time() - began == 1.0


async def test_another_server_is_found(secure: str, connect_secure: ConnectSecure) -> None:
    """T1: of several servers one is silent, one closes, and one works."""
    async with listening(asyncio.Protocol) as silent, listening(lambda: Closing(at_once=True)) as closing:
        async with connect_secure(f"{silent},{closing},{secure}") as zk:
            assert zk.server == secure


async def test_leaving_does_not_wait_for_the_peer(secure: str, connect_secure: ConnectSecure) -> None:
    """T1: leaving a client is bounded as without TLS, though the server does not answer the end of TLS."""
    async with TcpProxy(secure) as proxy:
        zk = connect_secure(proxy.address)
        await zk.__aenter__()
        async with proxy.black_hole():
            began = time.monotonic(), asyncio.get_running_loop().time()
            await within(zk.close())
            if isinstance(asyncio.get_running_loop(), VirtualLoop):
                assert asyncio.get_running_loop().time() - began[1] <= 4.0 / 3 + 0.01


async def test_a_server_that_ends_during_handshakes(pki: Pki) -> None:
    """An embedded server that ends, or is paused, leaves no handshake behind, and goes on with those that it had
    when it is resumed."""
    async with embedded(pki.authority.server_context(pki.server)) as server:
        async with TcpProxy(server.address) as proxy:
            server.pause()
            opening = asyncio.ensure_future(corral.connect(proxy.address, ssl=pki.trusting()).__aenter__())

            async def is_under_way() -> bool:
                return proxy.accepted == 1

            await until(is_under_way, "the handshake has begun")
            server.resume()
            zk = await within(opening)
            await zk.close()
        streams = [await asyncio.open_connection(*server.address.split(":")) for _ in range(3)]
        await turns()
        await within(server.kill())
        for reader, writer in streams:
            with contextlib.suppress(ConnectionResetError):
                assert await within(reader.read()) == b""
            writer.close()


def test_contexts_are_checked(pki: Pki) -> None:
    """What cannot be a context is refused at once, with the rule and the remedy."""
    server_context = pki.authority.server_context(pki.server)
    with pytest.raises(corral.UsageValueError, match="ssl is a context for servers; make one for clients"):
        corral.connect(ssl=server_context)
    with pytest.raises(corral.UsageValueError, match="ssl is a context for clients; make one for servers"):
        EmbeddedServer(ssl=pki.trusting())
    with pytest.raises(corral.UsageTypeError, match=r"ssl must be an ssl\.SSLContext, or None"):
        EmbeddedServer(ssl=True)  # type: ignore[arg-type]

    async def context() -> None: ...

    for wrong in ("yes", 1, context):
        with pytest.raises(
            corral.UsageTypeError, match=r"ssl must be True, an ssl.SSLContext, or a function"
        ):
            corral.connect(ssl=wrong)  # type: ignore[arg-type]


async def test_an_ensemble_that_went_back_in_time(pki: Pki) -> None:
    """S4, T1: a client with TLS that has seen more than the servers asks one, with TLS, and ends with an error that
    says so."""
    if not isinstance(asyncio.get_running_loop(), VirtualLoop):
        pytest.skip("about what happens after a session timeout: runs in virtual time")
    context = pki.authority.server_context(pki.server)
    async with embedded(context) as server:
        async with corral.connect(server.address, ssl=pki.trusting(), session_timeout=8.0) as zk:
            await zk.create("/node")
            for _ in range(100):
                await zk.set("/node", b"new")
            port = int(server.address.rpartition(":")[2])
            await server.close()
            async with embedded(context, port=port):
                with pytest.raises(corral.EnsembleBehind, match="the ensemble was restored"):
                    await zk.get("/node")
