"""A worker that acquires locks, stays for a while, and writes what the lock protects (`base_worker`)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from base_worker import Orders, Worker, main

import corral


def lock_path(orders: Orders, lock: int) -> str:
    """The path of a lock."""
    return f"{orders.root}/lock-{lock}"


def log_path(orders: Orders, lock: int) -> str:
    """The path of the writes that it protects."""
    return f"{orders.root}/log-{lock}"


class LockWorker(Worker):
    """Acquires the locks repeatedly."""

    def tasks(self, zk: corral.Client) -> Iterable[Coroutine[Any, Any, None]]:
        return [self._take_turns(zk, lock) for lock in self.orders.locks]

    async def _take_turns(self, zk: corral.Client, lock: int) -> None:
        while True:
            try:
                async with zk.lock(lock_path(self.orders, lock)) as held:
                    await self._hold(zk, lock, held)
            except corral.LockLost:
                pass
            except Exception as error:
                self.record.note("failed", text=repr(error))
                await asyncio.sleep(1)  # otherwise it would fill the record

    async def _hold(self, zk: corral.Client, lock: int, held: corral.Held) -> None:
        with self.inside(held, lock=lock, token=held.fencing_token):
            if self.orders.way.startswith("deaf"):
                await _in_spite_of_all(self._stay(zk, lock, held))
            else:
                await self._stay(zk, lock, held)

    async def _stay(self, zk: corral.Client, lock: int, held: corral.Held) -> None:
        dice, orders = self.dice, self.orders
        long = self.is_long()
        end = time.monotonic() + dice.uniform(*(orders.long if long else orders.short))
        quiet = dice.random() < orders.quiet_ones
        while True:
            await self._write(zk, lock, held)
            left = end - time.monotonic()
            if left <= 0 or (long and self.hurry.is_set()):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left if quiet else min(left, dice.uniform(0.02, 0.3))):
                    await (self.hurry.wait() if long else asyncio.sleep(left))

    async def _write(self, zk: corral.Client, lock: int, held: corral.Held) -> None:
        """Add a node to the log, whose name has the token; the server adds the number."""
        token = held.fencing_token
        path = f"{log_path(self.orders, lock)}/{token}-{self.orders.number}-"
        try:
            if self.orders.way == "deaf and unfenced":
                created: object = await zk.create(path, sequential=True)
            else:
                async with held.transaction() as tx:
                    tx.create(path, sequential=True)
                created = tx.results[0]
        except corral.ConnectionLoss:
            self.record.note("unknown", lock=lock, token=token)
        else:
            self.record.note("wrote", lock=lock, token=token, text=str(created).rpartition("/")[2])


async def _in_spite_of_all(body: Coroutine[Any, Any, None]) -> None:
    """Run to its end what should have been cancelled; then pass the cancellation on."""
    task = asyncio.ensure_future(body)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(corral.SessionError):
            await task
        raise


if __name__ == "__main__":
    main(LockWorker)
