"""The floor's requests and replies, packed and decoded by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

DELETE, GET, SET, CHILDREN, PING, CREATE2, MULTI_READ, ADD_WATCH, CLOSE = 2, 4, 5, 8, 11, 15, 22, 106, -11
NOTIFICATION, PING_XID = -1, -2
NO_NODE, BAD_VERSION = -101, -103

INT = struct.Struct(">i")
CONNECT = struct.Struct(">iiqiqi16s?")
CONNECTED = struct.Struct(">iiiqi16s")
REQUEST = struct.Struct(">iii")
REPLY = struct.Struct(">iiqi")
STAT = struct.Struct(">qqqqiiiqiiq")
OPEN_ACL = b"\0\0\0\1\0\0\0\x1f\0\0\0\5world\0\0\0\6anyone"
EPHEMERAL_SEQUENTIAL = INT.pack(3)
ANY_VERSION = INT.pack(-1)
RECURSIVE = INT.pack(1)
MULTI = struct.Struct(">i?i")
GET_IN_MULTI = MULTI.pack(GET, False, -1)
MULTI_END = MULTI.pack(-1, True, -1)


class Stat(NamedTuple):
    """The same number of fields as a client's."""

    czxid: int
    mzxid: int
    ctime: int
    mtime: int
    version: int
    cversion: int
    aversion: int
    owner: int
    length: int
    children: int
    pzxid: int


class FloorError(Exception):
    """The server refused the request."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def decode_get(reply: bytes) -> tuple[bytes, Stat]:
    """Data and Stat."""
    (length,) = INT.unpack_from(reply)
    return reply[4 : 4 + length], Stat._make(STAT.unpack_from(reply, 4 + length))


def decode_names(reply: bytes) -> list[bytes]:
    """The names of children."""
    (count,) = INT.unpack_from(reply)
    names, at = [], 4
    for _ in range(count):
        (length,) = INT.unpack_from(reply, at)
        at += 4 + length
        names.append(reply[at - length : at])
    return names


def decode_gets(reply: bytes) -> Iterator[tuple[bytes, Stat]]:
    """Data and Stat of each node of a `multiRead`."""
    at = 0
    while True:
        opcode, done, _ = MULTI.unpack_from(reply, at)
        if done:
            return
        (value,) = INT.unpack_from(reply, at + MULTI.size)
        if opcode != GET:
            raise FloorError(value)
        data = at + MULTI.size + 4
        yield reply[data : data + value], Stat._make(STAT.unpack_from(reply, data + value))
        at = data + value + STAT.size
