"""The releases of ZooKeeper that the embedded server can behave like, and the requests that each lacks."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from corral.wire import messages
from corral.wire.messages import Operation

__all__ = ["RELEASES", "Release", "Rules", "lacks", "rules"]

Release: TypeAlias = Literal["3.4", "3.5", "3.6", "3.8", "3.9"]
Rules: TypeAlias = Literal["3.8", "3.9"]

RELEASES: tuple[Release, ...] = get_args(Release)

_SINCE: dict[Operation, Release] = {
    messages.CREATE2: "3.5",
    messages.RECONFIG: "3.5",
    messages.CHECK_WATCHES: "3.5",
    messages.REMOVE_WATCHES: "3.5",
    messages.CREATE_CONTAINER: "3.5",
    messages.CREATE_TTL: "3.5",
    messages.MULTI_READ: "3.6",
    messages.GET_EPHEMERALS: "3.6",
    messages.COUNT_ALL: "3.6",
    messages.SET_WATCHES2: "3.6",
    messages.ADD_WATCH: "3.6",
    messages.WHO_AM_I: "3.8",  # 3.7 has it
}
"""The first of the releases that knows a request."""
_UNTIL: dict[Operation, Release] = {messages.CHECK: "3.8"}
"""The last of them. A check in a transaction is known to all."""


def lacks(release: Release) -> frozenset[Operation]:
    """The requests that a release does not know."""
    at = RELEASES.index(release)
    return frozenset(
        [operation for operation, since in _SINCE.items() if at < RELEASES.index(since)]
        + [operation for operation, until in _UNTIL.items() if at > RELEASES.index(until)]
    )


def rules(release: Release) -> Rules:
    """How a release carries out the requests that it knows: up to 3.8 as 3.8 does."""
    return "3.9" if release == "3.9" else "3.8"
