"""DIGEST-MD5 (RFC 2831) for both sides: directives, and the two proofs that they know the secret. No I/O.

Only the quality of protection ``auth`` is there. ZooKeeper uses no other: it neither signs nor encrypts what
follows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corral.wire.compile import DecodeError

__all__ = ["NONCE_COUNT", "QOP", "Login", "parse", "quoted"]

NONCE_COUNT = b"00000001"
"""A nonce is used once."""
QOP = b"auth"

_TOKEN = rb"[!#$%&'*+\-.0-9A-Z^_`a-z|~]+"
_DIRECTIVE = re.compile(
    rb"[\s,]*(?P<name>" + _TOKEN + rb")\s*=\s*"
    rb'(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>' + _TOKEN + rb"))\s*(?:,[\s,]*|\Z)",
    re.DOTALL,
)


def parse(text: bytes) -> Mapping[str, Sequence[bytes]]:
    """The values of each directive in a challenge or a response. Raises `DecodeError`."""
    found: dict[str, list[bytes]] = {}
    at = 0
    while at < len(text):
        match = _DIRECTIVE.match(text, at)
        if match is None:
            raise DecodeError(f"a DIGEST-MD5 message that is malformed at byte {at} of {len(text)}")
        quoted = match["quoted"]
        value = match["token"] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        found.setdefault(match["name"].decode().lower(), []).append(value)
        at = match.end()
    return found


def quoted(value: bytes) -> bytes:
    """A value as a quoted string."""
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", value) + b'"'


@dataclass(frozen=True, slots=True)
class Login:
    """What both sides know of one login. It can be proven without sending the secret."""

    user: str
    secret: str = field(repr=False)
    realm: bytes
    uri: bytes
    """Which service is asked, such as ``zookeeper/zk-sasl-md5``."""
    nonce: bytes
    """Chosen by the server."""
    client_nonce: bytes

    def response(self) -> bytes:
        """The client's proof."""
        return self._proof(b"AUTHENTICATE")

    def rspauth(self) -> bytes:
        """The server's proof."""
        return self._proof(b"")

    def _proof(self, method: bytes) -> bytes:
        known = _md5(b":".join((_encoded(self.user), _hashed_realm(self.realm), _encoded(self.secret))))
        key = _hex(b":".join((known, self.nonce, self.client_nonce)))
        what = _hex(method + b":" + self.uri)
        return _hex(b":".join((key, self.nonce, NONCE_COUNT, self.client_nonce, QOP, what)))


def _encoded(text: str) -> bytes:
    # The RFC has ISO 8859-1 hashed wherever it suffices, although the text is sent in UTF-8.
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _hashed_realm(realm: bytes) -> bytes:
    try:
        return _encoded(realm.decode())
    except UnicodeDecodeError:
        return realm


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data).digest()


def _hex(data: bytes) -> bytes:
    return hashlib.md5(data).hexdigest().encode()
