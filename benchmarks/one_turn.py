"""One turn of one client, in a process of its own, which has nothing left from earlier turns.

`alone` runs it. It prints the measures as a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import sys
from contextlib import AsyncExitStack

from bench import CLOSE_LIMIT, Meter, PrepareAlone, runner
from clients import load
from workloads import WORKLOADS

SESSION_TIMEOUT = 40.0
"""The longest timeout that the server allows: the session of a client that is busy for long must not
expire."""


def main(workload: str, loop: str, address: str, name: str) -> None:
    logging.disable(logging.CRITICAL)
    prepare = WORKLOADS[workload].alone
    assert prepare is not None
    with runner(loop) as running:
        running.run(measure(prepare, address, name))
        # As in `one_pass`: a client that could not be closed must not keep the interpreter from ending.
        os._exit(0)


async def measure(prepare: PrepareAlone, address: str, name: str) -> None:
    """Connect, take the turn, and print the measures."""
    stack = AsyncExitStack()
    client = await stack.enter_async_context(load(name)(address, SESSION_TIMEOUT))
    turn = await prepare(address, name, client, stack)
    gc.collect()
    gc.freeze()
    meter = Meter()
    await turn(meter)
    print(json.dumps(meter.measures), flush=True)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_LIMIT):
            await stack.aclose()


if __name__ == "__main__":
    main(*sys.argv[1:])
