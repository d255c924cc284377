"""What the tests of groups and services share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

import corral
from support import PATIENCE, turns

T = TypeVar("T")


async def next_of(events: AsyncIterator[T]) -> T:
    """The next event, if it comes within our patience."""
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def next_that(events: AsyncIterator[T], condition: Callable[[T], object]) -> T:
    """The first event that fulfils a condition."""
    while not condition(event := await next_of(events)):
        pass
    return event


async def tells_nothing(zk: corral.Client, events: AsyncIterator[object]) -> None:
    """There is no news in what the server has told so far."""
    waiting = asyncio.create_task(next_of(events))
    for _ in range(4):
        await zk.exists("/")
        await turns()
    assert not waiting.done(), f"told of {waiting.result()}"
    waiting.cancel()
    await asyncio.wait([waiting])


def names(members: tuple[corral.Member, ...] | list[corral.Member]) -> list[str]:
    return [member.name for member in members]


class GroupMirror:
    """What a reader of a group was told; each event is held to what is promised (W1)."""

    def __init__(self) -> None:
        self.now: dict[str, corral.Member] = {}
        self.is_told = False

    def take(self, event: corral.Members) -> None:
        """Take in one event."""
        assert event.joined or event.left or event.changed or not self.is_told, f"no news in {event}"
        self.is_told = True
        for member in event.left:
            assert self.now.pop(member.name) == member, f"{member} left, and was not reported so"
        for member in event.joined:
            assert member.name not in self.now, f"{member} joined twice"
            self.now[member.name] = member
        for member in event.changed:
            before = self.now[member.name]
            assert member.stat.mzxid > before.stat.mzxid, f"{member} is older than {before}, or equal"
            self.now[member.name] = member
        assert event.members == tuple(self.now[name] for name in sorted(self.now))


def contents(members: tuple[corral.Member, ...] | list[corral.Member]) -> dict[str, tuple[bytes, int, int]]:
    """Members without what a change of no data changes in a `Stat`."""
    return {name: (data, stat.czxid, stat.mzxid) for name, data, stat in members}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What operators are warned of by recipes."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "corral.recipes" and record.levelname == "WARNING"
    ]


def watched(zk: corral.Client) -> tuple[int, int]:
    """How many copies of trees, and how many watches, a client has."""
    now: Any = zk.statistics()
    return now.caches, sum(now.watches.values())
