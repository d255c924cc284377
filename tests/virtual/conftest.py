"""Fixtures for tests in virtual time: client, proxy and embedded server in one loop, with no real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy, VirtualLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """A server of the test's own, in its loop."""
    async with EmbeddedServer(seed=1) as own:
        yield own


@pytest.fixture
async def proxy(server: EmbeddedServer) -> AsyncIterator[FaultProxy]:
    """A proxy in front of it."""
    async with FaultProxy(server.address) as between:
        yield between


@pytest.fixture
async def other(server: EmbeddedServer) -> AsyncIterator[corral.Client]:
    """A client whose connection no fault breaks."""
    async with corral.connect(server.address, session_timeout=10) as client:
        yield client
