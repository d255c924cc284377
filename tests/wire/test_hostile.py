"""Every decoder with invalid bytes.

The contract (`corral.wire.compile`): for any bytes a decoder returns a value or raises `DecodeError`, reads
nothing at or after `end`, and uses memory in proportion to the input. Any other exception fails these tests.
"""

from __future__ import annotations

import functools
import operator
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jute import MESSAGES, fields, property_test, write

from corral.types import Acl, Stat
from corral.wire import messages
from corral.wire.compile import Codec, DecodeError
from corral.wire.messages import OPERATIONS


class Decoder(NamedTuple):
    """A decoder, and valid messages for it."""

    decode: Callable[[Any, int, int], Any]
    valid: st.SearchStrategy[bytes]
    optional: int = 0
    """How many bytes may be missing at the end."""


def every_way(codec: Codec, decode: Callable[[Any, int, int], Any]) -> Callable[[Any, int, int], Any]:
    """`decode`, and all other decoding functions of the codec: they must agree on what is an error."""

    def decode_all(buffer: Any, start: int, end: int) -> Any:
        try:
            value = decode(buffer, start, end)
        except DecodeError:
            for same in (codec.decode, codec.read):
                with pytest.raises(DecodeError):
                    same(buffer, start, end)
            raise
        fields, stop = codec.read(buffer, start, end)
        assert start <= stop <= end
        assert codec.decode(buffer, start, end) == fields
        return value, fields, stop - start

    return decode_all


def written(spec: str) -> st.SearchStrategy[bytes]:
    """Valid messages, in Java's UTF-8."""
    return jute.values(spec).map(functools.partial(write, spec, text=jute.java_utf8))


def written_multi(part: str) -> st.SearchStrategy[bytes]:
    """Valid transactions, or valid answers to them."""
    bodies = [
        written(getattr(MESSAGES[name], part)).map(lambda body, name=name: (MESSAGES[name].opcode, 0, body))
        for name in jute.IN_MULTI
    ]
    refused = jute.INT.map(lambda error: (-1, error, struct.pack(">i", error)))
    kinds = st.one_of(*bodies, refused) if part == "reply" else st.one_of(*bodies)
    return st.lists(kinds, min_size=1, max_size=4).map(jute.write_multi)


def decoders() -> Iterator[Any]:
    """All decoding functions."""

    def param(name: str, *about: Any) -> Any:
        return pytest.param(Decoder(*about), id=name)

    for name, message in MESSAGES.items():
        operation = OPERATIONS[message.opcode]
        for part, codec, decode in (
            ("request", operation.request, operation.request.decode),
            ("reply", operation.reply, operation.decode_reply),
        ):
            yield param(f"{name} {part}", every_way(codec, decode), written(getattr(message, part)))
    yield param("watch event", messages.WATCH_EVENT.decode, written(jute.WATCH_EVENT))
    connect = "version:int zxid:long timeout:int session:long password:buffer read_only:boolean"
    yield param("connect", messages.decode_connect, written(connect), 1)
    connected = "version:int timeout:int session:long password:buffer read_only:boolean"
    yield param("connect reply", messages.decode_connect_reply, written(connected), 1)
    yield param("multi", messages.decode_multi, written_multi("request"))
    yield param("multi reply", messages.decode_multi_reply, written_multi("reply"))


each_decoder = pytest.mark.parametrize("decoder", list(decoders()))

REFUSED = object()
TAILS = (b"", b"\x00" * 300, b"\xff" * 300, b"\x00\x00\x00\x01" * 75)
"""Bytes after the end: none, so that reading there fails; and bytes that could be read."""


def outcome(decoder: Decoder, buffer: Any, start: int, end: int) -> Any:
    """The value, or that it was refused."""
    try:
        return decoder.decode(buffer, start, end)
    except DecodeError:
        return REFUSED


def check_total(decoder: Decoder, raw: bytes) -> None:
    """There is an outcome, and it is the same wherever the bytes are in the buffer and whatever surrounds
    them."""
    expected = outcome(decoder, raw, 0, len(raw))
    before = b"\x00\x00\x00\x01\xff"
    for tail, kind in zip(TAILS, (bytearray, bytes, memoryview, memoryview), strict=True):
        assert outcome(decoder, kind(raw + tail), 0, len(raw)) == expected
        moved = kind(before + raw + tail)
        assert outcome(decoder, moved, len(before), len(before) + len(raw)) == expected


@each_decoder
@given(raw=st.binary(max_size=120))
@property_test
def test_any_bytes(decoder: Decoder, raw: bytes) -> None:
    """Any bytes have an outcome."""
    check_total(decoder, raw)


_LENGTHS = st.sampled_from([-(2**31), -2, -1, 0, 1, 2, 31, 2**16, 2**28, 2**31 - 1])


@st.composite
def damaged(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid message with some damage: bytes changed, removed or added, or a length changed."""
    raw = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["length", "change", "lose", "add"])):
            case "length":
                raw[at : at + 4] = struct.pack(">i", draw(_LENGTHS))
            case "change":
                raw[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "lose":
                del raw[at : at + draw(st.integers(1, 8))]
            case "add":
                raw[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(raw)


@each_decoder
@given(data=st.data())
@property_test
def test_damaged_messages(decoder: Decoder, data: st.DataObject) -> None:
    """So has a damaged message."""
    check_total(decoder, data.draw(damaged(decoder.valid)))


@each_decoder
@given(data=st.data())
@settings(property_test, max_examples=8)  # each at every length
def test_truncated_messages(decoder: Decoder, data: st.DataObject) -> None:
    """A message that ends too early is an error wherever it ends, even if the missing bytes are in the
    buffer: after the end they belong to something else."""
    raw = data.draw(decoder.valid)
    assert outcome(decoder, raw, 0, len(raw)) is not REFUSED
    for end in range(len(raw) - decoder.optional):
        assert outcome(decoder, raw, 0, end) is REFUSED
        assert outcome(decoder, raw[:end], 0, end) is REFUSED


# Lengths and counts

LEAST: dict[str, Any] = {
    "int": 0,
    "long": 0,
    "boolean": False,
    "Stat": Stat(*[0] * 11),
    "buffer": b"",
    "ustring": "",
}


def lengths() -> Iterator[Any]:
    """For each length and count in each message: the decoder, and the message up to it."""
    for name, message in MESSAGES.items():
        operation = OPERATIONS[message.opcode]
        for part, codec in (("request", operation.request), ("reply", operation.reply)):
            kinds = fields(getattr(message, part))
            for number, (field, kind) in enumerate(kinds):
                if kind in ("buffer", "ustring") or kind.startswith("vector<"):
                    before = " ".join(f"{f}:{k}" for f, k in kinds[:number])
                    start = write(before, [LEAST.get(k, []) for _, k in kinds[:number]])
                    yield pytest.param(codec.decode, start, id=f"{name} {part}: {field}")
                    if kind == "vector<ustring>":
                        one = start + struct.pack(">i", 1)
                        yield pytest.param(codec.decode, one, id=f"{name} {part}: the first of {field}")
    connect = struct.pack(">iqiq", 0, 0, 1000, 0)
    yield pytest.param(messages.decode_connect, connect, id="connect: password")
    yield pytest.param(messages.decode_connect_reply, connect[8:], id="connect reply: password")
    yield pytest.param(messages.WATCH_EVENT.decode, bytes(8), id="watch event: path")
    for op in (messages.CREATE, messages.GET, messages.CHILDREN):
        start = struct.pack(">i?i", op.opcode, False, 0)
        yield pytest.param(messages.decode_multi, start, id=f"multi: {op!r}")
        yield pytest.param(messages.decode_multi_reply, start, id=f"multi reply: {op!r}")


def peak(work: Callable[[], object]) -> int:
    """The peak number of bytes allocated."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("decode", "start"), list(lengths()))
def test_lengths_that_cannot_be(decode: Callable[..., Any], start: bytes) -> None:
    """A length or a count that exceeds the input, or is below -1, is refused at once and costs no memory: the
    three bytes that follow hold no item of any kind."""
    for length in (-(2**31), -2, 4, 2**20, 2**31 - 1):
        raw = start + struct.pack(">i", length) + bytes(3)

        def refuse(raw: bytes = raw) -> None:
            with pytest.raises(DecodeError):
                decode(raw, 0, len(raw))

        assert peak(refuse) < 64 * 1024, length


MANY = 20_000

DENSE = {
    "empty strings": (messages.CHILDREN.decode_reply, struct.pack(">i", MANY) + bytes(4 * MANY)),
    "identities": (messages.WHO_AM_I.decode_reply, struct.pack(">i", MANY) + bytes(8 * MANY)),
    "permissions": (
        messages.SET_ACL.request.decode,
        bytes(4) + struct.pack(">i", MANY) + bytes(12 * MANY) + bytes(4),
    ),
    "results": (messages.decode_multi_reply, jute.write_multi([(2, 0, b"")] * MANY)),
    "refusals": (messages.decode_multi_reply, jute.write_multi([(-1, 0, bytes(4))] * MANY)),
    "operations": (messages.decode_multi, jute.write_multi([(2, 0, bytes(8))] * MANY)),
    "surrogates": (
        messages.SYNC.decode_reply,
        struct.pack(">i", 6 * MANY) + jute.java_utf8("\U0001f40e") * MANY,
    ),
}


@pytest.mark.parametrize(("decode", "raw"), DENSE.values(), ids=DENSE)
def test_memory_in_proportion(decode: Callable[..., Any], raw: bytes) -> None:
    """The densest messages take at most a Python object or three for each item."""
    assert peak(lambda: decode(raw, 0, len(raw))) < 32 * len(raw)


@given(perms=jute.INT, scheme=st.text(max_size=5))
@property_test
def test_unknown_permissions(perms: int, scheme: str) -> None:
    """Permissions that ZooKeeper does not define are dropped: users always get a `Perm`."""
    raw = struct.pack(">i", 1) + write("acl:ACL", [(perms, scheme, "")]) + write("stat:Stat", [LEAST["Stat"]])
    acls, _ = messages.GET_ACL.decode_reply(raw, 0, len(raw))
    assert acls == [Acl(operator.and_(perms, 31), scheme, "")]
