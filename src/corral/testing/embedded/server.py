"""The embedded server: `ZooKeeper` on a port, in the event loop of a test or on a thread of its own.

    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        ...

    with EmbeddedServer(thread=True) as server:  # for clients that block, and for several event loops
        KazooClient(server.address).start()

It speaks the real protocol, so any client in any language may connect. It is one server, in memory: what a
restarted one still has (nodes and sessions) is gone once it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from corral import verify
from corral.errors import UsageStateError, UsageValueError
from corral.testing._server import ANSWER_TIMEOUT, LOOPBACK, Server, ServerUnavailable, free_ports
from corral.wire.framing import DEFAULT_MAX_REQUEST

from .connection import Connection
from .zookeeper import Config, ZooKeeper

__all__ = ["EmbeddedServer"]

T = TypeVar("T")

_EPOCH = 1_600_000_000.0
"""What a clock on the wall shows at virtual second 0: the same in each run."""


class EmbeddedServer(Server):
    """A ZooKeeper server without a JVM, a process or a disk: standalone, in memory, on a loopback port.

    - `tick_time` (0.5 s): sessions are expired in steps of it, and live from 2 to 20 ticks unless
      `min_session_timeout` and `max_session_timeout` say otherwise.
    - `container_check_interval` (0.5 s): how often empty containers and outlived TTL nodes are removed.
    - `extended_types` (True): whether TTL nodes can be made.
    - `jute_maxbuffer` (ZooKeeper's, 1 MiB): the largest frame, in bytes.
    - `version` ("3.8"): the release of ZooKeeper that it behaves as where they differ, or "3.9".
    - `read_only` (False): whether it behaves as a server that has lost its quorum, and serves reads alone.
    - `seed`: the same session ids and passwords each time.
    - `host`, `port` (a free port): where it listens.
    - `thread` (False): whether it runs on a thread of its own. Then its methods may be called from any event
      loop, and ``with`` works as ``async with`` does; else it belongs to the loop that started it.

    ``async with`` starts it, and on leaving kills it. There are no faults in here: a `FaultProxy` in front
    breaks connections exactly as it does for a real server. What is here is what happens to a process.
    """

    def __init__(
        self,
        *,
        tick_time: float = 0.5,
        min_session_timeout: float | None = None,
        max_session_timeout: float | None = None,
        container_check_interval: float = 0.5,
        extended_types: bool = True,
        jute_maxbuffer: int = DEFAULT_MAX_REQUEST,
        version: Literal["3.8", "3.9"] = "3.8",
        read_only: bool = False,
        seed: int | None = None,
        host: str = LOOPBACK,
        port: int = 0,
        thread: bool = False,
    ) -> None:
        if version not in ("3.8", "3.9"):
            raise UsageValueError(f"version must be '3.8' or '3.9', not {version!r}")
        self._config = Config(
            tick_time=verify.seconds(tick_time, "tick_time"),
            min_session_timeout=_seconds(min_session_timeout, "min_session_timeout"),
            max_session_timeout=_seconds(max_session_timeout, "max_session_timeout"),
            container_check_interval=verify.seconds(container_check_interval, "container_check_interval"),
            extended_types=extended_types,
            jute_maxbuffer=verify.size(jute_maxbuffer, "jute_maxbuffer"),
            version=version,
            read_only=read_only,
            seed=seed,
        )
        self._host = host
        self._wanted_port = port
        self._process: _Process | None = None
        self._place: _Place = _Thread() if thread else _Here()

    def __repr__(self) -> str:
        process = self._process
        state = "down" if not self.running else "paused" if process and process.paused else "running"
        port = process.port if process is not None else self._wanted_port
        return f"<EmbeddedServer {self._host}:{port} {state}>"

    @property
    def address(self) -> str:
        if self._process is None:
            raise UsageStateError("an embedded server has an address once it was started; call start() first")
        return f"{self._host}:{self._process.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.listener is not None

    @property
    def zookeeper(self) -> ZooKeeper:
        """The server's insides, as pure data: its tree, its sessions, its watches. To be looked at."""
        return self._started().core

    async def start(self) -> None:
        """Listen, the first time or again with the data and the port that there were. `ServerUnavailable` if
        the port is taken, `UsageStateError` if it runs."""
        if self.running:
            raise UsageStateError(f"{self!r} runs already; stop() it first")
        await self._place.run(self._start)

    async def _start(self) -> None:
        process = self._process
        if process is None:
            process = _Process(self._config, self._wanted_port)
        await process.start(self._host)
        self._process = process

    async def stop(self) -> None:
        """Close all connections, when what they were sent is out, and the port. Data and port stay."""
        await self._place.run(functools.partial(self._end, abort=False))

    async def kill(self) -> None:
        """Close all connections, and the port, at once. Data and port stay."""
        await self._place.run(functools.partial(self._end, abort=True))

    async def _end(self, *, abort: bool) -> None:
        if self._process is not None:
            await self._process.end(abort=abort)

    def pause(self) -> None:
        """Freeze it: connections stay open, new ones are accepted, and nothing is answered, nor expired."""
        self._place.call(self._started().pause)

    def resume(self) -> None:
        """Let a paused server run on. What has expired meanwhile expires first."""
        self._place.call(self._started().resume)

    async def expire(self, session_id: int) -> None:
        """End a session as if its client had not been heard of for too long: its connection is closed, and
        its ephemerals go. `UsageValueError` if there is no such session."""
        process = self._started()

        async def end() -> bool:
            return process.expire(session_id)

        if not await self._place.run(end):
            raise UsageValueError(f"there is no session 0x{session_id:x}; Client.session_id has a client's")

    async def close(self) -> None:
        await self.kill()
        self._process = None
        self._place.close()

    async def four_letter_word(self, word: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        process = self._process
        if process is None or process.listener is None:
            raise ConnectionRefusedError(f"{self!r} does not run")
        if process.paused:
            raise TimeoutError(f"{self!r} does not answer")

        async def ask() -> str:
            return process.core.answer(word, process.clock())

        return await self._place.run(ask)

    def __enter__(self) -> Self:
        self._place.block_on(self.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._place.block_on(self.close())

    def _started(self) -> _Process:
        if self._process is None:
            raise UsageStateError("this embedded server was not started, or is closed; call start() first")
        return self._process


def _seconds(value: float | None, what: str) -> float | None:
    return None if value is None else verify.seconds(value, what)


class _Process:
    """What of a server belongs to an event loop (`connection.Host`), and the core, which outlives it."""

    def __init__(self, config: Config, port: int) -> None:
        self.core: ZooKeeper
        self.clock: Callable[[], float] = time.monotonic
        self.port = port
        self.listener: asyncio.Server | None = None
        self.paused = False
        self.connections: set[Connection] = set()
        self._config = config
        self._is_new = True
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    async def start(self, host: str) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        now = self.clock()
        if self._is_new:
            wall = _EPOCH + now if _is_virtual(loop) else time.time()
            self.core = ZooKeeper(self._config, now=now, wall=wall)
        else:
            self.core.restart(now)
        self.paused = False
        # Not any free port: see `free_ports` for what becomes of clients that find nobody there.
        port = self.port or (0 if _is_virtual(loop) else free_ports(1)[0])
        try:
            self.listener = await loop.create_server(lambda: Connection(self), host, port)
        except OSError as error:
            raise ServerUnavailable(f"cannot listen on {host}:{port}: {error}") from error
        self.port = self.core.port = self.listener.sockets[0].getsockname()[1]
        self._is_new = False
        self.plan()

    async def end(self, *, abort: bool) -> None:
        """Stop listening, and close every connection."""
        listener, self.listener = self.listener, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if listener is None:
            return
        listener.close()
        for connection in list(self.connections):
            connection.abort() if abort else connection.close()
        await listener.wait_closed()
        while self.connections:  # each goes in a turn of the loop to come
            await asyncio.sleep(0)

    def pause(self) -> None:
        """Neither read, nor let time pass."""
        self.paused = True
        for connection in self.connections:
            connection.look()

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._on_time()
        for connection in list(self.connections):
            connection.look()

    def expire(self, session_id: int) -> bool:
        """End a session; whether there was one."""
        return self.core.expire(session_id, self.clock())

    def plan(self) -> None:
        due = self.core.deadline()
        if self.paused or self.listener is None or (self._timer is not None and self._due <= due):
            return  # one that is too early finds that there is nothing to do yet, and plans anew
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due < float("inf"):
            self._due = due
            self._timer = asyncio.get_running_loop().call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if not self.paused:
            self.core.tick(self.clock())
            self.plan()


def _is_virtual(loop: asyncio.AbstractEventLoop) -> bool:
    return getattr(loop, "virtual", False)


# Where a server runs


class _Here:
    """In the event loop of whoever calls."""

    async def run(self, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine there."""
        return await job()

    def call(self, job: Callable[[], None]) -> None:
        """Call a function there."""
        job()

    def block_on(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine from where there is no event loop."""
        coroutine.close()
        raise UsageStateError("'with' is for EmbeddedServer(thread=True); here use 'async with'")

    def close(self) -> None:
        """Nothing more will run there."""


class _Thread:
    """In an event loop on a thread of its own, started with the first job."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, job: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(job(), self._running()))

    def call(self, job: Callable[[], None]) -> None:
        async def call() -> None:
            job()

        asyncio.run_coroutine_threadsafe(call(), self._running()).result()

    def block_on(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run(coroutine)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._run, args=[loop], name="corral embedded server", daemon=True
            )
            self._thread.start()
        return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.closing(loop):
            loop.run_forever()


_Place = _Here | _Thread
