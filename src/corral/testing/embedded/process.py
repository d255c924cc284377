"""What of an embedded server belongs to an event loop: the port, the connections, the timer. The core, with
nodes and sessions, outlives it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

from corral.errors import UsageStateError
from corral.testing._server import ServerUnavailable, free_ports, until_accepted

from . import words
from .connection import Connection
from .zookeeper import Config, ZooKeeper

__all__ = ["Process"]

_EPOCH = 1_600_000_000.0
"""What a clock on the wall shows at virtual second 0: the same in each run."""

_BACKLOG = 1000
"""Clients that may connect at once, before any was accepted."""

_PORT_ATTEMPTS = 5
"""Somebody may take a free port between our choosing it and binding it."""

_LAST_TURNS = 3
"""Turns of the loop in which whoever was just accepted is turned away."""


class Process:
    """A server that was started: `connection.Host`. It may be down; then it can be started again."""

    core: ZooKeeper
    loop: asyncio.AbstractEventLoop

    def __init__(self, config: Config, port: int) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self.port = port
        """Where it listens; 0 until a free one was found."""
        self.paused = False
        self._config = config
        self._is_new = True
        self._listener: asyncio.Server | None = None
        self._connections: dict[Connection, None] = {}  # in order, so that two runs are the same
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    @property
    def running(self) -> bool:
        """Whether it is up, paused or not. Once its event loop is closed it is not."""
        return self._listener is not None and not self.loop.is_closed()

    async def start(self, host: str) -> None:
        """Listen. If this fails or is cancelled, nothing is left of it."""
        self._abandon()
        loop = asyncio.get_running_loop()
        is_virtual = getattr(loop, "virtual", False)
        listener = await self._listen(loop, host, is_virtual)
        self.loop, self.clock, self.paused = loop, loop.time, False
        now = loop.time()
        if self._is_new:
            self.core = ZooKeeper(self._config, now=now, wall=_EPOCH + now if is_virtual else time.time())
        else:
            self.core.restart(now)
        self._is_new = False
        self.port = self.core.port = listener.sockets[0].getsockname()[1]
        self._listener = listener
        try:
            await listener.start_serving()
        except BaseException as error:
            await self.end(abort=True)
            if isinstance(error, OSError):
                raise _unavailable(host, self.port, error) from error
            raise
        self.plan()

    async def _listen(self, loop: asyncio.AbstractEventLoop, host: str, is_virtual: bool) -> asyncio.Server:
        """Bind the port, and serve nobody yet: only so can it be cancelled without a listener being left."""
        attempts = 1 if self.port or is_virtual else _PORT_ATTEMPTS
        while True:
            # Not any free port: see `free_ports` for what becomes of clients that find nobody there.
            port = self.port or (0 if is_virtual else free_ports(1)[0])
            try:
                return await loop.create_server(
                    lambda: Connection(self), host, port, backlog=_BACKLOG, start_serving=False
                )
            except OSError as error:
                attempts -= 1
                if not attempts:
                    raise _unavailable(host, port, error) from error

    async def end(self, *, abort: bool) -> None:
        """Close every connection, what it was sent first, unless `abort`; and stop listening. Cancelled, it
        is over at once."""
        listener = self._listener
        if listener is None or self.loop.is_closed():
            self._abandon()
            return
        self._check_loop()
        self._listener = None  # from here on nobody is welcome
        self._stop_timer()
        for connection in list(self._connections):
            connection.abort() if abort or self.paused else connection.close()
        try:
            await until_accepted(self.loop)
        finally:
            listener.close()
            for connection in list(self._connections):  # whose client does not read
                connection.abort()
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)
        while self._connections:  # noqa: ASYNC110 - each leaves in one of the next turns of the loop
            await asyncio.sleep(0)
        await listener.wait_closed()

    def _abandon(self) -> None:
        """Give up what is left of an event loop that was closed while the server ran: it cannot be closed in
        order any more, and of that Python warns."""
        listener, self._listener = self._listener, None
        self._timer = None
        if listener is not None:
            listener.close()
        for connection in self._connections:
            connection.abandon()
        self._connections.clear()

    def pause(self) -> None:
        """Neither read, nor let time pass."""
        self._check_loop()
        self.paused = True
        self._stop_timer()
        for connection in self._connections:
            connection.look()

    def resume(self) -> None:
        """Go on. Time has passed; what that brings comes before what clients have said meanwhile."""
        self._check_loop()
        self.paused = False
        self.core.tick(self.clock())
        for connection in list(self._connections):
            connection.look()
        self.plan()

    def expire(self, session_id: int) -> bool:
        """End a session; whether there was one."""
        self._check_loop()
        return self.core.expire(session_id, self.clock())

    def answer(self, word: str) -> str:
        """What it says to a four letter word; nothing to what is none, as the port is then closed."""
        self._check_loop()
        return self.core.answer(word, self.clock()) if words.known(word.encode()) == word else ""

    # For the connections

    def welcomes(self, connection: Connection) -> bool:
        if self._listener is None:
            return False  # it was accepted just before the end
        self._connections[connection] = None
        return True

    def leaves(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def plan(self) -> None:
        if self.paused or self._listener is None:
            return
        due = self.core.deadline()
        if self._timer is not None:
            if self._due <= due:
                return  # it will find that there is nothing to do yet, and plan anew
            self._timer.cancel()
            self._timer = None
        if due < float("inf"):
            self._due = due
            self._timer = self.loop.call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.core.tick(self.clock())
        self.plan()

    def _check_loop(self) -> None:
        """Refuse a call from anywhere but the event loop that it runs in, unless that is idle."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self.loop and (here is not None or self.loop.is_running()):
            raise UsageStateError(
                "this embedded server runs in another event loop; call it there, or make it with "
                "EmbeddedServer(thread=True)"
            )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _unavailable(host: str, port: int, error: OSError) -> ServerUnavailable:
    # asyncio puts the address into the text of the error once more, or leaves the text out.
    named = not isinstance(error, socket.gaierror) and error.errno is not None
    why = os.strerror(error.errno).lower() if named and error.errno is not None else str(error)
    return ServerUnavailable(f"cannot listen on {host}:{port}: {why}")
