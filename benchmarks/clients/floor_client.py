"""The floor: the minimal client that does the same work, so that the difference is a library's own cost.

It consists of an `asyncio.BufferedProtocol`, hand-packed requests, one write each loop turn, and `async def`
verbs that raise the server's errors and decode the `Stat`, since a user's API needs no less. For each
workload it sends the same requests as a correct client must, resumes as many tasks, and does nothing else: no
reconnect, no lease, no check of arguments, no handling of cancellation. It only sends pings, so that its
session survives the turns of other clients. It cannot be used as a client.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from clients import Tally
from clients.floor_tree import load_tree
from clients.floor_wire import (
    ANY_VERSION,
    BAD_VERSION,
    CHILDREN,
    CLOSE,
    CONNECT,
    CONNECTED,
    CREATE2,
    DELETE,
    EPHEMERAL_SEQUENTIAL,
    GET,
    INT,
    NO_NODE,
    NOTIFICATION,
    OPEN_ACL,
    PING,
    PING_XID,
    REPLY,
    REQUEST,
    SET,
    STAT,
    FloorError,
    Stat,
    decode_get,
    decode_names,
)


class Floor(asyncio.BufferedProtocol):
    """One connection, one session."""

    def __init__(self, session_timeout: float, session_id: int = 0, password: bytes = bytes(16)) -> None:
        self.session_id = session_id
        self.password = password
        self._timeout = session_timeout
        self._loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[Any] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._buffer = bytearray(1 << 20)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._watching: dict[bytes, asyncio.Future[None]] = {}
        self._out: list[bytes] = []
        self._xid = 0
        self._tasks: list[asyncio.Task[None]] = []

    # asyncio.BufferedProtocol

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        milliseconds = round(self._timeout * 1000)
        size = CONNECT.size - 4
        transport.write(CONNECT.pack(size, 0, 0, milliseconds, self.session_id, 16, self.password, False))
        self._pinging = self._loop.call_later(self._timeout / 3, self._ping)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> None:
        self._end += count
        at = 0
        while self._end - at >= 4:
            (length,) = INT.unpack_from(self._buffer, at)
            after = at + 4 + length
            if self._end < after:
                break
            if self.connected.done():
                self._reply(at, after)
            else:
                _, _, _, self.session_id, _, self.password = CONNECTED.unpack_from(self._buffer, at)
                self.connected.set_result(None)
            at = after
        self._view[: self._end - at] = self._view[at : self._end]
        self._end -= at

    def connection_lost(self, exc: Exception | None) -> None:
        self._pinging.cancel()
        self.lost.set_result(None)
        for future in (self.connected, *self._waiting):
            if not future.done():
                future.set_exception(ConnectionError())
        self._waiting.clear()

    def _reply(self, at: int, after: int) -> None:
        _, xid, _, error = REPLY.unpack_from(self._buffer, at)
        if xid == NOTIFICATION:
            self._watching.pop(bytes(self._view[at + 32 : after])).set_result(None)
            return
        if xid == PING_XID:
            return
        future = self._waiting.popleft()
        if future.done():
            return
        if error:
            future.set_exception(FloorError(error))
        else:
            future.set_result(bytes(self._view[at + 20 : after]))

    # Requests

    def request(self, opcode: int, body: bytes) -> asyncio.Future[bytes]:
        """Send a request together with others of this loop turn; the future has the reply's body."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._xid += 1
        self._out += (REQUEST.pack(len(body) + 8, self._xid, opcode), body)
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _ping(self) -> None:
        self.transport.write(REQUEST.pack(8, PING_XID, PING))
        self._pinging = self._loop.call_later(self._timeout / 3, self._ping)

    def _flush(self) -> None:
        self.transport.write(b"".join(self._out))
        self._out.clear()

    async def get(self, path: str) -> tuple[bytes, Stat]:
        name = path.encode()
        return decode_get(await self.request(GET, INT.pack(len(name)) + name + b"\0"))

    async def set(self, path: str, data: bytes, version: int = -1) -> Stat:
        name = path.encode()
        body = INT.pack(len(name)) + name + INT.pack(len(data)) + data + INT.pack(version)
        return Stat._make(STAT.unpack_from(await self.request(SET, body)))

    async def children(self, path: str) -> list[bytes]:
        name = path.encode()
        return decode_names(await self.request(CHILDREN, INT.pack(len(name)) + name + b"\0"))

    # The lock: create and list in one write; while others are ahead, watch the nearest

    async def acquire(self, parent: str) -> bytes:
        """Wait in line until the lock is acquired; returns the path of our node."""
        raw = parent.encode()
        prefix = b"%b/_c_%b-lock-" % (raw, str(uuid.uuid4()).encode())
        created = self.request(
            CREATE2, INT.pack(len(prefix)) + prefix + INT.pack(0) + OPEN_ACL + EPHEMERAL_SEQUENTIAL
        )
        listed = self.request(CHILDREN, INT.pack(len(raw)) + raw + b"\0")
        reply = await created
        (length,) = INT.unpack_from(reply)
        path = reply[4 : 4 + length]
        Stat._make(STAT.unpack_from(reply, 4 + length))
        names = await listed
        number = path[-10:]
        while INT.unpack_from(names) != (1,):
            ahead = [name for name in decode_names(names) if name[-10:] < number]
            if not ahead:
                break
            await self._until_gone(raw + b"/" + max(ahead, key=lambda name: name[-10:]))
            if len(ahead) == 1:
                break
            names = await self.request(CHILDREN, INT.pack(len(raw)) + raw + b"\0")
        return path

    async def _until_gone(self, path: bytes) -> None:
        gone = self._watching[path] = self._loop.create_future()
        try:
            decode_get(await self.request(GET, INT.pack(len(path)) + path + b"\1"))
        except FloorError as error:
            del self._watching[path]
            if error.code != NO_NODE:
                raise
            return
        await gone

    async def release(self, path: bytes) -> None:
        await self.request(DELETE, INT.pack(len(path)) + path + ANY_VERSION)

    # The interface of `clients.Client`

    async def gets_at_once(self, path: str, count: int) -> None:
        await asyncio.gather(*(self.get(path) for _ in range(count)))

    async def gets_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            await self.get(path)

    async def sets_at_once(self, path: str, data: bytes, count: int) -> None:
        await asyncio.gather(*(self.set(path, data) for _ in range(count)))

    async def locks_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            await self.release(await self.acquire(path))

    async def locks_at_once(self, paths: Sequence[str]) -> None:
        held = await asyncio.gather(*(self.acquire(path) for path in paths))
        await asyncio.gather(*(self.release(path) for path in held))

    async def adds_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            while True:
                data, stat = await self.get(path)
                try:
                    await self.set(path, b"%d" % (int(data) + 1), stat.version)
                except FloorError as refusal:
                    if refusal.code != BAD_VERSION:
                        raise
                else:
                    break

    async def watch(self, path: str, count: int, tally: Tally) -> None:
        """One watch and one read for each change, shared by all; each watcher is a task that waits for the
        next state."""
        waiting: list[asyncio.Future[bytes]] = []

        async def watcher() -> None:
            while True:
                future = self._loop.create_future()
                waiting.append(future)
                tally.seen(await future)

        def publish(data: bytes) -> None:
            woken, waiting[:] = waiting[:], []
            for future in woken:
                future.set_result(data)

        self._start(*(watcher() for _ in range(count)), self._follow(path, publish))

    async def follow(self, paths: Sequence[str], tally: Tally) -> None:
        self._start(*(self._follow(path, tally.seen) for path in paths))

    async def _follow(self, path: str, tell: Callable[[bytes], None]) -> None:
        name = path.encode()
        body = INT.pack(len(name)) + name + b"\1"
        while True:
            changed = self._watching[name] = self._loop.create_future()
            data, _ = decode_get(await self.request(GET, body))
            tell(data)
            await changed

    def _start(self, *jobs: Coroutine[Any, Any, None]) -> None:
        self._tasks += map(asyncio.ensure_future, jobs)

    @asynccontextmanager
    async def cache(self, path: str) -> AsyncIterator[Callable[[], int]]:
        nodes = await load_tree(self.request, path)
        yield lambda: len(nodes)

    @asynccontextmanager
    async def discover(self, base: str, service: str) -> AsyncIterator[AsyncIterator[Sequence[object]]]:
        yield self._instances(f"{base}/{service}")

    async def _instances(self, path: str) -> AsyncIterator[Sequence[object]]:
        nodes = await load_tree(self.request, path)
        instances = {at: json.loads(data) for at, (data, _) in nodes.items() if at != path}
        changing = max(instances)  # the only one that is changed where this is measured
        name = changing.encode()
        while True:
            changed = self._watching[name] = self._loop.create_future()
            yield tuple(instances.values())
            await changed
            data, _ = decode_get(await self.request(GET, INT.pack(len(name)) + name + b"\0"))
            instances[changing] = json.loads(data)

    async def hold(self, path: str) -> Callable[[], bool]:
        await self.acquire(path)
        return lambda: not self.lost.done()

    async def close(self) -> None:
        """Stop the watchers and end the session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.request(CLOSE, b"")
        self.transport.close()
        await self.lost


async def open_floor(
    address: str,
    session_timeout: float,
    session_id: int = 0,
    password: bytes = bytes(16),
    *,
    tls: ssl.SSLContext | None = None,
) -> Floor:
    """Connect to one server, for a new session or to resume one."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    transport, floor = await loop.create_connection(
        lambda: Floor(session_timeout, session_id, password), host, int(port), ssl=tls
    )
    try:
        await floor.connected
    except BaseException:
        transport.abort()
        raise
    return floor


@asynccontextmanager
async def connect(hosts: str, session_timeout: float) -> AsyncIterator[Floor]:
    """A session on the first of the servers."""
    floor = await open_floor(hosts.partition(",")[0], session_timeout)
    yield floor
    await floor.close()
