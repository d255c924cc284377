"""Q1: queues. Every cut and every cancel is in points/test_points_queue.py; chance is in test_queue_chaos.py."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import pytest
from lock_support import Rig, ended, noted

import corral
from client_support import asks_for, requests_seen
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, block, children, settle, turns, until, until_line, within

PATH = "/jobs"


class Broken(Exception):
    """Raised by a body."""


async def take(queue: corral.Queue) -> corral.Job:
    return await within(queue.take())


async def drain(queue: corral.Queue) -> list[bytes]:
    """The data of all items, in the order in which they are handed out."""
    found = []
    while (job := await queue.try_take()) is not None:
        found.append(job.data)
        await job.done()
    return found


async def claims(zk: corral.Client) -> list[str]:
    return await children(zk, f"{PATH}/taken")


async def until_waiting(zk: corral.Client, count: int) -> None:
    await until_line(zk, f"{PATH}/waiting", count)


async def fail(queue: corral.Queue, meanwhile: Awaitable[object] | None = None) -> tuple[bytes, int]:
    """Take an item, and fail; its data, and which attempt that was."""
    try:
        async with asyncio.timeout(PATIENCE), queue.take() as job:
            if meanwhile is not None:
                await meanwhile
            raise Broken
    except Broken:
        return job.data, job.attempt


# The order, and the layout


async def test_the_order_is_by_priority_and_coming(zk: corral.Client) -> None:
    """Q1: lower priorities come first, and among equals those that were put first, one by one or many at once."""
    queue = zk.queue(PATH)
    await queue.put(b"c")
    await queue.put(b"e", priority=999)
    await queue.put_many([b"a", b"b"], priority=1)
    await queue.put(b"d", 100)
    await queue.put(b"0", priority=0)
    assert await queue.size() == 6
    assert await drain(queue) == [b"0", b"a", b"b", b"c", b"d", b"e"]
    assert await queue.size() == 0


async def test_the_order_goes_on_behind_the_greatest_number(zk: corral.Client) -> None:
    """Q1: the server's numbers are signed: negative ones come behind the greatest, and what is no item is left alone."""
    await zk.ensure_path(f"{PATH}/entries")
    names = ["entry-100-0000000009", "entry-100-2147483646", "entry-100--000000005", "entry-100--2147483648"]
    order = [names[0], names[1], names[3], names[2]]
    for name in names:
        await zk.create(f"{PATH}/entries/{name}", name.encode())
    foreign = ["entry-1-0000000001", "lock-0000000001", "entry-0100-0000000001", "a"]
    for name in foreign:
        await zk.create(f"{PATH}/entries/{name}")
    assert await drain(zk.queue(PATH)) == [name.encode() for name in order]
    assert set(await zk.children(f"{PATH}/entries")) == set(foreign)


async def test_the_layout_is_kazoos(zk: corral.Client, other: corral.Client) -> None:
    """Q1: an item is a persistent sequential znode with its data as it is, a claim an ephemeral one of the same name; and
    nothing else stands among them, for kazoo would take it for an item."""
    queue = zk.queue(PATH)
    async with other.watch_children(f"{PATH}/entries") as events:
        await anext(events)
        await queue.put_many([b"x", b"y"], priority=7)
        async for event in events:
            assert event.children <= {"entry-007-0000000000", "entry-007-0000000001"}
            if len(event.children) == 2:
                break
    async with queue.take() as job:
        assert (job.name, job.data, job.priority, job.attempt) == ("entry-007-0000000000", b"x", 7, 1)
        assert await claims(zk) == [job.name]
        data, stat = await zk.get(f"{PATH}/taken/{job.name}")
        assert len(data) == 36
        assert stat.ephemeral_owner == zk.session_id
        assert job.fencing_token == stat.czxid
        assert (await zk.get(f"{PATH}/entries/{job.name}"))[0] == b"x"
    assert await children(zk, f"{PATH}/entries") == ["entry-007-0000000001"]
    assert "entry" in repr(await queue.take())
    for shown in (queue, queue.take(), queue.watch_size()):
        assert PATH in repr(shown)


async def test_what_put_accepts_can_be_taken_and_put_aside(
    connect: Callable[..., corral.Client], other: corral.Client
) -> None:
    """Q1, S7: an item that is too large to be taken is refused by put, and the greatest one that is not can be taken and
    put aside."""
    async with connect(max_request=3000) as zk:
        queue = zk.queue(PATH, max_attempts=2)
        least, most = 0, 3000
        while most - least > 1:
            size = (least + most) // 2
            try:
                await queue.put(b"x" * size)
                least = size
            except corral.FrameTooLarge:
                most = size
        assert least > 2000
        await drain(queue)
        await queue.put_many([b"x" * least] * 3)
        async with queue.take() as job:
            assert len(job.data) == least
        await fail(queue)
        await fail(queue)
        await (await take(other.queue(PATH))).release()
        await (await take(other.queue(PATH))).release()
        assert await queue.try_take() is None
        failed = await queue.failed()
        assert [len(item.data) for item in failed] == [least, least]
        await queue.requeue(failed[0])
        with pytest.raises(corral.FrameTooLarge):
            await queue.put_many([b"small", b"x" * (least + 1)])
        assert await queue.size() == 1, "something was put although an item was too large"


# Taking: waiting, and who is woken


async def test_a_consumer_waits_for_an_item(rig: Rig) -> None:
    """Q1: it is handed the item when one comes, also where there was no queue, and nothing of its wait stays."""
    taking = asyncio.create_task(take(rig.zk.queue(PATH)))
    await until_waiting(rig.other, 1)
    await rig.other.queue(PATH).put(b"x")
    async with await within(taking) as job:
        assert job.data == b"x"
        assert job.is_valid
        await until_waiting(rig.other, 0)
    assert await rig.zk.queue(PATH).size() == 0
    assert not any(rig.zk.statistics().watches.values())


async def test_an_item_wakes_one_consumer(rig: Rig) -> None:
    """Q1: of many that wait only the first looks at the queue when an item comes, and then the next one: no herd. All
    of them are served, one item each."""
    many = 20
    queue = rig.zk.queue(PATH)
    waiting = [asyncio.create_task(take(queue)) for _ in range(many)]
    await until_waiting(rig.other, many)
    await settle(rig.zk)
    start = len(rig.tap.messages)
    await rig.other.queue(PATH).put(b"0")
    await until_waiting(rig.other, many - 1)
    await settle(rig.zk)
    await settle(rig.zk)
    looks = rig.tap.requests(start).count(messages.CHILDREN)
    assert looks <= 6, f"{looks} lists were read for one item, by {many} consumers"
    assert sum(task.done() for task in waiting) == 1
    await rig.other.queue(PATH).put_many([b"%d" % number for number in range(1, many)])
    jobs = await within(asyncio.gather(*waiting))
    assert sorted(int(job.data) for job in jobs) == list(range(many))
    for job in jobs:
        await job.done()
    assert await queue.size() == 0


async def test_a_claim_that_ends_wakes_a_consumer(rig: Rig) -> None:
    """Q1: an item that is given back, or whose consumer dies, is handed to one that waits, and the attempts grow."""
    queue = rig.other.queue(PATH)
    await queue.put(b"x")
    held = await take(rig.zk.queue(PATH))
    waiting = asyncio.create_task(take(queue))
    await until_waiting(rig.other, 1)
    await held.release()
    job = await within(waiting)
    assert job.attempt == 2
    waiting = asyncio.create_task(take(rig.zk.queue(PATH)))
    await until_waiting(rig.other, 1)
    await rig.other.close()
    assert (await within(waiting)).attempt == 3


async def test_consumers_share_the_items(connect: Callable[..., corral.Client], zk: corral.Client) -> None:
    """Q1: many consumers, in several sessions, that are faster than each other by chance: each item is handled once."""
    count, handled, inside = 60, Counter[bytes](), Counter[bytes]()

    async def consume(client: corral.Client) -> None:
        async for job in client.queue(PATH):
            async with job:
                inside[job.data] += 1
                assert inside[job.data] == 1, "handed to two at once"
                await client.exists("/")
                inside[job.data] -= 1
                handled[job.data] += 1
            if handled.total() == count:
                finished.set()

    finished = asyncio.Event()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect()) for _ in range(4)]
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            consumers = [group.create_task(consume(client)) for client in clients for _ in range(3)]
            for number in range(count // 3):
                await zk.queue(PATH).put_many([b"%d" % (3 * number + each) for each in range(3)])
            await finished.wait()
            for consumer in consumers:
                consumer.cancel()
    assert handled == {b"%d" % number: 1 for number in range(count)}
    assert await zk.queue(PATH).size() == 0
    assert await claims(zk) == []


async def test_try_take_does_not_wait(zk: corral.Client, other: corral.Client) -> None:
    """Q1: it returns None where there is no item, and where all are taken."""
    assert await zk.queue(PATH).try_take() is None
    await zk.queue(PATH).put(b"x")
    async with other.queue(PATH).take():
        assert await zk.queue(PATH).try_take() is None
    assert await claims(zk) == []


@pytest.mark.parametrize("what", ["entries", "taken", ""])
async def test_a_queue_that_vanishes_is_made_again(
    zk: corral.Client, other: corral.Client, what: str
) -> None:
    """Q1, L10: somebody deletes a part of the queue, or all of it, below a consumer that waits."""
    waiting = asyncio.create_task(take(zk.queue(PATH)))
    await until_waiting(other, 1)
    await other.delete(f"{PATH}/{what}".rstrip("/"), recursive=True)
    await other.queue(PATH).put(b"x")
    async with await within(waiting) as job:
        assert job.data == b"x"
    assert await other.queue(PATH).size() == 0


async def test_a_consumer_waits_over_an_expired_session(rig: Rig) -> None:
    """Q1: it is in line again in the new session, and is handed the item that came meanwhile."""
    waiting = asyncio.create_task(take(rig.zk.queue(PATH)))
    await until_waiting(rig.other, 1)
    async with rig.away("expired"):
        await rig.other.queue(PATH).put(b"x")
    async with await within(waiting) as job:
        assert job.data == b"x"
    await until_waiting(rig.other, 0)
    assert await rig.other.queue(PATH).size() == 0


# The end of a job


async def test_a_body_that_fails_gives_the_item_back(zk: corral.Client) -> None:
    """Q1: it keeps its place and is handed out again, with its attempts counted."""
    queue = zk.queue(PATH)
    await queue.put_many([b"x", b"y"])
    for attempt in (1, 2, 3):
        assert await fail(queue) == (b"x", attempt)
    assert await drain(queue) == [b"x", b"y"]


async def test_a_body_that_is_cancelled_gives_the_item_back(zk: corral.Client, other: corral.Client) -> None:
    """Q1: a timeout in the body, too; the cancellation stays what it is."""
    await zk.queue(PATH).put(b"x")

    async def consume() -> None:
        async with zk.queue(PATH).take():
            await asyncio.get_running_loop().create_future()

    consuming = asyncio.create_task(consume())
    await until_line(other, f"{PATH}/taken", 1)
    consuming.cancel()
    await ended(consuming)
    assert consuming.cancelled()
    async with await take(other.queue(PATH)) as job:
        assert job.attempt == 2


async def test_a_job_ends_early_and_once(zk: corral.Client) -> None:
    """Q1: done() and release() in the block; the block's end adds nothing, and neither does a second call."""
    queue = zk.queue(PATH)
    await queue.put(b"x")
    with suppress(Broken):
        async with queue.take() as job:
            await job.done()
            await job.done()
            assert await queue.size() == 0
            assert not job.is_valid
            raise Broken
    await queue.put(b"y")
    async with queue.take() as job:
        await job.release()
        await job.release()
        with pytest.raises(corral.UsageStateError, match="given back"):
            await job.done()
    assert await drain(queue) == [b"y"]


async def test_jobs_are_passed_on_to_tasks(zk: corral.Client) -> None:
    """Q1: a loop that takes, and tasks that enter: each task's end is its own job's."""
    queue, handled = zk.queue(PATH), list[bytes]()
    await queue.put_many([b"0", b"1", b"2"])

    async def handle(job: corral.Job) -> None:
        with suppress(Broken):
            async with job:
                await zk.exists("/")
                if job.data == b"1" and job.attempt == 1:
                    raise Broken
                handled.append(job.data)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        async for job in queue:
            group.create_task(handle(job))
            if len(handled) + len(await claims(zk)) >= 3 or await queue.size() == 0:
                break
    assert sorted([*handled, *await drain(queue)]) == [b"0", b"1", b"2"]


async def test_a_job_that_is_dropped_is_given_back(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Q1: one that nobody has entered does not stay claimed, and the log says so."""
    await zk.queue(PATH).put(b"x")
    with caplog.at_level(logging.WARNING, "corral.recipes"):
        async for _ in zk.queue(PATH):
            break
        del _
        gc.collect()
        async with await take(other.queue(PATH)) as job:
            assert job.attempt == 2
    assert "taken and dropped" in caplog.text


async def test_a_take_is_entered_once(zk: corral.Client) -> None:
    """L7: a second block takes another item by another call."""
    taking = zk.queue(PATH).take()
    with pytest.raises(corral.UsageStateError, match="was not entered"):
        await taking.__aexit__(None, None, None)
    await zk.queue(PATH).put_many([b"x", b"y"])
    async with taking:
        with pytest.raises(corral.UsageStateError, match="call take"):
            await taking.__aenter__()


# Loss


@pytest.mark.parametrize("how", ["lapsed", "expired", "deleted", "closed"])
async def test_a_lost_item_is_handed_out_again(rig: Rig, how: str) -> None:
    """Q1, L4: the body is cancelled before anybody else is handed the item; LockLost comes out; nothing is removed, and
    the attempts grow."""
    order = list[str]()
    await rig.other.queue(PATH).put(b"x")
    entered = asyncio.Event()

    async def consume() -> None:
        async with rig.zk.queue(PATH).take() as job:
            assert job.attempt == 1
            entered.set()
            with noted(order, "told"):
                await asyncio.get_running_loop().create_future()

    async def consume_next() -> None:
        async with rig.other.queue(PATH).take() as job:
            order.append("handed out")
            assert (job.data, job.attempt) == (b"x", 2)

    consuming = asyncio.create_task(consume())
    await within(entered.wait())
    following = asyncio.create_task(consume_next())
    await until_waiting(rig.other, 1)
    [name] = await claims(rig.other)
    async with rig.losing(how, f"{PATH}/taken/{name}"):
        await ended(consuming)
        await within(following)
    assert isinstance(consuming.exception(), corral.LockLost)
    if how in ("lapsed", "closed"):  # where somebody else ends the claim, the next is handed the item at once
        assert order == ["told", "handed out"]
    assert await rig.other.queue(PATH).size() == 0
    assert await claims(rig.other) == []


async def steal(rig: Rig) -> tuple[corral.Job, corral.Job]:
    """An item of `rig.zk` whose claim was deleted, and which is handed to `rig.other`."""
    await rig.other.queue(PATH).put(b"x")
    lost = await take(rig.zk.queue(PATH))
    await rig.other.delete(f"{PATH}/taken/{lost.name}")
    return lost, await take(rig.other.queue(PATH))


async def test_who_has_lost_an_item_cannot_remove_it(rig: Rig) -> None:
    """Q1: an acknowledgement by who is not the one any more removes neither the item nor the claim of the next one,
    although the claim has the same path; nor does giving it back, nor a transaction."""
    lost, job = await steal(rig)
    with pytest.raises(corral.LockLost):
        async with lost.transaction() as tx:
            tx.create("/written")
    with pytest.raises(corral.LockLost):
        await lost.done()
    await lost.release()
    await settle(rig.zk)
    assert await claims(rig.other) == [job.name]
    assert await rig.other.queue(PATH).size() == 1
    assert await rig.other.exists("/written") is None
    async with job:
        async with job.transaction() as tx:
            tx.create("/written")
    assert await rig.other.queue(PATH).size() == 0


@pytest.mark.parametrize("fails", [True, False])
async def test_an_item_that_somebody_changes_while_it_is_handled(rig: Rig, fails: bool) -> None:
    """Q1: it is not removed, and its claim does not stay: it is handed out again, as it is now."""
    await rig.other.queue(PATH).put(b"old")

    async def consume() -> None:
        async with rig.zk.queue(PATH).take() as job:
            await rig.other.set(f"{PATH}/entries/{job.name}", b"new")
            if fails:
                raise Broken

    with pytest.raises(Broken if fails else corral.LockLost):
        await within(consume())
    async with await take(rig.other.queue(PATH)) as job:
        assert (job.data, job.attempt) == (b"new", 3)


async def test_giving_back_does_not_remove_the_claim_of_kazoo(rig: Rig) -> None:
    """Q1: kazoo does not raise the version of an entry, so the claim's own version tells them apart."""
    await rig.zk.queue(PATH).put_many([b"x", b"y"])
    lost, late = await take(rig.zk.queue(PATH)), await take(rig.zk.queue(PATH))
    for job in (lost, late):
        await rig.other.delete(f"{PATH}/taken/{job.name}")
        await rig.other.create(f"{PATH}/taken/{job.name}", b"kazoo", ephemeral=True)
    await lost.release()
    with pytest.raises(corral.LockLost):
        await late.done()
    assert len(await claims(rig.other)) == 2
    assert await rig.other.queue(PATH).size() == 2


async def test_a_claim_that_another_one_has_replaced_is_lost(rig: Rig) -> None:
    """Q1, S3: also where the deletion itself was not seen: the znode at its path is not ours."""
    lost, job = await steal(rig)
    assert isinstance(await within(lost.wait_lost()), corral.LockLost)
    assert job.is_valid
    await job.done()


async def test_an_item_that_is_done_as_its_claim_is_lost(rig: Rig) -> None:
    """Q1: a block that ends normally, but too late, raises LockLost and removes nothing."""
    await rig.other.queue(PATH).put(b"x")
    with pytest.raises(corral.LockLost):
        async with rig.zk.queue(PATH).take() as job:
            await rig.other.delete(f"{PATH}/taken/{job.name}")
    assert await drain(rig.other.queue(PATH)) == [b"x"]


async def test_a_body_that_blocks_the_loop_beyond_the_lease(rig: Rig) -> None:
    """Q1, S9: nothing could tell it of the loss; at its end nothing is removed, and LockLost comes out."""
    await rig.other.queue(PATH).put(b"x")
    with pytest.raises(corral.LockLost):
        async with rig.zk.queue(PATH).take():
            block(rig.zk.session_timeout)  # the session itself may live on for a moment
    assert (await take(rig.other.queue(PATH))).attempt == 2


async def test_an_acknowledgement_that_is_not_confirmed_in_time(rig: Rig) -> None:
    """Q1, L6: leaving waits until the lease ends, and raises LockLost. The acknowledgement goes on, and is applied as
    soon as a server can be reached in the same session, since nobody else was handed the item."""
    await rig.other.queue(PATH).put(b"x")
    taking = rig.zk.queue(PATH).take()
    await taking.__aenter__()
    async with rig.proxy.black_hole():
        with pytest.raises(corral.LockLost):
            await within(taking.__aexit__(None, None, None))
    session = rig.zk.session_id
    await settle(rig.zk)
    if rig.zk.session_id == session:
        assert await rig.other.queue(PATH).size() == 0
    else:
        assert await drain(rig.other.queue(PATH)) == [b"x"]


async def test_leaving_is_cancelled(rig: Rig) -> None:
    """Q1, L6: the acknowledgement goes on when leaving the block is cancelled."""
    await rig.other.queue(PATH).put(b"x")

    async def consume() -> None:
        async with rig.zk.queue(PATH).take():
            hole.set()
            await opened.wait()

    hole, opened = asyncio.Event(), asyncio.Event()
    consuming = asyncio.create_task(consume())
    await within(hole.wait())
    async with rig.proxy.black_hole():
        opened.set()
        await turns()
        consuming.cancel()
        await ended(consuming)
        assert consuming.cancelled()

    async def gone() -> bool:
        return await rig.other.queue(PATH).size() == 0

    await until(gone, "acknowledged")


async def test_a_refused_acknowledgement_can_be_repeated(zk: corral.Client, other: corral.Client) -> None:
    """Q1, L6: where the ACL does not let us delete, leaving raises NoAuth, and the item stays ours."""
    await zk.queue(PATH).put(b"x")
    taking = zk.queue(PATH).take()
    job = await taking.__aenter__()
    await other.set_acl(f"{PATH}/entries", corral.acl.world(corral.Perm.READ | corral.Perm.ADMIN))
    with pytest.raises(corral.NoAuth):
        await taking.__aexit__(None, None, None)
    assert job.is_valid
    assert await other.queue(PATH).try_take() is None
    await other.set_acl(f"{PATH}/entries", corral.acl.OPEN)
    await job.done()
    assert await zk.queue(PATH).size() == 0


# Attempts, and what is put aside


async def test_attempts_are_limited(zk: corral.Client, caplog: pytest.LogCaptureFixture) -> None:
    """Q1: after the last attempt the item is put aside, logged, where it can be looked at, requeued and discarded."""
    queue = zk.queue(PATH, max_attempts=2)
    await queue.put_many([b"bad", b"worse"], priority=5)
    with caplog.at_level(logging.WARNING, "corral.recipes"):
        for _ in range(4):
            await fail(queue)
    assert caplog.text.count("was put aside") == 2
    assert await queue.try_take() is None
    assert await queue.size() == 0
    bad, worse = await queue.failed()
    assert (bad.data, bad.priority, bad.attempts) == (b"bad", 5, 2)
    assert bad.name.startswith("entry-005-0000000000-2-")
    await queue.put(b"before", priority=5)
    await queue.requeue(bad)
    await queue.discard(worse)
    assert await queue.failed() == []
    for gone, call in ((bad, queue.requeue), (worse, queue.discard)):
        with pytest.raises(corral.NoNode, match="not put aside any more"):
            await call(gone)
    async with queue.take() as job:
        assert job.data == b"before"
    async with queue.take() as job:
        assert (job.data, job.attempt, job.priority) == (b"bad", 1, 5)


async def test_consumers_that_die_count(rig: Rig) -> None:
    """Q1: an item that kills its consumer is put aside by who would be handed it next, and that one is handed the one
    behind it."""
    queue = rig.other.queue(PATH, max_attempts=1)
    await queue.put_many([b"poison", b"good"])
    held = await take(rig.zk.queue(PATH))
    waiting = asyncio.create_task(take(queue))
    job = await within(waiting)
    assert job.data == b"good"
    waiting = asyncio.create_task(take(queue))
    await until_waiting(rig.other, 1)
    async with rig.away("expired"):
        await within(held.wait_lost())

        async def put_aside() -> bool:
            return [item.data for item in await queue.failed()] == [b"poison"]

        await until(put_aside, "put aside")
    waiting.cancel()
    await ended(waiting)
    await job.done()
    assert await queue.size() == 0


async def test_there_is_no_place_to_put_an_item_aside(zk: corral.Client, other: corral.Client) -> None:
    """Q1: it is given back then, and put aside by who would be handed it next."""
    queue = zk.queue(PATH, max_attempts=1)
    await queue.put(b"bad")
    await fail(queue, other.delete(f"{PATH}/failed"))
    assert await queue.failed() == []
    assert await queue.size() == 1
    assert await queue.try_take() is None
    assert [item.data for item in await queue.failed()] == [b"bad"]


async def test_an_item_that_is_claimed_is_not_put_aside(zk: corral.Client, other: corral.Client) -> None:
    """Q1: not even by a consumer with fewer attempts, and not while kazoo has it, whose claims do not count."""
    await zk.queue(PATH).put(b"x")
    await (await take(zk.queue(PATH))).release()
    async with zk.queue(PATH).take() as job:
        assert await other.queue(PATH, max_attempts=1).try_take() is None
        assert await other.queue(PATH).failed() == []
        assert job.is_valid
    assert await other.queue(PATH).failed() == []


# The size


async def test_the_size_is_watched(zk: corral.Client, other: corral.Client) -> None:
    """Q1, W1: the size now, from where there is no queue, then each newer one, and never one twice in a row."""
    queue = zk.queue(PATH)
    async with queue.watch_size() as sizes:
        assert await within(anext(sizes)) == 0
        await other.queue(PATH).put_many([b"a", b"b"])
        assert await within(anext(sizes)) == 2
        assert await queue.size() == 2
        async with other.queue(PATH).take():
            assert await queue.size() == 2
        assert await within(anext(sizes)) == 1
        await other.queue(PATH).put(b"c")
        await drain(other.queue(PATH))
        async for size in sizes:
            if size == 0:
                break
    await settle(zk)
    assert not any(zk.statistics().watches.values())


# What it costs


async def test_what_a_job_costs(
    zk: corral.Client, connect: Callable[..., corral.Client], proxy: FaultProxy
) -> None:
    """Q1: an item that is there is taken with two lists, one read and one transaction, and done with one more."""
    async with connect(to=proxy.address) as client:
        queue = client.queue(PATH)
        await queue.put_many([b"a", b"b"])
        await drain(client.queue("/another"))
        async with requests_seen(proxy) as seen:
            async with queue.take():
                pass
        assert seen.count(messages.CHILDREN) == 2
        assert seen.count(messages.GET) == 1
        assert seen.count(messages.MULTI) == 2
        assert len(seen.requests) == 5
        assert asks_for(messages.MULTI)(seen.requests[-1])
