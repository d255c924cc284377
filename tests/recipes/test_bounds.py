"""Every retry ends: for a request that breaks each connection, and for answers that lead nowhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from lock_support import Rig, ended

import corral
from client_support import asks_for
from corral.recipes.kit.rounds import MOST_ROUNDS
from corral.testing import EmbeddedServer, FaultProxy, before, committed
from corral.testing.embedded.codes import NO_NODE, Refused
from corral.wire.messages import CHILDREN, CREATE2, DELETE, EXISTS, GET, MULTI, Operation
from support import children, settle, until_line, within

MOST = corral.ConnectionLoss.MOST_LOSSES

Act = Callable[[corral.Client], Awaitable[object]]


async def first_leader(zk: corral.Client) -> object:
    async for leader in zk.election("/lock").leaders():
        return leader
    return None


# The call to make while another client is in /lock, or in /lock/locks, and which request breaks each
# connection.
POISON: dict[str, tuple[Act, Operation]] = {
    "a lock's create": (lambda zk: zk.lock("/lock").acquire(), CREATE2),
    "a lock's list": (lambda zk: zk.lock("/lock").acquire(), CHILDREN),
    "the watch of who is ahead": (lambda zk: zk.lock("/lock").acquire(), GET),
    "try_acquire's list": (lambda zk: zk.lock("/lock").try_acquire(), CHILDREN),
    "a reader's watch": (lambda zk: zk.rwlock("/lock").read().acquire(), GET),
    "a semaphore's list": (lambda zk: zk.semaphore("/lock", 2).acquire(), CHILDREN),
    "a semaphore's limit": (lambda zk: zk.semaphore("/lock", 2).acquire(), GET),
    "contenders, their list": (lambda zk: zk.lock("/lock").contenders(), CHILDREN),
    "contenders, their data": (lambda zk: zk.lock("/lock").contenders(), GET),
    "locked": (lambda zk: zk.lock("/lock").locked(), CHILDREN),
    "evict's list": (lambda zk: zk.lock("/lock").evict(), CHILDREN),
    "evict's delete": (lambda zk: zk.lock("/lock").evict(), DELETE),
    "the leader": (lambda zk: zk.election("/lock").leader(), GET),
    "leaders": (first_leader, CHILDREN),
}


@pytest.mark.parametrize("what", POISON)
async def test_a_request_that_breaks_each_connection(rig: Rig, what: str) -> None:
    """L3: a recipe that repeats a request gives up with ConnectionLoss when enough connections in a row broke
    on it, and leaves nothing in the line."""
    act, operation = POISON[what]
    names = {"lock-": "/lock/_c_1-lock-", "latch-": "/lock/_c_1-latch-", "__WRIT__": "/lock/_c_1-__WRIT__"}
    await rig.other.create("/lock")
    stood = [await rig.other.create(name, ephemeral=True, sequential=True) for name in names.values()]
    for parent in ("locks", "leases"):
        await rig.other.create(f"/lock/{parent}")
    fatal = before(match=asks_for(operation))
    async with rig.proxy.cut_at(fatal, reset=True, times=1000):
        with pytest.raises(corral.ConnectionLoss) as failure:
            await within(act(rig.zk))
    assert failure.value.is_hopeless
    asked = [request for request in rig.tap.requests() if request is operation]
    assert MOST <= len(asked) <= 2 * MOST + 1
    await until_line(rig.other, "/lock", len(stood) + 2)
    for parent in ("locks", "leases"):
        await until_line(rig.other, f"/lock/{parent}", 0)


async def test_the_check_of_a_hand_off(rig: Rig) -> None:
    """L3: a waiter gives up if the check of its own node breaks each connection, and its node is deleted."""
    held = await rig.other.lock("/lock").acquire()
    waiter = asyncio.create_task(rig.zk.lock("/lock").acquire())
    await until_line(rig.other, "/lock", 2)
    await settle(rig.zk)
    async with rig.proxy.cut_at(before(match=asks_for(EXISTS, MULTI)), reset=True, times=1000):
        await held.release()
        with pytest.raises(corral.ConnectionLoss):
            await within(waiter)
    await until_line(rig.other, "/lock", 0)


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_release_that_breaks_each_connection(
    rig: Rig, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """L6: a release that breaks each connection gives up with an error. The lock then counts as not held, and
    may be released again."""
    held = await rig.zk.lock("/lock").acquire()
    at = before if lost == "request" else committed
    async with rig.proxy.cut_at(at(match=asks_for(DELETE)), reset=True, times=1000):
        with pytest.raises(corral.ConnectionLoss, match=r"release '/lock': its znode .* may stay") as failure:
            await within(held.release())
    assert failure.value.is_hopeless
    assert not held.is_valid
    assert "stays until its session ends" in caplog.text
    await within(held.release())
    assert await children(rig.other, "/lock") == []


async def test_an_abandoned_node_that_cannot_be_removed(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """L3: the deletion of a node that nobody waits for gives up, too, and logs the node's name."""
    async with rig.other.lock("/lock"):
        waiter = asyncio.create_task(rig.zk.lock("/lock").acquire())
        names = await until_line(rig.other, "/lock", 2)
        async with rig.proxy.cut_at(before(match=asks_for(DELETE)), reset=True, times=1000):
            waiter.cancel()
            await ended(waiter)
            await rig.tap.seen(lambda: names[1] in caplog.text)
        assert rig.tap.counts[DELETE] <= MOST + 1


@pytest.mark.parametrize("again", ["released", "downgraded again"])
async def test_a_downgrade_that_breaks_each_connection(rig: Rig, again: str) -> None:
    """L6: a downgrade that breaks each connection gives up with an error. Releasing then deletes whichever
    node exists; calling it again tries again."""
    held = await rig.zk.rwlock("/lock").write().acquire()
    is_exchange = asks_for(MULTI)
    async with rig.proxy.cut_at(
        before(match=lambda message: is_exchange(message) and b"__READ__" in message.body),
        reset=True,
        times=1000,
    ):
        with pytest.raises(corral.ConnectionLoss):
            await within(held.downgrade())
    if again == "released":
        await within(held.release())
        await until_line(rig.other, "/lock", 0)
        return
    await within(held.downgrade())
    [name] = await children(rig.other, "/lock")
    assert "__READ__" in name
    await held.release()


# Servers with answers that lead nowhere


@contextlib.asynccontextmanager
async def liar(
    operation: Operation, lie: Callable[[bytes], bytes]
) -> AsyncIterator[tuple[corral.Client, list[int]]]:
    """A client of a server that answers one operation with `lie(true answer)`, and the list of opcodes that
    it received."""
    async with EmbeddedServer() as server:
        handlers, asked = server.zookeeper._handlers, list[int]()

        def noting(opcode: int, handler: Callable[..., Any]) -> Callable[..., Any]:
            def handle(*args: Any) -> Any:
                asked.append(opcode)
                answer = handler(*args)
                return lie(answer) if opcode == operation.opcode else answer

            return handle

        async with corral.connect(server.address) as zk:
            await zk.create("/lock/locks", make_parents=True)
            for opcode in list(handlers):
                handlers[opcode] = noting(opcode, handlers[opcode])
            yield zk, asked


KINDS: dict[str, Callable[[corral.Client], Any]] = {
    "lock": lambda zk: zk.lock("/lock"),
    "read lock": lambda zk: zk.rwlock("/lock").read(),
    "semaphore": lambda zk: zk.semaphore("/lock", 1),
    "election": lambda zk: zk.election("/lock"),
}


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_node_that_is_never_in_the_line(kind: str, way: str) -> None:
    """L3: if our node is never listed, joining gives up after a bounded number of rounds, with an error that
    says so, rather than joining as fast as the server answers. Each of its nodes is deleted."""
    nobody = CHILDREN.reply.encode([])
    async with liar(CHILDREN, lambda _: nobody) as (zk, asked):
        with pytest.raises(corral.NoNode, match="/lock': its znode was deleted 16 times in a row"):
            await within(getattr(KINDS[kind](zk), way)())
        await settle(zk)
        assert asked.count(CREATE2.opcode) == asked.count(DELETE.opcode) == MOST_ROUNDS


@pytest.mark.parametrize("way", ["acquire", "try_acquire"])
async def test_a_parent_that_is_there_and_is_not(way: str) -> None:
    """L3: if the parent does not exist when a node is created in it, but does when it is created itself, the
    refusal is raised after a bounded number of rounds."""

    def missing(_: bytes) -> bytes:
        raise Refused(NO_NODE)

    async with liar(CREATE2, missing) as (zk, asked):
        with pytest.raises(corral.NoNode):
            await within(getattr(zk.lock("/lock"), way)())
        assert asked.count(CREATE2.opcode) == MOST_ROUNDS


@pytest.mark.parametrize("ask", ["leader", "leaders", "evict"])
async def test_a_leader_who_is_listed_and_not_there(ask: str) -> None:
    """K2: looking for the first in line gives up when the first is never there."""
    somebody = CHILDREN.reply.encode(["_c_1-latch-0000000001"])
    async with liar(CHILDREN, lambda _: somebody) as (zk, asked):
        election = zk.election("/lock")
        with pytest.raises(corral.NoNode, match="16 times"):
            await within(anext(election.leaders()) if ask == "leaders" else getattr(election, ask)())
        assert asked.count(GET.opcode) == MOST_ROUNDS


async def test_rounds_that_have_waited_do_not_count(rig: Rig) -> None:
    """L3, L10: a waiter that is evicted more often than the limit of fruitless rounds, but has waited each
    time, continues to wait in line."""
    held = await rig.other.lock("/lock").acquire()
    waiter = asyncio.create_task(rig.zk.lock("/lock").acquire())
    for _ in range(MOST_ROUNDS + 3):
        names = await until_line(rig.other, "/lock", 2)
        await settle(rig.zk)
        await rig.other.delete(f"/lock/{names[1]}")
        following = asyncio.create_task(rig.other.lock("/lock").acquire())
        await until_line(rig.other, "/lock", 2)
        await held.release()
        held = await within(following)
    assert not waiter.done()
    await held.release()
    await (await within(waiter)).release()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_session_is_granted_less(kind: str) -> None:
    """L3: the part of the lease that a holder needs depends on the timeout of the session in which it holds.
    The session in which it began to acquire may have had ten times as long a timeout."""
    async with EmbeddedServer(max_session_timeout=40) as generous:
        port = int(generous.address.rpartition(":")[2])
        async with (
            FaultProxy(generous.address) as proxy,
            corral.connect(proxy.address, session_timeout=40) as zk,
        ):
            async with proxy.cut_at(before(match=asks_for(CREATE2))) as cut:
                task = asyncio.create_task(KINDS[kind](zk).acquire())
                await within(cut.fired.wait())
                await generous.stop()
            async with EmbeddedServer(port=port, max_session_timeout=4):
                held = await within(task)
                assert held.is_valid
                assert zk.session_timeout == 4
