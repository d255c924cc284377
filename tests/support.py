"""What several test modules need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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


async def turns(count: int = 5) -> None:
    """Let the event loop go round, for whatever is ready to run."""
    for _ in range(count):
        await asyncio.sleep(0)
