"""The states of following a tree, and the legal transitions, as a literal table. `TreeFeed._change` alone
uses it.

Not a state: the connection. A tree stays LIVE while it is down, since the watch is set again by the session.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["TRANSITIONS", "TreeState", "TreeTransition"]


class TreeState(enum.Enum):
    """How far following a tree has come."""

    IDLE = "not followed: no reader has waited yet, or the last one has left"
    LOADING = "the watch is set or requested, and the tree is read for the first time since"
    LIVE = "all of the tree was read; changed nodes are read as events come"
    RELOADING = "it was live; all or a part of it is read again"
    FAILED = "ended by an error; the next reader that waits starts it again"
    RETRYING = "ended by an error; a timer starts it again, for a cache"

    @property
    def is_following(self) -> bool:
        """Whether there is a watch, and reads are made."""
        return self in _FOLLOWING


_FOLLOWING = (TreeState.LIVE, TreeState.LOADING, TreeState.RELOADING)


class TreeTransition(enum.Enum):
    """What can happen to it."""

    FOLLOW = "a reader waits, or it is time to retry"
    READ_DEEP = "nodes and their descendants have to be read"
    LOADED = "no descendants are left to read"
    FAIL = "an error ends it"
    SCHEDULE_RETRY = "a cache needs it"
    CANCEL_RETRY = "no cache needs it any more, or no retry can succeed"
    STOP = "the last reader has left"


TRANSITIONS: Mapping[TreeState, Mapping[TreeTransition, TreeState]] = MappingProxyType(
    {
        TreeState.IDLE: {
            TreeTransition.FOLLOW: TreeState.LOADING,
            TreeTransition.STOP: TreeState.IDLE,
        },
        TreeState.LOADING: {
            TreeTransition.READ_DEEP: TreeState.LOADING,
            TreeTransition.LOADED: TreeState.LIVE,
            TreeTransition.FAIL: TreeState.FAILED,
            TreeTransition.STOP: TreeState.IDLE,
        },
        TreeState.LIVE: {
            TreeTransition.READ_DEEP: TreeState.RELOADING,
            TreeTransition.FAIL: TreeState.FAILED,
            TreeTransition.STOP: TreeState.IDLE,
        },
        TreeState.RELOADING: {
            TreeTransition.READ_DEEP: TreeState.RELOADING,
            TreeTransition.LOADED: TreeState.LIVE,
            TreeTransition.FAIL: TreeState.FAILED,
            TreeTransition.STOP: TreeState.IDLE,
        },
        TreeState.FAILED: {
            TreeTransition.FOLLOW: TreeState.LOADING,
            TreeTransition.SCHEDULE_RETRY: TreeState.RETRYING,
            TreeTransition.STOP: TreeState.IDLE,
        },
        TreeState.RETRYING: {
            TreeTransition.FOLLOW: TreeState.LOADING,
            TreeTransition.CANCEL_RETRY: TreeState.FAILED,
            TreeTransition.STOP: TreeState.IDLE,
        },
    }
)
