"""Declared messages -> code that packs and unpacks them.

aiozk declares each message as a list of named, typed parts, and interprets the list for every message, an
object a field. Here each list is turned once, at import, into the source of three functions (as
`collections.namedtuple` does), in which neighbouring fields of fixed size share one `struct`; the length of
a string is such a field. ``print(codec.source)`` shows what became of a message.

The contract of every decoder, for any bytes whatever: it returns a value or raises `DecodeError`, it reads
nothing at or after `end`, and it takes time and memory in proportion to ``end - start``: a count is held
against the bytes that are there before anything is done as often as it says. What follows the last field is
ignored, because newer servers append fields. What the caller owes is ``0 <= start <= end <= len(buffer)``.

What null becomes, where a length or a count is -1: a string is ``""`` and a vector ``[]``, since neither
server nor client makes a difference there; `NullableText` and a buffer are None; `Data` is ``b""``. Encoding
writes None as null for all strings and buffers.

Strings are UTF-8, with one exception: Java's server encodes each UTF-16 unit apart
(`BinaryOutputArchive.stringToByteBuffer`), so what is beyond U+FFFF comes back as two surrogates of three
bytes each. That is decoded too; what we write is UTF-8, which the server reads.

Encoders trust their callers, who have validated what users gave: an integer that does not fit raises
`struct.error`, a lone surrogate `UnicodeEncodeError`.
"""

from __future__ import annotations

import functools
import keyword
import linecache
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from aiozk.protocol import part as aiozk_part
from aiozk.protocol import primitives as aiozk_primitives

__all__ = [
    "Buffer",
    "Codec",
    "Data",
    "DecodeError",
    "Decoder",
    "NullableText",
    "Parts",
    "Record",
    "TrailingBool",
    "compile_parts",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
Decoder: TypeAlias = Callable[[Buffer, int, int], Any]
Parts: TypeAlias = Sequence[tuple[str, type]]


class DecodeError(Exception):
    """The bytes are not the message that they should be. The one error of every decoder here."""


class Data(aiozk_primitives.Buffer):  # type: ignore[misc]
    """A buffer whose null means the same as its being empty."""


class NullableText(aiozk_primitives.UString):  # type: ignore[misc]
    """A string whose null means something else than its being empty."""


class TrailingBool(aiozk_primitives.Bool):  # type: ignore[misc]
    """A last field that old peers leave out; then it is False."""


class Read(Protocol):
    """A decoder that also tells where the message ends."""

    def __call__(self, buffer: Buffer, start: int, end: int, /) -> tuple[Any, int]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """One message, both ways."""

    name: str
    fields: tuple[str, ...]
    encode: Callable[..., bytes]
    """Takes the fields in their order and returns the body."""
    decode: Decoder
    """``decode(buffer, start, end)``: None for no field, the value for one, a tuple for more."""
    read: Read
    """The same, with where the message ends: for messages inside others."""
    source: str = field(repr=False)
    """What was compiled, for readers and debuggers."""

    def __repr__(self) -> str:
        return f"<Codec {self.name}({', '.join(self.fields)})>"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """How a part that has parts of its own appears to callers: as a tuple class over its flattened fields."""

    cls: type[tuple[Any, ...]]
    from_wire: Mapping[int, str] = field(default_factory=dict)
    """Position -> expression in which ``{}`` is the value on the wire. Source, because a call for each
    field of each `Stat` would cost as much as all the rest."""
    to_wire: Mapping[int, str] = field(default_factory=dict)
    """The way back."""
    repeats: bool = False
    """Whether the same list of these is sent again and again, so that its bytes are worth keeping."""


_NO_RECORDS: Mapping[type, Record] = {}

_FIXED: Mapping[type, str] = {
    aiozk_primitives.Bool: "?",
    aiozk_primitives.Byte: "b",
    aiozk_primitives.Int: "i",
    aiozk_primitives.Long: "q",
    aiozk_primitives.Float: "f",
    aiozk_primitives.Double: "d",
}

# Enough for every access control list of an application, and bounded for one that makes them up.
_KEPT_VECTORS = 256


def compile_parts(name: str, parts: Parts, records: Mapping[type, Record] = _NO_RECORDS) -> Codec:
    """Compile a declaration; a part with parts of its own that is not in `records` becomes a plain tuple."""
    fields = tuple(field for field, _ in parts)
    for field_name in fields:
        if not field_name.isidentifier() or keyword.iskeyword(field_name):
            raise ValueError(f"{name}: a field cannot be called {field_name!r}")
    reader = _Reader(name, parts, records)
    writer = _Writer(name, parts, records)
    source = "\n".join([*writer.source(), *reader.source()]) + "\n"
    scope = {**_BUILTINS, **writer.scope, **reader.scope}
    _execute(name, source, scope)
    return Codec(name, fields, scope["encode"], scope["decode"], scope["read"], source)


def _execute(name: str, source: str, scope: dict[str, Any]) -> None:
    filename = f"<corral codec of {name}>"
    # So that tracebacks and debuggers show the lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), scope)


# What the generated code calls when something is wrong: never in the normal case.


def _short(where: str, missing: int) -> DecodeError:
    return DecodeError(f"{where}: {missing} bytes are missing")


def _bad_length(where: str, length: int) -> DecodeError:
    return DecodeError(f"{where}: a length of {length}")


def _bad_count(where: str, count: int, left: int) -> DecodeError:
    return DecodeError(f"{where}: {count} items in {left} bytes")


def _java_text(where: str, raw: bytes) -> str:
    """A string that is no UTF-8, if it is what Java makes of characters beyond U+FFFF."""
    try:
        units = raw.decode("utf-8", "surrogatepass")
        return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise DecodeError(f"{where}: not UTF-8 ({error.reason})") from None


# Names that no field can have, and globals of the generated module, which are found sooner than builtins.
_BUILTINS: Mapping[str, Any] = {
    "_bad_count": _bad_count,
    "_bad_length": _bad_length,
    "_bytes": bytes,
    "_java_text": _java_text,
    "_join": b"".join,
    "_len": len,
    "_map": map,
    "_new": tuple.__new__,
    "_range": range,
    "_round": round,
    "_short": _short,
    "_str": str,
    "_tuple": tuple,
    "_type": type,
}


def _item_of(kind: type) -> type | None:
    """The type of a vector's items; None for what is no vector.

    `Vector.of` makes a class that is no subclass of Vector, but carries its item.
    """
    return getattr(kind, "item_class", None)


def _fixed_format(kind: type) -> str | None:
    """The struct format of a part of fixed size; None for others."""
    return next((_FIXED[base] for base in kind.__mro__ if base in _FIXED), None)


def _is_text(kind: type) -> bool:
    return issubclass(kind, aiozk_primitives.UString)


def _sub_parts(kind: type) -> Parts:
    if not issubclass(kind, aiozk_part.Part):
        raise TypeError(f"{kind.__name__} is no part of a message that could be compiled")
    parts: Parts = kind.parts
    return parts


def _least(kind: type) -> int:
    """The fewest bytes that one of a kind takes."""
    if issubclass(kind, TrailingBool):
        return 0
    if fmt := _fixed_format(kind):
        return struct.calcsize(">" + fmt)
    if issubclass(kind, aiozk_primitives.VariablePrimitive) or _item_of(kind):
        return 4
    return sum(_least(part) for _, part in _sub_parts(kind))


class _Scribe:
    """Lines of source, the structs that they use, and the fixed fields that still wait to be merged."""

    prefix: str

    def __init__(self, name: str, parts: Parts, records: Mapping[type, Record]) -> None:
        self.name = name
        self.parts = parts
        self.records = records
        self.scope: dict[str, Any] = {}
        self.lines: list[str] = []
        self._indent = 1
        self._names = 0
        self._run: list[tuple[str, str]] = []  # format, and the expression packed or the name unpacked into

    def line(self, text: str) -> None:
        self.lines.append("    " * self._indent + text)

    def fresh(self, stem: str) -> str:
        self._names += 1
        return f"_{stem}{self._names}"

    def keep(self, stem: str, value: Any) -> str:
        """A name under which the generated code finds `value`."""
        name = self.fresh(self.prefix + stem)
        self.scope[name] = value
        return name

    def take_run(self) -> tuple[struct.Struct, list[str]]:
        """The fields that wait, as one struct."""
        layout = struct.Struct(">" + "".join(fmt for fmt, _ in self._run))
        names = [name for _, name in self._run]
        self._run.clear()
        return layout, names


class _Reader(_Scribe):
    """Writes `decode` and `read`."""

    prefix = "r"

    def source(self) -> list[str]:
        values = [self._value(f"{self.name}.{field}", kind) for field, kind in self.parts]
        self._flush(self.name)
        result = {0: "None", 1: "".join(values)}.get(len(values), f"({', '.join(values)})")
        # A vector slices the buffer for each of its items, which is slow on a view; one copy of all makes
        # up for it. Anything else copies only what it returns.
        body = [*self._copy_first(), *self.lines] if self._has_vector() else self.lines
        shift = " + _shift" if self._has_vector() else ""
        return [
            "def decode(_buf, _pos, _end):",
            *body,
            f"    return {result}",
            "def read(_buf, _pos, _end):",
            *body,
            f"    return {result}, _pos{shift}",
        ]

    def _has_vector(self) -> bool:
        return any(_item_of(kind) for _, kind in self.parts)

    def _copy_first(self) -> list[str]:
        return [
            "    _shift = 0",
            "    if _type(_buf) is not _bytes:",
            "        _buf = _bytes(_buf[_pos:_end]); _shift = _pos; _end -= _pos; _pos = 0",
        ]

    def _value(self, where: str, kind: type) -> str:
        """Write what reads one value; returns the expression that has it after the next flush."""
        if issubclass(kind, TrailingBool):
            return self._trailing(where)
        if fmt := _fixed_format(kind):
            name = self.fresh("v")
            self._run.append((fmt, name))
            return name
        if issubclass(kind, aiozk_primitives.VariablePrimitive):
            return self._variable(where, kind)
        if item := _item_of(kind):
            return self._vector(where, item)
        values = [self._value(where, leaf) for leaf in self._leaves(kind)]
        record = self.records.get(kind)
        if record is None:
            return f"({', '.join(values)},)"
        values = [record.from_wire.get(at, "{}").format(value) for at, value in enumerate(values)]
        return f"_new({self.keep('cls', record.cls)}, ({', '.join(values)},))"

    def _leaves(self, kind: type) -> list[type]:
        """The parts of a part, with those of its parts in their place."""
        leaves: list[type] = []
        for _, part in _sub_parts(kind):
            leaves.extend(self._leaves(part) if issubclass(part, aiozk_part.Part) else [part])
        return leaves

    def _trailing(self, where: str) -> str:
        self._flush(where)
        name = self.fresh("v")
        self.line(f"{name} = _pos < _end and _buf[_pos] != 0")
        self.line("if _pos < _end: _pos += 1")
        return name

    def _variable(self, where: str, kind: type) -> str:
        length, value = self.fresh("n"), self.fresh("v")
        self._run.append(("i", length))
        self._flush(where)
        null = "None" if not _is_text(kind) or issubclass(kind, NullableText) else "''"
        if issubclass(kind, Data):
            null = "b''"
        self.line(f"if {length} >= 0:")
        self.line(f"    _stop = _pos + {length}")
        self.line(f"    if _stop > _end: raise _short({where!r}, _stop - _end)")
        if _is_text(kind):
            piece = "_buf[_pos:_stop].decode()" if self._has_vector() else "_str(_buf[_pos:_stop], 'utf-8')"
            self.line(f"    try: {value} = {piece}")
            self.line(f"    except UnicodeDecodeError: {value} = _java_text({where!r}, _bytes(_buf[_pos:_stop]))")
        else:
            self.line(f"    {value} = _bytes(_buf[_pos:_stop])")
        self.line("    _pos = _stop")
        self.line(f"elif {length} == -1: {value} = {null}")
        self.line(f"else: raise _bad_length({where!r}, {length})")
        return value

    def _vector(self, where: str, item: type) -> str:
        least = _least(item)
        if not least:
            raise ValueError(f"{where}: items that take no bytes could be any number")
        count, values = self.fresh("n"), self.fresh("v")
        self._run.append(("i", count))
        self._flush(where)
        self.line(f"if {count} < -1: raise _bad_length({where!r}, {count})")
        bound = f"{count} * {least} > _end - _pos"
        self.line(f"if {bound}: raise _bad_count({where!r}, {count}, _end - _pos)")
        self.line(f"{values} = []")
        self.line(f"for _ in _range({count}):")
        self._indent += 1
        value = self._value(where, item)
        self._flush(where)
        self.line(f"{values}.append({value})")
        self._indent -= 1
        return values

    def _flush(self, where: str) -> None:
        if not self._run:
            return
        layout, names = self.take_run()
        unpack = self.keep("unpack", layout.unpack_from)
        self.line(f"_stop = _pos + {layout.size}")
        self.line(f"if _stop > _end: raise _short({where!r}, _stop - _end)")
        self.line(f"{', '.join(names)}, = {unpack}(_buf, _pos)")
        self.line("_pos = _stop")


class _Writer(_Scribe):
    """Writes `encode`."""

    prefix = "w"

    def __init__(self, name: str, parts: Parts, records: Mapping[type, Record]) -> None:
        super().__init__(name, parts, records)
        self._pieces: list[str] = []

    def source(self) -> list[str]:
        fields = [field for field, _ in self.parts]
        for field_name, kind in self.parts:
            self._value(field_name, kind)
        self._flush()
        return [f"def encode({', '.join(fields)}):", *self.lines, f"    return {self._joined()}"]

    def _joined(self) -> str:
        # Each `+` copies what is on its left again, which matters once there are data among it.
        if len(self._pieces) > 2:
            return f"_join(({', '.join(self._pieces)}))"
        return " + ".join(self._pieces) or "b''"

    def _value(self, expression: str, kind: type) -> None:
        if fmt := _fixed_format(kind):
            self._run.append((fmt, expression))
        elif issubclass(kind, aiozk_primitives.VariablePrimitive):
            self._variable(expression, kind)
        elif item := _item_of(kind):
            self._vector(expression, item)
        else:
            self._part(expression, kind)

    def _part(self, expression: str, kind: type) -> None:
        leaves = _Reader._leaves(self, kind)  # type: ignore[arg-type]
        names = [self.fresh("f") for _ in leaves]
        self.line(f"{', '.join(names)}, = {expression}")
        record = self.records.get(kind)
        convert = record.to_wire if record else {}
        for at, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            self._value(convert.get(at, "{}").format(name), leaf)

    def _variable(self, expression: str, kind: type) -> None:
        raw, length = self.fresh("b"), self.fresh("n")
        encoded = f"{expression}.encode()" if _is_text(kind) else expression
        self.line(f"if {expression} is None: {raw} = b''; {length} = -1")
        self.line(f"else: {raw} = {encoded}; {length} = _len({raw})")
        self._run.append(("i", length))
        self._flush()
        self._pieces.append(raw)

    def _vector(self, expression: str, item: type) -> None:
        encode_item = compile_parts(f"{self.name} item", (("item", item),), self.records).encode
        record = self.records.get(item)
        if record is not None and record.repeats:
            self._flush()
            self._pieces.append(f"{self.keep('kept', _kept_vector(encode_item))}(_tuple({expression}))")
            return
        self._run.append(("i", f"_len({expression})"))
        self._flush()
        self._pieces.append(f"_join(_map({self.keep('item', encode_item)}, {expression}))")

    def _flush(self) -> None:
        if self._run:
            layout, expressions = self.take_run()
            self._pieces.append(f"{self.keep('pack', layout.pack)}({', '.join(expressions)})")


def _kept_vector(encode_item: Callable[[Any], bytes]) -> Callable[[tuple[Any, ...]], bytes]:
    """An encoder of a vector that remembers the bytes of the vectors it has seen."""
    pack_count = struct.Struct(">i").pack

    @functools.lru_cache(maxsize=_KEPT_VECTORS)
    def encode(values: tuple[Any, ...]) -> bytes:
        return pack_count(len(values)) + b"".join(map(encode_item, values))

    return encode
