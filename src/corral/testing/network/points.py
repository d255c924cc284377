"""Points at which a fault begins: a moment of a message between a client and a server.

`before` a request reaches the server; when it is `committed`, but its reply has not passed; `after` its reply
has passed; `on_event` and `after_event` of a watch. The message is chosen by operation, by a predicate and by
count.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from corral.errors import UsageValueError
from corral.wire import messages

__all__ = [
    "CONNECT",
    "Match",
    "Message",
    "MessageKind",
    "Moment",
    "Point",
    "after",
    "after_event",
    "before",
    "committed",
    "on_event",
]

CONNECT = "connect"
"""The name of the operation that opens a session; the wire layer has no name for it."""

_OPERATIONS = frozenset({CONNECT} | {operation.name for operation in messages.OPERATIONS.values()})


class MessageKind(enum.Enum):
    """The kind of a message."""

    REQUEST = "request"
    REPLY = "reply"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Message:
    """One message between a client and a server."""

    kind: MessageKind
    operation: str
    """The operation: ``"create"`` for each kind of create, ``"children"`` with or without a stat,
    ``"connect"``, ``"transaction"``, ``"ping"``... A reply has that of its request; an event has
    ``"event"``."""
    opcode: int
    """ZooKeeper's number of the operation; 0 for connect, and for events."""
    path: str | None
    """The full path on the server that the request or the event is about; None where there is none. A reply
    has that of its request."""
    xid: int
    """The number that pairs a request with its reply; ZooKeeper reserves the negative ones."""
    error: int
    """ZooKeeper's error code of a reply; otherwise 0."""
    connection: int
    """The proxy's connection that the message came by, counted from 1."""
    body: bytes = field(repr=False)
    """The whole message, without the length in front."""

    def __str__(self) -> str:
        about = self.operation if self.path is None else f"{self.operation} {self.path!r}"
        return about if self.kind is not MessageKind.REPLY else f"reply to {about}"


Match: TypeAlias = Callable[[Message], bool]
"""Selects messages."""


class Moment(enum.Enum):
    """A moment in the exchange of a request and its reply, or of an event."""

    BEFORE = "before"
    """The request has not reached the server. With a cut, it never does."""
    COMMITTED = "committed"
    """The server has carried the request out, and its reply has not passed. With a cut, it never does."""
    AFTER = "after"
    """The reply has passed."""
    ON_EVENT = "on_event"
    """The server has sent an event, and it has not passed. With a cut, it never does."""
    AFTER_EVENT = "after_event"
    """The event has passed."""

    @property
    def of_event(self) -> bool:
        """Whether this is a moment of an event, not of a request."""
        return self in (Moment.ON_EVENT, Moment.AFTER_EVENT)


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of the `nth` message (from 1), since the fault began, that has the operation and matches.

    Pings count only if `operation` is ``"ping"``, since their number depends on time. Made by `before`,
    `committed`, `after`, `on_event` and `after_event`.
    """

    moment: Moment
    operation: str | None = None
    match: Match | None = None
    nth: int = 1

    def __post_init__(self) -> None:
        if self.nth < 1:
            raise UsageValueError(f"nth counts from 1, so it cannot be {self.nth}")
        if self.operation is not None and self.operation not in _OPERATIONS:
            raise UsageValueError(
                f"there is no operation {self.operation!r}; choose one of {', '.join(sorted(_OPERATIONS))}"
            )

    def __str__(self) -> str:
        of = "" if self.moment.of_event else f" {self.operation or 'request'}"
        return f"{self.moment.value}{of} #{self.nth}{' that matches' if self.match else ''}"

    def counts(self, message: Message) -> bool:
        """Whether this is one of the messages that `nth` counts."""
        if message.kind is not (MessageKind.EVENT if self.moment.of_event else MessageKind.REQUEST):
            return False
        if self.operation is None:
            return message.operation != "ping" and (self.match is None or self.match(message))
        return message.operation == self.operation and (self.match is None or self.match(message))


def before(operation: str | None = None, *, match: Match | None = None, nth: int = 1) -> Point:
    """Before a request reaches the server."""
    return Point(Moment.BEFORE, operation, match, nth)


def committed(operation: str | None = None, *, match: Match | None = None, nth: int = 1) -> Point:
    """After the server has carried a request out, and before its reply passes."""
    return Point(Moment.COMMITTED, operation, match, nth)


def after(operation: str | None = None, *, match: Match | None = None, nth: int = 1) -> Point:
    """After the reply to a request has passed."""
    return Point(Moment.AFTER, operation, match, nth)


def on_event(*, match: Match | None = None, nth: int = 1) -> Point:
    """When the server has sent a watch event, before it passes."""
    return Point(Moment.ON_EVENT, None, match, nth)


def after_event(*, match: Match | None = None, nth: int = 1) -> Point:
    """After a watch event has passed."""
    return Point(Moment.AFTER_EVENT, None, match, nth)
