"""The servers of the nemesis runs; and their results, which are shown at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from checker import Verdict
from outcome import Tell, outcome
from plan import TICK
from service_checker import ServiceVerdict

from corral.testing import LocalEnsemble
from support import told_by_tests

PROPERTY = "under a nemesis"
"""The property in which the result of a run is recorded."""

SYNC_LIMIT = 10
"""In ticks: longer than a session. For so long a server that is cut off answers its clients."""


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[LocalEnsemble]:
    """Three servers of the test's own. Their logs are kept beside the records."""
    async with LocalEnsemble(3, tick_time=TICK, sync_limit=SYNC_LIMIT, partitionable=True) as three:
        yield three
        for number, server in enumerate(three.servers, start=1):
            (tmp_path / f"server-{number}.log").write_text(server.log)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Record the result of a run for the summary."""

    def told(what: str, verdict: Verdict | ServiceVerdict, faults: Counter[str]) -> None:
        record_property(PROPERTY, f"{what}: {outcome(verdict, faults)}")

    return told


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if told := sorted(told_by_tests(terminalreporter, PROPERTY)):
        terminalreporter.section(PROPERTY)
        for paragraph in told:
            terminalreporter.write_line(paragraph)
