"""A partition on the virtual clock: when items move, and how soon many have."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy

GUID = "01234567-89ab-cdef-0123-456789abcdef"


def now() -> float:
    return asyncio.get_running_loop().time()


async def own(partition: corral.Partition[int], count: int) -> frozenset[int]:
    """The set of the loop, once it has so many."""
    async with asyncio.timeout(60):
        async for mine in partition:
            if len(mine) == count:
                return mine
    raise AssertionError("the loop has ended")


async def test_items_move_when_the_members_have_settled(other: corral.Client) -> None:
    """P3: `settle` seconds after the last change of the members, and not before."""
    async with other.partition("/p", range(24), settle=2.0) as partition:
        joined = now()
        await own(partition, 24)
        assert now() - joined == pytest.approx(2.0)
        following = asyncio.create_task(anext(partition))
        await other.create(f"/p/members/{GUID}")
        await asyncio.sleep(1.5)
        await other.create(f"/p/members/{GUID[::-1]}")
        changed = now()
        assert len(await following) < 24
        assert now() - changed == pytest.approx(2.0)
        await other.delete("/p/members", recursive=True)


async def test_a_member_that_joins_and_leaves_at_once_moves_nothing(other: corral.Client) -> None:
    """P3: nor does one that leaves and is back in time."""
    async with other.partition("/p", range(24), settle=2.0) as partition:
        await own(partition, 24)
        following = asyncio.create_task(anext(partition))
        for _ in range(5):
            await other.create(f"/p/members/{GUID}")
            await asyncio.sleep(1.0)
            await other.delete(f"/p/members/{GUID}")
            await asyncio.sleep(5.0)
        assert not following.done()
        assert partition.members == {partition.id}
        following.cancel()
        await asyncio.wait([following])


async def test_what_comes_back_before_the_loop_asks_has_not_moved(other: corral.Client) -> None:
    """P1, P3: an item that was to move away, and is assigned to us again before the loop has asked, is kept."""
    async with other.partition("/p", range(24), settle=1.0) as partition:
        await own(partition, 24)
        tokens = {item: partition.held(item).fencing_token for item in range(24)}
        await other.create(f"/p/members/{GUID}")
        await asyncio.sleep(2.0)
        assert len(partition.mine) < 24
        await other.delete(f"/p/members/{GUID}")
        await asyncio.sleep(2.0)
        following = asyncio.create_task(anext(partition))
        await asyncio.sleep(2.0)
        assert not following.done()
        assert {item: partition.held(item).fencing_token for item in range(24)} == tokens
        following.cancel()
        await asyncio.wait([following])


async def test_members_that_never_settle(other: corral.Client) -> None:
    """P3: items move all the same, after ten times as long."""
    async with other.partition("/p", range(24), settle=1.0) as partition:
        await own(partition, 24)
        began, following = now(), asyncio.create_task(anext(partition))
        number = 0
        while not following.done():
            name = f"{number:036d}"
            await other.create(f"/p/members/{name}")
            await asyncio.sleep(0.5)
            number += 1
        assert 10 <= now() - began <= 11
        await other.delete("/p/members", recursive=True)


async def test_foreign_children_are_no_members(other: corral.Client) -> None:
    """P2: what is no id gets no items."""
    await other.create("/p/members/somebody", make_parents=True)
    async with other.partition("/p", range(24), settle=1.0) as partition:
        await own(partition, 24)
        assert partition.members == {partition.id}


async def test_a_member_that_dies_is_replaced(server: EmbeddedServer, other: corral.Client) -> None:
    """P1, P3: its items are another's when its session has expired and the members have settled."""
    async with FaultProxy(server.address) as proxy, corral.connect(proxy.address, session_timeout=4) as zk:
        async with (
            zk.partition("/p", range(24), settle=1.0) as dying,
            other.partition("/p", range(24), settle=1.0) as partition,
        ):
            shares = corral.rendezvous(range(24), [dying.id, partition.id])
            await asyncio.gather(own(dying, len(shares[dying.id])), own(partition, len(shares[partition.id])))
            async with proxy.black_hole():
                began = now()
                await own(partition, 24)
                assert 4 <= now() - began <= 4 + 1 + 2


async def test_many_items_are_acquired_together(server: EmbeddedServer) -> None:
    """P1: a thousand items take as many round trips as one, or a few times that, and not one after the other."""
    async with FaultProxy(server.address) as proxy, corral.connect(proxy.address, session_timeout=30) as zk:
        async with proxy.delay(0.05), zk.partition("/p", range(1000), settle=1.0) as partition:
            joined = now()
            await own(partition, 1000)
            assert now() - joined < 1.0 + 20 * 0.1


async def test_twenty_members_and_a_thousand_items(server: EmbeddedServer) -> None:
    """P1, P3: members join one by one, and leave one by one; each item always has one owner or none, and when the
    members have settled, one; a member that joins takes over what it gets, and nothing else moves."""
    items = range(1000)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(corral.connect(server.address)) for _ in range(4)]
        sets: dict[int, frozenset[int]] = {}

        async def take_part(number: int, until: asyncio.Event) -> None:
            client = clients[number % len(clients)]
            async with client.partition("/p", items, settle=0.5) as partition:
                following = asyncio.create_task(follow(number, partition))
                await until.wait()
                following.cancel()
                await asyncio.wait([following])
                del sets[number]

        async def follow(number: int, partition: corral.Partition[int]) -> None:
            async for mine in partition:
                sets[number] = mine
                for another, theirs in sets.items():
                    assert another == number or not mine & theirs

        async def settled(members: int) -> None:
            async with asyncio.timeout(60):
                while len(sets) != members or len(frozenset().union(*sets.values())) != len(items):
                    await asyncio.sleep(0.1)

        ends = [asyncio.Event() for _ in range(20)]
        async with asyncio.TaskGroup() as tasks:
            for number, end in enumerate(ends):
                tasks.create_task(take_part(number, end))
                if number in (0, 5, 19):
                    await settled(number + 1)
                else:
                    await asyncio.sleep(0.2)
            before = dict(sets)
            ends[7].set()
            await settled(19)
            for number, mine in sets.items():
                assert before[number] <= mine
            for end in ends:
                end.set()
