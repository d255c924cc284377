"""Several locks at once, all or none, acquired in an order that cannot deadlock."""

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
    their paths. That order is the same for all clients, so that no two wait for each other. The result has
    the order of the arguments. If one is lost, the body is cancelled as by `Lock`; the others are released on
    leaving.

    **On cancel**, and on any error, all acquired so far are released, and nothing stays in any line.
    **On loss** of one while it waits for the others it starts over, so that all are held when the body
    begins. On loss of the connection, and in when it gives up, it behaves as `Lock` does.
    """

    def __init__(self, locks: Sequence[tuple[str, Lock]]) -> None:
        self._in_order = sorted(locks)
        self._asked_for = [lock for _, lock in locks]
        self._entered: list[tuple[asyncio.Task[object] | None, contextlib.AsyncExitStack]] = []

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, in the order of the arguments."""
        return tuple(lock.path for lock in self._asked_for)

    async def acquire(self) -> tuple[Held, ...]:
        """Acquire all. Raises `AlreadyHeld` if this task has entered one of them already.

        See the class for what happens on cancel and on loss.
        """
        holdings = await self._take(wait=True)
        assert holdings is not None
        return tuple(map(Held, holdings))

    async def try_acquire(self) -> tuple[Held, ...] | None:
        """Acquire all if that needs no waiting; otherwise return None and acquire none.

        On cancel and on loss it behaves as `acquire`.
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
                # One that was lost while we waited for the others comes before those in the order of paths.
                if all(holding.is_valid for holding in taken.values()):
                    return tuple(taken.pop(lock) for lock in self._asked_for)
            finally:
                for holding in taken.values():
                    holding.release_nowait()

    async def release(self) -> None:
        """Release all locks that this task entered through this object, or acquired and nobody has entered.
        If there are none, release those that other tasks hold through it.

        On cancel, on loss, and where the server refuses: see `Held.release`. Each lock is released even if
        another release fails; the first error is raised. Raises `UsageStateError` if nothing is acquired.
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
        # What this task entered last. A task that has not entered leaves for the one that entered first.
        task = asyncio.current_task()
        mine = next((each for each in reversed(entered) if each[0] is task), entered[0])
        entered.remove(mine)
        await mine[1].__aexit__(exc_type, exc, tb)

    def __repr__(self) -> str:
        return f"<MultiLock {', '.join(map(repr, self.paths))}>"
