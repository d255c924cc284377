"""`--points` skips most of the cases of tests that have many, and nothing else, by a seed."""

from __future__ import annotations

import re

import pytest

from sampling import some

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
    """Sampled tests in four files; other tests in two of them, and in two files, one of which is in a folder that
    runs in virtual time, too."""
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
            "recipes/test_it": POINTS + other,
        }
    )


def ran(pytester: pytest.Pytester, *arguments: str) -> tuple[set[str], int]:
    """The tests that passed, after checking that none failed, and the seed."""
    result = pytester.runpytest_inprocess("-v", *QUIET, *arguments)
    assert result.ret == 0
    [seed] = [
        int(line.rpartition("=")[2]) for line in result.outlines if line.startswith("points: twentieth")
    ]
    passed = [re.search(r"test_\w+\.py::\S+", line) for line in result.outlines if "PASSED" in line]
    return {name[0] for name in passed if name}, seed


def test_a_twentieth(pytester: pytest.Pytester) -> None:
    """A twentieth of the cases of each sampled test runs, at least one; and of others in a folder that runs in
    virtual time, too, four. All tests on real servers run, and all elsewhere."""
    result = pytester.runpytest_inprocess(*QUIET, "--points=twentieth")
    result.assert_outcomes(passed=4 * (2 + 1) + (4 + 3) + 3 + 43, deselected=4 * (38 + 2) + 36)


def test_an_eighth(pytester: pytest.Pytester) -> None:
    """An eighth of the cases of each sampled test runs, and everything else."""
    result = pytester.runpytest_inprocess(*QUIET, "--points=eighth")
    result.assert_outcomes(passed=4 * (5 + 1) + 3 + 2 * 43, deselected=4 * (35 + 2))


def test_all(pytester: pytest.Pytester) -> None:
    """By default every case runs."""
    result = pytester.runpytest_inprocess(*QUIET)
    result.assert_outcomes(passed=6 * 43 + 3)


def test_the_seed(pytester: pytest.Pytester) -> None:
    """The header shows the seed, and the workers of pytest-xdist share it. With that seed the same cases run
    again; with another seed others do."""
    first, seed = ran(pytester, "--points=twentieth", "-n2")
    assert len(first) == 4 * (2 + 1) + (4 + 3) + 3 + 43
    assert ran(pytester, "--points=twentieth", f"--points-seed={seed}") == (first, seed)
    assert ran(pytester, "--points=twentieth", f"--points-seed={seed + 1}")[0] != first


def test_some_points() -> None:
    """A part of the points in their order, at least one, the same for the same seed, and in time all."""
    points = list(range(10))
    draws = [some(points, one_of=3, seed=seed) for seed in range(50)]
    assert draws == [some(points, one_of=3, seed=seed) for seed in range(50)]
    assert all(len(draw) == 4 and draw == sorted(draw) for draw in draws)
    assert {point for draw in draws for point in draw} == set(points)
    assert some(points, one_of=1, seed=0) == points
    assert some([], one_of=3, seed=0) == []
