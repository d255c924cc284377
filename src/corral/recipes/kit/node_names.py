"""The names of the znodes in a line, by which other clients' recipes use the same line.

Curator's names are the default of every recipe; ``layout="kazoo"`` chooses kazoo's. A name is a prefix, a
GUID, a label and the number that the server appends: ``_c_<uuid>-lock-0000000007``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from corral.errors import UsageValueError

__all__ = ["Layout", "LayoutName", "Naming", "RWLayout", "layout_named"]

T = TypeVar("T")

LayoutName: TypeAlias = Literal["curator", "kazoo"]


class Naming(NamedTuple):
    """How a library writes the part before the label."""

    prefix: str
    dashes: bool
    """Whether the GUID is written with dashes."""

    def new_guid(self) -> str:
        """A random GUID, in a third of the time of `uuid.uuid4()`: no reader looks at its version bits."""
        digits = os.urandom(16).hex()
        if not self.dashes:
            return digits
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Layout(NamedTuple):
    """The names in one line, as a client that joins with `label` sees them."""

    naming: Naming
    label: str
    """The part between the GUID and the number, in the names of our own znodes."""
    contenders: tuple[str, ...]
    """The labels of all znodes in the line. Znodes with other names are ignored."""
    blocked_by: tuple[str, ...]
    """The labels of the znodes for which we wait if they are ahead of ours."""
    downgrade_label: str = ""
    """The label of a reader's znode that may take the place, and the number, of a znode of ours."""


def _exclusive(naming: Naming, label: str, *contenders: str) -> Layout:
    return Layout(naming, label, contenders, contenders)


PROTECTED = Naming("_c_", dashes=True)
"""Curator's "protection", which every name of ours has by default."""
_KAZOO = Naming("", dashes=False)

# Our labels begin with a dash. Without Curator's protection a name has no GUID and no dash
# ("lock-0000000007").
MUTEX: Mapping[str, Layout] = {
    "curator": _exclusive(PROTECTED, "-lock-", "lock-", "__lock__", "__lock__-"),
    "kazoo": _exclusive(_KAZOO, "__lock__", "__lock__"),
}
"""Curator's InterProcessMutex, which here also waits for kazoo's znodes; kazoo's Lock."""

ELECTION: Mapping[str, Layout] = {
    "curator": _exclusive(PROTECTED, "-latch-", "latch-"),
    "kazoo": MUTEX["kazoo"],
}
"""Curator's LeaderLatch; kazoo's Election, which is its Lock."""

QUEUE_WAITING = _exclusive(PROTECTED, "-wait-", "wait-")
"""The consumers of a queue that wait for an item. Neither Curator nor kazoo has such a line."""


MEMBER = Naming("", dashes=True)
"""A member of Curator's DistributedDoubleBarrier, whose name is a GUID and nothing else."""
IS_MEMBER = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
"""Matches the name of a member: Curator's, or kazoo's, which has no dashes."""


class RWLayout(NamedTuple):
    """The two sides of a read/write lock, in one line."""

    read: Layout
    write: Layout


def _rw_layout(naming: Naming, read: str, write: str, downgrade_label: str = "") -> RWLayout:
    readers, writers = read.lstrip("-"), write.lstrip("-")
    both = (readers, writers)
    return RWLayout(
        Layout(naming, read, both, (writers,)), Layout(naming, write, both, both, downgrade_label)
    )


READ_WRITE: Mapping[str, RWLayout] = {
    "curator": _rw_layout(PROTECTED, "-__READ__", "-__WRIT__", downgrade_label="-__READ__"),
    "kazoo": _rw_layout(_KAZOO, "__rlock__", "__lock__"),
}
"""Curator's InterProcessReadWriteLock; kazoo's ReadLock and WriteLock."""

SEMAPHORE_LOCK = MUTEX["curator"]
SEMAPHORE_LEASE = _exclusive(PROTECTED, "-lease-", "lease-")
"""Curator's InterProcessSemaphoreV2: the lock of those that wait, and the leases."""


def layout_named(layouts: Mapping[str, T], layout: str) -> T:
    """The layout with this name. Raises `UsageValueError` if there is none."""
    try:
        return layouts[layout]
    except (KeyError, TypeError):
        known = " or ".join(map(repr, layouts))
        raise UsageValueError(f"layout must be {known}, not {layout!r}") from None
