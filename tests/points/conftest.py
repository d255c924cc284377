"""Where scenarios run, and the counts of the points that were tried, shown at the end of the run."""

from __future__ import annotations

import functools
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scenarios import Connect, Stage

import corral
from corral.testing import FaultProxy
from corral.testing.enumerators import Choose, Report
from sampling import SHARES, some
from support import told_by_tests

PROPERTY = "points tried"
"""The property in which a test's report is recorded."""


@pytest.fixture
def choose(request: pytest.FixtureRequest) -> Choose:
    """With `--points`, a part of the points as well; other ones in each run."""
    option = request.config.option
    return functools.partial(some, one_of=SHARES[option.points].one_point_of, seed=option.points_seed)


@pytest.fixture
async def stage(connect: Connect, proxy: FaultProxy, other: corral.Client, choose: Choose) -> Stage:
    return Stage(connect, proxy, other, itertools.count(), choose=choose)


@pytest.fixture(autouse=True)
def quick_garbage() -> Iterator[None]:
    """Each point collects garbage: objects that existed before are not examined each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[Report], None]:
    """Record a report for the summary; fail if an invariant was violated at a point, or no point was
    reached."""

    def told(report: Report) -> None:
        record_property(PROPERTY, (str(report), report.tried, report.reached, len(report.broken)))
        assert not report.broken, str(report)
        assert report.reached, str(report)

    return told


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if told := sorted(told_by_tests(terminalreporter, PROPERTY)):
        terminalreporter.section(PROPERTY)
        lines, tried, reached, broken = zip(*told, strict=True)
        for line in lines:
            terminalreporter.write_line(line)
        terminalreporter.write_line(
            f"all: {sum(tried)} points tried, {sum(reached)} reached, {sum(broken)} broken"
        )
