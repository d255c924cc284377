"""What is run at every point of reading from a read-only server; see `scenarios`. The server is an embedded one that
becomes a read-only server, and takes writes again, when the scenario says so."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Literal, NamedTuple

from scenarios import require

import corral
from corral import State
from corral.testing import EmbeddedServer, FaultProxy
from corral.testing.enumerators import Outcome, Run, Scenario
from support import settle, until

SESSION_TIMEOUT = 10.0
PATIENCE = 8.0
"""Seconds in which the client has tried the server again, after any fault: well within a session."""

OLD, NEW = b"old", b"new"


class ReadOnlyStage(NamedTuple):
    """Where a scenario runs: below a znode of its own."""

    server: EmbeddedServer
    proxy: FaultProxy
    other: corral.Client
    """The observer, whose connection is never cut."""
    numbers: itertools.count[int]

    async def path(self) -> str:
        """The path of a znode with the old data, that no other scenario has used."""
        return await self.other.create(f"/n-{next(self.numbers)}", OLD)

    async def be_read_only(self) -> None:
        """The server loses its quorum: our connections break, and it takes none but for reading."""
        self.server.zookeeper.read_only = True
        await self.proxy.cut()

    def be_read_write(self) -> None:
        """It has a quorum again; connections for reading stay as they are."""
        self.server.zookeeper.read_only = False

    @contextlib.contextmanager
    def read_write_soon(self) -> Iterator[None]:
        """It has a quorum again in half a second, or when the block ends."""
        timer = asyncio.get_running_loop().call_later(0.5, self.be_read_write)
        try:
            yield
        finally:
            timer.cancel()

    def connect(self, read_only: bool | Literal["wait"] = True) -> corral.Client:
        """A new client behind the proxy."""
        return corral.connect(self.proxy.address, session_timeout=SESSION_TIMEOUT, read_only=read_only)

    @contextlib.asynccontextmanager
    async def client(self, read_only: bool | Literal["wait"] = True) -> AsyncIterator[corral.Client]:
        """A new client with an ephemeral. It must keep its first session to the end."""
        self.be_read_write()
        async with self.connect(read_only) as zk:
            session = zk.session_id
            mine = f"/mine-{next(self.numbers)}"
            while not await zk.exists(mine):
                with contextlib.suppress(corral.ConnectionLoss, corral.NodeExists):
                    await zk.create(mine, ephemeral=True)
            try:
                yield zk
            finally:
                self.be_read_write()
            await _settle(zk)
            require(zk.session_id == session, "the session was lost, though it need not have been")
            require(await self.other.exists(mine), "an ephemeral was lost, and the session was not")

    async def no_local_session(self) -> None:
        """The read-only server's own sessions go, at the latest when they expire."""
        sessions = self.server.zookeeper.sessions

        async def are_gone() -> bool:
            return not any(session.is_local for each in sessions.ids() if (session := sessions.find(each)))

        await until(are_gone, "the read-only server's sessions are gone", patience=2 * SESSION_TIMEOUT)


async def _settle(zk: corral.Client) -> None:
    """As `settle`, once a server takes writes."""
    while True:
        await _reach(zk, State.CONNECTED)
        with contextlib.suppress(corral.NotReadOnly):
            return await settle(zk)


async def _reach(zk: corral.Client, *states: State) -> None:
    async def is_there() -> bool:
        return zk.state in states

    await until(is_there, f"one of {states}, not {zk.state}", patience=PATIENCE)


def connecting(stage: ReadOnlyStage) -> Scenario:
    """Entering a client where there is only a read-only server: it reads, or is cancelled. Leaving it raises and logs
    nothing, and leaves nothing."""

    async def scenario(run: Run) -> None:
        stage.be_read_write()
        path = await stage.path()
        await stage.be_read_only()
        zk = stage.connect()
        outcome = await run.operation(zk.__aenter__())
        if not outcome.cancelled:
            outcome.result()
            require((await zk.get(path))[0] == OLD, "a read was answered with something else")
            require(zk.session_id == 0, "a read-only server's session was taken for one of the ensemble's")
        await zk.close()
        require(zk.state is State.CLOSED, f"closed, the client is {zk.state}")
        await stage.no_local_session()

    return scenario


def _reading(call: Callable[[corral.Client, str], Awaitable[Any]]) -> Callable[[ReadOnlyStage], Scenario]:
    def on(stage: ReadOnlyStage) -> Scenario:
        async def scenario(run: Run) -> None:
            async with stage.client() as zk:
                path = await stage.path()
                await stage.be_read_only()
                await _reach(zk, State.READ_ONLY)

                async def read() -> Any:
                    return await call(zk, path)

                outcome = await run.operation(read())
                if not outcome.cancelled and not isinstance(outcome.error, corral.ConnectionLoss):
                    require(outcome.result() == OLD, f"read {outcome.value!r}")
                require((await zk.get(path))[0] == OLD, "a read was answered with something else")

        return scenario

    return on


async def _get(zk: corral.Client, path: str) -> bytes:
    return (await zk.get(path))[0]


async def _watch(zk: corral.Client, path: str) -> bytes | None:
    async with zk.watch(path) as events:
        return (await anext(events)).data


async def _load(zk: corral.Client, path: str) -> bytes:
    async with zk.cache(path) as cache:
        return cache[path].data


READS = {"get": _reading(_get), "watch": _reading(_watch), "cache": _reading(_load)}


def moving(stage: ReadOnlyStage) -> Scenario:
    """The way there and back: a watch and a reader go on all the way, a lock is held."""

    async def scenario(run: Run) -> None:
        async with stage.client() as zk, zk.watch(path := await stage.path()) as events:
            require((await anext(events)).data == OLD, "the watch reports something else")

            async def there_and_back() -> None:
                await stage.be_read_only()
                await _reach(zk, State.READ_ONLY)
                require(await _get(zk, path) == OLD, "a read was answered with something else")
                stage.be_read_write()
                await _reach(zk, State.CONNECTED)

            await run.operation(there_and_back())
            stage.be_read_write()
            await stage.other.set(path, NEW)
            async with asyncio.timeout(PATIENCE):
                event = await anext(events)
            require(event.data == NEW, f"the watch reports {event}")

    return scenario


def writing(stage: ReadOnlyStage) -> Scenario:
    """A write that waits for a server that takes writes: it is applied once, or not at all."""

    async def scenario(run: Run) -> None:
        async with stage.client("wait") as zk:
            path = await stage.path()
            await stage.be_read_only()
            await _reach(zk, State.READ_ONLY)

            async def write() -> str:
                with stage.read_write_soon():
                    return await zk.create(f"{path}/s-", sequential=True)

            outcome = await run.operation(write())
            stage.be_read_write()
            await _settle(zk)
            created = len(await stage.other.children(path))
            _check_write(outcome, created)

    return scenario


def _check_write(outcome: Outcome[Any], created: int) -> None:
    require(created <= 1, f"applied {created} times")
    if outcome.cancelled or isinstance(outcome.error, corral.ConnectionLoss):
        return
    outcome.result()
    require(created == 1, "a write was acknowledged, and not applied")


def acquiring(read_only: bool | Literal["wait"]) -> Callable[[ReadOnlyStage], Scenario]:
    """Acquiring a lock over the way there and back: whatever comes of it, nothing stays in the line, and another client
    has the lock next."""

    def on(stage: ReadOnlyStage) -> Scenario:
        async def scenario(run: Run) -> None:
            async with stage.client(read_only) as zk:
                path = await stage.path()
                lock = zk.lock(path)

                async def acquire() -> corral.Held:
                    with stage.read_write_soon():
                        return await lock.acquire()

                turning = asyncio.create_task(stage.be_read_only())
                outcome = await run.operation(acquire())
                await turning
                stage.be_read_write()
                if outcome.value is not None:
                    async with asyncio.timeout(PATIENCE):
                        await outcome.value.release()
                elif not outcome.cancelled and not isinstance(outcome.error, corral.NotReadOnly):
                    outcome.result()
                await _settle(zk)
                async with asyncio.timeout(PATIENCE), stage.other.lock(path):
                    require(len(await stage.other.children(path)) == 1, "a node of ours is in the line")

        return scenario

    return on


SCENARIOS: dict[str, Callable[[ReadOnlyStage], Scenario]] = {
    "connect, read-only": connecting,
    **{f"{name}, read-only": make for name, make in READS.items()},
    "there and back": moving,
    "a write that waits": writing,
    "lock, writes refused": acquiring(True),
    "lock, writes wait": acquiring("wait"),
}
