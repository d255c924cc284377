"""A service: workers that do jobs under one lock, and write what comes of each to a store.

A job may be begun twice, but its result is written once. A worker that loses its lock is told, and stops. One
that cannot be told in time (its process was paused) is refused by the store, by its fencing token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import corral


class Outdated(Exception):
    """A write by somebody who holds the lock no more; nothing was written."""


class Store:
    """Stands for a database; it keeps the newest fencing token beside the rows that it guards."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str]] = []  # each job with its result
        self._newest = 0

    async def save(self, job: str, result: str, *, fencing_token: int) -> None:
        """Write a result unless it is there. Raises `Outdated` if somebody newer has written."""
        if fencing_token < self._newest:
            raise Outdated(f"{job}: the token {fencing_token} is older than {self._newest}")
        self._newest = fencing_token
        if job not in dict(self.writes):
            self.writes.append((job, result))


async def submit(zk: corral.Client, job: str, payload: bytes) -> None:
    """Hand a job in: once, however often this has to be tried."""
    while True:
        try:
            await zk.create(f"/jobs/{job}", payload, make_parents=True)
        except corral.ConnectionLoss:
            continue  # it is in, or it is not: the next try tells
        except corral.NodeExists:
            pass
        return


async def work(hosts: str, store: Store, handle: Callable[[bytes], Awaitable[str]]) -> None:
    """Do all the jobs that there are, when it is our turn. Begin again when the lock or an answer is lost."""
    async with corral.connect(hosts) as zk:
        while True:
            try:
                async with zk.lock("/lock") as held:
                    for job in sorted(await zk.children("/jobs")):
                        payload, _ = await zk.get(f"/jobs/{job}")
                        result = await handle(payload)  # cancelled if the lock is lost
                        await store.save(job, result, fencing_token=held.fencing_token)
                        async with held.transaction() as tx:  # applied only while the lock is held
                            tx.delete(f"/jobs/{job}")
            except (corral.LockLost, corral.ConnectionLoss):
                continue  # what is not done is still in /jobs
            return
