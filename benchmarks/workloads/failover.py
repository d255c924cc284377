"""Failover: how long a client's reads stop when its server fails, and whether session and lock are kept.

There are three local servers with a tick of 0.5 s, and the session timeout is 6 s. All clients are connected
to the same server, hold a lock each and read without pause. Then that server fails, once for all of them, so
that all see the same election. Either a follower is killed, or the leader is killed, or a follower falls
silent (by SIGSTOP, so its connections stay open). The wall time is the longest time between two answered
reads, each sent after the previous one was answered, so a read that hangs counts for as long as it does. A
client without an answer in 20 s is shown with that time, and as not `back`. A lock counts as kept if the
client says so and its node exists 9 s after the failure, when a session that was not kept would be over.

The floor (`clients/floor_session.py`) tries the next server at once and without end, and gives up a server
that has not answered for a third of the session timeout. Its time after a leader's death is that of the
election.
Budget: follower killed 0.1 s; leader killed the election (within half of the floor's gap); silent 3 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal

from bench import Bench, Budget, Workload
from clients import Survivor, load_survivor
from corral.testing import LocalEnsemble, LocalServer
from server import children, connections, make_nodes

SESSION_TIMEOUT = 6.0
SETTLED = SESSION_TIMEOUT * 1.5
PATIENCE = 20.0
PAUSE = 0.005
BEFORE = 0.5
PATH = "/failover"
CONNECT_TRIES = 30
STEP_LIMIT = 20.0

Role = Literal["follower", "leader"]
How = Literal["killed", "silent"]


class Reader:
    """Reads without pause, and records the longest time without an answer."""

    def __init__(self, client: Survivor) -> None:
        self._client = client
        self._failed_at = 0.0
        self._last = self._longest = 0.0
        self.failed = 0
        self.back = asyncio.Event()

    def server_failed(self) -> None:
        """From now on answers show that the client is back."""
        self._failed_at = time.monotonic()
        self.back.clear()

    @property
    def gap(self) -> float:
        """The longest gap, including the current one."""
        return max(self._longest, time.monotonic() - self._last)

    async def run(self) -> None:
        """Run until cancelled."""
        self._last = time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                await self._client.gets_in_turn(PATH, 1)
            except Exception:
                self.failed += 1
            else:
                now = time.monotonic()
                self._longest = max(self._longest, now - self._last)
                self._last = now
                if asked > self._failed_at:
                    self.back.set()
            await asyncio.sleep(PAUSE)


async def connected_to(server: LocalServer, hosts: str, name: str, stack: AsyncExitStack) -> Survivor:
    """A client that is connected to `server`. Clients choose at random, so it tries until one is."""
    for _ in range(CONNECT_TRIES):
        one = AsyncExitStack()
        async with asyncio.timeout(STEP_LIMIT):
            client = await one.enter_async_context(load_survivor(name)(hosts, SESSION_TIMEOUT))
            if client.session_id in await connections(server.address):
                stack.push_async_callback(close, one)
                return client
            await one.aclose()
    raise ConnectionError(f"no connection to {server.address} in {CONNECT_TRIES} attempts")


async def close(client: AsyncExitStack) -> None:
    """Close it, if that is possible."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(STEP_LIMIT):
            await client.aclose()


async def fail(bench: Bench, ensemble: LocalEnsemble, role: Role, how: How) -> None:
    """One failure, seen by all clients."""
    server = await ensemble.leader() if role == "leader" else (await ensemble.followers())[0]
    [other, *_] = [each for each in ensemble.servers if each is not server]
    async with AsyncExitStack() as stack:
        survivors: dict[str, tuple[Survivor, Reader]] = {}
        for name in bench.clients:
            try:
                client = await connected_to(server, ensemble.hosts, name, stack)
                survivors[name] = (client, Reader(client))
            except Exception as error:
                bench.fail(name, f"failed before the server did: {error!r}")
        await survive(bench, server, other, how, survivors)
        if how == "silent":
            server.resume()
        else:
            await server.start()
    await ensemble.leader()
    await ensemble.followers()


async def survive(
    bench: Bench, server: LocalServer, other: LocalServer, how: How, of: dict[str, tuple[Survivor, Reader]]
) -> None:
    """Let the server fail, wait, and record the outcome for each client. `other` is used to check the
    locks."""
    before = {name: client.session_id for name, (client, _) in of.items()}
    holds = {}
    for name, (client, _) in of.items():
        async with asyncio.timeout(STEP_LIMIT):
            holds[name] = await client.hold(f"{PATH}/{name}")
    readers = [reader for _, reader in of.values()]
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    await asyncio.sleep(BEFORE)
    for reader in readers:
        reader.server_failed()
    failed_at = time.monotonic()
    if how == "silent":
        server.pause()
    else:
        await server.kill()
    await asyncio.sleep(SETTLED)
    kept = {name: holds[name]() and len(await children(other.address, f"{PATH}/{name}")) == 1 for name in of}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(failed_at + PATIENCE - time.monotonic()):
            await asyncio.gather(*(reader.back.wait() for reader in readers))
    for name, (client, reader) in of.items():
        counts = {
            "back": float(reader.back.is_set()),
            "session kept": float(client.session_id == before[name]),
            "lock kept": float(kept[name]),
            "failed reads": reader.failed,
        }
        bench.record(name, {"wall": reader.gap, **counts})
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=STEP_LIMIT)


async def run(bench: Bench, role: Role, how: How) -> None:
    async with LocalEnsemble(3) as ensemble:
        await make_nodes(ensemble.hosts, [f"{PATH}/{name}" for name in bench.clients])
        for _ in range(bench.rounds):
            await fail(bench, ensemble, role, how)


def workload(role: Role, how: How, budgets: Sequence[Budget]) -> Workload:
    """One of the three workloads."""
    return Workload(
        name=f"{role}-{how}",
        title=f"failover, {role} {how}: longest gap between answered reads",
        run=functools.partial(run, role=role, how=how),
        unit="s",
        main="wall",
        budgets=[*budgets, Budget("session kept", 1, at_least=True), Budget("lock kept", 1, at_least=True)],
        slow=True,
        any_loop=True,
        turn_limit=2 * PATIENCE + 60.0,
    )


WORKLOADS = (
    workload("follower", "killed", [Budget("wall", 0.1)]),
    workload("leader", "killed", [Budget("wall", 1.5, of_floor=True)]),
    workload("follower", "silent", [Budget("wall", 3.0)]),
)
