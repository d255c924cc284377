"""What the floor says on the wire: its requests and replies, packed by hand."""

from __future__ import annotations

import struct
from typing import NamedTuple

DELETE, GET, SET, CHILDREN, PING, CREATE2, CLOSE = 2, 4, 5, 8, 11, 15, -11
NOTIFICATION, PING_XID = -1, -2
NO_NODE = -101

INT = struct.Struct(">i")
CONNECT = struct.Struct(">iiqiqi16s?")
CONNECTED = struct.Struct(">iiiqi16s")
REQUEST = struct.Struct(">iii")
REPLY = struct.Struct(">iiqi")
STAT = struct.Struct(">qqqqiiiqiiq")
OPEN_ACL = b"\0\0\0\1\0\0\0\x1f\0\0\0\5world\0\0\0\6anyone"
EPHEMERAL_SEQUENTIAL = INT.pack(3)
ANY_VERSION = INT.pack(-1)


class Stat(NamedTuple):
    """As many fields as a client's."""

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
    """The server refused."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def decode_get(reply: bytes) -> tuple[bytes, Stat]:
    """Data and Stat."""
    (length,) = INT.unpack_from(reply)
    return reply[4 : 4 + length], Stat._make(STAT.unpack_from(reply, 4 + length))


def decode_names(reply: bytes) -> list[bytes]:
    """The names of a listing."""
    (count,) = INT.unpack_from(reply)
    names, at = [], 4
    for _ in range(count):
        (length,) = INT.unpack_from(reply, at)
        at += 4 + length
        names.append(reply[at - length : at])
    return names
