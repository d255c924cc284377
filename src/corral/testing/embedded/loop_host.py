"""Which event loop an embedded server runs in: the caller's, or one of its own on a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

__all__ = ["CallersLoop", "LoopHost", "ThreadLoop"]

T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, T]]


class LoopHost(Protocol):
    """Runs coroutines and functions in the server's event loop."""

    async def run(self, job: Job[T]) -> T:
        """Run a coroutine in the loop. If this is cancelled, the coroutine is cancelled, too."""

    def call(self, job: Callable[[], T]) -> T:
        """Call a function in the loop, and return its result."""

    def close(self) -> None:
        """End the loop, if it is the server's own."""


class CallersLoop:
    """The event loop of the caller."""

    async def run(self, job: Job[T]) -> T:
        return await job()

    def call(self, job: Callable[[], T]) -> T:
        return job()

    def close(self) -> None:
        pass


class ThreadLoop:
    """An event loop on a thread of its own. It runs from the first job until `close`, which cancels jobs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, job: Job[T]) -> T:
        return await asyncio.wrap_future(self._submit(job))

    def call(self, job: Callable[[], T]) -> T:
        async def call() -> T:
            return job()

        return self.wait(call)

    def wait(self, job: Job[T]) -> T:
        """Run a coroutine in the loop, and block until it is done."""
        future = self._submit(job)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # for a KeyboardInterrupt in this thread
            raise

    def close(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _submit(self, job: Job[T]) -> concurrent.futures.Future[T]:
        if self._loop is None:
            runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._loop = runner.get_loop()
            self._thread = threading.Thread(
                target=_run, args=[runner], name="corral embedded server", daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(job(), self._loop)


def _run(runner: asyncio.Runner) -> None:
    with runner:  # on leaving, it cancels what still runs and closes the loop
        runner.get_loop().run_forever()
