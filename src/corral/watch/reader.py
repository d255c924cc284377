"""One reader of a feed, as an async iterator with a definite end."""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from types import CodeType, TracebackType
from typing import Any, Generic, Self, TypeVar

from corral import errors

from .shared import Cursor, Feed, Feeds

__all__ = ["Reader"]

F = TypeVar("F", bound=Feed)
C = TypeVar("C", bound=Cursor)
E = TypeVar("E")


class Reader(ABC, Generic[F, C, E]):
    """Iterates over the events of a feed. It joins the feed on the first `anext`, and joins it again if it
    left because the task that iterated has ended."""

    _verb = "watch"

    def __init__(self, feeds: Feeds, full: str, path: str, cursor: C) -> None:
        self._feeds = feeds
        self._full = full
        self._path = path
        self._cursor = cursor
        self._feed: F | None = None
        self._finalizer: weakref.finalize[[Cursor], Reader[F, C, E]] | None = None
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._task_end: _TaskEnd | None = None  # of the task that joined, or that received the last event

    # For the subclass

    @abstractmethod
    def _find_feed(self) -> F:
        """The feed to join."""

    @abstractmethod
    def _next_event(self, feed: F, cursor: C) -> E | None:
        """The next event, or None if there is no news."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        if self._closed:
            raise StopAsyncIteration
        loop = self._feeds.session.ensure_loop()
        if self._waiter is not None:
            raise errors.UsageStateError(
                f"two tasks read one watch of {self._path!r}; call zk.{self._verb}() in each, they share it"
            )
        feed, cursor = self._feed or self._join(), self._cursor
        try:
            # After a wait, deliver whatever was published even if it is stale again: otherwise a reader of a
            # node that is written faster than it is read would never get an event.
            acceptable = feed.is_fresh
            while True:
                if acceptable and (event := self._next_event(feed, cursor)) is not None:
                    self._observe_task()
                    return event
                self._waiter = future = loop.create_future()
                try:
                    feed.add_waiter(future)
                    await future
                except BaseException:
                    feed.remove_waiter(future)
                    raise
                finally:
                    self._waiter = None
                if self._closed:
                    raise StopAsyncIteration
                acceptable = True
        finally:
            # A cancelled task that somebody keeps has a traceback with this frame. Without a reference to
            # the reader it does not keep the watch alive (W5).
            self = None  # type: ignore[assignment]

    def _join(self) -> F:
        self._feed = feed = self._find_feed()
        feed.join(self._cursor)
        self._finalizer = weakref.finalize(self, feed.leave_soon, self._cursor)
        self._finalizer.atexit = False
        self._observe_task()
        return feed

    def _observe_task(self) -> None:
        """Leave the feed when the current task fails or is cancelled (W5): its exception keeps its frames and
        with them, perhaps, this iterator, which nobody is likely to use again. If somebody does, it joins
        again. A task that succeeds, or that got no event, may have been made for a single `anext`."""
        task = asyncio.current_task()
        if task is None:
            return
        before = self._task_end
        if before is not None and before.task() is task:
            return
        if getattr(task.get_coro(), "cr_code", None) is _ANEXT:
            return  # a task of this one `anext` has no frames of its own
        task_end = _TASK_ENDS.get(task)
        if task_end is None:
            task_end = _TASK_ENDS[task] = _TaskEnd(task)
        if before is not None:
            before.readers.discard(self)
        task_end.readers.add(self)
        self._task_end = task_end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the watch and its iteration. Sends nothing if nothing was read yet."""
        self._closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._leave()

    def _leave(self) -> None:
        task_end, self._task_end = self._task_end, None
        if task_end is not None:
            task_end.readers.discard(self)
        feed, self._feed = self._feed, None
        if feed is not None and self._finalizer is not None and self._finalizer.detach():
            feed.leave(self._cursor)

    def _task_ended(self, *, failed: bool) -> None:
        if self._waiter is not None:
            return  # another task reads it by now
        self._task_end = None
        if failed:
            self._leave()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._feed is None else "watching"
        return f"<{type(self).__name__} of {self._path!r}, {state}>"


_ANEXT: CodeType = Reader.__anext__.__code__


class _TaskEnd:
    """Notifies readers when the task that used them last has ended. There is one for each task, however many
    watches it uses: a service may wait for one state after another, all its life, in one task."""

    def __init__(self, task: asyncio.Task[object]) -> None:
        self.task = weakref.ref(task)
        self.readers: weakref.WeakSet[Reader[Any, Any, Any]] = weakref.WeakSet()
        task.add_done_callback(self)

    def __call__(self, task: asyncio.Task[object]) -> None:
        # A failed task has the frames of its exception. `task.exception()` would answer as well, but it also
        # marks the exception as retrieved, and the loop would not report it any more.
        failed = task.cancelled() or bool(task.get_stack(limit=1))
        for reader in tuple(self.readers):
            reader._task_ended(failed=failed)


_TASK_ENDS: weakref.WeakKeyDictionary[asyncio.Task[object], _TaskEnd] = weakref.WeakKeyDictionary()
