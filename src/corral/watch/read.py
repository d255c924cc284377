"""A feed whose state is the answer to one read, repeated after each change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from corral import errors
from corral.session.requests import Request
from corral.session.watchers import WatchEvent, WatchKind
from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import Operation

from .shared import Feed, Feeds

__all__ = ["ReadFeed"]

S = TypeVar("S", bound="tuple[Any, Stat | None]")

# How many times in a row a feed repeats a read whose answer is impossible, before its readers get an error.
MOST_MISREADS = 10

FLICKERS = "the node alternates between existing and not existing"


class ReadFeed(Feed, Generic[S]):
    """The newest known state of something that a single read returns. The second part of a state is the
    znode's `Stat`, or None if it does not exist.

    The server's watch is one-shot and does not say what changed. Each change therefore takes three steps: the
    watch *fires*, which makes the state stale; the feed *reads* again and sets a watch in the same request;
    it *publishes* the answer. A slow reader misses the states in between and gets the newest. Nothing is read
    while no reader waits.

    Why states never go backwards: a connect request carries the newest zxid that the client has seen, and a
    server that is behind it refuses the connection; here this holds across sessions. A feed has one read
    under way at a time, which orders its states by zxid. An answer that is out of this order is a fault of
    the server. It is dropped and the read repeated, at most `MOST_MISREADS` times in a row.

    A read on which the connection breaks is repeated until `ConnectionLoss.is_hopeless`.
    """

    def __init__(
        self, feeds: Feeds, key: Hashable, full: str, path: str, op: Operation, kind: WatchKind, absent: S
    ) -> None:
        super().__init__(feeds, key, full, path)
        self.state: S | None = None
        """The newest state read; None before the first."""
        self.stale = True
        """Whether something may have changed since `state` was read."""
        self._absent = absent
        self._kind = kind
        self._read_op = op
        self._read_body = op.request.encode(full, True)
        self._reading: Operation | None = None
        self._misreads = 0  # in a row
        self._newest: Stat | None = None  # of the last state in which the node existed
        self.session.watch(full, self, kind)
        self._watches_existence = kind is WatchKind.NODE

    @property
    def is_fresh(self) -> bool:
        return not self.stale

    def demand(self) -> None:
        if self.stale:
            self._read(self._read_op)

    def stop(self) -> None:
        self.session.unwatch(self.full, self, self._kind)
        self._watch_existence(False)

    @abstractmethod
    def state_of(self, answer: Any) -> S:
        """The state in the answer to a read."""

    def is_older(self, state: S, newest: Stat) -> bool:
        """Whether a state is older than the state of the same node that had the `Stat` `newest`."""
        stat = state[1]
        return stat is not None and stat.mzxid < newest.mzxid

    # For the session

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        """The state may have changed."""
        self.stale = True
        if self.has_waiters:
            self._read(self._read_op)

    def done(self) -> bool:
        """Whether no reader is left."""
        return not self.cursors

    def set_result(self, result: Any, /) -> None:
        """A read was answered."""
        op, self._reading = self._reading, None
        if op is not self._read_op:
            self._misread(FLICKERS)  # or it was created between the two reads
            return
        self._watch_existence(False)
        self._accept(self.state_of(result))

    def set_exception(self, error: BaseException, /) -> None:
        """A read failed."""
        op, self._reading = self._reading, None
        if isinstance(error, errors.NoNode):
            if op is messages.EXISTS:
                self._publish(self._absent)
            else:
                self._watch_existence(True)
                self._read(messages.EXISTS)  # the one read that sets a watch on a node that does not exist
        elif isinstance(error, errors.ConnectionLoss) and not error.is_hopeless and self.has_waiters:
            self._read(self._read_op)
        else:
            self._fail(error)

    def _read(self, op: Operation) -> None:
        if self._reading is not None:
            return  # if the state is stale again, the next reader to wait repeats the read
        self._reading = op
        if op is self._read_op:
            self.stale = False
        body, watches = self._request(op)
        try:
            self.session.submit(Request(op, body, self.path, self, watches=watches))
        except errors.UsageError:  # the path is too long: nothing was sent
            self._reading, self.stale = None, True
            raise

    def _request(self, op: Operation) -> tuple[bytes, tuple[str, WatchKind] | None]:
        """The body of a read, and the watch that it sets."""
        if op is self._read_op:
            return self._read_body, (self.full, self._kind)
        return messages.encode_exists(self.full, True), (self.full, WatchKind.NODE)

    def _accept(self, state: S) -> None:
        """Publish an answer, unless it is older than a state before."""
        stat, newest = state[1], self._newest
        if stat is not None and newest is not None and self._goes_back(state, stat, newest):
            self._misread("the server answers with an older state than before")
        else:
            self._publish(state)

    def _goes_back(self, state: S, stat: Stat, newest: Stat) -> bool:
        if stat.czxid != newest.czxid:
            return stat.czxid < newest.czxid
        # A node that is created again after a deletion has another czxid.
        was_deleted = self.state is not None and self.state[1] is None
        return was_deleted or self.is_older(state, newest)

    def _publish(self, state: S) -> None:
        self._misreads = 0
        self._newest = state[1] or self._newest
        self.state = state
        self.wake(None)

    def _misread(self, problem: str) -> None:
        """An answer is impossible, or outdated already: repeat the read, within the limit."""
        self._misreads += 1
        if self._misreads <= MOST_MISREADS:
            self._read(self._read_op)
        else:
            problem = f"{problem}, {self._misreads} times in a row"
            self._fail(errors.ReplyError(self._read_op.name, self.path, problem))

    def _fail(self, error: BaseException) -> None:
        """Raise `error` in all waiting readers. The next reader that waits starts another read."""
        self._misreads = 0
        self.stale = True
        self.wake(error)

    def _watch_existence(self, absent: bool) -> None:
        """While the node does not exist, watch its creation: a watch on children reports only those of a node
        that exists."""
        if self._kind is WatchKind.NODE or absent is self._watches_existence:
            return
        self._watches_existence = absent
        (self.session.watch if absent else self.session.unwatch)(self.full, self, WatchKind.NODE)
