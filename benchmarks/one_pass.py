"""One workload on one event loop, in a process of its own: nothing of another is left in it.

Run by `__main__`, which ends it should it hang. Each measurement is a line of JSON in a file, written when it
is made, so that what was measured before is not lost.
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

    logging.disable(logging.CRITICAL)  # that a server is gone, which we know, and which costs those who tell
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
        # Threads of a client that has hung would keep the interpreter from ending.
        os._exit(0)


if __name__ == "__main__":
    workload, loop, address, rounds, clients, path = sys.argv[1:]
    with open(path, "w") as out:
        main(workload, loop, address, int(rounds), clients.split(","), out)
