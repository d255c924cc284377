"""Client certificates on a real server, and what is different about a real secure port (T1)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import corral
from corral.testing import LocalServer, SecurePort
from support import started
from tls_support import Authority, Pki, refusal

ConnectSecure = Callable[..., corral.Client]
OURS = (corral.Acl(corral.Perm.ALL, "x509", "CN=worker"),)


async def test_a_client_certificate_is_an_identity(local_secure_server: LocalServer, pki: Pki) -> None:
    """T1: what an ACL of the scheme x509 grants to the certificate's subject, only a client with it may do; also
    after a reconnect."""
    address = local_secure_server.secure_address
    async with (
        corral.connect(address, ssl=pki.trusting(pki.client)) as worker,
        corral.connect(address, ssl=pki.trusting()) as nobody,
        corral.connect(local_secure_server.address) as plain,
    ):
        path = await worker.create("/x509-", b"secret", sequential=True, acl=OURS)
        assert (await worker.get(path))[0] == b"secret"
        assert (await worker.get_acl(path))[0] == list(OURS)
        for other in (nobody, plain):
            with pytest.raises(corral.NoAuth):
                await other.get(path)
            with pytest.raises(corral.NoAuth):
                await other.set(path, b"")
        await worker.delete(path)


async def test_a_client_certificate_of_another_authority(local_secure_server: LocalServer, pki: Pki) -> None:
    """T1: the server refuses it, and the error says so."""
    foreign = Authority(pki.server.parent / "foreign for real", "another one").sign("client")
    context = pki.trusting(foreign)
    why = await refusal(corral.connect(local_secure_server.secure_address, ssl=context, connect_timeout=1.5))
    assert "TLS: the server does not accept our certificate" in why


@pytest.fixture(scope="module")
def expired_server(real_servers: None, pki: Pki) -> Iterator[LocalServer]:
    """A real server whose certificate has expired."""
    server = LocalServer(secure=SecurePort(certificate=pki.authority.sign("really expired", days=-1)))
    with started(server):
        yield server


async def test_a_real_server_with_an_expired_certificate(expired_server: LocalServer, pki: Pki) -> None:
    """T1: the error says that it has expired; a client that does not check it, or has no TLS, works."""
    address = expired_server.secure_address
    unchecked = pki.trusting()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    async with corral.connect(address, ssl=unchecked) as zk:
        await zk.children("/")
    why = await refusal(corral.connect(address, ssl=pki.trusting(), connect_timeout=1.5))
    assert "certificate has expired" in why
    async with corral.connect(expired_server.address) as zk:
        await zk.children("/")


async def test_the_code_in_the_guide_runs(local_secure_server: LocalServer, pki: Pki) -> None:
    """docs/security.md: its code runs, with these certificates."""
    page = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page.partition("## TLS")[2], re.DOTALL | re.MULTILINE)
    code: dict[str, Any] = {}
    for block in blocks:
        if "ssl" in block:
            block = block.replace("/etc/zookeeper/ca.pem", str(pki.authority.certificate))
            exec(block.replace("/etc/zookeeper/client.pem", str(pki.client)), code)
    assert "zookeeper" in await code["secure"](local_secure_server.secure_address)
    assert await code["share"](local_secure_server.secure_address) == "/secret"


async def test_there_is_no_secure_port(real_servers: None) -> None:
    """A server that was made without a secure port says so."""
    with pytest.raises(corral.UsageStateError, match=r"make it with LocalServer\(secure=...\)"):
        _ = LocalServer().secure_address
