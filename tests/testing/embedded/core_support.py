"""A client of the embedded server's core that exchanges single frames, and a server with a clock that the
test advances."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from corral import acl
from corral.testing.embedded.server_connection import ServerConnection
from corral.testing.embedded.zookeeper import Config, ZooKeeper
from corral.types import Acl, Stat
from corral.wire import messages
from corral.wire.messages import ConnectReply, MultiResult, Operation

OPEN = list(acl.OPEN)
WALL = 1_700_000_000.0

EPHEMERAL, SEQUENTIAL, CONTAINER, TTL = 1, 2, 4, 5
CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4


class Reply(NamedTuple):
    """An answer: `value` is its decoded body, if there was no error."""

    xid: int
    zxid: int
    error: int
    value: Any = None


class Event(NamedTuple):
    """A watch event."""

    kind: int
    path: str


CLOSED = "closed"
"""Marks in a list of frames that the server closed the connection."""


class Wire:
    """One connection. `got` is what was received since the last call, in order."""

    def __init__(self, core: Core, host: str = "127.0.0.1") -> None:
        self._core = core
        self._frames: list[bytes | str] = []
        self._asked: dict[int, Operation] = {}
        self.xid = 0
        self.connected: ConnectReply | None = None
        self.link: ServerConnection = core.zk.accept(self, core.now, host=host, port=4321)

    # Called by the core

    def send(self, frame: bytes) -> None:
        """The server sends a frame; its length is checked."""
        assert int.from_bytes(frame[:4]) == len(frame) - 4
        self._frames.append(frame[4:])

    def close(self) -> None:
        """The server closes the connection."""
        assert CLOSED not in self._frames
        self._frames.append(CLOSED)

    # Called by tests

    def feed(self, frame: bytes) -> None:
        """Send any bytes as a frame."""
        self.link.received(self._core.now, frame)

    def take(self) -> list[bytes | str]:
        """The raw frames received since the last call, and `CLOSED`."""
        frames, self._frames = self._frames, []
        return frames

    def connect(
        self,
        *,
        zxid: int = 0,
        timeout: float = 4.0,
        session_id: int = 0,
        password: bytes = bytes(16),
        read_only: bool = False,
    ) -> ConnectReply | None:
        """Request a session; None if the connection was closed without an answer."""
        self.feed(messages.encode_connect(zxid, timeout, session_id, password, read_only))
        first = self._frames.pop(0)
        if isinstance(first, str):
            return None
        self.connected = messages.decode_connect_reply(first, 0, len(first))
        return self.connected

    def ask(self, operation: Operation, *fields: Any, body: bytes | None = None) -> list[Reply | Event | str]:
        """Send a request; returns everything received since the last call, its answer included."""
        self.xid += 1
        self._asked[self.xid] = operation
        if body is None:
            body = encoded(operation, fields)
        self.feed(struct.pack(">ii", self.xid, operation.opcode) + body)
        return self.got()

    def do(self, operation: Operation, *fields: Any) -> Any:
        """Send a request that succeeds and causes no events; returns the value of its answer."""
        (reply,) = self.ask(operation, *fields)
        assert isinstance(reply, Reply)
        assert reply.error == 0, reply
        return reply.value

    def refused(self, operation: Operation, *fields: Any, body: bytes | None = None) -> int:
        """Send a request that is refused; returns the error code."""
        (reply,) = self.ask(operation, *fields, body=body)
        assert isinstance(reply, Reply)
        assert reply.error != 0, reply
        return reply.error

    def got(self) -> list[Reply | Event | str]:
        """What was received since the last call, decoded."""
        return [frame if isinstance(frame, str) else self._decoded(frame) for frame in self.take()]

    def _decoded(self, frame: bytes) -> Reply | Event:
        xid, zxid, error = struct.unpack_from(">iqi", frame)
        if xid == messages.NOTIFICATION_XID:
            kind, state, path = messages.WATCH_EVENT.decode(frame, 16, len(frame))
            assert (state, error) == (3, 0)
            return Event(kind, path)
        operation = self._asked.get(xid)
        if error or operation is None:
            return Reply(xid, zxid, error)
        return Reply(xid, zxid, error, operation.decode_reply(frame, 16, len(frame)))

    # Common requests

    def create(self, path: str, data: bytes = b"", flags: int = 0, acl: Sequence[Acl] = OPEN) -> str:
        """Create a node; returns the path that the server gave it."""
        found: str = self.do(messages.CREATE, path, data, acl, flags)
        return found

    def stat(self, path: str) -> Stat:
        """The stat of an existing node."""
        found: Stat = self.do(messages.EXISTS, path, False)
        return found

    def children(self, path: str) -> list[str]:
        """The names of the children of a node, in the server's order."""
        found: list[str] = self.do(messages.CHILDREN, path, False)
        return found

    def multi(self, *operations: tuple[Operation, tuple[Any, ...]]) -> list[MultiResult]:
        """Send a transaction; returns its results, successful or not."""
        replies = [reply for reply in self.ask(messages.MULTI, *operations) if isinstance(reply, Reply)]
        assert replies[0].error == 0
        found: list[MultiResult] = replies[0].value
        return found


class Core:
    """A server and its clock."""

    def __init__(self, **config: Any) -> None:
        self.now = 100.0
        self.zk = ZooKeeper(Config(**{"seed": 1} | config), now=self.now, wall=WALL)

    def wire(self, *, host: str = "127.0.0.1") -> Wire:
        """A connection without a session."""
        return Wire(self, host)

    def client(self, *, timeout: float = 4.0, host: str = "127.0.0.1", read_only: bool = False) -> Wire:
        """A connection with a session."""
        wire = Wire(self, host)
        assert wire.connect(timeout=timeout, read_only=read_only) is not None
        return wire

    def pass_time(self, seconds: float) -> None:
        """Advance the clock, and let the server tick."""
        self.now += seconds
        self.zk.tick(self.now)


def encoded(operation: Operation, fields: tuple[Any, ...]) -> bytes:
    """The body of a request. For a transaction, `fields` are pairs of an operation and its fields."""
    if operation in (messages.MULTI, messages.MULTI_READ):
        return messages.encode_multi([(inner, inner.request.encode(*values)) for inner, values in fields])
    return operation.request.encode(*fields)
