"""The znodes of a queue, in the layout of kazoo's ``LockingQueue``.

- ``entries/entry-<priority>-<number>``: an item, with its data as it is. Its data version counts how often it
  was handed out.
- ``taken/<name of the entry>``: an ephemeral znode, the claim of whoever handles the item now.
- ``failed/<name of the entry>-<attempts>-<number>``: an item that was put aside. Ours alone.
"""

from __future__ import annotations

import heapq
import re
from typing import NamedTuple

from corral import paths
from corral.session.session import Session
from corral.types import Acl, Stat

from . import ops
from .context import RecipeContext
from .ops import Write

__all__ = ["LONGEST_NAME", "FailedItem", "QueueLayout", "failed_item", "first_items", "priority_of"]

LONGEST_NAME = "entry-999--2147483648"
"""A name of an item that is as long as one can be."""
_ENTRY = re.compile(r"entry-(\d{3})-(\d{10}|-\d{9,10})")
_FAILED = re.compile(r"(entry-(\d{3})-(?:\d{10}|-\d{9,10}))-(\d+)-(?:\d{10}|-\d{9,10})")


class FailedItem(NamedTuple):
    """An item that was put aside, since it was handed out `attempts` times and never done."""

    name: str
    """The name of its znode in ``failed``. It begins with the name that the item had in the queue."""
    data: bytes
    priority: int
    attempts: int
    stat: Stat


class QueueLayout:
    """The paths of one queue, and the writes that create what is there."""

    def __init__(self, context: RecipeContext) -> None:
        self.session: Session = context.session
        self.path = context.path
        """The queue as errors name it."""
        self.acl: tuple[Acl, ...] = context.acl
        self.entries = paths.join(context.full, "entries")
        self.taken = paths.join(context.full, "taken")
        self.failed = paths.join(context.full, "failed")

    def create_entry(self, data: bytes, priority: int) -> Write:
        """Put an item."""
        path = paths.join(self.entries, f"entry-{priority:03d}-")
        return ops.create(path, data, self.acl, ops.PERSISTENT_SEQUENTIAL)

    def create_failed(self, name: str, data: bytes, attempts: int) -> Write:
        """Create the znode of an item that is put aside."""
        path = paths.join(self.failed, f"{name}-{attempts}-")
        return ops.create(path, data, self.acl, ops.PERSISTENT_SEQUENTIAL)

    def put_aside(self, name: str, data: bytes, version: int) -> list[Write]:
        """Put an item aside that nobody has claimed."""
        taken = paths.join(self.taken, name)
        return [
            ops.create(taken, b"", self.acl, ops.EPHEMERAL),  # so nobody has claimed it, not even kazoo
            ops.delete(taken),
            ops.delete(paths.join(self.entries, name), version),
            self.create_failed(name, data, version),
        ]


def first_items(names: list[str], most: int | None) -> list[str]:
    """The first names of items, or all, in order."""
    if most is not None:
        # Nearly always the order of the names is that of the items: of a long queue this takes a tenth of the
        # time.
        first = heapq.nsmallest(most, names)
        if all(_ENTRY.fullmatch(name) and "--" not in name for name in first):
            return first
    items = filter(_ENTRY.fullmatch, names)
    return sorted(items, key=_position) if most is None else heapq.nsmallest(most, items, key=_position)


def _position(name: str) -> tuple[int, int]:
    """The sort key of an item: its priority, then its number, which wraps to the negative ones."""
    number = int(name[10:])
    return priority_of(name), number if number >= 0 else number + (1 << 32)


def priority_of(name: str) -> int:
    """The priority in the name of an item."""
    return int(name[6:9])


def failed_item(name: str, data: bytes, stat: Stat) -> FailedItem | None:
    """The item that was put aside as a znode with this name; None if it is something else."""
    match = _FAILED.fullmatch(name)
    return None if match is None else FailedItem(name, data, int(match[2]), int(match[3]), stat)
