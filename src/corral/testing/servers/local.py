"""A real ZooKeeper server on a local JVM, on a free loopback port.

    async with LocalServer() as server:
        async with corral.connect(server.address) as zk: ...

It needs Java and ZooKeeper's jars: `corral.testing.servers.jvm` says where they are looked for. It does not
outlive the test run, even if nobody closes it.
"""

from __future__ import annotations

from typing import Unpack

from corral.errors import UsageStateError
from corral.testing.event_loop import running_loop
from corral.testing.network import LOOPBACK

from .base import Server, ServerOptions, ServerUnavailable, Settings
from .jvm import find_classpath, find_java
from .ports import PORT_ATTEMPTS, free_ports
from .process import PortTaken, ServerProcess, start_all, stop_all
from .secure import SecurePort

__all__ = ["LocalOptions", "LocalServer"]


class LocalOptions(ServerOptions, total=False):
    """`ServerOptions`, and:

    - ``java``: the Java to run (default: ``JAVA_HOME``, then the search path).
    - ``classpath``: the class path of the ZooKeeper to run (default: the one that is found; see
      `corral.testing.servers.jvm`).
    - ``secure``: a second port, for TLS; see `SecurePort`.
    """

    java: str | None
    classpath: str | None
    secure: SecurePort | None


class LocalServer(Server):
    """A ZooKeeper server in a local JVM: standalone, or a member of a `LocalEnsemble`.

    It takes `LocalOptions`. The constructor starts nothing; `start` raises `ServerUnavailable` without Java
    and ZooKeeper's jars.
    """

    def __init__(
        self,
        *,
        java: str | None = None,
        classpath: str | None = None,
        secure: SecurePort | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._process = ServerProcess(Settings(**options), java, secure=secure)
        self._process.classpath = classpath
        self._port_is_final = False  # true once a start has succeeded

    def __repr__(self) -> str:
        return repr(self._process)

    @staticmethod
    def missing(java: str | None = None) -> str | None:
        """What this machine lacks to run one, and how to install it; None if nothing is missing."""
        try:
            find_java(java)
            find_classpath()
        except ServerUnavailable as error:
            return str(error)
        return None

    @property
    def address(self) -> str:
        """Where clients connect, as ``host:port``. It never changes. `UsageStateError` before the first
        `start`."""
        return self._process.address

    @property
    def classpath(self) -> str | None:
        """The class path of the ZooKeeper that the next `start` runs; None for the one that is found on this
        machine. Setting it between `stop` and `start` upgrades the server, or takes it back."""
        return self._process.classpath

    @classpath.setter
    def classpath(self, value: str | None) -> None:
        self._process.classpath = value

    @property
    def secure_address(self) -> str:
        """Where clients connect with TLS. `UsageStateError` before the first `start`, and without
        ``secure=``."""
        port = self._process.secure_port
        if port is None:
            raise UsageStateError(
                "this server has no port for TLS, or has not started; make it with LocalServer(secure=...), "
                "and call start() first"
            )
        return f"{LOOPBACK}:{port}"

    @property
    def running(self) -> bool:
        """Whether the JVM runs; a paused one counts."""
        return self._process.running

    @property
    def paused(self) -> bool:
        """Whether the server is paused."""
        return self._process.paused

    @property
    def pid(self) -> int | None:
        """The JVM's process id; None while it does not run."""
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything that the server has logged since its first start; empty once it is closed."""
        return self._process.log

    async def start(self, *, wait: bool = True) -> None:
        """Start the JVM, for the first time or again with its data and its port.

        Waits until the server serves clients, at most `start_timeout` seconds. With ``wait=False``, returns
        as soon as the process exists; a member of an ensemble without a quorum does not serve. Raises
        `ServerUnavailable`, with the end of the log, if the server does not start, and `UsageStateError` if
        it runs already. If this fails or is cancelled, nothing runs.
        """
        running_loop()
        self._process.check_down()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if not self._port_is_final:
                self._process.configure(free_ports(1)[0])
            try:
                await start_all([self._process], self._process.settings.start_timeout, wait=wait)
            except PortTaken:
                if self._port_is_final or attempt == PORT_ATTEMPTS:
                    raise
            else:
                self._port_is_final = True
                return

    async def stop(self) -> None:
        """End the JVM with SIGTERM and wait for it; it is killed after ten seconds, or if this is cancelled.

        It keeps its data and its port. Clients see their connections closed. A paused server is killed: it
        cannot act on SIGTERM, and must not be resumed for it. Nothing happens if the server is down.
        """
        await stop_all([self._process])

    async def kill(self) -> None:
        """End the JVM with SIGKILL. It keeps its data and its port; clients see their connections closed.

        When this returns, the process is dead. It does not wait, so it cannot be cancelled. Nothing happens
        if the server is down.
        """
        self._process.kill()

    def pause(self) -> None:
        """Freeze the JVM with SIGSTOP; when this returns, no thread of it runs.

        Its connections stay open, and the kernel accepts new ones for it. `UsageStateError` if it is down.
        """
        self._process.pause()

    def resume(self) -> None:
        """Let a paused JVM continue (SIGCONT). `UsageStateError` if it is down."""
        self._process.resume()

    def wipe(self) -> None:
        """Remove the data of a server that is down, so that it starts empty. `UsageStateError` if it runs."""
        self._process.wipe()

    async def close(self) -> None:
        """Kill the server, if it runs, and remove its data. May be called repeatedly and in any state. It
        does not wait, so it cannot be cancelled."""
        self._process.close()
        self._port_is_final = False
