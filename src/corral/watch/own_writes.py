"""The states that a client's own writes leave: known when they are answered, before any read could tell.

So a copy that follows them never shows its own client something older than what it has written. Answers come
in the order in which the server has done the work, so a write's state may be taken as a read's may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from corral.session.supervisor import Session
from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import Operation

__all__ = ["Follower", "OwnWrites"]

_CREATES = (messages.CREATE, messages.CREATE2, messages.CREATE_CONTAINER, messages.CREATE_TTL)


class Follower(Protocol):
    """Whoever wants to know what this client writes."""

    def written(self, path: str, data: bytes | None, stat: Stat | None, /) -> None:
        """The node at the full path is so now; both None if it is gone, and only `stat` where the answer did
        not have it. Must not raise."""

    async def settled(self) -> None:
        """Wait until what was written is known; at once if that is not to be. Raises nothing."""


class OwnWrites:
    """Shows its followers the writes of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._followers: dict[Follower, None] = {}

    def follow(self, follower: Follower) -> None:
        """Tell `follower` from now on."""
        self._followers[follower] = None
        self._session.observe(self)

    def unfollow(self, follower: Follower) -> None:
        """Tell it no more."""
        self._followers.pop(follower, None)
        if not self._followers:
            self._session.unobserve(self)

    async def settled(self) -> None:
        """The session's side."""
        for follower in tuple(self._followers):
            await follower.settled()

    def wrote(self, op: Operation, body: bytes, result: Any, /) -> None:
        """The session's side: a write was answered."""
        for path, data, stat in states_left(op, body, result):
            for follower in tuple(self._followers):
                follower.written(path, data, stat)


def states_left(op: Operation, body: bytes, result: Any) -> Iterator[tuple[str, bytes | None, Stat | None]]:
    """Full path, data and `Stat` of each node that a write has left; both None where it is gone.

    `Stat` alone is None where a create was answered without it, as in a transaction (ZOOKEEPER-4026).
    """
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
