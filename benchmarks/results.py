"""The measurements, and the machine they were made on, in a file from which a table or a plot can be made
later."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Self

Measures = dict[str, list[float]]
"""For each measure by name, a figure for each round."""


@dataclass
class Result:
    """One workload on one event loop: the measures of each client, and which clients were left out, and
    why."""

    workload: str
    loop: str
    measures: dict[str, Measures] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, client: str, measures: dict[str, float]) -> None:
        """Add a round of a client."""
        for name, value in measures.items():
            self.measures.setdefault(client, {}).setdefault(name, []).append(value)

    def median(self, client: str, measure: str) -> float | None:
        """The median of a measure; None if it was not measured."""
        values = self.measures.get(client, {}).get(measure)
        return statistics.median(values) if values else None

    def ratio(self, client: str, measure: str) -> float | None:
        """The ratio to the floor; None if one of the two was not measured."""
        ours, floor = self.median(client, measure), self.median("floor", measure)
        return ours / floor if ours is not None and floor else None

    def ratios(self, client: str, measure: str) -> list[float]:
        """As `ratio`, for each round separately: a miss in all of them is not noise."""
        ours, floor = (self.measures.get(name, {}).get(measure, []) for name in (client, "floor"))
        return [one / other for one, other in zip(ours, floor, strict=False)]


@dataclass
class Results:
    """One run."""

    about: dict[str, str]
    results: list[Result] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved file."""
        raw = json.loads(path.read_text())
        return cls(raw["about"], [Result(**each) for each in raw["results"]])

    def save(self, path: Path) -> None:
        """Save one line for each workload and event loop, with six significant digits."""
        lines = [json.dumps(_rounded(asdict(result))) for result in self.results]
        body = ",\n  ".join(lines)
        path.write_text(f'{{"about": {json.dumps(self.about)},\n "results": [\n  {body}]}}\n')


def about_this_machine(clients: list[str]) -> dict[str, str]:
    """The environment that the figures depend on."""
    versions = {name: metadata.version(name) for name in (*clients, "uvloop") if name != "floor"}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **versions,
    }


def load_average() -> str:
    """The load average of the last minute: how many processes wanted to run."""
    return f"{os.getloadavg()[0]:.1f}"


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
