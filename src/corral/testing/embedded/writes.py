"""The checks of a write, and the change that it makes.

A server handles a write in two steps. *Preparing* reads the tree, makes its checks in a fixed order, which
decides which of several errors is the answer, and returns a change. *Applying* the change cannot fail.
`Writes` prepares; `Database.apply` applies.

A transaction prepares all its operations before it applies any, each against a `Draft`: the tree as the
changes before it would leave it. Nothing has to be undone if an operation is refused.
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
    """The connection that writes."""

    @property
    def session_id(self) -> int:
        """The session that owns the ephemerals it creates."""

    @property
    def identities(self) -> Sequence[Identity]:
        """Its identities for access control."""


class Seen(Protocol):
    """The properties of a node that preparing reads."""

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
    """A node is created; `creations` is its parent's new count."""

    path: str
    data: bytes | None
    acl: AccessList
    ephemeral_owner: int
    is_container: bool
    ttl: int
    creations: int

    def node(self, zxid: int, time: int) -> Node:
        """The node, as a transaction creates it."""
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
    """Nothing changes: a node has the expected version."""

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
"""The modes by the flags of a create."""


def _mode(flags: int) -> _Mode:
    if not 0 <= flags < len(_MODES):
        raise Refused(BAD_ARGUMENTS)
    return _MODES[flags]


_CREATE = messages.CREATE.opcode
_CREATE2 = messages.CREATE2.opcode
_CREATE_CONTAINER = messages.CREATE_CONTAINER.opcode
_CREATE_TTL = messages.CREATE_TTL.opcode
_FAILS = -1
"""In place of an opcode: a server fails when it reaches this operation."""


class Writes:
    """Prepares writes against a view of the tree."""

    def __init__(self, tree: Tree, *, version: str, extended_types: bool, sasl: bool) -> None:
        self._tree = tree
        self._version = version
        self._extended_types = extended_types
        self._sasl = sasl

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
        """Prepare any of the creates. The opcode decides about containers and TTLs, the flags about the rest;
        only about a TTL must they agree."""
        mode = _mode(flags)
        if mode.has_ttl:
            if not self._extended_types:
                raise Refused(UNIMPLEMENTED)
            if not 0 < ttl <= _MOST_TTL:
                raise Refused(BAD_ARGUMENTS)
        elif opcode == _CREATE_TTL:
            # With a negative TTL, a real 3.8 accepts this, and its request pipeline dies of it.
            raise Refused(BAD_ARGUMENTS)
        parent_path = _parent_for_change(path)
        acl = acls.fix(entries, author.identities, ipv6=self._version != "3.8", sasl=self._sasl)
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
        """Prepare a delete. The parent's ACL decides."""
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
        """Prepare a setData."""
        check_path(path)
        node = view.find(path)
        if node is None:
            raise Refused(NO_NODE)
        node.acl.demand(acls.WRITE, author.identities)
        return NewData(path, data, _next_version(node.version, version))

    def set_acl(self, view: View, author: Author, path: str, entries: Sequence[Acl], version: int) -> NewAcl:
        """Prepare a setACL. The version is that of the ACL."""
        check_path(path)
        acl = acls.fix(entries, author.identities, ipv6=self._version != "3.8", sasl=self._sasl)
        node = view.find(path)
        if node is None:
            raise Refused(NO_NODE)
        node.acl.demand(acls.ADMIN, author.identities)
        return NewAcl(path, acl, _next_version(node.aversion, version))

    def check(self, view: View, author: Author, path: str, version: int) -> Verified:
        """Prepare a check of a version."""
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
        """Prepare a transaction: for each operation the opcode of its result, an error code, and its change.

        If one is refused, none has a change. Those before it have error code 0, those after it
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
        """The opcode that a server gives an operation in a transaction, and its fields.

        In a transaction, the flags of a create decide about containers and TTLs. Up to 3.8 the opcode has no
        effect, and a create2 is answered like a create (ZOOKEEPER-4026). Flags that a release does not expect
        with an opcode make the whole transaction fail; up to 3.8 only if no operation before it was refused,
        hence `_FAILS`.
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
            if self._version != "3.8" and (mode.has_ttl or not known):
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
    """The tree as it would be after changes that are not applied yet."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._changed: dict[str, _Sketch | None] = {}

    def find(self, path: str) -> Seen | None:
        """The node at a path; None if there would be none."""
        if path in self._changed:
            return self._changed[path]
        return self._tree.find(path)

    def note(self, change: Change) -> None:
        """Add a change to the draft."""
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
