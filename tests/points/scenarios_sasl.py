"""Scenarios of connecting with SASL, to a server that refuses whoever has not authenticated."""

from __future__ import annotations

import asyncio
import contextlib

from scenarios import SESSION_TIMEOUT, Stage, require

import corral
from corral.testing.enumerators import Run, Scenario
from sasl_servers import only
from support import PATIENCE

ONLY_BOB = only("bob")


def connecting(stage: Stage) -> Scenario:
    """Entering a client gives a session of that user, or is cancelled; leaving it raises nothing, and ends the session:
    its ephemeral is gone."""

    async def scenario(run: Run) -> None:
        zk = stage.connect(to=stage.proxy.address, session_timeout=SESSION_TIMEOUT)
        outcome = await run.operation(zk.__aenter__())
        path = stage.path()
        created = False
        if not outcome.cancelled:
            outcome.result()
            with contextlib.suppress(corral.ConnectionLoss):
                await zk.create(path, ephemeral=True, acl=ONLY_BOB)
                created = True
        await zk.close()
        require(zk.state is corral.State.CLOSED, f"closed, the client is {zk.state}")
        if created:
            require(await stage.other.exists(path) is None, "the session was not closed on the server")

    return scenario


def reconnecting(stage: Stage) -> Scenario:
    """A client that watches is cut off, and reads again: it is the same user in the same session, and the watch reports
    what has changed."""

    async def scenario(run: Run) -> None:
        path = stage.path()
        await stage.other.create(path, b"old", acl=ONLY_BOB)
        async with stage.client() as zk:
            watch = zk.watch(path)
            await anext(watch)
            await stage.proxy.cut()
            outcome = await run.operation(zk.get(path))
            with contextlib.suppress(corral.ConnectionLoss):  # two connections broke on it
                outcome.result()
            await stage.other.set(path, b"new")
            async with asyncio.timeout(PATIENCE):
                event = await anext(watch)
            require(event.data == b"new", f"the watch reports {event.data!r}")

    return scenario
