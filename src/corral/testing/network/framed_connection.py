"""A proxied connection whose bytes are cut into ZooKeeper's messages, and requests paired with replies."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from corral.wire import messages
from corral.wire.compile import DecodeError

from .connection import Flow, ProxiedConnection, ProxyState
from .faults import NOW, Delay, Parcel
from .points import CONNECT, Match, Message, MessageKind, Moment
from .triggers import Exchange, Trigger

__all__ = ["Content", "DelayOfMatches", "FramedConnection", "Observers"]

_LARGEST_FRAME = 1 << 28
"""A greater length is none: the bytes are not ZooKeeper's (TLS, four letter words), and pass unparsed."""

_WITH_PATH = frozenset(
    opcode
    for opcode, operation in messages.OPERATIONS.items()
    if operation.request.fields[:1] == ("path",)
)  # fmt: skip
_XID_AND_OPCODE = struct.Struct(">ii")


class Observers:
    """What a proxy looks for in the messages of all its connections."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []
        self.records: list[tuple[list[Message], Match]] = []
        self.passwords: dict[int, bytes] = {}
        """The passwords of the sessions that were connected through the proxy, by session id."""


@dataclass(eq=False, slots=True)
class Content:
    """The message in a parcel."""

    message: Message
    exchange: Exchange | None
    """That of a request and of its reply; None for events, and for replies without a request."""
    was_about_to_pass: bool = False
    """Whether the triggers have seen it already. One of them may have begun a fault that withheld it."""


class DelayOfMatches:
    """A delay of the messages that match, and of what is behind them."""

    def __init__(self, delay: Delay, match: Match) -> None:
        self._delay = delay
        self._match = match

    def until(self, parcel: Parcel, *, to_server: bool) -> float:
        content = parcel.content
        matches = isinstance(content, Content) and self._match(content.message)
        return self._delay.until(parcel, to_server=to_server) if matches else NOW


class FramedConnection(ProxiedConnection):
    """A connection whose parcels are messages."""

    def __init__(self, state: ProxyState, observers: Observers) -> None:
        super().__init__(state)
        self.session_id = 0
        """The session that the server has granted to the client; 0 for none."""
        self.unanswered: deque[Exchange] = deque()
        self._observers = observers
        self._partial = {self.requests: bytearray(), self.replies: bytearray()}
        self._is_framed = {self.requests: True, self.replies: True}  # until a length makes no sense
        # The first message in each direction opens the session, and has neither xid nor opcode.
        self._connect_requested = False
        self._connect_answered = False

    def parcels(self, flow: Flow, data: bytes) -> Iterable[Parcel]:
        now = asyncio.get_running_loop().time()
        partial = self._partial[flow]
        partial += data
        while self._is_framed[flow] and len(partial) >= 4:
            length = int.from_bytes(partial[:4], signed=True)
            if not 0 <= length <= _LARGEST_FRAME:
                self._is_framed[flow] = False
            elif len(partial) < 4 + length:
                break
            else:
                content = self._parse(flow, bytes(partial[4 : 4 + length]))
                for record, match in self._observers.records:
                    if match(content.message):
                        record.append(content.message)
                yield Parcel(bytes(partial[: 4 + length]), now, content)
                del partial[: 4 + length]
        if not self._is_framed[flow] and partial:
            yield Parcel(bytes(partial), now, None)
            partial.clear()

    def remainder(self, flow: Flow) -> bytes:
        partial = self._partial[flow]
        remainder = bytes(partial)
        partial.clear()
        return remainder

    def about_to_pass(self, flow: Flow, parcel: Parcel) -> None:
        content = parcel.content
        if not isinstance(content, Content) or content.was_about_to_pass:
            return
        content.was_about_to_pass = True
        message, exchange = content.message, content.exchange
        if message.kind is MessageKind.EVENT:
            for trigger in self._triggers():
                trigger.on_event(self, message, Moment.ON_EVENT)
        elif exchange is not None and message.kind is MessageKind.REQUEST:
            for trigger in self._triggers():
                trigger.on_request(self, exchange)
        elif exchange is not None:
            for trigger in exchange.triggers:
                trigger.on_reply(self, exchange, Moment.COMMITTED)

    def passed(self, flow: Flow, parcel: Parcel) -> None:
        content = parcel.content
        if not isinstance(content, Content) or content.message.kind is MessageKind.REQUEST:
            return
        if content.exchange is not None:
            for trigger in content.exchange.triggers:
                trigger.on_reply(self, content.exchange, Moment.AFTER)
        elif content.message.kind is MessageKind.EVENT:
            for trigger in self._triggers():
                trigger.on_event(self, content.message, Moment.AFTER_EVENT)

    def _triggers(self) -> Iterator[Trigger]:
        """The proxy's triggers, until one of them ends this connection."""
        for trigger in tuple(self._observers.triggers):
            if not self.closing:
                yield trigger

    def _parse(self, flow: Flow, body: bytes) -> Content:
        if flow.to_server:
            exchange = Exchange(self._request(body))
            self.unanswered.append(exchange)
            return Content(exchange.request, exchange)
        if not self._connect_answered:
            self._connect_answered = True
            answered = self.unanswered.popleft() if self.unanswered else None
            xid, error = 0, 0
            self._note_session(body)
        else:
            xid, _, error = messages.REPLY_HEADER.unpack_from(body.ljust(messages.REPLY_HEADER.size, b"\0"))
            if xid == messages.NOTIFICATION_XID:
                return Content(self._event(body), None)
            answered = next((each for each in self.unanswered if each.request.xid == xid), None)
            if answered is not None:
                self.unanswered.remove(answered)
        operation, opcode, path = "unknown", 0, None
        if answered is not None:
            operation, opcode, path = (
                answered.request.operation, answered.request.opcode, answered.request.path
            )  # fmt: skip
        reply = Message(MessageKind.REPLY, operation, opcode, path, xid, error, self.number, body)
        return Content(reply, answered)

    def _note_session(self, body: bytes) -> None:
        with contextlib.suppress(DecodeError):  # then the server has granted no session
            granted = messages.decode_connect_reply(body, 0, len(body))
            if granted.timeout > 0:
                self.session_id = granted.session_id
                self._observers.passwords[granted.session_id] = granted.password

    def _request(self, body: bytes) -> Message:
        if not self._connect_requested:
            self._connect_requested = True
            return Message(MessageKind.REQUEST, CONNECT, 0, None, 0, 0, self.number, body)
        xid, opcode = _XID_AND_OPCODE.unpack_from(body.ljust(_XID_AND_OPCODE.size, b"\0"))
        operation = messages.OPERATIONS.get(opcode)
        path = _string_at(body, _XID_AND_OPCODE.size) if opcode in _WITH_PATH else None
        name = operation.name if operation is not None else f"opcode {opcode}"
        return Message(MessageKind.REQUEST, name, opcode, path, xid, 0, self.number, body)

    def _event(self, body: bytes) -> Message:
        path = _string_at(body, messages.REPLY_HEADER.size + 8)  # behind the event's type and the state
        return Message(MessageKind.EVENT, "event", 0, path, messages.NOTIFICATION_XID, 0, self.number, body)


def _string_at(body: bytes, at: int) -> str | None:
    """The string that begins there; None if none does."""
    length = int.from_bytes(body[at : at + 4], signed=True)
    raw = body[at + 4 : at + 4 + length]
    return raw.decode("utf-8", "replace") if 0 <= length == len(raw) else None
