"""An exclusive lock: whoever is first in the line holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from corral import errors
from corral.nodes import Nodes
from corral.session.supervisor import Session

from .held import Held
from .line import Contender, Layout, Line, PlaceLost

__all__ = ["Lock"]

# Curator's InterProcessMutex; kazoo's nodes in the same directory are waited for as well.
CURATOR = Layout.of("lock-", "__lock__", "__lock__-")

# A holder starts with at least this part of T on its lease: enough for the first heartbeat and its answer.
LEAST_LEASE = 1 / 4


class Holders:
    """What is held through one client, by full path: who, and through which object (L7)."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Held]] = {}

    def check(self, full: str, path: str, task: asyncio.Task[object] | None) -> None:
        """Raise `AlreadyHeld` if the task holds the path, so that it would wait for itself."""
        if full in self._by_path and any(each.owner is task and each.is_valid for each in self.of(full)):
            raise errors.AlreadyHeld(
                f"lock {path!r} is held by this task already, so it would wait for itself; locks are not "
                "re-entrant: release it first, or pass the Held on"
            )

    def of(self, full: str) -> Sequence[Held]:
        """What is held at a path, or was lost and is not given up yet, in the order of acquiring."""
        return self._by_path.get(full, ())

    def add(self, full: str, held: Held) -> None:
        """It is held now."""
        self._by_path.setdefault(full, []).append(held)

    def discard(self, full: str, held: Held) -> None:
        """Its owner is done with it."""
        of_path = self._by_path.get(full)
        if of_path is not None and held in of_path:
            of_path.remove(held)
            if not of_path:
                del self._by_path[full]


class Lock:
    """An exclusive lock on a path, fair, for tasks, processes and machines. Made by ``zk.lock(path)``.

    ``async with lock as held:`` waits in line, runs the body and releases; what the body is told on a loss
    is in `Held`. One object may be shared by many tasks, as `asyncio.Lock` is. It is not re-entrant.

    **On cancel** (a timeout is one) `acquire` ends at once, and the node that it made, or may have made, is
    removed as soon as a server can be reached. **On loss** of the connection it goes on waiting, and after
    an expired session it stands in line again, at the end.

    The algorithm is ZooKeeper's lock recipe, with Curator's node names: ``InterProcessMutex`` on the same
    path stands in the same line. kazoo's ``Lock`` is waited for, but waits for us only with
    ``extra_lock_patterns=["-lock-"]``.
    """

    def __init__(
        self, nodes: Nodes, session: Session, full: str, path: str, data: bytes, holders: Holders
    ) -> None:
        self.path = path
        self._nodes = nodes
        self._session = session
        self._full = full
        self._data = data
        self._holders = holders
        self._line = Line(nodes, session, full, CURATOR)
        self._entered: list[Held] = []

    async def acquire(self) -> Held:
        """Wait in line until it is ours. Raises `AlreadyHeld` if this task holds it already.

        Uncontended it takes one round trip. See the class for what happens on cancel and on loss.
        """
        held = await self._take(wait=True)
        assert held is not None
        return held

    async def try_acquire(self) -> Held | None:
        """Take it if nobody has it and nobody waits, else return None, without waiting in line.

        On cancel and on loss as `acquire`: nothing of ours stays in the line.
        """
        return await self._take(wait=False)

    async def _take(self, *, wait: bool) -> Held | None:
        task = asyncio.current_task(self._session.check_place())
        self._holders.check(self._full, self.path, task)
        line, least_lease = self._line, self._session.timeout * LEAST_LEASE
        while True:
            place, names = await line.join(self._data)
            try:
                if not line.is_alone(place, names):
                    if not wait and await line.is_blocked(place, names):
                        line.leave(place)
                        return None
                    await line.wait_turn(place, names)
                if not line.is_proven(place, least_lease):
                    await line.confirm(place, least_lease)
            except PlaceLost:
                line.leave(place)
                continue
            except BaseException:
                line.leave(place)
                raise
            held = Held(self._nodes, self._session, line, place, task, self)
            self._holders.add(self._full, held)
            if held.begin():
                return held
            self.over(held)  # lost in the same breath: its node is being removed

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"lock {self.path!r}"

    def over(self, held: Held) -> None:
        """Its owner is done with it; for `Held`."""
        self._holders.discard(self._full, held)

    def _acquired(self) -> list[Held]:
        return [held for held in self._holders.of(self._full) if held.via is self]

    async def release(self) -> None:
        """Release what this task acquired through this object, else what another task holds through it.

        See `Held.release`. Raises `UsageStateError` if nothing is acquired.
        """
        task = asyncio.current_task(self._session.check_place())
        acquired = self._acquired()
        # Our own first, lost or not: whoever comes late with it must not release what another holds by now.
        ours = [held for held in acquired if held.owner is task]
        candidates = ours or [held for held in acquired if held.is_valid] or acquired
        if not candidates:
            raise errors.UsageStateError(f"{self.name} is not acquired through this object")
        await candidates[-1].release()  # of several only the newest can still be held

    async def locked(self) -> bool:
        """Whether anybody holds it, us included, as of the connected server."""
        return bool(await self.contenders())

    async def contenders(self) -> list[Contender]:
        """Who holds it (the first) and who waits, in order, with their data."""
        self._session.check_place()
        return await self._line.contenders()

    async def __aenter__(self) -> Held:
        held = await self._take(wait=True)
        assert held is not None
        held.enter()
        self._entered.append(held)
        return held

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        entered = self._entered
        if not entered:
            raise errors.UsageStateError(f"{self.name} was not entered; use 'async with'")
        held = entered[0]
        if len(entered) > 1:
            # What this task entered last (twice, if it entered again after a loss); a task that has not
            # entered leaves for the one that did first.
            task = asyncio.current_task(self._session.loop)
            held = next((each for each in reversed(entered) if each.owner is task), held)
        entered.remove(held)
        await held.__aexit__(exc_type, exc, tb)

    def __repr__(self) -> str:
        return f"<Lock {self.path!r}, {'acquired' if self._acquired() else 'not acquired'}>"
