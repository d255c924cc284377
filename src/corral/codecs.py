"""How values are written as the data of a znode, for ``zk.value(path, codec=)``."""

from __future__ import annotations

import json
from typing import Any, NoReturn, Protocol, TypeVar

__all__ = ["BYTES", "JSON", "TEXT", "Codec"]

T = TypeVar("T")


class Codec(Protocol[T]):
    """Anything with these two methods. Both may raise any exception; `Value` says what becomes of it."""

    def encode(self, value: T, /) -> bytes:
        """The data for a value."""

    def decode(self, data: bytes, /) -> T:
        """The value of some data. Raises if it has none."""


class BytesCodec:
    """The data itself."""

    def encode(self, value: bytes, /) -> bytes:
        """Raises `TypeError` if it is not bytes."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"not bytes but {type(value).__name__}")
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        """Never raises."""
        return data


class TextCodec:
    """Text in UTF-8."""

    def encode(self, value: str, /) -> bytes:
        """Raises `TypeError` if it is not a str, and `ValueError` if it has a lone surrogate."""
        if not isinstance(value, str):
            raise TypeError(f"not a str but {type(value).__name__}")
        return _to_utf8(value)

    def decode(self, data: bytes, /) -> str:
        """Raises `ValueError`."""
        return _from_utf8(data)


class JsonCodec:
    """JSON without spaces, in UTF-8. NaN and infinities, which are not JSON, are refused both ways."""

    def encode(self, value: Any, /) -> bytes:
        """Raises `TypeError` or `ValueError` for what JSON cannot express."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return _to_utf8(text)

    def decode(self, data: bytes, /) -> Any:
        """Raises `ValueError`."""
        return json.loads(_from_utf8(data), parse_constant=_refuse)


def _to_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        where = error.start  # raised below, since this error contains the text
    raise ValueError(f"a lone surrogate at index {where}")


def _from_utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        where = error.start  # raised below, since this error contains the data
    raise ValueError(f"not UTF-8 at index {where}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


BYTES = BytesCodec()
"""The data itself, as bytes."""
TEXT = TextCodec()
"""A str, in UTF-8."""
JSON = JsonCodec()
"""Whatever `json` can express, compact and in UTF-8."""
