"""The plot of the README, made from saved results: client CPU time relative to the floor; less is better.

    python benchmarks/plot.py results.json docs/benchmarks.svg

For each workload there is a bar for corral, aiozk and kazoo: the median CPU time, as a ratio to the floor's,
on asyncio's loop. The scale is logarithmic, since the ratio of a peer's thousand locks is very large; the
floor is the line at 1. The colours are legible on light and on dark backgrounds, and the background is
transparent.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from results import Result, Results

SHOWN = {
    "get": "pipelined get",
    "set": "pipelined set",
    "get-in-turn": "sequential get",
    "lock": "lock cycle",
    "thousand-locks": "1,000 locks at once",
    "handoffs": "lock handoff, 20 sessions",
    "watchers": "change seen by 1,000 watchers",
    "follow": "change of 5,000 watched nodes",
    "connect": "connect",
}
COLOURS = {"corral": "#2f81f7", "aiozk": "#d29922", "kazoo": "#8b949e"}
TEXT = "#7d8590"
LOOP = "asyncio"

WIDTH, LABELS, RIGHT, TOP = 760, 210, 60, 56
BAR, GAP, FOOT = 11, 14, 34
GROUP = len(COLOURS) * BAR + GAP
TICKS = (1, 2, 5, 10, 20, 50, 100)


class Bar(NamedTuple):
    """One client in one workload."""

    client: str
    ratio: float


def groups(results: Results) -> Iterator[tuple[str, list[Bar]]]:
    """The label and the bars of each workload that was measured."""
    found: dict[str, Result] = {each.workload: each for each in results.results if each.loop == LOOP}
    for name, label in SHOWN.items():
        if name in found:
            ratios = {client: found[name].ratio(client, "cpu") for client in COLOURS}
            yield label, [Bar(client, ratio) for client, ratio in ratios.items() if ratio is not None]


def text(x: float, y: float, said: str, anchor: str = "start", fill: str = TEXT, size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{said}</text>'
    )


def svg(shown: Sequence[tuple[str, list[Bar]]], about: dict[str, str]) -> str:
    """The whole picture."""
    highest = max([2.0, *(bar.ratio for _, bars in shown for bar in bars)])
    height = TOP + GROUP * len(shown) + FOOT

    def x(ratio: float) -> float:
        # A bar begins at a ratio of one half, so that one as short as the floor's is visible.
        share = math.log(max(ratio, 0.5) * 2) / math.log(highest * 2)
        return LABELS + share * (WIDTH - LABELS - RIGHT)

    title = "Client CPU time per operation, as a multiple of the floor (less is better; logarithmic)"
    parts = [text(0, 16, title, size=14)]
    for number, (client, colour) in enumerate(COLOURS.items()):
        left = LABELS + 90 * number
        parts.append(f'<rect x="{left}" y="26" width="11" height="11" fill="{colour}"/>')
        parts.append(text(left + 16, 36, client))
    bottom = height - FOOT
    for tick in (tick for tick in TICKS if tick <= highest):
        line = 'stroke-width="1.5"' if tick == 1 else 'stroke-dasharray="2 4"'
        parts.append(f'<path d="M{x(tick):.1f} {TOP - 8}V{bottom}" stroke="{TEXT}" {line}/>')
        parts.append(text(x(tick), bottom + 14, "floor" if tick == 1 else f"{tick}x", "middle", size=11))
    for number, (label, bars) in enumerate(shown):
        top = TOP + GROUP * number
        parts.append(text(LABELS - 10, top + GROUP / 2 - 2, label, "end"))
        for bar in bars:
            wide = x(bar.ratio) - x(0.5)
            colour = COLOURS[bar.client]
            parts.append(
                f'<rect x="{LABELS}" y="{top}" width="{wide:.1f}" height="{BAR - 1}" fill="{colour}"/>'
            )
            parts.append(text(x(bar.ratio) + 4, top + BAR - 2, f"{bar.ratio:.1f}", size=10))
            top += BAR
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *COLOURS) if name in about)
    parts.append(text(0, height - 4, f"{versions}; {about.get('system', '')}; {LOOP}'s loop", size=10))
    body = "\n".join(parts)
    family = 'font-family="system-ui, sans-serif"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {family}>\n{body}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("svg", type=Path)
    options = parser.parse_args()
    results = Results.load(options.results)
    options.svg.write_text(svg(list(groups(results)), results.about))


if __name__ == "__main__":
    main()
