"""The table: for each workload and event loop a line for each client, and whether corral met the budgets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench import Budget, Workload
from clients import MODULES
from results import Result, Results
from workloads import WORKLOADS

SCALE = {"us": 1e6, "ms": 1e3, "s": 1.0}
TIMES = ("cpu", "wall")
# The widths of the columns: client, CPU, its range, ratio, wall, its range.
LINE = "  {:8} {:>8} {:17} {:>7} {:>8} {:17} {}"


def table(results: Results) -> str:
    """The whole table."""
    lines = [", ".join(f"{name} {value}" for name, value in results.about.items())]
    for result in results.results:
        lines += ["", *_section(WORKLOADS[result.workload], result)]
    return "\n".join(lines)


def _section(workload: Workload, result: Result) -> Iterator[str]:
    spread = _spread(result, workload.main)
    noise = "" if spread is None else f"; the floor's rounds vary by {spread:.0%}"
    yield f"{workload.title} ({result.loop}, {workload.unit}{noise})"
    yield LINE.format("", "CPU", "", "x floor", "wall", "", "").rstrip()
    for client in (name for name in MODULES if name in result.measures):
        measures = result.measures[client]
        ratio = result.ratio(client, workload.main)
        counts = ", ".join(
            f"{name} {statistics.median(values):.4g}"
            for name, values in measures.items()
            if name not in TIMES
        )
        yield LINE.format(
            client,
            *_figure(measures.get("cpu"), workload),
            "" if ratio is None else f"{ratio:.2f}",
            *_figure(measures.get("wall"), workload),
            counts,
        ).rstrip()
    for client, why in result.failed.items():
        yield f"  {client:8} {why}"
    for budget in workload.budgets:
        if (said := judged(budget, workload, result)) is not None:
            yield f"  {said}"


def _figure(values: list[float] | None, workload: Workload) -> tuple[str, str]:
    """The median, and the range."""
    if not values:
        return "", ""
    median, least, most = (
        f"{value * SCALE[workload.unit]:.{2 if workload.unit == 's' else 1}f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return median, f"({least}-{most})"


def _spread(result: Result, measure: str) -> float | None:
    """The range of the floor's rounds, relative to their median: a measure of noise."""
    values = result.measures.get("floor", {}).get(measure)
    if not values or len(values) < 2:
        return None
    return (max(values) - min(values)) / statistics.median(values)


def judged(budget: Budget, workload: Workload, result: Result) -> str | None:
    """A sentence about a budget; None if corral was not measured."""
    figure = (result.ratio if budget.of_floor else result.median)("corral", budget.measure)
    if figure is None:
        return None
    unit = " x floor" if budget.of_floor else ""
    if not budget.of_floor and budget.measure in TIMES:
        unit = f" {workload.unit}"
        figure *= SCALE[workload.unit]
    excess = budget.excess(figure)
    verdict = "met" if excess <= 0 else f"MISSED by {excess:.0%}"
    if budget.of_floor:
        each = result.ratios("corral", budget.measure)
        verdict += f" (met in {sum(budget.excess(one) <= 0 for one in each)} of {len(each)} rounds)"
    return f"budget for {budget.measure}: {budget.bound:g}{unit}; corral {figure:.2f}: {verdict}"
