"""Requests across lost connections, refusals, the end of a session, and closing."""

from __future__ import annotations

import struct

import pytest
from driven import SESSION, START, WRITTEN, Driven, fields, got, path_of, well
from registry import is_armed
from scripted import DIGEST, GET_REPLY, Answer, Feed, T, stat_of, whole

from corral import errors
from corral.session.requests import FIRST_FLIGHT, MAX_IN_FLIGHT, Request
from corral.session.states import ConnectionPhase
from corral.session.watch_registry import WatchState
from corral.session.watchers import WatchEvent, WatchKind
from corral.types import State
from corral.wire import messages

MOVED, EXPIRED, NO_NODE = -118, -112, -101


class Watcher:
    """A watcher of a path."""

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        """Not notified in these tests."""


def refused_in_results(code: int) -> bytes:
    """The results of a transaction that was refused because of its session."""
    return messages.encode_multi_reply([(-1, code, b"")])


def test_answers_reach_whoever_asked(driven: Driven) -> None:
    """S2: answers reach their requests, in order; errors name the operation and the path."""
    first, second = driven.read("/a"), driven.write("/a")
    one, two = driven.heard()
    driven.reply(one)
    assert first.result == got(b"/a")
    assert not second.answered
    driven.answer(two, code=errors.BadVersion.code)
    assert isinstance(second.error, errors.BadVersion)
    assert str(second.error).startswith("set '/a'")


# Across a lost connection


def test_the_order_over_a_lost_connection(driven: Driven) -> None:
    """S2, S4: on the next connection the reads that were in flight are sent first, in order, then the
    requests that waited, in order. No request overtakes an earlier one."""
    for path in ("/r1", "/r2"):
        driven.read(path)
    lost = driven.write("/w1")
    driven.read("/r3")
    assert driven.paths() == ["/r1", "/r2", "/w1", "/r3"]
    driven.write("/w2")
    driven.read("/r4")
    driven.lose()
    driven.read("/r5")
    assert isinstance(lost.error, errors.ConnectionLoss)
    driven.connect()
    assert driven.served() == ["/r1", "/r2", "/r3", "/w2", "/r4", "/r5"]


def test_a_write_is_never_sent_again(driven: Driven) -> None:
    """S2: a write that is in flight when the connection breaks fails with ConnectionLoss, which names the
    operation, the path and the cause. It is not sent on any later connection."""
    write = driven.write("/w")
    assert driven.paths() == ["/w"]
    driven.lose()
    assert isinstance(write.error, errors.ConnectionLoss)
    assert (write.error.operation, write.error.path) == ("set", "/w")
    assert "a test broke it" in str(write.error)
    for _ in range(3):
        driven.connect()
        assert driven.paths() == []
        driven.lose()


def test_a_read_is_sent_twice_at_most(driven: Driven) -> None:
    """S2: a read fails with ConnectionLoss when a second connection breaks on it. Only that read fails, and
    connections that break without it do not count."""
    read = driven.read("/r")
    assert driven.paths() == ["/r"]
    driven.lose()
    driven.connect()  # the connection is lost before the read is sent again
    driven.lose()
    driven.connect()
    driven.read("/other")
    assert driven.paths() == ["/r"]
    driven.lose()
    assert isinstance(read.error, errors.ConnectionLoss)
    assert read.error.losses == 2
    driven.connect()
    assert driven.paths() == ["/other"]


@pytest.mark.parametrize("sent", [False, True])
def test_whoever_waits_no_more_is_not_sent_for(sent: bool, feed: Feed) -> None:
    """S8: a request whose waiter was cancelled before it was sent, or while the connection was down, is not
    sent (again); the requests around it keep their order."""
    driven = Driven(feed)
    driven.connect()
    driven.read("/a")
    cancelled = driven.read("/b")
    driven.read("/c")
    if sent:
        assert driven.paths() == ["/a", "/b", "/c"]
        driven.lose()
    cancelled.cancelled = True
    if sent:
        driven.connect()
    assert driven.paths() == ["/a", "/c"]
    assert not cancelled.answered


def test_an_answer_that_nobody_waits_for_is_consumed(driven: Driven) -> None:
    """S8: the answer to a request that was cancelled while in flight does not affect other requests."""
    cancelled, other = driven.read("/a"), driven.read("/b")
    one, two = driven.heard()
    cancelled.cancelled = True
    driven.reply(one, two)
    assert other.result == got(b"/b")
    assert not cancelled.answered


# Refused because of the session


@pytest.mark.parametrize("inside", ["header", "results"])
def test_what_moved_is_sent_again_once(inside: str, feed: Feed) -> None:
    """S2: SessionMoved, in the header or in a transaction's results, means that the write was certainly not
    applied. It is sent again, in its place, on the next connection. If it is refused a second time, it fails
    with SessionMoved."""
    driven = Driven(feed)
    driven.connect()

    def refuse(*expected: messages.Operation) -> None:
        sent = driven.heard()
        assert [each.opcode for each in sent] == [op.opcode for op in expected]
        if inside == "header":
            driven.answer(sent[0], code=MOVED)
        else:
            driven.answer(sent[0], refused_in_results(MOVED))
        assert driven.machine.close_reason is not None
        driven.lose()
        driven.connect()

    write = driven.submit(messages.MULTI, "/w")
    driven.read("/r")
    refuse(messages.MULTI, messages.GET)
    assert not write.answered
    refuse(messages.MULTI)  # the connection broke on the read, which waits behind it
    assert isinstance(write.error, errors.SessionMoved)


def test_what_moved_keeps_its_place(driven: Driven) -> None:
    """S2: a request refused with SessionMoved is sent again before those that were sent after it, and is then
    answered."""
    first, moved, read = driven.read("/first"), driven.write("/w"), driven.read("/read")
    one, two, _ = driven.heard()
    driven.reply(one)
    driven.answer(two, code=MOVED)
    driven.lose()
    driven.connect()
    assert driven.served() == ["/w", "/read"]
    assert first.result == got(b"/first")
    assert moved.result == stat_of(WRITTEN)
    assert read.result == got(b"/read")


def test_a_moved_write_whose_connection_breaks_then_is_unknown(driven: Driven) -> None:
    """S2: a write that was refused once and sent again is a normal write: if the connection is lost, its
    outcome is unknown."""
    write = driven.write("/w")
    [sent] = driven.heard()
    driven.answer(sent, code=MOVED)
    driven.lose()
    driven.connect()
    assert driven.paths() == ["/w"]
    driven.lose()
    assert isinstance(write.error, errors.ConnectionLoss)


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("inside", ["header", "results"])
def test_session_expired_ends_the_connection(bound: bool, inside: str, feed: Feed) -> None:
    """S2, S3: a write that is answered with "session expired" ends the session and its connection. It was
    certainly not applied: if it is bound to the session it fails with SessionExpired, otherwise it is sent in
    the next session."""
    driven = Driven(feed)
    driven.connect()
    holder = driven.hold()
    write = driven.submit(messages.MULTI, "/w", bound_to=SESSION if bound else 0)
    waiting = driven.write("/waiting", bound_to=SESSION)
    [sent, _] = driven.heard()
    if inside == "header":
        driven.answer(sent, code=EXPIRED)
    else:
        driven.answer(sent, refused_in_results(EXPIRED))
    assert driven.machine.close_reason is not None
    assert driven.machine.state is State.EXPIRED
    assert driven.machine.session_id == 0
    assert isinstance(holder.error, errors.SessionExpired)
    driven.lose()
    assert isinstance(waiting.error, errors.ConnectionLoss)  # it was in flight
    driven.connect(session_id=8)
    again = driven.heard()
    if bound:
        assert isinstance(write.error, errors.SessionExpired)
        assert again == []
    else:
        driven.say_raw(well(again[0]) or b"")
        assert [each.error for each in write.result] == [0]


def test_expired_twice(driven: Driven) -> None:
    """S2: a request on which two sessions in a row ended fails like any request of a session that is over."""
    write = driven.write("/w")
    for session in (8, 9):
        [sent] = driven.heard()
        driven.answer(sent, code=EXPIRED)
        driven.lose()
        driven.connect(session_id=session)
    assert isinstance(write.error, errors.SessionExpired)


def test_a_refused_heartbeat_is_not_sent_again(driven: Driven) -> None:
    """S3: a heartbeat is not repeated: if one is refused with SessionMoved, the next connection sends only
    its own."""
    driven.hold("/held")
    driven.go(START + T / 6 - 0.1)
    driven.now = START + T / 6
    driven.fire_timer()
    beat, _ = driven.heard()
    driven.answer(beat, code=MOVED)
    driven.lose()
    driven.connect()
    seen = driven.go(driven.now, well)
    assert [sent.opcode for _, sent in seen] == [messages.GET.opcode, messages.MULTI.opcode]


def test_what_the_session_had_to_say_is_not_said_late(driven: Driven) -> None:
    """S4: heartbeats and credentials that were due when the connection broke, and had not been written, are
    not sent on the next connection, which has its own."""
    driven.hold("/held")
    driven.go(START + T / 6 - 0.1)
    driven.now = START + T / 6
    driven.fire_timer()
    driven.machine.add_credentials(DIGEST)
    driven.lose()
    driven.connect()
    seen = [sent.opcode for _, sent in driven.go(driven.now, well)]
    assert seen == [messages.AUTH.opcode, messages.GET.opcode, messages.MULTI.opcode]
    assert driven.machine.close_reason is None


def test_the_order_on_a_new_connection(feed: Feed) -> None:
    """S4: the credentials are sent first, then the watches, with the zxid at which the connection was lost,
    then the waiting requests."""
    driven = Driven(feed, credentials=[DIGEST])
    driven.connect()
    assert [sent.opcode for sent in driven.heard()] == [messages.AUTH.opcode]
    for path, armed in (("/w", WatchState.DATA), ("/x", WatchState.EXIST)):
        driven.machine.watches.add(path, Watcher())
        driven.machine.watches.mark_set(path, armed)
    for _ in range(2):
        driven.read()
        [sent] = driven.heard()
        driven.answer(sent, GET_REPLY, zxid=77)
    driven.lose()
    driven.write()
    driven.connect()
    auth, watches, write = driven.heard()
    opcodes = [messages.AUTH.opcode, messages.SET_WATCHES.opcode, messages.SET.opcode]
    assert [auth.opcode, watches.opcode, write.opcode] == opcodes
    assert fields(watches) == (77, ["/w"], ["/x"], [])
    assert driven.connects[-1].last_zxid == 77


# The end of a session


@pytest.mark.parametrize("how", ["refused", "clock"])
def test_unsent_requests_carry_over(how: str, feed: Feed) -> None:
    """S2: whether the server or our clock ended the session, unsent requests are sent in the next one, in
    order. Those that are bound to the old session fail with SessionExpired."""
    driven = Driven(feed)
    driven.connect()
    holder = driven.hold()
    driven.lose()
    driven.write("/a")
    bound = driven.write("/b", bound_to=SESSION)
    driven.read("/c")
    if how == "refused":
        driven.open()
        driven.accept(session_id=0, timeout=0)
        assert driven.machine.close_reason is not None
        driven.lose()
        assert isinstance(holder.error, errors.SessionExpired)
    else:
        driven.go(START + 2 * T)
        assert isinstance(holder.error, errors.LockLost)  # its lease had ended before
    assert isinstance(bound.error, errors.SessionExpired)
    assert isinstance(driven.write("/late", bound_to=SESSION).error, errors.SessionExpired)
    driven.connect(session_id=8)
    assert driven.paths() == ["/a", "/c"]
    lapsed = [State.LAPSED] if how == "clock" else []
    assert driven.states == [State.CONNECTED, State.SUSPENDED, *lapsed, State.EXPIRED, State.CONNECTED]


def test_a_bound_read_is_not_sent_in_another_session(driven: Driven) -> None:
    """S2: a read that only makes sense in its session is not sent again in the next one, however the session
    ended."""
    driven.write("/w", bound_to=SESSION)
    read = driven.read("/r", bound_to=SESSION)
    write, _ = driven.heard()
    driven.answer(write, code=EXPIRED)
    driven.lose()
    assert isinstance(read.error, errors.SessionExpired)
    driven.connect(session_id=8)
    assert driven.paths() == []


def test_another_session_than_ours(driven: Driven) -> None:
    """S7: a server that answers with another session than the one to be resumed makes no sense. That ends its
    connection and proves nothing about our session, which the next server resumes."""
    holder = driven.hold()
    driven.lose()
    bound = driven.write("/bound", bound_to=SESSION)
    driven.open()
    driven.accept(session_id=99)
    assert "0x63" in (driven.machine.close_reason or "")
    driven.lose()
    assert (bound.error, holder.error) == (None, None)
    assert driven.states == [State.CONNECTED, State.SUSPENDED]
    driven.connect()
    assert driven.connects[-1].session_id == SESSION
    assert driven.paths() == ["/bound"]


def test_no_session_is_had_from_a_server_that_gives_none(driven: Driven) -> None:
    """S7: a new session without an id, or without a timeout, is invalid."""
    for session_id, timeout in ((0, T), (9, 0.0), (9, -1.0)):
        fresh = Driven(whole)
        fresh.open()
        fresh.accept(session_id, timeout)
        assert fresh.machine.close_reason is not None
        assert fresh.machine.phase is not ConnectionPhase.UP
        assert fresh.states == []


# Answers that cannot be used


@pytest.mark.parametrize("bad", ["too large", "does not decode"])
@pytest.mark.parametrize("operation", [messages.GET, messages.SET], ids=lambda op: op.name)
def test_an_answer_that_cannot_be_used(bad: str, operation: messages.Operation, feed: Feed) -> None:
    """S7: an answer that is too large or cannot be decoded fails its own request. The error names the
    request, and the limit if it was exceeded. The request is not sent again, and those around it are
    answered."""
    driven = Driven(feed, max_reply=1024)
    driven.connect()
    before, hit, after = driven.read("/before"), driven.submit(operation, "/hit"), driven.read("/after")
    one, two, three = driven.heard()
    driven.reply(one)
    driven.answer(two, bytes(5000) if bad == "too large" else b"\x00\x00\x00\x09short")
    driven.reply(three)
    assert before.result == got(b"/before")
    assert after.result == got(b"/after")
    assert isinstance(hit.error, errors.ReplyError)
    assert f"{operation.name} '/hit'" in str(hit.error)
    if bad == "too large":
        assert "5,016" in str(hit.error)
        assert "1,024" in str(hit.error)
        assert "max_reply" in str(hit.error)
    assert driven.machine.close_reason is None
    driven.lose()
    driven.connect()
    assert driven.paths() == []


def test_an_answer_of_exactly_the_limit_is_taken(feed: Feed) -> None:
    """S7: the limit is the largest frame that is accepted."""
    driven = Driven(feed, max_reply=1024)
    driven.connect()
    read = driven.read()
    [sent] = driven.heard()
    overhead = messages.REPLY_HEADER.size + len(messages.GET.reply.encode(*got(b"")))
    most = got(bytes(1024 - overhead))
    driven.answer(sent, messages.GET.reply.encode(*most))
    assert read.result == most


def watching(driven: Driven, path: str) -> Answer:
    """A watcher registers for a node, and reads it with a watch."""
    driven.machine.watches.add(path, Watcher())
    return driven.read(path, watches=(path, WatchKind.NODE))


def test_an_unusable_answer_notes_its_watch_all_the_same(feed: Feed) -> None:
    """S7, W5: when the answer to a read with a watch is too large, the server has set the watch: the registry
    knows that."""
    driven = Driven(feed, max_reply=1024)
    driven.connect()
    watching(driven, "/a")
    [sent] = driven.heard()
    driven.answer(sent, bytes(5000))
    assert is_armed(driven.machine.watches, "/a")


def test_an_unknown_operation_is_refused_out_of_turn(driven: Driven) -> None:
    """S7: a server answers an operation that it does not know out of turn, and hangs up. That request fails
    with the server's error, and those before it are sent again."""
    before, unknown = driven.read("/a"), Answer()
    driven.machine.submit(Request(messages.ADD_WATCH, messages.encode_add_watch("/a", 1), "/a", unknown))
    sent, refused = driven.heard()
    driven.answer(refused, code=errors.Unimplemented.code)
    assert isinstance(unknown.error, errors.Unimplemented)
    assert driven.machine.close_reason is not None
    driven.lose()
    driven.connect()
    [again] = driven.heard()
    assert path_of(again) == path_of(sent)
    driven.answer(again, GET_REPLY)
    assert before.error is None


def test_a_watch_is_noted_before_the_answer_is_told(driven: Driven) -> None:
    """W5: when a waiter gets its answer, the registry already knows of the watch. It does so, too, if nobody
    waits for the answer any more."""

    class Curious(Answer):
        def set_result(self, result: object) -> None:
            super().set_result(is_armed(driven.machine.watches, "/a"))

    driven.machine.watches.add("/a", Watcher())
    curious = Curious()
    body, watches = messages.encode_get("/a", True), ("/a", WatchKind.NODE)
    driven.machine.submit(Request(messages.GET, body, "/a", curious, watches=watches))
    cancelled = watching(driven, "/b")
    one, two = driven.heard()
    cancelled.cancelled = True
    driven.answer(one, GET_REPLY)
    driven.answer(two, GET_REPLY)
    assert curious.result is True
    assert is_armed(driven.machine.watches, "/b")


def test_a_watch_that_nobody_wants_any_more_is_removed(driven: Driven) -> None:
    """W5: if the watcher has left while the read that sets its watch was in flight, the watch is removed."""
    watcher = Watcher()
    driven.machine.watches.add("/a", watcher)
    driven.read("/a", watches=("/a", WatchKind.NODE))
    [sent] = driven.heard()
    driven.machine.watches.remove("/a", watcher)
    assert driven.heard() == []  # as far as we know the server has none
    driven.answer(sent, GET_REPLY)
    [removal] = driven.heard()
    assert (removal.opcode, path_of(removal)) == (messages.REMOVE_WATCHES.opcode, "/a")


def test_the_answer_to_a_write_that_nobody_waits_for_is_kept(driven: Driven) -> None:
    """L3: a task learns of its cancellation one loop turn after its future is cancelled. The outcome of the
    request, an answer or the loss of the connection, that came in between is still available."""
    answers = [driven.write(f"/{number}") for number in range(2)]
    requests = list(driven.machine.requests.waiting)
    sent = driven.heard()
    for answer in answers:
        answer.cancelled = True
    driven.reply(sent[0])
    driven.lose()
    assert not any(answer.answered for answer in answers)
    assert requests[0].unclaimed == (stat_of(WRITTEN), None)
    assert requests[1].unclaimed is not None
    assert isinstance(requests[1].unclaimed[1], errors.ConnectionLoss)


def test_after_nonsense_nothing_is_said_or_believed(driven: Driven) -> None:
    """S7: once the stream has become invalid, nothing more is sent on it, and further bytes are ignored."""
    read = driven.read()
    [sent] = driven.heard()
    driven.say_bytes(b"\xff\xff\xff\xff")
    assert driven.machine.close_reason is not None
    driven.write()
    assert driven.heard() == []
    driven.reply(sent)
    assert not read.answered


def test_nonsense_says_nothing_of_what_was_answered(driven: Driven) -> None:
    """S2, S7: an invalid frame after an answer does not affect that answer's request: neither one whose
    waiter is gone and whose answer is kept, nor one that was refused and is to be sent again."""
    cancelled, moved = driven.write("/cancelled"), driven.write("/moved")
    request = driven.machine.requests.waiting[0]
    one, two = driven.heard()
    cancelled.cancelled = True
    driven.reply(one)
    driven.say_bytes(b"\xff\xff\xff\xff")
    assert request.unclaimed == (stat_of(WRITTEN), None)
    driven.lose()
    assert isinstance(moved.error, errors.ConnectionLoss)
    driven.connect()
    moved = driven.write("/moved")
    [two] = driven.heard()
    driven.answer(two, code=MOVED)
    driven.lose()
    driven.connect()
    assert driven.paths() == ["/moved"]
    driven.say_bytes(b"\xff\xff\xff\xff")
    assert not moved.answered
    driven.lose()
    assert isinstance(moved.error, errors.ConnectionLoss)


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(struct.pack(">i", -5), id="negative length"),
        pytest.param(struct.pack(">i", 3) + b"abc", id="short reply"),
        pytest.param(struct.pack(">iiqi", 16, 4711, 1, 0), id="answer to nothing"),
        pytest.param(struct.pack(">iiqi", 16, -77, 1, 0), id="unknown xid"),
        pytest.param(struct.pack(">iiqi", 16, -1, 1, 0), id="empty event"),
        pytest.param(struct.pack(">iiqi", 0x7FFFFFFF, 4711, 1, 0), id="huge answer to nothing"),
        pytest.param(struct.pack(">iiqi", 16, messages.AUTH_XID, 0, 0), id="credentials not presented"),
        pytest.param(struct.pack(">iiqi", 16, messages.SET_WATCHES_XID, 0, 0), id="watches not set again"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
    ],
)
def test_nonsense_ends_the_connection(driven: Driven, nonsense: bytes) -> None:
    """S7: an invalid stream ends the connection; the requests that were sent on it are not lost."""
    read = driven.read()
    driven.heard()
    driven.say_bytes(nonsense)
    assert driven.machine.close_reason is not None
    driven.lose()
    assert not read.answered
    driven.connect()
    assert driven.paths() == ["/read"]
    assert driven.states == [State.CONNECTED, State.SUSPENDED, State.CONNECTED]


def test_an_answer_out_of_order_closes_the_connection(driven: Driven) -> None:
    """S7: answers come in the order of the requests; one out of order answers nothing."""
    first, second = driven.read("/1"), driven.read("/2")
    _, two = driven.heard()
    driven.reply(two)
    assert driven.machine.close_reason is not None
    assert not first.answered
    assert not second.answered


def test_refused_watches_close_the_connection(driven: Driven) -> None:
    """S4: if the server does not set our watches again, the connection is replaced."""
    driven.say_raw(messages.REPLY_HEADER.pack(messages.SET_WATCHES_XID, 0, -4))
    assert driven.machine.close_reason is not None


def test_what_follows_in_the_same_bytes_does_not_count(driven: Driven) -> None:
    """S7: from the frame on for which the connection is to be closed, no frame is used, even if it has
    arrived."""
    read = driven.read()
    [sent] = driven.heard()
    refused = messages.REPLY_HEADER.pack(messages.SET_WATCHES_XID, 0, -4)
    answer = messages.REPLY_HEADER.pack(sent.xid, 0, 0) + GET_REPLY
    driven.say_bytes(b"".join(len(each).to_bytes(4, "big") + each for each in (refused, answer)))
    assert driven.machine.close_reason is not None
    assert not read.answered


def test_an_uncalled_for_pong_is_harmless(driven: Driven) -> None:
    """S7: the answer to a ping that was not sent has no effect."""
    driven.say_raw(messages.REPLY_HEADER.pack(messages.PING_XID, 0, 0))
    assert driven.machine.close_reason is None
    assert driven.states == [State.CONNECTED]


def test_errors_tell_the_newest_transaction_too(driven: Driven) -> None:
    """S4: the newest zxid seen is taken from every answer, refusals included, and never decreases. The next
    server may be behind; and a new session, too, refuses to go back in time."""

    def ask(zxid: int, code: int = 0) -> int:
        driven.read()
        [sent] = driven.heard()
        driven.answer(sent, GET_REPLY if code == 0 else b"", code=code, zxid=zxid)
        return driven.machine.zxids.last

    assert ask(9) == 9
    assert ask(12, NO_NODE) == 12
    driven.notify(3, "/w")  # an event has no zxid of its own
    driven.lose()
    driven.connect()
    assert ask(10) == 12
    driven.lose()
    driven.open()
    driven.accept(session_id=0, timeout=0)
    driven.lose()
    driven.open()
    assert (driven.connects[-1].session_id, driven.connects[-1].last_zxid) == (0, 12)


# Closing


def test_closing(driven: Driven) -> None:
    """S5: closing rejects what waits, loses what is held, and sends the close request last; requests in
    flight are answered."""
    holder, under_way, farewell = driven.hold(), driven.read("/under-way"), Answer()
    [sent] = driven.heard()
    waiting = driven.read("/waiting")
    assert driven.machine.close(driven.now, farewell)
    later = driven.read("/later")
    assert {type(each.error) for each in (waiting, holder, later)} == {errors.ClientClosed}
    [close] = driven.heard()
    assert close.opcode == messages.CLOSE.opcode
    driven.reply(sent)
    driven.answer(close)
    assert under_way.result == got(b"/under-way")
    assert farewell.answered
    driven.machine.end(driven.now)
    assert driven.states == [State.CONNECTED, State.CLOSED]


def test_a_crash_reaches_everybody(driven: Driven) -> None:
    """S5: nobody waits after the end, and a crash is passed on as the cause."""
    under_way, holder = driven.read(), driven.hold()
    driven.heard()
    waiting, crash = driven.write(), RuntimeError("broken")
    driven.machine.end(driven.now, crash)
    for each in (under_way, waiting, holder):
        assert isinstance(each.error, errors.ClientClosed)
        assert each.error.__cause__ is crash


def test_nothing_is_held_once_closing(driven: Driven) -> None:
    """S5, L4: the server deletes our ephemerals as soon as it gets the close request, so nothing is held from
    the moment in which closing begins."""
    assert driven.machine.close(driven.now, Answer())
    holder = driven.hold()
    assert isinstance(holder.error, errors.ClientClosed)
    assert not driven.machine.is_held(holder, driven.now)


def test_closing_over_a_lost_connection(driven: Driven) -> None:
    """S5: if the connection breaks during closing, only the reads in flight and the close are sent again on
    the next one, the close last."""
    driven.read("/under-way")
    driven.heard()
    driven.write("/waiting")
    farewell = Answer()
    assert driven.machine.close(driven.now, farewell)
    [close] = driven.heard()
    assert close.opcode == messages.CLOSE.opcode
    driven.lose()
    assert not farewell.answered
    driven.connect()
    read, close = driven.heard()
    assert path_of(read) == "/under-way"
    assert close.opcode == messages.CLOSE.opcode
    driven.reply(read)
    driven.answer(close)
    assert farewell.answered
    assert farewell.error is None


@pytest.mark.parametrize("session", ["never", "expired"])
def test_closing_without_a_session(session: str, feed: Feed) -> None:
    """S5: without a session there is nothing to end on a server, and closing reports that."""
    driven = Driven(feed)
    if session == "expired":
        driven.connect()
        driven.lose()
        driven.go(START + 2 * T)
    waiting, farewell = driven.read(), Answer()
    assert not driven.machine.close(driven.now, farewell)
    assert isinstance(waiting.error, errors.ClientClosed)
    assert not farewell.answered


def test_a_session_that_expires_while_closing(driven: Driven) -> None:
    """S5: if the session ends by itself while it is being closed, whoever waits for the closing is
    notified."""
    driven.lose()
    farewell = Answer()
    assert driven.machine.close(driven.now, farewell)
    driven.go(START + 2 * T)
    assert isinstance(farewell.error, errors.SessionExpired)


def test_the_end_is_said_once(driven: Driven) -> None:
    """S5: after the end nobody is notified twice and nothing is sent, neither when the connection is lost nor
    as time passes."""
    holder, read = driven.hold(), driven.read()
    driven.heard()
    driven.machine.end(driven.now)
    driven.machine.end(driven.now)
    driven.lose()
    driven.go(START + 5 * T)
    assert isinstance(holder.error, errors.ClientClosed)
    assert isinstance(read.error, errors.ClientClosed)
    assert driven.states == [State.CONNECTED, State.CLOSED]
    assert driven.heard() == []
    assert driven.machine.close(driven.now, Answer()) is False


def test_failing_what_waits(driven: Driven) -> None:
    """S4: if it is likely that no server will ever accept us, waiting requests fail with the reason; later
    ones wait again."""
    driven.lose()
    waiting, behind = driven.write(), errors.EnsembleBehind("restored from a backup")
    driven.machine.fail_waiting(behind)
    assert waiting.error is behind
    later = driven.write("/later")
    assert not later.answered
    driven.connect()
    assert driven.paths() == ["/later"]


class Again(Answer):
    """A caller that submits its request again from within the callback that rejects it."""

    def __init__(self, driven: Driven, errors_seen: list[BaseException]) -> None:
        super().__init__()
        self._driven = driven
        self._seen = errors_seen

    def set_exception(self, error: BaseException) -> None:
        super().set_exception(error)
        self._seen.append(error)
        if len(self._seen) < 10:
            again = Again(self._driven, self._seen)
            body = messages.encode_delete("/mine", -1)
            self._driven.machine.submit(Request(messages.DELETE, body, "/mine", again))


@pytest.mark.parametrize("ending", ["lost", "fail_waiting", "close", "end"])
def test_asking_again_while_being_told(ending: str, feed: Feed) -> None:
    """S2, S5: a request that is submitted again from within its rejection (the deletion of a lock's node does
    that) waits for the next connection, or is rejected finally. The machine neither loses it nor loops for
    ever."""
    driven = Driven(feed)
    driven.connect()
    seen: list[BaseException] = []
    Again(driven, seen).set_exception(errors.ConnectionLoss("delete", "/mine", "to begin with"))
    if ending == "lost":
        driven.heard()
        driven.lose()
        assert len(seen) == 2
    elif ending == "fail_waiting":
        driven.lose()
        driven.machine.fail_waiting(errors.EnsembleBehind("restored"))
        assert len(seen) == 2
    else:
        end = driven.machine.end if ending == "end" else lambda now: driven.machine.close(now, Answer())
        end(driven.now)
        assert {type(error) for error in seen[1:]} == {errors.ClientClosed}
        return
    driven.lose()
    driven.connect()
    assert driven.paths() == ["/mine"]


# Fairness


def test_the_window_moves_with_the_answers(driven: Driven) -> None:
    """Fairness: each answer lets further requests out; none waits for the whole window to be answered."""
    for n in range(MAX_IN_FLIGHT):
        driven.read(f"/{n}")
    first = driven.heard()
    assert len(first) == FIRST_FLIGHT
    assert driven.machine.has_output()
    driven.reply(*first[:3])
    assert driven.paths() == [f"/{FIRST_FLIGHT + n}" for n in range(6)]


def test_a_full_socket_holds_back_requests_only(driven: Driven) -> None:
    """Fairness: a heartbeat is sent before everything that waits, and is written even while the socket
    accepts nothing else."""
    driven.hold()
    for n in range(10_000):
        driven.read(f"/{n}")
    driven.now = driven.timer
    driven.fire_timer()
    assert [sent.opcode for sent in driven.heard(urgent_only=True)] == [messages.MULTI.opcode]
    assert driven.paths()[0] == "/0"
