"""A conversation with a real server: the requests, the meaning of the answers, and the bytes of both.

A `Step` is one request with the meaning of its answer, written by hand. `play` sends a list of them to a
server and returns a `Recording` of the bytes, which can be stored in a file.

Some values of an answer are known only from the answers: the zxid of a write, the id of a session. A meaning
refers to them by the step that they come from (`Znode`, `Zxid`, `SESSION_ID`, `PASSWORD`). They are looked up
in the recorded bytes with `struct` alone, not with the code under test. A string that begins with ``~`` is a
path below the recording's root.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import struct
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, Self

import pytest

from corral.types import Stat
from corral.wire import messages
from corral.wire.compile import Codec, DecodeError
from corral.wire.messages import Operation
from support import PATIENCE

# Meanings


class Zxid(NamedTuple):
    """The zxid in the header of a step's answer: for a write, that of its transaction."""

    of: str


class Znode(NamedTuple):
    """A `Stat` without its times, given by its differences from that of a new, empty node without
    children."""

    created: str
    """The step that created it; by default the next two are the same step."""
    changed: str | None = None
    children_changed: str | None = None
    version: int = 0
    cversion: int = 0
    aversion: int = 0
    owner: Any = 0
    length: int = 0
    children: int = 0


class _Learned(enum.Enum):
    SESSION_ID = enum.auto()
    PASSWORD = enum.auto()


SESSION_ID, PASSWORD = _Learned
"""The id and the password of the session that the step "connect" opened."""


class Either(NamedTuple):
    """One of these meanings: servers differ."""

    choices: tuple[Any, ...]


@dataclass(frozen=True)
class _Either:
    choices: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return other in self.choices


class Step(NamedTuple):
    """A request and its expected answer."""

    name: str
    op: Operation | None
    """None for a connect request."""
    fields: Any = ()
    """For a transaction, a list of operations with their fields. Here and in `value`, a function is called
    with the recording, for what can only be computed from it."""
    value: Any = None
    error: int = 0
    events: tuple[tuple[int, int, str], ...] = ()
    """The events that the server sends before it answers: type, state, path."""
    on: str = "main"
    """The name of the connection; a connect request opens one."""
    cut: int = 0
    """How many bytes to omit from the end of the request."""


def body_of(step: Step, fields: Any) -> bytes:
    """The request as corral encodes it."""
    if step.op is None:
        encoded = messages.encode_connect(*fields)
    elif step.op in (messages.MULTI, messages.MULTI_READ):
        encoded = messages.encode_multi([(op, op.request.encode(*values)) for op, values in fields])
    else:
        encoded = step.op.request.encode(*fields)
    return encoded[: len(encoded) - step.cut]


_OWN_XIDS = {
    messages.PING: messages.PING_XID,
    messages.AUTH: messages.AUTH_XID,
    messages.SET_WATCHES: messages.SET_WATCHES_XID,
    messages.SET_WATCHES2: messages.SET_WATCHES_XID,
}

# Recordings


@dataclass
class Exchange:
    """The bytes of one step: frames without their length."""

    request: bytes
    events: list[bytes]
    reply: bytes


@dataclass
class Recording:
    """A whole conversation."""

    server: str
    root: str
    started: float
    """Seconds since the epoch, before the first request; `ended` is after the last answer."""
    ended: float = 0.0
    exchanges: dict[str, Exchange] = field(default_factory=dict)

    def resolve(self, meaning: Any) -> Any:
        """A meaning with its references replaced by recorded values."""
        match meaning:
            case Zxid(of):
                return self._unpack(">4xq", of)[0]
            case Znode(created, changed, children_changed, version, cversion, aversion, owner, length, count):
                czxid, mzxid, pzxid = (
                    self.resolve(Zxid(of or created)) for of in (created, changed, children_changed)
                )
                owner = self.resolve(owner)
                return Stat(czxid, mzxid, 0, 0, version, cversion, aversion, owner, length, count, pzxid)
            case _Learned():
                layout = ">8xq" if meaning is SESSION_ID else ">20x16s"
                return self._unpack(layout, "connect")[0]
            case Either(choices):
                return _Either(tuple(map(self.resolve, choices)))
            case str() if meaning.startswith("~"):
                return self.root + meaning[1:]
            case tuple() if hasattr(meaning, "_fields"):
                return type(meaning)(*map(self.resolve, meaning))
            case tuple() | list():
                return type(meaning)(map(self.resolve, meaning))
            case FunctionType():
                return meaning(self)
        return meaning

    def _unpack(self, layout: str, name: str) -> tuple[Any, ...]:
        return struct.unpack_from(layout, self.exchanges[name].reply)

    def save(self, path: Path) -> None:
        """Write it as JSON, with the headers of frames separate from their bodies."""
        exchanges = {
            name: {
                "request": _hex(exchange.request, *((4, 4) if connected else ())),
                "events": [_hex(event, 4, 8, 4) for event in exchange.events],
                "reply": _hex(exchange.reply, *((4, 8, 4) if connected else ())),
            }
            for name, exchange in self.exchanges.items()
            for connected in [not name.startswith("connect")]
        }
        content = {**vars(self), "exchanges": exchanges}
        path.write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote."""
        content = json.loads(path.read_text())
        exchanges = {
            name: Exchange(
                bytes.fromhex(exchange["request"]),
                [bytes.fromhex(event) for event in exchange["events"]],
                bytes.fromhex(exchange["reply"]),
            )
            for name, exchange in content["exchanges"].items()
        }
        return cls(**{**content, "exchanges": exchanges})


def _hex(frame: bytes, *heads: int) -> str:
    pieces = []
    for size in heads:
        pieces.append(frame[:size].hex())
        frame = frame[size:]
    return " ".join([*pieces, frame.hex()]).rstrip()


# Playing

NOTIFICATION = b"\xff\xff\xff\xff"
"""The xid of an event."""


class Wire:
    """One connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, frame: bytes) -> None:
        """Send a frame, given without its length."""
        self._writer.write(struct.pack(">i", len(frame)) + frame)

    async def receive(self) -> bytes:
        """Wait for the next frame."""
        return await self._reader.readexactly(int.from_bytes(await self._reader.readexactly(4), "big"))


@contextlib.asynccontextmanager
async def connection(address: str) -> AsyncIterator[Wire]:
    """A connection to a server, closed at the end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def play(server: str, address: str, root: str, steps: Sequence[Step]) -> Recording:
    """Send all steps to the server at `address`, whose version is `server`."""
    recording = Recording(server, root, time.time())
    wires: dict[str, Wire] = {}
    async with contextlib.AsyncExitStack() as connections, asyncio.timeout(PATIENCE):
        for xid, step in enumerate(steps):
            request = body_of(step, recording.resolve(step.fields))
            if step.op is None:
                wires[step.on] = await connections.enter_async_context(connection(address))
            else:
                xid = _OWN_XIDS.get(step.op, xid)
                request = struct.pack(">ii", xid, step.op.opcode) + request
            wire = wires[step.on]
            wire.send(request)
            reply = await wire.receive()
            events = []
            while step.op is not None and reply.startswith(NOTIFICATION):
                events.append(reply)
                reply = await wire.receive()
            recording.exchanges[step.name] = Exchange(request, events, reply)
    recording.ended = time.time()
    return recording


# Checking

HEADER = 16
"""The size of a reply's header."""

SKEW = 60.0
"""Seconds by which the clock of a server on another machine may differ from ours."""


def payload(frame: bytes, *, header: int = HEADER) -> tuple[bytes, int, int]:
    """What a decoder gets: the frame after its header, in the middle of a buffer."""
    before, after = b"\xff" * 7, b"\xff" * 100
    return before + frame + after, len(before) + header, len(before) + len(frame)


def as_fields(codec: Codec, decoded: Any) -> tuple[Any, ...]:
    """A decoded value in the form in which it is encoded: always a tuple."""
    return {0: (), 1: (decoded,)}.get(len(codec.fields), decoded)


def decode(step: Step, reply: bytes) -> Any:
    """The value in a reply, as corral decodes it."""
    if step.op is None:
        return messages.decode_connect_reply(*payload(reply, header=0))
    return step.op.decode_reply(*payload(reply))


def plain(value: Any, recording: Recording) -> Any:
    """A decoded value without what cannot be predicted: a node's times, after a check of them, and the order
    of names."""
    match value:
        case Stat():
            if value.czxid:
                assert recording.started - SKEW < value.ctime
            assert value.ctime <= value.mtime < recording.ended + SKEW
            return value._replace(ctime=0, mtime=0)
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*(plain(item, recording) for item in value))
        case tuple():
            return tuple(plain(item, recording) for item in value)
        case list() if all(isinstance(item, str) for item in value):
            return sorted(value)
        case list() if value and isinstance(value[0], tuple) and type(value[0]) is tuple:
            return sorted(value)
        case list():
            return [plain(item, recording) for item in value]
    return value


def check(step: Step, recording: Recording) -> None:
    """The answer and the events before it have the expected meaning."""
    exchange = recording.exchanges[step.name]
    if step.op is not None or step.error:
        xid, _, error = messages.REPLY_HEADER.unpack_from(exchange.reply)
        assert (xid, error) == (struct.unpack_from(">i", exchange.request)[0], step.error)
    if not step.error:
        assert plain(decode(step, exchange.reply), recording) == recording.resolve(step.value)
    else:
        assert len(exchange.reply) == HEADER or step.op is messages.SASL  # SASL has an additional null token
        if step.op is None:
            with pytest.raises(DecodeError):
                decode(step, exchange.reply)
    assert all(event.startswith(NOTIFICATION) for event in exchange.events)
    events = [messages.WATCH_EVENT.decode(*payload(event)) for event in exchange.events]
    assert sorted(events) == sorted(recording.resolve(step.events))
