"""Checks what a server sends, once, before anything else uses it. No I/O.

Bytes that decode may still be no answer. A server with a defect, or something between it and us, may send an
answer with another request's shape, an event for an impossible path, or a session that nobody requested. What
does not fit its request ends that request with a `ReplyError`; what does not fit the connection ends the
connection. All other code relies on these checks: a transaction has as many results as operations, a
sequential name ends in a number, an ephemeral belongs to our session.

The checks hold for every server from 3.4 to 3.9. A newer server may append fields, use unknown error codes
and send unknown types of events.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corral import paths
from corral.errors import NotReadOnly
from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import ConnectReply, MultiBody, MultiResult, Operation

MOST_LEVELS = 4096
"""The most levels of a path in an event. ZooKeeper has no limit, but the search for watches above a path
looks at each level, and no real path is that deep."""

# A server grants from 2 to 20 of its ticks, which are 2 s by default. The granted timeout sets the interval
# of pings and how soon a silent server is noticed: these limits prevent a storm of pings, and a wait of days.
LEAST_GRANT = 0.1
MOST_GRANT = 600.0
GRANT_RATIO = 20
"""Seconds. Outside these limits a server may still grant what was requested, and up to GRANT_RATIO times as
much."""

MOST_GROWTH = 1 << 52
"""The most by which the zxid may grow between two answers: 2^20 epochs. Each election begins one."""

_REPLY_HEADER = messages.REPLY_HEADER
_PASSWORD_LENGTH = 16
# The protocol version in an answer that is no session (KEEPER_PROTOCOL_VERSION_CONNECTION_REJECT).
_KEEPER_REJECTS = 42
TURNED_AWAY = "the server turns everybody away: it has no leader, or is not ready yet"
_CONTAINER_OWNER = -(1 << 63)
# "%010d" of a signed 32-bit number, other than the ten digits that it nearly always is.
_NUMBER = re.compile(r"-[0-9]{9,10}", re.ASCII)
_length_at = struct.Struct(">i").unpack_from
_EPHEMERAL, _SEQUENTIAL = 1, 2
_NO_NAMES = frozenset(("", ".", ".."))

_LONGEST_GREETING = 4096
"""Bytes of an answer to a connect request, at most; it has below a hundred."""
_STRANGERS: Mapping[bytes, str] = {
    b"HTTP": "HTTP",
    b"SSH-": "SSH",
    b"\x15\x03": "TLS (a secure port?)",
    b"\x16\x03": "TLS (a secure port?)",
    b"220": "SMTP or FTP",
    b"-ERR": "Redis or POP3",
}


class Misfit(Exception):
    """What a server has sent does not fit. The message says what and why."""


class TurnedAway(Exception):
    """The server rejects every client, for a while. The message is `TURNED_AWAY`."""


class Stranger(Exception):
    """The peer is no ZooKeeper server. The message says what it sent."""


def check_greeting(first: bytes, *, is_all: bool = False) -> None:
    """Raise `Stranger` unless `first`, the first bytes on a connection, may begin the answer to a connect
    request.

    Fewer than 4 bytes are checked only if no more will follow (`is_all`): otherwise the next ones identify
    the peer.
    """
    if len(first) < 4 and not is_all:
        return
    if not 0 <= int.from_bytes(first[:4].ljust(4, b"\0")) <= _LONGEST_GREETING or first[:4] == bytes(4):
        kinds = [kind for prefix, kind in _STRANGERS.items() if first.startswith(prefix)]
        looks = f", which looks like {kinds[0]}" if kinds else ""
        raise Stranger(f"what answers there is no ZooKeeper: its bytes make no sense ({first!r}{looks})")


class NoSessions(Stranger):
    """A read-only server that may not open sessions. The message says why."""


def check_has_session(view: memoryview, start: int, end: int) -> None:
    """Raise `NoSessions` if a read-only server answers a request for a session with a refusal.

    From 3.7 on it opens none unless it is configured for local sessions, and sends a reply header in place of
    the answer.
    """
    if end - start == _REPLY_HEADER.size and _REPLY_HEADER.unpack_from(view, start)[2] == NotReadOnly.code:
        raise NoSessions("a read-only server that opens no sessions; configure localSessionsEnabled=true")


def check_connect_reply(reply: ConnectReply, asked: float, session_id: int) -> None:
    """Raise `Misfit` unless `reply` may answer a request for `session_id` (0 for a new one) and `asked`
    seconds; `TurnedAway` if the server rejects us for now.

    A refusal (no timeout, or no session id) fits. So does another session than the requested one if it has no
    password: ClickHouse Keeper resumes no session, and opens a new one in its place. While it has no leader,
    Keeper rejects connections with a protocol version of its own and session -1.
    """
    if reply.protocol_version == _KEEPER_REJECTS and reply.session_id == -1:
        raise TurnedAway(TURNED_AWAY)
    if reply.protocol_version != 0:
        raise Misfit(f"the server rejects the connection (protocol version {reply.protocol_version})")
    if reply.timeout <= 0 or reply.session_id == 0:
        return
    if session_id and reply.session_id != session_id and any(reply.password):
        raise Misfit(f"the server answers with session 0x{reply.session_id:x}, not with 0x{session_id:x}")
    if reply.session_id == -1 or len(reply.password) != _PASSWORD_LENGTH:
        raise Misfit("the server answers with an impossible session")
    least = min(asked, LEAST_GRANT)
    most = max(asked * GRANT_RATIO, MOST_GRANT)
    if not least <= reply.timeout <= most:
        raise Misfit(
            f"the server grants a session timeout of {reply.timeout:g} s where {asked:g} s were requested; "
            f"from {least:g} to {most:g} s are accepted"
        )


def check_digest_challenge(directives: Mapping[str, Sequence[bytes]]) -> None:
    """Raise `Misfit` unless these may be the directives of a challenge of DIGEST-MD5 (RFC 2831, 2.1.1) that
    we can answer."""
    for name in ("nonce", "algorithm", "charset", "qop"):
        count = len(directives.get(name, ()))
        if count > 1 or (not count and name in ("nonce", "algorithm")):
            raise Misfit(f"a DIGEST-MD5 challenge with {count} times the directive {name!r}")
    for name, expected in (("algorithm", b"md5-sess"), ("charset", b"utf-8")):
        value = directives.get(name, (expected,))[0]
        if value.lower() != expected:
            raise Misfit(f"a DIGEST-MD5 challenge with the {name} {value[:50]!r}")
    offered = [each.strip() for each in directives.get("qop", (b"auth",))[0].lower().split(b",")]
    if b"auth" not in offered:
        raise Misfit(f"a DIGEST-MD5 challenge that offers only the protection {offered[0][:50]!r}")
    if not directives["nonce"][0]:
        raise Misfit("a DIGEST-MD5 challenge with an empty nonce")


def check_event_path(path: str) -> None:
    """Raise `Misfit` unless an event may name `path`."""
    if path == "/":
        return
    if not _is_path(path):
        raise Misfit(f"an event for {path[:50]!r}, which is no path")
    if path.count("/") > MOST_LEVELS:
        raise Misfit(f"an event for a path of {path.count('/'):,} levels; {MOST_LEVELS:,} are accepted")


def _is_path(path: str) -> bool:
    """Whether a znode other than the root may be there."""
    return path[:1] == "/" and path[-1] != "/" and "//" not in path and not paths.FORBIDDEN.search(path)


def check_answer(op: Operation, body: bytes, result: Any, zxid: int, session_id: int) -> None:
    """Raise `Misfit` unless `result` may answer the request `op` with `body`, in the session `session_id`, at
    transaction `zxid`."""
    check = CHECKS.get(op)
    if check is not None:
        check(body, result, zxid, session_id)


def _check_get(body: bytes, result: tuple[bytes, Stat], zxid: int, session_id: int) -> None:
    data, stat = result
    if len(data) != stat.data_length:
        raise Misfit(f"{len(data)} bytes of data, of which its Stat says that they are {stat.data_length}")


def _check_children(body: bytes, names: Sequence[str], zxid: int, session_id: int) -> None:
    # All names together, in one pass: a node may have a hundred thousand children.
    joined = "".join(names)
    is_plain = joined.isascii() and joined.isprintable()  # nearly always true, and fast
    is_odd = "/" in joined or (not is_plain and paths.FORBIDDEN.search(joined) is not None)
    if is_odd or not _NO_NAMES.isdisjoint(names):
        raise Misfit("a child's name that no znode can have")


def _check_children2(body: bytes, result: tuple[list[str], Stat], zxid: int, session_id: int) -> None:
    _check_children(body, result[0], zxid, session_id)


def _check_set(body: bytes, stat: Stat, zxid: int, session_id: int) -> None:
    if stat.mzxid > zxid > 0:
        raise _too_new(stat.mzxid, zxid)
    expected = _length_at(body, len(body) - 4)[0]
    if expected >= 0 and stat.version != _next_version(expected):
        raise Misfit(f"version {stat.version} after a write that expected {expected}")
    (length,) = _length_at(body, 4 + _length_at(body, 0)[0])
    if stat.data_length != max(0, length):
        raise Misfit(f"{stat.data_length} bytes after a write of {length}")


def _next_version(version: int) -> int:
    """Versions are signed 32-bit numbers: the one after the largest is negative."""
    return version + 1 if version < 0x7FFFFFFF else -0x80000000


def _check_path(body: bytes, flags: int, path: str) -> None:
    requested = body[4 : 4 + _length_at(body, 0)[0]].decode()
    if not flags & _SEQUENTIAL:
        if path != requested:
            raise Misfit(f"{path[:100]!r} was created, not {requested[:100]!r}")
        return
    number = path[-10:]
    if path[:-10] == requested and number.isdecimal() and number.isascii():
        return  # nearly always
    if not path.startswith(requested) or not _NUMBER.fullmatch(path, len(requested)):
        raise Misfit(f"{path[:100]!r} is not {requested[:100]!r} with a number")


def _check_create(body: bytes, path: str, zxid: int, session_id: int) -> None:
    _check_path(body, body[-1], path)


def _check_create2(body: bytes, result: tuple[str, Stat], zxid: int, session_id: int) -> None:
    path, stat = result
    flags = body[-1]
    _check_path(body, flags, path)
    if stat.czxid > zxid > 0:
        raise _too_new(stat.czxid, zxid)
    owner = session_id if flags & _EPHEMERAL else 0
    if stat.ephemeral_owner != owner:
        raise Misfit(f"{path[:100]!r} is owned by 0x{stat.ephemeral_owner:x}, not by 0x{owner:x}")


def _check_create_container(body: bytes, result: tuple[str, Stat], zxid: int, session_id: int) -> None:
    path, stat = result
    _check_path(body, 0, path)
    if stat.ephemeral_owner not in (0, _CONTAINER_OWNER):
        raise Misfit(f"the container {path[:100]!r} is owned by 0x{stat.ephemeral_owner:x}")


def _check_create_ttl(body: bytes, result: tuple[str, Stat], zxid: int, session_id: int) -> None:
    with_ttl_and_number = 6
    is_sequential = body[-9] == with_ttl_and_number
    _check_path(body, _SEQUENTIAL * is_sequential, result[0])


def _check_ephemerals(body: bytes, found: Sequence[str], zxid: int, session_id: int) -> None:
    prefix = body[4:].decode()
    for path in found:
        if not path.startswith(prefix) or not _is_path(path):
            raise Misfit(f"{path[:100]!r} is no ephemeral below {prefix[:100]!r}")


def _check_count(body: bytes, total: int, zxid: int, session_id: int) -> None:
    if total < 0:
        raise Misfit(f"{total} znodes below a znode")


def _check_identities(body: bytes, found: Sequence[tuple[str, str]], zxid: int, session_id: int) -> None:
    if not all(scheme for scheme, _ in found):
        raise Misfit("an identity without a scheme")


def _too_new(created: int, zxid: int) -> Misfit:
    return Misfit(f"a znode of transaction 0x{created:x} at transaction 0x{zxid:x}")


def _check_multi(body: bytes, results: Sequence[MultiResult], zxid: int, session_id: int) -> None:
    ops = _ops_in(body)
    if len(results) != len(ops):
        raise Misfit(f"{len(results)} results for {len(ops)} operations")
    if any(result.opcode == messages.ERROR_OPCODE for result in results):
        # No operation was applied: those before the refused one have code 0, those after it -2.
        if any(result.opcode != messages.ERROR_OPCODE for result in results):
            raise Misfit("some operations of one transaction are applied, and others not")
        codes = [result.error for result in results]
        refused = [index for index, code in enumerate(codes) if code not in (0, -2)]
        if len(refused) != 1 or any(codes[: refused[0]]) or 0 in codes[refused[0] :]:
            raise Misfit("a transaction is refused, but not for one of its operations")
        return
    for (op, part), result in zip(ops, results, strict=True):
        if result.opcode != op.opcode:
            raise Misfit(f"a result of operation {result.opcode} where {op.opcode} ({op.name}) was asked for")
        check_answer(op, part, result.value, zxid, session_id)


def _check_multi_read(body: bytes, results: Sequence[MultiResult], zxid: int, session_id: int) -> None:
    ops = _ops_in(body)
    if len(results) != len(ops):
        raise Misfit(f"{len(results)} results for {len(ops)} reads")
    get = messages.GET.opcode
    for (op, _), result in zip(ops, results, strict=True):
        if result.opcode == op.opcode:
            # Not by `check_answer`, since an answer that loads a tree has a thousand of these.
            if result.opcode == get:
                if len(result.value[0]) != result.value[1].data_length:
                    raise Misfit("data of another length than its Stat says")
            else:
                _check_children(body, result.value, zxid, session_id)
        elif result.opcode != messages.ERROR_OPCODE:
            raise Misfit(f"a result of operation {result.opcode} where {op.opcode} ({op.name}) was asked for")
        elif result.error == 0:
            raise Misfit("a read that failed with error code 0")


def _ops_in(body: bytes) -> Sequence[tuple[Operation, bytes]]:
    assert isinstance(body, MultiBody)
    return body.ops


CHECKS: Mapping[Operation, Callable[[bytes, Any, int, int], None]] = {
    messages.GET: _check_get,
    messages.CHILDREN: _check_children,
    messages.CHILDREN2: _check_children2,
    messages.SET: _check_set,
    messages.CREATE: _check_create,
    messages.CREATE2: _check_create2,
    messages.CREATE_CONTAINER: _check_create_container,
    messages.CREATE_TTL: _check_create_ttl,
    messages.GET_EPHEMERALS: _check_ephemerals,
    messages.COUNT_ALL: _check_count,
    messages.WHO_AM_I: _check_identities,
    messages.MULTI: _check_multi,
    messages.MULTI_READ: _check_multi_read,
}
"""The check of the answer to each operation, by the request's body, the result, the zxid and the session."""
