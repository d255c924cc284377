"""Turns that each run in a process of their own, so that memory can be measured.

Within one process, memory that an earlier turn has freed is reused, and hides what a later turn needs. Memory
is measured as the system reports it, which includes memory that was only needed temporarily and was not
returned.
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
    """A turn of a client, as prepared by the workload's `alone`."""

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
    """The resident memory of this process in bytes; None if the system does not report it (Linux does)."""
    gc.collect()
    if not PAGES.exists():
        return None
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextlib.contextmanager
def grown(meter: Meter, measure: str, count: int) -> Iterator[None]:
    """Measure by how many bytes the process grows, divided by `count`."""
    before = resident()
    yield
    after = resident()
    if before is not None and after is not None:
        meter.counts[measure] = (after - before) / count
