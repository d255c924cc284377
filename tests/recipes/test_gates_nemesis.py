"""Once, and double barriers, while connections and sessions end at random. Once: one record, and never two at the same
time; and two that are written as people write them, which the same check finds wrong. Double barriers: nobody is inside
without the others, and nobody hangs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import corral
from corral.testing import FaultProxy, VirtualLoop
from support import PATIENCE, children, until

Job = Callable[[corral.Held | None], Awaitable[bytes]]
Run = Callable[[corral.Client, str, Job], Awaitable[bytes]]
SESSION_TIMEOUT = 4.0
MEMBERS = 4


async def once(zk: corral.Client, path: str, job: Job) -> bytes:
    """Ours."""
    return await zk.once(path).run(job)


async def without_a_fence(zk: corral.Client, path: str, job: Job) -> bytes:
    """An ephemeral znode says that somebody runs it; nobody stops who has lost it, and the record is written
    whatever happened meanwhile."""
    while True:
        try:
            with contextlib.suppress(corral.NoNode):
                return (await zk.get(f"{path}/done"))[0]
            await zk.create(f"{path}/running", ephemeral=True, make_parents=True)
            result = await job(None)
            with contextlib.suppress(corral.NodeExists):
                await zk.create(f"{path}/done", result)
            await zk.delete(f"{path}/running")
            return result
        except corral.NodeExists:
            await zk.wait_absent(f"{path}/running")
        except (corral.ConnectionLoss, corral.NoNode, corral.SessionExpired):
            continue


async def without_a_second_look(zk: corral.Client, path: str, job: Job) -> bytes:
    """The record is read before the lock is acquired, and not again."""
    while True:
        try:
            with contextlib.suppress(corral.NoNode):
                return (await zk.get(f"{path}/done"))[0]
            async with zk.lock(f"{path}/lock") as held:
                result = await job(held)
                async with held.transaction() as tx:
                    tx.create(f"{path}/done", result)
                return result
        except (corral.ConnectionLoss, corral.LockLost, corral.TransactionFailed, corral.NoNode):
            continue


class Checker:
    """What is seen of the bodies of one job, by somebody who knows nothing of locks."""

    def __init__(self, chance: random.Random, stay: float) -> None:
        self.violations: list[str] = []
        self.ended: list[bytes] = []
        self._chance = chance
        self._stay = stay
        self._inside = 0
        self._count = 0
        self.is_recorded = False

    async def job(self, held: corral.Held | None) -> bytes:
        """The job: two of these at the same time are a violation, and one that begins after the record."""
        self._inside += 1
        self._count += 1
        result = b"%d" % self._count
        if self._inside > 1:
            self.violations.append("two run at the same time")
        if self.is_recorded:
            self.violations.append("run again after it was recorded")
        try:
            await asyncio.sleep(self._chance.random() * self._stay)
        finally:
            self._inside -= 1
        self.ended.append(result)
        return result


@contextlib.asynccontextmanager
async def chaos(proxies: list[FaultProxy], chance: random.Random) -> AsyncIterator[None]:
    """Inside the block connections are cut, fall silent and are refused, and sessions end."""

    async def torment(proxy: FaultProxy) -> None:
        while True:
            await asyncio.sleep(chance.random() * SESSION_TIMEOUT)
            # Sessions end by silence alone: one that a server ends before its time is lost before it is told.
            match chance.choice(("cut", "black hole", "refuse")):
                case "cut":
                    await proxy.cut(reset=chance.random() < 0.5)
                case "black hole":
                    async with proxy.black_hole():
                        await asyncio.sleep(chance.random() * 2 * SESSION_TIMEOUT)
                case "refuse":
                    async with proxy.refuse():
                        await proxy.cut()
                        await asyncio.sleep(chance.random() * 2 * SESSION_TIMEOUT)

    tasks = [asyncio.create_task(torment(proxy)) for proxy in proxies]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def play(
    run: Run,
    address: str,
    root: str,
    other: corral.Client,
    seed: int,
    *,
    rounds: int,
    stay: float = 2 * SESSION_TIMEOUT,
) -> tuple[list[str], int]:
    """What the checker has found in so many jobs, one after another, and how often a body was begun."""
    chance, violations, begun = random.Random(seed), list[str](), 0
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(FaultProxy(address)) for _ in range(MEMBERS)]
        clients = [
            await stack.enter_async_context(
                corral.connect(f"{proxy.address}{root}", session_timeout=SESSION_TIMEOUT)
            )
            for proxy in proxies
        ]
        for number in range(rounds):
            path, checker = f"/job-{number}", Checker(chance, stay)

            async def follow(path: str = path, checker: Checker = checker) -> None:
                await other.wait_present(f"{path}/done")
                checker.is_recorded = True

            following = asyncio.create_task(follow())
            async with chaos(proxies, chance), asyncio.timeout(20 * PATIENCE):
                results = await asyncio.gather(*(run(zk, path, checker.job) for zk in clients))
            await following
            data, stat = await other.get(f"{path}/done")
            if set(results) != {data} or stat.version:
                checker.violations.append(f"{data!r} is recorded, and they were told {results}")
            if data not in checker.ended:
                checker.violations.append(f"{data!r} is recorded, of a job that has not ended")
            violations += checker.violations
            begun += checker._count
    return violations, begun


def is_virtual() -> bool:
    """Whether time costs nothing."""
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


@pytest.mark.parametrize("seed", range(3))
async def test_once_is_once(server_address: str, root: str, other: corral.Client, seed: int) -> None:
    """X1, L4: whatever ends meanwhile, one result is recorded, everybody gets it, two never run at the same time, and
    nobody runs it after it was recorded."""
    rounds = 15 if is_virtual() else 1
    violations, begun = await play(once, server_address, root, other, seed, rounds=rounds)
    assert violations == []
    assert begun > rounds or not is_virtual()  # some were run again


@pytest.mark.parametrize("run", [without_a_fence, without_a_second_look])
async def test_the_checker_finds_what_is_wrong(
    server_address: str, root: str, other: corral.Client, run: Run
) -> None:
    """X1, L4: the same check fails for a job that is run once as people write it."""
    if not is_virtual():
        pytest.skip(
            "on the virtual clock alone, where minutes pass at once; nox runs it there (--loop=virtual)"
        )
    found = []
    for seed in range(10):
        violations, _ = await play(run, server_address, root, other, seed, rounds=1, stay=8 * SESSION_TIMEOUT)
        found += violations
        if found:
            return
        await other.delete("/job-0", recursive=True)
    raise AssertionError("nothing was found")


@pytest.mark.parametrize("seed", range(2))
async def test_members_stay_in_step(server_address: str, root: str, other: corral.Client, seed: int) -> None:
    """B2: members that are cut off and whose sessions end go on for round after round: nobody is inside while another
    one is outside, and none waits for ever."""
    chance, rounds = random.Random(seed), 15 if is_virtual() else 2
    outside, entered = set[int](), 0

    async def member(number: int, zk: corral.Client) -> None:
        nonlocal entered
        barrier = zk.double_barrier("/step", MEMBERS)
        while entered < rounds * MEMBERS:
            outside.add(number)
            await asyncio.sleep(chance.random())
            outside.discard(number)
            async with barrier:
                assert not outside, "inside without the others"
                entered += 1
                await asyncio.sleep(chance.random() * SESSION_TIMEOUT)

    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(FaultProxy(server_address)) for _ in range(MEMBERS)]
        clients = [
            await stack.enter_async_context(
                corral.connect(f"{proxy.address}{root}", session_timeout=SESSION_TIMEOUT)
            )
            for proxy in proxies
        ]
        members = [asyncio.create_task(member(number, zk)) for number, zk in enumerate(clients)]
        async with chaos(proxies, chance):
            done, waiting = await asyncio.wait(
                members, timeout=40 * PATIENCE, return_when=asyncio.FIRST_COMPLETED
            )
        for task in waiting:
            task.cancel()
        await asyncio.wait(members)
        assert done, f"they hang, after {entered} of {rounds * MEMBERS}"
        for task in done:
            task.result()

        async def all_gone() -> bool:
            return set(await children(other, "/step")) <= {"ready"}

        await until(all_gone, "no member is left")
