"""The cost of corral, compared with a floor and with other clients, on a real ZooKeeper.

    python benchmarks                             all workloads, in about twenty-five minutes: one table
    python benchmarks --quick --only get lock     a first look at two workloads
    python benchmarks --json results.json && python benchmarks/plot.py results.json docs/benchmarks.svg

It needs Java and ZooKeeper (see the README) and the packages of the dependency group ``benchmark``.

`clients/` has a small file for each client, all with the same verbs. `workloads/` has a file for each
workload, which says what is measured, how the floor does it, and what the budget is. The floor
(`clients/floor_client.py`) is the minimal client that does the same work, on the same event loop, in the same
run.

How to read the table: the client's CPU time for one operation comes first, since it varies least; wall time
includes client, server and machine. Figures are medians over the rounds, with the minimum and the maximum.
Ratios are relative to the floor in the same section. If the floor's own rounds differ widely, the machine was
busy: then rely only on large ratios, and on the number of rounds in which a budget was met. A missed budget
is shown, but is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench import Workload
from clients import MODULES
from corral.testing import LocalServer
from report import table
from results import Result, Results, about_this_machine, load_average
from server import clear, warm
from workloads import WORKLOADS

LOOPS = ("asyncio", "uvloop")
ROUNDS, QUICK_ROUNDS = 12, 3


async def one_pass(workload: Workload, loop: str, address: str, options: argparse.Namespace) -> Result:
    """Measure one workload on one event loop; see `one_pass.py`."""
    result = Result(workload.name, loop)
    with tempfile.NamedTemporaryFile("r") as lines:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("one_pass.py")),
            *(workload.name, loop, address, str(options.rounds), ",".join(options.clients), lines.name),
        )
        limit = workload.limit(options.rounds)
        try:
            await asyncio.wait_for(process.wait(), limit)
            if process.returncode:
                result.failed["all"] = f"ended with status {process.returncode}"
        except TimeoutError:
            result.failed["all"] = f"did not finish in {limit:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        for line in map(json.loads, lines):
            if "failed" in line:
                result.failed[line["client"]] = line["failed"]
            else:
                result.add(line["client"], line["measures"])
    return result


@asynccontextmanager
async def warm_server(hosts: str | None) -> AsyncIterator[str]:
    """The address of the server that all clients are measured against, after warming it up."""
    async with AsyncExitStack() as stack:
        if hosts is None:
            # The tick of ZooKeeper's own sample configuration; the long interval keeps the parents of locks
            # between rounds.
            server = LocalServer(tick_time=2.0, container_check_interval=3600.0)
            hosts = (await stack.enter_async_context(server)).address
        else:
            stack.push_async_callback(clear, hosts)
        await warm(hosts)
        yield hosts


async def measure(options: argparse.Namespace) -> Results:
    """Measure all requested workloads, against one warm server."""
    results = Results(about_this_machine(options.clients))
    load = load_average()
    async with warm_server(options.hosts) as address:
        for name in options.only:
            workload = WORKLOADS[name]
            for loop in options.loop[:1] if workload.any_loop else options.loop:
                print(f"{workload.title} ({loop}) ...", file=sys.stderr, flush=True)
                results.results.append(await one_pass(workload, loop, address, options))
    results.about["load average"] = f"{load} to {load_average()}"
    return results


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="WORKLOAD")
    parser.add_argument("--clients", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--loop", choices=(*LOOPS, "both"), default="both")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, for a first look")
    parser.add_argument(
        "--hosts",
        metavar="HOST:PORT",
        help="an existing server (a single one, so that all clients are connected to the same); it must "
        "answer 'cons'; nodes are created below /corral-benchmarks and deleted (default: a local server)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results in this file")
    options = parser.parse_args()
    options.loop = LOOPS if options.loop == "both" else (options.loop,)
    options.rounds = QUICK_ROUNDS if options.quick else options.rounds
    return options


def main() -> None:
    options = parsed()
    results = asyncio.run(measure(options))
    if options.json:
        results.save(options.json)
    print(table(results))


if __name__ == "__main__":
    main()
