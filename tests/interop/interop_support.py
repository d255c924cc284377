"""Helpers for tests with several libraries in one line: the nodes in a line, and a crowd that contends."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeVar

import corral
from support import PATIENCE, children, until

T = TypeVar("T")


async def within(awaitable: Awaitable[T]) -> T:
    """The result of an awaitable, with a time limit."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until_line(zk: corral.Client, path: str, length: int) -> list[str]:
    """Wait until a line has this many nodes; returns their names."""
    line: list[str] = []

    async def there() -> bool:
        line[:] = await children(zk, path)
        return len(line) == length

    await until(there, f"{length} nodes in {path}")
    return line


def names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths."""
    return [path.rpartition("/")[2] for path in paths]


# A crowd


class Way(NamedTuple):
    """One way of holding what the crowd contends for."""

    who: str
    """The library that holds."""
    hold: Callable[[], AbstractAsyncContextManager[object]]
    """Waits, holds and releases."""
    kind: str = "holder"
    """The kind of holder: "read", for example."""


class Room:
    """Contenders enter it for a part of the time in which they hold. If two are in it that exclude each
    other, they held together."""

    def __init__(self, zk: corral.Client, allowed: Callable[[Counter[str]], bool]) -> None:
        self.entered: Counter[str] = Counter()
        """How often each library has entered."""
        self._allowed = allowed
        self._inside: Counter[str] = Counter()
        self._zk = zk

    async def stay(self, who: str, kind: str, trips: int) -> None:
        """Stay in it for this many round trips to the server: enough time for others to enter wrongly."""
        self.entered[who] += 1
        self._inside[kind] += 1
        self._look()
        for _ in range(trips):
            await self._zk.exists("/")
        self._look()
        self._inside[kind] -= 1

    def _look(self) -> None:
        assert self._allowed(self._inside), f"these held together: {dict(+self._inside)}"


def at_most(limit: int) -> Callable[[Counter[str]], bool]:
    """At most so many, of any kind."""
    return lambda inside: inside.total() <= limit


def readers_or_writer(inside: Counter[str]) -> bool:
    """Any number of readers, or one writer."""
    return inside["write"] <= (0 if inside["read"] else 1)


async def contend(room: Room, crowd: Sequence[Sequence[Way]], times: int, trips: int = 8) -> None:
    """Let all contenders compete until each has held so many times, each time in a random one of its ways,
    for a random number of round trips below `trips`."""
    chance = random.Random(0)

    async def one(ways: Sequence[Way]) -> None:
        for _ in range(times):
            way = chance.choice(ways)
            async with way.hold():
                await room.stay(way.who, way.kind, chance.randrange(trips))

    async with asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as group:
        for ways in crowd:
            group.create_task(one(ways))
