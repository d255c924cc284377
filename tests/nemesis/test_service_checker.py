"""The checker of services finds what careless workers do, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from checker import WAKING
from record import Event
from service_checker import PROGRESS, Remains, ServiceVerdict, check_services, idle


def stay(
    thing: str, worker: int, token: int, entered: float, left: float, why: str = "done", name: str = ""
) -> list[Event]:
    return [
        Event(at=entered, what="entered", worker=worker, thing=thing, token=token, text=name),
        Event(at=left, what="left", worker=worker, thing=thing, token=token, text=why),
    ]


def add(worker: int, number: int | None, begun: float, answered: float = 0) -> list[Event]:
    """An add that made it this number; None if there was no answer."""
    adding = Event(at=begun, what="adding", worker=worker)
    if number is None:
        return [adding]
    return [adding, Event(at=answered, what="added", worker=worker, token=number)]


def put(thing: str, at: float) -> list[Event]:
    return [Event(at=at, what="putting", thing=thing), Event(at=at + 0.1, what="put", thing=thing)]


def acknowledged(thing: str, at: float) -> list[Event]:
    return [Event(at=at, what="acknowledged", thing=thing)]


def got(thing: str, worker: int, at: float, result: str) -> list[Event]:
    return [Event(at=at, what="got", worker=worker, thing=thing, text=result)]


def judge(*parts: Sequence[Event], number: int | None = None, items: Sequence[str] = ()) -> ServiceVerdict:
    """With `number`, the run is over: it is the counter's, and these items are in the queue."""
    remaining = [(item, f"entry-{item}") for item in items]
    remains = None if number is None else Remains(number, remaining, {"job 1": "a"})
    return check_services(itertools.chain(*parts), (), remains)


def test_careful_workers_are_fine() -> None:
    """Adds and puts without an answer may be applied or not. Items may be handed out again, until they are
    handled; jobs may be run again, until there is a result. Shards move."""
    verdict = judge(
        [*add(0, 1, 1, 2), *add(1, 3, 1, 4), *add(0, None, 3), *add(0, 4, 5, 6), *add(1, None, 7)],
        [*put("item a", 1), *stay("item a", 0, 1, 2, 3, "told"), *stay("item a", 1, 2, 4, 5)],
        [*acknowledged("item a", 6), *put("item b", 1), Event(at=1, what="putting", thing="item c")],
        [*stay("job 1", 0, 7, 1, 2, "told"), *stay("job 1", 1, 8, 3, 4), *got("job 1", 1, 5, "a")],
        [*got("job 1", 0, 6, "a"), *stay("shard 1", 0, 5, 1, 2, "ended"), *stay("shard 1", 1, 6, 2, 3)],
        number=4,
        items=["item b"],
    )
    assert verdict.problems == []
    assert judge(add(0, 1, 1, 2), add(0, None, 3), number=2).problems == []


@pytest.mark.parametrize("what", ["item a", "shard 1", "job 1"])
def test_what_two_have_at_once_is_found(what: str) -> None:
    """An item, a shard or a job that another worker has, too: of a consumer that continues although its body
    was cancelled, or of a job that is run without a lock."""
    verdict = judge(stay(what, 0, 5, 1, 3, "told"), stay(what, 1, 6, 2, 4), stay("shard 9", 2, 1, 1, 4))
    [overlap] = verdict.overlaps
    assert (overlap.first.thing, overlap.seconds) == (what, 1)
    assert len(verdict.problems) == 1


def test_a_stay_without_an_end_lasts_until_the_end() -> None:
    """What others record does not end it, but the worker's death does."""
    entered, _ = stay("shard 1", 0, 5, 1, 9)
    others = stay("shard 2", 0, 5, 1, 8)
    assert judge([entered], stay("shard 1", 1, 6, 3, 4), others).overlaps
    died = [Event(at=2, what="died", worker=0)]
    assert not judge([entered], stay("shard 1", 1, 6, 3, 4), died).overlaps


def test_whoever_slept_is_forgiven() -> None:
    """As with locks: a worker that did not run when the other one came, and left when it woke."""
    stays = stay("shard 1", 0, 5, 1, 3 + WAKING / 2, "told"), stay("shard 1", 1, 6, 2, 4)
    verdict = judge(*stays, [Event(at=3, since=1.5, what="stalled", worker=0)])
    assert (len(verdict.forgiven), verdict.problems) == (1, [])
    assert judge(*stays, [Event(at=3, since=1.5, what="stalled", worker=1)]).overlaps


@pytest.mark.parametrize(
    ("adds", "number", "wrong"),
    [
        ([*add(0, 1, 1, 2), *add(0, 3, 3, 4)], None, "counted twice"),
        ([*add(0, 2, 1, 4), *add(1, None, 5)], None, "counted twice"),  # that one had not begun
        ([*add(0, 1, 1, 2), *add(1, None, 3)], 3, "counted twice"),
        ([*add(0, 1, 1, 3), *add(1, 1, 2, 4)], None, "two adds"),
        ([*add(0, 2, 1, 3), *add(1, None, 1), *add(0, 1, 4, 5)], None, "when it had been 2"),
        ([*add(0, 1, 1, 2), *add(0, 2, 3, 4)], 1, "it is 1 at the end"),
    ],
)
def test_wrong_numbers_are_found(adds: list[Event], number: int | None, wrong: str) -> None:
    """An add that was repeated blindly is counted twice; one that another has overwritten is lost."""
    [problem] = judge(adds, number=number).adds
    assert wrong in problem


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        (put("item a", 1), "it is gone"),
        ([*put("item a", 1), *stay("item a", 0, 1, 2, 3, "failed")], "it is gone"),
        (
            [*put("item a", 1), *stay("item a", 0, 1, 2, 3, name="1"), *stay("item a", 1, 2, 4, 5, name="2")],
            "put once",
        ),
        ([*put("item a", 1), *stay("item a", 0, 2, 2, 3), *stay("item a", 1, 2, 4, 5)], "out of order"),
        (
            [
                *put("item a", 1),
                *stay("item a", 0, 1, 2, 3),
                *acknowledged("item a", 3),
                *stay("item a", 1, 2, 4, 5),
            ],
            "was acknowledged",
        ),
    ],
    ids=["never handed out", "not handled to the end", "put twice", "attempts", "handed out again"],
)
def test_wrong_items_are_found(events: list[Event], wrong: str) -> None:
    [problem] = judge(events, number=0).items
    assert wrong in problem


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([*got("job 1", 0, 2, "a"), *got("job 1", 1, 3, "b")], "results"),
        (got("job 1", 0, 2, "b"), "results"),  # what is recorded is "a"
        ([*got("job 1", 0, 2, "a"), *stay("job 1", 1, 5, 3, 4)], "has the result"),
    ],
    ids=["two results", "not the recorded one", "run again"],
)
def test_wrong_results_are_found(events: list[Event], wrong: str) -> None:
    """These are of jobs that are run without a lock, or whose result is not recorded under it."""
    [problem] = judge(events, number=0).results
    assert wrong in problem


@pytest.mark.parametrize("stuck", [*PROGRESS, "shard 3"])
def test_what_does_not_go_on_is_found(stuck: str) -> None:
    """Each worker does each of its trades again when all is repaired, and each shard has an owner."""
    started = [Event(at=0, what="started", worker=worker) for worker in range(2)]
    before = [Event(at=1, what=what, worker=0, token=1) for what in PROGRESS]
    healed = [Event(at=2, what="healed")]
    since = [Event(at=3, what=what, worker=worker, token=3) for worker in range(2) for what in PROGRESS]
    since += [Event(at=4, what="worked", thing=f"shard {number}") for number in range(4)]
    left = [
        event for event in since if not (event.thing == stuck or (event.worker, event.what) == (0, stuck))
    ]
    shards = [f"shard {number}" for number in range(4)]
    assert idle([*started, *before, *healed, *since], shards) == []
    [problem] = idle([*started, *before, *healed, *left], shards)
    assert problem.split()[-1] in (stuck, "owner")


def test_errors_are_problems() -> None:
    failed = Event(at=1.5, what="failed", worker=3, text="put: NoNode()")
    assert judge([failed]).problems == ["worker 3: put: NoNode()"]
