"""What a client does while it gets lies: workers, each of which repeats one kind of operation.

A *cycle* is one repetition. It returns when everything has succeeded, and raises what the client has raised.
After the last lie each worker must complete a cycle that began since then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fuzz_checks import (
    Checks,
    is_acl,
    is_contender,
    is_contenders,
    is_created,
    is_got,
    is_held,
    is_names,
    is_nothing,
    is_results,
    is_stat,
)

import corral

T = TypeVar("T")
LEAF = "/w/leaf"
"""The node that is read and written."""
WATCHED = "/w"
"""What is watched: the node itself, its children, or the tree."""
LAST = b"last"
"""The data that is written at the end to what is watched."""


@dataclass
class Stage:
    """Where workers work."""

    zk: corral.Client
    """The client that gets the lies."""
    rng: random.Random
    checks: Checks
    number: int
    """The number of the worker."""
    is_true: Callable[[], bool]
    """Whether the client has received no false message so far."""
    is_over: Callable[[], bool]
    """Whether the lies are over."""
    changes: int = field(default=0, init=False)
    held: list[corral.Held] = field(default_factory=list, init=False)
    """What was held in this cycle. It still is if its release was refused, or seemed to be."""

    async def give_up(self) -> None:
        """Release again what could not be released."""
        while self.held:
            await self.held[-1].release()
            self.held.pop()

    def own(self, name: str) -> str:
        """A path that no other worker uses."""
        self.changes += 1
        return f"/own/{self.number}-{self.changes}-{name}"

    async def pause(self) -> None:
        """A pause, for the time that work takes."""
        await asyncio.sleep(self.rng.choice((0.005, 0.1, 0.3, 1.0)))

    async def asked(self, what: str, awaitable: Awaitable[T], check: Callable[[Any], bool]) -> T:
        """The result of an operation, after checking its type."""
        result = await awaitable
        self.checks.require(check(result), f"{what} gave a result of another shape", result)
        return result


Cycle = Callable[[Stage], Awaitable[None]]


# Nodes


async def reading(stage: Stage) -> None:
    zk = stage.zk
    await stage.asked("get", zk.get(LEAF), is_got)
    await stage.asked("exists", zk.exists(LEAF), lambda value: value is None or is_stat(value))
    await stage.asked("children", zk.children(WATCHED), is_names)
    await stage.asked(
        "children",
        zk.children(WATCHED, with_stat=True),
        lambda value: is_names(value[0]) and is_stat(value[1]),
    )
    await stage.asked("sync", zk.sync(), is_nothing)


async def writing(stage: Stage) -> None:
    zk, path = stage.zk, stage.own("node")
    await stage.asked("set", zk.set(LEAF, b"x" * stage.rng.choice((0, 10, 1000))), is_stat)
    await stage.asked("create", zk.create(path, make_parents=True), is_created(path))
    made = await stage.asked(
        "create", zk.create(f"{path}/s-", sequential=True), is_created(f"{path}/s-", sequential=True)
    )
    await stage.asked(
        "create",
        zk.create(f"{path}/e", ephemeral=True, with_stat=True),
        lambda value: value[0] == f"{path}/e" and is_stat(value[1]),
    )
    await stage.asked("delete", zk.delete(made), is_nothing)
    await stage.asked("delete", zk.delete(path, recursive=True), is_nothing)


async def administrating(stage: Stage) -> None:
    zk, path = stage.zk, stage.own("a")
    await stage.asked("create", zk.create(path, container=True, make_parents=True), is_created(path))
    await stage.asked("get_acl", zk.get_acl(LEAF), is_acl)
    await stage.asked("set_acl", zk.set_acl(LEAF, corral.acl.OPEN), is_stat)
    await stage.asked("create", zk.create(f"{path}/t", ttl=60.0), is_created(f"{path}/t"))


async def transacting(stage: Stage) -> None:
    zk, path = stage.zk, stage.own("tx")
    tx = zk.transaction()
    tx.check("/w")
    tx.create(path)
    tx.create(f"{path}/s-", sequential=True)
    tx.set(LEAF, b"y")
    if stage.rng.random() < 0.3:
        tx.delete("/own/none")  # will be refused
    with contextlib.suppress(corral.TransactionFailed):
        shapes = (is_nothing, is_created(path), is_created(f"{path}/s-", sequential=True), is_stat)
        await stage.asked("transaction", tx.commit(), is_results(*shapes))


async def cancelling(stage: Stage) -> None:
    """Operations that are cancelled at any time."""
    zk = stage.zk
    what: Callable[[], Awaitable[object]] = stage.rng.choice(
        (
            lambda: zk.get(LEAF),
            lambda: zk.create(stage.own("c"), ephemeral=True),
            zk.lock("/lines/lock").acquire,
            lambda: zk.wait_children(WATCHED, 1000),
            lambda: zk.wait_until(WATCHED, lambda event: False),
            lambda: writing(stage),
        )
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(stage.rng.choice((0.0, 0.0005, 0.01, 0.3))):
            got = await what()
            if isinstance(got, corral.Held):
                stage.held.append(got)
                await got.release()


# Recipes with a line


async def _inside(stage: Stage, held: corral.Held) -> None:
    stage.held.append(held)
    stage.checks.require(is_held(held), "something held of another shape", held)
    await stage.pause()
    if stage.rng.random() < 0.3:
        async with held.transaction() as tx:
            tx.set(LEAF, b"guarded")


async def locking(stage: Stage) -> None:
    lock = stage.zk.lock("/lines/lock", data=b"me")
    async with lock as held:
        await _inside(stage, held)
    await stage.asked("contenders", lock.contenders(), is_contenders)
    await stage.asked("locked", lock.locked(), lambda value: isinstance(value, bool))
    held = await lock.try_acquire()
    if held is not None:
        stage.held.append(held)
        stage.checks.require(is_held(held), "something held of another shape", held)
        await lock.release()


async def kazoo_locking(stage: Stage) -> None:
    async with stage.zk.lock("/lines/kazoo", layout="kazoo") as held:
        await _inside(stage, held)


async def locking_afresh(stage: Stage) -> None:
    async with stage.zk.lock(stage.own("lock")) as held:
        await _inside(stage, held)


async def evicting(stage: Stage) -> None:
    await stage.pause()
    lock = stage.zk.lock("/lines/lock")
    await stage.asked("evict", lock.evict(), lambda value: value is None or is_contender(value))


async def read_write_locking(stage: Stage) -> None:
    lock = stage.zk.rwlock("/lines/rw")
    if stage.rng.random() < 0.5:
        async with lock.read() as held:
            await _inside(stage, held)
        return
    async with lock.write() as writer:
        await _inside(stage, writer)
        if stage.rng.random() < 0.5:
            await writer.downgrade()
            await _inside(stage, writer)
    await stage.asked("contenders", lock.contenders(), is_contenders)


async def semaphoring(stage: Stage) -> None:
    semaphore = stage.zk.semaphore("/lines/semaphore", 2)
    async with semaphore as held:
        await _inside(stage, held)
    await stage.asked("holders", semaphore.holders(), is_contenders)
    await stage.asked("waiters", semaphore.waiters(), is_contenders)


async def electing(stage: Stage) -> None:
    election = stage.zk.election("/lines/election", data=b"me")

    async def lead(held: corral.Held) -> int:
        await _inside(stage, held)
        return 7

    await stage.asked("run", election.run(lead), lambda value: value == 7)
    await stage.asked("candidates", election.candidates(), is_contenders)
    await stage.asked("leader", election.leader(), lambda value: value is None or is_contender(value))


async def multi_locking(stage: Stage) -> None:
    async with stage.zk.multi_lock(["/lines/lock", "/lines/other"]) as all_held:
        stage.held.extend(all_held)
        for held in all_held:
            await _inside(stage, held)


LINES = ("/lines/lock", "/lines/other", "/lines/kazoo", "/lines/rw", "/lines/election")
SEMAPHORE_LINES = ("/lines/semaphore/locks", "/lines/semaphore/leases")

WORKERS: dict[str, Cycle] = {
    "reading": reading,
    "writing": writing,
    "administrating": administrating,
    "transacting": transacting,
    "cancelling": cancelling,
    "locking": locking,
    "locking again": locking,
    "kazoo_locking": kazoo_locking,
    "locking_afresh": locking_afresh,
    "evicting": evicting,
    "read_write_locking": read_write_locking,
    "read_write_locking again": read_write_locking,
    "semaphoring": semaphoring,
    "semaphoring again": semaphoring,
    "electing": electing,
    "multi_locking": multi_locking,
}
