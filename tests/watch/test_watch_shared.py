"""The cost of a watch: the newest state instead of a backlog (W2), shared by all in a client (W4, W7)."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from watching import next_of

import corral
from client_support import requests_seen
from corral import EventKind
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, turns, until

Watchers = Callable[[str], Awaitable[int]]
WRITES = 1000


async def write_many(zk: corral.Client, path: str, size: int) -> bytes:
    """A thousand writes of `size` bytes; returns the data of the last one."""
    last = b""
    for number in range(WRITES):
        last = b"%0*d" % (size, number)
        await zk.set(path, last)
    return last


async def test_reader_that_lags_behind_skips(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W2: a slow reader sees fewer states, each read once, and ends with the last."""
    await other.create("/node", b"first")
    seen = []

    async def read_slowly(until_data: bytes) -> None:
        async for event in proxied.watch("/node"):
            seen.append(event)
            if event.data == until_data:
                return
            await proxied.sync()
            await proxied.exists("/")  # two round trips for each event; a write takes one

    async with requests_seen(proxy) as requests:
        reading = asyncio.create_task(read_slowly(b"%010d" % (WRITES - 1)))
        await write_many(other, "/node", size=10)
        async with asyncio.timeout(PATIENCE):
            await reading
    assert requests.count(messages.GET) == len(seen) < WRITES
    assert [event.stat.mzxid for event in seen] == sorted({event.stat.mzxid for event in seen})


async def test_memory_does_not_grow_with_the_writes(zk: corral.Client, other: corral.Client) -> None:
    """W2: for a reader that stays away, a thousand writes leave less in memory than ten of them have data."""
    size = 10_000
    await other.create("/node", bytes(size))
    async with zk.watch("/node") as events:
        await next_of(events)
        await other.set("/node", bytes(size))
        tracemalloc.start()
        try:
            last = await write_many(other, "/node", size)
            await zk.exists("/node")
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 10 * size
        assert (await next_of(events)).data == last


async def test_readers_of_a_chroot_share_too(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W4: clients made by `chroot` share the session, and its watches."""
    await other.create("/team/node", b"x", make_parents=True)
    async with requests_seen(proxy) as requests:
        async with proxied.watch("/team/node") as above, proxied.chroot("/team").watch("/node") as below:
            await asyncio.gather(next_of(above), next_of(below))
            waiting = [asyncio.create_task(next_of(events)) for events in (above, below)]
            await turns()
            await other.set("/team/node", b"y")
            assert [event.data for event in await asyncio.gather(*waiting)] == [b"y", b"y"]
    assert requests.count(messages.GET) == 2


async def test_reconnect_sets_one_watch_for_all(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers
) -> None:
    """W4: after a reconnect the shared watch is set once, and nothing is read that did not change."""
    await other.create("/node", b"x")
    watches = [proxied.watch("/node") for _ in range(10)]
    await asyncio.gather(*map(next_of, watches))
    await proxied.exists("/")  # confirms the zxid from which the watch is set again
    waiting = [asyncio.create_task(next_of(events)) for events in watches]
    async with requests_seen(proxy) as requests:
        await proxy.cut()
        await proxied.exists("/node")
        assert (requests.count(messages.SET_WATCHES), requests.count(messages.GET)) == (1, 0)
        assert await watchers("/node") == 1
        await other.set("/node", b"y")
        assert {event.data for event in await asyncio.gather(*waiting)} == {b"y"}
        assert requests.count(messages.GET) == 1


@pytest.mark.parametrize("stays", [0, 1], ids=["the first stays", "the second stays"])
async def test_one_reader_leaves_another_stays(
    zk: corral.Client, other: corral.Client, watchers: Watchers, stays: int
) -> None:
    """W5, W7: a reader that leaves does not affect one that stays."""
    await other.create("/node", b"x")
    watches = [zk.watch("/node"), zk.watch("/node")]
    for events in watches:
        await next_of(events)
    waiting = asyncio.create_task(next_of(watches[stays]))
    await turns()
    watches[1 - stays].close()
    await zk.sync()
    assert await watchers("/node") == 1
    await other.set("/node", b"y")
    assert (await waiting).data == b"y"


@pytest.mark.parametrize("leaves", ["watch", "waiter"])
async def test_watch_and_lock_waiter_on_one_node(
    zk: corral.Client, other: corral.Client, watchers: Watchers, leaves: str
) -> None:
    """W7: a watch of a lock holder's node and a waiter for that holder do not affect each other."""
    held = await other.lock("/lock").acquire()
    node = held.node.removeprefix(zk.chroot_path)
    async with zk.watch(node) as events:
        await next_of(events)
        acquiring = asyncio.create_task(zk.lock("/lock").acquire())
        await until(lambda: in_line(other, 2), "it stands in the line")
        await zk.exists(node)  # after the read that sets the waiter's watch, so that one has been answered
        following = asyncio.create_task(next_of(events))
        await turns()
        leaving, staying = (following, acquiring) if leaves == "watch" else (acquiring, following)
        leaving.cancel()
        await asyncio.wait([leaving])
        if leaves == "watch":
            events.close()
        await zk.sync()
        assert await watchers(node) == 1
        await held.release()
        async with asyncio.timeout(PATIENCE):
            result = await staying
    if isinstance(result, corral.Held):
        await result.release()
    else:
        assert result.kind is EventKind.DELETED
    await until(lambda: nobody_watches(watchers, node), "no watch is left")


async def nobody_watches(watchers: Watchers, path: str) -> bool:
    return await watchers(path) == 0


async def in_line(zk: corral.Client, count: int) -> bool:
    return len(await zk.children("/lock")) == count
