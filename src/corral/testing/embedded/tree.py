"""The data tree: nodes, and the effect of each change on them. Nothing here is refused: `writes` has checked
it.

The counters of a node:

- ``version`` and ``aversion`` count the changes of data and of the ACL. They wrap like signed 32-bit
  integers.
- ``creations`` counts the children that were ever created; it is the number of the next sequential child. The
  ``cversion`` that clients see counts deletions, too: it is twice ``creations`` minus the number of children.
- At 2^31 - 1 ``creations`` stops: when a child is created, neither it nor ``pzxid`` changes any more, and all
  sequential children get that same number. A deletion still changes ``pzxid``.
- ``pzxid`` is the transaction that last created or deleted a child; without one, that which created the node.

`Node.ephemeral_owner` is what clients see: the session, or 0 for containers and TTL nodes, which a real
server marks in the same field.

A new tree is that of a standalone server: ``/zookeeper`` with ``quota`` and ``config``, which no transaction
has created, so that all their counters are 0. Quotas can be set there, but are neither counted nor enforced.
(A real server counts them, and enforces them only if it is configured to.)
"""

from __future__ import annotations

from corral.types import Stat

from .acls import OPEN, READABLE, AccessList
from .hashing import HashSet

__all__ = ["SPECIAL", "Node", "Tree", "int32", "parent_of"]

SPECIAL = frozenset({"/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"})
"""Nodes that cannot be deleted."""

_CHILDREN_TABLE = 8


def int32(number: int) -> int:
    """The number, wrapped like a signed 32-bit integer."""
    return (number + 0x8000_0000 & 0xFFFF_FFFF) - 0x8000_0000


def parent_of(path: str) -> str:
    """The path of the parent; that of the root is empty, as in a real server's map of nodes."""
    return path[: path.rindex("/")]


class Node:
    """A znode. Times are milliseconds since the epoch, `ttl` milliseconds or 0."""

    __slots__ = (
        "acl",
        "aversion",
        "children",
        "creations",
        "ctime",
        "czxid",
        "data",
        "ephemeral_owner",
        "is_container",
        "mtime",
        "mzxid",
        "pzxid",
        "ttl",
        "version",
    )

    def __init__(
        self,
        data: bytes | None,
        acl: AccessList,
        *,
        zxid: int = 0,
        time: int = 0,
        ephemeral_owner: int = 0,
        is_container: bool = False,
        ttl: int = 0,
    ) -> None:
        self.data = data
        self.acl = acl
        self.czxid = self.mzxid = self.pzxid = zxid
        self.ctime = self.mtime = time
        self.version = self.aversion = self.creations = 0
        self.ephemeral_owner = ephemeral_owner
        self.is_container = is_container
        self.ttl = ttl
        self.children = HashSet(_CHILDREN_TABLE)

    @property
    def child_count(self) -> int:
        """How many children there are."""
        return len(self.children)

    def stat(self) -> Stat:
        """The stat that clients get of the node."""
        children = len(self.children)
        return Stat(
            self.czxid,
            self.mzxid,
            self.ctime / 1000,
            self.mtime / 1000,
            self.version,
            int32(2 * self.creations - children),
            self.aversion,
            self.ephemeral_owner,
            len(self.data or b""),
            children,
            self.pzxid,
        )


class Tree:
    """All nodes, and indexes of ephemerals, containers and TTL nodes."""

    def __init__(self) -> None:
        root = Node(b"", OPEN)
        zookeeper = Node(b"", OPEN)
        self.nodes: dict[str, Node] = {
            "": root,  # the parent of top-level nodes
            "/": root,
            "/zookeeper": zookeeper,
            "/zookeeper/quota": Node(b"", OPEN),
            "/zookeeper/config": Node(b"", READABLE),
        }
        root.children.add("zookeeper")
        zookeeper.children.add("quota")
        zookeeper.children.add("config")
        self.nodes["/zookeeper/config"].aversion = -1
        self.ephemerals: dict[int, HashSet] = {}
        """The paths of ephemerals, by session. A session whose ephemerals were all deleted is still
        listed."""
        self.containers: dict[str, None] = {}
        self.ttls: dict[str, None] = {}

    def find(self, path: str) -> Node | None:
        """The node at a path; None if there is none."""
        return self.nodes.get(path)

    def create(self, path: str, node: Node, creations: int) -> Node:
        """Add a node; returns its parent, whose ``creations`` becomes this, unless the number has
        overflowed."""
        parent_path, _, name = path.rpartition("/")
        parent = self.nodes[parent_path]
        if creations > parent.creations:
            parent.creations = creations
            parent.pzxid = node.czxid
        parent.children.add(name)
        self.nodes[path] = node
        if node.ephemeral_owner:
            owned = self.ephemerals.get(node.ephemeral_owner)
            if owned is None:
                owned = self.ephemerals[node.ephemeral_owner] = HashSet()
            owned.add(path)
        elif node.is_container:
            self.containers[path] = None
        elif node.ttl:
            self.ttls[path] = None
        return parent

    def delete(self, path: str, zxid: int) -> tuple[Node, Node]:
        """Remove a node; returns it and its parent."""
        parent_path, _, name = path.rpartition("/")
        parent = self.nodes[parent_path]
        node = self.nodes.pop(path)
        parent.children.discard(name)
        parent.pzxid = zxid
        if node.ephemeral_owner:
            owned = self.ephemerals.get(node.ephemeral_owner)
            if owned is not None:  # it is None while the session is being closed
                owned.discard(path)
        elif node.is_container:
            del self.containers[path]
        elif node.ttl:
            del self.ttls[path]
        return node, parent

    def ephemerals_of(self, session_id: int) -> list[str]:
        """The paths of a session's ephemerals, in the order in which they are listed and deleted."""
        owned = self.ephemerals.get(session_id)
        return [] if owned is None else owned.copied()

    def expired(self, time: int) -> list[str]:
        """Containers whose children were all deleted, and TTL nodes that have expired, in the server's
        order."""
        found = HashSet()
        for path in self.containers:
            node = self.nodes[path]
            if not node.children and node.creations > 0:
                found.add(path)
        for path in self.ttls:
            node = self.nodes[path]
            if not node.children and time - node.mtime > node.ttl:
                found.add(path)
        return found.listed()

    def count_below(self, path: str) -> int:
        """How many descendants a node has."""
        if path == "/":
            return len(self.nodes) - 2
        prefix = path + "/"
        return sum(known.startswith(prefix) for known in self.nodes)

    def ephemeral_count(self) -> int:
        """How many ephemerals there are."""
        return sum(map(len, self.ephemerals.values()))

    def data_size(self) -> int:
        """The approximate size of all paths and data, in bytes."""
        return sum(len(path) + len(node.data or b"") for path, node in self.nodes.items())
