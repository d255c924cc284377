"""One node as an async iterator: the state now, then each change, never older after newer (W1 to W5).

Two objects. A `NodeFeed` is shared by all who watch a path through one client: it alone has the server's
watch and reads the node, when somebody waits and the state it has is stale. A `NodeWatch` is one reader's
place in that: which state it has seen last.

The server's watch is one-shot: it tells that the node changed, not how. So each change is *fire* (the feed is
stale), *read again with a watch in the same request*, *publish*. A reader that is slow misses the states in
between and gets the newest. Nothing is read while nobody waits.

Why states never go backwards: a client shows each server the newest transaction it has seen, and a server
that is behind it refuses (`lastZxid` in the connect request); that outlives the session here. Reads of one
feed follow one another, so the feed's states are in the order of their zxids.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from types import TracebackType
from typing import Any, TypeAlias

from corral import errors
from corral.session.requests import Request
from corral.session.supervisor import Session
from corral.session.watches import Change
from corral.types import Event, EventKind, Stat
from corral.wire import messages

__all__ = ["NodeWatch"]


Snapshot: TypeAlias = "tuple[bytes, Stat] | tuple[None, None]"
"""A state of a node; both None if it does not exist."""

ABSENT: Snapshot = (None, None)


class Feeds:
    """The feeds of one session, by full path."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._feeds: dict[str, NodeFeed] = {}

    def join(self, full: str, path: str) -> NodeFeed:
        """The feed of a path, with one more reader in it; the reader must `leave`."""
        feed = self._feeds.get(full)
        if feed is None:
            feed = self._feeds[full] = NodeFeed(self, full, path)
        feed.readers += 1
        return feed

    def drop(self, full: str) -> None:
        """The last reader has left."""
        del self._feeds[full]

    def __len__(self) -> int:
        return len(self._feeds)


class NodeFeed:
    """The newest known state of one node, kept for all its readers in one client."""

    def __init__(self, feeds: Feeds, full: str, path: str) -> None:
        self.readers = 0
        self.state: Snapshot | None = None
        """The newest state read; None before the first."""
        self.stale = True
        """Whether the node may have changed since `state` was read."""
        self._feeds = feeds
        self._session = feeds.session
        self._loop = asyncio.get_running_loop()
        self._full = full
        self._path = path
        self._get = messages.encode_get(full, True)
        self._reading: messages.Operation | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._session.watch(full, self)

    # The session's side

    def fire(self, change: Change) -> None:
        """The node may have changed."""
        self.stale = True
        if self._waiting:
            self._read(messages.GET)

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        """The answer to a read."""
        op, self._reading = self._reading, None
        if op is messages.EXISTS:
            self._read(messages.GET)  # created since we were told that it is not there
            return
        self._publish(result)

    def set_exception(self, error: BaseException, /) -> None:
        """A read failed."""
        op, self._reading = self._reading, None
        if isinstance(error, errors.NoNode):
            if op is messages.GET:
                self._read(messages.EXISTS)  # which sets a watch although the node is not there
            else:
                self._publish(ABSENT)
        elif isinstance(error, errors.ConnectionLoss) and self._waiting:
            self._read(messages.GET)
        else:
            self.stale = True
            self._wake(error)

    def _read(self, op: messages.Operation) -> None:
        if self._reading is not None:
            return  # what made it stale again will be seen when this read is published
        self._reading = op
        if op is messages.GET:
            body, self.stale = self._get, False
        else:
            body = messages.encode_exists(self._full, True)
        try:
            self._session.submit(Request(op, body, self._path, self, watches=self._full))
        except errors.UsageError:  # too large a path: nothing was sent
            self._reading = None
            raise

    def _publish(self, state: Snapshot) -> None:
        self.state = state
        self._wake(None)

    def _wake(self, error: BaseException | None) -> None:
        for future in self._waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._waiting.clear()

    # The readers' side

    def wait(self, future: asyncio.Future[None]) -> None:
        """Resolve `future` when the next state is published; reads if what is known is stale."""
        self._waiting.add(future)
        if self.stale:
            self._read(messages.GET)

    def forget(self, future: asyncio.Future[None]) -> None:
        """Nobody waits for it any more."""
        self._waiting.discard(future)

    def leave_soon(self) -> None:
        """One reader less, in the next loop turn: garbage is collected in any thread, and at any moment."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the session with it
            self._loop.call_soon_threadsafe(self.leave)

    def leave(self) -> None:
        """One reader less."""
        self.readers -= 1
        if self.readers == 0:
            self._feeds.drop(self._full)
            self._session.unwatch(self._full, self)


class NodeWatch:
    """The states of one node, as events: the state now, then each change.

    Use it as ``async for event in zk.watch(path)``, or as ``async with zk.watch(path) as events`` for a
    definite end. Leaving the loop, an exception, or dropping the object ends the watch; the server's watch
    goes with the last reader of the path in this client.

    **Promised**: the first event is the state now, present or absent; what follows is never older, and never
    the same state twice; the last state is always delivered, over reconnects, other servers and new
    sessions. A reader that is slow gets the newest state. **Not promised**: every state in between.

    **On cancel** of ``anext`` nothing is lost: the next one gives what this one would have given. **On loss**
    of the connection it waits. Raises `ServerError` (such as `NoAuth`; the next ``anext`` tries again),
    `SessionError` when the client is closed.

    Changes made while the ACL does not let us read the node are not told, and a server with the fix for
    CVE-2024-23944 uses up the watch on them: then later ones are not either, until the next reconnect.
    """

    def __init__(self, feeds: Feeds, full: str, path: str) -> None:
        self._feeds = feeds
        self._full = full
        self._path = path
        self._feed: NodeFeed | None = None
        self._end: weakref.finalize[[], NodeWatch] | None = None
        self._seen: Snapshot | None = None
        self._closed = False
        self._waiting: asyncio.Future[None] | None = None

    def __aiter__(self) -> NodeWatch:
        return self

    async def __anext__(self) -> Event:
        if self._closed:
            raise StopAsyncIteration
        loop = self._feeds.session.check_place()
        if self._waiting is not None:
            raise errors.UsageStateError(
                f"two tasks read one watch of {self._path!r}; call zk.watch() in each, they share it"
            )
        feed = self._feed or self._join()
        try:
            # Once we have waited, whatever has been published is delivered, even if it is stale again: else a
            # node that is written faster than we read would never be seen.
            acceptable = not feed.stale
            while True:
                if acceptable and (event := self._event(feed.state)) is not None:
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

    def _join(self) -> NodeFeed:
        self._feed = feed = self._feeds.join(self._full, self._path)
        self._end = weakref.finalize(self, feed.leave_soon)
        self._end.atexit = False
        return feed

    def _event(self, state: Snapshot | None) -> Event | None:
        """What to tell of a state, if it is news."""
        if state is None:
            return None
        data, stat = state
        if self._seen is None:
            kind = EventKind.ABSENT if stat is None else EventKind.PRESENT
        else:
            seen = self._seen[1]
            if stat is None:
                if seen is None:
                    return None
                kind = EventKind.DELETED
            # Not the version, which starts again when a node is re-created.
            elif seen is None or seen.czxid != stat.czxid:
                kind = EventKind.CREATED
            elif seen.mzxid == stat.mzxid:
                return None
            else:
                kind = EventKind.CHANGED
        self._seen = state
        return Event(kind, self._path, data, stat)

    async def __aenter__(self) -> NodeWatch:
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
        feed, self._feed = self._feed, None
        if feed is not None and self._end is not None and self._end.detach():
            feed.leave()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "not started" if self._feed is None else "watching"
        return f"<NodeWatch of {self._path!r}, {state}>"
