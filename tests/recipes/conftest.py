"""Fixtures: clients whose connections the tests break and record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from lock_support import Rig, Tap

import corral
from corral.testing import FaultProxy


@pytest.fixture
async def tap(proxy: FaultProxy) -> AsyncIterator[Tap]:
    """A record of the messages to and from `proxy`."""
    record = Tap()
    async with proxy.record(record.note):
        yield record


@pytest.fixture
async def rig(
    connect: Callable[..., corral.Client], proxy: FaultProxy, tap: Tap, server_address: str
) -> AsyncIterator[Rig]:
    """`rig.zk` connects through `rig.proxy`, recorded by `rig.tap`; `rig.other` connects to the server
    directly."""
    async with connect() as other, connect(proxy.address, session_timeout=2.0) as zk:
        yield Rig(zk, other, proxy, tap, server_address)
