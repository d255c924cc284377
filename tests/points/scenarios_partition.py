"""What is run at every point of a member's life in a partition; see `scenarios`."""

from __future__ import annotations

import asyncio

from scenarios import Stage, require

import corral
from corral.testing.enumerators import Run, Scenario
from support import children, settle, until

ITEMS = ("a", "b")


async def check_nothing_is_left(stage: Stage, zk: corral.Client, path: str, session: int) -> None:
    """No member and no lock of ours is there while the session lives; the next member owns all items."""
    await settle(zk)

    async def is_empty() -> bool:
        lines = [await children(stage.other, f"{path}/locks/{item}") for item in ITEMS]
        return not any(lines) and not await children(stage.other, f"{path}/members")

    await until(is_empty, f"nothing of ours is left in {path}", patience=stage.patience)
    require(zk.session_id == session, "the session was lost")
    async with asyncio.timeout(stage.patience), stage.other.partition(path, ITEMS, settle=0.01) as joined:
        async for mine in joined:
            if len(mine) == len(ITEMS):
                break


def by_loop(stage: Stage) -> Scenario:
    """A member joins, owns all items, and leaves: what is left is nothing."""

    async def scenario(run: Run) -> None:
        path = stage.path()

        async def life(zk: corral.Client) -> None:
            async with zk.partition(path, ITEMS, settle=0.01) as joined:
                async for mine in joined:
                    if len(mine) == len(ITEMS):
                        return

        async with stage.client() as zk:
            session = zk.session_id
            outcome = await run.operation(life(zk))
            if not outcome.cancelled:
                outcome.result()
            await check_nothing_is_left(stage, zk, path, session)

    return scenario


def by_run(stage: Stage) -> Scenario:
    """The same by `run`, which a consumer ends: none runs on, and what is left is nothing."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        running = set[str]()

        async def consume(item: str, held: corral.Held) -> None:
            require(held.is_valid, "begun, and not held")
            require(item not in running, "it has two consumers")
            running.add(item)
            try:
                while len(running) < len(ITEMS):
                    await zk.exists("/")
                raise EOFError
            finally:
                running.discard(item)

        async def life() -> None:
            async with zk.partition(path, ITEMS, settle=0.01) as joined:
                await joined.run(consume)

        async with stage.client() as zk:
            session = zk.session_id
            outcome = await run.operation(life())
            require(outcome.cancelled or isinstance(outcome.error, EOFError), f"it ended with {outcome}")
            require(not running, f"these run on: {running}")
            await check_nothing_is_left(stage, zk, path, session)

    return scenario
