"""Import: a new interpreter that imports the client and ends. The floor imports asyncio.

The figure is the CPU time of the whole process. The design has no budget for this.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

from bench import Bench, Meter, Turn, Workload

MODULES = {"floor": "asyncio", "corral": "corral", "aiozk": "aiozk", "kazoo": "kazoo.client"}
TIMES = 3


def children_cpu() -> float:
    """Seconds of CPU time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def run(bench: Bench) -> None:
    def prepare(module: str) -> Turn:
        async def turn(meter: Meter) -> None:
            cpu, wall = children_cpu(), time.perf_counter()
            for _ in range(TIMES):
                process = await asyncio.create_subprocess_exec(sys.executable, "-c", f"import {module}")
                if await process.wait():
                    raise ImportError(module)
            meter.took(TIMES, cpu=children_cpu() - cpu, wall=time.perf_counter() - wall)

        return turn

    await bench.repeat({name: prepare(MODULES[name]) for name in bench.clients})


WORKLOAD = Workload(name="import", title="import, in a fresh interpreter", run=run, unit="ms", any_loop=True)
