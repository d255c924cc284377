"""A migration that a fleet runs once: the host that has begun is cut off, another one does it, and all get
the result."""

from __future__ import annotations

import argparse
import asyncio

import corral
import zookeeper
from corral.testing import FaultProxy

PATH = "/examples/migrate-7"


class Migration:
    """The work of one host. What it writes, it writes only while it holds the lock."""

    def __init__(self, zk: corral.Client, host: str) -> None:
        self._zk = zk
        self._host = host
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def run(self) -> bytes:
        """Return the result, whoever has done the work."""
        result = await self._zk.once(PATH, data=self._host.encode()).run(self.migrate)
        print(f"{self._host}: the result is {result.decode()!r}")
        return result

    async def migrate(self, held: corral.Held) -> bytes:
        """Do the work. It is cancelled when this host can no longer prove that it is alive."""
        print(f"{self._host}: begins")
        self.begun.set()
        try:
            await self.may_go_on.wait()
            async with held.transaction() as tx:
                tx.create("/examples/rows", b"41")
        except asyncio.CancelledError:
            print(f"{self._host}: is cut off, and stops")
            raise
        return f"41 rows, by {self._host}".encode()


async def main(hosts: str, arguments: argparse.Namespace) -> bool:
    """Cut the first host off while it works, and check that the work is done once."""
    server = hosts.split(",")[0]
    async with (
        FaultProxy(server) as network,
        corral.connect(network.address, session_timeout=4) as first,
        corral.connect(server) as second,
    ):
        await second.ensure_path("/examples")
        one, two = Migration(first, "host-1"), Migration(second, "host-2")
        running = [asyncio.create_task(one.run())]
        await one.begun.wait()
        running.append(asyncio.create_task(two.run()))
        async with network.black_hole():
            await two.begun.wait()  # when the session of host-1 has expired
        two.may_go_on.set()
        results = await asyncio.gather(*running)
        late = await second.once(PATH).run(Migration(second, "host-3").migrate)  # does not begin
        rows, stat = await second.get("/examples/rows")
        for path in ("/examples/rows", PATH):
            await second.delete(path, recursive=True)
    return [*results, late] == [b"41 rows, by host-2"] * 3 and (rows, stat.version) == (b"41", 0)


if __name__ == "__main__":
    zookeeper.run(main, argparse.ArgumentParser(description=__doc__))
