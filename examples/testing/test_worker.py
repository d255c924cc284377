"""The worker on a healthy network, and on one that breaks at the worst moment."""

from __future__ import annotations

import asyncio
import itertools

import pytest

import corral
from corral.testing import FaultProxy, committed
from corral.testing.enumerators import Run, every_cut
from worker import Outdated, Store, submit, work

pytestmark = pytest.mark.anyio


async def double(payload: bytes) -> str:
    """A job that takes no time."""
    return str(2 * int(payload))


class Endless:
    """A job that never ends."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def __call__(self, payload: bytes) -> str:
        self.begun.set()
        try:
            await asyncio.Event().wait()
            return "never"
        finally:
            self.stopped.set()


async def test_it_does_its_jobs(zk: corral.Client, zookeeper_hosts: str) -> None:
    """Jobs run in order, and are removed afterwards."""
    store = Store()
    await submit(zk, "a", b"1")
    await submit(zk, "b", b"2")
    await work(zookeeper_hosts, store, double)
    assert store.writes == [("a", "2"), ("b", "4")]
    assert await zk.children("/jobs") == []


async def test_it_loses_its_lock_mid_job(zk: corral.Client, zookeeper_hosts: str, faults: FaultProxy) -> None:
    """A worker whose session expires stops, another takes over, and nothing is written twice."""
    store, endless = Store(), Endless()
    await submit(zk, "a", b"1")
    async with asyncio.timeout(20), asyncio.TaskGroup() as workers:
        workers.create_task(work(zookeeper_hosts, store, endless))
        await endless.begun.wait()
        [holder] = await zk.lock("/lock").contenders()
        workers.create_task(work(zookeeper_hosts, store, double))

        await faults.expire(holder.stat.ephemeral_owner)
        await endless.stopped.wait()
    assert store.writes == [("a", "2")]
    with pytest.raises(Outdated):  # a write of a worker that did not stop
        await store.save("b", "too late", fencing_token=holder.stat.czxid)


async def test_the_answer_to_a_submission_is_lost(
    zk: corral.Client, zookeeper_hosts: str, faults: FaultProxy
) -> None:
    """The server creates the job, and the connection is cut before the answer: the job is queued once."""
    async with corral.connect(zookeeper_hosts) as client, faults.cut_at(committed("create")) as cut:
        await submit(client, "a", b"1")
    assert cut.fired.is_set()
    assert await zk.children("/jobs") == ["a"]


async def test_the_answer_to_the_lock_is_lost(
    zk: corral.Client, zookeeper_hosts: str, faults: FaultProxy
) -> None:
    """The server creates the lock's node, and the connection is cut before the answer: the worker finds
    it."""
    store = Store()
    await submit(zk, "a", b"1")
    async with asyncio.timeout(20), faults.cut_at(committed("create")) as cut:
        await work(zookeeper_hosts, store, double)
    assert cut.message is not None
    assert "/lock/" in str(cut.message.path)
    assert store.writes == [("a", "2")]
    assert await zk.lock("/lock").contenders() == []


async def test_the_connection_is_cut_anywhere(
    zk: corral.Client, zookeeper_hosts: str, faults: FaultProxy
) -> None:
    """A cut before each request, after each is carried out, after each answer: the job always runs once."""
    numbers = itertools.count()

    async def scenario(run: Run) -> None:
        store, job = Store(), f"job-{next(numbers)}"
        await submit(zk, job, b"1")
        (await run.operation(work(zookeeper_hosts, store, double))).result()
        assert store.writes == [(job, "2")]
        assert await zk.children("/jobs") == []

    report = await every_cut(faults, scenario)
    assert report.reached > 10
    assert not report.broken, report
