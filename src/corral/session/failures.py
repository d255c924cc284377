"""The errors with which the session rejects requests."""

from __future__ import annotations

from corral import errors
from corral.wire import messages
from corral.wire.compile import DecodeError

from . import gate
from .requests import Request

# The release of ZooKeeper that has an operation first, and what needs it. Read in the tags of its sources.
_SINCE = {
    messages.CREATE2: ("3.5", "a create that answers with the Stat (create2)"),
    messages.REMOVE_WATCHES: ("3.5", "removing a watch (removeWatches)"),
    messages.RECONFIG: ("3.5", "reconfiguration (reconfig)"),
    messages.CREATE_CONTAINER: ("3.5.1", "a container (createContainer)"),
    messages.CREATE_TTL: ("3.5.3", "a ttl (createTTL), which also needs extendedTypesEnabled,"),
    messages.ADD_WATCH: ("3.6", "a persistent watch (addWatch)"),
    messages.MULTI_READ: ("3.6", "reading many znodes at once (multiRead)"),
    messages.GET_EPHEMERALS: ("3.6", "the list of a session's ephemerals (getEphemerals)"),
    messages.COUNT_ALL: ("3.6", "the count of all descendants (getAllChildrenNumber)"),
    messages.WHO_AM_I: ("3.7", "asking who one is (whoAmI)"),
}


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


def refused(request: Request, code: int, server: str) -> errors.ServerError:
    """For a request that the server at an address has answered with an error code."""
    if code == errors.Unimplemented.code and request.op in _SINCE:
        since, what = _SINCE[request.op]
        problem = f"{what} needs ZooKeeper {since} or newer; the server {server} does not offer it"
        return errors.Unimplemented(request.op.name, request.path, problem)
    return errors.server_error(code, request.op.name, request.path)


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
