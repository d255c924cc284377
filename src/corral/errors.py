"""Every error that corral raises, by whose fault it is and how certain the outcome.

    CorralError
    ├── ServerError           the server refused; nothing was applied
    │   ├── NoNode  NodeExists  BadVersion  NotEmpty  NoAuth  InvalidAcl
    │   ├── NoChildrenForEphemerals  BadArguments  Unimplemented  NoWatcher
    │   ├── SessionMoved      another connection has the session; certainly not applied
    │   ├── TransactionFailed one operation of several was refused, so none was applied
    │   └── OtherServerError  a code that has no class of its own
    ├── ConnectionLoss        the connection broke while the answer was due: the outcome is unknown
    ├── ReplyError            the server answered, but the answer cannot be used: the outcome is unknown
    ├── SessionError          the session that this depended on is over
    │   ├── SessionExpired    the server, or our own clock, ended it
    │   ├── LockLost          what was held is held no longer
    │   ├── AuthFailed        a server refused our credentials; final
    │   ├── ClientClosed      the client was closed under the operation
    │   └── EnsembleBehind    every server has seen less than we have: restored or wiped
    ├── ConnectTimeout        no session within `connect_timeout`
    ├── LimitMismatch         others use the semaphore with another limit
    ├── InternalError         a defect of corral; please report it
    └── UsageError            the call itself is wrong; nothing was sent
        ├── UsageValueError   (also ValueError)  a bad path, host string, timeout, size...
        │   └── FrameTooLarge the request is over the frame limit
        ├── UsageTypeError    (also TypeError)   data that is not bytes...
        └── UsageStateError   (also RuntimeError) a client not open, another loop or thread...
            └── AlreadyHeld   this task holds that lock already

`corral.testing` adds `ServerUnavailable`, for a server that cannot be had, and `Deadlock`, for a test in
virtual time that waits for nothing.

Catch `ServerError` for "it was refused", `ConnectionLoss` for "find out whether it happened",
`SessionError` for "start over". Whoever reads a message finds the operation and the path in it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, TypeVar

__all__ = [
    "AlreadyHeld",
    "AuthFailed",
    "BadArguments",
    "BadVersion",
    "ClientClosed",
    "ConnectTimeout",
    "ConnectionLoss",
    "CorralError",
    "EnsembleBehind",
    "FrameTooLarge",
    "InternalError",
    "InvalidAcl",
    "LimitMismatch",
    "LockLost",
    "NoAuth",
    "NoChildrenForEphemerals",
    "NoNode",
    "NoWatcher",
    "NodeExists",
    "NotEmpty",
    "OtherServerError",
    "ReplyError",
    "ServerError",
    "SessionError",
    "SessionExpired",
    "SessionMoved",
    "TransactionFailed",
    "Unimplemented",
    "UsageError",
    "UsageStateError",
    "UsageTypeError",
    "UsageValueError",
]


class CorralError(Exception):
    """The base of every error that corral raises; never raised itself."""


def describe(operation: str, path: str | None) -> str:
    """Name an operation on a path as error messages do: ``get '/a'``, or ``transaction``."""
    return operation if path is None else f"{operation} {path!r}"


class OperationError(CorralError):
    """An error of one operation: `operation` is the verb, `path` the znode as the caller named it."""

    def __init__(self, operation: str, path: str | None, problem: str) -> None:
        super().__init__(f"{describe(operation, path)}: {problem}")
        self.operation = operation
        self.path = path


class ServerError(OperationError):
    """The server refused the operation: nothing was applied. `code` is ZooKeeper's error code."""

    code: ClassVar[int] = 0
    problem: ClassVar[str] = "refused by the server"

    def __init__(self, operation: str, path: str | None, problem: str | None = None) -> None:
        super().__init__(operation, path, problem or self.problem)


class NoNode(ServerError):
    """The znode, or on create its parent, does not exist."""

    code = -101
    problem = "no such znode"


class NoAuth(ServerError):
    """The znode's ACL does not allow this to us."""

    code = -102
    problem = "the ACL does not allow it"


class BadVersion(ServerError):
    """The znode's version is not the one that was asked for: somebody else changed it."""

    code = -103
    problem = "the version is another one"


class NoChildrenForEphemerals(ServerError):
    """An ephemeral znode cannot have children."""

    code = -108
    problem = "the parent is ephemeral and cannot have children"


class NodeExists(ServerError):
    """There is a znode of that name already."""

    code = -110
    problem = "the znode exists already"


class NotEmpty(ServerError):
    """The znode has children, so it cannot be deleted. `delete(..., recursive=True)` deletes them too."""

    code = -111
    problem = "the znode has children"


class InvalidAcl(ServerError):
    """The server does not accept the ACL: an unknown scheme, a malformed id, or "auth" unauthenticated."""

    code = -114
    problem = "the server does not accept this ACL"


class BadArguments(ServerError):
    """The server does not accept the arguments, most often a path."""

    code = -8
    problem = "the server does not accept these arguments"


class Unimplemented(ServerError):
    """The server does not know the operation: it is too old, or the feature is switched off there."""

    code = -6
    problem = "the server does not offer this operation"


class NoWatcher(ServerError):
    """There is no watch of ours to remove."""

    code = -121
    problem = "no such watch"


class SessionMoved(ServerError):
    """Another connection has taken over the session: certainly not applied, so it may be sent again."""

    code = -118
    problem = "the session has moved to another server"


class OtherServerError(ServerError):
    """The server refused with a code that has no class of its own; `code` has it."""

    def __init__(self, operation: str, path: str | None, code: int) -> None:
        super().__init__(operation, path, f"the server answered with error code {code}")
        self.code = code  # type: ignore[misc]  # the one class whose code is its instance's


class TransactionFailed(ServerError):
    """One operation of a transaction was refused, so none was applied.

    `index` tells which (from 0, in the order they were added) and `cause` why.
    """

    def __init__(self, index: int, cause: ServerError) -> None:
        super().__init__("transaction", None, f"nothing was applied; operation {index} was refused: {cause}")
        self.index = index
        self.cause = cause


class ConnectionLoss(OperationError):
    """The connection broke after the request was sent and before its answer came: the outcome is unknown.

    A write may or may not have been applied: read, and decide. A read raises this only when the
    connection broke on it twice. Unlike `ServerError`, this says nothing about the znode.

    `losses` is the number of connections in a row that broke while this same request was unanswered. What
    repeats a request by itself (a watch, a cache, a lock, ``make_parents``) gives up when it reaches
    `MOST_LOSSES`: then the request is taken to be what breaks the connections.
    """

    MOST_LOSSES: ClassVar[int] = 5

    losses = 1

    @property
    def is_hopeless(self) -> bool:
        """Whether to send the same request again would most likely break the next connection, too."""
        return self.losses >= self.MOST_LOSSES


class ReplyError(OperationError):
    """The server answered, but the answer is over the limit or does not decode. It was not sent again.

    Unlike `ConnectionLoss` the request was carried out or refused by the server; only its answer is lost.
    """


class SessionError(CorralError):
    """The session that this depended on is over, or cannot be relied on any more."""


class SessionExpired(SessionError):
    """The session is over and its ephemerals are gone or going. The client opens a new one by itself."""


class LockLost(SessionError):
    """What was held is held no longer: the lease lapsed, the session expired, or the node was deleted.

    Raised out of ``async with``; work done after the loss may have met another holder's.
    """


class AuthFailed(SessionError):
    """A server refused our credentials. The client stays unusable: open another with the right ones."""


class ClientClosed(SessionError):
    """The client was closed while, or before, this was asked of it. A write that was in flight may have
    been applied."""


class EnsembleBehind(SessionError):
    """The servers refuse us, having seen fewer transactions than this client has; others they serve.

    The ensemble was restored from a backup or wiped. Only a new client can start over; what this one
    remembers is from a future that is gone. (While there is no leader nobody is served, and requests wait.)
    """


class ConnectTimeout(CorralError):
    """No server gave us a session within `connect_timeout`. The message has what each server said."""


class LimitMismatch(CorralError):
    """Others hold leases of this semaphore with another limit, and none was taken.

    `ours` and `theirs` are the limits; `theirs` is None where what is kept is no number.
    """

    def __init__(self, path: str, ours: int, theirs: int | None, data: bytes) -> None:
        said = f"what is no number, {data[:50]!r}," if theirs is None else theirs
        super().__init__(
            f"semaphore {path!r} is used with a limit of {said} by those who hold leases, not {ours}; use "
            "one limit everywhere: a new one counts when nobody holds a lease"
        )
        self.ours = ours
        self.theirs = theirs


class InternalError(CorralError):
    """A defect of corral itself, which `__cause__` has: please report it. The client may be unusable."""


class UsageError(CorralError):
    """The call itself is wrong; nothing was sent. The message names the value, the rule and the remedy."""


class UsageValueError(UsageError, ValueError):
    """A value that cannot be: a malformed path, host string, timeout or version."""


class FrameTooLarge(UsageValueError):
    """The request is larger than the server takes (its `jute.maxbuffer`); it was not sent."""

    def __init__(self, operation: str, path: str | None, size: int, limit: int) -> None:
        super().__init__(
            f"{describe(operation, path)}: the request is {size:,} bytes, over the limit of {limit:,}; "
            "send less, or raise jute.maxbuffer on every server and max_request here"
        )
        self.size = size
        self.limit = limit


class UsageTypeError(UsageError, TypeError):
    """A value of the wrong type: data that is not bytes, a path that is not a string."""


class UsageStateError(UsageError, RuntimeError):
    """The right call at the wrong time or place: a client not open, another event loop, another thread."""


class AlreadyHeld(UsageStateError):
    """This task holds that lock already through this client: waiting for it would never end."""


E = TypeVar("E", bound=BaseException)


def fresh(error: E) -> E:
    """A copy of an error that several callers get, or one caller several times.

    Each time that one exception object is raised its traceback grows, and a note that one task adds to it
    shows up in another. An error that cannot be copied (not one of corral's) is returned as it is.
    """
    cls = type(error)
    if isinstance(error, CorralError):
        twin = cls.__new__(cls, *error.args)  # past `__init__`, which takes what the message was made of
        twin.__dict__.update(error.__dict__)
    else:
        try:
            twin = copy.copy(error)
        except Exception:
            return error
        if type(twin) is not cls:
            return error
    if notes := getattr(error, "__notes__", None):
        twin.__notes__ = list(notes)
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)


_BY_CODE: dict[int, type[ServerError]] = {
    cls.code: cls
    for cls in (
        NoNode,
        NoAuth,
        BadVersion,
        NoChildrenForEphemerals,
        NodeExists,
        NotEmpty,
        InvalidAcl,
        BadArguments,
        Unimplemented,
        NoWatcher,
        SessionMoved,
    )
}


def server_error(code: int, operation: str, path: str | None) -> ServerError:
    """Make the error for a code that a server answered with."""
    cls = _BY_CODE.get(code)
    return OtherServerError(operation, path, code) if cls is None else cls(operation, path)


def transaction_error(codes: Sequence[int], operations: Sequence[tuple[str, str]]) -> TransactionFailed:
    """Make the error for a refused transaction from each operation's code, verb and path.

    The server marks the operations before the refused one with 0 and those after it with -2.
    """
    index = next(i for i, code in enumerate(codes) if code not in (0, -2))
    verb, path = operations[index]
    return TransactionFailed(index, server_error(codes[index], verb, path))
