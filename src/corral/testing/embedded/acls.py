"""Access control: whom an ACL permits what, and which ACLs a client may set.

A connection has *identities*, pairs of a scheme and an id: ``ip`` from the start, a ``digest`` for each
credential that it has presented, and a ``sasl`` for the user that SASL has proven. An entry of an ACL matches
identities of its own scheme; ``world:anyone`` matches everyone. Less obvious rules:

- A request may need one of several permissions; any of them is enough.
- ``auth`` stands for all identities that the connection has proven, so not for ``ip``. It is replaced by them
  when the ACL is set, and never stored.
- An entry that occurs twice is stored once.
- Of a digest, only the format is checked: two parts around a colon.

- The user ``super`` of SASL matches each entry of that scheme.

The scheme ``sasl`` is there if the server has SASL. There is no other superuser and no other scheme: a real
server has them only if it is configured so.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence

from corral import acl
from corral.types import Acl, Perm

from .codes import INVALID_ACL, NO_AUTH, Refused

__all__ = ["OPEN", "READABLE", "AccessList", "Identity", "digest_identity", "fix"]

Identity = tuple[str, str]
"""Scheme and id."""

READ, WRITE, CREATE, DELETE, ADMIN = (
    int(perm) for perm in (Perm.READ, Perm.WRITE, Perm.CREATE, Perm.DELETE, Perm.ADMIN)
)


class AccessList:
    """The ACL of a node, prepared for fast checks."""

    __slots__ = ("_others", "anyone", "entries")

    def __init__(self, entries: tuple[Acl, ...]) -> None:
        self.entries = entries
        self.anyone = 0
        """The permissions of everyone. They are checked first, since they nearly always suffice."""
        others = []
        for perms, scheme, name in entries:
            if (scheme, name) == ("world", "anyone"):
                self.anyone |= int(perms)
            else:
                others.append((int(perms), scheme, name))
        self._others = tuple(others)

    def allows(self, perms: int, identities: Iterable[Identity]) -> bool:
        """Whether any of the identities has any of the permissions."""
        if self.anyone & perms:
            return True
        return any(
            granted & perms and scheme == of and _matches(scheme, name, given)
            for granted, scheme, name in self._others
            for of, given in identities
        )

    def demand(self, perms: int, identities: Iterable[Identity]) -> None:
        """Raise `Refused` if none of the identities has any of the permissions."""
        if not self.anyone & perms and not self.allows(perms, identities):
            raise Refused(NO_AUTH)

    def masked(self) -> list[Acl]:
        """The entries without password hashes, for clients that may not change the ACL."""
        return [
            Acl(perms, scheme, re.sub(":.*", ":x", name) if scheme == "digest" else name)
            for perms, scheme, name in self.entries
        ]


@functools.lru_cache(maxsize=4096)
def _access_list(entries: tuple[Acl, ...]) -> AccessList:
    return AccessList(entries)


OPEN = _access_list(acl.OPEN)
READABLE = _access_list(acl.WORLD_READ)


def digest_identity(credential: bytes) -> Identity:
    """The identity that the credential ``user:password`` proves."""
    text = credential.decode("utf-8", "replace")
    hashed = b64encode(hashlib.sha1(text.encode()).digest()).decode()
    return "digest", f"{text.partition(':')[0]}:{hashed}"


def fix(entries: Sequence[Acl], identities: Sequence[Identity], *, ipv6: bool, sasl: bool) -> AccessList:
    """The ACL to store when a client sets these entries; `Refused` if it is empty or has an invalid entry."""
    fixed: list[Acl] = []
    for entry in dict.fromkeys(entries):
        perms, scheme, name = entry
        if scheme == "world" and name == "anyone":
            fixed.append(entry)
        elif scheme == "auth":
            proven = [Acl(perms, *identity) for identity in identities if identity[0] in ("digest", "sasl")]
            if not proven:
                raise Refused(INVALID_ACL)
            fixed += proven
        elif (
            (scheme == "digest" and _is_digest(name))
            or (scheme == "ip" and _network(name, ipv6=ipv6))
            or (scheme == "sasl" and sasl and _is_principal(name))
        ):
            fixed.append(entry)
        else:
            raise Refused(INVALID_ACL)
    if not fixed:
        raise Refused(INVALID_ACL)
    return _access_list(tuple(fixed))


def _is_digest(name: str) -> bool:
    # Java's split drops empty parts at the end.
    return name.rstrip(":").count(":") == 1


def _is_principal(name: str) -> bool:
    # Of Kerberos: user, user@REALM or user/host@REALM. Without an '@' everything is a user.
    return "@" not in name or re.fullmatch(r"[^/@]*(/[^/@]*)?@[^/@]*", name) is not None


def _matches(scheme: str, expression: str, given: str) -> bool:
    if scheme == "sasl" and given == "super":
        return True
    if scheme != "ip":
        return expression == given
    network = _network(expression, ipv6=True)
    try:
        return network is not None and ipaddress.ip_address(given) in network
    except ValueError:
        return False


def _network(name: str, *, ipv6: bool) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The addresses that an id of the scheme ``ip`` matches; None if it is invalid."""
    address, slash, bits = name.partition("/")
    # Java reads 01 as 1; Python refuses it as possibly octal.
    address = re.sub(r"\b0+(?=\d+(\.|$))", "", address)
    try:
        parsed = ipaddress.ip_address(address)
        if parsed.version == 6 and not ipv6:
            return None
        length = int(bits) if slash else parsed.max_prefixlen
        return ipaddress.ip_network((parsed, length), strict=False)
    except ValueError:
        return None
