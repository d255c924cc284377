"""corral, used as in its README: a lock object is made where it is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import corral
from clients import Tally


class CorralClient:
    def __init__(self, zk: corral.Client) -> None:
        self._zk = zk
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def session_id(self) -> int:
        return self._zk.session_id

    async def gets_at_once(self, path: str, count: int) -> None:
        await asyncio.gather(*(self._zk.get(path) for _ in range(count)))

    async def gets_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            await self._zk.get(path)

    async def sets_at_once(self, path: str, data: bytes, count: int) -> None:
        await asyncio.gather(*(self._zk.set(path, data) for _ in range(count)))

    async def locks_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            async with self._zk.lock(path):
                pass

    async def consumes(self, path: str, count: int) -> None:
        for _ in range(count):
            async with self._zk.queue(path).take():
                pass

    async def locks_at_once(self, paths: Sequence[str]) -> None:
        held = await asyncio.gather(*(self._zk.lock(path).acquire() for path in paths))
        await asyncio.gather(*(each.release() for each in held))

    async def adds_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            await self._zk.counter(path, layout="kazoo").add(1)

    async def watch(self, path: str, count: int, tally: Tally) -> None:
        await self.follow([path] * count, tally)

    async def follow(self, paths: Sequence[str], tally: Tally) -> None:
        async def watcher(path: str) -> None:
            async for event in self._zk.watch(path):
                tally.seen(event.data or b"")

        for path in paths:
            self._start(watcher(path))

    async def watch_tree(self, path: str, tally: Tally) -> None:
        async def watcher() -> None:
            async for event in self._zk.watch_tree(path):
                if event.data is not None:  # otherwise it is COMPLETE
                    tally.seen(event.data)

        self._start(watcher())

    @asynccontextmanager
    async def cache(self, path: str) -> AsyncIterator[Callable[[], int]]:
        async with self._zk.cache(path) as cache:
            yield lambda: len(cache)

    @asynccontextmanager
    async def discover(self, base: str, service: str) -> AsyncIterator[AsyncIterator[Sequence[object]]]:
        async with self._zk.services(base).watch(service) as instances:
            yield instances

    async def hold(self, path: str) -> Callable[[], bool]:
        held = await self._zk.lock(path).acquire()
        return lambda: held.is_valid

    def _start(self, watcher: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(watcher))

    def end(self) -> None:
        """Stop the watchers."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def connect(hosts: str, session_timeout: float) -> AsyncIterator[CorralClient]:
    """A client in its ``async with``."""
    async with corral.connect(hosts, session_timeout=session_timeout) as zk:
        client = CorralClient(zk)
        try:
            yield client
        finally:
            client.end()
