"""The states of a session as an async iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from corral import errors
from corral.types import State

from .states import FINAL


class StateStream:
    """An async iterator over the session's states: the state now, then each change, until a final one.

    A reader that falls far behind misses the oldest changes, never the newest. Cancelling ``anext`` loses
    nothing. It is for one reader; each call of ``states()`` makes another.
    """

    LIMIT = 64

    def __init__(self, state: State, check_loop: Callable[[], None]) -> None:
        self._check_loop = check_loop
        self._pending: deque[State] = deque([state], maxlen=self.LIMIT)
        self._wake: asyncio.Future[None] | None = None
        self._over = False

    def tell(self, state: State) -> None:
        """A change, from the session."""
        self._pending.append(state)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __aiter__(self) -> StateStream:
        return self

    async def __anext__(self) -> State:
        self._check_loop()
        if self._over:
            raise StopAsyncIteration
        while not self._pending:
            if self._wake is not None:
                raise errors.UsageStateError("two tasks read one stream of states; call zk.states() in each")
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        state = self._pending.popleft()
        self._over = state in FINAL and not self._pending
        return state
