"""Clients whose connections the tests of recipes break and listen to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from lock_support import Rig, Tap

import corral
from corral.testing import TcpProxy


@pytest.fixture
async def tap(zookeeper: str) -> AsyncIterator[Tap]:
    """A recorder of what goes to the shared server."""
    async with Tap(zookeeper) as between:
        yield between


@pytest.fixture
async def rig(connect: Callable[..., corral.Client], tap: Tap, zookeeper: str) -> AsyncIterator[Rig]:
    """`rig.zk` goes through `rig.proxy`, and `rig.tap` behind it; `rig.other` goes straight to the server."""
    async with TcpProxy(tap.address) as proxy:
        async with connect() as other, connect(proxy.address, session_timeout=2.0) as zk:
            yield Rig(zk, other, proxy, tap, zookeeper)
