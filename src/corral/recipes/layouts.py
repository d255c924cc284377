"""What the nodes of a line are called on the server, so that other clients stand in it too (INTEROP).

Curator's names are the default of every recipe. kazoo's are chosen by ``layout="kazoo"``. A node is a prefix,
a GUID, a label and the number that the server gives: ``_c_<uuid>-lock-0000000007``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from corral.errors import UsageValueError

__all__ = ["Layout", "LayoutName", "Naming", "is_trusted", "numbers"]

T = TypeVar("T")

LayoutName: TypeAlias = Literal["curator", "kazoo"]

# The last number that the server gives; it gives it more than once.
LAST_NUMBER = 0x7FFFFFFF


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
    downgraded: str = ""
    """The label with which one of us may come to stand, later, in the same place, with the same number."""


def numbers(names: Iterable[str], labels: tuple[str, ...]) -> dict[str, int]:
    """Those of the names that end in one of the labels and a number: "%010d" of a signed 32-bit one."""
    found = dict[str, int]()
    for name in names:
        digits = name[-10:]
        if digits[:1] == "0" and digits.isdecimal():  # nearly always; a minus before it is not part of it
            if name.endswith(labels, 0, -10):
                found[name] = int(digits)
        elif (number := _great_or_negative(name, digits, labels)) is not None:
            found[name] = number
    return found


def _great_or_negative(name: str, digits: str, labels: tuple[str, ...]) -> int | None:
    if digits.isdecimal():
        if name[-11:-10] == "-" and name.endswith(labels, 0, -11):
            return int(name[-11:])
    elif not (digits[:1] == "-" and digits[1:].isdecimal() and len(digits) == 10):
        return None
    return int(digits) if name.endswith(labels, 0, -10) else None


def is_trusted(number: int) -> bool:
    """Whether the server gives this number once only."""
    return 0 <= number < LAST_NUMBER


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


class Sides(NamedTuple):
    """The two sides of a read/write lock, in one line."""

    read: Layout
    write: Layout


def _sides(naming: Naming, read: str, write: str, downgraded: str = "") -> Sides:
    readers, writers = read.lstrip("-"), write.lstrip("-")
    both = (readers, writers)
    return Sides(Layout(naming, read, both, (writers,)), Layout(naming, write, both, both, downgraded))


READ_WRITE: Mapping[str, Sides] = {
    "curator": _sides(_CURATOR, "-__READ__", "-__WRIT__", downgraded="-__READ__"),
    "kazoo": _sides(_KAZOO, "__rlock__", "__lock__"),
}
"""Curator's InterProcessReadWriteLock; kazoo's ReadLock and WriteLock."""

SEMAPHORE_LOCK = MUTEX["curator"]
SEMAPHORE_LEASE = _exclusive(_CURATOR, "-lease-", "lease-")
"""Curator's InterProcessSemaphoreV2: a lock to stand in, and leases, of which so many may be ahead."""


def choose(layouts: Mapping[str, T], layout: str) -> T:
    """The one that was asked for."""
    try:
        return layouts[layout]
    except (KeyError, TypeError):
        known = " or ".join(map(repr, layouts))
        raise UsageValueError(f"layout must be {known}, not {layout!r}") from None
