"""The timer that calls `Machine.tick` at the machine's deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .clock import Clock
from .machine import Machine

_INFINITY = float("inf")


class DeadlineTimer:
    """Keeps the machine's time. Call `rearm` after each entry into the machine that may move its deadline.

    `on_tick` is called after each tick; `on_error` with whatever a tick or `on_tick` raises.
    """

    def __init__(
        self,
        machine: Machine,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        *,
        on_tick: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._loop = loop
        self._on_tick = on_tick
        self._on_error = on_error
        self._handle: asyncio.TimerHandle | None = None
        self._due = _INFINITY
        self._is_stopped = False

    def rearm(self) -> None:
        """Set the timer to the machine's deadline, unless it is due earlier: a tick that is early does no
        harm."""
        due = self._machine.arm_deadline()
        if self._handle is not None:
            if self._due <= due:
                return
            self._handle.cancel()
            self._handle = None
        if due != _INFINITY and not self._is_stopped:
            self._due = due
            self._handle = self._loop.call_later(max(0.0, due - self._clock()), self._tick)

    def stop(self) -> None:
        """Tick no more."""
        self._is_stopped = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._handle = None
        try:
            self._machine.tick(self._clock(), self._due)
            self._on_tick()
            self.rearm()
        except Exception as error:
            self._on_error(error)
