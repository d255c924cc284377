"""Observing who leads an election: all observers of one client share one list and one read per change."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from corral import errors
from corral.watch.reader import Reader
from corral.watch.shared import Cursor, Feed, Feeds

from .kit.line import Contender, Line
from .kit.rounds import MOST_ROUNDS, Rounds

__all__ = ["LeaderWatch"]


class LeaderFeed(Feed):
    """Who leads. A job reads it again after each change, as long as a reader waits."""

    def __init__(self, feeds: Feeds, key: Hashable, line: Line) -> None:
        super().__init__(feeds, key, line.full, line.path)
        self.leader: Contender | None = None
        self._line = line
        self._is_fresh = False
        self._job: asyncio.Task[None] | None = None

    @property
    def is_fresh(self) -> bool:
        return self._is_fresh

    def demand(self) -> None:
        if self._job is None:
            self._job = self.session.spawn(self._follow, f"corral leaders of {self.full}")
            if self._job is None:
                self.wake(self.session.final_error())

    def stop(self) -> None:
        if self._job is not None:
            self._job.cancel()

    async def _follow(self) -> None:
        try:
            rounds = Rounds()
            while True:
                self.leader = leader = await self._line.first()
                name = None if leader is None else leader.name
                self._is_fresh = True
                self.wake(None)
                await self._line.wait_for_change(name, rounds)
                self._is_fresh = False
                if not self.has_waiters:
                    return
                problem = f"{name} was listed and not there {MOST_ROUNDS} times in a row"
                rounds.again(errors.NoNode("leaders", self.path, problem))
        except asyncio.CancelledError:
            self.wake(self.session.final_error())  # nobody, if the last reader has left
            raise
        except errors.CorralError as error:
            self.wake(error)
        finally:
            self._is_fresh = False
            self._job = None


class LeaderWatch(Reader[LeaderFeed, Cursor, "tuple[Contender | None]"]):
    """The current leader, then each new one; None while nobody leads. For one reader.

    Use it as ``async for leader in zk.election(path).leaders()``, or in ``async with`` for a definite end.
    Leaving the loop, an exception, or dropping the object ends the watch. A slow reader misses leaders in
    between and gets the newest. All readers of one election in a client share its watch and its reads.

    **On cancel** of ``anext`` nothing is lost: the next ``anext`` returns it. **On loss** of the connection
    it continues, across reconnects and new sessions, and raises `ConnectionLoss` and `NoNode` as
    `Election.leader` does. It ends when the client is closed, and raises `SessionError` when the client
    cannot have a session any more. The end of a leader whose znode we may not read is noticed within a third
    of the session timeout.
    """

    _verb = "election(...).leaders"
    _known: str | None = ""

    def __init__(self, feeds: Feeds, line: Line) -> None:
        super().__init__(feeds, line.full, line.path, Cursor())
        self._line = line

    def _find_feed(self) -> LeaderFeed:
        key = (LeaderFeed, self._full, self._line.layout.contenders)
        return self._feeds.get(key, lambda: LeaderFeed(self._feeds, key, self._line))

    def _next_event(self, feed: LeaderFeed, cursor: Cursor) -> tuple[Contender | None] | None:
        name = None if feed.leader is None else feed.leader.name
        if name == self._known:
            return None
        self._known = name
        return (feed.leader,)

    async def __anext__(self) -> Contender | None:  # type: ignore[override]
        try:
            (leader,) = await super().__anext__()
        except errors.ClientClosed:
            raise StopAsyncIteration from None
        return leader
