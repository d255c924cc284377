"""Several locks at once: all or none, and no two multi-locks deadlock."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Sequence

import pytest
from lock_support import Rig, ended, noted

import corral
from client_support import asks_for
from corral.wire.messages import CREATE2
from support import PATIENCE, children, settle, turns, until_line, within

Connect = Callable[..., corral.Client]

PATHS = ["/b", "/a", "/c"]
"""In the requested order, which is not the order in which they are acquired."""


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def make_lines(client: corral.Client, paths: Sequence[str] = PATHS) -> None:
    """Create the lines beforehand, since those that locks create may be removed while they are empty."""
    for path in paths:
        await client.create(path, make_parents=True)


async def standing(client: corral.Client, paths: Sequence[str] = PATHS) -> list[int]:
    """How many nodes each line has."""
    return [len(await children(client, path)) for path in paths]


# All of them, in one order


async def test_all_are_held_in_the_order_asked_for(
    zk: corral.Client, other: corral.Client, root: str
) -> None:
    """The result is in the requested order, one `Held` for each path, and the data is in each line. Others
    wait for each of them, and acquire them all afterwards."""
    await make_lines(zk)
    lock = zk.multi_lock(PATHS, data=b"us")
    assert lock.paths == tuple(PATHS)
    async with lock as held:
        assert [each.node.rpartition("/")[0] for each in held] == [root + path for path in PATHS]
        assert all(each.is_valid for each in held)
        for path in PATHS:
            assert [each.data for each in await other.lock(path).contenders()] == [b"us"]
            assert await within(other.lock(path).try_acquire()) is None
        await settle(other)
    assert not any(each.is_valid for each in held)
    assert await standing(other) == [0, 0, 0]
    async with asyncio.timeout(PATIENCE), other.lock("/a"), other.lock("/b"), other.lock("/c"):
        pass


async def test_kazoos_layout(zk: corral.Client, other: corral.Client) -> None:
    """L8: with ``layout="kazoo"`` each node has kazoo's name, and single locks of that layout wait for it."""
    async with zk.multi_lock(PATHS, layout="kazoo") as held:
        for path, each in zip(PATHS, held, strict=True):
            assert re.fullmatch(r"[0-9a-f]{32}__lock__\d{10}", each.node.rpartition("/")[2])
            assert await within(other.lock(path, layout="kazoo").try_acquire()) is None
    with pytest.raises(corral.UsageValueError, match="'curator' or 'kazoo'"):
        zk.multi_lock(PATHS, layout="none")  # type: ignore[arg-type]


async def test_acquire_without_a_block(zk: corral.Client, other: corral.Client) -> None:
    """The result of acquire can be released one by one, and a part of it can be entered."""
    await make_lines(zk)
    first, second, third = await zk.multi_lock(PATHS).acquire()
    await second.release()
    assert await standing(other) == [1, 0, 1]
    async with first:
        pass
    assert await standing(other) == [0, 0, 1]
    await third.release()
    assert await standing(other) == [0, 0, 0]


async def test_they_are_taken_in_the_order_of_their_paths(rig: Rig, root: str) -> None:
    """Whatever the requested order, they are acquired one after the other in the order of their full
    paths."""
    await rig.zk.create("/a-z")
    paths = ["/b", "/a/b", "/a", "/a-z/x", "/B"]
    for asked_for in (paths, list(reversed(paths))):
        start = len(rig.tap.messages)
        async with rig.zk.multi_lock(asked_for):
            created = [
                message.path or "" for message in rig.tap.messages[start:] if asks_for(CREATE2)(message)
            ]
        taken = [path.removeprefix(root).rpartition("/")[0] for path in created]
        assert list(dict.fromkeys(taken)) == sorted(paths)


async def test_opposite_orders_never_deadlock(connect: Connect) -> None:
    """Tasks of several clients that acquire overlapping paths in any order all succeed, and no path is held
    by two of them at once."""
    inside: dict[str, int] = dict.fromkeys(PATHS, 0)
    entered = 0

    async def work(client: corral.Client, paths: Sequence[str]) -> None:
        nonlocal entered
        async with client.multi_lock(paths):
            entered += 1
            for path in paths:
                inside[path] += 1
                assert inside[path] == 1
            await turns(3)
            for path in paths:
                inside[path] -= 1

    async with connect() as one, connect() as two, connect() as three:
        await make_lines(one)
        orders = [*itertools.permutations(PATHS), *itertools.permutations(PATHS, 2)]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number, paths in enumerate(orders * 2):
                group.create_task(work((one, two, three)[number % 3], paths))
        assert entered == 24
        assert await standing(one) == [0, 0, 0]


@pytest.mark.parametrize("same_client", [False, True])
async def test_two_that_ask_in_opposite_orders(
    zk: corral.Client, other: corral.Client, same_client: bool
) -> None:
    """Two that request opposite orders, in the same tick, do not deadlock. Nor do they if one uses other
    names for the paths, as a client with a chroot does."""
    await make_lines(zk, ["/z/a", "/z/b"])
    second = zk if same_client else other
    for _ in range(3):
        locks = [
            zk.multi_lock(["/z/a", "/z/b"]),
            second.multi_lock(["/z/b", "/z/a"]),
            second.chroot("/z").multi_lock(["/b", "/a"]),
        ]

        async def work(lock: corral.MultiLock) -> None:
            async with lock:
                await turns()

        await within(asyncio.gather(*map(work, locks)))
    assert await standing(zk, ["/z/a", "/z/b"]) == [0, 0]


async def test_it_waits_for_each(zk: corral.Client, other: corral.Client) -> None:
    """It waits for those ahead, path by path, and meanwhile keeps what it has acquired. Single locks wait for
    it, and it for them."""
    await make_lines(zk)
    theirs = {path: await other.lock(path).acquire() for path in PATHS}
    task = asyncio.create_task(zk.multi_lock(PATHS).acquire())
    for place, path in enumerate(sorted(PATHS), start=1):
        await until_line(other, path, 2)
        assert not task.done()
        assert sum(await standing(other)) == 4  # a waiter is never in two lines
        await theirs[path].release()
        assert place < 3 or len(await within(task)) == 3
    following = asyncio.create_task(other.lock("/c").acquire())
    await until_line(other, "/c", 2)
    for each in await task:
        await each.release()
    await (await within(following)).release()


# try_acquire


@pytest.mark.parametrize("held_by", ["a holder", "those who wait"])
@pytest.mark.parametrize("busy", PATHS)
async def test_try_acquire(zk: corral.Client, other: corral.Client, busy: str, held_by: str) -> None:
    """try_acquire acquires all, if nobody holds or waits for any of them; otherwise none is held
    afterwards."""
    await make_lines(zk)
    lock = other.multi_lock(PATHS)
    theirs = await zk.lock(busy).acquire()
    waiter = asyncio.create_task(zk.lock(busy).acquire())
    await until_line(zk, busy, 2)
    if held_by == "those who wait":
        await theirs.release()
        theirs = await within(waiter)
        waiter = asyncio.create_task(zk.lock(busy).acquire())
        await until_line(zk, busy, 2)
    assert await within(lock.try_acquire()) is None
    await settle(other)
    assert await standing(zk) == [2 * (path == busy) for path in PATHS]
    waiter.cancel()
    await ended(waiter)
    await theirs.release()
    await settle(zk)
    held = await lock.try_acquire()
    assert held is not None
    assert [each.node.split("/")[-2] for each in held] == [path[1:] for path in PATHS]
    assert all(each.is_valid for each in held)
    for each in held:
        await each.release()


# Invalid arguments


@pytest.mark.parametrize(
    ("paths", "error", "said"),
    [
        ([], corral.UsageValueError, "empty"),
        ((), corral.UsageValueError, "empty"),
        (["/a", "/b", "/a"], corral.UsageValueError, "'.*/a' twice"),
        ("/a", corral.UsageTypeError, "'/a'"),
        ({"/a"}, corral.UsageTypeError, "paths"),
        (None, corral.UsageTypeError, "None"),
        (["/a", "b"], corral.UsageValueError, "'b'"),
        (["/a", "/b/"], corral.UsageValueError, "'/b/'"),
        (["/a", None], corral.UsageTypeError, "None"),
        (["/a", b"/b"], corral.UsageTypeError, "type bytes"),
    ],
    ids=str,
)
async def test_paths_that_cannot_be(
    zk: corral.Client, paths: object, error: type[Exception], said: str
) -> None:
    """No path, a path given twice, a single string, and an invalid path are refused, with an error that names
    it, before anything is sent."""
    with pytest.raises(error, match=said):
        zk.multi_lock(paths)  # type: ignore[arg-type]


async def test_one_path(zk: corral.Client) -> None:
    """One path is enough, and is held like any other; data is bytes."""
    async with asyncio.timeout(PATIENCE), zk.multi_lock(["/a"]) as (held,):
        assert held.is_valid
    with pytest.raises(corral.UsageTypeError, match="data"):
        zk.multi_lock(["/a"], data="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["acquire", "try_acquire", "async with"])
async def test_one_of_them_is_held_by_the_task_already(zk: corral.Client, way: str) -> None:
    """L7: a task that holds one of them already, and would wait for itself, gets AlreadyHeld, and holds
    nothing more than before."""
    await make_lines(zk)
    lock = zk.multi_lock(PATHS)
    async with zk.lock("/b") as held:
        with pytest.raises(corral.AlreadyHeld, match="holds lock '/b' already"):
            await within(lock.__aenter__() if way == "async with" else getattr(lock, way)())
        await settle(zk)
        assert await standing(zk) == [1, 0, 0]
        assert held.is_valid
    async with asyncio.timeout(PATIENCE), lock:
        with pytest.raises(corral.AlreadyHeld):
            await zk.lock("/c").acquire()


# Cancellation, and failures in the middle


@pytest.mark.parametrize("way", ["acquire", "try_acquire", "__aenter__"])
@pytest.mark.parametrize("forbidden", PATHS)
async def test_one_that_cannot_be_had(rig: Rig, forbidden: str, way: str) -> None:
    """If the server refuses one of them, the error is raised, and the others are released."""
    for path in PATHS:
        await rig.other.create(path, acl=corral.acl.WORLD_READ if path == forbidden else corral.acl.OPEN)
    with pytest.raises(corral.NoAuth, match=forbidden):
        await within(getattr(rig.zk.multi_lock(PATHS), way)())
    await settle(rig.zk)
    assert await standing(rig.other) == [0, 0, 0]
    async with asyncio.timeout(PATIENCE):
        for path in set(PATHS) - {forbidden}:
            async with rig.other.lock(path), rig.zk.lock("/elsewhere"):
                pass


# Loss


@pytest.mark.parametrize("victim", range(3))
async def test_one_of_them_is_lost(rig: Rig, victim: int) -> None:
    """L4: when one of them is lost the body is cancelled, once, and the block raises the LockLost of that
    one. The others are held until then, and are released."""
    await make_lines(rig.other)
    told: list[str] = []
    entered: asyncio.Future[tuple[corral.Held, ...]] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with rig.zk.multi_lock(PATHS) as held:
                entered.set_result(held)
                try:
                    with noted(told, "told"):
                        await forever()
                finally:
                    await turns(20)  # the clean-up may wait: it is not cancelled again
                    assert [each.is_valid for each in held] == [place != victim for place in range(3)]
        finally:
            assert task.cancelling() == 0
            await turns()

    task = asyncio.create_task(run())
    held = await within(asyncio.shield(entered))
    await rig.other.delete(f"{PATHS[victim]}/{held[victim].node.rpartition('/')[2]}")
    with pytest.raises(corral.LockLost, match=f"lock '{PATHS[victim]}' was lost"):
        await within(task)
    assert told == ["told"]
    await settle(rig.zk)
    assert await standing(rig.other) == [0, 0, 0]


@pytest.mark.parametrize("how", ["lapsed", "expired", "deleted"])
@pytest.mark.parametrize("way", ["acquire", "async with"])
async def test_one_is_lost_while_it_waits_for_another(rig: Rig, way: str, how: str) -> None:
    """A lock that is lost while the rest is awaited is acquired again: the result has all of them, valid."""
    await make_lines(rig.other)
    theirs = await rig.other.lock("/c").acquire()
    lock = rig.zk.multi_lock(PATHS)
    states: list[bool] = []

    async def run() -> tuple[corral.Held, ...]:
        if way == "acquire":
            held = await lock.acquire()
            states.extend(each.is_valid for each in held)
            for each in held:
                await each.release()
        else:
            async with lock as held:
                states.extend(each.is_valid for each in held)
                await settle(rig.zk)
                states.extend(each.is_valid for each in held)
        return held

    task = asyncio.create_task(run())
    await until_line(rig.other, "/c", 2)
    [first] = await children(rig.other, "/a")
    async with rig.losing(how, f"/a/{first}"):
        if how == "deleted":
            await lost_by_a_heartbeat(rig)
        elif how == "lapsed":
            await until_lapsed(rig)
    await theirs.release()
    held = await within(task)
    assert set(states) == {True}
    assert first not in [each.node.rpartition("/")[2] for each in held]
    await settle(rig.zk)
    assert await standing(rig.other) == [0, 0, 0]


async def lost_by_a_heartbeat(rig: Rig) -> None:
    """Wait until heartbeats of `rig.zk` have found all deletions."""
    count = len(rig.zk.statistics().held)
    await rig.tap.seen(lambda: len(rig.zk.statistics().held) < count)


async def until_lapsed(rig: Rig) -> None:
    async with asyncio.timeout(PATIENCE):
        async for state in rig.zk.states():
            if state is corral.State.LAPSED:
                return


@pytest.mark.parametrize("first", ["the late one", "the second one"])
async def test_a_shared_object_after_a_loss(rig: Rig, first: str) -> None:
    """L7: if the first holder of a shared object has lost its locks and leaves late, the second holder's
    locks are its own: whoever leaves first leaves its own, and the late one gets LockLost."""
    await make_lines(rig.other)
    lock = rig.zk.multi_lock(PATHS)
    entered, told, second_in = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def late() -> None:
        async with lock:
            entered.set()
            try:
                await forever()
            finally:
                told.set()
                await second_in.wait()

    task = asyncio.create_task(late())
    await within(entered.wait())
    async with rig.losing("lapsed"):
        await within(told.wait())
    async with asyncio.timeout(PATIENCE), lock as held:
        if first == "the late one":
            second_in.set()
            await ended(task)
        assert all(each.is_valid for each in held)
        await settle(rig.zk)
        assert await standing(rig.other) == [1, 1, 1]
    assert await standing(rig.other) == [0, 0, 0]
    second_in.set()
    with pytest.raises(corral.LockLost):
        await within(task)


async def test_an_exception_of_the_bodys_own(zk: corral.Client, other: corral.Client) -> None:
    """An exception of the body is raised unchanged, and all are released."""
    await make_lines(zk)
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with zk.multi_lock(PATHS):
            raise error
    assert caught.value is error
    assert await standing(other) == [0, 0, 0]
