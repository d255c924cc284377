"""B1, B2: Curator and kazoo close, open and wait at the same barriers as we do, and are members of the same double
barriers, on an embedded server as on a real one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple, Protocol

import pytest
from curator_peer import Curator, Recipe
from interop_support import within

import corral
from support import PATIENCE, children, until

kazoo_client = pytest.importorskip("kazoo.client")


@pytest.fixture
async def kazoo(server: str) -> AsyncIterator[Any]:
    """kazoo's client."""
    client = kazoo_client.KazooClient(server)
    await asyncio.to_thread(client.start, PATIENCE)
    yield client
    await asyncio.to_thread(client.stop)
    await asyncio.to_thread(client.close)


class Gate(NamedTuple):
    """What one library can do with a barrier."""

    close: Callable[[], Coroutine[Any, Any, object]]
    open: Callable[[], Coroutine[Any, Any, object]]
    wait: Callable[[], Coroutine[Any, Any, object]]


def kazoos_gate(kazoo: Any, path: str) -> Gate:
    """kazoo's `Barrier`."""
    barrier = kazoo.Barrier(path)
    return Gate(
        lambda: asyncio.to_thread(barrier.create),
        lambda: asyncio.to_thread(barrier.remove),
        lambda: asyncio.to_thread(barrier.wait, PATIENCE),
    )


async def test_one_barrier_for_all(zk: corral.Client, curator: Curator, kazoo: Any, place: str) -> None:
    """B1: whoever closes it, all wait; whoever opens it, all go on."""
    path = f"{place}/gate"
    ours = zk.barrier(path)
    theirs: list[Recipe] = [await curator.barrier(path) for _ in range(2)]
    gates = [
        Gate(ours.close, ours.open, ours.wait),
        Gate(theirs[0].close, theirs[0].release, theirs[1].acquire),
        kazoos_gate(kazoo, path),
    ]
    for closer, opener in itertools.product(gates, gates):
        await within(closer.close())
        assert await ours.is_closed()
        waiting = [asyncio.create_task(gate.wait()) for gate in gates]
        await zk.sync(path)
        assert not any(task.done() for task in waiting)
        await within(opener.open())
        await within(asyncio.gather(*waiting))
    assert not await ours.is_closed()


class Member(Protocol):
    """One member of a double barrier."""

    async def enter(self) -> object: ...

    async def leave(self) -> object: ...


class Curators:
    """Curator's `DistributedDoubleBarrier`."""

    def __init__(self, recipe: Recipe) -> None:
        self.enter, self.leave = recipe.acquire, recipe.release


class Kazoos:
    """kazoo's `DoubleBarrier`, which blocks: each call is made in a thread."""

    def __init__(self, kazoo: Any, path: str, n: int) -> None:
        self._barrier = kazoo.DoubleBarrier(path, n)

    async def enter(self) -> None:
        await asyncio.to_thread(self._barrier.enter)
        assert self._barrier.participating  # it swallows errors

    async def leave(self) -> None:
        await asyncio.to_thread(self._barrier.leave)


MIXED = ["oo", "oc", "ok", "ooc", "ook", "occ", "okk", "ock"]
"""The members of a round: o is ours, c is Curator's, k is kazoo's."""


@pytest.mark.parametrize("kinds", MIXED)
async def test_one_double_barrier_for_all(
    zk: corral.Client, other: corral.Client, curator: Curator, kazoo: Any, place: str, kinds: str
) -> None:
    """B2: whoever comes last, nobody is inside before all have come; whoever leaves last, nobody is outside before all
    have left; nothing is left."""
    n = len(kinds)

    async def member(kind: str, path: str) -> Member:
        match kind:
            case "o":
                return zk.double_barrier(path, n)
            case "c":
                return Curators(await curator.double_barrier(path, n))
            case _:
                return Kazoos(kazoo, path, n)

    for order in set(itertools.permutations(kinds)):
        path = f"{place}/{''.join(order)}"
        members = [await member(kind, path) for kind in order]
        entering = []
        for count, each in enumerate(members, 1):
            assert not any(task.done() for task in entering)
            entering.append(asyncio.create_task(each.enter()))  # type: ignore[arg-type]
            if count < n:
                await _until_members(other, path, count)
        await within(asyncio.gather(*entering))
        leaving = []
        for each in reversed(members):
            assert not any(task.done() for task in leaving)
            leaving.append(asyncio.create_task(each.leave()))  # type: ignore[arg-type]
            await other.sync(path)
        await within(asyncio.gather(*leaving))

        async def nothing_left(path: str = path) -> bool:
            return await children(other, path) == []

        await until(nothing_left, f"nothing is left in {path}")


async def _until_members(client: corral.Client, path: str, count: int) -> None:
    async def there() -> bool:
        return len(await children(client, path)) == count

    await until(there, f"{count} members of {path}")
