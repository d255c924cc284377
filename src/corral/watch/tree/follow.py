"""Follows a subtree by one persistent recursive watch, for all of its readers in a client.

The server's watch reports which node has changed. The feed reads it, many at a time in one `multiRead`, and
merges the answers into a copy of the tree (`merge.py`). Its readers receive the changes of the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Hashable
from typing import Any

from corral import errors, paths
from corral.session.requests import Request
from corral.session.states import FINAL
from corral.session.watchers import WatchEvent, WatchKind
from corral.types import Stat, State
from corral.watch.shared import Cursor, Feed, Feeds
from corral.wire import messages
from corral.wire.messages import MultiResult

from .copy import TreeCopy, TreeCursor
from .filter import TreeFilter, TreeFilterError
from .merge import TreeMerger
from .reads import SHALLOW, Batch, TreeReads
from .retry import RetryDelays, is_costly
from .states import TRANSITIONS, TreeState, TreeTransition

__all__ = ["TreeFeed", "find_feed"]

# At most how many changed nodes wait to be read while no reader waits. With more, and more than the tree has
# nodes, the whole tree is read again instead.
BACKLOG = 10_000

_WHEN_LOADED = sys.maxsize  # a target: set to a number once the tree is loaded


class _BatchWaiter:
    """Waits for the answer to one batch."""

    def __init__(self, feed: TreeFeed, batch: Batch) -> None:
        self._feed = feed
        self._batch = batch

    def done(self) -> bool:
        return not self._feed.reads.is_under_way(self._batch)

    def set_result(self, results: Any, /) -> None:
        self._feed.answered(self._batch, results)

    def set_exception(self, error: BaseException, /) -> None:
        self._feed.not_answered(self._batch, error)


class TreeFeed(Feed):
    """The newest known state of a subtree."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str, tree: TreeFilter) -> None:
        super().__init__(feeds, key, full, path)
        self.copy = TreeCopy(full)
        self.reads = TreeReads()
        self.failure: BaseException | None = None
        """The error that caches raise: from a failure until the whole tree was read again."""
        self._tree = tree
        self._merger = TreeMerger(tree, path, self.reads, self.copy, self.session.max_body)
        self._state = TreeState.IDLE
        self._caches = 0
        self._own_writes = feeds.own_writes
        self._own_write_target: int | None = None  # reached when the copy has all own writes
        self._pending_readers: list[tuple[int, TreeCursor]] = []  # each with the target that activates it
        # Beside the state, since the next attempt does not end a failure before its answers are complete.
        self._recovery = TreeCursor(wants_events=False)
        self._retry_delays = RetryDelays()
        self._retry: asyncio.TimerHandle | None = None
        self._load_began = 0.0  # by the loop's clock

    # For readers

    @property
    def is_fresh(self) -> bool:
        return True  # a cursor has no news before it is active

    @property
    def is_current(self) -> bool:
        """Whether the client is connected and everything that it has heard of is in the copy."""
        connected = self.session.state is State.CONNECTED
        return connected and self._state is TreeState.LIVE and not self.reads

    def join(self, cursor: Cursor) -> None:
        assert isinstance(cursor, TreeCursor)
        super().join(cursor)
        if cursor.complete and cursor.reported is None:
            self.copy.activate(cursor)
        else:
            self._pending_readers.append((self.reads.queued, cursor))
            self._activate_readers()

    def leave(self, cursor: Cursor) -> None:
        assert isinstance(cursor, TreeCursor)
        self._drop_pending(cursor)
        self.copy.deactivate(cursor)
        super().leave(cursor)

    def add_cache(self) -> None:
        """A cache reads the copy at any time: keep the copy current also while no reader waits."""
        self._caches += 1
        self._own_writes.add(self)
        self.demand()

    def remove_cache(self) -> None:
        """A cache was closed."""
        self._caches -= 1
        if not self._caches:
            self._own_writes.remove(self)
            if self._state is TreeState.RETRYING:
                self._change(TreeTransition.CANCEL_RETRY)

    async def wait_active(self, cursor: TreeCursor) -> None:
        """Wait until the copy has all that was being read when the reader joined, or until it has left."""
        self._activate_readers()
        while not cursor.active and self._is_pending(cursor):
            future = self._loop.create_future()
            try:
                self.add_waiter(future)
                await future
            finally:
                self.remove_waiter(future)

    def _activate_readers(self) -> None:
        while self._pending_readers and self._state is TreeState.LIVE:
            target, cursor = self._pending_readers[0]
            if not self.reads.is_reached(target):
                return
            del self._pending_readers[0]
            self.copy.activate(cursor)
            if cursor is self._recovery:
                self.failure = None
                self._retry_delays.reset()

    def _is_pending(self, cursor: TreeCursor) -> bool:
        return any(each is cursor for _, each in self._pending_readers)

    def _drop_pending(self, cursor: TreeCursor) -> None:
        if self._is_pending(cursor):
            self._pending_readers = [each for each in self._pending_readers if each[1] is not cursor]
            self.wake(None)

    def _wake_readers(self) -> None:
        if self.copy.has_news:
            self.copy.has_news = False
            self.wake(None)

    # The state

    def _change(self, transition: TreeTransition) -> None:
        """Change the state: nothing else does."""
        before = self._state
        after = TRANSITIONS[before].get(transition)
        if after is None:
            raise errors.InternalError(f"a tree that is {before.name} cannot {transition.name}")
        self._state = after
        if before is TreeState.RETRYING and self._retry is not None:
            self._retry.cancel()
            self._retry = None
            self.session.unwatch(self.full, self, WatchKind.NODE)

    def demand(self) -> None:
        if not self._state.is_following:
            self._follow()
        self._send_reads()

    def stop(self) -> None:
        self._change(TreeTransition.STOP)
        self._unfollow()
        self.copy.clear()
        self._pending_readers.clear()
        self.wake(None)  # own writes that wait for the copy, which will not have them

    def _follow(self) -> None:
        self._change(TreeTransition.FOLLOW)
        self._load_began = self._loop.time()
        self.session.watch(self.full, self, WatchKind.RECURSIVE)
        if self._state.is_following:  # unless the watch was refused at once
            self._load()  # sent behind the request for the watch, and therefore read after it is set

    def _load(self) -> None:
        self._change(TreeTransition.READ_DEEP)
        self._merger.load()

    def _unfollow(self) -> None:
        self.session.unwatch(self.full, self, WatchKind.RECURSIVE)
        self._merger.abandon()
        self._own_write_target = None

    def _fail(self, error: BaseException) -> None:
        """Stop following, and raise `error` in all readers. The next reader that waits starts again."""
        if not self._state.is_following:
            return  # the filter has closed the last reader, and raised
        wasted = self._loop.time() - self._load_began if self._state is TreeState.LOADING else 0.0
        self._change(TreeTransition.FAIL)
        self._unfollow()
        if self.failure is None:
            self._pending_readers.append((self.reads.queued, self._recovery))
        self.failure = error
        delay = self._retry_delays.after(error, wasted) if self._caches else None
        if delay is not None:
            self._change(TreeTransition.SCHEDULE_RETRY)
            self._retry = self._loop.call_later(delay, self.demand)
            # Fires when the session is over: the timer must not outlive the client.
            self.session.watch(self.full, self, WatchKind.NODE)
        self.wake(error)

    # For the session

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        """A node has changed, or any may have."""
        if change is WatchEvent.ARMED:
            return
        if not self._state.is_following:
            self._fired_while_failed()
            return
        if change is WatchEvent.UNKNOWN:
            self._load()
        elif self._concerns(path):
            self.reads.add(path, SHALLOW)
            if change is not WatchEvent.DATA_CHANGED:
                self.reads.mark_recreated(path)
            if not self.reads.deep and self.reads.waiting > max(BACKLOG, len(self.copy.nodes)):
                self._load()
        self._send_reads()

    def _fired_while_failed(self) -> None:
        """The root has changed, or the session is over: retry now, or fail for good."""
        if self._state is TreeState.RETRYING:
            final = self.session.state in FINAL
            if final or (self.failure is not None and not is_costly(self.failure)):
                self.demand()

    def refused(self, error: BaseException, /) -> None:
        """The server's watch could not be set."""
        self._fail(self.refusal(error, "watch_tree"))

    def _concerns(self, path: str) -> bool:
        try:
            return self._merger.concerns(path)
        except TreeFilterError as error:
            self._fail(error.reason)
            return False

    # Own writes

    def written(self, path: str, data: bytes | None, stat: Stat | None, /) -> None:
        """This client has written a node."""
        if not self._state.is_following or not self._tree.contains(path):
            return
        if self.reads.deep and path != self.full and not self._merger.expects_children(paths.parent_of(path)):
            self._own_write_target = _WHEN_LOADED  # loading the tree finds it
            return
        if not self._concerns(path):
            return
        if self._merger.merge_write(path, data, stat):
            self._wake_readers()
        else:
            self._own_write_target = _WHEN_LOADED if self.reads.deep else self.reads.queued
            self._send_reads()

    async def wait_current(self) -> None:
        """Wait until the copy has all that this client has written; return at once if it never will."""
        target = self._own_write_target
        if self._state.is_following and target is not None and not self.reads.is_reached(target):
            cursor = TreeCursor(wants_events=False)
            self._pending_readers.append((self.reads.queued, cursor))
            try:
                with contextlib.suppress(Exception):  # readers of the tree get the error
                    await self.wait_active(cursor)
            finally:
                self._drop_pending(cursor)

    # Reads

    def _send_reads(self) -> None:
        """Send what is queued, if a reader needs it or the tree is being loaded."""
        while self.reads.deep or self._caches or self.has_waiters:
            batch = self.reads.next_batch(self.session.max_body // 2)
            if batch is None:
                return
            waiter = _BatchWaiter(self, batch)
            try:
                self.session.submit(Request(messages.MULTI_READ, batch.encode(), self.path, waiter))
            except errors.UsageError as error:  # a single path that is too long
                self._fail(error)
                return

    def answered(self, batch: Batch, results: list[MultiResult]) -> None:
        """A batch was answered."""
        if not self.reads.is_next(batch):
            self.reads.extend_targets()
        try:
            self._merger.merge(batch, results)
        except TreeFilterError as error:
            self._fail(error.reason)
        except errors.CorralError as error:
            self._fail(error)
        else:
            self._continue()

    def not_answered(self, batch: Batch, error: BaseException) -> None:
        """A batch has no answer, or none that can be used. A larger batch is retried in smaller ones, a
        single path until there is no hope. Any other error ends following the tree."""
        is_loss = isinstance(error, errors.ConnectionLoss)
        hopeless = isinstance(error, errors.ConnectionLoss) and error.is_hopeless
        smaller = len(batch.paths) > 1 and (is_loss or isinstance(error, errors.ReplyError))
        if not smaller and (hopeless or not is_loss):
            self._fail(error)
            return
        self.reads.retry_smaller(batch, too_large=not is_loss)
        self.reads.extend_targets()
        self._continue()

    def _continue(self) -> None:
        """Go on after a batch."""
        if not self._state.is_following:
            return  # the filter has closed the last reader
        if self.reads.deep:
            self._change(TreeTransition.READ_DEEP)
        elif self._state is not TreeState.LIVE:
            self._change(TreeTransition.LOADED)
            self._merger.finish_loading()
            if self._own_write_target == _WHEN_LOADED:
                self._own_write_target = self.reads.queued
        if self._own_write_target is not None and self.reads.is_reached(self._own_write_target):
            self._own_write_target = None
        self._send_reads()
        self._activate_readers()
        self._wake_readers()


def find_feed(feeds: Feeds, full: str, path: str, tree: TreeFilter) -> TreeFeed:
    """The feed of a tree, made if there is none."""
    key = (TreeFeed, tree)
    return feeds.get(key, lambda: TreeFeed(feeds, key, full, path, tree))
