"""What a seed determines, and the result of its run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fuzz_liar import Style, choose_style
from fuzz_watchers import WATCHERS
from fuzz_workers import WORKERS, Cycle

NEW_IN_3_6 = ("watching_tree", "watching_some", "watching_raw", "caching")
"""Workers that need a server of version 3.6 or newer."""
LINES_OF_A_REPORT = 60
CYCLES: dict[str, Cycle] = {**WORKERS, **WATCHERS}


@dataclass(slots=True)
class Plan:
    """The choices of one seed. Times are in seconds."""

    seed: int
    timeout: float
    """The requested session timeout."""
    version: Any
    """The version of the server."""
    options: dict[str, Any]
    """Options of the client."""
    connect_timeout: float
    workers: tuple[str, ...]
    style: Style
    has_weather: bool
    honest_before: float | None
    """How long there are no lies at first; None if they begin before there is a session."""
    lying: float
    """How long lies are told."""
    leaves_after: float | None
    """When the client leaves, if it does so before the lies end."""
    ends_sessions: bool
    """Whether all sessions are ended after the lies."""

    @property
    def bound(self) -> float:
        """Everything must work again within so many seconds after the lies."""
        return 6 * self.timeout + 30

    def __str__(self) -> str:
        style = self.style
        lies = ", ".join(dict.fromkeys(lie.name for lie in style.lies))
        at = "from the start" if self.honest_before is None else f"after {self.honest_before:.1f} s"
        leaves = "" if self.leaves_after is None else f", leaves after {self.leaves_after:.1f} s"
        return (
            f"T={self.timeout:g}, server {self.version}, {', '.join(self.workers)}; {style.name} ({lies:.60}) at "
            f"{style.rate:g} of {style.target or 'all'}, at most {style.most}, {at}, {self.options or ''}{leaves}"
        )


def make_plan(seed: int, workers: Sequence[str] | None = None) -> Plan:
    """The plan of a seed; with other workers, if some are given."""
    rng = random.Random(seed)
    timeout = rng.choice((1.0, 2.0, 4.0, 4.0, 10.0))
    version = rng.choice(("3.8", "3.8", "3.8", "3.9", "3.5"))
    able = [name for name in CYCLES if version != "3.5" or name not in NEW_IN_3_6]
    options: dict[str, Any] = {"lease": "ping"} if rng.random() < 0.1 else {}
    if rng.random() < 0.2:
        options["auth"] = [("digest", b"user:secret")]
    style = choose_style(rng)
    return Plan(
        seed=seed,
        timeout=timeout,
        version=version,
        options=options,
        connect_timeout=rng.choice((2.0, 15.0)),
        workers=tuple(workers or rng.sample(able, k=rng.choice((1, 2, 4, 6)))),
        style=style,
        has_weather=style.name == "honest" or rng.random() < 0.3,
        honest_before=None if rng.random() < 0.3 else rng.uniform(0, timeout),
        lying=timeout * rng.choice((0.5, 1.0, 2.0, 4.0)),
        leaves_after=rng.uniform(0, 3 * timeout) if rng.random() < 0.1 else None,
        ends_sessions=rng.random() < 0.4,
    )


@dataclass
class Report:
    """The result of a run."""

    plan: Plan
    violations: list[str] = field(default_factory=list)
    """Each begins with a signature, up to ``": "``, which is the same for the same defect in other runs."""
    lies: list[str] = field(default_factory=list)
    """Each lie, and when it was told; and what else was done, and when."""
    weather: list[str] = field(default_factory=list)
    numbers: str = ""

    def __str__(self) -> str:
        done = sorted(self.lies + self.weather, key=lambda each: float(each.split()[0]))
        more = len(done) - LINES_OF_A_REPORT
        left_out = [f"... {more} more"] if more > 0 else []
        lines = [
            f"seed {self.plan.seed}: {self.plan}",
            *self.violations,
            *done[:LINES_OF_A_REPORT],
            *left_out,
        ]
        return "\n  ".join([*lines, self.numbers])

    @property
    def signatures(self) -> list[str]:
        """The signatures of the violations."""
        return sorted({each.partition(": ")[0] for each in self.violations})
