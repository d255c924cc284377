"""A proxy that breaks connections it cannot read: its points are parcels, which are what one read has returned.

It stands in for a `FaultProxy` in the enumerators. A parcel for the server is shown as a request, one for the
client as an event: a cut is *before* the parcel, when it is *committed* (it has just passed), *after* it (some
turns of the loop later), *on the event* (before a parcel for the client), or *after the event*.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from corral.testing import FaultHit, Message, MessageKind, Moment, Point, TcpProxy
from corral.testing.network.connection import Flow, ProxiedConnection
from corral.testing.network.faults import Parcel
from corral.testing.network.points import Match

TURNS_AFTER = 3
"""Turns of the event loop in which what has passed reaches the other side."""


class ParcelProxy(TcpProxy):
    """See the module's documentation."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.records: list[tuple[list[Message], Match]] = []
        self.reached: Callable[[ProxiedConnection, bool, bool], None] | None = None
        """Called with the connection, whether the parcel is for the server, and whether it has passed."""

    def _make_connection(self) -> ProxiedConnection:
        return _Connection(self)

    @contextlib.asynccontextmanager
    async def record(self, match: Match) -> AsyncIterator[list[Message]]:
        """A list of the parcels that arrive and match."""
        entry = list[Message](), match
        self.records.append(entry)
        try:
            yield entry[0]
        finally:
            self.records.remove(entry)

    @contextlib.asynccontextmanager
    async def cut_at(self, point: Point, *, reset: bool = False) -> AsyncIterator[FaultHit]:
        """Close the connection at the point, with FIN or with RST."""
        hit, left = FaultHit(), point.nth
        to_server = not point.moment.of_event
        when_passed = point.moment not in (Moment.BEFORE, Moment.ON_EVENT)

        def reached(connection: ProxiedConnection, for_server: bool, has_passed: bool) -> None:
            nonlocal left
            if (for_server, has_passed) != (to_server, when_passed):
                return
            left -= 1
            if left == 0:
                hit.fired.set()
                if point.moment is Moment.AFTER:
                    in_turns(TURNS_AFTER, lambda: connection.cut_when_sent(reset=reset))
                else:
                    connection.cut_when_sent(reset=reset)

        self.reached = reached
        try:
            yield hit
        finally:
            self.reached = None


def in_turns(turns: int, act: Callable[[], None]) -> None:
    """Call it that many turns of the event loop later."""
    if turns:
        asyncio.get_running_loop().call_soon(in_turns, turns - 1, act)
    else:
        act()


class _Connection(ProxiedConnection):
    def __init__(self, proxy: ParcelProxy) -> None:
        super().__init__(proxy._state)
        self._proxy = proxy

    def parcels(self, flow: Flow, data: bytes) -> Iterable[Parcel]:
        kind = MessageKind.REQUEST if flow.to_server else MessageKind.EVENT
        message = Message(kind, "parcel", 0, None, 0, 0, self.number, data)
        for record, match in self._proxy.records:
            if match(message):
                record.append(message)
        return super().parcels(flow, data)

    def about_to_pass(self, flow: Flow, parcel: Parcel) -> None:
        if parcel.data and self._proxy.reached is not None:
            self._proxy.reached(self, flow.to_server, False)

    def passed(self, flow: Flow, parcel: Parcel) -> None:
        if self._proxy.reached is not None:
            self._proxy.reached(self, flow.to_server, True)
