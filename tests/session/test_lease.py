"""The derivation in `session/lease.py`, checked against a model of the servers.

The claim is that the server does not expire the session before the lease ends. The model has the properties
of ZooKeeper that the derivation relies on, each in its worst case for us. The leader expires a session
exactly T after it last touched it. It learns of a follower's clients only from the follower's replies to its
pings. It loses the follower at the worst moment: just after it committed the write that proves that our
session is alive.
"""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass, field
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from driven import LATENESS, SESSION, START, Driven, deposed, well
from hypothesis import event, example, given, settings
from scripted import T

from corral.session.lease import LeaseClock

# The model counts in 64ths of a second, which floating point adds exactly.
GRAIN = 1 / 64


def seconds(least: float, most: float) -> st.SearchStrategy[float]:
    """A time between the two, a multiple of 1/64 s."""
    return st.integers(round(least / GRAIN), int(most / GRAIN)).map(lambda n: n * GRAIN)


class Planned(NamedTuple):
    """A request of the client: its kind, when it is sent (after the connection is made), and how long it
    takes to arrive."""

    kind: str
    after: float
    delay: float


@dataclass
class Ensemble:
    """A follower and its leader, as far as one session is concerned. All streams are first-in first-out."""

    phase: float
    """When the leader sends its first ping, after the connection is made."""
    period: float
    """The time between its pings."""
    down: tuple[float, float]
    """How long pings take to reach the follower: the even ones, and the odd ones. No commit is faster."""
    up: float
    """How long a message takes from the follower to the leader."""
    requests: list[Planned]
    heard: list[float] = field(default_factory=list)
    """When the follower received something from the session."""

    def touched(self, start: float, at: float) -> float:
        """When the leader last touched the session, as of `at`: through the ping replies that carry it."""
        newest = told = float("-inf")
        for number in itertools.count(-4):
            ping = start + self.phase + number * self.period
            reply = max(told, ping + self.down[number % 2])
            if ping > at:
                return newest
            if reply + self.up <= at and any(told < heard <= reply for heard in self.heard):
                newest = reply + self.up
            told = reply


def ensembles(half_tick: float) -> st.SearchStrategy[Ensemble]:
    """Delays to the follower are arbitrary: packets are sent again, buffers fill, servers stop reading."""
    latest = half_tick + T / 50  # pings are late, by T/50 at most
    planned = st.builds(
        Planned,
        st.sampled_from(["read", "write"]),
        seconds(0, half_tick * 2),
        seconds(0, 1 / 8) | seconds(0, 4),
    )
    return st.builds(
        Ensemble,
        phase=seconds(0, latest),
        period=st.just(int(latest / GRAIN) * GRAIN) | seconds(half_tick / 2, latest),
        down=st.tuples(seconds(0, 1 / 4), seconds(0, 1 / 4)) | st.tuples(seconds(0, 2), seconds(0, 2)),
        up=seconds(0, 1),
        requests=st.lists(planned, min_size=3, max_size=12),
    )


def play(ensemble: Ensemble, driven: Driven, touched: float) -> None:
    """Run one connection, and compare the lease with the leader's clock after each answer.

    `touched` is when the leader, or its predecessor, touched the session before this connection.
    """
    start = arrived = answered = sent = driven.now
    committed, moments = {}, []
    for number, (kind, after, delay) in enumerate(ensemble.requests):
        sent += after
        arrived = max(arrived, sent + delay)
        ensemble.heard.append(arrived)
        # A follower answers a read itself; it answers a write once the leader has committed it.
        committed[number] = arrived + ensemble.up
        answered = max(answered, arrived if kind == "read" else committed[number] + max(ensemble.down))
        moments += [(sent, number, "is sent"), (answered, number, "is then answered")]
    under_way = {}
    for at, number, what in sorted(moments, key=lambda moment: (*moment[:2], moment[2] != "is sent")):
        driven.now = at
        is_read = ensemble.requests[number].kind == "read"
        if what == "is sent":
            (driven.read if is_read else driven.write)()
            [under_way[number]] = driven.heard()
            continue
        before = driven.machine.lease_end()
        driven.reply(under_way[number])
        end = driven.machine.lease_end()
        assert end >= before, "the lease goes back"
        if is_read:
            assert end == before, "a read proves nothing"
        elif end > before:
            event("extended")
            # The follower may be cut off now: then the leader hears no more of the session.
            assert end + LATENESS <= max(ensemble.touched(start, committed[number]), touched) + T


@settings(max_examples=300, deadline=None)
@given(ensembles(half_tick=T / 12))
@example(  # slow pings after fast ones, and each as late as the derivation allows
    Ensemble(
        phase=31 / 64,
        period=79 / 64,
        down=(0.0, 13 / 64),
        up=0.0,
        requests=[Planned("read", 1 / 2, 0.0), Planned("write", 5 / 4, 0.0)],
    )
)
def test_never_outlives_the_server(ensemble: Ensemble) -> None:
    """S3: whatever the delays to the server, the lease ends before the leader expires the session."""
    driven = Driven(half_tick=T / 12)
    driven.connect()
    play(ensemble, driven, START)


@settings(max_examples=150, deadline=None)
@given(ensembles(half_tick=T / 4))
def test_never_outlives_a_server_whose_tick_is_unknown(ensemble: Ensemble) -> None:
    """S3: the same holds for a client that does not know the tick. It assumes the longest tick with which
    servers grant this session timeout by default, which is half the timeout."""
    driven = Driven()
    driven.connect()
    play(ensemble, driven, START)


@settings(max_examples=150, deadline=None)
@given(ensembles(half_tick=T / 12), ensembles(half_tick=T / 12), seconds(0, T / 2), seconds(0, 1))
def test_never_outlives_the_server_over_a_reconnect(
    first: Ensemble, second: Ensemble, outage: float, validated: float
) -> None:
    """S3: what one connection has proven stays proven on the next. Nothing that was sent on the first one
    counts on the second, and resuming the session proves nothing by itself."""
    driven = Driven(half_tick=T / 12)
    driven.connect()
    play(first, driven, START)
    driven.lose()
    driven.now = asked = driven.now + outage
    proven = driven.machine.lease_end()
    driven.open()
    driven.now += validated
    driven.accept(SESSION)
    assert driven.machine.lease_end() == proven
    play(second, driven, asked)  # the leader touched the session when it was asked to resume it


def test_a_touch_counts_once_the_leader_must_know_of_it() -> None:
    """S3: a write's answer moves the lease to the newest request that was answered long enough before the
    write was sent: half a tick, plus the write's round trip, plus T/50."""
    driven = Driven(half_tick=1.0)
    driven.connect()
    ends = []
    for second in range(6):
        driven.now = START + second
        driven.read()
        driven.reply(*driven.heard())
        driven.write()
        [sent] = driven.heard()
        driven.now += 1 / 2
        driven.reply(sent)
        ends.append(driven.machine.lease_end() + LATENESS - T - START)
    # Half a tick is 1 s, the round trip 0.5 s, and T/50 is 0.24 s: a read counts for a write that is sent
    # 1.74 s after the read's answer.
    assert ends == pytest.approx([0, 0, 0, 1, 2, 3])


def test_what_a_deposed_leader_answers_does_not_move_the_lease() -> None:
    """S3: a follower that is cut off answers pings and reads for a while, but no write: its answers do not
    extend the lease."""
    driven = Driven()
    driven.connect()
    driven.go(START + T / 2, well)
    end = driven.machine.lease_end()
    server = deposed(driven)
    for n in range(1, 20):
        driven.read()
        driven.go(START + T / 2 + n * T / 20, server)
    assert driven.machine.lease_end() == end


def test_refused_and_unusable_answers_prove_nothing() -> None:
    """S3: only the answer to a write that was applied is a proof. A server may refuse a write on its own, and
    an answer that cannot be decoded proves nothing."""
    driven = Driven()
    driven.connect()
    driven.lose()
    driven.now += T / 2
    driven.connect()
    end = driven.machine.lease_end()
    for code, body in ((-103, b""), (0, b"short")):
        driven.write()
        [sent] = driven.heard()
        driven.answer(sent, body, code=code)
        assert driven.machine.lease_end() == end


def test_memory_is_bounded_without_writes() -> None:
    """S3: a client that only reads, for days, remembers a few dozen times at most."""
    clock = LeaseClock(T, None, by_ping=False)
    clock.connected(START, T, created=True)
    sizes = []
    for n in range(20_000):
        clock.answered(START + n / 2, START + n / 2)
        if n % 5000 == 4999:
            sizes.append(len(pickle.dumps(clock)))  # everything that it keeps
    assert sizes[-1] == sizes[0]
    assert sizes[0] < 4000
