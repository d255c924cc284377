"""Which member of a partition gets which items (P2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from corral.errors import UsageTypeError, UsageValueError, shown

__all__ = ["Assign", "items_by_name", "items_of", "rendezvous"]

T = TypeVar("T")

Assign: TypeAlias = Callable[[Sequence[T], Sequence[str]], Mapping[str, Collection[T]]]
"""A pure function of the items and of the members' ids, both sorted, to the items of each member. Each item
is assigned to one member. All members must use the same function."""


def rendezvous(items: Sequence[T], members: Sequence[str]) -> dict[str, list[T]]:
    """Assign each item to the member with the highest hash of both: rendezvous hashing (Thaler and
    Ravishankar, 1996).

    When a member leaves, only its own items move; when one joins, only those that it gets. The loads differ
    by chance: with n items for each member, mostly by less than twice the square root of n. The hash is the
    same on all machines.
    """
    assigned: dict[str, list[T]] = {member: [] for member in members}
    for item in items:
        name = str(item)
        assigned[max(members, key=lambda member: _weight(member, name))].append(item)
    return assigned


def _weight(member: str, name: str) -> bytes:
    # The length keeps ("a", "b/c") and ("a/b", "c") apart.
    return hashlib.blake2b(f"{len(member)}/{member}/{name}".encode(), digest_size=8).digest()


def items_by_name(items: Iterable[T]) -> dict[str, T]:
    """The items by their names as znodes, sorted. Raises `UsageValueError` or `UsageTypeError` unless each
    has a name of its own."""
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise UsageTypeError(
            f"items must be an iterable such as range(64) or a list of names, not {shown(items)}"
        )
    named: dict[str, T] = {}
    for item in items:
        name = _name_of(item)
        if name in named:
            raise UsageValueError(
                f"items has {shown(str(item))} twice; each needs a str() of its own, which names its lock"
            )
        named[name] = item
    if not named:
        raise UsageValueError("items is empty; pass at least one")
    return {name: named[name] for name in sorted(named)}


def _name_of(item: object) -> str:
    cls = type(item)
    if item is None or (cls.__str__ is object.__str__ and cls.__repr__ is object.__repr__):
        raise UsageTypeError(
            f"items has {shown(item)}, whose str() does not name it in all processes; use str or int"
        )
    try:
        hash(item)
        name = quote(str(item), safe=" !$&'()*+,:;=@~")
    except (TypeError, UnicodeEncodeError, ValueError) as error:
        raise UsageTypeError(f"items has {shown(item)}, which cannot be used: {error}") from None
    if not name:
        raise UsageValueError("items has an empty name; each item needs a str() that is not empty")
    return name.replace(".", "%2E") if name in (".", "..") else name


def items_of(member: str, items: Sequence[T], members: Sequence[str], assign: Assign[T]) -> frozenset[T]:
    """What `assign` gives to a member. Raises `UsageValueError` unless it gives each item to one member."""
    if member not in members:
        return frozenset()
    assigned = assign(items, members)
    given: dict[T, str] = {}
    for who, theirs in assigned.items():
        if who not in members:
            raise UsageValueError(f"assign gave items to {shown(who)}, which is no member")
        for item in theirs:
            if item in given:
                raise UsageValueError(f"assign gave the item {shown(item)} to two members, or twice to one")
            given[item] = who
    wrong = given.keys() ^ set(items)
    if wrong:
        item = next(iter(wrong))
        what = "an item that there is not" if item in given else "no member"
        raise UsageValueError(f"assign must give each item to one member; {shown(item)} is given to {what}")
    return frozenset(assigned.get(member, ()))
