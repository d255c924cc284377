"""The lock in fair weather: one holder, in order, at the promised cost; who may release, who can see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from lock_support import (
    LOCK_NAME,
    Rig,
    Tap,
    end_session,
    ended,
    observed,
    settle,
    until_line,
    watched_paths,
    within,
)

import corral
from client_support import asks_for
from corral.testing import FaultProxy, before, committed
from corral.wire.messages import (
    CHILDREN,
    CREATE,
    CREATE2,
    CREATE_CONTAINER,
    DELETE,
    EXISTS,
    GET,
    MULTI,
    PING,
    SET,
)
from support import PATIENCE, children, turns, until

Connect = Callable[..., corral.Client]


async def in_task(lock: corral.Lock) -> corral.Held:
    """Acquire in a task of its own, which ends with that."""
    return await within(asyncio.create_task(lock.acquire()))


# L1: one at a time, in order, one watch each


async def test_one_holder_at_a_time(connect: Connect) -> None:
    """L1, L5, L7: over clients, and tasks that share a lock object, never two hold at once; the order of
    holding is the order of the fencing tokens."""
    inside = 0
    tokens: list[int] = []

    async def work(lock: corral.Lock) -> None:
        nonlocal inside
        for _ in range(3):
            async with lock as held:
                inside += 1
                assert inside == 1
                tokens.append(held.fencing_token)
                await turns(3)
                inside -= 1

    async with connect() as one, connect() as two, connect() as three:
        await one.create("/lock")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for client in (one, two, three):
                lock = client.lock("/lock")
                for _ in range(4):
                    group.create_task(work(lock))
        assert len(tokens) == 36
        assert tokens == sorted(set(tokens))
        assert await children(one, "/lock") == []


async def test_first_come_first_served(zk: corral.Client, other: corral.Client) -> None:
    """L1: waiters get it in the order in which they joined, whatever their client or task."""
    served: list[int] = []
    shared = zk.lock("/lock")

    async def wait(place: int, lock: corral.Lock) -> None:
        async with lock:
            served.append(place)

    async with other.lock("/lock"):
        waiters = []
        for place in range(6):
            lock = shared if place % 2 else other.lock("/lock")
            waiters.append(asyncio.create_task(wait(place, lock)))
            await until_line(other, "/lock", place + 2)
    await within(asyncio.gather(*waiters))
    assert served == list(range(6))


async def test_a_release_wakes_one_waiter_of_twenty(
    connect: Connect, proxy: FaultProxy, tap: Tap, server_address: str, root: str
) -> None:
    """L1: with twenty waiters each node but the last is watched exactly once, and a release is news to one of
    them alone, who makes sure of its own node."""
    async with connect(proxy.address) as zk, connect(proxy.address) as other:
        await zk.create("/lock")
        held = await zk.lock("/lock").acquire()
        waiters = [
            asyncio.create_task(client.lock("/lock").acquire()) for _ in range(10) for client in (zk, other)
        ]
        names = await until_line(zk, "/lock", 21)

        async def watches() -> dict[str, int]:
            seen = await watched_paths(server_address)
            return {path: len(who) for path, who in seen.items() if path.startswith(f"{root}/lock")}

        async def all_wait() -> bool:
            return await watches() == {f"{root}/lock/{name}": 1 for name in names[:-1]}

        await until(all_wait, "each waiter watches the node before its own, and only that")

        start = len(tap.messages)
        await held.release()
        done, _ = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        await settle(zk)
        await settle(other)
        assert len(tap.events(start)) == 1
        assert [asked for asked in tap.requests(start) if asked != SET] == [DELETE, EXISTS]
        assert [task for task in waiters if task.done()] == list(done)
        assert {task.result().node for task in done} == {f"{root}/lock/{names[1]}"}

        for task in waiters:
            task.cancel()
        for task in done:
            await task.result().release()


async def test_a_thousand_waiters(connect: Connect, proxy: FaultProxy, tap: Tap) -> None:
    """L1: of a thousand waiters each release is news to one, who looks at the line, or at its own node, once and
    watches nobody anew: from the first release to the last the server is asked for a deletion and for one of these."""
    crowd, order = 1000, list[int]()

    async def wait(client: corral.Client, number: int) -> None:
        async with client.lock("/lock"):
            order.append(number)

    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(proxy.address, session_timeout=10)) for _ in range(10)
        ]
        await clients[0].create("/lock")
        held = await clients[0].lock("/lock").acquire()
        waiters = [asyncio.create_task(wait(clients[number % 10], number)) for number in range(crowd)]
        await tap.seen(lambda: tap.requests().count(GET) == crowd)
        for client in clients:
            await settle(client)
        start = len(tap.messages)
        await held.release()
        await asyncio.gather(*waiters)
        assert sorted(order) == list(range(crowd))
        assert len(tap.events(start)) == crowd
        asked = tap.requests(start)
        assert asked.count(DELETE) == crowd + 1
        assert asked.count(CHILDREN) + asked.count(EXISTS) <= crowd
        assert not {*asked} - {DELETE, CHILDREN, EXISTS, SET}


async def test_a_waiter_is_idle(connect: Connect, other: corral.Client, proxy: FaultProxy, tap: Tap) -> None:
    """L1: a waiter asks nothing while it waits; its session just says that it is alive."""
    async with other.lock("/lock"), connect(proxy.address, session_timeout=2.0) as zk:
        waiter = asyncio.create_task(zk.lock("/lock").acquire())
        await tap.seen(lambda: GET in tap.requests())
        await settle(zk)
        start = len(tap.messages)
        await tap.seen(lambda: len(tap.requests(start, ours=False)) >= 3)
        assert set(tap.requests(start, ours=False)) == {PING}
        waiter.cancel()
        await ended(waiter)


async def test_a_holder_costs_one_small_write_now_and_then(
    connect: Connect, proxy: FaultProxy, tap: Tap
) -> None:
    """S3: all that a holder's session says while nothing happens is its heartbeat, once it has set its watch."""
    async with connect(proxy.address, session_timeout=2.0) as zk, zk.lock("/lock"):
        start = len(tap.messages)
        await tap.seen(lambda: len(tap.requests(start, ours=False)) >= 5)
        said = list(tap.requests(start, ours=False))
        assert set(said) <= {MULTI, PING, GET}
        assert said.count(GET) <= 1
        assert MULTI in tap.requests(start, ours=False)


# L2: what it costs


async def test_an_uncontended_acquire_is_one_round_trip(
    connect: Connect, proxy: FaultProxy, tap: Tap
) -> None:
    """L2: create and list are both sent before any answer has come, and nothing is asked after them; a
    release is one request."""
    async with connect(proxy.address, session_timeout=10.0) as zk:
        await zk.create("/lock")
        start = len(tap.messages)
        async with proxy.black_hole(requests=False):
            task = asyncio.create_task(zk.lock("/lock").acquire())
            await tap.seen(lambda: len(tap.requests(start)) >= 2)
            assert not task.done()
        held = await within(task)
        assert tap.requests(start) == [CREATE2, CHILDREN]
        await held.release()
        assert tap.requests(start) == [CREATE2, CHILDREN, DELETE]


async def test_create_and_list_are_one_write(connect: Connect, proxy: FaultProxy, tap: Tap) -> None:
    """L2: create and list leave in one piece."""
    async with connect(proxy.address, session_timeout=10.0) as zk:
        await zk.create("/lock")
        async with proxy.black_hole() as held:
            start = len(tap.messages)
            task = asyncio.create_task(zk.lock("/lock").acquire())
            await within(held.arrived())  # the first piece: this goes on before another is read
            assert tap.requests(start) == [CREATE2, CHILDREN]
        await (await within(task)).release()


async def test_a_handoff_costs_no_list(
    connect: Connect, other: corral.Client, proxy: FaultProxy, tap: Tap
) -> None:
    """L2: with one node ahead, a waiter sets one watch, and when it is woken makes sure that its own node is still
    there, by one small read; it does not list the line."""
    async with connect(proxy.address, session_timeout=10.0) as zk:
        async with other.lock("/lock"):
            task = asyncio.create_task(zk.lock("/lock").acquire())
            await until_line(other, "/lock", 2)
            await tap.seen(lambda: GET in tap.requests())
        held = await within(task)
        assert tap.requests() == [CREATE2, CHILDREN, GET, EXISTS]
        await held.release()


async def test_missing_parents_are_made_as_containers(connect: Connect, proxy: FaultProxy, tap: Tap) -> None:
    """L2: a lock's parents need not be there; those that are made are containers, so that they go again."""
    async with connect(proxy.address) as zk:
        await zk.create("/locks")
        async with zk.lock("/locks/a/b") as held:
            assert LOCK_NAME.fullmatch(held.node.rpartition("/")[2])
        made = [message.path or "" for message in tap.messages if asks_for(CREATE_CONTAINER)(message)]
        assert any(path.endswith("/locks/a/b") for path in made)
        assert CREATE not in tap.requests()[1:]  # the first is the test's own


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
async def test_the_parent_vanishes_meanwhile(rig: Rig, way: str) -> None:
    """L10: a parent that was made and is gone again when the node is to be created is made again."""
    making, steps = asyncio.Event(), 0

    def on_wait(step: int, _: object) -> None:
        nonlocal steps
        steps = step
        if step == 1:
            making.set()

    lock = rig.zk.lock("/lock")
    task = asyncio.create_task(_as_coroutine(observed(getattr(lock, way)(), on_wait)))
    await within(making.wait())
    async with rig.proxy.black_hole(requests=False):  # the request that makes it is just going out

        async def made() -> object:
            return await rig.other.exists("/lock")

        await until(made, "the parent is there")
        await rig.other.delete("/lock")
    held = await within(task)
    assert held is not None
    assert steps >= 3  # or it was not in time to vanish
    assert len(await children(rig.other, "/lock")) == 1
    await held.release()


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


# L5: the fencing token, and writes that apply only while it is held


async def test_the_fencing_token_grows(connect: Connect, zk: corral.Client, other: corral.Client) -> None:
    """L5: the token is the zxid of the node's creation and grows with each acquisition, over clients, and
    when the parent is made again, where the numbers in the names start again."""
    tokens, numbers = [], []
    await zk.create("/lock")  # not left to the lock, whose container could go at any time
    for client in (zk, other, zk, other):
        async with client.lock("/lock") as held:
            name = held.node.rpartition("/")[2]
            stat = await zk.exists(f"/lock/{name}")
            assert stat is not None
            assert held.fencing_token == stat.czxid
            assert held.session_id == stat.ephemeral_owner == client.session_id
            tokens.append(held.fencing_token)
            match = LOCK_NAME.fullmatch(name)
            assert match is not None
            numbers.append(int(match["number"]))
        if len(tokens) == 2:
            await zk.delete("/lock")
            await zk.create("/lock")
    assert tokens == sorted(set(tokens))
    assert numbers == [0, 1, 0, 1]


async def test_a_guarded_transaction_applies_while_held(zk: corral.Client) -> None:
    """L5: held.transaction() is a transaction like any other as long as the lock is held, and its operations
    are counted as the caller added them."""
    await zk.create("/data", b"old")
    async with zk.lock("/lock") as held:
        async with held.transaction() as tx:
            tx.set("/data", b"new")
            tx.create("/log-", sequential=True)
        assert (await zk.get("/data"))[0] == b"new"
        assert tx.results[1] == "/log-0000000002"
        refused = held.transaction()
        refused.set("/data", b"newer")
        refused.check("/missing")
        with pytest.raises(corral.TransactionFailed) as failure:
            await refused.commit()
        assert failure.value.index == 1
        assert isinstance(failure.value.cause, corral.NoNode)
        assert (await zk.get("/data"))[0] == b"new"


async def test_a_guarded_transaction_after_the_node_is_gone(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """L5: once the lock's node is gone a guarded transaction applies nothing and raises LockLost, whether or
    not the loss has been noticed."""
    await zk.create("/data", b"old")
    held = await zk.lock("/lock").acquire()
    unnoticed, noticed = held.transaction(), held.transaction()
    for transaction in (unnoticed, noticed):
        transaction.set("/data", b"new")
    await other.delete(held.node.removeprefix(root))
    with pytest.raises(corral.LockLost):
        await unnoticed.commit()
    assert isinstance(await within(held.wait_lost()), corral.LockLost)
    with pytest.raises(corral.LockLost):
        await noticed.commit()
    assert (await other.get("/data"))[0] == b"old"


async def test_a_guarded_transaction_of_another_session(rig: Rig) -> None:
    """L5, S2: after the session has expired a guarded transaction raises SessionExpired; it is not carried
    over to the new session."""
    zk = rig.zk
    await zk.create("/data", b"old")
    held = await zk.lock("/lock").acquire()
    session = zk.session_id
    await end_session(rig.tap, rig.server, session)

    async def another() -> bool:
        return zk.session_id not in (0, session)

    await until(another, "a new session")
    transaction = held.transaction()
    transaction.set("/data", b"new")
    with pytest.raises(corral.SessionExpired):
        await within(transaction.commit())
    assert (await rig.other.get("/data"))[0] == b"old"


# L6: release


async def test_release_twice(zk: corral.Client) -> None:
    """L6: releasing again does nothing, and does not touch whoever holds it then."""
    lock = zk.lock("/lock")
    first = await lock.acquire()
    await first.release()
    second = await lock.acquire()
    await first.release()
    assert second.is_valid
    assert not first.is_valid
    assert await first.wait_lost() is None
    await second.release()
    assert await children(zk, "/lock") == []


async def test_release_inside_the_body(zk: corral.Client, other: corral.Client) -> None:
    """L6: a body may release early; others can hold it from then on, and leaving is no error."""
    async with zk.lock("/lock") as held:
        await held.release()
        async with asyncio.timeout(30), other.lock("/lock"):
            pass


async def test_release_after_the_loss(zk: corral.Client, other: corral.Client, root: str) -> None:
    """L6: a release that comes too late does not raise."""
    lock = zk.lock("/lock")
    held = await lock.acquire()
    await other.delete(held.node.removeprefix(root))
    await within(held.wait_lost())
    await held.release()
    assert isinstance(await held.wait_lost(), corral.LockLost)


async def test_release_with_the_connection_down(rig: Rig) -> None:
    """L6: with the connection down a release waits, and is done when there is a connection again."""
    held = await rig.zk.lock("/lock").acquire()
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        release = asyncio.create_task(held.release())
        await turns()
        assert not release.done()
        assert not held.is_valid
        assert len(await children(rig.other, "/lock")) == 1
    await within(release)
    assert await children(rig.other, "/lock") == []


async def test_release_waits_no_longer_than_the_lease(rig: Rig) -> None:
    """L6: with no server in reach a release returns when the lease ends, and the node goes as soon as there
    is a server again."""
    held = await rig.zk.lock("/lock").acquire()
    async with rig.proxy.black_hole():
        await within(held.release())
        assert rig.zk.state in (corral.State.LAPSED, corral.State.SUSPENDED)
        assert await held.wait_lost() is None
    await until_line(rig.other, "/lock", 0)


async def test_cancelling_a_release_does_not_stop_it(rig: Rig) -> None:
    """L6: a cancelled release ends at once, and the node is removed all the same."""
    held = await rig.zk.lock("/lock").acquire()
    session = rig.zk.session_id
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        release = asyncio.create_task(held.release())
        await turns()
        release.cancel()
        await turns()
        assert release.cancelled()
    await until_line(rig.other, "/lock", 0)
    assert rig.zk.session_id == session


@pytest.mark.parametrize("fault", ["request", "reply"])
async def test_a_release_whose_connection_breaks(rig: Rig, fault: str) -> None:
    """L6: a release on which the connection breaks, before the server or behind it, is done all the same."""
    lock = rig.zk.lock("/lock")
    held = await lock.acquire()
    lose = before if fault == "request" else committed
    async with rig.proxy.cut_at(lose("delete"), reset=True) as loss:
        await within(held.release())
        assert loss.fired.is_set()
    assert await children(rig.other, "/lock") == []
    async with asyncio.timeout(30), lock:
        pass


# L7: one object, many tasks


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
@pytest.mark.parametrize("by", ["the same object", "another object", "a chroot"])
async def test_a_task_does_not_wait_for_itself(zk: corral.Client, by: str, way: str) -> None:
    """L7: acquiring a path that this task holds through this client is an error, not a deadlock."""
    lock = zk.lock("/a/lock")
    again = {
        "the same object": lock,
        "another object": zk.lock("/a/lock"),
        "a chroot": zk.chroot("/a").lock("/lock"),
    }[by]
    async with lock as held:
        with pytest.raises(corral.AlreadyHeld):
            await within(getattr(again, way)())
        assert held.is_valid
        assert len(await children(zk, "/a/lock")) == 1
    async with asyncio.timeout(30), again:  # and is none afterwards
        pass


async def test_another_task_waits_for_the_same_object(zk: corral.Client) -> None:
    """L7: another task waits its turn on the same object, which any task may release."""
    lock = zk.lock("/lock")
    held = await lock.acquire()
    waiter = asyncio.create_task(lock.acquire())
    await until_line(zk, "/lock", 2)
    await asyncio.create_task(held.release())
    second = await within(waiter)
    await lock.release()
    assert not second.is_valid
    assert await children(zk, "/lock") == []


async def test_another_client_is_another_holder(zk: corral.Client, other: corral.Client) -> None:
    """L7: what this task holds through one client it can wait for through another, as any other would."""
    async with zk.lock("/lock"):
        assert await other.lock("/lock").try_acquire() is None


async def test_release_without_acquire(zk: corral.Client) -> None:
    """L7: releasing what was not acquired through this object is an error that says so."""
    lock = zk.lock("/lock")
    with pytest.raises(corral.UsageStateError, match="not acquired"):
        await lock.release()
    async with zk.lock("/lock"):
        with pytest.raises(corral.UsageStateError, match="not acquired"):
            await lock.release()


async def test_leaving_without_entering(zk: corral.Client) -> None:
    """L7: leaving a lock that was not entered, or entering a hold twice, is an error that says so."""
    lock = zk.lock("/lock")
    with pytest.raises(corral.UsageStateError, match="not entered"):
        await lock.__aexit__(None, None, None)
    held = await lock.acquire()
    async with held:
        with pytest.raises(corral.UsageStateError, match="entered before"):
            await held.__aenter__()
    with pytest.raises(corral.UsageStateError, match="released"):
        await held.__aenter__()


async def test_release_through_the_object_never_takes_anothers_hold(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """L7: of a shared object whose first hold was lost, the late release by the loser does not touch the
    second hold, and the release by the second holder releases its own."""
    lock = zk.lock("/lock")
    lost, second_done = asyncio.Event(), asyncio.Event()

    async def loser() -> None:
        held = await lock.acquire()
        await other.delete(held.node.removeprefix(root))
        await held.wait_lost()
        lost.set()
        await second_done.wait()
        await lock.release()

    async def second() -> corral.Held:
        held = await lock.acquire()
        await lock.release()
        assert not held.is_valid
        assert await children(other, "/lock") == []
        held = await lock.acquire()
        second_done.set()
        await late
        return held

    late = asyncio.create_task(loser())
    await within(lost.wait())
    held = await within(asyncio.create_task(second()))
    assert held.is_valid
    await held.release()


async def test_release_of_the_second_hold_of_a_task(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """L7: a task that has lost a hold, knows it, and has acquired again, releases the second through the
    object."""
    lock = zk.lock("/lock")
    first = await lock.acquire()
    await other.delete(first.node.removeprefix(root))
    await within(first.wait_lost())
    second = await within(lock.acquire())
    await lock.release()
    assert not second.is_valid
    assert await children(other, "/lock") == []


async def test_shared_by_tasks_that_enter(zk: corral.Client, other: corral.Client) -> None:
    """L7: each of many tasks that enter a shared object gets a hold of its own, and leaves that one."""
    lock = zk.lock("/lock")
    seen: list[str] = []

    async def enter() -> None:
        async with lock as held:
            seen.append(held.node)
            assert held.is_valid
            assert (await children(other, "/lock"))[0] == held.node.rpartition("/")[2]

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(enter())
    assert len(set(seen)) == 8
    assert await children(other, "/lock") == []


async def test_try_acquire(zk: corral.Client, other: corral.Client) -> None:
    """try_acquire takes what is free, and otherwise says so and leaves nothing in the line."""
    mine, theirs = zk.lock("/lock"), other.lock("/lock")
    held = await mine.try_acquire()
    assert held is not None
    assert held.is_valid
    assert await theirs.try_acquire() is None
    await settle(other)
    assert len(await children(zk, "/lock")) == 1
    await held.release()
    async with asyncio.timeout(30):
        again = await theirs.try_acquire()
        assert again is not None
        async with again:
            pass
    assert await children(zk, "/lock") == []


async def test_try_acquire_does_not_pass_those_who_wait(zk: corral.Client, other: corral.Client) -> None:
    """L1: try_acquire does not overtake: it is refused while anybody stands in line, holder or not."""
    held = await zk.lock("/lock").acquire()
    waiter = asyncio.create_task(zk.lock("/lock").acquire())
    await until_line(other, "/lock", 2)
    assert await other.lock("/lock").try_acquire() is None
    await held.release()
    await (await within(waiter)).release()


# L9: who holds, who waits


async def test_contenders(zk: corral.Client, other: corral.Client) -> None:
    """L9: the holder and those who wait can be seen, in order, with what they say of themselves."""
    lock = other.lock("/lock", data=b"watcher")
    assert await lock.contenders() == []
    assert not await lock.locked()
    waiters = []
    async with zk.lock("/lock", data=b"first") as held:
        for place, (client, data) in enumerate([(other, b"second"), (zk, b"third"), (zk, b"")]):
            waiters.append(asyncio.create_task(client.lock("/lock", data=data).acquire()))
            await until_line(zk, "/lock", place + 2)
        assert await lock.locked()
        contenders = await lock.contenders()
        assert [contender.data for contender in contenders] == [b"first", b"second", b"third", b""]
        owners = [contender.stat.ephemeral_owner for contender in contenders]
        assert owners == [zk.session_id, other.session_id, zk.session_id, zk.session_id]
        assert contenders[0].stat.czxid == held.fencing_token
        assert contenders[0].name == held.node.rpartition("/")[2]
        assert [contender.sequence for contender in contenders] == [0, 1, 2, 3]
        for waiter in waiters:
            waiter.cancel()
    await until_line(other, "/lock", 0)
    assert not await lock.locked()


async def test_data_must_be_bytes(zk: corral.Client) -> None:
    """L10: data is bytes, never null, which others choke on."""
    with pytest.raises(corral.UsageTypeError):
        zk.lock("/lock", data=None)  # type: ignore[arg-type]
