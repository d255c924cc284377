"""Event delay: the time until a watcher has a node's new data and Stat after another client's write.

The figure is the time for one change, from sending the write until the watcher has the data; each change
comes after the previous one was seen. The time includes the write, since only the server knows when it was
committed: some watchers have the data before the writer has its answer. The writer is the floor with its own
session, on the same event loop. So the write takes the same time for all clients, and there is one clock and
no pipe between processes. The floor's watcher waits for the event, reads with a watch, and decodes data and
Stat. The design has no budget for this.

For a client that can also watch a subtree, the wall time of that is shown, too.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench import SESSION_TIMEOUT, Bench, Meter, Turn, Workload
from clients import Client, Tally, TreeWatcher
from clients.floor_client import Floor, connect
from server import ROOT, make_nodes

CHANGES = 200


class Node:
    """A node that one watcher follows, and that this workload writes."""

    def __init__(self, writer: Floor, path: str) -> None:
        self.path = path
        self.tally = Tally(1)
        self.started = self.tally.expect(b"")
        self._writer = writer
        self._number = 0

    async def change(self, times: int) -> None:
        """Write it, and wait until the watcher has seen that, so many times."""
        for _ in range(times):
            self._number += 1
            data = b"%d" % self._number
            seen = self.tally.expect(data)
            await self._writer.set(self.path, data)
            await seen


async def run(bench: Bench) -> None:
    node_path, tree_path = f"{ROOT}/event-delay/node", f"{ROOT}/event-delay/tree"
    await make_nodes(
        bench.address, [f"{path}/{name}" for path in (node_path, tree_path) for name in bench.clients]
    )

    async def prepare(name: str, client: Client, stack: AsyncExitStack) -> Turn:
        writer = await stack.enter_async_context(connect(bench.address, SESSION_TIMEOUT))
        node = Node(writer, f"{node_path}/{name}")
        await client.watch(node.path, 1, node.tally)
        await node.started
        tree = None
        if isinstance(client, TreeWatcher):
            tree = Node(writer, f"{tree_path}/{name}")
            await client.watch_tree(tree.path, tree.tally)
            await tree.started

        async def turn(meter: Meter) -> None:
            with meter(CHANGES):
                await node.change(CHANGES)
            if tree is not None:
                by_tree = Meter()
                with by_tree(CHANGES):
                    await tree.change(CHANGES)
                meter.counts["us by a watch of the tree"] = by_tree.measures["wall"] * 1e6

        return turn

    await bench.take_turns(prepare)


WORKLOAD = Workload(name="event-delay", title="from a write until a watcher sees it", run=run, main="wall")
