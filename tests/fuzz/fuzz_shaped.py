"""Lies that understand the message: an answer is decoded, changed, and encoded again."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from fuzz_lies import CODES, HEADER, Known, has_header, instead, java_utf8, lie
from fuzz_relay import Frame, Piece

from corral.testing import MessageKind
from corral.types import Stat
from corral.wire import messages
from corral.wire.compile import DecodeError

JUNK_NAMES = (
    "", "/", ".", "..", "a/b", "\0", "\ud800", "x" * 5000,
    "_c_0-lock-0000000000", "_c_0-lock--000000001", "_c_0-lock-2147483647", "_c_0-lock-9999999999",
    "_c_0-lock-99999999999999999999", "_c_0-lock-\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661", "-lock-0000000001", "_c_0-latch-0000000000",
    "_c_0-lease-0000000000", "_c_0-__READ__0000000000", "_c_0-__WRIT__0000000000", "0__lock__0000000000",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63))
MULTIS = (messages.MULTI.opcode, messages.MULTI_READ.opcode)


def _answer(frame: Frame) -> Any:
    """The decoded reply; None if it has no body, or is a refusal."""
    operation = messages.OPERATIONS.get(frame.message.opcode)
    if (
        not has_header(frame)
        or frame.message.kind is not MessageKind.REPLY
        or frame.message.error
        or operation is None
    ):
        return None
    try:
        if frame.message.opcode in MULTIS:
            return messages.decode_multi_reply(frame.body, HEADER.size, len(frame.body))
        return operation.reply.decode(frame.body, HEADER.size, len(frame.body))
    except DecodeError:
        return None


def _said(frame: Frame, answer: Any) -> list[Piece]:
    """The reply with this body instead."""
    codec = messages.OPERATIONS[frame.message.opcode].reply
    body = codec.encode(*answer) if len(codec.fields) > 1 else codec.encode(answer)
    return instead(frame.body[: HEADER.size] + body)


def _string(text: str) -> bytes:
    raw = java_utf8(text)
    return struct.pack(">i", len(raw)) + raw


# Transactions


@lie(believable=True, weight=3)
def results(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    """Results of a transaction, or of a multi-read: too few, too many, or others."""
    answer = _answer(frame)
    if frame.message.opcode not in MULTIS or not answer:
        return None
    parts = [_part(result) for result in answer]
    change = rng.choice(
        ("none", "fewer", "more", "mixed", "others", "all refused", "one refused", "zero", "two refused")
    )
    if change == "none":
        parts = []
    elif change == "fewer":
        del parts[rng.randrange(len(parts)) :]
    elif change == "more":
        parts += [rng.choice(parts) for _ in range(rng.choice((1, 1, 1000)))]
    elif change == "mixed":
        rng.shuffle(parts)
    elif change == "others":
        parts = [rng.choice(_OTHERS) if rng.random() < 0.5 else part for part in parts]
    elif change == "all refused":
        refused = rng.choice((-2, -2, *CODES))
        parts = [(messages.ERROR_OPCODE, refused, b"") for _ in parts]
    elif change == "zero":
        parts = [(messages.ERROR_OPCODE, 0, b"") for _ in parts]
    else:
        for _ in range(1 if change == "one refused" else 2):
            parts[rng.randrange(len(parts))] = (messages.ERROR_OPCODE, rng.choice(CODES), b"")
    return instead(frame.body[: HEADER.size] + messages.encode_multi_reply(parts))


def _part(result: messages.MultiResult) -> tuple[int, int, bytes]:
    opcode, error, value = result
    if opcode == messages.ERROR_OPCODE:
        return (opcode, error, b"")
    codec = messages.OPERATIONS[opcode].reply
    values = () if not codec.fields else value if len(codec.fields) > 1 else (value,)
    return (opcode, 0, codec.encode(*values))


_STAT = Stat(1, 2, 3.0, 4.0, 5, 6, 7, 8, 9, 10, 11)
_OTHERS = (
    (messages.CHECK.opcode, 0, b""),
    (messages.DELETE.opcode, 0, b""),
    (messages.SET.opcode, 0, messages.SET.reply.encode(_STAT)),
    (messages.CREATE.opcode, 0, messages.CREATE.reply.encode("/x")),
    (messages.CREATE2.opcode, 0, messages.CREATE2.reply.encode("/x", _STAT)),
    (messages.GET.opcode, 0, messages.GET.reply.encode(b"x", _STAT)),
    (messages.CHILDREN.opcode, 0, messages.CHILDREN.reply.encode(["x"])),
    (messages.ERROR_OPCODE, -101, b""),
)


# Created paths


@lie(believable=True, weight=3)
def created(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    answer = _answer(frame)
    if frame.message.operation != "create" or answer is None:
        return None
    path = answer if isinstance(answer, str) else answer[0]
    asked = frame.path or "/"
    path = rng.choice(
        ("", "/", "x", asked, asked + "x", asked + "-0000000001", asked + "99999999999", asked + "/0000000000",
         asked[: len(asked) // 2] + "0000000000", "/" + path, path + "0", path[:-1], asked + "\u0661" * 10, "\ud800")
    )  # fmt: skip
    if isinstance(answer, str):
        return instead(frame.body[: HEADER.size] + _string(path))
    rest = messages.CREATE2.reply.encode("", answer[1])[4:]
    return instead(frame.body[: HEADER.size] + _string(path) + rest)


# Stats


@lie(believable=True, weight=3)
def stat(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    answer = _answer(frame)
    if isinstance(answer, Stat):
        return _said(frame, _other_stat(rng, answer))
    if isinstance(answer, tuple) and isinstance(answer[-1], Stat):
        return _said(frame, (*answer[:-1], _other_stat(rng, answer[-1])))
    return None


def _other_stat(rng: random.Random, true: Stat) -> Stat:
    owner, zxids = rng.choice((0, 1, 0xDEAD, true.ephemeral_owner + 1)), rng.choice(NUMBERS)
    small = [number for number in NUMBERS if -(2**31) <= number < 2**31]
    change = rng.choice(("owner", "older", "newer", "any", "versions", "small"))
    if change == "owner":
        return true._replace(ephemeral_owner=owner)
    if change == "older":
        back = rng.choice((1, 2, 10))
        return true._replace(mzxid=true.mzxid - back, pzxid=true.pzxid - back)
    if change == "newer":
        on = rng.choice((1, 2, 10, 1000))
        return true._replace(mzxid=true.mzxid + on, pzxid=true.pzxid + on)
    if change == "any":
        return true._replace(**{rng.choice(("czxid", "mzxid", "pzxid")): zxids})
    names = ("version", "cversion", "aversion", "data_length", "num_children")
    return true._replace(**{name: rng.choice(small) for name in names if rng.random() < 0.5})


# Children and data


@lie(believable=True, weight=3)
def names(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    answer = _answer(frame)
    if frame.message.operation != "children" or answer is None:
        return None
    true = list(answer[0] if isinstance(answer, tuple) else answer)
    change: Callable[[], list[str]] = rng.choice(
        (
            lambda: [*true, rng.choice(JUNK_NAMES)],
            lambda: [*true, *rng.choices(JUNK_NAMES, k=5)],
            lambda: true * 2,
            lambda: true[1:],
            lambda: [name for name in true if rng.random() < 0.5],
            list,
            lambda: [*true, *(f"_c_{i:x}-lock-{i:010d}" for i in range(rng.choice((1000, 1000, 10_000))))],
            lambda: [name[:-10] + f"{rng.randrange(10**10):010d}" for name in true],
        )
    )
    said = change()
    body = struct.pack(">i", len(said)) + b"".join(map(_string, said))
    if isinstance(answer, tuple):
        body += messages.EXISTS.reply.encode(answer[1])
    return instead(frame.body[: HEADER.size] + body)


@lie(believable=True, weight=3)
def data(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    answer = _answer(frame)
    if frame.message.operation != "get" or answer is None:
        return None
    true, of = answer
    return _said(frame, (rng.choice((None, b"", b"0", b"999", b"x" * 100_000, (true or b"") * 2)), of))


# The answer to a connect request

TIMEOUTS = (0, -1, 1, 5, 50, 500, 20_000, 24 * 86_400_000, 2**31 - 1, -(2**31))
PASSWORDS = (None, b"", b"short", b"p" * 16, b"p" * 5000)


@lie(believable=True, weight=3)
def greeting(rng: random.Random, frame: Frame, known: Known) -> Sequence[Piece] | None:
    if (
        frame.message.kind is not MessageKind.REPLY
        or frame.message.operation != "connect"
        or len(frame.body) < 20
    ):
        return None
    version, timeout, session = struct.unpack_from(">iiq", frame.body)
    password: bytes | None = frame.body[20:36]
    tail = frame.body[36:]
    for what in rng.sample(
        ("version", "timeout", "timeout", "session", "password", "tail"), k=rng.choice((1, 1, 2))
    ):
        if what == "version":
            version = rng.choice((1, 42, -1))
        elif what == "timeout":
            timeout = rng.choice(TIMEOUTS)
        elif what == "session":
            session = rng.choice((0, -1, 1, session + 1, 2**63 - 1))
        elif what == "password":
            password = rng.choice(PASSWORDS)
        else:
            tail = rng.choice((b"", b"\1", b"\0" * 100, b"\xff"))
    length = -1 if password is None else len(password)
    return instead(struct.pack(">iiqi", version, timeout, session, length) + (password or b"") + tail)
