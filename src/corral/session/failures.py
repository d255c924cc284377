"""The errors with which the session rejects requests."""

from __future__ import annotations

from corral import errors
from corral.wire.compile import DecodeError

from . import gate
from .requests import Request


def session_expired() -> errors.SessionExpired:
    """For a request that is bound to a session that is over."""
    return errors.SessionExpired("the session that this depended on has expired")


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
