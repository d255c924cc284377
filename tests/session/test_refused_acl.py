"""The error for an access control list that the server has refused."""

from __future__ import annotations

import pytest

from corral import acl, errors
from corral.session.refused_acl import invalid_acl
from corral.types import Acl, Perm
from corral.wire import messages
from corral.wire.messages import Operation

FOREIGN = (Acl(Perm.ALL, "kerberos", "ann"),)
WITH_A_LIST = {
    messages.CREATE: lambda entries: messages.encode_create("/a", b"x", entries, 0),
    messages.CREATE2: lambda entries: messages.encode_create("/a", b"", entries, 3),
    messages.CREATE_CONTAINER: lambda entries: messages.encode_create("/a", b"", entries, 4),
    messages.CREATE_TTL: lambda entries: messages.encode_create_ttl("/a", b"", entries, 5, 1.5),
    messages.SET_ACL: lambda entries: messages.encode_set_acl("/a", entries, -1),
}


@pytest.mark.parametrize("op", WITH_A_LIST, ids=lambda op: f"{op.name} {op.opcode}")
def test_each_suspect_is_named(op: Operation) -> None:
    """The entries that a server may not know are named, and no others. Of a list without such entries nothing
    is claimed, and no message shows a hash."""
    encode = WITH_A_LIST[op]
    error = invalid_acl(op, encode(acl.OPEN + acl.CREATOR_ALL + FOREIGN), "/a")
    assert str(error).startswith(
        f"{op.name} '/a': the server does not accept this ACL: its entry 1 is for the"
    )
    assert "its entry 2 has the scheme 'kerberos'" in str(error)
    assert "entry 0" not in str(error)
    plain = invalid_acl(op, encode(acl.digest("ann", "secret") + acl.WORLD_READ), "/a")
    assert "its entry" not in str(plain)
    assert acl.digest("ann", "secret")[0].id not in str(plain)


OTHERS = [op for op in messages.OPERATIONS.values() if op not in WITH_A_LIST]


@pytest.mark.parametrize("op", OTHERS, ids=lambda op: f"{op.name} {op.opcode}")
def test_a_request_without_a_list(op: Operation) -> None:
    """S7: a server that answers another request with this code, which makes no sense, does no harm."""
    assert isinstance(invalid_acl(op, b"nonsense", "/a"), errors.InvalidAcl)
