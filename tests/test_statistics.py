"""`Client.statistics`: each number is compared with what the client does, and with what a proxy sees."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

import corral
from corral import State
from corral.testing import FaultProxy
from support import turns

Connect = Callable[..., corral.Client]


async def test_before_and_after(connect: Connect) -> None:
    """They can be read before a client is entered and after it was left."""
    client = connect(session_timeout=7)
    before = client.statistics()
    assert (before.state, before.state_age, before.server, before.session_id) == (
        State.SUSPENDED,
        0.0,
        None,
        0,
    )
    assert (before.session_timeout, before.bytes_sent, before.bytes_received) == (7, 0, 0)
    assert (before.held, before.lease_left, before.caches) == ((), None, 0)
    async with client:
        pass
    after = client.statistics()
    assert (after.state, after.server, after.session_id) == (State.CLOSED, None, 0)
    assert (after.sessions_opened, after.reconnects) == (1, 0)
    assert after.bytes_sent > 0
    assert after.bytes_received > 0


async def test_they_are_frozen(zk: corral.Client) -> None:
    """The record is a snapshot: it cannot be changed, and does not change."""
    statistics = zk.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.waiting = 1  # type: ignore[misc]
    await zk.exists("/")
    assert statistics.bytes_sent < zk.statistics().bytes_sent


async def test_the_session(connect: Connect, proxy: FaultProxy) -> None:
    """They have the server, the state and since when it lasts, and the numbers of sessions and reconnects."""
    async with connect(proxy.address) as zk:
        now = zk.statistics()
        assert (now.server, now.state, now.session_id) == (zk.server, State.CONNECTED, zk.session_id)
        assert now.session_timeout == zk.session_timeout
        assert 0 <= now.state_age <= zk.statistics().state_age
        assert (now.sessions_opened, now.reconnects) == (1, 0)
        await proxy.cut()
        await zk.exists("/")
        now = zk.statistics()
        assert (now.sessions_opened, now.reconnects) == (1, 1)
        states = zk.states()
        async with proxy.refuse():
            await proxy.expire()
            while await anext(states) is not State.SUSPENDED:
                pass
            assert zk.statistics().server is None
        await zk.exists("/")
        while (now := zk.statistics()).sessions_opened < 2:
            await anext(states)
        assert now.reconnects >= 2
        assert now.state is State.CONNECTED


async def test_requests_and_bytes(connect: Connect, proxy: FaultProxy) -> None:
    """Requests wait while there is no connection, are in flight once sent, and neither once answered. Byte
    counts include all connections."""
    async with connect(proxy.address) as zk:
        size = 10_000
        sent = zk.statistics().bytes_sent
        await zk.set("/", bytes(size))
        assert size < zk.statistics().bytes_sent - sent < 2 * size
        received = zk.statistics().bytes_received
        async with proxy.black_hole():
            reads = [asyncio.create_task(zk.get("/")) for _ in range(3)]
            await turns()
            assert (zk.statistics().in_flight, zk.statistics().waiting) == (3, 0)
        await asyncio.gather(*reads)
        assert (zk.statistics().in_flight, zk.statistics().waiting) == (0, 0)
        assert 3 * size < zk.statistics().bytes_received - received < 4 * size
        before = zk.statistics()
        states = zk.states()
        await anext(states)
        async with proxy.refuse():
            await proxy.cut()
            assert await anext(states) is State.SUSPENDED
            read = asyncio.create_task(zk.get("/"))
            await turns()
            assert (zk.statistics().in_flight, zk.statistics().waiting) == (0, 1)
        await read
        after = zk.statistics()
        assert after.bytes_received - before.bytes_received > size
        assert after.bytes_sent > before.bytes_sent


async def test_what_is_held(zk: corral.Client, root: str) -> None:
    """They have the nodes of locks by full path, and the seconds left of the lease."""
    assert (zk.statistics().held, zk.statistics().lease_left) == ((), None)
    async with zk.lock("/a") as a, zk.chroot("/below").lock("/b"):
        now = zk.statistics()
        assert len(now.held) == 2
        assert a.node in now.held
        assert any(node.startswith(f"{root}/below/b/") for node in now.held)
        assert now.lease_left is not None
        assert 0 < now.lease_left <= now.session_timeout
    assert zk.statistics().held == ()


async def test_what_is_watched(zk: corral.Client) -> None:
    """They have the watched paths by kind, however many watchers there are; caches and tree watches of one
    subtree share one copy."""
    nothing = {"node": 0, "children": 0, "persistent": 0, "recursive": 0}
    assert zk.statistics().watches == nothing
    await zk.create("/tree/a", b"", make_parents=True)
    async with (
        zk.watch("/tree") as node,
        zk.watch("/tree") as again,
        zk.watch_children("/tree") as children,
        zk.cache("/tree") as cache,
        zk.watch_tree("/tree") as tree,
    ):
        for watch in (node, again, children, tree):
            await anext(watch)
        now = zk.statistics()
        assert now.watches == nothing | {"node": 1, "children": 1, "recursive": 1}
        assert (now.caches, now.cached_znodes) == (1, len(cache)) == (1, 2)
    assert zk.statistics().watches == nothing
    assert (zk.statistics().caches, zk.statistics().cached_znodes) == (0, 0)
