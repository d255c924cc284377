"""A partition: each item has one owner, and moves only when that one does not use it any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from lock_support import Rig, ended

import corral
from corral import Perm
from corral.recipes.assignment import items_by_name
from support import children, settle, turns, until, within

Connect = Callable[..., corral.Client]

PATH = "/shards"
ITEMS = range(24)  # with two members, each has some, but for one case in many millions
SETTLE = 0.1


def partition(zk: corral.Client, **options: Any) -> corral.Partition[int]:
    return zk.partition(PATH, ITEMS, **{"settle": SETTLE, **options})


async def until_owned(*partitions: corral.Partition[int]) -> list[frozenset[int]]:
    """Wait until these own all items, and each of them some; returns what each owns."""

    async def is_so() -> bool:
        owned = [each.mine for each in partitions]
        return all(owned) and frozenset().union(*owned) == frozenset(ITEMS)

    await until(is_so, f"{partitions} own all items")
    return [each.mine for each in partitions]


class Loop:
    """A loop over a partition, in a task of its own: it takes the next set when it is let on."""

    def __init__(self, partition: corral.Partition[int]) -> None:
        self.mine = frozenset[int]()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.task = asyncio.create_task(self._follow(partition))

    async def _follow(self, partition: corral.Partition[int]) -> None:
        async for mine in partition:
            self.mine = mine
            await self.may_go_on.wait()


@contextlib.asynccontextmanager
async def member(zk: corral.Client, **options: Any) -> AsyncIterator[tuple[corral.Partition[int], Loop]]:
    async with partition(zk, **options) as joined:
        loop = Loop(joined)
        try:
            yield joined, loop
        finally:
            loop.task.cancel()
            await ended(loop.task)


# Sharing out


async def test_one_member_owns_all(zk: corral.Client, other: corral.Client) -> None:
    """P1: and each item is a lock with Curator's names, whose holder has the member's data."""
    async with member(zk, data=b"host-7") as (only, _):
        assert await until_owned(only) == [frozenset(ITEMS)]
        assert only.members == {only.id}
        assert (await other.get(f"{PATH}/members/{only.id}"))[0] == b"host-7"
        for item in (0, 15):
            [holder] = await other.lock(f"{PATH}/locks/{item}").contenders()
            held = only.held(item)
            assert held.node.endswith(holder.name)
            assert (holder.data, holder.stat.czxid) == (b"host-7", held.fencing_token)
            assert held.is_valid


async def test_two_members_share(zk: corral.Client, other: corral.Client) -> None:
    """P1, P2: when another one joins, items move to it; when it leaves, they come back, and only those."""
    async with member(zk) as (first, _):
        await until_owned(first)
        tokens = {item: first.held(item).fencing_token for item in ITEMS}
        async with member(other) as (second, _):
            ours, theirs = await until_owned(first, second)
            assert not ours & theirs
            assert first.members == second.members == {first.id, second.id}
        await until_owned(first)
        assert {item for item in ITEMS if first.held(item).fencing_token == tokens[item]} == ours
        assert await children(other, f"{PATH}/members") == [first.id]


async def test_an_item_is_released_when_the_loop_asks_again(zk: corral.Client, other: corral.Client) -> None:
    """P1: the old owner is told first; until its loop asks for the next set, nobody else owns what has moved."""
    async with member(zk) as (first, loop):

        async def is_told() -> bool:
            return loop.mine == frozenset(ITEMS)

        await until(is_told, "the loop has all items")
        loop.may_go_on.clear()
        async with member(other) as (second, _):

            async def is_noticed() -> bool:
                return first.members == {first.id, second.id} == second.members

            await until(is_noticed, "both have assigned the items")
            moving = frozenset(ITEMS) - first.mine
            assert moving
            lines = [await children(other, f"{PATH}/locks/{item}") for item in moving]

            async def all_wait() -> bool:
                lines[:] = [await children(other, f"{PATH}/locks/{item}") for item in moving]
                return all(len(line) == 2 for line in lines)

            await until(all_wait, "the new owner stands in line")
            assert second.mine == frozenset()
            loop.may_go_on.set()
            await until_owned(first, second)
            assert second.mine == moving


async def test_the_assignment_is_replaceable(zk: corral.Client, other: corral.Client) -> None:
    """P2: it is called with items and members in order, the same for all."""

    def first_come(items: Sequence[int], members: Sequence[str]) -> Mapping[str, Sequence[int]]:
        assert list(members) == sorted(members)
        assert sorted(items) == list(ITEMS)
        return (
            {members[0]: [item for item in items if item not in items[::4]], members[-1]: items[::4]}
            if (len(members) > 1)
            else {members[0]: items}
        )

    async with member(zk, assign=first_come) as (one, _), member(other, assign=first_come) as (two, _):
        by_id = sorted([one, two], key=lambda each: each.id)
        least, most = await until_owned(*by_id)
        assert most == frozenset(sorted(ITEMS, key=str)[::4])
        assert least == frozenset(ITEMS) - most


BAD = {
    "raises": (lambda items, members: 1 / 0, ZeroDivisionError, "division"),
    "leaves one out": (lambda items, members: {members[0]: items[1:]}, ValueError, "to no member"),
    "gives one twice": (lambda items, members: {members[0]: [*items, 3]}, ValueError, "3 to two members, or twice"),
    "invents one": (lambda items, members: {members[0]: [*items, 99]}, ValueError, "99 is given to an item that"),
    "invents a member": (lambda items, members: {"me": items}, ValueError, "'me', which is no member"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
async def test_an_assignment_that_is_wrong(zk: corral.Client, what: str) -> None:
    """P2: the error is raised in the loop, and by `run`; and it is tried again."""
    wrong, error, text = BAD[what]
    is_mended = False

    def assign(items: Sequence[int], members: Sequence[str]) -> Mapping[str, Sequence[int]]:
        return {members[0]: items} if is_mended else wrong(items, members)

    async def consume(item: int, held: corral.Held) -> None:
        raise AssertionError("nothing is ours")

    async with partition(zk, assign=assign) as joined:
        for attempt in (lambda: anext(joined), lambda: joined.run(consume)):
            with pytest.raises(error, match=text):
                await within(attempt())
        is_mended = True
        async with asyncio.timeout(30):
            async for mine in joined:
                if len(mine) == len(ITEMS):
                    break


def test_rendezvous() -> None:
    """P2: each item has one member; when a member leaves, only its own items move; loads are about even; and the
    assignment is the same on each machine and in each process."""
    items, members = [f"item-{number}" for number in range(1000)], [f"m{number}" for number in range(20)]
    assigned = corral.rendezvous(items, members)
    assert sorted(item for theirs in assigned.values() for item in theirs) == sorted(items)
    assert {len(each) for each in assigned.values()} <= set(range(30, 75))
    for gone in members:
        rest = corral.rendezvous(items, [each for each in members if each != gone])
        for each, theirs in rest.items():
            assert set(assigned[each]) <= set(theirs)
    assert corral.rendezvous(range(8), ["a", "b", "c"]) == {"a": [2, 5], "b": [3, 7], "c": [0, 1, 4, 6]}


# Losing


@pytest.mark.parametrize("how", ["lapsed", "expired"])
async def test_all_is_lost_with_the_lease(rig: Rig, how: str) -> None:
    """P1, L4: what was lost is absent from the next set, and comes back in the next session, or when the connection is
    back; each with a new lock."""
    async with member(rig.zk) as (joined, loop):
        await until_owned(joined)
        before = {item: joined.held(item) for item in ITEMS}
        async with rig.losing(how):
            for held in before.values():
                await within(held.wait_lost())
            await turns()
            assert joined.mine == frozenset() == loop.mine
        await until_owned(joined)
        assert all(joined.held(item).fencing_token > held.fencing_token for item, held in before.items())


async def test_what_was_lost_and_acquired_again_meanwhile(rig: Rig) -> None:
    """P1: the loop is told of the loss, though it comes to ask when all is there again."""
    async with partition(rig.zk) as joined:
        mine = frozenset[int]()
        while mine != frozenset(ITEMS):
            mine = await within(anext(joined))
        node = joined.held(3).node
        await rig.other.delete(node[node.index(PATH) :])

        async def is_back() -> bool:
            return 3 in joined.mine and joined.held(3).node != node

        await until(is_back, "3 is acquired again")
        assert await within(anext(joined)) == mine - {3}
        assert await within(anext(joined)) == mine


async def test_a_member_that_somebody_deletes_comes_back(zk: corral.Client, other: corral.Client) -> None:
    """P3, N1: it is made again at once, so that nothing moves."""
    async with member(zk, settle=2.0) as (first, _), member(other, settle=2.0) as (second, _):
        await until_owned(first, second)
        before = first.mine, second.mine
        tokens = {item: first.held(item).fencing_token for item in first.mine}
        await other.delete(f"{PATH}/members/{first.id}")
        await within(other.wait_present(f"{PATH}/members/{first.id}"))
        await settle(other)
        assert (first.mine, second.mine) == before
        assert {item: first.held(item).fencing_token for item in first.mine} == tokens


# run


class Consumers:
    """What runs, and how it stops."""

    def __init__(self) -> None:
        self.running: dict[int, corral.Held] = {}
        self.begun: list[int] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def consume(self, item: int, held: corral.Held) -> None:
        assert item not in self.running
        self.running[item] = held
        self.begun.append(item)
        try:
            await asyncio.Event().wait()
        finally:
            while not self.may_end.is_set():  # who cancels twice finds it here as well
                with contextlib.suppress(asyncio.CancelledError):
                    await self.may_end.wait()
            del self.running[item]


@contextlib.asynccontextmanager
async def running(
    zk: corral.Client, **options: Any
) -> AsyncIterator[tuple[corral.Partition[int], Consumers]]:
    consumers = Consumers()
    async with partition(zk, **options) as joined:
        task = asyncio.create_task(joined.run(consumers.consume))
        try:
            yield joined, consumers
        finally:
            task.cancel()
            await ended(task)
        assert consumers.running == {}


async def until_running(*consumers: Consumers) -> None:
    async def is_so() -> bool:
        return sorted(item for each in consumers for item in each.running) == list(ITEMS)

    await until(is_so, "each item has a consumer")


async def test_run_gives_each_item_a_task(zk: corral.Client, other: corral.Client) -> None:
    """P1: it begins when the item is ours, with its lock; and ends before the item is another's."""
    async with running(zk) as (first, ours):
        await until_running(ours)
        assert {item: held.node for item, held in ours.running.items()} == {
            item: first.held(item).node for item in ITEMS
        }
        async with running(other) as (second, theirs):
            _, moved = await until_owned(first, second)

            async def all_have_begun() -> bool:
                return theirs.running.keys() == moved

            await until(all_have_begun, "the consumers of what has moved have begun")
            await until_running(ours, theirs)
        await until_running(ours)
        assert sorted(ours.begun) == sorted([*ITEMS, *second_time(ours)])


def second_time(consumers: Consumers) -> list[int]:
    return [item for item in set(consumers.begun) if consumers.begun.count(item) == 2]


async def test_an_item_waits_for_the_end_of_its_consumer(zk: corral.Client, other: corral.Client) -> None:
    """P1: a consumer that takes long to clean up keeps its item, and nobody else's."""
    async with running(zk) as (first, ours):
        await until_running(ours)
        ours.may_end.clear()
        async with running(other) as (second, theirs):

            async def all_wait() -> bool:
                moving = frozenset(ITEMS) - first.mine
                lines = [await children(other, f"{PATH}/locks/{item}") for item in moving]
                return bool(moving) and all(len(line) == 2 for line in lines)

            await until(all_wait, "the new owner stands in line")
            assert theirs.running == {}
            assert second.mine == frozenset()
            ours.may_end.set()
            await until_running(ours, theirs)


@pytest.mark.parametrize("how", ["lapsed", "expired"])
async def test_consumers_are_cancelled_when_the_lease_is_lost(rig: Rig, how: str) -> None:
    """L4, P1: all of them, before the items can be another's; they begin again with new locks."""
    async with running(rig.zk) as (_, ours):
        await until_running(ours)
        before = dict(ours.running)
        async with rig.losing(how):
            for held in before.values():
                await within(held.wait_lost())
            await turns()
            assert ours.running == {}
        await until_running(ours)
        assert all(ours.running[item].fencing_token > held.fencing_token for item, held in before.items())


async def test_a_consumer_that_returns(zk: corral.Client, other: corral.Client) -> None:
    """P1: its item stays ours, and is not begun again; it moves like the others."""
    begun: list[int] = []

    async def consume(item: int, held: corral.Held) -> None:
        begun.append(item)

    async with partition(zk) as first:
        task = asyncio.create_task(first.run(consume))
        await until_owned(first)
        async with member(other) as (second, _):
            await until_owned(first, second)
        assert sorted(begun)[: len(ITEMS)] != []
        task.cancel()
        await ended(task)


async def test_a_consumer_that_swallows_its_cancel(zk: corral.Client, other: corral.Client) -> None:
    """P1: one that returns when it is cancelled has ended as well: its item moves."""

    async def consume(item: int, held: corral.Held) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async with partition(zk) as first:
        task = asyncio.create_task(first.run(consume))
        await until_owned(first)
        async with member(other) as (second, _):
            await until_owned(first, second)
        task.cancel()
        await ended(task)


async def test_a_consumer_that_swallows_its_loss(rig: Rig) -> None:
    """P1, L4: one that returns when its item is lost has ended; it begins again when the item is ours again."""
    begun: list[int] = []

    async def consume(item: int, held: corral.Held) -> None:
        begun.append(item)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def all_have_begun(times: int) -> None:
        async def is_so() -> bool:  # on a slow machine the lease may lapse once more
            return all(begun.count(item) >= times for item in ITEMS)

        await until(is_so, f"each consumer has begun {times} times")

    async with partition(rig.zk) as joined:
        task = asyncio.create_task(joined.run(consume))
        await all_have_begun(1)
        async with rig.losing("expired"):
            pass
        await all_have_begun(2)
        task.cancel()
        await ended(task)


async def test_run_that_is_cancelled_while_a_consumer_fails(
    zk: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """S8: the caller's cancellation stays one; what the consumer has raised is logged."""

    async def consume(item: int, held: corral.Held) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in its clean-up")

    async with partition(zk) as joined:
        task = asyncio.create_task(joined.run(consume))
        await until_owned(joined)
        await turns()
        task.cancel()
        await ended(task)
        assert task.cancelled()
    assert "a consumer has failed" in caplog.text
    assert "in its clean-up" in caplog.text


async def test_run_that_is_cancelled_twice(zk: corral.Client) -> None:
    """P1: it waits for its consumers all the same."""
    consumers = Consumers()
    async with partition(zk) as joined:
        task = asyncio.create_task(joined.run(consumers.consume))
        await until_running(consumers)
        consumers.may_end.clear()
        for _ in range(3):
            task.cancel()
            await turns()
        assert not task.done()
        assert joined.mine == frozenset(ITEMS)
        consumers.may_end.set()
        await ended(task)
        assert task.cancelled()
        assert consumers.running == {}


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_consumer_that_fails(zk: corral.Client, failing: int) -> None:
    """P1: the others are cancelled and waited for, and its exception is raised; if several fail, one of theirs. The
    member stays: `run` may be called again."""
    consumers, is_mended = Consumers(), False
    may_fail, about_to_fail = asyncio.Event(), set[int]()

    async def consume(item: int, held: corral.Held) -> None:
        if item < failing and not is_mended:
            about_to_fail.add(item)
            await may_fail.wait()
            raise ValueError(f"item {item}")
        await consumers.consume(item, held)

    async with partition(zk) as joined:
        task = asyncio.create_task(joined.run(consume))

        async def all_run() -> bool:
            return len(consumers.running) + len(about_to_fail) == len(ITEMS)

        await until(all_run, "all run")
        may_fail.set()
        with pytest.raises(ValueError, match="item"):
            await within(task)
        assert consumers.running == {}
        is_mended = True
        again = asyncio.create_task(joined.run(consume))
        await until_running(consumers)
        again.cancel()
        await ended(again)


async def test_left_while_run_is_in_another_task(zk: corral.Client, other: corral.Client) -> None:
    """P1: leaving ends the run, waits for its consumers, and only then are the items free."""
    consumers, stack = Consumers(), contextlib.AsyncExitStack()
    joined = await stack.enter_async_context(partition(zk))
    task = asyncio.create_task(joined.run(consumers.consume))
    await until_running(consumers)
    node = joined.held(0).node
    consumers.may_end.clear()
    leaving = asyncio.create_task(stack.aclose())
    await within(other.wait_absent(f"{PATH}/members/{joined.id}"))
    await settle(zk)
    assert await other.exists(node[node.index(PATH) :]) is not None
    assert not leaving.done()
    consumers.may_end.set()
    await within(leaving)
    assert consumers.running == {}
    await within(task)
    assert await other.exists(node[node.index(PATH) :]) is None


# Leaving


async def test_leaving_releases_everything(zk: corral.Client, other: corral.Client) -> None:
    """P1, L6: when the block is left, no lock and no member of ours is there."""
    async with member(zk) as (joined, _):
        await until_owned(joined)
    for item in ITEMS:
        assert await children(other, f"{PATH}/locks/{item}") == []
    assert await children(other, f"{PATH}/members") == []
    assert joined.mine == frozenset()
    with pytest.raises(StopAsyncIteration):
        await anext(joined)


async def test_a_cancelled_body_does_not_wait(rig: Rig) -> None:
    """L6: on a dead network it ends at once; what it owned goes when there is a connection again."""
    owned = asyncio.Event()

    async def work() -> None:
        async with member(rig.zk) as (joined, _):
            await until_owned(joined)
            owned.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await within(owned.wait())
    async with rig.proxy.black_hole():
        task.cancel()
        await turns(10)
        assert task.cancelled()

    async def is_empty() -> bool:
        lines = [await children(rig.other, f"{PATH}/locks/{item}") for item in ITEMS]
        return not any(lines) and not await children(rig.other, f"{PATH}/members")

    await until(is_empty, "nothing of ours is left")


async def test_the_client_is_closed_inside(connect: Connect) -> None:
    """S5: the loop gets an error that says so; leaving is quiet."""
    async with connect() as zk, partition(zk) as joined:
        await within(anext(joined))
        waiting = asyncio.create_task(drain(joined))
        await turns()
        await zk.close()
        with pytest.raises(corral.ClientClosed):
            await within(waiting)


async def drain(joined: corral.Partition[int]) -> None:
    async for _ in joined:
        pass


# Refusals, and wrong use


async def test_items_that_may_not_be_locked(connect: Connect, zk: corral.Client) -> None:
    """P1: the refusal is raised in the loop, and tried again; meanwhile the others are ours."""
    async with connect(auth=[("digest", b"boss:secret")]) as boss:
        await boss.create(f"{PATH}/locks/3", make_parents=True)
        await boss.set_acl(f"{PATH}/locks/3", corral.acl.digest("boss", "secret"))
        async with partition(zk) as joined:
            with pytest.raises(corral.NoAuth, match=f"create '{PATH}/locks/3'"):
                await within(drain(joined))
            mine = frozenset[int]()
            await boss.set_acl(f"{PATH}/locks/3", corral.acl.world(Perm.ALL))
            while mine != frozenset(ITEMS):
                mine = await within(anext(joined))


async def test_wrong_use(zk: corral.Client) -> None:
    """S8: errors that say so."""
    joined = partition(zk)
    for call in (lambda: anext(joined), lambda: joined.run(Consumers().consume)):
        with pytest.raises(corral.UsageStateError, match="is used inside its block"):
            await call()
    async with joined:
        with pytest.raises(corral.UsageStateError, match="entered before"):
            await joined.__aenter__()
        with pytest.raises(corral.UsageStateError, match="99 is not ours now"):
            joined.held(99)
        task = asyncio.create_task(drain(joined))
        await turns()
        with pytest.raises(corral.UsageStateError, match="is used by the loop already"):
            await joined.run(Consumers().consume)
        task.cancel()
        await ended(task)


async def test_names_of_items(zk: corral.Client, other: corral.Client) -> None:
    """P1: whatever their str() is, it is one name below locks/, and none is another's."""
    items = ["a/b", "a%2Fb", ".", "..", "%2E", "ä", "a b", "zookeeper", "\x00", "😀", 7]
    async with zk.partition(PATH, items, settle=SETTLE) as joined:
        mine = frozenset[object]()
        while mine != frozenset(items):
            mine = await within(anext(joined))
        names = await other.children(f"{PATH}/locks")
        assert sorted(names) == sorted(items_by_name(items))
        assert len(names) == len(items)


BAD_ITEMS: dict[str, tuple[Any, type[Exception], str]] = {
    "text": ("abc", TypeError, "items must be an iterable"),
    "a number": (64, TypeError, "items must be an iterable"),
    "none": ([], ValueError, "items is empty"),
    "one twice": ([1, 2, 1], ValueError, "'1' twice"),
    "two of one name": ([1, "1"], ValueError, "'1' twice"),
    "an empty name": ([""], ValueError, "an empty name"),
    "None": ([None], TypeError, "does not name it"),
    "an object": ([object()], TypeError, "does not name it"),
    "a list": ([[1]], TypeError, "unhashable"),
    "half a character": (["\ud800"], TypeError, "surrogates"),
}


@pytest.mark.parametrize("what", BAD_ITEMS)
async def test_bad_items(zk: corral.Client, what: str) -> None:
    """P1: refused when the partition is made, by an error that names the item and the rule."""
    items, error, text = BAD_ITEMS[what]
    with pytest.raises(error, match=text) as refusal:
        zk.partition(PATH, items)
    assert isinstance(refusal.value, corral.UsageError)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"settle": 0}, "settle must be a positive"),
        ({"settle": 5000}, "settle is in seconds"),
        ({"settle": "1"}, "settle must be a number"),
        ({"assign": 1}, "assign must be a function"),
        ({"data": "text"}, "bytes"),
    ],
)
async def test_bad_options(zk: corral.Client, options: dict[str, Any], text: str) -> None:
    """P2, P3: refused when the partition is made."""
    with pytest.raises(corral.UsageError, match=text):
        zk.partition(PATH, ITEMS, **options)
