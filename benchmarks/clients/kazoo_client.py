"""kazoo. It blocks its caller, so each verb runs in a thread, and operations "at once" take a thread each.

The threads are kept between calls, which saves starting them again. So are its lock objects, which look for
their parent node only once.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import kazoo.client
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.recipe.queue import LockingQueue

from clients import Tally

START_TIMEOUT = 15.0
MOST_THREADS = 1000

_P = ParamSpec("_P")
_T = TypeVar("_T")


class KazooClient:
    def __init__(self, zk: Any) -> None:
        self._zk = zk
        self._lock = functools.cache(zk.Lock)
        self._threads = ThreadPoolExecutor(MOST_THREADS)
        self._loop = asyncio.get_running_loop()

    @property
    def session_id(self) -> int:
        return int(self._zk.client_id[0]) if self._zk.client_id else 0

    def _apart(self, job: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        return self._loop.run_in_executor(self._threads, functools.partial(job, *args, **kwargs))

    async def gets_at_once(self, path: str, count: int) -> None:
        def gets() -> None:
            for answer in [self._zk.get_async(path) for _ in range(count)]:
                answer.get()

        await self._apart(gets)

    async def gets_in_turn(self, path: str, count: int) -> None:
        def gets() -> None:
            for _ in range(count):
                self._zk.get(path)

        await self._apart(gets)

    async def sets_at_once(self, path: str, data: bytes, count: int) -> None:
        def sets() -> None:
            for answer in [self._zk.set_async(path, data) for _ in range(count)]:
                answer.get()

        await self._apart(sets)

    async def locks_in_turn(self, path: str, count: int) -> None:
        def cycles() -> None:
            lock = self._lock(path)
            for _ in range(count):
                with lock:
                    pass

        await self._apart(cycles)

    async def consumes(self, path: str, count: int) -> None:
        def consume() -> None:
            queue = LockingQueue(self._zk, path)
            for _ in range(count):
                queue.get()
                queue.consume()

        await self._apart(consume)

    async def locks_at_once(self, paths: Sequence[str]) -> None:
        await asyncio.gather(*(self._apart(self._lock(path).acquire) for path in paths))
        await asyncio.gather(*(self._apart(self._lock(path).release) for path in paths))

    async def adds_in_turn(self, path: str, count: int) -> None:
        def adds() -> None:
            counter = self._zk.Counter(path)
            for _ in range(count):
                counter += 1

        await self._apart(adds)

    async def watch(self, path: str, count: int, tally: Tally) -> None:
        await self.follow([path] * count, tally)

    async def follow(self, paths: Sequence[str], tally: Tally) -> None:
        """kazoo calls the callbacks in its own thread, which passes the call on to the event loop's."""

        def tell(data: bytes, stat: Any) -> None:
            self._loop.call_soon_threadsafe(tally.seen, data)

        def watch() -> None:
            for path in paths:
                self._zk.DataWatch(path, tell)

        await self._apart(watch)

    @asynccontextmanager
    async def cache(self, path: str) -> AsyncIterator[Callable[[], int]]:
        live = self._loop.create_future()

        def tell(event: Any) -> None:
            if event.event_type == TreeEvent.INITIALIZED:
                self._loop.call_soon_threadsafe(live.set_result, None)

        def count(at: str) -> int:
            below = sum(count(f"{at}/{name}") for name in cache.get_children(at, ()))
            return (cache.get_data(at) is not None) + below

        cache = TreeCache(self._zk, path)
        cache.listen(tell)
        await self._apart(cache.start)
        await live
        yield lambda: count(path)
        await self._apart(cache.close)

    async def hold(self, path: str) -> Callable[[], bool]:
        lock = self._lock(path)
        await self._apart(lock.acquire)
        return lambda: bool(lock.is_acquired)

    async def close(self) -> None:
        """End the session and kazoo's own threads."""
        await self._apart(self._zk.stop)
        await self._apart(self._zk.close)
        self._threads.shutdown(wait=False)


@asynccontextmanager
async def connect(hosts: str, session_timeout: float) -> AsyncIterator[KazooClient]:
    """A client between `start` and `stop`."""
    zk = kazoo.client.KazooClient(hosts, timeout=session_timeout)
    await asyncio.to_thread(zk.start, START_TIMEOUT)
    client = KazooClient(zk)
    yield client
    await client.close()
