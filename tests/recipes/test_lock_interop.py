"""L8: other libraries in one line with us: kazoo itself, if it is installed; Curator by the names that it
generates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from lock_support import Tap

import corral
from corral.testing import FaultProxy, MessageKind
from support import PATIENCE, children, turns, until_line, within


async def test_data_on_the_wire_is_never_null(
    connect: Callable[..., corral.Client], proxy: FaultProxy, tap: Tap
) -> None:
    """L10: a lock without data sends empty data, not null, on which Curator's readers fail."""
    async with connect(proxy.address) as zk, zk.lock("/lock"):
        pass
    creates = [
        message.body
        for message in tap.messages
        if message.kind is MessageKind.REQUEST and message.operation == "create"
    ]
    assert len(creates) >= 2
    for body in creates:
        length = int.from_bytes(body[8:12])
        assert body[12 + length : 16 + length] == bytes(4)  # the length of the data; -1 would be null


@pytest.mark.parametrize(
    "prefix",
    [
        "_c_0e2b0b6a-3b1a-4c2e-9a62-111122223333-lock-",
        "lock-",
        "0e2b0b6a3b1a4c2e9a62111122223333__lock__",
        "0e2b0b6a3b1a4c2e9a62111122223333-lock-",
    ],
    ids=["curator", "curator, unprotected", "kazoo", "kazoo with curator's name"],
)
async def test_we_wait_for_others(zk: corral.Client, other: corral.Client, prefix: str) -> None:
    """L8: a node that another library created before ours is waited for; one that it created after ours is
    not."""
    await zk.create("/lock")
    ahead = await other.create(f"/lock/{prefix}", ephemeral=True, sequential=True)
    task = asyncio.create_task(zk.lock("/lock").acquire())
    await until_line(other, "/lock", 2)
    behind = await other.create(f"/lock/{prefix}", ephemeral=True, sequential=True)
    assert await zk.lock("/lock").try_acquire() is None
    assert not task.done()
    contenders = await zk.lock("/lock").contenders()
    assert [contenders[0].name, contenders[2].name] == [ahead[6:], behind[6:]]
    await other.delete(ahead)
    held = await within(task)
    await held.release()
    await other.delete(behind)


# kazoo


@pytest.fixture
async def kazoo_client(real_time: None, zookeeper: str, root: str) -> AsyncIterator[Any]:
    """kazoo, below the test's own znode. It blocks, so each call of it runs in a thread."""
    client_module = pytest.importorskip("kazoo.client")
    client = client_module.KazooClient(f"{zookeeper}{root}")
    await asyncio.to_thread(client.start)
    yield client
    await asyncio.to_thread(client.stop)
    await asyncio.to_thread(client.close)


async def test_we_wait_for_kazoo(zk: corral.Client, kazoo_client: Any) -> None:
    """L8: while kazoo's own Lock is held, we wait; when it is released, we hold."""
    theirs = kazoo_client.Lock("/lock", "kazoo")
    assert await asyncio.to_thread(theirs.acquire)
    task = asyncio.create_task(zk.lock("/lock").acquire())
    await until_line(zk, "/lock", 2)
    assert [each.data for each in await zk.lock("/lock").contenders()] == [b"kazoo", b""]
    assert await zk.lock("/lock").try_acquire() is None
    assert not task.done()
    await asyncio.to_thread(theirs.release)
    await (await within(task)).release()


async def test_kazoo_waits_for_us(zk: corral.Client, kazoo_client: Any) -> None:
    """L8: kazoo's Lock waits for us if it is given our names, as the class's docstring says."""
    theirs = kazoo_client.Lock("/lock", "kazoo", extra_lock_patterns=["-lock-"])
    async with zk.lock("/lock", data=b"corral"):
        waiting = asyncio.create_task(asyncio.to_thread(theirs.acquire))
        await until_line(zk, "/lock", 2)
        assert not await asyncio.to_thread(kazoo_client.Lock("/lock", "k", ["-lock-"]).acquire, False)
        assert not waiting.done()
        assert await asyncio.to_thread(theirs.contenders) == ["corral", "kazoo"]
    assert await within(waiting)
    await asyncio.to_thread(theirs.release)


async def test_kazoo_and_we_exclude_each_other(
    connect: Callable[..., corral.Client], kazoo_client: Any
) -> None:
    """L8, L1: in a crowd of both libraries, one holds at a time."""
    inside: list[str] = []
    served: list[str] = []

    async def hold(who: str) -> None:
        assert inside == []
        inside.append(who)
        await turns(3)
        inside.remove(who)
        served.append(who)

    async def kazoos() -> None:
        for _ in range(4):
            lock = kazoo_client.Lock("/lock", "kazoo", extra_lock_patterns=["-lock-"])
            assert await asyncio.to_thread(lock.acquire)
            await hold("kazoo")
            await asyncio.to_thread(lock.release)

    async def ours(lock: corral.Lock) -> None:
        for _ in range(4):
            async with lock:
                await hold("corral")

    async with connect() as one, connect() as two:
        await one.create("/lock")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for client in (one, two):
                group.create_task(kazoos())
                group.create_task(ours(client.lock("/lock")))
        assert sorted(served) == ["corral"] * 8 + ["kazoo"] * 8
        assert await children(one, "/lock") == []
