"""Real ZooKeeper servers on a local JVM: one, or an ensemble, on free loopback ports.

    async with LocalServer() as server:
        async with corral.connect(server.address) as zk: ...

    async with LocalEnsemble(3) as ensemble:
        leader = await ensemble.leader()
        await leader.kill()

What is needed is Java and ZooKeeper's jars; nothing is installed or downloaded from here. Where they are
looked for: the class path in ``CORRAL_ZOOKEEPER_CLASSPATH``; Debian's and Ubuntu's package ``zookeeper``; an
unpacked Apache release in ``ZOOKEEPER_HOME``.

Nothing outlives the test run. Every way out of a method kills what it started; a server that nobody closed
is killed as the interpreter exits; and where util-linux's ``setpriv`` is installed, the kernel kills a server
whose parent was killed itself.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, Unpack

from corral.errors import UsageStateError, UsageValueError
from corral.testing._server import (
    ANSWER_TIMEOUT,
    LOOPBACK,
    POLL,
    Server,
    ServerOptions,
    ServerUnavailable,
    Settings,
    free_ports,
    patience,
    running_loop,
)
from corral.testing.peers import Peer, PeerNetwork

__all__ = ["LocalEnsemble", "LocalOptions", "LocalServer"]

_INSTALL = "apt-get install -y --no-install-recommends zookeeper"
_DEBIAN_JARS = Path("/usr/share/java")
_PORT_ATTEMPTS = 5
_STOP_TIMEOUT = 10.0
_PAST_PROXIES = {
    "reconfigEnabled": "the servers then take over their leader's configuration, with its own addresses",
    "sslQuorum": "the addresses in what servers tell each other can then not be replaced",
}
"""Settings under which servers get to know each other's own addresses, and why."""

_LOG_TAIL = 4000


class LocalOptions(ServerOptions, total=False):
    """`ServerOptions`, and ``java``: the Java to run (``JAVA_HOME``, then the search path)."""

    java: str | None


class _PortTaken(ServerUnavailable):
    """Somebody took a port between our choosing it and the server's binding it."""


class LocalServer(Server):
    """A ZooKeeper server in a local JVM: standalone, or one of a `LocalEnsemble`.

    It takes `ServerOptions`, and ``java``: the Java to run (``JAVA_HOME``, then the search path). Making one
    does nothing; `start` needs Java and ZooKeeper's jars and raises `ServerUnavailable` without them.
    """

    def __init__(self, *, java: str | None = None, **options: Unpack[ServerOptions]) -> None:
        self._java = java
        self._settings = Settings(**options)
        self._quorum: Mapping[str, str] = {}  # the lines of zoo.cfg that make it one of an ensemble
        self._network: PeerNetwork | None = None  # that of its ensemble, if that can be partitioned
        self._id: int | None = None  # its number in the ensemble
        self._port: int | None = None
        self._settled = False  # whether a start has succeeded, so that the port is for good
        self._directory: Path | None = None  # made by the first start, removed by `close`
        self._process: subprocess.Popen[bytes] | None = None  # the last one started, until it is reaped
        self._paused = False
        self._log_start = 0  # where in the log the last start begins
        self._owner = os.getpid()  # whose child the JVM is

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.running else "down"
        return f"<LocalServer {LOOPBACK}:{self._port} {state}>"

    @staticmethod
    def missing(java: str | None = None) -> str | None:
        """What this machine lacks to run one, and how to get it; None if nothing."""
        try:
            _find_java(java)
            _find_classpath()
        except ServerUnavailable as error:
            return str(error)
        return None

    @property
    def address(self) -> str:
        if self._port is None:
            raise UsageStateError("a local server has an address once it was started; call start() first")
        return f"{LOOPBACK}:{self._port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        """Whether `pause` was called, and neither `resume` nor an end came since."""
        return self._paused

    @property
    def pid(self) -> int | None:
        """The JVM's process id; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def log(self) -> str:
        """What the server has logged since it was first started; empty once it was closed."""
        return self._read_log(0)

    async def start(self, *, wait: bool = True) -> None:
        """Start the JVM, the first time or again with the data and the port that it had.

        Waits until the server serves clients, at most `start_timeout` seconds; with ``wait=False`` returns as
        soon as there is a process (of an ensemble without a quorum none serves). Raises `ServerUnavailable`,
        with the end of the log, if it does not come up. If this fails or is cancelled, nothing runs.
        """
        running_loop()
        if self.running:
            raise UsageStateError(f"{self!r} runs already; stop() it first")
        if self._id is not None:
            await _start([self], self._settings.start_timeout, wait=wait)
            return
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if not self._settled:
                self._configure(free_ports(1)[0])
            try:
                await _start([self], self._settings.start_timeout, wait=wait)
            except _PortTaken:
                if self._settled or attempt == _PORT_ATTEMPTS:
                    raise
            else:
                self._settled = True
                return

    async def stop(self) -> None:
        """End the JVM with SIGTERM and wait for it; killed after ten seconds, or when this is cancelled.

        Data and port stay. Clients see their connections closed. A paused server cannot act on SIGTERM and
        must not run on for a moment, so it is killed. Nothing happens if the server is down.
        """
        await _stop([self])

    async def kill(self) -> None:
        """End the JVM with SIGKILL. Data and port stay; clients see their connections closed.

        It is dead when this returns; there is nothing to cancel. Nothing happens if the server is down.
        """
        self._kill()

    def pause(self) -> None:
        """Freeze the JVM with SIGSTOP; when this returns, no thread of it runs.

        Its connections stay open, and the kernel goes on accepting new ones for it. `UsageStateError` if it
        is down.
        """
        self._signal(signal.SIGSTOP)
        assert self._process is not None  # _signal has seen to it
        if hasattr(os, "waitid"):  # without it the signal is merely on its way
            # WEXITED: should it have died meanwhile, this returns too. WNOWAIT leaves the reaping to Popen.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._paused = True

    def resume(self) -> None:
        """Let a paused JVM run on (SIGCONT). `UsageStateError` if it is down."""
        self._signal(signal.SIGCONT)
        self._paused = False

    def wipe(self) -> None:
        """Remove the data of a server that is down: it starts again as an empty one. `UsageStateError` if
        it runs."""
        if self.running:
            raise UsageStateError(f"{self!r} runs; stop() it before wiping its data")
        if self._directory is not None:
            shutil.rmtree(self._directory / "data", ignore_errors=True)

    async def close(self) -> None:
        """Kill the server, if it runs, and remove its data. May be called again, and after anything. There is
        nothing to cancel."""
        self._close()

    def _configure(self, port: int) -> None:
        """Take a port and write the files that the JVM is started with."""
        self._port = port
        if self._directory is None:
            # Resolved, because the server tells the path of its data and that is compared.
            self._directory = Path(tempfile.mkdtemp(prefix="corral-zookeeper-")).resolve()
            _unclosed.add(self)
        config = {
            "dataDir": str(self._directory / "data"),
            "clientPort": str(port),
            "clientPortAddress": LOOPBACK,
            **self._quorum,
            **self._settings.config(),
        }
        lines = "".join(f"{name}={value}\n" for name, value in config.items())
        (self._directory / "zoo.cfg").write_text(lines)

    def _launch(self) -> None:
        """Start the JVM, and return at once."""
        if self._directory is None:
            raise UsageStateError("a server of an ensemble has no files before start() of the ensemble")
        if self._network is not None:
            self._network.check_loop()  # in another it would look for its peers in vain
        command = [
            *_guard(),
            _find_java(self._java),
            f"-Xmx{self._settings.heap}",
            # A JVM that lives for seconds is best off with the fast compiler and the plain collector.
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xshare:auto",
            "-XX:-UsePerfData",
            # For the logger of Debian's class path; an Apache release brings and configures its own.
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
            "-Dzookeeper.root.logger=INFO,CONSOLE",
            "-Djava.net.preferIPv4Stack=true",
            *(f"-D{name}={value}" for name, value in self._settings.properties().items()),
            "-cp",
            _find_classpath(),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self._directory / "zoo.cfg"),
        ]
        data = self._directory / "data"
        data.mkdir(exist_ok=True)
        if self._id is not None:
            (data / "myid").write_text(f"{self._id}\n")
        with open(self._directory / "server.log", "ab") as log:
            self._log_start = log.tell()
            # Popen, not asyncio's: that one belongs to the event loop it was made in. A session of its own,
            # so that a Ctrl-C in the terminal interrupts the tests and not the server under them.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
            )

    async def _serves(self, timeout: float) -> bool:
        """Whether the server serves clients. Raises if it died, or if its port is somebody else's."""
        process = self._process
        if process is None:
            raise UsageStateError(f"{self!r} was stopped while it was starting")
        status = process.poll()
        log = self._read_log(self._log_start)
        if "java.net.BindException" in log:
            raise _PortTaken(self._failure("found a port in use"))
        if status is not None:
            raise ServerUnavailable(self._failure(f"ended with status {status} while starting"))
        if await self.role(timeout=timeout) is None:
            return False
        # The port may be another server's, and ours about to find out: it is ours if the data is.
        with contextlib.suppress(OSError):
            return f"dataDir={self._directory}{os.sep}" in await self.four_letter_word(
                "conf", timeout=timeout
            )
        return False

    def _failure(self, what: str) -> str:
        tail = self._read_log(self._log_start)[-_LOG_TAIL:].strip()
        return f"the local ZooKeeper {LOOPBACK}:{self._port} {what}; the end of its log:\n{tail}"

    def _read_log(self, start: int) -> str:
        if self._directory is None:
            return ""
        try:
            with open(self._directory / "server.log", "rb") as log:
                log.seek(start)
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            raise UsageStateError(f"{self!r} does not run")
        self._process.send_signal(number)

    def _kill(self) -> None:
        """End the process, paused or not, and reap it: milliseconds, with no point to be cancelled at."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._paused = False

    def _close(self) -> None:
        self._kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None
        self._port = None
        self._settled = False
        _unclosed.discard(self)


class LocalEnsemble:
    """Several `LocalServer` that replicate one tree: three, unless told otherwise.

    ``init_limit`` and ``sync_limit`` are ZooKeeper's, in ticks: how long a follower may take to join, and how
    long it may be out of touch with the leader before each gives up on the other. The rest are
    `LocalOptions`, for every server.

    With ``partitionable=True`` its servers can be cut off from each other by `partition`. Then what they say
    to each other passes through proxies in this process, in the event loop of the first `start`: use the
    ensemble in that one alone (else `UsageStateError`), and do not block it. Without, an ensemble belongs to
    no event loop.
    """

    def __init__(
        self,
        n: int = 3,
        *,
        init_limit: int = 20,
        sync_limit: int = 5,
        partitionable: bool = False,
        **options: Unpack[LocalOptions],
    ) -> None:
        if n < 2:
            raise UsageValueError(
                f"an ensemble has at least two servers, not {n}; LocalServer is a single one"
            )
        if partitionable:
            for name, why in _PAST_PROXIES.items():
                value = options.get("extra_config", {}).get(name, "false")
                if value.strip().lower() != "false":
                    raise UsageValueError(
                        f"extra_config {name}={value!r}: a partitionable ensemble cannot have it, since "
                        f"{why}; leave out that or partitionable"
                    )
        self._limits = {"initLimit": str(init_limit), "syncLimit": str(sync_limit)}
        self._partitionable = partitionable
        self._network: PeerNetwork | None = None  # made by the first start, closed by `close`
        self._servers = [LocalServer(**options) for _ in range(n)]
        for number, server in enumerate(self._servers, start=1):
            server._id = number
        self._settled = False  # whether a start has succeeded, so that the ports are for good

    def __repr__(self) -> str:
        return f"<LocalEnsemble {self._servers}>"

    @property
    def servers(self) -> list[LocalServer]:
        """The servers, running or not; each can be stopped, killed, paused, wiped and started alone."""
        return list(self._servers)

    @property
    def hosts(self) -> str:
        """Every server's address, as a connect string. `UsageStateError` before the first `start`."""
        return ",".join(server.address for server in self._servers)

    async def start(self) -> None:
        """Start the servers that are down, and wait until every one serves clients.

        Raises `ServerUnavailable` if one of them does not within `start_timeout` seconds. If this fails or is
        cancelled, what it started is killed.
        """
        running_loop()
        if self._network is not None:
            self._network.check_loop()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                if not self._settled:
                    await self._configure()
                down = [server for server in self._servers if not server.running]
                await _start(down, self._servers[0]._settings.start_timeout, wait=True)
            except BaseException as error:
                if not self._settled:
                    await self._close_network()
                if self._settled or attempt == _PORT_ATTEMPTS or not isinstance(error, _PortTaken):
                    raise
            else:
                self._settled = True
                return

    async def stop(self) -> None:
        """Shut all servers down side by side, as `LocalServer.stop` does. Cancelled, it kills them."""
        await _stop(self._servers)

    async def kill(self) -> None:
        """Kill all servers, as `LocalServer.kill` does. There is nothing to cancel."""
        for server in self._servers:
            server._kill()

    async def close(self) -> None:
        """Kill all servers and remove their data. May be called again, and after anything. Cancelled, it has
        done so; only connections between the servers of a partitionable ensemble may still be closing."""
        for server in self._servers:
            server._close()
        self._settled = False
        await self._close_network()

    @contextlib.asynccontextmanager
    async def partition(self, *servers: LocalServer) -> AsyncIterator[None]:
        """Cut these servers off from all the others, and from nothing else: clients stay attached.

            async with ensemble.partition(follower):
                ...

        Inside the block nothing passes between the two sides and nothing is closed, as when a switch between
        them is down; a server that is started meanwhile does not get through either. When it ends, what was
        withheld is delivered, as by TCP. Partitions may overlap: what any of them parts stays parted.

        Nobody is told. A follower stops serving when it has not heard of its leader for ``sync_limit`` ticks,
        and a leader when it has not heard of enough followers for that long; until then each answers what it
        can answer alone. After the block, `followers` waits until all serve under one leader.

        `UsageStateError` if the ensemble is not partitionable, or was not started; `UsageValueError` if what
        is to be cut off is none of its servers, or all of them.
        """
        if not self._partitionable:
            raise UsageStateError(
                f"{self!r} cannot be partitioned: its servers talk to each other directly; make it with "
                "LocalEnsemble(..., partitionable=True)"
            )
        numbers = {self._number_of(server) for server in servers}
        if not 0 < len(numbers) < len(self._servers):
            raise UsageValueError(
                f"a partition has servers on both sides, so at least 1 and at most {len(self._servers) - 1} "
                f"can be cut off from the others, not {len(numbers)}"
            )
        if self._network is None:
            raise UsageStateError(f"{self!r} has no network to be partitioned; call start() first")
        self._network.check_loop()
        async with self._network.partition(numbers):
            yield

    async def leader(self, timeout: float = 30.0) -> LocalServer:
        """Wait until a server leads, and return it; `ServerUnavailable` after `timeout` seconds.

        It is what running servers say of themselves: a leader that was cut off from the others says so until
        it notices. Where two say it, the one of the newer election is returned. Paused ones are not asked.
        Cancelling it is safe, as it is for `followers`: it only asks.
        """

        def newest_leader(roles: _Roles) -> LocalServer | None:
            leaders = {server: epoch for server, (epoch, role) in roles.items() if role == "leader"}
            return max(leaders, key=leaders.__getitem__, default=None)

        return await self._wait_for(newest_leader, timeout)

    async def followers(self, timeout: float = 30.0) -> list[LocalServer]:
        """Wait until every server that runs and is not paused serves under one leader; return its followers.

        `ServerUnavailable` after `timeout` seconds.
        """

        def settled_followers(roles: _Roles) -> list[LocalServer] | None:
            said = [role for _, role in roles.values()]
            if len(said) < len(self._awake()) or said.count("leader") != 1:
                return None
            return [server for server, (_, role) in roles.items() if role == "follower"]

        return await self._wait_for(settled_followers, timeout)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _configure(self) -> None:
        """Take ports for every server, and write the files that they are started with."""
        n = len(self._servers)
        ports = free_ports(3 * n)
        peers = {i + 1: Peer(ports[n + i], ports[2 * n + i]) for i in range(n)}
        if self._partitionable:
            self._network = PeerNetwork(peers)
            await self._network.open()
        for server, port in zip(self._servers, ports, strict=False):
            assert server._id is not None  # it is one of ours
            of_all = self._network.as_seen_by(server._id) if self._network is not None else peers
            server._quorum = {**self._limits, **{f"server.{i}": str(peer) for i, peer in of_all.items()}}
            server._network = self._network
            server._configure(port)

    def _number_of(self, server: LocalServer) -> int:
        if server not in self._servers:
            raise UsageValueError(f"{server!r} is none of {self!r}; choose among its .servers")
        return self._servers.index(server) + 1

    async def _close_network(self) -> None:
        if self._network is not None:
            await self._network.close()
            self._network = None

    def _awake(self) -> list[LocalServer]:
        return [server for server in self._servers if server.running and not server.paused]

    async def _wait_for(self, choose: Callable[[_Roles], _T | None], timeout: float) -> _T:
        """Ask the servers for their roles until `choose` makes something of the answers."""
        if self._network is not None:
            self._network.check_loop()  # in another they have nobody to elect
        deadline = time.monotonic() + timeout
        while True:
            awake = self._awake()
            answers = await asyncio.gather(*(server._epoch_and_role(ANSWER_TIMEOUT) for server in awake))
            roles = {server: answer for server, answer in zip(awake, answers, strict=True) if answer}
            chosen = choose(roles)
            if chosen is not None:
                return chosen
            if time.monotonic() > deadline:
                said = {server.address: role for server, (_, role) in roles.items()}
                raise ServerUnavailable(
                    f"the ensemble did not settle within {timeout:g} s: of {len(awake)} servers that run, "
                    f"those that serve are {said}"
                )
            await asyncio.sleep(POLL)


_T = TypeVar("_T")
_Roles: TypeAlias = dict[LocalServer, tuple[int, str]]
"""For each server that serves, the number of its election and its role."""


async def _start(servers: Sequence[LocalServer], timeout: float, *, wait: bool) -> None:
    """Launch servers and wait until all serve; if that fails in any way, none of them runs."""
    began = time.monotonic()
    try:
        for server in servers:
            server._launch()
        pending = list(servers) if wait else []
        while pending:
            waited = time.monotonic() - began
            pending = [server for server in pending if not await server._serves(patience(waited))]
            if pending and waited > timeout:
                raise ServerUnavailable(pending[0]._failure(f"did not serve within {timeout:g} s"))
            await asyncio.sleep(POLL if pending else 0)
    except BaseException:
        for server in servers:
            server._kill()
        raise


async def _stop(servers: Sequence[LocalServer]) -> None:
    """Let servers end in order, all at once; whatever happens, none of them runs afterwards."""
    try:
        ending = [server for server in servers if server.running and not server.paused]
        for server in ending:
            server._signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        # The processes belong to no event loop, so none tells when they end.
        while any(server.running for server in ending) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
    finally:
        for server in servers:
            server._kill()


def _find_java(java: str | None) -> str:
    if java is None:
        home = os.environ.get("JAVA_HOME")
        java = str(Path(home, "bin", "java")) if home else "java"
    found = shutil.which(java)
    if found is None:
        raise ServerUnavailable(
            f"there is no Java to run at {java!r}; install one, with ZooKeeper: {_INSTALL}"
        )
    return found


def _find_classpath() -> str:
    """The class path of a ZooKeeper server, with a logger that writes to the console."""
    classpath = os.environ.get("CORRAL_ZOOKEEPER_CLASSPATH")
    if classpath:
        return classpath
    # Debian's jar names those that it needs in its manifest, all but a logger.
    debian = [_DEBIAN_JARS / "zookeeper.jar", _DEBIAN_JARS / "slf4j-simple.jar"]
    if all(jar.exists() for jar in debian):
        return os.pathsep.join(map(str, debian))
    home = os.environ.get("ZOOKEEPER_HOME")
    if home and any(Path(home, "lib").glob("zookeeper-*.jar")):
        return os.pathsep.join((str(Path(home, "conf")), str(Path(home, "lib", "*"))))
    raise ServerUnavailable(
        f"there are no jars of ZooKeeper in {_DEBIAN_JARS} or $ZOOKEEPER_HOME/lib; install them: {_INSTALL}; "
        "or set CORRAL_ZOOKEEPER_CLASSPATH"
    )


def _guard() -> list[str]:
    """The command that has the kernel kill the server when our process dies, where there is one.

    "Our process" is to the kernel the thread that starts the child, so this is for the main thread alone: a
    server started from a passing thread would die with that thread.
    """
    return _setpriv() if threading.current_thread() is threading.main_thread() else []


@functools.cache
def _setpriv() -> list[str]:
    found = shutil.which("setpriv") if sys.platform == "linux" else None
    if found is None:
        return []
    command = [found, "--pdeathsig", "KILL", "--"]
    # Tried, because BusyBox has a setpriv without this option.
    tried = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True)
    return command if tried.returncode == 0 else []


_unclosed: set[LocalServer] = set()
"""Servers whose `close` is still due: kept alive here, so that none is garbage while its JVM runs."""


@atexit.register
def _close_forgotten() -> None:
    for server in list(_unclosed):
        if server._owner == os.getpid():  # not in a fork of the process that started it
            server._close()
