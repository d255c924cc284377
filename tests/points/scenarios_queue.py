"""Queues at every point: an item that was put is there once, is handed out to one consumer at a time, and goes only
when it is done; no claim, no place in line and no mark is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from scenarios import SESSION_TIMEOUT, Stage, require

import corral
from corral.testing.enumerators import InvariantViolated, Run, Scenario
from support import PATIENCE, children, settle, until

ITEM = b"an item"


class Broken(Exception):
    """Raised by a body."""


async def contents(stage: Stage, path: str) -> list[bytes]:
    """The data of all items, those that were put aside included, as the observer sees them."""
    await stage.other.sync()
    found = []
    for below in ("entries", "failed"):
        for name in await children(stage.other, f"{path}/{below}"):
            with contextlib.suppress(corral.NoNode):
                found.append((await stage.other.get(f"{path}/{below}/{name}"))[0])
    return found


async def ephemerals(stage: Stage, path: str, session: int) -> list[str]:
    """The claims, places and marks of a session."""
    found = []
    for parent in (path, f"{path}/taken", f"{path}/waiting"):
        for name in await children(stage.other, parent):
            stat = await stage.other.exists(f"{parent}/{name}")
            if stat is not None and stat.ephemeral_owner == session:
                found.append(f"{parent}/{name}")
    return found


async def check_clean(stage: Stage, zk: corral.Client, path: str) -> None:
    """No ephemeral of ours is left while the session lives."""

    async def nothing_of_ours() -> bool:
        return not await ephemerals(stage, path, session)

    await settle(zk)
    session = zk.session_id
    try:
        await until(nothing_of_ours, "", patience=stage.patience)
    except AssertionError:
        raise InvariantViolated(f"left: {await ephemerals(stage, path, session)}") from None


async def drain(stage: Stage, path: str, attempts: int = 2) -> Counter[bytes]:
    """What another consumer is handed at once, each item once, until there is no more: at most at this attempt."""
    handed = Counter[bytes]()
    queue = stage.other.queue(path)
    while (job := await queue.try_take()) is not None:
        require(job.attempt <= attempts, f"handed out {job.attempt} times")
        async with job:
            handed[job.data] += 1
    require(await queue.size() == 0, "there are items that nobody is handed")
    return handed


@contextlib.asynccontextmanager
async def client(stage: Stage, **options: Any) -> AsyncIterator[corral.Client]:
    """As `Stage.client`, with options."""
    async with stage.connect(to=stage.proxy.address, session_timeout=SESSION_TIMEOUT, **options) as zk:
        session = zk.session_id
        yield zk
        require(zk.session_id == session, "the session was lost, though it need not have been")


def putting(way: str, *, parents: bool) -> Callable[[Stage], Scenario]:
    """An item that `put` has acknowledged is there once; one that was not is there once, or not at all. Of several in
    one transaction all are there, or none; of several transactions those before."""
    items = (
        [b"1", b"2", b"3"] if way == "put_many" else [b"1" * 600, b"2" * 600] if way == "batches" else [ITEM]
    )
    possible: list[list[bytes]] = [[], items]
    if way == "batches":
        possible.append(items[:1])

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            if parents:
                await stage.other.ensure_path(f"{path}/entries")
                await stage.other.ensure_path(f"{path}/taken")
            async with client(stage, max_request=1500) if way == "batches" else stage.client() as zk:
                queue = zk.queue(path)
                outcome = await run.operation(queue.put(ITEM) if way == "put" else queue.put_many(items))
                await check_clean(stage, zk, path)
                found = await contents(stage, path)
                if outcome.cancelled:
                    require(sorted(found) in possible, f"cancelled, and put: {found}")
                else:
                    outcome.result()
                    require(found == items, f"acknowledged {items}, and put {found}")
                require(await drain(stage, path) == Counter(found), "not handed out once")

        return scenario

    return on


@contextlib.asynccontextmanager
async def arriving(stage: Stage, zk: corral.Client, path: str, scene: str) -> AsyncIterator[None]:
    """The item is there; or it comes when somebody waits for it, and when that is over; or it is given back then."""
    queue = stage.other.queue(path)
    if scene == "there":
        await queue.put(ITEM)
        yield
        return
    job = None
    if scene == "given back":
        await queue.put(ITEM)
        job = await queue.take()
    elif scene == "comes":
        await stage.other.ensure_path(f"{path}/entries")
        await stage.other.ensure_path(f"{path}/taken")
    over = asyncio.Event()

    async def arrive() -> None:
        async def awaited() -> bool:
            return over.is_set() or sum(zk.statistics().watches.values()) >= 2

        await until(awaited, "somebody waits")
        await (queue.put(ITEM) if job is None else job.release())

    task = asyncio.create_task(arrive())
    try:
        yield
    finally:
        over.set()
        async with asyncio.timeout(PATIENCE):
            await task


def taking(way: str, scene: str) -> Callable[[Stage], Scenario]:
    """Who takes an item holds the one claim on it; who is cancelled holds none, and another one is handed the item."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            async with stage.client() as zk:
                queue = zk.queue(path)

                async def take() -> corral.Job | None:
                    return await (queue.take() if way == "take" else queue.try_take())

                async with arriving(stage, zk, path, scene):
                    outcome = await run.operation(take())
                job = None if outcome.cancelled else outcome.result()
                if job is not None:
                    require(job.is_valid and job.data == ITEM, f"taken: {job}, {job.data!r}")
                    await settle(zk)
                    ours = await ephemerals(stage, path, zk.session_id)
                    require(
                        ours == [job.node.removeprefix(zk.chroot_path)],
                        f"taken {job.node}, and ours are {ours}",
                    )
                    require(await stage.other.queue(path).try_take() is None, "another one has it, too")
                    await job.done()
                    require(await contents(stage, path) == [], "done, and not removed")
                    await check_clean(stage, zk, path)
                else:
                    require(outcome.cancelled, "took nothing")
                    await check_clean(stage, zk, path)
                    attempts = 3 if scene == "given back" else 2
                    require(await drain(stage, path, attempts) == {ITEM: 1}, "not handed to another one")

        return scenario

    return on


def handling(ending: str, max_attempts: int | None = None) -> Callable[[Stage], Scenario]:
    """A block that ends normally removes the item; one that raises or is cancelled does not. With its attempts used up
    the item is put aside, once."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path, finished = stage.path(), 0
            await stage.other.queue(path).put(ITEM)
            async with stage.client() as zk:

                async def handle() -> None:
                    nonlocal finished
                    async with zk.queue(path, max_attempts=max_attempts).take() as job:
                        require(job.is_valid and job.data == ITEM, "not valid inside")
                        await zk.exists(path)
                        if ending == "raises":
                            raise Broken
                        finished += 1

                outcome = await run.operation(handle())
                await check_clean(stage, zk, path)
                found = await contents(stage, path)
                if outcome.cancelled:
                    require(found == [ITEM] or (finished and not found), f"cancelled, and there is {found}")
                elif ending == "raises":
                    require(isinstance(outcome.error, Broken), f"it ended with {outcome}")
                    require(found == [ITEM], f"failed, and there is {found}")
                else:
                    outcome.result()
                    require(found == [], f"done, and there is {found}")
                    return
                queue = stage.other.queue(path, max_attempts=max_attempts)
                if max_attempts is None:
                    require(await drain(stage, path) == Counter(found), "not handed out again")
                elif not outcome.cancelled:
                    failed = await queue.failed()
                    require([each.data for each in failed] == [ITEM], f"put aside: {failed}")
                    require(failed[0].attempts == max_attempts, f"after {failed[0].attempts} attempts")

        return scenario

    return on


def putting_aside(stage: Stage) -> Scenario:
    """An item whose last consumer died is put aside, once, by who would be handed it; and there is no other copy."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        await stage.other.queue(path).put(ITEM)
        await (await stage.other.queue(path).take()).release()
        async with stage.client() as zk:
            outcome = await run.operation(zk.queue(path, max_attempts=1).try_take())
            await check_clean(stage, zk, path)
            require(outcome.cancelled or outcome.result() is None, f"handed out: {outcome}")
            queue = stage.other.queue(path, max_attempts=1)
            require(await queue.try_take() is None, "handed out again")
            failed = await queue.failed()
            require([each.data for each in failed] == [ITEM], f"put aside: {failed}")
            require(await contents(stage, path) == [ITEM], "there is another copy")

    return scenario


def ending_by(
    call: Callable[[corral.Job], Awaitable[None]], left: list[bytes]
) -> Callable[[Stage], Scenario]:
    """An item that is done, or given back, by a call, which goes on when it is cancelled."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            await stage.other.queue(path).put(ITEM)
            async with stage.client() as zk:
                job = await zk.queue(path).take()

                async def end() -> None:
                    await call(job)

                outcome = await run.operation(end())
                if not outcome.cancelled:
                    outcome.result()
                elif job.is_valid:  # it was cancelled before it began
                    await call(job)
                await check_clean(stage, zk, path)
                found = await contents(stage, path)
                require(found == left, f"ended, and there is {found}")
                require(await drain(stage, path) == Counter(left), "not handed out again")

        return scenario

    return on


def requeueing(stage: Stage) -> Scenario:
    """An item that is put into the queue again is there once, in the queue; cancelled, in one of the two."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        queue = stage.other.queue(path, max_attempts=1)
        await queue.put(ITEM)
        with contextlib.suppress(Broken):
            async with queue.take():
                raise Broken
        [failed] = await queue.failed()
        async with stage.client() as zk:
            outcome = await run.operation(zk.queue(path).requeue(failed))
            await check_clean(stage, zk, path)
            require(await contents(stage, path) == [ITEM], "doubled, or lost")
            if not outcome.cancelled:
                outcome.result()
                require(await drain(stage, path) == {ITEM: 1}, "not in the queue")

    return scenario
