"""The SASL phase of a connection, without I/O: what is sent when, and what a server may say in it."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import GET_REPLY, Answer, Feed, Holder, Server, T, byte_by_byte, whole, with_a_tail

from corral import errors
from corral.session.auth import Credentials
from corral.session.requests import Request
from corral.session.sasl.base import Exchange, Refused
from corral.session.states import ConnectionPhase
from corral.session.watchers import WatchKind
from corral.types import State
from corral.wire import messages
from corral.wire.compile import DecodeError

REPLY = messages.REPLY_HEADER
AUTH_FAILED, AUTH_REQUIRED, UNIMPLEMENTED = -115, -124, -6


class Script(Exchange):
    """An exchange that expects challenges, and has a token for each but the last."""

    mechanism = "SCRIPT"

    def __init__(self, **steps: str | None) -> None:
        self.first = b"hello"
        self.steps: dict[str | None, str | None] = dict(steps)

    def step(self, challenge: bytes | None) -> bytes | None:
        if challenge is None:
            raise Refused("no SASL")
        text = challenge.decode()
        if text not in self.steps:
            raise DecodeError(f"challenge {text!r}")
        token = self.steps.pop(text)
        return None if token is None else token.encode()


class Authenticating(Server):
    """A server and a machine that begins each connection with a SASL exchange of two steps."""

    def __init__(self, feed: Feed = whole, **options: Any) -> None:
        super().__init__(feed, **options)

    def open(self) -> None:
        self.machine.prepare("zk1:2181", Script(who="me", welcome=None))
        super().open()

    def token(self) -> bytes | None:
        """The token that the machine sends now."""
        frame = self.machine.take_token()
        if frame is None:
            return None
        length, xid, opcode = messages.REQUEST_HEADER.unpack_from(frame)
        assert (length, xid, opcode) == (len(frame) - 4, 0, messages.SASL.opcode)
        return messages.SASL.request.decode(frame, 12, len(frame))  # type: ignore[no-any-return]

    def challenge(self, text: bytes | None, *, xid: int = 0, code: int = 0) -> None:
        """Answer a token."""
        self.say_raw(REPLY.pack(xid, 0, code) + messages.SASL.reply.encode(text))

    def authenticate(self) -> None:
        """Complete the exchange."""
        assert self.token() == b"hello"
        self.challenge(b"who")
        assert self.token() == b"me"
        self.challenge(b"welcome")

    def ask(self, log: list[Any] | None = None) -> Answer:
        """Submit a read."""
        answer = Answer(log)
        self.machine.submit(Request(messages.GET, messages.encode_get("/a", False), "/a", answer))
        return answer


FEEDS = pytest.mark.parametrize("feed", [whole, byte_by_byte, with_a_tail])


@pytest.mark.parametrize("feed", [whole, byte_by_byte])
def test_tokens_come_before_everything_else(feed: Feed) -> None:
    """T2, S4: until the exchange is over, nothing but tokens is sent: no credentials, no watches, no request, no
    ping; then credentials come first, and requests behind them."""
    server = Authenticating(feed, credentials=[Credentials("digest", b"a:b")])
    read = server.ask()
    server.open()
    assert server.token() is None
    server.accept()
    assert server.machine.phase is ConnectionPhase.SASL
    assert server.machine.session_id == 7
    assert server.token() == b"hello"
    assert server.token() is None
    server.challenge(b"who")
    server.now += T * 0.45  # a ping would be due
    server.machine.tick(server.now)
    assert not server.machine.has_output()
    assert server.heard() == []
    assert server.token() == b"me"
    assert server.machine.state is State.SUSPENDED
    server.challenge(b"welcome")
    assert server.machine.phase is ConnectionPhase.UP
    assert server.token() is None
    auth, get = server.heard()
    assert (auth.opcode, get.opcode) == (messages.AUTH.opcode, messages.GET.opcode)
    server.answer(auth, zxid=0)
    server.answer(get, GET_REPLY)
    assert server.machine.state is State.CONNECTED
    assert read.result is not None


def test_a_ping_is_due_as_if_tokens_were_nothing() -> None:
    """T2, S1: tokens do not prolong the session on the server, so the ping after a slow exchange is due at once."""
    server = Authenticating()
    server.open()
    server.accept()
    assert server.token() == b"hello"
    server.challenge(b"who")
    server.now += T * 0.4
    assert server.token() == b"me"
    server.challenge(b"welcome")
    assert server.machine.deadline_moved
    assert server.machine.deadline() <= server.now
    server.machine.tick(server.now)
    assert [sent.opcode for sent in server.heard()] == [messages.PING.opcode]


def test_a_heartbeat_waits_for_the_exchange() -> None:
    """T2, S3: what is held gets its heartbeat when the exchange is over, not before; without one, the lease ends in
    the exchange as at any time, and the holder is told."""
    server = Authenticating()
    server.connect()
    server.authenticate()
    holder = Holder()
    server.machine.hold(holder, server.now)
    server.lose()
    server.now += 1
    server.open()
    server.accept()
    server.machine.tick(server.now)
    assert server.heard() == []
    server.authenticate()
    server.machine.tick(server.now)
    assert messages.MULTI.opcode in [sent.opcode for sent in server.heard()]
    server.lose()
    server.open()
    server.accept()
    assert server.machine.deadline() < float("inf")
    server.now = server.machine.deadline() + 0.01
    server.machine.tick(server.now)
    assert isinstance(holder.error, errors.LockLost)
    server.authenticate()
    assert server.machine.state is State.CONNECTED


def test_tokens_are_no_contact() -> None:
    """T2, S1: the session on the server lives as long as if no token had come."""
    server = Authenticating()
    server.open()
    server.accept()
    greeted = server.machine.last_contact
    server.now += 1
    assert server.token() == b"hello"
    server.challenge(b"who")
    assert server.machine.last_contact == greeted


def test_a_connection_lost_in_the_exchange() -> None:
    """T2, S4: the next connection resumes the session with its password, and begins the exchange anew; what waited
    still waits."""
    server = Authenticating()
    read = server.ask()
    server.open()
    server.accept()
    assert server.token() == b"hello"
    server.challenge(b"who")
    server.lose()
    assert server.token() is None
    assert not read.answered
    server.open()
    assert (server.connects[-1].session_id, server.connects[-1].password) == (7, b"p" * 16)
    server.accept()
    server.authenticate()
    assert [sent.opcode for sent in server.heard()] == [messages.GET.opcode]
    assert server.machine.history.sessions_opened == 1


def test_a_session_that_is_over() -> None:
    """T2, S4: a server that does not know the session is asked for no token."""
    server = Authenticating()
    server.connect()
    server.authenticate()
    server.lose()
    server.open()
    server.say_raw(messages.encode_connect_reply(0, 0, bytes(16)))
    assert server.machine.state is State.EXPIRED
    assert server.token() is None


def test_closing_in_the_exchange() -> None:
    """T2, S5: a client that is closed in the exchange sends the close behind it."""
    server = Authenticating()
    server.open()
    server.accept()
    answer = Answer()
    assert server.machine.close(server.now, answer)
    assert server.heard() == []
    server.authenticate()
    (close,) = server.heard()
    assert close.opcode == messages.CLOSE.opcode
    server.answer(close)
    assert answer.answered


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (None, AUTH_FAILED, "error code -115"),
        (None, AUTH_REQUIRED, "error code -124"),
        (None, 0, "no SASL"),
    ],
)
def test_a_refusal_is_final(step: int, text: bytes | None, code: int, reason: str) -> None:
    """T2: refused, or accepted without proof, the client ends with an error that names server and mechanism, at the
    first connect and at a later one; what it holds is lost."""
    server = Authenticating()
    holder = Holder()
    if step:
        server.connect()
        server.authenticate()
        server.machine.hold(holder, server.now)
        server.lose()
    read = server.ask()
    server.open()
    server.accept()
    if step:
        assert server.token() == b"hello"
        server.challenge(b"who")
    assert server.token() is not None
    server.challenge(text, code=code)
    assert server.machine.state is State.AUTH_FAILED
    assert server.machine.close_reason is not None
    assert isinstance(read.error, errors.AuthFailed)
    for part in ("zk1:2181", "SCRIPT", reason):
        assert part in str(read.error)
    assert isinstance(holder.error, errors.AuthFailed) == bool(step)
    assert isinstance(server.ask().error, errors.AuthFailed)


class Watcher:
    """A watcher that looks away."""

    def fire(self, event: object, path: str, zxid: int = -1) -> None:
        """Do nothing."""


def _event() -> bytes:
    return REPLY.pack(messages.NOTIFICATION_XID, -1, 0) + messages.WATCH_EVENT.encode(1, 3, "/a")


NONSENSE = {
    "another xid": REPLY.pack(1, 0, 0) + messages.SASL.reply.encode(b"who"),
    "a ping's answer": REPLY.pack(messages.PING_XID, 0, 0),
    "an event": _event(),
    "no header": b"\0" * 8,
    "a token that is cut off": REPLY.pack(0, 0, 0) + messages.SASL.reply.encode(b"who")[:-1],
    "no token": REPLY.pack(0, 0, 0),
    "an unknown code": REPLY.pack(0, 0, -77) + messages.SASL.reply.encode(None),
    "an unknown operation": REPLY.pack(0, 0, UNIMPLEMENTED),
    "an unusable challenge": REPLY.pack(0, 0, 0) + messages.SASL.reply.encode(b"what"),
}


@FEEDS
@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_the_connection(feed: Feed, body: bytes) -> None:
    """T2, S7: whatever is no answer to the token ends this connection, and nothing but it; the next server may
    accept us."""
    server = Authenticating(feed)
    read = server.ask()
    server.open()
    server.accept()
    assert server.token() == b"hello"
    server.say_raw(body)
    if feed is with_a_tail and server.machine.close_reason is None:
        server.challenge(b"who")
    assert server.machine.close_reason is not None
    assert server.machine.state is State.SUSPENDED
    assert server.token() is None
    assert server.heard() == []
    server.lose()
    assert not read.answered
    server.open()
    server.accept()
    if feed is whole:
        server.authenticate()
        assert server.machine.phase is ConnectionPhase.UP


def test_a_challenge_before_the_token() -> None:
    """T2, S7: a server that answers what was not sent yet makes no sense; nor does one that answers twice."""
    server = Authenticating()
    server.open()
    server.accept()
    server.challenge(b"who")
    assert "no answer to a SASL token" in str(server.machine.close_reason)
    server.lose()
    server.open()
    server.accept()
    assert server.token() == b"hello"
    server.challenge(b"who")
    server.challenge(b"who")
    assert "no answer to a SASL token" in str(server.machine.close_reason)


@pytest.mark.parametrize("what", ["read", "ping", "watches", "heartbeat"])
def test_a_server_that_requires_authentication(what: str) -> None:
    """T2: whatever a server answers with code -124, the client ends with an error that says what to do."""
    server = Server(whole)
    server.machine.prepare("zk1:2181")
    server.connect()
    answer = Answer()
    if what == "watches":
        server.machine.watches.add("/a", Watcher(), WatchKind.NODE)
        request = Request(
            messages.GET, messages.encode_get("/a", True), "/a", Answer(), watches=("/a", WatchKind.NODE)
        )
        server.machine.submit(request)
        (get,) = server.heard()
        server.answer(get, GET_REPLY)
        server.lose()
        server.connect()
    elif what == "heartbeat":
        server.machine.hold(Holder(), server.now)
        server.machine.tick(server.now)
    elif what == "ping":
        server.now += T * 0.4
        server.machine.tick(server.now)
    server.machine.submit(Request(messages.GET, messages.encode_get("/a", False), "/a", answer))
    sent = server.heard()[0]
    server.answer(sent, code=AUTH_REQUIRED, zxid=0)
    assert server.machine.state is State.AUTH_FAILED
    assert isinstance(answer.error, errors.AuthFailed)
    for part in ("zk1:2181", "-124", "sasl="):
        assert part in str(answer.error)
