"""Servers with SASL: embedded ones, or real ones that all tests of a configuration share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import corral
from corral.testing import FaultProxy
from sasl_servers import BOB, server_of_test, shared_server

SESSION_TIMEOUT = 4.0


@pytest.fixture(scope="session")
def shared_sasl(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str | None]:
    with shared_server(pytestconfig, tmp_path_factory, required=False) as address:
        yield address


@pytest.fixture(scope="session")
def shared_required(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str | None]:
    with shared_server(pytestconfig, tmp_path_factory, required=True) as address:
        yield address


@pytest.fixture
async def sasl_address(shared_sasl: str | None) -> AsyncIterator[str]:
    """A server that knows `USERS`, and others, too."""
    async with server_of_test(shared_sasl, required=False) as address:
        yield address


@pytest.fixture
async def required_address(shared_required: str | None) -> AsyncIterator[str]:
    """A server that refuses whoever has not authenticated by SASL."""
    async with server_of_test(shared_required, required=True) as address:
        yield address


@pytest.fixture
async def sasl_proxy(sasl_address: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of `sasl_address`."""
    async with FaultProxy(sasl_address) as proxy:
        yield proxy


@pytest.fixture
async def required_proxy(required_address: str) -> AsyncIterator[FaultProxy]:
    """A proxy in front of `required_address`."""
    async with FaultProxy(required_address) as proxy:
        yield proxy


@pytest.fixture
def home() -> str:
    """A path of the test's own."""
    return f"/sasl-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def open_as() -> Callable[..., corral.Client]:
    """A client of an address, as bob if nothing else is said."""

    def make(address: str, sasl: Any = BOB, **options: Any) -> corral.Client:
        return corral.connect(address, **{"sasl": sasl, "session_timeout": SESSION_TIMEOUT, **options})

    return make
