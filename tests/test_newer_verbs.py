"""The verbs that old servers do not know: `who_am_i`, `ephemerals` and `count_children`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import corral
from corral import Identity
from corral.testing import EmbeddedServer, FaultProxy
from support import within

Connect = Callable[..., corral.Client]


async def test_who_one_is(connect: Connect, zk: corral.Client) -> None:
    """Every identity of the session is listed: its address, and the user of each of its credentials, without
    the password or its hash."""
    [alone] = await zk.who_am_i()
    assert alone == Identity("ip", "127.0.0.1")
    async with connect(auth=[("digest", b"ann:secret")]) as ann:
        ann.add_auth("digest", b"bob:se:cret")
        found = await ann.who_am_i()
        assert sorted(found) == [("digest", "ann"), ("digest", "bob"), ("ip", "127.0.0.1")]
        assert {each.scheme for each in found} == {"digest", "ip"}
        assert "secret" not in repr(found)


async def test_our_ephemerals(connect: Connect, zk: corral.Client) -> None:
    """The ephemerals of this session at a path and below it are listed, and no others: not those of other
    sessions, not those whose names only begin alike, and not those that are gone."""
    for path in ("/a", "/a/b", "/ab"):
        await zk.create(path)
    ours = {await zk.create(path, ephemeral=True) for path in ("/x", "/a/x", "/a/b/y", "/ab/x")}
    async with connect() as other:
        await other.create("/a/theirs", ephemeral=True)
        assert await other.ephemerals("/") == ["/a/theirs"]
        assert await other.ephemerals("/a/x") == []
    assert set(await zk.ephemerals()) == ours
    assert set(await zk.ephemerals("/a")) == {"/a/x", "/a/b/y"}
    assert await zk.ephemerals("/x") == ["/x"]
    assert await zk.ephemerals("/nowhere") == []
    await zk.delete("/x")
    async with zk.lock("/lock") as held:
        [node] = await zk.ephemerals("/lock")
        assert held.node.endswith(node)
    assert set(await zk.ephemerals()) == ours - {"/x"}


async def test_how_many_are_below(zk: corral.Client) -> None:
    """All descendants are counted, or the own children alone, and never the znode itself."""
    for path in ("/a/b/c", "/a/b/d", "/ab/c"):
        await zk.ensure_path(path)
    await zk.create("/a/e", ephemeral=True)
    assert await zk.count_children("/a") == 4
    assert await zk.count_children("/a", recursive=False) == 2
    assert await zk.count_children("/a/b") == 2
    assert await zk.count_children("/a/e") == 0
    assert await zk.count_children("/") == 7
    assert await zk.count_children("/", recursive=False) == 2


@pytest.mark.parametrize("recursive", [True, False])
async def test_nothing_is_below_what_does_not_exist(zk: corral.Client, recursive: bool) -> None:
    """Counting below a znode that does not exist raises NoNode, which names it."""
    with pytest.raises(corral.NoNode, match="'/nowhere'"):
        await zk.count_children("/nowhere", recursive=recursive)


async def test_counting_takes_read(connect: Connect, zk: corral.Client) -> None:
    """Without READ on the znode nothing is counted; what is below it need not be readable."""
    secret = corral.acl.digest("ann", "secret")
    await zk.create("/open")
    await zk.create("/open/secret", acl=secret + corral.acl.world(corral.Perm.CREATE | corral.Perm.DELETE))
    await zk.create("/open/secret/x")
    assert await zk.count_children("/open") == 2
    with pytest.raises(corral.NoAuth, match=r"count_children '/open/secret': .* grant READ"):
        await zk.count_children("/open/secret")
    await zk.delete("/open/secret/x")
    await zk.delete("/open/secret")


async def test_below_a_chroot(connect: Connect, zk: corral.Client) -> None:
    """S6: with a chroot, paths go in and come out relative to it, and what is outside it is not listed."""
    await zk.create("/app/a/b", make_parents=True)
    await zk.create("/apple", ephemeral=True)
    await zk.create("/app/a/e", ephemeral=True)
    below = zk.chroot("/app")
    assert await below.ephemerals() == ["/a/e"]
    assert await below.ephemerals("/a") == ["/a/e"]
    assert await below.count_children("/") == 3
    assert await below.count_children("/", recursive=False) == 1
    assert await below.who_am_i() == await zk.who_am_i()
    with pytest.raises(corral.NoNode, match=r"the chroot '.*/app/x' does not exist"):
        await zk.chroot("/app/x").count_children("/")


async def test_the_ephemerals_of_the_new_session(connect: Connect, zk: corral.Client) -> None:
    """After a session has ended, its ephemerals are not listed any more."""
    async with connect() as first:
        await first.create("/first", ephemeral=True)
        assert await first.ephemerals() == ["/first"]
    assert await zk.ephemerals() == []


# Old servers


VERBS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "ephemerals": lambda zk: zk.ephemerals("/"),
    "count_children": lambda zk: zk.count_children("/"),
    "who_am_i": lambda zk: zk.who_am_i(),
}


@pytest.fixture
async def old() -> AsyncIterator[EmbeddedServer]:
    """A ZooKeeper 3.5, which knows none of them."""
    async with EmbeddedServer(version="3.5") as server:
        yield server


@pytest.mark.parametrize("verb", VERBS)
async def test_an_old_server(old: EmbeddedServer, verb: str) -> None:
    """A server that does not know a verb refuses it, and the error names the verb. The server closes the
    connection with that: locks stay held, reads in flight are answered, and the session goes on."""
    async with (
        FaultProxy(old.address) as proxy,
        corral.connect(proxy.address, session_timeout=4.0) as zk,
        zk.lock("/lock") as held,
    ):
        session = zk.session_id
        asked, read = asyncio.ensure_future(VERBS[verb](zk)), asyncio.ensure_future(zk.get("/lock"))
        with pytest.raises(corral.Unimplemented, match=rf"^{verb}.*: .*(too old|ZooKeeper 3\.[67])"):
            await within(asked)
        await within(read)
        assert (await zk.exists("/lock")) is not None
        assert proxy.accepted == 2
        assert held.is_valid
        assert zk.session_id == session
        assert await zk.count_children("/", recursive=False) == 2


@pytest.mark.parametrize("verb", VERBS)
async def test_a_write_beside_it(old: EmbeddedServer, verb: str) -> None:
    """A write that was sent behind such a request has an unknown outcome. It is not lost silently, and not
    sent twice."""
    async with corral.connect(old.address, session_timeout=4.0) as zk:
        asked, write = asyncio.ensure_future(VERBS[verb](zk)), asyncio.ensure_future(zk.create("/a"))
        with pytest.raises(corral.Unimplemented):
            await within(asked)
        (made,) = await within(asyncio.gather(write, return_exceptions=True))
        assert made == "/a" or isinstance(made, corral.ConnectionLoss)
        if made == "/a":
            assert await zk.exists("/a") is not None
