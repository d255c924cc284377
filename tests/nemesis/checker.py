"""The invariants of a run, checked on its record alone.

- *Exclusion*: no two workers were in a lock's body at once. A worker that did not run (it was stopped, or got
  no processor time) cannot be notified. So an overlap that began while it slept is forgiven if it left as
  soon as it woke.
- *Order*: in the order of entry, tokens only grow.
- *Fencing*: in the order in which the server applied the workers' writes, tokens never decrease; and every
  confirmed write was applied.
- *Progress*: each worker enters once more after all faults are over, and the body was never empty for too
  long.
- No worker got an error that it should not get.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from record import Event, Why

WAKING = 0.25
"""Within so many seconds after it woke, a worker that slept must have left the body. This allows for a loaded
machine: the work takes a millisecond."""

STUCK = 30.0
"""For so many seconds the body may be empty, with or without faults: the longest fault, an election, the end
of a session, and a margin."""


class Interval(NamedTuple):
    """A worker's stay in a lock's body, or in that of another thing."""

    entered: float
    left: float
    worker: int
    lock: int
    token: int
    why: Why
    thing: str = ""

    def __str__(self) -> str:
        where = self.thing or f"lock {self.lock}"
        return f"worker {self.worker} in {where} with token {self.token} from {self.entered:.3f} to {self.left:.3f} ({self.why})"


class Overlap(NamedTuple):
    """Two stays at the same time."""

    first: Interval
    second: Interval

    @property
    def seconds(self) -> float:
        return min(self.first.left, self.second.left) - self.second.entered

    def __str__(self) -> str:
        return f"{self.first}, and {self.second}: {self.seconds:.3f} s at once"


class Sleep(NamedTuple):
    """A time in which a worker's process did not run."""

    worker: int
    began: float
    ended: float


class Written(NamedTuple):
    """A write that the server has applied: its number in the server's order, its token, and its node's
    name."""

    lock: int
    number: int
    token: int
    name: str


@dataclass(frozen=True)
class Verdict:
    """The result of checking a record."""

    intervals: Sequence[Interval]
    overlaps: Sequence[Overlap]
    forgiven: Sequence[Overlap]
    """The overlaps that began while the first worker's process did not run."""
    disorder: Sequence[tuple[Interval, Interval]]
    """Consecutive stays whose tokens did not grow."""
    unfenced: Sequence[tuple[Written, Written]]
    """Writes that were applied after one with a higher token."""
    unwritten: Sequence[str]
    """Nodes whose creation was confirmed and that do not exist."""
    writes: int
    empty: float
    """The longest time, in seconds, in which no worker was in a lock's body."""
    idle: float
    """The same, without the time of server faults."""
    stuck: Sequence[int]
    """Workers that did not acquire one of their locks again once everything was repaired."""
    failures: Sequence[str]

    @property
    def reasons(self) -> Counter[Why]:
        """How many stays ended for which reason."""
        return Counter(interval.why for interval in self.intervals)

    @property
    def problems(self) -> list[str]:
        """All violations, in words."""
        return [
            *(f"overlap: {overlap}" for overlap in self.overlaps),
            *(f"tokens out of order: {one}, then {other}" for one, other in self.disorder),
            *(f"{later.name} was written after {earlier.name}" for earlier, later in self.unfenced),
            *(f"{name} was confirmed, and is not there" for name in self.unwritten),
            *(f"worker {worker} did not get a lock any more after all was healed" for worker in self.stuck),
            *([f"nobody was in for {self.empty:.1f} s"] if self.empty > STUCK else []),
            *self.failures,
        ]


def check(events: Iterable[Event], written: Sequence[Written] = ()) -> Verdict:
    """Check a record, and what was written to the server in the run.

    Without `written` writes are not checked; if the run is not over, stuck workers are not reported.
    """
    ordered = sorted(events, key=lambda event: event.at)
    locks = sorted({event.lock for event in ordered if event.lock >= 0})
    stays = [find_stays([event for event in ordered if event.lock in (lock, -1)]) for lock in locks]
    overlaps = [overlap for intervals in stays for overlap in find_overlaps(intervals)]
    sleeps = list(find_sleeps(ordered))
    forgiven = [overlap for overlap in overlaps if any(is_excused(overlap, sleep) for sleep in sleeps)]
    faults = list(_server_faults(ordered))
    gaps = [gap for intervals in stays for gap in _gaps(intervals, ordered)]
    applied = {(each.lock, each.name) for each in written}
    confirmed = [(event.lock, event.text) for event in ordered if event.what == "wrote"]
    return Verdict(
        intervals=list(itertools.chain(*stays)),
        overlaps=[overlap for overlap in overlaps if overlap not in forgiven],
        forgiven=forgiven,
        disorder=[
            (one, other)
            for intervals in stays
            for one, other in itertools.pairwise(intervals)
            if other.token <= one.token
        ],
        unfenced=[
            (one, other)
            for one, other in itertools.pairwise(sorted(written))
            if one.lock == other.lock and other.token < one.token
        ],
        unwritten=[name for lock, name in confirmed if (lock, name) not in applied] if written else [],
        writes=len(written),
        empty=max((end - begin for begin, end in gaps), default=0.0),
        idle=max((_without(faults, *gap) for gap in gaps), default=0.0),
        stuck=_stuck(stays, ordered),
        failures=[f"worker {event.worker}: {event.text}" for event in ordered if event.what == "failed"],
    )


def find_stays(events: Sequence[Event]) -> list[Interval]:
    """All stays with one lock, or with one thing, in the order of entry; of two with the same time the one with the smaller
    token is the first. A stay whose end is unknown lasts until the end of the record."""
    inside: dict[int, Event] = {}
    intervals: list[Interval] = []

    def left(entry: Event, at: float, why: Why) -> None:
        intervals.append(Interval(entry.at, at, entry.worker, entry.lock, entry.token, why, entry.thing))

    for event in events:
        if event.what == "entered":
            if event.worker in inside:
                left(inside[event.worker], events[-1].at, "lost from sight")
            inside[event.worker] = event
        elif event.what in ("left", "died") and event.worker in inside:
            why: Why = "died" if event.what == "died" else event.text  # type: ignore[assignment]  # as recorded
            left(inside.pop(event.worker), event.at, why)
    for entry in inside.values():
        left(entry, events[-1].at, "lost from sight")
    return sorted(intervals, key=lambda interval: (interval.entered, interval.token))


def find_overlaps(intervals: Sequence[Interval]) -> Iterable[Overlap]:
    """Each pair of stays that overlap. Leaving at the very time of the other's entry is in time."""
    inside: list[Interval] = []
    for interval in intervals:
        inside = [each for each in inside if each.left > interval.entered]
        yield from (Overlap(each, interval) for each in inside if interval.left > interval.entered)
        inside.append(interval)


def find_sleeps(events: Sequence[Event]) -> Iterable[Sleep]:
    """When a worker's process did not run, as the worker or the test recorded it."""
    stopped: dict[int, float] = {}
    for event in events:
        if event.what == "stalled":
            yield Sleep(event.worker, event.since, event.at)
        elif event.what == "stopped":
            stopped[event.worker] = event.at
        elif event.what in ("resumed", "died") and event.worker in stopped:
            yield Sleep(event.worker, stopped.pop(event.worker), event.at)
    for worker, began in stopped.items():
        yield Sleep(worker, began, events[-1].at)


def is_excused(overlap: Overlap, sleep: Sleep) -> bool:
    """Whether the first worker slept when the second entered, and left when it woke."""
    first, second = overlap
    return (
        sleep.worker == first.worker
        and sleep.began <= second.entered < sleep.ended
        and first.left <= sleep.ended + WAKING
    )


def _gaps(intervals: Sequence[Interval], events: Sequence[Event]) -> Iterable[tuple[float, float]]:
    """When no worker was in a lock's body: from the first entry until the workers are told to end, or the end
    of the record."""
    if not intervals:
        return
    left = intervals[0].left
    for interval in intervals:
        if interval.entered > left:
            yield left, interval.entered
        left = max(left, interval.left)
    end = next((event.at for event in events if event.what == "over"), events[-1].at)
    if end > left:
        yield left, end


def _server_faults(events: Sequence[Event]) -> Iterable[tuple[float, float]]:
    """The periods with at least one server fault."""
    under_way, began = 0, 0.0
    for event in events:
        if event.what == "fault" and event.text.startswith("server"):
            began = began if under_way else event.at
            under_way += 1
        elif event.what == "mended" and event.text.startswith("server"):
            under_way -= 1
            if not under_way:
                yield began, event.at


def _without(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """The length of a period without the parts that the spans, which do not overlap, cover."""
    return end - begin - sum(max(0.0, min(end, last) - max(begin, first)) for first, last in spans)


def _stuck(stays: Iterable[Sequence[Interval]], events: Sequence[Event]) -> list[int]:
    healed = next((event.at for event in events if event.what == "healed"), None)
    if healed is None or not any(event.what == "over" for event in events):
        return []
    entered = {
        (interval.worker, interval.lock)
        for intervals in stays
        for interval in intervals
        if interval.entered > healed
    }
    started = {(event.worker, event.lock) for event in events if event.what == "started"}
    return sorted({worker for worker, _ in started - entered})
