"""Requests that break connections: they are counted, sent apart from others, never overtaken, and given
up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from driven import Driven, body_of, well
from hypothesis import given, settings
from scripted import Answer, Feed, T, whole

from corral import acl, errors
from corral.session.requests import NOBODY, OwnRequest, Request, Requests
from corral.wire import messages

GIVEN_UP = errors.ConnectionLoss.MOST_LOSSES
FORGOTTEN = 4 * T


def read(path: str) -> Request:
    return Request(messages.GET, body_of(messages.GET, path), path, Answer())


def write(path: str) -> Request:
    return Request(messages.SET, body_of(messages.SET, path), path, Answer())


class Line:
    """Requests waiting, in flight and reclaimed, and a server that answers in order."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.requests.connected(T)
        self.now = 100.0

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.requests.add(request)

    def send(self) -> list[str | None]:
        """The paths of everything in flight, after sending what may be sent."""
        self.requests.take(self.now, [])
        return [request.path for request in self.requests.in_flight]

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.requests.answered(self.requests.in_flight[0].xid, 100) is not None

    def lose(self) -> list[tuple[str | None, int]]:
        """The connection breaks; returns the requests whose outcome is unknown, and how many connections in a
        row broke on each."""
        lost = [(request.path, losses) for request, losses in self.requests.reclaim(self.now)]
        self.requests.connected(T)
        return lost


@pytest.fixture
def line() -> Line:
    return Line()


def test_those_on_which_one_connection_broke_go_together(line: Line) -> None:
    """Fairness: everything that was in flight when a connection broke is sent again together, and nothing
    else until it is answered."""
    line.add(read("/r1"), write("/w1"), read("/r2"))
    line.send()
    assert line.lose() == [("/w1", 1)]
    line.add(write("/w1"), read("/new"), write("/new"))
    assert line.send() == ["/r1", "/r2", "/w1"]
    line.answer(2)
    assert line.send() == ["/w1"]
    line.answer()
    assert line.send() == ["/new", "/new"]


def test_those_on_which_two_broke_go_alone(line: Line) -> None:
    """Fairness: from the second connection on each suspect is sent alone, so that no other request is lost
    with it. Harmless ones are identified by being answered."""
    for count in (1, 2):
        line.add(write("/w1"), write("/w2"))
        assert line.send() == ["/w1", "/w2"]
        assert line.lose() == [("/w1", count), ("/w2", count)]
    line.add(write("/w1"), write("/w2"), write("/other"))
    assert line.send() == ["/w1"]
    line.answer()
    assert line.send() == ["/w2"]
    assert line.lose() == [("/w2", 3)]
    assert line.send() == ["/other"]  # nobody has requested /w2 again


def test_what_is_suspected_waits_for_what_is_under_way(line: Line) -> None:
    """Fairness: requests that were sent before are not lost with a suspect: it waits for their answers. No
    request overtakes another."""
    line.add(write("/w"))
    line.send()
    line.lose()
    line.add(read("/before"), write("/w"), read("/behind"))
    assert line.send() == ["/before"]
    line.answer()
    assert line.send() == ["/w"]
    line.answer()
    assert line.send() == ["/behind"]


def test_losses_are_counted_by_what_is_asked(line: Line) -> None:
    """Fairness: a request identical to an earlier one, body included, inherits its count; one with another
    body does not. An answer resets the count. Two identical requests in flight count once."""
    for count in range(1, 4):
        line.add(write("/w"), write("/w"))
        line.send()
        lost = line.lose()
        assert lost == [("/w", count)] * len(lost)
    line.add(write("/w"), write("/w"))
    assert line.send() == ["/w"]  # one of three that wait
    line.answer()
    line.send()
    assert line.lose() == [("/w", 1)] * 2


def test_losses_are_forgotten(line: Line) -> None:
    """Fairness: the count of a request that nobody repeats is forgotten after 4 T at most, as long as other
    requests are sent."""
    line.add(write("/w"))
    line.send()
    line.lose()
    line.now += FORGOTTEN
    line.add(read("/other"))
    line.send()
    line.answer()
    line.add(write("/w"), read("/behind"))
    assert line.send() == ["/w"]  # still a suspect
    line.lose()
    line.requests.drop_waiting()
    line.now += FORGOTTEN + 0.1
    line.add(read("/other"))
    line.send()
    line.answer()
    line.add(write("/w"), read("/behind"))
    assert line.send() == ["/w", "/behind"]
    assert line.lose() == [("/w", 1)]


def test_what_the_session_asks_itself_is_neither_counted_nor_held_back(line: Line) -> None:
    """S3: a heartbeat is sent beside suspects and everything else. If a connection breaks with one in flight,
    the heartbeat does not become a suspect."""
    line.add(write("/w"))
    line.send()
    line.lose()
    for _ in range(3):
        beat = OwnRequest(messages.MULTI, b"beat", "beat", NOBODY)
        line.requests.send_first(beat, line.now)
        line.add(write("/w"))
        assert line.send() == ["beat", "/w"]
        assert line.lose()[0] == ("beat", 1)


def test_a_refused_request_is_not_counted(line: Line) -> None:
    """S2: a request that the server says it did not apply did not break the connection."""
    line.add(write("/moved"), write("/w"))
    line.send()
    moved = line.requests.answered(1, 16)
    assert moved is not None
    line.requests.refused(moved)
    assert line.lose() == [("/w", 1)]
    line.add(read("/r"))
    assert line.send() == ["/moved", "/r"]


# At random, against a model


class Model:
    """The guarantees: the order, which requests are sent together, and the counts. It uses no internals."""

    def __init__(self) -> None:
        self.line = Line()
        self.numbers: dict[Request, int] = {}
        self.waiting: deque[Request] = deque()
        self.in_flight: deque[tuple[Request, int]] = deque()
        """Each with the count that it had when it was sent."""
        self.counts: dict[bytes, int] = {}
        self.lost_at = 0.0

    def add(self, kind: str, key: int) -> None:
        """Submit some requests: reads and writes with a few different bodies."""
        request = (read if kind == "read" else write)(f"/{key}")
        self.numbers[request] = len(self.numbers)
        self.line.add(request)
        self.waiting.append(request)

    def send(self) -> None:
        sent_before = len(self.line.requests.in_flight)
        self.line.send()
        for request in list(self.line.requests.in_flight)[sent_before:]:
            assert request is self.waiting.popleft(), "overtaken"
            count = self.counts.get(request.body, 0)
            if count == 0 and self.line.now > self.lost_at + FORGOTTEN and not self.suspects():
                self.counts.clear()
            if count == 0:
                # Of two identical requests the second does no harm either, once the first is answered.
                harmful = [each for each in self.suspects() if each.body in self.counts]
                assert not harmful, "beside one that may break the connection"
            else:
                assert all(other for _, other in self.in_flight), "beside what would be lost with it"
                assert count == 1 or not self.in_flight, "not alone"
                assert all(other == 1 for _, other in self.in_flight), "beside one that is to be alone"
            self.in_flight.append((request, count))
        if self.waiting and len(self.in_flight) < 32:
            # No request waits without a reason, nor when nothing is in flight.
            count = self.counts.get(self.waiting[0].body, 0)
            flight = [each for _, each in self.in_flight]
            assert flight
            assert any(flight) if count == 0 else (count >= 2 or 0 in flight or max(flight) >= 2)

    def suspects(self) -> list[Request]:
        return [request for request, count in self.in_flight if count]

    def answer(self, some: int) -> None:
        for _ in range(min(some, len(self.in_flight))):
            request, count = self.in_flight.popleft()
            self.line.answer()
            if count:
                self.counts.pop(request.body, None)

    def lose(self) -> None:
        flight = [request for request, _ in self.in_flight]
        if flight:
            self.lost_at = self.line.now
            counts = {request.body: self.counts.get(request.body, 0) + 1 for request in flight}
            for request in self.waiting:
                if request.body in self.counts:
                    counts.setdefault(request.body, self.counts[request.body])
            self.counts = counts
        lost, again = [], []
        for request in flight:
            count = self.counts[request.body]
            is_lost = request.op.is_write or request.attempts == 2 or count >= GIVEN_UP
            (lost if is_lost else again).append(request)
        self.waiting.extendleft(reversed(again))
        self.in_flight.clear()
        assert self.line.lose() == [(request.path, self.counts[request.body]) for request in lost]
        numbers = [self.numbers[request] for request in self.waiting]
        assert numbers == sorted(numbers)


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(["read", "write"]), st.integers(0, 3)),
    st.tuples(st.just("send")),
    st.tuples(st.just("answer"), st.integers(1, 4)),
    st.tuples(st.just("lose")),
    st.tuples(st.just("pass"), st.sampled_from([T, FORGOTTEN, FORGOTTEN + 1])),
)


@settings(max_examples=300)
@given(st.lists(ACTIONS, max_size=60))
def test_the_line_is_kept(actions: list[tuple[Any, ...]]) -> None:
    """Fairness, S2: for any sequence of requests, answers and losses: no request overtakes another on one
    connection, each is sent only together with those that it may be lost with, the counts are right, and no
    request waits for nothing."""
    model = Model()
    for name, *arguments in actions:
        if name == "pass":
            model.line.now += arguments[0]
        else:
            getattr(model, name)(*arguments)
    while model.waiting or model.in_flight:  # and this ends
        model.send()
        model.answer(1)


# One request that breaks each connection


class Persistent(Answer):
    """A caller that repeats its request until it is hopeless, as watches and locks do."""

    def __init__(self, driven: Driven, ask: Callable[[Answer], None]) -> None:
        super().__init__()
        self._driven = driven
        self._ask = ask
        self.losses: list[int] = []

    def ask(self) -> None:
        self._ask(self)

    def set_exception(self, error: BaseException) -> None:
        assert isinstance(error, errors.ConnectionLoss)
        self.losses.append(error.losses)
        if error.is_hopeless:
            super().set_exception(error)
        else:
            self.ask()


POISON: dict[messages.Operation, bytes] = {
    messages.GET: messages.encode_get("/poison", False),
    messages.SET: messages.encode_set("/poison", b"x", -1),
    messages.CREATE_CONTAINER: messages.encode_create("/poison", b"", acl.OPEN, 4),
    messages.MULTI: messages.encode_multi([(messages.CHECK, messages.encode_check("/poison", -1))]),
    messages.MULTI_READ: messages.encode_multi([(messages.GET, messages.encode_get("/poison", False))]),
    messages.ADD_WATCH: messages.encode_add_watch("/poison", 1),
    messages.CHILDREN: messages.encode_children("/poison", True),
}


@pytest.mark.parametrize("op", POISON, ids=lambda op: op.name)
def test_one_that_breaks_each_connection(op: messages.Operation, feed: Feed) -> None:
    """S2, Fairness: a request on which a server hangs up breaks five connections, and is then given up with
    an error that says so. Of the other requests only those are lost that were in flight with it on the first
    of these connections. Every request after that is answered."""
    driven = Driven(feed)
    driven.connect()
    body = POISON[op]

    def ask(waiter: Answer) -> None:
        driven.machine.submit(Request(op, body, "/poison", waiter))

    stubborn = Persistent(driven, ask)
    stubborn.ask()
    others: list[Answer] = []
    broken = 0
    for n in range(20):
        others += [driven.write(f"/w{n}"), driven.read(f"/r{n}")]
        if _until_poison(driven, body):
            broken += 1
            others.append(driven.write(f"/meanwhile{n}"))
            driven.lose()
            driven.connect()
    assert not _until_poison(driven, body), "it is asked for again"
    assert broken == GIVEN_UP
    assert stubborn.losses[-1] == GIVEN_UP
    assert f"{GIVEN_UP} connections in a row broke on this request" in str(stubborn.error)
    lost = [answer for answer in others if answer.error is not None]
    assert set(lost) <= set(others[:2])  # those sent with it before anything was known
    assert all(answer.answered for answer in others)


def _until_poison(driven: Driven, body: bytes) -> bool:
    """Answer everything up to the request that breaks connections; returns whether that was reached."""
    while sent := driven.heard():
        for each in sent:
            if each.body == body:
                return True
            driven.say_raw(well(each) or b"")
    return False


def test_a_plain_read_fails_after_two(driven: Driven) -> None:
    """S2: a user's read, which no caller repeats, fails when two connections broke on it."""
    read = driven.read()
    for _ in range(2):
        assert not read.answered
        assert driven.paths() == ["/read"]
        driven.lose()
        driven.connect()
    assert isinstance(read.error, errors.ConnectionLoss)
    assert read.error.losses == 2
    assert not read.error.is_hopeless
    assert driven.heard() == []


# During an outage


@pytest.mark.parametrize("between", ["before the first connection", "after a connection"])
def test_what_has_timed_out_is_not_kept(between: str) -> None:
    """K4: of a thousand writes of 1 MB whose waiters are gone, a bounded number is kept. Requests with
    waiters are sent, in order, once there is a server again."""
    driven = Driven(whole)
    if between == "after a connection":
        driven.connect()
        driven.write("/under-way")
        driven.heard()
        driven.lose()
    body = bytes(1_000_000)
    waited_for, most = [], 0
    for n in range(1000):
        answer = Answer()
        driven.machine.submit(Request(messages.SET, body + b"%d" % n, f"/{n}", answer))
        if n % 100:
            answer.cancelled = True
        else:
            waited_for.append(f"/{n}")
        most = max(most, sum(len(request.body) for request in driven.machine.requests.waiting))
    assert most <= 100 * 1_000_000
    driven.connect()
    sent = [request.path for request in driven.machine.requests.waiting]
    assert sent == waited_for


def test_small_ones_that_have_timed_out_are_not_kept() -> None:
    """K4: the same holds for small requests, of which there may be many."""
    driven = Driven(whole)
    most = 0
    for n in range(10_000):
        driven.read(f"/{n}").cancelled = True
        most = max(most, len(driven.machine.requests.waiting))
    assert most <= 100
