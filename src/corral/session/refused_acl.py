"""Why a server has refused an access control list. It answers with a bare code."""

from __future__ import annotations

from collections.abc import Sequence

from corral import errors
from corral.types import Acl
from corral.wire import messages
from corral.wire.messages import Operation


def invalid_acl(op: Operation, body: bytes, path: str | None) -> errors.InvalidAcl:
    """The error for a request, or an operation of a transaction, whose list was refused."""
    at = _LIST_AT.get(op)  # a server may answer other requests with this code, too, which is nonsense
    entries = [] if at is None else op.request.decode(body, 0, len(body))[at]
    return errors.InvalidAcl(op.name, path, _problem(entries))


_LIST_AT = {
    messages.CREATE: 2,
    messages.CREATE2: 2,
    messages.CREATE_CONTAINER: 2,
    messages.CREATE_TTL: 2,
    messages.SET_ACL: 1,
}
"""Which field of a request is the list."""


def _problem(entries: Sequence[Acl]) -> str | None:
    """What is known of it; None if nothing is. Some schemes were checked before sending (`verify.acl`)."""
    causes = []
    for index, entry in enumerate(entries):
        if entry.scheme == "auth":
            causes.append(
                f"its entry {index} is for the creator (acl.CREATOR_ALL), and this session has proven no "
                "identity; pass auth= to connect(), or another list"
            )
        elif entry.scheme not in ("world", "digest"):
            causes.append(
                f"its entry {index} has the scheme {errors.shown(entry.scheme)}, which the server does not "
                "know, or an id that is malformed there"
            )
    return f"the server does not accept this ACL: {', or '.join(causes)}" if causes else None
