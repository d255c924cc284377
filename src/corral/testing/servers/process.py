"""The process of one local server, with its directory, its port and its log; and starting and stopping
several.

A process never outlives the test run. Each way out of a function here kills what it started; a server that
nobody closed is killed as the interpreter exits; and where util-linux's ``setpriv`` is installed, the kernel
kills a server whose parent was killed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from corral.errors import UsageStateError
from corral.testing.network import LOOPBACK

from .base import (
    POLL,
    ServerStatus,
    ServerUnavailable,
    Settings,
    answer_timeout,
    four_letter_word,
)
from .jvm import server_command
from .ports import free_ports
from .secure import SecurePort

__all__ = ["PortTaken", "ServerProcess", "start_all", "stop_all"]

_STOP_TIMEOUT = 10.0
"""Seconds that a server has to end after SIGTERM; then it is killed."""

_LOG_TAIL = 4000
"""Characters of the log in an error message."""


class PortTaken(ServerUnavailable):
    """Another process bound a port between our choosing it and the server's binding it."""


class ServerProcess:
    """A server's JVM and its files. The process may end and be launched again; the files stay until
    `close`."""

    def __init__(
        self,
        settings: Settings,
        java: str | None,
        number: int | None = None,
        *,
        secure: SecurePort | None = None,
    ) -> None:
        """`number` is the server's id in its ensemble; None for a standalone server."""
        self.settings = settings
        self.port: int | None = None
        """Where clients connect; None until `configure`."""
        self.directory: Path | None = None
        """Created by the first `configure`, removed by `close`."""
        self.secure_port: int | None = None
        """Where clients connect with TLS; None until `configure`, or if there is no such port."""
        self.paused = False
        self.classpath: str | None = None
        """The class path of the next launch; None for the one that is found on this machine."""
        self._java = java
        self._number = number
        self._secure = secure
        self._process: subprocess.Popen[bytes] | None = None  # the last one launched, until it is reaped
        self._log_start = 0  # offset in the log where the last launch begins
        self._owner = os.getpid()  # the parent of the JVM; a fork of it must not kill the JVM

    def __repr__(self) -> str:
        state = "paused" if self.paused else "running" if self.running else "down"
        return f"<LocalServer {LOOPBACK}:{self.port} {state}>"

    @property
    def address(self) -> str:
        """Where clients connect; `UsageStateError` before `configure`."""
        if self.port is None:
            raise UsageStateError("a local server has no address before its first start; call start() first")
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The JVM's process id; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self.pid is not None

    @property
    def log(self) -> str:
        """Everything that the server has logged; empty once it is closed."""
        return self._read_log(0)

    def check_down(self) -> None:
        """Raise `UsageStateError` if the server runs."""
        if self.running:
            raise UsageStateError(f"{self!r} runs already; stop() it first")

    def configure(
        self, port: int, quorum: Mapping[str, str] | None = None, *, members: Sequence[str] | None = None
    ) -> None:
        """Set the client port, and write ``zoo.cfg``; `quorum` has the entries that are about an ensemble.
        With `members`, lines that have their client addresses, too, these are configured dynamically."""
        self.port = port
        if self.directory is None:
            # Resolved, because the server reports the path of its data and `serves` compares it.
            self.directory = Path(tempfile.mkdtemp(prefix="corral-zookeeper-")).resolve()
            _unclosed.add(self)
        addresses = {"clientPort": str(port), "clientPortAddress": LOOPBACK}
        if members is not None:
            dynamic = self.directory / "zoo.cfg.dynamic"
            dynamic.write_text("".join(f"{member}\n" for member in members))
            addresses = {"dynamicConfigFile": str(dynamic)}
        config = {
            "dataDir": str(self.directory / "data"),
            **addresses,
            **(quorum or {}),
            **self.settings.config(),
        }
        if self._secure is not None:
            self.secure_port = free_ports(1)[0]
            config |= self._secure.config(self.secure_port, LOOPBACK)
        lines = "".join(f"{name}={value}\n" for name, value in config.items())
        (self.directory / "zoo.cfg").write_text(lines)

    def launch(self) -> None:
        """Start the JVM and return at once; `UsageStateError` before `configure`."""
        if self.directory is None:
            raise UsageStateError(
                "a server of an ensemble has no configuration before the ensemble starts; call start() of "
                "the ensemble first"
            )
        command = server_command(self._java, self.settings, self.directory / "zoo.cfg", self.classpath)
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        if self._number is not None:
            (data / "myid").write_text(f"{self._number}\n")
        with open(self.directory / "server.log", "ab") as log:
            self._log_start = log.tell()
            # Popen, because asyncio's subprocesses belong to the event loop that made them. The process gets
            # a session of its own, so that Ctrl-C in the terminal interrupts the tests and not their servers.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )

    async def serves(self, timeout: float) -> bool:
        """Whether the server serves clients. Raises if the process ended, or if the port belongs to
        another."""
        process = self._process
        if process is None:
            raise UsageStateError(f"{self!r} was stopped while it was starting; call start() again")
        status = process.poll()
        if "java.net.BindException" in self._read_log(self._log_start):
            raise PortTaken(self.failure("found a port in use"))
        if status is not None:
            raise ServerUnavailable(self.failure(f"ended with status {status} while starting"))
        with contextlib.suppress(OSError):
            if ServerStatus.parse(await four_letter_word(self.address, "srvr", timeout)) is None:
                return False
            # Another server may listen on the port, and ours be about to find out. Only ours has our data.
            conf = await four_letter_word(self.address, "conf", timeout)
            return f"dataDir={self.directory}{os.sep}" in conf
        return False

    def failure(self, what: str) -> str:
        """An error message about this server, with the end of its log."""
        tail = self._read_log(self._log_start)[-_LOG_TAIL:].strip()
        return f"the local ZooKeeper {LOOPBACK}:{self.port} {what}; the end of its log:\n{tail}"

    def _read_log(self, start: int) -> str:
        if self.directory is None:
            return ""
        try:
            with open(self.directory / "server.log", "rb") as log:
                log.seek(start)
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def signal(self, number: signal.Signals) -> None:
        """Send the JVM a signal; `UsageStateError` if it is down."""
        if self._process is None or self._process.poll() is not None:
            raise UsageStateError(f"{self!r} does not run; start() it first")
        self._process.send_signal(number)

    def pause(self) -> None:
        """Stop the JVM with SIGSTOP, and wait until no thread of it runs."""
        self.signal(signal.SIGSTOP)
        assert self._process is not None  # `signal` has checked it
        if hasattr(os, "waitid"):  # where it is missing, the signal may not have taken effect yet
            # WEXITED: if the process has died, this returns too. WNOWAIT leaves the reaping to Popen.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.paused = True

    def resume(self) -> None:
        """Let a paused JVM continue, with SIGCONT."""
        self.signal(signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        """End the process, paused or not, and reap it. This takes milliseconds, and cannot be cancelled."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self.paused = False

    def wipe(self) -> None:
        """Remove the data of a server that is down."""
        if self.running:
            raise UsageStateError(f"{self!r} runs; stop() it before wiping its data")
        if self.directory is not None:
            shutil.rmtree(self.directory / "data", ignore_errors=True)

    def close(self) -> None:
        """Kill the process, and remove all files. May be called repeatedly."""
        self.kill()
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.directory = None
        self.port = self.secure_port = None
        _unclosed.discard(self)

    def close_at_exit(self) -> None:
        """`close`, unless this is a fork of the process that launched the JVM."""
        if self._owner == os.getpid():
            self.close()


async def start_all(servers: Sequence[ServerProcess], timeout: float, *, wait: bool = True) -> None:
    """Launch servers; with `wait`, wait until all of them serve. If this fails or is cancelled, none runs."""
    began = time.monotonic()
    try:
        for server in servers:
            server.launch()
        pending = list(servers) if wait else []
        while pending:
            elapsed = time.monotonic() - began
            pending = [server for server in pending if not await server.serves(answer_timeout(elapsed))]
            if pending and elapsed > timeout:
                raise ServerUnavailable(pending[0].failure(f"did not serve within {timeout:g} s"))
            await asyncio.sleep(POLL if pending else 0)
    except BaseException:
        for server in servers:
            server.kill()
        raise


async def stop_all(servers: Sequence[ServerProcess]) -> None:
    """Shut servers down in parallel, with SIGTERM. However this ends, none of them runs afterwards."""
    try:
        ending = [server for server in servers if server.running and not server.paused]
        for server in ending:
            server.signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        # Polled, because the processes belong to no event loop, and none reports their end.
        while any(server.running for server in ending) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
    finally:
        for server in servers:
            server.kill()


_unclosed: set[ServerProcess] = set()
"""Servers to close at exit. It keeps them alive, so that none is collected while its JVM runs."""


@atexit.register
def _close_forgotten() -> None:
    for server in list(_unclosed):
        server.close_at_exit()
