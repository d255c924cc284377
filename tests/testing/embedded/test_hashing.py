"""Sets in Java's order: compared with known orders, and with a model of a hash table."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from corral.testing.embedded.hashing import HashSet, hash_of


class Table:
    """A textbook hash table with chains."""

    def __init__(self, capacity: int) -> None:
        self.slots: list[list[str]] = [[] for _ in range(capacity)]

    def add(self, name: str) -> None:
        """Add a name, and double the table if it is too full."""
        slot = self.slots[hash_of(name) % len(self.slots)]
        if name in slot:
            return
        slot.append(name)
        if sum(map(len, self.slots)) > 0.75 * len(self.slots):
            names = self.listed()
            self.slots = [[] for _ in range(2 * len(self.slots))]
            for moved in names:
                self.slots[hash_of(moved) % len(self.slots)].append(moved)

    def discard(self, name: str) -> None:
        """Remove a name."""
        slot = self.slots[hash_of(name) % len(self.slots)]
        if name in slot:
            slot.remove(name)

    def listed(self) -> list[str]:
        """The names, slot by slot."""
        return [name for slot in self.slots for name in slot]


@pytest.mark.parametrize(
    ("text", "plain"),
    [("", 0), ("a", 97), ("ab", 31 * 97 + 98), ("é", 0xE9), ("\U0001f40e", 31 * 0xD83D + 0xDC0E)],
)
def test_hash(text: str, plain: int) -> None:
    """The hash is Java's, of UTF-16 units, with its upper half mixed into the lower."""
    assert hash_of(text) == plain ^ plain >> 16


def test_hash_overflows() -> None:
    """The hash is a 32-bit number."""
    assert hash_of("zookeeper" * 100) < 1 << 32


def test_order_is_neither_sorted_nor_of_creation() -> None:
    """The orders are those of a real server."""
    names = HashSet(8)
    for name in ("m", "ttl", "q"):
        names.add(name)
    assert names.listed() == ["q", "m", "ttl"]


@given(
    st.lists(st.tuples(st.booleans(), st.text("abé0-", min_size=1, max_size=4))),
    st.sampled_from([8, 16]),
)
def test_like_a_table(changes: list[tuple[bool, str]], capacity: int) -> None:
    """Whatever is added and removed, the order is that of the model."""
    ours, model = HashSet(capacity), Table(capacity)
    for is_added, name in changes:
        for names in (ours, model):
            (names.add if is_added else names.discard)(name)
        assert ours.listed() == model.listed()
        assert len(ours) == len(ours.listed())
        assert (name in ours) is is_added


@given(st.sets(st.text("abé0-", min_size=1, max_size=4)))
def test_copy(names: set[str]) -> None:
    """A clone has the same names."""
    ours = HashSet()
    for name in sorted(names):
        ours.add(name)
    assert sorted(ours.copied()) == sorted(names) == sorted(ours)
