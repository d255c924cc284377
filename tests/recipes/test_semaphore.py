"""The semaphore: never more holders than its limit, first come, first served; one limit for all clients;
cancellation and loss."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import pytest
from lock_support import Rig, Tap, end_session, watched_paths

import corral
from client_support import asks_for
from corral.testing import FaultProxy, Message, MessageKind, before, committed
from corral.wire.messages import (
    CHILDREN,
    CREATE2,
    GET,
    MULTI,
    Operation,
)
from support import PATIENCE, children, settle, turns, until, until_line, within

Connect = Callable[..., corral.Client]


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def of(operation: Operation, part: str) -> Callable[[Message], bool]:
    """Matches requests for an operation on a path that contains this part."""
    return lambda message: asks_for(operation)(message) and part in (message.path or "")


def watches(operation: Operation, path: str) -> Callable[[Message], bool]:
    """Matches reads that set a watch on a path that ends like this."""
    return lambda message: (
        asks_for(operation)(message) and (message.path or "").endswith(path) and message.body[-1] == 1
    )


def asked(tap: Tap, root: str, start: int) -> Counter[tuple[str, str]]:
    """The requests about a semaphore since message `start`, with a * for names of nodes."""
    return Counter(
        (message.operation, path.split("_c_")[0] + "*" * ("_c_" in path))
        for message in tap.messages[start:]
        if message.kind is MessageKind.REQUEST
        and (path := (message.path or "").removeprefix(root)).startswith("/sem")
    )


async def until_waiting(client: corral.Client, path: str, waiters: int, holders: int) -> None:
    """Wait until so many wait, the first of them with a node in the leases already, and so many hold."""
    await until_line(client, f"{path}/locks", waiters)
    await until_line(client, f"{path}/leases", holders + (waiters > 0))


async def make_parents(client: corral.Client, path: str = "/sem") -> None:
    """Create the lines of a semaphore beforehand: those that it creates itself may be removed while they are
    empty."""
    await client.create(f"{path}/locks", make_parents=True)
    await client.create(f"{path}/leases")


async def owners(client: corral.Client, path: str) -> Counter[int]:
    """How many nodes each session has in a semaphore's two lines."""
    found = Counter[int]()
    for line in ("locks", "leases"):
        for name in await children(client, f"{path}/{line}"):
            stat = await client.exists(f"{path}/{line}/{name}")
            if stat is not None:
                found[stat.ephemeral_owner] += 1
    return found


# The limit, which is reached and never exceeded; the order


async def test_never_more_than_the_limit_by_the_servers_count(connect: Connect, other: corral.Client) -> None:
    """L1: the holders as the server counts them: each client that has entered finds its own lease among the
    first."""

    async def work(semaphore: corral.Semaphore) -> None:
        for _ in range(3):
            async with semaphore as lease:
                first = [name for name in await children(other, "/sem/leases")][:2]
                assert lease.node.rpartition("/")[2] in first

    async with connect() as one, connect() as two:
        await make_parents(one)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for client in (one, two, one, two, one):
                group.create_task(work(client.semaphore("/sem", 2)))


async def test_a_release_wakes_one_waiter_of_ten(
    connect: Connect, proxy: FaultProxy, tap: Tap, server_address: str, root: str
) -> None:
    """L1: with ten waiters, only the first watches the leases, and each of the others the waiter before its
    own. A release sends an event to the first, which enters. Its entering sends an event to the next, which
    takes its place. No other waiter sends anything."""
    async with (
        connect(proxy.address, session_timeout=10.0) as zk,
        connect(proxy.address, session_timeout=10.0) as other,
    ):
        await make_parents(zk)
        held = [await zk.semaphore("/sem", 2).acquire() for _ in range(2)]
        waiters = []
        for place in range(10):
            client = other if place % 2 else zk
            waiters.append(asyncio.create_task(client.semaphore("/sem", 2).acquire()))
            await until_waiting(zk, "/sem", place + 1, 2)
        names = await children(zk, "/sem/locks")

        async def until_each_watches(names: list[str], watches_set: int) -> None:
            """Each watches its predecessor, by the server's report. That does not include watches of
            children, such as the leases: those are counted when they are set."""

            async def they_do() -> bool:
                found = await watched_paths(server_address)
                return {path: len(who) for path, who in found.items() if path.startswith(f"{root}/sem")} == {
                    f"{root}/sem/locks/{name}": 1 for name in names[:-1]
                }

            await until(they_do, "each waiter watches the one before it")
            await tap.seen(lambda: sum(map(watches(CHILDREN, "/sem/leases"), tap.messages)) == watches_set)
            for client in (zk, other):
                await settle(client)

        await until_each_watches(names, 1)
        start = len(tap.messages)
        await held[0].release()
        first = await within(waiters[0])
        await until_each_watches(names[1:], 3)  # read again by the first, and by the second
        assert [task for task in waiters if task.done()] == waiters[:1]
        assert [event.path for event in tap.events(start)] == [
            f"{root}/sem/leases",
            f"{root}/sem/locks/{names[0]}",
        ]
        assert asked(tap, root, start) == {
            ("delete", "/sem/leases/*"): 1,  # the release
            ("delete", "/sem/locks/*"): 1,  # the waiter that enters leaves the lock's line
            ("exists", "/sem/locks/*"): 1,  # the next one checks its node
            ("create", "/sem/leases/*"): 1,  # and creates its lease
            ("children", "/sem/leases"): 3,  # read by the one that enters; listed, and watched, by the next
            ("remove_watches", "/sem/leases"): 1,  # the one that enters removes its watch
            ("get", "/sem/leases"): 1,  # the limit
        }

        for task in waiters:
            task.cancel()
        await first.release()
        await held[1].release()


# Holders and waiters


# try_acquire


# One object, many tasks


async def test_one_task_holds_several(zk: corral.Client, other: corral.Client) -> None:
    """A task may hold several leases, through one object or more. It leaves and releases them one by one, the
    newest first, and others acquire each."""
    await make_parents(zk)
    semaphore = zk.semaphore("/sem", 3)
    async with asyncio.timeout(PATIENCE), semaphore as first:
        async with semaphore as second:
            third = await zk.semaphore("/sem", 3).acquire()
            assert len({first.node, second.node, third.node}) == 3
            assert await within(other.semaphore("/sem", 3).try_acquire()) is None
            await settle(other)
            await third.release()
            async with other.semaphore("/sem", 3):
                pass
        assert first.is_valid
        assert not second.is_valid
        assert await owners(other, "/sem") == {zk.session_id: 1}
    held = [await semaphore.acquire() for _ in range(3)]
    for count in (2, 1, 0):
        await semaphore.release()
        assert [each.is_valid for each in held] == [place < count for place in range(3)]
    with pytest.raises(corral.UsageStateError, match="not acquired"):
        await semaphore.release()
    assert await owners(other, "/sem") == {}


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_task_does_not_wait_for_itself(zk: corral.Client, other: corral.Client, limit: int) -> None:
    """L7: a task that has entered all leases, through any objects of its client, and acquires one more gets
    an error, not a deadlock. Another task waits, and a call that does not wait is no error."""
    semaphores = [zk.semaphore("/a/sem", limit), zk.chroot("/a").semaphore("/sem", limit)]
    held = [await (await semaphores[place % 2].acquire()).__aenter__() for place in range(limit)]
    for semaphore in semaphores:
        with pytest.raises(corral.AlreadyHeld, match=f"all {limit} leases of semaphore"):
            await within(semaphore.acquire())
        assert await within(semaphore.try_acquire()) is None
    task = asyncio.create_task(semaphores[0].acquire())
    await until_waiting(other, "/a/sem", 1, limit)
    await held[0].release()
    assert (await within(task)).is_valid
    waiting = asyncio.create_task(other.semaphore("/a/sem", limit).acquire())
    await until_waiting(other, "/a/sem", 1, limit)
    await task.result().release()
    held[0] = await within(waiting)  # the other client's: our task could wait for that
    for each in held:
        await each.release()


async def test_left_by_a_task_that_has_not_entered(zk: corral.Client, other: corral.Client) -> None:
    """S8: a task that has not entered may leave for one that has ended. If several running tasks have
    entered, it is ambiguous whose lease it means: that is an error, and nobody loses one."""
    await make_parents(zk)
    semaphore = zk.semaphore("/sem", 3)
    first_may_leave, all_in = asyncio.Event(), asyncio.Barrier(3)

    async def enter() -> corral.Held:
        async with semaphore as lease:
            await all_in.wait()
            await first_may_leave.wait()
            assert lease.is_valid
            return lease

    living = [asyncio.create_task(enter()) for _ in range(2)]
    await within(all_in.wait())
    with pytest.raises(corral.UsageStateError, match="several tasks have entered"):
        await semaphore.__aexit__(None, None, None)
    gone = await within(asyncio.create_task(semaphore.__aenter__()))
    assert (await owners(other, "/sem")) == {zk.session_id: 3}
    await semaphore.__aexit__(None, None, None)
    assert not gone.is_valid
    assert (await owners(other, "/sem")) == {zk.session_id: 2}
    first_may_leave.set()
    await within(asyncio.gather(*living))
    assert await owners(other, "/sem") == {}


async def test_a_lease_guards_a_transaction(zk: corral.Client, other: corral.Client, root: str) -> None:
    """L5: the fencing token is the zxid of the lease's creation, and a guarded transaction is applied only
    while this very lease is held."""
    await zk.create("/data", b"old")
    semaphore = zk.semaphore("/sem", 2)
    async with semaphore as kept:
        lost = await semaphore.acquire()
        for each in (kept, lost):
            stat = await other.exists(each.node.removeprefix(root))
            assert stat is not None
            assert stat.czxid == each.fencing_token
        await other.delete(lost.node.removeprefix(root))
        refused = lost.transaction()
        refused.set("/data", b"refused")
        with pytest.raises(corral.LockLost):
            await refused.commit()
        assert (await other.get("/data"))[0] == b"old"
        async with kept.transaction() as tx:
            tx.set("/data", b"new")
        assert (await other.get("/data"))[0] == b"new"


# One limit for all


@pytest.mark.parametrize("limit", [0, -1, 2**31])
async def test_a_limit_out_of_range(zk: corral.Client, limit: int) -> None:
    """A limit is at least 1, and at most the largest number of the server's counter. The error quotes it, and
    nothing is sent."""
    with pytest.raises(corral.UsageValueError, match=f"limit .*{limit}"):
        zk.semaphore("/sem", limit)


@pytest.mark.parametrize("limit", [True, "3", 1.0, None, b"3"])
async def test_a_limit_that_is_no_number(zk: corral.Client, limit: object) -> None:
    """A limit is an int, not a bool."""
    named = "of type bytes" if isinstance(limit, bytes) else re.escape(repr(limit))
    with pytest.raises(corral.UsageTypeError, match=f"limit .*{named}"):
        zk.semaphore("/sem", limit)  # type: ignore[arg-type]


async def test_the_largest_limit(zk: corral.Client) -> None:
    """The largest limit works like any other."""
    async with asyncio.timeout(PATIENCE), zk.semaphore("/sem", 2**31 - 1), zk.semaphore("/sem", 2**31 - 1):
        assert (await zk.get("/sem/leases"))[0] == b"2147483647"


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
@pytest.mark.parametrize(("theirs", "ours"), [(2, 1), (1, 2), (2, 20)])
async def test_another_limit(
    zk: corral.Client, other: corral.Client, theirs: int, ours: int, way: str
) -> None:
    """A client with another limit, larger or smaller, gets `LimitMismatch`, with both limits, while leases
    are held. It leaves no node, and the holders are not affected. When nobody holds a lease, the new limit is
    set, and the old one is then the mismatch."""
    await make_parents(zk)
    held = await zk.semaphore("/sem", theirs).acquire()
    await settle(zk)
    with pytest.raises(
        corral.LimitMismatch, match=f"'/sem'.* limit {theirs}, not {ours}; all clients"
    ) as caught:
        await within(getattr(other.semaphore("/sem", ours), way)())
    assert (caught.value.theirs, caught.value.ours) == (theirs, ours)
    await settle(other)
    assert await owners(zk, "/sem") == {zk.session_id: 1}
    assert (await zk.get("/sem/leases"))[0] == b"%d" % theirs
    assert held.is_valid
    await held.release()
    new = other.semaphore("/sem", ours)
    leases = [await within(getattr(new, way)()) for _ in range(ours)]
    await settle(other)
    assert (await zk.get("/sem/leases"))[0] == b"%d" % ours
    with pytest.raises(corral.LimitMismatch):
        await within(zk.semaphore("/sem", theirs).acquire())
    for each in leases:
        await each.release()
    await settle(zk)
    assert await owners(zk, "/sem") == {}


async def test_a_waiter_with_another_limit_is_told(zk: corral.Client, other: corral.Client) -> None:
    """A client that waits in line with another limit gets the error when its turn comes, and does not block
    those behind it."""
    held = await zk.semaphore("/sem", 1).acquire()
    tasks = []
    for place, limit in enumerate((1, 2, 1)):
        tasks.append(asyncio.create_task(other.semaphore("/sem", limit).acquire()))
        await until_waiting(zk, "/sem", place + 1, 1)
    await held.release()
    second = await within(tasks[0])
    with pytest.raises(corral.LimitMismatch):
        await within(tasks[1])
    await until_waiting(zk, "/sem", 1, 1)
    assert not tasks[2].done()
    await second.release()
    await (await within(tasks[2])).release()


async def test_a_limit_that_nobody_uses_any_more(zk: corral.Client, other: corral.Client) -> None:
    """Data that an old limit has left, even if it is no number, does not count once no lease is held."""
    await zk.create("/sem/leases", b"many", make_parents=True)
    async with asyncio.timeout(PATIENCE), zk.semaphore("/sem", 2):
        assert (await other.get("/sem/leases"))[0] == b"2"
        await other.set("/sem/leases", b"many")
        with pytest.raises(corral.LimitMismatch, match=r"not a number \(4 bytes") as caught:
            await other.semaphore("/sem", 2).acquire()
        assert caught.value.theirs is None
        await other.set("/sem/leases", b"7" * 5000)
        with pytest.raises(corral.LimitMismatch, match=r"not a number \(5,000 bytes") as caught:
            await other.semaphore("/sem", 2).acquire()
        assert caught.value.theirs is None


async def test_the_same_limit_written_otherwise(zk: corral.Client, other: corral.Client) -> None:
    """Limits are compared as numbers."""
    await make_parents(zk)
    async with asyncio.timeout(PATIENCE), zk.semaphore("/sem", 2):
        await other.set("/sem/leases", b"02")
        async with other.semaphore("/sem", 2):
            pass


@pytest.mark.parametrize("loses", ["its session", "its lock"])
async def test_a_limit_that_is_set_too_late(rig: Rig, loses: str) -> None:
    """A client that is about to set its limit, and has lost the lock meanwhile, does not change the limit of
    those that came afterwards: it gets `LimitMismatch`."""
    await make_parents(rig.other)
    async with AsyncExitStack() as stack:
        if loses == "its session":
            await stack.enter_async_context(rig.proxy.refuse())
            point = before(match=asks_for(MULTI))
            reached = await stack.enter_async_context(rig.proxy.cut_at(point, reset=True))
        else:
            reached = await stack.enter_async_context(rig.proxy.black_hole(before(match=asks_for(MULTI))))
        task = asyncio.create_task(rig.zk.semaphore("/sem", 2).acquire())
        await within(reached.fired.wait())
        if loses == "its session":
            await end_session(rig.tap, rig.server, rig.zk.session_id)
        else:
            for line in ("locks", "leases"):
                [name] = await children(rig.other, f"/sem/{line}")
                await rig.other.delete(f"/sem/{line}/{name}")
        leases = [await within(rig.other.semaphore("/sem", 3).acquire()) for _ in range(3)]
    with pytest.raises(corral.LimitMismatch):
        await within(task)
    assert (await rig.other.get("/sem/leases"))[0] == b"3"
    await settle(rig.zk)
    assert await owners(rig.other, "/sem") == {rig.other.session_id: 3}
    for each in leases:
        await each.release()


async def test_a_limit_that_may_not_be_set(zk: corral.Client, other: corral.Client) -> None:
    """If the ACL forbids setting the limit, the error is raised, and no node is left."""
    await make_parents(other)
    acl = [corral.Acl(corral.Perm.ALL & ~corral.Perm.WRITE, "world", "anyone")]
    await other.set_acl("/sem/leases", acl)
    with pytest.raises(corral.NoAuth, match="/sem/leases"):
        await zk.semaphore("/sem", 2).acquire()
    await settle(zk)
    assert await owners(other, "/sem") == {}


@pytest.mark.parametrize("name", ["_c_5e1c4fd2-4b07-4d4a-9a53-3c9e0f2a8a10-lease-", "lease-"])
async def test_leases_that_curator_has_made(
    zk: corral.Client, other: corral.Client, root: str, name: str
) -> None:
    """L8: if only Curator was there before, the data has no limit although leases are held. Then our limit is
    stored, and Curator's leases, with its protection and without it, count."""
    await make_parents(other)
    theirs = [await other.create(f"/sem/leases/{name}", ephemeral=True, sequential=True) for _ in range(2)]
    semaphore = zk.semaphore("/sem", 2)
    assert await within(semaphore.try_acquire()) is None
    assert (await other.get("/sem/leases"))[0] == b"2"
    task = asyncio.create_task(semaphore.acquire())
    await until_waiting(other, "/sem", 1, 2)
    assert len(await semaphore.holders()) == 2
    await settle(zk)
    assert not task.done()
    await other.delete(theirs[1])
    held = await within(task)
    assert [each.name for each in await semaphore.holders()] == [
        theirs[0].rpartition("/")[2],
        held.node.rpartition("/")[2],
    ]
    await held.release()


@pytest.mark.parametrize("name", ["_c_5e1c4fd2-4b07-4d4a-9a53-3c9e0f2a8a10-lock-", "lock-"])
async def test_a_lock_that_curator_holds(zk: corral.Client, other: corral.Client, name: str) -> None:
    """L8: while Curator is in the lock's line, with or without its protection, we wait for it, even if leases
    are free."""
    await make_parents(other)
    theirs = await other.create(f"/sem/locks/{name}", ephemeral=True, sequential=True)
    semaphore = zk.semaphore("/sem", 2)
    assert await within(semaphore.try_acquire()) is None
    task = asyncio.create_task(semaphore.acquire())
    await until_line(other, "/sem/locks", 2)
    await settle(zk)
    assert not task.done()
    await other.delete(theirs)
    await (await within(task)).release()


# Cancel


# Lost messages


# Loss while waiting


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_session_that_ends_between_the_lock_and_the_lease(rig: Rig, lost: str) -> None:
    """L1: a waiter that has the lock, and loses its session before it has a lease, joins again, at the end of
    the line. It does not take a lease without the lock, ahead of those in line."""
    await make_parents(rig.other)
    served: list[str] = []

    async def wait(client: corral.Client, name: str) -> None:
        async with client.semaphore("/sem", 1):
            served.append(name)

    lose = before if lost == "request" else committed
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(lose(match=of(CREATE2, "/sem/leases/")), reset=True) as loss:
            tasks = [asyncio.create_task(wait(rig.zk, "lost"))]
            await within(loss.fired.wait())
        await end_session(rig.tap, rig.server, rig.zk.session_id)
        held = await within(rig.other.semaphore("/sem", 1).acquire())
        for place in range(3):
            tasks.append(asyncio.create_task(wait(rig.other, f"waiter {place}")))
            await until_waiting(rig.other, "/sem", place + 1, 1)
    await until_waiting(rig.other, "/sem", 4, 1)
    await held.release()
    await within(asyncio.gather(*tasks))
    assert served == ["waiter 0", "waiter 1", "waiter 2", "lost"]


# Nodes that other clients delete


async def test_somebody_deletes_the_lease_of_a_waiter(rig: Rig) -> None:
    """L10: a waiter whose lease node is deleted joins again, and acquires a lease."""
    held = await rig.other.semaphore("/sem", 1).acquire()
    task = asyncio.create_task(rig.zk.semaphore("/sem", 1).acquire())
    await until_waiting(rig.other, "/sem", 1, 1)
    victim = (await children(rig.other, "/sem/leases"))[1]
    await rig.other.delete(f"/sem/leases/{victim}")

    async def again() -> bool:
        return len(set(await children(rig.other, "/sem/leases")) - {victim}) == 2

    await until(again, "it waits again")
    assert not task.done()
    await held.release()
    lease = await within(task)
    assert lease.node.rpartition("/")[2] != victim
    await settle(rig.zk)
    assert await owners(rig.other, "/sem") == {rig.zk.session_id: 1}
    await lease.release()


async def test_somebody_deletes_the_locks_of_those_who_wait(zk: corral.Client, other: corral.Client) -> None:
    """L1, L10: if the lock nodes of waiters are deleted, more than one waits for a lease. Even then no more
    than the limit hold, each of them acquires, and no node is left."""
    await make_parents(zk)
    inside = 0
    entered = 0

    async def work(semaphore: corral.Semaphore) -> None:
        nonlocal inside, entered
        async with semaphore:
            inside += 1
            entered += 1
            assert inside == 1
            await turns(20)
            inside -= 1

    held = await zk.semaphore("/sem", 1).acquire()
    tasks = []
    for place in range(4):
        client = other if place % 2 else zk
        tasks.append(asyncio.create_task(work(client.semaphore("/sem", 1))))
        await until_waiting(other, "/sem", place + 1, 1)
    for name in (await children(other, "/sem/locks"))[:3]:
        await other.delete(f"/sem/locks/{name}")

    async def all_wait_for_a_lease() -> bool:
        return len(await children(other, "/sem/leases")) >= 3

    await until(all_wait_for_a_lease, "several wait for a lease")
    await settle(zk)
    await settle(other)
    assert entered == 0
    await held.release()
    await within(asyncio.gather(*tasks))
    assert entered == 4
    for client in (zk, other):
        await settle(client)
    assert await owners(other, "/sem") == {}


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
@pytest.mark.parametrize("operation", [GET, MULTI], ids=["read", "set"])
async def test_the_leases_vanish_as_the_limit_is(rig: Rig, operation: Operation, way: str) -> None:
    """L10: if the parent of the leases is gone when the limit is read, or set, an acquire starts again."""
    async with rig.proxy.black_hole(before(match=asks_for(operation))) as hole:
        task = asyncio.create_task(getattr(rig.zk.semaphore("/sem", 1), way)())
        await within(hole.fired.wait())
        await rig.other.delete("/sem/leases", recursive=True)
    held = await within(task)
    assert held is not None
    assert (await rig.other.get("/sem/leases"))[0] == b"1"
    await settle(rig.zk)
    assert await owners(rig.other, "/sem") == {rig.zk.session_id: 1}
    await held.release()


async def test_the_leases_vanish_under_a_waiter(rig: Rig) -> None:
    """L10: if the parent of the leases is gone, with its nodes and the limit, a waiter starts again, and
    acquires."""
    held = await rig.other.semaphore("/sem", 1).acquire()
    task = asyncio.create_task(rig.zk.semaphore("/sem", 1).acquire())
    await until_waiting(rig.other, "/sem", 1, 1)
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        await rig.other.delete("/sem/leases", recursive=True)
    lease = await within(task)
    assert (await rig.other.get("/sem/leases"))[0] == b"1"
    assert isinstance(await within(held.wait_lost()), corral.LockLost)
    await lease.release()


async def test_the_parents_go_and_come_again(zk: corral.Client, other: corral.Client) -> None:
    """L10: when nobody uses it any more, everything can be removed, the limit included, and be created again
    by the next client, with its own limit."""
    for limit in (2, 3):
        async with zk.semaphore("/sem", limit):
            assert (await other.get("/sem/leases"))[0] == b"%d" % limit
        with suppress(corral.NoNode):  # the server removes them, too
            await other.delete("/sem", recursive=True)


# Loss while holding


async def test_one_of_several_leases_of_a_task(rig: Rig, root: str) -> None:
    """L4: of several leases that a task holds, only the one whose node is deleted is lost, and its own block
    raises the error."""
    semaphore = rig.zk.semaphore("/sem", 3)
    victim: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()
    outcome: list[bool] = []

    async def run() -> None:
        async with semaphore as outer:
            try:
                async with semaphore as inner:
                    async with semaphore as innermost:
                        victim.set_result(inner)
                        with suppress(asyncio.CancelledError):
                            await forever()
                        outcome.extend([outer.is_valid, inner.is_valid, innermost.is_valid])
            except corral.LockLost:
                outcome.append(True)
            await settle(rig.zk)  # a wait that nobody cancels
            outcome.append(outer.is_valid)

    task = asyncio.create_task(run())
    await rig.other.delete((await within(asyncio.shield(victim))).node.removeprefix(root))
    await within(task)
    assert outcome == [True, False, True, True, True]
    assert await owners(rig.other, "/sem") == {}


@pytest.mark.parametrize("how", ["lapsed", "expired", "closed"])
async def test_all_leases_of_a_task(rig: Rig, how: str) -> None:
    """L4: leases that are lost together raise one LockLost, and afterwards the task is no longer being
    cancelled."""
    semaphore = rig.zk.semaphore("/sem", 3)
    entered = asyncio.Event()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with semaphore, semaphore, semaphore:
                entered.set()
                await forever()
        finally:
            assert task.cancelling() == 0
            await turns()

    task = asyncio.create_task(run())
    await within(entered.wait())
    async with rig.losing(how):
        with pytest.raises(corral.LockLost):
            await within(task)
