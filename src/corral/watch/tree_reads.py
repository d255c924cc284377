"""What of a tree is to be read, and what is being read: in which order, and how many at once. No I/O.

Reads are answered in the order in which they were queued. So "all that was being read just now" is a number:
of how many were queued then, against how many are answered. Where that is not so, because a batch was lost or
was overtaken, whoever counts waits for all that is queued (`TreeFeed._extend`).

What breaks connections
-----------------------
A read may be what the connection breaks on. The paths of a batch that was lost are *suspects* from then on:
they are read in batches an eighth as large, without others, down to one path a batch. A batch never grows
before its paths were read, and one path is asked for by the same request each time, so that the session can
count. So it takes at most three steps to find the path, and then `ConnectionLoss.is_hopeless` ends it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from corral.types import Znode
from corral.wire import messages
from corral.wire.messages import MultiResult, Operation

__all__ = ["DEEP", "LISTED", "SHALLOW", "Batch", "Reads"]

# How many nodes one read asks for: a few at first, and more while the answers stay small, so that large nodes
# do not make answers of a gigabyte.
FIRST_BATCH = 32
LARGEST_BATCH = 512
# How much data an answer is to have, in bytes.
GOOD_ANSWER = 256 * 1024
# Up to how many nodes are asked for their children without knowing whether they have any.
LISTED_UNSEEN = 64
# How many reads are under way at once. With the above, what loading takes beside the tree itself.
AT_ONCE = 4
# By how much batches get smaller when a connection broke on one: three steps from the largest to a single
# path.
SHRINK_ON_LOSS = 8

# How a node is to be read; of two wishes the greater one counts.
SHALLOW = 0
DEEP = 1
"""Its children are to be read after it."""
LISTED = 2
"""Deep, and it is known to have children."""

Answer: TypeAlias = "tuple[str, int, MultiResult, MultiResult | None]"
"""Path, how it was read, the node, and its children if they were asked for."""


class Batch:
    """One `multiRead`: paths, and how each is read."""

    def __init__(self, paths: dict[str, int], reborn: dict[str, int]) -> None:
        self.paths = paths
        """Those not taken from the answer yet."""
        self.is_outdated = False
        """Whether the tree was begun to be read anew since this was asked."""
        self._lists_from = LISTED if len(paths) > LISTED_UNSEEN else DEEP
        self._reborn = {path: reborn[path] for path in paths if path in reborn} if reborn else {}

    def encode(self) -> bytes:
        """The body of the request."""
        ops: list[tuple[Operation, bytes]] = []
        for path, how in self.paths.items():
            body = messages.encode_get(path, False)
            ops.append((messages.GET, body))
            if how >= self._lists_from:
                ops.append((messages.CHILDREN, body))  # path and flag, as in a get
        return messages.encode_multi(ops)

    def take(self, results: Sequence[MultiResult], reads: Reads) -> Iterator[Answer]:
        """What was read, one by one."""
        remaining = iter(results)
        for path, how in list(self.paths.items()):
            got = next(remaining)
            listed = next(remaining) if how >= self._lists_from else None
            del self.paths[path]
            reads.answered += 1
            if self.is_outdated:
                how, listed = SHALLOW, None
            reads.deep -= how > SHALLOW
            if self._reborn and reads.reborn.get(path, 0) == self._reborn.get(path):
                del reads.reborn[path]
            yield path, how, got, listed


class Reads:
    """The reads of one tree."""

    def __init__(self) -> None:
        self.queued = 0
        """How many were ever queued."""
        self.answered = 0
        """How many of them were answered, or need not be any more."""
        self.deep = 0
        """How many deep ones are queued or under way: the tree is being loaded while there are any."""
        self.reborn: dict[str, int] = {}
        """Nodes that may be others than is known: created or deleted since they were last asked for. Each
        with the number of that event, so that a read that was asked for before does not count."""
        self._births = 0
        self._queue: OrderedDict[str, int] = OrderedDict()
        self._under_way: deque[Batch] = deque()
        self._size = FIRST_BATCH
        self._suspects: set[str] = set()
        self._suspect_size = LARGEST_BATCH

    def __bool__(self) -> bool:
        return bool(self._queue or self._under_way)

    @property
    def waiting(self) -> int:
        """How many are queued, and not asked for yet."""
        return len(self._queue)

    def add(self, path: str, how: int) -> None:
        """Read a node, behind what is queued."""
        before = self._queue.get(path)
        if before is None:
            self.queued += 1
            before = SHALLOW
        self._queue[path] = max(how, before)
        self.deep += how > SHALLOW and before == SHALLOW

    def note_birth(self, path: str) -> None:
        """A node may be another one than is known, until it was read."""
        self._births += 1
        self.reborn[path] = self._births

    def start_over(self, root: str) -> None:
        """Read all from the root: whatever was to be read is read by that, and behind its parent."""
        for batch in self._under_way:
            batch.is_outdated = True
        self.answered += len(self._queue)
        self._queue.clear()
        self.reborn.clear()
        self.deep = 0
        self.add(root, DEEP)

    def give_up(self) -> None:
        """Nothing is read any more."""
        self._queue.clear()
        self._under_way.clear()
        self.reborn.clear()
        self.deep = 0
        self.answered = self.queued

    def is_expected(self, path: str) -> bool:
        """Whether a node is queued or under way."""
        return path in self._queue or any(path in batch.paths for batch in self._under_way)

    # What is under way

    def next_batch(self, room: int) -> Batch | None:
        """What to ask for now, at most `room` bytes of it; None if there is nothing, or enough under way."""
        queue = self._queue
        if not queue or len(self._under_way) >= AT_ONCE:
            return None
        paths: dict[str, int] = {}
        suspects = self._suspects
        are_suspects = next(iter(queue)) in suspects
        size = min(self._size, self._suspect_size) if are_suspects else self._size
        while queue and len(paths) < size:
            path, how = queue.popitem(last=False)
            room -= 2 * (3 * len(path) + 16)  # at most three bytes a character, and what is around each
            if paths and (room < 0 or (path in suspects) is not are_suspects):
                queue[path] = how
                queue.move_to_end(path, last=False)
                break
            paths[path] = how
        batch = Batch(paths, self.reborn)
        self._under_way.append(batch)
        return batch

    def is_under_way(self, batch: Batch) -> bool:
        """Whether its answer is waited for."""
        return batch in self._under_way

    def is_next(self, batch: Batch) -> bool:
        """Whether no batch that was asked for before is still under way."""
        return self._under_way[0] is batch

    def done(self, batch: Batch, asked: Sequence[str], size: int) -> None:
        """A batch, which has asked for these nodes, was answered with `size` bytes of data."""
        self._under_way.remove(batch)
        if self._suspects:
            self._suspects.difference_update(asked)
            if not self:
                self._suspects.clear()  # those that are left are not in the tree any more
            if not self._suspects:
                self._suspect_size = LARGEST_BATCH
        if size > GOOD_ANSWER:
            self._size = max(1, self._size * GOOD_ANSWER // size)
        elif len(asked) == self._size:
            self._size = min(2 * self._size, LARGEST_BATCH)

    def failed(self, batch: Batch, *, too_large: bool) -> None:
        """There is no answer to a batch, because it is too large or because the connection broke on it: ask
        again, in smaller ones."""
        self._under_way.remove(batch)
        if too_large:
            self._size = max(1, len(batch.paths) // 2)
        else:
            self._suspects.update(batch.paths)
            self._suspect_size = max(1, min(self._suspect_size, len(batch.paths) // SHRINK_ON_LOSS))
        if batch.is_outdated:
            self.answered += len(batch.paths)
            return
        again = OrderedDict(batch.paths)  # first again, so that they are answered in the order of queueing
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
    # Past NamedTuple's own constructor: there are many of these.
    node: Znode = tuple.__new__(Znode, got.value)
    return node
