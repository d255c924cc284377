"""L3: an acquire that is cancelled, or times out, leaves nothing behind; whatever it was waiting for, and
whatever happens to the connection at that moment. And an acquire whose answers are lost makes one node."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import pytest
from lock_support import Rig, Strike, end_session, ended, settle, struck, until_line, watched_paths, within

import corral
from client_support import asks_for
from corral.testing import Message, before, committed
from corral.wire.messages import CHILDREN, CREATE2, CREATE_CONTAINER, DELETE, GET, MULTI, PING, Operation
from support import PATIENCE, children, turns, until

LINES = ["free", "held", "two ahead", "no parent"]


@asynccontextmanager
async def line(rig: Rig, kind: str, path: str) -> AsyncIterator[int]:
    """A line of a kind; yields how many are ahead. Those leave one by one, the nearest first, each when
    `rig.zk` waits for it; and all when the block ends."""
    if kind == "no parent":
        yield 0
        return
    await rig.other.create(path)
    if kind == "free":
        yield 0
        return
    ahead = [
        await rig.other.create(f"{path}/_c_{number}-lock-", ephemeral=True, sequential=True)
        for number in range(1 if kind == "held" else 2)
    ]

    def is_watched(name: str) -> bool:
        return any(
            message.operation == "get" and (message.path or "").endswith(name) for message in rig.tap.messages
        )

    async def move_on() -> None:
        for name in reversed(ahead):  # so that the one in front is found by looking again
            await rig.tap.seen(lambda name=name: is_watched(name))  # type: ignore[misc]
            await settle(rig.zk)  # its answer comes after that to the watch
            await rig.other.delete(name)

    mover = asyncio.create_task(move_on())
    try:
        yield len(ahead)
    finally:
        mover.cancel()
        await ended(mover)
        for name in ahead:
            with suppress(corral.NoNode):
                await rig.other.delete(name)


async def assert_nothing_left(rig: Rig, lock: corral.Lock, session: int) -> None:
    """Our session lives and has nothing in the line, the next client gets the lock, and so do we."""
    await settle(rig.zk)
    assert rig.zk.session_id == session

    async def ours_gone() -> bool:
        owners = [
            contender.stat.ephemeral_owner for contender in await rig.other.lock(lock.path).contenders()
        ]
        return session not in owners

    await until(ours_gone, f"nothing of ours in {lock.path}")
    async with asyncio.timeout(PATIENCE):
        async with rig.other.lock(lock.path):
            pass
        async with lock:
            pass
    await settle(rig.zk)
    assert await children(rig.other, lock.path) == []


@pytest.mark.parametrize("cut", ["", "FIN", "RST"])
@pytest.mark.parametrize("moment", ["while it waits", "as it is answered"])
@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, "acquire") for kind in LINES] + [(kind, "try_acquire") for kind in ("free", "held", "no parent")],
)
async def test_cancelled_at_each_step(rig: Rig, kind: str, way: str, moment: str, cut: str) -> None:
    """L3: cancelled at any point at which it waits, or in the tick in which what it waits for is there, with
    the connection lost at the same time or not: it ends at once and nothing of it is left."""
    session = rig.zk.session_id
    for step in itertools.count():
        path = f"/lock-{step}"
        lock = rig.zk.lock(path)
        async with line(rig, kind, path) as ahead:
            task = await struck(rig, step, getattr(lock, way)(), moment=moment, cut=cut)
            if task is not None:
                held = await within(task)
                if held is not None:
                    await held.release()
                break
        await assert_nothing_left(rig, lock, session)
    least = {"free": 1, "no parent": 3, "held": 3, "two ahead": 6}[kind]
    assert step >= (1 if way == "try_acquire" and ahead else least)


async def test_cancelled_before_it_starts(zk: corral.Client, other: corral.Client) -> None:
    """L3: a task that is cancelled before its first step asks the server nothing."""
    await zk.create("/lock")
    task = asyncio.create_task(zk.lock("/lock").acquire())
    task.cancel()
    await ended(task)
    await settle(zk)
    stat = await other.exists("/lock")
    assert stat is not None
    assert stat.cversion == 0  # counts every node ever created in it


async def test_cancelled_before_it_is_sent(rig: Rig) -> None:
    """L3: cancelled while there is no connection, an acquire is never sent."""
    await rig.zk.create("/lock")
    lock = rig.zk.lock("/lock")
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        task = asyncio.create_task(lock.acquire())
        await turns()
        task.cancel()
        await turns()
        assert task.cancelled()
    await settle(rig.zk)
    stat = await rig.other.exists("/lock")
    assert stat is not None
    assert stat.cversion == 0
    async with asyncio.timeout(PATIENCE), lock:
        pass


@pytest.mark.parametrize("kind", LINES)
async def test_many_cancelled_together(rig: Rig, kind: str) -> None:
    """L3: many waiters of one object, all cancelled in one tick, leave nothing."""
    lock = rig.zk.lock("/lock")
    async with line(rig, kind, "/lock"):
        tasks = [asyncio.create_task(lock.acquire()) for _ in range(20)]
        await turns()
        for task in tasks:
            task.cancel()
        await turns()
        assert all(task.cancelled() for task in tasks)
    await assert_nothing_left(rig, lock, rig.zk.session_id)


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("fault", ["black hole", "no server", "slow server"])
async def test_a_timeout_with_no_answer(rig: Rig, kind: str, fault: str) -> None:
    """L3: asyncio.timeout around an acquire ends it at once with TimeoutError though the server is silent, is
    not there, or has not answered yet; what the server may have made is removed when it is there again."""
    lock = rig.zk.lock("/lock")
    session = rig.zk.session_id
    async with line(rig, kind, "/lock"), AsyncExitStack() as stack:
        if fault == "black hole":
            held = await stack.enter_async_context(rig.proxy.black_hole())
        elif fault == "slow server":
            held = await stack.enter_async_context(rig.proxy.black_hole(requests=False))
        else:
            await stack.enter_async_context(rig.proxy.refuse())
            await rig.proxy.cut()

        async def acquire() -> None:
            async with asyncio.timeout(None) as scope:
                scopes.append(scope)
                await lock.acquire()

        scopes: list[asyncio.Timeout] = []
        task = asyncio.create_task(acquire())
        await turns()
        if fault != "no server":
            await within(held.arrived())
        scopes[0].reschedule(asyncio.get_running_loop().time())
        await turns()
        assert task.done()
        assert isinstance(task.exception(), TimeoutError)
    await assert_nothing_left(rig, lock, session)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
@pytest.mark.parametrize("kind", ["free", "held"])
async def test_cancelled_and_then_the_answer_is_lost(rig: Rig, kind: str, way: str, reset: bool) -> None:
    """L3: the node was made, its maker was cancelled, and then the answer is lost: the node is found by its
    GUID after the reconnect, and removed."""
    lock = rig.zk.lock("/lock")
    session = rig.zk.session_id
    async with line(rig, kind, "/lock") as ahead:
        async with rig.proxy.black_hole(requests=False):
            task = asyncio.create_task(getattr(lock, way)())
            await until_line(rig.other, "/lock", ahead + 1)
            task.cancel()
            await turns()
            assert task.cancelled()
            await rig.proxy.cut(reset=reset)
    await assert_nothing_left(rig, lock, session)


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
@pytest.mark.parametrize("operation", [CREATE2, CHILDREN], ids=["create", "list"])
async def test_the_message_is_lost_and_then_cancelled(
    rig: Rig, operation: Operation, way: str, lost: str
) -> None:
    """L3: the create or the list is lost with its connection, before the server or behind it, and the caller
    cancels while that is being found out."""
    await rig.other.create("/lock")
    lock = rig.zk.lock("/lock")
    session = rig.zk.session_id
    lose = before if lost == "request" else committed
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(lose(match=asks_for(operation)), reset=True) as loss:
            task = asyncio.create_task(getattr(lock, way)())
            await within(loss.fired.wait())

        async def disconnected() -> bool:
            return rig.zk.state is corral.State.SUSPENDED

        await until(disconnected, "the client knows")
        await turns()
        assert not task.done()  # it has to find out first, and cannot
        task.cancel()
        await turns()
        assert task.cancelled()
    await assert_nothing_left(rig, lock, session)


@pytest.mark.parametrize("moment", ["while it waits", "as it is answered"])
@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_cancelled_at_each_step_of_finding_out(rig: Rig, lost: str, moment: str) -> None:
    """L3: cancelled at any point while it finds out what became of a create whose answer is lost, an acquire
    ends at once and leaves nothing."""
    session = rig.zk.session_id
    lose = before if lost == "request" else committed
    for step in itertools.count():
        path = f"/lock-{step}"
        await rig.other.create(path)
        lock = rig.zk.lock(path)
        async with rig.proxy.cut_at(lose(match=asks_for(CREATE2)), reset=True):
            task = await struck(rig, step, lock.acquire(), moment=moment)
        if task is not None:
            await (await within(task)).release()
            break
        await assert_nothing_left(rig, lock, session)
    assert step >= 3  # the create; the write and the list; whose node it is, or the create again


# Not cancelled: lost messages


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize(
    ("kind", "operation"),
    [(kind, operation) for kind in LINES for operation in (CREATE2, CHILDREN)]
    + [("held", GET), ("two ahead", GET), ("no parent", CREATE_CONTAINER)],
    ids=str,
)
async def test_a_lost_message_makes_no_second_node(
    rig: Rig, kind: str, operation: Operation, lost: str
) -> None:
    """L3, S2: whichever message of an acquire is lost, before the server or behind it, the acquire succeeds,
    with exactly one node in line."""
    lock = rig.zk.lock("/lock")
    session = rig.zk.session_id
    lose = before if lost == "request" else committed
    async with (
        line(rig, kind, "/lock"),
        rig.proxy.cut_at(lose(match=asks_for(operation)), reset=True) as loss,
    ):
        held = await within(lock.acquire())
        assert loss.fired.is_set()
        assert held.is_valid
        assert held.session_id == session == rig.zk.session_id
        await settle(rig.zk)
        assert await children(rig.other, "/lock") == [held.node.rpartition("/")[2]]
    await held.release()
    assert await children(rig.other, "/lock") == []


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_try_acquire_with_a_lost_message(rig: Rig, lost: str) -> None:
    """L3: try_acquire whose create is lost knows what became of it: True of a free lock, with one node; and
    none of a held one, with nothing left."""
    lose = before if lost == "request" else committed
    lock = rig.zk.lock("/lock")
    await rig.other.create("/lock")
    async with rig.proxy.cut_at(lose(match=asks_for(CREATE2)), reset=True):
        held = await within(lock.try_acquire())
    assert held is not None
    assert len(await children(rig.other, "/lock")) == 1
    await held.release()
    theirs = await rig.other.lock("/lock").acquire()
    async with rig.proxy.cut_at(lose(match=asks_for(CREATE2)), reset=True):
        assert await within(lock.try_acquire()) is None
    await settle(rig.zk)
    assert await children(rig.other, "/lock") == [theirs.node.rpartition("/")[2]]
    await theirs.release()


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
async def test_the_answer_is_lost_and_the_session_too(rig: Rig, way: str) -> None:
    """L10, S2: the node was made, its answer was lost, and the session expires before the reconnect: the
    acquire stands in line again, in the new session, with one node."""
    lock = rig.zk.lock("/lock")
    session = rig.zk.session_id
    await rig.other.create("/lock")
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(committed(match=asks_for(CREATE2)), reset=True) as loss:
            task = asyncio.create_task(getattr(lock, way)())
            await within(loss.fired.wait())
        assert len(await children(rig.other, "/lock")) == 1
        await end_session(rig.tap, rig.server, session)
        assert await children(rig.other, "/lock") == []
    held = await within(task)
    assert held.session_id == rig.zk.session_id != session
    assert await children(rig.other, "/lock") == [held.node.rpartition("/")[2]]
    await held.release()


async def test_another_sessions_node_with_our_name_is_not_ours(rig: Rig) -> None:
    """L10: a node that has our GUID and another session is not taken for ours: it is waited for."""
    await rig.other.create("/lock")
    prefix: list[str] = []

    def create(message: Message) -> bool:
        if not asks_for(CREATE2)(message):
            return False
        assert message.path is not None
        prefix.append(message.path.rpartition("/")[2])
        return True

    lock = rig.zk.lock("/lock")
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(before(match=create), reset=True) as loss:
            task = asyncio.create_task(lock.acquire())
            await within(loss.fired.wait())
        foreign = await rig.other.create(f"/lock/{prefix[0]}", ephemeral=True, sequential=True)
    names = await until_line(rig.other, "/lock", 2)
    await settle(rig.zk)
    assert not task.done()
    await rig.other.delete(foreign)
    held = await within(task)
    assert held.node.rpartition("/")[2] == names[1]
    await held.release()


async def waited_long(rig: Rig) -> None:
    """Wait until what was proven when a waiter of `rig.zk` joined is a session timeout old."""
    await until_line(rig.other, "/lock", 2)
    start = len(rig.tap.messages)
    # Pings are a third of it apart, and prove nothing.
    await rig.tap.seen(lambda: rig.tap.requests(start, ours=False).count(PING) >= 3)
    assert MULTI not in rig.tap.requests(ours=False)


@pytest.mark.parametrize("moment", ["while it waits", "as it is answered", "unsent", "unanswered"])
async def test_cancelled_while_it_makes_sure_of_its_lease(rig: Rig, moment: str) -> None:
    """L3: a waiter whose turn comes when its lease is short makes sure of that first; it can be cancelled
    there as well, with the connection lost or not."""
    session = rig.zk.session_id
    lock = rig.zk.lock("/lock")
    strike = Strike(-1, when_done=moment == "as it is answered")
    async with AsyncExitStack() as stack:
        async with rig.other.lock("/lock"):
            task = strike.start(lock.acquire())
            await waited_long(rig)
            if moment in ("unsent", "unanswered"):
                lose = before if moment == "unsent" else committed
                loss = await stack.enter_async_context(
                    rig.proxy.cut_at(lose(match=asks_for(MULTI)), reset=True)
                )
            else:
                strike.aim_at_next()
        if moment in ("unsent", "unanswered"):
            await within(loss.fired.wait())
            task.cancel()
        await ended(task)
        assert task.cancelled()
    assert MULTI in rig.tap.requests(ours=False)
    await assert_nothing_left(rig, lock, session)


async def test_a_new_holder_starts_with_time_on_its_lease(rig: Rig) -> None:
    """L4, S3: when a waiter's turn comes after a long wait, it holds only once a quorum write has proven its
    session anew."""
    async with rig.other.lock("/lock"):
        task = asyncio.create_task(rig.zk.lock("/lock").acquire())
        await waited_long(rig)
    held = await within(task)
    assert MULTI in rig.tap.requests(ours=False)
    assert held.is_valid
    await held.release()


@pytest.mark.parametrize("how", ["cut", "reset", "black hole", "expired"])
async def test_a_waiter_survives(rig: Rig, how: str) -> None:
    """L1, S4: a waiter keeps its place over a lost connection and a silent server, and gets its turn even if
    that came while it was away; after an expired session it stands in line again."""
    theirs = await rig.other.lock("/lock").acquire()
    task = asyncio.create_task(rig.zk.lock("/lock").acquire())
    before = await until_line(rig.other, "/lock", 2)
    session = rig.zk.session_id
    if how == "black hole":
        async with rig.proxy.black_hole():

            async def noticed() -> bool:
                return rig.zk.state is corral.State.SUSPENDED

            await until(noticed, "the silence is noticed")
            await theirs.release()
    else:
        async with rig.proxy.refuse():
            if how == "expired":
                await end_session(rig.tap, rig.server, session)
            else:
                await rig.proxy.cut(reset=how == "reset")
            await theirs.release()
    held = await within(task)
    if how == "expired":
        assert held.session_id == rig.zk.session_id != session
    else:
        assert held.node.endswith(before[1])
        assert held.session_id == session
    assert await children(rig.other, "/lock") == [held.node.rpartition("/")[2]]
    await held.release()


async def test_closing_the_client_ends_those_who_wait(connect: Callable[..., corral.Client]) -> None:
    """S5: whoever waits for a lock when the client is closed gets ClientClosed."""
    async with connect() as other, connect() as zk:
        async with other.lock("/lock"):
            tasks = [asyncio.create_task(zk.lock("/lock").acquire()) for _ in range(3)]
            await until_line(other, "/lock", 4)
            await zk.close()
            for task in tasks:
                with pytest.raises(corral.ClientClosed):
                    await within(task)
            assert len(await children(other, "/lock")) == 1


@pytest.mark.parametrize("server", ["there", "gone"])
async def test_closing_while_a_node_is_still_to_be_removed(rig: Rig, server: str) -> None:
    """S5, L3: closing the client while it still has to find and remove the node of a cancelled acquire
    leaves no task; the node goes with the session, at the latest when that expires."""
    await rig.other.create("/lock")
    async with AsyncExitStack() as stack:
        async with rig.proxy.black_hole(requests=False):
            task = asyncio.create_task(rig.zk.lock("/lock").acquire())
            await until_line(rig.other, "/lock", 1)
            task.cancel()
            if server == "gone":
                await stack.enter_async_context(rig.proxy.refuse())
            await rig.proxy.cut()
            await ended(task)
        await within(rig.zk.close())
    await until_line(rig.other, "/lock", 0)


async def test_a_broken_release_of_a_cancelled_waiter(rig: Rig) -> None:
    """L3: the deletion of a cancelled waiter's node, itself lost with its connection, is done by the next."""
    session = rig.zk.session_id
    lock = rig.zk.lock("/lock")
    async with rig.other.lock("/lock"):
        for lose in (before, committed):
            task = asyncio.create_task(lock.acquire())
            await until_line(rig.other, "/lock", 2)
            async with rig.proxy.cut_at(lose(match=asks_for(DELETE)), reset=True) as loss:
                task.cancel()
                await within(loss.fired.wait())
                await until_line(rig.other, "/lock", 1)
    await assert_nothing_left(rig, lock, session)


async def test_a_cancelled_waiter_leaves_no_watch(rig: Rig, root: str) -> None:
    """S8: the server's watch goes with the waiter that is cancelled."""

    async def watchers() -> int:
        watched = await watched_paths(rig.server)
        return sum(len(who) for path, who in watched.items() if path.startswith(f"{root}/lock/"))

    async def nobody() -> bool:
        return await watchers() == 0

    async with rig.other.lock("/lock"):
        task = asyncio.create_task(rig.zk.lock("/lock").acquire())

        async def somebody() -> bool:
            return await watchers() == 1

        await until(somebody, "the waiter watches")
        task.cancel()
        await until(nobody, "the watch has gone")
    await until_line(rig.other, "/lock", 0)


async def test_an_anyio_scope_around_an_acquire(rig: Rig) -> None:
    """L3: anyio's cancellation, which strikes again at every await, is no different."""
    session = rig.zk.session_id
    lock = rig.zk.lock("/lock")
    async with rig.other.lock("/lock"):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lock.acquire)
                await until_line(rig.other, "/lock", 2)
                scope.cancel()
        assert scope.cancelled_caught
    await assert_nothing_left(rig, lock, session)
    with anyio.CancelScope() as scope:
        async with lock:
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    await assert_nothing_left(rig, lock, session)
