"""What several test modules need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import corral
from corral.testing import VirtualLoop

PATIENCE = 30.0
"""Seconds after which a wait has failed; never a measure of how fast something is."""


async def until(condition: Callable[[], Awaitable[object]], what: str, patience: float = PATIENCE) -> None:
    """Wait until an observation from outside comes true."""
    try:
        async with asyncio.timeout(patience):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


def block(seconds: float) -> None:
    """Keep the event loop from running for so long."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        loop.block(seconds)
    else:
        time.sleep(seconds)


def told_by_tests(terminalreporter: Any, name: str) -> list[Any]:
    """The values of a property that tests have recorded, from whatever processes they ran in."""
    return [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for key, value in report.user_properties
        if key == name
    ]


async def children(client: corral.Client, path: str) -> list[str]:
    """The names of a line's nodes in their numbers' order; none if there is no line: the server removes one that is
    empty, at any time."""
    try:
        return sorted(await client.children(path), key=lambda name: name[-10:])
    except corral.NoNode:
        return []


async def turns(count: int = 5) -> None:
    """Let the event loop go round, for whatever is ready to run."""
    for _ in range(count):
        await asyncio.sleep(0)
