"""The checker finds everything that is wrong with a record, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
from checker import STUCK, WAKING, Verdict, Written, check
from hypothesis import given
from record import Event, Record, Recorder


def stay(
    worker: int, token: int, entered: float, left: float, why: str = "done", *, lock: int = 0
) -> list[Event]:
    return [
        Event(at=entered, what="entered", worker=worker, lock=lock, token=token),
        Event(at=left, what="left", worker=worker, lock=lock, token=token, text=why),
    ]


def judge(*stays: list[Event], written: Sequence[Written] = ()) -> Verdict:
    return check(itertools.chain(*stays), written)


def test_taking_turns_is_fine() -> None:
    """Stays one after the other, with growing tokens, are no problem; leaving at the time of the next entry
    is in time."""
    verdict = judge(stay(0, 5, 1, 2), stay(1, 6, 2.5, 3, "told"), stay(0, 9, 3, 4))
    assert verdict.problems == []
    assert [interval.token for interval in verdict.intervals] == [5, 6, 9]
    assert verdict.reasons == {"done": 2, "told": 1}
    assert verdict.empty == 0.5


def test_an_overlap_is_found() -> None:
    """A stay that lasted beyond the next entry is an overlap, with its duration."""
    verdict = judge(stay(0, 5, 1, 2), stay(1, 6, 1.75, 3))
    [overlap] = verdict.overlaps
    assert (overlap.first.worker, overlap.second.worker, overlap.seconds) == (0, 1, 0.25)
    assert len(verdict.problems) == 1


@pytest.mark.parametrize("end", ["none", "died"])
def test_a_stay_without_an_end(end: str) -> None:
    """A worker that was killed was in the body until it was dead; one that disappeared from the record, until
    the end of the record."""
    entered = Event(at=1, what="entered", worker=0, lock=0, token=5)
    died = [Event(at=2, what="died", worker=0)] if end == "died" else []
    verdict = judge([entered], died, stay(1, 6, 3, 4))
    assert len(verdict.overlaps) == (0 if end == "died" else 1)
    assert verdict.intervals[0].left == (2 if end == "died" else 4)


@pytest.mark.parametrize(
    ("stopped", "left", "forgiven"),
    [
        (1.5, 3 + WAKING / 2, True),
        (1.5, 3 + WAKING * 2, False),
        (2.1, 3 + WAKING / 2, False),
    ],
    ids=["told when it woke", "went on", "was awake when the other came"],
)
def test_whoever_slept_is_forgiven(stopped: float, left: float, forgiven: bool) -> None:
    """A worker that was stopped when the other one entered, and left as soon as it was resumed, could do no
    better; nor could one that got no processor time."""
    stays = stay(0, 5, 1, left, "told"), stay(1, 6, 2, 2.5)
    sleep = [Event(at=stopped, what="stopped", worker=0), Event(at=3, what="resumed", worker=0)]
    stall = [Event(at=3, since=stopped, what="stalled", worker=0)]
    for slept in sleep, stall:
        verdict = judge(*stays, slept)
        assert (len(verdict.forgiven), len(verdict.overlaps)) == ((1, 0) if forgiven else (0, 1))


def test_it_is_the_first_one_whose_sleep_counts() -> None:
    """That the second worker sleeps does not excuse the first."""
    sleep = [Event(at=1.5, what="stopped", worker=1), Event(at=3, what="resumed", worker=1)]
    assert judge(stay(0, 5, 1, 3), stay(1, 6, 2, 2.5), sleep).overlaps


def test_tokens_out_of_order_are_found() -> None:
    """Tokens are compared in the order of entry; an equal one is as wrong as a lower one."""
    verdict = judge(stay(0, 5, 1, 2), stay(1, 5, 3, 4), stay(2, 4, 5, 6), stay(3, 7, 7, 8))
    assert [(one.token, other.token) for one, other in verdict.disorder] == [(5, 5), (5, 4)]
    assert len(verdict.problems) == 2


def test_writes_out_of_order_are_found() -> None:
    """Writes are compared in the server's order; a confirmed one must exist."""
    written = [Written(0, number, token, f"{token}-{number}") for number, token in enumerate((5, 6, 5, 6))]
    written += [Written(1, 0, 9, "9-0"), Written(2, 1, 7, "7-1")]
    wrote = [Event(at=1.5, what="wrote", worker=0, lock=0, token=5, text=name) for name in ("5-0", "5-4")]
    verdict = judge(stay(0, 5, 1, 2), wrote, written=written)
    assert [(one.name, other.name) for one, other in verdict.unfenced] == [("6-1", "5-2")]
    assert verdict.unwritten == ["5-4"]
    assert len(verdict.problems) == 2


def test_each_lock_is_judged_alone() -> None:
    """Each lock is checked separately; a worker that is stuck with one of its locks is stuck."""
    takes = [(0, 0), (1, 0), (1, 1), (2, 1)]
    started = [Event(at=0, what="started", worker=worker, lock=lock) for worker, lock in takes]
    events = [Event(at=2, what="healed"), Event(at=9, what="over")]
    stays = [stay(0, 5, 1, 7), stay(1, 6, 7, 8), stay(1, 4, 3, 4, lock=1), stay(1, 8, 5, 6, lock=1)]
    verdict = judge(*stays, started, events)
    assert len(verdict.intervals) == 4
    assert not verdict.overlaps
    assert not verdict.disorder
    assert verdict.stuck == [0, 2]
    assert verdict.empty == 3  # the second lock, from 6 to 9


def test_whoever_is_stuck_is_found() -> None:
    """A worker that does not enter after everything was repaired is stuck, even if it never entered
    before."""
    events = [Event(at=5, what="healed"), Event(at=9, what="over")]
    started = [Event(at=0, what="started", worker=worker, lock=0) for worker in range(3)]
    stays = stay(0, 5, 1, 2), stay(1, 6, 3, 4), stay(0, 7, 6, 7)
    assert judge(*stays, started, events).stuck == [1, 2]
    assert judge(*stays, started, events[:1]).stuck == []  # the run is not over yet


@pytest.mark.parametrize("until", ["entry", "over"])
def test_a_body_that_is_empty_for_too_long_is_found(until: str) -> None:
    """Gaps are between two stays, or until the end, but not while another worker stays for long."""
    end = 2 + STUCK + 1
    after = stay(1, 6, end, end + 3 * STUCK) if until == "entry" else [Event(at=end, what="over")]
    verdict = judge(stay(0, 5, 1, 2), after)
    assert verdict.empty == STUCK + 1
    assert len(verdict.problems) == 1


def test_time_without_faults_of_servers() -> None:
    """The time of server faults is subtracted from gaps; faults may overlap, and extend beyond a gap."""
    faults = [
        Event(at=1, what="fault", text="server killed: server 1"),
        Event(at=2.5, what="fault", text="server cut off: server 2"),
        Event(at=2.5, what="fault", text="links cut: worker 2"),
        Event(at=3, what="mended", text="server killed: server 1"),
        Event(at=4, what="mended", text="server cut off: server 2"),
        Event(at=6, what="mended", text="links cut: worker 2"),
        Event(at=7, what="fault", text="server killed: server 3"),
        Event(at=9, what="mended", text="server killed: server 3"),
    ]
    verdict = judge(stay(0, 5, 1, 2), stay(1, 6, 8, 10), faults)
    assert (verdict.empty, verdict.idle) == (6, 3)


def test_errors_are_problems() -> None:
    failed = Event(at=1.5, what="failed", worker=3, text="NoNode()")
    assert judge(stay(0, 5, 1, 2), [failed]).problems == ["worker 3: NoNode()"]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100), st.floats(0, 20)), max_size=12))
def test_every_overlap_is_found(drawn: list[tuple[int, float, float]]) -> None:
    """The result equals that of comparing all pairs of stays; a worker is in a body once at a time."""
    free = dict.fromkeys(range(4), 0.0)
    stays = []
    for token, (worker, begin, lasts) in enumerate(sorted(drawn, key=lambda each: each[1]), start=1):
        if begin > free[worker]:
            free[worker] = begin + lasts
            stays.append((worker, token, begin, begin + lasts))
    verdict = judge(*(stay(*each) for each in stays))
    found = {(overlap.first.token, overlap.second.token) for overlap in verdict.overlaps}
    assert found == {
        (one[1], other[1])
        for one, other in itertools.combinations(stays, 2)
        if max(one[2], other[2]) < min(one[3], other[3])
    }


def test_a_record_is_read_while_it_is_written(tmp_path: Path) -> None:
    """Several processes may write; an incomplete line is read once it is complete."""
    path = tmp_path / "record"
    one, other = Recorder(path, 1), Recorder(path)
    record = Record(path)
    assert record.read() == []
    one.note("entered", at=1.5, lock=2, token=7)
    assert record.read() == [Event(at=1.5, what="entered", worker=1, lock=2, token=7)]
    assert record.inside == {(1, 2, ""): record.events[0]}
    other.note("died", at=2.0, worker=1)
    with open(path, "ab") as file:
        file.write(b'{"at": 3.0, ')
    assert record.read()[1:] == [Event(at=2.0, what="died", worker=1)]
    assert not record.inside
    with open(path, "ab") as file:
        file.write(b'"what": "over"}\n')
    assert record.read()[2:] == [Event(at=3.0, what="over")]
    one.close()
    other.close()
