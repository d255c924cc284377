"""Permission to read affects what is shown, not who is waited for: the nodes of others need not be
readable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, NamedTuple

import pytest
from lock_support import Tap

import corral
from corral.testing import EmbeddedServer, FaultProxy
from corral.wire.messages import EXISTS
from support import children, settle, until_line, within

SECRET = corral.acl.digest("they", "secret")


class Room(NamedTuple):
    """A client that may not read the nodes of another, that other one, and a record of the first one's
    requests."""

    zk: corral.Client
    they: corral.Client
    tap: Tap


@pytest.fixture(params=["3.8", "3.9"])
async def room(request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    """Servers do not send the deletion event of a node that we may not read; 3.9 does not even answer whether
    it exists."""
    version: Literal["3.8", "3.9"] = request.param
    tap = Tap()
    async with (
        EmbeddedServer(version=version) as server,
        FaultProxy(server.address) as proxy,
        proxy.record(tap.note),
        corral.connect(server.address, auth=[("digest", b"they:secret")]) as they,
        corral.connect(proxy.address, session_timeout=3.0) as zk,
    ):
        await they.create("/line")
        for parent in ("locks", "leases"):
            await they.create(f"/line/{parent}")
        yield Room(zk, they, tap)


KINDS: dict[str, Callable[..., Any]] = {
    "lock": lambda zk, **options: zk.lock("/line", **options),
    "lock, kazoo's": lambda zk, **options: zk.lock("/line", layout="kazoo", **options),
    "election": lambda zk, **options: zk.election("/line", **options),
    "read lock": lambda zk, **options: zk.rwlock("/line", **options).read(),
    "write lock": lambda zk, **options: zk.rwlock("/line", **options).write(),
    "semaphore": lambda zk, **options: zk.semaphore("/line", 1, **options),
}


def theirs(room: Room, kind: str) -> Any:
    """The same recipe for the other client; it excludes ours."""
    return KINDS["write lock" if kind == "read lock" else kind](room.they, acl=SECRET)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_node_ahead_that_we_may_not_read(room: Room, kind: str) -> None:
    """L1: nodes ahead are waited for, although we may not read them. They are polled now and then, since the
    server may not send an event when they are deleted. We acquire after that, and not before."""
    held = await theirs(room, kind).acquire()
    waiter = asyncio.create_task(KINDS[kind](room.zk).acquire())
    await room.tap.seen(lambda: room.tap.counts[EXISTS] >= 3 or kind == "semaphore")
    await settle(room.zk)
    assert not waiter.done()
    assert held.is_valid
    await held.release()
    ours = await within(waiter)
    assert ours.is_valid
    await ours.release()


async def test_a_waiter_of_a_semaphore_behind_another(room: Room) -> None:
    """L1: the same holds in the line of those who wait for a lease."""
    held = await theirs(room, "semaphore").acquire()
    ahead = asyncio.create_task(theirs(room, "semaphore").acquire())
    await until_line(room.they, "/line/locks", 1)
    waiter = asyncio.create_task(KINDS["semaphore"](room.zk).acquire())
    await until_line(room.they, "/line/locks", 2)
    await held.release()
    await (await within(ahead)).release()
    await (await within(waiter)).release()


async def test_how_often_it_looks(room: Room) -> None:
    """L1: while it waits, a waiter polls only its predecessor, no more often than every third of the session
    timeout, and does not list the line."""
    held = await theirs(room, "lock").acquire()
    waiter = asyncio.create_task(KINDS["lock"](room.zk).acquire())
    await room.tap.seen(lambda: room.tap.counts[EXISTS] >= 2)
    loop, start, began = asyncio.get_running_loop(), len(room.tap.messages), asyncio.get_running_loop().time()
    await room.tap.seen(lambda: room.tap.requests(start).count(EXISTS) >= 6)
    assert loop.time() - began >= 5 * room.zk.session_timeout / 3
    assert set(room.tap.requests(start)) == {EXISTS}
    await held.release()
    await (await within(waiter)).release()


@pytest.mark.parametrize("kind", KINDS)
async def test_who_is_in_line(room: Room, kind: str) -> None:
    """L9: contenders whose data we may not read are listed without it, in their places, and with their stat
    if the server reports it."""
    made, held = KINDS[kind](room.zk, data=b"ours"), await theirs(room, kind).acquire()
    waiter = asyncio.create_task(made.acquire())
    await until_line(
        room.they, "/line/locks" if kind == "semaphore" else "/line", 1 if kind == "semaphore" else 4
    )
    if kind == "semaphore":
        [first], [second] = await made.holders(), await made.waiters()
    else:
        first, second = await made.contenders()
    assert (first.data, second.data) == (None, b"ours")
    assert first.name == held.node.rpartition("/")[2]
    if first.stat.czxid != -1:
        assert first.stat.czxid == held.fencing_token
        assert first.stat.ephemeral_owner == room.they.session_id
    if kind == "election":
        assert await made.leader() == first
        assert await within(anext(made.leaders())) == first
    waiter.cancel()
    await held.release()


async def test_leaders(room: Room) -> None:
    """W1, L1: the leader is observed, although we may not read its node."""
    leaders = room.zk.election("/line").leaders()
    held = await theirs(room, "election").acquire()
    first = await within(anext(leaders))
    assert first is not None
    assert first.data is None
    following = asyncio.ensure_future(anext(leaders))
    await settle(room.zk)
    await held.release()
    assert await within(following) is None
    async with theirs(room, "election") as held:
        second = await within(anext(leaders))
        assert second is not None
        assert second.name == held.node.rpartition("/")[2]


async def test_evict(room: Room) -> None:
    """L9: an operator that may delete nodes in the line, but not read them, can break the lock."""
    held = await theirs(room, "lock").acquire()
    evicted = await room.zk.lock("/line").evict()
    assert evicted is not None
    assert evicted.data is None
    assert held.node.endswith(evicted.name)
    assert isinstance(await within(held.wait_lost()), corral.LockLost)


async def test_our_own_node(room: Room) -> None:
    """L1, L3: we may not even be able to read our own node: we still wait, acquire, and release."""
    held = await theirs(room, "lock").acquire()
    waiter = asyncio.create_task(KINDS["lock"](room.zk, acl=SECRET).acquire())
    await until_line(room.they, "/line", 4)
    await settle(room.zk)
    await held.release()
    ours = await within(waiter)
    assert ours.is_valid
    await ours.release()
    assert sorted(await children(room.they, "/line")) == ["leases", "locks"]


async def test_a_line_that_we_may_not_read(room: Room) -> None:
    """L9: listing the contenders needs the READ permission on the path, and the error says so."""
    await room.they.set_acl("/line", [*SECRET, *corral.acl.world(corral.Perm.CREATE | corral.Perm.DELETE)])
    for ask in (
        room.zk.lock("/line").contenders,
        room.zk.lock("/line").evict,
        room.zk.election("/line").leader,
    ):
        with pytest.raises(corral.NoAuth, match="/line"):
            await within(ask())
    with pytest.raises(corral.NoAuth, match="/line"):
        await within(anext(room.zk.election("/line").leaders()))
