"""Writes that are applied exactly once, at every point: what they leave, as another client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from scenarios import Stage, require

import corral
from corral.testing import before, committed
from corral.testing.enumerators import Run, Scenario
from support import settle, turns, until


class Write(NamedTuple):
    """One way to write, to a counter that had the number 5 where there was one."""

    write: Callable[[corral.Client, str], Awaitable[object]]
    before: int | None
    """What the counter had; None if there was none."""
    once: int
    """What it has when the write was applied once."""
    depth: str = ""
    """Below which parents, that do not exist, it is."""


def _value(zk: corral.Client, path: str) -> corral.Value[Any]:
    return zk.value(path, codec=corral.JSON, default=0)


async def _add_twice(zk: corral.Client, path: str) -> None:
    await zk.counter(path, layout="kazoo").add()
    await zk.counter(path, layout="kazoo").add()


# A counter of kazoo's is JSON, so all of them are looked at in one way.
WRITES = {
    "add": Write(lambda zk, path: zk.counter(path, layout="kazoo").add(1), 5, 6),
    "add twice": Write(_add_twice, 5, 7),
    "add below nothing": Write(lambda zk, path: zk.counter(path, layout="kazoo").add(1), None, 1, "/a/b"),
    "update": Write(lambda zk, path: _value(zk, path).update(lambda old: 2 * old), 5, 10),
    "set a version": Write(lambda zk, path: _value(zk, path).set(7, version=0), 5, 7),
    "set what does not exist": Write(lambda zk, path: _value(zk, path).set(7, version=-1), None, 7),
}


async def number(stage: Stage, path: str) -> int | None:
    """What the counter has, as others see it."""
    await stage.other.sync()
    try:
        data, _ = await stage.other.get(path)
    except corral.NoNode:
        return None
    return int(data)


async def no_mark(stage: Stage, path: str) -> None:
    """Wait until the mark is gone."""

    async def gone() -> bool:
        try:
            return await stage.other.children(path) == []
        except corral.NoNode:
            return True

    await until(gone, "the mark is gone", stage.patience)


def writing(name: str, lost: str = "") -> Callable[[Stage], Scenario]:
    """A write that returns was applied once. One that was cancelled, or whose outcome is unknown, was applied once or
    not at all. No mark stays. With `lost`, the "request" or "reply" of its transaction is lost in any case."""
    write, had, once, depth = WRITES[name]

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = f"{stage.path()}{depth}"
            if had is not None:
                await stage.other.create(path, b"%d" % had)
            async with stage.client() as zk:

                async def operation() -> Any:
                    if not lost:
                        return await write(zk, path)
                    point = before if lost == "request" else committed
                    async with stage.proxy.cut_at(point("transaction")):
                        return await write(zk, path)

                outcome = await run.operation(operation())
                await turns()
                await settle(zk)
                found = await number(stage, path)
                if outcome.cancelled:
                    between = range(had or 0, once) if name == "add twice" else (had,)
                    require(found in (*between, once), f"cancelled, it has left {found}")
                else:
                    outcome.result()
                    require(found == once, f"it has succeeded, and left {found}")
                await no_mark(stage, path)
                # The next write of the same client is as good as the first.
                require(
                    await zk.counter(path, layout="kazoo").add(1) == (found or 0) + 1, "the next add is wrong"
                )
                require(await number(stage, path) == (found or 0) + 1, "the next add has left another number")
                await turns()
                await settle(zk)
                await no_mark(stage, path)

        return scenario

    return on


OTHERS_ADD = 3


def contended(stage: Stage) -> Scenario:
    """Another client adds meanwhile: each add of its is counted once, and ours as `writing` says."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        await stage.other.create(path, b"0")
        async with stage.client() as zk:

            async def others() -> None:
                for _ in range(OTHERS_ADD):
                    await stage.other.counter(path, layout="kazoo").add(10)

            competing = asyncio.create_task(others())
            outcome = await run.operation(_twice(zk, path))
            await competing
            await turns()
            await settle(zk)
            found = await number(stage, path)
            if outcome.cancelled:
                require(found in (30, 31, 32), f"cancelled, it has left {found}")
            else:
                outcome.result()
                require(found == 32, f"it has succeeded, and left {found}")
            await no_mark(stage, path)

    return scenario


async def _twice(zk: corral.Client, path: str) -> None:
    """Two tasks of one client add: they write one after the other, with one mark."""
    counter = zk.counter(path, layout="kazoo")
    async with asyncio.TaskGroup() as group:
        group.create_task(counter.add(1))
        group.create_task(counter.add(1))
