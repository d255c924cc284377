"""The machine under any sequence of events: its invariants.

The model knows what was requested, what was sent, and what a server answered. It knows nothing of how the
machine works. The clock moves in eighths of a second, which floating point adds exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import hypothesis.strategies as st
from driven import SESSION, START, Driven, body_of, got, path_of
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from scripted import Answer, Holder, Sent, T, byte_by_byte, whole, with_a_tail

from corral import errors
from corral.session.requests import Request
from corral.session.states import TRANSITIONS, ConnectionPhase
from corral.types import State
from corral.wire import messages

MOVED, EXPIRED, NO_NODE = -118, -112, -101
HELD = "/held"


def is_own(sent: Sent) -> bool:
    """Whether the session makes this request on its own, and it is answered in order: heartbeats, reads of
    held nodes, and the close."""
    ops = (messages.MULTI, messages.CLOSE, messages.SET_WATCHES)
    return sent.opcode in [op.opcode for op in ops] or path_of(sent).startswith(HELD)


class Asked(Answer):
    """A user's request, and what the model knows of its outcome."""

    def __init__(self, model: Model, number: int, op: messages.Operation, bound_to: int) -> None:
        super().__init__()
        self.model = model
        self.number = number
        self.path = f"/{number}"
        self.op = op
        self.bound_to = bound_to
        self.sent = 0
        self.refused = 0
        """How often a server has said that it was not applied."""

    def _settle(self) -> None:
        super()._settle()
        assert not self.cancelled
        if not self.model.ending:
            self.model.nobody_holds_wrongly()

    def set_result(self, result: object) -> None:
        super().set_result(result)
        if self.op is messages.GET:
            assert result == got(self.path.encode()), "somebody else's answer"


class Kept(Holder):
    """A hold, whether it was given up, and whether it was ever seen to have lapsed."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.released = False
        self.over = False

    def lost(self, error: BaseException, ended: float) -> None:
        assert not self.released, "told of the loss of what it had given up"
        super().lost(error, ended)


class Model(RuleBasedStateMachine):
    """One session, and the events that it may meet."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.kept: list[Kept] = []
        self.unanswered: list[Sent] = []
        self.owed: list[int] = []
        """The xids of what is answered apart from the requests: pings, and watches that are set again."""
        self.sent_here: list[int] = []
        self.sessions = SESSION
        self.ending = False
        self.driven = Driven()

    @initialize(feed=st.sampled_from([whole, byte_by_byte, with_a_tail]), by_ping=st.booleans())
    def start(self, feed: object, by_ping: bool) -> None:
        """A machine, before its first connection."""
        self.driven = Driven(feed, lease_by_ping=by_ping, max_reply=2048)  # type: ignore[arg-type]

    @property
    def is_up(self) -> bool:
        """Whether a server accepts requests and its frames are read."""
        return self.driven.machine.phase is ConnectionPhase.UP and self.driven.machine.close_reason is None

    # What users do

    @rule(
        kinds=st.lists(
            st.sampled_from(["read", "write", "bound read", "bound write"]), min_size=1, max_size=6
        )
    )
    def submit(self, kinds: list[str]) -> None:
        """Submit some requests, bound to the session or not."""
        for kind in kinds:
            op = messages.GET if kind.endswith("read") else messages.SET
            bound_to = self.driven.machine.session_id if kind.startswith("bound") else 0
            asked = Asked(self, len(self.asked), op, bound_to)
            self.asked.append(asked)
            self.driven.machine.submit(
                Request(op, body_of(op, asked.path), asked.path, asked, bound_to=bound_to)
            )

    @precondition(lambda self: sum(asked.cancelled for asked in self.asked) < len(self.asked) // 8)
    @precondition(lambda self: any(not asked.done() for asked in self.asked))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a waiter."""
        data.draw(st.sampled_from([asked for asked in self.asked if not asked.done()])).cancelled = True

    @precondition(lambda self: self.driven.machine.session_id)
    @rule(target=holds)
    def hold(self) -> Kept:
        kept = Kept(f"{HELD}-{len(self.kept)}")
        self.kept.append(kept)
        self.driven.keep(kept)
        return kept

    @rule(kept=consumes(holds))
    def unhold(self, kept: Kept) -> None:
        kept.released = kept.error is None
        self.driven.machine.unhold(kept)

    # What the connection does

    @rule()
    def flush(self) -> None:
        """Send everything that is to be sent, in any state."""
        for sent in self.driven.heard():
            assert self.is_up, "it speaks on a connection that is not there"
            if sent.xid < 0:
                self.owed.append(sent.xid)
                continue
            self.unanswered.append(sent)
            if is_own(sent):
                continue
            asked = self.asked[int(path_of(sent)[1:])]
            asked.sent += 1
            assert not asked.done()
            assert asked.bound_to in (0, self.driven.machine.session_id), (
                "sent in a session it is not bound to"
            )
            limit = asked.refused + (1 if asked.op.is_write else 2)
            assert asked.sent <= limit, "sent once too often"
            self.sent_here.append(asked.number)
        # A session is one first-in first-out queue, and requests that are sent again go before new ones.
        assert all(one < two for one, two in pairwise(self.sent_here))

    @precondition(lambda self: self.driven.machine.phase is ConnectionPhase.DOWN and not self.ending)
    @rule(answer=st.sampled_from(["refuse", "other", "nonsense", "nothing"]))
    def connect_in_vain(self, answer: str) -> None:
        """A connection on which our session is not resumed."""
        self._open()
        if answer == "refuse":
            self.driven.accept(session_id=0, timeout=0)
        elif answer == "other":
            self.sessions += 1
            self.driven.accept(session_id=self.sessions)
        elif answer == "nonsense":
            self.driven.say_bytes(b"HTTP/1.1 400 ")

    @precondition(lambda self: not self.is_up and not self.ending)
    @rule()
    def connect(self) -> None:
        """A server resumes the session, or grants a new one."""
        driven = self.driven
        driven.lose()
        self._open()
        self.sessions += driven.connects[-1].session_id == 0
        driven.accept(session_id=driven.connects[-1].session_id or self.sessions)
        assert self.is_up
        self.flush()

    def _open(self) -> None:
        self.unanswered.clear()
        self.sent_here.clear()
        self.owed.clear()
        machine = self.driven.machine
        self.driven.open()
        asked = self.driven.connects[-1]
        assert (asked.session_id, asked.last_zxid) == (machine.session_id, machine.zxids.last)

    @precondition(lambda self: self.driven.machine.phase is not ConnectionPhase.DOWN)
    @rule(nonsense=st.sampled_from([b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02ab", bytes(20)]))
    def lose(self, nonsense: bytes) -> None:
        """The connection breaks, or is closed since the machine asks for it."""
        if nonsense:
            before = [asked.answered for asked in self.asked]
            self.driven.say_bytes(nonsense)
            assert [asked.answered for asked in self.asked] == before
        else:
            self.driven.lose()

    # What the server does

    @precondition(lambda self: self.is_up)
    @rule(most=st.integers(1, 8))
    def serve(self, most: int) -> None:
        """The server answers some requests, successfully."""
        self.flush()
        while most and self.unanswered:
            self.answer("well")
            most -= 1
        if self.owed:
            self.driven.say_raw(messages.REPLY_HEADER.pack(self.owed.pop(0), 0, 0))

    @precondition(lambda self: self.is_up and self.unanswered)
    @rule(kind=st.sampled_from(["refuse", "large", "bad", "moved", "expired"]))
    def answer(self, kind: str) -> None:
        """The server answers the oldest request."""
        driven = self.driven
        sent = self.unanswered.pop(0)
        asked = None if is_own(sent) else self.asked[int(path_of(sent)[1:])]
        waits = asked is not None and not asked.cancelled
        if kind == "well":
            driven.reply(sent)
        elif kind == "refuse" and sent.opcode == messages.MULTI.opcode:
            driven.answer(sent, messages.encode_multi_reply([(-1, NO_NODE, b"")]))
        elif kind == "refuse":
            driven.answer(sent, code=NO_NODE)
        elif kind in ("large", "bad"):
            driven.answer(sent, bytes(3000) if kind == "large" else b"\x00\x00\x00\x99bad")
        else:
            if asked is not None:
                asked.refused += 1
            driven.answer(sent, code=MOVED if kind == "moved" else EXPIRED)
            assert driven.machine.close_reason is not None
            waits = False
        if asked is not None and waits:
            assert asked.answered
            expected = {"well": type(None), "refuse": errors.NoNode}.get(kind, errors.ReplyError)
            assert type(asked.error) is expected

    @precondition(lambda self: self.is_up)
    @rule(kind=st.sampled_from([1, 2, 3, 4]))
    def notify(self, kind: int) -> None:
        """An event arrives."""
        self.driven.notify(kind, "/watched")

    # Time

    @rule(eighths=st.integers(0, int(T * 8)), served=st.booleans())
    def wait(self, eighths: int, served: bool) -> None:
        """Time passes, the timer fires on time, due requests are sent, and each is answered or not."""
        driven = self.driven
        until = driven.now + eighths / 8
        calls: Counter[float] = Counter()
        while driven.timer <= until:
            driven.fire_timer()
            self.flush()
            if served and self.is_up:
                self.serve(len(self.unanswered))
            calls[driven.now] += 1
            assert calls[driven.now] <= 4, "the machine asks to be called again and again"
        driven.now = until

    @rule(eighths=st.integers(1, int(T * 4)))
    def block(self, eighths: int) -> None:
        """The event loop is blocked: time passes, and nothing is called."""
        self.driven.now += eighths / 8

    @precondition(lambda self: len(self.asked) > 40 and not self.ending)
    @rule()
    def close(self) -> None:
        """Close the client. This comes late in a run, since little can follow it."""
        self.ending = True
        self.driven.machine.close(self.driven.now, Answer())

    # Invariants

    def nobody_holds_wrongly(self) -> None:
        """S9: whenever anybody is notified, every loss that is true by the clock has been notified before."""
        for kept in self.kept:
            if kept.error is None and not kept.released:
                assert self.driven.machine.is_held(kept, self.driven.now)

    @invariant()
    def the_states_follow_the_table(self) -> None:
        states = [State.SUSPENDED, *self.driven.states]
        assert all(new in TRANSITIONS[old].values() for old, new in pairwise(states))

    @invariant()
    def up_means_that_there_is_a_session(self) -> None:
        machine = self.driven.machine
        if self.is_up:
            assert machine.session_id
            assert machine.state in (State.CONNECTED, State.LAPSED)
        if machine.phase is not ConnectionPhase.UP:
            assert machine.state is not State.CONNECTED
        if machine.state is State.EXPIRED:
            assert machine.session_id == 0

    @invariant()
    def the_timer_is_not_too_late(self) -> None:
        """Whatever brought the deadline forward has set `deadline_moved`."""
        driven = self.driven
        if driven.machine.close_reason is None or driven.machine.phase is ConnectionPhase.DOWN:
            assert driven.timer <= driven.deadline() or driven.deadline() == math.inf

    @invariant()
    def what_is_over_stays_over(self) -> None:
        """S9: a hold that has lapsed by the clock is never valid again, and no other hold is lost with it."""
        for kept in self.kept:
            held = self.driven.machine.is_held(kept, self.driven.now)
            assert not (kept.over and held)
            assert not (held and (kept.released or kept.error is not None))
            kept.over = not held

    @invariant()
    def what_is_unanswered_is_known(self) -> None:
        """Every request is answered, cancelled, queued or in flight; none is forgotten."""
        machine = self.driven.machine
        queued = {request.waiter for request in (*machine.requests.waiting, *machine.requests.in_flight)}
        for asked in self.asked:
            assert asked.answered or asked.cancelled or asked in queued

    def teardown(self) -> None:
        """At the end everybody who has not been notified yet is notified, once."""
        self.ending = True
        before = [asked.answered for asked in self.asked]
        self.driven.machine.end(self.driven.now)
        for asked, was in zip(self.asked, before, strict=True):
            assert asked.answered or asked.cancelled
            if not was and asked.answered:
                assert isinstance(asked.error, errors.SessionError)
        for kept in self.kept:
            assert kept.released or kept.error is not None
        assert self.driven.states == [] or self.driven.states[-1] is State.CLOSED
        assert self.driven.machine.state is State.CLOSED


class TestModel(Model.TestCase):  # type: ignore[name-defined, misc]
    """S1, S2, S3, S8, S9: see the invariants and the assertions of `Model`."""

    settings = settings(
        max_examples=150,
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_the_clock_of_the_model_is_exact() -> None:
    """The model's times are multiples that floating point adds exactly."""
    assert START + T / 8 - T / 8 == START
