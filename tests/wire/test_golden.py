"""The wire layer against the bytes of real servers: those in `golden/`, and those of the server under test."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exchanges
import pytest
from recording import Recording, Step, body_of, play

from corral.types import Stat
from corral.wire import framing, messages
from corral.wire.messages import MultiResult, Operation

GOLDEN = Path(__file__).parent / "golden"

CONVERSATIONS = {
    name: (Recording.load(GOLDEN / f"{name}.json"), steps) for name, steps in exchanges.CONVERSATIONS.items()
}

each_step = pytest.mark.parametrize(
    ("recording", "step"),
    [
        pytest.param(recording, step, id=f"{name}: {step.name}")
        for name, (recording, steps) in CONVERSATIONS.items()
        for step in steps
    ],
)

HEADER = 16
"""Bytes of a reply's header."""


def payload(frame: bytes, *, headed: bool = True) -> tuple[bytes, int, int]:
    """What a decoder is given: the body of a frame, in the middle of a buffer."""
    before, after = b"\xff" * 7, b"\xff" * 100
    return before + frame + after, len(before) + (HEADER if headed else 0), len(before) + len(frame)


def decode(step: Step, reply: bytes) -> Any:
    """The value in a reply, as corral decodes it."""
    if step.op is None:
        return messages.decode_connect_reply(*payload(reply, headed=False))
    return step.op.decode_reply(*payload(reply))


def plain(value: Any, recording: Recording) -> Any:
    """A decoded value without what is not known beforehand: a node's times, after a look at them, and the
    order of names."""
    match value:
        case Stat():
            # Whole milliseconds of the recording's time; the clock of a server elsewhere may be off a little.
            assert recording.started - 60 < value.ctime <= value.mtime < recording.ended + 60
            assert value.mtime * 1000 == pytest.approx(round(value.mtime * 1000), abs=1e-3)
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


def check_answer(step: Step, recording: Recording) -> None:
    """The answer and the events before it mean what they must."""
    exchange = recording.exchanges[step.name]
    if step.op is not None:
        xid, _, error = messages.REPLY_HEADER.unpack_from(exchange.reply)
        assert (xid, error) == (struct.unpack_from(">i", exchange.request)[0], step.error)
    if step.error:
        assert len(exchange.reply) == HEADER
    else:
        assert plain(decode(step, exchange.reply), recording) == recording.resolve(step.value)
    assert [event[:4] for event in exchange.events] == [b"\xff" * 4] * len(step.events)
    events = [messages.WATCH_EVENT.decode(*payload(event)) for event in exchange.events]
    assert sorted(events) == sorted(recording.resolve(step.events))


@each_step
def test_requests(recording: Recording, step: Step) -> None:
    """A request is encoded into the bytes that a real server took and answered."""
    exchange = recording.exchanges[step.name]
    header = b""
    if step.op is not None:
        xid, opcode = struct.unpack_from(">ii", exchange.request)
        length, *header_fields = messages.REQUEST_HEADER.unpack(
            messages.REQUEST_HEADER.pack(len(exchange.request), xid, step.op.opcode)
        )
        assert (length, header_fields) == (len(exchange.request), [xid, opcode])
        header = exchange.request[:8]
    assert header + body_of(step, recording.resolve(step.fields)) == exchange.request


@each_step
def test_answers(recording: Recording, step: Step) -> None:
    """What a real server sent is decoded into what it meant."""
    check_answer(step, recording)
