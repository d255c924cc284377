"""Credentials, which are sent on each connection, ahead of the requests that rely on them.

These are schemes of one message. SASL, which exchanges tokens, is in `corral.session.sasl`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from corral.errors import FrameTooLarge, UsageTypeError, UsageValueError
from corral.wire import messages

_SCHEME = re.compile("[A-Za-z0-9._-]+")


def _must(rule: str) -> str:
    """The message of an error about credentials."""
    return (
        f'auth is a list of pairs (scheme, secret) such as ("digest", b"user:password"); {rule}; '
        "what was given is not shown, as it may be secret"
    )


@dataclass(frozen=True, slots=True)
class Credentials:
    """A scheme and a secret. Neither is ever shown, since the caller may have swapped them."""

    scheme: str = field(repr=False)
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, str):
            raise UsageTypeError(_must(f"the scheme must be a str, not {type(self.scheme).__name__}"))
        if not _SCHEME.fullmatch(self.scheme):
            raise UsageValueError(
                _must("the scheme must be a name of ASCII letters, digits, '.', '_' and '-'")
            )
        if not isinstance(self.secret, bytes):
            raise UsageTypeError(_must(f"the secret must be bytes, not {type(self.secret).__name__}"))
        if self.scheme == "digest" and b":" not in self.secret:
            raise UsageValueError(_must("the secret of 'digest' must be b'user:password', with a ':'"))

    def check_size(self, limit: int) -> None:
        """Raise `FrameTooLarge` if the message that presents them is larger than `limit` bytes."""
        size = len(self.encode()) + 8
        if size > limit:
            raise FrameTooLarge("add_auth", None, size, limit)

    def encode(self) -> bytes:
        """The body of the message that presents them."""
        return messages.encode_auth(self.scheme, self.secret)
