"""Credentials, replayed on each connection.

Only schemes whose one message can be sent ahead of the requests that rely on it are here. SASL, which
exchanges tokens before anything else may be said, will need a phase of its own between the machine's
HANDSHAKE and UP.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from corral.errors import FrameTooLarge, UsageTypeError, UsageValueError
from corral.wire import messages


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the server is to know us as: a scheme, and what that scheme wants."""

    scheme: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, str) or not self.scheme.isascii() or not self.scheme:
            raise UsageValueError(f"auth scheme must be a name such as 'digest', not {self.scheme!r}")
        if not isinstance(self.secret, bytes):
            raise UsageTypeError(
                f"auth secret for {self.scheme!r} must be bytes such as b'user:password', "
                f"not {type(self.secret).__name__}"
            )
        if self.scheme == "digest" and b":" not in self.secret:
            raise UsageValueError("digest auth must be b'user:password'; there is no ':' in what was given")

    def check_size(self, limit: int) -> None:
        """Raise `FrameTooLarge` if the message that presents them is over `limit` bytes."""
        size = len(self.encode()) + 8
        if size > limit:
            raise FrameTooLarge("add_auth", None, size, limit)

    def encode(self) -> bytes:
        """The body of the message that presents them."""
        return messages.encode_auth(self.scheme, self.secret)
