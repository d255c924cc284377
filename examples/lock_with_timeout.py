"""A lock with a time-out: it is the caller's, as everywhere in asyncio, and nothing stays behind."""

from __future__ import annotations

import argparse
import asyncio

import corral
import zookeeper


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """One client holds the lock, another gives up after a while, then gets it."""
    async with corral.connect(hosts) as ours, corral.connect(hosts) as theirs:
        lock = ours.lock("/examples/nightly", data=b"us")
        async with theirs.lock("/examples/nightly", data=b"them"):
            try:
                async with asyncio.timeout(arguments.patience):
                    await lock.acquire()
            except TimeoutError:
                print(f"not ours within {arguments.patience} s")
            in_line = [contender.data for contender in await lock.contenders()]
            print(f"in the line now: {in_line}")  # our node is gone

        held = await lock.try_acquire()
        if held is None:
            return False
        print(f"ours now, with fencing token {held.fencing_token}")
        await held.release()
        return in_line == [b"them"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patience", type=float, default=0.5, help="seconds to wait (default: 0.5)")
    zookeeper.run(main, parser)
