"""`--points` skips most of the cases of each sampled test and nothing else, by a seed."""

from __future__ import annotations

import re

import pytest

pytest_plugins = ["pytester"]

POINTS = """
import pytest

@pytest.mark.parametrize("point", range(40))
def test_point(point):
    print("ran", point)

@pytest.mark.parametrize("few", range(3))
def test_few(few):
    pass
"""


# With importlib, and in a folder, since the real tests/points/test_points.py may be imported in this process.
QUIET = ("-p", "no:cacheprovider", "-p", "no:asyncio", "--import-mode=importlib")


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester) -> None:
    """Sampled tests in four files, and other tests in two of them and elsewhere."""
    pytester.makeconftest("""
        import pytest

        pytest_plugins = ["sampling"]

        @pytest.fixture
        def real_servers():
            pass
    """)
    other = "\ndef test_other(real_servers):\n    pass\n"
    pytester.makepyfile(
        **{
            "sampled/test_points": POINTS,
            "sampled/test_a_loss": POINTS + other,
            "sampled/test_a_cancel": POINTS + other,
            "sampled/test_a_conformance": POINTS,
            "sampled/test_beside": POINTS,
        }
    )


def ran(pytester: pytest.Pytester, *arguments: str) -> tuple[set[str], int]:
    """The tests that passed, after checking that none failed, and the seed."""
    result = pytester.runpytest_inprocess("-v", *QUIET, *arguments)
    assert result.ret == 0
    [seed] = [int(line.rpartition("=")[2]) for line in result.outlines if line.startswith("points: a tenth")]
    passed = [re.search(r"test_\w+\.py::\S+", line) for line in result.outlines if "PASSED" in line]
    return {name[0] for name in passed if name}, seed


def test_a_tenth(pytester: pytest.Pytester) -> None:
    """A tenth of the cases of each test runs, at least one; all tests on real servers run, and all that are
    not sampled."""
    result = pytester.runpytest_inprocess(*QUIET, "--points=tenth")
    result.assert_outcomes(passed=4 * (4 + 1) + 2 + 43, deselected=4 * (36 + 2))


def test_a_quarter(pytester: pytest.Pytester) -> None:
    """A quarter of the cases of each test runs."""
    result = pytester.runpytest_inprocess(*QUIET, "--points=quarter")
    result.assert_outcomes(passed=4 * (10 + 1) + 2 + 43, deselected=4 * (30 + 2))


def test_all(pytester: pytest.Pytester) -> None:
    """By default every case runs."""
    result = pytester.runpytest_inprocess(*QUIET)
    result.assert_outcomes(passed=5 * 43 + 2)


def test_the_seed(pytester: pytest.Pytester) -> None:
    """The header shows the seed, and the workers of pytest-xdist share it. With that seed the same cases run
    again; with another seed others do."""
    first, seed = ran(pytester, "--points=tenth", "-n2")
    assert len(first) == 4 * (4 + 1) + 2 + 43
    assert ran(pytester, "--points=tenth", f"--points-seed={seed}") == (first, seed)
    assert ran(pytester, "--points=tenth", f"--points-seed={seed + 1}")[0] != first
