"""The embedded server: `ZooKeeper` on a port, in the event loop of a test or on a thread of its own.

    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        ...

    with EmbeddedServer(thread=True) as server:  # for clients that block, and for several event loops
        KazooClient(server.address).start()

It speaks the real protocol, so clients in any language can connect. It is a single server, in memory: nodes
and sessions survive a restart, but not `EmbeddedServer.close`.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from corral import verify
from corral.errors import UsageStateError, UsageTypeError, UsageValueError
from corral.testing.event_loop import running_loop
from corral.testing.network import LOOPBACK
from corral.testing.servers.base import ANSWER_TIMEOUT, Server
from corral.wire.framing import DEFAULT_MAX_REQUEST

from .loop_host import CallersLoop, LoopHost, ThreadLoop
from .process import Process
from .releases import RELEASES, Release
from .zookeeper import Config, ZooKeeper

__all__ = ["EmbeddedServer"]

_SHORTEST = 0.001
"""The server measures time in milliseconds."""


class EmbeddedServer(Server):
    """A ZooKeeper server without a JVM, a process or a disk: standalone, in memory, on a loopback port.

    All times are in seconds.

    - `tick_time` (0.5): ZooKeeper's clock. Sessions expire in steps of it.
    - `min_session_timeout`, `max_session_timeout` (2 and 20 ticks): the bounds of session timeouts.
    - `container_check_interval` (0.5): how often empty containers and expired TTL nodes are removed.
    - `extended_types` (True): whether TTL nodes can be created.
    - `jute_maxbuffer` (ZooKeeper's, 1 MiB): the largest frame, in bytes.
    - `version` ("3.8"): the ZooKeeper release to behave like, where releases differ: "3.8", "3.9", or
      "3.4", "3.5" or "3.6", which lack the requests that later releases added, such as those for persistent
      watches, and send events of nodes that the watcher may not read.
    - `read_only` (False): whether it serves only reads, like a server that has lost its quorum.
    - `seed`: makes session ids and passwords the same in each run.
    - `ssl`: a context for servers; the port is then one for TLS. Client certificates that it verifies are no
      identities here.
    - `sasl` (None): users and their secrets, such as ``{"user": "secret"}``, who can authenticate by SASL's
      DIGEST-MD5, and whom entries of the scheme ``sasl`` in an ACL are about.
    - `require_sasl` (False): whether connections that have not authenticated by SASL are refused, as with
      ZooKeeper's ``sessionRequireClientSASLAuth``.
    - `host`, `port` (a free port): the address that it listens on.
    - `thread` (False): whether it runs on a thread of its own. Its methods may then be called from any event
      loop, and ``with`` works like ``async with``. Otherwise it belongs to the loop that started it.

    ``async with`` starts it; on leaving, it is killed. It injects no faults itself: use a `FaultProxy` in
    front of it, as for a real server. `stop`, `kill`, `pause` and `expire` are what can happen to the
    server's process.

    It works in a `VirtualLoop`, without real sockets. If its event loop is closed while it runs, it is down.
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
        version: Release = "3.8",
        read_only: bool = False,
        seed: int | None = None,
        ssl: tls.SSLContext | None = None,
        sasl: Mapping[str, str] | None = None,
        require_sasl: bool = False,
        host: str = LOOPBACK,
        port: int = 0,
        thread: bool = False,
    ) -> None:
        if version not in RELEASES:
            raise UsageValueError(f"version must be one of {', '.join(map(repr, RELEASES))}, not {version!r}")
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
            sasl=_users(sasl),
            require_sasl=verify.flag(require_sasl, "require_sasl"),
        )
        if require_sasl and sasl is None:
            raise UsageValueError("require_sasl would refuse everyone; pass the users, in sasl")
        least, most = self._config.least_timeout, self._config.most_timeout
        if least > most:
            raise UsageValueError(
                f"no session could have a timeout of at least {least:g} s and at most {most:g} s; change "
                "min_session_timeout or max_session_timeout, which are 2 and 20 ticks if not given"
            )
        self._tls = _server_context(ssl)
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
        """Where clients connect, as ``host:port``. It never changes. `UsageStateError` before the first
        `start`."""
        port = self._started().port
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    @property
    def running(self) -> bool:
        """Whether the server is up; a paused one counts."""
        return self._process is not None and self._process.running

    @property
    def paused(self) -> bool:
        """Whether the server is paused."""
        return self._process is not None and self._process.running and self._process.paused

    @property
    def zookeeper(self) -> ZooKeeper:
        """The server's core: its tree, sessions and watches, for a test to inspect. It is internal, and may
        change in any release. With ``thread=True``, read it only while no client is active."""
        return self._started().core

    async def start(self) -> None:
        """Start to listen, for the first time or again with its data and its port.

        `ServerUnavailable` if the port is taken, `UsageStateError` if it runs already. If this fails or is
        cancelled, the server is down.
        """
        running_loop()
        self._check_down()
        try:
            await self._loop_host.run(self._start)
        except BaseException:
            self._undo_start()
            raise

    async def stop(self) -> None:
        """Close all connections and the port. It keeps its data and its port.

        Buffered answers are sent as far as clients read them at once; a paused server sends nothing. If
        cancelled, it is killed instead. Nothing happens if it is down.
        """
        await self._end(abort=False)

    async def kill(self) -> None:
        """Close all connections and the port at once. It keeps its data and its port.

        If cancelled, it is killed all the same. Nothing happens if it is down.
        """
        await self._end(abort=True)

    def pause(self) -> None:
        """Freeze the server: connections stay open, new ones are accepted, nothing is answered and nothing
        expires."""
        process = self._up()
        self._loop_host.call(process.pause)

    def resume(self) -> None:
        """Let a paused server continue. What has expired meanwhile expires first."""
        process = self._up()
        if process.paused:
            self._loop_host.call(process.resume)

    async def expire(self, session_id: int) -> None:
        """End a session as if it had expired: its connection is closed, and its ephemerals are deleted.

        `UsageValueError` if there is no such session, `UsageStateError` if the server is paused or down. It
        does not wait, so it cannot be cancelled.
        """
        process = self._up()
        if process.paused:
            raise UsageStateError(f"{self!r} cannot expire a session; resume() it first")
        if not self._loop_host.call(partial(process.expire, session_id)):
            raise UsageValueError(f"there is no session 0x{session_id:x}; Client.session_id has a client's")

    def reconfigure(self, members: Sequence[str]) -> None:
        """Set the ensemble's configuration to these members, such as
        ``"server.1=zk1:2888:3888:participant;zk1:2181"``, for clients that follow the members.

        A server of an ensemble has them in ``/zookeeper/config``; this one is standalone, so it has none
        otherwise, and a client cannot change them. `UsageStateError` if the server is paused or down.
        """
        process = self._up()
        if process.paused:
            raise UsageStateError(f"{self!r} cannot be reconfigured; resume() it first")
        self._loop_host.call(partial(process.reconfigure, tuple(members)))

    async def close(self) -> None:
        """Kill the server, if it runs, and remove its data. May be called repeatedly and in any state. If
        cancelled, the server is killed all the same; call it again to remove its data."""
        try:
            await self.kill()
        finally:
            if not self.running:  # it still runs if this was called in the wrong loop
                self._process = None
                self._loop_host.close()

    async def four_letter_word(self, word: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        """Return the answer to a four letter word, without a connection. Raises `ConnectionRefusedError` if
        the server is down, and `TimeoutError`, at once, if it is paused. It does not wait, so it cannot be
        cancelled."""
        process = self._started()
        if not process.running:
            raise ConnectionRefusedError(f"{self!r} does not run; start() it first")
        if process.paused:
            raise TimeoutError(f"{self!r} does not answer; resume() it first")
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

    # Internals

    async def _start(self) -> None:
        process = self._process or Process(self._config, self._wanted_port, self._tls)
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
        """End the process. On a thread, a job that was cancelled here may not have begun, or may be done."""
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


def _server_context(value: tls.SSLContext | None) -> tls.SSLContext | None:
    if value is not None and not isinstance(value, tls.SSLContext):
        raise UsageTypeError(f"ssl must be an ssl.SSLContext, or None for no TLS, not {value!r}")
    if value is not None and value.protocol == tls.PROTOCOL_TLS_CLIENT:
        raise UsageValueError(
            "ssl is a context for clients; make one for servers: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)"
        )
    return value


def _users(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise UsageTypeError(f"sasl must be a dict of users and secrets, not {type(value).__name__}")
    for user, secret in value.items():
        if not verify.text(user, "a user in sasl") or "@" in user:
            raise UsageValueError(
                "a user in sasl is empty or contains an '@', which separates Kerberos' realm"
            )
        verify.text(secret, "a secret in sasl")
    return dict(value)


def _seconds(value: float, what: str) -> float:
    if verify.seconds(value, what) < _SHORTEST:
        raise UsageValueError(
            f"{what} {value!r} s is too short: the server counts in milliseconds; give 0.001 or more"
        )
    return float(value)


def _seconds_or_none(value: float | None, what: str) -> float | None:
    return None if value is None else _seconds(value, what)


def _port(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageTypeError(f"port must be an int, or 0 for a free one, not {value!r}")
    if not 0 <= value <= 0xFFFF:
        raise UsageValueError(f"port {value} is not between 0 (a free one) and 65535")
    return value
