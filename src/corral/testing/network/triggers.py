"""Triggers: they count the messages that a point is about, and begin a fault when it is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from corral.errors import UsageValueError

from .connection import ProxiedConnection
from .faults import Withheld
from .points import Message, Moment, Point

__all__ = ["BlackHole", "Exchange", "FaultHit", "Trigger"]


class FaultHit:
    """Whether a fault's point was reached, and by which message."""

    def __init__(self) -> None:
        self.fired = asyncio.Event()
        """Set when the point was first reached and the fault has begun."""
        self.message: Message | None = None
        """The request or the event that reached the point last; None if the fault began at once."""


class BlackHole(Withheld, FaultHit):
    """What a black hole withholds, and whether its point was reached."""

    def __init__(self) -> None:
        Withheld.__init__(self)
        FaultHit.__init__(self)


@dataclass(eq=False, slots=True)
class Exchange:
    """A request, and the triggers that wait for its reply."""

    request: Message
    triggers: list[Trigger] = field(default_factory=list)


class Trigger:
    """Counts the messages that a point is about, and acts on the `nth` and the `times` - 1 after it.

    A request whose connection is lost before its reply came is not counted; the next one is.
    """

    def __init__(
        self, point: Point, hit: FaultHit, act: Callable[[ProxiedConnection], None], times: int = 1
    ) -> None:
        if times < 1:
            raise UsageValueError(f"a fault happens at least once, so times cannot be {times}")
        self.ended = False
        """Whether the fault has ended; then the trigger ignores replies that are still to come."""
        self._point = point
        self._hit = hit
        self._act = act
        self._last = point.nth + times - 1
        self._count = 0
        self._awaited: dict[Exchange, ProxiedConnection] = {}  # requests whose replies are to come

    def on_event(self, connection: ProxiedConnection, event: Message, moment: Moment) -> None:
        """An event is about to pass, or has passed."""
        if self._point.moment is moment and self._counts(event):
            self._fire(connection, event)

    def on_request(self, connection: ProxiedConnection, exchange: Exchange) -> None:
        """A request is about to pass."""
        for other in [other for other, its in self._awaited.items() if its.closing]:
            del self._awaited[other]
            self._count -= 1
        if not self._counts(exchange.request):
            return
        if self._point.moment is Moment.BEFORE:
            self._fire(connection, exchange.request)
        else:
            self._awaited[exchange] = connection
            exchange.triggers.append(self)

    def on_reply(self, connection: ProxiedConnection, exchange: Exchange, moment: Moment) -> None:
        """The reply to a counted request is about to pass, or has passed."""
        if self._point.moment is moment and not connection.closing and not self.ended:
            del self._awaited[exchange]
            self._fire(connection, exchange.request)

    def _counts(self, message: Message) -> bool:
        """Count a message; whether it is one to act on."""
        if not self._point.counts(message):
            return False
        self._count += 1
        return self._point.nth <= self._count <= self._last

    def _fire(self, connection: ProxiedConnection, message: Message) -> None:
        self._hit.message = message
        self._act(connection)
        self._hit.fired.set()
