"""Helpers for tests that run in their own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec, cast

import pytest

from corral.testing.virtual.loop import VirtualLoop

P = ParamSpec("P")
Factory = Callable[[], asyncio.AbstractEventLoop]

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0
"""A wait on asyncio's own loop that takes longer than this many seconds has failed. A VirtualLoop detects
deadlocks itself."""


def run(test: Coroutine[Any, Any, None], factory: Factory = VirtualLoop) -> None:
    """Run a test in a new event loop, and check that it leaves nothing behind and no exception was
    unhandled."""
    complaints: list[dict[str, Any]] = []

    async def held() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.wait_for(test, None if isinstance(loop, VirtualLoop) else PATIENCE)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(held())
    gc.collect()  # objects that were not closed warn
    assert not complaints, f"errors that only the event loop saw: {complaints}"


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in a VirtualLoop."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapper


def both(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that holds for TCP under asyncio's own loop, and therefore must hold for a VirtualLoop."""

    @pytest.mark.parametrize("loop", FACTORIES)
    def wrapper(loop: str, *args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs), FACTORIES[loop])

    wrapper.__doc__ = test.__doc__
    return wrapper


FACTORIES: dict[str, Factory] = {
    "asyncio": asyncio.new_event_loop,
    "virtual": VirtualLoop,
    "late": functools.partial(VirtualLoop, latency=(0.001, 0.02), fragment=5000, seed=1),
}


def this() -> VirtualLoop:
    """The event loop of the test."""
    return cast(VirtualLoop, asyncio.get_running_loop())


class Recorder(asyncio.Protocol):
    """Records the callbacks of a protocol. `keeps_open` is what `eof_received` returns."""

    transport: asyncio.Transport

    def __init__(self, *, keeps_open: bool = False, reads: bool = True) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.error: Exception | None = None
        self._keeps_open = keeps_open
        self._reads = reads
        self._happened = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._reads:
            self.transport.pause_reading()
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._note("data")

    def eof_received(self) -> bool:
        self._note("eof")
        return self._keeps_open

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")

    def _note(self, event: str) -> None:
        if self.events[-1:] != [event]:  # the number of pieces in which data arrives is not guaranteed
            self.events.append(event)
        self._happened.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true of the recorded events."""
        while not condition():
            self._happened.clear()
            await self._happened.wait()

    async def got(self, n: int) -> bytes:
        await self.until(lambda: len(self.received) >= n)
        return bytes(self.received)

    async def saw(self, event: str) -> None:
        await self.until(lambda: event in self.events)

    def linger_not(self) -> None:
        """Make the transport's socket send RST when it closes."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.asynccontextmanager
async def pair(
    client: asyncio.BaseProtocol | None = None, server: Recorder | None = None
) -> AsyncIterator[tuple[Any, Recorder]]:
    """A connection: the client's protocol, and the server's."""
    client, server = client or Recorder(), server or Recorder()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: server, LOOPBACK, 0)
    try:
        transport, _ = await loop.create_connection(lambda: client, *listener.sockets[0].getsockname()[:2])
        await server.saw("made")
        yield client, server
        for end in (transport, server.transport):
            if not end.is_closing():
                end.abort()
        await server.saw("lost")
    finally:
        listener.close()
    await listener.wait_closed()


async def settle() -> None:
    """Let everything arrive that is in transit, to check that nothing unexpected does."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        await asyncio.sleep(1)
    else:
        for _ in range(50):
            await asyncio.sleep(0)
