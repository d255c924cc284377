"""Calls that block: each on a daemon thread of its own.

In the loop's default executor they would block the application's jobs, and the end of `asyncio.run` would
wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def on_a_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Make a call on a thread. The call cannot be stopped: if the future is cancelled, its result is lost."""
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def run() -> None:
        try:
            result = call()
        except Exception as error:
            failure = error
            set_outcome = lambda: future.set_exception(failure)  # noqa: E731
        else:
            set_outcome = lambda: future.set_result(result)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, set_outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
