"""Fixtures for other libraries' clients, which run on an embedded server and on the server that tests share.
If a test fails on only one of them, that shows which side has the defect."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator

import curator_peer
import pytest

import corral
from corral.testing import EmbeddedServer


@pytest.fixture(scope="session")
def embedded() -> Iterator[str]:
    """The address of an embedded server."""
    with EmbeddedServer(thread=True) as server:
        yield server.address


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        choice = metafunc.config.getoption("--zookeeper") or metafunc.config.getini("zookeeper")
        kinds = ["embedded"] if choice == "embedded" else ["embedded", "shared"]
        metafunc.parametrize("server", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(real_time: None, request: pytest.FixtureRequest) -> str:
    """The address of a server, of either kind."""
    if request.param == "embedded":
        return str(request.getfixturevalue("embedded"))
    return str(request.getfixturevalue("zookeeper")).partition(",")[0]


@pytest.fixture
def place() -> str:
    """The path of a node that belongs to the test, and does not exist yet."""
    return f"/interop-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def zk(server: str, place: str) -> AsyncIterator[corral.Client]:
    """Our client of that server. A node at `place` exists until the end."""
    async with corral.connect(server) as client:
        await client.create(place)
        yield client
        with contextlib.suppress(corral.NoNode):
            await client.delete(place, recursive=True)


@pytest.fixture
async def other(server: str, zk: corral.Client) -> AsyncIterator[corral.Client]:
    """Our second client, with its own session."""
    async with corral.connect(server) as client:
        yield client


@pytest.fixture(scope="session")
def curator_classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of Curator and of the program that controls it."""
    if missing := curator_peer.missing():
        pytest.skip(f"Curator: {missing}")
    return curator_peer.compiled(tmp_path_factory.mktemp("curator"))


@pytest.fixture(scope="session")
def curator(server: str, curator_classes: str) -> Iterator[curator_peer.Curator]:
    """Curator, with its own session on the server."""
    peer = curator_peer.Curator(curator_classes, server)
    try:
        yield peer
    finally:
        peer.close()
