"""Runs a program on a server and records everything that the server sends, step by step.

After each step every connection is brought to a barrier: a ping, which a server answers after everything that
it has to send by then. On a standalone server the events of a write are sent to watchers before the write's
reply, and the requests of one connection are answered in order. So what is received up to the barrier is what
the step has caused, complete and in order.

If the connection must end (after a close, and after what a server rejects that way) no ping is sent: a ping
that reached a closed socket would make the kernel discard what was already delivered. The answer to an `auth`
overtakes those to earlier requests, and may be the last: it is awaited alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import replies
from program import FATAL_STEPS, OPEN, SESSION_STEPS, Program, Request, Step, requests_of
from replies import NAMES, OPCODES, Barrier, Ended, Event, Garbled, Known, Message, Reply, Silence
from sides import Connection, Side, Silent

from corral.testing.embedded.releases import lacks
from wire.jute import MESSAGES, write, write_multi

TIMEOUT = 30_000
"""Milliseconds without contact after which a session ends: longer than any program runs."""
SHORTEST = 1
"""The requested timeout that gets the shortest one that the server grants."""
IDENTITIES = (b"ann:secret", b"bob:secret")
"""A client with these can read the final tree."""

NO_PASSWORD = bytes(16)
CONNECT = "protocol:int zxid:long timeout:int session_id:long password:buffer read_only:boolean"
KINDS = ("data", "exist", "child", "persistent", "recursive")
"""The lists of setWatches2, in order."""

Seen: TypeAlias = dict[str, list[Message]]
"""What each connection received, by its name; for the final tree, what was received for each path."""

_OWN_XIDS = {
    "auth": replies.AUTH_XID,
    "setWatches": replies.SET_WATCHES_XID,
    "setWatches2": replies.SET_WATCHES_XID,
}
_PING = struct.pack(">ii", replies.PING_XID, MESSAGES["ping"].opcode)
_FIRED = {1: ("exist", "data"), 2: ("data", "exist", "child"), 3: ("data", "exist"), 4: ("child",)}
"""The one-shot watches that each type of event uses up."""
_NO_NODE = -101


class Observation(NamedTuple):
    """The result of a step."""

    step: Step | str
    seen: Seen


class _Session:
    """What a client knows of its session, across its connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.incarnation = 0
        self.alive = False
        self.id, self.password = 0, NO_PASSWORD
        self.forget()

    def forget(self) -> None:
        """The session is over; the next one with this number is another."""
        self.incarnation += 1
        self.over = (self.id, self.password) if self.alive else None
        self.alive = False
        self.id, self.password = 0, NO_PASSWORD
        self.connection: Connection | None = None
        self.asked: dict[int, Request] = {}
        self.watched: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def __str__(self) -> str:
        return self.name if self.incarnation == 1 else f"{self.name}.{self.incarnation}"


def run(program: Program, side: Side, root: str) -> list[Observation]:
    """Everything that the server sends for the program, for a look at what it leaves, and for the end of its
    sessions.

    `root` is a path that the server does not have yet. The program's own root is below it, so that its
    siblings also belong to the program.
    """
    runner = _Runner(side, f"{root}/~")
    try:
        runner.prepare()
        for step in program:
            runner.do(step)
        runner.look_around()
    finally:
        runner.close_all()
    return runner.trace


class _Runner:
    def __init__(self, side: Side, root: str) -> None:
        self._side = side
        self._known = Known(root, side.clock, side.skew)
        self._lacks = {operation.opcode for operation in lacks(side.release)}
        self._admin = _Session("admin")
        self._sessions: dict[int, _Session] = {}
        self._xid = 0
        self.trace: list[Observation] = []

    # Around the program

    def prepare(self) -> None:
        """Create the root."""
        seen: list[Message] = []
        self._connect(self._admin, seen)
        for identity in IDENTITIES:
            self._ask(self._admin, [("auth", 0, "digest", identity)], seen)
        parent, _, _ = self._known.root.rpartition("/")
        for path in (parent, "~"):
            self._ask(self._admin, [("create", path, b"", OPEN, 0)], seen)
        made = [said for said in seen if isinstance(said, Reply) and said.to == "create" and not said.error]
        if len(made) != 2:
            raise AssertionError(f"the server makes no root for the program: {seen}")
        self._known.base = self._known.newest
        self._known.step_over()

    def look_around(self) -> None:
        """Read the whole tree, and each session's part of it."""
        seen: Seen = {}
        paths = ["~"]
        for path in paths:
            said = seen.setdefault(path, [])
            requests = [("exists", path, False), ("getData", path, False), ("getACL", path)]
            self._ask(self._admin, [*requests, ("getChildren2", path, False)], said)
            for answer in said:
                if isinstance(answer, Reply) and answer.to == "getChildren2" and not answer.error:
                    paths += [f"{path}/{child}" for child in answer.body[0]]
        self.trace.append(Observation("the tree at the end", seen))
        last = [request for request in (("getEphemerals", ""), ("whoAmI",)) if self._is_known(request)]
        for number, session in sorted(self._sessions.items()):
            if session.connection is not None:
                self.do(Step(number, "pipeline", *last))

    def close_all(self) -> None:
        """End every session, so that none ends during another program."""
        for number, session in sorted(self._sessions.items()):
            if session.alive:
                self.do(Step(number, "close"))
        if self._admin.connection is not None:
            seen: list[Message] = []
            self._ask(self._admin, [("closeSession",)], seen)
            self.trace.append(Observation("the end", {self._admin.name: seen}))

    # Steps

    def do(self, step: Step) -> None:
        """Carry out one step, up to the barrier on every connection."""
        session = self._sessions.setdefault(step.session, _Session(f"S{step.session}"))
        seen: Seen = {}
        mine = seen.setdefault(session.name, [])
        if step.name in SESSION_STEPS:
            if not session.alive and step.name not in ("open", "drop", "haunt"):
                self._connect(session, mine)
            before = session.connection
            getattr(self, f"_{step.name}")(session, mine, *step.fields)
            if before is not None and before is not session.connection and step.name in ("resume", "expire"):
                before.send(_PING)
                self._read(before, session, seen.setdefault(f"{session.name} before", []), Barrier)
        else:
            if session.connection is None:
                self._resume(session, mine)
            if session.connection is not None:
                requests = requests_of(step)
                if len(requests) > 1:  # the answer to an unknown one overtakes the others, now and then
                    requests = [request for request in requests if self._is_known(request)]
                self._ask(session, requests, mine, events=step[2] if step.name == "await" else 0)
        for other in (*self._sessions.values(), self._admin):
            if other.connection is not None and (other is not session or step.name in SESSION_STEPS):
                self._ask(other, (), seen.setdefault(other.name, []))
        self._known.step_over()
        self.trace.append(Observation(step, seen))

    def _open(self, session: _Session, seen: list[Message], timeout: int = TIMEOUT, cut: int = 0) -> None:
        if not session.alive:
            self._connect(session, seen, timeout=timeout, cut=cut)

    def _close(self, session: _Session, seen: list[Message]) -> None:
        if session.connection is None:
            self._resume(session, seen)
        if session.connection is not None:
            self._ask(session, [("closeSession",)], seen)

    def _drop(self, session: _Session, seen: list[Message]) -> None:
        if session.connection is not None:
            session.connection.drop()
            session.connection = None

    def _resume(self, session: _Session, seen: list[Message], back: int = 0, rewatch: bool = False) -> None:
        watched = session.watched
        zxid = self._counted_back(back)
        if self._connect(session, seen, zxid=zxid) and rewatch and any(watched.values()):
            lists = [tuple(watched[kind]) for kind in KINDS]
            self._ask(session, [("setWatches2", self._known.newest - zxid, *lists)], seen)

    def _wrong_password(self, session: _Session, seen: list[Message]) -> None:
        self._connect(session, seen, password=bytes(byte ^ 0xFF for byte in session.password))

    def _expire(self, session: _Session, seen: list[Message]) -> None:
        if self._connect(session, seen, timeout=SHORTEST) and session.connection is not None:
            self._read(session.connection, session, seen, Ended, wait=True)
            session.forget()

    def _haunt(self, session: _Session, seen: list[Message]) -> None:
        if session.alive or session.over is None:
            return
        session.id, session.password = session.over
        if not self._connect(session, seen):
            session.id, session.password = 0, NO_PASSWORD

    # Requests and answers

    def _connect(
        self,
        session: _Session,
        seen: list[Message],
        *,
        zxid: int = 0,
        timeout: int = TIMEOUT,
        password: bytes | None = None,
        cut: int = 0,
    ) -> bool:
        """Open a session, or resume it; returns whether the server agrees."""
        connection = self._side.connect()
        secret = session.password if password is None else password
        request = write(CONNECT, (0, zxid, timeout, session.id, secret, False))
        connection.send(request[: len(request) - cut])
        try:
            frame = connection.receive()
        except Silent:
            seen.append(Silence("the answer to a connect request"))
            return False
        if frame is None:
            seen.append(Ended())
            return False
        said = replies.connected(frame, self._known, str(session), session.id)
        seen.append(said)
        if isinstance(said, Garbled) or said.session == "0":
            self._read(connection, session, seen, Ended)
            return False
        session.id, session.password = struct.unpack_from(">8xq4x16s", frame)
        session.alive = True
        session.connection = connection
        session.watched = {kind: [] for kind in KINDS}
        return True

    def _ask(
        self, session: _Session, requests: Sequence[Request], seen: list[Message], *, events: int = 0
    ) -> None:
        """Send the requests in one write, and read everything up to the barrier after them, or to the end.

        With `events`, the barrier is sent only after so many events.
        """
        connection = session.connection
        assert connection is not None
        frames = [self._frame(session, request) for request in requests]
        names = [request[0] for request in requests]
        if "closeSession" in names or any(self._ends_connection(request) for request in requests):
            connection.send(*frames)
            self._read(connection, session, seen, Ended)
            if "closeSession" in names:
                session.forget()
            return
        if "auth" in names:
            connection.send(*frames)
            self._read(connection, session, seen, Reply)
            if seen and isinstance(seen[-1], Reply) and seen[-1].error:
                self._read(connection, session, seen, Ended)
            connection.send(_PING)
        elif events:
            connection.send(*frames)
            while events > sum(isinstance(said, Event) for said in seen):
                if not self._read(connection, session, seen, Event, wait=True):
                    break
            connection.send(_PING)
        else:
            connection.send(*frames, _PING)
        if session.connection is not None:
            self._read(connection, session, seen, Barrier)

    def _is_known(self, request: Request) -> bool:
        """Whether the release knows a request."""
        match request:
            case "raw", opcode, _:
                return opcode not in self._lacks
            case "cut", _, name, *_:
                return OPCODES.get(name) not in self._lacks
        return OPCODES.get(request[0]) not in self._lacks

    def _ends_connection(self, request: Request) -> bool:
        return request[0] in FATAL_STEPS or not self._is_known(request)

    def _read(
        self,
        connection: Connection,
        session: _Session,
        seen: list[Message],
        last: type[Message],
        *,
        wait: bool = False,
    ) -> bool:
        """Read up to the first message of a kind; returns whether it came before the connection ended.

        With `wait` the server may take its time.
        """
        while True:
            if wait:
                self._side.wait(connection)
            try:
                frame = connection.receive()
            except Silent:
                seen.append(Silence(last.__name__))
                return False
            if frame is None:
                seen.append(Ended())
                if session.connection is connection:
                    session.connection = None
                return last is Ended
            said = replies.message(frame, self._known, session.asked)
            seen.append(said)
            self._note(session, frame, said)
            if isinstance(said, last):
                return True

    def _frame(self, session: _Session, request: Request) -> bytes:
        name, *fields = request
        if name == "junk":
            (body,) = fields
            return bytes(body)
        cut = 0
        if name == "cut":
            cut, name, *fields = fields
        self._xid += 1
        xid = _OWN_XIDS.get(name, self._xid)
        session.asked[xid] = (name, *fields)
        if name in ("raw", "unknown"):
            opcode, body = fields
            session.asked[xid] = (NAMES.get(opcode, name),)
        else:
            opcode, body = OPCODES[name], self._body(name, fields)
        return struct.pack(">ii", xid, opcode) + bytes(body[: len(body) - cut])

    def _body(self, name: str, fields: Sequence[Any]) -> bytes:
        if name in ("multi", "multiRead"):
            return write_multi([(OPCODES[op], -1, self._body(op, values)) for op, *values in fields])
        values = [self._full(value) for value in fields]
        if name in ("setWatches", "setWatches2"):
            values[0] = self._counted_back(values[0])
        return bytes(write(MESSAGES[name].request, values))

    def _full(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._known.full(value)
        return tuple(map(self._full, value)) if isinstance(value, tuple) else value

    def _counted_back(self, back: int) -> int:
        return max(self._known.newest - back, 0)

    def _note(self, session: _Session, frame: bytes, said: Message) -> None:
        """Record what is watched, as a client does."""
        watched = session.watched
        if isinstance(said, Event):
            for kind in _FIRED.get(said.type, ()):
                if said.path in watched[kind]:
                    watched[kind].remove(said.path)
        if not isinstance(said, Reply):
            return
        name, *fields = session.asked[struct.unpack_from(">i", frame)[0]]
        found = None
        match name, *fields:
            case "exists", path, True:
                found = {0: "data", _NO_NODE: "exist"}.get(said.error)
            case "getData", path, True if not said.error:
                found = "data"
            case "getChildren" | "getChildren2", path, True if not said.error:
                found = "child"
            case "addWatch", path, mode if not said.error and mode in (0, 1):
                found = ("persistent", "recursive")[mode]
            case (("setWatches" | "setWatches2"), _, *lists) if not said.error:
                for kind, paths in zip(KINDS, lists, strict=False):
                    watched[kind] += [path for path in paths or () if path not in watched[kind]]
        if found is not None and path is not None and path not in watched[found]:
            watched[found].append(path)
