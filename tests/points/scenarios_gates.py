"""Barriers and jobs that run once, at every point."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from scenarios import Stage, check_no_watch, require

import corral
from corral.testing.enumerators import InvariantViolated, Outcome, Run, Scenario
from support import settle, until

HIGHEST = "f" * 8 + "-ffff-ffff-ffff-" + "f" * 12
LOWEST = "0" * 8 + "-0000-0000-0000-" + "0" * 12


async def names(client: corral.Client, path: str) -> set[str]:
    """The children of a znode that need not exist."""
    try:
        return set(await client.children(path))
    except corral.NoNode:
        return set()


async def until_names(stage: Stage, path: str, wanted: set[str], what: str) -> None:
    """Wait until a znode has these children and no others; well within a session."""
    found = set[str]()

    async def are_there() -> bool:
        nonlocal found
        found = await names(stage.other, path)
        return found == wanted

    try:
        await until(are_there, what, patience=stage.patience)
    except AssertionError:
        raise InvariantViolated(f"{what}: {found}") from None


# The barrier


def switching(verb: str, before: str) -> Callable[[Stage], Scenario]:
    """Closing or opening a barrier that is closed, open, or has no parent; another client looks on."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            parent = stage.path()
            path = f"{parent}/gate"
            theirs = stage.other.barrier(path)
            if before == "open":
                await stage.other.create(parent)
            elif before == "closed":
                await theirs.close()
            async with stage.client() as zk:
                outcome = await run.operation(getattr(zk.barrier(path), verb)())
                await settle(zk)
                await stage.other.sync()
                if not outcome.cancelled:
                    outcome.result()
                    require(await theirs.is_closed() is (verb == "close"), "it has returned, and not done it")
                if await theirs.is_closed():
                    await theirs.open()
                await until_names(stage, parent, set(), "no mark is left")

        return scenario

    return on


def undoing(verb: str) -> Callable[[Stage], Scenario]:
    """While an answer is awaited, another client does the opposite as soon as it is done: it is not done again."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            parent = stage.path()
            path = f"{parent}/gate"
            await stage.other.create(parent)
            theirs = stage.other.barrier(path)
            if verb == "open":
                await theirs.close()
            seen = asyncio.Event()

            async def undo() -> None:
                async with stage.other.watch(path) as events:
                    async for event in events:
                        if event.exists is (verb == "close"):
                            break
                        seen.set()
                await (theirs.open() if verb == "close" else theirs.close())

            async with stage.client() as zk:
                undoing = asyncio.create_task(undo())
                await seen.wait()
                outcome = await run.operation(getattr(zk.barrier(path), verb)())
                await settle(zk)
                if outcome.cancelled:
                    undoing.cancel()
                    await asyncio.wait([undoing])
                    return
                outcome.result()
                async with asyncio.timeout(stage.patience):
                    await undoing
                await settle(zk)
                require(await theirs.is_closed() is (verb == "open"), "it was done twice")

        return scenario

    return on


def waiting_at_a_barrier(stage: Stage) -> Scenario:
    """A waiter goes on when the barrier is opened, and not before; and leaves no watch."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        theirs = stage.other.barrier(path)
        await theirs.close()
        async with stage.client() as zk:
            opening = asyncio.create_task(_when_it_waits(zk, theirs.open))
            outcome = await run.operation(zk.barrier(path).wait())
            is_closed = await theirs.is_closed()
            if not outcome.cancelled:
                outcome.result()
                require(not is_closed, "it went on, and it is closed")
            opening.cancel()
            await asyncio.wait([opening])
            await check_no_watch(stage, zk, path)
        if await theirs.is_closed():
            await theirs.open()

    return scenario


async def _when_it_waits(zk: corral.Client, act: Callable[[], Awaitable[object]]) -> None:
    while not any(zk.statistics().watches.values()):
        await asyncio.sleep(0.002)
    await act()


# The double barrier


async def _check_nothing_of_ours(stage: Stage, zk: corral.Client, path: str) -> None:
    session = zk.session_id

    async def gone() -> bool:
        for name in await names(stage.other, path):
            stat = await stage.other.exists(f"{path}/{name}")
            if stat is not None and stat.ephemeral_owner == session:
                return False
        return True

    try:
        await until(gone, "", patience=stage.patience)
    except AssertionError:
        raise InvariantViolated(f"left: {await names(stage.other, path)}") from None


def entering(scene: str) -> Callable[[Stage], Scenario]:
    """Entering as the only one, as the last of three, as the first of two, as one more than enough, or where a flag is
    left over."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            n = {"alone": 1, "last": 3}.get(scene, 2)
            theirs = [stage.other.double_barrier(path, n) for _ in range(2)]

            async def until_below(count: int) -> None:
                while len(await names(stage.other, path) - {"ready"}) < count:
                    await asyncio.sleep(0.002)

            tasks = []
            if scene == "last":
                tasks = [asyncio.create_task(each.enter()) for each in theirs]
                await until_below(2)
            elif scene == "one more":
                await asyncio.gather(*(each.enter() for each in theirs))
            elif scene == "left over":
                await stage.other.create(f"{path}/ready", make_parents=True)

            async def follow() -> None:
                await until_below(1)
                await theirs[0].enter()

            if scene in ("first", "left over"):
                tasks = [asyncio.create_task(follow())]
            async with stage.client() as zk:
                ours = zk.double_barrier(path, n)
                outcome = await run.operation(ours.enter())
                await settle(zk)
                if outcome.cancelled:
                    await _check_nothing_of_ours(stage, zk, path)
                    for task in tasks:
                        task.cancel()
                    if tasks:
                        await asyncio.wait(tasks)
                else:
                    outcome.result()
                    async with asyncio.timeout(stage.patience):
                        await asyncio.gather(*tasks)
                    entered = len(await names(stage.other, path) - {"ready"})
                    require(entered >= n, f"entered with {entered}")
                    async with asyncio.timeout(stage.patience):
                        inside = theirs if scene in ("last", "one more") else theirs[: len(tasks)]
                        await asyncio.gather(ours.leave(), *(each.leave() for each in inside))
                    await until_names(stage, path, set(), "nothing is left")
            with contextlib.suppress(corral.NoNode):
                await stage.other.delete(path, recursive=True)

        return scenario

    return on


def leaving(place: str) -> Callable[[Stage], Scenario]:
    """Leaving with one other, as the one with the lowest name or not: when the other has left, and not before."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            theirs = f"{path}/{HIGHEST if place == 'lowest' else LOWEST}"
            await stage.other.create(path)
            async with stage.client() as zk:
                await stage.other.create(theirs, ephemeral=True)
                ours = zk.double_barrier(path, 2)
                await ours.enter()

                leaving = asyncio.create_task(_when_it_waits(zk, lambda: stage.other.delete(theirs)))
                outcome = await run.operation(ours.leave())
                await settle(zk)
                if outcome.cancelled:
                    leaving.cancel()
                    await asyncio.wait([leaving])
                else:
                    outcome.result()
                    require(leaving.done(), "left before the other")
                    await leaving
                await _check_nothing_of_ours(stage, zk, path)
                if place == "lowest" and not outcome.cancelled:
                    await until_names(stage, path, set(), "nothing is left")
                await check_no_watch(stage, zk, f"{path}/ready")
            await stage.other.delete(path, recursive=True)

        return scenario

    return on


# Once


def running(scene: str, ttl: float | None = None) -> Callable[[Stage], Scenario]:
    """A job that nobody has run, that another client is running, whose runner fails, or that is done: one result is
    recorded, and it is what was returned; nobody runs it after that, and nobody stays in the line."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            begun = asyncio.Event()
            may_end = asyncio.Event()
            ran = 0

            async def job(held: corral.Held) -> bytes:
                nonlocal ran
                require(held.is_valid, "run, and not valid")
                ran += 1
                return b"ours"

            async def theirs(held: corral.Held) -> bytes:
                begun.set()
                await may_end.wait()
                if scene == "handed over":
                    raise ZeroDivisionError
                return b"theirs"

            async def never(held: corral.Held) -> bytes:
                raise InvariantViolated("it was run again")

            async def until_waiting() -> None:
                while len(await names(stage.other, f"{path}/lock")) < 2:
                    await asyncio.sleep(0.002)
                may_end.set()

            tasks = []
            if scene != "free":
                tasks = [asyncio.create_task(stage.other.once(path).run(theirs))]
                await begun.wait()
            if scene == "done":
                may_end.set()
                await asyncio.wait(tasks)
            elif scene != "free":
                tasks.append(asyncio.create_task(until_waiting()))  # type: ignore[arg-type]
            async with stage.client() as zk:
                outcome = await run.operation(zk.once(path, ttl=ttl).run(job))
                may_end.set()
                if tasks:
                    for task in tasks[1:]:
                        task.cancel()
                    await asyncio.wait(tasks)
                    for task in tasks:
                        task.cancelled() or task.exception()  # told by its result
                await settle(zk)
                await _check_once(stage, zk, path, outcome, ran)
                expected = b"theirs" if scene in ("behind another", "done") else b"ours"
                if not outcome.cancelled:
                    require(outcome.result() == expected, f"it returned {outcome.result()!r}")
                    require(await stage.other.once(path).run(never) == expected, "another one is recorded")
                    require(ran == (expected == b"ours"), f"it was run {ran} times")
            await stage.other.delete(path, recursive=True)

        return scenario

    return on


async def _check_once(stage: Stage, zk: corral.Client, path: str, outcome: Outcome[bytes], ran: int) -> None:
    async def again(held: corral.Held) -> bytes:
        require(outcome.cancelled, "it was run again")
        return b"again"

    require(ran <= 1, f"it was run {ran} times")
    await until_names(stage, f"{path}/lock", set(), "nobody is in the line")
    async with asyncio.timeout(stage.patience):
        result = await stage.other.once(path).run(again)
    await stage.other.sync()
    data, stat = await stage.other.get(f"{path}/done")
    require((data, stat.version) == (result, 0), "more than one record")
    await check_no_watch(stage, zk, f"{path}/done")


def resetting(stage: Stage) -> Scenario:
    """A result is forgotten; cancelled, it is so or not."""

    async def scenario(run: Run) -> None:
        path = stage.path()

        async def job(held: corral.Held) -> bytes:
            return b"done"

        await stage.other.once(path).run(job)
        async with stage.client() as zk:
            outcome = await run.operation(zk.once(path).reset())
            await settle(zk)
            await until_names(stage, f"{path}/lock", set(), "nobody is in the line")
            await stage.other.sync()
            if not outcome.cancelled:
                outcome.result()
                require(await stage.other.once(path).record() is None, "it is still recorded")
        await stage.other.delete(path, recursive=True)

    return scenario
