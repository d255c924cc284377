"""`--points=eighth` and the like: runs a part of the cases of tests that have many, chosen by a seed that the
header shows.

All cases take minutes in virtual time, and an hour on real servers. CI runs an eighth in virtual time and a
twentieth on real servers, other ones in each run; `nox -s embedded` and `nox -s everything` run all. At least
one case of each test is kept, so that each run proves every promise on both.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

__all__ = ["SHARES", "chosen", "is_sampled", "some"]

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """How many cases of a test run."""

    one_of: int
    """Of how many cases one runs, of a test that breaks or cancels at each point, or is about each kind."""
    most: int | None = None
    """How many cases run of any other test that runs in virtual time with all of them."""
    one_point_of: int = 1
    """Of how many points at which a case breaks or cancels one is tried."""

    def of(self, cases: Sequence[pytest.Item]) -> int:
        """How many of a test's cases run."""
        if is_sampled(cases[0]):
            return math.ceil(len(cases) / self.one_of)
        if self.most is not None and is_virtual_too(cases[0]):
            return min(len(cases), self.most)
        return len(cases)


SHARES = {
    "all": Share(1),
    "quarter": Share(4),
    "eighth": Share(8),
    "twentieth": Share(20, most=4, one_point_of=3),
}

VIRTUAL_TOO = frozenset({"tests", "recipes", "watch"})
"""The folders whose tests run in virtual time, too (see noxfile.py), and are about servers."""

ONLY_REAL = frozenset({"real_servers", "ensemble"})
"""Fixtures of tests that do not run in virtual time: none of these tests is left out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("points", "Points at which tests break or cancel")
    group.addoption(
        "--points",
        choices=list(SHARES),
        default="all",
        help="of each test of tests/points, *_cancel.py, *_loss.py and *_conformance.py all cases, or a part; with "
        "twentieth, of each other test that runs in virtual time, too, at most four; and a third of the points (default: all)",
    )
    group.addoption("--points-seed", type=int, help="choose the part that this number stands for")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.points_seed is None:
        drawn = random.randrange(1 << 16)
        config.option.points_seed = getattr(config, "workerinput", {}).get("points_seed", drawn)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of pytest-xdist is about to start: all of them must choose the same cases."""
    node.workerinput["points_seed"] = node.config.option.points_seed


def pytest_report_header(config: pytest.Config) -> str:
    points, seed = config.option.points, config.option.points_seed
    if points == "all":
        return "points: all"
    return f"points: {points}; the same one again: --points={points} --points-seed={seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.points == "all":
        return
    kept = set(chosen(items, config.option.points_seed, SHARES[config.option.points]))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def is_sampled(item: pytest.Item) -> bool:
    """Whether it is one of many cases that all run in virtual time, too."""
    path = item.path
    is_one_of_many = path.name.startswith("test_points") or path.stem.endswith(
        ("_cancel", "_loss", "_conformance")
    )
    return is_one_of_many and not _is_only_real(item)


def is_virtual_too(item: pytest.Item) -> bool:
    """Whether it runs in virtual time, too."""
    return item.path.parent.name in VIRTUAL_TOO and not _is_only_real(item)


def _is_only_real(item: pytest.Item) -> bool:
    return not ONLY_REAL.isdisjoint(getattr(item, "fixturenames", ()))


def chosen(items: Sequence[pytest.Item], seed: int, share: Share) -> list[pytest.Item]:
    """The items, without those cases of each test that are more than its share."""
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    kept = []
    dice = random.Random(seed)
    for cases in tests.values():
        kept += dice.sample(cases, share.of(cases))
    return kept


def some(points: Sequence[T], *, one_of: int, seed: int) -> list[T]:
    """A part of the points, rounded up, in their order."""
    places = random.Random(seed).sample(range(len(points)), math.ceil(len(points) / one_of))
    return [points[place] for place in sorted(places)]
