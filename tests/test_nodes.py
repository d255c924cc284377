"""Znodes on a real server: every kind of create, reading and writing, access control, chroots, and errors."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import corral
from client_support import asks_for, requests_seen
from corral.testing import FaultProxy, Message, Server, before, committed
from corral.wire import framing, messages
from support import PATIENCE, turns, until
from testing.raw_session import CREATE, RawSession

Connect = Callable[..., corral.Client]

USER = ("digest", b"ann:secret")
HERS = corral.acl.digest("ann", "secret")


async def gone(client: corral.Client, path: str) -> None:
    """Wait until an independent observer does not find the node."""

    async def absent() -> bool:
        return await client.exists(path) is None

    await until(absent, f"{path} is gone")


class Elsewhere:
    """A client in its own thread, for work that must be waited for where nothing can be awaited."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    def __enter__(self) -> Elsewhere:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = self._connect()
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Callable[[corral.Client], Any]) -> Any:
        """Run it in that thread, and wait for it in this one."""
        return self._wait(work(self._client))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


# Creating


@pytest.mark.parametrize("data", [b"", b"\x00payload\xff", bytearray(b"array"), memoryview(b"view")])
async def test_what_is_created_can_be_read(zk: corral.Client, other: corral.Client, data: bytes) -> None:
    """A created node has the data, whichever bytes type it was passed as, and belongs to no session."""
    assert await zk.create("/a", data) == "/a"
    found, stat = await other.get("/a")
    assert type(found) is bytes
    assert found == bytes(data)
    assert stat.ephemeral_owner == 0
    assert stat.version == 0


async def test_ephemerals_go_with_their_session(connect: Connect, other: corral.Client) -> None:
    """S5: an ephemeral node has its session as owner, and is gone when the client has closed."""
    async with connect() as zk:
        await zk.create("/e", ephemeral=True)
        stat = await other.exists("/e")
        assert stat is not None
        assert stat.ephemeral_owner == zk.session_id != 0
        with pytest.raises(corral.NoChildrenForEphemerals):
            await zk.create("/e/child")
    await other.sync()
    assert await other.exists("/e") is None


@pytest.mark.parametrize("ephemeral", [False, True])
@pytest.mark.parametrize("prefix", ["/q/job-", "/q/"])
async def test_sequential_names_are_numbered(zk: corral.Client, prefix: str, ephemeral: bool) -> None:
    """The returned path of a sequential node has its number, which increases; the name before it may be
    empty."""
    await zk.create("/q")
    made = [await zk.create(prefix, sequential=True, ephemeral=ephemeral) for _ in range(3)]
    assert made == [f"{prefix}{number:010d}" for number in range(3)]
    assert sorted(await zk.children("/q")) == [path.rpartition("/")[2] for path in made]


async def test_a_sequential_node_at_the_root(zk: corral.Client) -> None:
    """A sequential name may be empty at the client's root, too."""
    path = await zk.create("/", sequential=True)
    assert path == f"/{int(path[1:]):010d}"
    assert await zk.exists(path) is not None


async def test_containers_are_collected(zk: corral.Client) -> None:
    """The server removes a container after its last child was deleted, and not before it had one."""
    await zk.create("/c", container=True)
    await zk.create("/c/child")
    await zk.delete("/c/child")
    await gone(zk, "/c")


@pytest.mark.parametrize("sequential", [False, True])
async def test_nodes_with_a_ttl_are_removed(
    connect: Connect, proxy: FaultProxy, other: corral.Client, sequential: bool
) -> None:
    """A node with a TTL (seconds) is removed when it was not changed for that long; it is no ephemeral."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        brief = await zk.create("/brief-", b"data", ttl=0.05, sequential=sequential)
        lasting, stat = await zk.create("/lasting-", ttl=3600, sequential=sequential, with_stat=True)
    assert lasting == ("/lasting-0000000001" if sequential else "/lasting-")
    await gone(other, brief)
    assert await other.exists(lasting) == stat
    assert stat.ephemeral_owner == 0
    sent = [request.body for request in seen.requests if request.opcode == messages.CREATE_TTL.opcode]
    assert [int.from_bytes(body[-8:]) for body in sent] == [50, 3_600_000]  # the protocol's milliseconds


@pytest.mark.parametrize(
    "kind",
    [{}, {"ephemeral": True}, {"container": True}, {"ttl": 3600}, {"sequential": True}],
    ids=lambda kind: next(iter(kind), "persistent"),
)
async def test_create_can_tell_the_stat(zk: corral.Client, kind: dict[str, Any]) -> None:
    """With `with_stat`, create returns the Stat that exists would return, for each kind of node."""
    path, stat = await zk.create("/n", b"four", with_stat=True, **kind)
    assert stat == await zk.exists(path)
    assert stat.data_length == 4


# Parents


@pytest.mark.parametrize("path", ["/a/b", "/a/b/c"])
async def test_ensure_path(zk: corral.Client, other: corral.Client, path: str) -> None:
    """ensure_path creates a node and its missing ancestors, persistent and empty; existing ones are not
    changed."""
    await zk.create("/a", b"old")
    assert await zk.ensure_path(path) is None
    data, stat = await other.get(path)
    assert (data, stat.ephemeral_owner, stat.version) == (b"", 0, 0)
    await zk.set(path, b"new")
    await zk.ensure_path(path, acl=corral.acl.WORLD_READ)
    await other.sync()
    assert (await other.get(path))[0] == b"new"
    assert (await other.get_acl(path))[0] == list(corral.acl.OPEN)
    assert (await other.get("/a"))[0] == b"old"
    await zk.ensure_path("/r", acl=corral.acl.WORLD_READ)
    assert (await other.get_acl("/r"))[0] == list(corral.acl.WORLD_READ)


async def test_ensure_path_below_a_chroot(zk: corral.Client, other: corral.Client) -> None:
    """ensure_path creates nodes below the chroot. With "/" it creates the chroot itself, and at the server's
    own root it does nothing."""
    team = zk.chroot("/org/team")
    await team.ensure_path("/")
    assert await other.children("/org") == ["team"]
    await team.ensure_path("/a/b")
    await other.sync()
    assert await other.exists("/org/team/a/b") is not None
    assert await other.exists("/a") is None
    server = corral.connect(str(zk.server))
    async with server:
        await server.ensure_path("/")


async def test_ensure_path_that_is_not_allowed(connect: Connect, zk: corral.Client, root: str) -> None:
    """A refusal names the path below the chroot; for an ancestor of the chroot, the note has its full path.
    An ancestor in which nothing may be created is no obstacle if all nodes exist."""
    async with connect(auth=[USER]) as ann:
        await ann.create("/closed", acl=[*corral.acl.world(corral.Perm.READ), *HERS])
        with pytest.raises(corral.NoAuth) as caught:
            await zk.ensure_path("/closed/a/b")
        assert caught.value.path == "/closed/a"
        with pytest.raises(corral.NoAuth) as caught:
            await zk.chroot("/closed/a").ensure_path("/b")
        assert caught.value.path == "/"
        assert zk.chroot_path not in str(caught.value)
        with pytest.raises(corral.NoAuth) as caught:
            await zk.chroot("/closed/a/b").ensure_path("/")
        assert caught.value.path == "/"
        assert caught.value.__notes__ == [
            f"the ancestor '{root}/closed/a' of the chroot '{root}/closed/a/b' could not be created"
        ]
        await ann.create("/closed/open")
        await zk.ensure_path("/closed/open/b")
        await ann.set_acl("/closed", corral.acl.OPEN)


async def test_ensure_path_too_long_sends_nothing(connect: Connect, proxy: FaultProxy) -> None:
    """S7: if only the last part of a path makes it exceed the frame limit, nothing is created."""
    async with connect(proxy.address, max_request=2048) as zk, requests_seen(proxy) as seen:
        with pytest.raises(corral.FrameTooLarge, match="over the limit of 2,048"):
            await zk.ensure_path(f"/a/b/{'x' * 2000}")
        assert await zk.children("/") == []
        assert seen.opcodes == [messages.CHILDREN.opcode]


@pytest.mark.parametrize("reply", [False, True])
async def test_ensure_path_over_a_loss(
    connect: Connect, proxy: FaultProxy, other: corral.Client, reply: bool
) -> None:
    """S2: creating paths is sent again after a loss, since that does no harm."""
    lose = committed if reply else before
    async with connect(proxy.address) as zk:
        async with proxy.cut_at(lose(match=asks_for(messages.CREATE), nth=2), reset=True, times=2) as cut:
            await zk.ensure_path("/a/b/c")
        assert cut.fired.is_set()
    await other.sync()
    assert await other.exists("/a/b/c") is not None


async def test_ensure_path_that_breaks_every_connection(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """A create on which one connection after another breaks is given up with ConnectionLoss, and the client
    continues."""
    async with connect(proxy.address) as zk:
        async with proxy.cut_at(before(match=asks_for(messages.CREATE)), reset=True, times=100):
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(corral.ConnectionLoss) as caught:
                    await zk.ensure_path("/a")
        assert caught.value.is_hopeless
        await zk.ensure_path("/a")
    await other.sync()
    assert await other.exists("/a") is not None


async def test_ensure_path_gives_up_when_others_never_do(
    real_time: None, connect: Connect, proxy: FaultProxy
) -> None:
    """If another client deletes the parent each time it was created, the error is NoNode, after 16 rounds."""
    rounds = 0

    async def remove(zk: corral.Client) -> None:
        async def is_there() -> bool:
            return await zk.exists("/p") is not None

        await until(is_there, "/p is made")
        await zk.delete("/p")

    with Elsewhere(connect) as elsewhere:

        def vanish(message: Message) -> bool:
            nonlocal rounds
            if message.operation == "create" and str(message.path).endswith("/p/q"):
                rounds += 1
                elsewhere.run(remove)
            return False

        async with connect(proxy.address) as zk, proxy.cut_at(before(match=vanish), reset=True):
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(
                    corral.NoNode, match="create '/p/q': other clients kept deleting its parents"
                ):
                    await zk.ensure_path("/p/q")
    assert rounds == 16


async def test_missing_parents_are_made(zk: corral.Client) -> None:
    """make_parents creates missing parents, persistent and empty, and nothing if none is missing."""
    assert await zk.create("/a/b/c", b"leaf", ephemeral=True, make_parents=True) == "/a/b/c"
    assert await zk.create("/a/b/d", b"leaf", make_parents=True) == "/a/b/d"
    data, stat = await zk.get("/a/b")
    assert (data, stat.ephemeral_owner, stat.version) == (b"", 0, 0)
    with pytest.raises(corral.NodeExists):
        await zk.create("/a/b/c", make_parents=True)


async def test_without_make_parents_they_must_be_there(zk: corral.Client) -> None:
    """A missing parent raises NoNode, and nothing is created."""
    with pytest.raises(corral.NoNode):
        await zk.create("/a/b")
    assert await zk.children("/") == []


async def test_a_chroot_that_is_missing_can_be_made(
    server_address: str, root: str, other: corral.Client
) -> None:
    """create("/", make_parents=True) makes the chroot itself."""
    async with corral.connect(f"{server_address}{root}/not/there") as zk:
        assert await zk.exists("/") is None
        assert await zk.create("/", make_parents=True) == "/"
        await zk.create("/a")
    assert await other.children("/not/there") == ["a"]


async def test_many_make_the_same_parents(zk: corral.Client, other: corral.Client) -> None:
    """If several clients create one branch concurrently all succeed, whichever is first at each level."""
    makers = [client.create(f"/x/y/z/{n}", make_parents=True) for n in range(50) for client in (zk, other)]
    results = await asyncio.gather(*makers, return_exceptions=True)
    assert sum(isinstance(result, str) for result in results) == 50
    assert all(isinstance(result, str | corral.NodeExists) for result in results)
    assert len(await zk.children("/x/y/z")) == 50


async def test_a_parent_that_vanishes_is_made_again(
    real_time: None, connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """L10: parents may vanish between their creation and the create (containers may): then they are created
    again.

    The test deletes the parent when the create is about to pass the proxy, in a thread, since the proxy waits
    for that.
    """
    with Elsewhere(connect) as elsewhere:
        vanished: list[str] = []

        def vanish(message: Message) -> bool:
            # The node itself is created with CREATE2, because of with_stat; its parents are not.
            if message.opcode == messages.CREATE2.opcode and vanished.count("/p") < 3:
                elsewhere.run(lambda zk: zk.delete("/p", recursive=True))
                vanished.append("/p")
            return False

        await other.create("/p")
        async with connect(proxy.address) as zk, proxy.cut_at(before(match=vanish), reset=True):
            path, _ = await zk.create("/p/q", make_parents=True, with_stat=True)
    assert path == "/p/q"
    assert vanished == ["/p"] * 3
    assert await other.children("/p") == ["q"]


async def test_a_parent_that_always_vanishes_is_given_up(
    real_time: None, connect: Connect, proxy: FaultProxy
) -> None:
    """If the parents vanish each time, the error is NoNode, and not an endless loop."""
    with Elsewhere(connect) as elsewhere:

        def vanish(message: Message) -> bool:
            if message.opcode == messages.CREATE2.opcode:
                elsewhere.run(remove)
            return False

        async def remove(zk: corral.Client) -> None:
            if await zk.exists("/p"):
                await zk.delete("/p", recursive=True)

        async with connect(proxy.address) as zk, proxy.cut_at(before(match=vanish), reset=True):
            with pytest.raises(corral.NoNode, match="'/p/q'"):
                await zk.create("/p/q", make_parents=True, with_stat=True)


# Reading and writing


async def test_set_replaces_the_data(zk: corral.Client, other: corral.Client) -> None:
    """set returns the new Stat, whose version counts the sets; other clients read the new data."""
    await zk.create("/a", b"one")
    assert (await zk.set("/a", b"two")).version == 1
    stat = await zk.set("/a", b"three", version=1)
    await other.sync("/a")
    assert await other.get("/a") == (b"three", stat)
    assert stat.version == 2


async def test_versions_guard(zk: corral.Client) -> None:
    """set, delete and set_acl apply only to the given version, which may be 0; without one, to any."""
    await zk.create("/a", b"one")
    await zk.set("/a", b"two")
    wrong: list[Callable[[], Awaitable[object]]] = [
        lambda: zk.set("/a", b"never", version=0),
        lambda: zk.delete("/a", version=0),
        lambda: zk.delete("/a", version=0, recursive=True),
        lambda: zk.set_acl("/a", corral.acl.WORLD_READ, version=7),
    ]
    for call in wrong:
        with pytest.raises(corral.BadVersion, match="'/a'"):
            await call()
    assert (await zk.get("/a"))[0] == b"two"
    await zk.set_acl("/a", corral.acl.OPEN, version=0)
    await zk.delete("/a", version=1)
    assert await zk.exists("/a") is None


async def test_exists_tells_the_stat_or_none(zk: corral.Client) -> None:
    """exists returns the Stat that get returns, and None if there is no node."""
    assert await zk.exists("/a") is None
    await zk.create("/a", b"data")
    assert await zk.exists("/a") == (await zk.get("/a"))[1]


async def test_children_are_names(zk: corral.Client) -> None:
    """children returns the names; with_stat adds the parent's Stat."""
    await zk.create("/p")
    assert await zk.children("/p") == []
    for name in ("a", "b", "ü"):
        await zk.create(f"/p/{name}")
    assert sorted(await zk.children("/p")) == ["a", "b", "ü"]
    names, stat = await zk.children("/p", with_stat=True)
    assert sorted(names) == ["a", "b", "ü"]
    assert stat == await zk.exists("/p")
    assert stat.num_children == 3


async def test_a_long_list_of_children(zk: corral.Client) -> None:
    """A reply may be larger than the largest request, so the number of children is not limited by that."""
    await zk.create("/p")
    long = "x" * 1000
    await asyncio.gather(*(zk.create(f"/p/{long}{n:04d}") for n in range(1200)))
    names = await zk.children("/p")
    assert sum(map(len, names)) > framing.DEFAULT_MAX_REQUEST
    assert len(names) == 1200


async def test_the_stat_is_in_seconds_and_bytes(real_time: None, zk: corral.Client) -> None:
    """Times are seconds since the epoch, the length is in bytes, and each version counts its own changes."""
    await zk.create("/a", b"\xc3\xbc")
    await zk.create("/a/b")
    await zk.set_acl("/a", corral.acl.OPEN)
    stat = await zk.set("/a", b"\xc3\xbc\xc3\xbc")
    assert abs(stat.ctime - time.time()) < 3600
    assert abs(stat.mtime - time.time()) < 3600
    assert stat.ctime <= stat.mtime
    assert stat.czxid < stat.pzxid < stat.mzxid  # created, got a child, was set
    assert (stat.version, stat.cversion, stat.aversion) == (1, 1, 1)
    assert (stat.data_length, stat.num_children) == (4, 1)


class NullWriter(RawSession):
    """A client that writes null as data, as some do."""

    async def create_null(self, path: str) -> int:
        """Create a node whose data is null; returns the error code."""
        name = struct.pack(">i", len(path)) + path.encode()
        acl = struct.pack(">iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
        return await self._request(CREATE, name + struct.pack(">i", -1) + acl + struct.pack(">i", 0))


async def test_null_data_reads_as_empty(server_address: str, root: str, zk: corral.Client) -> None:
    """L10: data is bytes, never null, even if another client wrote null: from get, and from a watch."""
    async with NullWriter(server_address) as raw:
        assert await raw.create_null(f"{root}/null") == 0
    data, stat = await zk.get("/null")
    assert (data, stat.data_length) == (b"", 0)
    async with zk.watch("/null") as events:
        assert (await anext(events)).data == b""


async def test_sync_brings_the_newest(zk: corral.Client, other: corral.Client) -> None:
    """After a sync, on any path, a read returns what another client has written before."""
    await other.create("/a", b"one")
    await zk.sync("/a")
    assert (await zk.get("/a"))[0] == b"one"
    await zk.sync()
    await zk.sync("/not/there")


# Deleting


async def test_delete(zk: corral.Client, other: corral.Client) -> None:
    """A node without children is deleted; one with children is not, and nothing is lost."""
    await zk.create("/a/b", make_parents=True)
    with pytest.raises(corral.NotEmpty):
        await zk.delete("/a")
    assert await other.exists("/a/b") is not None
    await zk.delete("/a/b")
    await zk.delete("/a")
    await other.sync()
    assert await other.exists("/a") is None


async def test_delete_recursive_in_bounded_steps(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """A tree of 10,000 nodes is deleted in transactions that are each far below the frame limit."""
    await other.create("/tree")
    await other.create("/beside")
    branches = [f"/tree/{n}" for n in range(100)]
    await asyncio.gather(*map(other.create, branches))
    await asyncio.gather(*(other.create(f"{branch}/{n}") for branch in branches for n in range(99)))
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        await zk.delete("/tree", recursive=True)
    await other.sync()
    assert await other.children("/") == ["beside"]
    transactions = [request.body for request in seen.requests if request.opcode == messages.MULTI.opcode]
    deletes = [len(messages.decode_multi(memoryview(body), 8, len(body))) for body in transactions]
    assert sum(deletes) == 1 + 100 + 100 * 99
    assert max(deletes) <= 1000  # so that none blocks the server
    assert max(map(len, transactions)) < framing.DEFAULT_MAX_REQUEST // 4
    assert not seen.count(messages.DELETE)


async def test_delete_recursive_of_long_names(zk: corral.Client) -> None:
    """Transactions stay below the frame limit even if names are long."""
    await zk.create("/tree")
    await asyncio.gather(*(zk.create(f"/tree/{n:03d}{'x' * 5000}") for n in range(300)))
    await zk.delete("/tree", recursive=True)
    assert await zk.exists("/tree") is None


async def test_delete_recursive_of_nothing(zk: corral.Client) -> None:
    """A tree that does not exist raises NoNode; a single node is a tree, too."""
    with pytest.raises(corral.NoNode, match="delete '/a'"):
        await zk.delete("/a", recursive=True)
    await zk.create("/a")
    await zk.delete("/a", recursive=True, version=0)
    assert await zk.exists("/a") is None


async def _add(zk: corral.Client) -> None:
    await zk.create("/tree/new/leaf", make_parents=True)


async def _take(zk: corral.Client) -> None:
    await zk.delete("/tree/old")


async def _take_all(zk: corral.Client) -> None:
    await zk.delete("/tree", recursive=True)


@pytest.mark.parametrize("change", [_add, _take, _take_all])
async def test_delete_recursive_while_others_change_the_tree(
    real_time: None,
    connect: Connect,
    proxy: FaultProxy,
    other: corral.Client,
    change: Callable[[corral.Client], Awaitable[None]],
) -> None:
    """If other clients create or delete nodes below it between the listing and the deleting, the tree is
    deleted nevertheless."""
    await other.create("/tree/old", make_parents=True)
    done: list[None] = []
    with Elsewhere(connect) as elsewhere:

        def interfere(message: Message) -> bool:
            if message.opcode == messages.MULTI.opcode and not done:
                done.append(elsewhere.run(change))
            return False

        async with connect(proxy.address) as zk, proxy.cut_at(before(match=interfere), reset=True):
            await zk.delete("/tree", recursive=True)
    assert done
    await other.sync()
    assert await other.exists("/tree") is None


async def test_delete_recursive_ends_if_others_never_do(
    real_time: None, connect: Connect, proxy: FaultProxy
) -> None:
    """If other clients create nodes below it without end, the error is NotEmpty, and not an endless loop."""
    with Elsewhere(connect) as elsewhere:

        def interfere(message: Message) -> bool:
            if message.opcode == messages.MULTI.opcode:
                elsewhere.run(lambda zk: zk.create("/tree/", sequential=True))
            return False

        async with connect(proxy.address) as zk, proxy.cut_at(before(match=interfere), reset=True):
            await zk.create("/tree")
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(corral.NotEmpty, match="delete '/tree'"):
                    await zk.delete("/tree", recursive=True)


async def test_delete_recursive_ends_if_others_exchange_what_is_there(
    real_time: None, connect: Connect, proxy: FaultProxy
) -> None:
    """If other clients delete and create nodes in turn, so that the tree never becomes smaller, the error is
    NotEmpty, too."""
    rounds = 0

    async def exchange(zk: corral.Client) -> None:
        [name] = await zk.children("/tree")
        await zk.create("/tree/", sequential=True)
        await zk.delete(f"/tree/{name}")

    with Elsewhere(connect) as elsewhere:

        def interfere(message: Message) -> bool:
            nonlocal rounds
            if message.opcode == messages.MULTI.opcode:
                rounds += 1
                elsewhere.run(exchange)
            return False

        async with connect(proxy.address) as zk, proxy.cut_at(before(match=interfere), reset=True):
            await zk.create("/tree/old", make_parents=True)
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(corral.NotEmpty, match="delete '/tree'"):
                    await zk.delete("/tree", recursive=True)
    assert rounds == 17  # the first, and 16 in which it did not become smaller


# Access control


@pytest.fixture
async def secret(connect: Connect, root: str) -> AsyncIterator[str]:
    """A node that only ann may read or change."""
    async with connect(auth=[USER]) as ann:
        await ann.create("/secret", b"hers", acl=HERS)
        yield "/secret"
        await ann.delete("/secret")


FORBIDDEN: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "get": lambda zk: zk.get("/secret"),
    "set": lambda zk: zk.set("/secret", b""),
    "children": lambda zk: zk.children("/secret"),
    "create": lambda zk: zk.create("/secret/child"),
    "set_acl": lambda zk: zk.set_acl("/secret", corral.acl.OPEN),
}


@pytest.mark.parametrize("verb", FORBIDDEN)
@pytest.mark.parametrize("auth", [[], [("digest", b"bob:guess")], [("digest", b"ann:wrong")]])
async def test_without_the_right_credentials_it_is_no_auth(
    connect: Connect, secret: str, verb: str, auth: list[tuple[str, bytes]]
) -> None:
    """S6: an operation that the ACL does not allow raises NoAuth, both without credentials and with
    others."""
    async with connect(auth=auth) as zk:
        with pytest.raises(corral.NoAuth):
            await FORBIDDEN[verb](zk)
        assert zk.state is corral.State.CONNECTED  # a digest is never refused, it just does not help


@pytest.mark.parametrize("how", ["connect", "add_auth", "one of two"])
async def test_credentials_are_given_again_on_each_connection(
    connect: Connect, secret: str, proxy: FaultProxy, how: str
) -> None:
    """S4: credentials, given at the start or added later, are sent after a reconnect, before waiting
    requests."""
    given = {"connect": [USER], "add_auth": [], "one of two": [("digest", b"bob:guess"), USER]}[how]
    async with connect(proxy.address, auth=given) as zk:
        if how == "add_auth":
            zk.add_auth(*USER)
        assert (await zk.get(secret))[0] == b"hers"
        async with proxy.refuse():
            await proxy.cut()
            waiting = asyncio.create_task(zk.get(secret))
            await turns()
        assert (await waiting)[0] == b"hers"
        assert proxy.accepted > 1


async def test_the_acl_of_a_node(connect: Connect, other: corral.Client) -> None:
    """get_acl returns what create and set_acl have set, with the Stat whose aversion counts the changes.

    `acl.creator()` becomes the digest of the authenticated user.
    """
    reading = corral.Perm.READ | corral.Perm.WRITE
    async with connect(auth=[USER]) as ann:
        await ann.create("/a", acl=corral.acl.creator() + corral.acl.world(reading))
        acl, stat = await ann.get_acl("/a")
        assert acl == [*HERS, *corral.acl.world(reading)]
        assert stat.aversion == 0
        with pytest.raises(corral.NoAuth):
            await other.set_acl("/a", corral.acl.OPEN)
        stat = await ann.set_acl("/a", corral.acl.OPEN, version=0)
        assert stat.aversion == 1
    await other.sync()
    assert (await other.get_acl("/a"))[0] == list(corral.acl.OPEN)


REFUSED_LISTS = {
    "creator": (corral.acl.OPEN + corral.acl.CREATOR_ALL, "entry 1 is for the creator .* pass auth= to"),
    "scheme": ([corral.Acl(corral.Perm.ALL, "nosuchscheme", "x")], "entry 0 has the scheme 'nosuchscheme'"),
}


@pytest.mark.parametrize("case", REFUSED_LISTS)
async def test_an_acl_that_the_server_does_not_take(connect: Connect, zk: corral.Client, case: str) -> None:
    """An ACL with an unknown scheme, or with a creator that has not authenticated, raises InvalidAcl, which
    names the entry and the remedy; also as the default of a client, in a transaction, and by a recipe."""
    acl, problem = REFUSED_LISTS[case]
    with pytest.raises(corral.InvalidAcl, match=f"create '/a': .*{problem}"):
        await zk.create("/a", acl=acl)
    with pytest.raises(corral.InvalidAcl, match=f"set_acl '/': .*{problem}"):
        await zk.set_acl("/", acl)
    async with connect(default_acl=acl) as other:
        with pytest.raises(corral.InvalidAcl, match=f"create '/a/b': .*{problem}"):
            await other.ensure_path("/a/b")
        with pytest.raises(corral.InvalidAcl, match=f"create '/l.*': .*{problem}"):
            await other.lock("/l").acquire()
        tx = other.transaction()
        tx.create("/x", acl=corral.acl.OPEN)
        tx.create("/y")
        with pytest.raises(
            corral.TransactionFailed, match=f"operation 1 .*create '/y': .*{problem}"
        ) as failed:
            await tx.commit()
        assert isinstance(failed.value.cause, corral.InvalidAcl)
    assert await zk.exists("/a") is None


# Chroot


@pytest.mark.parametrize("how", ["connect string", "method", "both"])
async def test_a_chroot_is_the_root(server_address: str, root: str, zk: corral.Client, how: str) -> None:
    """S6: below a chroot every verb takes and returns paths relative to it."""
    await zk.create("/team/a", make_parents=True)
    start, down = {
        "connect string": ("/team/a", "/"),
        "method": ("", "/team/a"),
        "both": ("/team", "/a"),
    }[how]
    async with corral.connect(f"{server_address}{root}{start}") as client:
        team = client.chroot(down)
        assert await team.create("/n", b"one") == "/n"
        assert await team.create("/s-", sequential=True) == "/s-0000000001"
        assert await team.create("/x/y", make_parents=True) == "/x/y"
        made, _ = await team.create("/c", container=True, with_stat=True)
        assert made == "/c"
        assert sorted(await team.children("/")) == ["c", "n", "s-0000000001", "x"]
        await team.set("/n", b"two")
        assert (await team.get("/n"))[0] == b"two"
        assert (await team.get_acl("/n"))[0] == list(corral.acl.OPEN)
        await team.set_acl("/n", corral.acl.OPEN)
        await team.sync("/n")
        assert await team.exists("/team") is None
        async with team.transaction() as tx:
            tx.check("/n", version=1)
            tx.create("/t-", sequential=True)
            tx.delete("/c")
        assert tx.results == [None, "/t-0000000004", None]
        async with team.watch("/n") as events:
            event = await anext(events)
        assert (event.path, event.data) == ("/n", b"two")
        async with team.lock("/l"):
            assert await zk.children("/team/a/l") != []
        await team.delete("/x", recursive=True)
        assert team.chroot_path == f"{root}/team/a"
    await zk.sync()
    assert (await zk.get("/team/a/n"))[0] == b"two"
    assert await zk.exists("/team/a/x") is None


async def test_a_chroot_shares_the_session(connect: Connect, other: corral.Client) -> None:
    """A chrooted client shares the session of the one that made it, its ephemerals and its end."""
    async with connect() as zk:
        await zk.create("/team")
        team = zk.chroot("/team")
        assert team.session_id == zk.session_id
        await team.create("/e", ephemeral=True)
        stat = await zk.exists("/team/e")
        assert stat is not None
        assert stat.ephemeral_owner == zk.session_id
        assert zk.chroot("/").chroot_path == zk.chroot_path
    assert team.state is corral.State.CLOSED
    with pytest.raises(corral.ClientClosed):
        await team.exists("/e")
    await other.sync()
    assert await other.children("/team") == []


# Errors


REFUSED: dict[
    str, tuple[type[corral.ServerError], Callable[[corral.Client], Awaitable[object]], str, str]
] = {
    "get": (corral.NoNode, lambda zk: zk.get("/a"), "get", "/a"),
    "set": (corral.NoNode, lambda zk: zk.set("/a", b""), "set", "/a"),
    "children": (corral.NoNode, lambda zk: zk.children("/a"), "children", "/a"),
    "children, stat": (corral.NoNode, lambda zk: zk.children("/a", with_stat=True), "children", "/a"),
    "get_acl": (corral.NoNode, lambda zk: zk.get_acl("/a"), "get_acl", "/a"),
    "set_acl": (corral.NoNode, lambda zk: zk.set_acl("/a", corral.acl.OPEN), "set_acl", "/a"),
    "delete": (corral.NoNode, lambda zk: zk.delete("/a"), "delete", "/a"),
    "create": (corral.NodeExists, lambda zk: zk.create("/there"), "create", "/there"),
    "create, stat": (corral.NodeExists, lambda zk: zk.create("/there", with_stat=True), "create", "/there"),
    "create container": (
        corral.NodeExists,
        lambda zk: zk.create("/there", container=True),
        "create",
        "/there",
    ),
    "create ttl": (corral.NodeExists, lambda zk: zk.create("/there", ttl=9), "create", "/there"),
    "create below": (corral.NoNode, lambda zk: zk.create("/a/b"), "create", "/a/b"),
    "create sequential": (corral.NoNode, lambda zk: zk.create("/a/", sequential=True), "create", "/a/"),
    "not empty": (corral.NotEmpty, lambda zk: zk.delete("/there"), "delete", "/there"),
    "version": (corral.BadVersion, lambda zk: zk.set("/there", b"", version=9), "set", "/there"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_errors_name_operation_and_path(zk: corral.Client, case: str) -> None:
    """A refusal raises a ServerError of its class, with its code, whose message names the verb and the
    caller's path. Only if something is missing does it name the chroot, and says that it is one."""
    expected, call, operation, path = REFUSED[case]
    await zk.create("/there/child", make_parents=True)
    with pytest.raises(corral.ServerError) as caught:
        await call(zk)
    error = caught.value
    assert type(error) is expected
    assert (error.operation, error.path) == (operation, path)
    assert str(error).startswith(f"{operation} {path!r}: ")
    assert zk.chroot_path not in str(error).replace(f" (below the chroot {zk.chroot_path!r})", "")
    assert (zk.chroot_path in str(error)) == (expected is corral.NoNode)
    assert error.code < 0


async def test_a_missing_parent_is_named(server_address: str, root: str) -> None:
    """create says that the parent is missing, and how to create it; so does a transaction."""
    remedy = f"create it first, with ensure_path('{root}/a/b'), or pass make_parents=True"
    said = f"create '{root}/a/b/c': its parent '{root}/a/b' does not exist; {remedy}"
    async with corral.connect(server_address) as zk:
        with pytest.raises(corral.NoNode) as caught:
            await zk.create(f"{root}/a/b/c")
        assert str(caught.value) == said
        tx = zk.transaction()
        tx.create(f"{root}/a/b/c")
        with pytest.raises(corral.TransactionFailed) as failed:
            await tx.commit()
        assert str(failed.value.cause) == said
        with pytest.raises(corral.NoNode, match=f"^get '{root}/a/b/c': no such znode$"):
            await zk.get(f"{root}/a/b/c")


async def _commit(zk: corral.Client, fill: Callable[[corral.Transaction], None]) -> None:
    tx = zk.transaction()
    fill(tx)
    try:
        await tx.commit()
    except corral.TransactionFailed as error:
        raise error.cause from None


ABSENT = "no such znode (below the chroot '{chroot}')"
CHROOT = "the chroot '{chroot}' does not exist; create it with ensure_path(\"/\")"
PARENT = (
    "its parent '/x' does not exist (below the chroot '{chroot}'); create it first, with ensure_path('/x'), "
)
WITHOUT_CHROOT: dict[str, tuple[Callable[[corral.Client], Awaitable[object]], str]] = {
    "get": (lambda zk: zk.get("/x"), "get '/x': " + ABSENT),
    "get the chroot": (lambda zk: zk.get("/"), "get '/': " + CHROOT),
    "set": (lambda zk: zk.set("/x", b""), "set '/x': " + ABSENT),
    "set the chroot": (lambda zk: zk.set("/", b""), "set '/': " + CHROOT),
    "children": (lambda zk: zk.children("/"), "children '/': " + CHROOT),
    "create": (lambda zk: zk.create("/x"), "create '/x': " + CHROOT),
    "create ephemeral": (lambda zk: zk.create("/x", ephemeral=True), "create '/x': " + CHROOT),
    "create container": (lambda zk: zk.create("/x", container=True), "create '/x': " + CHROOT),
    "create sequential": (lambda zk: zk.create("/x-", sequential=True), "create '/x-': " + CHROOT),
    "create number": (lambda zk: zk.create("/x/", sequential=True), "create '/x/': " + PARENT),
    "create deeper": (lambda zk: zk.create("/x/y"), "create '/x/y': " + PARENT),
    "create the chroot": (lambda zk: zk.create("/"), "create '/': the parent of " + CHROOT),
    "delete": (lambda zk: zk.delete("/x"), "delete '/x': " + ABSENT),
    "delete recursive": (lambda zk: zk.delete("/x", recursive=True), "delete '/x': " + ABSENT),
    "get_acl": (lambda zk: zk.get_acl("/x"), "get_acl '/x': " + ABSENT),
    "set_acl": (lambda zk: zk.set_acl("/x", corral.acl.OPEN), "set_acl '/x': " + ABSENT),
    "check in a transaction": (lambda zk: _commit(zk, lambda tx: tx.check("/x")), "check '/x': " + ABSENT),
    "create in a transaction": (lambda zk: _commit(zk, lambda tx: tx.create("/x")), "create '/x': " + CHROOT),
}


@pytest.mark.parametrize("case", WITHOUT_CHROOT)
async def test_a_missing_chroot_is_named(zk: corral.Client, case: str) -> None:
    """If the chroot does not exist, NoNode names it, and says that it is the chroot that is missing if the
    client can know that; the path is the caller's."""
    call, said = WITHOUT_CHROOT[case]
    team = zk.chroot("/not/there")
    with pytest.raises(corral.NoNode) as caught:
        await call(team)
    assert str(caught.value).startswith(said.format(chroot=team.chroot_path))
    assert f"{caught.value.operation} {caught.value.path!r}" == said.partition(":")[0]
    assert await zk.children("/") == []


READERS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "exists": lambda zk: zk.exists("/x"),
    "exists, the chroot": lambda zk: zk.exists("/"),
    "watch": lambda zk: _first_state(zk),
    "cache": lambda zk: _cached(zk),
}


async def _first_state(zk: corral.Client) -> object:
    async with zk.watch("/x") as events:
        return (await anext(events)).stat


async def _cached(zk: corral.Client) -> object:
    async with zk.cache("/") as cache:
        return cache.get("/")


@pytest.mark.parametrize("case", READERS)
async def test_below_a_missing_chroot_nothing_is_found(zk: corral.Client, case: str) -> None:
    """If the chroot does not exist, reads find nothing, and create nothing."""
    assert await READERS[case](zk.chroot("/not/there")) is None
    assert await zk.children("/") == []


async def _lock(zk: corral.Client) -> None:
    async with zk.lock("/x"):
        pass


MAKERS: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "ensure_path": lambda zk: zk.ensure_path("/x"),
    "make_parents": lambda zk: zk.create("/x", make_parents=True),
    "lock": _lock,
}


@pytest.mark.parametrize("case", MAKERS)
async def test_what_makes_parents_makes_the_chroot(zk: corral.Client, case: str) -> None:
    """Every call that creates missing parents creates a missing chroot, too."""
    team = zk.chroot("/not/there")
    await MAKERS[case](team)
    assert await team.exists("/") is not None


VERSIONED: dict[str, tuple[Callable[[corral.Client], Awaitable[object]], str]] = {
    "set": (lambda zk: zk.set("/a", b"", version=3), "set '/a': version is 2, expected 3"),
    "delete": (lambda zk: zk.delete("/a", version=3), "delete '/a': version is 2, expected 3"),
    "delete recursive": (
        lambda zk: zk.delete("/a", version=3, recursive=True),
        "delete '/a': version is 2, expected 3",
    ),
    "set_acl": (
        lambda zk: zk.set_acl("/a", corral.acl.OPEN, version=3),
        "set_acl '/a': ACL version is 1, expected 3",
    ),
}


@pytest.mark.parametrize("case", VERSIONED)
async def test_a_refused_version_names_both(zk: corral.Client, case: str) -> None:
    """BadVersion has the expected and the actual version, as numbers and in its message."""
    call, said = VERSIONED[case]
    await zk.create("/a")
    for _ in range(2):
        await zk.set("/a", b"")
    await zk.set_acl("/a", corral.acl.OPEN)
    with pytest.raises(corral.BadVersion) as caught:
        await call(zk)
    assert str(caught.value) == said
    assert (caught.value.expected, caught.value.found) == (3, 1 if case == "set_acl" else 2)


async def test_a_refused_version_in_a_transaction(zk: corral.Client) -> None:
    """For a refused operation of a transaction only the expected version is reported; nothing is read to find
    the actual one."""
    await zk.create("/a")
    with pytest.raises(corral.BadVersion) as caught:
        await _commit(zk, lambda tx: tx.set("/a", b"", 3))
    assert str(caught.value) == "set '/a': version is not the expected 3; read the znode again, then decide"
    assert (caught.value.expected, caught.value.found) == (3, None)


async def test_the_version_is_read_after_the_refusal_alone(connect: Connect, proxy: FaultProxy) -> None:
    """A matching version costs one request; another costs one more read."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        await zk.create("/a")
        await zk.set("/a", b"", version=0)
        with pytest.raises(corral.BadVersion):
            await zk.set("/a", b"", version=0)
        assert seen.opcodes == [
            operation.opcode for operation in (messages.CREATE, messages.SET, messages.SET, messages.EXISTS)
        ]


async def test_a_version_that_cannot_be_read(connect: Connect, proxy: FaultProxy) -> None:
    """If the read for the actual version is never answered, the refusal has the expected version only; that
    wait can be cancelled."""
    async with connect(proxy.address, session_timeout=30) as zk:
        await zk.create("/a")
        async with proxy.black_hole(before("exists")):
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(corral.BadVersion, match="version is not the expected 7; read") as caught:
                    await zk.set("/a", b"", version=7)
            assert (caught.value.expected, caught.value.found) == (7, None)
        async with proxy.black_hole(before("exists")) as hole:
            setting = asyncio.create_task(zk.set("/a", b"", version=7))
            await hole.fired.wait()
            setting.cancel()
            await asyncio.wait([setting])
            assert setting.cancelled()


@pytest.mark.parametrize("again", [False, True])
async def test_a_version_that_is_as_expected_by_now(
    real_time: None, connect: Connect, proxy: FaultProxy, zk: corral.Client, again: bool
) -> None:
    """If the znode is gone, or has the expected version again, when it is read, the error does not claim
    another version."""
    with Elsewhere(connect) as elsewhere:

        async def replace(zk: corral.Client) -> None:
            await zk.delete("/a")
            if again:
                await zk.create("/a")

        def interfere(message: Message) -> bool:
            if message.operation == "exists":
                elsewhere.run(replace)
            return False

        await zk.create("/a")
        await zk.set("/a", b"")
        async with connect(proxy.address) as client, proxy.cut_at(before(match=interfere), reset=True):
            with pytest.raises(corral.BadVersion, match="version is not the expected 0; read") as caught:
                await client.set("/a", b"", version=0)
    assert caught.value.found is None


@pytest.mark.parametrize(
    "call",
    [
        lambda zk: zk.create("/closed/a/b/c", make_parents=True),
        lambda zk: zk.delete("/tree", recursive=True),
        lambda zk: zk.delete("/tree/closed", recursive=True),
    ],
    ids=["make_parents", "delete above", "delete"],
)
async def test_errors_on_the_way_name_the_callers_path(
    connect: Connect, other: corral.Client, call: Callable[[corral.Client], Awaitable[object]]
) -> None:
    """If a verb sends several requests, the path in the error of a refused one is also without the chroot."""
    async with connect(auth=[USER]) as ann:
        for path in ("/closed", "/tree", "/tree/closed"):
            await ann.create(path)
        for path in ("/closed", "/tree/closed"):
            await ann.set_acl(path, HERS)
        try:
            with pytest.raises(corral.NoAuth) as caught:
                await call(other)
            assert other.chroot_path not in str(caught.value)
            assert "closed" in str(caught.value)
        finally:
            for path in ("/closed", "/tree/closed"):
                await ann.set_acl(path, corral.acl.OPEN)


async def test_a_server_without_ttl_says_so(make_server: Callable[..., Server]) -> None:
    """An operation that is disabled on the server raises Unimplemented."""
    async with make_server(extended_types=False) as server, corral.connect(server.address) as zk:
        with pytest.raises(corral.Unimplemented, match="create '/a'"):
            await zk.create("/a", ttl=1)
        await zk.create("/a")
