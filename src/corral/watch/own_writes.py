"""The states that this client's own writes leave, taken from the answers to the writes.

A cache that takes them never shows its own client an older state than the client has written. A session is
answered in the order in which the server has executed its requests, which makes the state in the answer to a
write as good as one that was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from corral.session.session import Session
from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import Operation

__all__ = ["OwnWrites", "WriteListener"]

_CREATES = (messages.CREATE, messages.CREATE2, messages.CREATE_CONTAINER, messages.CREATE_TTL)


class WriteListener(Protocol):
    """A copy of nodes that takes in what this client writes."""

    def written(self, path: str, data: bytes | None, stat: Stat | None, /) -> None:
        """This client has written the node at the full path. Data and `stat` are None if it was deleted;
        `stat` alone is None if the answer had none. Must not raise."""

    async def wait_current(self) -> None:
        """Wait until the copy has all that was written; return at once if it never will. Raises nothing."""


class OwnWrites:
    """Passes the writes of one session to its listeners. A `WriteObserver` of the session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._listeners: dict[WriteListener, None] = {}

    def add(self, listener: WriteListener) -> None:
        """Call `listener` from now on."""
        self._listeners[listener] = None
        self._session.observe(self)

    def remove(self, listener: WriteListener) -> None:
        """Do not call `listener` any more."""
        self._listeners.pop(listener, None)
        if not self._listeners:
            self._session.unobserve(self)

    # For the session

    async def wait_current(self) -> None:
        """Wait until all listeners are current."""
        for listener in tuple(self._listeners):
            await listener.wait_current()

    def wrote(self, op: Operation, body: bytes, result: Any, /) -> None:
        """The server has answered a write."""
        for path, data, stat in _states_left(op, body, result):
            for listener in tuple(self._listeners):
                listener.written(path, data, stat)


def _states_left(op: Operation, body: bytes, result: Any) -> Iterator[tuple[str, bytes | None, Stat | None]]:
    """Full path, data and `Stat` of each node that a write has changed; data and `Stat` are None if it was
    deleted. `Stat` alone is None for a create in a transaction, whose answer has none (ZOOKEEPER-4026)."""
    if op is messages.MULTI:
        results: list[messages.MultiResult] = result
        if not any(each.error for each in results):
            for (each, fields), answer in zip(
                messages.decode_multi(body, 0, len(body)), results, strict=True
            ):
                yield from _state_left(each, fields, answer.value)
        return
    if op in _CREATES or op is messages.SET or op is messages.DELETE:
        yield from _state_left(op, op.request.decode(body, 0, len(body)), result)


def _state_left(op: Operation, fields: Any, result: Any) -> Iterator[tuple[str, bytes | None, Stat | None]]:
    if op is messages.SET:
        yield fields[0], fields[1] or b"", result
    elif op is messages.DELETE:
        yield fields[0], None, None
    elif op in _CREATES:
        path, stat = (result, None) if isinstance(result, str) else result
        yield path, fields[1] or b"", stat
