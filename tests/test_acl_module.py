"""`corral.acl`: what its lists are, and whom they let in on a server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import corral
from corral import Acl, Perm, acl

Connect = Callable[..., corral.Client]


def test_the_lists() -> None:
    """Each helper makes a list of one entry, with all permissions unless others are passed; lists are joined."""
    assert acl.OPEN == acl.world() == (Acl(Perm.ALL, "world", "anyone"),)
    assert acl.world(Perm.READ) == acl.WORLD_READ
    assert acl.CREATOR_ALL == acl.creator() == (Acl(Perm.ALL, "auth", ""),)
    assert acl.sasl("ann/host@REALM", Perm.READ) == (Acl(Perm.READ, "sasl", "ann/host@REALM"),)
    assert acl.x509("CN=ann,O=corral") == (Acl(Perm.ALL, "x509", "CN=ann,O=corral"),)
    assert (*acl.creator(), *acl.world(Perm.READ)) == acl.CREATOR_ALL + acl.WORLD_READ
    for network in ("10.1.2.3", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "::1", "2001:db8::/32"):
        assert acl.ip(network, Perm.READ | Perm.WRITE) == (Acl(Perm.READ | Perm.WRITE, "ip", network),)


def test_a_digest() -> None:
    """The hash is the one that ZooKeeper documents (SHA-1 of user:password in base64); no repr shows a password."""
    # echo -n ann:secret | openssl dgst -sha1 -binary | base64
    assert acl.digest("ann", "secret") == (Acl(Perm.ALL, "digest", "ann:7RJfAeIvrl4zdj6sS2fXrQHDvHM="),)
    assert acl.digest("ann", "se:cret", Perm.READ)[0].perms is Perm.READ
    assert "se:cret" not in repr(acl.digest("ann", "se:cret"))


@pytest.mark.parametrize(
    ("entries", "is_let_in"),
    [
        (acl.OPEN, True),
        (acl.world(Perm.WRITE), False),
        (acl.ip("127.0.0.0/8", Perm.READ), True),
        (acl.ip("127.0.0.1"), True),
        (acl.ip("10.0.0.0/8"), False),
        (acl.digest("bob", "secret"), True),
        (acl.digest("bob", "Secret"), False),
        (acl.digest("ann", "secret") + acl.ip("127.0.0.1", Perm.READ), True),
        (acl.CREATOR_ALL, False),
        (acl.CREATOR_ALL + acl.WORLD_READ, True),
        (acl.creator(Perm.WRITE) + acl.digest("bob", "secret", Perm.READ), True),
    ],
)
async def test_whom_a_list_lets_in(connect: Connect, entries: tuple[Acl, ...], is_let_in: bool) -> None:
    """S6: bob may read what ann has created if one entry grants READ to one of his identities."""
    async with (
        connect(auth=[("digest", b"ann:secret")]) as ann,
        connect(auth=[("digest", b"bob:secret")]) as bob,
    ):
        await ann.create("/a", b"x", acl=entries)
        if is_let_in:
            assert (await bob.get("/a"))[0] == b"x"
        else:
            with pytest.raises(corral.NoAuth, match="grant READ"):
                await bob.get("/a")
        await ann.delete("/a")


def test_entries_and_lists_are_the_same() -> None:
    """`Acl` makes single entries of those that `corral.acl` makes lists of, and the two constants are the same."""
    assert acl.world(Perm.READ) == (Acl.world(Perm.READ),)
    assert acl.creator() == (Acl.creator(),)
    assert acl.digest("ann", "secret", Perm.READ) == (Acl.digest("ann", "secret", Perm.READ),)
    assert (corral.OPEN_ACL, corral.READ_ACL) == (acl.OPEN, acl.WORLD_READ)
