"""Leaving a watch or a cache leaves no watch in the client or on the server (W5); a cancelled wait loses
nothing (S8)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from watching import (
    KINDS,
    STATES,
    Reader,
    WatchKind,
    begin,
    first_of,
    next_of,
    registered,
    tells_nothing,
    told_of,
    until_unregistered,
)

import corral
from client_support import requests_seen
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, turns, until

Watchers = Callable[[str], Awaitable[int]]
Count = Callable[[], Awaitable[int]]
Watch = Callable[[], Reader]


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> WatchKind:
    """Each kind of watch."""
    return KINDS[request.param]


async def gone(zk: corral.Client, watch_count: Count) -> None:
    """Wait until nothing is registered, in the client or on the server."""

    async def nothing() -> bool:
        return registered(zk) == (0, 0) and await watch_count() == 0

    await until(nothing, "no watch is left")


async def by_break(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in watch():
        reached.set()
        await go.wait()
        break


async def by_return_while_nested(
    zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event
) -> None:
    async for _ in watch():
        async for _ in watch():
            reached.set()
            await go.wait()
            return


async def by_exception(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in watch():
        reached.set()
        await go.wait()
        raise LookupError("the body's own")


async def by_cancel_of_the_body(
    zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event
) -> None:
    async for _ in watch():
        reached.set()
        await asyncio.get_running_loop().create_future()


async def by_cancel_of_the_wait(
    zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event
) -> None:
    async for _ in watch():
        reached.set()


async def by_a_timeout(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    async for _ in watch():
        break
    async with asyncio.timeout(None) as scope:
        async for _ in watch():
            reached.set()
            await go.wait()
            scope.reschedule(0)


async def by_async_with(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    async with watch() as events:
        await anext(events)
        reached.set()
        await go.wait()
    assert registered(zk) == (0, 0)  # not only when the object is collected
    del events


async def by_close(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    events = watch()
    await anext(events)
    reached.set()
    await go.wait()
    events.close()
    assert registered(zk) == (0, 0)


async def by_forgetting(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    events = watch()
    await anext(events)
    reached.set()
    await go.wait()
    del events
    await until_unregistered(zk)


async def by_garbage(zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event) -> None:
    cycle: list[object] = [watch()]
    cycle.append(cycle)
    await anext(cycle[0])  # type: ignore[call-overload]
    reached.set()
    await go.wait()
    del cycle
    gc.collect()


async def by_garbage_of_another_thread(
    zk: corral.Client, watch: Watch, reached: asyncio.Event, go: asyncio.Event
) -> None:
    cycle: list[object] = [watch()]
    cycle.append(cycle)
    await anext(cycle[0])  # type: ignore[call-overload]
    reached.set()
    await go.wait()
    del cycle
    collecting = threading.Thread(target=gc.collect)
    collecting.start()
    collecting.join()
    assert registered(zk) != (0, 0)  # its removal is only scheduled from there
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
    watch_count: Count,
    kind: WatchKind,
    leave: Callable[[corral.Client, Watch, asyncio.Event, asyncio.Event], Awaitable[None]],
    exists: bool,
) -> None:
    """W5: however a loop ends, no watch is left on the server, and nothing in the client."""
    if exists:
        await other.create("/node")
    reached, go = asyncio.Event(), asyncio.Event()
    following = asyncio.ensure_future(leave(zk, lambda: kind.make(zk), reached, go))
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    assert registered(zk)[0] == 1
    assert await watch_count() > 0
    go.set()
    if "cancel" in leave.__name__:
        following.cancel()
    await asyncio.wait([following])
    error = None if following.cancelled() else following.exception()
    assert isinstance(error, LookupError | TimeoutError | None)
    await gone(zk, watch_count)  # although something refers to the task, and so to its traceback


# Tasks that have ended


async def fails_in_the_body(events: Reader, reached: asyncio.Event) -> None:
    await begin(events)
    reached.set()
    async for _ in events:
        raise LookupError("the body's own")


async def fails_after_the_loop(events: Reader, reached: asyncio.Event) -> None:
    await begin(events)
    reached.set()
    async for _ in events:
        break
    raise LookupError("the task's own")


async def is_cancelled_in_the_body(events: Reader, reached: asyncio.Event) -> None:
    await begin(events)
    reached.set()
    async for _ in events:
        await asyncio.get_running_loop().create_future()


async def is_cancelled_while_it_waits(events: Reader, reached: asyncio.Event) -> None:
    await begin(events)
    reached.set()
    async for _ in events:
        pass


ENDS = [fails_in_the_body, fails_after_the_loop, is_cancelled_in_the_body, is_cancelled_while_it_waits]


@pytest.mark.parametrize("end", ENDS)
async def test_named_iterator_of_a_task_that_is_over(
    zk: corral.Client,
    other: corral.Client,
    watch_count: Count,
    kind: WatchKind,
    end: Callable[[Reader, asyncio.Event], Awaitable[None]],
) -> None:
    """W5: a named iterator is kept alive by the exception of the task that has read it, if something refers
    to that. No watch stays registered nevertheless. A later reader continues where it was, and gets nothing
    twice."""
    kept: list[BaseException] = []

    async def follow() -> None:
        events = kind.make(zk)
        named.append(events)
        try:
            await end(events, reached)
        except BaseException as error:
            kept.append(error)
            raise

    named: list[Reader] = []
    await other.create("/node")
    reached = asyncio.Event()
    following = asyncio.create_task(follow())
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    await kind.change(other, 1)
    for _ in range(4):
        await zk.exists("/")
        await turns()
    if "cancel" in end.__name__:
        following.cancel()
    await asyncio.wait([following])
    assert following.cancelled() or isinstance(following.exception(), LookupError)
    await gone(zk, watch_count)
    assert kept

    [events] = named
    if not kind.states:
        assert (await next_of(events)).kind is corral.RawKind.MISSED
    await tells_nothing(zk, events)
    assert kind.shows(await told_of(kind.change(other, 2), events), 2)
    await tells_nothing(zk, events)
    del kept[:], events, named[:], following
    gc.collect()
    await gone(zk, watch_count)


@pytest.mark.parametrize("name", STATES)
async def test_changes_between_two_tasks(zk: corral.Client, other: corral.Client, name: str) -> None:
    """W3, W5: changes made while no task read a named iterator are reported to its next reader."""
    kind = KINDS[name]
    await other.create("/node")
    events = kind.make(zk)

    async def fail() -> None:
        await begin(events)
        raise LookupError

    failing = asyncio.create_task(fail())
    await asyncio.wait([failing])
    await until_unregistered(zk)
    await kind.change(other, 1)
    await kind.change(other, 2)
    event = await next_of(events)
    assert kind.shows(event, 2)
    assert failing.exception() is not None
    await tells_nothing(zk, events)


async def test_tree_of_a_task_that_fails_before_it_is_complete(
    zk: corral.Client, other: corral.Client
) -> None:
    """W1, W5: if a task ends after a part of a tree's initial events, the next task gets the rest, from
    there, and the completing event once."""
    await other.create("/node")
    for name in ("a", "b", "c"):
        await other.create(f"/node/{name}")
    events = zk.watch_tree("/node")
    told: list[str] = []

    async def fail() -> None:
        async for event in events:
            told.append(event.path)
            if len(told) == 2:
                raise LookupError

    failing = asyncio.create_task(fail())
    await asyncio.wait([failing])
    await until_unregistered(zk)
    told += [event.path for event in await first_of(events)]
    assert sorted(told) == ["/node", "/node/a", "/node/b", "/node/c"]
    assert failing.exception() is not None
    await tells_nothing(zk, events)


async def test_deletions_that_wait_for_a_reader_between_two_tasks(
    zk: corral.Client, other: corral.Client
) -> None:
    """W1, W5: if a task fails with deletions pending, the next one gets them, children before parents."""
    for path in ("/node", "/node/a", "/node/a/b"):
        await other.create(path)
    events = zk.watch_tree("/node")

    async def fail() -> None:
        await first_of(events)
        async with zk.watch_tree("/node") as quick:
            await first_of(quick)
            for path in ("/node/a/b", "/node/a"):
                await told_of(other.delete(path), quick)
        raise LookupError

    failing = asyncio.create_task(fail())
    await asyncio.wait([failing])
    assert isinstance(failing.exception(), LookupError)
    await until_unregistered(zk)
    told = [(await next_of(events))[:2] for _ in range(2)]
    assert told == [(corral.EventKind.DELETED, "/node/a/b"), (corral.EventKind.DELETED, "/node/a")]


async def test_failure_of_a_task_is_still_reported(zk: corral.Client, other: corral.Client) -> None:
    """W5: the watch's observation of how its reader's task ended does not suppress the event loop's report of
    the exception."""
    await other.create("/node")
    reported: list[BaseException | None] = []
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))

    events = zk.watch("/node")

    async def fail() -> None:
        async for _ in events:
            raise LookupError("nobody waits for this task")

    try:
        failing = asyncio.create_task(fail())
        await asyncio.wait([failing])
        await turns()
        del failing
        gc.collect()
    finally:
        loop.set_exception_handler(handler)
    assert [type(error) for error in reported] == [LookupError]


async def test_task_that_ends_well_leaves_the_watch(
    zk: corral.Client, other: corral.Client, kind: WatchKind
) -> None:
    """W5: an iterator outlives a task that ends normally, such as one for a single `anext`: it belongs to the
    caller."""
    await other.create("/node")
    events = kind.make(zk)
    await asyncio.create_task(begin(events))
    assert registered(zk)[0] == 1
    async with asyncio.timeout(PATIENCE):
        [_, event] = await asyncio.gather(kind.change(other, 1), asyncio.wait_for(anext(events), PATIENCE))
    assert kind.shows(event, 1)
    assert registered(zk)[0] == 1
    events.close()
    assert registered(zk) == (0, 0)


# Closing, late answers, and readers that come and go


async def test_closing_the_client_ends_its_watches(
    connect: Callable[..., corral.Client], other: corral.Client, watch_count: Count, kind: WatchKind
) -> None:
    """W5, S5: the watches of a closed client raise ClientClosed, also to waiting readers, and none is
    left."""
    async with connect() as zk:
        idle, busy = kind.make(zk), kind.make(zk)
        await begin(idle)
        await begin(busy)
        waiting = asyncio.create_task(next_of(busy))
        await turns()
        assert await watch_count() > 0
    with pytest.raises(corral.ClientClosed):
        await waiting
    for events in (idle, busy):
        with pytest.raises(corral.ClientClosed):
            await next_of(events)
        events.close()
    del waiting
    await gone(zk, watch_count)


async def test_watch_that_was_never_read(zk: corral.Client, watch_count: Count, kind: WatchKind) -> None:
    """W5: a watch that nobody read has sent no request."""
    events = kind.make(zk)
    assert registered(zk) == (0, 0)
    async with events:
        pass
    await gone(zk, watch_count)


async def test_left_while_the_first_read_is_under_way(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watch_count: Count, kind: WatchKind
) -> None:
    """W5: if a reader leaves before its answer arrives, no watch is left, although the server has set one."""
    await other.create("/node")
    async with proxy.black_hole(requests=False) as held:
        waiting = asyncio.create_task(next_of(kind.make(proxied)))
        await held.arrived()
        assert await watch_count() > 0
        waiting.cancel()
        await asyncio.wait([waiting])
        del waiting
    await gone(proxied, watch_count)


async def test_one_leaves_and_another_comes_while_the_read_is_under_way(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watch_count: Count, kind: WatchKind
) -> None:
    """W5, W7: leaving removes only the reader's own interest, not that of readers that came since."""
    await other.create("/node")
    async with proxy.black_hole(requests=False) as held:
        waiting = asyncio.create_task(next_of(kind.make(proxied)))
        await held.arrived()
        waiting.cancel()
        await asyncio.wait([waiting])
        events = kind.make(proxied)
        waiting = asyncio.create_task(begin(events))
        await turns()
    await waiting
    await proxied.sync()
    assert await watch_count() > 0
    assert kind.shows(await told_of(kind.change(other, 1), events), 1)


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_left_while_disconnected(
    proxied: corral.Client,
    proxy: FaultProxy,
    other: corral.Client,
    watch_count: Count,
    kind: WatchKind,
    how: str,
) -> None:
    """W5: a watch that was left while disconnected is not set again on the next connection."""
    await other.create("/node")
    async with requests_seen(proxy) as requests:
        events = kind.make(proxied)
        await begin(events)
        async with proxy.refuse():
            await proxy.cut()
            waiting = asyncio.create_task(next_of(events))
            await turns()
            if how == "close":
                events.close()
            else:
                waiting.cancel()
            await asyncio.wait([waiting])
            waiting.cancelled() or waiting.exception()
            del waiting, events
        await proxied.exists("/node")
    assert requests.count(messages.SET_WATCHES, messages.SET_WATCHES2) == 0
    await gone(proxied, watch_count)


@pytest.mark.parametrize("steps", [*range(8), 16, 32, 64, 128, 256])
async def test_cancelled_wait_loses_nothing(
    zk: corral.Client, other: corral.Client, kind: WatchKind, steps: int
) -> None:
    """S8, W3: `anext` may be cancelled at any step; the next call returns what it would have returned."""
    await other.create("/node")
    async with kind.make(zk) as events:
        for change in range(4):
            if change:
                await kind.change(other, change)
            waiting = asyncio.create_task(next_of(events) if change else begin(events))
            await turns(steps)
            waiting.cancel()
            await asyncio.wait([waiting])
            if change:
                event: Any = await next_of(events) if waiting.cancelled() else waiting.result()
                assert kind.shows(event, change)
            elif waiting.cancelled():
                # The first event, or the rest of a tree's initial ones, has not been returned yet.
                await begin(events)
        await tells_nothing(zk, events)


async def test_cancelled_in_the_tick_of_the_event(
    zk: corral.Client, other: corral.Client, kind: WatchKind
) -> None:
    """S8, W3: a reader that is cancelled when its event is there, but before it has run, gets the event on
    the next call."""
    await other.create("/node")
    watches = [kind.make(zk) for _ in range(2)]
    await asyncio.gather(*map(begin, watches))
    readers: list[asyncio.Task[Any]] = []

    async def read_and_cancel_the_other(number: int) -> Any:
        event = await anext(watches[number])
        # Both are woken in the same tick: the first to run cancels the other.
        readers[1 - number].cancel()
        return event

    readers += [asyncio.create_task(read_and_cancel_the_other(number)) for number in range(2)]
    await turns()
    await kind.change(other, 1)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(readers)
    [late] = [number for number in range(2) if readers[number].cancelled()]
    assert kind.shows(readers[1 - late].result(), 1)
    assert kind.shows(await next_of(watches[late]), 1)


async def test_polling_costs_nothing(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watch_count: Count, kind: WatchKind
) -> None:
    """W4: an `anext` that is cancelled repeatedly, as polling does it, sends nothing."""
    await other.create("/node")
    async with requests_seen(proxy) as requests, kind.make(proxied) as events:
        await begin(events)
        before = len(requests.requests)
        for _ in range(20):
            waiting = asyncio.create_task(next_of(events))
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
        await proxied.sync()
        assert requests.opcodes[before:] == [messages.SYNC.opcode]
        assert await watch_count() > 0


# Caches


async def exit_(cache: corral.Cache) -> None:
    await cache.__aexit__(None, None, None)


async def close(cache: corral.Cache) -> None:
    cache.close()


async def exit_in_another_task(cache: corral.Cache) -> None:
    await asyncio.create_task(exit_(cache))


@pytest.mark.parametrize("leave", [exit_, close, exit_in_another_task])
async def test_leaving_a_cache(
    zk: corral.Client,
    other: corral.Client,
    watch_count: Count,
    leave: Callable[[corral.Cache], Awaitable[None]],
) -> None:
    """W5: leaving a cache leaves nothing, at once and not only when the object is collected."""
    await other.create("/node")
    cache = await zk.cache("/node").__aenter__()
    assert registered(zk) == (1, 1)
    assert await watch_count() > 0
    await leave(cache)
    assert registered(zk) == (0, 0)
    await zk.sync()
    assert await watch_count() == 0


async def test_exception_in_the_block_of_a_cache(zk: corral.Client, watch_count: Count) -> None:
    """W5: a block that raises leaves nothing either, and its exception is unchanged."""
    with pytest.raises(LookupError) as kept:
        async with zk.cache("/node"):
            raise LookupError
    assert registered(zk) == (0, 0)
    await gone(zk, watch_count)
    del kept


async def test_cache_that_is_forgotten(zk: corral.Client, watch_count: Count) -> None:
    """W5: a cache that nothing refers to is removed, in whichever thread it is collected."""
    cycle: list[object] = [await zk.cache("/node").__aenter__()]
    cycle.append(cycle)
    assert registered(zk) == (1, 1)
    del cycle
    collecting = threading.Thread(target=gc.collect)
    collecting.start()
    collecting.join()
    await gone(zk, watch_count)


@pytest.mark.parametrize("steps", [*range(12), 16, 24, 32, 48, 64, 96, 128, 256])
async def test_entering_a_cache_is_cancelled(
    zk: corral.Client, other: corral.Client, watch_count: Count, steps: int
) -> None:
    """S8, W5: wherever entering is cancelled, it leaves nothing, although something refers to the task."""
    await other.create("/node")
    await asyncio.gather(*(other.create(f"/node/{number}") for number in range(5)))
    cache = zk.cache("/node")
    entering = asyncio.create_task(cache.__aenter__())
    await turns(steps)
    entering.cancel()
    await asyncio.wait([entering])
    if not entering.cancelled():
        cache.close()
    assert registered(zk) == (0, 0)
    await gone(zk, watch_count)
    async with cache:
        assert len(cache) == 6


async def test_entering_a_cache_is_cancelled_without_an_answer(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watch_count: Count
) -> None:
    """S8, W5: the same when it is cancelled while the server's answers are in transit, although the server
    has set the watch."""
    await other.create("/node")
    async with proxy.black_hole(requests=False) as held:
        entering = asyncio.create_task(proxied.cache("/node").__aenter__())
        await held.arrived()
        assert await watch_count() > 0
        entering.cancel()
        await asyncio.wait([entering])
        assert registered(proxied) == (0, 0)
    await gone(proxied, watch_count)
