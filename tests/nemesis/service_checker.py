"""The invariants of a run with services, checked on its record and on what the servers have at its end.

- *Counter*: no two adds have the same number, and later adds have larger ones. A number that no add has got is
  that of an add without an answer, which had begun by then.
- *Queue*: each item that was put is handled to the end, or still in the queue; it is there once, its attempts
  grow, and it is not handed out after it was acknowledged.
- *Once*: whoever has a result of a job has the same one, which is the recorded one; and nobody runs the job
  after somebody has its result.
- *Exclusion*: no two workers have the same item of the queue, own the same shard, or run the same job at once.
  An overlap is forgiven as that of two locks is (`checker`).
- *Progress*: after all faults are over, each worker does each of its trades, and each shard has an owner.
- No worker got an error that it should not get.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from checker import Interval, Overlap, find_overlaps, find_sleeps, find_stays, is_excused
from record import Event, What

PROGRESS: Collection[What] = ("added", "put", "acknowledged", "got")
"""What each worker does again when all faults are over."""


@dataclass(frozen=True)
class Remains:
    """What the servers have at the end of a run."""

    number: int
    """Of the counter."""
    items: Sequence[tuple[str, str]]
    """The items in the queue: the thing that they are in the record, and their names in the queue."""
    results: Mapping[str, str]
    """The recorded result of each job."""


@dataclass(frozen=True)
class ServiceVerdict:
    """The result of checking a record."""

    stays: Sequence[Interval]
    overlaps: Sequence[Overlap]
    forgiven: Sequence[Overlap]
    adds: Sequence[str]
    """The violations of the counter's invariants, in words."""
    items: Sequence[str]
    """Those of the queue's."""
    results: Sequence[str]
    """Those of the jobs that must run once."""
    stuck: Sequence[str]
    """What did not go on when everything was repaired."""
    failures: Sequence[str]
    counts: Counter[What]
    """How many events there were of each kind."""

    @property
    def problems(self) -> list[str]:
        """All violations, in words."""
        return [
            *(f"overlap: {overlap}" for overlap in self.overlaps),
            *(problem for problems in (self.adds, self.items, self.results) for problem in problems),
            *(f"{what} no more after all was healed" for what in self.stuck),
            *self.failures,
        ]


def check_services(
    events: Iterable[Event], shards: Collection[str] = (), remains: Remains | None = None
) -> ServiceVerdict:
    """Check a record. Without `remains`, the run goes on: then what is lost is not reported."""
    ordered = sorted(events, key=lambda event: event.at)
    by_thing = defaultdict[str, list[Event]](list)
    for event in ordered:
        if event.thing:
            by_thing[event.thing].append(event)
    end = Event(at=ordered[-1].at, what="over")
    for_all = [*(event for event in ordered if event.what == "died"), end]
    stays = {
        thing: find_stays(sorted([*own, *for_all], key=lambda event: event.at))
        for thing, own in by_thing.items()
    }
    sleeps = list(find_sleeps(ordered))
    overlaps = [overlap for each in stays.values() for overlap in find_overlaps(each)]
    forgiven = [overlap for overlap in overlaps if any(is_excused(overlap, sleep) for sleep in sleeps)]
    return ServiceVerdict(
        stays=list(itertools.chain(*stays.values())),
        overlaps=[overlap for overlap in overlaps if overlap not in forgiven],
        forgiven=forgiven,
        adds=list(_wrong_adds(ordered, None if remains is None else remains.number)),
        items=list(_wrong_items(by_thing, stays, None if remains is None else remains.items)),
        results=list(_wrong_results(by_thing, stays, {} if remains is None else remains.results)),
        stuck=[] if remains is None else idle(ordered, shards),
        failures=[f"worker {event.worker}: {event.text}" for event in ordered if event.what == "failed"],
        counts=Counter(event.what for event in ordered),
    )


def idle(events: Sequence[Event], shards: Collection[str]) -> list[str]:
    """What has not gone on since everything was repaired."""
    healed = next((event.at for event in events if event.what == "healed"), math.inf)
    since = [event for event in events if event.at > healed]
    does = {(event.worker, event.what) for event in since}
    owned = {event.thing for event in since if event.what == "worked"}
    workers = sorted({event.worker for event in events if event.what == "started"})
    return [
        *(
            f"worker {worker} has {what}"
            for worker in workers
            for what in PROGRESS
            if (worker, what) not in does
        ),
        *(f"{shard} has an owner" for shard in shards if shard not in owned),
    ]


def _wrong_adds(events: Sequence[Event], number: int | None) -> Iterable[str]:
    """Adds that were lost or doubled. `number` is the counter's at the end."""
    begun: dict[int, tuple[float, int]] = {}  # of each worker: since when, and the number of the counter then
    unanswered: list[float] = []
    highest, answered = 0, dict[int, float]()
    for event in events:
        if event.what == "adding":
            if event.worker in begun:
                unanswered.append(begun[event.worker][0])
            begun[event.worker] = event.at, highest
        elif event.what == "added":
            _, least = begun.pop(event.worker)
            if event.token in answered:
                yield f"two adds have made it {event.token}, the second one of worker {event.worker}"
            if event.token <= least:
                yield f"worker {event.worker} has made it {event.token} when it had been {least} before"
            answered[event.token] = event.at
            highest = max(highest, event.token)
    if number is not None and number < highest:
        yield f"it is {number} at the end, and was {highest}"
    # An add without an answer has got a number that is missing. It had begun when a higher one was answered.
    unanswered = sorted([*unanswered, *(at for at, _ in begun.values())])
    numbers = sorted(answered)
    answered_by = list(itertools.accumulate((answered[each] for each in reversed(numbers)), min))[::-1]
    missing = [each for each in range(1, (highest if number is None else number) + 1) if each not in answered]
    for count, each in enumerate(missing):
        above = bisect_left(numbers, each)
        limit = answered_by[above] if above < len(numbers) else math.inf
        if bisect_right(unanswered, limit) <= count:
            yield f"nobody has made it {each}, and yet it was more by {limit:.3f}: an add is counted twice"
            return


def _wrong_items(
    by_thing: Mapping[str, Sequence[Event]],
    stays: Mapping[str, Sequence[Interval]],
    remaining: Sequence[tuple[str, str]] | None,
) -> Iterable[str]:
    """Items that were lost or doubled, or handed out when they should not be."""
    names = defaultdict[str, set[str]](set)
    for thing, name in remaining or ():
        names[thing].add(name)
    for thing, events in by_thing.items():
        was = {event.what: event.at for event in events}
        if "putting" not in was:
            continue
        handled = stays[thing]
        names[thing] |= {event.text for event in events if event.what == "entered"}
        if len(names[thing]) > 1:
            yield f"{thing} was put once, and is there as {sorted(names[thing])}"
        for one, other in itertools.pairwise(handled):
            if other.token <= one.token:
                yield f"attempts out of order: {one}, then {other}"
        for stay in handled:
            if stay.entered > was.get("acknowledged", math.inf):
                yield f"{thing} was acknowledged at {was['acknowledged']:.3f}: {stay}"
        is_done = any(stay.why == "done" for stay in handled)
        if remaining is not None and "put" in was and not is_done and thing not in dict(remaining):
            yield f"{thing} was put at {was['put']:.3f}, nobody has handled it to the end, and it is gone"


def _wrong_results(
    by_thing: Mapping[str, Sequence[Event]],
    stays: Mapping[str, Sequence[Interval]],
    recorded: Mapping[str, str],
) -> Iterable[str]:
    """Results that differ, and jobs that were run again."""
    for thing, events in by_thing.items():
        got = [event for event in events if event.what == "got"]
        if not got:
            continue
        results = {event.text for event in got} | {
            result for each, result in recorded.items() if each == thing
        }
        if len(results) > 1:
            yield f"{thing} has the results {sorted(results)}"
        for stay in stays[thing]:
            if stay.entered > got[0].at:
                yield f"worker {got[0].worker} has the result of {thing} at {got[0].at:.3f}: {stay}"
