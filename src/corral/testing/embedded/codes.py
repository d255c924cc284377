"""The error codes of replies, and the exception by which a handler refuses a request.

Codes that corral's client has an exception for come from `corral.errors`.
"""

from __future__ import annotations

from typing import Final

from corral import errors

__all__ = [
    "AUTH_FAILED",
    "AUTH_REQUIRED",
    "BAD_ARGUMENTS",
    "BAD_VERSION",
    "INVALID_ACL",
    "MARSHALLING_ERROR",
    "NODE_EXISTS",
    "NOT_EMPTY",
    "NOT_READ_ONLY",
    "NO_AUTH",
    "NO_CHILDREN_FOR_EPHEMERALS",
    "NO_NODE",
    "NO_WATCHER",
    "OK",
    "RECONFIG_DISABLED",
    "RUNTIME_INCONSISTENCY",
    "UNIMPLEMENTED",
    "Refused",
]

OK: Final = 0
RUNTIME_INCONSISTENCY: Final = -2
MARSHALLING_ERROR: Final = -5
UNIMPLEMENTED: Final = errors.Unimplemented.code
BAD_ARGUMENTS: Final = errors.BadArguments.code
NO_NODE: Final = errors.NoNode.code
NO_AUTH: Final = errors.NoAuth.code
BAD_VERSION: Final = errors.BadVersion.code
NO_CHILDREN_FOR_EPHEMERALS: Final = errors.NoChildrenForEphemerals.code
NODE_EXISTS: Final = errors.NodeExists.code
NOT_EMPTY: Final = errors.NotEmpty.code
INVALID_ACL: Final = errors.InvalidAcl.code
AUTH_FAILED: Final = -115
NOT_READ_ONLY: Final = -119
NO_WATCHER: Final = errors.NoWatcher.code
RECONFIG_DISABLED: Final = errors.ReconfigDisabled.code
AUTH_REQUIRED: Final = -124


class Refused(Exception):
    """Refuses a request: the reply has this error code, and nearly always no body."""

    def __init__(self, code: int, body: bytes = b"") -> None:
        super().__init__(code)
        self.code = code
        self.body = body
