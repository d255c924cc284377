"""The last state is always delivered, and none after a newer one, whatever is lost on the way (W3)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

import pytest

import corral
from client_support import asks_for, requests_seen
from corral import State
from corral.testing import FaultProxy, Point, after, before, committed, on_event
from corral.testing.proxy import Reached
from corral.wire import messages
from support import PATIENCE, turns, until

Watchers = Callable[[str], Awaitable[int]]
Fault = Callable[[FaultProxy, int, int], contextlib.AbstractAsyncContextManager[Reached]]

# What happens to the node while it is watched: its data after each step, None where it is gone.
HISTORY = [b"0", b"1", None, b"3", None, b"5", b"6"]


def at(make_point: Callable[..., Point], *, reset: bool) -> Fault:
    """The connection ends there with the n-th request after the connect, and with the `times` - 1 after it."""

    def fault(proxy: FaultProxy, n: int, times: int) -> contextlib.AbstractAsyncContextManager[Reached]:
        point = make_point(match=lambda message: message.operation != "connect", nth=n)
        return proxy.cut_at(point, reset=reset, times=times)

    return fault


FAULTS = {
    f"{make_point.__name__}-{'RST' if reset else 'FIN'}": at(make_point, reset=reset)
    for make_point in (before, committed, after)
    for reset in (False, True)
}


class Follower:
    """Reads a watch, and sees to it that what it is told only goes forward."""

    def __init__(self, events: corral.NodeWatch) -> None:
        self._events = events
        self._zxid = 0
        self._last: corral.Event | None = None

    async def next(self) -> corral.Event:
        """The next event, which is another state than the last, and none that is older."""
        async with asyncio.timeout(PATIENCE):
            event = await anext(self._events)
        if event.stat is not None:
            assert event.stat.mzxid > self._zxid
            self._zxid = event.stat.mzxid
        else:
            assert self._last is None or self._last.exists
        self._last = event
        return event

    async def reach(self, data: bytes | None) -> None:
        """Read on until the node is told to be so."""
        while (await self.next()).data != data:
            pass


async def write(zk: corral.Client, path: str, data: bytes | None, before: bytes | None) -> None:
    """Take the node one step on in its history."""
    if data is None:
        await zk.delete(path)
    elif before is None:
        await zk.create(path, data)
    else:
        await zk.set(path, data)


@pytest.mark.parametrize("times", [1, 3], ids=["once", "three times in a row"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_connection_lost_at_each_message(
    connect: Callable[..., corral.Client], proxy: FaultProxy, other: corral.Client, fault: Fault, times: int
) -> None:
    """W3: with the connection lost at any request, before it, after it or with its reply, once or again and
    again, each state of the node that stays is delivered, and none older than one before."""
    for n in itertools.count(1):
        path = f"/node-{n}"
        async with connect(to=proxy.address) as zk, fault(proxy, n, times) as cut:
            async with zk.watch(path) as events:
                follower = Follower(events)
                assert not (await follower.next()).exists
                before = None
                for data in HISTORY:
                    reached = asyncio.create_task(follower.reach(data))
                    await turns()
                    await write(other, path, data, before)
                    await reached
                    before = data
        if not cut.fired.is_set():
            break
    # Of a state that is there one reading, of one that is not two: fewer would not be all messages.
    assert n > sum(1 if data else 2 for data in [None, *HISTORY])


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("step", range(len(HISTORY)))
async def test_notification_lost(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, step: int, reset: bool
) -> None:
    """W3: a notification that is lost with its connection is made good when the watch is set again."""
    async with proxied.watch("/node") as events:
        follower = Follower(events)
        before = None
        for data in HISTORY[:step]:
            await write(other, "/node", data, before)
            before = data
        await follower.reach(before)
        reached = asyncio.create_task(follower.reach(HISTORY[step]))
        await turns()
        async with proxy.cut_at(on_event(), reset=reset) as loss:
            await write(other, "/node", HISTORY[step], before)
            async with asyncio.timeout(PATIENCE):
                await loss.fired.wait()
        await reached


@pytest.mark.parametrize("waits", [True, False], ids=["while a reader waits", "between two reads"])
@pytest.mark.parametrize("step", range(len(HISTORY)))
async def test_changed_while_nobody_could_be_reached(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, step: int, waits: bool
) -> None:
    """W3: what was changed without a connection, once or more, is told after it: the last state alone."""
    async with proxied.watch("/node") as events:
        follower = Follower(events)
        before = None
        for data in HISTORY[:step]:
            await write(other, "/node", data, before)
            before = data
        await follower.reach(before)
        async with proxy.refuse():
            await proxy.cut()
            reading = asyncio.create_task(follower.next()) if waits else None
            for data in HISTORY[step:]:
                await write(other, "/node", data, before)
                before = data
        event = await (reading or follower.next())
        assert event.data == HISTORY[-1]


@pytest.mark.parametrize("change", [True, False], ids=["changed", "unchanged"])
async def test_black_hole(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers, change: bool
) -> None:
    """W3: a connection that falls silent is given up, and the watch goes on over the next one, as it was."""
    await other.create("/node", b"old")
    async with proxied.watch("/node") as events:
        follower = Follower(events)
        await follower.next()
        session = proxied.session_id
        waiting = asyncio.create_task(follower.next())
        async with proxy.black_hole():
            asking = asyncio.create_task(proxied.exists("/"))
            if change:
                await other.set("/node", b"new")
            await until_state(proxied, State.SUSPENDED)
        await asking
        assert proxied.session_id == session
        if not change:
            assert not waiting.done()
            await other.set("/node", b"new")
        assert (await waiting).data == b"new"
        assert await watchers("/node") == 1


@pytest.mark.parametrize("by_server", [True, False], ids=["the server says so", "the client gives up"])
async def test_session_expired(
    connect: Callable[..., corral.Client], proxy: FaultProxy, other: corral.Client, by_server: bool
) -> None:
    """W3: the last state is delivered over the end of the session, and the new one goes on watching: whatever
    was seen last, and whatever happened since."""

    async def follow(step: int) -> None:
        path = f"/node-{step}"
        async with connect(to=proxy.address, session_timeout=2.0) as zk, zk.watch(path) as events:
            follower = Follower(events)
            before = None
            for data in HISTORY[:step]:
                await write(other, path, data, before)
                before = data
            await follower.reach(before)
            session = zk.session_id
            await zk.create(f"/alive-{step}", ephemeral=True)
            waiting = asyncio.create_task(follower.next())
            await ready.wait()
            await write(other, path, HISTORY[step], before)
            if not by_server:
                await until_state(zk, State.EXPIRED)
            done.add(step)
            assert (await waiting).data == HISTORY[step]
            assert zk.session_id not in (0, session)
            await write(other, path, b"later", HISTORY[step])
            assert (await follower.next()).data == b"later"

    async def all_over() -> bool:
        if by_server:
            return not any("alive" in name for name in await other.children("/"))
        return len(done) == len(HISTORY)

    done: set[int] = set()
    ready = asyncio.Barrier(len(HISTORY) + 1)
    async with asyncio.TaskGroup() as group:
        for step in range(len(HISTORY)):
            group.create_task(follow(step))
        await ready.wait()
        async with proxy.refuse():
            await proxy.cut()
            await until(all_over, "the sessions are over")


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_lost_while_watches_are_set_again(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers, lost: str
) -> None:
    """W3: a second loss, of the message that sets the watches again, changes nothing."""
    await other.create("/node", b"old")
    async with proxied.watch("/node") as events, requests_seen(proxy) as requests:
        follower = Follower(events)
        await follower.next()
        waiting = asyncio.create_task(follower.next())
        lose = before if lost == "request" else committed
        async with proxy.cut_at(lose(match=asks_for(messages.SET_WATCHES)), reset=True) as loss:
            await proxy.cut()
            async with asyncio.timeout(PATIENCE):
                await loss.fired.wait()
            await proxied.exists("/")
        assert requests.count(messages.SET_WATCHES) == 2
        assert await watchers("/node") == 1
        await other.set("/node", b"new")
        assert (await waiting).data == b"new"


async def test_many_watches_are_all_set_again(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """S4, W3: watches of more paths than one message holds are set again in several, none forgotten."""
    pad = "x" * 900
    paths = [f"/{pad}-{number:03}" for number in range(300)]
    watches = [proxied.watch(path) for path in paths]
    assert not any([event.exists for event in await asyncio.gather(*map(anext, watches))])
    async with requests_seen(proxy) as requests:
        async with proxy.refuse():
            await proxy.cut()
            await asyncio.gather(*(other.create(path, path[-3:].encode()) for path in paths))
        async with asyncio.timeout(PATIENCE):
            events = await asyncio.gather(*map(anext, watches))
    assert [event.data for event in events] == [path[-3:].encode() for path in paths]
    assert requests.count(messages.SET_WATCHES) > 1


async def until_state(zk: corral.Client, wanted: State) -> None:
    async with asyncio.timeout(PATIENCE):
        async for state in zk.states():
            if state is wanted:
                return
