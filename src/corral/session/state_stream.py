"""The states of a session as an async iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from corral import errors
from corral.types import State

from .states import FINAL

LIMIT = 64
"""How many changes a stream keeps for a slow reader."""


class StateQueue:
    """The session's side of a stream: the changes that the reader has not taken yet."""

    def __init__(self, state: State) -> None:
        self.pending: deque[State] = deque([state], maxlen=LIMIT)
        self.wake: asyncio.Future[None] | None = None
        """Resolved at the next change, if the reader waits."""

    def put(self, state: State) -> None:
        """Add a change."""
        self.pending.append(state)
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class StateStream:
    """An async iterator over the session's states: the state now, then each change, until a final one.

    A reader that falls more than 64 changes behind misses the oldest ones, never the newest. A stream has one
    reader; each call of ``states()`` makes another stream.

    **On cancel** of ``anext`` nothing is lost. **On loss** of the connection the next state is SUSPENDED. The
    wait for a change has no limit; it ends with the client.
    """

    def __init__(self, queue: StateQueue, check_loop: Callable[[], None]) -> None:
        self._check_loop = check_loop
        self._queue = queue
        self._is_over = False

    def __aiter__(self) -> StateStream:
        return self

    async def __anext__(self) -> State:
        self._check_loop()
        if self._is_over:
            raise StopAsyncIteration
        queue = self._queue
        while not queue.pending:
            if queue.wake is not None:
                raise errors.UsageStateError("two tasks read one stream of states; call zk.states() in each")
            queue.wake = asyncio.get_running_loop().create_future()
            try:
                await queue.wake
            finally:
                queue.wake = None
        state = queue.pending.popleft()
        self._is_over = state in FINAL and not queue.pending
        return state
