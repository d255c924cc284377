"""What several test modules need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import corral
from corral.testing import VirtualLoop

T = TypeVar("T")

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


async def within(awaitable: Awaitable[T]) -> T:
    """Its result, unless it hangs."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until_line(client: corral.Client, path: str, length: int) -> list[str]:
    """Wait until so many nodes stand in a line, as `client` sees it; returns them."""
    names: list[str] = []

    async def there() -> bool:
        names[:] = await children(client, path)
        return len(names) == length

    try:
        await until(there, f"{length} nodes in {path}")
    except AssertionError:
        raise AssertionError(f"never were {length} nodes in {path}: {names}") from None
    return names


async def settle(client: corral.Client) -> None:
    """Let all that `client` has sent so far be carried out, or be certain never to be: a write of the same
    session, on whatever connection it has by now, is ordered behind it."""
    while True:
        try:
            await within(client.set("/", b""))
        except corral.ConnectionLoss:
            continue
        return
