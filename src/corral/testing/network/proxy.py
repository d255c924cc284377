"""A proxy that understands ZooKeeper's messages, and breaks the network exactly where a test wants it broken.

    async with FaultProxy(server.address) as proxy:
        async with corral.connect(proxy.address) as zk:
            async with proxy.cut_at(committed("create")) as cut:
                with pytest.raises(corral.ConnectionLoss):  # the znode exists, but its answer is lost
                    await zk.create("/jobs/job-", sequential=True)
            assert cut.message.path == "/jobs/job-"

It does not depend on corral's client: it works with any client library. A fault is an asynchronous context
manager that ends with its block:

===============================  =======================================================================
``cut_at(point)``                at that point the connection is closed, with FIN or RST
``black_hole(point)``            from there on nothing passes, in both directions or one; nothing is closed
``half_open(point)``             from there on one side is gone, and the other does not notice
``delay(seconds)``               everything passes later, or what matches and everything behind it
``refuse()``                     new connections are reset
``await cut()``                  every connection is closed now
``await expire()``               the sessions that are connected end on the server, as if they had expired
``record()``                     no fault: a list of the messages that arrive
===============================  =======================================================================

A *point* is a place in the exchange of messages; see `corral.testing.network.points`. Without a point, a
fault begins at once. What it withholds is delivered when it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

from corral.errors import UsageStateError, UsageValueError

from .close_session import close_session
from .connection import ProxiedConnection
from .faults import BlackHoleFault, Delay
from .framed_connection import DelayOfMatches, FramedConnection, Observers
from .points import Match, Message, Point
from .tcp import TcpProxy
from .triggers import BlackHole, FaultHit, Trigger

__all__ = ["FaultProxy"]


class FaultProxy(TcpProxy):
    """A `TcpProxy` that understands ZooKeeper's messages. The module's documentation lists its faults."""

    def __init__(self, target: str) -> None:
        """`target` is the server, as ``host:port``; it need not run yet."""
        super().__init__(target)
        self._observers = Observers()

    def _make_connection(self) -> ProxiedConnection:
        return FramedConnection(self._state, self._observers)

    async def expire(self, session_id: int | None = None) -> None:
        """End a session on the server, as if it had expired. Without an id, end every session that is
        connected through this proxy now.

        The session must have been connected through this proxy. When this returns, its ephemerals are gone;
        its client finds out when it is connected again. This takes milliseconds, and at most 10 seconds for
        each session. Raises `UsageValueError` for a session that this proxy has never seen, `UsageStateError`
        if no session is connected, and `OSError` (`TimeoutError` is a subclass) if the server cannot be
        reached or does not end the session. If cancelled or failed, it may have ended some of the sessions.
        """
        passwords = self._observers.passwords
        if session_id is None:
            connections = [each for each in self._state.connections if isinstance(each, FramedConnection)]
            ids = sorted({each.session_id for each in connections if each.session_id})
            if not ids:
                raise UsageStateError("no session is connected through this proxy; name one that was")
        elif session_id in passwords:
            ids = [session_id]
        else:
            seen = ", ".join(f"0x{each:x}" for each in passwords) or "none"
            raise UsageValueError(
                f"session 0x{session_id:x} was not seen by this proxy (seen: {seen}); "
                "connect its client to proxy.address"
            )
        for each in ids:
            await close_session(*self._state.target, each, passwords[each])

    @contextlib.asynccontextmanager
    async def record(self, match: Match = lambda message: True) -> AsyncIterator[list[Message]]:
        """Yield a list that grows by each message that arrives at the proxy and matches, in order. It
        includes messages that a fault withholds or loses."""
        entry = list[Message](), match
        self._observers.records.append(entry)
        try:
            yield entry[0]
        finally:
            self._observers.records.remove(entry)

    @contextlib.asynccontextmanager
    async def cut_at(self, point: Point, *, reset: bool = False, times: int = 1) -> AsyncIterator[FaultHit]:
        """Close the connection at the point, for the client with FIN or, with ``reset=True``, with RST.

        With `times`, each of that many messages, counted from the point on, closes the connection that it
        comes by. The server always gets FIN, behind everything that has passed. New connections are accepted.
        """
        hit = FaultHit()
        with self._triggered(point, hit, lambda connection: connection.cut_when_sent(reset=reset), times):
            yield hit

    @contextlib.asynccontextmanager
    async def black_hole(
        self, point: Point | None = None, *, requests: bool = True, replies: bool = True
    ) -> AsyncIterator[BlackHole]:
        """From the point on (None: from now on) nothing passes on any connection and nothing is closed, in
        both directions or in one. See `TcpProxy.black_hole`."""
        hole = BlackHole()
        fault = BlackHoleFault(hole, requests=requests, replies=replies, active=point is None)

        def begin(_: ProxiedConnection) -> None:
            fault.active = True
            self._state.update_connectable()

        async with self._black_hole(fault):
            with self._triggered(point, hole, begin):
                yield hole

    @contextlib.asynccontextmanager
    async def half_open(
        self, point: Point | None = None, *, gone: Literal["server", "client"] = "server"
    ) -> AsyncIterator[FaultHit]:
        """One side of the open connections is gone, and the other does not notice; with a point, one side of
        the point's connection, from there on. See `TcpProxy.half_open`."""
        hit, affected = FaultHit(), list[ProxiedConnection]()

        def begin(connection: ProxiedConnection) -> None:
            affected.append(connection)
            connection.half_open(gone)

        if point is None:
            for connection in list(self._state.connections):
                begin(connection)
        try:
            with self._triggered(point, hit, begin):
                yield hit
        finally:
            for connection in affected:
                connection.end_half_open()

    @contextlib.asynccontextmanager
    async def delay(
        self, seconds: float, *, requests: bool = True, replies: bool = True, match: Match | None = None
    ) -> AsyncIterator[None]:
        """Messages pass `seconds` after they arrived, in both directions or in one. With `match`, only
        matching messages are delayed, and those behind them, since order is kept. Events count as replies."""
        fault = Delay(seconds, requests=requests, replies=replies)
        async with self._fault(fault if match is None else DelayOfMatches(fault, match)):
            yield

    @contextlib.contextmanager
    def _triggered(
        self, point: Point | None, hit: FaultHit, act: Callable[[ProxiedConnection], None], times: int = 1
    ) -> Iterator[None]:
        if point is None:
            hit.fired.set()
            yield
            return
        trigger = Trigger(point, hit, act, times)
        self._observers.triggers.append(trigger)
        try:
            yield
        finally:
            trigger.ended = True
            self._observers.triggers.remove(trigger)
