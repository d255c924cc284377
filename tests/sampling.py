"""`--points=tenth`: runs a tenth of the cases of each test that breaks or cancels at each point, and of each
conformance test, chosen by a seed that the header shows.

On real servers all of them take minutes, and in virtual time, where CI runs all of them, seconds. A tenth on
real servers checks that the two agree, and each run has another tenth. At least one case of each test is
kept, so that each run proves every promise on a real server.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["chosen", "is_sampled"]

ONLY_REAL = frozenset({"real_servers", "ensemble"})
"""Fixtures of tests that do not run in virtual time: none of these tests is left out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("points", "Points at which tests break or cancel")
    group.addoption(
        "--points",
        choices=["all", "tenth"],
        default="all",
        help="of tests/points, *_cancel.py, *_loss.py and *_conformance.py all tests, or a tenth of each test's cases "
        "(default: all)",
    )
    group.addoption("--points-seed", type=int, help="choose the tenth that this number stands for")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.points_seed is None:
        drawn = random.randrange(1 << 16)
        config.option.points_seed = getattr(config, "workerinput", {}).get("points_seed", drawn)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of pytest-xdist is about to start: all of them must choose the same cases."""
    node.workerinput["points_seed"] = node.config.option.points_seed


def pytest_report_header(config: pytest.Config) -> str:
    if config.option.points == "all":
        return "points: all"
    return f"points: a tenth; the same one again: --points=tenth --points-seed={config.option.points_seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.points == "all":
        return
    kept = set(chosen(items, config.option.points_seed))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def is_sampled(item: pytest.Item) -> bool:
    """Whether it is one of many cases that all run in virtual time, too."""
    path = item.path
    is_one_of_many = path.name.startswith("test_points") or path.stem.endswith(
        ("_cancel", "_loss", "_conformance")
    )
    return is_one_of_many and ONLY_REAL.isdisjoint(getattr(item, "fixturenames", ()))


def chosen(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """The items without nine tenths of the cases of each sampled test; the rest is rounded up."""
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0] if is_sampled(item) else None].append(item)
    kept = tests.pop(None, [])
    dice = random.Random(seed)
    for cases in tests.values():
        kept += dice.sample(cases, math.ceil(len(cases) / 10))
    return kept
