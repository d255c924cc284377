"""Fixtures: a client behind a proxy, and counts of the server's watches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import corral
from corral.testing import FaultProxy
from watch_support import watches_on, watching_sessions


@pytest.fixture
async def proxied(connect: Callable[..., corral.Client], proxy: FaultProxy) -> AsyncIterator[corral.Client]:
    """A client whose connection goes through `proxy`."""
    async with connect(to=proxy.address) as client:
        yield client


@pytest.fixture
def watchers(server_address: str, root: str) -> Callable[[str], Awaitable[int]]:
    """How many sessions watch a path below the test's own znode, as the server reports."""

    async def ask(path: str) -> int:
        return await watching_sessions(server_address, root + path)

    return ask


@pytest.fixture
async def watch_count(server_address: str) -> Callable[[], Awaitable[int]]:
    """How many more watches of any kind the server has than when the test began. No other number that the
    server reports includes watches of children."""
    before = await watches_on(server_address)

    async def ask() -> int:
        return await watches_on(server_address) - before

    return ask
