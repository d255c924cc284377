"""Programs: what several sessions ask of a server, as plain data that can be printed, shrunk and kept.

A `Step` is what one session does. Its name is one of ZooKeeper's operations, as `wire.jute` has them, with the
fields of the request in order; or one of these:

    pipeline, *requests         several requests in one write; each is a tuple of name and fields
    multi / multiRead, *ops     a transaction; each operation is a tuple of name and fields
    cut, count, name, *fields   the request without its last `count` bytes
    raw, opcode, body           an operation, with any bytes for its body
    unknown, opcode, body       the same where there is no such operation: the server ends the connection
    junk, frame                 any bytes for a frame that the server ends the connection for
    await, count, *requests     requests, after which the server does something of its own accord in time: wait
                                until this session was told of so many events
    open, timeout, cut          a new session, of so many milliseconds, with a connect request that lacks its
                                last `cut` bytes; does nothing if there is a session
    close                       end the session and its connection
    drop                        end the connection; the session lives
    resume, back, rewatch       connect with the session's id and password, taking the session over if it
                                has a connection; the client has seen all but the newest `back` transactions
                                (more, if negative); with `rewatch` it sets again what it had watched
    wrong_password              the same with a password that is wrong
    expire                      connect with the shortest timeout, and fall silent until the session is over
    haunt                       connect with the id and password of the session before this one, which is over

Any step but `drop` and `haunt` of a session that does not exist opens one first, and any request of one that has no
connection resumes it: so that whatever is left of a program after shrinking means something.

In paths ``~`` stands for a root of the program's own. In ``setWatches`` the zxid is counted back from the
newest, as with `resume`; `EVER` is before the first.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

Request: TypeAlias = tuple[Any, ...]
"""The name of an operation, and its fields."""

EVER = 1_000_000_000
"""How far back in zxids everything is new."""

SESSION_STEPS = frozenset({"open", "close", "drop", "resume", "wrong_password", "expire", "haunt"})
FATAL_STEPS = frozenset({"unknown", "junk"})
"""Requests after which the server ends the connection."""

EPHEMERAL, SEQUENTIAL, CONTAINER, TTL, TTL_SEQUENTIAL = 1, 2, 4, 5, 6
"""Flags of a create. The third alone has no effect: the opcode makes a container."""

PERSISTENT, RECURSIVE = 0, 1
"""Modes of `addWatch`."""

ANYBODY = (31, "world", "anyone")
OPEN = (ANYBODY,)
"""The access control list of most nodes."""


def digest_id(user: str, password: str) -> str:
    """The id of the scheme ``digest`` for a user."""
    hashed = hashlib.sha1(f"{user}:{password}".encode()).digest()
    return f"{user}:{base64.b64encode(hashed).decode()}"


class Step(tuple[Any, ...]):
    """One step: `Step(session, name, *fields)`."""

    __slots__ = ()

    def __new__(cls, session: int, name: str, *fields: Any) -> Step:
        return super().__new__(cls, (session, name, *fields))

    @property
    def session(self) -> int:
        return int(self[0])

    @property
    def name(self) -> str:
        return str(self[1])

    @property
    def fields(self) -> tuple[Any, ...]:
        return self[2:]

    def __repr__(self) -> str:
        return f"Step({', '.join(map(_spelled, self))})"


Program: TypeAlias = Sequence[Step]


def listing(program: Program) -> str:
    """A program as source that can be pasted."""
    return "\n".join(f"    {step!r},  # {number}" for number, step in enumerate(program))


def requests_of(step: Step) -> Sequence[Request]:
    """The single requests of a step; none, if it is about the session."""
    if step.name in SESSION_STEPS:
        return ()
    match step.name:
        case "pipeline":
            return step.fields
        case "await":
            return step.fields[1:]
    return (step[1:],)


def _spelled(value: Any) -> str:
    if value == OPEN:
        return "OPEN"
    if isinstance(value, tuple):
        return f"({', '.join(map(_spelled, value))}{',' if len(value) == 1 else ''})"
    return ascii(value) if isinstance(value, str) else repr(value)
