"""What the readers of one path in a client share: one server watch, and one read per change (W4).

Each reader joins a `Feed` with a *cursor*; the last one to leave drops the feed. A feed refers to cursors,
never to readers: otherwise a reader that the user has dropped would never be garbage-collected (W5).
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from corral import errors
from corral.session.session import Session

from .own_writes import OwnWrites

__all__ = ["Cursor", "Feed", "Feeds"]


class Cursor:
    """One reader's position in a feed. It has no state where each reader gets the newest state."""

    __slots__ = ()


class Feed(ABC):
    """The shared half of a watch. A subclass is a watcher in the session's registry."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str) -> None:
        self.session = feeds.session
        self.full = full
        self.path = path
        """The path as the first reader names it, for error messages only."""
        self.cursors: dict[Cursor, None] = {}
        self._feeds = feeds
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[asyncio.Future[None], None] = {}  # a dict, since an empty set takes more memory

    # For the subclass

    @property
    @abstractmethod
    def is_fresh(self) -> bool:
        """Whether a reader may take what is known without waiting."""

    @abstractmethod
    def demand(self) -> None:
        """A reader waits for news: make sure that a read or a watch is under way."""

    @abstractmethod
    def stop(self) -> None:
        """The last reader has left: remove the server's watch."""

    def wake(self, error: BaseException | None) -> None:
        """Wake all waiters. With an `error`, each of them raises its own copy."""
        waiters, self._waiters = self._waiters, {}
        for future in waiters:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(errors.fresh(error))

    def refusal(self, cause: BaseException, verb: str) -> BaseException:
        """The error that readers raise when `cause` prevented the persistent watch.

        `cause` names the request and the full path; readers expect their own verb and path.
        """
        error: BaseException
        match cause:
            case errors.Unimplemented():
                problem = str(cause).removeprefix(f"{errors.describe(cause.operation, cause.path)}: ")
                error = errors.Unimplemented(verb, self.path, problem)
            case errors.ServerError():
                error = errors.server_error(cause.code, verb, self.path)
            case errors.ConnectionLoss():
                problem = f"{cause.losses} connections in a row broke on the request that sets the watch"
                error = loss = errors.ConnectionLoss(verb, self.path, problem)
                loss.losses = cause.losses
            case errors.ReplyError():
                problem = "the answer to the request that sets the watch is invalid"
                error = errors.ReplyError(verb, self.path, problem)
            case errors.FrameTooLarge():
                error = errors.FrameTooLarge(verb, self.path, cause.size, cause.limit)
            case _:
                return cause
        error.__cause__ = cause
        return error

    @property
    def has_waiters(self) -> bool:
        """Whether a reader waits for news."""
        return bool(self._waiters)

    # For readers

    def join(self, cursor: Cursor) -> None:
        """Add a reader."""
        self.cursors[cursor] = None

    def add_waiter(self, future: asyncio.Future[None]) -> None:
        """Resolve `future` at the next news."""
        self._waiters[future] = None
        self.demand()

    def remove_waiter(self, future: asyncio.Future[None]) -> None:
        """Do not resolve `future` any more."""
        self._waiters.pop(future, None)

    def leave_soon(self, cursor: Cursor) -> None:
        """Remove a reader in the next turn of the loop. The garbage collector calls this from any thread."""
        self.run_soon(self.leave, cursor)

    def run_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call `callback` in the next turn of the loop, from whatever thread this is."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the session with it
            self._loop.call_soon_threadsafe(callback, *args)

    def leave(self, cursor: Cursor) -> None:
        """Remove a reader."""
        if self.cursors.pop(cursor, self) is None and not self.cursors:
            self._feeds.drop(self._key)
            self.stop()


F = TypeVar("F", bound=Feed)


class Feeds:
    """The feeds of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._feeds: dict[Hashable, Feed] = {}
        self.own_writes = OwnWrites(session)

    def get(self, key: tuple[type[F], *tuple[Hashable, ...]], make: Callable[[], F]) -> F:
        """The feed of a key, made if there is none. The caller must `join` it."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = make()
        assert isinstance(feed, key[0])
        return feed

    def of(self, cls: type[F]) -> list[F]:
        """All feeds of a class."""
        return [feed for feed in self._feeds.values() if isinstance(feed, cls)]

    def drop(self, key: Hashable) -> None:
        """Remove a feed that has no reader."""
        del self._feeds[key]

    def __len__(self) -> int:
        return len(self._feeds)
