"""A subtree that is followed, by one persistent recursive watch.

A `TreeFeed` keeps a copy of the subtree for all who follow it through one client. The server's watch tells
which node has changed; the feed reads it, many in one `multiRead`, and publishes it in the copy.

What is read, and when
----------------------
Paths wait in a queue and are read in its order. A *deep* read is followed by one of each child: that is how
the tree is loaded, and loaded again when events may have been lost (ZOOKEEPER-4698). The children are listed
in the same request, which makes a level of the tree one round trip; but where many nodes are read at once,
most are leaves, and only those that say that they have children are asked for them, in a second one. A child
that is not in the list any more is gone. An event makes a shallow read, which is enough: a node whose
creation was told has no children but those whose creation is told too.

Whose child is it?
------------------
A session is answered in order, events included. So the states of a node are taken as they come; nothing
older can follow. But two nodes are not read in one instant, even by one `multiRead`: a node may be seen whose
parent is not known, or is known as it was before it was deleted and created again. Then an event of the
parent has come before, so the parent is still to be read (`Reads.reborn`), and the node is read again, behind
that. While the tree is loaded again there may be no event, so any parent may be another one until its
children were listed; what an event tells of below such a parent is held until the tree is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Hashable
from typing import Any

from corral import errors, paths
from corral.session.requests import Request
from corral.session.watches import Change, Kind
from corral.types import Stat, State, Znode
from corral.wire import messages
from corral.wire.messages import MultiResult

from .feed import Feed, Feeds, Place
from .tree_copy import TreeCopy, TreePlace
from .tree_reads import DEEP, LISTED, SHALLOW, Batch, Reads, as_node
from .wanted import CannotFollow, Wanted

__all__ = ["TreeFeed", "find_feed"]

logger = logging.getLogger("corral.watch")

_WHEN_LOADED = sys.maxsize

# How many changed nodes wait to be read while nobody wants to know; with more, and more than are known, the
# tree is read again instead.
BACKLOG = 10_000
# How often in a row a node is read again because its parent is not known yet, and because the server answered
# with an older state than before. Each such round takes another change at just that moment.
MOST_POSTPONED = 100
MOST_BACKWARD = 5
# Of how many nodes that are gone it is remembered which they were.
MOST_DEPARTED = 1000
# In seconds, when a cache that has failed tries again: the first and the longest interval. The longer ones
# are for what costs a connection, or an answer over the limit, each time.
RETRY_FIRST, RETRY_MOST = 0.05, 0.9
COSTLY_FIRST, COSTLY_MOST = 1.0, 10.0


class _Answer:
    """Waits for the answer to one batch."""

    def __init__(self, feed: TreeFeed, batch: Batch) -> None:
        self._feed = feed
        self._batch = batch

    def done(self) -> bool:
        return not self._feed.reads.is_under_way(self._batch)

    def set_result(self, results: Any, /) -> None:
        self._feed.answered(self._batch, results)

    def set_exception(self, error: BaseException, /) -> None:
        self._feed.failed(self._batch, error)


class TreeFeed(Feed):
    """The newest known state of a subtree."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, wanted: Wanted) -> None:
        super().__init__(feeds, key, full, path)
        self.copy = TreeCopy(full)
        self.reads = Reads()
        self.failure: BaseException | None = None
        """Why the copy cannot be relied on, if that is so: from a failure until all was read again."""
        self._wanted = wanted
        self._followed = False
        self._is_loaded = False  # whether all of it was read since it is followed
        self._own_writes = feeds.own_writes
        self._lasting = 0  # how many look by themselves
        self._coming: list[tuple[int, TreePlace]] = []  # who waits, and for how many answers
        self._owed = 0  # how many answers it takes until all is known that this client has written
        self._refused: set[str] = set()  # the nodes that we may not read
        self._listed: set[str] = set()  # those whose children were listed since the loading began
        self._held: dict[str, None] = {}  # those to be read again when the tree is loaded
        self._rounds: dict[str, int] = {}  # how often in a row a node was read again, for one of two reasons
        self._departed: dict[str, int] = {}  # the czxid of nodes that are gone
        self._has_warned = False
        # Of a cache that has failed: who waits until it is complete again, and when it tries.
        self._recovery = TreePlace(listens=False)
        self._retry: asyncio.TimerHandle | None = None
        self._retries = 0
        self._begun = 0.0  # when it was followed last, by the loop's clock

    # The readers' side

    @property
    def is_fresh(self) -> bool:
        return True  # a place has news only when it may be told

    @property
    def is_current(self) -> bool:
        """Whether all is known that this client could know: loaded, connected, and nothing to be read."""
        connected = self.session.state is State.CONNECTED
        return connected and self._followed and self._is_loaded and not self.reads

    def join(self, place: Place) -> None:
        assert isinstance(place, TreePlace)
        super().join(place)
        if place.complete and place.told is None:
            self.copy.admit(place)
        else:
            self._coming.append((self.reads.queued, place))
            self._admit()

    def leave(self, place: Place) -> None:
        assert isinstance(place, TreePlace)
        self._uninvite(place)
        self.copy.dismiss(place)
        super().leave(place)

    def _uninvite(self, place: TreePlace) -> None:
        if self._is_coming(place):
            self._coming = [each for each in self._coming if each[1] is not place]
            self.wake(None)

    def _is_coming(self, place: TreePlace) -> bool:
        return any(each is place for _, each in self._coming)

    def keep_current(self, lasting: int) -> None:
        """For one more who looks by itself, or (-1) one less: read what has changed also while nobody waits,
        and take in what this client writes."""
        self._lasting += lasting
        if self._lasting:
            self._own_writes.follow(self)
        else:
            self._own_writes.unfollow(self)
            self._stop_retrying()
        if lasting > 0:
            self.demand()

    async def until_admitted(self, place: TreePlace) -> None:
        """Wait until all is known that was being read when the place came, or until it has left."""
        self._admit()
        while not place.admitted and self._is_coming(place):
            future = self._loop.create_future()
            try:
                self.wait(future)
                await future
            finally:
                self.forget(future)

    def _admit(self) -> None:
        while self._coming and self._followed and self._is_loaded and not self.reads.deep:
            due, place = self._coming[0]
            if due > self.reads.answered:
                return
            del self._coming[0]
            self.copy.admit(place)
            if place is self._recovery:
                self.failure, self._retries = None, 0

    def _tell(self) -> None:
        if self.copy.has_news:
            self.copy.has_news = False
            self.wake(None)

    # Following

    def demand(self) -> None:
        if not self._followed:
            self._follow()
        self._pump()

    def end(self) -> None:
        self._stop_retrying()
        self._unfollow()
        self.copy.clear()
        self._coming.clear()
        self.wake(None)  # whoever waits for what was written, which is not to be known

    def _follow(self) -> None:
        self._stop_retrying()
        self._followed = True
        self._is_loaded = False
        self._begun = self._loop.time()
        self.session.watch(self.full, self, Kind.RECURSIVE)
        if self._followed:  # not refused at once
            self._load()  # which is read after the watch is set

    def _unfollow(self) -> None:
        self._followed = False
        self.session.unwatch(self.full, self, Kind.RECURSIVE)
        self.reads.give_up()
        self._listed.clear()
        self._held.clear()
        self._rounds.clear()
        self._owed = 0

    def _fail(self, error: BaseException) -> None:
        self._unfollow()
        if self.failure is None:
            self._coming.append((self.reads.queued, self._recovery))
        self.failure = error
        if self._lasting:
            self._retry_later(error)
        self.wake(error)

    # Recovering. Whoever waits for news has it tried again by asking for more; a cache is only looked at.

    def _retry_later(self, error: BaseException) -> None:
        self._stop_retrying()
        if isinstance(error, errors.ClientClosed | errors.AuthFailed | errors.EnsembleBehind):
            return  # that is final
        first, most = (COSTLY_FIRST, COSTLY_MOST) if _is_costly(error) else (RETRY_FIRST, RETRY_MOST)
        delay = min(first * 2.0 ** min(self._retries, 10), most)
        if not self._is_loaded:  # half of the time is left to others, however long it takes to fail
            delay = max(delay, self._loop.time() - self._begun)
        self._retries += 1
        self._retry = self._loop.call_later(delay, self._try_again)
        # To be told when the session is over, so that the timer does not outlive the client.
        self.session.watch(self.full, self, Kind.NODE)

    def _try_again(self) -> None:
        self._follow()
        self._pump()

    def _stop_retrying(self) -> None:
        timer, self._retry = self._retry, None
        if timer is not None:
            timer.cancel()
            self.session.unwatch(self.full, self, Kind.NODE)

    def _told_while_failed(self) -> None:
        """The root has changed, or the session is over."""
        if self._retry is not None:
            final = self.session.state in (State.CLOSED, State.AUTH_FAILED)
            if final or (self.failure is not None and not _is_costly(self.failure)):
                self._try_again()

    # The session's side

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        """A node has changed, or anything may have."""
        if change is Change.ARMED:
            return
        if not self._followed:
            self._told_while_failed()
            return
        if change is Change.UNKNOWN:
            self._load()
        elif self._is_wanted(path):
            self.reads.add(path, SHALLOW)
            if change is not Change.DATA_CHANGED:
                self.reads.note_birth(path)
            if not self.reads.deep and self.reads.waiting > max(BACKLOG, len(self.copy.nodes)):
                self._load()
        self._pump()

    def refused(self, error: BaseException, /) -> None:
        """The watch is not set."""
        self._fail(self.why_refused(error, "watch_tree"))

    def _is_wanted(self, path: str) -> bool:
        """Whether a node of which there is news belongs to the tree."""
        if path != self.full and not self._has_a_place(paths.parent_of(path)):
            return False
        try:
            return self._fits(path) and self._wanted(path)
        except CannotFollow as failed:
            self._fail(failed.reason)
            return False

    def _fits(self, path: str) -> bool:
        """Whether a node can be asked for. No client can have created one of which that is not so."""
        room = self.session.max_body // 2 - 32  # it is named twice where its children are asked for, too
        return path == self.full or 3 * len(path) <= room or len(path.encode()) <= room

    def _has_a_place(self, parent: str) -> bool:
        """Whether a node is known, or about to be, so that there may be news of its children. What is below
        any other is not wanted or not to be read; or it is found when the parent is, since its parent's
        creation is told before its own, and a tree that is being loaded has not come to it yet."""
        return parent in self.copy.nodes or self.reads.is_expected(parent) or parent in self._held

    # This client's own writes

    def written(self, path: str, data: bytes | None, stat: Stat | None, /) -> None:
        """This client has written a node."""
        if not self._followed or not self._wanted.holds(path):
            return
        if self.reads.deep and path != self.full and not self._has_a_place(paths.parent_of(path)):
            self._owed = _WHEN_LOADED  # it is found when the tree is loaded, if it is wanted
            return
        if not self._is_wanted(path):
            return
        if data is None:
            self._depart(path)
        elif stat is None or self._waits_for_parent(path, stat, SHALLOW):
            # Its event has come before, and so it will be read: at the latest when the tree is loaded.
            self._owed = _WHEN_LOADED if self.reads.deep else self.reads.queued
            return
        elif self._goes_back(path, stat):
            self.reads.add(path, SHALLOW)
            self._owed = self.reads.queued
            self._pump()
            return
        else:
            self._publish(path, Znode(data, stat))
        self._tell()

    async def settled(self) -> None:
        """Wait until all is known that this client has written; at once if that is not to be."""
        if self._followed and self.reads.answered < self._owed:
            place = TreePlace(listens=False)
            self._coming.append((self.reads.queued, place))
            try:
                with contextlib.suppress(Exception):  # whoever reads the tree is told
                    await self.until_admitted(place)
            finally:
                self._uninvite(place)

    # Reading

    def _load(self) -> None:
        """Read all of it, perhaps again."""
        self._listed.clear()
        self._rounds.clear()
        self._refused.clear()
        self.reads.start_over(self.full)

    def _pump(self) -> None:
        """Ask for what is to be read, if somebody wants to know: a tree that is being loaded is."""
        while self.reads.deep or self._lasting or self.is_awaited:
            batch = self.reads.next_batch(self.session.max_body // 2)
            if batch is None:
                return
            waiter = _Answer(self, batch)
            try:
                self.session.submit(Request(messages.MULTI_READ, batch.encode(), self.path, waiter))
            except errors.UsageError as error:  # one path that is too large
                self._fail(error)
                return

    def answered(self, batch: Batch, results: list[MultiResult]) -> None:
        """What some nodes are now."""
        if not self.reads.is_next(batch):
            self._extend()
        asked, size = tuple(batch.paths), 0
        try:
            for path, how, got, listed in batch.take(results, self.reads):
                if got.error == 0:
                    node = as_node(got)
                    size += len(node.data)
                    self._found(path, node, how, listed)
                elif got.error == errors.NoNode.code:
                    self._depart(path)
                elif path == self.full:
                    raise CannotFollow(errors.server_error(got.error, "watch_tree", self.path))
                else:
                    self._refuse(path)
                if not self.reads.is_under_way(batch):
                    return  # what `only` did has ended this
        except CannotFollow as failed:
            self._fail(failed.reason)
            return
        self.reads.done(batch, asked, size)
        self._go_on()

    def failed(self, batch: Batch, error: BaseException) -> None:
        """There is no answer, or none that can be used. Asked for again are smaller batches, and the same
        only as long as there is hope; whatever else there is ends it."""
        is_loss = isinstance(error, errors.ConnectionLoss)
        hopeless = isinstance(error, errors.ConnectionLoss) and error.is_hopeless
        smaller = len(batch.paths) > 1 and (is_loss or isinstance(error, errors.ReplyError))
        if not smaller and (hopeless or not is_loss):
            self._fail(error)
            return
        self.reads.failed(batch, too_large=not is_loss)
        self._extend()
        self._go_on()

    def _go_on(self) -> None:
        if not self.reads.deep:
            self._loaded()
        self._pump()
        self._admit()
        self._tell()

    def _loaded(self) -> None:
        self._is_loaded = True
        self._listed.clear()
        if self._held:
            for path in self._held:
                self.reads.add(path, SHALLOW)
            self._held.clear()
            self._extend()
        if self._owed == _WHEN_LOADED:
            self._owed = self.reads.queued

    def _found(self, path: str, node: Znode, how: int, listed: MultiResult | None) -> None:
        """A node was read, and perhaps its children listed."""
        if self._waits_for_parent(path, node.stat, how):
            self._postpone(path, how)
            return
        if self._goes_back(path, node.stat):
            problem = "the server answers with an older state than before"
            self._count_round(path, problem, MOST_BACKWARD)
            self.reads.add(path, how)
            self._extend()
            return
        self._rounds.pop(path, None)
        self._departed.pop(path, None)
        self._publish(path, node)
        if path in self._refused:
            self._refused.discard(path)
            how = DEEP  # nothing was told of what is below it
        if how == SHALLOW or not self._wanted.lists(path):
            return
        if listed is None:
            if node.stat.num_children:
                self.reads.add(path, LISTED)
            else:
                self._found_children(path, [])
        elif listed.error == 0:
            self._found_children(path, listed.value)

    def _found_children(self, path: str, names: list[str]) -> None:
        """Which children a node has."""
        if names:
            self._listed.add(path)
        found = [paths.join(path, name) for name in names]
        if known := self.copy.children.get(path):
            for child in set(known).difference(found):
                self._depart(child)
        for child in found:
            if self._fits(child) and self._wanted(child):
                self.reads.add(child, DEEP)

    def _refuse(self, path: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "watch_tree of %r leaves out what we may not read, such as %r", self.path, self._named(path)
            )
        self._refused.add(path)
        self._publish(path, None)

    def _depart(self, path: str) -> None:
        """A node is not there."""
        self._rounds.pop(path, None)
        self._refused.discard(path)
        before = self.copy.nodes.get(path)
        if before is not None:
            self._departed[path] = before.stat.czxid
            if len(self._departed) > MOST_DEPARTED:
                del self._departed[next(iter(self._departed))]
        self._publish(path, None)

    def _publish(self, path: str, node: Znode | None) -> None:
        for each in self.copy.publish(path, node):
            self.reads.add(each, SHALLOW)

    def _named(self, path: str) -> str:
        """A full path as the readers name it."""
        chroot = self.full.rstrip("/") if self.path == "/" else self.full.removesuffix(self.path)
        return paths.strip(chroot, path)

    # Answers that cannot be right

    def _goes_back(self, path: str, stat: Stat) -> bool:
        """Whether a state is older than one of the same node that was known, or than its parent."""
        nodes = self.copy.nodes
        known = nodes.get(path)
        if known is not None:
            return (stat.czxid, stat.mzxid) < (known.stat.czxid, known.stat.mzxid)
        departed = self._departed.get(path)
        if departed is not None and stat.czxid <= departed:
            return True
        return path != self.full and stat.czxid < nodes[paths.parent_of(path)].stat.czxid

    def _count_round(self, path: str, problem: str, most: int) -> None:
        """A node is to be read again; not for ever."""
        self._rounds[path] = rounds = self._rounds.get(path, 0) + 1
        if rounds > most:
            raise CannotFollow(
                errors.ReplyError("watch_tree", self._named(path), f"{problem}, {rounds} times in a row")
            )

    # Nodes that wait for their parents

    def _waits_for_parent(self, path: str, stat: Stat, how: int) -> bool:
        """Whether a node was created since it was known, below a parent that may not be the one we know."""
        nodes = self.copy.nodes
        known = nodes.get(path)
        if path == self.full or (known is not None and known.stat.czxid == stat.czxid):
            return False
        parent = paths.parent_of(path)
        return parent not in nodes or parent in self.reads.reborn or self._is_doubtful(parent, how)

    def _is_doubtful(self, parent: str, how: int) -> bool:
        """Whether a parent may be another one of which no event has told, as long as the tree is loaded."""
        return self.reads.deep > 0 and how == SHALLOW and parent not in self._listed

    def _postpone(self, path: str, how: int) -> None:
        """Read a node again that waits for its parent."""
        parent = paths.parent_of(path)
        if parent in self._refused:
            self._refused.add(path)  # so that what is below it does not wait for it
            return
        self._count_round(path, "the server shows it, and does not show its parent", MOST_POSTPONED)
        if self._is_doubtful(parent, how):
            self._held[path] = None
        else:
            if not self.reads.is_expected(parent):
                self.reads.add(parent, SHALLOW)
            self.reads.add(path, how)
        self.reads.note_birth(path)  # as long as it waits, those below it wait too
        self._extend()

    def _extend(self) -> None:
        """Who waits for what is being read waits for what is read again, too."""
        if self.reads.answered <= self._owed < _WHEN_LOADED:
            self._owed = self.reads.queued
        self._coming = [(self.reads.queued, place) for _, place in self._coming]


def _is_costly(error: BaseException) -> bool:
    """Whether to try again costs a connection, or an answer over the limit, if nothing has changed."""
    if isinstance(error, errors.ServerError):
        return isinstance(error, errors.Unimplemented)  # servers hang up on what they do not know
    return isinstance(error, errors.CorralError)


def find_feed(feeds: Feeds, full: str, path: str, wanted: Wanted) -> TreeFeed:
    """The feed for this part of a subtree."""
    key = (TreeFeed, wanted)
    return feeds.get(key, lambda: TreeFeed(feeds, key, full, path, wanted))
