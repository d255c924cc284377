"""What a client knows of itself, for monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .types import State

__all__ = ["Statistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A client's session, load and memory at one moment; see `Client.statistics`.

    It covers the whole session, which clients made by `Client.chroot` share. Paths are full paths, with every
    chroot.
    """

    server: str | None
    """The ``host:port`` of the connected server, or None."""
    session_id: int
    """The session's id on the server; 0 while there is none."""
    session_timeout: float
    """The session timeout in seconds that the server has granted; the requested one until then."""
    state: State
    """The state of the session."""
    state_age: float
    """For how many seconds it has been in this state, or open, whichever is less; 0 before entering."""
    sessions_opened: int
    """The number of sessions so far: more than one means that sessions expired."""
    reconnects: int
    """How often a server accepted the session, or granted a new one, after the first time."""
    in_flight: int
    """The number of requests that were sent and are not answered yet."""
    waiting: int
    """The number of requests that wait to be sent."""
    held: tuple[str, ...]
    """The znodes of the locks, leases and leaderships that are held."""
    lease_left: float | None
    """In how many seconds these are lost if no server answers; None if nothing is held."""
    watches: Mapping[str, int]
    """The number of paths watched on the server for each kind of watch: "node" and "children" (one-shot),
    "persistent", "recursive". A held znode is watched, too."""
    caches: int
    """The number of local copies of subtrees, which caches and tree watches share."""
    cached_znodes: int
    """The number of znodes in them."""
    bytes_sent: int
    """The number of bytes sent on all connections so far."""
    bytes_received: int
    """The number of bytes received on all connections so far."""
