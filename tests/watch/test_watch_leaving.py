"""Leaving a watch leaves nothing, on neither side (W5); a wait that is cancelled loses nothing (S8)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable

import pytest

import corral
from client_support import requests_seen
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, turns, until

Watchers = Callable[[str], Awaitable[int]]


async def next_event(events: corral.NodeWatch) -> corral.Event:
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


def registered(zk: corral.Client) -> tuple[int, int]:
    """How many feeds and how many watched paths a client has: no public attribute tells."""
    return len(zk._feeds), len(zk._session._machine.watches)


async def until_unregistered(zk: corral.Client) -> None:
    async def unregistered() -> bool:
        return registered(zk) == (0, 0)

    await until(unregistered, "the client has no watch left")


async def gone(zk: corral.Client, watchers: Watchers) -> None:
    """Nothing is registered for /node, here or on the server."""

    async def nothing() -> bool:
        return registered(zk) == (0, 0) and await watchers("/node") == 0

    await until(nothing, "no watch of /node is left")


async def by_break(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in zk.watch("/node"):
        reached.set()
        await go.wait()
        break


async def by_return_while_nested(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in zk.watch("/node"):
        async for _ in zk.watch("/node"):
            reached.set()
            await go.wait()
            return


async def by_exception(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in zk.watch("/node"):
        reached.set()
        await go.wait()
        raise LookupError("the body's own")


async def by_cancel_of_the_body(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in zk.watch("/node"):
        reached.set()
        await asyncio.get_running_loop().create_future()


async def by_cancel_of_the_wait(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in zk.watch("/node"):
        reached.set()


async def by_a_timeout(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in zk.watch("/node"):
        break
    async with asyncio.timeout(None) as scope:
        async for _ in zk.watch("/node"):
            reached.set()
            await go.wait()
            scope.reschedule(0)


async def by_async_with(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    async with zk.watch("/node") as events:
        await anext(events)
        reached.set()
        await go.wait()
    assert registered(zk) == (0, 0)  # and not only when the object goes
    del events


async def by_close(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    events = zk.watch("/node")
    await anext(events)
    reached.set()
    await go.wait()
    events.close()
    assert registered(zk) == (0, 0)


async def by_forgetting(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    events = zk.watch("/node")
    await anext(events)
    reached.set()
    await go.wait()
    del events
    await until_unregistered(zk)


async def by_garbage(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    cycle: list[object] = [zk.watch("/node")]
    cycle.append(cycle)
    await anext(cycle[0])  # type: ignore[call-overload]
    reached.set()
    await go.wait()
    del cycle
    gc.collect()


async def by_garbage_of_another_thread(zk: corral.Client, reached: asyncio.Event, go: asyncio.Event) -> None:
    cycle: list[object] = [zk.watch("/node")]
    cycle.append(cycle)
    await anext(cycle[0])  # type: ignore[call-overload]
    reached.set()
    await go.wait()
    del cycle
    collecting = threading.Thread(target=gc.collect)
    collecting.start()
    collecting.join()
    assert registered(zk) == (1, 1)  # from there it is only asked for
    await until_unregistered(zk)


WAYS = [
    by_break,
    by_return_while_nested,
    by_exception,
    by_cancel_of_the_body,
    by_cancel_of_the_wait,
    by_a_timeout,
    by_async_with,
    by_close,
    by_forgetting,
    by_garbage,
    by_garbage_of_another_thread,
]


@pytest.mark.parametrize("exists", [True, False], ids=["node", "no node"])
@pytest.mark.parametrize("leave", WAYS)
async def test_leaving_ends_the_watch(
    zk: corral.Client,
    other: corral.Client,
    watchers: Watchers,
    leave: Callable[[corral.Client, asyncio.Event, asyncio.Event], Awaitable[None]],
    exists: bool,
) -> None:
    """W5: whichever way a loop is left, nothing stays registered on the server, and nothing in the client."""
    if exists:
        await other.create("/node")
    reached, go = asyncio.Event(), asyncio.Event()
    following = asyncio.ensure_future(leave(zk, reached, go))
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    assert registered(zk) == (1, 1)
    assert await watchers("/node") == 1
    go.set()
    if "cancel" in leave.__name__:
        following.cancel()
    await asyncio.wait([following])
    error = None if following.cancelled() else following.exception()
    assert isinstance(error, LookupError | TimeoutError | None)
    await gone(zk, watchers)  # although somebody keeps the task, and so its traceback


async def test_closing_the_client_ends_its_watches(
    connect: Callable[..., corral.Client], other: corral.Client, watchers: Watchers
) -> None:
    """W5, S5: a closed client's watches raise that it is closed, also to who waits, and none is left."""
    async with connect() as zk:
        idle, busy = zk.watch("/node"), zk.watch("/node")
        await next_event(idle)
        await next_event(busy)
        waiting = asyncio.create_task(next_event(busy))
        await turns()
        assert await watchers("/node") == 1
    with pytest.raises(corral.ClientClosed):
        await waiting
    for events in (idle, busy):
        with pytest.raises(corral.ClientClosed):
            await next_event(events)
        events.close()
    del waiting
    await gone(zk, watchers)


async def test_watch_that_was_never_read(zk: corral.Client, proxy: FaultProxy, watchers: Watchers) -> None:
    """W5: a watch that nobody read has asked nothing of anybody."""
    events = zk.watch("/node")
    assert registered(zk) == (0, 0)
    async with events:
        pass
    await gone(zk, watchers)


async def test_left_while_the_first_read_is_under_way(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers
) -> None:
    """W5: a reader that leaves before its answer comes leaves no watch, though the server has set one."""
    await other.create("/node")
    async with proxy.black_hole(requests=False) as held:
        waiting = asyncio.create_task(next_event(proxied.watch("/node")))
        await held.arrived()
        assert await watchers("/node") == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        del waiting
    await gone(proxied, watchers)


async def test_one_leaves_and_another_comes_while_the_read_is_under_way(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers
) -> None:
    """W5, W7: leaving takes back one's own interest, not that of who has come since."""
    await other.create("/node", b"x")
    async with proxy.black_hole(requests=False) as held:
        waiting = asyncio.create_task(next_event(proxied.watch("/node")))
        await held.arrived()
        waiting.cancel()
        await asyncio.wait([waiting])
        events = proxied.watch("/node")
        waiting = asyncio.create_task(next_event(events))
        await turns()
    assert (await waiting).data == b"x"
    await proxied.sync()
    assert await watchers("/node") == 1
    await other.set("/node", b"y")
    assert (await next_event(events)).data == b"y"


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_left_while_disconnected(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers, how: str
) -> None:
    """W5: a watch that was left without a connection is not set again on the next one."""
    await other.create("/node")
    async with requests_seen(proxy) as requests:
        events = proxied.watch("/node")
        await next_event(events)
        async with proxy.refuse():
            await proxy.cut()
            waiting = asyncio.create_task(next_event(events))
            await turns()
            if how == "close":
                events.close()
            else:
                waiting.cancel()
            await asyncio.wait([waiting])
            waiting.cancelled() or waiting.exception()
            del waiting, events
        await proxied.exists("/node")
    assert requests.count(messages.SET_WATCHES) == 0
    await gone(proxied, watchers)


@pytest.mark.parametrize("steps", [*range(8), 16, 32, 64, 128, 256])
async def test_cancelled_wait_loses_nothing(zk: corral.Client, other: corral.Client, steps: int) -> None:
    """S8, W3: `anext` may be cancelled at any step; the next one gives what it would have given."""
    await other.create("/node", b"first")
    async with zk.watch("/node") as events:
        expected = b"first"
        for change in (None, b"second", b"third"):
            if change is not None:
                await other.set("/node", change)
                expected = change
            waiting = asyncio.create_task(next_event(events))
            await turns(steps)
            waiting.cancel()
            await asyncio.wait([waiting])
            if waiting.cancelled():
                assert (await next_event(events)).data == expected
            else:
                assert waiting.result().data == expected


async def test_cancelled_in_the_tick_of_the_event(zk: corral.Client, other: corral.Client) -> None:
    """S8, W3: a reader that is cancelled when its event is there, but has not run yet, gets it next time."""
    await other.create("/node", b"first")
    watches = [zk.watch("/node") for _ in range(2)]
    await asyncio.gather(*map(next_event, watches))
    readers: list[asyncio.Task[bytes | None]] = []

    async def read_and_cancel_the_other(number: int) -> bytes | None:
        event = await anext(watches[number])
        readers[
            1 - number
        ].cancel()  # woken in the same tick: whoever runs first cancels the one that has not
        return event.data

    readers += [asyncio.create_task(read_and_cancel_the_other(number)) for number in range(2)]
    await turns()
    await other.set("/node", b"second")
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(readers)
    [late] = [number for number in range(2) if readers[number].cancelled()]
    assert readers[1 - late].result() == b"second"
    assert (await next_event(watches[late])).data == b"second"


async def test_polling_costs_nothing(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers
) -> None:
    """W4: an `anext` that is cancelled again and again, as polling does it, asks the server nothing."""
    await other.create("/node", b"x")
    async with requests_seen(proxy) as requests, proxied.watch("/node") as events:
        await next_event(events)
        for _ in range(20):
            waiting = asyncio.create_task(next_event(events))
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
        await proxied.sync()
        assert (requests.count(messages.GET), requests.count(messages.REMOVE_WATCHES)) == (1, 0)
        assert await watchers("/node") == 1
