"""The SASL mechanism DIGEST-MD5, as ZooKeeper uses it: a user and a secret that both sides know."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from corral import verify
from corral.errors import UsageStateError, UsageValueError
from corral.session import gate
from corral.session.sasl import digest_md5
from corral.session.sasl.digest_md5 import Login

from .base import Exchange, Mechanism, Refused

__all__ = ["DigestMD5", "DigestMechanism"]

_URI = b"zookeeper/zk-sasl-md5"
"""ZooKeeper's server has no other name in this mechanism, whatever its host."""


@dataclass(frozen=True, slots=True)
class DigestMD5:
    """SASL's DIGEST-MD5: ``corral.connect(..., sasl=corral.DigestMD5("user", "secret"))``.

    The servers have the same secret in their JAAS configuration (``user_<name>="<secret>"``). It is never
    sent: each side proves to the other that it knows it, on each connection. What follows is neither
    encrypted nor signed; use TLS for that. No message, repr or log line shows the secret.

    Raises `UsageValueError` or `UsageTypeError` for an empty user or a text that cannot be sent, and
    `UsageStateError` where Python has no MD5, as in FIPS mode.
    """

    user: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not verify.text(self.user, "user of DigestMD5"):
            raise UsageValueError("user of DigestMD5 is empty; give the name that the servers know")
        verify.text(self.secret, "secret of DigestMD5")
        try:
            hashlib.md5(b"")
        except ValueError as error:
            raise UsageStateError(
                "DigestMD5 needs MD5, which Python does not offer here (FIPS mode?)"
            ) from error


class DigestMechanism(Mechanism):
    """A client that has a user and a secret."""

    name = "DIGEST-MD5"

    def __init__(self, login: DigestMD5) -> None:
        self._login = login

    async def begin(self, host: str) -> Exchange:
        return _Exchange(self._login.user, self._login.secret)


class _Exchange(Exchange):
    """Ours is nothing, the challenge; ours is the response, the server's proof."""

    mechanism = DigestMechanism.name
    first = b""

    def __init__(self, user: str, secret: str) -> None:
        self._user = user
        self._secret = secret
        self._login: Login | None = None

    def step(self, challenge: bytes | None) -> bytes | None:
        if self._login is None:
            if challenge is None:
                raise Refused(
                    "the server has no SASL: its JAAS configuration has no section 'Server', "
                    "or its FIPS mode excludes DIGEST-MD5"
                )
            return self._respond(challenge)
        if challenge is None:
            raise Refused("the server went on without having authenticated us (allowSaslFailedClients)")
        proofs = digest_md5.parse(challenge).get("rspauth", ())
        if len(proofs) != 1 or not hmac.compare_digest(proofs[0], self._login.rspauth()):
            raise gate.Misfit("the server has not proven that it knows the secret")
        return None

    def _respond(self, challenge: bytes) -> bytes:
        directives = digest_md5.parse(challenge)
        gate.check_digest_challenge(directives)
        is_utf8 = "charset" in directives
        try:
            user = self._user.encode("utf-8" if is_utf8 else "latin-1")
            if not is_utf8:
                self._secret.encode("latin-1")
        except UnicodeEncodeError:
            user = b""  # raised below, since this error contains the text
        if not user:
            raise Refused("the server knows only ISO 8859-1, which cannot express our user and secret")
        realm = directives.get("realm", [b""])[0]
        login = Login(
            user=self._user,
            secret=self._secret,
            realm=realm,
            uri=_URI,
            nonce=directives["nonce"][0],
            client_nonce=secrets.token_hex(16).encode(),
        )
        self._login = login
        values = {
            b"username": digest_md5.quoted(user),
            b"realm": digest_md5.quoted(realm),
            b"nonce": digest_md5.quoted(login.nonce),
            b"nc": digest_md5.NONCE_COUNT,
            b"cnonce": digest_md5.quoted(login.client_nonce),
            b"digest-uri": digest_md5.quoted(_URI),
            b"qop": digest_md5.QOP,
            b"response": login.response(),
        }
        if is_utf8:
            values[b"charset"] = b"utf-8"
        return b",".join(name + b"=" + value for name, value in values.items())
