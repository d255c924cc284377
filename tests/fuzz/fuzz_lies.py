"""Lies that do not decode what they change: bytes, headers, order, ends of connections. `fuzz_shaped` has the
others."""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fuzz_relay import Frame, Piece, Way

from corral.testing import MessageKind
from corral.wire import messages

HEADER = messages.REPLY_HEADER
CODES = (
    -1, -2, -3, -4, -5, -6, -7, -8, -9, -13, -100, -101, -102, -103, -108, -110, -111, -112, -113, -114, -115, -118,
    -119, -120, -121, -122, -123, -124, -127, 1, 42, -1000, 2**31 - 1, -(2**31),
)  # fmt: skip
ZXIDS = (0, -1, 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))
XIDS = (-1, -2, -4, -8, -3, -7, 0, 1, 2**31 - 1, -(2**31))
PATHS = (
    "", "x", "/", "//", "/a/", "a/b", "/..", "/\0", "/w\0", "/\ud800", "/w/\udfff\ud83d", "/w//x", "/zookeeper",
    "/a" * 300_000, "/" * 100_000, "/" + "a" * 100_000,
)  # fmt: skip
KINDS = (*range(-1, 8), 42, 2**31 - 1, -(2**31))
FOREIGN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"\x00" * 100,
    b"\xff" * 100,
)


@dataclass
class Known:
    """What a liar has seen so far."""

    paths: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    replies: deque[bytes] = field(default_factory=lambda: deque(maxlen=20))
    """Bodies of replies, with their headers."""
    zxid: int = 0

    def note(self, frame: Frame) -> None:
        """Take note of a message."""
        if frame.path is not None and frame.path not in self.paths:
            self.paths.append(frame.path)
        if frame.message.kind is MessageKind.REPLY and frame.message.operation != "connect":
            self.replies.append(frame.body)
            self.zxid = max(self.zxid, HEADER.unpack_from(frame.body.ljust(HEADER.size, b"\0"))[1])


Tell = Callable[[random.Random, Frame, Known], "Sequence[Piece] | None"]


class Lie(NamedTuple):
    """One kind of lie: for a message it returns what passes instead, or None if it does not apply."""

    name: str
    tell: Tell
    believable: bool
    """Whether a client cannot distinguish it from an answer of the server, and may report it as true."""
    of_requests: bool = False
    weight: int = 1
    """How often it is chosen, relative to others."""


LIES: dict[str, Lie] = {}


def lie(*, believable: bool = False, of_requests: bool = False, weight: int = 1) -> Callable[[Tell], Tell]:
    """Register a function in `LIES`, under its name."""

    def enter(tell: Tell) -> Tell:
        name = tell.__name__.strip("_")
        LIES[name] = Lie(name, tell, believable, of_requests, weight)
        return tell

    return enter


def framed(body: bytes) -> bytes:
    """A message with its length in front."""
    return struct.pack(">i", len(body)) + body


def instead(body: bytes) -> list[Piece]:
    """This message only."""
    return [Piece(framed(body))]


def has_header(frame: Frame) -> bool:
    """Whether it begins with xid, zxid and error code."""
    return frame.message.operation != "connect" and len(frame.body) >= HEADER.size


def java_utf8(text: str) -> bytes:
    """The encoding of Java's server, also for invalid characters."""
    return text.encode("utf-8", "surrogatepass")


def event(kind: int, path: str, *, state: int = 3, zxid: int = -1) -> bytes:
    """The message of an event."""
    raw = java_utf8(path)
    return HEADER.pack(messages.NOTIFICATION_XID, zxid, 0) + struct.pack(">iii", kind, state, len(raw)) + raw


# Bytes


@lie(believable=True)
def bits(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    body = bytearray(frame.body)
    for _ in range(rng.choice((1, 1, 2, 8)) if body else 0):
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return instead(bytes(body))


@lie(believable=True)
def byte(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    body = bytearray(frame.body)
    if body:
        body[rng.randrange(len(body))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return instead(bytes(body))


@lie()
def truncated(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return instead(frame.body[: rng.randrange(len(frame.body) + 1)])


@lie()
def extended(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return instead(frame.body + rng.randbytes(rng.choice((1, 4, 100))))


@lie()
def wrong_length(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    length = rng.choice((-1, -(2**31), 0, 3, len(frame.body) - 1, len(frame.body) + 1, 2**26 + 1, 2**31 - 1))
    return [Piece(struct.pack(">i", length) + frame.body)]


@lie()
def foreign(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    said = rng.choice((*FOREIGN, rng.randbytes(50)))
    return [Piece(said)] if rng.random() < 0.5 else [Piece(said), Piece(b"", Way.FIN)]


@lie()
def drip(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    data = frame.data[:200]
    pause = rng.choice((0.001, 0.1, 1.0))
    rest = [Piece(frame.data[200:], Way.IN_TURN)] if len(frame.data) > 200 else []
    return [Piece(data[i : i + 1], Way.IN_TURN, pause) for i in range(len(data))] + rest


# Headers


@lie()
def xid(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    if not has_header(frame):
        return None
    new = rng.choice((*XIDS, *frame.in_flight, *frame.in_flight, frame.message.xid + rng.choice((-1, 1))))
    return instead(struct.pack(">i", max(-(2**31), min(new, 2**31 - 1))) + frame.body[4:])


@lie(believable=True)
def zxid(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    if not has_header(frame):
        return None
    new = rng.choice((*ZXIDS, known.zxid - 1, known.zxid + 1, known.zxid + 1000, known.zxid // 2))
    return instead(frame.body[:4] + struct.pack(">q", new) + frame.body[12:])


@lie(believable=True, weight=2)
def code(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    if not has_header(frame):
        return None
    body = frame.body[HEADER.size :] if rng.random() < 0.3 else b""
    return instead(frame.body[:12] + struct.pack(">i", rng.choice(CODES)) + body)


@lie(believable=True)
def success(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    """A refusal becomes a success."""
    if not has_header(frame) or not frame.message.error:
        return None
    return instead(frame.body[:12] + bytes(4) + frame.body[HEADER.size :] + bytes(rng.choice((0, 4, 100))))


# Order


@lie()
def dropped(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return []


@lie()
def repeated(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return [Piece(frame.data)] * rng.choice((2, 2, 3, 50))


@lie()
def swapped(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return [Piece(frame.data, Way.BEHIND_THE_NEXT)]


@lie()
def later(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return [Piece(frame.data, rng.choice((Way.LATE, Way.IN_TURN)), rng.choice((0.001, 0.1, 1.0, 3.0)))]


@lie()
def ended(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    """The connection ends, before the message, in its middle or after it."""
    part = frame.data[: rng.choice((0, 3, rng.randrange(len(frame.data)), len(frame.data)))]
    return [Piece(part), Piece(b"", rng.choice((Way.FIN, Way.RST)))]


# Inventions


def _path(rng: random.Random, known: Known) -> str:
    path = rng.choice(tuple(known.paths) or ("/",)) if rng.random() < 0.6 else rng.choice(PATHS)
    return path if rng.random() < 0.7 else path + rng.choice(("/", "/x", "//", "/_c_0-lock-0000000000"))


@lie(weight=3)
def an_event(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    count = rng.choice((1, 1, 3, 100))
    told = [
        framed(event(rng.choice(KINDS), _path(rng, known), state=rng.choice((3, 3, 0, -112, 4)), zxid=rng.choice(ZXIDS)))
        for _ in range(count)
    ]  # fmt: skip
    short = [Piece(data) for data in told if len(data) < 10_000 or data is told[0]]
    return [*short, Piece(frame.data)] if rng.random() < 0.5 else [Piece(frame.data), *short]


@lie(believable=True)
def another_event(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    """An event is replaced by another."""
    if frame.message.kind is not MessageKind.EVENT:
        return None
    return instead(event(rng.choice(KINDS), _path(rng, known)))


@lie(believable=True, weight=2)
def a_reply(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    """A reply to something in flight, or to nothing, with the body of another reply."""
    to = rng.choice((*XIDS, *frame.in_flight, *frame.in_flight))
    body = rng.choice(tuple(known.replies))[HEADER.size :] if known.replies and rng.random() < 0.7 else b""
    said = framed(HEADER.pack(to, known.zxid, rng.choice((0, 0, *CODES))) + body)
    return [Piece(said), Piece(frame.data)] if rng.random() < 0.5 else [Piece(frame.data), Piece(said)]


@lie(believable=True)
def the_body_of_another(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    if not has_header(frame) or not known.replies:
        return None
    return instead(frame.body[: HEADER.size] + rng.choice(tuple(known.replies))[HEADER.size :])


# Requests


@lie(of_requests=True)
def request_dropped(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return []


@lie(of_requests=True, believable=True)
def request_repeated(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return [Piece(frame.data)] * 2


@lie(of_requests=True)
def request_truncated(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return instead(frame.body[: rng.randrange(len(frame.body) + 1)])


@lie(of_requests=True)
def request_later(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece]:
    return later(rng, frame, known) or []


@lie(of_requests=True, believable=True)
def request_under_another_number(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    if frame.message.operation == "connect":
        return None
    head = struct.pack(">i", rng.choice((*XIDS, *frame.in_flight))) + frame.body[4:8]
    if rng.random() < 0.3:
        head = frame.body[:4] + struct.pack(">i", rng.choice((*messages.OPERATIONS, 0, -1, 99, 1000)))
    return instead(head + frame.body[8:])
