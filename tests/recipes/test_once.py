"""Jobs that a fleet runs once: one result is recorded, two never run at the same time, and a runner that dies is
replaced (X1, L4)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from lock_support import Rig

import corral
from client_support import asks_for, requests_seen
from corral.testing import FaultProxy, Message, Point, after, before, committed
from corral.wire import framing, messages
from support import children, settle, turns, until, until_line, within

Connect = Callable[..., corral.Client]
Job = Callable[[corral.Held], Awaitable[bytes | None]]
JOB = "/jobs/migrate-7"
LINE = f"{JOB}/lock"


class Work:
    """A job that tells how often it has begun, and ends when it may."""

    def __init__(self, result: bytes | None = b"done", *, at_once: bool = False) -> None:
        self.result = result
        self.begun = self.ended = self.cancelled = 0
        self.may_end = asyncio.Event()
        if at_once:
            self.may_end.set()

    async def __call__(self, held: corral.Held) -> bytes | None:
        assert held.is_valid
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        return self.result

    async def has_begun(self, times: int = 1) -> None:
        """Wait until it has begun so often."""

        async def begun() -> bool:
            return self.begun == times

        await until(begun, f"the job has begun {times} times")


async def never(held: corral.Held) -> bytes:
    """A job that must not be run."""
    raise AssertionError("the job was run again")


def writes_the_record(message: Message) -> bool:
    """Matches the transaction that records a result."""
    return asks_for(messages.MULTI)(message) and f"{JOB}/done".encode() in message.body


async def test_the_first_runs_it_and_the_others_get_its_result(
    zk: corral.Client, other: corral.Client
) -> None:
    """X1: one of many clients runs the job; all get what it has returned, and nobody is left in the line."""
    work = Work(b"41 rows")
    running = [asyncio.create_task(client.once(JOB).run(work)) for client in [zk, other] * 10]
    await work.has_begun()
    await until_line(other, LINE, 20)
    work.may_end.set()
    assert await within(asyncio.gather(*running)) == [b"41 rows"] * 20
    assert (work.begun, work.ended) == (1, 1)
    await until_line(other, LINE, 0)
    record = await other.once(JOB).record()
    assert record is not None
    assert (record.data, record.stat.version) == (b"41 rows", 0)


async def test_who_comes_later_gets_the_result_by_one_read(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """X1: when it is done nobody stands in line for it."""
    assert await other.once(JOB).run(Work(at_once=True)) == b"done"
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        assert await zk.once(JOB).run(never) == b"done"
        assert await zk.once(JOB).try_run(never) == b"done"
        assert seen.opcodes == [messages.GET.opcode] * 2


async def test_waiters_do_not_wait_for_each_other(rig: Rig) -> None:
    """L1: when the record is there, those who wait read it: the lock is not handed from one to the next, so none waits
    for one before it that is cut off."""
    work = Work()
    running = asyncio.create_task(rig.other.once(JOB).run(work))
    await work.has_begun()
    first = asyncio.create_task(rig.zk.once(JOB).run(never))
    await until_line(rig.other, LINE, 2)
    second = asyncio.create_task(rig.other.once(JOB).run(never))
    await until_line(rig.other, LINE, 3)
    await settle(rig.zk)
    async with rig.proxy.black_hole():
        work.may_end.set()
        assert await within(asyncio.gather(running, second)) == [b"done"] * 2
        assert not first.done()
        await until_line(rig.other, LINE, 1)
    assert await within(first) == b"done"


async def test_a_job_that_raises_is_not_done(zk: corral.Client, other: corral.Client) -> None:
    """X1: its exception comes out of its `run` and records nothing; the next in line runs the job."""

    async def fails(held: corral.Held) -> bytes:
        await failing.wait()
        raise ZeroDivisionError

    failing = asyncio.Event()
    first = asyncio.create_task(zk.once(JOB).run(fails))
    await until_line(other, LINE, 1)
    second = asyncio.create_task(other.once(JOB).run(Work(None, at_once=True)))
    await until_line(other, LINE, 2)
    failing.set()
    with pytest.raises(ZeroDivisionError):
        await within(first)
    assert await within(second) == b""


@pytest.mark.parametrize("how", ["lapsed", "expired", "deleted"])
async def test_a_runner_that_loses_its_lock_is_replaced(rig: Rig, how: str) -> None:
    """L4: its job is cancelled, the next in line runs the job, and its `run` returns that one's result."""
    lost, work = Work(b"of the first"), Work(b"of the second")
    first = asyncio.create_task(rig.zk.once(JOB).run(lost))
    await lost.has_begun()
    second = asyncio.create_task(rig.other.once(JOB).run(work))
    [node, _] = await until_line(rig.other, LINE, 2)

    async def cancelled() -> bool:
        return lost.cancelled == 1

    async with rig.losing(how, f"{LINE}/{node}"):
        await until(cancelled, "the job is cancelled")
        if how != "lapsed":
            await work.has_begun()
    await work.has_begun()
    work.may_end.set()
    assert await within(asyncio.gather(first, second)) == [b"of the second"] * 2
    assert (lost.begun, lost.ended, work.begun) == (1, 0, 1)


@pytest.mark.parametrize("lost", [before, committed, after], ids=["request", "reply", "behind the reply"])
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_a_lost_answer_to_the_recording(rig: Rig, lost: Callable[..., Point], reset: bool) -> None:
    """X1: it is found out, the job is not run again, and there is one record."""
    work = Work(at_once=True)
    async with rig.proxy.cut_at(lost(match=writes_the_record), reset=reset) as cut:
        assert await within(rig.zk.once(JOB).run(work)) == b"done"
        assert cut.fired.is_set()
    assert work.begun == 1
    assert await within(rig.other.once(JOB).run(never)) == b"done"


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_session_that_ends_while_the_result_is_recorded(rig: Rig, recorded: bool) -> None:
    """X1, L4: if it was recorded that is what `run` returns; if not, the job is run again. One result in any case."""
    numbers = itertools.count(1)

    async def job(held: corral.Held) -> bytes:
        return b"%d" % next(numbers)

    point = committed if recorded else before
    async with rig.proxy.refuse(), rig.proxy.cut_at(point(match=writes_the_record), reset=True) as cut:
        running = asyncio.create_task(rig.zk.once(JOB).run(job))
        await within(cut.fired.wait())
        async with rig.losing("expired"):
            await until_line(rig.other, LINE, 0)
    assert await within(running) == (b"1" if recorded else b"2")
    assert await within(rig.other.once(JOB).run(never)) == (b"1" if recorded else b"2")


async def test_try_run_does_not_wait(zk: corral.Client, other: corral.Client) -> None:
    """X1: while somebody else runs the job, None; when nobody does, it runs it; when it is done, the result."""
    work = Work()
    running = asyncio.create_task(zk.once(JOB).try_run(work))
    await work.has_begun()
    assert await within(other.once(JOB).try_run(never)) is None
    await until_line(other, LINE, 1)
    work.may_end.set()
    assert await within(running) == b"done"
    assert await within(other.once(JOB).try_run(never)) == b"done"


async def test_a_result_counts_for_its_time_to_live(zk: corral.Client, other: corral.Client) -> None:
    """X1: within `ttl` the result is returned; after it the job is run again, once, and the record is replaced."""
    for client in (zk, other):
        assert await client.once(JOB, ttl=3600).run(Work(at_once=True)) == b"done"
    first = await other.once(JOB).record()
    work = Work(b"again", at_once=True)

    async def again() -> bool:
        results = await asyncio.gather(*(client.once(JOB, ttl=0.2).run(work) for client in (zk, other, zk)))
        assert len(set(results)) <= 2
        return b"again" in results

    await until(again, "it is run again")
    second = await other.once(JOB).record()
    assert first is not None
    assert second is not None
    assert second.stat.mtime - first.stat.mtime >= 0.2
    assert second.stat.czxid == first.stat.czxid
    assert second.stat.version == work.begun


async def test_waiters_for_a_result_with_a_time_to_live(zk: corral.Client, other: corral.Client) -> None:
    """X1: those who wait while an old result is replaced get the new one, and do not run the job."""
    assert await zk.once(JOB).run(Work(b"old", at_once=True)) == b"old"
    work = Work(b"new")

    async def runs() -> bool:
        if not running:
            running.append(asyncio.create_task(zk.once(JOB, ttl=0.2).run(work)))
        if running[0].done():
            assert await running.pop() == b"old"
        return work.begun == 1

    running: list[asyncio.Task[bytes]] = []
    await until(runs, "the old result does not count any more")
    waiting = [asyncio.create_task(client.once(JOB, ttl=0.2).run(never)) for client in (zk, other)]
    await until_line(other, LINE, 3)
    assert await within(other.once(JOB, ttl=3600).try_run(never)) == b"old"
    assert await within(other.once(JOB, ttl=0.01).try_run(never)) is None
    work.may_end.set()
    assert await within(asyncio.gather(*running, *waiting)) == [b"new"] * 3


async def test_reset_forgets_the_result(zk: corral.Client, other: corral.Client) -> None:
    """X1: after it the job is run again; while the job runs it waits for its end."""
    once = zk.once(JOB)
    assert await once.run(Work(b"1", at_once=True)) == b"1"
    await within(other.once(JOB).reset())
    assert await once.record() is None
    work = Work(b"2")
    running = asyncio.create_task(once.run(work))
    await work.has_begun()
    resetting = asyncio.create_task(other.once(JOB).reset())
    await until_line(other, LINE, 2)
    work.may_end.set()
    assert await within(running) == b"2"
    await within(resetting)
    await within(other.once(JOB).reset())  # nothing to forget
    assert await within(once.run(Work(b"3", at_once=True))) == b"3"


async def test_a_result_that_is_too_large(zk: corral.Client, other: corral.Client) -> None:
    """S7: it is refused with its size before it is sent; the job has run, and counts as not done."""
    size = framing.DEFAULT_MAX_REQUEST + 1
    with pytest.raises(corral.FrameTooLarge, match="1,048") as caught:
        await within(zk.once(JOB).run(Work(b"x" * size, at_once=True)))
    assert caught.value.size > size
    assert await zk.once(JOB).record() is None
    await until_line(other, LINE, 0)
    assert await within(other.once(JOB).run(Work(at_once=True))) == b"done"


async def test_what_is_no_job_is_refused(zk: corral.Client) -> None:
    """X1: neither what cannot be called, nor a result that is not bytes; nothing is recorded."""
    once = zk.once(JOB)
    with pytest.raises(corral.UsageTypeError, match="job must be an async function"):
        await once.run(b"job")  # type: ignore[arg-type]
    with pytest.raises(corral.UsageTypeError, match="bytes, not int"):
        await within(once.run(Work(7, at_once=True)))  # type: ignore[arg-type]
    assert await once.record() is None
    assert JOB in repr(once)
    assert "ttl=5" in repr(zk.once(JOB, ttl=5))


async def test_a_job_that_runs_itself(zk: corral.Client) -> None:
    """L7: it would wait for itself, and is told so."""

    async def job(held: corral.Held) -> bytes:
        return await zk.once(JOB).run(never)

    with pytest.raises(corral.AlreadyHeld, match=JOB):
        await within(zk.once(JOB).run(job))


async def test_the_line_is_an_ordinary_lock(rig: Rig) -> None:
    """L8, L9: who runs and who waits can be seen, and a runner that hangs can be evicted: it is replaced."""
    hangs = Work()
    first = asyncio.create_task(rig.zk.once(JOB, data=b"host-7").run(hangs))
    await hangs.has_begun()
    lock = rig.other.lock(LINE)
    [contender] = await lock.contenders()
    assert contender.data == b"host-7"
    assert await lock.evict() == contender
    assert await within(rig.other.once(JOB).run(Work(b"other", at_once=True))) == b"other"
    assert await within(first) == b"other"
    assert hangs.cancelled == 1


async def test_an_evicted_runner_that_is_done_records_nothing(rig: Rig) -> None:
    """L5: the record is fenced: a job that ends after its runner was evicted is not recorded."""

    async def job(held: corral.Held) -> bytes:
        if not evicted:
            evicted.append(await rig.other.lock(LINE).evict())
            assert await rig.other.once(JOB).run(Work(b"other", at_once=True)) == b"other"
            return b"too late"
        raise AssertionError("run again")

    evicted: list[corral.Contender | None] = []
    assert await within(rig.zk.once(JOB).run(job)) == b"other"
    record = await rig.other.once(JOB).record()
    assert record is not None
    assert (record.data, record.stat.version) == (b"other", 0)


async def test_a_lock_that_the_job_loses_is_its_own_matter(rig: Rig) -> None:
    """L4: the loss of another lock is an exception of the job like any other."""

    async def job(held: corral.Held) -> bytes:
        async with rig.zk.lock("/another") as inner:
            await rig.other.delete("/another/" + inner.node.rpartition("/")[2])
            await asyncio.Event().wait()
        return b""

    with pytest.raises(corral.LockLost, match="/another"):
        await within(rig.zk.once(JOB).run(job))
    assert await rig.zk.once(JOB).record() is None


async def test_a_cancelled_run_leaves_nothing(rig: Rig) -> None:
    """L3: cancelled while it waits, or while its job runs, it leaves the line, and the next one runs the job."""
    work, next_one = Work(), Work(b"next", at_once=True)
    running = asyncio.create_task(rig.zk.once(JOB).run(work))
    await work.has_begun()
    waiting = asyncio.create_task(rig.zk.once(JOB).run(never))
    await until_line(rig.other, LINE, 2)
    await settle(rig.zk)
    waiting.cancel()
    await turns()
    assert waiting.cancelled()
    await until_line(rig.other, LINE, 1)
    following = asyncio.create_task(rig.other.once(JOB).run(next_one))
    await until_line(rig.other, LINE, 2)
    running.cancel()
    assert await within(following) == b"next"
    assert (work.cancelled, work.ended) == (1, 0)
    await until_line(rig.other, LINE, 0)
    assert await children(rig.other, JOB) in (["done"], ["done", "lock"], ["lock", "done"])
