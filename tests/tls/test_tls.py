"""Connections with TLS, on a real secure port and on an embedded server's (T1)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import corral
from corral.testing import TcpProxy
from support import until, within
from tls_support import Pki, embedded, refusal

ConnectSecure = Callable[..., corral.Client]


async def test_a_client_works_over_tls(secure: str, connect_secure: ConnectSecure) -> None:
    """T1: with TLS a client reads, writes, locks and watches as without."""
    async with (
        connect_secure(secure) as zk,
        connect_secure(secure.replace("127.0.0.1", "localhost")) as other,
    ):
        path = await zk.create("/tls-", b"1", sequential=True)
        watch = zk.watch(path)
        assert (await within(anext(watch))).data == b"1"
        async with other.lock(f"{path}/lock") as held:
            assert held.is_valid
            await other.set(path, b"2")
        assert (await within(anext(watch))).data == b"2"
        await zk.delete(path, recursive=True)


async def test_data_of_many_records_and_many_requests(secure: str, connect_secure: ConnectSecure) -> None:
    """T1: data is larger than a record of TLS, which has 16 KiB, and many requests are under way at once."""
    async with connect_secure(secure) as zk:
        path = await zk.create("/large-", sequential=True)
        data = bytes(range(256)) * 4000
        await zk.set(path, data)
        assert (await zk.get(path))[0] == data
        names = await asyncio.gather(
            *(zk.create(f"{path}/n-", data[:100], sequential=True) for _ in range(1500))
        )
        assert names == sorted(set(names))
        await zk.delete(path, recursive=True)


async def test_backpressure(secure: str, connect_secure: ConnectSecure) -> None:
    """T1: more is written than the network takes, which stops in the meantime; nothing is lost or doubled, and
    the order is kept."""
    async with TcpProxy(secure) as proxy, connect_secure(proxy.address, session_timeout=8.0) as zk:
        path = await zk.create("/pressure-", sequential=True)
        async with proxy.black_hole() as withheld:
            writes = [asyncio.ensure_future(zk.set(path, bytes([n]) * 900_000)) for n in range(8)]
            await within(withheld.arrived())
        await within(asyncio.gather(*writes))
        data, stat = await zk.get(path)
        assert (data[:1], len(data), stat.version) == (bytes([7]), 900_000, 8)
        await zk.delete(path)


async def test_the_name_is_the_hosts(pki: Pki) -> None:
    """T1: the certificate must have the name that the user has written; the server's address is not enough."""
    named = pki.authority.sign("named", names="DNS:localhost")
    async with embedded(pki.authority.server_context(named)) as server:
        port = server.address.rpartition(":")[2]
        async with corral.connect(f"localhost:{port}", ssl=pki.trusting(), session_timeout=4.0) as zk:
            await zk.children("/")
        why = await refusal(corral.connect(server.address, ssl=pki.trusting(), connect_timeout=0.7))
        assert (
            f"{server.address}: TLS: the server's certificate is not for '127.0.0.1', the name in hosts"
            in why
        )


async def test_a_name_with_several_addresses(pki: Pki) -> None:
    """T1: whichever of its addresses is tried, the certificate must have the name."""
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "hosts"):
        pytest.skip("about names: only a VirtualLoop has names of the test's own")
    named = pki.authority.sign("several", names="DNS:zk.example")
    async with embedded(pki.authority.server_context(named), host="127.0.0.9", port=2281):
        loop.hosts["zk.example"] = ("127.0.0.8", "127.0.0.9")
        loop.hosts["alias.example"] = ("127.0.0.9",)
        for hosts in ("zk.example:2281", "ZK.Example.:2281"):
            loop.hosts["ZK.Example."] = loop.hosts["zk.example"]
            async with corral.connect(hosts, ssl=pki.trusting()) as zk:
                assert zk.server == "127.0.0.9:2281"
        why = await refusal(corral.connect("alias.example:2281", ssl=pki.trusting(), connect_timeout=0.7))
        assert "not for 'alias.example'" in why


async def test_an_unknown_authority(secure: str) -> None:
    """T1: `ssl=True` trusts the system's authorities, which have not signed the tests' certificates; the error
    says what to do."""
    why = await refusal(corral.connect(secure, ssl=True, connect_timeout=1.5))
    assert "no authority that we trust has signed the server's certificate" in why
    assert "ssl.create_default_context(cafile=...)" in why


async def test_an_expired_certificate(pki: Pki) -> None:
    """T1: the error says that the certificate has expired."""
    expired = pki.authority.sign("expired", days=-1)
    async with embedded(pki.authority.server_context(expired)) as server:
        why = await refusal(corral.connect(server.address, ssl=pki.trusting(), connect_timeout=0.7))
        assert "TLS: the server's certificate is not valid now: certificate has expired" in why


async def test_a_certificate_is_renewed(pki: Pki) -> None:
    """T1: a function is asked at each connection. The server's certificate is replaced by one of another
    authority; while the function fails, and while it does not know the new one, connecting is repeated; then
    the same session is on."""
    renewed = type(pki.authority)(pki.server.parent / "renewed", "the next one")
    server_context = pki.authority.server_context(pki.server)
    answers: list[Callable[[], object]] = [pki.trusting]
    asked = 0

    def context() -> ssl.SSLContext:
        nonlocal asked
        asked += 1
        return answers[0]()  # type: ignore[return-value]

    def broken() -> ssl.SSLContext:
        raise KeyError("the password of the key")

    async with embedded(server_context) as server, TcpProxy(server.address) as proxy:
        async with corral.connect(proxy.address, ssl=context, session_timeout=8.0) as zk:
            assert asked == 1
            session = zk.session_id
            server_context.load_cert_chain(renewed.sign("server"))
            for answer in (broken, lambda: None, pki.trusting):
                answers[0], before = answer, asked
                await proxy.cut()

                async def tried(before: int = before) -> bool:
                    return asked > before

                await until(tried, "the function is asked again")
            answers[0] = renewed.client_context
            await within(zk.children("/"))
            assert zk.session_id == session


@pytest.mark.parametrize(
    ("give", "why"),
    [
        (lambda: None, "returned a NoneType, not an ssl.SSLContext"),
        (lambda: dict[str, ssl.SSLContext]()["the password"], "raised KeyError"),
        (lambda: ssl.create_default_context(cafile="/no/such/file"), "raised FileNotFoundError: "),
    ],
)
async def test_a_function_that_gives_no_context(
    secure: str, give: Callable[[], ssl.SSLContext], why: str
) -> None:
    """T1: it does not hang the client, which says what the function did, but shows no text of the function's own,
    in which there may be a password."""
    told = await refusal(corral.connect(secure, ssl=give, connect_timeout=0.7))
    assert why in told
    assert "password" not in told


@pytest.mark.parametrize(
    ("version", "has_certificate"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, False)]
)
async def test_a_server_that_refuses_our_certificate(
    real_time: None, pki: Pki, version: ssl.TLSVersion, has_certificate: bool
) -> None:
    """T1: a server demands a certificate, and gets none, or one of another authority. With TLS 1.3 it refuses it
    after the client's handshake is over. The error says so."""
    foreign = type(pki.authority)(pki.server.parent / "foreign", "another one").sign("client")
    context = pki.authority.server_context(pki.server, clients=ssl.CERT_REQUIRED)
    context.maximum_version = version
    # On a thread, since asyncio's servers close without an alert.
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(shake_hands_until_closed, listener, context)
        certificate = pki.trusting(foreign if has_certificate else None)
        port = listener.getsockname()[1]
        try:
            why = await refusal(corral.connect(f"127.0.0.1:{port}", ssl=certificate, connect_timeout=2.0))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
        serving.result()
    assert "does not accept our certificate" in why or "refuses the handshake" in why


def shake_hands_until_closed(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Accept clients, none of whom comes to an end of its handshake."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with context.wrap_socket(client, server_side=True, do_handshake_on_connect=False) as secured:
            try:
                secured.do_handshake()
            except OSError:
                secured.shutdown(socket.SHUT_WR)  # an RST would destroy the alert
                while secured.recv(4096):
                    pass
