"""The floor with failing servers: connections of `floor_client`, one after another, for one session.

It tries the next server at once, in random order, without end, and gives up a server that has not answered
for a third of the session timeout. Between attempts it only waits as long as is necessary to avoid a busy
loop. Real clients cannot afford that, since many of them reconnect when a server comes back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from clients.floor_client import Floor, open_floor

SPIN = 0.005
SILENCE = 1 / 3


class FloorSession:
    """The interface of `clients.Survivor`."""

    def __init__(self, hosts: str, session_timeout: float) -> None:
        self._hosts = hosts.split(",")
        self._timeout = session_timeout
        self._floor: Floor | None = None
        self.session_id = 0
        self._password = bytes(16)

    async def _connection(self) -> Floor:
        while self._floor is None or self._floor.lost.done():
            limit = self._timeout * SILENCE / len(self._hosts)
            for address in random.sample(self._hosts, len(self._hosts)):
                with suppress(OSError):  # includes TimeoutError
                    async with asyncio.timeout(limit):
                        floor = await open_floor(address, self._timeout, self.session_id, self._password)
                    self._floor, self.session_id, self._password = floor, floor.session_id, floor.password
                    if self.session_id:  # otherwise it has expired
                        break
            else:
                await asyncio.sleep(SPIN)
        return self._floor

    async def gets_in_turn(self, path: str, count: int) -> None:
        for _ in range(count):
            floor = await self._connection()
            try:
                async with asyncio.timeout(self._timeout * SILENCE):
                    await floor.get(path)
            except TimeoutError:
                floor.transport.abort()
                await floor.lost
                raise

    async def hold(self, path: str) -> Callable[[], bool]:
        await (await self._connection()).acquire(path)
        session_id = self.session_id
        return lambda: self.session_id == session_id

    async def close(self) -> None:
        """End the session."""
        await (await self._connection()).close()


@asynccontextmanager
async def connect(hosts: str, session_timeout: float) -> AsyncIterator[FloorSession]:
    """A session with any of the servers."""
    session = FloorSession(hosts, session_timeout)
    await session._connection()
    yield session
    await session.close()
