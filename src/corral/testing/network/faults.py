"""What faults do to the bytes of a proxied connection: let them pass, delay them, or withhold them."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

__all__ = ["NEVER", "NOW", "BlackHoleFault", "Delay", "Fault", "Parcel", "Withheld"]

NOW = float("-inf")
NEVER = float("inf")


class Parcel(NamedTuple):
    """Bytes that pass, or are withheld, as a unit."""

    data: bytes
    arrived: float
    """When they arrived, by the event loop's clock."""
    content: object
    """What a proxy that parses the bytes has found in them; else None."""


class Fault(Protocol):
    """Decides when a parcel passes."""

    def until(self, parcel: Parcel, *, to_server: bool) -> float:
        """Until when to withhold the parcel at the head of a flow, by the event loop's clock; `NOW` lets it
        pass."""


class Withheld:
    """What a black hole withholds."""

    def __init__(self) -> None:
        self.bytes = 0
        """How many bytes it has withheld since it began."""
        self._grew = asyncio.Event()

    async def arrived(self, n: int = 1) -> None:
        """Wait, without a bound, until at least `n` bytes were withheld since the fault began. Cancelling it
        is safe."""
        while self.bytes < n:
            self._grew.clear()
            await self._grew.wait()


class BlackHoleFault:
    """Withholds everything, in both directions or in one, while it is `active`."""

    def __init__(self, withheld: Withheld, *, requests: bool, replies: bool, active: bool = True) -> None:
        self.active = active
        self._withheld = withheld
        self._requests = requests
        self._replies = replies

    def until(self, parcel: Parcel, *, to_server: bool) -> float:
        return NEVER if self.withholds(to_server=to_server) else NOW

    def withholds(self, *, to_server: bool) -> bool:
        """Whether it withholds what flows in this direction now."""
        return self.active and (self._requests if to_server else self._replies)

    def count(self, n: int) -> None:
        """Record that `n` bytes arrived to be withheld."""
        self._withheld.bytes += n
        self._withheld._grew.set()


class Delay:
    """Lets each parcel pass a fixed time after it arrived."""

    def __init__(self, seconds: float, *, requests: bool, replies: bool) -> None:
        self._seconds = seconds
        self._requests = requests
        self._replies = replies

    def until(self, parcel: Parcel, *, to_server: bool) -> float:
        return parcel.arrived + self._seconds if (self._requests if to_server else self._replies) else NOW
