"""L7: whoever enters a `Held` owns it; one that nobody has entered refuses nobody; which one a release
means."""

from __future__ import annotations

import asyncio

import pytest

import corral
from line_kinds import PATH, LineKind, every_kind, is_single
from support import children, turns, until_line, within


@every_kind(lambda kind: kind.is_exclusive and is_single(kind))
async def test_a_dispatcher_waits_for_its_workers(zk: corral.Client, kind: LineKind) -> None:
    """L7: a task may acquire, pass the `Held` to a worker that enters it, and wait for the next."""
    made = kind.make(zk, PATH)
    inside, served = 0, 0

    async def work(held: corral.Held) -> None:
        nonlocal inside, served
        async with held:
            inside += 1
            assert inside == 1
            await turns()
            inside, served = inside - 1, served + 1

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(work(await made.acquire()))
    assert served == 5


async def test_a_semaphores_dispatcher(zk: corral.Client) -> None:
    """L7: there are as many workers as leases; the dispatcher waits until one of them leaves."""
    semaphore = zk.semaphore("/it", 2)
    inside = 0
    both = asyncio.Barrier(2)

    async def work(lease: corral.Held) -> None:
        nonlocal inside
        async with lease:
            inside += 1
            await both.wait()
            assert inside <= 2
            inside -= 1

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(work(await semaphore.acquire()))


@every_kind(lambda kind: kind.crowd != 2 and is_single(kind))
async def test_who_has_entered_what_another_acquired_does_not_wait_for_itself(
    zk: corral.Client, kind: LineKind
) -> None:
    """L7: the task that has entered a `Held` owns it, whichever task acquired it; the acquiring task does
    not."""
    made = kind.make(zk, PATH)
    held = await made.acquire()

    async def enter() -> None:
        async with held:
            with pytest.raises(corral.AlreadyHeld):
                await within(made.acquire())

    await within(asyncio.create_task(enter()))
    assert not held.is_valid


@every_kind(lambda kind: kind.is_exclusive and is_single(kind))
async def test_what_nobody_has_entered_refuses_nobody(
    zk: corral.Client, other: corral.Client, kind: LineKind
) -> None:
    """L7: a task that has acquired, and not entered, may wait for the next: another task may release the
    first."""
    made = kind.make(zk, PATH)
    first = await made.acquire()
    assert await within(made.try_acquire()) is None
    second = asyncio.create_task(made.acquire())
    await turns()
    await first.release()
    await (await within(second)).release()


@every_kind(lambda kind: kind.crowd != 2 and is_single(kind))
async def test_acquired_in_a_task_that_has_ended(zk: corral.Client, kind: LineKind) -> None:
    """L7: what was acquired in a separate task (`asyncio.wait_for` creates one in Python 3.11) can be
    released through the object, or entered, by the task that awaited it."""
    made = kind.make(zk, PATH)
    held = await asyncio.create_task(made.acquire())
    await made.release()
    assert not held.is_valid
    held = await asyncio.wait_for(made.acquire(), 30)
    async with held:
        with pytest.raises(corral.AlreadyHeld):
            await within(made.acquire())
    await within(asyncio.wait_for(made.acquire(), 30))
    await made.release()


async def test_release_prefers_what_is_ours(zk: corral.Client) -> None:
    """L7: through the object a dispatcher releases what it has kept, not what a worker has entered, even if
    that is newer. A worker releases what it has entered. A task with nothing of its own releases whatever
    there is."""
    semaphore = zk.semaphore("/it", 3)
    kept, given = await semaphore.acquire(), await semaphore.acquire()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with given:
            entered.set()
            await go_on.wait()
            await semaphore.release()
            assert not given.is_valid

    worker = asyncio.create_task(work())
    await within(entered.wait())
    await semaphore.release()
    assert given.is_valid
    assert not kept.is_valid
    third = await semaphore.acquire()
    go_on.set()
    await within(worker)
    assert third.is_valid
    await asyncio.create_task(semaphore.release())
    assert not third.is_valid


async def test_who_comes_late_does_not_release_anothers(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """L7: a dispatcher whose hold was lost while a worker had it releases that one, not what another task
    holds by now."""
    lock = zk.lock("/it")
    held = await lock.acquire()

    async def lose() -> None:
        async with asyncio.timeout(30):
            await held.__aenter__()
            await other.delete(held.node.removeprefix(root))
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                asyncio.current_task().uncancel()  # type: ignore[union-attr]

    await asyncio.create_task(lose())
    second = await asyncio.create_task(lock.acquire())
    await lock.release()
    assert second.is_valid
    await second.release()


# Several locks


async def test_release_of_several_locks(zk: corral.Client, other: corral.Client) -> None:
    """L7: releasing through the object releases everything that this task acquired through it. After that
    there is nothing to release, and a release is an error that says so."""
    lock = zk.multi_lock(["/b", "/a"])
    held = await lock.acquire()
    await lock.release()
    assert not any(each.is_valid for each in held)
    assert [await children(other, path) for path in ("/a", "/b")] == [[], []]
    with pytest.raises(corral.UsageStateError, match="not acquired"):
        await lock.release()
    async with asyncio.timeout(30), lock:
        await lock.release()
        assert [await children(other, path) for path in ("/a", "/b")] == [[], []]


async def test_several_locks_of_another_task(zk: corral.Client) -> None:
    """L7: a multi-lock, too, releases what the task itself holds, otherwise what another task holds through
    the object. Its locks can be passed to another task that enters them, and acquiring again then waits."""
    lock = zk.multi_lock(["/a", "/b"])
    held = await asyncio.wait_for(lock.acquire(), 30)
    await lock.release()
    assert not any(each.is_valid for each in held)
    one, two = await lock.acquire()

    async def work() -> None:
        async with one, two:
            with pytest.raises(corral.AlreadyHeld):
                await within(lock.acquire())
            await until_line(zk, "/a", 2)

    worker = asyncio.create_task(work())
    async with asyncio.timeout(30), lock:  # waits for the worker
        assert worker.done()
    await worker
