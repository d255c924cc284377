"""A man in the middle: a `FaultProxy` that can replace each message with other bytes.

In addition to the proxy's faults, pieces can pass later than those after them, byte by byte, or after the
next message; and a connection can end in the middle of a message.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from corral.testing import FaultProxy, Message, MessageKind
from corral.testing.network.connection import Flow, ProxiedConnection
from corral.testing.network.faults import Parcel
from corral.testing.network.framed_connection import Content, FramedConnection
from corral.testing.network.triggers import Exchange

NEXT_COMES_WITHIN = 0.5
"""A piece that was to pass after the next message passes after so many seconds if there is none."""


class Way(enum.Enum):
    """How a piece passes."""

    NOW = "now"
    IN_TURN = "in turn"
    """After its delay; what follows waits for it."""
    LATE = "late"
    """After its delay; what follows does not wait."""
    BEHIND_THE_NEXT = "behind the next"
    FIN = "FIN"
    """The connection ends, in place of the piece."""
    RST = "RST"


class Piece(NamedTuple):
    """Bytes to pass in place of a message, or the end of the connection."""

    data: bytes
    way: Way = Way.NOW
    delay: float = 0.0
    """Seconds."""


class Frame(NamedTuple):
    """A message that is about to pass."""

    message: Message
    data: bytes
    """The whole message, with its length."""
    unanswered: Collection[Exchange] = ()
    path: str | None = None
    """The path in its request, if the request begins with one."""
    request: bytes = b""
    """For a reply, the body of its request, without xid and opcode."""

    @property
    def in_flight(self) -> tuple[int, ...]:
        """The xids of the unanswered requests on its connection."""
        return tuple(each.request.xid for each in self.unanswered)

    @property
    def to_server(self) -> bool:
        return self.message.kind is MessageKind.REQUEST

    @property
    def body(self) -> bytes:
        """Everything after the length."""
        return self.message.body


Tell = Callable[[Frame], "Sequence[Piece] | None"]
"""Returns what to pass in place of a message; None to pass the message."""


class LyingProxy(FaultProxy):
    """A proxy whose messages can be replaced."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.tell: Tell | None = None
        """Decides what passes; None while there are no lies."""
        self.on_request: Callable[[], None] = lambda: None
        """Called for each request."""
        self.timers: set[asyncio.TimerHandle] = set()
        self._state.faults.append(_InTurn())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for timer in self.timers:
            timer.cancel()

    def _make_connection(self) -> ProxiedConnection:
        return _LyingConnection(self)


class _Due(NamedTuple):
    """The content of a piece that passes in its turn."""

    at: float


class _InTurn:
    """Withholds pieces until they are due."""

    def until(self, parcel: Parcel, *, to_server: bool) -> float:
        return parcel.content.at if isinstance(parcel.content, _Due) else float("-inf")


class _LyingConnection(FramedConnection):
    """A connection through the proxy."""

    def __init__(self, proxy: LyingProxy) -> None:
        super().__init__(proxy._state, proxy._observers)
        self._proxy = proxy
        self._kept: dict[Flow, list[bytes]] = {self.requests: [], self.replies: []}

    def parcels(self, flow: Flow, data: bytes) -> Iterable[Parcel]:
        for parcel in super().parcels(flow, data):
            if not isinstance(parcel.content, Content):
                yield parcel
                continue
            if flow.to_server:
                self._proxy.on_request()
            kept, self._kept[flow] = self._kept[flow], []
            pieces = (
                None if self._proxy.tell is None else self._proxy.tell(self._frame(parcel, parcel.content))
            )
            yield from (parcel,) if pieces is None else self._pass(flow, pieces)
            for piece in kept:
                yield self._parcel(piece)

    def check_closed(self) -> None:
        super().check_closed()
        if self.closing:  # no timer of a connection outlives it
            self.requests.discard()
            self.replies.discard()

    def _frame(self, parcel: Parcel, content: Content) -> Frame:
        request: Any = content.exchange.request if content.exchange is not None else None
        path, body = (content.message.path, b"") if request is None else (request.path, request.body[8:])
        return Frame(content.message, parcel.data, self.unanswered, path, body)

    def _pass(self, flow: Flow, pieces: Sequence[Piece]) -> Iterator[Parcel]:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for data, way, delay in pieces:
            if way is Way.NOW:
                yield self._parcel(data)
            elif way is Way.IN_TURN:
                due += delay
                yield Parcel(data, loop.time(), _Due(due))
            elif way is Way.LATE:
                self._later(delay, flow, data)
            elif way is Way.BEHIND_THE_NEXT:
                self._kept[flow].append(data)
                self._later(NEXT_COMES_WITHIN, flow, None)
            else:
                reset = way is Way.RST
                loop.call_soon(lambda reset=reset: self.cut_when_sent(reset=reset))

    def _parcel(self, data: bytes) -> Parcel:
        return Parcel(data, asyncio.get_running_loop().time(), None)

    def _later(self, delay: float, flow: Flow, data: bytes | None) -> None:
        def inject() -> None:
            self._proxy.timers.discard(timer)
            pieces = self._kept[flow] if data is None else [data]
            if data is None:
                self._kept[flow] = []
            if not self.closing and flow.end is None:
                for piece in pieces:
                    flow.enqueue(self._parcel(piece))
                flow.deliver()

        timer = asyncio.get_running_loop().call_later(delay, inject)
        self._proxy.timers.add(timer)
