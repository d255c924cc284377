"""A copy of a subtree that one object reads at any time, without waiting."""

from __future__ import annotations

import weakref

from corral import errors
from corral.watch.shared import Feeds

from .copy import TreeCopy, TreeCursor
from .filter import TreeFilter
from .follow import TreeFeed, find_feed

__all__ = ["KeptCopy"]


class KeptCopy:
    """Keeps the copy of a tree current, also while nobody waits for news, from `open` until `close`, or until
    the object that has it is garbage. Readers of the same tree in this client share the copy.

    `what` and `factory` are what errors call that object, and the method that makes another.
    """

    def __init__(
        self,
        feeds: Feeds,
        path: str,
        tree: TreeFilter,
        *,
        what: str,
        factory: str,
        wants_events: bool = False,
    ) -> None:
        self.cursor = TreeCursor(wants_events=wants_events)
        self._feeds = feeds
        self._path = path
        self._tree = tree
        self._name = f"this {what} of {path!r}"
        self._what = what
        self._factory = factory
        self.feed: TreeFeed | None = None
        """The feed while it is open."""
        self._finalizer: weakref.finalize[[TreeFeed, TreeCursor], KeptCopy] | None = None

    async def open(self) -> None:
        """Wait until the copy is complete. On an error or a cancel nothing is left."""
        self._feeds.session.ensure_loop()
        if self.feed is not None:
            raise errors.UsageStateError(
                f"{self._name} is open already; share it, or make another with zk.{self._factory}"
            )
        self.feed = feed = find_feed(self._feeds, self._tree.root, self._path, self._tree)
        feed.join(self.cursor)
        self._finalizer = weakref.finalize(self, _leave_soon, feed, self.cursor)
        self._finalizer.atexit = False
        try:
            feed.add_cache()
            await feed.wait_active(self.cursor)
            if self.feed is not feed:
                raise errors.UsageStateError(f"{self._name} was closed while it was entered")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop keeping it. Closing it again has no effect."""
        feed, self.feed = self.feed, None
        if feed is not None and self._finalizer is not None and self._finalizer.detach():
            _leave(feed, self.cursor)

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and not closed since."""
        return self.feed is not None

    @property
    def is_current(self) -> bool:
        """Whether the client is connected and every change that it has heard of is in the copy."""
        return self.feed is not None and self.feed.is_current

    @property
    def copy(self) -> TreeCopy:
        """The copy, as it was when it was last current. Raises `UsageStateError` if it is not open."""
        return self._opened().copy

    @property
    def failure(self) -> BaseException | None:
        """Why the copy is not kept current now, if so."""
        return self._opened().failure

    def checked(self) -> TreeCopy:
        """The copy. Raises its own copy of the failure, if there is one."""
        feed = self._opened()
        if feed.failure is not None:
            raise errors.fresh(feed.failure)
        return feed.copy

    def _opened(self) -> TreeFeed:
        if self.feed is None:
            raise errors.UsageStateError(
                f"{self._name} is not open; use it in 'async with zk.{self._factory} as {self._what}:'"
            )
        return self.feed


def _leave(feed: TreeFeed, cursor: TreeCursor) -> None:
    feed.remove_cache()
    feed.leave(cursor)


def _leave_soon(feed: TreeFeed, cursor: TreeCursor) -> None:
    feed.run_soon(_leave, feed, cursor)
