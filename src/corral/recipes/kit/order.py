"""Who came first: the numbers that the server appends to the names of sequential znodes.

The server's counter is a signed 32-bit number. At 2^31 - 1 it neither wraps nor stops: it returns that number
again and again, and negative numbers within one burst of creates (seen on 3.8.0: `DataTree.createNode` keeps
a parent's cversion only if it has grown). Numbers below that are therefore trusted. All others were given
later, and the zxid of their creation orders them, at the price of reading each `Stat`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["LAST_NUMBER", "InOrder", "in_order", "is_trusted", "numbers", "position"]

LAST_NUMBER = 0x7FFFFFFF
"""The last number that the server gives. It gives this number more than once."""


def is_trusted(number: int) -> bool:
    """Whether the server gives this number only once."""
    return 0 <= number < LAST_NUMBER


def position(number: int, czxid: int) -> int:
    """The sort key of a znode: its number, or behind all trusted numbers, the zxid of its creation."""
    return number if is_trusted(number) else LAST_NUMBER + czxid


def numbers(names: Iterable[str], labels: tuple[str, ...]) -> dict[str, int]:
    """The names that end in one of the labels and a number, with their numbers. The format of a number is
    "%010d" of a signed 32-bit integer."""
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


class InOrder(NamedTuple):
    """Names that have one of some labels, in order."""

    numbers: list[int]
    """The trusted numbers, ascending."""
    names: list[str]
    """The names that have these numbers."""
    late: list[str]
    """The names behind all of these, created after the numbers had run out. Their order is unknown here."""


def in_order(names: Sequence[str], labels: tuple[str, ...]) -> InOrder:
    """The names with these labels, in the order of their numbers."""
    order = numbers(names, labels)
    trusted = [name for name, number in order.items() if is_trusted(number)]
    trusted.sort(key=order.__getitem__)
    late = [name for name in order if not is_trusted(order[name])] if len(trusted) < len(order) else []
    return InOrder([order[name] for name in trusted], trusted, late)
