"""One ensemble for these tests, whose members they change and mend, and the figures that they found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import corral
from corral.testing import LocalEnsemble
from support import started, told_by_tests

LOAD = "members"
"""The property in which a test records what its load has done."""


@pytest.fixture(scope="session")
def reconfigurable(real_servers: None) -> Iterator[LocalEnsemble]:
    """Three servers whose members can be changed."""
    with started(LocalEnsemble(3, reconfigurable=True)) as servers:
        yield servers


@pytest.fixture
async def superuser(reconfigurable: LocalEnsemble) -> AsyncIterator[corral.Client]:
    """A client that may reconfigure it."""
    hosts, auth = reconfigurable.hosts, [reconfigurable.superuser]
    async with corral.connect(hosts, session_timeout=4, auth=auth) as zk:
        yield zk


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if told := told_by_tests(terminalreporter, LOAD):
        terminalreporter.section("clients while members change")
        for line in told:
            terminalreporter.write_line(line)
