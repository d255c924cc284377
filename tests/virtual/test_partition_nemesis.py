"""Members of a partition come, go and die, connections break and sessions expire; nobody's item is another's."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy

T = 4.0
ITEMS = [f"shard-{number}" for number in range(12)]
SEEDS = range(12)


class Record:
    """Who works on which item: written by the workers, independently of what the partition says."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.overlaps: list[str] = []
        self.begun = 0

    def begin(self, item: str, who: str) -> None:
        if item in self.owners:
            self.overlaps.append(f"{item} of {self.owners[item]} is begun by {who}")
        self.owners[item] = who
        self.begun += 1

    def end(self, item: str, who: str) -> None:
        if self.owners.get(item) == who:
            del self.owners[item]


Work = Callable[[Record, str, "corral.Partition[str]"], Awaitable[None]]


async def by_run(record: Record, who: str, partition: corral.Partition[str]) -> None:
    """A task for each item, which takes a moment to stop."""

    async def consume(item: str, held: corral.Held) -> None:
        record.begin(item, who)
        try:
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
            record.end(item, who)

    await partition.run(consume)


async def by_loop(record: Record, who: str, partition: corral.Partition[str]) -> None:
    """A loop, which enters the locks of what it works on, so that it is told of a loss."""
    working: dict[str, asyncio.Task[None]] = {}

    async def work(item: str) -> None:
        begun = False
        try:
            async with partition.held(item) as held:
                record.begin(item, who)
                begun = True
                await held.wait_lost()
        except (corral.LockLost, corral.UsageStateError):
            pass
        finally:
            if begun:
                record.end(item, who)

    try:
        async for mine in partition:
            for item in working.keys() - mine:
                working[item].cancel()
            gone = {item: working.pop(item) for item in working.keys() - mine}
            if gone:
                await asyncio.wait(gone.values())
            for item in mine - working.keys():
                working[item] = asyncio.create_task(work(item))
    finally:
        for task in working.values():
            task.cancel()
        if working:
            await asyncio.wait(working.values())


async def by_one_who_does_not_stop(record: Record, who: str, partition: corral.Partition[str]) -> None:
    """Broken on purpose: it goes on with an item that it was told to stop with."""
    async for mine in partition:
        for item in mine:
            if record.owners.get(item) != who:
                record.begin(item, who)


class Member:
    """A member in a task of its own, behind a proxy of its own."""

    def __init__(self, name: str, server: EmbeddedServer, record: Record, work: Work) -> None:
        self.name = name
        self.proxy = FaultProxy(server.address)
        self.task = asyncio.create_task(self._live(record, work))
        self.is_up = asyncio.Event()

    async def _live(self, record: Record, work: Work) -> None:
        async with self.proxy, corral.connect(self.proxy.address, session_timeout=T) as zk:
            async with zk.partition("/p", ITEMS, data=self.name.encode(), settle=0.5) as partition:
                self.is_up.set()
                await work(record, self.name, partition)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            raise AssertionError(f"{self.name} has ended with {self.task.exception()!r}")

    async def die(self) -> None:
        """The process is gone; the server hears nothing of that."""
        async with self.proxy.black_hole():
            await self.leave()


async def torment(server: EmbeddedServer, seed: int, works: list[Work]) -> Record:
    """Let members live and be tormented; at the end there are three, undisturbed, until all items are theirs."""
    chance, record = random.Random(seed), Record()
    members: list[Member] = []
    count = 0

    async def join() -> None:
        nonlocal count
        count += 1
        members.append(Member(f"m{count}", server, record, chance.choice(works)))
        await members[-1].is_up.wait()

    async def hide(member: Member, seconds: float) -> None:
        async with member.proxy.black_hole():
            await asyncio.sleep(seconds)

    hidden: set[asyncio.Task[None]] = set()
    for _ in range(3):
        await join()
    for _ in range(40):
        await asyncio.sleep(chance.choice([0.0, 0.1, 0.3, 0.6, 1.5, 3.0]))
        member = chance.choice(members)
        match chance.choice(["join", "leave", "die", "cut", "reset", "hide", "expire"]):
            case "join" if len(members) < 6:
                await join()
            case "leave" if len(members) > 2:
                members.remove(member)
                await member.leave()
            case "die" if len(members) > 2:
                members.remove(member)
                await member.die()
            case "cut":
                await member.proxy.cut()
            case "reset":
                await member.proxy.cut(reset=True)
            case "hide":
                hidden.add(asyncio.create_task(hide(member, chance.uniform(0, T))))
            case (
                "expire"
            ):  # by silence: a session that somebody ends by force is over before its client knows
                hidden.add(asyncio.create_task(hide(member, chance.uniform(2 * T, 3 * T))))
    if hidden:
        await asyncio.wait(hidden)
    while len(members) < 3:
        await join()
    names = {member.name for member in members}
    async with asyncio.timeout(20 * T):
        while set(record.owners) != set(ITEMS) or not set(record.owners.values()) <= names:
            if record.overlaps:
                break
            await asyncio.sleep(0.1)
    for member in members:
        await member.leave()
    return record


@pytest.mark.parametrize("seed", SEEDS)
async def test_no_item_is_owned_twice(server: EmbeddedServer, seed: int) -> None:
    """P1, P3: at no moment do two work on one item, whatever happens to members, connections and sessions; and when it
    is quiet again, each item has an owner."""
    async with corral.connect(server.address) as other:
        record = await torment(server, seed, [by_run, by_loop])
        assert record.overlaps == []
        assert record.begun > 3 * len(ITEMS)
        assert record.owners == {}
        async with asyncio.timeout(3 * T):
            for item in ITEMS:
                while await other.exists(f"/p/locks/{item}") and await other.children(f"/p/locks/{item}"):
                    await asyncio.sleep(0.1)


async def test_a_worker_that_does_not_stop_is_found_out(server: EmbeddedServer) -> None:
    """The record is able to tell: of workers that go on with what they were told to stop with, items are owned
    twice."""
    assert (await torment(server, 0, [by_one_who_does_not_stop])).overlaps
