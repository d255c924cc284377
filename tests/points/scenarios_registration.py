"""What is run at every point of a registration's life; see `scenarios`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from scenarios import Stage, require

import corral
from corral.testing.enumerators import Run, Scenario
from support import settle, until

OLD, NEW = b"old", b"new"


async def check_registered(
    stage: Stage, zk: corral.Client, me: corral.Registration, data: tuple[bytes, ...]
) -> None:
    """The znode is ours, and has one of these data, once the client is connected again."""
    await settle(zk)

    async def is_there() -> bool:
        with contextlib.suppress(corral.NoNode):
            found, stat = await stage.other.get(me.path)
            return stat.ephemeral_owner == zk.session_id and found in data
        return False

    await until(is_there, f"{me.path} is ours, with one of {data}", patience=stage.patience)
    async with asyncio.timeout(stage.patience):
        await me.wait_present()


async def check_gone(stage: Stage, zk: corral.Client, path: str) -> None:
    """The znode goes while the session lives, and does not come back; the path can be registered again, at once by us,
    and then by another client."""
    session = zk.session_id

    async def is_gone() -> bool:
        return await stage.other.exists(path) is None

    await settle(zk)  # a create that is under way is carried out first
    await until(is_gone, f"{path} is gone", patience=stage.patience)
    await settle(zk)
    require(await is_gone(), f"{path} has come back")
    require(zk.session_id == session, "the session was lost")
    for client in (zk, stage.other):
        async with asyncio.timeout(stage.patience), client.registration(path, on_taken="raise"):
            pass


def registering(scene: str) -> Callable[[Stage], Scenario]:
    """Entered, it is there; cancelled, it is not. The path is free, has no parent, or is handed over by somebody
    else."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path() + ("/a/me" if scene == "no parent" else "")
            async with stage.client() as zk:
                hand_over: asyncio.Task[None] | None = None
                if scene == "taken":
                    await stage.other.create(path, b"theirs", ephemeral=True)
                    hand_over = asyncio.create_task(_free(stage, zk, path))
                me = zk.registration(path, OLD)
                outcome = await run.operation(me.__aenter__())
                if hand_over is not None:
                    await hand_over
                if not outcome.cancelled:
                    outcome.result()
                    await check_registered(stage, zk, me, (OLD,))
                    await me.__aexit__(None, None, None)
                await check_gone(stage, zk, path)

        return scenario

    return on


async def _free(stage: Stage, zk: corral.Client, path: str) -> None:
    """Delete the znode once `zk` waits for that, or has given up."""
    with contextlib.suppress(AssertionError):

        async def is_watched() -> bool:
            return any(zk.statistics().watches.values())

        await until(is_watched, "it waits", patience=stage.patience / 4)
    await stage.other.delete(path)


def updating(*, is_deleted: bool) -> Callable[[Stage], Scenario]:
    """Updated, the znode exists with the new data; cancelled, with the old or the new. That holds also if
    somebody has deleted the znode before."""

    def on(stage: Stage) -> Scenario:
        async def scenario(run: Run) -> None:
            path = stage.path()
            async with stage.client() as zk:
                async with zk.registration(path, OLD) as me:
                    if is_deleted:
                        await stage.other.delete(path)
                    outcome = await run.operation(me.update(NEW))
                    if not outcome.cancelled:
                        outcome.result()
                    await check_registered(stage, zk, me, (OLD, NEW) if outcome.cancelled else (NEW,))
                await check_gone(stage, zk, path)

        return scenario

    return on


def living(stage: Stage) -> Scenario:
    """From entering to leaving, with an update: at the end the znode is gone."""

    async def scenario(run: Run) -> None:
        path = stage.path()

        async def life(zk: corral.Client) -> None:
            async with zk.registration(path, OLD) as me:
                await me.update(NEW)

        async with stage.client() as zk:
            outcome = await run.operation(life(zk))
            if not outcome.cancelled:
                outcome.result()
            await check_gone(stage, zk, path)

    return scenario
