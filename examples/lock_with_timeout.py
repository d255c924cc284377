"""A lock with a timeout: `asyncio.timeout`, as everywhere in asyncio; no queue entry stays behind."""

from __future__ import annotations

import argparse
import asyncio

import corral
import zookeeper


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """One client holds the lock. Another times out, and acquires it once it is free."""
    async with corral.connect(hosts) as ours, corral.connect(hosts) as theirs:
        lock = ours.lock("/examples/nightly", data=b"us")
        async with theirs.lock("/examples/nightly", data=b"them"):
            try:
                async with asyncio.timeout(arguments.patience):
                    await lock.acquire()
            except TimeoutError:
                print(f"not acquired within {arguments.patience} s")
            queue = [contender.data for contender in await lock.contenders()]
            print(f"in the queue now: {queue}")  # our node was removed

        held = await lock.try_acquire()
        if held is None:
            return False
        print(f"acquired now, with fencing token {held.fencing_token}")
        await held.release()
        return queue == [b"them"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patience", type=float, default=0.5, help="seconds to wait (default: 0.5)")
    zookeeper.run(main, parser)
