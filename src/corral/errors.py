"""Every error that corral raises. Each class tells you how to react.

    CorralError
    ├── OperationError            one operation failed; `operation` and `path` name it
    │   ├── ServerError           the server refused the operation; nothing was applied
    │   │   ├── NoNode  NodeExists  BadVersion  NotEmpty  NoAuth  InvalidAcl
    │   │   ├── NoChildrenForEphemerals  BadArguments  Unimplemented  NoWatcher
    │   │   ├── QuotaExceeded  Throttled  EphemeralOnLocalSession
    │   │   ├── ReconfigDisabled  NewConfigNoQuorum  ReconfigInProgress
    │   │   ├── NotReadOnly       only a read-only server answers; nothing was applied
    │   │   ├── SessionMoved      another connection has the session; nothing was applied
    │   │   ├── TransactionFailed one operation of a transaction was refused, so none was applied
    │   │   └── OtherServerError  a code that has no class of its own
    │   ├── ConnectionLoss        the connection broke before the answer came: the outcome is unknown
    │   └── ReplyError            the server answered, but the answer cannot be used: the outcome is unknown
    ├── SessionError              the session that the operation depended on is over
    │   ├── SessionExpired        the server, or our own clock, ended it
    │   ├── LockLost              the lock, lease or leadership was lost
    │   ├── AuthFailed            a server refused our credentials; final
    │   ├── ClientClosed          the client was closed before the operation ended
    │   └── EnsembleBehind        every server has seen fewer transactions than we have: restored or wiped
    ├── ConnectTimeout            no session within `connect_timeout`
    ├── LimitMismatch             the current holders use the semaphore with another limit
    ├── NoInstance                no instance of the service is registered, or none is enabled
    ├── InvalidValue              the data of a value, a counter or the configuration does not decode
    ├── InternalError             a defect of corral; please report it
    └── UsageError                the call itself is wrong; nothing was sent
        ├── UsageValueError       (also ValueError)  a bad path, host string, timeout, size...
        │   └── FrameTooLarge     the request is over the frame limit
        ├── UsageTypeError        (also TypeError)   data that is not bytes...
        └── UsageStateError       (also RuntimeError) a client not open, another loop or thread...
            └── AlreadyHeld       this task holds that lock already

`corral.testing` adds `ServerUnavailable`, for a server that cannot be started, and `Deadlock`, for a test in
virtual time that waits for something that cannot happen.

Catch `ServerError` for "it was refused", `ConnectionLoss` for "find out whether it happened", and
`SessionError` for "start over". Each message names the operation and the path, what was wrong and how to
proceed. No message shows credentials or the data of a znode. docs/errors.md lists who is at fault.
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
    "EphemeralOnLocalSession",
    "FrameTooLarge",
    "InternalError",
    "InvalidAcl",
    "InvalidValue",
    "LimitMismatch",
    "LockLost",
    "NewConfigNoQuorum",
    "NoAuth",
    "NoChildrenForEphemerals",
    "NoInstance",
    "NoNode",
    "NoWatcher",
    "NodeExists",
    "NotEmpty",
    "NotReadOnly",
    "OperationError",
    "OtherServerError",
    "QuotaExceeded",
    "ReconfigDisabled",
    "ReconfigInProgress",
    "ReplyError",
    "ServerError",
    "SessionError",
    "SessionExpired",
    "SessionMoved",
    "Throttled",
    "TransactionFailed",
    "Unimplemented",
    "UsageError",
    "UsageStateError",
    "UsageTypeError",
    "UsageValueError",
]


class CorralError(Exception):
    """Base class of every error that corral raises; never raised itself."""


class ChrootedPath(str):
    """A path as the caller of a client with a chroot wrote it. It carries that chroot, so that the error of a
    request can name both."""

    __slots__ = ("chroot",)
    chroot: str


def describe(operation: str, path: str | None) -> str:
    """Name an operation on a path as error messages do: ``get '/a'``, or ``transaction``."""
    return operation if path is None else f"{operation} {path!r}"


def shown(value: object) -> str:
    """Show an argument in a message: a number or a text, else only its type, since bytes and containers may
    hold a secret. Never fails, and never shows more than the start of something long."""
    if not isinstance(value, str | int | float | None):
        return f"a value of type {type(value).__name__}"
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write an int of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text):,} characters)"


_MOST_SHOWN = 200


class OperationError(CorralError):
    """An error of one operation. Raised as one of its subclasses.

    `operation` is the verb. `path` is the znode as the caller named it, below the client's chroot; None for a
    transaction.
    """

    def __init__(self, operation: str, path: str | None, problem: str) -> None:
        super().__init__(f"{describe(operation, path)}: {problem}")
        self.operation = operation
        self.path = None if path is None else str(path)


class ServerError(OperationError):
    """The server refused the operation: nothing was applied. `code` is ZooKeeper's error code."""

    code: ClassVar[int] = 0
    _problem: ClassVar[str] = "the server refused it"

    def __init__(self, operation: str, path: str | None, problem: str | None = None) -> None:
        super().__init__(operation, path, problem or self._problem)


class NoNode(ServerError):
    """The znode does not exist; for `create`, its parent does not. The message names what is missing, and the
    chroot of a client that has one."""

    code = -101
    _problem = "no such znode"

    def __init__(self, operation: str, path: str | None, problem: str | None = None) -> None:
        super().__init__(operation, path, problem or self._missing(operation, path))

    @classmethod
    def _missing(cls, operation: str, path: str | None) -> str:
        """What is missing, and how to create it."""
        chroot = path.chroot if isinstance(path, ChrootedPath) else ""
        missing = path
        if operation == "create" and path is not None and path != "/":
            missing = _parent(path)
        if missing == "/" and chroot:
            part = "the parent of the chroot" if operation == "create" and path == "/" else "the chroot"
            return f'{part} {chroot!r} does not exist; create it with ensure_path("/")'
        below = f" (below the chroot {chroot!r})" if chroot else ""
        if missing == path:
            return f"{cls._problem}{below}"
        return (
            f"its parent {missing!r} does not exist{below}; create it first, with ensure_path({missing!r}), "
            "or pass make_parents=True"
        )


class NoAuth(ServerError):
    """The ACL does not grant us the permission that the operation needs, which the message names. For
    `create` and `delete` it is the parent's ACL that must grant it."""

    code = -102
    _problem = "the ACL does not allow it"
    _NEEDS: ClassVar[dict[str, str]] = {
        "check": "READ",
        "children": "READ",
        "count_children": "READ",
        "create": "CREATE",
        "delete": "DELETE",
        "get": "READ",
        "get_acl": "READ or ADMIN",
        "set": "WRITE",
        "set_acl": "ADMIN",
        "ensemble.reconfigure": "WRITE on that znode, and nobody but the superuser has it by default",
    }

    def __init__(self, operation: str, path: str | None, problem: str | None = None) -> None:
        if problem is None and (needed := self._NEEDS.get(operation)):
            problem = f"the ACL does not grant {needed}; pass auth= to connect(), or change the ACL"
        super().__init__(operation, path, problem)


class BadVersion(ServerError):
    """The znode's version is not `expected`: another client changed it. Read it again, then decide.

    `expected` is the version that the operation asked for. `found` is the version that the znode had shortly
    after the refusal, or None where it is not known: in a transaction, and if it could not be read.
    """

    code = -103
    _problem = "the version does not match; read the znode again, then decide"

    def __init__(
        self,
        operation: str,
        path: str | None,
        problem: str | None = None,
        *,
        expected: int | None = None,
        found: int | None = None,
    ) -> None:
        if problem is None and expected is not None:
            version = "ACL version" if operation == "set_acl" else "version"
            problem = (
                f"{version} is not the expected {expected}; read the znode again, then decide"
                if found is None
                else f"{version} is {found}, expected {expected}"
            )
        super().__init__(operation, path, problem)
        self.expected = expected
        self.found = found


class NoChildrenForEphemerals(ServerError):
    """An ephemeral znode cannot have children."""

    code = -108
    _problem = "the parent is ephemeral and cannot have children"


class NodeExists(ServerError):
    """A znode of that name exists already."""

    code = -110
    _problem = "the znode exists already; set() changes its data"


class NotEmpty(ServerError):
    """The znode has children, so it cannot be deleted. `delete(..., recursive=True)` deletes them too."""

    code = -111
    _problem = "the znode has children; delete them first, or call delete(..., recursive=True)"


class InvalidAcl(ServerError):
    """The server does not accept the ACL: an unknown scheme, a malformed id, or `acl.CREATOR_ALL` in a
    session without credentials."""

    code = -114
    _problem = (
        "the server does not accept this ACL: its scheme is unknown, its id is malformed, or it is "
        "acl.CREATOR_ALL in a session without credentials"
    )


class BadArguments(ServerError):
    """The server does not accept the arguments, most often a path."""

    code = -8
    _problem = "the server does not accept these arguments; most often it is the path"


class Unimplemented(ServerError):
    """The server does not know the operation: it is too old, or the feature is switched off there."""

    code = -6
    _problem = (
        "the server does not offer this operation; it is too old, or the feature is switched off there, "
        "as ttl is without extendedTypesEnabled"
    )


class NoWatcher(ServerError):
    """There is no watch of ours to remove."""

    code = -121
    _problem = "the server has no such watch of this session"


class QuotaExceeded(ServerError):
    """The znode would exceed a hard quota for the number or the size of znodes, set on it or above it.
    Servers refuse this from ZooKeeper 3.7 on, with ``enforceQuota=true``."""

    code = -125
    _problem = (
        "a quota on the path or above it would be exceeded; delete something there, or have the quota raised"
    )


class Throttled(ServerError):
    """The server was too busy: the request had waited there for longer than
    ``zookeeper.throttled_op_wait_time``. Nothing was applied. Send it again later."""

    code = -127
    _problem = "the server is overloaded, and has dropped the request unapplied; try again later"


class EphemeralOnLocalSession(ServerError):
    """The servers have local sessions (``localSessionsEnabled=true``), which cannot have ephemerals, and do
    not upgrade them. corral's recipes need ephemerals."""

    code = -120
    _problem = (
        "the session is local to one server, and cannot have ephemerals; set "
        "localSessionsUpgradingEnabled=true on the servers, or localSessionsEnabled=false"
    )


class ReconfigDisabled(ServerError):
    """The servers do not allow their ensemble to be reconfigured: ``reconfigEnabled`` is not true there."""

    code = -123
    _problem = "the servers have reconfigEnabled=false; set it to true in each zoo.cfg, and restart them"


class NewConfigNoQuorum(ServerError):
    """Too few servers of the new configuration follow the leader. Start the new ones first, and wait until
    they serve."""

    code = -13
    _problem = (
        "no quorum of the new configuration follows the leader; start the new servers first, and wait until "
        "they serve"
    )


class ReconfigInProgress(ServerError):
    """Another reconfiguration of the ensemble is under way. Try again when it is done."""

    code = -14
    _problem = "another reconfiguration is under way; try again when it is done"


class NotReadOnly(ServerError):
    """Only a read-only server answers now, which takes no writes (``read_only=True`` of `corral.connect`).
    Nothing was applied: it may be sent again when `Client.state` is CONNECTED."""

    code = -119
    _problem = (
        "only a read-only server answers now, and it takes no writes; nothing was applied, so try again when "
        "the client's state is CONNECTED, or connect with read_only='wait', which makes writes wait"
    )


class SessionMoved(ServerError):
    """Another connection has taken over the session. Nothing was applied: the request may be sent again."""

    code = -118
    _problem = "another connection has taken over the session; nothing was applied, so send it again"


class OtherServerError(ServerError):
    """The server refused with a code that has no class of its own; `code` has it: -1 to -5 and -7 are faults
    of the server, and newer servers may have more."""

    def __init__(self, operation: str, path: str | None, code: int) -> None:
        super().__init__(operation, path, f"the server answered with error code {code}; nothing was applied")
        self.code = code  # type: ignore[misc]  # the one class whose code is its instance's


class TransactionFailed(ServerError):
    """One operation of a transaction was refused, so none was applied.

    `index` is that operation's position, from 0, in the order of the calls. `cause` is its own error.
    """

    def __init__(self, index: int, cause: ServerError) -> None:
        super().__init__("transaction", None, f"nothing was applied; operation {index} was refused: {cause}")
        self.index = index
        self.cause = cause


class ConnectionLoss(OperationError):
    """The connection broke after the request was sent and before its answer came: the outcome is unknown.

    A write may or may not have been applied: read the znode, then decide. A read raises this only when two
    connections broke on it. Unlike `ServerError`, this says nothing about the znode.

    `losses` is the number of connections in a row that broke while the same request was unanswered.
    Operations that repeat a request (watches, caches, locks, ``make_parents``) give up when it reaches
    `MOST_LOSSES`: by then the request itself probably breaks the connections.
    """

    MOST_LOSSES: ClassVar[int] = 5

    losses: int = 1

    @property
    def is_hopeless(self) -> bool:
        """Whether `losses` has reached `MOST_LOSSES`, so that repeating the request is no use."""
        return self.losses >= self.MOST_LOSSES


class ReplyError(OperationError):
    """The server answered, but the answer is over the limit, does not decode, or does not fit the request.

    The request is not sent again. The server has carried it out or refused it; which of the two is unknown.
    """


class SessionError(CorralError):
    """The session that the operation depended on is over, or cannot be relied on any more."""


class SessionExpired(SessionError):
    """The session is over and the servers delete its ephemerals. The client opens a new session by itself."""


class LockLost(SessionError):
    """The lock is lost: its lease lapsed, the session expired, or its node was deleted.

    Raised out of ``async with``. Work that the body did after the loss may conflict with the next holder's.
    """


class AuthFailed(SessionError):
    """A server refused our credentials, or requires some that the client has not, or there are none on our
    side. The client stays unusable: open another with the right ones."""


class ClientClosed(SessionError):
    """The client was closed before the operation ended, or before it was called. A write that was already
    sent may have been applied."""


class EnsembleBehind(SessionError):
    """The servers have seen fewer transactions than this client, so they refuse it. They serve other clients.

    The ensemble was restored from a backup, or wiped. Open a new client, and read again everything that this
    one has read. (An ensemble without a leader serves nobody; then requests wait instead.)
    """


class ConnectTimeout(CorralError):
    """No server granted a session within `connect_timeout`. The message names what each server answered."""


class LimitMismatch(CorralError):
    """The current holders of this semaphore use another limit, so no lease was acquired.

    `ours` and `theirs` are the limits; `theirs` is None if the stored limit is not a number.
    """

    def __init__(self, path: str, ours: int, theirs: int | None, data: bytes) -> None:
        stored = (
            f"a limit that is not a number ({len(data):,} bytes of data)"
            if theirs is None
            else f"limit {shown(theirs)}"
        )
        super().__init__(
            f"semaphore {path!r}: current holders use {stored}, not {ours}; all clients must agree. "
            "A new limit takes effect when nobody holds a lease"
        )
        self.ours = ours
        self.theirs = theirs


class NoInstance(CorralError):
    """A provider has no instance of the service to pick: none is registered, or none is enabled.

    `service` is the name of the service, `registered` how many instances there are. Try again later, or wait
    for one with ``services.watch(name)``.
    """

    def __init__(self, service: str, registered: int) -> None:
        found = f"none of its {registered:,} instances is enabled" if registered else "it has no instance"
        super().__init__(f"service {service!r}: {found}; try again later, or wait for one with watch()")
        self.service = service
        self.registered = registered


class InvalidValue(CorralError):
    """The data of a value, a counter or the ensemble's configuration does not decode: somebody wrote it in
    another format.

    `path` and `version` tell which data it is. `__cause__` is what the codec has raised.
    """

    def __init__(self, kind: str, path: str, version: int, problem: str) -> None:
        super().__init__(f"{kind} {str(path)!r} at version {version}: {problem}")
        self.path = str(path)
        self.version = version


class InternalError(CorralError):
    """A defect of corral itself; please report it, with its `__cause__`. The client may be unusable."""


class UsageError(CorralError):
    """The call itself is wrong; nothing was sent. The message names the value, the rule and the remedy."""


class UsageValueError(UsageError, ValueError):
    """A value out of its range or malformed: a path, a host string, a timeout, a version."""


class FrameTooLarge(UsageValueError):
    """The request is larger than the server accepts (its `jute.maxbuffer`); it was not sent. `size` and
    `limit` are in bytes."""

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
    """This task has entered that lock already through this client, so waiting for it would never end."""


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


E = TypeVar("E", bound=BaseException)


def fresh(error: E) -> E:
    """A copy of an error, for one of several callers, or for each time that it is raised again.

    The traceback of an exception object grows each time that it is raised, and a note that one task adds
    shows up in another. An error that cannot be copied (not one of corral's) is returned as it is.
    """
    cls = type(error)
    if isinstance(error, CorralError):
        twin = cls.__new__(cls, *error.args)  # without `__init__`, which takes other arguments
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
        QuotaExceeded,
        Throttled,
        EphemeralOnLocalSession,
        ReconfigDisabled,
        NewConfigNoQuorum,
        ReconfigInProgress,
        NotReadOnly,
        SessionMoved,
    )
}


def server_error(code: int, operation: str, path: str | None, *, expected: int | None = None) -> ServerError:
    """Make the error for a code that a server answered with. `expected` is the version that the operation
    asked for; a `path` that carries a chroot has the error name it."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return OtherServerError(operation, path, code)
    if cls is BadVersion:
        return BadVersion(operation, path, expected=expected)
    return cls(operation, path)


def refused_index(codes: Sequence[int]) -> int:
    """The index of the refused operation in a refused transaction, from the codes of all its operations.

    The server marks the operations before it with 0 and those after it with -2.
    """
    return next(index for index, code in enumerate(codes) if code not in (0, -2))
