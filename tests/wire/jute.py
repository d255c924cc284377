"""ZooKeeper's messages as `zookeeper.jute` and `ZooDefs.OpCode` define them, and the simplest encoder for
them.

This is the reference for the compiled codecs, so it uses nothing of `corral.wire` or of aiozk: the tables are
copied from ZooKeeper's sources (3.8), and `write` encodes field by field. Values have corral's types (`Acl`,
`Stat` with seconds); `values` is the Hypothesis strategy for everything that a message can contain.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from corral.types import Acl, Perm, Stat

INT = st.integers(-(2**31), 2**31 - 1)
LONG = st.integers(-(2**63), 2**63 - 1)

UNTIL_YEAR_10000 = 253_402_300_800_000
"""Milliseconds. A `Stat` has seconds as a float, which represents the milliseconds of times before this
exactly."""


class Message(NamedTuple):
    """The opcode, and the fields of the request and of the reply: ``field:type``, separated by spaces."""

    opcode: int
    request: str
    reply: str


MULTI, MULTI_READ = 14, 22

MESSAGES: dict[str, Message] = {
    "create": Message(1, "path:ustring data:buffer acl:vector<ACL> flags:int", "path:ustring"),
    "delete": Message(2, "path:ustring version:int", ""),
    "exists": Message(3, "path:ustring watch:boolean", "stat:Stat"),
    "getData": Message(4, "path:ustring watch:boolean", "data:buffer stat:Stat"),
    "setData": Message(5, "path:ustring data:buffer version:int", "stat:Stat"),
    "getACL": Message(6, "path:ustring", "acl:vector<ACL> stat:Stat"),
    "setACL": Message(7, "path:ustring acl:vector<ACL> version:int", "stat:Stat"),
    "getChildren": Message(8, "path:ustring watch:boolean", "children:vector<ustring>"),
    "sync": Message(9, "path:ustring", "path:ustring"),
    "ping": Message(11, "", ""),
    "getChildren2": Message(12, "path:ustring watch:boolean", "children:vector<ustring> stat:Stat"),
    "check": Message(13, "path:ustring version:int", ""),
    "create2": Message(15, "path:ustring data:buffer acl:vector<ACL> flags:int", "path:ustring stat:Stat"),
    "reconfig": Message(
        16,
        "joining_servers:ustring leaving_servers:ustring new_members:ustring current_config_id:long",
        "data:buffer stat:Stat",
    ),
    "checkWatches": Message(17, "path:ustring type:int", ""),
    "removeWatches": Message(18, "path:ustring type:int", ""),
    "createContainer": Message(
        19, "path:ustring data:buffer acl:vector<ACL> flags:int", "path:ustring stat:Stat"
    ),
    "createTTL": Message(
        21, "path:ustring data:buffer acl:vector<ACL> flags:int ttl:long", "path:ustring stat:Stat"
    ),
    "auth": Message(100, "type:int scheme:ustring auth:buffer", ""),
    "setWatches": Message(
        101,
        "relative_zxid:long data_watches:vector<ustring> exist_watches:vector<ustring>"
        " child_watches:vector<ustring>",
        "",
    ),
    "sasl": Message(102, "token:buffer", "token:buffer"),
    "getEphemerals": Message(103, "prefix:ustring", "ephemerals:vector<ustring>"),
    "getAllChildrenNumber": Message(104, "path:ustring", "total_number:int"),
    "setWatches2": Message(
        105,
        "relative_zxid:long data_watches:vector<ustring> exist_watches:vector<ustring>"
        " child_watches:vector<ustring> persistent_watches:vector<ustring>"
        " persistent_recursive_watches:vector<ustring>",
        "",
    ),
    "addWatch": Message(106, "path:ustring mode:int", "error:int"),
    "whoAmI": Message(107, "", "clients:vector<Id>"),
    "closeSession": Message(-11, "", ""),
}
"""All messages except `multi` and `multiRead`, which have no fixed list of fields."""

WATCH_EVENT = "type:int state:int path:ustring"

IN_MULTI = (
    "create",
    "create2",
    "createContainer",
    "createTTL",
    "delete",
    "setData",
    "check",
    "getData",
    "getChildren",
)
"""The operations allowed in a `multi` or a `multiRead`."""


def fields(spec: str) -> list[tuple[str, str]]:
    """The fields of a message: name and type."""
    return [(name, kind) for name, _, kind in (field.partition(":") for field in spec.split())]


property_test = settings(
    deadline=None,  # machines that run tests are busy
    database=None,  # a failure prints how to reproduce it
    print_blob=True,
    max_examples=15,  # for each of some sixty codecs
    suppress_health_check=[HealthCheck.too_slow],
)

# Writing


def utf8(value: str) -> bytes:
    """A string as clients write it."""
    return value.encode()


def java_utf8(value: str) -> bytes:
    """A string as Java's server writes it: each UTF-16 unit separately, including surrogates."""
    units = struct.iter_unpack(">H", value.encode("utf-16-be"))
    return b"".join(chr(unit).encode("utf-8", "surrogatepass") for (unit,) in units)


def write(spec: str, values: Sequence[Any], *, text: Any = utf8) -> bytes:
    """The encoding of a message with these values."""
    return b"".join(_write(kind, value, text) for (_, kind), value in zip(fields(spec), values, strict=True))


def _write(kind: str, value: Any, text: Any) -> bytes:
    match kind:
        case "int":
            return struct.pack(">i", value)
        case "long":
            return struct.pack(">q", value)
        case "boolean":
            return b"\x01" if value else b"\x00"
        case "buffer":
            return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
        case "ustring":
            return _write("buffer", None if value is None else text(value), text)
        case "Id":
            return write("scheme:ustring id:ustring", value, text=text)
        case "ACL":
            return write("perms:int scheme:ustring id:ustring", value, text=text)
        case "Stat":
            czxid, mzxid, ctime, mtime, *rest = value
            return struct.pack(">qqqqiiiqiiq", czxid, mzxid, round(ctime * 1000), round(mtime * 1000), *rest)
    assert kind.startswith("vector<")
    if value is None:
        return struct.pack(">i", -1)
    return struct.pack(">i", len(value)) + b"".join(_write(kind[7:-1], item, text) for item in value)


def write_multi(ops: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A `multi` or its answer: the opcode, error and body of each operation, and a header that ends it."""
    headed = [struct.pack(">i?i", opcode, False, error) + body for opcode, error, body in ops]
    return b"".join(headed) + struct.pack(">i?i", -1, True, -1)


# Values

_seconds = st.integers(0, UNTIL_YEAR_10000 - 1).map(lambda milliseconds: milliseconds / 1000)

_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int": INT,
    "long": LONG,
    "boolean": st.booleans(),
    "buffer": st.none() | st.binary(max_size=40),
    "ustring": st.text(max_size=20),
    "Id": st.tuples(st.text(max_size=8), st.text(max_size=8)),
    "ACL": st.builds(
        Acl, st.integers(0, 31).map(Perm), st.sampled_from(["world", "digest", ""]), st.text(max_size=8)
    ),
    "Stat": st.builds(Stat, LONG, LONG, _seconds, _seconds, INT, INT, INT, LONG, INT, INT, LONG),
}


def values(spec: str) -> st.SearchStrategy[tuple[Any, ...]]:
    """Everything that a message can contain, one value for each field. No string and no vector is null."""
    return st.tuples(*(_values(kind) for _, kind in fields(spec)))


def _values(kind: str) -> st.SearchStrategy[Any]:
    if kind.startswith("vector<"):
        return st.lists(_KINDS[kind[7:-1]], max_size=4)
    return _KINDS[kind]
