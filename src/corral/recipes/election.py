"""Leader election: candidates stand in line, and whoever is first leads."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from corral import errors
from corral.session.session import Session

from .held import Held
from .line import MOST_ROUNDS, Contender, Line, Rounds
from .lock import InLine

__all__ = ["Election", "LeaderWatch"]

logger = logging.getLogger("corral.recipes")

T = TypeVar("T")


class Election(InLine[Held]):
    """An election on a path. Made by ``zk.election(path, data=b"host-7")``.

    ``async with election as leadership:`` stands as a candidate, waits to lead and runs the body, which is
    told, as in `Held`, when leadership is lost; leaving it resigns, as `Held.release` does before. `run` does
    the same again and again. `leaders` observes without being a candidate. `data` is what others see of us.

    What happens on cancel and on loss is as for `Lock`; so is the algorithm, with the names of Curator's
    ``LeaderLatch``, which stands in the same line. ``layout="kazoo"`` is for kazoo's ``Election``.
    """

    kind = "leadership of"
    _held_type = Held

    async def run(self, lead: Callable[[Held], Awaitable[T]]) -> T:
        """Wait to lead, and call `lead` with what is held; whenever leadership is lost, `lead` is cancelled,
        and we are a candidate again. Returns what `lead` returns while it leads, and resigns.

        An exception of `lead` ends it; but once leadership is lost, not one that says no more than that this,
        the session or the connection is gone. Ends with `SessionError` when the client can have no session
        any more, and where `Lock` gives up. On cancel it resigns, or leaves the line; on loss of the
        connection it goes on as `Lock` does.
        """
        while True:
            held = await self.acquire()
            try:
                async with held:
                    return await lead(held)
            except errors.LockLost as lost:
                if await held.wait_lost() is None:
                    raise  # another lock, of lead's own, and we have resigned
                logger.info("a candidate again: %s", lost)

    async def candidates(self) -> list[Contender]:
        """Who leads (the first) and who waits to, in order, with their data. See `contenders`."""
        return await self.contenders()

    async def leader(self) -> Contender | None:
        """Who leads, as of the connected server; None if nobody does.

        Cancelling it changes nothing. On loss of the connection it asks again, and gives up as `Lock` does.
        Raises `NoNode` if whoever is listed first was gone 16 times in a row when it was looked at.
        """
        self._session.ensure_loop()
        return await self._line.first()

    def leaders(self) -> LeaderWatch:
        """Who leads now, then each new leader; None while there is none: ``async for leader in ...``."""
        return LeaderWatch(self._session, self._line)

    def _remedy(self, held: Held) -> str:
        return "resign first, or pass the Held on"


class LeaderWatch:
    """Who leads: the leader now, then each one that follows, None where nobody does. For one reader.

    A slow reader misses those in between and gets the newest. Nothing is registered while it is not waited
    on, so it may be left in any way. It goes on over lost connections and expired sessions, and gives up as
    `Election.leader` does; when the client is closed it ends, and for what no session can mend it raises the
    `SessionError`. The end of a leader whose node we may not read is noticed within a third of the session
    timeout.
    """

    def __init__(self, session: Session, line: Line) -> None:
        self._session = session
        self._line = line
        self._told: str | None = ""
        self._is_read = False

    def __aiter__(self) -> LeaderWatch:
        return self

    async def __anext__(self) -> Contender | None:
        self._session.ensure_loop()
        if self._is_read:
            raise errors.UsageStateError(
                "another task reads these leaders; call leaders() once for each reader"
            )
        self._is_read = True
        try:
            rounds = Rounds()
            while True:
                first = await self._line.first()
                name = None if first is None else first.name
                if name != self._told:
                    self._told = name
                    return first
                await self._line.wait_for_change(name, rounds)
                problem = f"{name} was listed and not there {MOST_ROUNDS} times in a row"
                rounds.again(errors.NoNode("leaders", self._line.path, problem))
        except errors.ClientClosed:
            raise StopAsyncIteration from None
        finally:
            self._is_read = False
