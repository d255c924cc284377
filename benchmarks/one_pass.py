"""One workload on one event loop, in a process of its own, which has nothing left from other workloads.

`__main__` runs it, and ends it if it hangs. Each measurement is appended to a file as a line of JSON at once,
so that earlier measurements are not lost.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TextIO

from bench import Bench, runner
from workloads import WORKLOADS


def main(workload: str, loop: str, address: str, rounds: int, clients: list[str], out: TextIO) -> None:
    def say(**line: object) -> None:
        print(json.dumps(line), file=out, flush=True)

    logging.disable(logging.CRITICAL)  # clients log that a server is gone, which costs those that log more
    chosen = WORKLOADS[workload]
    bench = Bench(
        address=address,
        loop=loop,
        clients=clients,
        rounds=chosen.rounds(rounds),
        turn_limit=chosen.turn_limit,
        record=lambda client, measures: say(client=client, measures=measures),
        fail=lambda client, why: say(client=client, failed=why),
    )
    with runner(loop) as running:
        running.run(chosen.run(bench))
        # Threads of a client that hangs would keep the interpreter from ending.
        os._exit(0)


if __name__ == "__main__":
    workload, loop, address, rounds, clients, path = sys.argv[1:]
    with open(path, "w") as out:
        main(workload, loop, address, int(rounds), clients.split(","), out)
