"""A proxy that understands ZooKeeper's messages, and breaks the network exactly where a test wants it broken.

    async with FaultProxy(server.address) as proxy:
        async with corral.connect(proxy.address) as zk:
            async with proxy.cut_at(committed("create")) as cut:
                with pytest.raises(corral.ConnectionLoss):  # the znode exists, but its answer is lost
                    await zk.create("/jobs/job-", sequential=True)
            assert cut.message.path == "/jobs/job-"

It knows nothing of corral: any client, of any library, can be put behind it. A fault is an asynchronous
context manager that undoes itself:

===============================  =======================================================================
``cut_at(point)``                the connection ends at that point, with FIN or RST
``black_hole(point)``            from there on nothing passes, both ways or one, and nothing is closed
``half_open(point)``             from there on one side is gone, and the other is not told
``delay(seconds)``               everything passes later, or what matches and all behind it
``refuse()``                     new connections are reset
``await cut()``                  every connection ends now
``await expire()``               the sessions that are connected end on the server, as if their time were up
``record()``                     no fault: a list of what comes by
===============================  =======================================================================

A *point* says where: `before` a request reaches the server; when it is `committed`, but its reply has not
passed; `after` its reply; `on_event` or `after_event` of a watch. It is addressed by operation, by count, by
a predicate. Without a point the fault begins at once. What is withheld is delivered when the fault ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from corral.errors import UsageStateError, UsageValueError
from corral.session.visit import LIMIT, visit
from corral.testing.tcp import Delay, Flow, Held, Link, Parcel, TcpProxy
from corral.wire import messages
from corral.wire.compile import DecodeError

__all__ = [
    "FaultProxy",
    "Hole",
    "Kind",
    "Message",
    "Moment",
    "Point",
    "Reached",
    "after",
    "after_event",
    "before",
    "committed",
    "on_event",
]

_LARGEST_FRAME = 1 << 28
"""A length above this is none: what flows is not ZooKeeper's (TLS, four letter words), and just passes."""

_TAKEOVERS = 20
"""How often `FaultProxy.expire` takes over a session whose client takes it back; a server that closes every
connection looks the same."""

_CONNECT = "connect"
_OPERATIONS = frozenset({_CONNECT} | {operation.name for operation in messages.OPERATIONS.values()})
_WITH_PATH = frozenset(
    opcode
    for opcode, operation in messages.OPERATIONS.items()
    if operation.request.fields[:1] == ("path",)
)  # fmt: skip


class Kind(enum.Enum):
    """What a message is."""

    REQUEST = "request"
    REPLY = "reply"
    EVENT = "event"


@dataclass(frozen=True, slots=True)
class Message:
    """One message between a client and a server."""

    kind: Kind
    operation: str
    """The verb: ``"create"`` for each kind of create, ``"children"`` with or without a stat, ``"connect"``,
    ``"transaction"``, ``"ping"``...; of a reply that of its request; ``"event"`` for an event."""
    opcode: int
    """ZooKeeper's number of the operation; 0 for connect, and for events."""
    path: str | None
    """The full path on the server that a request, its reply or an event is about, where it is about one."""
    xid: int
    """What a request and its reply are paired by; negative ones have a meaning of their own."""
    error: int
    """ZooKeeper's error code of a reply; else 0."""
    connection: int
    """Which of the proxy's connections it came by on, counted from 1."""
    body: bytes = field(repr=False)
    """All of it, but for its length in front."""

    def __str__(self) -> str:
        about = self.operation if self.path is None else f"{self.operation} {self.path!r}"
        return about if self.kind is not Kind.REPLY else f"reply to {about}"


Match = Callable[[Message], bool]


class Moment(enum.Enum):
    """Where a point is, as seen from a message."""

    BEFORE = "before"
    """A request has not reached the server, and with a cut never will."""
    COMMITTED = "committed"
    """The server has carried the request out, and its reply has not passed; with a cut it never will."""
    AFTER = "after"
    """The reply has passed."""
    ON_EVENT = "on_event"
    """An event has been sent, and has not passed; with a cut it never will."""
    AFTER_EVENT = "after_event"
    """An event has passed."""

    @property
    def of_event(self) -> bool:
        """Whether it is about an event, not about a request."""
        return self in (Moment.ON_EVENT, Moment.AFTER_EVENT)


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of the `nth` message (from 1) that is of an operation and matches, since the fault began.

    Pings are counted only where they are asked for by name: they come as time goes by. Made by `before`,
    `committed`, `after`, `on_event` and `after_event`.
    """

    moment: Moment
    operation: str | None = None
    match: Match | None = None
    nth: int = 1

    def __post_init__(self) -> None:
        if self.nth < 1:
            raise UsageValueError(f"nth counts from 1, so it cannot be {self.nth}")
        if self.operation is not None and self.operation not in _OPERATIONS:
            raise UsageValueError(
                f"there is no operation {self.operation!r}; there are {', '.join(sorted(_OPERATIONS))}"
            )

    def __str__(self) -> str:
        of = "" if self.moment.of_event else f" {self.operation or 'request'}"
        return f"{self.moment.value}{of} #{self.nth}{' that matches' if self.match else ''}"

    def concerns(self, message: Message) -> bool:
        """Whether the message is one of those that are counted."""
        if message.kind is not (Kind.EVENT if self.moment.of_event else Kind.REQUEST):
            return False
        if self.operation is None:
            return message.operation != "ping" and (self.match is None or self.match(message))
        return message.operation == self.operation and (self.match is None or self.match(message))


def before(operation: str | None = None, *, match: Match | None = None, nth: int = 1) -> Point:
    """Before a request reaches the server."""
    return Point(Moment.BEFORE, operation, match, nth)


def committed(operation: str | None = None, *, match: Match | None = None, nth: int = 1) -> Point:
    """After the server has carried a request out, and before its reply passes."""
    return Point(Moment.COMMITTED, operation, match, nth)


def after(operation: str | None = None, *, match: Match | None = None, nth: int = 1) -> Point:
    """After the reply to a request has passed."""
    return Point(Moment.AFTER, operation, match, nth)


def on_event(*, match: Match | None = None, nth: int = 1) -> Point:
    """When a watch's event has been sent, before it passes."""
    return Point(Moment.ON_EVENT, None, match, nth)


def after_event(*, match: Match | None = None, nth: int = 1) -> Point:
    """After a watch's event has passed."""
    return Point(Moment.AFTER_EVENT, None, match, nth)


class Reached:
    """Whether a fault's point was reached, and by what."""

    def __init__(self) -> None:
        self.fired = asyncio.Event()
        """Set when the point was first reached, and the fault has begun."""
        self.message: Message | None = None
        """The request or the event by which it was reached last."""


class Hole(Held, Reached):
    """What a black hole is withholding, and whether it has opened."""

    def __init__(self, *, requests: bool, replies: bool, open_: bool) -> None:
        Held.__init__(self, requests=requests, replies=replies, open_=open_)
        Reached.__init__(self)


class _Trigger:
    """Counts what a point concerns, and acts when it is reached; and for the `times` - 1 messages after it.

    A request that is lost with its connection before its reply came is not counted: the next one is.
    """

    def __init__(self, point: Point, reached: Reached, act: Callable[[Link], None], times: int = 1) -> None:
        if times < 1:
            raise UsageValueError(f"a fault happens at least once, so times cannot be {times}")
        self.over = False
        """Whether the fault has ended; then it does not act on a reply that is still to come."""
        self._point = point
        self._reached = reached
        self._act = act
        self._last = point.nth + times - 1
        self._count = 0
        self._awaited: dict[_Exchange, Link] = {}  # requests whose replies are to come

    def came(self, link: Link, event: Message, moment: Moment) -> None:
        """An event is the next to pass, or has passed."""
        if self._point.moment is moment and self._counts(event):
            self._act_on(link, event)

    def _counts(self, message: Message) -> bool:
        """Whether this message is one at which to act."""
        if not self._point.concerns(message):
            return False
        self._count += 1
        return self._point.nth <= self._count <= self._last

    def requested(self, link: Link, exchange: _Exchange) -> None:
        """A request is the next to pass."""
        for other in [other for other, of in self._awaited.items() if of.over]:
            del self._awaited[other]
            self._count -= 1
        if not self._counts(exchange.request):
            return
        if self._point.moment is Moment.BEFORE:
            self._act_on(link, exchange.request)
        else:
            self._awaited[exchange] = link
            exchange.triggers.append(self)

    def replied(self, link: Link, exchange: _Exchange, moment: Moment) -> None:
        """The reply to such a request is the next to pass, or has passed."""
        if self._point.moment is moment and not link.over and not self.over:
            del self._awaited[exchange]
            self._act_on(link, exchange.request)

    def _act_on(self, link: Link, message: Message) -> None:
        self._reached.message = message
        self._act(link)
        self._reached.fired.set()


@dataclass(eq=False, slots=True)
class _Exchange:
    """A request, and what its reply will be paired with."""

    request: Message
    triggers: list[_Trigger] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Content:
    """What the proxy has made of a frame."""

    message: Message
    exchange: _Exchange | None
    """Of a request and of its reply; None for events, and for replies to nothing."""
    seen: bool = False
    """Whether it was about to pass already, and a fault began there that withheld it."""


class _DelayOfSome:
    """A delay of the messages that match."""

    def __init__(self, delay: Delay, match: Match) -> None:
        self._delay = delay
        self._match = match

    def until(self, flow: Flow, parcel: Parcel) -> float:
        content = parcel.content
        matches = isinstance(content, _Content) and self._match(content.message)
        return self._delay.until(flow, parcel) if matches else float("-inf")


class FaultProxy(TcpProxy):
    """A `TcpProxy` that understands ZooKeeper's messages. See the module's documentation."""

    def __init__(self, target: str) -> None:
        """`target` is the server, as ``host:port``; it need not be there yet."""
        super().__init__(target)
        self._triggers: list[_Trigger] = []
        self._records: list[tuple[list[Message], Match]] = []
        self._passwords: dict[int, bytes] = {}

    def _make_link(self) -> Link:
        return _FramedLink(self)

    async def expire(self, session_id: int | None = None) -> None:
        """End a session on the server, as if its client had not been heard of for too long; without an id
        every session that is connected through this proxy now.

        The session must have been connected through this proxy. Its ephemerals are gone when this returns;
        its client finds out as soon as it has a connection again. Takes milliseconds, and at most 10 seconds
        for each session. Raises `UsageValueError` for a session that this proxy has never seen,
        `UsageStateError` if no session is connected, and `OSError` (`TimeoutError` is one) if the server
        cannot be reached or does not end the session. Cancelled, or failed, it may have ended some sessions.
        """
        if session_id is None:
            wanted = [link.session_id for link in self._links if isinstance(link, _FramedLink)]
            ids = sorted({each for each in wanted if each})
            if not ids:
                raise UsageStateError("no session is connected through this proxy; name one that was")
        elif session_id in self._passwords:
            ids = [session_id]
        else:
            seen = ", ".join(f"0x{each:x}" for each in self._passwords) or "none"
            raise UsageValueError(
                f"session 0x{session_id:x} was not seen by this proxy (seen: {seen}); "
                "connect its client to proxy.address"
            )
        for each in ids:
            await self._end_session(each)

    async def _end_session(self, session_id: int) -> None:
        """Take a session over and close it, until it is over on the server."""
        password, attempts = self._passwords[session_id], 0
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    closed = await visit(*self._target, session_id, password)
                    break
                except ConnectionResetError:
                    # Our takeover has closed the client's connection, and the client has taken the session
                    # back before the server has read our close.
                    attempts += 1
                    if attempts == _TAKEOVERS:
                        raise
            if closed is None:
                # The server refuses a session from the moment it begins to close it. What a new session does
                # comes after that: once it is there, the ephemerals are gone.
                await visit(*self._target)

    @contextlib.asynccontextmanager
    async def record(self, match: Match = lambda message: True) -> AsyncIterator[list[Message]]:
        """The messages that come to the proxy and match, in order, those that a fault then withholds or
        loses among them: a list that grows."""
        entry = list[Message](), match
        self._records.append(entry)
        try:
            yield entry[0]
        finally:
            self._records.remove(entry)

    @contextlib.asynccontextmanager
    async def cut_at(self, point: Point, *, reset: bool = False, times: int = 1) -> AsyncIterator[Reached]:
        """The connection ends at the point, for the client with FIN or, with ``reset=True``, with RST.

        With `times` the messages counted next meet the same fate, on whatever connections they come. The
        server always sees FIN, after all that has passed. New connections are accepted.
        """
        reached = Reached()
        with self._triggered(point, reached, lambda link: link.cut_when_sent(reset=reset), times):
            yield reached

    @contextlib.asynccontextmanager
    async def black_hole(
        self, point: Point | None = None, *, requests: bool = True, replies: bool = True
    ) -> AsyncIterator[Hole]:
        """From the point on (None: from now on) nothing passes, on any connection, and nothing is closed:
        neither way, or one way only. See `TcpProxy.black_hole`."""
        hole = Hole(requests=requests, replies=replies, open_=point is None)

        def begin(link: Link) -> None:
            hole._open = True
            self._connect_if_possible()

        async with self._hole(hole):
            with self._triggered(point, hole, begin):
                yield hole

    @contextlib.asynccontextmanager
    async def half_open(
        self, point: Point | None = None, *, gone: Literal["server", "client"] = "server"
    ) -> AsyncIterator[Reached]:
        """One side of the open connections has gone, and the other is not told; with a point: of that
        connection, from there on. See `TcpProxy.half_open`."""
        reached, split = Reached(), list[Link]()

        def begin(link: Link) -> None:
            split.append(link)
            link.split(gone)

        if point is None:
            for link in list(self._links):
                begin(link)
        try:
            with self._triggered(point, reached, begin):
                yield reached
        finally:
            for link in split:
                link.rejoin()

    @contextlib.asynccontextmanager
    async def delay(
        self, seconds: float, *, requests: bool = True, replies: bool = True, match: Match | None = None
    ) -> AsyncIterator[None]:
        """Messages pass `seconds` later than they came, both ways or one; with `match` those alone that it
        picks, and what is behind them, since order is kept. Events count as replies."""
        fault = Delay(seconds, requests=requests, replies=replies)
        async with self._fault(fault if match is None else _DelayOfSome(fault, match)):
            yield

    @contextlib.contextmanager
    def _triggered(
        self, point: Point | None, reached: Reached, act: Callable[[Link], None], times: int = 1
    ) -> Iterator[None]:
        if point is None:
            reached.fired.set()
            yield
            return
        trigger = _Trigger(point, reached, act, times)
        self._triggers.append(trigger)
        try:
            yield
        finally:
            trigger.over = True
            self._triggers.remove(trigger)


class _FramedLink(Link):
    """A connection whose bytes are cut into messages, and requests paired with replies."""

    proxy: FaultProxy

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        self._partial = {self.requests: bytearray(), self.replies: bytearray()}
        self._framed = {self.requests: True, self.replies: True}  # until a length makes no sense
        # A connection's first messages are unlike the others: they have no xid and no opcode.
        self._introduced = False
        self._greeted = False
        self.session_id = 0
        """The session that the server has given to the client; 0 for none."""
        self._unanswered: deque[_Exchange] = deque()

    def parcels(self, flow: Flow, data: bytes) -> Iterable[Parcel]:
        now = asyncio.get_running_loop().time()
        partial = self._partial[flow]
        partial += data
        while self._framed[flow] and len(partial) >= 4:
            length = int.from_bytes(partial[:4], signed=True)
            if not 0 <= length <= _LARGEST_FRAME:
                self._framed[flow] = False
            elif len(partial) < 4 + length:
                break
            else:
                content = self._understand(flow, bytes(partial[4 : 4 + length]))
                for record, match in self.proxy._records:
                    if match(content.message):
                        record.append(content.message)
                yield Parcel(bytes(partial[: 4 + length]), now, content)
                del partial[: 4 + length]
        if not self._framed[flow] and partial:
            yield Parcel(bytes(partial), now, None)
            partial.clear()

    def rest(self, flow: Flow) -> bytes:
        partial = self._partial[flow]
        rest = bytes(partial)
        partial.clear()
        return rest

    def next(self, flow: Flow, parcel: Parcel) -> None:
        content = parcel.content
        if not isinstance(content, _Content) or content.seen:
            return
        content.seen = True
        message, exchange = content.message, content.exchange
        if message.kind is Kind.EVENT:
            for trigger in self._live_triggers():
                trigger.came(self, message, Moment.ON_EVENT)
        elif exchange is not None and message.kind is Kind.REQUEST:
            for trigger in self._live_triggers():
                trigger.requested(self, exchange)
        elif exchange is not None:
            for trigger in exchange.triggers:
                trigger.replied(self, exchange, Moment.COMMITTED)

    def passed(self, flow: Flow, parcel: Parcel) -> None:
        content = parcel.content
        if not isinstance(content, _Content) or content.message.kind is Kind.REQUEST:
            return
        if content.exchange is not None:
            for trigger in content.exchange.triggers:
                trigger.replied(self, content.exchange, Moment.AFTER)
        elif content.message.kind is Kind.EVENT:
            for trigger in self._live_triggers():
                trigger.came(self, content.message, Moment.AFTER_EVENT)

    def _live_triggers(self) -> Iterator[_Trigger]:
        """The proxy's triggers, as long as none has ended this connection."""
        for trigger in tuple(self.proxy._triggers):
            if not self.over:
                yield trigger

    def _understand(self, flow: Flow, body: bytes) -> _Content:
        if flow.to_server:
            exchange = _Exchange(self._request(body))
            self._unanswered.append(exchange)
            return _Content(exchange.request, exchange)
        if not self._greeted:
            self._greeted = True
            answered = self._unanswered.popleft() if self._unanswered else None
            xid, error = 0, 0
            self._note_session(body)
        else:
            xid, _, error = messages.REPLY_HEADER.unpack_from(body.ljust(messages.REPLY_HEADER.size, b"\0"))
            if xid == messages.NOTIFICATION_XID:
                return _Content(self._event(body), None)
            answered = next((each for each in self._unanswered if each.request.xid == xid), None)
            if answered is not None:
                self._unanswered.remove(answered)
        request = answered.request if answered is not None else _UNKNOWN
        return _Content(
            Message(
                Kind.REPLY, request.operation, request.opcode, request.path, xid, error, self.number, body
            ),
            answered,
        )

    def _note_session(self, body: bytes) -> None:
        with contextlib.suppress(DecodeError):  # then it is none
            granted = messages.decode_connect_reply(body, 0, len(body))
            if granted.timeout > 0:
                self.session_id = granted.session_id
                self.proxy._passwords[granted.session_id] = granted.password

    def _request(self, body: bytes) -> Message:
        if not self._introduced:
            self._introduced = True
            return Message(Kind.REQUEST, _CONNECT, 0, None, 0, 0, self.number, body)
        xid, opcode = _XID_AND_OPCODE.unpack_from(body.ljust(_XID_AND_OPCODE.size, b"\0"))
        operation = messages.OPERATIONS.get(opcode)
        path = _string_at(body, _XID_AND_OPCODE.size) if opcode in _WITH_PATH else None
        name = operation.name if operation is not None else f"opcode {opcode}"
        return Message(Kind.REQUEST, name, opcode, path, xid, 0, self.number, body)

    def _event(self, body: bytes) -> Message:
        path = _string_at(body, messages.REPLY_HEADER.size + 8)  # the event's type and the session's state
        return Message(Kind.EVENT, "event", 0, path, messages.NOTIFICATION_XID, 0, self.number, body)


_XID_AND_OPCODE = struct.Struct(">ii")
_UNKNOWN = Message(Kind.REPLY, "unknown", 0, None, 0, 0, 0, b"")


def _string_at(body: bytes, at: int) -> str | None:
    """The string that begins there, if one does."""
    length = int.from_bytes(body[at : at + 4], signed=True)
    raw = body[at + 4 : at + 4 + length]
    return raw.decode("utf-8", "replace") if 0 <= length == len(raw) else None
