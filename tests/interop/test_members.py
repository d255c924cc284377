"""N1, N2: Curator's and kazoo's members of groups, and ours, see one another.

Debian has no jar of Curator's ServiceDiscovery: what it writes, and what it accepts, was recorded, and is in
`recipes/test_instance_json.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from curator_peer import Curator, Recipe
from interop_support import within

import corral
from support import PATIENCE, until


async def until_members(theirs: Recipe, *expected: str) -> None:
    """Wait until Curator sees these members."""

    async def seen() -> bool:
        return sorted(await theirs.participants()) == sorted(expected)

    await until(seen, f"Curator sees {expected}")


async def until_joined(events: corral.GroupWatch, **expected: bytes) -> None:
    """Wait until a watch has told of these members."""
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if {member.name: member.data for member in event.members} == expected:
                return


async def test_curators_group_members(zk: corral.Client, curator: Curator, place: str) -> None:
    """Each sees the other join, update its data and leave; both have the other's name and data."""
    path = f"{place}/group"
    theirs = await curator.member(path, "java", "8080")
    async with zk.group(path).watch() as events:
        await theirs.acquire()
        await until_joined(events, java=b"8080")
        async with zk.group(path).join(b"ours", name="python") as me:
            await until_joined(events, java=b"8080", python=b"ours")
            await until_members(theirs, "java=8080", "python=ours")
            await me.update(b"")
            await until_members(theirs, "java=8080", "python=")
        await until_members(theirs, "java=8080")
        await until_joined(events, java=b"8080")
        await theirs.release()
        await until_joined(events)


async def test_a_member_of_curators_has_the_name(zk: corral.Client, curator: Curator, place: str) -> None:
    """We wait for a name that Curator has, or refuse it, as asked."""
    path = f"{place}/group"
    theirs = await curator.member(path, "one", "java")
    await theirs.acquire()

    async def is_member() -> bool:
        return bool(await zk.group(path).members())

    await until(is_member, "Curator has joined")
    with pytest.raises(corral.NodeExists):
        await within(zk.group(path).join(name="one", on_taken="raise").__aenter__())
    ours = zk.group(path).join(b"python", name="one")
    entering = asyncio.create_task(ours.__aenter__())
    await zk.sync()
    assert not entering.done()
    await theirs.release()
    await within(entering)
    [member] = await zk.group(path).members()
    assert member.data == b"python"
    await ours.__aexit__(None, None, None)


@pytest.fixture
async def kazoo(server: str) -> Any:
    """A client of kazoo's."""
    client = pytest.importorskip("kazoo.client").KazooClient(server)
    await asyncio.to_thread(client.start, PATIENCE)
    yield client
    await asyncio.to_thread(client.stop)
    await asyncio.to_thread(client.close)


@pytest.mark.parametrize("layout", ["kazoo", "kazoo_shallow"])
async def test_kazoos_parties(zk: corral.Client, kazoo: Any, place: str, layout: Any) -> None:
    """Each sees the other's members by name, and sees them leave; neither sees what is no member."""
    path, group = f"{place}/party", zk.group(f"{place}/party", layout=layout)
    make = kazoo.Party if layout == "kazoo" else kazoo.ShallowParty
    theirs = make(path, "host-k")
    await asyncio.to_thread(theirs.join)

    def seen() -> list[str]:
        return sorted(theirs)

    assert [member.name for member in await group.members()] == ["host-k"]
    async with group.join(name="host-c"):
        assert await asyncio.to_thread(seen) == ["host-c", "host-k"]
        assert sorted(member.name for member in await group.members()) == ["host-c", "host-k"]
        assert sorted(member.data for member in await group.members()) == [b"host-c", b"host-k"]
        async with group.watch() as events:
            first = await within(anext(events))
            assert sorted(member.name for member in first.members) == ["host-c", "host-k"]
            await asyncio.to_thread(theirs.leave)
            event = await within(anext(events))
            assert [member.name for member in event.left] == ["host-k"]
    assert await asyncio.to_thread(seen) == []
