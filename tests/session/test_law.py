"""The session's law (`corral.session.machine`), on a clock that the tests move and a server made of words."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from scripted import (
    CHECKED,
    DIGEST,
    GET_REPLY,
    SET_REPLY,
    STAT,
    Answer,
    Holder,
    Server,
    T,
    byte_by_byte,
    whole,
    with_a_tail,
)

from corral import errors
from corral.session.requests import MAX_BYTES_IN_FLIGHT, MAX_IN_FLIGHT
from corral.session.watches import CHUNK, Armed, Change
from corral.types import State
from corral.wire import messages

PING, MULTI, AUTH, SET_WATCHES = 11, 14, 100, 101
NO_NODE, MOVED, EXPIRED = -101, -118, -112


@pytest.fixture(params=[whole, byte_by_byte, with_a_tail])
def feed(request: pytest.FixtureRequest) -> Any:
    """How the server's bytes arrive. The machine must not see a difference."""
    return request.param


@pytest.fixture
def server(feed: Any) -> Server:
    """A server that has taken the session."""
    server = Server(feed)
    server.connect()
    return server


def test_answers_reach_whoever_asked(server: Server) -> None:
    """S2: answers go to their requests, in order, and errors say what was asked of which path."""
    first, second = server.get(), server.set()
    one, two = server.heard()
    server.answer(one, GET_REPLY)
    assert first.result == (b"data", STAT)
    assert not second.answered
    server.answer(two, code=-103)
    assert isinstance(second.error, errors.BadVersion)
    assert str(second.error).startswith("set '/a'")


def test_what_is_cancelled_before_it_is_sent_is_not_sent(server: Server) -> None:
    """S8: a request that is cancelled in the same loop turn never reaches the server."""
    cancelled, other = server.set(), server.get()
    cancelled.cancelled = True
    assert server.opcodes() == [messages.GET.opcode]
    assert not other.answered


def test_ping_after_a_third(server: Server) -> None:
    """S1: after T/3 in which nothing was sent there is a ping."""
    server.wait(T / 3 - 0.01)
    assert server.opcodes() == []
    server.wait(0.01)
    assert server.opcodes() == [PING]


def test_requests_put_the_ping_off(server: Server) -> None:
    """S1: a request is as good as a ping."""
    server.wait(T / 4)
    server.get()
    [sent] = server.heard()
    server.answer(sent, GET_REPLY)
    began = server.now
    server.wait(T)
    assert server.opcodes() == [PING]
    assert server.now == began + T / 3


@pytest.mark.parametrize("ask", ["ping", "request"])
def test_silence_drops_the_connection(server: Server, ask: str) -> None:
    """S1: what is unanswered for T/2, with nothing else heard, ends the connection."""
    if ask == "request":
        server.get()
    else:
        server.wait(T / 3)
    began = server.now
    assert server.opcodes() in ([PING], [messages.GET.opcode])
    while server.machine.condemned is None:
        server.wait(T)
        server.heard()
    assert server.now == began + T / 2


def test_heartbeats_while_holding(server: Server) -> None:
    """S3: while something is held there is a multi[check(node)] every T/6, whatever the other traffic."""
    server.machine.hold(Holder("/held"), server.now)
    sent_at = []
    for _ in range(40):
        server.wait(T / 24)
        server.get()
        for sent in server.heard():
            if sent.opcode == MULTI:
                sent_at.append(server.now)
                assert messages.decode_multi(sent.body, 0, len(sent.body)) == [
                    (messages.CHECK, ("/held", -1))
                ]
                server.answer(sent, CHECKED)
            else:
                server.answer(sent, GET_REPLY)
    assert len(sent_at) >= 9
    assert {round(b - a, 6) for a, b in itertools.pairwise(sent_at)} == {T / 6}


def test_unanswered_heartbeat_drops_the_connection(server: Server) -> None:
    """S3: a heartbeat unanswered for T/3 ends the connection, though reads are answered: that is what a
    follower cut off from its leader does."""
    server.machine.hold(Holder(), server.now)
    beat_at = None
    while server.machine.condemned is None:
        server.wait(T / 24)
        server.get()
        for sent in server.heard():
            if sent.opcode == MULTI:
                beat_at = beat_at or server.now
            # A real server answers in order; a cut-off one answers reads that came before the heartbeat only,
            # so nothing more is answered here once there is one.
            elif beat_at is None:
                server.answer(sent, GET_REPLY)
    assert beat_at is not None
    assert server.now == beat_at + T / 3


def test_lease_lapses_exactly(server: Server) -> None:
    """S3: with nothing answered any more the lease ends T after the connect request, less the lateness."""
    holder = Holder()
    connected = server.now
    server.machine.hold(holder, server.now)
    server.lose()
    while holder.error is None:
        server.wait(T)
    assert server.now == holder.ended == pytest.approx(connected + T - T / 100)
    assert isinstance(holder.error, errors.LockLost)
    assert server.states == [State.CONNECTED, State.SUSPENDED, State.LAPSED]
    assert server.machine.session_id == 7  # the session may well be alive


def test_expiry_by_our_own_clock(server: Server) -> None:
    """S3: after T and a margin without contact the session is over for us, and the next is a new one."""
    server.lose()
    began = server.now
    while server.machine.state is not State.EXPIRED:
        server.wait(T)
    assert server.now == pytest.approx(began + T * 3 / 2)
    server.connect(session_id=8)
    assert server.connects[-1].session_id == 0
    assert server.machine.session_id == 8
    assert server.machine.state is State.CONNECTED


def test_expiry_that_the_server_tells(server: Server) -> None:
    """S3: a connect answer without a timeout means that the session is over."""
    holder = Holder()
    server.machine.hold(holder, server.now)
    server.lose()
    server.open()
    assert server.connects[-1].session_id == 7
    server.accept(session_id=0, timeout=0)
    assert isinstance(holder.error, errors.SessionExpired)
    assert server.machine.condemned is not None
    assert server.states[-1] is State.EXPIRED


def test_a_lapse_comes_before_the_answers_with_it(feed: Any) -> None:
    """S9: a lease that has lapsed is declared before any answer that came with it is given out."""
    log: list[str] = []
    server = Server(feed)
    server.connect()
    server.machine.hold(Holder(log=log), server.now)
    server.get(log=log)
    [sent] = server.heard()
    server.now += T  # a blocked loop: no timer ran, and the answer lay in the socket all along
    server.answer(sent, GET_REPLY)
    assert log == ["lost", "answer"]
    assert server.states[-2:] == [State.LAPSED, State.CONNECTED]


def test_is_held_goes_by_the_clock(server: Server) -> None:
    """S9: whether something is held is computed, not remembered."""
    holder = Holder()
    server.machine.hold(holder, server.now)
    assert server.machine.is_held(holder, server.now)
    assert not server.machine.is_held(holder, server.now + T)
    assert holder.error is None  # nobody has noticed yet


def test_a_deleted_node_loses_its_hold_alone(server: Server) -> None:
    """S3: NoNode in a heartbeat means that somebody deleted that node; what else is held stays."""
    gone, kept = Holder("/gone"), Holder("/kept")
    server.machine.hold(gone, server.now)
    server.machine.hold(kept, server.now)
    server.wait(T)
    [beat] = server.heard()
    server.answer(beat, messages.encode_multi_reply([(-1, NO_NODE, b""), (-1, -2, b"")]))
    assert isinstance(gone.error, errors.LockLost)
    assert kept.error is None
    server.wait(0)  # the server checked no further than the first: ask again at once
    [beat] = server.heard()
    assert messages.decode_multi(beat.body, 0, len(beat.body)) == [(messages.CHECK, ("/kept", -1))]


def test_many_holds_take_turns(server: Server) -> None:
    """S3: with more holds than one heartbeat checks, each is checked in its turn."""
    for number in range(250):
        server.machine.hold(Holder(f"/n{number}"), server.now)
    seen: list[str] = []
    for _ in range(3):
        server.wait(T)
        [beat] = [sent for sent in server.heard() if sent.opcode == MULTI]
        checks = messages.decode_multi(beat.body, 0, len(beat.body))
        seen += [fields[0] for _, fields in checks]
        server.answer(beat, messages.encode_multi_reply([(13, 0, b"")] * len(checks)))
    assert len(seen) == 300
    assert set(seen) == {f"/n{number}" for number in range(250)}


def test_ping_lease(feed: Any) -> None:
    """S3: with lease="ping" a ping every T/6 is the heartbeat, and its answer moves the lease."""
    server = Server(feed, lease_by_ping=True)
    server.connect()
    holder = Holder()
    server.machine.hold(holder, server.now)
    for _ in range(20):
        began = server.now
        server.wait(T)
        [ping] = server.heard()
        assert ping.opcode == PING
        assert server.now == pytest.approx(began + T / 6)
        server.answer(ping)
    assert holder.error is None


def test_reads_are_sent_again_and_writes_are_not(server: Server) -> None:
    """S2: when the connection breaks reads are sent again, once, before what waited; a write's outcome is
    unknown and it is not."""
    read, write, later = server.get("/read"), server.set(), server.get("/later")
    later.cancelled = False
    server.heard()
    waiting = server.ask(messages.EXISTS, messages.encode_exists("/waiting", False))
    server.lose()
    assert isinstance(write.error, errors.ConnectionLoss)
    assert not read.answered
    server.connect()
    assert [sent.opcode for sent in server.heard()] == [4, 4, 3]
    server.lose()
    assert isinstance(read.error, errors.ConnectionLoss)
    assert isinstance(later.error, errors.ConnectionLoss)
    assert not waiting.answered  # it has died only once on this one


def test_unsent_requests_carry_over_to_a_new_session(server: Server) -> None:
    """S2: at expiry what is unsent goes to the new session, but for what means nothing there."""
    server.lose()
    kept, bound = server.set(), server.set(bound_to=7)
    server.open()
    server.accept(session_id=0, timeout=0)
    assert isinstance(bound.error, errors.SessionExpired)
    assert isinstance(server.set(bound_to=7).error, errors.SessionExpired)
    server.lose()
    server.connect(session_id=8)
    [sent] = server.heard()
    server.answer(sent, SET_REPLY)
    assert kept.result == STAT


def test_session_moved_was_certainly_not_applied(server: Server) -> None:
    """S2: a write that was refused because the session had moved is sent again, in its place."""
    first, moved, read = server.get(), server.set(), server.get()
    one, two, _ = server.heard()
    server.answer(one, GET_REPLY)
    server.answer(two, code=MOVED)
    assert server.machine.condemned is not None
    assert not moved.answered
    server.lose()
    server.connect()
    again = server.heard()
    assert [sent.opcode for sent in again] == [5, 4]
    server.answer(again[0], SET_REPLY)
    server.answer(again[1], GET_REPLY)
    assert first.answered
    assert moved.result == STAT
    assert read.result == (b"data", STAT)


def test_expired_inside_a_transaction(server: Server) -> None:
    """S2: a transaction refused because the session is over says so in its results; that ends the session."""
    answer = server.ask(messages.MULTI, messages.encode_multi([]), bound_to=7)
    [sent] = server.heard()
    server.answer(sent, messages.encode_multi_reply([(-1, EXPIRED, b"")]))
    assert isinstance(answer.error, errors.SessionExpired)
    assert server.machine.state is State.EXPIRED


def test_order_after_a_reconnect(feed: Any) -> None:
    """S4: credentials, then watches with the zxid of when the connection was lost, then what waits."""
    server = Server(feed, credentials=[DIGEST])
    server.connect()
    assert server.opcodes() == [AUTH]
    server.machine.watches.add("/w", Watcher())
    server.machine.watches.armed("/w", Armed.DATA)
    server.machine.watches.add("/x", Watcher())
    server.machine.watches.armed("/x", Armed.EXIST)
    server.get()
    [sent] = server.heard()
    server.answer(sent, GET_REPLY, zxid=77)
    server.lose()
    server.set()
    server.connect()
    auth, watches, write = server.heard()
    assert [auth.opcode, watches.opcode, write.opcode] == [AUTH, SET_WATCHES, 5]
    assert messages.SET_WATCHES.request.decode(watches.body, 0, len(watches.body)) == (
        77,
        ["/w"],
        ["/x"],
        [],
    )
    assert server.connects[-1].last_zxid == 77


def test_many_watches_are_set_again_in_chunks(server: Server) -> None:
    """S4: no message that sets watches is near the frame limit, and all have the same zxid."""
    paths = [f"/{'p' * 90}{number:06d}" for number in range(5000)]
    for path in paths:
        server.machine.watches.add(path, Watcher())
        server.machine.watches.armed(path, Armed.DATA)
    server.lose()
    server.connect()
    frames = server.heard()
    decoded = [messages.SET_WATCHES.request.decode(sent.body, 0, len(sent.body)) for sent in frames]
    assert len(frames) > 1
    assert max(len(sent.body) for sent in frames) < CHUNK + 1000
    assert {zxid for zxid, *_ in decoded} == {0}
    assert [path for _, data, _, _ in decoded for path in data] == paths


class Watcher:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[Change] = []

    def fire(self, change: Change, path: str, zxid: int, /) -> None:
        self.seen.append(change)


def test_events_fire_their_watchers(server: Server) -> None:
    """S4, W7: an event uses up the server's watch and reaches all who watch the path, and nobody else."""
    one, two, other = Watcher(), Watcher(), Watcher()
    for path, watcher in (("/w", one), ("/w", two), ("/o", other)):
        server.machine.watches.add(path, watcher)
        server.machine.watches.armed(path, Armed.DATA)
    server.notify(3, "/w")
    assert one.seen == two.seen == [Change.DATA_CHANGED]
    assert other.seen == []
    assert not server.machine.watches.is_armed("/w")
    server.machine.watches.remove("/w", one)  # another still wants it
    assert server.opcodes() == []
    server.machine.watches.remove("/o", other)
    assert server.opcodes() == [messages.REMOVE_WATCHES.opcode]


def test_a_new_session_has_no_watches(server: Server) -> None:
    """W3: with the session its watches are gone: everybody is told to look again."""
    watcher = Watcher()
    server.machine.watches.add("/w", watcher)
    server.machine.watches.armed("/w", Armed.DATA)
    server.lose()
    server.open()
    server.accept(session_id=0, timeout=0)
    assert watcher.seen == [Change.UNKNOWN]
    server.lose()
    server.connect(session_id=8)
    assert server.opcodes() == []


def test_the_zxid_outlives_the_session(server: Server) -> None:
    """S4: a new session too refuses to go back in time."""
    server.get()
    [sent] = server.heard()
    server.answer(sent, GET_REPLY, zxid=99)
    server.lose()
    server.open()
    server.accept(session_id=0, timeout=0)
    server.lose()
    server.open()
    assert server.connects[-1].session_id == 0
    assert server.connects[-1].last_zxid == 99


def test_credentials_refused(feed: Any) -> None:
    """S6: refused credentials end the client, and everybody who waits is told why."""
    server = Server(feed, credentials=[DIGEST])
    server.connect()
    server.heard()
    waiting = server.get()
    server.say_raw(messages.REPLY_HEADER.pack(messages.AUTH_XID, 0, -115))
    assert server.machine.state is State.AUTH_FAILED
    assert isinstance(waiting.error, errors.AuthFailed)
    assert isinstance(server.get().error, errors.AuthFailed)


def test_a_reply_over_the_limit_fails_its_own_request(feed: Any) -> None:
    """S7: an answer that is too large is thrown away as it comes, and the connection goes on."""
    server = Server(feed, max_reply=1024)
    server.connect()
    large, small = server.get(), server.get()
    one, two = server.heard()
    server.answer(one, messages.GET.reply.encode(b"x" * 100_000, STAT))
    server.answer(two, GET_REPLY)
    assert isinstance(large.error, errors.ReplyError)
    assert "1,024" in str(large.error)
    assert small.result == (b"data", STAT)
    assert server.machine.condemned is None


def test_a_reply_that_does_not_decode_fails_its_own_request(server: Server) -> None:
    """S7: an answer of the wrong shape fails its own request, which is not sent again."""
    bad, good = server.get(), server.get()
    one, two = server.heard()
    server.answer(one, b"\x00\x00\x00\x09nonsense")
    server.answer(two, GET_REPLY)
    assert isinstance(bad.error, errors.ReplyError)
    assert good.result == (b"data", STAT)


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(struct.pack(">i", -5), id="negative length"),
        pytest.param(struct.pack(">i", 3) + b"abc", id="short reply"),
        pytest.param(struct.pack(">iiqi", 16, 4711, 1, 0), id="answer to nothing"),
        pytest.param(struct.pack(">iiqi", 16, -77, 1, 0), id="unknown xid"),
        pytest.param(struct.pack(">iiqi", 16, -1, 1, 0), id="empty event"),
        pytest.param(struct.pack(">iiqi", 0x7FFFFFFF, 4711, 1, 0), id="huge answer to nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
    ],
)
def test_nonsense_ends_the_connection(server: Server, nonsense: bytes) -> None:
    """S7: a stream that makes no sense ends the connection, and what was asked on it is not lost."""
    read = server.get()
    server.heard()
    server.say_bytes(nonsense)
    assert server.machine.condemned is not None
    server.lose()
    assert not read.answered
    server.connect()
    assert server.opcodes() == [4]


@pytest.mark.parametrize("nonsense", [b"\xff" * 8, struct.pack(">i", 2) + b"ab", b"SSH-2.0-OpenSSH\r\n"])
def test_nonsense_in_the_handshake(nonsense: bytes) -> None:
    """S7: whatever answers the connect request, the machine does not hang on it or break."""
    server = Server(whole)
    server.open()
    server.say_bytes(nonsense)
    assert server.machine.condemned is not None or server.machine.state is State.SUSPENDED
    server.lose()
    assert server.machine.state is State.SUSPENDED


def test_ten_thousand_do_not_hold_up_the_heartbeat(server: Server) -> None:
    """Fairness: a heartbeat goes out before all that waits, and what is in flight is bounded."""
    server.machine.hold(Holder(), server.now)
    for _ in range(10_000):
        server.get()
    assert len(server.heard()) == MAX_IN_FLIGHT
    assert server.heard() == []
    began = server.now
    server.wait(T)
    assert server.now == began + T / 6
    assert [sent.opcode for sent in server.heard()] == [MULTI]


def test_large_writes_are_bounded_in_flight(server: Server) -> None:
    """Fairness: what is in flight is bounded in bytes, too, with at least one request under way."""
    for _ in range(20):
        server.ask(messages.SET, messages.encode_set("/a", bytes(1_000_000), -1))
    sent = sum(len(each.body) for each in server.heard())
    assert MAX_BYTES_IN_FLIGHT <= sent < MAX_BYTES_IN_FLIGHT + 1_100_000


def test_a_full_socket_holds_back_requests_only(server: Server) -> None:
    """Fairness: while the socket takes no more, heartbeats are still written."""
    server.machine.hold(Holder(), server.now)
    server.wait(T)
    server.get()
    assert [sent.opcode for sent in server.heard(urgent_only=True)] == [MULTI]
    assert server.opcodes() == [4]


def test_closing(server: Server) -> None:
    """S5: closing rejects what waits, loses what is held, and tells the server last."""
    holder, under_way, farewell = Holder(), server.get(), Answer()
    server.machine.hold(holder, server.now)
    [sent] = server.heard()
    waiting = server.get()
    assert server.machine.close(server.now, farewell)
    assert isinstance(waiting.error, errors.ClientClosed)
    assert isinstance(holder.error, errors.ClientClosed)
    assert isinstance(server.get().error, errors.ClientClosed)
    [close] = server.heard()
    assert close.opcode == messages.CLOSE.opcode
    server.answer(sent, GET_REPLY)
    server.answer(close)
    assert under_way.result == (b"data", STAT)
    assert farewell.answered
    server.machine.end(server.now)
    assert server.machine.state is State.CLOSED


def test_the_end_reaches_everybody(server: Server) -> None:
    """S5: nobody waits beyond the end, and a crash is passed on as its cause."""
    under_way, watcher, holder = server.get(), Watcher(), Holder()
    server.heard()
    waiting = server.set()
    server.machine.watches.add("/w", watcher)
    server.machine.hold(holder, server.now)
    crash = RuntimeError("broken")
    server.machine.end(server.now, crash)
    for answer in (under_way, waiting):
        assert isinstance(answer.error, errors.ClientClosed)
        assert answer.error.__cause__ is crash
    assert holder.error is not None
    assert watcher.seen == [Change.UNKNOWN]


def test_a_server_may_grant_another_timeout() -> None:
    """S1: all times follow what the server granted, not what was asked for."""
    server = Server(whole)
    server.open()
    server.accept(timeout=2 * T)
    began = server.now
    server.wait(2 * T)
    assert server.now == began + 2 * T / 3
    assert server.connects[0].timeout == T
