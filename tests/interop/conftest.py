"""What clients of other libraries are tested on: an embedded server, and the server that tests share; where a test
fails on one alone, that tells whose fault it is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

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
    """The address of a server of either kind."""
    if request.param == "embedded":
        return str(request.getfixturevalue("embedded"))
    return str(request.getfixturevalue("zookeeper")).partition(",")[0]


@pytest.fixture
def place() -> str:
    """The path of a node that is the test's own, and does not exist yet."""
    return f"/interop-{uuid.uuid4().hex[:12]}"
