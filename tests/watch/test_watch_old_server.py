"""A server without persistent watches, before ZooKeeper 3.6: what needs them raises at once, and breaks
nothing.

The embedded server behaves like UnimplementedRequestProcessor: it answers with an error and closes the
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import corral
from client_support import requests_seen
from corral.testing import EmbeddedServer, FaultProxy
from corral.wire import messages
from support import PATIENCE, turns


@pytest.fixture
async def old_server() -> AsyncIterator[EmbeddedServer]:
    """A ZooKeeper 3.5, in this event loop."""
    async with EmbeddedServer(version="3.5") as server:
        yield server


@pytest.fixture
async def old(old_server: EmbeddedServer) -> AsyncIterator[corral.Client]:
    """A client of it."""
    async with corral.connect(old_server.address, session_timeout=4.0) as zk:
        yield zk


async def enter_cache(zk: corral.Client) -> object:
    async with zk.cache("/node") as cache:
        return cache


WAYS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "tree": lambda zk: anext(zk.watch_tree("/node")),
    "cache": enter_cache,
    "raw": lambda zk: anext(zk.watch_raw("/node")),
    "recursive raw": lambda zk: anext(zk.watch_raw("/node", recursive=True)),
}


def registered(zk: corral.Client) -> tuple[int, int]:
    """How many feeds and how many watched paths a client has."""
    return len(zk._feeds), sum(zk.statistics().watches.values())


async def refused(zk: corral.Client, way: str) -> corral.Unimplemented:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(corral.Unimplemented, match=r"ZooKeeper 3\.6") as raised:
            await WAYS[way](zk)
    return raised.value


@pytest.mark.parametrize("way", WAYS)
async def test_refused_at_once(old_server: EmbeddedServer, way: str) -> None:
    """W6: everything that needs a persistent watch raises Unimplemented, which says since which version there
    are any. The server was asked once. Nothing is left registered, in the client or on the server."""
    async with (
        FaultProxy(old_server.address) as proxy,
        corral.connect(proxy.address, session_timeout=4.0) as zk,
        requests_seen(proxy) as requests,
    ):
        error = await refused(zk, way)
        assert "/node" in str(error)
        assert requests.count(messages.ADD_WATCH) == 1
        await zk.exists("/node")
        assert requests.count(messages.ADD_WATCH) == 1
        await turns()
        assert registered(zk) == (0, 0)
        assert old_server.zookeeper.watches.count() == 0


@pytest.mark.parametrize("way", WAYS)
async def test_the_client_works_on(old: corral.Client, old_server: EmbeddedServer, way: str) -> None:
    """W6, S2: the session stays, with what it holds; reads, watches and locks work."""
    session = old.session_id
    await old.create("/node", b"x", ephemeral=True)
    async with old.lock("/lock") as held:
        await refused(old, way)
        assert (await old.get("/node"))[0] == b"x"
        assert held.is_valid
        async with old.watch("/node") as events, asyncio.timeout(PATIENCE):
            assert (await anext(events)).data == b"x"
            await old.set("/node", b"y")
            assert (await anext(events)).data == b"y"
    async with old.lock("/lock"):
        assert old.session_id == session
    assert registered(old) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_again_and_again(old: corral.Client, way: str) -> None:
    """W6: a caller that tries again gets the error again."""
    for _ in range(3):
        await refused(old, way)
    assert (await old.exists("/node")) is None


@pytest.mark.parametrize("way", ["tree", "recursive raw", "raw"])
async def test_all_who_ask_are_told(old: corral.Client, way: str) -> None:
    """W6: several readers that share a refused watch each get the error, and so do those of another path."""
    others = [asyncio.create_task(refused(old, each)) for each in (way, way)]
    elsewhere = asyncio.create_task(anext(old.watch_tree("/elsewhere")))
    await asyncio.gather(*others)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(corral.Unimplemented):
            await elsewhere


@pytest.mark.parametrize("kind", ["watch", "watch_children"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_watch_of_the_same_path_goes_on(old: corral.Client, way: str, kind: str) -> None:
    """W7: a refused watch has no effect: a watch of the node before and after it misses nothing."""
    await old.create("/node")
    async with getattr(old, kind)("/node") as events, asyncio.timeout(PATIENCE):
        await anext(events)
        waiting = asyncio.create_task(anext(events))
        await turns()
        await refused(old, way)
        assert not waiting.done()
        await old.exists("/node")
        for number in range(2):
            if kind == "watch":
                await old.set("/node", b"%d" % number)
                assert (await waiting).data == b"%d" % number
            else:
                await old.create(f"/node/{number}")
                assert f"{number}" in (await waiting).children
            waiting = asyncio.create_task(anext(events))
            await turns()
        waiting.cancel()
        await asyncio.wait([waiting])
