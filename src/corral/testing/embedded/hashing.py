"""Sets that iterate in the order of a Java `HashSet` of strings.

A server lists children, and deletes the ephemerals of a session, in the order of such sets. It is neither
sorted nor the order of creation, and a client must not rely on either. With the same order as a real server,
this server exposes a client that does. The order is by the lower bits of the hash, as many as the table's
size has; among equals, the older string is first. A table doubles when it is more than three quarters full,
and never shrinks.

Not implemented: in a table of 64 or more, Java turns a slot with more than eight strings into a tree. That
takes names that are chosen to collide.
"""

from __future__ import annotations

from collections.abc import Iterator


def hash_of(text: str) -> int:
    """The hash of a string as a Java hash table uses it, without its sign."""
    value = 0
    if text.isascii():
        for unit in text.encode():
            value = value * 31 + unit & 0xFFFFFFFF
    else:
        units = text.encode("utf-16-be", "surrogatepass")
        for at in range(0, len(units), 2):
            value = value * 31 + (units[at] << 8 | units[at + 1]) & 0xFFFFFFFF
    return value ^ value >> 16


class HashSet:
    """A set of strings in Java's order; `capacity` is the initial size of its table, a power of two."""

    __slots__ = ("_capacity", "_hashes", "_listed")

    def __init__(self, capacity: int = 16) -> None:
        self._capacity = capacity
        self._hashes: dict[str, int] = {}  # in order of addition
        self._listed: list[str] | None = []

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, name: object) -> bool:
        return name in self._hashes

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed())

    def add(self, name: str) -> None:
        """Add a string, if it is not in the set already."""
        hashes = self._hashes
        if name not in hashes:
            hashes[name] = hash_of(name)
            self._listed = None
            if len(hashes) * 4 > self._capacity * 3:
                self._capacity *= 2

    def discard(self, name: str) -> None:
        """Remove a string, if it is in the set."""
        if self._hashes.pop(name, None) is not None:
            self._listed = None

    def listed(self) -> list[str]:
        """The strings in order. The list is cached, so do not modify it."""
        if self._listed is None:
            self._listed = self._in_slots(self._hashes, self._capacity)
        return self._listed

    def copied(self) -> list[str]:
        """The strings in the order of a clone of the set, whose table is as small as possible."""
        capacity = 1
        while capacity < int(len(self) / 0.75 + 1):
            capacity *= 2
        return self._in_slots(self.listed(), capacity)

    def _in_slots(self, names: dict[str, int] | list[str], capacity: int) -> list[str]:
        mask, hashes = capacity - 1, self._hashes
        return sorted(names, key=lambda name: hashes[name] & mask)
