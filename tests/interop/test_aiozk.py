"""aiozk, which asks the server for its version on a second connection, on an embedded server and on a real
one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiozk
import pytest
from aiozk import exc

from support import PATIENCE, until


async def client_of(server: str, place: str) -> Any:
    client = aiozk.ZKClient(server, chroot=place)
    async with asyncio.timeout(PATIENCE):
        await client.start()
    return client


@pytest.fixture
async def client(server: str, place: str) -> AsyncIterator[Any]:
    """A client below its own node."""
    own = await client_of(server, place)
    yield own
    async with asyncio.timeout(PATIENCE):
        await own.deleteall("/")
        await own.close()


async def test_it_knows_whom_it_is_connected_to(client: Any) -> None:
    """aiozk learns the version from the answer to `srvr`."""
    assert client.session.conn.version_info >= (3, 6, 0)
    assert client.features.containers


async def test_nodes(client: Any) -> None:
    """Nodes are created, read, set, listed and deleted; a refusal raises aiozk's error for it."""
    assert await client.create("/a", b"one") == "/a"
    assert await client.create("/s-", sequential=True) == "/s-0000000001"
    assert await client.create("/e", ephemeral=True) == "/e"
    await client.set("/a", b"two", 0)
    data, stat = await client.get("/a")
    assert (data, stat.version) == (b"two", 1)
    assert sorted(await client.get_children("/")) == ["a", "e", "s-0000000001"]
    assert not await client.exists("/none")
    with pytest.raises(exc.NoNode):
        await client.get("/none")
    with pytest.raises(exc.NodeExists):
        await client.create("/a")
    with pytest.raises(exc.BadVersion):
        await client.set("/a", b"three", 0)
    await client.delete("/a", force=True)
    assert not await client.exists("/a")


async def test_watches(client: Any) -> None:
    """Watches of a node that is created, changed and deleted, and of children."""
    async with asyncio.timeout(PATIENCE):
        for watch, change, event in (
            (client.exists, lambda: client.create("/n"), aiozk.WatchEvent.CREATED),
            (client.get, lambda: client.set_data("/n", b"1"), aiozk.WatchEvent.DATA_CHANGED),
            (client.get_children, lambda: client.create("/n/c"), aiozk.WatchEvent.CHILDREN_CHANGED),
            (client.exists, lambda: client.deleteall("/n"), aiozk.WatchEvent.DELETED),
        ):
            told = client.wait_for_events([event], "/n")
            await watch("/n", watch=True)
            assert not told.done()
            await change()
            await told


async def test_transaction(client: Any) -> None:
    """A transaction is applied completely or not at all."""
    transaction = client.begin_transaction()
    transaction.create("/a", b"one")
    transaction.set_data("/a", b"two")
    transaction.check_version("/a", 1)
    result = await transaction.commit()
    assert (result.created, result.updated, result.checked) == ({"/a"}, {"/a"}, {"/a"})
    failing = client.begin_transaction()
    failing.create("/b")
    failing.check_version("/a", 7)
    assert not await failing.commit()
    assert not await client.exists("/b")


async def test_lock(client: Any, server: str, place: str) -> None:
    """One contender holds at a time."""
    other = await client_of(server, place)
    async with asyncio.timeout(PATIENCE):
        first, second = client.recipes.Lock("/lock"), other.recipes.Lock("/lock")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())

        async def both_stand() -> bool:
            return len(await client.get_children("/lock")) == 2

        await until(both_stand, "both stand in line")
        assert not waiting.done()
        await first.release()
        await waiting
        assert second.locked()
        await second.release()
        await other.close()
