"""aiozk. Its lock objects are for one user at a time. They are reused, which saves creating them again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiozk

from clients import Tally


class AiozkClient:
    def __init__(self, zk: Any) -> None:
        self._zk = zk
        self._watching: list[tuple[Any, str, Tally]] = []
        self._lock = functools.cache(zk.recipes.Lock)

    @property
    def session_id(self) -> int:
        return int(self._zk.session.session_id or 0)

    async def gets_at_once(self, path: str, count: int) -> None:
        await asyncio.gather(*(self._zk.get(path) for _ in range(count)))

    async def gets_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            await self._zk.get(path)

    async def sets_at_once(self, path: str, data: bytes, count: int) -> None:
        # Without `force` it would send the version in its cache, and all but the first would be refused.
        await asyncio.gather(*(self._zk.set_data(path, data, force=True) for _ in range(count)))

    async def locks_in_turn(self, path: str, count: int) -> None:
        lock = self._lock(path)
        for _ in range(count):
            await lock.acquire()
            await lock.release()

    async def locks_at_once(self, paths: Sequence[str]) -> None:
        await asyncio.gather(*(self._lock(path).acquire() for path in paths))
        await asyncio.gather(*(self._lock(path).release() for path in paths))

    async def adds_in_turn(self, path: str, count: int) -> None:
        counter = self._zk.recipes.Counter(path)
        await counter.start()
        for _ in range(count):
            await counter.incr()

    async def watch(self, path: str, count: int, tally: Tally) -> None:
        await self.follow([path] * count, tally)

    async def follow(self, paths: Sequence[str], tally: Tally) -> None:
        """One DataWatcher for each watcher, as independent parts of a program would have."""
        for path in paths:
            watcher = self._zk.recipes.DataWatcher()
            watcher.add_callback(path, tally.seen)
            self._watching.append((watcher, path, tally))

    @asynccontextmanager
    async def cache(self, path: str) -> AsyncIterator[Callable[[], int]]:
        """After the start it has the data, and its watchers are about to read all of it again, which sets the
        watches. The server answers in order, so they have their answers once a later read has its own."""

        def count(node: Any) -> int:
            return (node.data is not None) + sum(map(count, node.children.values()))

        cache = self._zk.recipes.TreeCache(path)
        await cache.start()
        await asyncio.sleep(0)  # tasks that were just created send these reads
        await self._zk.get(path)
        yield lambda: count(cache.root)
        await cache.stop()

    async def hold(self, path: str) -> Callable[[], bool]:
        lock = self._lock(path)
        await lock.acquire()
        return lambda: bool(lock.is_locked)

    def end(self) -> None:
        """Stop the watchers."""
        for watcher, path, tally in self._watching:
            watcher.remove_callback(path, tally.seen)


@asynccontextmanager
async def connect(hosts: str, session_timeout: float) -> AsyncIterator[AiozkClient]:
    """A client between `start` and `close`."""
    zk = aiozk.ZKClient(hosts, session_timeout=session_timeout)
    await zk.start()
    client = AiozkClient(zk)
    try:
        yield client
    finally:
        client.end()
    await zk.close()
