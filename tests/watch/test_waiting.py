"""Waiting for a state: at once if it is there, otherwise when it comes; no watch is left (W1, W3, W5)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from watching import registered

import corral
from client_support import requests_seen
from corral import ChildrenEvent, Event, EventKind, acl
from corral.testing import EmbeddedServer, FaultProxy, VirtualLoop
from corral.wire import messages
from support import PATIENCE, turns, until

Watchers = Callable[[str], Awaitable[int]]
Wait = Callable[[corral.Client], Coroutine[Any, Any, Any]]
Make = Callable[[corral.Client], Awaitable[object]]


async def family(zk: corral.Client) -> None:
    await zk.create("/node")
    await zk.create("/node/a")
    await zk.create("/node/b")


async def nothing(zk: corral.Client) -> None:
    pass


ONLY_USER = acl.digest("user", "secret")

WAITS: dict[str, tuple[Wait, Make, Make]] = {
    # For each way to wait: what it waits for, the state before, and what makes it true.
    "until": (
        lambda zk: zk.wait_until("/node", lambda event: event.data == b"ready"),
        lambda zk: zk.create("/node"),
        lambda zk: zk.set("/node", b"ready"),
    ),
    "present": (lambda zk: zk.wait_present("/node"), nothing, lambda zk: zk.create("/node")),
    "absent": (
        lambda zk: zk.wait_absent("/node"),
        lambda zk: zk.create("/node"),
        lambda zk: zk.delete("/node"),
    ),
    "children": (lambda zk: zk.wait_children("/node", 2), nothing, family),
    "children so": (
        lambda zk: zk.wait_children("/node", lambda event: event.exists and not event.children),
        family,
        lambda zk: empty(zk),
    ),
}


async def empty(zk: corral.Client) -> None:
    await zk.delete("/node/a")
    await zk.delete("/node/b")


@pytest.fixture
async def virtual_loop() -> VirtualLoop:
    """The event loop, if it runs in virtual time."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        pytest.skip(
            "on the virtual clock alone, where minutes pass at once; nox runs it there (--loop=virtual)"
        )
    return loop


@pytest.fixture(params=list(WAITS))
def waits(request: pytest.FixtureRequest) -> tuple[Wait, Make, Make]:
    """One of the ways to wait."""
    return WAITS[request.param]


async def test_it_is_so_now(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, waits: tuple[Wait, Make, Make]
) -> None:
    """W1: a condition that is already true returns after one or two reads, and leaves no watch."""
    wait, before, make = waits
    await before(other)
    await make(other)
    async with requests_seen(proxy) as requests:
        async with asyncio.timeout(PATIENCE):
            await wait(proxied)
        assert requests.count(messages.GET, messages.CHILDREN2, messages.EXISTS) <= 2
        assert requests.count(messages.GET) == 0 or await other.exists("/node")
    assert registered(proxied) == (0, 0)


async def test_it_comes(
    zk: corral.Client, other: corral.Client, watchers: Watchers, waits: tuple[Wait, Make, Make]
) -> None:
    """W1: otherwise it waits, without polling, until the condition is true, and leaves no watch, in the
    client or on the server."""
    wait, before, make = waits
    await before(other)
    waiting = asyncio.create_task(wait(zk))
    for _ in range(4):
        await zk.exists("/")
    assert not waiting.done()
    await make(other)
    async with asyncio.timeout(PATIENCE):
        await waiting
    assert registered(zk) == (0, 0)
    await zk.sync()
    assert await watchers("/node") == 0


async def test_it_comes_while_nobody_is_connected(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client, waits: tuple[Wait, Make, Make]
) -> None:
    """W3: if the condition became true while disconnected, that is found after the reconnect."""
    wait, before, make = waits
    await before(other)
    waiting = asyncio.create_task(wait(proxied))
    for _ in range(4):
        await proxied.exists("/")
    async with proxy.refuse():
        await proxy.cut()
        await make(other)
        assert not waiting.done()
    async with asyncio.timeout(PATIENCE):
        await waiting


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 8, 32, 128])
async def test_it_is_given_up(
    zk: corral.Client, other: corral.Client, watchers: Watchers, waits: tuple[Wait, Make, Make], steps: int
) -> None:
    """S8, W5: when cancelled, it ends at once and leaves no watch, even if something refers to the task."""
    wait, before, _ = waits
    await before(other)
    waiting = asyncio.create_task(wait(zk))
    await turns(steps)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()

    async def gone() -> bool:
        return registered(zk) == (0, 0) and await watchers("/node") == 0

    await until(gone, "no watch is left")


async def test_a_timeout_around_it(zk: corral.Client, other: corral.Client) -> None:
    """S8: a timeout of the caller raises TimeoutError."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await zk.wait_present("/node")
    assert registered(zk) == (0, 0)


async def test_what_is_returned(zk: corral.Client, other: corral.Client) -> None:
    """Each returns the state that it has waited for; `wait_absent` returns None."""
    await other.create("/node", b"x")
    await other.create("/node/a")
    present = await zk.wait_present("/node")
    assert present == Event(EventKind.PRESENT, "/node", *await zk.get("/node"))
    names, stat = await zk.children("/node", with_stat=True)
    there = frozenset(names)
    children = await zk.wait_children("/node", 1)
    assert children == ChildrenEvent(EventKind.PRESENT, "/node", there, there, frozenset(), stat)
    assert await zk.wait_absent("/other") is None
    below = await zk.chroot("/node").wait_present("/a")
    assert below.path == "/a"


async def test_condition_sees_each_event(zk: corral.Client, other: corral.Client) -> None:
    """W1: the condition is called with the current state and after each change; any true value ends the
    wait."""
    seen: list[Event] = []

    def enough(event: Event) -> object:
        seen.append(event)
        told.set()
        return [event] if event.data == b"2" else []

    told = asyncio.Event()
    waiting = asyncio.create_task(zk.wait_until("/node", enough))
    for change in (lambda: other.create("/node", b"1"), lambda: other.set("/node", b"2")):
        async with asyncio.timeout(PATIENCE):
            await told.wait()
        told.clear()
        await change()
    assert await waiting is seen[-1]
    assert [(event.kind, event.data) for event in seen] == [
        (EventKind.ABSENT, None),
        (EventKind.CREATED, b"1"),
        (EventKind.CHANGED, b"2"),
    ]


async def test_children_are_counted(zk: corral.Client, other: corral.Client) -> None:
    """It waits for at least that many children; a node that does not exist has none, which is enough for
    zero."""
    assert (await zk.wait_children("/node", 0)).kind is EventKind.ABSENT
    await family(other)
    for enough in (0, 1, 2):
        assert (await zk.wait_children("/node", enough)).children == {"a", "b"}
    waiting = asyncio.create_task(zk.wait_children("/node", 3))
    for _ in range(4):
        await zk.exists("/")
    assert not waiting.done()
    await other.create("/node/c")
    event = await waiting
    assert (event.kind, event.added) == (EventKind.CHANGED, {"c"})


@pytest.mark.parametrize("later", [False, True], ids=["at first", "at a change"])
async def test_condition_that_fails(zk: corral.Client, other: corral.Client, later: bool) -> None:
    """An exception of the condition is raised by the wait, and no watch is left."""

    def fails(event: Event | ChildrenEvent) -> bool:
        if event.exists is later:
            raise LookupError(event.kind)
        return False

    for wait in (zk.wait_until, zk.wait_children):
        waiting = asyncio.create_task(wait("/node", fails))
        if later:
            for _ in range(4):
                await zk.exists("/")
            assert not waiting.done()
            await other.create("/node")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LookupError):
                await waiting
        if later:
            await other.delete("/node")
    assert registered(zk) == (0, 0)


async def test_refusals_are_raised(zk: corral.Client, other: corral.Client) -> None:
    """If the ACL hides a node that must be read, the wait raises at once."""
    await other.create("/node")
    other.add_auth("digest", b"user:secret")
    await other.set_acl("/node", ONLY_USER)
    for wait in (zk.wait_until("/node", lambda _: True), zk.wait_children("/node", 1)):
        with pytest.raises(corral.NoAuth, match="'/node'"):
            await wait
    assert registered(zk) == (0, 0)
    await other.set_acl("/node", corral.acl.OPEN)


@pytest.mark.parametrize("there", [True, False], ids=["there already", "created later"])
async def test_existence_needs_no_permission(zk: corral.Client, other: corral.Client, there: bool) -> None:
    """W1: a wait for the existence, or the absence, of a node that we may not read works, even if the server
    sends no event (CVE-2024-23944). The result has its `Stat`, if the server shows it, and no data."""
    await wait_without_permission(zk, other, there)


@pytest.mark.parametrize("there", [True, False], ids=["there already", "created later"])
async def test_existence_is_all_that_is_known(there: bool) -> None:
    """W1: so does a wait on a server (3.9.2) that says of such a node only that it exists."""
    async with (
        EmbeddedServer(version="3.9") as server,
        corral.connect(server.address) as zk,
        corral.connect(server.address) as other,
    ):
        await wait_without_permission(zk, other, there)


async def wait_without_permission(zk: corral.Client, other: corral.Client, there: bool) -> None:
    other.add_auth("digest", b"user:secret")
    await other.create("/parent")
    if there:
        await other.create("/parent/node", b"secret", acl=ONLY_USER)
    waiting = asyncio.create_task(zk.wait_present("/parent/node"))
    for _ in range(4):
        await zk.exists("/")
    if not there:
        assert not waiting.done()
        await other.create("/parent/node", b"secret", acl=ONLY_USER)
    async with asyncio.timeout(PATIENCE):
        event = await waiting
    assert (event.kind, event.data) == (EventKind.PRESENT if there else EventKind.CREATED, None)
    assert event.stat is not None
    assert event.stat in (await other.exists("/parent/node"), corral.Stat(*[-1] * len(event.stat)))
    gone = asyncio.create_task(zk.wait_absent("/parent/node"))
    for _ in range(4):
        await zk.exists("/")
    assert not gone.done()
    await other.delete("/parent/node")
    async with asyncio.timeout(PATIENCE):
        await gone
    assert registered(zk) == (0, 0)


async def test_it_looks_again_seldom(
    proxied: corral.Client, proxy: FaultProxy, virtual_loop: VirtualLoop
) -> None:
    """W4: a node without events is polled, soon at first, then once each session timeout, and not at all once
    nobody waits."""
    async with requests_seen(proxy) as requests:
        waiting = [asyncio.create_task(proxied.wait_absent("/")) for _ in range(10)]
        await asyncio.sleep(10 * proxied.session_timeout)
        looks = requests.count(messages.EXISTS)
        assert 10 < looks < 25
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await asyncio.sleep(10 * proxied.session_timeout)
        assert requests.count(messages.EXISTS) == looks


async def test_data_comes_where_it_may_be_read(zk: corral.Client, other: corral.Client) -> None:
    """W1: the result for a node that we may read has its data, as it was when it was found."""
    await other.create("/node", b"data")
    data, stat = await zk.get("/node")
    assert await zk.wait_present("/node") == Event(EventKind.PRESENT, "/node", data, stat)


@pytest.mark.parametrize("rounds", [1, 50])
async def test_task_that_waits_all_its_life(zk: corral.Client, other: corral.Client, rounds: int) -> None:
    """W5: a task keeps no reference to the watches that it has used, however many."""
    await family(other)
    task = asyncio.current_task()
    before = len(task._callbacks or ())  # type: ignore[union-attr]  # no public attribute shows it
    readers = []
    for _ in range(rounds):
        await zk.wait_present("/node")
        await zk.wait_children("/node", 1)
        async for _ in zk.watch("/node"):
            break
        async with zk.watch_tree("/node") as events:
            await anext(events)
        readers.append(weakref.ref(events))
    assert len(task._callbacks or ()) <= before + 1  # type: ignore[union-attr]
    del events
    gc.collect()
    assert not any(reader() for reader in readers)
    assert registered(zk) == (0, 0)


async def test_client_is_closed(
    connect: Callable[..., corral.Client], waits: tuple[Wait, Make, Make]
) -> None:
    """S5: closing the client ends every wait."""
    wait, before, _ = waits
    async with connect() as zk:
        await before(zk)
        waiting = asyncio.create_task(wait(zk))
        for _ in range(4):
            await zk.exists("/")
    with pytest.raises(corral.ClientClosed):
        await waiting


async def test_many_wait_at_the_cost_of_one(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W4: a thousand that wait for one node cost the server one watch and one read for each change."""
    async with requests_seen(proxy) as requests:
        waiting = [asyncio.create_task(proxied.wait_present("/node")) for _ in range(1000)]
        for _ in range(4):
            await proxied.exists("/")
        requests.requests.clear()
        await other.create("/node")
        async with asyncio.timeout(PATIENCE):
            events = await asyncio.gather(*waiting)
        assert len(set(events)) == 1
        await proxied.sync()
        # It may have polled meanwhile; the event makes it check the existence, and read the data.
        assert [each for each in requests.opcodes if each != messages.EXISTS.opcode] == [
            each.opcode for each in (messages.GET, messages.REMOVE_WATCHES, messages.SYNC)
        ]
        assert requests.count(messages.EXISTS) <= 2


async def test_what_cannot_be_right(zk: corral.Client) -> None:
    """Invalid arguments are refused before anything is sent."""
    for condition in (None, "x", 1):
        with pytest.raises(corral.UsageError, match="condition"):
            await zk.wait_until("/node", condition)  # type: ignore[arg-type]
    for condition in (None, "x", -1, 1.5, True):
        with pytest.raises(corral.UsageError, match="condition"):
            await zk.wait_children("/node", condition)  # type: ignore[arg-type]
    for wait in (zk.wait_present("node"), zk.wait_absent("/node/"), zk.wait_children("", 1)):
        with pytest.raises(corral.UsageError):
            await wait
    assert registered(zk) == (0, 0)
