"""What an ACL allows, and which ACLs a client may set."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from corral import acl
from corral.testing.embedded import acls
from corral.testing.embedded.acls import AccessList, Identity
from corral.testing.embedded.codes import INVALID_ACL, NO_AUTH, Refused
from corral.types import Acl, Perm

HERE: Identity = ("ip", "10.1.2.3")
ALICE = acls.digest_identity(b"alice:secret")
BOB = acls.digest_identity(b"bob:secret")


def test_digest_identity() -> None:
    """The hash equals that of the client's own types; the password is everything after the first colon."""
    assert acl.digest("alice", "secret")[0][1:] == ALICE
    assert acl.digest("alice", "se:cret")[0][1:] == acls.digest_identity(b"alice:se:cret")


@pytest.mark.parametrize(
    ("entries", "perms", "identities", "allowed"),
    [
        (acl.OPEN, acls.ADMIN, (), True),
        (acl.WORLD_READ, acls.READ, (), True),
        (acl.WORLD_READ, acls.WRITE, (HERE,), False),
        (acl.WORLD_READ, acls.WRITE | acls.READ, (), True),  # one of them is enough
        ((Acl(Perm.ALL, *ALICE),), acls.READ, (HERE, ALICE), True),
        ((Acl(Perm.ALL, *ALICE),), acls.READ, (HERE, BOB), False),
        ((Acl(Perm.READ, *ALICE), Acl(Perm.WRITE, *ALICE)), acls.WRITE, (ALICE,), True),
        ((Acl(Perm.ALL, "ip", "10.1.2.3"),), acls.READ, (HERE,), True),
        ((Acl(Perm.ALL, "ip", "10.1.0.0/16"),), acls.READ, (HERE,), True),
        ((Acl(Perm.ALL, "ip", "10.1.7.7/16"),), acls.READ, (HERE,), True),
        ((Acl(Perm.ALL, "ip", "10.2.0.0/16"),), acls.READ, (HERE,), False),
        ((Acl(Perm.ALL, "ip", "0.0.0.0/0"),), acls.READ, (HERE,), True),
        ((Acl(Perm.ALL, "ip", "0.0.0.0/0"),), acls.READ, (("ip", "::1"),), False),
        ((Acl(Perm.ALL, "ip", "::/0"),), acls.READ, (("ip", "::1"),), True),
        ((Acl(Perm.ALL, "ip", "10.1.2.3"),), acls.READ, (("ip", "no address"),), False),
    ],
)
def test_allows(entries: Sequence[Acl], perms: int, identities: Sequence[Identity], allowed: bool) -> None:
    """An ACL allows an operation if any entry grants any of the permissions to any of the identities."""
    acl = AccessList(tuple(entries))
    assert acl.allows(perms, identities) is allowed
    if allowed:
        acl.demand(perms, identities)
    else:
        with pytest.raises(Refused) as refused:
            acl.demand(perms, identities)
        assert refused.value.code == NO_AUTH


def of(scheme: str, name: str) -> Acl:
    """An entry that allows everything."""
    return Acl(Perm.ALL, scheme, name)


@pytest.mark.parametrize(
    "entry",
    [
        of("world", "anyone"), of("digest", "a:b"), of("digest", ":b"), of("digest", "a:b:"),
        of("ip", "1.2.3.4"), of("ip", "1.2.3.4/0"), of("ip", "1.2.3.4/32"), of("ip", "01.2.3.4"),
    ],
)  # fmt: skip
def test_valid(entry: Acl) -> None:
    """A valid entry is stored unchanged."""
    assert acls.fix([entry], [HERE], ipv6=False, sasl=False).entries == (entry,)


@pytest.mark.parametrize(
    "entries",
    [
        [], [of("world", "everyone")], [of("auth", "")], [of("super", "")], [of("sasl", "a")], [of("", "")],
        [of("digest", "a")], [of("digest", "a:")], [of("digest", ":")], [of("digest", "")],
        [of("digest", "a:b:c")], [of("ip", "1.2.3")], [of("ip", "1.2.3.4/33")], [of("ip", "1.2.3.4/")],
        [of("ip", "1.2.3.4/x")], [of("ip", "::1")], [of("ip", "")], [*acl.OPEN, of("ip", "256.1.1.1")],
    ],
)  # fmt: skip
def test_invalid(entries: list[Acl]) -> None:
    """An invalid list is refused for a client that has not authenticated."""
    with pytest.raises(Refused) as refused:
        acls.fix(entries, [HERE], ipv6=False, sasl=False)
    assert refused.value.code == INVALID_ACL


def test_ipv6_from_3_9() -> None:
    """Up to 3.8 an ACL may have IPv4 addresses only; 3.9 accepts IPv6."""
    assert acls.fix([of("ip", "fe80::/10")], [HERE], ipv6=True, sasl=False).entries == (
        of("ip", "fe80::/10"),
    )


def test_auth_is_replaced() -> None:
    """An `auth` entry is replaced, in its place, by one entry with its permissions for each identity that has
    authenticated."""
    asked = [Acl(Perm.READ, "world", "anyone"), Acl(Perm.WRITE, "auth", "ignored"), of("digest", "a:b")]
    fixed = acls.fix(asked, [HERE, ALICE, BOB], ipv6=False, sasl=False)
    assert fixed.entries == (
        asked[0],
        Acl(Perm.WRITE, *ALICE),
        Acl(Perm.WRITE, *BOB),
        asked[2],
    )


def test_stored_once() -> None:
    """A duplicate entry is stored once; entries with different permissions are different."""
    assert acls.fix([*acl.OPEN, *acl.WORLD_READ, *acl.OPEN], [], ipv6=False, sasl=False).entries == (
        *acl.OPEN,
        *acl.WORLD_READ,
    )


def test_masked() -> None:
    """A client that may not change the ACL sees no password hashes."""
    stored = AccessList((Acl(Perm.ALL, *ALICE), Acl(Perm.READ, "ip", "::1"), *acl.WORLD_READ))
    assert stored.masked() == [of("digest", "alice:x"), Acl(Perm.READ, "ip", "::1"), *acl.WORLD_READ]
