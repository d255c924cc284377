"""Merges what is read of a tree into its copy: each node below its parent, never older after newer. No I/O.

What is read
------------
A *deep* read of a node is followed by deep reads of its children: this loads the tree, and loads it again
when events may have been lost (ZOOKEEPER-4698). The same request lists the children, which makes a level of
the tree one round trip. In large batches most nodes are leaves; there only nodes whose `Stat` has children
are listed, by a second request. A known child that is not in the list was deleted. An event makes a
*shallow* read, which suffices: the children of a node created since have events of their own.

The right parent
----------------
A session is answered in order, events included. The states of one node can therefore be taken as they come.
But two nodes are not read at one instant, not even by one `multiRead`: a node may be read whose parent is
not known, or is known as it was before it was deleted and created again. Then an event of the parent has
come before, the parent is still to be read (`TreeReads.recreated`), and the node is read again after it.
While the tree is loaded again there may have been no event, and any parent may have been created again,
until its children were listed; a node that an event reports below such a parent is deferred until the tree
is loaded."""

from __future__ import annotations

import logging

from corral import errors, paths
from corral.types import Stat, Znode
from corral.wire.messages import MultiResult

from .copy import TreeCopy
from .filter import TreeFilter
from .reads import DEEP, LISTED, SHALLOW, Batch, TreeReads, as_node

__all__ = ["TreeMerger"]

logger = logging.getLogger("corral.watch")

# How many times in a row a node is read again because its parent is not known yet, and because the server
# answered with an older state than before. On a correct server each repetition takes another change at just
# that moment.
MOST_POSTPONED = 100
MOST_BACKWARD = 5
# How many deleted nodes are remembered, to recognize an answer from before the deletion.
MOST_DELETED = 1000


class TreeMerger:
    """Merges answers into `copy`, and queues in `reads` whatever has to be read because of them. `path` is
    the root as readers name it; `max_body` is in bytes."""

    def __init__(self, tree: TreeFilter, path: str, reads: TreeReads, copy: TreeCopy, max_body: int) -> None:
        self._tree = tree
        self._path = path
        self._reads = reads
        self._copy = copy
        # A path is in a request twice where the children are listed, too.
        self._longest_path = max_body // 2 - 32
        self._unreadable: set[str] = set()
        self._listed: set[str] = set()  # nodes whose children were listed since the loading began
        self._deferred: dict[str, None] = {}  # nodes to read again when the tree is loaded
        self._repetitions: dict[str, int] = {}  # how many times in a row a node was read again
        self._deleted: dict[str, int] = {}  # the czxids of deleted nodes
        self._has_warned = False

    def load(self) -> None:
        """Start to read the whole tree, perhaps again."""
        self._listed.clear()
        self._repetitions.clear()
        self._unreadable.clear()
        self._reads.start_over(self._tree.root)

    def finish_loading(self) -> None:
        """The whole tree was read: read what was deferred."""
        self._listed.clear()
        if self._deferred:
            for path in self._deferred:
                self._reads.add(path, SHALLOW)
            self._deferred.clear()
            self._reads.extend_targets()

    def abandon(self) -> None:
        """Read nothing any more."""
        self._reads.abandon()
        self._listed.clear()
        self._deferred.clear()
        self._repetitions.clear()

    # Which nodes belong to the tree

    def concerns(self, path: str) -> bool:
        """Whether a node that has changed belongs to the tree. Raises `TreeFilterError`."""
        if path != self._tree.root and not self.expects_children(paths.parent_of(path)):
            return False
        return self._can_be_read(path) and self._tree.accepts(path)

    def expects_children(self, parent: str) -> bool:
        """Whether events of a node's children matter: the node is known or about to be read. Children of any
        other node are filtered out or unreadable, or they are found when the parent is: its creation is
        reported before theirs, and a tree that is being loaded has not come to it yet."""
        return parent in self._copy.nodes or self._reads.is_expected(parent) or parent in self._deferred

    def _can_be_read(self, path: str) -> bool:
        """Whether a request can name the node. No client can have created a node that it cannot name."""
        room = self._longest_path
        return path == self._tree.root or 3 * len(path) <= room or len(path.encode()) <= room

    # Merging

    def merge(self, batch: Batch, results: list[MultiResult]) -> None:
        """Merge the answer to a batch. Raises the error that ends following the tree: a `TreeFilterError`, or
        a `CorralError` if the root cannot be read or the server's answers are impossible."""
        asked, size = tuple(batch.paths), 0
        for path, how, got, listed in batch.take(results, self._reads):
            if got.error == 0:
                node = as_node(got)
                size += len(node.data)
                self._found(path, node, how, listed)
            elif got.error == errors.NoNode.code:
                self._delete(path)
            elif path == self._tree.root:
                raise errors.server_error(got.error, "watch_tree", self._path)
            else:
                self._leave_out(path)
            if not self._reads.is_under_way(batch):
                return  # the filter has closed the last reader
        self._reads.done(batch, asked, size)

    def merge_write(self, path: str, data: bytes | None, stat: Stat | None) -> bool:
        """Merge what this client has written. Whether the copy has it now; otherwise it will be read."""
        if data is None:
            self._delete(path)
        elif stat is None or self._waits_for_parent(path, stat, SHALLOW):
            return False  # its event came before this answer: it is queued, or found when the tree is loaded
        elif self._goes_back(path, stat):
            self._reads.add(path, SHALLOW)
            return False
        else:
            self._publish(path, Znode(data, stat))
        return True

    def _found(self, path: str, node: Znode, how: int, listed: MultiResult | None) -> None:
        """A node was read, and perhaps its children listed."""
        if self._waits_for_parent(path, node.stat, how):
            self._postpone(path, how)
            return
        if self._goes_back(path, node.stat):
            self._count_repetition(path, "the server answers with an older state than before", MOST_BACKWARD)
            self._reads.add(path, how)
            self._reads.extend_targets()
            return
        self._repetitions.pop(path, None)
        self._deleted.pop(path, None)
        self._publish(path, node)
        if path in self._unreadable:
            self._unreadable.discard(path)
            how = DEEP  # events of its descendants were ignored
        if how == SHALLOW or not self._tree.accepts_children(path):
            return
        if listed is None:
            if node.stat.num_children:
                self._reads.add(path, LISTED)
            else:
                self._found_children(path, [])
        elif listed.error == 0:
            self._found_children(path, listed.value)

    def _found_children(self, path: str, names: list[str]) -> None:
        """The children of a node were listed."""
        if names:
            self._listed.add(path)
        found = [paths.join(path, name) for name in names]
        if known := self._copy.children.get(path):
            for child in set(known).difference(found):
                self._delete(child)
        for child in found:
            if self._can_be_read(child) and self._tree.accepts(child):
                self._reads.add(child, DEEP)

    def _leave_out(self, path: str) -> None:
        """We may not read a node."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "watch_tree of %r leaves out what we may not read, such as %r", self._path, self._named(path)
            )
        self._unreadable.add(path)
        self._publish(path, None)

    def _delete(self, path: str) -> None:
        """A node does not exist."""
        self._repetitions.pop(path, None)
        self._unreadable.discard(path)
        before = self._copy.nodes.get(path)
        if before is not None:
            self._deleted[path] = before.stat.czxid
            if len(self._deleted) > MOST_DELETED:
                del self._deleted[next(iter(self._deleted))]
        self._publish(path, None)

    def _publish(self, path: str, node: Znode | None) -> None:
        for each in self._copy.publish(path, node):
            self._reads.add(each, SHALLOW)

    def _named(self, path: str) -> str:
        """A full path as readers name it."""
        root = self._tree.root
        chroot = root.rstrip("/") if self._path == "/" else root.removesuffix(self._path)
        return paths.strip(chroot, path)

    # Impossible answers

    def _goes_back(self, path: str, stat: Stat) -> bool:
        """Whether a state is older than a known state of the node, or than its parent."""
        nodes = self._copy.nodes
        known = nodes.get(path)
        if known is not None:
            return (stat.czxid, stat.mzxid) < (known.stat.czxid, known.stat.mzxid)
        deleted = self._deleted.get(path)
        if deleted is not None and stat.czxid <= deleted:
            return True
        return path != self._tree.root and stat.czxid < nodes[paths.parent_of(path)].stat.czxid

    def _count_repetition(self, path: str, problem: str, most: int) -> None:
        """A node has to be read again; raises `ReplyError` after `most` times in a row."""
        self._repetitions[path] = times = self._repetitions.get(path, 0) + 1
        if times > most:
            raise errors.ReplyError("watch_tree", self._named(path), f"{problem}, {times} times in a row")

    # Nodes that wait for their parents

    def _waits_for_parent(self, path: str, stat: Stat, how: int) -> bool:
        """Whether a node was created since it was known, and its known parent may not be the current one."""
        nodes = self._copy.nodes
        known = nodes.get(path)
        if path == self._tree.root or (known is not None and known.stat.czxid == stat.czxid):
            return False
        parent = paths.parent_of(path)
        return parent not in nodes or parent in self._reads.recreated or self._is_doubtful(parent, how)

    def _is_doubtful(self, parent: str, how: int) -> bool:
        """Whether a parent may have been created again without an event, because the tree is being loaded."""
        return self._reads.deep > 0 and how == SHALLOW and parent not in self._listed

    def _postpone(self, path: str, how: int) -> None:
        """A node waits for its parent: read it again."""
        parent = paths.parent_of(path)
        if parent in self._unreadable:
            self._unreadable.add(path)  # keeps its descendants from waiting for it
            return
        self._count_repetition(path, "the server shows it, and does not show its parent", MOST_POSTPONED)
        if self._is_doubtful(parent, how):
            self._deferred[path] = None
        else:
            if not self._reads.is_expected(parent):
                self._reads.add(parent, SHALLOW)
            self._reads.add(path, how)
        self._reads.mark_recreated(path)  # as long as it waits, its descendants wait too
        self._reads.extend_targets()
