"""Which faults there will be, and when: a pure function of a seed.

CORRAL_NEMESIS_SECONDS is for how long there are faults (a few seconds by default), and CORRAL_NEMESIS_SEED
chooses them. They are the same for the same seed; how workers and servers react is not.

The target of a fault is given by its role ("the holder", "the leader"), since a seed cannot know who has that
role at the time. Faults that hit the holder of the lock, or the server that it is connected to, matter most,
so there are many of them.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

SECONDS = float(os.environ.get("CORRAL_NEMESIS_SECONDS", "10"))
SEED = int(os.environ.get("CORRAL_NEMESIS_SEED", "17956"))
"""The default seed: its shortest plans have faults of every kind."""

T = 3.0
"""The workers' session timeout, in seconds."""
TICK = 0.5
"""The servers' tick."""

ServerFault = Literal["server killed", "server paused", "server cut off"]
WorkerFault = Literal[
    "links black-holed", "answers black-holed", "links cut", "worker killed", "worker stopped"
]
ServerPart = Literal["the leader", "a follower", "the holder's server"]
WorkerPart = Literal["the holder", "a worker"]

Kind = ServerFault | WorkerFault
Part = ServerPart | WorkerPart

SERVER_FAULTS: Sequence[ServerFault] = ("server killed", "server paused", "server cut off")
WORKER_FAULTS: Sequence[WorkerFault] = (
    "links black-holed",
    "answers black-holed",
    "links cut",
    "worker killed",
)
STOP: WorkerFault = "worker stopped"
"""It causes overlaps that nothing can prevent."""

LASTING: Mapping[Kind, tuple[float, float]] = {
    "server killed": (0.2, T),
    "server paused": (0.5, 2.2 * T),
    "server cut off": (0.5 * T, 2.8 * T),
    "links black-holed": (0.5 * T, 2.7 * T),
    "answers black-holed": (0.3 * T, 2 * T),
    "links cut": (0.0, 0.0),
    "worker killed": (0.1, 1.0),
    "worker stopped": (0.2 * T, 2.5 * T),
}
"""How long each fault lasts: the minimum and the maximum, in seconds."""

SERVER_PARTS: Sequence[ServerPart] = ("the leader", "a follower", "the holder's server")
WORKER_PARTS: Sequence[WorkerPart] = ("the holder", "the holder", "a worker")

# How often a round has no server fault, one, or two, which may leave no quorum.
_SERVERS_AT_ONCE = (0, 1, 1, 1, 1, 1, 2)
_WORKERS_AT_ONCE = (0, 1, 1, 2, 2)
_STOPS_AT_ONCE = (1, 1, 2)
_CALM = (0.3, 1.5)
_SPREAD = 1.0  # the faults of a round begin within so many seconds


class Fault(NamedTuple):
    """One fault: when it begins and when it ends, in seconds, and its target."""

    at: float
    end: float
    kind: Kind
    part: Part
    which: int
    """Chooses a target if several have the role, or none has it at the time."""

    @property
    def seconds(self) -> float:
        return self.end - self.at


_A = TypeVar("_A")


def plan(seed: int, seconds: float, *, stops: bool = False) -> list[Fault]:
    """The faults of a run of so many seconds, a few at a time: rounds, and a quiet time after each.

    With `stops` workers are also stopped and resumed, in each round, and there are fewer other faults.
    """
    dice = random.Random(seed)
    # Those that last beyond a session's end are in the list twice.
    of_server: list[ServerFault] = [*SERVER_FAULTS, "server cut off"]
    of_worker: list[WorkerFault] = [*WORKER_FAULTS, "links black-holed"]
    server_faults = _shuffled(dice, [(kind, part) for kind in of_server for part in SERVER_PARTS])
    worker_faults = _shuffled(dice, [(kind, part) for kind in of_worker for part in WORKER_PARTS])
    stopped = _shuffled(dice, [(STOP, part) for part in WORKER_PARTS])
    faults: list[Fault] = []
    begin = dice.uniform(*_CALM)
    while begin + _SPREAD < seconds:
        servers, workers = dice.choice(_SERVERS_AT_ONCE), dice.choice(_WORKERS_AT_ONCE)
        if stops:
            servers, workers = min(servers, 1), min(workers, 1)
        chosen = [
            *itertools.islice(server_faults, servers),
            *itertools.islice(worker_faults, workers if stops or servers else max(workers, 1)),
            *itertools.islice(stopped, dice.choice(_STOPS_AT_ONCE) if stops else 0),
        ]
        for kind, part in chosen:
            at = begin + dice.uniform(0, _SPREAD)
            end = min(at + dice.uniform(*LASTING[kind]), seconds)
            faults.append(Fault(at, end, kind, part, dice.randrange(1 << 16)))
        begin = max([begin, *(fault.end for fault in faults)]) + dice.uniform(*_CALM)
    return sorted(faults)


def _shuffled(dice: random.Random, cards: list[_A]) -> Iterator[_A]:
    """An endless shuffled deck: each card comes once before any comes again."""
    while True:
        dice.shuffle(cards)
        yield from cards
