"""What the nodes of a line are called on the server, so that other clients stand in it too (INTEROP).

Curator's names are the default of every recipe. kazoo's are chosen by ``layout="kazoo"``. A node is a prefix,
a GUID, a label and the number that the server gives: ``_c_<uuid>-lock-0000000007``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from corral.errors import UsageValueError

__all__ = ["Layout", "LayoutName", "Naming", "RWLayout", "layout_named"]

T = TypeVar("T")

LayoutName: TypeAlias = Literal["curator", "kazoo"]


class Naming(NamedTuple):
    """How a library writes what stands before the label."""

    prefix: str
    dashes: bool
    """Whether the GUID is written with dashes."""

    def new_guid(self) -> str:
        """As `uuid.uuid4()`, in a third of the time; nobody looks at which bits of a GUID are random."""
        digits = os.urandom(16).hex()
        if not self.dashes:
            return digits
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Layout(NamedTuple):
    """The names in one line, as seen by whoever joins it with a `label`."""

    naming: Naming
    label: str
    """What stands between the GUID and the number of our own nodes."""
    contenders: tuple[str, ...]
    """What may stand before the number of a node in the line; others are ignored."""
    blocked_by: tuple[str, ...]
    """Those of them that we wait for if they are ahead of us."""
    downgrade_label: str = ""
    """The label with which one of us may come to stand, later, in the same place, with the same number."""


def _exclusive(naming: Naming, label: str, *contenders: str) -> Layout:
    return Layout(naming, label, contenders, contenders)


_CURATOR = Naming("_c_", dashes=True)
_KAZOO = Naming("", dashes=False)

# Our names end in the dash; others may do without protection, and then have none ("lock-0000000007").
MUTEX: Mapping[str, Layout] = {
    "curator": _exclusive(_CURATOR, "-lock-", "lock-", "__lock__", "__lock__-"),
    "kazoo": _exclusive(_KAZOO, "__lock__", "__lock__"),
}
"""Curator's InterProcessMutex, in whose directory kazoo's nodes are waited for as well; kazoo's Lock."""

ELECTION: Mapping[str, Layout] = {
    "curator": _exclusive(_CURATOR, "-latch-", "latch-"),
    "kazoo": MUTEX["kazoo"],
}
"""Curator's LeaderLatch; kazoo's Election, which is its Lock."""


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
    "curator": _rw_layout(_CURATOR, "-__READ__", "-__WRIT__", downgrade_label="-__READ__"),
    "kazoo": _rw_layout(_KAZOO, "__rlock__", "__lock__"),
}
"""Curator's InterProcessReadWriteLock; kazoo's ReadLock and WriteLock."""

SEMAPHORE_LOCK = MUTEX["curator"]
SEMAPHORE_LEASE = _exclusive(_CURATOR, "-lease-", "lease-")
"""Curator's InterProcessSemaphoreV2: a lock to stand in, and leases, of which so many may be ahead."""


def layout_named(layouts: Mapping[str, T], layout: str) -> T:
    """The one that was asked for."""
    try:
        return layouts[layout]
    except (KeyError, TypeError):
        known = " or ".join(map(repr, layouts))
        raise UsageValueError(f"layout must be {known}, not {layout!r}") from None
