"""What of a tree to read: in which order, and how much at once. No I/O.

Reads are answered in the order in which they were queued. "All that is being read now" is therefore a
number, a *target*: the number of reads queued by now, to be reached by the number of reads answered. Where
the order does not hold (a batch was lost, was overtaken, or a node has to be read again), `extend_targets`
moves all targets behind what is queued by then.

What breaks connections
-----------------------
One of the reads may be what breaks the connection. The paths of a lost batch become *suspects*: they are
read in batches an eighth as large, without other paths, down to one path per batch. A batch never grows
before its paths were read, and a single path is always read by an identical request, whose losses the
session counts. It takes at most three steps to find the path; then `ConnectionLoss.is_hopeless` ends the
attempts."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from corral.types import Znode
from corral.wire import messages
from corral.wire.messages import MultiResult, Operation

__all__ = ["DEEP", "LISTED", "SHALLOW", "Batch", "TreeReads", "as_node"]

# How many nodes one batch reads: few at first, and more while the answers stay small, since large nodes would
# add up to an answer of a gigabyte.
FIRST_BATCH = 32
LARGEST_BATCH = 512
# How much data an answer should have, in bytes.
GOOD_ANSWER = 256 * 1024
# Batches of up to so many nodes list the children of nodes that may have none.
LISTED_UNSEEN = 64
# How many batches are under way at once. With the above it bounds the memory of loading, beside the tree
# itself.
AT_ONCE = 4
# By how much batches shrink when a connection broke on one: three steps from the largest to a single path.
SHRINK_ON_LOSS = 8

# How a node is read. If it is queued twice, the greater value counts.
SHALLOW = 0
DEEP = 1
"""Its descendants are read after it."""
LISTED = 2
"""Deep, and the node is known to have children."""

Answer: TypeAlias = "tuple[str, int, MultiResult, MultiResult | None]"
"""Path, how it was read, the node, and its children if they were listed."""


class Batch:
    """One `multiRead`: paths, and how each is read."""

    def __init__(self, paths: dict[str, int], recreated: dict[str, int]) -> None:
        self.paths = paths
        """Those that were not taken from the answer yet."""
        self.is_outdated = False
        """Whether reading the tree has started over since this batch was sent."""
        self._lists_from = LISTED if len(paths) > LISTED_UNSEEN else DEEP
        self._recreated = {path: recreated[path] for path in paths if path in recreated} if recreated else {}

    def encode(self) -> bytes:
        """The body of the request."""
        ops: list[tuple[Operation, bytes]] = []
        for path, how in self.paths.items():
            body = messages.encode_get(path, False)
            ops.append((messages.GET, body))
            if how >= self._lists_from:
                ops.append((messages.CHILDREN, body))  # the same fields as a get: path and flag
        return messages.encode_multi(ops)

    def take(self, results: Sequence[MultiResult], reads: TreeReads) -> Iterator[Answer]:
        """Take the answers one by one."""
        remaining = iter(results)
        for path, how in list(self.paths.items()):
            got = next(remaining)
            listed = next(remaining) if how >= self._lists_from else None
            del self.paths[path]
            reads.answered += 1
            if self.is_outdated:
                how, listed = SHALLOW, None
            reads.deep -= how > SHALLOW
            if self._recreated and reads.recreated.get(path, 0) == self._recreated.get(path):
                del reads.recreated[path]
            yield path, how, got, listed


class TreeReads:
    """The reads of one tree."""

    def __init__(self) -> None:
        self.queued = 0
        """How many reads were ever queued."""
        self.answered = 0
        """How many of them were answered, or are not needed any more."""
        self.deep = 0
        """How many deep reads are queued or under way. While there are any, the tree is being loaded."""
        self.recreated: dict[str, int] = {}
        """Nodes created or deleted since their last read was sent: their identity may have changed. Each with
        the number of that event, which tells whether a read was sent before it."""
        self._recreations = 0
        self._extended_target = 0
        self._queue: OrderedDict[str, int] = OrderedDict()
        self._under_way: deque[Batch] = deque()
        self._size = FIRST_BATCH
        self._suspects: set[str] = set()
        self._suspect_size = LARGEST_BATCH

    def __bool__(self) -> bool:
        return bool(self._queue or self._under_way)

    @property
    def waiting(self) -> int:
        """How many reads are queued and not sent yet."""
        return len(self._queue)

    def add(self, path: str, how: int) -> None:
        """Queue the read of a node."""
        before = self._queue.get(path)
        if before is None:
            self.queued += 1
            before = SHALLOW
        self._queue[path] = max(how, before)
        self.deep += how > SHALLOW and before == SHALLOW

    def is_reached(self, target: int) -> bool:
        """Whether all reads are answered that were queued when `queued` was `target`."""
        return self.answered >= max(target, self._extended_target)

    def extend_targets(self) -> None:
        """Answers are out of order: have all targets include what is queued now."""
        self._extended_target = self.queued

    def mark_recreated(self, path: str) -> None:
        """A node may have another identity than is known, until it was read."""
        self._recreations += 1
        self.recreated[path] = self._recreations

    def start_over(self, root: str) -> None:
        """Read the whole tree from the root. This includes all that is queued, each node after its parent."""
        for batch in self._under_way:
            batch.is_outdated = True
        self.answered += len(self._queue)
        self._queue.clear()
        self.recreated.clear()
        self.deep = 0
        self.add(root, DEEP)

    def abandon(self) -> None:
        """Read nothing any more."""
        self._queue.clear()
        self._under_way.clear()
        self.recreated.clear()
        self.deep = 0
        self.answered = self.queued

    def is_expected(self, path: str) -> bool:
        """Whether a read of the node is queued or under way."""
        return path in self._queue or any(path in batch.paths for batch in self._under_way)

    # Batches under way

    def next_batch(self, room: int) -> Batch | None:
        """What to send now, in at most `room` bytes; None if nothing is queued, or enough is under way."""
        queue = self._queue
        if not queue or len(self._under_way) >= AT_ONCE:
            return None
        paths: dict[str, int] = {}
        suspects = self._suspects
        are_suspects = next(iter(queue)) in suspects
        size = min(self._size, self._suspect_size) if are_suspects else self._size
        while queue and len(paths) < size:
            path, how = queue.popitem(last=False)
            room -= 2 * (3 * len(path) + 16)  # at most three bytes per character, and the fields around
            if paths and (room < 0 or (path in suspects) is not are_suspects):
                queue[path] = how
                queue.move_to_end(path, last=False)
                break
            paths[path] = how
        batch = Batch(paths, self.recreated)
        self._under_way.append(batch)
        return batch

    def is_under_way(self, batch: Batch) -> bool:
        """Whether the answer to a batch is awaited."""
        return batch in self._under_way

    def is_next(self, batch: Batch) -> bool:
        """Whether the batch is the oldest one under way."""
        return self._under_way[0] is batch

    def done(self, batch: Batch, asked: Sequence[str], size: int) -> None:
        """A batch of the nodes `asked` was answered, with `size` bytes of data."""
        self._under_way.remove(batch)
        if self._suspects:
            self._suspects.difference_update(asked)
            if not self:
                self._suspects.clear()  # the remaining ones are not in the tree any more
            if not self._suspects:
                self._suspect_size = LARGEST_BATCH
        if size > GOOD_ANSWER:
            self._size = max(1, self._size * GOOD_ANSWER // size)
        elif len(asked) == self._size:
            self._size = min(2 * self._size, LARGEST_BATCH)

    def retry_smaller(self, batch: Batch, *, too_large: bool) -> None:
        """A batch has no answer, because it is too large or because the connection broke on it: queue its
        paths again, for smaller batches."""
        self._under_way.remove(batch)
        if too_large:
            self._size = max(1, len(batch.paths) // 2)
        else:
            self._suspects.update(batch.paths)
            self._suspect_size = max(1, min(self._suspect_size, len(batch.paths) // SHRINK_ON_LOSS))
        if batch.is_outdated:
            self.answered += len(batch.paths)
            return
        again = OrderedDict(batch.paths)  # at the front, to be answered in the order of queueing
        for path, how in batch.paths.items():
            waiting = self._queue.pop(path, None)
            if waiting is not None:
                again[path] = max(how, waiting)
                self.answered += 1
                self.deep -= how > SHALLOW and waiting > SHALLOW
        again.update(self._queue)
        self._queue = again


def as_node(got: MultiResult) -> Znode:
    """The node that was read."""
    node: Znode = tuple.__new__(Znode, got.value)  # faster than NamedTuple's constructor, which shows here
    return node
