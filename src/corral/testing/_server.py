"""What every real ZooKeeper server offers to a test, wherever it runs; and the question put to it.

A server here is an object of the test, not of an event loop: it may be started in one loop and stopped from
another, as a fixture of the test session does. So nothing in it holds a future, a transport or a lock of
asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from corral.errors import CorralError, UsageStateError

__all__ = ["Server", "ServerOptions", "ServerUnavailable", "four_letter_word", "free_ports", "running_loop"]

LOOPBACK = "127.0.0.1"

ANSWER_TIMEOUT = 2.0
"""Seconds within which a server that serves has answered a four letter word."""

POLL = 0.02
"""Seconds between two looks at a server that is starting or electing: nothing outside it tells."""


def patience(waited: float) -> float:
    """How long, in seconds, to wait for the answer of a server that has been starting for `waited` seconds.

    A ZooKeeper that has just opened its port may leave a question without an answer for good. So it is asked
    anew soon; but of a machine on which all takes long, answers may take long.
    """
    return min(max(0.2, waited / 4), ANSWER_TIMEOUT)


_LOWEST_PORT = 10_000
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_DEFAULT = 32_768


class ServerUnavailable(CorralError):
    """A server for tests cannot be had, or did not come up; the message says what to do about it."""


class ServerOptions(TypedDict, total=False):
    """How a server is configured. All times are in seconds; what is left out has the default in brackets.

    - ``tick_time`` (0.5): ZooKeeper's clock. Sessions are expired in steps of it, so a short one makes tests
      fast; ZooKeeper's own sample configuration has 2.
    - ``min_session_timeout``, ``max_session_timeout`` (2 and 20 ticks): what clients may ask for.
    - ``container_check_interval`` (0.5): how often empty containers and outlived TTL nodes are removed.
    - ``extended_types`` (True): whether TTL nodes can be made.
    - ``jute_maxbuffer`` (ZooKeeper's, 1 MiB): the largest frame, in bytes.
    - ``fsync`` (False): whether transactions are forced to disk. A killed process loses nothing without it.
    - ``heap`` ("256m"): the JVM's largest heap.
    - ``start_timeout`` (60): how long starting may take.
    - ``extra_config``: lines for ``zoo.cfg``; they win over what is set here.
    - ``java_properties``: system properties of the JVM, as ``-Dname=value``.
    """

    tick_time: float
    min_session_timeout: float | None
    max_session_timeout: float | None
    container_check_interval: float
    extended_types: bool
    jute_maxbuffer: int | None
    fsync: bool
    heap: str
    start_timeout: float
    extra_config: Mapping[str, str]
    java_properties: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`ServerOptions` with their defaults, in ZooKeeper's words."""

    tick_time: float = 0.5
    min_session_timeout: float | None = None
    max_session_timeout: float | None = None
    container_check_interval: float = 0.5
    extended_types: bool = True
    jute_maxbuffer: int | None = None
    fsync: bool = False
    heap: str = "256m"
    start_timeout: float = 60.0
    extra_config: Mapping[str, str] = field(default_factory=dict)
    java_properties: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, str]:
        """The lines of ``zoo.cfg``, but for where the server is and who its fellows are."""
        config = {
            "tickTime": _milliseconds(self.tick_time),
            "4lw.commands.whitelist": "*",
            "admin.enableServer": "false",
            "maxClientCnxns": "0",
            "extendedTypesEnabled": str(self.extended_types).lower(),
            "forceSync": "yes" if self.fsync else "no",
            "preAllocSize": "64",
        }
        if self.min_session_timeout is not None:
            config["minSessionTimeout"] = _milliseconds(self.min_session_timeout)
        if self.max_session_timeout is not None:
            config["maxSessionTimeout"] = _milliseconds(self.max_session_timeout)
        return config | dict(self.extra_config)

    def properties(self) -> dict[str, str]:
        """What ZooKeeper reads from the JVM's system properties alone."""
        properties = {"znode.container.checkIntervalMs": _milliseconds(self.container_check_interval)}
        if self.jute_maxbuffer is not None:
            properties["jute.maxbuffer"] = str(self.jute_maxbuffer)
        return properties | dict(self.java_properties)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


class Server(ABC):
    """A real ZooKeeper server that a test starts, stops, kills and pauses.

    ``async with`` starts it, and on leaving kills it and removes its data. Its methods may be called from any
    event loop, from one task at a time.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients connect, as ``host:port``; the same for its whole life. `UsageStateError` before
        the first `start`."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""

    @abstractmethod
    async def start(self) -> None:
        """Start it, the first time or again with its data, and wait until it serves.

        Raises `ServerUnavailable` if it does not come up. If this fails or is cancelled, the server is down.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Shut the server down in order. Its data and its port stay. Cancelled, it is killed instead."""

    @abstractmethod
    async def kill(self) -> None:
        """End the server at once, without a shutdown. Its data and its port stay. Cancelled, it is killed
        all the same."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: its connections stay open, the kernel accepts new ones, and nothing is answered."""

    @abstractmethod
    def resume(self) -> None:
        """Let a paused server run on."""

    @abstractmethod
    async def close(self) -> None:
        """Kill the server, if it runs, and remove its data. May be called again, and after anything.
        Cancelled, the server is killed all the same, but its data may stay: call it again."""

    async def four_letter_word(self, word: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        """Ask with one of ZooKeeper's four letter words: ``srvr``, ``mntr``, ``cons``, ``dump``...

        Raises `OSError` where nobody listens, and `TimeoutError` if the answer takes over `timeout` seconds.
        Cancelling it is safe, as it is for `role`: the connection is closed.
        """
        return await four_letter_word(self.address, word, timeout)

    async def role(self, *, timeout: float = ANSWER_TIMEOUT) -> str | None:
        """What the server says that it is: ``standalone``, ``leader``, ``follower``, ``observer`` or
        ``read-only``; None while it does not serve, or does not answer within `timeout` seconds."""
        epoch_and_role = await self._epoch_and_role(timeout)
        return None if epoch_and_role is None else epoch_and_role[1]

    async def _epoch_and_role(self, timeout: float) -> tuple[int, str] | None:
        """The number of the newest leadership that the server has seen transactions of, and its `role`."""
        try:
            answer = await self.four_letter_word("srvr", timeout=timeout)
        except OSError:  # TimeoutError is one
            return None
        zxid = re.search(r"^Zxid: 0x([0-9a-f]+)$", answer, re.MULTILINE)
        mode = re.search(r"^Mode: (\S+)$", answer, re.MULTILINE)
        if zxid is None or mode is None:
            return None
        return int(zxid[1], 16) >> 32, mode[1]

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


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs here; `UsageStateError` where there is none, as under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageStateError(
            "corral.testing needs asyncio, and no asyncio event loop is running here; use asyncio.run(), or "
            "anyio with the backend 'asyncio' (in tests: a fixture anyio_backend that returns 'asyncio')"
        ) from None


async def four_letter_word(address: str, word: str, timeout: float = ANSWER_TIMEOUT) -> str:
    """Send a four letter word to a server and return its whole answer. See `Server.four_letter_word`."""
    running_loop()
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(word.encode("ascii"))
            answer = await reader.read()
        finally:
            writer.transport.abort()  # a synchronous step: no connection outlives a cancelled question
    return answer.decode("utf-8", "replace")


async def until_accepted(loop: asyncio.AbstractEventLoop) -> None:
    """Before a listener is closed: wait until asyncio has made connections of all that it has accepted.

    It does so in two turns of the loop, and drops a connection without closing it if the listener is closed
    between the two. A loop runs what became ready in the turn before, then accepts, then runs timers: so who
    was woken by a timer runs when those accepted are made, and before others are accepted.
    """
    woken = asyncio.Event()
    timer = loop.call_at(loop.time(), woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()


def free_ports(count: int) -> list[int]:
    """Choose TCP ports of the loopback interface on which nobody listens.

    They lie below the range from which the kernel takes the source ports of outgoing connections. In that
    range a client that tries again and again to reach a stopped server can be given that very port, and
    connect to itself; and any passing connection can keep a server from coming back to its port.
    """
    try:
        ceiling = int(_EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        ceiling = _EPHEMERAL_DEFAULT
    with contextlib.ExitStack() as held:  # all of them at once, so that they differ
        ports: list[int] = []
        for _ in range(100 * count):
            if len(ports) == count:
                break
            sock = held.enter_context(socket.socket())
            # A host that gives nearly all its ports to outgoing connections leaves only those to choose from.
            wanted = random.randrange(_LOWEST_PORT, ceiling) if ceiling > _LOWEST_PORT + 1000 else 0
            try:
                sock.bind((LOOPBACK, wanted))
            except OSError:
                continue
            ports.append(sock.getsockname()[1])
    if len(ports) < count:
        raise ServerUnavailable(f"found only {len(ports)} of {count} free TCP ports on {LOOPBACK}")
    return ports
