"""The derivation in `session/lease.py`, held to a model of what the servers do.

The claim is that the server does not expire the session before the lease ends. The model has what the
derivation says of ZooKeeper, each at its worst for us: a leader that expires a session exactly T after it
last touched it, that learns of a follower's clients only from the follower's replies to its pings, and that
loses the follower at the worst moment, when it has just committed the write that proves us alive.
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
    """A time between the two, in 64ths."""
    return st.integers(round(least / GRAIN), int(most / GRAIN)).map(lambda n: n * GRAIN)


class Planned(NamedTuple):
    """A request of the client: what, when (after the connection), and how long it is on its way."""

    kind: str
    after: float
    delay: float


@dataclass
class Ensemble:
    """A follower and its leader, as far as one session is concerned. All their streams are first-in first-out."""

    phase: float
    """When the leader sends a ping, after the connection."""
    period: float
    """What lies between its pings."""
    down: tuple[float, float]
    """How long every other ping, and the ones between, are on their way to the follower; no commit is faster."""
    up: float
    """How long anything is on its way from the follower to the leader."""
    requests: list[Planned]
    heard: list[float] = field(default_factory=list)
    """When the follower heard of the session."""

    def touched(self, start: float, at: float) -> float:
        """When the leader, as of `at`, touched the session last: by the ping replies that tell of it."""
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
    """Delays on the way to the follower are free: packets are sent again, buffers fill, servers stop reading."""
    latest = half_tick + T / 50  # timers are late, by T/50 at most
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
    """Run one connection, and hold the lease to the leader's clock after each answer.

    `touched` is when the leader, or the one whose place it took, touched the session before that.
    """
    start = arrived = answered = sent = driven.now
    committed, moments = {}, []
    for number, (kind, after, delay) in enumerate(ensemble.requests):
        sent += after
        arrived = max(arrived, sent + delay)
        ensemble.heard.append(arrived)
        # A read is answered by the follower alone; a write when the leader has it committed.
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
            # The follower may be cut off now, so that the leader hears no more of the session.
            assert end + LATENESS <= max(ensemble.touched(start, committed[number]), touched) + T


@settings(max_examples=300, deadline=None)
@given(ensembles(half_tick=T / 12))
@example(  # a ping that is late behind one that was fast, and each as late as is assumed
    Ensemble(
        phase=31 / 64,
        period=79 / 64,
        down=(0.0, 13 / 64),
        up=0.0,
        requests=[Planned("read", 1 / 2, 0.0), Planned("write", 5 / 4, 0.0)],
    )
)
def test_never_outlives_the_server(ensemble: Ensemble) -> None:
    """S3: whatever the delays on the way to the server, the lease ends before the leader expires the session."""
    driven = Driven(half_tick=T / 12)
    driven.connect()
    play(ensemble, driven, START)


@settings(max_examples=150, deadline=None)
@given(ensembles(half_tick=T / 4))
def test_never_outlives_a_server_whose_tick_is_unknown(ensemble: Ensemble) -> None:
    """S3: nor does it for a client that is not told the tick: it assumes the longest that servers grant this
    session timeout with by default, half of it."""
    driven = Driven()
    driven.connect()
    play(ensemble, driven, START)


@settings(max_examples=150, deadline=None)
@given(ensembles(half_tick=T / 12), ensembles(half_tick=T / 12), seconds(0, T / 2), seconds(0, 1))
def test_never_outlives_the_server_over_a_reconnect(
    first: Ensemble, second: Ensemble, outage: float, validated: float
) -> None:
    """S3: what one connection has proven stays proven on the next, nothing that was sent on the first counts
    on the second, and resuming proves nothing by itself."""
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
    write: half a tick, and the longer of the write's round trip and T/50."""
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
    # The round trip is half a second, so a read counts for the write that is sent 1.5 s after its answer.
    assert ends == pytest.approx([0, 0, 0, 1, 2, 3])


def test_what_a_deposed_leader_answers_does_not_move_the_lease() -> None:
    """S3: a follower that is cut off answers pings and reads for a while, and no write: the lease stands
    still, however much it answers."""
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
    """S3: only the answer of a write that was carried out is a proof; what the server refused it may have
    refused by itself, and what does not decode is no word of anybody's."""
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
    """S3: a client that only reads, for days, keeps no more than a few dozen times."""
    clock = LeaseClock(T, None, by_ping=False)
    clock.connected(START, T, created=True)
    sizes = []
    for n in range(20_000):
        clock.answered(START + n / 2, START + n / 2)
        if n % 5000 == 4999:
            sizes.append(len(pickle.dumps(clock)))  # all that it holds on to
    assert sizes[-1] == sizes[0]
    assert sizes[0] < 4000
