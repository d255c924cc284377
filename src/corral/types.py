"""The records that users hold: frozen, typed, with ZooKeeper's names.

Times are seconds (float) since the epoch, by the leader's clock. Sizes are in bytes. A zxid is the number of
a transaction of the ensemble; they only grow.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from typing import NamedTuple

from .errors import UsageTypeError, UsageValueError

__all__ = [
    "OPEN_ACL",
    "READ_ACL",
    "Acl",
    "ChildrenEvent",
    "Event",
    "EventKind",
    "Identity",
    "Perm",
    "RawEvent",
    "RawKind",
    "Stat",
    "State",
    "Znode",
]


class Stat(NamedTuple):
    """The server's record of a znode, apart from its data."""

    czxid: int
    """zxid of the transaction that created this znode."""
    mzxid: int
    """zxid of the transaction that last set its data (its creation counts)."""
    ctime: float
    """When it was created: seconds since the epoch, by the leader's clock."""
    mtime: float
    """When its data was last set: seconds since the epoch, by the leader's clock."""
    version: int
    """How often its data was set; 0 again when the znode is deleted and created again."""
    cversion: int
    """How often its set of children changed."""
    aversion: int
    """How often its ACL was set."""
    ephemeral_owner: int
    """Id of the session that owns it if it is ephemeral, else 0."""
    data_length: int
    """Length of its data in bytes."""
    num_children: int
    """How many children it has."""
    pzxid: int
    """zxid of the transaction that last created or deleted a child (its own creation counts)."""


class Znode(NamedTuple):
    """A znode's data and its `Stat`."""

    data: bytes
    stat: Stat


HIDDEN_STAT = Stat(*[-1] * len(Stat._fields))
"""In place of the `Stat` of a znode that exists, where a server hides it since we may not read the znode."""


class Perm(enum.IntFlag):
    """The permissions of an ACL entry."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    ADMIN = 16
    ALL = 31


class Acl(NamedTuple):
    """One entry of a znode's access control list. `corral.acl` makes the usual lists of them.

    `perms` are granted to the identity `id` of the `scheme`, such as ``"world"`` and ``"anyone"``.
    """

    perms: Perm
    scheme: str
    id: str

    @classmethod
    def world(cls, perms: Perm = Perm.ALL) -> Acl:
        """An entry for everyone."""
        return cls(perms, "world", "anyone")

    @classmethod
    def creator(cls, perms: Perm = Perm.ALL) -> Acl:
        """An entry for each identity that the session is authenticated as when the znode is created."""
        return cls(perms, "auth", "")

    @classmethod
    def digest(cls, user: str, password: str, perms: Perm = Perm.ALL) -> Acl:
        """An entry for a user with a password. Only a hash of the two is sent and stored.

        Raises `UsageValueError` or `UsageTypeError`; the message shows neither of them.
        """
        if not isinstance(user, str) or not isinstance(password, str):
            raise UsageTypeError(
                "Acl.digest takes user and password, each a str, "
                f"not {type(user).__name__} and {type(password).__name__}"
            )
        if ":" in user:
            raise UsageValueError(
                "the user of Acl.digest contains a ':', the separator of user and password; pass them apart; "
                "the value is not shown, as it may be secret"
            )
        try:
            hashed = base64.b64encode(hashlib.sha1(f"{user}:{password}".encode()).digest()).decode()
        except UnicodeEncodeError:
            hashed = ""  # raised below, since this error contains the password
        if not hashed:
            raise UsageValueError(
                "user and password of Acl.digest must be valid Unicode, without lone surrogates; "
                "the values are not shown, as they may be secret"
            )
        return cls(perms, "digest", f"{user}:{hashed}")


OPEN_ACL: tuple[Acl, ...] = (Acl.world(Perm.ALL),)
"""Everyone may do everything: `corral.acl.OPEN` by another name."""

READ_ACL: tuple[Acl, ...] = (Acl.world(Perm.READ),)
"""Everyone may read, no one may change: `corral.acl.WORLD_READ` by another name."""


class Identity(NamedTuple):
    """Who a session is to a server; see `Client.who_am_i`."""

    scheme: str
    """Such as ``"ip"``, ``"digest"``, ``"sasl"`` or ``"x509"``."""
    id: str
    """The name in that scheme: the address, the user (without the hash of its password), or the subject."""


class State(enum.Enum):
    """The state of the session. docs/architecture.md shows which state can follow which."""

    CONNECTED = "connected"
    """Connected to a server that accepts requests."""
    READ_ONLY = "read_only"
    """No server accepts the session, and a read-only server answers reads meanwhile (`read_only` of
    `corral.connect`). Locks are held until their lease ends, as in SUSPENDED; if the session ends, LAPSED or
    EXPIRED comes in between."""
    SUSPENDED = "suspended"
    """Not connected. Requests wait; locks are still held until their lease ends."""
    LAPSED = "lapsed"
    """The lease ended without proof that the session is alive, so all locks are lost. The session may go
    on."""
    EXPIRED = "expired"
    """The session is over and its ephemerals are deleted. The client is opening a new session."""
    AUTH_FAILED = "auth_failed"
    """A server refused the client's credentials; final."""
    CLOSED = "closed"
    """The client was closed; final."""


class EventKind(enum.Enum):
    """How a state came about. For a `ChildrenEvent`, CHANGED is a change of the set of children."""

    PRESENT = "present"
    """First event: the znode exists."""
    ABSENT = "absent"
    """First event: the znode does not exist."""
    CREATED = "created"
    """The znode was created, or deleted and created again, since the last event."""
    CHANGED = "changed"
    """Its data was set since the last event, perhaps more than once."""
    DELETED = "deleted"
    """The znode was deleted."""
    COMPLETE = "complete"
    """Not a state: the initial states are complete, and changes follow (`watch_tree` alone)."""


class Event(NamedTuple):
    """A state of a watched znode. `data` and `stat` are None if it does not exist."""

    kind: EventKind
    path: str
    data: bytes | None
    stat: Stat | None

    @property
    def exists(self) -> bool:
        """Whether the znode exists in this state."""
        return self.stat is not None


class ChildrenEvent(NamedTuple):
    """The children of a watched znode. `stat` is the znode's own, None if it does not exist."""

    kind: EventKind
    path: str
    children: frozenset[str]
    """Their names now."""
    added: frozenset[str]
    """The names that are new since the last event."""
    removed: frozenset[str]
    """The names that are gone since the last event."""
    stat: Stat | None

    @property
    def exists(self) -> bool:
        """Whether the znode exists in this state."""
        return self.stat is not None


class RawKind(enum.Enum):
    """What a `RawEvent` reports."""

    CREATED = "created"
    DELETED = "deleted"
    DATA_CHANGED = "data_changed"
    CHILDREN_CHANGED = "children_changed"
    MISSED = "missed"
    """The watch was just set, also after a reconnect: earlier events may be missing."""


class RawEvent(NamedTuple):
    """An event as the server sent it."""

    kind: RawKind
    path: str
    zxid: int | None
    """The transaction that caused it; None if the server does not send it (before 3.9), and for MISSED."""
