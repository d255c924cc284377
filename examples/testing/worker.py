"""A service: workers run jobs under one lock and write the results to a store.

A job may be started twice, but its result is written once. A worker that loses its lock is cancelled. If that
comes too late, because its process was paused, the store refuses its write by the fencing token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import corral


class Outdated(Exception):
    """A write by a worker that no longer holds the lock; nothing was written."""


class Store:
    """A stand-in for a database. It stores the newest fencing token beside the rows that the token guards."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, str]] = []  # each job and its result
        self._newest = 0

    async def save(self, job: str, result: str, *, fencing_token: int) -> None:
        """Write a result once. Raises `Outdated` if a later holder of the lock has written."""
        if fencing_token < self._newest:
            raise Outdated(f"{job}: the token {fencing_token} is older than {self._newest}")
        self._newest = fencing_token
        if job not in dict(self.writes):
            self.writes.append((job, result))


async def submit(zk: corral.Client, job: str, payload: bytes) -> None:
    """Queue a job once, however many attempts it takes."""
    while True:
        try:
            await zk.create(f"/jobs/{job}", payload, make_parents=True)
        except corral.ConnectionLoss:
            continue  # the outcome is unknown; the next attempt finds out
        except corral.NodeExists:
            pass
        return


async def work(hosts: str, store: Store, handle: Callable[[bytes], Awaitable[str]]) -> None:
    """Run all queued jobs while holding the lock. Start again when the lock or an answer is lost."""
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
                continue  # the remaining jobs are still in /jobs
            return
