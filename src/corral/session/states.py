"""What may follow what: the states of a session as a literal table. `Machine._change` alone goes by it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from corral.types import State


class Transition(enum.Enum):
    """What can happen to a session, as far as its state is concerned."""

    ESTABLISHED = "a server takes our requests"
    DISCONNECTED = "the connection is gone"
    LEASE_ENDED = "holding can no longer be proven"
    SESSION_ENDED = "the session is over"
    CREDENTIALS_REFUSED = "a server refused our credentials"
    CLOSED = "the client is closed"


TRANSITIONS: Mapping[State, Mapping[Transition, State]] = MappingProxyType(
    {
        State.SUSPENDED: {
            Transition.ESTABLISHED: State.CONNECTED,
            Transition.DISCONNECTED: State.SUSPENDED,
            Transition.LEASE_ENDED: State.LAPSED,
            Transition.SESSION_ENDED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.CONNECTED: {
            Transition.DISCONNECTED: State.SUSPENDED,
            Transition.LEASE_ENDED: State.LAPSED,
            Transition.SESSION_ENDED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.LAPSED: {
            Transition.ESTABLISHED: State.CONNECTED,
            Transition.DISCONNECTED: State.LAPSED,
            Transition.SESSION_ENDED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.EXPIRED: {
            Transition.ESTABLISHED: State.CONNECTED,
            Transition.DISCONNECTED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.AUTH_FAILED: {
            Transition.DISCONNECTED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.CLOSED: {},
    }
)
