"""What the test kit needs to know about asyncio's event loop."""

from __future__ import annotations

import asyncio

from corral.errors import UsageStateError

__all__ = ["running_loop", "wait_until_accepted"]


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop; `UsageStateError` where there is none, as under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageStateError(
            "corral.testing needs asyncio, and no asyncio event loop is running here; use asyncio.run(), or "
            "anyio with the backend 'asyncio' (in tests: a fixture anyio_backend that returns 'asyncio')"
        ) from None


async def wait_until_accepted(loop: asyncio.AbstractEventLoop) -> None:
    """Call before closing a listener: wait until each accepted socket has its transport.

    asyncio accepts a socket in one turn of the loop and makes its transport in the next. If the listener is
    closed between the two, the socket is dropped without being closed. A turn runs the callbacks that became
    ready in the turn before, then accepts, then runs the timers that are due. A task that a timer has woken
    therefore runs in the same turn in which the accepted sockets get their transports, before more are
    accepted.
    """
    woken = asyncio.Event()
    timer = loop.call_at(loop.time(), woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()
