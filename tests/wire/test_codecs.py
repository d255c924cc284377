"""Every codec, in both directions: compared with ZooKeeper's definition of the messages, and with aiozk."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import aiozk.protocol
import jute
import pytest
from aiozk.protocol.acl import ACL as AiozkAcl
from aiozk.protocol.acl import ID as AiozkId
from aiozk.protocol.part import Part
from aiozk.protocol.stat import Stat as AiozkStat
from hypothesis import given, settings
from hypothesis import strategies as st
from jute import MESSAGES, fields, java_utf8, property_test, write
from recording import as_fields

from corral import acl
from corral.types import Acl, Stat
from corral.wire import messages
from corral.wire.compile import Codec, DecodeError
from corral.wire.messages import OPERATIONS, ConnectReply, ConnectRequest, MultiResult


def codecs() -> Iterator[Any]:
    """Each codec with ZooKeeper's definition of its message."""
    for name, message in MESSAGES.items():
        operation = OPERATIONS[message.opcode]
        yield pytest.param(operation.request, message.request, id=f"{name} request")
        yield pytest.param(operation.reply, message.reply, id=f"{name} reply")
    yield pytest.param(messages.WATCH_EVENT, jute.WATCH_EVENT, id="watch event")


each_codec = pytest.mark.parametrize(("codec", "spec"), list(codecs()))


def decode_whole(codec: Codec, encoded: bytes) -> tuple[Any, ...]:
    """The fields of a message that fills a buffer."""
    decoded, stop = codec.read(encoded, 0, len(encoded))
    assert stop == len(encoded)
    assert codec.decode(encoded, 0, len(encoded)) == decoded
    return as_fields(codec, decoded)


# The operations

AIOZK_LACKS = {
    "createContainer": 19,
    "createTTL": 21,
    "multiRead": 22,
    "getEphemerals": 103,
    "getAllChildrenNumber": 104,
    "setWatches2": 105,
    "addWatch": 106,
    "whoAmI": 107,
}


def test_operations_are_zookeepers() -> None:
    """The operations are exactly ZooKeeper's operations for clients, with their opcodes."""
    opcodes = {message.opcode for message in MESSAGES.values()} | {jute.MULTI, jute.MULTI_READ}
    assert set(OPERATIONS) == opcodes
    assert all(operation.opcode == opcode for opcode, operation in OPERATIONS.items())


def test_writes_are_those_that_go_through_the_quorum() -> None:
    """S2, S3: exactly the operations for which the server makes a transaction (Java's `Request.isQuorum`)
    count as writes; sync does not. Closing a session is a transaction, too, but does not count, since it may
    be sent twice."""
    writes = {name for name, message in MESSAGES.items() if OPERATIONS[message.opcode].is_write}
    assert writes == {
        "create", "create2", "createContainer", "createTTL", "delete", "setData", "setACL", "check",
        "reconfig",
    }  # fmt: skip
    assert messages.MULTI.is_write
    assert not messages.MULTI_READ.is_write


@pytest.mark.parametrize(("name", "opcode"), list(AIOZK_LACKS.items()))
def test_what_aiozk_lacks(name: str, opcode: int) -> None:
    """The operations that DESIGN.md lists as missing in aiozk exist here, and are still missing in aiozk; if
    not, the table can be shortened."""
    assert opcode in OPERATIONS
    assert opcode not in AIOZK_REQUESTS
    assert name == "multiRead" or MESSAGES[name].opcode == opcode


# Compared with ZooKeeper's definition


@each_codec
def test_fields_are_zookeepers(codec: Codec, spec: str) -> None:
    """A message has as many fields as ZooKeeper's."""
    assert len(codec.fields) == len(fields(spec))


@each_codec
@given(data=st.data())
@property_test
def test_round_trip(codec: Codec, spec: str, data: st.DataObject) -> None:
    """A message is encoded into the bytes that ZooKeeper defines, and these are decoded into the message."""
    values = data.draw(jute.values(spec))
    encoded = codec.encode(*values)
    assert encoded == write(spec, values)
    assert decode_whole(codec, encoded) == values


@each_codec
@given(data=st.data())
@property_test
def test_java_strings(codec: Codec, spec: str, data: st.DataObject) -> None:
    """What a Java server writes is decoded correctly, including characters beyond U+FFFF."""
    values = data.draw(jute.values(spec))
    assert decode_whole(codec, write(spec, values, text=java_utf8)) == values


@each_codec
def test_null(codec: Codec, spec: str) -> None:
    """Null is encoded as such; it is decoded as null data, an empty string or an empty list."""
    plain = {"int": 1, "long": 1, "boolean": True, "Stat": Stat(*[0] * 11)}
    values = tuple(plain.get(kind) for _, kind in fields(spec))
    encoded = codec.encode(*values)
    assert encoded == write(spec, values)
    null = {"ustring": "", "buffer": None}
    expected = tuple(plain.get(kind, null.get(kind, [])) for _, kind in fields(spec))
    assert decode_whole(codec, encoded) == expected


@each_codec
@given(data=st.data(), tail=st.binary(min_size=1, max_size=12))
@property_test
def test_newer_servers_append_fields(codec: Codec, spec: str, data: st.DataObject, tail: bytes) -> None:
    """Bytes after the last field are ignored, and `read` returns where they begin."""
    values = data.draw(jute.values(spec))
    encoded = codec.encode(*values)
    decoded, stop = codec.read(encoded + tail, 0, len(encoded + tail))
    assert stop == len(encoded)
    assert as_fields(codec, decoded) == values
    assert codec.decode(encoded + tail, 0, len(encoded + tail)) == decoded


@each_codec
@given(data=st.data())
@property_test
def test_values_are_copies(codec: Codec, spec: str, data: st.DataObject) -> None:
    """A decoded value does not change when the buffer that it came from is reused."""
    values = data.draw(jute.values(spec))
    buffer = bytearray(codec.encode(*values))
    decoded = codec.decode(memoryview(buffer), 0, len(buffer))
    buffer[:] = b"\xee" * len(buffer)
    assert as_fields(codec, decoded) == values
    assert all(type(value) is not memoryview for value in as_fields(codec, decoded))


@pytest.mark.parametrize("text", ["a\U0001f40eb", "\U0001f40e\U00010000\U0010ffff", "節\U0001f40e\uffff"])
def test_beyond_the_basic_plane(text: str) -> None:
    """Java writes a character beyond U+FFFF as two surrogates of three bytes each; we write four bytes."""
    java = java_utf8(text)
    assert len(java) > len(text.encode())
    for raw in (java, text.encode(), java + text.encode()):
        encoded = struct.pack(">i", len(raw)) + raw
        assert messages.SYNC.reply.decode(encoded, 0, len(encoded)) in (text, text + text)
        children = struct.pack(">i", 1) + encoded
        assert messages.CHILDREN.reply.decode(children, 0, len(children)) in ([text], [text + text])


@pytest.mark.parametrize(
    "raw",
    [b"\xed\xa0\xbd", b"\xed\xb0\x8e\xed\xa0\xbd", b"a\xff", b"\xc0\x80", b"\xe7\xaf", b"\xf4\x90\x80\x80"],
    ids=["half", "halves swapped", "no such byte", "overlong", "cut", "beyond U+10FFFF"],
)
@pytest.mark.parametrize("op", [messages.SYNC, messages.CHILDREN], ids=repr)
def test_no_text(op: messages.Operation, raw: bytes) -> None:
    """Bytes that are no text, neither in UTF-8 nor in Java's encoding, are an error and do not become
    replacement characters."""
    count = b"" if op is messages.SYNC else struct.pack(">i", 1)
    encoded = count + struct.pack(">i", len(raw)) + raw
    with pytest.raises(DecodeError):
        op.decode_reply(encoded, 0, len(encoded))


@given(milliseconds=st.integers(0, jute.UNTIL_YEAR_10000 - 1))
@settings(property_test, max_examples=100)
def test_times_are_seconds(milliseconds: int) -> None:
    """A node's times are seconds; encoding and decoding them loses no millisecond."""
    encoded = struct.pack(">qqqqiiiqiiq", 1, 2, milliseconds, milliseconds, 0, 0, 0, 0, 0, 0, 3)
    stat = messages.EXISTS.decode_reply(encoded, 0, len(encoded))
    assert (stat.ctime, stat.mtime) == (milliseconds / 1000, milliseconds / 1000)
    assert messages.EXISTS.reply.encode(stat) == encoded


def test_records_are_ours() -> None:
    """Users get `Stat` and `Acl` objects, with permissions that can be tested by name."""
    stat = Stat(*range(11))
    encoded = messages.GET_ACL.reply.encode(list(acl.OPEN), stat)
    acls, found = messages.GET_ACL.decode_reply(encoded, 0, len(encoded))
    assert type(found) is Stat
    assert type(acls[0]) is Acl
    assert (acls, found) == (list(acl.OPEN), stat)
    assert repr(acls[0].perms) == repr(acl.OPEN[0].perms)


# Connecting

_session = st.tuples(st.integers(0, 2**31 - 1), jute.LONG, st.binary(max_size=20), st.booleans())


@given(last_zxid=jute.LONG, session=_session)
@settings(property_test, max_examples=100)
def test_connect(last_zxid: int, session: tuple[int, int, bytes, bool]) -> None:
    """A connect request is as ZooKeeper defines it, timeouts are in seconds, and that of a very old client
    lacks the last byte."""
    milliseconds, session_id, password, read_only = session
    encoded = messages.encode_connect(last_zxid, milliseconds / 1000, session_id, password, read_only)
    spec = "version:int last_zxid:long timeout:int session:long password:buffer read_only:boolean"
    assert encoded == write(spec, (0, last_zxid, milliseconds, session_id, password, read_only))
    expected = ConnectRequest(0, last_zxid, milliseconds / 1000, session_id, password, read_only)
    assert messages.decode_connect(encoded, 0, len(encoded)) == expected
    # The byte is in the buffer, but after the end: it belongs to something else.
    assert messages.decode_connect(encoded, 0, len(encoded) - 1) == expected._replace(read_only=False)


@given(session=_session)
@settings(property_test, max_examples=100)
def test_connect_reply(session: tuple[int, int, bytes, bool]) -> None:
    """The same for the answer, which aiozk declares without read_only."""
    milliseconds, session_id, password, read_only = session
    encoded = messages.encode_connect_reply(milliseconds / 1000, session_id, password, read_only)
    spec = "version:int timeout:int session:long password:buffer read_only:boolean"
    assert encoded == write(spec, (0, milliseconds, session_id, password, read_only))
    expected = ConnectReply(0, milliseconds / 1000, session_id, password, read_only)
    assert messages.decode_connect_reply(encoded, 0, len(encoded)) == expected
    assert messages.decode_connect_reply(encoded, 0, len(encoded) - 1) == expected._replace(read_only=False)


# Transactions


@st.composite
def transactions(draw: st.DrawFn, part: str) -> list[tuple[jute.Message, tuple[Any, ...]]]:
    """Some operations of a transaction, each with the values of its request or of its reply."""
    names = draw(st.lists(st.sampled_from(jute.IN_MULTI), max_size=4))
    found = [MESSAGES[name] for name in names]
    return [(message, draw(jute.values(getattr(message, part)))) for message in found]


@given(ops=transactions("request"))
@settings(property_test, max_examples=100)
def test_multi(ops: list[tuple[jute.Message, tuple[Any, ...]]]) -> None:
    """A transaction has a header and a body for each operation, and a header that ends it."""
    bodies = [(OPERATIONS[op.opcode], OPERATIONS[op.opcode].request.encode(*values)) for op, values in ops]
    encoded = messages.encode_multi(bodies)
    assert encoded == jute.write_multi([(op.opcode, -1, write(op.request, values)) for op, values in ops])
    found = messages.decode_multi(encoded, 0, len(encoded))
    expected = [(OPERATIONS[op.opcode], values) for op, values in ops]
    assert [(op, as_fields(op.request, values)) for op, values in found] == expected


_errors = st.integers(-125, -1) | st.just(0)


@given(ops=transactions("reply"), errors=st.lists(_errors, max_size=3))
@settings(property_test, max_examples=100)
def test_multi_reply(ops: list[tuple[jute.Message, tuple[Any, ...]]], errors: list[int]) -> None:
    """So has its answer. A refused operation has opcode -1 and its error twice, in header and body; error 0
    there means that the operation was rolled back."""
    applied = [(op.opcode, 0, write(op.reply, values)) for op, values in ops]
    refused = [(-1, error, struct.pack(">i", error)) for error in errors]
    encoded = messages.encode_multi_reply([*applied, *((-1, error, b"") for error in errors)])
    assert encoded == jute.write_multi([*applied, *refused])
    results = messages.decode_multi_reply(encoded, 0, len(encoded))
    got, lost = results[: len(ops)], results[len(ops) :]
    assert lost == [MultiResult(-1, error, None) for error in errors]
    assert [(result.opcode, result.error) for result in got] == [(op.opcode, 0) for op, _ in ops]
    for result, (op, values) in zip(got, ops, strict=True):
        decoded = as_fields(OPERATIONS[op.opcode].reply, result.value)
        assert without_null(decoded) == without_null(values)


def without_null(values: Sequence[Any]) -> list[Any]:
    """With null data replaced by empty data, as the answer to a get is decoded."""
    return [b"" if value is None else value for value in values]


@pytest.mark.parametrize("op", [messages.MULTI, messages.MULTI_READ], ids=repr)
def test_answers_to_transactions_are_decoded_as_such(op: messages.Operation) -> None:
    """The answers to both kinds of transaction are decoded by `decode_multi_reply`."""
    encoded = messages.encode_multi_reply([(2, 0, b""), (-1, -101, b"")])
    assert op.decode_reply(encoded, 0, len(encoded)) == [
        MultiResult(2, 0, None),
        MultiResult(-1, -101, None),
    ]


@pytest.mark.parametrize("opcode", [0, 3, 11, 14, 20, 22, 100, -11, 2**31 - 1])
def test_what_may_not_stand_in_a_transaction(opcode: int) -> None:
    """A transaction with an operation that is not allowed in one cannot be decoded, since it is unknown where
    that ends."""
    encoded = jute.write_multi([(opcode, 0, b"")])
    for decode in (messages.decode_multi, messages.decode_multi_reply):
        with pytest.raises(DecodeError, match=str(opcode)):
            decode(encoded, 0, len(encoded))


# Compared with aiozk


def _by_opcode(base: type) -> dict[int, type[Part]]:
    classes = (getattr(aiozk.protocol, name) for name in dir(aiozk.protocol))
    found = [kind for kind in classes if isinstance(kind, type) and issubclass(kind, base)]
    return {kind.opcode: kind for kind in found if kind.opcode is not None}


AIOZK_REQUESTS = _by_opcode(aiozk.protocol.request.Request)
AIOZK_REPLIES = _by_opcode(aiozk.protocol.response.Response)

AIOZK_IS_WRONG = {
    ("sasl", "request"): "parts is a bare pair: it does not serialize",
    ("sasl", "reply"): "parts is a bare pair: it does not parse",
    ("reconfig", "reply"): "a Stat alone; a real server sends the configuration before it",
}


def aiozk_messages() -> Iterator[Any]:
    """Each message that aiozk has, and encodes correctly."""
    for name, message in MESSAGES.items():
        operation = OPERATIONS[message.opcode]
        for part, theirs, ours, spec in (
            ("request", AIOZK_REQUESTS, operation.request, message.request),
            ("reply", AIOZK_REPLIES, operation.reply, message.reply),
        ):
            if name not in AIOZK_LACKS and (name, part) not in AIOZK_IS_WRONG:
                yield pytest.param(theirs[message.opcode], ours, spec, id=f"{name} {part}")
    yield pytest.param(aiozk.protocol.WatchEvent, messages.WATCH_EVENT, jute.WATCH_EVENT, id="watch event")


each_of_aiozk = pytest.mark.parametrize(("theirs", "codec", "spec"), list(aiozk_messages()))


def to_aiozk(value: Any) -> Any:
    """Our value in aiozk's form."""
    match value:
        case Stat():
            names = [name for name, _ in AiozkStat.parts]
            stat = dict(zip(names, value, strict=True))
            return AiozkStat(
                **stat | {"created": round(value.ctime * 1000), "modified": round(value.mtime * 1000)}
            )
        case Acl():
            return AiozkAcl(perms=int(value.perms), id=AiozkId(scheme=value.scheme, id=value.id))
        case list():
            return [to_aiozk(item) for item in value]
    return value


def make_aiozk(kind: type[Part], values: Sequence[Any]) -> Part:
    """aiozk's message with these values."""
    names = [name for name, _ in kind.parts]
    return kind(**{name: to_aiozk(value) for name, value in zip(names, values, strict=True)})


def render(part: Part) -> bytes:
    """aiozk's encoding of a message, without its opcode."""
    layout, values = part.render()
    return struct.pack("!" + layout, *values)


@each_of_aiozk
@given(data=st.data())
@property_test
def test_agrees_with_aiozk(theirs: type[Part], codec: Codec, spec: str, data: st.DataObject) -> None:
    """Where aiozk is right, both encode the same bytes, and both decode the same values from them.

    aiozk cannot decode Java's encoding of characters beyond U+FFFF, encodes a null list as an empty one and
    decodes a null string as None. These values have none of that.
    """
    values = data.draw(jute.values(spec))
    message = make_aiozk(theirs, values)
    encoded = codec.encode(*values)
    assert render(message) == encoded
    parsed, stop = theirs.parse(encoded, 0)
    assert stop == len(encoded)
    assert parsed == make_aiozk(theirs, decode_whole(codec, encoded))


@given(ops=transactions("request"))
@settings(property_test, max_examples=100)
def test_multi_agrees_with_aiozk(ops: list[tuple[jute.Message, tuple[Any, ...]]]) -> None:
    """The same for transactions with operations that aiozk has."""
    ops = [(op, values) for op, values in ops if op.opcode in AIOZK_REQUESTS]
    transaction = aiozk.protocol.TransactionRequest()
    for op, values in ops:
        transaction.add(make_aiozk(AIOZK_REQUESTS[op.opcode], values))
    encoded = messages.encode_multi(
        [(OPERATIONS[op.opcode], OPERATIONS[op.opcode].request.encode(*values)) for op, values in ops]
    )
    assert transaction.serialize() == struct.pack(">i", messages.MULTI.opcode) + encoded


@pytest.mark.parametrize(("name", "part"), list(AIOZK_IS_WRONG))
def test_aiozk_is_still_wrong(name: str, part: str) -> None:
    """Each exception above is still necessary; when aiozk is corrected, this test fails."""
    message = MESSAGES[name]
    theirs = (AIOZK_REQUESTS if part == "request" else AIOZK_REPLIES)[message.opcode]
    names = [entry[0] if isinstance(entry, tuple) else None for entry in theirs.parts]
    assert names != [name for name, _ in fields(getattr(message, part))]
