"""Changes nodes from a process of its own, so that the changing is not measured with the watching.

Run by `Writer`: it reads lines from its standard input, and sets all its nodes to each of them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from clients import Tally
from clients.floor_client import connect


class Writer:
    """The other end of the pipe."""

    def __init__(self, pipe: asyncio.StreamWriter) -> None:
        self._pipe = pipe
        self._number = 0

    async def change(self, tally: Tally) -> None:
        """Change every node, and wait until all watchers have seen it."""
        self._number += 1
        all_have_seen = tally.expect(b"%d" % self._number)
        self.send(b"%d" % self._number)
        await all_have_seen

    def send(self, data: bytes) -> None:
        """Set every node to this, which has no line break; returns at once."""
        self._pipe.write(data + b"\n")


@asynccontextmanager
async def writer(address: str, paths: Sequence[str]) -> AsyncIterator[Writer]:
    """A process that writes to the nodes at `paths`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, address, *paths, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    yield Writer(process.stdin)
    process.stdin.close()
    await process.wait()


async def main(address: str, *paths: str) -> None:
    loop = asyncio.get_running_loop()
    async with connect(address, 10.0) as floor:
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            await asyncio.gather(*(floor.set(path, line.strip()) for path in paths))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
