"""Helpers for tests of a client's verbs: the requests that pass a proxy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from corral.testing import FaultProxy, Message, MessageKind
from corral.wire import messages


def asks_for(*operations: messages.Operation) -> Callable[[Message], bool]:
    """Matches requests for one of some operations, by their opcodes."""
    wanted = {operation.opcode for operation in operations}
    return lambda message: message.kind is MessageKind.REQUEST and message.opcode in wanted


class Seen:
    """The requests that a proxy received, in order, without pings and connect requests."""

    def __init__(self, requests: list[Message]) -> None:
        self.requests = requests

    @property
    def opcodes(self) -> list[int]:
        """The opcodes of these requests."""
        return [request.opcode for request in self.requests]

    def count(self, *operations: messages.Operation) -> int:
        """How many requests were for one of these operations."""
        return sum(map(asks_for(*operations), self.requests))


@contextlib.asynccontextmanager
async def requests_seen(proxy: FaultProxy) -> AsyncIterator[Seen]:
    """Record the requests that clients of a proxy make."""

    def is_of_interest(message: Message) -> bool:
        return message.kind is MessageKind.REQUEST and message.operation not in ("ping", "connect")

    async with proxy.record(is_of_interest) as requests:
        yield Seen(requests)
