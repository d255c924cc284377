"""The errors with which the session rejects requests."""

from __future__ import annotations

from collections.abc import Sequence

from corral import errors
from corral.types import Acl
from corral.wire.compile import DecodeError
from corral.wire.messages import Operation

from . import gate
from .requests import Request


def session_expired() -> errors.SessionExpired:
    """For a request that is bound to a session that is over."""
    return errors.SessionExpired("the session that this depended on has expired")


def refused(
    op: Operation, body: bytes, path: str | None, code: int, *, expected: int | None = None
) -> errors.ServerError:
    """For a request, or an operation of a transaction, that the server refused with this error code.
    `expected` is as for `errors.server_error`."""
    if code == errors.InvalidAcl.code:
        fields = op.request.decode(body, 0, len(body))
        entries = next(field for field in fields if isinstance(field, list))
        return errors.InvalidAcl(op.name, path, _acl_problem(entries))
    return errors.server_error(code, op.name, path, expected=expected)


def _acl_problem(entries: Sequence[Acl]) -> str | None:
    """Why a server may have refused an access control list; None if nothing is known. The entries of some
    schemes were checked before they were sent (`verify.acl`)."""
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


def connection_lost(request: Request, losses: int, reason: str) -> errors.ConnectionLoss:
    """For a request that was unanswered when the connection was lost; `losses` in a row broke on it."""
    problem = f"the connection was lost before the answer came, so the outcome is unknown ({reason})"
    if losses > 1:
        problem += f"; {losses} connections in a row broke on this request"
    loss = errors.ConnectionLoss(request.op.name, request.path, problem)
    loss.losses = losses
    return loss


def unusable_answer(request: Request, error: Exception) -> errors.CorralError:
    """For a request whose answer led to `error`."""
    if isinstance(error, DecodeError):
        problem = f"the answer does not decode: {error}"
    elif isinstance(error, gate.Misfit):
        problem = f"the answer does not fit the request: {error}"
    else:
        defect = errors.InternalError(f"{errors.describe(request.op.name, request.path)}: {error!r}")
        defect.__cause__ = error
        return defect
    return errors.ReplyError(request.op.name, request.path, problem)


def oversized_answer(request: Request, size: int, limit: int) -> errors.ReplyError:
    """For a request whose answer is larger than `limit`; both in bytes."""
    problem = f"the answer is {size:,} bytes, over the limit of {limit:,}; raise max_reply"
    return errors.ReplyError(request.op.name, request.path, problem)
