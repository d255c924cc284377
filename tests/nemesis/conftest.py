"""The results of the nemesis runs, shown at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from checker import Verdict
from outcome import Tell, outcome

from support import told_by_tests

PROPERTY = "exclusion under a nemesis"
"""The property in which the result of a run is recorded."""


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Record the result of a run for the summary."""

    def told(what: str, verdict: Verdict, faults: Counter[str]) -> None:
        record_property(PROPERTY, f"{what}: {outcome(verdict, faults)}")

    return told


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if told := sorted(told_by_tests(terminalreporter, PROPERTY)):
        terminalreporter.section(PROPERTY)
        for paragraph in told:
            terminalreporter.write_line(paragraph)
