"""Tallies of the points that were tried, told at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corral.testing.enumerators import Tally

_tallies: list[Tally] = []


@pytest.fixture
def tell() -> Callable[[Tally], None]:
    """Have a tally told in the summary; and fail if a point has broken something, or none was reached."""

    def told(tally: Tally) -> None:
        _tallies.append(tally)
        assert not tally.broken, str(tally)
        assert tally.reached, str(tally)

    return told


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _tallies:
        return
    terminalreporter.section("points tried")
    for tally in _tallies:
        terminalreporter.write_line(str(tally))
    tried, reached, broken = (
        sum(tally.tried for tally in _tallies),
        sum(tally.reached for tally in _tallies),
        sum(len(tally.broken) for tally in _tallies),
    )
    terminalreporter.write_line(f"all: {tried} points tried, {reached} reached, {broken} broken")
