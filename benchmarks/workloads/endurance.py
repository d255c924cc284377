"""Memory and cost of many holds, waiters, timed-out writes and waits: the peers have no counterpart.

- *holds*: one client holds 3,000 locks for two session timeouts. Measured are CPU time, transactions (as the
  server counts them) and requests for each second of holding.
- *waiters*: 10,000 tasks of one client wait for one lock. Measured are bytes for each waiter, and whether the
  holder keeps the lock.
- *outage*: 1,000 writes of 1 MB time out while there is no server. Measured are the bytes that stay allocated
  for each.
- *waits*: one task waits for a znode 100,000 times. Measured are the bytes that stay allocated for each wait.

Each turn runs in a process of its own (`alone.py`). Only corral is measured. There are no budgets, but two
goals: at most 10,000 bytes for a waiter, and nothing kept of what is over.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import corral
from alone import alone, grown, resident
from bench import Bench, Meter, Turn, Workload
from clients import Client
from server import ROOT, requests_of

HOLDS = 3_000
WAITERS = 10_000
WRITES = 1_000
WAITS = 100_000
SESSION_TIMEOUT = 10.0


async def run(bench: Bench, name: str) -> None:
    if "corral" in bench.clients:
        await bench.repeat({"corral": alone(bench, name, "corral")})


async def prepare(
    address: str,
    name: str,
    client: Client,
    stack: AsyncExitStack,
    *,
    work: Callable[[str, Meter], Awaitable[None]],
) -> Turn:
    return functools.partial(work, address)


async def _last_zxid(zk: corral.Client) -> int:
    return (await zk.set(ROOT, b"")).mzxid


async def holds(address: str, meter: Meter) -> None:
    seconds = 2 * SESSION_TIMEOUT
    async with (
        corral.connect(address, session_timeout=SESSION_TIMEOUT) as zk,
        corral.connect(address) as other,
    ):
        held = await asyncio.gather(*(zk.lock(f"{ROOT}/holds/{number}").acquire() for number in range(HOLDS)))
        await asyncio.sleep(zk.session_timeout / 3)  # until the nodes are watched
        zxid, requests = await _last_zxid(other), await requests_of(address, [zk.session_id])
        with meter(int(seconds)):
            await asyncio.sleep(seconds)
        meter.counts["transactions a second"] = (await _last_zxid(other) - zxid - 1) / seconds
        meter.counts["requests a second"] = (await requests_of(address, [zk.session_id]) - requests) / seconds
        if not all(each.is_valid for each in held):
            raise AssertionError("some locks were lost")
        await asyncio.gather(*(each.release() for each in held))


async def waiters(address: str, meter: Meter) -> None:
    path = f"{ROOT}/waiters"
    async with corral.connect(address, session_timeout=SESSION_TIMEOUT) as zk:
        held = await zk.lock(path).acquire()
        with grown(meter, "bytes a waiter", WAITERS), meter(WAITERS):
            tasks = [asyncio.create_task(zk.lock(path).acquire()) for _ in range(WAITERS)]
            await zk.wait_children(path, WAITERS + 1)
            await asyncio.sleep(zk.session_timeout)
        meter.counts["holder kept it"] = float(held.is_valid)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await held.release()


async def outage(address: str, meter: Meter) -> None:
    host, _, port = address.rpartition(":")
    gate = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        pipes = [asyncio.create_task(_pipe(reader, back)), asyncio.create_task(_pipe(there, writer))]
        await gate.wait()
        for pipe in pipes:
            pipe.cancel()
        writer.transport.abort()
        back.transport.abort()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    relayed = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with corral.connect(relayed, session_timeout=SESSION_TIMEOUT) as zk:
        server.close()
        gate.set()
        async for state in zk.states():
            if state is corral.State.SUSPENDED:
                break

        async def write(number: int) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await zk.set(ROOT, number.to_bytes(2) * 500_000)

        before = resident()
        with meter(WRITES):
            for number in range(0, WRITES, 10):
                await asyncio.gather(*map(write, range(number, number + 10)))
        await asyncio.sleep(2)  # timed-out writes are discarded at the next attempt to connect, every 0.9 s
        after = resident()
        if before is not None and after is not None:
            meter.counts["bytes a write"] = (after - before) / WRITES


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def waits(address: str, meter: Meter) -> None:
    async with corral.connect(address, session_timeout=SESSION_TIMEOUT) as zk:
        await zk.wait_present(ROOT)
        with grown(meter, "bytes a wait", WAITS), meter(WAITS):
            for _ in range(WAITS):
                await zk.wait_present(ROOT)


def workload(name: str, title: str, work: Callable[[str, Meter], Awaitable[None]], limit: float) -> Workload:
    """One of the four workloads."""
    return Workload(
        name=name,
        title=title,
        run=functools.partial(run, name=name),
        alone=functools.partial(prepare, work=work),
        slow=True,
        any_loop=True,
        turn_limit=limit,
    )


WORKLOADS = (
    workload("holds", "holding 3,000 locks, one second", holds, 120.0),
    workload("waiters", "10,000 waiters of one lock, one waiter", waiters, 300.0),
    workload("outage", "1,000 writes that time out in an outage, one write", outage, 120.0),
    workload("waits", "100,000 waits of one task, one wait", waits, 300.0),
)
