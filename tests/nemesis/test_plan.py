"""The plan of the nemesis: the same for the same seed, and within its time."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from plan import SERVER_FAULTS, SERVER_PARTS, STOP, WORKER_FAULTS, WORKER_PARTS, plan

seeds, durations = st.integers(0, 2**32), st.floats(1, 200)


@given(seeds, durations, st.booleans())
def test_a_plan_is_a_function_of_its_seed(seed: int, seconds: float, stops: bool) -> None:
    """A seed gives the same faults each time. They begin and end within the run; no more than two servers are
    hit at once."""
    faults = plan(seed, seconds, stops=stops)
    assert faults == plan(seed, seconds, stops=stops)
    if seconds > 3:  # so that a fault begins after the first quiet time
        assert {STOP} & {fault.kind for fault in faults} if stops else faults
    for fault in faults:
        assert 0 < fault.at <= fault.end <= seconds
        assert fault.part in (SERVER_PARTS if fault.kind in SERVER_FAULTS else WORKER_PARTS)
        at_once = [each for each in faults if each.kind in SERVER_FAULTS and each.at <= fault.at <= each.end]
        assert len(at_once) <= (1 if stops else 2)


@given(seeds)
def test_every_fault_comes(seed: int) -> None:
    """A run of minutes has each kind of fault, for each role; workers are stopped only on request."""
    kinds = {(fault.kind, fault.part) for fault in plan(seed, 300)}
    assert kinds == {(kind, part) for kind in SERVER_FAULTS for part in SERVER_PARTS} | {
        (kind, part) for kind in WORKER_FAULTS for part in WORKER_PARTS
    }
    stops = plan(seed, 300, stops=True)
    assert {fault.kind for fault in stops} > {STOP}


@pytest.mark.parametrize("stops", [False, True])
def test_another_seed_is_another_plan(stops: bool) -> None:
    assert len({tuple(plan(seed, 30, stops=stops)) for seed in range(20)}) == 20
