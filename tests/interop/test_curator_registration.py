"""N1: registrations beside Curator's PersistentNode, on an embedded server as on a real one."""

from __future__ import annotations

import asyncio

import pytest
from curator_peer import Curator
from interop_support import within

import corral
from support import settle, until


async def until_data(zk: corral.Client, path: str, wanted: bytes) -> corral.Stat:
    async def has_data() -> bool:
        return await zk.exists(path) is not None and (await zk.get(path))[0] == wanted

    await until(has_data, f"{path} has {wanted!r}")
    return (await zk.get(path))[1]


async def test_we_wait_for_curators_node(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """N1: Curator's znode is somebody else's: refused or waited for, and left as it is. It is ours when Curator closes
    its own."""
    path = f"{place}/nodes/me"
    theirs = await curator.node(path, "theirs")
    await theirs.acquire()
    with pytest.raises(corral.NodeExists):
        await within(zk.registration(path, on_taken="raise").__aenter__())
    entering = asyncio.create_task(zk.registration(path, b"ours").__aenter__())
    await settle(zk)
    assert not entering.done()
    data, stat = await other.get(path)
    assert (data, stat.version) == (b"theirs", 0)
    await theirs.release()
    ours = await within(entering)
    stat = await until_data(other, path, b"ours")
    assert stat.ephemeral_owner == zk.session_id
    await ours.__aexit__(None, None, None)


async def test_curators_node_follows_ours(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """N1: a PersistentNode on the path of a registration leaves the znode ours, but sets its data, as it does with any
    znode that it finds. It creates its own when the registration is left."""
    path = f"{place}/nodes/me"
    theirs = await curator.node(path, "theirs")
    async with zk.registration(path, b"ours") as ours:
        await theirs.acquire()
        assert (await until_data(other, path, b"theirs")).ephemeral_owner == zk.session_id
        await ours.update(b"ours")
        assert (await until_data(other, path, b"ours")).ephemeral_owner == zk.session_id
    stat = await until_data(other, path, b"theirs")
    assert stat.ephemeral_owner not in (0, zk.session_id)
    await theirs.release()


async def test_both_keep_theirs_when_somebody_deletes_them(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """N1: side by side below one parent, each is made again by its own."""
    theirs = await curator.node(f"{place}/nodes/theirs", "theirs")
    await theirs.acquire()
    async with zk.registration(f"{place}/nodes/ours", b"ours"):
        for name in ("ours", "theirs"):
            await other.delete(f"{place}/nodes/{name}")
            await until_data(other, f"{place}/nodes/{name}", name.encode())
    await theirs.release()
