"""Configuration that reloads when it changes: the first event is the current state, and the last one always
comes."""

from __future__ import annotations

import argparse
import asyncio
import json

import corral
import zookeeper


async def follow(zk: corral.Client, path: str, seen: list[int]) -> None:
    """Apply the configuration at `path` whenever it changes, until it has no workers."""
    async for event in zk.watch(path):
        if event.data is None:
            print("no configuration yet: using the defaults")
            continue
        config = json.loads(event.data)
        print(f"{event.kind.value}: {config}")
        seen.append(config["workers"])
        if config["workers"] == 0:
            return


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """A service follows its configuration while an operator changes it."""
    seen: list[int] = []
    async with corral.connect(hosts) as service, corral.connect(hosts) as operator:
        path = await operator.create("/examples/config-", sequential=True, make_parents=True)
        await operator.delete(path)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(service, path, seen))
            await operator.create(path, json.dumps({"workers": 1}).encode())
            for workers in (2, 4, 8, 0):
                await operator.set(path, json.dumps({"workers": workers}).encode())
        await operator.delete(path)
    print(f"applied {len(seen)} of 5 states; a slow reader skips some, never the last")
    return seen[-1] == 0


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
