"""SASL's DIGEST-MD5 as a server with a JAAS configuration does it: the exchange on one connection.

A real server answers the first token with a challenge, whatever is in it. The second one is the client's
proof; the answer to it is the server's.
"""

from __future__ import annotations

import hmac
import random
from base64 import b64encode
from collections.abc import Mapping

from corral.session.sasl import digest_md5
from corral.session.sasl.digest_md5 import Login
from corral.wire.compile import DecodeError

from .codes import AUTH_FAILED, Refused

__all__ = ["SaslExchange"]

_REALM = b"zk-sasl-md5"
_URI = b"zookeeper/zk-sasl-md5"


class SaslExchange:
    """One exchange. `users` has the secret of each user."""

    def __init__(self, users: Mapping[str, str], rng: random.Random) -> None:
        self._users = users
        self._nonce = b64encode(rng.randbytes(30))
        self._challenged = False

    def challenge(self) -> bytes | None:
        """The answer to the first token; None later."""
        if self._challenged:
            return None
        self._challenged = True
        return b'realm="%b",nonce="%b",charset=utf-8,algorithm=md5-sess' % (_REALM, self._nonce)

    def verify(self, token: bytes) -> tuple[str, bytes]:
        """The user that the second token proves, and the server's own proof. Raises `Refused`."""
        try:
            given = {name: values[0] for name, values in digest_md5.parse(token).items() if len(values) == 1}
            user = given["username"].decode()
            login = Login(user, self._users[user], _REALM, _URI, self._nonce, given["cnonce"])
            is_ours = (
                given["nonce"] == self._nonce
                and given["realm"] == _REALM
                and given["digest-uri"] == _URI
                and given["nc"] == digest_md5.NONCE_COUNT
                and given.get("qop", digest_md5.QOP) == digest_md5.QOP
                and given.get("charset", b"utf-8") == b"utf-8"
            )
            proof = given["response"]
        except (DecodeError, UnicodeDecodeError, KeyError):
            raise Refused(AUTH_FAILED) from None
        if not is_ours or not hmac.compare_digest(proof, login.response()):
            raise Refused(AUTH_FAILED)
        return user, b"rspauth=" + login.rspauth()
