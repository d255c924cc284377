"""For how long a provider leaves an instance out, to a hundredth of a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import corral
from corral.testing import EmbeddedServer


@pytest.fixture
async def web(server: EmbeddedServer) -> AsyncIterator[corral.ServiceProvider]:
    """A provider that knows two instances, and prefers the first."""
    async with corral.connect(server.address) as zk:
        services = zk.services("/services")
        for id in ("bad", "good"):
            await services.register_static("web", id=id, address="h")
        async with services.provider("web", lambda instances: instances[0]) as provider:
            yield provider


async def left_out(web: corral.ServiceProvider) -> float:
    """For how many seconds the first instance is left out from now on."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while web.pick().id != "bad":
        await asyncio.sleep(0.01)
    return round(loop.time() - began, 1)


async def test_longer_each_time(web: corral.ServiceProvider) -> None:
    """Left out for 1 s, then twice as long each time, up to 60 s."""
    times = []
    for _ in range(9):
        web.note_error(web.instances[0])
        times.append(await left_out(web))
    assert times == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_errors_while_it_is_left_out_do_not_count(web: corral.ServiceProvider) -> None:
    """A hundred requests that were under way when it failed do not make it a hundred failures."""
    for _ in range(100):
        web.note_error(web.instances[0])
    await asyncio.sleep(0.5)
    for _ in range(100):
        web.note_error(web.instances[0])
    assert await left_out(web) == 0.5
    web.note_error(web.instances[0])
    assert await left_out(web) == 2


async def test_forgotten_after_a_minute_without_an_error(web: corral.ServiceProvider) -> None:
    """Back for a minute, it begins anew; back for less, it does not."""
    web.note_error(web.instances[0])
    assert await left_out(web) == 1
    await asyncio.sleep(59.9)
    web.note_error(web.instances[0])
    assert await left_out(web) == 2
    await asyncio.sleep(60.1)
    web.note_error(web.instances[0])
    assert await left_out(web) == 1


async def test_forgotten_when_it_has_answered(web: corral.ServiceProvider) -> None:
    """A success that is noted brings it back at once, and its errors are forgotten."""
    for _ in range(3):
        web.note_error(web.instances[0])
        await left_out(web)
    web.note_error(web.instances[0])
    web.note_success(web.instances[0])
    assert await left_out(web) == 0
    web.note_error(web.instances[0])
    assert await left_out(web) == 1


async def test_each_comes_back_in_its_own_time(web: corral.ServiceProvider) -> None:
    """Two that are left out come back one after the other; while both are left out, both are tried."""
    bad, good = web.instances
    web.note_error(good)
    await asyncio.sleep(0.5)
    web.note_error(bad)
    assert web.pick() is bad  # all are left out
    await asyncio.sleep(0.6)
    assert web.pick() is good
    await asyncio.sleep(0.5)
    assert web.pick() is bad
