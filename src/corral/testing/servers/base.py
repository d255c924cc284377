"""What every ZooKeeper server for tests offers, wherever it runs, and how it is configured.

A server belongs to a test, not to an event loop: a session-scoped fixture may start it in one loop and stop
it from another. It therefore keeps no future, transport or asyncio lock.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self, TypedDict

from corral.errors import CorralError
from corral.testing.event_loop import running_loop

__all__ = ["Server", "ServerOptions", "ServerStatus", "ServerUnavailable", "Settings", "four_letter_word"]

ANSWER_TIMEOUT = 2.0
"""Seconds within which a serving server answers a four letter word."""

POLL = 0.02
"""Seconds between two polls of a server that is starting or electing; there is no event to wait for."""


def answer_timeout(elapsed: float) -> float:
    """Seconds to wait for an answer of a server that has been starting for `elapsed` seconds.

    A ZooKeeper that has just opened its port may never answer a question, so the first waits are short. On a
    slow machine answers take long, so later waits are longer.
    """
    return min(max(0.2, elapsed / 4), ANSWER_TIMEOUT)


class ServerUnavailable(CorralError):
    """A server for tests is not available or did not start; the message says what to do."""


class ServerOptions(TypedDict, total=False):
    """How a server is configured. All times are in seconds. Defaults are in brackets.

    - ``tick_time`` (0.5): ZooKeeper's clock. Sessions expire in steps of it, so a short tick makes tests
      fast; ZooKeeper's sample configuration has 2.
    - ``min_session_timeout``, ``max_session_timeout`` (2 and 20 ticks): the bounds of session timeouts.
    - ``container_check_interval`` (0.5): how often empty containers and expired TTL nodes are removed.
    - ``extended_types`` (True): whether TTL nodes can be created.
    - ``jute_maxbuffer`` (ZooKeeper's, 1 MiB): the largest frame, in bytes.
    - ``fsync`` (False): whether transactions are forced to disk. A killed process loses nothing without it.
    - ``heap`` ("256m"): the JVM's maximum heap size.
    - ``start_timeout`` (60): how long starting may take.
    - ``extra_config``: entries of ``zoo.cfg``; they override the options above.
    - ``java_properties``: system properties of the JVM, as with ``-Dname=value``.
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
    """`ServerOptions` with their defaults, and their translation into ZooKeeper's configuration."""

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
        """The entries of ``zoo.cfg``, without addresses, directories and the members of an ensemble."""
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
        """The settings that ZooKeeper reads only from system properties of the JVM."""
        properties = {"znode.container.checkIntervalMs": _milliseconds(self.container_check_interval)}
        if self.jute_maxbuffer is not None:
            properties["jute.maxbuffer"] = str(self.jute_maxbuffer)
        return properties | dict(self.java_properties)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


class ServerStatus(NamedTuple):
    """What a serving server reports about itself."""

    epoch: int
    """The election epoch of the newest transaction that the server has."""
    role: str
    """``standalone``, ``leader``, ``follower``, ``observer`` or ``read-only``."""

    @classmethod
    def parse(cls, answer: str) -> ServerStatus | None:
        """Read the answer to ``srvr``; None if the server does not serve."""
        zxid = re.search(r"^Zxid: 0x([0-9a-f]+)$", answer, re.MULTILINE)
        mode = re.search(r"^Mode: (\S+)$", answer, re.MULTILINE)
        return None if zxid is None or mode is None else cls(int(zxid[1], 16) >> 32, mode[1])


class StartedInBlock(ABC):
    """Starts in ``async with``, and closes on leaving it, or if it does not start."""

    @abstractmethod
    async def start(self) -> None:
        """Start, and wait until it serves."""

    @abstractmethod
    async def close(self) -> None:
        """End it in any state, and remove its data."""

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


class Server(StartedInBlock):
    """A ZooKeeper server that a test starts, stops, kills and pauses.

    ``async with`` starts it; on leaving, it is killed and its data is removed. Its methods may be called from
    any event loop, from one task at a time.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients connect, as ``host:port``. It never changes. `UsageStateError` before the first
        `start`."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether the server's process exists; a paused one counts."""

    @abstractmethod
    async def start(self) -> None:
        """Start the server, for the first time or again with its data, and wait until it serves.

        Raises `ServerUnavailable` if it does not start. If this fails or is cancelled, the server is down.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Shut the server down in order. It keeps its data and its port. If cancelled, it is killed
        instead."""

    @abstractmethod
    async def kill(self) -> None:
        """End the server at once, without a shutdown. It keeps its data and its port. If cancelled, it is
        killed all the same."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze the server: its connections stay open, the kernel accepts new ones, nothing is answered."""

    @abstractmethod
    def resume(self) -> None:
        """Let a paused server continue."""

    @abstractmethod
    async def close(self) -> None:
        """Kill the server, if it runs, and remove its data. May be called repeatedly and in any state.

        If cancelled, the server is killed all the same, but its data may remain; call it again.
        """

    async def four_letter_word(self, word: str, *, timeout: float = ANSWER_TIMEOUT) -> str:
        """Send one of ZooKeeper's four letter words (``srvr``, ``mntr``, ``cons``, ``dump``...) and return
        the answer.

        Raises `OSError` if the server cannot be reached, and `TimeoutError` if the answer takes longer than
        `timeout` seconds. Cancelling it is safe, as it is for `role`: the connection is closed.
        """
        return await four_letter_word(self.address, word, timeout)

    async def role(self, *, timeout: float = ANSWER_TIMEOUT) -> str | None:
        """The server's role, as it reports it: ``standalone``, ``leader``, ``follower``, ``observer`` or
        ``read-only``; None while it does not serve, or does not answer within `timeout` seconds."""
        status = await self._server_status(timeout)
        return None if status is None else status.role

    async def _server_status(self, timeout: float) -> ServerStatus | None:
        try:
            return ServerStatus.parse(await self.four_letter_word("srvr", timeout=timeout))
        except OSError:  # TimeoutError is a subclass
            return None


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
            writer.transport.abort()  # synchronous, so that a cancelled call leaves no connection open
    return answer.decode("utf-8", "replace")
