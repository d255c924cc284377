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
from functools import partial
from types import TracebackType
from typing import Literal, Self

from corral import verify
from corral.errors import UsageStateError, UsageTypeError, UsageValueError
from corral.testing.event_loop import running_loop
from corral.testing.network import LOOPBACK
from corral.testing.servers.base import ANSWER_TIMEOUT, Server
from corral.wire.framing import DEFAULT_MAX_REQUEST

from .loop_host import CallersLoop, LoopHost, ThreadLoop
from .process import Process
from .zookeeper import Config, ZooKeeper

__all__ = ["EmbeddedServer"]

_SHORTEST = 0.001
"""The server counts in milliseconds."""


class EmbeddedServer(Server):
    """A ZooKeeper server without a JVM, a process or a disk: standalone, in memory, on a loopback port.

    - `tick_time` (0.5 s): sessions are expired in steps of it, and live from 2 to 20 ticks unless
      `min_session_timeout` and `max_session_timeout` say otherwise.
    - `container_check_interval` (0.5 s): how often empty containers and outlived TTL nodes are removed.
    - `extended_types` (True): whether TTL nodes can be made.
    - `jute_maxbuffer` (ZooKeeper's, 1 MiB): the largest frame, in bytes.
    - `version` ("3.8"): the release of ZooKeeper that it behaves as where they differ, or "3.9".
      Or "3.5": that is 3.8 without the requests that came after 3.5, those for persistent watches among them.
    - `read_only` (False): whether it behaves as a server that has lost its quorum, and serves reads alone.
    - `seed`: the same session ids and passwords each time.
    - `host`, `port` (a free port): where it listens.
    - `thread` (False): whether it runs on a thread of its own. Then its methods may be called from any event
      loop, and ``with`` works as ``async with`` does; else it belongs to the loop that started it.

    ``async with`` starts it, and on leaving kills it. There are no faults in here: a `FaultProxy` in front
    breaks connections exactly as it does for a real server. What is here is what happens to a process.

    It works in a `VirtualLoop`, without any socket. Where the event loop is closed under it, it is down.
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
        version: Literal["3.5", "3.8", "3.9"] = "3.8",
        read_only: bool = False,
        seed: int | None = None,
        host: str = LOOPBACK,
        port: int = 0,
        thread: bool = False,
    ) -> None:
        if version not in ("3.5", "3.8", "3.9"):
            raise UsageValueError(f"version must be '3.5', '3.8' or '3.9', not {version!r}")
        self._config = Config(
            tick_time=_seconds(tick_time, "tick_time"),
            min_session_timeout=_seconds_or_none(min_session_timeout, "min_session_timeout"),
            max_session_timeout=_seconds_or_none(max_session_timeout, "max_session_timeout"),
            container_check_interval=_seconds(container_check_interval, "container_check_interval"),
            extended_types=extended_types,
            jute_maxbuffer=verify.size(jute_maxbuffer, "jute_maxbuffer"),
            version=version,
            read_only=read_only,
            seed=seed,
        )
        least, most = self._config.least_timeout, self._config.most_timeout
        if least > most:
            raise UsageValueError(
                f"no session could have a timeout of at least {least:g} s and at most {most:g} s; change "
                "min_session_timeout or max_session_timeout, which are 2 and 20 ticks if not given"
            )
        self._host = verify.text(host, "host")
        self._wanted_port = _port(port)
        self._process: Process | None = None
        self._thread = ThreadLoop() if thread else None
        self._loop_host: LoopHost = self._thread or CallersLoop()

    def __repr__(self) -> str:
        state = "paused" if self.paused else "running" if self.running else "down"
        port = self._wanted_port if self._process is None else self._process.port
        return f"<EmbeddedServer {self._host}:{port} {state}>"

    @property
    def address(self) -> str:
        port = self._started().port
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def paused(self) -> bool:
        """Whether `pause` was called, and neither `resume` nor an end came since."""
        return self._process is not None and self._process.running and self._process.paused

    @property
    def zookeeper(self) -> ZooKeeper:
        """The server's insides, as pure data: its tree, its sessions, its watches. To be looked at, and with
        ``thread=True`` only while no client does anything."""
        return self._started().core

    async def start(self) -> None:
        """Listen, the first time or again with the data and the port that there were.

        `ServerUnavailable` if the port is taken, `UsageStateError` if it runs. If this fails or is cancelled,
        the server is down.
        """
        running_loop()
        self._check_down()
        try:
            await self._loop_host.run(self._start)
        except BaseException:
            self._undo_start()
            raise

    async def stop(self) -> None:
        """Close all connections and the port. Data and port stay.

        What clients were sent goes out as far as they take it at once; no more is done for who does not read,
        or by a server that is paused. Cancelled, it is killed instead. Nothing happens if it is down.
        """
        await self._end(abort=False)

    async def kill(self) -> None:
        """Close all connections and the port at once. Data and port stay.

        Cancelled, it is killed all the same. Nothing happens if it is down.
        """
        await self._end(abort=True)

    def pause(self) -> None:
        """Freeze it: connections stay open, new ones are accepted, and nothing is answered, nor expired."""
        process = self._up()
        self._loop_host.call(process.pause)

    def resume(self) -> None:
        """Let a paused server run on. What has expired meanwhile expires first."""
        process = self._up()
        if process.paused:
            self._loop_host.call(process.resume)

    async def expire(self, session_id: int) -> None:
        """End a session as if its client had not been heard of for too long: its connection is closed, and
        its ephemerals go. `UsageValueError` if there is no such session, `UsageStateError` if the server is
        paused or down. There is nothing to cancel."""
        process = self._up()
        if process.paused:
            raise UsageStateError(f"{self!r} cannot expire a session; resume() it first")
        if not self._loop_host.call(partial(process.expire, session_id)):
            raise UsageValueError(f"there is no session 0x{session_id:x}; Client.session_id has a client's")

    async def close(self) -> None:
        try:
            await self.kill()
        finally:
            if not self.running:  # as it is if this was the wrong loop to call it from
                self._process = None
                self._loop_host.close()

    async def four_letter_word(self, word: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        """Ask with a four letter word, without a connection. Raises `ConnectionRefusedError` if the server is
        down and `TimeoutError` if it is paused, both at once. There is nothing to cancel."""
        process = self._started()
        if not process.running:
            raise ConnectionRefusedError(f"{self!r} does not run")
        if process.paused:
            raise TimeoutError(f"{self!r} does not answer")
        return self._loop_host.call(partial(process.answer, word))

    def __enter__(self) -> Self:
        if self._thread is None:
            raise UsageStateError("'with' is for EmbeddedServer(thread=True); here use 'async with'")
        if _in_a_loop():
            raise UsageStateError("'with' would block the event loop that runs here; use 'async with'")
        self._check_down()
        try:
            self._thread.wait(self._start)
        except BaseException:
            self._undo_start()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if self._thread is not None:
            try:
                if process is not None:
                    self._thread.wait(partial(process.end, abort=True))
            finally:
                self._thread.close()

    # Inside

    async def _start(self) -> None:
        process = self._process or Process(self._config, self._wanted_port)
        await process.start(self._host)
        self._process = process

    def _undo_start(self) -> None:
        self._be_down()
        if self._process is None:
            self._loop_host.close()

    async def _end(self, *, abort: bool) -> None:
        process = self._process
        if process is not None:
            try:
                await self._loop_host.run(partial(process.end, abort=abort))
            except asyncio.CancelledError:
                self._be_down()
                raise

    def _be_down(self) -> None:
        """On a thread, what was cancelled here may not have begun there, or may be over."""
        process = self._process
        if self._thread is not None and process is not None and process.running:
            self._thread.wait(partial(process.end, abort=True))

    def _check_down(self) -> None:
        if self.running:
            raise UsageStateError(f"{self!r} runs already; stop() it first")

    def _started(self) -> Process:
        if self._process is None:
            raise UsageStateError("this embedded server was not started, or is closed; call start() first")
        return self._process

    def _up(self) -> Process:
        process = self._process
        if process is None or not process.running:
            raise UsageStateError(f"{self!r} does not run; start() it first")
        return process


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _seconds(value: float, what: str) -> float:
    if verify.seconds(value, what) < _SHORTEST:
        raise UsageValueError(f"{what} {value!r} s is too short: the server counts in milliseconds")
    return float(value)


def _seconds_or_none(value: float | None, what: str) -> float | None:
    return None if value is None else _seconds(value, what)


def _port(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageTypeError(f"port must be an int, or 0 for a free one, not {value!r}")
    if not 0 <= value <= 0xFFFF:
        raise UsageValueError(f"port {value} is not between 0 (a free one) and 65535")
    return value
