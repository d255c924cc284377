"""Several locks at once, all or none, in an order that nobody can deadlock in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType

from corral import errors

from .kit.held import Held
from .kit.holding import Holding
from .kit.registry import to_release
from .lock import Lock

__all__ = ["MultiLock"]


class MultiLock:
    """Locks on several paths as one. Made by ``zk.multi_lock([path, ...])``.

    ``async with zk.multi_lock(["/a", "/b"]) as (a, b):`` acquires them one after the other, in the order of
    their paths, which is the same for everybody, so that no two wait for each other. What is held is given in
    the order asked for. If one is lost, the body is told as by `Lock`; the rest is released on leaving.

    **On cancel**, and on any error, what was acquired so far is released, and nothing is left in any line.
    **On loss** of one while it waits for the rest it begins anew, so that all are held when the body begins.
    What else happens on loss of the connection, and when it gives up, is as for `Lock`.
    """

    def __init__(self, locks: Sequence[tuple[str, Lock]]) -> None:
        self._in_order = sorted(locks)
        self._asked_for = [lock for _, lock in locks]
        self._entered: list[tuple[asyncio.Task[object] | None, contextlib.AsyncExitStack]] = []

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, in the order asked for."""
        return tuple(lock.path for lock in self._asked_for)

    async def acquire(self) -> tuple[Held, ...]:
        """Wait until all are ours. Raises `AlreadyHeld` if this task has entered one of them already.

        See the class for what happens on cancel and on loss.
        """
        holdings = await self._take(wait=True)
        assert holdings is not None
        return tuple(map(Held, holdings))

    async def try_acquire(self) -> tuple[Held, ...] | None:
        """Take all if nobody has, or waits for, any of them; else None, and none is taken.

        On cancel and on loss as `acquire`.
        """
        holdings = await self._take(wait=False)
        return None if holdings is None else tuple(map(Held, holdings))

    async def _take(self, *, wait: bool) -> tuple[Holding, ...] | None:
        while True:
            taken: dict[Lock, Holding] = {}
            try:
                for _, lock in self._in_order:
                    holding = await lock._take(wait=wait)
                    if holding is None:
                        return None
                    taken[lock] = holding
                # What was lost while we waited for the rest cannot be taken alone: it comes before that.
                if all(holding.is_valid for holding in taken.values()):
                    return tuple(taken.pop(lock) for lock in self._asked_for)
            finally:
                for holding in taken.values():
                    holding.release_nowait()

    async def release(self) -> None:
        """Release all that this task entered, or acquired and nobody has entered, through this object; if it
        has nothing there, all that other tasks hold through it.

        On cancel, on loss and where the server refuses it: see `Held.release`. Each is tried, whatever
        becomes of the others; of several errors the first is raised.

        Raises `UsageStateError` if nothing is acquired.
        """
        acquired = [holding for lock in self._asked_for for holding in lock._acquired()]
        to_end = to_release(acquired, asyncio.current_task())
        if not to_end:
            raise errors.UsageStateError(f"{self!r} is not acquired through this object")
        results = await asyncio.gather(*(holding.release() for holding in to_end), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def __aenter__(self) -> tuple[Held, ...]:
        held = await self.acquire()
        stack = contextlib.AsyncExitStack()
        for each in held:
            await stack.enter_async_context(each)  # without waiting, so all are still held
        self._entered.append((asyncio.current_task(), stack))
        return held

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        entered = self._entered
        if not entered:
            raise errors.UsageStateError(f"{self!r} was not entered; use 'async with'")
        # What this task entered last; a task that has not entered leaves for the one that did first.
        task = asyncio.current_task()
        mine = next((each for each in reversed(entered) if each[0] is task), entered[0])
        entered.remove(mine)
        await mine[1].__aexit__(exc_type, exc, tb)

    def __repr__(self) -> str:
        return f"<MultiLock {', '.join(map(repr, self.paths))}>"
