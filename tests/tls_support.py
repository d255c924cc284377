"""Certificates for tests, made by openssl, and servers with a port for TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import corral
from corral.testing import EmbeddedServer, LocalServer, SecurePort, VirtualLoop
from support import started

NAMES = "DNS:localhost,IP:127.0.0.1"
"""Whom a server's certificate is for, unless a test says otherwise."""


class Authority:
    """Signs certificates. Each of its files has a private key and its certificate, as PEM."""

    def __init__(self, directory: Path, name: str = "corral's tests") -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self.certificate = directory / "ca.pem"
        """What whoever trusts this authority needs."""
        self._key = directory / "ca.key"
        openssl("req -x509 -days 30", *_NEW_KEY, self._key, "-out", self.certificate, "-subj", f"/CN={name}")

    def sign(self, file: str, *, subject: str = "/CN=zk", names: str = NAMES, days: int = 30) -> Path:
        """A new key and certificate, in a file of this name. With negative `days` it has expired."""
        base = self._directory / file
        key, request, signed = (base.with_suffix(suffix) for suffix in (".key", ".csr", ".crt"))
        extension = base.with_suffix(".ext")
        extension.write_text(f"subjectAltName={names}\n")
        openssl("req -new", *_NEW_KEY, key, "-out", request, "-subj", subject)
        openssl(
            "x509 -req -CAcreateserial", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-days", str(days), "-extfile", extension, "-out", signed,
        )  # fmt: skip
        pem = base.with_suffix(".pem")
        pem.write_bytes(key.read_bytes() + signed.read_bytes())
        return pem

    def client_context(self, certificate: Path | None = None) -> ssl.SSLContext:
        """A context for clients that trusts this authority alone; `certificate` is the client's."""
        context = ssl.create_default_context(cafile=self.certificate)
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    def server_context(self, certificate: Path, *, clients: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
        """A context for servers; `clients` is whether it asks them for certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.verify_mode = clients
        context.load_verify_locations(self.certificate)
        return context


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")


def openssl(command: str, *arguments: str | Path) -> None:
    """Run a command of openssl."""
    subprocess.run(["openssl", *command.split(), *arguments], check=True, capture_output=True)


class Pki(NamedTuple):
    """An authority, and certificates by it."""

    authority: Authority
    server: Path
    client: Path
    """Of the subject ``CN=worker``."""

    def trusting(self, certificate: Path | None = None) -> ssl.SSLContext:
        """A context for clients of the servers."""
        return self.authority.client_context(certificate)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """An authority with a certificate for a server and one for a client."""
    if shutil.which("openssl") is None:
        pytest.skip("about TLS: there is no openssl to make certificates with")
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return Pki(authority, authority.sign("server"), authority.sign("client", subject="/CN=worker"))


@pytest.fixture(scope="session")
def _local_secure_server(pytestconfig: pytest.Config, pki: Pki) -> Iterator[LocalServer | None]:
    chosen = pytestconfig.getoption("--zookeeper") or pytestconfig.getini("zookeeper")
    if chosen == "embedded" or pytestconfig.getoption("--loop") == "virtual" or LocalServer.missing():
        yield None
        return
    server = LocalServer(
        secure=SecurePort(certificate=pki.server, authorities=pki.authority.certificate, clients="want")
    )
    with started(server):
        yield server


@pytest.fixture
def local_secure_server(real_servers: None, _local_secure_server: LocalServer | None) -> LocalServer:
    """A real server with a secure port that asks for certificates, and does not insist."""
    assert _local_secure_server is not None
    return _local_secure_server


@pytest.fixture
async def secure(_local_secure_server: LocalServer | None, pki: Pki) -> AsyncIterator[str]:
    """The address of a port for TLS, of a real server unless the run is on the embedded one."""
    if _local_secure_server is not None:
        yield _local_secure_server.secure_address
        return
    async with embedded(pki.authority.server_context(pki.server)) as server:
        yield server.address


def embedded(context: ssl.SSLContext | None, **options: Any) -> EmbeddedServer:
    """An embedded server with TLS: in this loop if it is virtual, else on a thread of its own."""
    return EmbeddedServer(
        ssl=context, thread=not isinstance(asyncio.get_running_loop(), VirtualLoop), **options
    )


@pytest.fixture
def connect_secure(pki: Pki) -> Callable[..., corral.Client]:
    """`corral.connect` to an address with TLS, trusting the tests' authority."""

    def make(to: str, **options: Any) -> corral.Client:
        return corral.connect(to, **{"session_timeout": 4.0, "ssl": pki.trusting(), **options})

    return make


@contextlib.asynccontextmanager
async def listening(protocol: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[str]:
    """The address of a server that is no ZooKeeper."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def refusal(client: corral.Client) -> str:
    """Why no server could be connected to."""
    with pytest.raises(corral.ConnectTimeout) as caught:
        async with client:
            pass
    return str(caught.value)
