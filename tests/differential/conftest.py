"""The two servers that are compared, and the counts of what was compared.

The real server is used by this folder only, on a local JVM. The comparison includes the zxids that each side
uses, so nobody else may write to it.

The number of random programs is CORRAL_DIFFERENTIAL_PROGRAMS, and their seed is CORRAL_DIFFERENTIAL_SEED;
without a seed they are the same in every run. (An option of pytest's would have to be in the conftest.py of
all tests.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import pytest
from compare import Comparison, Disagreement, compare
from program import Program, listing, requests_of
from runner import run
from servers import NEVER, SOON, embedded_server, real_server

from support import told_by_tests

PROPERTY = "real server and embedded server"
"""The property in which a test's counts are recorded."""


@dataclass
class _Tally:
    """What the current test has compared so far."""

    programs: int = 0
    steps: int = 0
    requests: int = 0

    def reset(self) -> None:
        """Start again for the next test."""
        self.programs = self.steps = self.requests = 0


_tally = _Tally()
_numbers = itertools.count()


def _comparison(sweep: float) -> Iterator[Comparison]:
    with real_server(sweep) as real:

        def compared(program: Program) -> None:
            __tracebackhide__ = True
            root = f"/program-{next(_numbers)}"
            _tally.programs += 1
            _tally.steps += len(program)
            _tally.requests += sum(len(requests_of(step)) for step in program)
            try:
                theirs = run(program, real, root)
            except OSError as error:
                raise AssertionError(f"a real server gives up ({error}) about\n{listing(program)}") from error
            try:
                ours = run(program, embedded_server(sweep), root)
            except Exception as error:
                raise Disagreement(
                    f"the embedded server fails ({error!r}) about\n{listing(program)}"
                ) from error
            compare(program, theirs, ours)

        yield compared


@pytest.fixture(scope="session")
def compared(real_servers: None) -> Iterator[Comparison]:
    """Both servers; they do nothing on their own except to expire sessions."""
    yield from _comparison(NEVER)


@pytest.fixture(scope="session")
def compared_sweeping(real_servers: None) -> Iterator[Comparison]:
    """Both servers; they remove empty containers and nodes whose TTL is over."""
    yield from _comparison(SOON)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    if call.when == "call":
        disagreed = call.excinfo is not None and call.excinfo.errisinstance(Disagreement)
        item.user_properties.append((PROPERTY, (*astuple(_tally), int(disagreed))))
        _tally.reset()
    return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if told := told_by_tests(terminalreporter, PROPERTY):
        programs, steps, requests, disagreements = map(sum, zip(*told, strict=True))
        terminalreporter.section(PROPERTY)
        terminalreporter.write_line(
            f"{programs} programs, {steps} steps, {requests} requests; {disagreements} disagreements"
        )
