"""The states of a session and what leads from one to the next, as a literal table, and the phases of a
connection.

`Machine._change` alone changes the state, as the table has it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from corral.types import State


class ConnectionPhase(enum.Enum):
    """How far the connection is. Not part of the state: a session outlives its connections."""

    DOWN = "down"
    HANDSHAKE = "handshake"
    SASL = "sasl"
    UP = "up"


class Transition(enum.Enum):
    """What changes the state of a session."""

    ESTABLISHED = "a server accepts our requests"
    READ_ONLY_FOUND = "a read-only server answers reads"
    DISCONNECTED = "the connection is lost"
    LEASE_ENDED = "holding can no longer be proven"
    SESSION_ENDED = "the session is over"
    CREDENTIALS_REFUSED = "a server refused our credentials"
    CLOSED = "the client is closed"


TRANSITIONS: Mapping[State, Mapping[Transition, State]] = MappingProxyType(
    {
        State.SUSPENDED: {
            Transition.ESTABLISHED: State.CONNECTED,
            Transition.READ_ONLY_FOUND: State.READ_ONLY,
            Transition.DISCONNECTED: State.SUSPENDED,
            Transition.LEASE_ENDED: State.LAPSED,
            Transition.SESSION_ENDED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.READ_ONLY: {
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
            Transition.READ_ONLY_FOUND: State.READ_ONLY,
            Transition.DISCONNECTED: State.LAPSED,
            Transition.LEASE_ENDED: State.LAPSED,
            Transition.SESSION_ENDED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.EXPIRED: {
            Transition.ESTABLISHED: State.CONNECTED,
            Transition.READ_ONLY_FOUND: State.READ_ONLY,
            Transition.DISCONNECTED: State.EXPIRED,
            Transition.LEASE_ENDED: State.EXPIRED,
            Transition.SESSION_ENDED: State.EXPIRED,
            Transition.CREDENTIALS_REFUSED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.AUTH_FAILED: {
            Transition.DISCONNECTED: State.AUTH_FAILED,
            Transition.SESSION_ENDED: State.AUTH_FAILED,
            Transition.CLOSED: State.CLOSED,
        },
        State.CLOSED: {
            Transition.CLOSED: State.CLOSED,
        },
    }
)

FINAL: tuple[State, ...] = tuple(
    state for state, following in TRANSITIONS.items() if set(following.values()) <= {state, State.CLOSED}
)
"""The states in which no request is accepted any more: the client can only be closed."""
