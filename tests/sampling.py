"""`--points=quarter` and `--points=tenth`: runs a part of the cases of each test that breaks or cancels at each
point, and of each conformance test, chosen by a seed that the header shows.

All of them take minutes in virtual time, and an hour on real servers. CI runs a quarter in virtual time and a
tenth on real servers, other ones in each run; `nox -s embedded` and `nox -s everything` run all. At least one
case of each test is kept, so that each run proves every promise on both.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["chosen", "is_sampled"]

PARTS = {"all": 1, "quarter": 4, "tenth": 10}
"""Of how many cases one runs."""

ONLY_REAL = frozenset({"real_servers", "ensemble"})
"""Fixtures of tests that do not run in virtual time: none of these tests is left out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("points", "Points at which tests break or cancel")
    group.addoption(
        "--points",
        choices=list(PARTS),
        default="all",
        help="of tests/points, *_cancel.py, *_loss.py and *_conformance.py all tests, or a part of each test's cases "
        "(default: all)",
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
    return f"points: a {points}; the same one again: --points={points} --points-seed={seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.points == "all":
        return
    kept = set(chosen(items, config.option.points_seed, PARTS[config.option.points]))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def is_sampled(item: pytest.Item) -> bool:
    """Whether it is one of many cases that all run in virtual time, too."""
    path = item.path
    is_one_of_many = path.name.startswith("test_points") or path.stem.endswith(
        ("_cancel", "_loss", "_conformance")
    )
    return is_one_of_many and ONLY_REAL.isdisjoint(getattr(item, "fixturenames", ()))


def chosen(items: Sequence[pytest.Item], seed: int, parts: int) -> list[pytest.Item]:
    """The items, with one in `parts` of the cases of each sampled test, rounded up."""
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0] if is_sampled(item) else None].append(item)
    kept = tests.pop(None, [])
    dice = random.Random(seed)
    for cases in tests.values():
        kept += dice.sample(cases, math.ceil(len(cases) / parts))
    return kept
