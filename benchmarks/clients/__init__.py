"""What a client must be able to do to be measured, and which clients there are."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, cast, runtime_checkable

MODULES = {
    "floor": "clients.floor_client",
    "corral": "clients.corral_client",
    "aiozk": "clients.aiozk_client",
    "kazoo": "clients.kazoo_client",
}
PEERS = ("aiozk", "kazoo")


class Tally:
    """Waits until each of `count` watchers has seen the data that is due. Used from the event loop."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._due = b""
        self._missing = 0
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self, data: bytes) -> asyncio.Future[None]:
        """What is due from now on; the future is done once every watcher has seen it."""
        self._due, self._missing = data, self._count
        self._all = asyncio.get_running_loop().create_future()
        return self._all

    def seen(self, data: bytes) -> None:
        """One watcher has seen this."""
        if data == self._due:
            self._missing -= 1
            if self._missing == 0:
                self._all.set_result(None)


class Survivor(Protocol):
    """What is asked of a client whose server fails."""

    @property
    def session_id(self) -> int:
        """The session's id on the server now; 0 while there is none."""

    async def gets_in_turn(self, path: str, count: int) -> None:
        """Read a node's data and Stat, `count` times."""

    async def hold(self, path: str) -> Callable[[], bool]:
        """Acquire the lock at `path` and keep it; returns what tells whether the client believes in it."""


class Client(Survivor, Protocol):
    """One session. "At once" is as many requests in flight as may be; "in turn" is each after the other.

    Each verb does it as users of that client would. A client that blocks its caller does so in threads of
    its own making, so that no verb blocks the event loop.
    """

    async def gets_at_once(self, path: str, count: int) -> None:
        """Read a node's data and Stat, `count` times."""

    async def sets_at_once(self, path: str, data: bytes, count: int) -> None:
        """Set a node's data, `count` times."""

    async def locks_in_turn(self, path: str, count: int) -> None:
        """Acquire the lock at `path` and release it, `count` times."""

    async def locks_at_once(self, paths: Sequence[str]) -> None:
        """Acquire a lock at every path, and when all are held release them all."""

    async def watch(self, path: str, count: int, tally: Tally) -> None:
        """Start `count` watchers of one node, each for itself; returns at once. Until the client is closed,
        each tells `tally` of the state that it finds, and then of each change."""

    async def follow(self, paths: Sequence[str], tally: Tally) -> None:
        """Start one watcher for each node; as `watch`."""

    def cache(self, path: str) -> AbstractAsyncContextManager[Callable[[], int]]:
        """A live copy of a subtree: entering waits until it has each node's data and will be told of every
        change. It gives what counts the nodes that the copy has."""


@runtime_checkable
class TreeWatcher(Protocol):
    """A client that can follow a whole subtree in the way that it follows a node."""

    async def watch_tree(self, path: str, tally: Tally) -> None:
        """Start one watcher of all nodes of a subtree; as `Client.watch`."""


class Consumer(Protocol):
    """A client that has a queue."""

    async def consumes(self, path: str, count: int) -> None:
        """Take an item from the queue at `path` and acknowledge it, `count` times."""


class Connect(Protocol):
    """How a client is opened: entering waits for a session, leaving closes it."""

    def __call__(self, hosts: str, session_timeout: float) -> AbstractAsyncContextManager[Client]: ...


class ConnectSurvivor(Protocol):
    """As `Connect`, of who is asked for no more."""

    def __call__(self, hosts: str, session_timeout: float) -> AbstractAsyncContextManager[Survivor]: ...


def load(name: str) -> Connect:
    """The `connect` of a client; what is not measured is not imported."""
    return cast(Connect, importlib.import_module(MODULES[name]).connect)


def load_survivor(name: str) -> ConnectSurvivor:
    """As `load`, for where servers fail: the floor has one of its own for that."""
    if name == "floor":
        return cast(ConnectSurvivor, importlib.import_module("clients.floor_session").connect)
    return load(name)
