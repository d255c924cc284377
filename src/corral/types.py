"""The records that users hold: frozen, typed, with the field's names.

Times are seconds (float) since the epoch as the server's clock saw them; sizes are bytes; zxids are the
ensemble's transaction numbers, which only grow.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from typing import NamedTuple

from .errors import UsageValueError

__all__ = ["OPEN_ACL", "READ_ACL", "Acl", "Event", "EventKind", "Perm", "Stat", "State"]


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
        """A user with a password; only a hash of the two is sent and stored."""
        if ":" in user:
            raise UsageValueError(f"digest user {user!r} holds a ':', which separates user from password")
        hashed = base64.b64encode(hashlib.sha1(f"{user}:{password}".encode()).digest()).decode()
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
    """How the state that an `Event` carries came about."""

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
