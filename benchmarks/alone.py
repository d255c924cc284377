"""Turns that are each taken in a process of its own, so that memory can be measured.

In one process memory that an earlier turn has freed is used again, and hides what this one takes. It is
measured as the system sees it, with what was needed only on the way and was not given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import Bench, Meter, Turn

PAGES = Path("/proc/self/statm")


def alone(bench: Bench, workload: str, name: str) -> Turn:
    """The turn of a client, as the workload's `alone` prepares it."""

    async def turn(meter: Meter) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("one_turn.py")),
            *(workload, bench.loop, bench.address, name),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            answer, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ChildProcessError(f"ended with status {process.returncode}")
        measures = json.loads(answer)
        meter.took(1, cpu=measures.pop("cpu"), wall=measures.pop("wall"))
        meter.counts.update(measures)

    return turn


def resident() -> int | None:
    """Bytes of this process that are in memory; None if the system does not tell (it is Linux that does)."""
    gc.collect()
    if not PAGES.exists():
        return None
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextlib.contextmanager
def grown(meter: Meter, measure: str, count: int) -> Iterator[None]:
    """Measure by how many bytes the process grows, for each of so many."""
    before = resident()
    yield
    after = resident()
    if before is not None and after is not None:
        meter.counts[measure] = (after - before) / count
