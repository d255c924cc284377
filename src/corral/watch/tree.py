"""A subtree as an async iterator, by one persistent recursive watch (W1 to W6).

A `TreeFeed` keeps a copy of the subtree for all who follow it through one client. The server's watch tells
which node has changed; the feed reads it, many in one `multiRead`, and publishes it to each reader's place.

What is read, and when
----------------------
Paths wait in a queue and are read in its order. A *deep* read is followed by one of each child: that is how
the tree is loaded, and loaded again when events may have been lost (ZOOKEEPER-4698). The children are listed
in the same request, which makes a level of the tree one round trip; but where many nodes are read at once,
most are leaves, and only those that say that they have children are asked for them, in a second one. A child
that is not in the list any more is gone. An event makes a shallow read, which is enough: a node whose
creation was told has no children but those whose creation is told too.

A session is answered in order, events included. So the states of a node are taken as they come; nothing
older can follow. Two nodes are not read in one instant, even by one `multiRead`: a node may be seen whose
parent is not known, or is known as it was before it was deleted and created again. Then an event of the
parent has come before, and the parent is still to be read: the node is read again, behind that. While the
tree is loaded again any parent may be so, until its children were listed.

The copy has a node only if it has its parent. Readers are told of a parent's creation before its children's,
and of their deletions before its own.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

from corral import errors, paths
from corral.session.requests import Request
from corral.session.watches import Change, Kind
from corral.types import Event, EventKind, Stat, State, Znode
from corral.wire import messages

from .feed import Feed, Feeds, Place
from .reader import Reader

__all__ = ["TreeFeed", "TreePlace", "TreeWatch", "Wanted"]

logger = logging.getLogger("corral.watch")

# How many nodes one read asks for: a few at first, and more while the answers stay small, so that large nodes
# do not make answers of a gigabyte.
FIRST_BATCH = 32
LARGEST_BATCH = 512
# How much data an answer is to have, in bytes.
GOOD_ANSWER = 256 * 1024
# Up to how many nodes are asked for their children without knowing whether they have any.
LISTED_UNSEEN = 64
# How many reads are under way at once. With the above, what loading takes beside the tree itself.
READS_AT_ONCE = 4

_WHEN_LOADED = sys.maxsize

Identity: TypeAlias = "tuple[int, int] | None"
"""What tells two states of a node apart: czxid and mzxid; None where there is none."""

_UNTOLD: Identity = (-1, -1)
_COMPLETE = ""
"""In a place's news: the mark behind what was there at first. No node has such a path."""


_new_tuple = tuple.__new__


def identity(node: Znode | None) -> Identity:
    """What tells this state from others of the same node."""
    return None if node is None else (node.stat.czxid, node.stat.mzxid)


@dataclass(frozen=True)
class Wanted:
    """Which nodes of a subtree are followed: that many levels below its root, and what `only` says yes to.

    What is below a node that is not wanted is not wanted either. `only` is given paths as they are below
    `chroot`.
    """

    root: str
    depth: int | None = None
    only: Callable[[str], bool] | None = None
    chroot: str = ""

    def __call__(self, path: str) -> bool:
        """Whether a node is, of which it is known that it is in the subtree."""
        if self.depth is not None and self.level(path) > self.depth:
            return False
        while self.only is not None and path != self.root:
            try:
                if not self.only(paths.strip(self.chroot, path)):
                    return False
            except Exception as error:
                raise _Failed(error) from error
            path = paths.parent_of(path)
        return True

    def lists(self, path: str) -> bool:
        """Whether the children of a node that is wanted may be."""
        return self.depth is None or self.level(path) < self.depth

    def level(self, path: str) -> int:
        """How far below the root."""
        return _slashes(path) - _slashes(self.root)

    def holds(self, path: str) -> bool:
        """Whether a path is in the subtree."""
        return path == self.root or path.startswith(self.root if self.root == "/" else self.root + "/")


class _Failed(Exception):
    """The tree cannot be followed, for this reason: readers are told, since the session cannot be."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


def _slashes(path: str) -> int:
    return 0 if path == "/" else path.count("/")


class TreePlace(Place):
    """What a reader has still to be told: paths, with what it was last told of each, in the order to tell."""

    __slots__ = ("admitted", "complete", "listens", "news", "told")

    def __init__(self, *, complete: bool = False, listens: bool = True) -> None:
        self.admitted = False
        """Whether all is known that was being read when it came."""
        self.listens = listens
        """Whether it is to be told anything at all: a cache looks by itself."""
        self.complete = complete
        """Whether it was told all that there was at first."""
        self.told: dict[str, Identity] | None = None
        """What it was told, while it is not in the feed; None if it was never told anything."""
        self.news: OrderedDict[str, Identity] | None = None
        """None until it is admitted."""


# How a node is to be read; of two wishes the greater one counts.
SHALLOW = 0
DEEP = 1
LISTED = 2
"""Deep, and it is known to have children."""


class _Batch:
    """Waits for the answer to one `multiRead`: paths, and how each is read."""

    def __init__(self, feed: TreeFeed, reads: dict[str, int]) -> None:
        self.reads = reads
        self.reborn = (
            {path: feed.reborn[path] for path in reads if path in feed.reborn} if feed.reborn else {}
        )
        """Those that were created or deleted, with the numbers of the last event that is followed by this."""
        self.lists = LISTED if len(reads) > LISTED_UNSEEN else DEEP
        """From which depth on children are listed."""
        self.is_outdated = False
        """Whether the tree was begun to be read anew since this was asked."""
        self._feed = feed

    def done(self) -> bool:
        return not self._feed.is_reading(self)

    def set_result(self, results: list[messages.MultiResult], /) -> None:
        self._feed.answered(self, results)

    def set_exception(self, error: BaseException, /) -> None:
        self._feed.failed(self, error)


class TreeFeed(Feed):
    """The newest known state of a subtree."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, wanted: Wanted) -> None:
        super().__init__(feeds, key, full, path)
        self.nodes: dict[str, Znode] = {}
        """By full path, each behind its parent."""
        self.children: dict[str, dict[str, None]] = {}
        """By full path, the full paths of the children of those that have any."""
        self.failure: BaseException | None = None
        """Why nothing is followed at the moment, if that is so."""
        self.is_loaded = False
        """Whether all of it was read since it is followed."""
        self._wanted = wanted
        self._followed = False
        self._own_writes = feeds.own_writes
        self._lasting = 0
        self._queue: OrderedDict[str, int] = OrderedDict()  # the paths to read, in order, and how
        self._reading: deque[_Batch] = deque()
        self._deep = 0  # how many deep reads are in the queue or under way
        self._queued = 0  # how many reads were ever queued, and how many of them answered: in the same order
        self._answered = 0
        self._coming: list[tuple[int, TreePlace]] = []  # who waits, and for how many answers
        self._has_news = False
        self._owed = 0  # how many answers it takes until all is known that this client has written
        self._refused: set[str] = set()  # the nodes that we may not read
        self.reborn: dict[str, int] = {}
        """Those created or deleted since they were read, with the number of the last such event."""
        self._births = 0  # how many such events there were
        self._listed: set[str] = set()  # nodes whose children were listed since the loading began
        self._held: dict[str, None] = {}  # nodes to be read again when the tree is loaded
        self._batch = FIRST_BATCH

    # The readers' side

    @property
    def is_fresh(self) -> bool:
        return True  # a place has news only when it may be told

    @property
    def is_current(self) -> bool:
        """Whether all is known that this client could know: loaded, connected, and nothing to be read."""
        return (
            self._followed
            and self.is_loaded
            and not self._queue
            and not self._reading
            and self.session.state is State.CONNECTED
        )

    def join(self, place: Place) -> None:
        assert isinstance(place, TreePlace)
        super().join(place)
        if place.complete and place.told is None:
            place.admitted, place.news = True, OrderedDict()  # it is told of changes from now on, and no more
        else:
            self._coming.append((self._queued, place))
            self._admit()

    def leave(self, place: Place) -> None:
        assert isinstance(place, TreePlace)
        self._coming = [each for each in self._coming if each[1] is not place]
        place.admitted = False
        news, place.news = place.news, None
        if place in self.places and news is not None:
            place.told = {path: identity(node) for path, node in self.nodes.items()}
            # Those that are gone stay in the order in which `_admit` tells it: backwards.
            place.told.update((path, told) for path, told in reversed(news.items()) if path != _COMPLETE)
        super().leave(place)

    def keep_current(self, lasting: int) -> None:
        """For one more who looks by itself, or (-1) one less: read what has changed also while nobody waits,
        and take in what this client writes."""
        self._lasting += lasting
        if self._lasting:
            self._own_writes.follow(self)
        else:
            self._own_writes.unfollow(self)
        if lasting > 0:
            self.demand()

    def demand(self) -> None:
        if not self._followed:
            self._follow()
        self._pump()

    def end(self) -> None:
        self._unfollow()
        self.nodes, self.children = {}, {}

    def _follow(self) -> None:
        self._followed = True
        self.is_loaded = False
        self.failure = None
        self.session.watch(self.full, self, Kind.RECURSIVE)
        if self._followed:  # not refused at once
            self._load()  # which is read after the watch is set

    def _unfollow(self) -> None:
        self._followed = False
        self.session.unwatch(self.full, self, Kind.RECURSIVE)
        self._queue.clear()
        self._reading.clear()
        self.reborn.clear()
        self._held.clear()
        self._deep = self._owed = 0
        self._answered = self._queued

    def _admit(self) -> None:
        """Give those their first news who wait until all is known that was being read when they came."""
        while self._coming and self._followed and self.is_loaded and not self._deep:
            due, place = self._coming[0]
            if due > self._answered:
                return
            del self._coming[0]
            place.admitted = self._has_news = True
            if not place.listens:
                continue
            told, place.told = place.told, None
            place.news = news = OrderedDict()
            if told is None:
                told = {self.full: _UNTOLD}
            for path in reversed(told):  # the deletions, children before their parents
                if path not in self.nodes and told[path] is not None:
                    news[path] = told[path]
            for path, node in self.nodes.items():
                if told.get(path) != identity(node):
                    news[path] = told.get(path)
            if not place.complete:
                news[_COMPLETE] = None

    # The session's side

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        """A node has changed, or anything may have."""
        if change is Change.ARMED or not self._followed:
            return
        if change is Change.UNKNOWN:
            self._load()
        elif self._is_wanted(path):
            self._enqueue(path, SHALLOW)
            if change is not Change.DATA_CHANGED:
                self._note_birth(path)
        self._pump()

    def refused(self, error: BaseException, /) -> None:
        """The server does not set the watch."""
        if isinstance(error, errors.Unimplemented):
            error = errors.Unimplemented(
                "watch_tree", self.path, "the server has no persistent watches; that takes ZooKeeper 3.6"
            )
        self._fail(error)

    def written(self, path: str, data: bytes | None, stat: Stat | None, /) -> None:
        """This client has written a node."""
        if not self._followed or not self._wanted.holds(path) or not self._is_wanted(path):
            return
        if data is None:
            self._publish(path, None)
        elif stat is None or self._waits_for_parent(path, stat, SHALLOW):
            # Its event has come before, and so it will be read: at the latest when the tree is loaded.
            self._owed = _WHEN_LOADED if self._deep else self._queued
            return
        else:
            self._publish(path, Znode(data, stat))
        self._tell()

    def _is_wanted(self, path: str) -> bool:
        try:
            return self._wanted(path)
        except _Failed as failed:
            self._fail(failed.reason)
            return False

    async def settled(self) -> None:
        """Wait until all is known that this client has written; at once if that is not to be."""
        if self._followed and self._answered < self._owed:
            place = TreePlace(listens=False)
            self._coming.append((self._queued, place))
            with contextlib.suppress(Exception):  # whoever reads the tree is told
                await self.until_admitted(place)

    async def until_admitted(self, place: TreePlace) -> None:
        """Wait until all is known that was being read when the place came."""
        self._admit()
        while not place.admitted:
            future = self._loop.create_future()
            try:
                self.wait(future)
                await future
            finally:
                self.forget(future)

    # Reading

    def _enqueue(self, path: str, how: int) -> None:
        before = self._queue.get(path)
        if before is None:
            self._queued += 1
            before = SHALLOW
        self._queue[path] = max(how, before)
        self._deep += how > SHALLOW and before == SHALLOW

    def _load(self) -> None:
        """Read all of it, from its root. Whatever was to be read is read by that, and behind its parent."""
        for batch in self._reading:
            batch.is_outdated = True
        self._answered += len(self._queue)
        self._queue.clear()
        self.reborn.clear()
        self._listed.clear()
        self._deep = 0
        self._enqueue(self.full, DEEP)

    def _pump(self) -> None:
        """Ask for what is in the queue, if somebody wants to know: a tree that is being loaded is."""
        while self._queue and len(self._reading) < READS_AT_ONCE:
            if not (self._deep or self._lasting or self.is_awaited):
                return
            batch = _Batch(self, self._next_reads())
            ops: list[tuple[messages.Operation, bytes]] = []
            for path, how in batch.reads.items():
                body = messages.encode_get(path, False)
                ops.append((messages.GET, body))
                if how >= batch.lists:
                    ops.append((messages.CHILDREN, body))  # path and flag, as in a get
            self._reading.append(batch)
            self.session.submit(Request(messages.MULTI_READ, messages.encode_multi(ops), self.path, batch))

    def _next_reads(self) -> dict[str, int]:
        queue = self._queue
        reads: dict[str, int] = {}
        room = self.session.max_body // 2
        while queue and room > 0 and len(reads) < self._batch:
            path, how = queue.popitem(last=False)
            reads[path] = how
            room -= 2 * (3 * len(path) + 16)  # at most three bytes a character, and what is around each
        return reads

    def is_reading(self, batch: _Batch) -> bool:
        """Whether its answer is waited for."""
        return batch in self._reading

    def answered(self, batch: _Batch, results: list[messages.MultiResult]) -> None:
        """What some nodes are now."""
        assert self._reading[0] is batch
        count = len(batch.reads)
        try:
            size = self._take_in(batch, results)
        except _Failed as failed:
            self._fail(failed.reason)
            return
        self._reading.popleft()
        if size > GOOD_ANSWER:
            self._batch = max(1, self._batch * GOOD_ANSWER // size)
        elif count == self._batch:
            self._batch = min(2 * self._batch, LARGEST_BATCH)
        self._go_on()

    def _take_in(self, batch: _Batch, results: list[messages.MultiResult]) -> int:
        """Publish what was read; returns how much data it was, in bytes."""
        remaining = iter(results)
        size = 0
        for path, how in list(batch.reads.items()):
            del batch.reads[path]
            self._answered += 1
            got = next(remaining)
            listed = next(remaining) if how >= batch.lists else None
            if batch.is_outdated:
                how, listed = SHALLOW, None
            self._deep -= how > SHALLOW
            if batch.reborn and self.reborn.get(path, 0) == batch.reborn.get(path):
                del self.reborn[path]
            if got.error == 0:
                node: Znode = _new_tuple(Znode, got.value)
                size += len(node.data)
                self._found(path, node, how, listed)
            elif got.error == errors.NoNode.code:
                self._publish(path, None)
            elif path == self.full:
                raise _Failed(errors.server_error(got.error, "watch_tree", self.path))
            else:
                self._refuse(path)
        return size

    def failed(self, batch: _Batch, error: BaseException) -> None:
        """There is no answer, or none that can be used."""
        assert self._reading.popleft() is batch
        if isinstance(error, errors.ReplyError) and len(batch.reads) > 1:
            self._batch = max(1, len(batch.reads) // 2)
        elif not isinstance(error, errors.ConnectionLoss):
            self._fail(error)
            return
        if batch.is_outdated:
            self._answered += len(batch.reads)
            self._go_on()
            return
        # First again, so that reads are answered in the order in which they were queued.
        again = OrderedDict(batch.reads)
        for path, how in batch.reads.items():
            waiting = self._queue.pop(path, None)
            if waiting is not None:
                again[path] = max(how, waiting)
                self._answered += 1
                self._deep -= how > SHALLOW and waiting > SHALLOW
        again.update(self._queue)
        self._queue = again
        self._go_on()

    def _go_on(self) -> None:
        if not self._deep:
            self.is_loaded = True
            self._listed.clear()
            if self._held:
                for path in self._held:
                    self._enqueue(path, SHALLOW)
                self._held.clear()
                self._extend()
            if self._owed == _WHEN_LOADED:
                self._owed = self._queued
        self._pump()
        self._admit()
        self._tell()

    def _tell(self) -> None:
        if self._has_news:
            self._has_news = False
            self.wake(None)

    def _fail(self, error: BaseException) -> None:
        self._unfollow()
        self.failure = error
        self.wake(error)

    def _refuse(self, path: str) -> None:
        if not self._refused:
            logger.warning("watch_tree of %r leaves out what we may not read, such as %r", self.path, path)
        self._refused.add(path)
        self._publish(path, None)

    def _found(self, path: str, node: Znode, how: int, listed: messages.MultiResult | None) -> None:
        """A node was read, and perhaps its children listed."""
        if self._waits_for_parent(path, node.stat, how):
            self._postpone(path, how)
            return
        self._publish(path, node)
        if path in self._refused:
            self._refused.discard(path)
            how = DEEP  # nothing was told of what is below it
        if how == SHALLOW or not self._wanted.lists(path):
            return
        if listed is None:
            if node.stat.num_children:
                self._enqueue(path, LISTED)
            else:
                self._found_children(path, [])
        elif listed.error == 0:
            self._found_children(path, listed.value)

    def _waits_for_parent(self, path: str, stat: Stat, how: int) -> bool:
        """Whether a node was created since it was known, below a parent that may not be the one we know."""
        known = self.nodes.get(path)
        if path == self.full or (known is not None and known.stat.czxid == stat.czxid):
            return False
        parent = paths.parent_of(path)
        return parent not in self.nodes or parent in self.reborn or self._is_doubtful(parent, how)

    def _is_doubtful(self, parent: str, how: int) -> bool:
        """Whether a parent may be another one of which no event has told, as long as the tree is loaded."""
        return self._deep > 0 and how == SHALLOW and parent not in self._listed

    def _postpone(self, path: str, how: int) -> None:
        """Read a node again that waits for its parent."""
        parent = paths.parent_of(path)
        if parent in self._refused:
            return
        if self._is_doubtful(parent, how):
            self._held[path] = None
        else:
            if parent not in self._queue and not any(parent in batch.reads for batch in self._reading):
                self._enqueue(parent, SHALLOW)
            self._enqueue(path, how)
        self._note_birth(path)  # as long as it waits, those below it wait too
        self._extend()

    def _note_birth(self, path: str) -> None:
        """Until this node was read, what is known of it may be another one."""
        self._births += 1
        self.reborn[path] = self._births

    def _extend(self) -> None:
        """Who waits for what is being read waits for what is read again, too."""
        if self._answered <= self._owed < _WHEN_LOADED:
            self._owed = self._queued
        self._coming = [(self._queued, place) for _, place in self._coming]

    def _found_children(self, path: str, names: list[str]) -> None:
        """Which children a node has."""
        if names:
            self._listed.add(path)
        found = [paths.join(path, name) for name in names]
        if known := self.children.get(path):
            for child in set(known).difference(found):
                self._publish(child, None)
        for child in found:
            if self._wanted(child):
                self._enqueue(child, DEEP)

    # What is known, and who is told

    def _publish(self, path: str, node: Znode | None) -> None:
        """A node is so now."""
        before = self.nodes.get(path)
        if before is not None and (node is None or before.stat.czxid != node.stat.czxid):
            for each in reversed(self.below(path)):
                if node is not None and self.nodes[each].stat.czxid > node.stat.czxid:
                    self._enqueue(each, SHALLOW)  # it is below the new one
                self._forget(each)
            before = None
        if node is None:
            return
        if before is None:
            self.nodes[path] = node
            if path != self.full:
                self.children.setdefault(paths.parent_of(path), {})[path] = None
        elif before.stat.mzxid == node.stat.mzxid:
            self.nodes[path] = Znode(before.data, node.stat)  # its children may have changed
            return
        else:
            self.nodes[path] = node
        self._note(path, before, moved=before is None)

    def below(self, path: str) -> list[str]:
        """A node and all below it, each before its children."""
        found = [path]
        for each in found:  # which grows
            found += self.children.get(each, ())
        return found

    def _forget(self, path: str) -> None:
        before = self.nodes.pop(path)
        self.children.pop(path, None)
        if path != self.full:
            siblings = self.children[paths.parent_of(path)]
            del siblings[path]
            if not siblings:
                del self.children[paths.parent_of(path)]
        self._note(path, before, moved=True)

    def _note(self, path: str, before: Znode | None, *, moved: bool) -> None:
        """There is news of a path for all who have been told of what was `before`."""
        for place in self.places:
            assert isinstance(place, TreePlace)
            news = place.news
            if news is None:
                continue
            self._has_news = True
            if path not in news:
                news[path] = identity(before)
            elif news[path] is None and path not in self.nodes:
                del news[path]  # it came and went, and the reader has missed it
            elif moved and news[path] != _UNTOLD:
                news.move_to_end(path)  # behind its parent, or its children


class TreeWatch(Reader[TreeFeed, TreePlace, Event]):
    """The states of all nodes of a subtree, as events: those now, then each change.

    Use it as ``async for event in zk.watch_tree(path)``, or as ``async with zk.watch_tree(path) as events``
    for a definite end. First each node that there is, parents before their children (`EventKind.PRESENT`;
    `ABSENT` if there is no node at `path`), then one event `COMPLETE`, then changes. Leaving the loop, an
    exception, or dropping the object ends the watch; the server's watch goes with the last reader in this
    client.

    **Promised**: for each node what `NodeWatch` promises. A parent's creation is told before its children's,
    and their deletions before its own. A reader that is slow gets the newest state of each node, and never
    more events than there are nodes that it has not been told of: what it costs is bounded by the tree.
    **Not promised**: every state in between; the order of changes of different nodes otherwise; that what is
    told of different nodes was so at one instant.

    **On cancel** of ``anext`` nothing is lost. **On loss** of the connection it waits, and then reads the
    whole subtree again, since persistent watches lose what happened meanwhile (ZOOKEEPER-4698); only what has
    changed is told. Raises `Unimplemented` if the server has no persistent watches (ZooKeeper before 3.6),
    `NoAuth` if we may not read the node at `path`, `SessionError` when the client is closed.

    Nodes below that we may not read are left out, with what is below them; the first is logged. A `Stat` is
    as of when the node itself was last created or set: a change of its children does not renew it.
    """

    _verb = "watch_tree"

    def __init__(
        self, feeds: Feeds, full: str, path: str, chroot: str, wanted: Wanted, *, changes_only: bool = False
    ) -> None:
        super().__init__(feeds, full, path, TreePlace(complete=changes_only))
        self._chroot = chroot
        self._wanted = wanted
        if changes_only:
            self._join()

    def _find(self) -> TreeFeed:
        return find_feed(self._feeds, self._full, self._path, self._wanted)

    def _take(self, feed: TreeFeed, place: TreePlace) -> Event | None:
        news = place.news
        while news:
            full, told = news.popitem(last=False)
            if full == _COMPLETE:
                place.complete = True
                return Event(EventKind.COMPLETE, self._path, None, None)
            node = feed.nodes.get(full)
            kind = _kind(told, node, place.complete)
            if kind is not None:
                data, stat = (None, None) if node is None else node
                return Event(kind, paths.strip(self._chroot, full), data, stat)
        return None


def _kind(told: Identity, node: Znode | None, complete: bool) -> EventKind | None:
    """What to tell of a node that is so now, to whom it was told so; None for nothing."""
    if told == _UNTOLD:
        return EventKind.ABSENT if node is None else EventKind.PRESENT
    if node is None:
        return None if told is None else EventKind.DELETED
    now = (node.stat.czxid, node.stat.mzxid)
    if told == now:
        return None
    if told is None or told[0] != now[0]:
        return EventKind.CREATED if complete or told is not None else EventKind.PRESENT
    return EventKind.CHANGED


def find_feed(feeds: Feeds, full: str, path: str, wanted: Wanted) -> TreeFeed:
    """The feed for this part of a subtree."""
    key = (TreeFeed, wanted)
    return feeds.get(key, lambda: TreeFeed(feeds, key, full, path, wanted))
