"""Curator, in a JVM of its own (`CuratorPeer.java`), for tests that stand in one line with it.

The process outlives the event loops of the tests that use it, so it is read by a thread, which resolves whoever waits
for an answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from corral.testing import LocalServer
from corral.testing.servers.jvm import find_java
from support import PATIENCE

SOURCE = Path(__file__).with_name("CuratorPeer.java")
JARS = Path("/usr/share/java")
INSTALL = "apt-get install -y --no-install-recommends libcurator-recipes-java default-jdk-headless"

_STOP_TIMEOUT = 10.0


def missing() -> str | None:
    """What Curator lacks here; None if it can run."""
    if java := LocalServer.missing():
        return java
    if shutil.which(_javac()) is None:
        return f"there is no Java compiler at {_javac()!r}; install one: {INSTALL}"
    if not (JARS / "curator-recipes.jar").exists():
        return f"there is no curator-recipes.jar in {JARS}; install it: {INSTALL}"
    return None


def compiled(into: Path) -> str:
    """The class path of `CuratorPeer`, compiled into a folder."""
    # Debian's jar names those that it needs in its manifest, all but a logger.
    jars = [str(JARS / name) for name in ("curator-recipes.jar", "slf4j-simple.jar")]
    compiler = [_javac(), "-nowarn", "-cp", os.pathsep.join(jars), "-d", str(into), str(SOURCE)]
    done = subprocess.run(compiler, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return os.pathsep.join([*jars, str(into)])


def _javac() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "javac")) if home else "javac"


class Curator:
    """Curator's recipes in a process that is connected to a server; it ends with the context."""

    def __init__(self, classpath: str, address: str) -> None:
        self._ids = itertools.count(1)
        self._waiting: dict[str, concurrent.futures.Future[list[str]]] = {}
        self._guard = threading.Lock()  # of what waits: the reader must not end between a look and an entry
        self._ended = False
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process runs
        connected = self._expect("connected")
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        java = [find_java(None), "-XX:TieredStopAtLevel=1", quiet]
        self._process = subprocess.Popen(
            [*java, "-cp", classpath, "CuratorPeer", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            connected.result(2 * PATIENCE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process, and with its session what it holds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # at which it ends
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOP_TIMEOUT)
        self._process.stdout.close()
        self._log.close()

    async def mutex(self, path: str) -> Recipe:
        """An `InterProcessMutex`."""
        return await self._make("mutex", path)

    async def read(self, path: str) -> Recipe:
        """The read lock of an `InterProcessReadWriteLock`."""
        return await self._make("read", path)

    async def write(self, path: str) -> Recipe:
        """The write lock of an `InterProcessReadWriteLock`."""
        return await self._make("write", path)

    async def semaphore(self, path: str, limit: int) -> Recipe:
        """An `InterProcessSemaphoreV2`; `release` returns the lease that was acquired last."""
        return await self._make("semaphore", path, str(limit))

    async def latch(self, path: str, id: str) -> Recipe:
        """A `LeaderLatch`: `acquire` starts it and waits to lead, `release` closes it."""
        return await self._make("latch", path, id)

    async def member(self, path: str, id: str, data: str) -> Recipe:
        """A `GroupMember`: `acquire` starts it, `release` closes it; `participants` are all members, as id=data."""
        return await self._make("member", path, id, data)

    async def node(self, path: str, data: str) -> Recipe:
        """An ephemeral `PersistentNode`: `acquire` starts it and waits until it exists, `release` closes it."""
        return await self._make("node", path, data)

    async def _make(self, kind: str, *arguments: str) -> Recipe:
        handle = f"{kind}{next(self._ids)}"
        await self.tell(handle, kind, *arguments)
        return Recipe(self, handle)

    async def tell(self, handle: str, *words: str) -> list[str]:
        """Send a command, and wait for what it answers."""
        id = str(next(self._ids))
        answer = self._expect(id)
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join((id, handle, *words)) + "\n")
        async with asyncio.timeout(PATIENCE):
            return await asyncio.wrap_future(answer)

    def _expect(self, id: str) -> concurrent.futures.Future[list[str]]:
        future: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()  # whoever waits may go, and it will still be answered
        with self._guard:
            assert not self._ended, "Curator's process has ended"
            self._waiting[id] = future
        return future

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            id, outcome, *words = line.removesuffix("\n").split("\t")
            with self._guard:
                future = self._waiting.pop(id)
            if outcome == "ok":
                future.set_result(words)
            else:
                future.set_exception(CuratorError(" ".join(words)))
        with self._guard:
            self._ended = True
            left = list(self._waiting.values())
        if left:
            self._log.seek(0)
            error = CuratorError(f"its process has ended: {self._log.read()[-2000:]}")
            for future in left:
                future.set_exception(error)


class CuratorError(Exception):
    """What Curator raised, or that its process has ended."""


class Recipe:
    """One recipe of Curator's. What is told to one is done in order; `acquire` keeps no other from answering."""

    def __init__(self, curator: Curator, handle: str) -> None:
        self._curator = curator
        self._handle = handle

    async def acquire(self) -> None:
        """Wait for it. To be cancelled does not reach Curator, which goes on waiting."""
        await self._curator.tell(self._handle, "acquire")

    async def try_acquire(self) -> bool:
        """Take it if it can be had at once, and say whether; not of a latch."""
        return await self._curator.tell(self._handle, "try") == ["true"]

    async def release(self) -> None:
        """Give it up."""
        await self._curator.tell(self._handle, "release")

    async def __aenter__(self) -> Recipe:
        await self.acquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()

    async def participants(self) -> list[str]:
        """Who holds and who waits, in order: the paths of their nodes, or a latch's ids."""
        return await self._curator.tell(self._handle, "participants")

    async def leader(self) -> str:
        """The id of the latch that leads."""
        [id] = await self._curator.tell(self._handle, "leader")
        return id
