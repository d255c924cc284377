"""A ZooKeeper for the examples: the ensemble that --hosts names, or a server embedded in the example."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

from corral.testing import EmbeddedServer


@contextlib.asynccontextmanager
async def somewhere(hosts: str | None) -> AsyncIterator[str]:
    """A connect string: `hosts`, or that of a server in this process, which stops with the example."""
    if hosts:
        yield hosts
        return
    async with EmbeddedServer() as server:
        print(f"no --hosts: started an embedded ZooKeeper on {server.address}")
        yield server.address


def run(
    main: Callable[[str, argparse.Namespace], Awaitable[bool | None]], parser: argparse.ArgumentParser
) -> None:
    """Parse the command line and run `main(hosts, arguments)` on a ZooKeeper; exit with code 1 if it returns
    False."""
    parser.add_argument("--hosts", help="host:port,host:port of an ensemble (default: an embedded server)")
    arguments = parser.parse_args()

    async def everything() -> bool | None:
        async with somewhere(arguments.hosts) as hosts:
            return await main(hosts, arguments)

    try:
        succeeded = asyncio.run(everything())
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if succeeded is False else 0)
