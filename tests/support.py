"""Helpers for several test modules."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

import corral
from corral.testing import VirtualLoop

T = TypeVar("T")

PATIENCE = 30.0
"""A wait that takes longer than this many seconds has failed. It does not measure speed."""


class Startable(Protocol):
    """A server or an ensemble."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


S = TypeVar("S", bound=Startable)


@contextlib.contextmanager
def started(servers: S) -> Iterator[S]:
    """Servers that run while the block does, for fixtures that outlive the event loop of a test."""
    asyncio.run(servers.start())
    try:
        yield servers
    finally:
        asyncio.run(servers.close())


async def until(condition: Callable[[], Awaitable[object]], what: str, patience: float = PATIENCE) -> None:
    """Wait until a condition becomes true for which there is no event."""
    try:
        async with asyncio.timeout(patience):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None


def block(seconds: float) -> None:
    """Block the event loop for this many seconds."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        loop.block(seconds)
    else:
        time.sleep(seconds)


def told_by_tests(terminalreporter: Any, name: str) -> list[Any]:
    """The values of a property that tests have recorded, whatever processes they ran in."""
    return [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for key, value in report.user_properties
        if key == name
    ]


async def children(client: corral.Client, path: str) -> list[str]:
    """The names of a line's nodes in the order of their numbers; none if there is no line, since the server
    may remove an empty one."""
    try:
        return sorted(await client.children(path), key=lambda name: name[-10:])
    except corral.NoNode:
        return []


async def turns(count: int = 5) -> None:
    """Let the event loop run some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def within(awaitable: Awaitable[T]) -> T:
    """The result of an awaitable, with a time limit."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until_line(client: corral.Client, path: str, length: int) -> list[str]:
    """Wait until a line has this many nodes, as `client` sees it; returns their names."""
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
    """Wait until everything that `client` has sent so far is applied, or certain never to be: a write of the
    same session comes after it, on whatever connection."""
    while True:
        try:
            await within(client.set("/", b""))
        except corral.ConnectionLoss:
            continue
        return
