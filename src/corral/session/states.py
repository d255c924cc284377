"""What may follow what: the states of a session as a literal table. `Machine._change` alone goes by it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from corral.types import State


class Change(enum.Enum):
    """What can happen to a session, as far as its state is concerned."""

    ESTABLISHED = "a server takes our requests"
    DISCONNECTED = "the connection is gone"
    LEASE_ENDED = "holding can no longer be proven"
    SESSION_ENDED = "the session is over"
    CREDENTIALS_REFUSED = "a server refused our credentials"
    CLOSED = "the client is closed"


TRANSITIONS: Mapping[State, Mapping[Change, State]] = MappingProxyType(
    {
        State.SUSPENDED: {
            Change.ESTABLISHED: State.CONNECTED,
            Change.DISCONNECTED: State.SUSPENDED,
            Change.LEASE_ENDED: State.LAPSED,
            Change.SESSION_ENDED: State.EXPIRED,
            Change.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Change.CLOSED: State.CLOSED,
        },
        State.CONNECTED: {
            Change.DISCONNECTED: State.SUSPENDED,
            Change.LEASE_ENDED: State.LAPSED,
            Change.SESSION_ENDED: State.EXPIRED,
            Change.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Change.CLOSED: State.CLOSED,
        },
        State.LAPSED: {
            Change.ESTABLISHED: State.CONNECTED,
            Change.DISCONNECTED: State.LAPSED,
            Change.SESSION_ENDED: State.EXPIRED,
            Change.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Change.CLOSED: State.CLOSED,
        },
        State.EXPIRED: {
            Change.ESTABLISHED: State.CONNECTED,
            Change.DISCONNECTED: State.EXPIRED,
            Change.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Change.CLOSED: State.CLOSED,
        },
        State.AUTH_FAILED: {
            Change.DISCONNECTED: State.AUTH_FAILED,
            Change.CLOSED: State.CLOSED,
        },
        State.CLOSED: {},
    }
)
