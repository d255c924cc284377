"""The operations: opcode, request, reply, and typed functions that encode them.

What aiozk declares is taken from there. What is wrong or missing is declared below in the same way, in one
table (`MISSING`), each with its reason. Milliseconds end here: outside the wire layer times are seconds.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiozk import protocol
from aiozk.protocol import acl as aiozk_acl
from aiozk.protocol import connect as aiozk_connect
from aiozk.protocol import stat as aiozk_stat
from aiozk.protocol.primitives import Buffer, Int, Long, UString, Vector

from corral.types import Acl, Perm, Stat

from . import compile as compiler
from .compile import Codec, DecodeError, Item, compile_item, compile_parts, compile_record

REQUEST_HEADER = struct.Struct(">iii")
"""Length of the frame, xid, opcode."""
REPLY_HEADER = struct.Struct(">iqi")
"""xid, zxid, error code."""

NOTIFICATION_XID = -1
PING_XID = -2
AUTH_XID = -4
SET_WATCHES_XID = -8

WATCHER_CHILDREN = 1
WATCHER_DATA = 2
WATCHER_ANY = 3
"""What `remove_watches` removes."""

# Parts that are records

_new_tuple = tuple.__new__


def _make_stat(
    czxid: int, mzxid: int, ctime: int, mtime: int, version: int, cversion: int, aversion: int,
    owner: int, length: int, children: int, pzxid: int,
) -> Stat:  # fmt: skip
    # Past NamedTuple's own constructor, which would pack these eleven a second time.
    return _new_tuple(
        Stat,
        (
            czxid, mzxid, ctime / 1000, mtime / 1000, version, cversion, aversion,
            owner, length, children, pzxid,
        ),
    )  # fmt: skip


def _take_stat(stat: Stat) -> tuple[int, ...]:
    czxid, mzxid, ctime, mtime, *rest = stat
    return (czxid, mzxid, round(ctime * 1000), round(mtime * 1000), *rest)


_PERMS = tuple(Perm(bits) for bits in range(Perm.ALL + 1))


def _make_acl(perms: int, scheme: str, identity: str) -> Acl:
    return Acl(_PERMS[perms & Perm.ALL], scheme, identity)


_STAT = compile_item(aiozk_stat.Stat, _make_stat, _take_stat)
_ACL = compile_record(
    "ACL",
    # The id is a part of its own there; on the wire its two strings follow the permissions.
    (aiozk_acl.ACL.parts[0], *aiozk_acl.ID.parts),
    _make_acl,
    tuple,
    least=12,
)
_ITEMS: dict[type, Item] = {aiozk_stat.Stat: _STAT, aiozk_acl.ACL: _ACL}

# What aiozk lacks or has wrong, declared as it declares.

Parts = Sequence[tuple[str, type]]

MISSING: dict[str, tuple[str, Parts]] = {
    "create_ttl": (
        "createTTL (opcode 21) is not there; it is a create with the time to live behind it",
        (*protocol.CreateRequest.parts, ("ttl", Long)),
    ),
    "connect": (
        "a server older than 3.4 does not know read_only, which is last, and leaves it out",
        aiozk_connect.ConnectRequest.parts[:-1],
    ),
    "sasl": (
        "SASLRequest and SASLResponse have a bare pair where a tuple of pairs belongs, and do not serialize",
        (("token", Buffer),),
    ),
    "set_watches2": (
        "setWatches2 (opcode 105) is not there: setWatches with the persistent watches behind it",
        (
            *protocol.SetWatchesRequest.parts,
            ("persistent_watches", Vector.of(UString)),
            ("persistent_recursive_watches", Vector.of(UString)),
        ),
    ),
    "add_watch": ("addWatch (opcode 106) is not there", (("path", UString), ("mode", Int))),
    "get_ephemerals": ("getEphemerals (opcode 103) is not there", (("prefix", UString),)),
    "ephemerals": ("nor is its reply", (("ephemerals", Vector.of(UString)),)),
    "count_all": ("getAllChildrenNumber (opcode 104) is not there", (("path", UString),)),
    "total": ("nor is its reply", (("total_number", Int),)),
    "identities": (
        "whoAmI (opcode 107) is not there; nor is its reply",
        (("clients", Vector.of(aiozk_acl.ID)),),
    ),
    "error": (
        "ErrorResponse is not there: the body of a refused operation in a multi, and of addWatch's answer",
        (("error", Int),),
    ),
}

_ITEMS[aiozk_acl.ID] = compile_record(
    "ID", aiozk_acl.ID.parts, lambda scheme, identity: (scheme, identity), tuple, least=8
)


def _codec(declaration: Any) -> Codec:
    return compile_parts(declaration.__name__, declaration.parts, _ITEMS)


def _missing(name: str) -> Codec:
    return compile_parts(name, MISSING[name][1], _ITEMS)


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One kind of request. `name` is the verb as users see it in errors."""

    name: str
    opcode: int
    request: Codec
    reply: Codec
    is_write: bool
    """Whether it goes through the quorum, so that it must not be sent twice, and proves one when answered."""
    decode_reply: compiler.Decoder

    def __repr__(self) -> str:
        return f"<Operation {self.name} {self.opcode}>"


OPERATIONS: dict[int, Operation] = {}
"""Every operation, by opcode."""

_EMPTY = compile_parts("empty", (), {})


def _operation(
    name: str,
    opcode: int,
    request: Codec,
    reply: Codec,
    *,
    is_write: bool = False,
    decode_reply: compiler.Decoder | None = None,
) -> Operation:
    operation = Operation(name, opcode, request, reply, is_write, decode_reply or reply.decode)
    OPERATIONS[opcode] = operation
    return operation


_GET_REPLY = _codec(protocol.GetDataResponse)


def _decode_get_reply(
    buffer: compiler.Buffer,
    start: int,
    end: int,
    _decode: Callable[[compiler.Buffer, int, int], tuple[bytes | None, Stat]] = _GET_REPLY.decode,
) -> tuple[bytes, Stat]:
    data, stat = _decode(buffer, start, end)
    return data or b"", stat  # null data, which some clients write, reads as empty


_ADD_WATCH_REPLY = _missing("error")


def _decode_add_watch_reply(buffer: compiler.Buffer, start: int, end: int) -> int:
    # ClickHouse Keeper leaves the error code out.
    return 0 if start == end else _ADD_WATCH_REPLY.decode(buffer, start, end)


_CREATED = _codec(protocol.Create2Response)

CREATE = _operation(
    "create", 1, _codec(protocol.CreateRequest), _codec(protocol.CreateResponse), is_write=True
)
DELETE = _operation(
    "delete", 2, _codec(protocol.DeleteRequest), _codec(protocol.DeleteResponse), is_write=True
)
EXISTS = _operation("exists", 3, _codec(protocol.ExistsRequest), _codec(protocol.ExistsResponse))
GET = _operation("get", 4, _codec(protocol.GetDataRequest), _GET_REPLY, decode_reply=_decode_get_reply)
SET = _operation("set", 5, _codec(protocol.SetDataRequest), _codec(protocol.SetDataResponse), is_write=True)
GET_ACL = _operation("get_acl", 6, _codec(protocol.GetACLRequest), _codec(protocol.GetACLResponse))
SET_ACL = _operation(
    "set_acl", 7, _codec(protocol.SetACLRequest), _codec(protocol.SetACLResponse), is_write=True
)
CHILDREN = _operation(
    "children", 8, _codec(protocol.GetChildrenRequest), _codec(protocol.GetChildrenResponse)
)
SYNC = _operation("sync", 9, _codec(protocol.SyncRequest), _codec(protocol.SyncResponse))
PING = _operation("ping", 11, _EMPTY, _EMPTY)
CHILDREN2 = _operation(
    "children", 12, _codec(protocol.GetChildren2Request), _codec(protocol.GetChildren2Response)
)
CHECK = _operation("check", 13, _codec(protocol.CheckVersionRequest), _EMPTY, is_write=True)
CREATE2 = _operation("create", 15, _codec(protocol.Create2Request), _CREATED, is_write=True)
RECONFIG = _operation(
    "reconfig", 16, _codec(protocol.ReconfigRequest), _codec(protocol.GetDataResponse), is_write=True
)
CHECK_WATCHES = _operation("check_watches", 17, _codec(protocol.CheckWatchesRequest), _EMPTY)
REMOVE_WATCHES = _operation("remove_watches", 18, _codec(protocol.RemoveWatchesRequest), _EMPTY)
# aiozk has container as a flag of create2: the server then makes an ordinary persistent znode. It is the
# opcode that makes a container; the flag (4) must be there too.
CREATE_CONTAINER = _operation("create", 19, _codec(protocol.Create2Request), _CREATED, is_write=True)
CREATE_TTL = _operation("create", 21, _missing("create_ttl"), _CREATED, is_write=True)
AUTH = _operation("add_auth", 100, _codec(protocol.AuthRequest), _EMPTY)
SET_WATCHES = _operation("set_watches", 101, _codec(protocol.SetWatchesRequest), _EMPTY)
SASL = _operation("sasl", 102, _missing("sasl"), _missing("sasl"))
GET_EPHEMERALS = _operation("ephemerals", 103, _missing("get_ephemerals"), _missing("ephemerals"))
COUNT_ALL = _operation("count_children", 104, _missing("count_all"), _missing("total"))
SET_WATCHES2 = _operation("set_watches", 105, _missing("set_watches2"), _EMPTY)
ADD_WATCH = _operation(
    "add_watch", 106, _missing("add_watch"), _ADD_WATCH_REPLY, decode_reply=_decode_add_watch_reply
)
WHO_AM_I = _operation("who_am_i", 107, _EMPTY, _missing("identities"))
CLOSE = _operation("close", -11, _EMPTY, _EMPTY)

WATCH_EVENT = _codec(protocol.WatchEvent)
"""type, state, path"""

# Connecting

_CONNECT = _missing("connect")
_CONNECTED = _codec(protocol.ConnectResponse)


class ConnectRequest(NamedTuple):
    """The first thing that a client says."""

    protocol_version: int
    last_zxid: int
    timeout: float
    session_id: int
    password: bytes
    read_only: bool


class ConnectReply(NamedTuple):
    """The first thing that a server says. No time-out means that there is no such session."""

    protocol_version: int
    timeout: float
    session_id: int
    password: bytes
    read_only: bool


def encode_connect(
    last_zxid: int, timeout: float, session_id: int, password: bytes, read_only: bool = False
) -> bytes:
    """The connect request; `timeout` in seconds."""
    body = _CONNECT.encode(0, last_zxid, round(timeout * 1000), session_id, password)
    return body + (b"\x01" if read_only else b"\x00")


def decode_connect(buffer: compiler.Buffer, start: int, end: int) -> ConnectRequest:
    """A connect request, for servers."""
    version, zxid, timeout, session_id, password = _CONNECT.decode(buffer, start, end)
    size = 28 + len(password or b"")
    return ConnectRequest(
        version, zxid, timeout / 1000, session_id, password or b"", _flag_at(buffer, start + size, end)
    )


def encode_connect_reply(timeout: float, session_id: int, password: bytes, read_only: bool = False) -> bytes:
    """The answer to a connect request; `timeout` in seconds."""
    body = _CONNECTED.encode(0, round(timeout * 1000), session_id, password)
    return body + (b"\x01" if read_only else b"\x00")


def decode_connect_reply(buffer: compiler.Buffer, start: int, end: int) -> ConnectReply:
    """The answer to a connect request. aiozk does not declare read_only, which is last."""
    version, timeout, session_id, password = _CONNECTED.decode(buffer, start, end)
    size = 20 + len(password or b"")
    return ConnectReply(
        version, timeout / 1000, session_id, password or b"", _flag_at(buffer, start + size, end)
    )


def _flag_at(buffer: compiler.Buffer, at: int, end: int) -> bool:
    return at < end and buffer[at] != 0


# Transactions: a header and a body for each operation, and a header that says that it was the last.

_MULTI_HEADER = struct.Struct(">i?i")
ERROR_OPCODE = -1
"""What an operation that was refused has for its opcode in the answer."""
_MULTI_END = _MULTI_HEADER.pack(-1, True, -1)
_ERROR = _missing("error")
_IN_MULTI = {
    operation.opcode: operation
    for operation in (CREATE, CREATE2, CREATE_CONTAINER, CREATE_TTL, DELETE, SET, CHECK, GET, CHILDREN)
}


class MultiResult(NamedTuple):
    """What became of one operation of a transaction: `error` is 0, or the code of the refusal."""

    opcode: int
    error: int
    value: Any


class MultiBody(bytes):
    """The body of a request of several operations, with what it was made of: their answer is held against
    it."""

    ops: Sequence[tuple[Operation, bytes]]


def encode_multi(ops: Sequence[tuple[Operation, bytes]]) -> MultiBody:
    """Several operations in one request: each with its body."""
    pieces = []
    for operation, body in ops:
        pieces.append(_MULTI_HEADER.pack(operation.opcode, False, -1))
        pieces.append(body)
    pieces.append(_MULTI_END)
    body = MultiBody(b"".join(pieces))
    body.ops = ops
    return body


def decode_multi(buffer: compiler.Buffer, start: int, end: int) -> list[tuple[Operation, Any]]:
    """The operations of a transaction with their fields, for servers."""
    found: list[tuple[Operation, Any]] = []
    opcode, _, at = _multi_header(buffer, start, end)
    while opcode is not None:
        operation = _in_multi(opcode)
        fields, at = operation.request.read(buffer, at, end)
        found.append((operation, fields))
        opcode, _, at = _multi_header(buffer, at, end)
    return found


def encode_multi_reply(results: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The answer to a transaction, for servers: opcode, error code and body of each operation's reply."""
    pieces = []
    for opcode, error, body in results:
        if error or opcode == ERROR_OPCODE:
            pieces.append(_MULTI_HEADER.pack(ERROR_OPCODE, False, error))
            pieces.append(_ERROR.encode(error))
        else:
            pieces.append(_MULTI_HEADER.pack(opcode, False, 0))
            pieces.append(body)
    pieces.append(_MULTI_END)
    return b"".join(pieces)


def decode_multi_reply(buffer: compiler.Buffer, start: int, end: int) -> list[MultiResult]:
    """What became of each operation of a transaction, in order.

    Where the server refuses one, those before it have error 0 (rolled back) and those after it -2.
    """
    results: list[MultiResult] = []
    unpack, size, readers, at = _MULTI_HEADER.unpack_from, _MULTI_HEADER.size, _RESULTS, start
    while True:
        stop = at + size
        if stop > end:
            raise compiler.short(stop, end)
        opcode, done, _ = unpack(buffer, at)
        if done:
            return results
        read = readers.get(opcode)
        if read is None:
            raise _not_in_multi(opcode)
        value, at = read(buffer, stop, end)
        if opcode == ERROR_OPCODE:
            results.append(MultiResult(opcode, value, None))
        else:
            # Past NamedTuple's own constructor: the answer that loads a tree has a thousand of these.
            results.append(_new_tuple(MultiResult, (opcode, 0, value)))


def _multi_header(buffer: compiler.Buffer, start: int, end: int) -> tuple[int | None, int, int]:
    """The opcode (None at the end), the error, and where the body begins."""
    stop = start + _MULTI_HEADER.size
    if stop > end:
        raise compiler.short(stop, end)
    opcode, done, error = _MULTI_HEADER.unpack_from(buffer, start)
    return (None if done else opcode), error, stop


def _in_multi(opcode: int) -> Operation:
    try:
        return _IN_MULTI[opcode]
    except KeyError:
        raise _not_in_multi(opcode) from None


def _not_in_multi(opcode: int) -> DecodeError:
    return DecodeError(f"opcode {opcode} in a transaction")


def _read_got(buffer: compiler.Buffer, start: int, end: int) -> tuple[tuple[bytes, Stat], int]:
    got, at = _GET_REPLY.read(buffer, start, end)
    return (got if got[0] is not None else (b"", got[1])), at


_RESULTS = {opcode: operation.reply.read for opcode, operation in _IN_MULTI.items()}
_RESULTS[GET.opcode] = _read_got
_RESULTS[ERROR_OPCODE] = _ERROR.read


MULTI = _operation("transaction", 14, _EMPTY, _EMPTY, is_write=True, decode_reply=decode_multi_reply)
MULTI_READ = _operation("multi_read", 22, _EMPTY, _EMPTY, decode_reply=decode_multi_reply)

# Requests, typed. Paths are full and valid, data is bytes, versions are 32-bit: callers have seen to that.

encode_get: Callable[[str, bool], bytes] = GET.request.encode
encode_exists: Callable[[str, bool], bytes] = EXISTS.request.encode
encode_children: Callable[[str, bool], bytes] = CHILDREN.request.encode
encode_children2: Callable[[str, bool], bytes] = CHILDREN2.request.encode
encode_delete: Callable[[str, int], bytes] = DELETE.request.encode
encode_set: Callable[[str, bytes, int], bytes] = SET.request.encode
encode_check: Callable[[str, int], bytes] = CHECK.request.encode
encode_sync: Callable[[str], bytes] = SYNC.request.encode
encode_get_acl: Callable[[str], bytes] = GET_ACL.request.encode
encode_set_acl: Callable[[str, Sequence[Acl], int], bytes] = SET_ACL.request.encode
encode_get_ephemerals: Callable[[str], bytes] = GET_EPHEMERALS.request.encode
encode_count_all: Callable[[str], bytes] = COUNT_ALL.request.encode
encode_remove_watches: Callable[[str, int], bytes] = REMOVE_WATCHES.request.encode
encode_add_watch: Callable[[str, int], bytes] = ADD_WATCH.request.encode
encode_set_watches: Callable[[int, Sequence[str], Sequence[str], Sequence[str]], bytes] = (
    SET_WATCHES.request.encode
)
encode_set_watches2: Callable[
    [int, Sequence[str], Sequence[str], Sequence[str], Sequence[str], Sequence[str]], bytes
] = SET_WATCHES2.request.encode


def without_watch(body: bytes) -> bytes:
    """The body of a read (get, exists, children), without the watch that it sets: that is its last byte."""
    return body[:-1] + b"\x00"


_INT = struct.Struct(">i")
_FLAGS_AND_TTL = struct.Struct(">iq")
_encode_acls = compiler.vector_of(_ACL).encode


@functools.lru_cache(maxsize=256)
def _encode_acl(acl: tuple[Acl, ...]) -> bytes:
    """Cached: an application has a handful of access control lists, and each create sends one."""
    return _encode_acls(acl)


def _encode_new_node(path: str, data: bytes, acl: tuple[Acl, ...]) -> bytes:
    name = path.encode()
    length = _INT.pack
    return length(len(name)) + name + length(len(data)) + data + _encode_acl(acl)


def encode_create(path: str, data: bytes, acl: tuple[Acl, ...], flags: int) -> bytes:
    """The body of CREATE, CREATE2 and CREATE_CONTAINER; `flags` is the server's create mode."""
    return _encode_new_node(path, data, acl) + _INT.pack(flags)


def encode_create_ttl(path: str, data: bytes, acl: tuple[Acl, ...], flags: int, ttl: float) -> bytes:
    """The body of CREATE_TTL; `ttl` in seconds."""
    return _encode_new_node(path, data, acl) + _FLAGS_AND_TTL.pack(flags, round(ttl * 1000))


def encode_auth(scheme: str, secret: bytes) -> bytes:
    """The body of AUTH. Its first field is a type that no server looks at."""
    return AUTH.request.encode(0, scheme, secret)
