"""A cache: a mapping that is complete when it is entered, follows its tree (W1, W3, W6), shows its own
client's writes (W1), and is shared by all users in a client (W4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import pytest
from watching import fail_at_bad, first_of, next_of, registered, told_of, until_unregistered

import corral
from client_support import requests_seen
from corral import Event, EventKind, Znode, acl
from corral.testing import FaultProxy
from corral.wire import messages
from support import PATIENCE, turns, until
from watch_support import contents, shown

Watchers = Callable[[str], Awaitable[int]]
Write = Callable[[corral.Client], Awaitable[object]]

ONLY_USER = acl.digest("user", "secret")


async def grow(zk: corral.Client, *paths: str) -> None:
    """Create nodes, each with its path as data."""
    for path in paths:
        await zk.create(path, path.encode())


async def shows(cache: corral.Cache, path: str, data: bytes | None) -> None:
    """Wait until a cache shows another client's change."""

    async def so() -> bool:
        node = cache.get(path)
        return (None if node is None else node.data) == data

    await until(so, f"the cache has {data!r} for {path}")


async def test_it_is_complete_when_it_is_entered(zk: corral.Client, other: corral.Client) -> None:
    """W1: when entered, it has every existing node, as `get` returns it, and reports that it is complete."""
    there = ["/tree", "/tree/a", "/tree/b", "/tree/a/1", "/tree/a/1/x"]
    await grow(other, *there, "/tree2")
    async with zk.cache("/tree") as cache:
        assert dict(cache) == {path: Znode(*await zk.get(path)) for path in there}
        assert cache.is_current


async def test_it_is_a_mapping(zk: corral.Client, other: corral.Client) -> None:
    """It is a Mapping; parents come before their children, and reading it does not wait."""
    there = ["/tree", "/tree/b", "/tree/b/1", "/tree/a"]
    await grow(other, *there)
    async with zk.cache("/tree") as cache:
        assert isinstance(cache, Mapping)
        assert len(cache) == 4
        order = list(cache)
        assert order == list(cache.keys()) == [path for path, _ in cache.items()]
        assert sorted(order) == sorted(there)
        assert order.index("/tree") < order.index("/tree/b") < order.index("/tree/b/1")
        assert cache["/tree/a"].data == b"/tree/a"
        assert [node.data for node in cache.values()] == [path.encode() for path in order]
        assert "/tree/b" in cache
        for missing in ("/tree/c", "/", "/tree2"):
            assert missing not in cache
            assert cache.get(missing) is None
            with pytest.raises(KeyError, match=missing):
                cache[missing]
        assert 1 not in cache
        assert sorted(cache.children("/tree")) == ["a", "b"]
        assert cache.children("/tree/b") == ["1"]
        assert cache.children("/tree/a") == cache.children("/tree/c") == []
        assert cache == dict(cache)
        assert len({cache, cache}) == 1
        assert "'/tree', 4 znodes, current" in repr(cache)


async def test_it_follows(zk: corral.Client, other: corral.Client) -> None:
    """W1: changes of other clients arrive without a request for them: data, creations, deletions, and
    children."""
    await grow(other, "/tree", "/tree/a")
    async with zk.cache("/tree") as cache:
        await other.set("/tree/a", b"new")
        await shows(cache, "/tree/a", b"new")
        await grow(other, "/tree/a/b", "/tree/a/b/c")
        await shows(cache, "/tree/a/b/c", b"/tree/a/b/c")
        assert cache.children("/tree/a") == ["b"]
        assert cache["/tree/a/b"] == Znode(*await zk.get("/tree/a/b"))._replace(stat=cache["/tree/a/b"].stat)
        await other.delete("/tree/a", recursive=True)
        await shows(cache, "/tree/a", None)
        assert list(cache) == ["/tree"]
        assert cache.children("/tree") == []
        assert cache.is_current


async def test_tree_that_does_not_exist_yet(zk: corral.Client, other: corral.Client) -> None:
    """W1: the tree need not exist: it may be created, deleted, and created again."""
    async with zk.cache("/tree") as cache:
        assert (len(cache), cache.is_current, cache.children("/tree")) == (0, True, [])
        for data in (b"one", b"two"):
            await other.create("/tree", data)
            await other.create("/tree/a", data)
            await shows(cache, "/tree/a", data)
            assert cache["/tree"].data == data
            await other.delete("/tree", recursive=True)
            await shows(cache, "/tree", None)
            assert len(cache) == 0


async def test_reading_sends_nothing(proxied: corral.Client, proxy: FaultProxy, other: corral.Client) -> None:
    """W4: reading costs no request, and two caches and a watch of one tree cost as much as one."""
    await grow(other, "/tree", "/tree/a")
    async with requests_seen(proxy) as requests:
        async with (
            proxied.cache("/tree") as cache,
            proxied.cache("/tree") as again,
            proxied.watch_tree("/tree") as events,
        ):
            await first_of(events)
            loading = requests.count(messages.MULTI_READ)
            assert len(requests.requests) == loading + 1
            for _ in range(100):
                assert cache["/tree/a"] is again["/tree/a"]
                cache.children("/tree")
            assert len(requests.requests) == loading + 1
            await told_of(other.set("/tree/a", b"new"), events)
            assert cache["/tree/a"].data == again["/tree/a"].data == b"new"
            assert len(requests.requests) == loading + 2
        await proxied.sync()
        assert requests.count(messages.ADD_WATCH) == requests.count(messages.REMOVE_WATCHES) == 1


async def test_one_of_two_is_left(zk: corral.Client, other: corral.Client, watchers: Watchers) -> None:
    """W5, W7: leaving a cache does not affect another that stays; the last one to leave removes
    everything."""
    await grow(other, "/tree")
    async with zk.cache("/tree") as stays:
        async with zk.cache("/tree") as leaves:
            pass
        await other.create("/tree/a")
        await shows(stays, "/tree/a", b"")
        with pytest.raises(corral.UsageStateError, match="not open"):
            len(leaves)
        assert await watchers("/tree") == 1
    assert registered(zk) == (0, 0)
    await zk.sync()
    assert await watchers("/tree") == 0


async def test_depth_and_only(zk: corral.Client, other: corral.Client) -> None:
    """W6: unwanted nodes are not in the cache, not even those that this client writes itself."""
    await grow(other, "/tree", "/tree/a", "/tree/a/1", "/tree/b", "/tree/b/1")

    def wanted(path: str) -> bool:
        return not path.endswith("b")

    async with zk.cache("/tree", depth=1) as shallow, zk.cache("/tree", only=wanted) as picked:
        assert set(shallow) == {"/tree", "/tree/a", "/tree/b"}
        assert set(picked) == {"/tree", "/tree/a", "/tree/a/1"}
        await zk.create("/tree/a/2")
        await zk.create("/tree/b/2")
        await zk.set("/tree/b", b"new")
        await zk.create("/tree/c")
        assert set(shallow) == {"/tree", "/tree/a", "/tree/b", "/tree/c"}
        assert shallow["/tree/b"].data == b"new"
        assert set(picked) == {"/tree", "/tree/a", "/tree/a/1", "/tree/a/2", "/tree/c"}
        assert sorted(picked.children("/tree")) == ["a", "c"]


async def test_paths_are_those_of_the_reader(zk: corral.Client, other: corral.Client) -> None:
    """Paths are those of the client that made the cache, also below a chroot."""
    await grow(other, "/team", "/team/tree", "/team/tree/a")
    below = zk.chroot("/team")
    async with (
        zk.cache("/team/tree") as whole,
        below.cache("/tree") as part,
        below.cache("/", depth=1) as root,
    ):
        assert list(whole) == ["/team/tree", "/team/tree/a"]
        assert list(part) == ["/tree", "/tree/a"]
        assert list(root) == ["/", "/tree"]
        assert part["/tree/a"] == whole["/team/tree/a"]
        assert root["/"].data == b"/team"
        assert part.children("/tree") == whole.children("/team/tree") == ["a"]
        assert root.children("/") == ["tree"]
        async with part.changes() as events:
            await zk.set("/team/tree/a", b"new")
            assert (await next_of(events)).path == "/tree/a"


# Writes of this client


def transaction(zk: corral.Client) -> Awaitable[object]:
    async def commit() -> None:
        async with zk.transaction() as tx:
            tx.check("/tree")
            tx.create("/tree/new", b"by a transaction")
            tx.create("/tree/new/below")
            tx.set("/tree/new/below", b"set at once")
            tx.create("/tree/s-", b"sequential", sequential=True)
            tx.create("/tree/e", b"ephemeral", ephemeral=True)
            tx.set("/tree", b"set")
            tx.delete("/tree/a/b/c")
            tx.create("/tree/passing")
            tx.delete("/tree/passing")

    return commit()


def recreation(zk: corral.Client) -> Awaitable[object]:
    async def commit() -> None:
        async with zk.transaction() as tx:
            tx.delete("/tree/a/b/c")
            tx.create("/tree/a/b/c", b"again")

    return commit()


def of_several(zk: corral.Client) -> Awaitable[object]:
    return asyncio.gather(
        zk.set("/tree/a", b"1"), zk.create("/tree/d"), zk.set("/tree/a", b"2"), zk.delete("/tree/d")
    )


WRITES: dict[str, Write] = {
    "create": lambda zk: zk.create("/tree/new", b"data"),
    "create, with its stat": lambda zk: zk.create("/tree/new", b"data", with_stat=True),
    "create below": lambda zk: zk.create("/tree/a/b/c/d", b"data"),
    "create sequential": lambda zk: zk.create("/tree/s-", b"data", sequential=True),
    "create ephemeral": lambda zk: zk.create("/tree/e", b"data", ephemeral=True),
    "create ephemeral and sequential": lambda zk: zk.create("/tree/e-", ephemeral=True, sequential=True),
    "create container": lambda zk: zk.create("/tree/c", container=True),
    "set": lambda zk: zk.set("/tree/a", b"new"),
    "set the root": lambda zk: zk.set("/tree", b"new"),
    "delete": lambda zk: zk.delete("/tree/a/b/c"),
    "delete recursive": lambda zk: zk.delete("/tree/a", recursive=True),
    "delete all": lambda zk: zk.delete("/tree", recursive=True),
    "transaction": transaction,
    "transaction that creates again": recreation,
    "several at once": of_several,
}


@pytest.mark.parametrize("through", ["client", "chroot", "chroot of the cache"])
@pytest.mark.parametrize("name", WRITES)
async def test_own_writes_are_there(zk: corral.Client, other: corral.Client, name: str, through: str) -> None:
    """W1: a write is in the client's caches as soon as the verb returns, whichever chroot it was made
    through, and exactly as the server has it."""
    team = "" if through == "client" else "/team"
    base = zk.chroot("/team") if team else zk
    writer, reader = (base, zk) if through != "chroot of the cache" else (base, base)
    prefix = "" if reader is base else team
    if team:
        await other.create(team)
    await grow(other.chroot(team) if team else other, "/tree", "/tree/a", "/tree/a/b", "/tree/a/b/c")
    async with reader.cache(f"{prefix}/tree") as cache:
        await WRITES[name](writer)
        assert shown(cache) == await contents(reader, f"{prefix}/tree")


async def test_own_create_below_what_is_not_known_yet(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W1: a node that a client creates is in its caches as soon as the verb returns, even if its parent was
    created by another client and is not in the cache yet."""
    await other.create("/tree")
    async with proxied.cache("/tree") as cache:
        async with proxy.black_hole(requests=False):
            await other.create("/tree/a")
            creating = asyncio.create_task(proxied.create("/tree/a/b", b"data"))

            async def created() -> bool:
                return await other.exists("/tree/a/b") is not None

            await until(created, "it is created")
            assert len(cache) == 1
        async with asyncio.timeout(PATIENCE):
            await creating
        assert list(cache) == ["/tree", "/tree/a", "/tree/a/b"]
        assert cache["/tree/a/b"].data == b"data"


async def test_own_writes_never_go_back(zk: corral.Client, other: corral.Client) -> None:
    """W1: between two writes of this client no reader sees the older one again, even if other watches read
    the node, too."""
    await grow(other, "/tree", "/tree/a")
    async with zk.cache("/tree") as cache, cache.changes() as events:
        zxid = 0

        async def follow() -> None:
            nonlocal zxid
            async for event in events:
                assert event.stat is not None
                assert event.stat.mzxid > zxid
                zxid = event.stat.mzxid

        following = asyncio.create_task(follow())
        for number in range(100):
            stat = await zk.set("/tree/a", b"%d" % number)
            assert cache["/tree/a"] == (b"%d" % number, stat)
            if number % 3 == 0:
                await other.set("/tree/a", b"another's")
            for _ in range(number % 5):
                await asyncio.sleep(0)
                assert cache["/tree/a"].stat.mzxid >= stat.mzxid
        _, last = await other.get("/tree/a")

        async def told_the_last() -> bool:
            if following.done():
                await following
            return zxid == last.mzxid == cache["/tree/a"].stat.mzxid

        await until(told_the_last, "the last write is told")
        following.cancel()
        await asyncio.wait([following])


async def test_writes_that_were_refused(zk: corral.Client, other: corral.Client) -> None:
    """W1: a write that the server did not apply is not shown."""
    await grow(other, "/tree", "/tree/a")
    async with zk.cache("/tree") as cache:
        before = dict(cache)
        with pytest.raises(corral.NodeExists):
            await zk.create("/tree/a", b"new")
        with pytest.raises(corral.BadVersion):
            await zk.set("/tree/a", b"new", version=7)
        with pytest.raises(corral.NotEmpty):
            await zk.delete("/tree")
        tx = zk.transaction()
        tx.set("/tree/a", b"new")
        tx.create("/tree/b")
        tx.delete("/tree/missing")
        with pytest.raises(corral.TransactionFailed):
            await tx.commit()
        assert dict(cache) == before


# Changes


async def test_changes(zk: corral.Client, other: corral.Client) -> None:
    """W1: `changes` yields the changes after the call, and no others, to each caller."""
    await grow(other, "/tree", "/tree/a")
    async with zk.cache("/tree") as cache:
        early = cache.changes()
        await other.create("/tree/b", b"x")
        await shows(cache, "/tree/b", b"x")
        late = cache.changes()
        assert await next_of(early) == Event(EventKind.CREATED, "/tree/b", *cache["/tree/b"])
        for events in (early, late):
            changed = await told_of(other.set("/tree/a", events.__class__.__name__.encode()), events)
            assert changed == Event(EventKind.CHANGED, "/tree/a", *cache["/tree/a"])
        await other.delete("/tree/a")
        for events in (early, late):
            while (event := await next_of(events)).kind is not EventKind.DELETED:
                assert event.path == "/tree/a"
            assert event == Event(EventKind.DELETED, "/tree/a", None, None)
            events.close()


async def test_cache_shows_what_was_told(zk: corral.Client, other: corral.Client) -> None:
    """W1: whoever gets a change finds it in the cache."""
    async with zk.cache("/tree") as cache, cache.changes() as events:
        await grow(other, "/tree", "/tree/a", "/tree/a/b")
        for path in ("/tree", "/tree/a", "/tree/a/b"):
            event = await next_of(events)
            assert (event.kind, event.path) == (EventKind.CREATED, path)
            assert cache[path] == (event.data, event.stat)


async def test_changes_outlive_the_cache(zk: corral.Client, other: corral.Client, watchers: Watchers) -> None:
    """W5: an iteration of `changes` is a watch of its own: it ends when it is left, not when the cache is."""
    await grow(other, "/tree")
    async with zk.cache("/tree") as cache:
        events = cache.changes()
    assert (await told_of(other.create("/tree/a"), events)).kind is EventKind.CREATED
    assert await watchers("/tree") == 1
    del events
    await until_unregistered(zk)
    await zk.sync()
    assert await watchers("/tree") == 0


# Failures


async def test_outside_of_its_block(zk: corral.Client) -> None:
    """Before it is entered and after it is left, access raises an error that says why."""
    cache = zk.cache("/tree")

    async def refuses() -> None:
        for use in (
            lambda: cache["/tree"],
            lambda: "/tree" in cache,
            lambda: cache.get("/tree"),
            lambda: list(cache),
            lambda: len(cache),
            lambda: cache.children("/tree"),
            lambda: cache.changes(),
        ):
            with pytest.raises(corral.UsageStateError, match=r"'/tree' is not open.*async with"):
                use()
        assert not cache.is_current
        assert "not open" in repr(cache)

    await refuses()
    async with cache:
        assert len(cache) == 0
    await refuses()
    cache.close()
    await zk.create("/tree")
    async with cache:  # and again
        assert list(cache) == ["/tree"]
    assert registered(zk) == (0, 0)


async def test_entered_twice(zk: corral.Client, other: corral.Client) -> None:
    """An open cache, or one that is being entered, cannot be entered again; the attempt does no harm."""
    cache = zk.cache("/tree")
    entering = asyncio.create_task(cache.__aenter__())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(corral.UsageStateError, match=r"'/tree' is open already"):
            await cache.__aenter__()
        await entering
    await other.create("/tree")
    await shows(cache, "/tree", b"")
    cache.close()
    assert registered(zk) == (0, 0)


async def test_client_is_closed_while_it_is_open(connect: Callable[..., corral.Client]) -> None:
    """S5: reading the cache of a closed client raises ClientClosed, and so do its changes, and entering
    it."""
    async with connect() as zk:
        cache = await zk.cache("/tree").__aenter__()
        events = cache.changes()
        waiting = asyncio.create_task(next_of(events))
        await turns()
    with pytest.raises(corral.ClientClosed):
        await waiting
    for use in (
        lambda: len(cache),
        lambda: cache["/tree"],
        lambda: list(cache),
        lambda: cache.children("/tree"),
    ):
        with pytest.raises(corral.ClientClosed):
            use()
    assert not cache.is_current
    cache.close()
    events.close()
    with pytest.raises(corral.ClientClosed):
        await zk.cache("/tree").__aenter__()
    assert registered(zk) == (0, 0)


async def test_closed_while_it_is_being_entered(
    connect: Callable[..., corral.Client], proxy: FaultProxy
) -> None:
    """S5: closing the client ends the wait of whoever is entering a cache."""
    async with connect(to=proxy.address) as zk:
        async with proxy.black_hole() as held:
            entering = asyncio.create_task(zk.cache("/tree").__aenter__())
            await held.arrived()
            closing = asyncio.create_task(zk.close())
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(corral.ClientClosed):
                    await entering
        await closing
    assert registered(zk) == (0, 0)


async def test_nodes_that_we_may_not_read(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """W6: nodes that the ACL hides from us are left out, with their subtrees, and the first of them is
    logged. If it is the root, entering raises, and leaves no watch."""
    await grow(other, "/tree", "/tree/a", "/tree/x", "/tree/x/1", "/tree/y")
    other.add_auth("digest", b"user:secret")
    for path in ("/tree/x", "/tree/y"):
        await other.set_acl(path, ONLY_USER)
    with caplog.at_level(logging.WARNING, "corral.watch"):
        async with zk.cache("/tree") as cache:
            assert list(cache) == ["/tree", "/tree/a"]
            assert cache.children("/tree") == ["a"]
    assert len(caplog.records) == 1
    for path in ("/tree/x", "/tree/y"):
        await other.set_acl(path, corral.acl.OPEN)
    await other.set_acl("/tree", ONLY_USER)
    with pytest.raises(corral.NoAuth, match="'/tree'"):
        await zk.cache("/tree").__aenter__()
    assert registered(zk) == (0, 0)
    await other.set_acl("/tree", corral.acl.OPEN)


async def test_root_that_we_may_not_read_any_more(zk: corral.Client, other: corral.Client) -> None:
    """W1: if an open cache cannot follow, reading it raises the reason; leaving it leaves no watch."""
    await grow(other, "/tree", "/tree/a")
    other.add_auth("digest", b"user:secret")
    async with zk.cache("/tree") as cache:
        events = cache.changes()

        async def follow() -> None:
            async for _ in events:
                pass

        following = asyncio.create_task(follow())
        await turns()
        async with other.transaction() as tx:  # by the time of the event it cannot be read
            tx.delete("/tree/a")
            tx.delete("/tree")
            tx.create("/tree", acl=ONLY_USER)

        async def refused() -> bool:
            try:
                len(cache)
            except corral.NoAuth:
                return True
            return False

        await until(refused, "reading is refused")
        assert not cache.is_current
        with pytest.raises(corral.NoAuth, match="'/tree'"):
            await following
    events.close()
    assert registered(zk) == (0, 0)
    await other.set_acl("/tree", corral.acl.OPEN)


async def test_only_that_fails(zk: corral.Client, other: corral.Client) -> None:
    """W6: an exception of `only` is raised by entering, and afterwards by reading; no watch is left."""

    await grow(other, "/tree", "/tree/a")
    async with zk.cache("/tree", only=fail_at_bad) as cache:
        assert len(cache) == 2
        await other.create("/tree/bad")

        async def failed() -> bool:
            try:
                len(cache)
            except LookupError:
                return True
            return False

        await until(failed, "reading fails")
    assert registered(zk) == (0, 0)
    with pytest.raises(LookupError, match="/tree/bad"):
        await zk.cache("/tree", only=fail_at_bad).__aenter__()
    assert registered(zk) == (0, 0)


LARGE = 900_000


async def test_large_nodes(connect: Callable[..., corral.Client], other: corral.Client) -> None:
    """S7: nodes that together exceed the reply limit are all in the cache; a single node that exceeds it
    raises."""
    names = [f"/tree/{number}" for number in range(8)]
    await other.create("/tree")
    await asyncio.gather(*(other.create(name, name.encode() * (LARGE // len(name))) for name in names))
    async with connect(max_reply=2_000_000) as zk, zk.cache("/tree") as cache:
        assert {name: cache[name].data[: len(name)].decode() for name in names} == {
            name: name for name in names
        }
    async with connect(max_reply=500_000) as zk:
        with pytest.raises(corral.ReplyError, match="500,000"):
            await zk.cache("/tree").__aenter__()
        assert registered(zk) == (0, 0)


# Loss of the connection


async def test_it_is_current_only_while_connected(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """W3, W6: while disconnected it shows the last known state, and reports that it is stale; after the
    reconnect it is read again."""
    await grow(other, "/tree", "/tree/a", "/tree/gone")
    async with proxied.cache("/tree") as cache:
        async with proxy.refuse():
            await proxy.cut()
            await until_state(proxied, corral.State.SUSPENDED)
            assert not cache.is_current
            assert "not current" in repr(cache)
            await other.set("/tree/a", b"new")
            await other.create("/tree/b")
            await other.create("/tree/b/c")
            await other.delete("/tree/gone")
            assert list(cache) == ["/tree", "/tree/a", "/tree/gone"]
            assert cache["/tree/a"].data == b"/tree/a"

        async def current() -> bool:
            return cache.is_current

        await until(current, "the cache is current again")
        assert {path: data for path, (data, _) in cache.items()} == {
            "/tree": b"/tree",
            "/tree/a": b"new",
            "/tree/b": b"",
            "/tree/b/c": b"",
        }


async def until_state(zk: corral.Client, wanted: corral.State) -> None:
    async with asyncio.timeout(PATIENCE):
        async for state in zk.states():
            if state is wanted:
                return
