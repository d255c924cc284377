"""The records that users hold: frozen, typed, with the field's names.

Times are seconds (float) since the epoch as the server's clock saw them; sizes are bytes; zxids are the
ensemble's transaction numbers, which only grow.
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
    "Perm",
    "RawEvent",
    "RawKind",
    "Stat",
    "State",
    "Znode",
]


class Stat(NamedTuple):
    """What the server keeps about a znode beside its data."""

    czxid: int
    """zxid of the transaction that created this znode."""
    mzxid: int
    """zxid of the transaction that last set its data (its creation counts)."""
    ctime: float
    """When it was created: seconds since the epoch, by the leader's clock."""
    mtime: float
    """When its data was last set: seconds since the epoch, by the leader's clock."""
    version: int
    """How often its data was set; starts at 0 again when the znode is re-created."""
    cversion: int
    """How often its set of children changed."""
    aversion: int
    """How often its ACL was set."""
    ephemeral_owner: int
    """Id of the session that owns it, if it is ephemeral; else 0."""
    data_length: int
    """Length of its data in bytes."""
    num_children: int
    """How many children it has."""
    pzxid: int
    """zxid of the transaction that last created or deleted a child (its own creation counts)."""


class Znode(NamedTuple):
    """A znode's data, and its `Stat`."""

    data: bytes
    stat: Stat


class Perm(enum.IntFlag):
    """What an ACL entry allows."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    ADMIN = 16
    ALL = 31


class Acl(NamedTuple):
    """One entry of a znode's access control list."""

    perms: Perm
    scheme: str
    id: str

    @classmethod
    def world(cls, perms: Perm = Perm.ALL) -> Acl:
        """Everybody."""
        return cls(perms, "world", "anyone")

    @classmethod
    def creator(cls, perms: Perm = Perm.ALL) -> Acl:
        """Whoever this session is authenticated as when the znode is created."""
        return cls(perms, "auth", "")

    @classmethod
    def digest(cls, user: str, password: str, perms: Perm = Perm.ALL) -> Acl:
        """A user with a password. Only a hash of the two is sent and stored.

        Raises `UsageValueError` or `UsageTypeError`; the message shows neither of the two.
        """
        if not isinstance(user, str) or not isinstance(password, str):
            raise UsageTypeError(
                "Acl.digest takes user and password, each a str, "
                f"not {type(user).__name__} and {type(password).__name__}"
            )
        if ":" in user:
            raise UsageValueError(
                "the user of Acl.digest holds a ':', which separates user from password; pass the two apart; "
                "what was given is not shown, as it may be secret"
            )
        try:
            hashed = base64.b64encode(hashlib.sha1(f"{user}:{password}".encode()).digest()).decode()
        except UnicodeEncodeError:
            hashed = ""  # the error itself has the password in it
        if not hashed:
            raise UsageValueError(
                "user and password of Acl.digest must be valid Unicode, without lone surrogates"
            )
        return cls(perms, "digest", f"{user}:{hashed}")


OPEN_ACL: tuple[Acl, ...] = (Acl.world(Perm.ALL),)
"""Everybody may do everything: ZooKeeper's own default."""

READ_ACL: tuple[Acl, ...] = (Acl.world(Perm.READ),)
"""Everybody may read, nobody may change."""


class State(enum.Enum):
    """Where the session stands; `corral.session.machine` has the table of what may follow what."""

    CONNECTED = "connected"
    """A server takes our requests."""
    SUSPENDED = "suspended"
    """No server at the moment: requests wait, and what is held is still ours until the lease ends."""
    LAPSED = "lapsed"
    """Holding could no longer be proven, so all that was held is lost; the session may well be alive."""
    EXPIRED = "expired"
    """The session is over and its ephemerals are gone; a new session is being opened."""
    AUTH_FAILED = "auth_failed"
    """A server refused our credentials; final."""
    CLOSED = "closed"
    """The client was closed; final."""


class EventKind(enum.Enum):
    """How the state that an event carries came about. Of children a change is one of the set."""

    PRESENT = "present"
    """First event: the znode exists."""
    ABSENT = "absent"
    """First event: there is no such znode."""
    CREATED = "created"
    """The znode was created, or deleted and created again, since the last event."""
    CHANGED = "changed"
    """Its data was set since the last event, perhaps more than once."""
    DELETED = "deleted"
    """The znode is gone."""
    COMPLETE = "complete"
    """No state: all that there was at first was told, what follows are changes (`watch_tree` alone)."""


class Event(NamedTuple):
    """A state of a watched znode. `data` and `stat` are None when it does not exist."""

    kind: EventKind
    path: str
    data: bytes | None
    stat: Stat | None

    @property
    def exists(self) -> bool:
        """Whether the znode exists in this state."""
        return self.stat is not None


class ChildrenEvent(NamedTuple):
    """Which children a watched znode has. `stat` is the znode's own, None when it does not exist."""

    kind: EventKind
    path: str
    children: frozenset[str]
    """Their names now."""
    added: frozenset[str]
    """Those that were not there at the last event."""
    removed: frozenset[str]
    """Those that were there at the last event and are not now."""
    stat: Stat | None

    @property
    def exists(self) -> bool:
        """Whether the znode exists in this state."""
        return self.stat is not None


class RawKind(enum.Enum):
    """What a `RawEvent` tells."""

    CREATED = "created"
    DELETED = "deleted"
    DATA_CHANGED = "data_changed"
    CHILDREN_CHANGED = "children_changed"
    MISSED = "missed"
    """The watch was set just now, so whatever happened before may not have been told."""


class RawEvent(NamedTuple):
    """An event as the server has sent it."""

    kind: RawKind
    path: str
    zxid: int | None
    """The transaction that made it; None where the server does not tell (before 3.9) and for MISSED."""
