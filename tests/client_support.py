"""What the tests of a client's verbs share: the requests that pass a proxy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from corral.testing import TcpProxy
from corral.wire import messages


def opcode(body: bytes) -> int:
    """The operation that a request asks for."""
    return int.from_bytes(body[4:8], signed=True)


def asks_for(*operations: messages.Operation) -> Callable[[bytes], bool]:
    """Matches requests for one of some operations, for `TcpProxy.lose_request` and `lose_reply`."""
    wanted = {operation.opcode for operation in operations}
    return lambda body: opcode(body) in wanted


class Seen:
    """The requests that have passed a proxy, in order, without pings."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def record(self, body: bytes) -> bool:
        """Note a request; False, since it is not to be lost."""
        if opcode(body) != messages.PING.opcode:
            self.bodies.append(body)
        return False

    @property
    def opcodes(self) -> list[int]:
        """What was asked for."""
        return [opcode(body) for body in self.bodies]

    def count(self, *operations: messages.Operation) -> int:
        """How many requests were for one of these operations."""
        return sum(map(asks_for(*operations), self.bodies))


@contextlib.asynccontextmanager
async def requests_seen(proxy: TcpProxy) -> AsyncIterator[Seen]:
    """Record the requests that clients of a proxy make. Enter it before a fault that loses some of them."""
    seen = Seen()
    async with proxy.lose_request(seen.record):
        yield seen
