"""One reader of a feed, as an async iterator with a definite end."""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from types import CodeType, TracebackType
from typing import Any, Generic, Self, TypeVar

from corral import errors

from .feed import Feed, Feeds, Place

__all__ = ["Reader"]

F = TypeVar("F", bound=Feed)
P = TypeVar("P", bound=Place)
E = TypeVar("E")


class Reader(ABC, Generic[F, P, E]):
    """Iterates over what a feed has to tell. It joins the feed when it is first asked, and again if it has
    left because the task that iterated is over."""

    _verb = "watch"

    def __init__(self, feeds: Feeds, full: str, path: str, place: P) -> None:
        self._feeds = feeds
        self._full = full
        self._path = path
        self._place = place
        self._feed: F | None = None
        self._end: weakref.finalize[[Place], Reader[F, P, E]] | None = None
        self._closed = False
        self._waiting: asyncio.Future[None] | None = None
        self._follower: _Follower | None = None  # of the task that has begun, or was told last

    # For the subclass

    @abstractmethod
    def _find(self) -> F:
        """The feed."""

    @abstractmethod
    def _take(self, feed: F, place: P) -> E | None:
        """The next event, if there is news."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        if self._closed:
            raise StopAsyncIteration
        loop = self._feeds.session.check_place()
        if self._waiting is not None:
            raise errors.UsageStateError(
                f"two tasks read one watch of {self._path!r}; call zk.{self._verb}() in each, they share it"
            )
        feed, place = self._feed or self._join(), self._place
        try:
            # Once we have waited, whatever has been published is delivered, even if it is stale again: else
            # what is written faster than we read would never be seen.
            acceptable = feed.is_fresh
            while True:
                if acceptable and (event := self._take(feed, place)) is not None:
                    self._follow_task()
                    return event
                self._waiting = future = loop.create_future()
                try:
                    feed.wait(future)
                    await future
                except BaseException:
                    feed.forget(future)
                    raise
                finally:
                    self._waiting = None
                if self._closed:
                    raise StopAsyncIteration
                acceptable = True
        finally:
            # Whoever keeps a cancelled task keeps its traceback; it must not keep the watch alive (W5).
            self = None  # type: ignore[assignment]

    def _join(self) -> F:
        self._feed = feed = self._find()
        feed.join(self._place)
        self._end = weakref.finalize(self, feed.leave_soon, self._place)
        self._end.atexit = False
        self._follow_task()
        return feed

    def _follow_task(self) -> None:
        """Leave the feed when the task that has begun, or was told last, fails or is cancelled: whoever keeps
        its exception keeps what its frames had, this iterator perhaps, and will hardly iterate again (W5). If
        they do, it joins again. One that ends well, or was told nothing, may have been for one `anext`."""
        task = asyncio.current_task()
        if task is None:
            return
        before = self._follower
        if before is not None and before.task() is task:
            return
        if getattr(task.get_coro(), "cr_code", None) is _ANEXT:
            return  # it is for one `anext`, so there are no frames of its own
        follower = _FOLLOWERS.get(task)
        if follower is None:
            follower = _FOLLOWERS[task] = _Follower(task)
        if before is not None:
            before.readers.discard(self)
        follower.readers.add(self)
        self._follower = follower

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the watch; iterating it ends. Nothing is sent if nothing was read yet."""
        self._closed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._leave()

    def _leave(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.readers.discard(self)
        feed, self._feed = self._feed, None
        if feed is not None and self._end is not None and self._end.detach():
            feed.leave(self._place)

    def _task_done(self, *, failed: bool) -> None:
        self._follower = None
        if failed:
            self._leave()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._feed is None else "watching"
        return f"<{type(self).__name__} of {self._path!r}, {state}>"


_ANEXT: CodeType = Reader.__anext__.__code__


class _Follower:
    """Tells the readers that one task has read last how it ended. A task has at most one of these, however
    many watches it has used: a service that waits for states again and again does that all its life in one
    task."""

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = weakref.ref(task)
        self.readers: weakref.WeakSet[Reader[Any, Any, Any]] = weakref.WeakSet()
        task.add_done_callback(self)

    def __call__(self, task: asyncio.Task[object]) -> None:
        # A task that failed has the frames of its exception. Its `exception()` would tell as well, but
        # whoever asks for that has taken note of it, and the loop does not report it any more.
        failed = task.cancelled() or bool(task.get_stack(limit=1))
        for reader in tuple(self.readers):
            if reader._waiting is None:
                reader._task_done(failed=failed)


_FOLLOWERS: weakref.WeakKeyDictionary[asyncio.Task[object], _Follower] = weakref.WeakKeyDictionary()
