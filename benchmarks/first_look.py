"""A first look at the cost: client CPU of a pipelined get and of a lock cycle, beside a floor and the peers.

    pip install . kazoo && python benchmarks/first_look.py

All clients run in one process, in turn, round by round, against one local server that has been warmed up, so
that a noisy machine is noisy for all of them. The figure is CPU time of this process per operation: the
median over the rounds and, in brackets, the least and the most. Ratios are to the floor of the same run.

The floor is an `asyncio.BufferedProtocol` with hand-packed requests and one write a loop turn, behind an
`async def` that raises errors and decodes the Stat: a user's API needs no less. Its lock cycle is what an
uncontended lock must do at the least: create and list in one write, then delete.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import struct
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import aiozk
import kazoo.client

import corral
from corral.testing import LocalServer

IN_FLIGHT = 1000
DATA = b"x" * 100


class FloorStat(NamedTuple):
    """As many fields as a client's."""

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    owner: int
    length: int
    children: int
    pzxid: int


STAT = struct.Struct(">qqqqiiiqiiq")
HEADER = struct.Struct(">iii")
REPLY = struct.Struct(">iiqi")
INT = struct.Struct(">i")


class FloorError(Exception):
    """The server refused."""


class Floor(asyncio.BufferedProtocol):
    """The least that can talk to ZooKeeper: no reconnect, no heartbeat, no watches, no checks."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray(1 << 20)
        self.view = memoryview(self.buffer)
        self.end = 0
        self.waiting: deque[asyncio.Future[bytes]] = deque()
        self.out: list[bytes] = []
        self.xid = 0
        self.connected = self.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        body = struct.pack(">iqiqi16s?", 0, 0, 10_000, 0, 16, bytes(16), False)
        transport.write(INT.pack(len(body)) + body)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view[self.end :]

    def buffer_updated(self, count: int) -> None:
        self.end += count
        at = 0
        while self.end - at >= 4:
            (length,) = INT.unpack_from(self.buffer, at)
            if self.end - at < 4 + length:
                break
            if not self.connected.done():
                self.connected.set_result(None)
            else:
                _, _, _, error = REPLY.unpack_from(self.buffer, at)
                future = self.waiting.popleft()
                if error:
                    future.set_exception(FloorError(error))
                else:
                    future.set_result(bytes(self.view[at + 20 : at + 4 + length]))
            at += 4 + length
        self.view[: self.end - at] = self.view[at : self.end]
        self.end -= at

    def request(self, opcode: int, body: bytes) -> asyncio.Future[bytes]:
        self.xid += 1
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out += (HEADER.pack(len(body) + 8, self.xid, opcode), body)
        future = self.loop.create_future()
        self.waiting.append(future)
        return future

    def flush(self) -> None:
        self.transport.write(b"".join(self.out))
        self.out.clear()

    async def get(self, path: str) -> tuple[bytes, FloorStat]:
        name = path.encode()
        reply = await self.request(4, INT.pack(len(name)) + name + b"\0")
        (length,) = INT.unpack_from(reply)
        return reply[4 : 4 + length], FloorStat._make(STAT.unpack_from(reply, 4 + length))

    async def cycle(self, parent: str) -> None:
        name = f"{parent}/_c_{uuid.uuid4()}-lock-".encode()
        acl = b"\0\0\0\1\0\0\0\x1f\0\0\0\5world\0\0\0\6anyone"
        created = self.request(15, INT.pack(len(name)) + name + INT.pack(0) + acl + INT.pack(3))
        raw = parent.encode()
        listed = self.request(8, INT.pack(len(raw)) + raw + b"\0")
        reply = await created
        (length,) = INT.unpack_from(reply)
        path = reply[4 : 4 + length]
        STAT.unpack_from(reply, 4 + length)
        names = await listed
        assert path.rpartition(b"/")[2] in names
        await self.request(2, INT.pack(len(path)) + path + INT.pack(-1))


Op = Callable[[], Awaitable[None]]


async def pipelined(get: Callable[[str], Awaitable[Any]], path: str) -> None:
    """`IN_FLIGHT` gets at once."""
    await asyncio.gather(*(get(path) for _ in range(IN_FLIGHT)))


@contextlib.asynccontextmanager
async def floor(address: str) -> AsyncIterator[dict[str, Op]]:
    host, port = address.split(":")
    transport, client = await asyncio.get_running_loop().create_connection(Floor, host, int(port))
    await client.connected
    yield {"get": lambda: pipelined(client.get, "/bench/data"), "lock": lambda: client.cycle("/bench/floor")}
    await client.request(-11, b"")
    transport.close()


@contextlib.asynccontextmanager
async def ours(address: str) -> AsyncIterator[dict[str, Op]]:
    async with corral.connect(address) as zk:
        lock = zk.lock("/bench/corral")

        async def cycle() -> None:
            async with lock:
                pass

        yield {"get": lambda: pipelined(zk.get, "/bench/data"), "lock": cycle}


@contextlib.asynccontextmanager
async def theirs_aiozk(address: str) -> AsyncIterator[dict[str, Op]]:
    zk = aiozk.ZKClient(address)
    await zk.start()
    lock = zk.recipes.Lock("/bench/aiozk")

    async def cycle() -> None:
        await lock.acquire()
        await lock.release()

    yield {"get": lambda: pipelined(zk.get, "/bench/data"), "lock": cycle}
    await zk.close()


@contextlib.asynccontextmanager
async def theirs_kazoo(address: str) -> AsyncIterator[dict[str, Op]]:
    zk = kazoo.client.KazooClient(address)
    await asyncio.to_thread(zk.start)
    lock = zk.Lock("/bench/kazoo")

    async def gets() -> None:
        for answer in [zk.get_async("/bench/data") for _ in range(IN_FLIGHT)]:
            answer.get()

    async def cycle() -> None:
        with lock:
            pass

    yield {"get": gets, "lock": cycle}
    await asyncio.to_thread(zk.stop)
    await asyncio.to_thread(zk.close)


CLIENTS = {"floor": floor, "corral": ours, "aiozk": theirs_aiozk, "kazoo": theirs_kazoo}
WORK = {"get": ("pipelined get, 1,000 in flight", IN_FLIGHT), "lock": ("uncontended lock cycle", 1)}


async def measure(address: str, rounds: int, cycles: int) -> dict[tuple[str, str], list[float]]:
    """CPU microseconds per operation, by work and client, one figure a round."""
    figures: dict[tuple[str, str], list[float]] = {}
    async with contextlib.AsyncExitStack() as stack, corral.connect(address) as zk:
        await zk.create("/bench/data", DATA, make_parents=True)
        await zk.create("/bench/floor")
        clients = {name: await stack.enter_async_context(make(address)) for name, make in CLIENTS.items()}
        for turn in range(rounds + 1):
            for work, (_, operations) in WORK.items():
                times = cycles if work == "lock" else 3
                for name, client in clients.items():
                    began = time.process_time()
                    for _ in range(times):
                        await client[work]()
                    if turn:  # the first round warms up
                        took = (time.process_time() - began) / (times * operations)
                        figures.setdefault((work, name), []).append(took * 1e6)
        await asyncio.sleep(0)
    return figures


async def main(hosts: str | None, rounds: int, cycles: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if hosts is None:
            hosts = (await stack.enter_async_context(LocalServer(tick_time=2.0))).address
        figures = await measure(hosts, rounds, cycles)
    for work, (title, _) in WORK.items():
        base = statistics.median(figures[work, "floor"])
        print(f"{title}: client CPU, us per operation")
        for name in CLIENTS:
            took = figures[work, name]
            median = statistics.median(took)
            print(f"  {name:8} {median:8.1f} ({min(took):.1f}-{max(took):.1f})  x{median / base:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", help="an ensemble to run against (default: start one server here)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cycles", type=int, default=100)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.hosts, arguments.rounds, arguments.cycles))
