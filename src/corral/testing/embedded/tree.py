"""The data tree: nodes, and what each change makes of them. Nothing here refuses: `writes` has done that.

How the numbers of a node move:

- ``version`` and ``aversion`` count the settings of data and of the ACL, and wrap as 32-bit integers do.
- A node counts the children that were ever *created* below it; that is the number which the next sequential
  child gets. What clients see as ``cversion`` counts deletions too: it is twice the one less the children
  that there are now.
- At 2^31 - 1 the count of creations stops: neither it nor ``pzxid`` moves any more when a child is created,
  and every sequential child is given that one number. A deletion still moves ``pzxid``.
- ``pzxid`` is the transaction that last created or deleted a child; of a node without any, its own.

`Node.ephemeral_owner` is what clients see: the session, or 0 for containers and nodes with a time to live,
which a real server marks in the same field.

A fresh tree is that of a standalone server: ``/zookeeper`` with ``quota`` and ``config``, which no
transaction made, so that all their numbers are 0. Quotas may be set there, but are neither counted nor
enforced (a real server does not enforce them either, unless it is told to, but it does count).
"""

from __future__ import annotations

from corral.types import Stat

from .acls import OPEN, READABLE, AccessList
from .hashing import HashSet

__all__ = ["SPECIAL", "Node", "Tree", "int32", "parent_of"]

SPECIAL = frozenset({"/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"})
"""What cannot be deleted."""

_CHILDREN_TABLE = 8


def int32(number: int) -> int:
    """The number as it is after overflow of a signed 32-bit integer."""
    return (number + 0x8000_0000 & 0xFFFF_FFFF) - 0x8000_0000


def parent_of(path: str) -> str:
    """The path of the parent; the root's is empty here, as in the server's own map of nodes."""
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
        """What clients are told of the node beside its data."""
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
    """All nodes, and the indexes of those that do not stay: ephemerals, containers, those with a TTL."""

    def __init__(self) -> None:
        root = Node(b"", OPEN)
        zookeeper = Node(b"", OPEN)
        self.nodes: dict[str, Node] = {
            "": root,  # the parent of what is at the top
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
        """By session. A session that had some and has none any more is still there."""
        self.containers: dict[str, None] = {}
        self.ttls: dict[str, None] = {}

    def find(self, path: str) -> Node | None:
        """The node at a path, if there is one."""
        return self.nodes.get(path)

    def create(self, path: str, node: Node, creations: int) -> Node:
        """Put a node in; returns its parent, whose count of creations becomes this, unless it overflowed."""
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
        """Take a node out; returns it and its parent."""
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

    def outlived(self, time: int) -> list[str]:
        """Containers that had children and have none, and leaves that outlived their time, in order."""
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
        """How many nodes there are below a node, at any depth."""
        if path == "/":
            return len(self.nodes) - 2
        prefix = path + "/"
        return sum(known.startswith(prefix) for known in self.nodes)

    def ephemeral_count(self) -> int:
        """How many ephemerals there are."""
        return sum(map(len, self.ephemerals.values()))

    def data_size(self) -> int:
        """Roughly how much is stored, in bytes: paths and data."""
        return sum(len(path) + len(node.data or b"") for path, node in self.nodes.items())
