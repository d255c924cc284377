"""What a SASL mechanism is to the session.

A *mechanism* is made once for each client, from the user's credentials. For each connection it begins an
*exchange*: the client sends a token, the server answers with a challenge, and so on, until the server accepts
the client and has proven itself. Beginning may take time, since Kerberos asks its server for a ticket. After
that, each step is local.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class NoCredentials(Exception):
    """There are no usable credentials on this side. The message says why, without a secret."""


class Refused(Exception):
    """The server does not accept us. The message says why."""


class Exchange(ABC):
    """The exchange of tokens on one connection."""

    mechanism: str
    """Its name in SASL."""
    first: bytes
    """The first token."""

    @abstractmethod
    def step(self, challenge: bytes | None) -> bytes | None:
        """The next token; None once the server has accepted us and has proven itself.

        Raises `Refused`, or `gate.Misfit` or `DecodeError` for a challenge that cannot be used.
        """


class Mechanism(ABC):
    """How one client proves who it is."""

    name: ClassVar[str]
    """Its name in SASL."""

    @abstractmethod
    async def begin(self, host: str) -> Exchange:
        """Begin an exchange with a server, which the user called `host`.

        Raises `NoCredentials`, or `OSError` for what may pass by itself. It can be cancelled at any point.
        """
