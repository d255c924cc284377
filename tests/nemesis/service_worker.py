"""A worker that uses services: a counter, a queue, a partition, and jobs that must run once (`base_worker`).

All its trades go on at the same time, through one client.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from base_worker import Orders, Trade, Worker, main

import corral

T = TypeVar("T")

SHARDS = 8
SETTLE = 0.5
"""Seconds for which the members of the partition must not change before shards move."""
MEMBER = (2.0, 6.0)
"""For how many seconds half of the workers are members before they leave the partition and join again. The
others stay, so that they have shards when a fault hits them."""
SLOT = 0.3
"""Seconds after which there is a new job that must run once."""
BETWEEN_PUTS = (0.1, 0.9)
BETWEEN_ADDS = (0.0, 0.1)
BETWEEN_MEMBERSHIPS = (0.0, 0.5)
FUMBLES = 0.05
"""The share of items whose handling fails."""
DEAF = 2
"""For how many session timeouts a careless worker goes on after it was cancelled."""


class Fumble(Exception):
    """The handling of an item has failed."""


class ServiceWorker(Worker):
    """Carries on its trades."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(orders)
        self._careless = orders.way == "careless"
        self._numbers = itertools.count()

    def tasks(self, zk: corral.Client) -> Iterable[Coroutine[Any, Any, None]]:
        steps: dict[Trade, Callable[[corral.Client], Awaitable[None]]] = {
            "count": self._add,
            "put": self._put,
            "take": self._take,
            "share": self._share,
            "once": self._run_once,
        }
        return [self._repeat(zk, steps[trade]) for trade in self.orders.trades]

    async def _repeat(self, zk: corral.Client, step: Callable[[corral.Client], Awaitable[None]]) -> None:
        while True:
            try:
                await step(zk)
            except Exception as error:
                if not self._careless:
                    self.record.note("failed", text=f"{step.__name__}: {error!r}")
                await asyncio.sleep(1)  # otherwise it would fill the record

    def _path(self, name: str) -> str:
        return f"{self.orders.root}/{name}"

    def _new_payload(self) -> str:
        """Of no other worker, and of no other life of this one."""
        return f"{self.orders.number}-{self.orders.seed}-{next(self._numbers)}"

    async def _obey(self, body: Coroutine[Any, Any, None]) -> None:
        try:
            await body
        except asyncio.CancelledError:
            if self._careless:
                await asyncio.sleep(DEAF * self.orders.session_timeout)
            raise

    async def _pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.dice.uniform(least, most))

    # The counter

    async def _add(self, zk: corral.Client) -> None:
        path = self._path("counter")
        self.record.note("adding")
        try:
            total = await (add_blindly(zk, path) if self._careless else zk.counter(path).add(1))
        except corral.ConnectionLoss:
            pass  # the record shows an add without an answer
        else:
            self.record.note("added", token=total)
        if not self._careless:
            await self._pause(*BETWEEN_ADDS)

    # The queue

    async def _put(self, zk: corral.Client) -> None:
        payload = self._new_payload()
        self.record.note("putting", thing=f"item {payload}")
        try:
            await zk.queue(self._path("queue")).put(payload.encode(), priority=self.dice.choice((50, 100)))
        except corral.ConnectionLoss:
            pass  # the record shows a put without an answer
        else:
            self.record.note("put", thing=f"item {payload}")
        await self._pause(*BETWEEN_PUTS)

    async def _take(self, zk: corral.Client) -> None:
        with contextlib.suppress(corral.LockLost, Fumble):
            async with zk.queue(self._path("queue")).take() as job:
                thing = f"item {job.data.decode()}"
                with self.inside(job, thing=thing, token=job.attempt, name=job.name):
                    await self._obey(self.stay(long=self.is_long()))
                    if self.dice.random() < FUMBLES:
                        raise Fumble
            self.record.note("acknowledged", thing=thing)

    # The partition

    async def _share(self, zk: corral.Client) -> None:
        stays = self._careless or self.hurry.is_set() or self.orders.number % 2
        until = None if stays else self.dice.uniform(*MEMBER)
        async with zk.partition(self._path("partition"), range(SHARDS), settle=SETTLE) as partition:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until):
                    await partition.run(self._own)
        await self._pause(*BETWEEN_MEMBERSHIPS)

    async def _own(self, shard: int, held: corral.Held) -> None:
        thing = f"shard {shard}"
        with self.inside(held, thing=thing, token=held.fencing_token):
            await self._obey(self._work_on(thing))

    async def _work_on(self, thing: str) -> None:
        await self.hurry.wait()
        self.record.note("worked", thing=thing)
        await asyncio.get_running_loop().create_future()

    # Once

    async def _run_once(self, zk: corral.Client) -> None:
        slot = int(time.monotonic() / SLOT)
        thing, path, result = f"job {slot}", self._path(f"job {slot}"), self._new_payload().encode()

        async def job(held: corral.Held | None) -> bytes:
            token = 0 if held is None else held.fencing_token
            with self.inside(held, thing=thing, token=token):
                await self._obey(self.stay(long=not self._careless and self.is_long()))
            return result

        got = await (run_without_lock(zk, path, job) if self._careless else zk.once(path).run(job))
        self.record.note("got", thing=thing, text=got.decode())
        await asyncio.sleep(max(0.0, (slot + 1) * SLOT - time.monotonic()))


async def add_blindly(zk: corral.Client, path: str) -> int:
    """Add 1 as people write it: whatever goes wrong, try again."""
    while True:
        with contextlib.suppress(corral.BadVersion, corral.NodeExists, corral.ConnectionLoss):
            if await zk.exists(path) is None:
                await zk.create(path, (0).to_bytes(8, "big"), make_parents=True)
            data, stat = await zk.get(path)
            total = int.from_bytes(data, "big") + 1
            await zk.set(path, total.to_bytes(8, "big"), version=stat.version)
            return total


async def run_without_lock(
    zk: corral.Client, path: str, job: Callable[[corral.Held | None], Awaitable[bytes]]
) -> bytes:
    """Run a job unless its result was recorded."""
    if await zk.exists(f"{path}/done") is not None:
        return (await zk.get(f"{path}/done"))[0]
    result = await job(None)
    with contextlib.suppress(corral.NodeExists):
        await zk.create(f"{path}/done", result, make_parents=True)
    return result


if __name__ == "__main__":
    main(ServiceWorker)
