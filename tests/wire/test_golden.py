"""The wire layer compared with the bytes of real servers: those in `golden/`, and those of the server under
test."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exchanges
import pytest
from recording import Recording, Step, as_fields, body_of, check, payload, play

from corral.wire import messages
from corral.wire.messages import ERROR_OPCODE, OPERATIONS, MultiResult

GOLDEN = Path(__file__).parent / "golden"

ALL = [
    (name, Recording.load(GOLDEN / f"{name}.json"), step)
    for name, steps in exchanges.CONVERSATIONS.items()
    for step in steps
]

TRANSACTIONS = (messages.MULTI, messages.MULTI_READ)


def each_step(condition: Callable[[Step], bool] = lambda step: True) -> pytest.MarkDecorator:
    """Runs the test for each step of each conversation that meets this condition."""
    found = [
        pytest.param(recording, step, id=f"{name}: {step.name}")
        for name, recording, step in ALL
        if condition(step)
    ]
    return pytest.mark.parametrize(("recording", "step"), found)


@each_step()
def test_requests(recording: Recording, step: Step) -> None:
    """A request is encoded into the bytes that a real server accepted and answered."""
    stored = recording.exchanges[step.name].request
    body = body_of(step, recording.resolve(step.fields))
    if step.op is None:
        assert body == stored
    else:
        (xid,) = struct.unpack_from(">i", stored)
        header = messages.REQUEST_HEADER.pack(len(body) + 8, xid, step.op.opcode)
        assert header + body == len(stored).to_bytes(4, "big") + stored


TYPED: dict[messages.Operation, Callable[..., bytes]] = {
    messages.CREATE: lambda path, data, acl, flags: messages.encode_create(path, data, tuple(acl), flags),
    messages.CREATE_TTL: lambda path, data, acl, flags, milliseconds: messages.encode_create_ttl(
        path, data, tuple(acl), flags, milliseconds / 1000
    ),
    messages.AUTH: lambda _, scheme, secret: messages.encode_auth(scheme, secret),
    messages.DELETE: messages.encode_delete,
    messages.EXISTS: messages.encode_exists,
    messages.GET: messages.encode_get,
    messages.SET: messages.encode_set,
    messages.GET_ACL: messages.encode_get_acl,
    messages.SET_ACL: messages.encode_set_acl,
    messages.CHILDREN: messages.encode_children,
    messages.CHILDREN2: messages.encode_children2,
    messages.SYNC: messages.encode_sync,
    messages.REMOVE_WATCHES: messages.encode_remove_watches,
    messages.SET_WATCHES: messages.encode_set_watches,
    messages.ADD_WATCH: messages.encode_add_watch,
}
TYPED[messages.CREATE2] = TYPED[messages.CREATE_CONTAINER] = TYPED[messages.CREATE]


@each_step(lambda step: step.op in TYPED and None not in step.fields)
def test_requests_by_typed_functions(recording: Recording, step: Step) -> None:
    """The functions that callers use encode the same bytes as the declaration, from seconds and tuples."""
    assert step.op is not None
    fields = recording.resolve(step.fields)
    assert TYPED[step.op](*fields) == recording.exchanges[step.name].request[8:]


@each_step()
def test_requests_as_a_server_reads_them(recording: Recording, step: Step) -> None:
    """A request that a real server accepted is decoded into the fields that it was made from."""
    fields = recording.resolve(step.fields)
    stored = recording.exchanges[step.name].request
    if step.op is None:
        last_zxid, timeout, session_id, password, *read_only = fields
        expected = (0, last_zxid, timeout, session_id, password, any(read_only))
        assert messages.decode_connect(*payload(stored, header=0)) == expected
    elif step.op in TRANSACTIONS:
        found = messages.decode_multi(*payload(stored, header=8))
        assert [(op, as_fields(op.request, values)) for op, values in found] == fields
    else:
        decoded = as_fields(step.op.request, step.op.request.decode(*payload(stored, header=8)))
        # A null string is decoded as an empty one.
        assert [value or None for value in decoded] == [value or None for value in fields]


@each_step()
def test_answers(recording: Recording, step: Step) -> None:
    """What a real server sent, including events and refusals, is decoded into its meaning."""
    check(step, recording)


DECODED_TO_THE_SAME = {
    "get acl: beyond U+FFFF": "such characters are six bytes in Java's UTF-8 and four in ours",
    "multi read: null data": "null data is read as empty",
    "connect: as before 3.4": "the answer ends before read_only, which we always write",
}
"""Answers that are not encoded into the server's own bytes, and the reason."""


@each_step(lambda step: not step.error)
def test_answers_as_a_server_writes_them(recording: Recording, step: Step) -> None:
    """What a real server sent is the same after decoding and encoding."""
    exchange = recording.exchanges[step.name]
    if step.op is None:
        stored = exchange.reply
        connected = messages.decode_connect_reply(*payload(stored, header=0))
        encoded = messages.encode_connect_reply(*connected[1:])
    else:
        stored = exchange.reply[16:]
        encoded = encoded_again(step.op, exchange.reply)
    assert (encoded == stored) is (step.name not in DECODED_TO_THE_SAME)
    for event in exchange.events:
        fields = messages.WATCH_EVENT.decode(*payload(event))
        assert messages.WATCH_EVENT.encode(*fields) == event[16:]


def encoded_again(op: messages.Operation, reply: bytes) -> bytes:
    """The body of a reply, decoded and encoded."""
    if op in TRANSACTIONS:
        results = messages.decode_multi_reply(*payload(reply))
        return messages.encode_multi_reply([(code, error, body(code, v)) for code, error, v in results])
    # Not `decode_reply`, which makes null data empty.
    return op.reply.encode(*as_fields(op.reply, op.reply.decode(*payload(reply))))


def body(opcode: int, value: Any) -> bytes:
    """The body of one result of a transaction."""
    if opcode == ERROR_OPCODE:
        return b""
    codec = OPERATIONS[opcode].reply
    return codec.encode(*as_fields(codec, value))


def test_null_data_reads_as_empty() -> None:
    """Some clients write null data: `get` returns it as empty, and the declaration distinguishes the two."""
    recording = next(recording for _, recording, step in ALL if step.name == "get: null data")
    reply = recording.exchanges["get: null data"].reply
    assert messages.GET.decode_reply(*payload(reply))[0] == b""
    assert messages.GET.reply.decode(*payload(reply))[0] is None


def test_golden_covers_everything() -> None:
    """There are golden bytes for each operation, each kind of watch event, and each kind of answer to a
    connect request."""
    said = {step.op for _, _, step in ALL if step.op and step.op not in TRANSACTIONS}
    transactions = {step.op for _, _, step in ALL if step.op in TRANSACTIONS}
    within = {op for _, _, step in ALL if step.op in TRANSACTIONS for op, _ in step.fields}
    # A check outside a transaction gets no answer from 3.8.
    assert said | transactions == set(OPERATIONS.values()) - {messages.CHECK}
    assert within == {
        messages.CREATE, messages.CREATE2, messages.CREATE_CONTAINER, messages.CREATE_TTL, messages.DELETE,
        messages.SET, messages.CHECK, messages.GET, messages.CHILDREN,
    }  # fmt: skip
    results = [result for _, _, step in ALL if step.op in TRANSACTIONS for result in step.value]
    assert {type(result) for result in results} >= {MultiResult}
    assert {kind for _, _, step in ALL for kind, _, _ in step.events} == {1, 2, 3, 4}


async def test_server_under_test(real_time: None, server_address: str, root: str) -> None:
    """The server under test answers as the recorded one did, whatever its version."""
    recording = await play("the server under test", server_address, f"{root}/wire", exchanges.STANDALONE)
    for step in exchanges.STANDALONE:
        check(step, recording)
