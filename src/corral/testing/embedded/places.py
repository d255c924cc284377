"""Where an embedded server runs: in the event loop of its user, or in one of its own on a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

__all__ = ["Here", "OnThread", "Place"]

T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, T]]


class Place(Protocol):
    """Runs coroutines and functions where the server is."""

    async def run(self, job: Job[T]) -> T:
        """Run a coroutine there. Cancelled, the coroutine is cancelled, too."""

    def call(self, job: Callable[[], T]) -> T:
        """Call a function there; when this returns it has run."""

    def close(self) -> None:
        """Nothing runs there any more."""


class Here:
    """In the event loop of whoever calls."""

    async def run(self, job: Job[T]) -> T:
        return await job()

    def call(self, job: Callable[[], T]) -> T:
        return job()

    def close(self) -> None:
        pass


class OnThread:
    """In an event loop on a thread of its own, from the first job until `close`, when jobs are cancelled."""

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
        """Run a coroutine there, and block until it is over."""
        future = self._submit(job)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # if it was this thread that was interrupted
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
    with runner:  # which cancels what still runs, and closes the loop
        runner.get_loop().run_forever()
