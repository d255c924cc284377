"""Access control lists: who may do what with a znode. For `acl=`, `default_acl=` and `Client.set_acl`.

    from corral import Perm, acl

    zk = corral.connect(auth=[("digest", b"ann:secret")], default_acl=acl.CREATOR_ALL + acl.WORLD_READ)
    await zk.create("/a", acl=acl.digest("bob", "secret", Perm.READ) + acl.ip("10.0.0.0/8"))

A list is a tuple of `corral.Acl` entries, and ``+`` joins lists. A server grants a permission if any entry
grants it to any identity of the session; entries grant, and nothing denies. A znode does not inherit the list
of its parent. CREATE and DELETE are for the children of a znode: deleting a znode takes DELETE on its parent.

The scheme of an entry says how a session proves who it is:

- ``world``: everyone.
- ``digest``: a user and a password, passed to ``connect(auth=...)``.
- ``sasl``: the name that SASL has authenticated.
- ``x509``: the subject of the certificate with which a client connects by TLS.
- ``ip``: the address that the server sees. A proxy or an address translation hides the client's own.
- ``auth``: not stored. The server replaces it by every identity that the session has proven (all except
  ``ip``) when the list is set.

Servers can have further schemes: write their entries as ``Acl(perms, scheme, id)``.
"""

from __future__ import annotations

from . import verify
from .types import OPEN_ACL, READ_ACL, Acl, Perm

__all__ = ["CREATOR_ALL", "OPEN", "WORLD_READ", "creator", "digest", "ip", "sasl", "world", "x509"]


def world(perms: Perm = Perm.ALL) -> tuple[Acl, ...]:
    """These permissions for everyone."""
    return _entry(*Acl.world(perms))


def creator(perms: Perm = Perm.ALL) -> tuple[Acl, ...]:
    """These permissions for each identity that the session has proven when it sets the list.

    It needs credentials: ``connect(auth=...)``, SASL, or a client certificate. Without any, the server
    refuses it, and `InvalidAcl` says so. Identities that are proven later are not in the list.
    """
    return _entry(*Acl.creator(perms))


def digest(user: str, password: str, perms: Perm = Perm.ALL) -> tuple[Acl, ...]:
    """These permissions for sessions with the credentials ``("digest", b"user:password")``.

    Only the user and a hash are sent and stored, SHA-1 of ``user:password``; a server that is configured to
    use another one (`zookeeper.DigestAuthenticationProvider.digestAlg`) matches nobody then. Whoever may
    change the list can read the hash, so the password must be hard to guess.

    Raises `UsageValueError` or `UsageTypeError`; the message shows neither of the two.
    """
    return _entry(*Acl.digest(user, password, perms))


def sasl(user: str, perms: Perm = Perm.ALL) -> tuple[Acl, ...]:
    """These permissions for sessions that SASL has authenticated as `user`: the name with DIGEST-MD5, the
    principal with Kerberos. The servers' settings decide whether a principal keeps its host and its realm;
    `Client.who_am_i` shows the name."""
    return _entry(perms, "sasl", user)


def x509(subject: str, perms: Perm = Perm.ALL) -> tuple[Acl, ...]:
    """These permissions for sessions with a client certificate of this subject, such as ``"CN=ann,O=it"``.

    The server compares text, so write it as Java does (RFC 2253: the most specific part first, no spaces
    around the commas); `Client.who_am_i` shows it.
    """
    return _entry(perms, "x509", subject)


def ip(network: str, perms: Perm = Perm.ALL) -> tuple[Acl, ...]:
    """These permissions for sessions from an address or a network, such as ``"10.1.2.3"`` or
    ``"10.0.0.0/8"``."""
    return _entry(perms, "ip", network)


def _entry(perms: Perm, scheme: str, identity: str) -> tuple[Acl, ...]:
    return verify.acl((Acl(perms, scheme, identity),))


OPEN = OPEN_ACL
"""Everyone may do everything: the default of ZooKeeper, and of `corral.connect`."""

WORLD_READ = READ_ACL
"""Everyone may read. Alone it lets no one change the znode, not even its list; add `CREATOR_ALL`."""

CREATOR_ALL: tuple[Acl, ...] = creator()
"""Whoever creates the znode may do everything with it; see `creator`."""
