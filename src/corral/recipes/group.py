"""Who is there: a group of members, each of which is an ephemeral znode (N1, N2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from corral import errors, verify
from corral.types import Stat, Znode

from .kit import ops
from .kit.context import RecipeContext
from .kit.decoded_children import ChildrenChange, DecodedWatch
from .kit.node_names import PROTECTED
from .kit.registration import OnTaken
from .registration import Registration

__all__ = ["GROUP", "Group", "GroupLayoutName", "GroupWatch", "Member", "Members", "Membership"]

GroupLayoutName: TypeAlias = Literal["curator", "kazoo", "kazoo_shallow"]


class GroupLayout(NamedTuple):
    """How members are named."""

    node_name: Callable[[str], str]
    """The name of the znode of a member with this name."""
    member_name: Callable[[str, bytes], str | None]
    """The name of the member whose znode has this name and data; None if it is not a member's."""
    name_is_data: bool = False

    def member(self, node: str, znode: Znode) -> Member | None:
        """The member with this znode, if it is one's."""
        name = self.member_name(node, znode.data)
        return None if name is None else Member(name, *znode)


def _hex_guid() -> str:
    return PROTECTED.new_guid().replace("-", "")


_PARTY = "__party__"
_SHALLOW_PARTY = re.compile(r"[0-9a-f]{32}-(.*)", re.DOTALL)


def _party_member(node: str, data: bytes) -> str | None:
    return data.decode(errors="replace") if _PARTY in node else None


def _shallow_party_member(node: str, data: bytes) -> str | None:
    match = _SHALLOW_PARTY.fullmatch(node)
    return match and match[1]


GROUP: Mapping[str, GroupLayout] = {
    "curator": GroupLayout(lambda name: name, lambda node, data: node),
    "kazoo": GroupLayout(lambda name: _hex_guid() + _PARTY, _party_member, name_is_data=True),
    "kazoo_shallow": GroupLayout(
        lambda name: f"{_hex_guid()}-{name}", _shallow_party_member, name_is_data=True
    ),
}
"""Curator's GroupMember; kazoo's Party and ShallowParty."""


class Member(NamedTuple):
    """A member of a group."""

    name: str
    data: bytes
    stat: Stat


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a group, and how they have changed since the last event."""

    members: tuple[Member, ...] = field(repr=False)
    """All members now, in the order of their znodes' names."""
    joined: tuple[Member, ...]
    """Those that are new; in the first event, all."""
    left: tuple[Member, ...]
    """Those that are gone, as they were last reported."""
    changed: tuple[Member, ...]
    """Those whose data was set, or that left and joined again, since the last event."""


class GroupWatch(DecodedWatch[Member, Members]):
    """The members of a group as an async iterator of `Members`. Made by ``group.watch()``, for one reader.

    Use it as ``async for members in group.watch():``, or in ``async with`` for a definite end. The first
    event has the members now. Each later one has all that has changed since the one before: a slow reader
    misses what is over, and gets the newest state. A group whose znode does not exist is empty. Leaving the
    loop, an exception, or dropping the object ends the watch. All readers of one group in a client share one
    server watch, and one read for each change, also with the caches and tree watches of its children.

    **On cancel** of ``anext`` nothing is lost: the next ``anext`` returns it. **On loss** of the connection
    it waits, without a limit, and reports the differences afterwards. It raises what `TreeWatch` does, and
    the next ``anext`` tries again. Members whose znodes we may not read are left out.
    """

    _verb = "group(...).watch"

    def __init__(self, context: RecipeContext, layout: GroupLayout) -> None:
        super().__init__(context, layout.member)

    def _event(self, values: tuple[Member, ...], change: ChildrenChange[Member]) -> Members:
        return Members(values, change.added, change.removed, change.changed)


class Membership(Registration):
    """Being a member of a group. Made by ``group.join(data)``.

    ``async with group.join(b"host-7:8080") as me:`` joins, and leaving the block leaves the group. In between
    it is a `Registration`: the member joins again, by itself, with its newest data, in each new session. What
    is promised **on cancel** and **on loss**, the errors and the required permissions are those of
    `Registration`. `name` is the member's.
    """

    _kind = "membership"

    def __init__(self, context: RecipeContext, name: str, on_taken: OnTaken) -> None:
        super().__init__(context, on_taken)
        self.name = name


class Group:
    """A group of members, each with a name and data. Made by ``zk.group(path)``.

    A member is an ephemeral child of `path`: it is there as long as its client is. Any number of members may
    join through one client, and any number of tasks may use one group.

    The layout is that of Curator's ``GroupMember``. With ``layout="kazoo"`` it is that of kazoo's ``Party``,
    with ``"kazoo_shallow"`` that of its ``ShallowParty``. A member of these has no data beside its name,
    which need not be unique; other clients' znodes that are not members are ignored.

    **On cancel** and **on loss** see `Membership` for joining, `GroupWatch` for watching, and `members`.
    """

    def __init__(self, context: RecipeContext, layout: GroupLayout) -> None:
        self.path = context.path
        self._context = context
        self._layout = layout

    def join(self, data: bytes = b"", *, name: str | None = None, on_taken: OnTaken = "wait") -> Membership:
        """A membership, to be entered with ``async with``; see `Membership`. Does no I/O.

        `data` is what others see of the member. `name` is by default a new GUID. If the name is taken by
        somebody else, entering waits until they have left; with ``on_taken="raise"`` it raises `NodeExists`.
        In kazoo's layouts the name is the data, in UTF-8: pass one of them.

        Raises `UsageValueError` and `UsageTypeError`, such as for a name that no znode can have.
        """
        data, on_taken = verify.data(data), verify.on_taken(on_taken)
        if self._layout.name_is_data:
            name = _kazoo_name(data, name)
            data = name.encode()
        elif name is None:
            name = PROTECTED.new_guid()
        node = verify.node_name(self._layout.node_name(name), "name")
        return Membership(self._context.child(node, data), name, on_taken)

    async def members(self) -> list[Member]:
        """The members now, in the order of their znodes' names; none if there is no znode at `path`.

        It reads the names and then each member, so one that joins or leaves meanwhile may be missing. Those
        that we may not read are left out. On cancel it ends at once. On loss of the connection it continues,
        and raises `ConnectionLoss` when that is hopeless (`ConnectionLoss.MOST_LOSSES`). Raises `NoAuth` if
        we may not list the group. Requires READ.
        """
        context = self._context
        found = await ops.read_children(context.session, context.full, context.path)
        members = (self._layout.member(node, znode) for node, znode in found)
        return [member for member in members if member is not None]

    def watch(self) -> GroupWatch:
        """The members as an async iterator; see `GroupWatch`. Does no I/O."""
        return GroupWatch(self._context, self._layout)

    def __repr__(self) -> str:
        return f"<Group {self.path!r}>"


def _kazoo_name(data: bytes, name: str | None) -> str:
    """The name of a member whose data is its name."""
    if name is not None:
        if data:
            raise errors.UsageValueError(
                "in kazoo's layouts the name of a member is its data; pass data or name, not both"
            )
        return verify.text(name, "name")
    try:
        return data.decode() or _hex_guid()
    except UnicodeDecodeError:
        raise errors.UsageValueError(
            "in kazoo's layouts the data of a member is its name, in UTF-8, and this is not; encode it so"
        ) from None
