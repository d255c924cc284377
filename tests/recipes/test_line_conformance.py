"""The promises that all recipes with a line have in common (L1 to L10), each tested with every kind. What is
specific to one recipe is in its own test file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest
from lock_support import (
    WAYS_TO_LOSE,
    Rig,
    Tap,
    assert_nothing_left,
    end_session,
    ended,
    noted,
    until_watching,
    watched_paths,
)

import corral
from client_support import asks_for
from corral.testing import FaultProxy, Message, before, committed
from corral.wire.messages import CHILDREN, CREATE_CONTAINER, DELETE, EXISTS, MULTI, PING, SET
from line_kinds import (
    KINDS,
    PATH,
    LineKind,
    each_held,
    every_kind,
    filled,
    is_single,
    is_valid,
    node_below,
    release,
)
from support import PATIENCE, children, settle, turns, until, until_line, within

Connect = Callable[..., corral.Client]

both_ways = pytest.mark.parametrize("way", ["acquire", "try_acquire"])
either_lost = pytest.mark.parametrize("lost", ["request", "reply"])
each_line = pytest.mark.parametrize(
    ("kind", "number"),
    [(kind, number) for kind in KINDS.values() for number in range(len(kind.lines))],
    ids=[f"{name}{line.below}" for name, kind in KINDS.items() for line in kind.lines],
)
each_place = pytest.mark.parametrize("place", ["next", "behind another"])


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def start_waiting(
    kind: LineKind, rig: Rig, place: str
) -> tuple[list[asyncio.Task[Any]], asyncio.Task[Any], int]:
    """Make `rig.zk` wait while `rig.other` holds, as the next in line or behind another waiter; returns those
    ahead of it, the waiter itself, and how many hold."""
    holders = 1 if kind.rival else kind.crowd
    ahead: list[asyncio.Task[Any]] = []
    if place == "behind another":
        ahead.append(asyncio.create_task(kind.make(rig.other, PATH).acquire()))
        await kind.until_standing(rig.other, holders, 1)
    start = len(rig.tap.messages)
    waiter = asyncio.create_task(kind.make(rig.zk, PATH).acquire())
    await kind.until_standing(rig.other, holders, len(ahead) + 1)
    await until_watching(rig.tap, start)
    await settle(rig.zk)
    return ahead, waiter, holders


async def end(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
        await ended(task)


# L1: how many hold at once, in which order, and the cost


@every_kind()
async def test_never_more_than_its_limit(connect: Connect, kind: LineKind) -> None:
    """L1, L5, L7: across clients, and tasks that share an object, never more than the limit hold at once, and
    the limit is reached. Each acquisition has its own fencing token; those of an exclusive kind grow in the
    order of holding."""
    inside = 0
    together = asyncio.Barrier(kind.crowd)
    tokens: list[int] = []

    async def work(shared: Any) -> None:
        nonlocal inside
        for _ in range(3):
            async with shared as held:
                inside += 1
                assert kind.limit is None or inside <= kind.limit
                assert is_valid(held)
                tokens.append(each_held(held)[0].fencing_token)
                await together.wait()
                await turns(3)
                inside -= 1

    async with connect() as one, connect() as two, connect() as three:
        await kind.make_lines(one)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for client in (one, two, three):
                shared = kind.make(client, PATH)
                for _ in range(4):
                    group.create_task(work(shared))
        assert len(set(tokens)) == 36
        assert not kind.is_exclusive or tokens == sorted(tokens)
        assert await kind.owners(one) == {}


@every_kind(lambda kind: kind.limit is not None)
async def test_first_come_first_served(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L1: waiters are served in the order in which they joined, whatever their client, object or task, also
    when several permits are released at once."""
    await kind.make_lines(zk)
    served: list[int] = []
    shared = kind.make(zk, PATH)
    held = await kind.fill(other)

    async def wait(place: int, made: Any) -> None:
        async with made:
            served.append(place)

    waiters = []
    for place in range(6):
        made = shared if place % 2 else kind.make(other, PATH)
        waiters.append(asyncio.create_task(wait(place, made)))
        await kind.until_standing(other, len(held), place + 1)
    await asyncio.gather(*map(release, held))
    await within(asyncio.gather(*waiters))
    assert served == list(range(6))


@every_kind(lambda kind: kind.is_one_line)
async def test_a_release_wakes_one_waiter_of_twenty(
    connect: Connect, proxy: FaultProxy, tap: Tap, server_address: str, root: str, kind: LineKind
) -> None:
    """L1: with twenty waiters each node but the last is watched exactly once. A release is an event for one
    waiter alone, which checks its own node."""
    async with (
        connect(proxy.address, session_timeout=10.0) as zk,
        connect(proxy.address, session_timeout=10.0) as other,
    ):
        await kind.make_lines(zk)
        held = await kind.make(zk, PATH).acquire()
        waiters = [
            asyncio.create_task(kind.make(client, PATH).acquire())
            for _ in range(10)
            for client in (zk, other)
        ]
        names = await until_line(zk, PATH, 21)

        async def all_wait() -> bool:
            seen = await watched_paths(server_address)
            watches = {path: len(who) for path, who in seen.items() if path.startswith(f"{root}{PATH}")}
            return watches == {f"{root}{PATH}/{name}": 1 for name in names[:-1]}

        await until(all_wait, "each waiter watches the node before its own, and only that")
        start = len(tap.messages)
        await held.release()
        done, _ = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        await settle(zk)
        await settle(other)
        assert len(tap.events(start)) == 1
        asked = [each for each in tap.requests(start) if each != SET]
        assert asked in ([DELETE, EXISTS], [DELETE, CHILDREN])  # a writer lists again
        assert [task for task in waiters if task.done()] == list(done)
        assert {task.result().node for task in done} == {f"{root}{PATH}/{names[1]}"}
        for task in waiters:
            task.cancel()
        for task in done:
            await task.result().release()


@each_place
@every_kind()
async def test_a_waiter_is_idle(rig: Rig, kind: LineKind, place: str) -> None:
    """L1: a waiter sends nothing while it waits, except for the session's pings."""
    async with filled(kind, rig.other):
        ahead, waiter, _ = await start_waiting(kind, rig, place)
        start = len(rig.tap.messages)
        await rig.tap.seen(lambda: len(rig.tap.requests(start, ours=False)) >= 3)
        assert set(rig.tap.requests(start, ours=False)) == {PING}
        await end([*ahead, waiter])


@every_kind()
async def test_try_acquire(rig: Rig, kind: LineKind) -> None:
    """try_acquire acquires if nobody is ahead; otherwise it returns None and leaves no node. What this task
    holds through another client counts as held by someone else."""
    zk, other = rig.zk, rig.other
    await kind.make_lines(zk)
    async with AsyncExitStack() as stack:
        for _ in range(kind.limit or 1):
            held = await within(kind.opponent(zk, PATH).try_acquire())
            assert is_valid(held)
            for each in each_held(held):
                await stack.enter_async_context(each)
            await settle(zk)
        before = await kind.owners(zk)
        assert await within(kind.make(other, PATH).try_acquire()) is None
        await settle(other)
        assert await kind.owners(zk) == before
        assert is_valid(held)
    async with asyncio.timeout(PATIENCE):
        await release(await kind.make(other, PATH).try_acquire())
    await settle(other)
    assert await kind.owners(zk) == {}


@every_kind()
async def test_try_acquire_does_not_pass_those_who_wait(
    zk: corral.Client, other: corral.Client, kind: LineKind
) -> None:
    """L1: try_acquire does not overtake: it returns None while anyone waits."""
    held = [await kind.make(zk, PATH).acquire() for _ in range(kind.limit or 1)]
    waiter = asyncio.create_task(kind.opponent(zk).acquire())
    await kind.until_standing(other, len(held), 1)
    assert await within(kind.make(other, PATH).try_acquire()) is None
    await settle(other)
    await kind.until_standing(other, len(held), 1)
    for each in held:
        await release(each)
    await release(await within(waiter))


# L3: cancel and timeouts; `tests/points` cancels at each point


@every_kind()
async def test_cancelled_before_it_starts(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L3: a task that is cancelled before its first step sends nothing."""
    await kind.make_lines(zk)
    task = asyncio.create_task(kind.make(zk, PATH).acquire())
    await end([task])
    await settle(zk)
    assert await nodes_ever(kind, other) == 0


@every_kind()
async def test_cancelled_before_it_is_sent(rig: Rig, kind: LineKind) -> None:
    """L3: an acquire that is cancelled while there is no connection is never sent."""
    await kind.make_lines(rig.zk)
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        task = asyncio.create_task(kind.make(rig.zk, PATH).acquire())
        await turns()
        task.cancel()
        await turns()
        assert task.cancelled()
    await settle(rig.zk)
    assert await nodes_ever(kind, rig.other) == 0
    async with asyncio.timeout(PATIENCE), kind.make(rig.zk, PATH):
        pass


async def nodes_ever(kind: LineKind, client: corral.Client) -> int:
    """How many nodes were created and deleted in its lines."""
    stats = [await client.exists(PATH + line.below) for line in kind.lines]
    return sum(stat.cversion for stat in stats if stat is not None)


SCENES = ["no parent", "free", "held"]


@contextlib.asynccontextmanager
async def scene(rig: Rig, kind: LineKind, name: str) -> Any:
    """The lines as `rig.zk` finds them."""
    if name != "no parent":
        await kind.make_lines(rig.other)
    async with filled(kind, rig.other) if name == "held" else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("name", SCENES)
@every_kind()
async def test_many_cancelled_together(rig: Rig, kind: LineKind, name: str) -> None:
    """L3: many waiters of one object that are cancelled in one loop turn leave no nodes."""
    shared = kind.make(rig.zk, PATH)
    async with scene(rig, kind, name):
        tasks = [asyncio.create_task(shared.acquire()) for _ in range(20)]
        await turns()
        for task in tasks:
            task.cancel()
        await turns()
        assert all(task.cancelled() for task in tasks)
    await assert_nothing_left(rig, kind, rig.zk.session_id)


@pytest.mark.parametrize("fault", ["black hole", "no server", "slow server"])
@pytest.mark.parametrize("name", SCENES)
@every_kind()
async def test_a_timeout_with_no_answer(rig: Rig, kind: LineKind, name: str, fault: str) -> None:
    """L3: asyncio.timeout around an acquire ends it at once with TimeoutError, even if the server is silent,
    is down, or has not answered yet. A node that the server may have created is deleted once a server is
    reachable again."""
    session = rig.zk.session_id
    scopes: list[asyncio.Timeout] = []

    async def acquire() -> None:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            await kind.make(rig.zk, PATH).acquire()

    async with scene(rig, kind, name), AsyncExitStack() as stack:
        if fault == "no server":
            await stack.enter_async_context(rig.proxy.refuse())
            await rig.proxy.cut()
        else:
            hole = await stack.enter_async_context(rig.proxy.black_hole(requests=fault == "black hole"))
        task = asyncio.create_task(acquire())
        await turns()
        if fault != "no server":
            await within(hole.arrived())
        scopes[0].reschedule(asyncio.get_running_loop().time())
        await turns()
        assert task.done()
        assert isinstance(task.exception(), TimeoutError)
    await assert_nothing_left(rig, kind, session)


@every_kind()
async def test_a_timeout_around_the_block(rig: Rig, kind: LineKind) -> None:
    """L3, L4: a timeout around `async with` ends the wait, or the body, with TimeoutError, and no node is
    left. A timeout inside the body does not release."""
    made = kind.make(rig.zk, PATH)
    scopes: list[asyncio.Timeout] = []
    inside = asyncio.Event()

    async def hold() -> None:
        async with asyncio.timeout(None) as scope:
            scopes.append(scope)
            async with made as held:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await forever()
                assert is_valid(held)
                inside.set()
                await forever()

    async with filled(kind, rig.other) as holding:
        waiting = asyncio.create_task(hold())
        await kind.until_standing(rig.other, len(holding), 1)
        scopes.pop().reschedule(0)
        with pytest.raises(TimeoutError):
            await within(waiting)
    assert not inside.is_set()
    held = asyncio.create_task(hold())
    await within(inside.wait())
    scopes.pop().reschedule(0)
    with pytest.raises(TimeoutError):
        await within(held)
    await assert_nothing_left(rig, kind, rig.zk.session_id)


@every_kind()
async def test_an_anyio_scope_around_an_acquire(rig: Rig, kind: LineKind) -> None:
    """L3: anyio's cancellation, which is repeated at every await, leaves no node either, whether it hits a
    wait or a body."""
    session = rig.zk.session_id
    made = kind.make(rig.zk, PATH)
    async with filled(kind, rig.other) as holding:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(made.acquire)
                await kind.until_standing(rig.other, len(holding), 1)
                scope.cancel()
        assert scope.cancelled_caught
    await assert_nothing_left(rig, kind, session)
    with anyio.CancelScope() as scope:
        async with made:
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    await assert_nothing_left(rig, kind, session)


@every_kind()
async def test_a_waiter_that_leaves_lets_the_next_one_wait(
    zk: corral.Client, other: corral.Client, kind: LineKind
) -> None:
    """L3: a cancelled waiter makes room for the next in line; no one acquires earlier because of it."""
    async with filled(kind, other) as held:
        tasks = []
        for place in range(3):
            tasks.append(asyncio.create_task(kind.make(zk, PATH).acquire()))
            await kind.until_standing(other, len(held), place + 1)
        await end(tasks[:2])
        await kind.until_standing(other, len(held), 1)
        assert await within(kind.make(other, PATH).try_acquire()) is None
        assert not tasks[2].done()
    await release(await within(tasks[2]))


@pytest.mark.parametrize("then", ["entered", "cancelled"])
@each_place
@every_kind()
async def test_no_watch_is_left(rig: Rig, kind: LineKind, place: str, then: str) -> None:
    """S8: once a waiter holds, has released, or was cancelled, neither the client nor the server has a watch
    of it: later changes of the line send no event."""
    await kind.make_lines(rig.other)
    async with filled(kind, rig.other):
        ahead, waiter, _ = await start_waiting(kind, rig, place)
        if then == "cancelled":
            await end([waiter])
    for task in ahead:
        await release(await within(task))
    if then == "entered":
        await release(await within(waiter))
    await settle(rig.zk)
    assert sum(rig.zk.statistics().watches.values()) == 0
    start = len(rig.tap.messages)
    for line in kind.lines:
        await rig.other.set(PATH + line.below, b"new")
        await rig.other.create(f"{PATH}{line.below}/new")
    await rig.other.delete(PATH, recursive=True)
    await settle(rig.zk)
    assert rig.tap.events(start) == []


@each_place
@every_kind()
async def test_closing_the_client_ends_those_who_wait(
    connect: Connect, other: corral.Client, kind: LineKind, place: str
) -> None:
    """S5: if the client is closed, its waiters, whether next in line or not, get ClientClosed and leave no
    node."""
    await kind.make_lines(other)
    async with filled(kind, other) as held:
        tasks = []
        if place == "behind another":
            tasks.append(asyncio.create_task(kind.make(other, PATH).acquire()))
            await kind.until_standing(other, len(held), 1)
        before = await kind.owners(other)
        async with connect() as zk:
            waiters = [asyncio.create_task(kind.make(zk, PATH).acquire()) for _ in range(3)]
            await kind.until_standing(other, len(held), len(tasks) + 3)
        for task in waiters:
            with pytest.raises(corral.ClientClosed):
                await within(task)
        assert await kind.owners(other) == before
        await end(tasks)


# S2, L3, L10: lost messages, lost sessions; `tests/points` cuts at each message


@either_lost
@both_ways
@each_line
async def test_a_lost_create(rig: Rig, kind: LineKind, number: int, way: str, lost: str) -> None:
    """L3, S2: whichever create is lost, before or after the server applied it, exactly one node of ours
    exists, and it holds; if we cannot acquire, none exists."""
    await kind.make_lines(rig.other)
    lose = before if lost == "request" else committed
    point = lose(match=kind.creates_in(number))
    session = rig.zk.session_id
    async with rig.proxy.cut_at(point, reset=True) as loss:
        held = await within(getattr(kind.make(rig.zk, PATH), way)())
        assert loss.fired.is_set()
    assert is_valid(held)
    await settle(rig.zk)
    assert rig.zk.session_id == session
    assert await kind.owners(rig.other) == {session: len(each_held(held))}
    await release(held)
    if way == "try_acquire":
        async with filled(kind, rig.other):
            await settle(rig.other)
            theirs = await kind.owners(rig.other)
            async with rig.proxy.cut_at(point, reset=True):
                assert await within(kind.make(rig.zk, PATH).try_acquire()) is None
            await settle(rig.zk)
            assert await kind.owners(rig.other) == theirs


@both_ways
@every_kind()
async def test_cancelled_and_then_the_answer_is_lost(rig: Rig, kind: LineKind, way: str) -> None:
    """L3: the node was created, the acquire was cancelled, and then the answer is lost: after the reconnect
    the node is found by its GUID, and deleted."""
    session = rig.zk.session_id
    await kind.make_lines(rig.other)
    async with rig.proxy.black_hole(requests=False):
        task = asyncio.create_task(getattr(kind.make(rig.zk, PATH), way)())
        await until_line(rig.other, PATH + kind.lines[0].below, 1)
        task.cancel()
        await turns()
        assert task.cancelled()
        await rig.proxy.cut(reset=True)
    await assert_nothing_left(rig, kind, session)


@both_ways
@every_kind()
async def test_the_answer_is_lost_and_the_session_too(rig: Rig, kind: LineKind, way: str) -> None:
    """L10, S2: the node was created, its answer was lost, and the session expires before the reconnect: the
    acquire joins again in the new session, with one node."""
    session = rig.zk.session_id
    await kind.make_lines(rig.other)
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(committed(match=kind.creates_in(0)), reset=True) as loss:
            task = asyncio.create_task(getattr(kind.make(rig.zk, PATH), way)())
            await within(loss.fired.wait())
        assert await kind.owners(rig.other) == {session: 1}
        await end_session(rig.tap, rig.server, session)
        assert await kind.owners(rig.other) == {}
    held = await within(task)
    assert {each.session_id for each in each_held(held)} == {rig.zk.session_id} != {session}
    await settle(rig.zk)
    assert await kind.owners(rig.other) == {rig.zk.session_id: len(each_held(held))}
    await release(held)


@pytest.mark.parametrize("how", ["cut", "reset", "black hole", "expired"])
@each_place
@every_kind()
async def test_a_waiter_survives(rig: Rig, kind: LineKind, place: str, how: str) -> None:
    """L1, S4: a waiter keeps its place across a lost connection and a silent server, and gets its turn even
    if that came while it was disconnected. After an expired session it joins again."""
    await kind.make_lines(rig.other)  # otherwise the server may remove them while they are empty
    theirs = await kind.fill(rig.other)
    ahead, waiter, _ = await start_waiting(kind, rig, place)
    session, start = rig.zk.session_id, len(rig.tap.messages)

    async def move_on() -> None:
        for each in theirs:
            await release(each)
        for task in ahead:
            await release(await within(task))

    async with rig.away(how):
        await move_on()
    held = await within(waiter)
    assert {each.session_id for each in each_held(held)} == {rig.zk.session_id}
    assert (rig.zk.session_id != session) == (how == "expired")
    joined_again = sum(map(kind.creates_in(0), rig.tap.messages[start:]))
    assert joined_again == (how == "expired")
    await settle(rig.zk)
    assert await kind.owners(rig.other) == {rig.zk.session_id: len(each_held(held))}
    await release(held)


@both_ways
@each_line
async def test_a_parent_vanishes_meanwhile(rig: Rig, kind: LineKind, number: int, way: str) -> None:
    """L10: a parent that was created, and is gone again when the node is to be created in it, is created
    again."""
    parent = PATH + kind.lines[number].below

    def makes(message: Message) -> bool:
        return asks_for(CREATE_CONTAINER)(message) and (message.path or "").endswith(parent)

    async with rig.proxy.black_hole(committed(match=makes), requests=False) as hole:
        task = asyncio.create_task(getattr(kind.make(rig.zk, PATH), way)())
        await within(hole.fired.wait())
        with suppress(corral.NoNode):  # the server removes it, too
            await rig.other.delete(parent)
    held = await within(task)
    assert is_valid(held)
    assert sum(map(makes, rig.tap.messages)) == 2
    await settle(rig.zk)
    assert await kind.owners(rig.other) == {rig.zk.session_id: len(each_held(held))}
    await release(held)


@every_kind()
async def test_names_and_parents(rig: Rig, root: str, kind: LineKind) -> None:
    """L8, L10: nodes have the names of their layout, are ephemeral, and have an open ACL; their data is
    empty, not null. Parents need not exist; those that are created are containers."""
    await rig.zk.create("/app")
    path = f"/app{PATH}"
    async with kind.make(rig.zk, path) as held:
        for each, line in zip(each_held(held), [at for at in kind.lines if at.holders][::-1], strict=True):
            folder, _, name = each.node.rpartition("/")
            assert folder == f"{root}{path}{line.below}"
            assert kind.name.fullmatch(name)
            data, stat = await rig.other.get(f"{path}{line.below}/{name}")
            assert data == b""
            assert (stat.ephemeral_owner, stat.czxid) == (rig.zk.session_id, each.fencing_token)
            assert (await rig.other.get_acl(f"{path}{line.below}/{name}"))[0] == list(corral.acl.OPEN)
    containers = {each.path for each in rig.tap.messages if asks_for(CREATE_CONTAINER)(each)}
    assert {f"{root}{path}{line.below}" for line in kind.lines} <= containers


@every_kind(is_single)
async def test_foreign_children(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L10: children with other names are neither waited for nor shown."""
    await kind.make_lines(zk)
    for line in kind.lines:
        for name in ("readme", "0000000000", "lock", "x-0000000000"):
            await zk.create(f"{PATH}{line.below}/{name}")
    async with asyncio.timeout(PATIENCE), kind.make(other, PATH, data=b"us") as held:
        assert [each.data for each in await kind.seen(kind.make(zk, PATH))] == [b"us"]
        assert held.is_valid


# L9: holders and waiters


@every_kind(is_single)
async def test_who_holds_and_who_waits(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L9: holders and waiters are listed in order, with their data and sessions; they hold in that order."""
    observer = kind.make(other, PATH, data=b"observer")
    assert await kind.seen(observer) == []
    can_ask = not isinstance(observer, corral.Semaphore)
    assert not (can_ask and await observer.locked())
    count = kind.limit or 1
    held = [await kind.make(zk, PATH, data=b"holder %d" % place).acquire() for place in range(count)]
    tasks = []
    opponents = [kind.opponent(client, data=data) for client, data in ((other, b"b"), (zk, b""))]
    for place, each in enumerate(opponents):
        tasks.append(asyncio.create_task(each.acquire()))
        await kind.until_standing(zk, count, place + 1)
    seen = await kind.seen(observer)
    assert [each.data for each in seen] == [b"holder %d" % place for place in range(count)] + [b"b", b""]
    assert not can_ask or await observer.locked()
    owners = [each.stat.ephemeral_owner for each in seen]
    assert owners == [zk.session_id] * count + [other.session_id, zk.session_id]
    assert len({each.name[:-10] for each in seen}) == len(seen)  # each with its own GUID
    for contender, each in zip(seen, held, strict=False):
        assert contender.name == each.node.rpartition("/")[2]
        assert contender.stat.czxid == each.fencing_token
        assert contender.sequence == int(contender.name[-10:])
    for each in held:
        await each.release()
    for task in tasks:
        await release(await within(task))
    await settle(zk)
    await settle(other)
    assert await kind.seen(observer) == []


@every_kind()
async def test_data_must_be_bytes(zk: corral.Client, kind: LineKind) -> None:
    """L10: data is bytes, never null, on which other libraries fail."""
    for data in (None, "text"):
        with pytest.raises(corral.UsageTypeError, match="data"):
            kind.make(zk, PATH, data=data)


# L7: one object, many tasks


@both_ways
@pytest.mark.parametrize("by", ["the same object", "another object", "a chroot"])
@every_kind()
async def test_a_task_does_not_wait_for_itself(zk: corral.Client, kind: LineKind, by: str, way: str) -> None:
    """L7: acquiring again what this task has entered through this client is an error, not a deadlock.
    `try_acquire` of a semaphore, which would not wait, returns None."""
    path = f"/a{PATH}"
    made = kind.make(zk, path)
    again = {
        "the same object": made,
        "another object": kind.make(zk, path),
        "a chroot": kind.make(zk.chroot("/a"), PATH),
    }[by]
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(made) for _ in range(kind.limit or 1)]
        owners = await kind.owners(zk, path)
        if isinstance(made, corral.Semaphore) and way == "try_acquire":
            assert await within(again.try_acquire()) is None
        else:
            with pytest.raises(corral.AlreadyHeld, match=f"{kind.called} '.*{PATH}"):
                await within(getattr(again, way)())
        assert all(map(is_valid, held))
        await settle(zk)
        assert await kind.owners(zk, path) == owners
    async with asyncio.timeout(PATIENCE), again:  # no error afterwards
        pass


@every_kind(lambda kind: kind.limit is not None and is_single(kind))
async def test_another_task_waits_for_the_same_object(zk: corral.Client, kind: LineKind) -> None:
    """L7: another task waits its turn on the same object; any task may release."""
    made = kind.make(zk, PATH)
    held = [await made.acquire() for _ in range(kind.crowd)]
    waiter = asyncio.create_task(made.acquire())
    await kind.until_standing(zk, kind.crowd, 1)
    await asyncio.create_task(held.pop().release())
    last = await within(waiter)
    for each in (*held, last):
        await made.release()
        assert not (await each.wait_lost())
    assert not last.is_valid
    with pytest.raises(corral.UsageStateError, match="not acquired"):
        await made.release()
    assert await kind.owners(zk) == {}


@every_kind()
async def test_release_without_acquire(zk: corral.Client, kind: LineKind) -> None:
    """L7: releasing what was not acquired through this object is an error that says so."""
    made = kind.make(zk, PATH)
    with pytest.raises(corral.UsageStateError, match="not acquired"):
        await made.release()
    async with kind.make(zk, PATH):
        with pytest.raises(corral.UsageStateError, match="not acquired"):
            await made.release()


@every_kind()
async def test_leaving_without_entering(zk: corral.Client, kind: LineKind) -> None:
    """L7: leaving what was not entered, or entering a `Held` twice, is an error that says so."""
    made = kind.make(zk, PATH)
    with pytest.raises(corral.UsageStateError, match="not entered"):
        await made.__aexit__(None, None, None)
    held = each_held(await made.acquire())
    async with held[0]:
        with pytest.raises(corral.UsageStateError, match="entered before"):
            await held[0].__aenter__()
    with pytest.raises(corral.UsageStateError, match="released"):
        await held[0].__aenter__()
    for each in held[1:]:
        await each.release()


@every_kind()
async def test_shared_by_tasks_that_enter(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L7: each of many tasks that enter a shared object gets its own `Held`, and leaves that one."""
    await kind.make_lines(zk)
    shared = kind.make(zk, PATH)
    seen: list[str] = []

    async def enter() -> None:
        async with shared as held:
            seen.append(node_below(held))
            assert await other.exists(node_below(held)) is not None
            await turns()
            assert is_valid(held)
        assert await other.exists(node_below(held)) is None

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(enter())
    assert len(set(seen)) == 8
    assert await kind.owners(other) == {}


@every_kind()
async def test_left_in_another_task(rig: Rig, kind: LineKind) -> None:
    """S8: if it is entered in one task and left in another, it is released; later events cancel nobody."""
    await kind.make_lines(rig.zk)
    made = kind.make(rig.zk, PATH)
    held = await within(asyncio.create_task(made.__aenter__()))
    assert is_valid(held)
    await within(asyncio.create_task(made.__aexit__(None, None, None)))
    assert not is_valid(held)
    held = await made.__aenter__()
    await within(asyncio.create_task(made.__aexit__(None, None, None)))
    await rig.zk.close()
    await turns()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await kind.owners(rig.other) == {}


# L6: release


@every_kind()
async def test_release_twice(zk: corral.Client, kind: LineKind) -> None:
    """L6: releasing again does nothing, and does not affect the current holder."""
    await kind.make_lines(zk)
    made = kind.make(zk, PATH)
    first = await made.acquire()
    await release(first)
    second = await made.acquire()
    await release(first)
    assert is_valid(second)
    assert not is_valid(first)
    assert await each_held(first)[0].wait_lost() is None
    await release(second)
    assert await kind.owners(zk) == {}


@every_kind()
async def test_release_inside_the_body(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L6: a body may release early; from then on someone else can hold, and leaving is no error."""
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(kind.make(zk, PATH)) for _ in range(kind.limit or 1)]
        waiter = asyncio.create_task(kind.opponent(other).acquire())
        await kind.until_standing(zk, len(held), 1)
        await release(held[0])
        following = await within(waiter)
        assert not is_valid(held[0])
    assert is_valid(following)
    await release(following)


@every_kind()
async def test_release_after_the_loss(zk: corral.Client, other: corral.Client, kind: LineKind) -> None:
    """L6: a release after the loss does not raise."""
    held = await kind.make(zk, PATH).acquire()
    await other.delete(node_below(held))
    lost = each_held(held)[0]
    await within(lost.wait_lost())
    await release(held)
    assert isinstance(await lost.wait_lost(), corral.LockLost)


@every_kind()
async def test_release_with_the_connection_down(rig: Rig, kind: LineKind) -> None:
    """L6: while disconnected a release waits, and is carried out once there is a connection. Cancelling it
    does not stop it."""
    await kind.make_lines(rig.other)
    session = rig.zk.session_id
    for is_cancelled in (False, True):
        held = await kind.make(rig.zk, PATH).acquire()
        await settle(rig.zk)
        before = await kind.owners(rig.other)
        async with rig.proxy.refuse():
            await rig.proxy.cut()
            releasing = asyncio.create_task(release(held))
            await turns()
            assert not releasing.done()
            assert not is_valid(held)
            assert await kind.owners(rig.other) == before
            if is_cancelled:
                releasing.cancel()
                await turns()
                assert releasing.cancelled()
        if not is_cancelled:
            await within(releasing)
            assert await kind.owners(rig.other) == {}

    async def gone() -> bool:
        return await kind.owners(rig.other) == {}

    await until(gone, "the cancelled release is done all the same")
    assert rig.zk.session_id == session


@every_kind()
async def test_release_waits_no_longer_than_the_lease(rig: Rig, kind: LineKind) -> None:
    """L6: with no reachable server, a release returns when the lease ends, and the node is deleted once a
    server is reachable again."""
    held = await kind.make(rig.zk, PATH).acquire()
    async with rig.proxy.black_hole():
        await within(release(held))
        assert rig.zk.state in (corral.State.LAPSED, corral.State.SUSPENDED)
        assert await each_held(held)[0].wait_lost() is None

    async def gone() -> bool:
        return await kind.owners(rig.other) == {}

    await until(gone, "the node is gone")


@either_lost
@every_kind()
async def test_a_release_whose_connection_breaks(rig: Rig, kind: LineKind, lost: str) -> None:
    """L6: a release on which the connection breaks, before or after the server applied it, is carried out
    nevertheless."""
    await kind.make_lines(rig.other)
    made = kind.make(rig.zk, PATH)
    held = await made.acquire()
    await settle(rig.zk)
    lose = before if lost == "request" else committed
    async with rig.proxy.cut_at(lose(match=asks_for(DELETE)), reset=True) as loss:
        await within(release(held))
        assert loss.fired.is_set()
    assert await kind.owners(rig.other) == {}
    async with asyncio.timeout(PATIENCE), made:
        pass


@every_kind()
async def test_a_cancelled_body(rig: Rig, kind: LineKind) -> None:
    """L4: a body that its caller cancels ends with CancelledError; the lock is released, and the next one
    holds."""
    entered = asyncio.Event()

    async def run() -> None:
        async with kind.make(rig.zk, PATH):
            entered.set()
            await forever()

    task = asyncio.create_task(run())
    await within(entered.wait())
    following = asyncio.create_task(kind.opponent(rig.other).acquire())
    task.cancel()
    await ended(task)
    assert task.cancelled()
    assert task.cancelling() == 1
    await release(await within(following))
    await assert_nothing_left(rig, kind, rig.zk.session_id)


# L4: losing what is held


@pytest.mark.parametrize("how", WAYS_TO_LOSE)
@every_kind()
async def test_the_body_is_cancelled_before_the_next_one_holds(rig: Rig, kind: LineKind, how: str) -> None:
    """L4: when the lease lapses, the session expires, the node is deleted or the client is closed, the body
    is cancelled once and may clean up; the block raises LockLost. If the lease lapsed, the body is cancelled
    before another client can hold. Other holders are not affected."""
    events: list[str] = []
    entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with kind.make(rig.zk, PATH) as held:
                entered.set_result(held)
                try:
                    with noted(events, "cancelled"):
                        await forever()
                finally:
                    assert not all(each.is_valid for each in each_held(held))
                    await turns(20)  # the clean-up may wait: it is not cancelled again
                    events.append("cleaned up")
        finally:
            assert task.cancelling() == 0
            await turns()

    async def next_one() -> None:
        async with kind.opponent(rig.other):
            events.append("next holds")

    async with AsyncExitStack() as stack:
        bystanders = [
            await stack.enter_async_context(kind.make(rig.other, PATH)) for _ in range((kind.limit or 1) - 1)
        ]
        task = asyncio.create_task(body())
        held = await within(asyncio.shield(entered))
        following = asyncio.create_task(next_one())
        await kind.until_standing(rig.other, len(bystanders) + 1, 1)
        async with rig.losing(how, node_below(held)):
            with pytest.raises(corral.LockLost, match=f"{kind.called} '{PATH}.*' was lost") as caught:
                await within(task)
        await within(following)
        assert all(map(is_valid, bystanders))
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    if how == "lapsed":
        assert events == ["cancelled", "cleaned up", "next holds"]
    else:
        assert sorted(events) == ["cancelled", "cleaned up", "next holds"]
    assert isinstance(await each_held(held)[0].wait_lost(), corral.LockLost)


@pytest.mark.parametrize("how", WAYS_TO_LOSE)
@every_kind()
async def test_without_a_body_nobody_is_cancelled(rig: Rig, kind: LineKind, how: str) -> None:
    """L4: what was acquired without `async with` is lost without a cancellation; `is_valid` and `wait_lost`
    report it."""
    acquired = await kind.make(rig.zk, PATH).acquire()
    held = each_held(acquired)[0]
    async with rig.losing(how, node_below(held)):
        assert isinstance(await within(held.wait_lost()), corral.LockLost)
        assert not held.is_valid
    await turns()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(corral.LockLost):
        async with held:
            pytest.fail("entered what was lost")
    await release(acquired)


@every_kind()
async def test_it_can_be_acquired_again_after_a_lapse(rig: Rig, kind: LineKind) -> None:
    """S3, L4: after a lapse, when a server is reachable again, it can be acquired again: the lost nodes do
    not block it."""
    made = kind.make(rig.zk, PATH)
    held = [await made.acquire() for _ in range(kind.limit or 1)]
    async with rig.proxy.black_hole():
        for each in held:
            await within(each_held(each)[0].wait_lost())
        assert rig.zk.state in (corral.State.LAPSED, corral.State.SUSPENDED)
    again = [await within(made.acquire()) for _ in range(kind.limit or 1)]
    assert each_held(again[0])[0].fencing_token > each_held(held[0])[0].fencing_token
    await settle(rig.zk)
    for each in held:
        await release(each)
    assert all(map(is_valid, again))
    count = sum(len(each_held(each)) for each in again)
    assert await kind.owners(rig.other) == {rig.zk.session_id: count}
    for each in again:
        await release(each)
    assert await kind.owners(rig.other) == {}


@every_kind()
async def test_a_new_holder_starts_with_time_on_its_lease(rig: Rig, kind: LineKind) -> None:
    """L4, S3: when a waiter's turn comes after a long wait, it holds only once a quorum write has proven its
    session again."""
    async with filled(kind, rig.other):
        waiter = asyncio.create_task(kind.make(rig.zk, PATH).acquire())
        await until_watching(rig.tap)
        start = len(rig.tap.messages)
        # Pings come every third of the session timeout, and prove nothing.
        await rig.tap.seen(lambda: rig.tap.requests(start, ours=False).count(PING) >= 3)
        assert MULTI not in rig.tap.requests(ours=False)
    held = await within(waiter)
    assert MULTI in rig.tap.requests(ours=False)
    assert is_valid(held)
    await release(held)


# L5: fenced writes


@every_kind()
async def test_a_guarded_transaction(rig: Rig, kind: LineKind) -> None:
    """L5: a guarded transaction is applied while it is held, and its errors count operations as the caller
    added them. Once its node is gone the server applies nothing and the commit raises LockLost, whether or
    not the loss has been noticed."""
    zk, other = rig.zk, rig.other
    await zk.create("/data", b"old")
    acquired = await kind.make(zk, PATH).acquire()
    held = each_held(acquired)[0]
    async with held.transaction() as tx:
        tx.set("/data", b"new")
        tx.create("/log-", sequential=True)
    assert tx.results[1].startswith("/log-")
    refused = held.transaction()
    refused.set("/data", b"newer")
    refused.check("/missing")
    with pytest.raises(corral.TransactionFailed) as failure:
        await refused.commit()
    assert failure.value.index == 1
    unnoticed, noticed = held.transaction(), held.transaction()
    for transaction in (unnoticed, noticed):
        transaction.set("/data", b"late")
    await other.delete(node_below(held))
    with pytest.raises(corral.LockLost):
        await unnoticed.commit()
    assert isinstance(await within(held.wait_lost()), corral.LockLost)
    with pytest.raises(corral.LockLost):
        await noticed.commit()
    assert (await other.get("/data"))[0] == b"new"
    await release(acquired)


@every_kind()
async def test_a_guarded_transaction_of_another_session(rig: Rig, kind: LineKind) -> None:
    """L5, S2: after the session has expired a guarded transaction raises SessionExpired; it is not sent in
    the new session."""
    zk, session = rig.zk, rig.zk.session_id
    await zk.create("/data", b"old")
    acquired = await kind.make(zk, PATH).acquire()
    await end_session(rig.tap, rig.server, session)

    async def another() -> bool:
        return zk.session_id not in (0, session)

    await until(another, "a new session")
    transaction = each_held(acquired)[0].transaction()
    transaction.set("/data", b"new")
    with pytest.raises(corral.SessionExpired):
        await within(transaction.commit())
    assert (await rig.other.get("/data"))[0] == b"old"
    assert await children(rig.other, f"{PATH}/nothing") == []
    await release(acquired)
