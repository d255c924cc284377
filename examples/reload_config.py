"""Configuration that reloads when it changes: the first value is the current one, the last one always comes,
and a bad one in between stops nobody."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import corral
import zookeeper

DEFAULT = {"workers": 1}


def configuration(zk: corral.Client, path: str) -> corral.Value[Any]:
    """The configuration that the service and its operator share."""
    return zk.value(path, codec=corral.JSON, default=DEFAULT)


async def follow(zk: corral.Client, path: str, applied: list[int], refused: asyncio.Event) -> None:
    """Apply the configuration whenever it changes, until it has no workers."""
    async for current in configuration(zk, path).watch():
        try:
            config = current.value
        except corral.InvalidValue as invalid:
            print(f"kept as it was: {invalid}")
            refused.set()
            continue
        print(f"version {current.version}: {config}" if current.exists else f"the default: {config}")
        applied.append(config["workers"])
        if config["workers"] == 0:
            return


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """A service follows its configuration while two operators change it."""
    applied: list[int] = []
    refused = asyncio.Event()
    async with corral.connect(hosts) as service, corral.connect(hosts) as operator:
        path = await operator.create("/examples/config-", sequential=True, make_parents=True)
        await operator.delete(path)
        shared = configuration(operator, path)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(service, path, applied, refused))

            def one_more(config: Any) -> Any:
                return config | {"workers": config["workers"] + 1}

            # Both add one at once, and neither change is lost.
            both = await asyncio.gather(
                shared.update(one_more), configuration(service, path).update(one_more)
            )
            three = max(both, key=lambda current: current.version)

            await operator.set(path, b"{workers: 5")  # by hand, and wrong
            await refused.wait()
            try:
                await shared.set({"workers": 4}, version=three.version)
            except corral.BadVersion as error:
                print(f"not set: {error}")
            await shared.set({"workers": 0})
        await operator.delete(path)
    print(f"applied {applied}; a slow reader skips some values, never the last")
    return three.value == {"workers": 3} and applied[-1] == 0


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
