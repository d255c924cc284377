"""The worker in an outage of an hour. In virtual time it takes milliseconds, and each run is the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import corral
from corral.testing import FaultProxy, VirtualLoop
from worker import Store, submit, work

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run the tests of this file in virtual time; each gets an embedded server in its loop."""
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_it_is_cut_off_for_an_hour(zk: corral.Client, zookeeper_hosts: str, faults: FaultProxy) -> None:
    """The worker is cancelled before anyone else can acquire the lock, and goes on after the outage."""
    store, begun = Store(), asyncio.Event()
    loop = asyncio.get_running_loop()
    lost_at = 0.0

    async def slow(payload: bytes) -> str:
        nonlocal lost_at
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            lost_at = loop.time()
            raise
        return payload.decode()

    await submit(zk, "a", b"1")
    worker = asyncio.create_task(work(zookeeper_hosts, store, slow))
    await begun.wait()
    async with asyncio.timeout(7200), faults.black_hole():
        async with zk.lock("/lock"):  # acquired as soon as the server expires the worker's session
            assert 0 < lost_at < loop.time()
        await asyncio.sleep(3600)
    await worker
    assert store.writes == [("a", "1")]
