"""The part of an embedded server that belongs to an event loop: the port, the connections, the timer. The
core, with nodes and sessions, outlives it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from corral.errors import UsageStateError
from corral.testing.event_loop import wait_until_accepted
from corral.testing.servers.base import ServerUnavailable
from corral.testing.servers.ports import PORT_ATTEMPTS, free_ports

from . import four_letter_words
from .protocol import ServerProtocol
from .tls import TlsAcceptor
from .zookeeper import Config, ZooKeeper

__all__ = ["Process"]

_EPOCH = 1_600_000_000.0
"""The wall-clock time at virtual second 0: the same in each run."""

_BACKLOG = 1000
"""Clients that may connect before the first of them is accepted."""

_LAST_TURNS = 3
"""Turns of the loop in which connections that were just accepted are refused."""


class Process:
    """A server that was started: the `ProtocolOwner` of its connections. It may be down, and started
    again."""

    core: ZooKeeper
    loop: asyncio.AbstractEventLoop

    def __init__(self, config: Config, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self.port = port
        """The port that it listens on; 0 until it has found a free one."""
        self.paused = False
        self._config = config
        self._tls = tls
        self._is_new = True
        self._listener: asyncio.Server | None = None
        self._connections: dict[ServerProtocol, None] = {}  # ordered, so that two runs are the same
        self._acceptors: dict[TlsAcceptor, None] = {}  # whose handshakes are not over
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    @property
    def running(self) -> bool:
        """Whether it is up, paused or not. It is down when its event loop is closed."""
        return self._listener is not None and not self.loop.is_closed()

    async def start(self, host: str) -> None:
        """Listen. If this fails or is cancelled, nothing listens."""
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
        """Bind the port without accepting yet, so that a cancelled start leaves no listener."""
        # uvloop may read the beginning of the handshake before `TlsAcceptor` can shake hands. There the loop
        # does it, and neither `end` nor `pause` affects handshakes.
        is_asyncio = isinstance(loop, asyncio.BaseEventLoop)
        make = self._acceptor if self._tls is not None and is_asyncio else lambda: ServerProtocol(self)
        attempts = 1 if self.port or is_virtual else PORT_ATTEMPTS
        while True:
            # `free_ports` says why this is not just any free port.
            port = self.port or (0 if is_virtual else free_ports(1)[0])
            try:
                return await loop.create_server(
                    make,
                    host,
                    port,
                    backlog=_BACKLOG,
                    ssl=None if is_asyncio else self._tls,
                    start_serving=False,
                )
            except OSError as error:
                attempts -= 1
                if not attempts:
                    raise _unavailable(host, port, error) from error

    def _acceptor(self) -> TlsAcceptor:
        assert self._tls is not None
        return TlsAcceptor(
            self, self._tls, self._handshake_begins, lambda acceptor: self._acceptors.pop(acceptor, None)
        )

    def _handshake_begins(self, acceptor: TlsAcceptor) -> bool:
        if self._listener is None:
            return False
        self._acceptors[acceptor] = None
        return True

    async def end(self, *, abort: bool) -> None:
        """Stop listening and close every connection, after sending what is buffered unless `abort`. If
        cancelled, everything is closed at once."""
        listener = self._listener
        if listener is None or self.loop.is_closed():
            self._abandon()
            return
        self._check_loop()
        self._listener = None  # from here on connections are refused
        self._stop_timer()
        for acceptor in list(self._acceptors):
            acceptor.abort()
        for connection in list(self._connections):
            connection.abort() if abort or self.paused else connection.close()
        try:
            await wait_until_accepted(self.loop)
        finally:
            listener.close()
            for connection in list(self._connections):  # those whose client does not read
                connection.abort()
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)
        while self._connections or self._acceptors:  # noqa: ASYNC110 - each is removed in one of the next turns of the loop
            await asyncio.sleep(0)
        await listener.wait_closed()

    def _abandon(self) -> None:
        """Release what is left of an event loop that was closed while the server ran: Python warns of a
        transport that is not closed, and it cannot be closed in order any more."""
        listener, self._listener = self._listener, None
        self._timer = None
        if listener is not None:
            listener.close()
        for connection in self._connections:
            connection.abandon()
        self._connections.clear()
        self._acceptors.clear()

    def pause(self) -> None:
        """Stop reading, and stop the clock."""
        self._check_loop()
        self.paused = True
        self._stop_timer()
        for connection in self._connections:
            connection.look()
        for acceptor in self._acceptors:
            acceptor.look()

    def resume(self) -> None:
        """Continue. What has expired meanwhile expires before the clients' requests are handled."""
        self._check_loop()
        self.paused = False
        self.core.tick(self.clock())
        for connection in list(self._connections):
            connection.look()
        for acceptor in list(self._acceptors):
            acceptor.look()
        self.plan()

    def expire(self, session_id: int) -> bool:
        """End a session; False if there is no such session."""
        self._check_loop()
        return self.core.expire(session_id, self.clock())

    def reconfigure(self, members: Sequence[str]) -> None:
        """Set the ensemble's configuration."""
        self._check_loop()
        self.core.reconfigure(members, self.clock())

    def answer(self, word: str) -> str:
        """The answer to a four letter word; empty if it is none, since a server then closes the
        connection."""
        self._check_loop()
        if four_letter_words.known(word.encode()) != word:
            return ""
        return four_letter_words.answer(self.core, word, self.clock())

    # ProtocolOwner

    def add(self, protocol: ServerProtocol) -> bool:
        if self._listener is None:
            return False  # it was accepted just before the end
        self._connections[protocol] = None
        return True

    def remove(self, protocol: ServerProtocol) -> None:
        self._connections.pop(protocol, None)

    def plan(self) -> None:
        if self.paused or self._listener is None:
            return
        due = self.core.deadline()
        if self._timer is not None:
            if self._due <= due:
                return  # the timer will find nothing to do, and schedule the next one
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
        """Raise outside the event loop that the server runs in, unless that loop is idle."""
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
    # asyncio repeats the address in the text of the error, or leaves the text out.
    named = not isinstance(error, socket.gaierror) and error.errno is not None
    why = os.strerror(error.errno).lower() if named and error.errno is not None else str(error)
    return ServerUnavailable(f"cannot listen on {host}:{port}: {why}")
