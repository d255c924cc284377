"""What a server sends, in a form that can be compared with what another server sends in the same situation.

Bytes are decoded by the tables of `wire.jute`, field by field and with `struct` alone: the embedded server is
built on `corral.wire`, and defects of that must be found, too. Null and empty differ, strings beyond U+FFFF
stay encoded, and remaining bytes are reported.

Values that cannot be equal on two servers are replaced by their meaning. A zxid becomes the distance from the
one that created the program's root: nobody else uses the servers, so both must also use the same number of
zxids. A session id becomes the number of the session, and a time becomes the transaction that was made at
that time. No list is sorted: children and ephemeral nodes come in the order of a Java hash table, which is
known.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from wire.jute import MESSAGES, MULTI, MULTI_READ, WATCH_EVENT, fields

NOTIFICATION_XID, PING_XID, AUTH_XID, SET_WATCHES_XID = -1, -2, -4, -8
ERROR_OPCODE = -1
CONNECT_REPLY = "protocol:int timeout:int session_id:long password:buffer"
OPCODES = {name: message.opcode for name, message in MESSAGES.items()} | {
    "multi": MULTI,
    "multiRead": MULTI_READ,
}
NAMES = {opcode: name for name, opcode in OPCODES.items()}
_REPLIES = {message.opcode: message.reply for message in MESSAGES.values()}


class Garbled(NamedTuple):
    """Bytes that cannot be decoded."""

    why: str
    raw: bytes


class Node(NamedTuple):
    """A `Stat`. Each time is "ok" if it is that of the transaction of the zxid beside it."""

    czxid: int | str
    mzxid: int | str
    ctime: str
    mtime: str
    version: int
    cversion: int
    aversion: int
    owner: str
    length: int
    children: int
    pzxid: int | str


class Reply(NamedTuple):
    """The answer to the request `to`, which is its name."""

    to: str
    zxid: int | str
    error: int
    body: Any = ()


class Event(NamedTuple):
    zxid: int | str
    error: int
    type: int
    state: int
    path: str


class Connected(NamedTuple):
    """The answer to a connect request."""

    protocol: int
    timeout: int
    session: str
    password: str
    read_only: int | None


class Barrier(NamedTuple):
    """The answer to the ping that ends a step: all effects of the step come before it."""

    zxid: int | str
    error: int


class Ended(NamedTuple):
    """The server has closed the connection."""


class Silence(NamedTuple):
    """The awaited answer did not come, and neither did the end of the connection."""

    waited_for: str


Message: TypeAlias = Reply | Event | Connected | Barrier | Ended | Silence | Garbled


class Known:
    """The meaning of one server's zxids, session ids and times, and the path of the program's root."""

    def __init__(self, root: str, clock: Callable[[], float], skew: float) -> None:
        self.root = root
        self._clock = clock
        self._skew = skew
        self.base = 0  # the zxid that created the root
        self.newest = 0  # the last zxid in a reply
        self.sessions: dict[int, str] = {0: "0"}
        self._times: dict[int, int] = {}  # the time of each transaction, as first reported
        self._steps: list[tuple[int, float, float]] = []  # newest zxid, start and end of each
        self._began = clock()

    def full(self, path: str | None) -> str | None:
        """The server's path for a path of the program."""
        return self.root + path[1:] if path is not None and path.startswith("~") else path

    def short(self, path: str | None) -> str | None:
        """The program's path for a path of the server."""
        if path is not None and path.startswith(self.root):
            return "~" + path[len(self.root) :]
        return path

    def zxid(self, zxid: int) -> int | str:
        """A zxid as its distance from the root's; those before the root's do not matter to the program."""
        if zxid <= 0:
            return str(zxid)
        return zxid - self.base if zxid >= self.base else "before the program"

    def node(self, values: tuple[int, ...]) -> Node:
        czxid, mzxid, ctime, mtime, version, cversion, aversion, owner, length, children, pzxid = values
        return Node(
            self.zxid(czxid),
            self.zxid(mzxid),
            self._time(ctime, czxid),
            self._time(mtime, mzxid),
            version,
            cversion,
            aversion,
            self.sessions.get(owner, f"{owner:#x}"),
            length,
            children,
            self.zxid(pzxid),
        )

    def step_over(self) -> None:
        """Start another step, with another time."""
        now = self._clock()
        self._steps.append((self.newest, self._began, now))
        self._began = now

    def _time(self, milliseconds: int, zxid: int) -> str:
        known = self._times.setdefault(zxid, milliseconds)
        if known != milliseconds:
            return f"{milliseconds - known:+d} ms"
        if zxid < self.base:
            return "ok" if zxid or not milliseconds else f"{milliseconds} ms"
        # The step of this transaction is the first one after which it was known.
        at = bisect.bisect_left(self._steps, zxid, key=lambda step: step[0])
        start, end = self._steps[at][1:] if at < len(self._steps) else (self._began, self._clock())
        if start - self._skew <= milliseconds / 1000 <= end + self._skew:
            return "ok"
        return f"{milliseconds / 1000 - start:+.3f} s from the beginning of its step"


def message(frame: bytes, known: Known, asked: Mapping[int, tuple[Any, ...]]) -> Message:
    """The meaning of a frame; `asked` has the request for each xid, starting with its name."""
    try:
        xid, zxid, error = struct.unpack_from(">iqi", frame)
    except struct.error:
        return Garbled("no header", frame)
    if zxid > known.newest:
        known.newest = zxid
    if xid == NOTIFICATION_XID:
        reader = _Reader(frame, 16, known)
        body = reader.all(WATCH_EVENT)
        if isinstance(body, Garbled):
            return body
        return Event(known.zxid(zxid), error, body[0], body[1], known.short(body[2]) or "")
    if xid == PING_XID and len(frame) == 16 and PING_XID not in asked:
        return Barrier(known.zxid(zxid), error)
    if xid not in asked:
        return Garbled(f"an answer to {xid}, which nobody asked", frame)
    name = asked[xid][0]
    return Reply(name, known.zxid(zxid), error, _body(name, error, _Reader(frame, 16, known)))


def connected(frame: bytes, known: Known, name: str, asked: int) -> Connected | Garbled:
    """The meaning of the answer to a connect request. It requested the session with this id; or a new one if
    that is 0, which then gets this name."""
    reader = _Reader(frame, 0, known)
    try:
        protocol, timeout, session_id, password = reader.values(CONNECT_REPLY)
        read_only = reader.value("byte") if reader.left else None
    except (struct.error, ValueError) as error:
        return Garbled(str(error), frame)
    if reader.left:
        return Garbled("too many bytes", frame)
    if not asked:
        known.sessions.setdefault(session_id, name)
    told = f"{len(password or b'')} bytes{'' if any(password or b'') else ' of zero'}"
    return Connected(protocol, timeout, known.sessions.get(session_id, "another"), told, read_only)


def _body(name: str, error: int, reader: _Reader) -> Any:
    if error:
        return reader.rest() or ()
    if name in ("multi", "multiRead"):
        return reader.multi()
    spec = MESSAGES[name].reply if name in MESSAGES else ""
    return reader.all(spec)


class _Reader:
    """Decodes values one after the other, in a form that can be compared."""

    def __init__(self, frame: bytes, at: int, known: Known) -> None:
        self._frame = frame
        self._at = at
        self._known = known

    @property
    def left(self) -> int:
        return len(self._frame) - self._at

    def rest(self) -> bytes:
        return self._frame[self._at :]

    def all(self, spec: str) -> tuple[Any, ...] | Garbled:
        """The values of a message that ends where the frame ends."""
        try:
            values = self.values(spec)
        except (struct.error, ValueError) as error:
            return Garbled(str(error), self._frame)
        return values if not self.left else Garbled("too many bytes", self._frame)

    def values(self, spec: str) -> tuple[Any, ...]:
        return tuple(self.value(kind, field) for field, kind in fields(spec))

    def value(self, kind: str, field: str = "") -> Any:
        match kind:
            case "int":
                return self._unpack("i")
            case "long":
                return self._unpack("q")
            case "byte" | "boolean":
                return self._unpack("b")
            case "buffer":
                return self._bytes()
            case "ustring":
                raw = self._bytes()
                text = None if raw is None else raw.decode("utf-8", "surrogatepass")
                return self._known.short(text)
            case "Id":
                return self.values("scheme:ustring id:ustring")
            case "ACL":
                return self.values("perms:int scheme:ustring id:ustring")
            case "Stat":
                layout = struct.Struct(">qqqqiiiqiiq")
                values = layout.unpack_from(self._frame, self._at)
                self._at += layout.size
                return self._known.node(values)
        assert kind.startswith("vector<"), kind
        count = self._unpack("i")
        return None if count == -1 else [self.value(kind[7:-1]) for _ in range(count)]

    def multi(self) -> list[Any] | Garbled:
        """The result of each operation of a transaction."""
        results: list[Any] = []
        try:
            while True:
                opcode, done, error = self._unpack("i"), self._unpack("b"), self._unpack("i")
                if done:
                    break
                if opcode == ERROR_OPCODE:
                    results.append((opcode, error, self.value("int")))
                else:
                    results.append((opcode, error, *self.values(_REPLIES[opcode])))
        except (struct.error, ValueError, KeyError) as problem:
            return Garbled(str(problem), self._frame)
        if (opcode, error) != (-1, -1) or self.left:
            return Garbled("a transaction ends wrongly", self._frame)
        return results

    def _unpack(self, code: str) -> int:
        (value,) = struct.unpack_from(f">{code}", self._frame, self._at)
        self._at += struct.calcsize(f">{code}")
        return int(value)

    def _bytes(self) -> bytes | None:
        length = self._unpack("i")
        if length == -1:
            return None
        if not 0 <= length <= self.left:
            raise ValueError(f"a length of {length}")
        self._at += length
        return self._frame[self._at - length : self._at]
