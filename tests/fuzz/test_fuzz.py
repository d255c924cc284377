"""Whatever a man in the middle makes of the messages: a client recovers, says nothing but what is documented, and
leaves nothing behind (S1, S7, L3, W3). One seed is one run; see `fuzz_run`.

CORRAL_FUZZ_SEEDS is how many seeds are run, CORRAL_FUZZ_FIRST the first of them; `nox -s fuzz` takes many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from fuzz_checks import summary
from fuzz_lies import LIES
from fuzz_run import Report, run

import corral
from corral.watch.feed import Feeds

FIRST = int(os.environ.get("CORRAL_FUZZ_FIRST", "0"))
SEEDS = int(os.environ.get("CORRAL_FUZZ_SEEDS", "200"))
CHUNK = 20
"""Seeds in one test."""


def run_again_if_slow(seed: int) -> Report:
    """A turn of the loop that takes long must do so twice: a machine may be busy."""
    report = run(seed)
    return run(seed) if summary(report.violations) == ["the loop is blocked"] else report


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    """Each run is held to what `fuzz_run` says."""
    broken = []
    for seed in range(first, min(first + CHUNK, FIRST + SEEDS)):
        print(f"seed {seed}")  # told if the run never ends
        report = run_again_if_slow(seed)
        if report.violations:
            broken.append(str(report))
    assert not broken, "\n\n".join(broken)


def test_a_seed_is_a_run() -> None:
    """The same seed is the same run, to the last lie."""
    for seed in range(10):
        one, other = run(seed), run(seed)
        assert (one.scenario, one.lies, one.weather, one.numbers) == (
            other.scenario, other.lies, other.weather, other.numbers,
        )  # fmt: skip


def found_by(make: Callable[..., corral.Client], seeds: range) -> set[str]:
    """What runs of a client that is broken have shown: without what depends on who was at work."""
    return {each for seed in seeds for each in summary(run(seed, make).violations)}
