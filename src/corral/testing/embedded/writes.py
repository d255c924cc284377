"""What a write asks for, what it is refused for, and what it comes to.

A server handles a write in two steps. *Preparing* looks at the tree, checks in a fixed order that decides
which of several errors is answered, and gives a change. *Applying* cannot fail. `Writes` prepares; the
change knows how to apply itself.

A transaction prepares all its operations before it applies any, each against a `Draft`: the tree as the
changes before it would leave it. So all or nothing needs no undoing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from corral.types import Acl
from corral.wire import messages

from . import acls
from .acls import AccessList, Identity
from .codes import (
    BAD_ARGUMENTS,
    BAD_VERSION,
    MARSHALLING_ERROR,
    NO_CHILDREN_FOR_EPHEMERALS,
    NO_NODE,
    NODE_EXISTS,
    NOT_EMPTY,
    RUNTIME_INCONSISTENCY,
    UNIMPLEMENTED,
    Refused,
)
from .tree import SPECIAL, Node, Tree, int32, parent_of

__all__ = [
    "Author",
    "Change",
    "Creation",
    "Deletion",
    "NewAcl",
    "NewData",
    "Verified",
    "Writes",
]

_MOST_TTL = (1 << 40) - 1


class Author(Protocol):
    """Whoever writes."""

    @property
    def session_id(self) -> int:
        """The session, which owns the ephemerals."""

    @property
    def identities(self) -> Sequence[Identity]:
        """Who that is, to access control."""


class Seen(Protocol):
    """What preparing looks at in a node."""

    @property
    def version(self) -> int: ...
    @property
    def aversion(self) -> int: ...
    @property
    def creations(self) -> int: ...
    @property
    def ephemeral_owner(self) -> int: ...
    @property
    def acl(self) -> AccessList: ...
    @property
    def child_count(self) -> int: ...


class View(Protocol):
    """The tree, or a draft of it."""

    def find(self, path: str) -> Seen | None:
        """The node at a path, if there is one."""


# Changes


class Creation(NamedTuple):
    """A node is created; `creations` is the parent's count from then on."""

    path: str
    data: bytes | None
    acl: AccessList
    ephemeral_owner: int
    is_container: bool
    ttl: int
    creations: int

    def node(self, zxid: int, time: int) -> Node:
        """The node, as a transaction makes it."""
        return Node(
            self.data,
            self.acl,
            zxid=zxid,
            time=time,
            ephemeral_owner=self.ephemeral_owner,
            is_container=self.is_container,
            ttl=self.ttl,
        )


class Deletion(NamedTuple):
    """A node is deleted."""

    path: str


class NewData(NamedTuple):
    """A node's data is set."""

    path: str
    data: bytes | None
    version: int


class NewAcl(NamedTuple):
    """A node's ACL is set."""

    path: str
    acl: AccessList
    version: int


class Verified(NamedTuple):
    """Nothing changes: a node's version is as it was said to be."""

    path: str


Change = Creation | Deletion | NewData | NewAcl | Verified


# Paths


def check_path(path: str) -> None:
    """Refuse a path that no node may have."""
    if path == "/":
        return
    if not path.startswith("/") or path.endswith("/"):
        raise Refused(BAD_ARGUMENTS)
    for name in path.split("/")[1:]:
        if name in ("", ".", ".."):
            raise Refused(BAD_ARGUMENTS)
    if not path.isascii() or not path.isprintable():
        for character in path:
            if _is_forbidden(ord(character)):
                raise Refused(BAD_ARGUMENTS)


def _is_forbidden(code: int) -> bool:
    # Java sees two surrogates in what is beyond U+FFFF, and forbids those.
    return code <= 0x1F or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xF8FF or code >= 0xFFF0


def _parent_for_change(path: str) -> str:
    if "/" not in path or "\0" in path:
        raise Refused(BAD_ARGUMENTS)
    return parent_of(path)


# Modes of creation


class _Mode(NamedTuple):
    is_ephemeral: bool = False
    is_sequential: bool = False
    is_container: bool = False
    has_ttl: bool = False


_MODES = (
    _Mode(),
    _Mode(is_ephemeral=True),
    _Mode(is_sequential=True),
    _Mode(is_ephemeral=True, is_sequential=True),
    _Mode(is_container=True),
    _Mode(has_ttl=True),
    _Mode(has_ttl=True, is_sequential=True),
)
"""By the flags of a create."""


def _mode(flags: int) -> _Mode:
    if not 0 <= flags < len(_MODES):
        raise Refused(BAD_ARGUMENTS)
    return _MODES[flags]


_CREATE = messages.CREATE.opcode
_CREATE2 = messages.CREATE2.opcode
_CREATE_CONTAINER = messages.CREATE_CONTAINER.opcode
_CREATE_TTL = messages.CREATE_TTL.opcode
_FAILS = -1
"""Stands for the opcode of an operation that a server fails at when it comes to it."""


class Writes:
    """Prepares writes against a view of the tree."""

    def __init__(self, tree: Tree, *, version: str, extended_types: bool) -> None:
        self._tree = tree
        self._version = version
        self._extended_types = extended_types

    def create(
        self,
        view: View,
        author: Author,
        opcode: int,
        path: str,
        data: bytes | None,
        entries: Sequence[Acl],
        flags: int,
        ttl: int = -1,
    ) -> Creation:
        """Any of the creates. It is the opcode that makes a container or gives a time to live; the flags say
        the rest, and have to agree about the time to live only."""
        mode = _mode(flags)
        if mode.has_ttl:
            if not self._extended_types:
                raise Refused(UNIMPLEMENTED)
            if not 0 < ttl <= _MOST_TTL:
                raise Refused(BAD_ARGUMENTS)
        elif opcode == _CREATE_TTL:
            # With a time below zero a real 3.8 accepts this, and its pipeline dies of it.
            raise Refused(BAD_ARGUMENTS)
        parent_path = _parent_for_change(path)
        acl = acls.fix(entries, author.identities, ipv6=self._version != "3.8")
        parent = view.find(parent_path)
        if parent is None:
            raise Refused(NO_NODE)
        parent.acl.demand(acls.CREATE, author.identities)
        if mode.is_sequential:
            path = f"{path}{parent.creations:010d}"
        check_path(path)
        if view.find(path) is not None:
            raise Refused(NODE_EXISTS)
        if parent.ephemeral_owner:
            raise Refused(NO_CHILDREN_FOR_EPHEMERALS)
        is_container = opcode == _CREATE_CONTAINER
        return Creation(
            path,
            data,
            acl,
            author.session_id if mode.is_ephemeral and not is_container else 0,
            is_container,
            ttl if mode.has_ttl else 0,
            int32(parent.creations + 1),
        )

    def delete(self, view: View, author: Author, path: str, version: int) -> Deletion:
        """A delete. The permission is the parent's to give."""
        parent_path = _parent_for_change(path)
        if path in SPECIAL:
            raise Refused(BAD_ARGUMENTS)
        parent = view.find(parent_path)
        if parent is None:
            raise Refused(NO_NODE)
        parent.acl.demand(acls.DELETE, author.identities)
        node = view.find(path)
        if node is None:
            raise Refused(NO_NODE)
        _next_version(node.version, version)
        if node.child_count:
            raise Refused(NOT_EMPTY)
        return Deletion(path)

    def set_data(self, view: View, author: Author, path: str, data: bytes | None, version: int) -> NewData:
        """A set."""
        check_path(path)
        node = view.find(path)
        if node is None:
            raise Refused(NO_NODE)
        node.acl.demand(acls.WRITE, author.identities)
        return NewData(path, data, _next_version(node.version, version))

    def set_acl(self, view: View, author: Author, path: str, entries: Sequence[Acl], version: int) -> NewAcl:
        """A setACL. The version is that of the ACL."""
        check_path(path)
        acl = acls.fix(entries, author.identities, ipv6=self._version != "3.8")
        node = view.find(path)
        if node is None:
            raise Refused(NO_NODE)
        node.acl.demand(acls.ADMIN, author.identities)
        return NewAcl(path, acl, _next_version(node.aversion, version))

    def check(self, view: View, author: Author, path: str, version: int) -> Verified:
        """A check of a version."""
        check_path(path)
        node = view.find(path)
        if node is None:
            raise Refused(NO_NODE)
        node.acl.demand(acls.READ, author.identities)
        _next_version(node.version, version)
        return Verified(path)

    def transaction(
        self, author: Author, operations: Iterable[tuple[messages.Operation, Any]]
    ) -> list[tuple[int, int, Change | None]]:
        """For each operation of a transaction the opcode that its result has, an error code, its change.

        If one is refused, none has a change: those before it have no error, those after it
        `RUNTIME_INCONSISTENCY`.
        """
        understood = [self._as_understood(operation, fields) for operation, fields in operations]
        prepared: list[tuple[int, int, Change | None]] = []
        draft = Draft(self._tree)
        for at, (opcode, fields) in enumerate(understood):
            if opcode == _FAILS:
                raise Refused(MARSHALLING_ERROR)
            try:
                change = self._in_transaction(draft, author, opcode, fields)
            except Refused as refused:
                after = len(understood) - at - 1
                return [
                    *((opcode, 0, None) for opcode, _, _ in prepared),
                    (opcode, refused.code, None),
                    *((opcode, RUNTIME_INCONSISTENCY, None) for _ in range(after)),
                ]
            draft.note(change)
            prepared.append((_result_opcode(opcode), 0, change))
        return prepared

    def _as_understood(self, operation: messages.Operation, fields: Any) -> tuple[int, Any]:
        """What an operation in a transaction is, and its fields.

        Of a create, the flags decide whether it makes a container or gives a time to live; up to 3.8 the
        opcode does not matter beside them, so that a create2 is answered as a create (ZOOKEEPER-4026). What
        a version does not expect in the flags of an opcode makes the transaction fail as a whole; up to 3.8
        only if nothing before it was refused, which is `_FAILS`.
        """
        opcode = operation.opcode
        if operation in (messages.GET, messages.CHILDREN):
            raise Refused(MARSHALLING_ERROR)
        if opcode not in (_CREATE, _CREATE2, _CREATE_CONTAINER, _CREATE_TTL):
            return opcode, fields
        flags = fields[3]
        known = 0 <= flags < len(_MODES)
        mode = _MODES[flags] if known else _MODES[0]
        if opcode != _CREATE_TTL:
            if self._version == "3.8" and mode.has_ttl:
                return _FAILS, fields
            if self._version != "3.8" and not known:
                raise Refused(MARSHALLING_ERROR)
        if mode.has_ttl:
            return _CREATE_TTL, fields
        if mode.is_container:
            return _CREATE_CONTAINER, fields[:4]
        if self._version == "3.8" or opcode == _CREATE_TTL:
            return _CREATE, fields[:4]
        return opcode, fields

    def _in_transaction(self, draft: View, author: Author, opcode: int, fields: Any) -> Change:
        if opcode == messages.DELETE.opcode:
            return self.delete(draft, author, *fields)
        if opcode == messages.SET.opcode:
            return self.set_data(draft, author, *fields)
        if opcode == messages.CHECK.opcode:
            return self.check(draft, author, *fields)
        return self.create(draft, author, opcode, *fields)


def _next_version(current: int, expected: int) -> int:
    if expected not in (-1, current):
        raise Refused(BAD_VERSION)
    return int32(current + 1)


def _result_opcode(opcode: int) -> int:
    return _CREATE2 if opcode in (_CREATE_CONTAINER, _CREATE_TTL) else opcode


@dataclass(slots=True)
class _Sketch:
    """A node in a draft."""

    version: int
    aversion: int
    creations: int
    ephemeral_owner: int
    acl: AccessList
    child_count: int


class Draft:
    """The tree as it would be after changes that are not made yet."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._changed: dict[str, _Sketch | None] = {}

    def find(self, path: str) -> Seen | None:
        """The node at a path, as it would be."""
        if path in self._changed:
            return self._changed[path]
        return self._tree.find(path)

    def note(self, change: Change) -> None:
        """A change would be made."""
        if isinstance(change, Creation):
            parent = self._sketch(parent_of(change.path))
            parent.creations = change.creations
            parent.child_count += 1
            self._changed[change.path] = _Sketch(0, 0, 0, change.ephemeral_owner, change.acl, 0)
        elif isinstance(change, Deletion):
            self._sketch(parent_of(change.path)).child_count -= 1
            self._changed[change.path] = None
        elif isinstance(change, NewData):
            self._sketch(change.path).version = change.version

    def _sketch(self, path: str) -> _Sketch:
        sketch = self._changed.get(path)
        if sketch is None:
            node = self._tree.nodes[path]
            sketch = self._changed[path] = _Sketch(
                node.version, node.aversion, node.creations, node.ephemeral_owner, node.acl, node.child_count
            )
        return sketch
