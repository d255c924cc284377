"""The last state is always delivered, and no older one after it, whatever messages are lost (W3, W6)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest
from watching import (
    HISTORIES,
    KINDS,
    Follower,
    History,
    begin,
    next_of,
    random_changes,
)

import corral
from client_support import asks_for, requests_seen
from corral import State
from corral.testing import FaultHit, FaultProxy, Point, Server, after, before, committed, on_event
from corral.wire import messages
from support import PATIENCE, until

Watchers = Callable[[str], Awaitable[int]]
Count = Callable[[], Awaitable[int]]
Fault = Callable[[FaultProxy, int, int], contextlib.AbstractAsyncContextManager[FaultHit]]

ALL = slice(None)
EACH_STEP = [
    pytest.param(history, step, id=f"{name}-{step}")
    for name, history in HISTORIES.items()
    for step in range(len(history.steps))
]


@pytest.fixture(params=list(HISTORIES))
def history(request: pytest.FixtureRequest) -> History:
    """The history of each kind of thing that can be followed."""
    return HISTORIES[request.param]


def at(make_point: Callable[..., Point], *, reset: bool) -> Fault:
    """The connection ends there with the n-th request after the connect request, and with the `times` - 1
    after it."""

    def fault(proxy: FaultProxy, n: int, times: int) -> contextlib.AbstractAsyncContextManager[FaultHit]:
        point = make_point(match=lambda message: message.operation != "connect", nth=n)
        return proxy.cut_at(point, reset=reset, times=times)

    return fault


FAULTS = {
    f"{make_point.__name__}-{'RST' if reset else 'FIN'}": at(make_point, reset=reset)
    for make_point in (before, committed, after)
    for reset in (False, True)
}
RESETS = [name for name in FAULTS if name.endswith("RST")]


@pytest.mark.parametrize(
    ("fault", "times", "paced"),
    [
        *(pytest.param(fault, 1, True, id=name) for name, fault in FAULTS.items()),
        *(pytest.param(FAULTS[name], 3, True, id=f"{name}, three times in a row") for name in RESETS),
        *(pytest.param(FAULTS[name], 1, False, id=f"{name}, at full speed") for name in RESETS),
    ],
)
async def test_connection_lost_at_each_message(
    connect: Callable[..., corral.Client],
    proxy: FaultProxy,
    other: corral.Client,
    history: History,
    fault: Fault,
    times: int,
    paced: bool,
) -> None:
    """W3: if the connection is lost at any request, before it, after it or with its reply, once or
    repeatedly, every state that lasts is delivered, and none older than an earlier one."""
    for n in itertools.count(1):
        path = f"/node-{n}"
        async with connect(to=proxy.address) as zk, fault(proxy, n, times) as cut:
            async with Follower(history, zk, path) as follower:
                if paced:
                    await follower.knows(other)
                await follower.write(other, ALL, paced=paced)
                await follower.knows(other)
        if not cut.fired.is_set():
            break
    assert n > (len(history.steps) if paced else 1)  # fewer would not be all messages


@pytest.mark.parametrize(
    "fault", [FAULTS["committed-RST"], FAULTS["after-RST"]], ids=["with the reply", "after it"]
)
async def test_changed_between_the_read_and_the_next_connection(
    connect: Callable[..., corral.Client],
    proxy: FaultProxy,
    other: corral.Client,
    history: History,
    fault: Fault,
) -> None:
    """W3: a change right after an answer, before it is known that the watch is set, is reported."""
    for n in itertools.count(1):
        path = f"/node-{n}"
        async with connect(to=proxy.address) as zk, fault(proxy, n, 1) as cut:
            await history.steps[0](other, path)
            async with Follower(history, zk, path) as follower:
                fired = asyncio.create_task(cut.fired.wait())
                known = asyncio.create_task(follower.knows(other))
                await asyncio.wait([fired, known], return_when=asyncio.FIRST_COMPLETED)
                async with proxy.refuse():
                    await follower.write(other, slice(1, None))
                known.cancel()
                fired.cancel()
                await asyncio.wait([known, fired])
                await follower.knows(other)
        if not cut.fired.is_set():
            break
    assert n > 1


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize(("history", "step"), EACH_STEP)
async def test_notification_lost(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, history: History, step: int, reset: bool
) -> None:
    """W3, W6: an event that is lost with its connection is made up for when the watch is set again."""
    async with Follower(history, proxied, "/node") as follower:
        await follower.write(other, slice(step))
        await follower.knows(other)
        for _ in range(4):
            await proxied.exists("/")
        async with proxy.cut_at(on_event(), reset=reset) as loss:
            await follower.write(other, slice(step, step + 1))
            async with asyncio.timeout(PATIENCE):
                await loss.fired.wait()
        await follower.knows(other)
        await follower.write(other, slice(step + 1, None), paced=True)


@pytest.mark.parametrize(("history", "step"), EACH_STEP)
async def test_changed_while_nobody_could_be_reached(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, history: History, step: int
) -> None:
    """W3, W6: changes made while disconnected, once or repeatedly, are reported afterwards, whatever was
    known before."""
    async with Follower(history, proxied, "/node") as follower:
        await follower.write(other, slice(step))
        await follower.knows(other)
        async with proxy.refuse():
            await proxy.cut()
            await follower.write(other, slice(step, None))
        await follower.knows(other)


async def test_only_the_last_state_of_an_outage(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W2, W3: of several changes while disconnected, a reader of a node gets only the last state."""
    await other.create("/node", b"old")
    async with proxied.watch("/node") as events:
        await next_of(events)
        async with proxy.refuse():
            await proxy.cut()
            waiting = asyncio.create_task(next_of(events))
            for data in (b"1", b"2", b"last"):
                await other.set("/node", data)
        assert (await waiting).data == b"last"


@pytest.mark.parametrize("name", ["tree", "cache"])
async def test_large_tree_that_changes_while_nobody_could_be_reached(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, name: str
) -> None:
    """W3, W6: the same with more nodes than one request reads, of which many were created and deleted."""
    top = [
        f"/tree/{number}" for number in range(700)
    ]  # more than one request lists before it is known that they have children
    await other.create("/tree")
    await asyncio.gather(*(other.create(path) for path in top))
    await asyncio.gather(*(other.create(f"{path}/a") for path in top[::5]))
    async with Follower(HISTORIES[name], proxied, "/tree") as follower:
        await follower.knows(other)
        async with proxy.refuse():
            await proxy.cut()
            await asyncio.gather(*(other.delete(f"{path}/a") for path in top[::5]))
            await asyncio.gather(*(other.create(f"{path}/b") for path in top[1::5]))
            await asyncio.gather(*(other.create(f"{path}/b/c") for path in top[1::10]))
        await follower.knows(other)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["tree", "cache"])
async def test_tree_that_changes_while_connections_are_lost(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, name: str, seed: int
) -> None:
    """W3, W6: nodes are created, set, deleted and created again on several levels, while connected, while
    disconnected, or while the connection is lost. In the end all changes are reported, none backwards, and
    nothing else."""
    dice = random.Random(seed)
    changes = random_changes(dice)
    for _ in range(dice.randrange(30)):
        await next(changes)(other)
    async with Follower(HISTORIES[name], proxied, "/tree") as follower:
        await follower.knows(other)
        for _ in range(6):
            async with proxy.refuse() if dice.random() < 0.7 else contextlib.nullcontext():
                await proxy.cut(reset=dice.random() < 0.5)
                for _ in range(dice.randrange(40)):
                    await next(changes)(other)
            if dice.random() < 0.5:
                await follower.knows(other)
            for _ in range(dice.randrange(10)):
                await next(changes)(other)
        await follower.knows(other)


@pytest.mark.parametrize("change", [True, False], ids=["changed", "unchanged"])
@pytest.mark.parametrize("name", KINDS)
async def test_black_hole(
    proxied: corral.Client,
    proxy: FaultProxy,
    other: corral.Client,
    watch_count: Count,
    name: str,
    change: bool,
) -> None:
    """W3: a connection that falls silent is given up, and the watch continues on the next one."""
    kind = KINDS[name]
    await other.create("/node")
    async with kind.make(proxied) as events:
        await begin(events)
        before_it = await watch_count()
        session = proxied.session_id
        waiting = asyncio.create_task(next_of(events))
        async with proxy.black_hole():
            asking = asyncio.create_task(proxied.exists("/"))
            if change:
                await kind.change(other, 1)
            await until_state(proxied, State.SUSPENDED)
        await asking
        assert proxied.session_id == session
        if not kind.states:
            assert (await waiting).kind is corral.RawKind.MISSED
            waiting = asyncio.create_task(next_of(events))
        if not change or not kind.states:
            for _ in range(4):
                await proxied.exists("/")
            assert not waiting.done()
            await kind.change(other, 1)
        assert kind.shows(await waiting, 1)
        await proxied.exists("/")

        async def watched_once() -> bool:
            waiting = asyncio.create_task(next_of(events))
            await proxied.exists("/")
            waiting.cancel()
            await asyncio.wait([waiting])
            return await watch_count() == before_it

        await until(watched_once, "the server has the watch once")


@pytest.mark.parametrize("by_server", [True, False], ids=["the server says so", "the client gives up"])
async def test_session_expired(
    connect: Callable[..., corral.Client],
    proxy: FaultProxy,
    other: corral.Client,
    history: History,
    by_server: bool,
) -> None:
    """W3: the last state is delivered after the end of the session, and the watch continues in the new one,
    whatever was seen last, and whatever happened since."""

    async def follow(step: int) -> None:
        path = f"/node-{step}"
        async with connect(to=proxy.address, session_timeout=2.0) as zk:
            async with Follower(history, zk, path) as follower:
                await follower.write(other, slice(step))
                await follower.knows(other)
                session = zk.session_id
                await zk.create(f"/alive-{step}", ephemeral=True)
                await ready.wait()
                await follower.write(other, slice(step, step + 1))
                if not by_server:
                    await until_state(zk, State.EXPIRED)
                done.add(step)
                await follower.knows(other)
                await until_state(zk, State.CONNECTED)
                assert zk.session_id not in (0, session)
                await follower.write(other, slice(step + 1, None), paced=True)

    async def all_over() -> bool:
        if by_server:
            return not any("alive" in name for name in await other.children("/"))
        return len(done) == count

    count = len(history.steps)
    done: set[int] = set()
    ready = asyncio.Barrier(count + 1)
    async with asyncio.TaskGroup() as group:
        for step in range(count):
            group.create_task(follow(step))
        await ready.wait()
        async with proxy.refuse():
            await proxy.cut()
            await until(all_over, "the sessions are over")


async def test_server_restarted(
    make_server: Callable[..., Server], connect: Callable[..., corral.Client]
) -> None:
    """W3, W6: watches of every kind continue after the end of their server, and after changes that were made
    before the client was connected to the next one."""
    async with (
        make_server() as server,
        corral.connect(server.address) as zk,
        corral.connect(server.address) as other,
    ):
        async with contextlib.AsyncExitStack() as stack:
            followers = [
                await stack.enter_async_context(Follower(history, zk, f"/{name}"))
                for name, history in HISTORIES.items()
            ]
            for step in range(3):
                for follower in followers:
                    await follower.write(other, slice(step, step + 1))
                    await follower.knows(other)
                await server.kill()
                await server.start()
                await other.sync()
            for follower in followers:
                await follower.write(other, slice(3, None))
            for follower in followers:
                await follower.knows(other)


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_lost_while_watches_are_set_again(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, watchers: Watchers, lost: str
) -> None:
    """W3: a second loss, of the message that sets the watches again, makes no difference."""
    await other.create("/node", b"old")
    async with proxied.watch("/node") as events, requests_seen(proxy) as requests:
        await next_of(events)
        await proxied.exists("/")  # confirms the zxid from which the watch is set again
        waiting = asyncio.create_task(next_of(events))
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
    """S4, W3: if there are more watched paths than one message holds, they are set again in several messages,
    and none is forgotten."""
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
