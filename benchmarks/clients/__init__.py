"""The interface of a client that is measured, and the list of clients."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Sequence
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
    """Waits until each of `count` watchers has seen the expected data. Used from the event loop."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._due = b""
        self._missing = 0
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self, data: bytes) -> asyncio.Future[None]:
        """Set the expected data; the future is done once every watcher has seen it."""
        self._due, self._missing = data, self._count
        self._all = asyncio.get_running_loop().create_future()
        return self._all

    def seen(self, data: bytes) -> None:
        """A watcher has seen this data."""
        if data == self._due:
            self._missing -= 1
            if self._missing == 0:
                self._all.set_result(None)


class Survivor(Protocol):
    """The interface of a client whose server fails."""

    @property
    def session_id(self) -> int:
        """The id of the current session; 0 while there is none."""

    async def gets_in_turn(self, path: str, count: int) -> None:
        """Read a node's data and Stat, `count` times."""

    async def hold(self, path: str) -> Callable[[], bool]:
        """Acquire the lock at `path` and keep it; returns a function that says whether the client believes
        that it holds it."""


class Client(Survivor, Protocol):
    """One session. "At once" means as many requests in flight as possible; "in turn" means one after the
    other.

    Each verb works as users of that client would write it. A client that blocks its caller does so in threads
    that it starts itself, so that no verb blocks the event loop.
    """

    async def gets_at_once(self, path: str, count: int) -> None:
        """Read a node's data and Stat, `count` times."""

    async def sets_at_once(self, path: str, data: bytes, count: int) -> None:
        """Set a node's data, `count` times."""

    async def locks_in_turn(self, path: str, count: int) -> None:
        """Acquire the lock at `path` and release it, `count` times."""

    async def locks_at_once(self, paths: Sequence[str]) -> None:
        """Acquire the lock at every path, and release all of them once all are held."""

    async def adds_in_turn(self, path: str, count: int) -> None:
        """Add one to the counter at `path`, in decimal digits, `count` times."""

    async def watch(self, path: str, count: int, tally: Tally) -> None:
        """Start `count` independent watchers of one node; returns at once. Until the client is closed, each
        reports to `tally` the state that it finds, and then each change."""

    async def follow(self, paths: Sequence[str], tally: Tally) -> None:
        """Start one watcher for each node; otherwise like `watch`."""

    def cache(self, path: str) -> AbstractAsyncContextManager[Callable[[], int]]:
        """A live copy of a subtree: entering waits until it has each node's data and gets every change. It
        yields a function that counts the nodes in the copy."""


@runtime_checkable
class TreeWatcher(Protocol):
    """A client that can watch a whole subtree as it watches a node."""

    async def watch_tree(self, path: str, tally: Tally) -> None:
        """Start one watcher of all nodes of a subtree; otherwise like `Client.watch`."""


@runtime_checkable
class Discoverer(Protocol):
    """A client that follows the instances of a service."""

    def discover(
        self, base: str, service: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[object]]]:
        """All instances, decoded: those now, then all again after each change."""


class Consumer(Protocol):
    """A client that has a queue."""

    async def consumes(self, path: str, count: int) -> None:
        """Take an item from the queue at `path` and acknowledge it, `count` times."""


class Connect(Protocol):
    """Opens a client: entering waits for a session, leaving closes it."""

    def __call__(self, hosts: str, session_timeout: float) -> AbstractAsyncContextManager[Client]: ...


class ConnectSurvivor(Protocol):
    """Like `Connect`, for clients with this smaller interface."""

    def __call__(self, hosts: str, session_timeout: float) -> AbstractAsyncContextManager[Survivor]: ...


def load(name: str) -> Connect:
    """The `connect` of a client; clients that are not measured are not imported."""
    return cast(Connect, importlib.import_module(MODULES[name]).connect)


def load_survivor(name: str) -> ConnectSurvivor:
    """Like `load`, for workloads with failing servers, where the floor has another implementation."""
    if name == "floor":
        return cast(ConnectSurvivor, importlib.import_module("clients.floor_session").connect)
    return load(name)
