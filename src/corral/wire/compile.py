"""Declared messages -> code that packs and unpacks them.

aiozk declares each message as a list of named, typed parts, and interprets the list for every message, an
object a field. Here each list is turned once, at import, into the source of two functions (as
`collections.namedtuple` does), in which neighbouring fields of fixed size share one `struct`.

The contract of every decoder, for any bytes whatever: it returns a value or raises `DecodeError`, it reads
nothing at or after `end`, and it takes time and memory in proportion to `end - start`. What follows the last
field is ignored: newer servers append fields.

Strings are UTF-8, with one exception: Java's server encodes each UTF-16 unit apart
(`BinaryOutputArchive.stringToByteBuffer`), so what is beyond U+FFFF comes back as two surrogates of three
bytes each. That is decoded too; what we write is UTF-8, which the server reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiozk.protocol import part as aiozk_part
from aiozk.protocol import primitives as aiozk_primitives

Buffer = bytes | bytearray | memoryview
Decoder = Callable[[Buffer, int, int], Any]


class DecodeError(Exception):
    """The bytes are not the message that they should be."""


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """One message. `encode` takes the fields in order; `decode(buffer, start, end)` gives None for no
    field, the value for one, a tuple for more; `read` gives that and where it ends."""

    name: str
    fields: tuple[str, ...]
    encode: Callable[..., bytes]
    decode: Decoder
    read: Callable[[Buffer, int, int], tuple[Any, int]]

    def __repr__(self) -> str:
        return f"<Codec {self.name}({', '.join(self.fields)})>"


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A type of values inside messages: `decode` returns the value and where it ends."""

    encode: Callable[[Any], bytes]
    decode: Callable[[Buffer, int, int], tuple[Any, int]]
    least: int
    """The fewest bytes that one takes, so that a count can be held against what is there."""


_INT = struct.Struct(">i")

_FIXED: dict[type, str] = {
    aiozk_primitives.Int: "i",
    aiozk_primitives.Long: "q",
    aiozk_primitives.Byte: "b",
    aiozk_primitives.Bool: "?",
}


def text(raw: Buffer) -> str:
    """A string from the bytes that a Java server writes for it."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        try:
            units = str(raw, "utf-8", "surrogatepass")
            return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError as error:
            raise DecodeError(f"a string is not UTF-8: {error.reason}") from None


def short(needed: int, end: int) -> DecodeError:
    """The error for a message that ends too early."""
    return DecodeError(f"{needed - end} bytes are missing")


def bad_length(length: int) -> DecodeError:
    """The error for a length or a count that cannot be."""
    return DecodeError(f"a length of {length}")


def compile_parts(name: str, parts: Sequence[tuple[str, type]], items: dict[type, Item]) -> Codec:
    """Compile a declaration. `items` says how the parts that are messages of their own are packed."""
    source = _Source(items)
    for field, kind in parts:
        source.add(field, kind)
    return Codec(name, tuple(field for field, _ in parts), *source.compile(name))


def compile_item(part: type[aiozk_part.Part], make: Callable[..., Any], take: Callable[[Any], Any]) -> Item:
    """Compile a part of fixed size into a record: `make(*fields)`, and `take(record)` for the fields."""
    layout = struct.Struct(">" + "".join(_FIXED[kind] for _, kind in part.parts))
    size, unpack, pack = layout.size, layout.unpack_from, layout.pack

    def encode(value: Any) -> bytes:
        return pack(*take(value))

    def decode(buffer: Buffer, start: int, end: int) -> tuple[Any, int]:
        stop = start + size
        if stop > end:
            raise short(stop, end)
        return make(*unpack(buffer, start)), stop

    return Item(encode, decode, size)


def compile_record(
    name: str,
    parts: Sequence[tuple[str, type]],
    make: Callable[..., Any],
    take: Callable[[Any], Any],
    least: int,
) -> Item:
    """Compile a part of variable size into a record, as `compile_item` does for those of fixed size."""
    codec = compile_parts(name, parts, {})

    def encode(value: Any) -> bytes:
        return codec.encode(*take(value))

    def decode(buffer: Buffer, start: int, end: int) -> tuple[Any, int]:
        fields, stop = codec.read(buffer, start, end)
        return make(*fields), stop

    return Item(encode, decode, least)


# From how many strings on they are copied at once.
_MANY = 8


def _encode_text(value: str | None) -> bytes:
    if value is None:
        return _INT.pack(-1)
    raw = value.encode()
    return _INT.pack(len(raw)) + raw


def _decode_texts(buffer: Buffer, start: int, end: int) -> tuple[list[str], int]:
    """Strings one after another: what every list of children is. Of many, one copy of all bytes is cheaper
    than a view of each; of a few it is not, since much else may follow them, as in the answer to a multi."""
    stop = start + 4
    if stop > end:
        raise short(stop, end)
    (count,) = _INT.unpack_from(buffer, start)
    if count < -1:
        raise bad_length(count)
    if count < _MANY:
        return _decode_few_texts(buffer, stop, end, count)
    raw = bytes(buffer[stop:end])
    size, at, unpack, values = len(raw), 0, _INT.unpack_from, list[str]()
    if 4 * count > size:
        raise DecodeError(f"{count} items in {size} bytes")
    # Lengths below 128 are ASCII as well, so nearly always all of it is, and one string can be cut in pieces.
    whole = raw.decode("ascii") if raw.isascii() else None
    for _ in range(count):
        first = at + 4
        if first > size:
            raise short(first, size)
        (length,) = unpack(raw, at)
        if length < 0:
            if length != -1:
                raise bad_length(length)
            length = 0
        at = first + length
        if at > size:
            raise short(at, size)
        values.append(text(raw[first:at]) if whole is None else whole[first:at])
    return values, stop + at


def _decode_few_texts(buffer: Buffer, stop: int, end: int, count: int) -> tuple[list[str], int]:
    values = []
    for _ in range(count):
        at = stop + 4
        if at > end:
            raise short(at, end)
        (length,) = _INT.unpack_from(buffer, stop)
        if length < -1:
            raise bad_length(length)
        stop = at + max(0, length)
        if stop > end:
            raise short(stop, end)
        values.append(text(buffer[at:stop]))
    return values, stop


def _vector_encoder(encode_one: Callable[[Any], bytes]) -> Callable[[Sequence[Any] | None], bytes]:
    def encode(values: Sequence[Any] | None) -> bytes:
        if values is None:
            return _INT.pack(-1)
        return _INT.pack(len(values)) + b"".join(map(encode_one, values))

    return encode


_TEXTS = Item(_vector_encoder(_encode_text), _decode_texts, 4)


def vector_of(item: Item) -> Item:
    """A counted sequence of items; null decodes to an empty list."""

    def decode(buffer: Buffer, start: int, end: int) -> tuple[list[Any], int]:
        stop = start + 4
        if stop > end:
            raise short(stop, end)
        (count,) = _INT.unpack_from(buffer, start)
        if count < -1:
            raise bad_length(count)
        if count * item.least > end - stop:
            raise DecodeError(f"{count} items in {end - stop} bytes")
        values = []
        decode_one = item.decode
        for _ in range(count):
            value, stop = decode_one(buffer, stop, end)
            values.append(value)
        return values, stop

    return Item(_vector_encoder(item.encode), decode, 4)


class _Source:
    """Collects the lines of one message's two functions."""

    def __init__(self, items: dict[type, Item]) -> None:
        self._items = items
        self._scope: dict[str, Any] = {"text": text, "short": short, "bad_length": bad_length}
        self._fields: list[str] = []
        self._encode: list[str] = []
        self._pieces: list[str] = []
        self._decode: list[str] = []
        self._run: list[tuple[str, str, str]] = []  # format, what is packed, what it is unpacked into

    def add(self, field: str, kind: type) -> None:
        self._fields.append(field)
        if kind in _FIXED:
            self._run.append((_FIXED[kind], field, field))
        elif issubclass(kind, aiozk_primitives.VariablePrimitive):
            self._add_variable(field, is_text=issubclass(kind, aiozk_primitives.UString))
        else:
            self._add_item(field, self._item(kind))

    def _item(self, kind: type) -> Item:
        if kind in self._items:
            return self._items[kind]
        # `Vector.of` makes a class that is no subclass of Vector, but carries its item.
        inner = kind.item_class  # type: ignore[attr-defined]
        return _TEXTS if inner is aiozk_primitives.UString else vector_of(self._item(inner))

    def _add_variable(self, field: str, *, is_text: bool) -> None:
        raw, length = f"{field}_raw", f"{field}_length"
        encoded = f"{field}.encode()" if is_text else field
        self._encode += [
            f"if {field} is None: {raw}, {length} = b'', -1",
            f"else: {raw} = {encoded}; {length} = len({raw})",
        ]
        self._run.append(("i", length, length))
        self._flush()
        self._pieces.append(raw)
        value = "text(buffer[at:stop])" if is_text else "bytes(buffer[at:stop])"
        self._decode += [
            f"if {length} >= 0:",
            f"    stop = at + {length}",
            "    if stop > end: raise short(stop, end)",
            f"    {field} = {value}",
            "    at = stop",
            f"elif {length} == -1: {field} = {'' if is_text else None!r}",
            f"else: raise bad_length({length})",
        ]

    def _add_item(self, field: str, item: Item) -> None:
        self._flush()
        self._scope[f"encode_{field}"] = item.encode
        self._scope[f"decode_{field}"] = item.decode
        self._pieces.append(f"encode_{field}({field})")
        self._decode.append(f"{field}, at = decode_{field}(buffer, at, end)")

    def _flush(self) -> None:
        if not self._run:
            return
        layout = struct.Struct(">" + "".join(run[0] for run in self._run))
        number = len(self._pieces)
        self._scope[f"pack_{number}"] = layout.pack
        self._scope[f"unpack_{number}"] = layout.unpack_from
        self._pieces.append(f"pack_{number}({', '.join(run[1] for run in self._run)})")
        self._decode += [
            f"stop = at + {layout.size}",
            "if stop > end: raise short(stop, end)",
            f"{', '.join(run[2] for run in self._run)}, = unpack_{number}(buffer, at)",
            "at = stop",
        ]
        self._run.clear()

    def compile(self, name: str) -> tuple[Callable[..., bytes], Decoder, Callable[..., tuple[Any, int]]]:
        """The functions `encode`, `decode` and `read` of a `Codec`."""
        self._flush()
        fields = ", ".join(self._fields)
        result = {0: "None", 1: fields}.get(len(self._fields), f"({fields})")
        decode = ["    at = start", *(f"    {line}" for line in self._decode)]
        source = [
            f"def encode({fields}):",
            *(f"    {line}" for line in self._encode),
            f"    return {' + '.join(self._pieces) or repr(b'')}",
            "def decode(buffer, start, end):",
            *decode,
            f"    return {result}",
            "def read(buffer, start, end):",
            *decode,
            f"    return {result}, at",
        ]
        exec(compile("\n".join(source), f"<corral codec of {name}>", "exec"), self._scope)
        return self._scope["encode"], self._scope["decode"], self._scope["read"]
