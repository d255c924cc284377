"""Clients that hold and use everything while their servers are replaced, and a check that nothing was lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import corral
from support import PATIENCE, until

SESSION_TIMEOUT = 6.0
PAUSE = 0.02
"""Seconds between two operations of a task."""


class Gap:
    """The longest time without a success."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.successes = 0
        self.unknown = 0
        """How many operations have raised `ConnectionLoss`."""
        self._last = time.monotonic()

    async def measure(self, operation: Callable[[], Awaitable[object]]) -> None:
        """Run an operation, and note when it succeeds."""
        try:
            await operation()
        except corral.ConnectionLoss:
            self.unknown += 1
            return
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self.successes += 1


class Fleet:
    """What all clients do and have done."""

    def __init__(self) -> None:
        self.reads, self.writes = list[Gap](), list[Gap]()
        self.is_stopped = False
        self.put, self.done = 0, Counter[bytes]()
        self.added = 0
        self.turns = list[int]()  # the fencing tokens, in the order of entering
        self.inside = 0

    @property
    def unknown(self) -> int:
        """How many reads and writes have raised `ConnectionLoss`."""
        return sum(gap.unknown for gap in (*self.reads, *self.writes))

    def __str__(self) -> str:
        gaps = [*self.reads, *self.writes]
        reads, writes = (max(gap.longest for gap in each) for each in (self.reads, self.writes))
        return (
            f"{len(self.reads)} clients, {sum(gap.successes for gap in gaps):,} reads and writes of which "
            f"{self.unknown} raised ConnectionLoss, longest gap {reads:.2f} s without a read and {writes:.2f} s "
            f"without a write of a client; {self.put} items, {self.added} counted, {len(self.turns)} locks in turn"
        )


@contextlib.asynccontextmanager
async def under_load(
    hosts: str, root: str, *, clients: int = 3, follow_members: bool
) -> AsyncIterator[Fleet]:
    """Run clients while the block runs; afterwards check that they have lost nothing."""
    fleet = Fleet()
    async with contextlib.AsyncExitStack() as stack:
        members = []
        for _ in range(clients):
            zk = corral.connect(hosts, session_timeout=SESSION_TIMEOUT, follow_members=follow_members)
            members.append(await stack.enter_async_context(zk))
        await members[0].ensure_path(f"{root}/tree")
        helds = []
        async with asyncio.TaskGroup() as group:
            for number, zk in enumerate(members):
                helds.append(await zk.lock(f"{root}/held-{number}").acquire())
                await zk.create(f"{root}/tree/{number}", b"0")
                for job in (reading, writing, taking, counting, taking_turns):
                    group.create_task(job(fleet, zk, root, number))
            group.create_task(putting(fleet, members[0], f"{root}/queue"))
            caches = [await stack.enter_async_context(zk.cache(f"{root}/tree")) for zk in members]
            watches = [group.create_task(watching(zk, f"{root}/tree/0")) for zk in members]
            sessions = [zk.session_id for zk in members]
            yield fleet
            fleet.is_stopped = True
            await until(lambda: _all_done(fleet), "every item is done")
            for held, zk in zip(helds, members, strict=True):
                assert held.is_valid
                await _confirm(held)
                await zk.sync()
            assert [zk.session_id for zk in members] == sessions
            await members[0].set(f"{root}/tree/0", b"end")
            for watch in watches:
                assert await asyncio.wait_for(watch, PATIENCE) == b"end"
        await check(fleet, members, caches, root)


async def check(fleet: Fleet, members: list[corral.Client], caches: list[corral.Cache], root: str) -> None:
    """Nothing was lost or doubled, and what is cached is what is there."""
    assert fleet.put > 0
    assert fleet.done == Counter({b"%d" % number: 1 for number in range(fleet.put)})
    assert await members[0].counter(f"{root}/counter").get() == fleet.added
    assert fleet.turns == sorted(set(fleet.turns))
    there = {
        name: (await members[0].get(f"{root}/tree/{name}"))[0]
        for name in await members[0].children(f"{root}/tree")
    }
    for cache in caches:

        async def is_current(cache: corral.Cache = cache) -> bool:
            return {
                name: cache[f"{root}/tree/{name}"].data for name in cache.children(f"{root}/tree")
            } == there

        await until(is_current, "each cache is current")


async def _all_done(fleet: Fleet) -> bool:
    return fleet.done.total() >= fleet.put


async def _confirm(held: corral.Held) -> None:
    """Have the server confirm that a lock is held."""
    while True:
        try:
            async with held.transaction():
                pass
        except corral.ConnectionLoss:
            continue
        return


async def reading(fleet: Fleet, zk: corral.Client, root: str, number: int) -> None:
    fleet.reads.append(gap := Gap())
    while not fleet.is_stopped:
        await gap.measure(lambda: zk.get(f"{root}/tree/0"))
        await asyncio.sleep(PAUSE)


async def writing(fleet: Fleet, zk: corral.Client, root: str, number: int) -> None:
    fleet.writes.append(gap := Gap())
    count = 0
    while not fleet.is_stopped:
        count += 1
        await gap.measure(lambda: zk.set(f"{root}/tree/{number}", b"%d" % count))  # noqa: B023
        await asyncio.sleep(PAUSE)


async def putting(fleet: Fleet, zk: corral.Client, path: str) -> None:
    queue = zk.queue(path)
    while not fleet.is_stopped:
        await queue.put(b"%d" % fleet.put)
        fleet.put += 1
        await asyncio.sleep(5 * PAUSE)


async def taking(fleet: Fleet, zk: corral.Client, root: str, number: int) -> None:
    queue = zk.queue(f"{root}/queue")
    while not (fleet.is_stopped and fleet.done.total() >= fleet.put):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                job = await queue.take()
            async with job:
                pass
            fleet.done[job.data] += 1


async def counting(fleet: Fleet, zk: corral.Client, root: str, number: int) -> None:
    counter = zk.counter(f"{root}/counter")
    while not fleet.is_stopped:
        await counter.add(1)
        fleet.added += 1
        await asyncio.sleep(5 * PAUSE)


async def taking_turns(fleet: Fleet, zk: corral.Client, root: str, number: int) -> None:
    lock = zk.lock(f"{root}/turns")
    while not fleet.is_stopped:
        async with lock as held:
            fleet.inside += 1
            assert fleet.inside == 1
            fleet.turns.append(held.fencing_token)
            await asyncio.sleep(PAUSE)
            fleet.inside -= 1


async def watching(zk: corral.Client, path: str) -> bytes | None:
    """Watch until the end; no state is older than the one before."""
    newest = -1
    async for event in zk.watch(path):
        if event.data == b"end":
            return event.data
        assert event.data is not None
        assert int(event.data) > newest
        newest = int(event.data)
    return None
