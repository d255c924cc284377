"""Clients that get no lies: they change what is watched, contend for what the client acquires, and clean up
after lies."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from fuzz_watchers import LAST_NAME
from fuzz_workers import LAST, LEAF, WATCHED

import corral

LEADS = 1.0
"""For how many seconds a candidate leads, and then does not."""


async def prepare(other: corral.Client) -> None:
    """Create the initial nodes."""
    for path in (WATCHED, LEAF, "/own", "/lines"):
        await other.create(path, b"first")


async def stir(other: corral.Client, seed: int) -> None:
    """Change what is watched, until cancelled."""
    rng = random.Random(f"{seed} stir")
    while True:
        await asyncio.sleep(rng.choice((0.01, 0.1, 0.5)))
        path = rng.choice((WATCHED, *(f"{WATCHED}/{number}" for number in range(3))))
        below = f"{path}/x" if path == WATCHED else path
        act = rng.choice(("set", "create", "delete"))
        with contextlib.suppress(corral.ServerError, corral.ConnectionLoss):
            if act == "set":
                await other.set(path, rng.randbytes(3))
            elif act == "create":
                await other.create(below)
            else:
                await other.delete(below, recursive=True)


async def take_turns(other: corral.Client, seed: int) -> None:
    """Acquire what the client acquires, for a short time each, until cancelled."""
    rng = random.Random(f"{seed} turns")
    while True:
        await asyncio.sleep(rng.choice((0.01, 0.1, 0.5)))
        recipe: Any = rng.choice(
            (
                other.lock("/lines/lock"), other.rwlock("/lines/rw").write(), other.rwlock("/lines/rw").read(),
                other.election("/lines/election"), other.semaphore("/lines/semaphore", 2),
            )
        )  # fmt: skip
        lost = (corral.SessionError, corral.LimitMismatch, corral.ConnectionLoss, TimeoutError)
        with contextlib.suppress(*lost):
            async with asyncio.timeout(1), recipe:
                await asyncio.sleep(rng.choice((0.01, 0.3)))


async def clear_away(other: corral.Client) -> None:
    """Empty the lines, create again what was lost, and write what must be seen at the end.

    If a client was told falsely that a node was not created, that node stays in the line as long as its
    session.
    """
    for path in ("/lines", "/own"):
        await _until_done(lambda path=path: other.delete(path, recursive=True), corral.NoNode)
    for path in (WATCHED, LEAF, "/own", f"{WATCHED}/{LAST_NAME}"):
        await _until_done(lambda path=path: other.create(path), corral.NodeExists)
        await _until_done(lambda path=path: other.set(path, LAST))


async def come_and_go(other: corral.Client) -> None:
    """Lead now and then, until cancelled."""
    while True:
        with contextlib.suppress(corral.SessionError):
            async with other.election("/lines/election"):
                await asyncio.sleep(LEADS)
        await asyncio.sleep(LEADS)


async def _until_done(act: Callable[[], Awaitable[object]], *done: type[Exception]) -> None:
    """Repeat something until it succeeds; repeating it does no harm."""
    while True:
        try:
            await act()
            return
        except done:
            return
        except (corral.ConnectionLoss, corral.ReplyError, corral.NotEmpty):
            continue
