"""Programs: the requests of several sessions to a server, as plain data that can be printed, shrunk and
stored.

A `Step` is one action of one session. Its name is one of ZooKeeper's operations, as in `wire.jute`, with the
fields of the request in order; or one of these:

    pipeline, *requests         several requests in one write; each is a tuple of name and fields
    multi / multiRead, *ops     a transaction; each operation is a tuple of name and fields
    cut, count, name, *fields   the request without its last `count` bytes
    raw, opcode, body           an operation, with any bytes as its body
    unknown, opcode, body       the same for an unknown operation: the server ends the connection
    junk, frame                 any bytes as a frame for which the server ends the connection
    await, count, *requests     requests after which the server does something on its own after a while: wait
                                until this session got so many events
    open, timeout, cut          a new session with a timeout in milliseconds, by a connect request without its
                                last `cut` bytes; does nothing if there is a session
    close                       end the session and its connection
    drop                        end the connection; the session stays
    resume, back, rewatch       connect with the session's id and password; if it has a connection, the session
                                moves; the client has seen all but the newest `back` transactions (more, if
                                negative); with `rewatch` it sets its watches again
    wrong_password              the same with a wrong password
    expire                      connect with the shortest timeout, and send nothing until the session is over
    haunt                       connect with the id and password of the previous session, which is over

Any step except `drop` and `haunt` first opens a session if there is none, and any request of a session
without a connection first resumes it. So whatever is left of a program after shrinking is still meaningful.

In paths ``~`` stands for the program's own root. In ``setWatches`` the zxid is counted back from the newest,
as with `resume`; `EVER` is before the first.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

Request: TypeAlias = tuple[Any, ...]
"""The name of an operation, and its fields."""

EVER = 1_000_000_000
"""A number of zxids to count back that is before every transaction."""

SESSION_STEPS = frozenset({"open", "close", "drop", "resume", "wrong_password", "expire", "haunt"})
FATAL_STEPS = frozenset({"unknown", "junk"})
"""Requests after which the server ends the connection."""

EPHEMERAL, SEQUENTIAL, CONTAINER, TTL, TTL_SEQUENTIAL = 1, 2, 4, 5, 6
"""Flags of a create. The third has no effect alone: the opcode makes a container."""

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
    """The program as source code that can be pasted."""
    return "\n".join(f"    {step!r},  # {number}" for number, step in enumerate(program))


def requests_of(step: Step) -> Sequence[Request]:
    """The single requests of a step; none if it is about the session."""
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
