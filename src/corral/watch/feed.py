"""What all who watch the same thing through one client share: one server watch, one read a change (W4).

A `Feed` is kept by its readers, each with a *place* in it, and is dropped with the last of them. A feed never
refers to a reader, only to places: else a reader that nobody has any more would never be collected (W5).
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from corral import errors
from corral.session.requests import Request
from corral.session.supervisor import Session
from corral.session.watches import Change, Kind
from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import Operation

from .own_writes import OwnWrites

__all__ = ["Feed", "Feeds", "Place", "ReadFeed"]


class Place:
    """One reader's place in a feed; with nothing of its own where every reader is told the newest state."""

    __slots__ = ()


class Feed(ABC):
    """Shared by the readers of one thing. A subclass is a watcher of the session's registry."""

    def __init__(self, feeds: Feeds, key: Hashable, full: str, path: str) -> None:
        self.session = feeds.session
        self.full = full
        self.path = path
        """As its first reader names it, for error messages only."""
        self.places: dict[Place, None] = {}
        self._feeds = feeds
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[None], None] = {}  # not a set, which is large when it is empty

    # For the subclass

    @property
    @abstractmethod
    def is_fresh(self) -> bool:
        """Whether what is known may be told without waiting for more."""

    @abstractmethod
    def demand(self) -> None:
        """Somebody waits for news: see to it that there will be some."""

    @abstractmethod
    def end(self) -> None:
        """The last reader has left: let go of the server's watch."""

    def wake(self, error: BaseException | None) -> None:
        """There is news for all who wait, or an error, of which each gets a copy."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(errors.fresh(error))

    def why_refused(self, error: BaseException, verb: str) -> BaseException:
        """What to tell readers of a persistent watch that is not set: as of their own call, not of ours."""
        if isinstance(error, errors.Unimplemented):
            return errors.Unimplemented(
                verb, self.path, "the server has no persistent watches; that takes ZooKeeper 3.6"
            )
        if isinstance(error, errors.OperationError):
            asked = errors.describe(error.operation, error.path)
            error = errors.fresh(error)
            error.operation, error.path = verb, self.path
            error.args = (str(error).replace(asked, errors.describe(verb, self.path), 1),)
        return error

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for news."""
        return bool(self._waiting)

    # The readers' side

    def join(self, place: Place) -> None:
        """One reader more."""
        self.places[place] = None

    def wait(self, future: asyncio.Future[None]) -> None:
        """Resolve `future` when there is news."""
        self._waiting[future] = None
        self.demand()

    def forget(self, future: asyncio.Future[None]) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(future, None)

    def leave_soon(self, place: Place) -> None:
        """One reader less, in the next loop turn: garbage is collected in any thread, and at any moment."""
        self.run_soon(self.leave, place)

    def run_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it in the next turn of the loop, whatever thread this is."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the session with it
            self._loop.call_soon_threadsafe(callback, *args)

    def leave(self, place: Place) -> None:
        """One reader less."""
        if self.places.pop(place, self) is None and not self.places:
            self._feeds.drop(self._key)
            self.end()


F = TypeVar("F", bound=Feed)


class Feeds:
    """The feeds of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._feeds: dict[Hashable, Feed] = {}
        self.own_writes = OwnWrites(session)

    def get(self, key: tuple[type[F], *tuple[Hashable, ...]], make: Callable[[], F]) -> F:
        """The feed of a key, made if there is none; whoever asks must `join` it."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = make()
        assert isinstance(feed, key[0])
        return feed

    def drop(self, key: Hashable) -> None:
        """The last reader has left."""
        del self._feeds[key]

    def __len__(self) -> int:
        return len(self._feeds)


S = TypeVar("S", bound="tuple[Any, Stat | None]")

# How often in a row a feed reads again because an answer cannot be right, before its readers are told.
MOST_MISREADS = 10


class ReadFeed(Feed, Generic[S]):
    """The newest known state of something that one read gives; read again when it has changed. A state has
    the node's `Stat`, or None where there is no node, as its second part.

    The server's watch is one-shot: it tells that there was a change, not which. So each change is *fire* (the
    feed is stale), *read again with a watch in the same request*, *publish*. A reader that is slow misses the
    states in between and gets the newest. Nothing is read while nobody waits.

    Why states never go backwards: a client shows each server the newest transaction it has seen, and a server
    that is behind it refuses (`lastZxid` in the connect request); that outlives the session here. Reads of
    one feed follow one another, so the feed's states are in the order of their zxids. An answer that is not
    is the server's fault. It is dropped and asked for again, at most `MOST_MISREADS` times in a row.

    A read on which connections break is sent again until `ConnectionLoss.is_hopeless`.
    """

    def __init__(
        self, feeds: Feeds, key: Hashable, full: str, path: str, op: Operation, kind: Kind, absent: S
    ) -> None:
        super().__init__(feeds, key, full, path)
        self.state: S | None = None
        """The newest state read; None before the first."""
        self.stale = True
        """Whether there may have been a change since `state` was read."""
        self._absent = absent
        self._kind = kind
        self._read_op = op
        self._read_body = op.request.encode(full, True)
        self._reading: Operation | None = None
        self._misreads = 0  # in a row
        self._newest: Stat | None = None  # of the last state in which there was a node
        self.session.watch(full, self, kind)
        self._watches_existence = kind is Kind.NODE

    @property
    def is_fresh(self) -> bool:
        return not self.stale

    def demand(self) -> None:
        if self.stale:
            self._read(self._read_op)

    def end(self) -> None:
        self.session.unwatch(self.full, self, self._kind)
        self._watch_existence(False)

    @abstractmethod
    def state_of(self, answer: Any) -> S:
        """The state that the answer to a read tells."""

    def is_behind(self, state: S, newest: Stat) -> bool:
        """Whether a state is older than one of the same node that had this `Stat`."""
        stat = state[1]
        return stat is not None and stat.mzxid < newest.mzxid

    # The session's side

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        """There may have been a change."""
        self.stale = True
        if self.is_awaited:
            self._read(self._read_op)

    def done(self) -> bool:
        """Whether everybody has left."""
        return not self.places

    def set_result(self, result: Any, /) -> None:
        """The answer to a read."""
        op, self._reading = self._reading, None
        if op is not self._read_op:
            self._misread("it is there and is not there, by turns")  # or it was created since: look
            return
        self._watch_existence(False)
        self._offer(self.state_of(result))

    def set_exception(self, error: BaseException, /) -> None:
        """A read failed."""
        op, self._reading = self._reading, None
        if isinstance(error, errors.NoNode):
            if op is messages.EXISTS:
                self._publish(self._absent)
            else:
                self._watch_existence(True)
                self._read(messages.EXISTS)  # which sets a watch although the node is not there
        elif isinstance(error, errors.ConnectionLoss) and not error.is_hopeless and self.is_awaited:
            self._read(self._read_op)
        else:
            self._give_up(error)

    def _read(self, op: Operation) -> None:
        if self._reading is not None:
            return  # what made it stale again will be seen when this read is published
        self._reading = op
        if op is self._read_op:
            self.stale = False
        body, watches = self._question(op)
        try:
            self.session.submit(Request(op, body, self.path, self, watches=watches))
        except errors.UsageError:  # too large a path: nothing was sent
            self._reading, self.stale = None, True
            raise

    def _question(self, op: Operation) -> tuple[bytes, tuple[str, Kind] | None]:
        """The body of a read, and the watch that it sets."""
        if op is self._read_op:
            return self._read_body, (self.full, self._kind)
        return messages.encode_exists(self.full, True), (self.full, Kind.NODE)

    def _offer(self, state: S) -> None:
        """The server says that this is the state now: publish it, unless it is older than one before."""
        stat, newest = state[1], self._newest
        if stat is not None and newest is not None and self._goes_back(state, stat, newest):
            self._misread("the server answers with an older state than before")
        else:
            self._publish(state)

    def _goes_back(self, state: S, stat: Stat, newest: Stat) -> bool:
        if stat.czxid != newest.czxid:
            return stat.czxid < newest.czxid
        # A node that was gone comes back as another one, with another czxid.
        gone = self.state is not None and self.state[1] is None
        return gone or self.is_behind(state, newest)

    def _publish(self, state: S) -> None:
        self._misreads = 0
        self._newest = state[1] or self._newest
        self.state = state
        self.wake(None)

    def _misread(self, problem: str) -> None:
        """An answer cannot be right, or is out of date already: read again, but not for ever."""
        self._misreads += 1
        if self._misreads <= MOST_MISREADS:
            self._read(self._read_op)
        else:
            self._give_up(
                errors.ReplyError(
                    self._read_op.name, self.path, f"{problem}, {self._misreads} times in a row"
                )
            )

    def _give_up(self, error: BaseException) -> None:
        """Tell those who wait; whoever waits next has it tried again."""
        self._misreads = 0
        self.stale = True
        self.wake(error)

    def _watch_existence(self, absent: bool) -> None:
        """Which children a node has is not told of one that is not there: watch the node itself then."""
        if self._kind is Kind.NODE or absent is self._watches_existence:
            return
        self._watches_existence = absent
        (self.session.watch if absent else self.session.unwatch)(self.full, self, Kind.NODE)
