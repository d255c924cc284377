"""A ZooKeeper for the examples: the one that --hosts names, or one started here while it is needed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

from corral.testing import LocalServer, ServerUnavailable


@contextlib.asynccontextmanager
async def somewhere(hosts: str | None) -> AsyncIterator[str]:
    """A connect string: `hosts`, or that of a local server which is stopped at the end."""
    if hosts:
        yield hosts
        return
    async with LocalServer() as server:
        print(f"started a ZooKeeper on {server.address}")
        yield server.address


def run(
    main: Callable[[str, argparse.Namespace], Awaitable[bool | None]], parser: argparse.ArgumentParser
) -> None:
    """Parse the command line, find a ZooKeeper, run `main(hosts, arguments)`; its False is exit code 1."""
    parser.add_argument("--hosts", help="host:port,host:port of an ensemble (default: start one server here)")
    arguments = parser.parse_args()

    async def everything() -> bool | None:
        async with somewhere(arguments.hosts) as hosts:
            return await main(hosts, arguments)

    try:
        succeeded = asyncio.run(everything())
    except ServerUnavailable as error:
        sys.exit(f"no ZooKeeper: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if succeeded is False else 0)
