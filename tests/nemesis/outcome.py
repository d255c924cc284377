"""The result of a run, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from checker import Verdict
from service_checker import ServiceVerdict

Tell: TypeAlias = Callable[[str, Verdict | ServiceVerdict, Counter[str]], None]
"""Reports a run: what it was, what was found and which faults there were."""


def outcome(verdict: Verdict | ServiceVerdict, faults: Counter[str]) -> str:
    """A paragraph about a run."""
    of_kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items()))
    forgiven = sum(overlap.seconds for overlap in verdict.forgiven)
    if isinstance(verdict, ServiceVerdict):
        counts, lost = verdict.counts, sum(stay.why == "told" for stay in verdict.stays)
        return "\n  ".join(
            [
                f"{counts['adding']} adds, {counts['added']} of them answered; {counts['putting']} items put, {counts['put']} "
                f"answered, {counts['acknowledged']} acknowledged; {counts['got']} results of jobs",
                f"{len(verdict.stays)} entries; {lost} things lost, and those who had them told",
                f"{faults.total()} faults: {of_kinds}",
                f"{len(verdict.overlaps)} overlaps; {len(verdict.forgiven)} more ({forgiven:.2f} s) while the first one slept",
            ]
        )
    lost = verdict.reasons["told"] + verdict.reasons["refused"]
    return "\n  ".join(
        [
            f"{len(verdict.intervals)} entries, {verdict.reasons['done']} releases, {verdict.writes} writes",
            f"{faults.total()} faults: {of_kinds}",
            f"{len(verdict.overlaps)} overlaps; {len(verdict.forgiven)} more ({forgiven:.2f} s) while the first one slept",
            f"{len(verdict.disorder)} tokens and {len(verdict.unfenced)} writes out of order",
            f"{lost} locks lost, and their holders told",
            f"nobody in for {verdict.empty:.2f} s at the longest, {verdict.idle:.2f} s without faults of servers; "
            f"{len(verdict.stuck)} stuck",
        ]
    )
