"""The gate: it passes every answer that a server may give, and rejects every one that no server can give."""

from __future__ import annotations

import contextlib
import struct
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
from driven import SESSION, Driven, fields, got
from hypothesis import given
from registry import Watcher
from scripted import Answer, Feed, T, stat_of, whole

from corral import acl, errors
from corral.session import gate
from corral.session.gate import Misfit, Stranger
from corral.session.requests import Request
from corral.session.states import ConnectionPhase
from corral.session.watch_registry import WatchState
from corral.session.watchers import WatchEvent, WatchKind
from corral.session.zxids import ZxidTracker
from corral.types import Stat, State
from corral.wire import messages
from corral.wire.messages import MultiResult, Operation

ZXID = 1000
"""The server's zxid when it answers."""
CONTAINER = -(1 << 63)
"""The ephemeral owner in the `Stat` of a container."""
NONE_APPLIED = -2


class Exchange(NamedTuple):
    """A request, the answers that a server may give to it, and some that it may not give."""

    op: Operation
    body: bytes
    right: Any
    wrong: list[Any]


def encoded(op: Operation, result: Any) -> bytes:
    """An answer as it is on the wire."""
    if op in (messages.MULTI, messages.MULTI_READ):
        return messages.encode_multi_reply(
            [(each.opcode, each.error, _in_multi(each)) for each in result],
        )
    if result is None:
        return b""
    return op.reply.encode(*result) if type(result) is tuple else op.reply.encode(result)


def _in_multi(result: MultiResult) -> bytes:
    applied = result.error == 0 and result.opcode != messages.ERROR_OPCODE
    return encoded(messages.OPERATIONS[result.opcode], result.value) if applied else b""


NAMES = st.text(
    st.characters(exclude_characters="/", exclude_categories=["Cc", "Cs", "Co", "Cn"], max_codepoint=0xFFEF),
    min_size=1,
    max_size=8,
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
DATA = st.binary(max_size=20)
NUMBERS = st.integers(-(2**31), 2**31 - 1).map("{:010d}".format)
FLAGS = st.integers(0, 3)
STATS = st.builds(lambda data: stat_of(data)._replace(mzxid=ZXID, czxid=ZXID), DATA)


@st.composite
def gets(draw: st.DrawFn) -> Exchange:
    data = draw(DATA)
    wrong = [(data + b"x", stat_of(data)), (data, stat_of(data)._replace(data_length=-1))]
    return Exchange(messages.GET, messages.encode_get(draw(PATHS), draw(st.booleans())), got(data), wrong)


@st.composite
def children(draw: st.DrawFn) -> Exchange:
    names, body = draw(st.lists(NAMES, max_size=9)), messages.encode_children(draw(PATHS), False)
    return Exchange(messages.CHILDREN, body, names, [[*names, each] for each in ("", "/", "a/b")])


@st.composite
def children2(draw: st.DrawFn) -> Exchange:
    _, body, names, wrong = draw(children())
    stat = draw(STATS)
    return Exchange(messages.CHILDREN2, body, (names, stat), [(each, stat) for each in wrong])


@st.composite
def sets(draw: st.DrawFn) -> Exchange:
    data, expected = draw(DATA), draw(st.integers(-1, 2**31 - 2))
    version = expected + 1 if expected >= 0 else draw(st.integers(-(2**31), 2**31 - 1))
    stat = draw(STATS)._replace(data_length=len(data), version=version)
    wrong = [stat._replace(data_length=len(data) + 1), stat._replace(mzxid=ZXID + 1)]
    if expected >= 0:
        wrong.append(stat._replace(version=expected))
    return Exchange(messages.SET, messages.encode_set(draw(PATHS), data, expected), stat, wrong)


def created(requested: str, flags: int, number: str) -> tuple[str, list[str]]:
    """The requested path and the created path, valid and invalid."""
    wrong = [requested + "x", "", "/elsewhere", requested + "000000001", requested + "0000000001x"]
    if not flags & 2:
        return requested, [*wrong, requested + number]
    return requested + number, [*wrong, requested, requested + "--00000001", requested + "12345678901"]


@st.composite
def creates(draw: st.DrawFn) -> Exchange:
    path, flags = draw(PATHS), draw(FLAGS)
    body = messages.encode_create(path, draw(DATA), acl.OPEN, flags)
    return Exchange(messages.CREATE, body, *created(path, flags, draw(NUMBERS)))


@st.composite
def creates2(draw: st.DrawFn) -> Exchange:
    path, flags = draw(PATHS), draw(FLAGS)
    right, paths = created(path, flags, draw(NUMBERS))
    owner = SESSION if flags & 1 else 0
    stat = draw(STATS)._replace(ephemeral_owner=owner)
    wrong: list[Any] = [(each, stat) for each in paths]
    wrong += [(right, stat._replace(ephemeral_owner=SESSION - owner)), (right, stat._replace(czxid=ZXID + 1))]
    body = messages.encode_create(path, draw(DATA), acl.OPEN, flags)
    return Exchange(messages.CREATE2, body, (right, stat), wrong)


@st.composite
def containers(draw: st.DrawFn) -> Exchange:
    path = draw(PATHS)
    stat = draw(STATS)._replace(ephemeral_owner=draw(st.sampled_from([0, CONTAINER])))
    wrong = [(path + "x", stat), (path, stat._replace(ephemeral_owner=SESSION))]
    body = messages.encode_create(path, draw(DATA), acl.OPEN, 4)
    return Exchange(messages.CREATE_CONTAINER, body, (path, stat), wrong)


@st.composite
def creates_ttl(draw: st.DrawFn) -> Exchange:
    path, flags = draw(PATHS), draw(st.sampled_from([5, 6]))
    right, paths = created(path, 2 if flags == 6 else 0, draw(NUMBERS))
    stat = draw(STATS)._replace(ephemeral_owner=1 << 60)
    body = messages.encode_create_ttl(path, draw(DATA), acl.OPEN, flags, 60.0)
    return Exchange(messages.CREATE_TTL, body, (right, stat), [(each, stat) for each in paths])


@st.composite
def without_a_check(draw: st.DrawFn) -> Exchange:
    path = draw(PATHS)
    op, body = draw(
        st.sampled_from(
            [
                (messages.DELETE, messages.encode_delete(path, -1)),
                (messages.CHECK, messages.encode_check(path, -1)),
            ]
        )
    )
    return Exchange(op, body, None, [])


def applied(exchange: Exchange) -> MultiResult:
    return MultiResult(exchange.op.opcode, 0, exchange.right)


def refused(*codes: int) -> list[MultiResult]:
    return [MultiResult(messages.ERROR_OPCODE, code, None) for code in codes]


def spoilt(parts: list[Exchange], right: list[MultiResult]) -> list[list[MultiResult]]:
    """`right` with one result wrong, with a result of another operation, or with one result too few or too
    many."""
    wrong = [right[:-1], [*right, right[-1]], []]
    for at, part in enumerate(parts):
        for each in part.wrong:
            wrong.append([*right[:at], MultiResult(part.op.opcode, 0, each), *right[at + 1 :]])
        other = (
            MultiResult(messages.CHILDREN.opcode, 0, []) if part.op is not messages.CHILDREN else right[at]
        )
        if other is not right[at]:
            wrong.append([*right[:at], other, *right[at + 1 :]])
    return wrong


@st.composite
def multis(draw: st.DrawFn) -> Exchange:
    parts = draw(
        st.lists(st.one_of(creates(), creates2(), sets(), without_a_check()), min_size=1, max_size=4)
    )
    body = messages.encode_multi([(part.op, part.body) for part in parts])
    right = [applied(part) for part in parts]
    wrong = spoilt(parts, right)
    at = draw(st.integers(0, len(parts) - 1))
    refusal = refused(*[0] * at, -101, *[NONE_APPLIED] * (len(parts) - at - 1))
    wrong += [refusal[:-1], [*refusal, refusal[-1]]]
    wrong += [refused(*[0] * len(parts)), refused(*[NONE_APPLIED] * len(parts))]
    if len(parts) > 1:
        wrong += [[*right[:-1], *refused(-101)], [*refused(-101), *right[1:]]]
    return Exchange(messages.MULTI, body, draw(st.sampled_from([right, refusal])), wrong)


@st.composite
def multi_reads(draw: st.DrawFn) -> Exchange:
    parts = draw(st.lists(st.one_of(gets(), children()), min_size=1, max_size=4))
    body = messages.encode_multi([(part.op, part.body) for part in parts])
    right = [applied(part) for part in parts]
    at = draw(st.integers(0, len(parts) - 1))
    wrong = [*spoilt(parts, right), [*right[:at], *refused(0), *right[at + 1 :]]]
    failed = draw(st.sets(st.integers(0, len(parts) - 1)))
    some = [refused(-101)[0] if n in failed else each for n, each in enumerate(right)]
    return Exchange(messages.MULTI_READ, body, some, wrong)


@st.composite
def ephemerals(draw: st.DrawFn) -> Exchange:
    prefix = draw(st.one_of(st.just("/"), PATHS))
    names = draw(st.lists(NAMES, max_size=4))
    found = [f"{prefix}{name}" for name in names]
    wrong = [[*found, each] for each in ("", "/", "elsewhere", f"{prefix.rstrip('/')}/", f"{prefix}\x00")]
    return Exchange(messages.GET_EPHEMERALS, messages.encode_get_ephemerals(prefix), found, wrong)


@st.composite
def counts(draw: st.DrawFn) -> Exchange:
    total = draw(st.integers(0, 2**31 - 1))
    return Exchange(messages.COUNT_ALL, messages.encode_count_all(draw(PATHS)), total, [-1, -total - 1])


@st.composite
def identities(draw: st.DrawFn) -> Exchange:
    found = draw(st.lists(st.tuples(NAMES, st.text(max_size=8)), max_size=4))
    return Exchange(messages.WHO_AM_I, b"", found, [[*found, ("", "ann")]])


EXCHANGES: dict[Operation, st.SearchStrategy[Exchange]] = {
    messages.GET: gets(),
    messages.CHILDREN: children(),
    messages.CHILDREN2: children2(),
    messages.SET: sets(),
    messages.CREATE: creates(),
    messages.CREATE2: creates2(),
    messages.CREATE_CONTAINER: containers(),
    messages.CREATE_TTL: creates_ttl(),
    messages.DELETE: without_a_check(),
    messages.GET_EPHEMERALS: ephemerals(),
    messages.COUNT_ALL: counts(),
    messages.WHO_AM_I: identities(),
    messages.MULTI: multis(),
    messages.MULTI_READ: multi_reads(),
}
each_operation = pytest.mark.parametrize("op", EXCHANGES, ids=lambda op: op.name)


def check(exchange: Exchange, result: Any, zxid: int = ZXID) -> None:
    gate.check_answer(exchange.op, exchange.body, result, zxid, SESSION)


def test_each_operation_with_a_check_is_here() -> None:
    """Every check of the gate is tested here, also a new one."""
    assert set(EXCHANGES) - {messages.DELETE} == set(gate.CHECKS)


@each_operation
@given(data=st.data())
def test_every_right_answer_passes(op: Operation, data: st.DataObject) -> None:
    """S7: every answer that a healthy server may give fits its request."""
    exchange = data.draw(EXCHANGES[op])
    check(exchange, exchange.right)
    check(exchange, exchange.right, zxid=0)  # of a server that does not report its zxid


@each_operation
@given(data=st.data())
def test_no_wrong_answer_passes(op: Operation, data: st.DataObject) -> None:
    """S7: an answer that has another request's shape, or that contradicts its request or itself, is a
    misfit."""
    exchange = data.draw(EXCHANGES[op])
    for wrong in exchange.wrong:
        with pytest.raises(Misfit):
            check(exchange, wrong)


@each_operation
@given(data=st.data(), code=st.sampled_from([0, -1, -2, -101, 5]))
def test_nothing_else_is_raised(op: Operation, data: st.DataObject, code: int) -> None:
    """S7: the gate accepts or rejects whatever can be decoded; nothing that can be decoded makes it raise
    anything else."""
    exchange = data.draw(EXCHANGES[op])
    other = data.draw(EXCHANGES[op])
    stat = Stat(*data.draw(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 11)))
    results = [other.right, *other.wrong]
    if exchange.op in (messages.CREATE2, messages.CREATE_CONTAINER, messages.CREATE_TTL):
        results += [(path, stat) for path in ("", "/", "\udcff".encode("utf-8", "replace").decode())]
    if exchange.op in (messages.MULTI, messages.MULTI_READ):
        results += [refused(code), refused(code, code), [*other.right, *refused(code)]]
    for result in results:
        with contextlib.suppress(Misfit):
            check(exchange, result)


def test_a_version_may_overflow() -> None:
    """S7: a data version is a signed number of 32 bits, which wraps to negative: a write that expected the
    largest version was applied if the answer has the smallest."""
    body = messages.encode_set("/a", b"x", 2**31 - 1)
    gate.check_answer(messages.SET, body, stat_of(b"x")._replace(version=-(2**31)), ZXID, SESSION)


def test_one_operation_is_refused() -> None:
    """S7: a server stops at the operation that it refuses, so a refused transaction has exactly one."""
    body = messages.encode_multi([(messages.CHECK, messages.encode_check("/a", -1))] * 3)
    for codes in ((-101, -101, NONE_APPLIED), (-101, 0, NONE_APPLIED), (NONE_APPLIED, -101, 0)):
        with pytest.raises(Misfit):
            gate.check_answer(messages.MULTI, body, refused(*codes), ZXID, SESSION)


# The messages of misfits


@pytest.mark.parametrize(
    ("op", "body", "result", "says"),
    [
        (messages.GET, messages.encode_get("/a", False), (b"four", stat_of(b"five5")), "4 bytes.* 5"),
        (messages.SET, messages.encode_set("/a", b"x", 3), stat_of(b"x")._replace(version=9), "9 .*3"),
        (messages.CREATE, messages.encode_create("/a", b"", acl.OPEN, 0), "/b", "'/b' .*'/a'"),
        (messages.CREATE, messages.encode_create("/a", b"", acl.OPEN, 2), "/a", "'/a' with a number"),
        (
            messages.CREATE2,
            messages.encode_create("/a", b"", acl.OPEN, 1),
            ("/a", stat_of(b"")._replace(ephemeral_owner=0x99)),
            "0x99, not by 0x7",
        ),
        (messages.GET_EPHEMERALS, messages.encode_get_ephemerals("/a"), ["/b"], "'/b' .* below '/a'"),
        (messages.COUNT_ALL, messages.encode_count_all("/a"), -7, "-7 znodes"),
        (messages.WHO_AM_I, b"", [("", "ann")], "without a scheme"),
        (
            messages.MULTI,
            messages.encode_multi([(messages.CHECK, b"")] * 2),
            refused(-101),
            "1 results for 2",
        ),
    ],
)
def test_a_misfit_names_both(op: Operation, body: bytes, result: Any, says: str) -> None:
    """S7: the message says what was received and what was requested."""
    with pytest.raises(Misfit, match=says):
        gate.check_answer(op, body, result, ZXID, SESSION)


# Zxids, events, answers to connect requests


@pytest.mark.parametrize(
    ("zxid", "last", "fits"),
    [
        (1, 0, True),
        (0x2_0000_0000, 0x1_0000_FFFF, True),
        ((1 << 52) - 1, 0, True),
        (1 << 52, 0, False),
        (1 << 62, 0, False),
        (1 << 62, (1 << 62) - 1, True),
        (5, 9, True),
    ],
)
def test_a_zxid_grows_by_elections(zxid: int, last: int, fits: bool) -> None:
    """S4: an ensemble may hold many elections between two answers, but not a thousand million."""
    zxids = ZxidTracker()
    zxids.last = last
    if fits:
        zxids.answered(zxid)
    else:
        with pytest.raises(Misfit, match=f"0x{zxid:x}"):
            zxids.answered(zxid)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b", "/\u00e9", "/" + "a" * 600_000, "/a" * gate.MOST_LEVELS])
def test_paths_that_events_may_name(path: str) -> None:
    """W7: the gate passes an event for anything that can be a path."""
    gate.check_event_path(path)


@pytest.mark.parametrize(
    "path", ["", "x", "a/b", "//", "/a/", "/a//b", "/a\0b", "/a" * (gate.MOST_LEVELS + 1), "/a" * 300_000]
)
def test_paths_that_events_may_not_name(path: str) -> None:
    """W7: an event for anything that cannot be a path ends the connection. The message does not quote half a
    megabyte."""
    with pytest.raises(Misfit) as caught:
        gate.check_event_path(path)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (b"HTTP/1.1 400 Bad", "HTTP"),
        (b"SSH-2.0-OpenSSH_", "SSH"),
        (b"\x15\x03\x01\x00\x02\x02", "TLS"),
        (b"220 mail ESMTP", "SMTP"),
        (b"-ERR unknown", "Redis"),
        (b"\xff\xff\xff\xff", "no ZooKeeper"),
        (b"\x00\x00\x00\x00", "no ZooKeeper"),
        (struct.pack(">i", 4097), "no ZooKeeper"),
    ],
)
def test_strangers(first: bytes, says: str) -> None:
    """S7: a peer that is no ZooKeeper server is recognized by the first bytes of its answer to a connect
    request."""
    with pytest.raises(Stranger, match=says):
        gate.check_greeting(first)


@pytest.mark.parametrize(
    "first", [b"", b"H", b"\x00\x00\x00", struct.pack(">i", 37), struct.pack(">i", 4096)]
)
def test_what_may_become_a_greeting(first: bytes) -> None:
    """S7: no peer is rejected as long as its bytes may still be the start of an answer to a connect
    request."""
    gate.check_greeting(first)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 ", b"SS"])
def test_a_stranger_that_hangs_up_is_told(said: bytes) -> None:
    """S7: if a peer sends something else than the start of an answer, and hangs up, the error quotes it."""
    driven = Driven(whole)
    driven.open()
    driven.say_bytes(said)
    driven.lose()
    assert repr(said[:16]) in (driven.machine.close_reason or "")
    assert driven.states == []


def test_half_a_greeting_is_no_stranger() -> None:
    """S7: a server whose connection is lost in the middle of its answer to the connect request is no
    misfit."""
    driven = Driven(whole)
    driven.open()
    reply = messages.encode_connect_reply(T, SESSION, b"p" * 16)
    driven.say_bytes((struct.pack(">i", len(reply)) + reply)[:20])
    driven.lose()
    assert driven.machine.close_reason is None


# The machine behind the gate


@each_operation
@given(data=st.data())
def test_a_wrong_answer_fails_its_own_request(op: Operation, data: st.DataObject) -> None:
    """S7: an answer that does not fit fails its own request with ReplyError, and that request is not sent
    again. The next request is answered, the connection stays open, and each correct answer reaches its
    caller."""
    exchange = data.draw(EXCHANGES[op])
    driven = Driven(whole)
    driven.connect()
    right, wrong, after = Answer(), Answer(), driven.read("/after")
    for waiter in (right, wrong):
        driven.machine.submit(Request(exchange.op, exchange.body, "/hit", waiter))
    last, one, two = driven.heard()
    driven.answer(last, messages.GET.reply.encode(*got(b"/after")))
    driven.answer(one, encoded(exchange.op, exchange.right), zxid=ZXID)
    assert right.error is None
    assert right.result == exchange.right
    if exchange.wrong:
        body = encoded(exchange.op, data.draw(st.sampled_from(exchange.wrong)))
        driven.answer(two, body, zxid=ZXID)
        assert isinstance(wrong.error, errors.ReplyError)
        assert "does not fit" in str(wrong.error)
        assert f"{exchange.op.name} '/hit'" in str(wrong.error)
    assert after.result == got(b"/after")
    assert driven.machine.close_reason is None


def test_a_write_with_a_wrong_answer_proves_nothing(feed: Feed) -> None:
    """S3: an answer that no server may give is no proof of a quorum."""
    driven = Driven(feed)
    driven.connect()
    driven.lose()
    driven.now += T / 2
    driven.connect()
    end = driven.machine.lease_end()
    driven.write()
    [sent] = driven.heard()
    driven.answer(sent, messages.SET.reply.encode(stat_of(b"another length")))
    assert driven.machine.lease_end() == end


@pytest.mark.parametrize("path", ["", "x", "/a/", "/a" * 300_000])
def test_an_event_that_cannot_be_ends_its_connection(path: str) -> None:
    """S7, W7: an event for something that is no path ends the connection, and nothing else, whatever is
    watched."""
    driven, told = Driven(whole), list[WatchEvent]()
    driven.connect()

    class Watcher:
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            told.append(change)

        def refused(self, error: BaseException, /) -> None:
            raise AssertionError

    driven.machine.watches.add("/", Watcher(), WatchKind.RECURSIVE)
    [asked] = driven.heard()
    driven.answer(asked, messages.ADD_WATCH.reply.encode(0))
    driven.notify(3, path)
    assert told == [WatchEvent.ARMED]
    assert driven.machine.close_reason is not None
    driven.lose()
    driven.connect()
    assert driven.states == [State.CONNECTED, State.SUSPENDED, State.CONNECTED]


def test_an_event_for_a_very_long_name_is_told() -> None:
    """W7: a path of 600 kB is valid, and its events are delivered like any other's."""
    driven, told = Driven(whole), list[str]()
    driven.connect()

    class Watcher:
        def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
            told.append(path)

    path = "/" + "a" * 600_000
    driven.machine.watches.add(path, Watcher())
    driven.notify(3, path)
    assert told == [path]


@pytest.mark.parametrize(
    ("timeout", "taken"),
    [
        pytest.param(0.001, False, id="1 ms"),
        pytest.param(0.005, False, id="5 ms"),
        pytest.param(gate.LEAST_GRANT, True, id="the least"),
        pytest.param(20 * T, True, id="twenty times as much"),
        pytest.param(gate.MOST_GRANT, True, id="the most"),
        pytest.param(gate.MOST_GRANT + 1, False, id="too much"),
        pytest.param(24 * 86_400.0, False, id="24 days"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_granted_has_limits(timeout: float, taken: bool, resumed: bool, feed: Feed) -> None:
    """S1: a session timeout that no sane server grants, for a new session or a resumed one, ends the
    connection. Neither a storm of pings nor a wait of days follows, and the next server is asked for the same
    timeout as the first."""
    driven = Driven(feed)
    if resumed:
        driven.connect()
        driven.lose()
    driven.open()
    driven.accept(SESSION, timeout=timeout)
    assert (driven.machine.phase is ConnectionPhase.UP and driven.machine.close_reason is None) is taken
    assert (driven.machine.timeout == timeout) is taken
    if not taken:
        assert f"{timeout:g} s where {T:g} s" in (driven.machine.close_reason or "")
        driven.lose()
        driven.connect()
        assert {asked.timeout for asked in driven.connects} == {T}
        assert driven.machine.timeout == T
        assert driven.machine.session_id == SESSION


def test_what_was_asked_for_may_be_granted() -> None:
    """S1: the limits apply to what a server grants on its own: a client that requests a very short or a very
    long timeout may get it."""
    for asked in (0.05, 7200.0):
        reply = messages.ConnectReply(0, asked, SESSION, b"p" * 16, False)
        gate.check_connect_reply(reply, asked, 0)


@pytest.mark.parametrize("session_id", [SESSION, 0])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(struct.pack(">iiqi16s?", 42, 12_000, -1, 16, bytes(16), False), id="without a leader"),
        pytest.param(struct.pack(">iiqi16s?", 42, 0, 0, 16, bytes(16), False), id="another protocol"),
        pytest.param(struct.pack(">iiqi16s?", 0, 12_000, -1, 16, bytes(16), False), id="session -1"),
        pytest.param(struct.pack(">iiqi?", 0, 12_000, SESSION, 0, False), id="no password"),
    ],
)
def test_what_is_no_session_is_not_entered(reply: bytes, session_id: int, feed: Feed) -> None:
    """S7: a rejection that is encoded as a session (ClickHouse Keeper sends one when it has no leader) opens
    no session, and does not end ours."""
    driven = Driven(feed)
    if session_id:
        driven.connect(session_id)
        driven.lose()
    told = list(driven.states)
    driven.open()
    driven.say_raw(reply)
    assert driven.machine.close_reason is not None
    driven.lose()
    assert driven.states == told
    assert driven.machine.session_id == session_id


# How far the ensemble is


def read_at(driven: Driven, zxid: int) -> Answer:
    """A read whose answer has this zxid."""
    answer = driven.read()
    [sent] = driven.heard()
    driven.answer(sent, messages.GET.reply.encode(*got(b"/read")), zxid=zxid)
    return answer


def test_a_zxid_out_of_this_world_ends_its_connection(driven: Driven) -> None:
    """S4: an answer with zxid 2^62 ends its connection. That zxid is not sent to the next server, since it
    would shut us out of every server."""
    read_at(driven, 50)
    answer = read_at(driven, 1 << 62)
    assert isinstance(answer.error, errors.ReplyError)
    assert driven.machine.close_reason is not None
    driven.lose()
    driven.connect()
    assert driven.connects[-1].last_zxid == 50
    assert read_at(driven, 51).error is None


def test_a_zxid_that_falls_ends_its_connection(driven: Driven) -> None:
    """S4: zxids never decrease on one connection. Where they do, one of the two was wrong: the newest zxid
    that a later answer has confirmed counts."""
    for zxid in (50, 60, 70_000):
        read_at(driven, zxid)
    assert driven.machine.zxids.last == 70_000
    answer = read_at(driven, 61)
    assert isinstance(answer.error, errors.ReplyError)
    assert driven.machine.close_reason is not None
    driven.lose()
    driven.connect()
    assert driven.connects[-1].last_zxid == 60


@pytest.mark.parametrize("confirming", [50, 51, 60])
def test_watches_are_set_again_from_a_confirmed_zxid(driven: Driven, confirming: int) -> None:
    """W3: a server sends events for the changes after the zxid with which watches are set again. One that is
    too great would hide a change for ever, so the newest zxid that another answer has confirmed, by the same
    or a greater one, is sent."""
    driven.machine.watches.add("/w", Watcher())
    driven.machine.watches.mark_set("/w", WatchState.DATA)
    read_at(driven, 50)
    read_at(driven, confirming)
    if confirming > 50:
        read_at(driven, confirming)
    read_at(driven, 70_000)
    for _ in range(2):
        driven.lose()
        driven.connect()
        [watches] = driven.heard()
        assert watches.opcode == messages.SET_WATCHES.opcode
        assert fields(watches)[0] == confirming
        assert driven.connects[-1].last_zxid == 70_000
        read_at(driven, 0)  # which confirms nothing


def test_pings_tell_how_far_the_server_is(driven: Driven) -> None:
    """S4: the answer to a ping reports the zxid like any other answer. Answers whose zxid is 0 or -1 say
    nothing about it."""
    read_at(driven, 50)
    for zxid in (60, 0, -1):
        driven.say_raw(messages.REPLY_HEADER.pack(messages.PING_XID, zxid, 0))
    assert driven.machine.zxids.last == 60
    assert driven.machine.close_reason is None
    driven.say_raw(messages.REPLY_HEADER.pack(messages.PING_XID, 59, 0))
    assert driven.machine.close_reason is not None


def test_an_unconfirmed_zxid_can_be_disowned(driven: Driven) -> None:
    """S4: when every server rejects us, a zxid that only one answer has reported is given up; one that others
    have confirmed is kept."""
    read_at(driven, 50)
    read_at(driven, 70_000)
    driven.lose()
    assert not driven.machine.zxids.disown(49)  # no server would accept us with that either
    assert not driven.machine.zxids.disown(70_000)  # nor is that necessary
    assert driven.machine.zxids.last == 70_000
    assert driven.machine.zxids.disown(60)
    assert driven.machine.zxids.last == 50
    assert not driven.machine.zxids.disown(60)
    assert driven.machine.zxids.last == 50
