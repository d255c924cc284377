"""A scripted server: it decodes what the machine sends, and sends what a test tells it to.

Answers reach the machine whole, byte by byte, or followed by the first bytes of the next frame (`Feed`). The
machine must behave the same for each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from corral.session.auth import Credentials
from corral.session.machine import Machine
from corral.types import Stat, State
from corral.wire import messages

T = 12.0
"""The session timeout in seconds. The fractions of it that the tests use are whole numbers."""

Feed = Callable[[bytes], list[bytes]]

STAT = Stat(1, 2, 3.0, 4.0, 5, 6, 7, 0, 4, 10, 11)
"""The `Stat` of a node with four bytes of data that is not ephemeral."""


def stat_of(data: bytes) -> Stat:
    """The `Stat` of a node with this data."""
    return STAT._replace(data_length=len(data))


class Answer:
    """A waiter that records its answer; a second one is an error."""

    def __init__(self, log: list[Any] | None = None, name: str = "answer") -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.answered = False
        self._log = log
        self._name = name

    def done(self) -> bool:
        return self.cancelled or self.answered

    def set_result(self, result: Any) -> None:
        self._settle()
        self.result = result

    def set_exception(self, error: BaseException) -> None:
        self._settle()
        self.error = error

    def _settle(self) -> None:
        assert not self.answered, "answered twice"
        self.answered = True
        if self._log is not None:
            self._log.append(self._name)


class Holder:
    """A hold that records why it was lost, and until when it was held."""

    def __init__(self, node: str = "/held", log: list[Any] | None = None) -> None:
        self.node = self.checked = node
        self.is_leaving = False
        self.error: BaseException | None = None
        self.ended = 0.0
        self._log = log

    def is_node(self, stat: Stat) -> bool:
        return True

    def lost(self, error: BaseException, ended: float) -> None:
        assert self.error is None, "lost twice"
        self.error, self.ended = error, ended
        if self._log is not None:
            self._log.append("lost")


class Sent(NamedTuple):
    """A frame that the machine has sent."""

    xid: int
    opcode: int
    body: bytes


class Server:
    """The machine, its connection, and what it has sent."""

    def __init__(self, feed: Feed, **options: Any) -> None:
        self.now = 100.0
        self.states: list[State] = []
        self.machine = Machine(T, on_state=self.states.append, **options)
        self.connects: list[messages.ConnectRequest] = []
        self._feed = feed
        self._rest = b""  # bytes that go out with the next frame

    # The connection

    def open(self) -> None:
        """A connection is made, and the machine sends its connect request."""
        self._rest = b""
        frame = self.machine.connection_made(self.now)
        self.connects.append(messages.decode_connect(frame, 4, len(frame)))

    def accept(self, session_id: int = 7, timeout: float = T) -> None:
        """Answer the connect request."""
        self.say_raw(messages.encode_connect_reply(timeout, session_id, b"p" * 16))

    def connect(self, session_id: int = 7) -> None:
        """Make a connection, and complete its handshake."""
        self.open()
        self.accept(session_id)

    def lose(self) -> None:
        """The connection breaks."""
        self.machine.connection_lost(self.now, "a test broke it")

    def heard(self, **options: Any) -> list[Sent]:
        """The frames that the machine sends now."""
        data = b"".join(self.machine.data_to_send(self.now, **options))
        found = []
        while data:
            length, xid, opcode = struct.unpack_from(">iii", data)
            found.append(Sent(xid, opcode, data[12 : 4 + length]))
            data = data[4 + length :]
        return found

    # What the server sends

    def say_raw(self, body: bytes) -> None:
        """Send one frame."""
        *pieces, self._rest = self._feed(self._rest + struct.pack(">i", len(body)) + body)
        for piece in pieces:
            self._say(piece)

    def say_bytes(self, data: bytes) -> None:
        """Send bytes, which need not be frames, after those that are still to be sent."""
        rest, self._rest = self._rest, b""
        self._say(rest + data)

    def _say(self, data: bytes) -> None:
        while data:
            free = self.machine.buffer()
            count = min(len(free), len(data))
            free[:count] = data[:count]
            self.machine.receive_data(self.now, count)
            data = data[count:]

    def answer(self, sent: Sent, body: bytes = b"", *, code: int = 0, zxid: int = 50) -> None:
        """Answer one request."""
        self.say_raw(messages.REPLY_HEADER.pack(sent.xid, zxid, code) + body)

    def notify(self, kind: int, path: str) -> None:
        """Send an event."""
        header = messages.REPLY_HEADER.pack(messages.NOTIFICATION_XID, -1, 0)
        self.say_raw(header + messages.WATCH_EVENT.encode(kind, 3, path))


GET_REPLY = messages.GET.reply.encode(b"data", STAT)
DIGEST = Credentials("digest", b"user:secret")


# The ways in which bytes arrive: the pieces to receive now, and the bytes that arrive with the next frame.


def whole(frame: bytes) -> list[bytes]:
    """All at once."""
    return [frame, b""]


def byte_by_byte(frame: bytes) -> list[bytes]:
    """One byte at a time."""
    return [*(frame[index : index + 1] for index in range(len(frame))), b""]


def with_a_tail(frame: bytes) -> list[bytes]:
    """Followed by the first bytes of the next frame, which answers a ping that nobody sent."""
    tail = struct.pack(">i", 16) + messages.REPLY_HEADER.pack(messages.PING_XID, 0, 0)
    return [frame + tail[:7], tail[7:]]
