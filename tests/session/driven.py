"""The machine as the supervisor drives it: one timer, and a server that can answer automatically.

`Driven` adds to `scripted.Server` what a session adds to its machine. It arms the timer only when the
supervisor would: after `connection_made`, `connection_lost` and `tick`, and after other entries if
`deadline_moved` is set. So if the machine forgets to set `deadline_moved`, the timer is late here as it would
be in a session.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scripted import Answer, Feed, Holder, Sent, Server, T, stat_of, whole

from corral.session.requests import Request
from corral.session.states import ConnectionPhase
from corral.types import Stat
from corral.wire import messages

START = 100.0
"""The time at which the fake clock starts."""
SESSION = 7
"""The id of the session that `connect` grants."""
LATENESS = T / 100
"""What is subtracted from every lease, even if the event loop is never late."""
OPERATIONS = messages.OPERATIONS
WRITTEN = b"new"
"""The data that `body_of` writes."""


def never(sent: Sent) -> bytes | None:
    """A server that never answers."""
    return None


def well(sent: Sent) -> bytes | None:
    """The answer of a healthy server, as a frame; None for a request that has none."""
    op = OPERATIONS[sent.opcode]
    if op is messages.MULTI:
        body = messages.encode_multi_reply([(messages.CHECK.opcode, 0, b"") for _ in checked(sent)])
    elif op is messages.GET:
        data = path_of(sent).encode()
        body = messages.GET.reply.encode(*got(data))
    elif op is messages.EXISTS:
        body = messages.EXISTS.reply.encode(stat_of(b""))
    elif op is messages.SET:
        body = messages.SET.reply.encode(stat_of(WRITTEN))
    else:
        body = b""
    return messages.REPLY_HEADER.pack(sent.xid, 50, 0) + body


def got(data: bytes) -> tuple[bytes, Stat]:
    """The result of a read of this data."""
    return data, stat_of(data)


def deposed(driven: Driven) -> Callable[[Sent], bytes | None]:
    """A follower of a deposed leader. It answers reads and pings, but no write; and since it answers in
    order, it answers nothing after a write on the same connection."""
    stuck = 0

    def answer(sent: Sent) -> bytes | None:
        nonlocal stuck
        if OPERATIONS[sent.opcode].is_write:
            stuck = len(driven.connects)
        return None if stuck == len(driven.connects) else well(sent)

    return answer


def fields(sent: Sent) -> Any:
    """The decoded fields of a request."""
    return OPERATIONS[sent.opcode].request.decode(sent.body, 0, len(sent.body))


def path_of(sent: Sent) -> str:
    """The first path in a request."""
    found: str = fields(sent)[0]
    return found


def checked(sent: Sent) -> list[str]:
    """The paths that a heartbeat checks."""
    return [each[0] for _, each in messages.decode_multi(sent.body, 0, len(sent.body))]


class Driven(Server):
    """A machine, its scripted server, and its timer."""

    def __init__(self, feed: Feed = whole, **options: Any) -> None:
        super().__init__(feed, **options)
        self.timer = math.inf
        self.log: list[str] = []
        """Who was notified, in order: the paths of answered requests, and "lost <node>"."""
        self.drops: list[tuple[float, str]] = []
        """When the machine asked for a connection to be closed, and for what reason."""

    # What the connection and the supervisor do

    def open(self) -> None:
        super().open()
        self._rearm()

    def lose(self) -> None:
        super().lose()
        self._rearm()

    def _say(self, data: bytes) -> None:
        if self.machine.close_reason is None and self.machine.phase is not ConnectionPhase.DOWN:
            super()._say(data)
            if self.machine.deadline_moved:
                self._rearm()

    def hold(self, node: str = "/held") -> Holder:
        """Hold a node."""
        holder = NamedHolder(node, self.log)
        self.keep(holder)
        return holder

    def keep(self, holder: Holder) -> None:
        """Register this hold."""
        self.machine.hold(holder, self.now)
        if self.machine.deadline_moved:
            self._rearm()

    def submit(self, op: messages.Operation, path: str, **options: Any) -> Answer:
        """Submit a request. The log names it by its path."""
        answer = Answer(self.log, path)
        self.machine.submit(Request(op, body_of(op, path), path, answer, **options))
        return answer

    def read(self, path: str = "/read", **options: Any) -> Answer:
        """Submit a read."""
        return self.submit(messages.GET, path, **options)

    def write(self, path: str = "/write", **options: Any) -> Answer:
        """Submit a write."""
        return self.submit(messages.SET, path, **options)

    def reply(self, *sent: Sent) -> None:
        """Answer these requests as a healthy server does."""
        for each in sent:
            self.say_raw(well(each) or b"")

    def paths(self) -> list[str]:
        """The paths of the requests that the machine sends now."""
        return [path_of(sent) for sent in self.heard()]

    def served(self) -> list[str]:
        """The paths of the requests that the machine sends to a server that answers at once, in the order of
        sending."""
        return [path_of(sent) for _, sent in self.go(self.now, well)]

    # The clock

    def deadline(self) -> float:
        """What `Machine.deadline` returns; this does not count as the supervisor's call."""
        return self.machine.deadline()

    def go(self, to: float, server: Callable[[Sent], bytes | None] = never) -> list[tuple[float, Sent]]:
        """Advance the clock to `to`; returns when each request was sent.

        `server` gives the answer to each request, at once. A connection that the machine gives up is closed.
        """
        seen: list[tuple[float, Sent]] = []
        self._flush(seen, server)
        while self.timer <= to:
            self.fire_timer()
            self._flush(seen, server)
        self.now = max(self.now, to)
        return seen

    def fire_timer(self) -> None:
        """The timer fires: on time, unless the clock was moved past it."""
        self.now = max(self.now, self.timer)
        due, self.timer = self.timer, math.inf
        self.machine.tick(self.now, due)
        self.drop_if_asked()
        self._rearm()

    def drop_if_asked(self) -> None:
        """Close the connection if the machine asks for that."""
        if self.machine.close_reason is not None and self.machine.phase is not ConnectionPhase.DOWN:
            self.drops.append((self.now, self.machine.close_reason))
            self.lose()

    def _flush(self, seen: list[tuple[float, Sent]], server: Callable[[Sent], bytes | None]) -> None:
        while sent := self.heard():
            for each in sent:
                seen.append((self.now, each))
                if (answer := server(each)) is not None:
                    self.say_raw(answer)

    def _rearm(self) -> None:
        self.timer = min(self.timer, self.machine.arm_deadline())


class NamedHolder(Holder):
    """A holder that the log names by its node."""

    def __init__(self, node: str, log: list[str]) -> None:
        super().__init__(node)
        self._told = log

    def lost(self, error: BaseException, ended: float) -> None:
        super().lost(error, ended)
        self._told.append(f"lost {self.node}")


def body_of(op: messages.Operation, path: str) -> bytes:
    """The body of a request of this kind for a path."""
    if op is messages.SET:
        return messages.encode_set(path, WRITTEN, -1)
    if op is messages.MULTI:
        return messages.encode_multi([(messages.CHECK, messages.encode_check(path, -1))])
    return op.request.encode(path, False)
