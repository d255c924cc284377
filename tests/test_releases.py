"""What works with which release of ZooKeeper (docs/versions.md): each feature works, or raises `Unimplemented` at
once, which names the server and the release that it needs, and leaves the client as it was."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import corral
from corral.testing import EmbeddedServer, VirtualLoop
from corral.testing.embedded.releases import RELEASES
from corral.testing.servers.base import four_letter_word
from support import PATIENCE

Feature = Callable[[corral.Client], Awaitable[object]]


async def nodes(zk: corral.Client) -> None:
    await zk.create("/node", b"1", ephemeral=True)
    stat = await zk.set("/node", b"2", version=0)
    assert await zk.get("/node") == (b"2", stat)
    assert "node" in (await zk.children("/", with_stat=True))[0]
    await zk.sync("/node")
    await zk.delete("/node", version=1)


async def acl(zk: corral.Client) -> None:
    await zk.create("/acl/node", make_parents=True)
    await zk.set_acl("/acl/node", corral.acl.WORLD_READ)
    assert (await zk.get_acl("/acl/node"))[0] == list(corral.acl.WORLD_READ)
    await zk.delete("/acl", recursive=True)


async def transaction(zk: corral.Client) -> None:
    async with zk.transaction() as tx:
        tx.create("/transaction")
        tx.check("/transaction", version=0)
    refused = zk.transaction()
    refused.delete("/transaction")
    refused.check("/transaction", version=0)
    with pytest.raises(corral.TransactionFailed):
        await refused.commit()


async def watch(zk: corral.Client) -> None:
    async with zk.watch("/watched") as events, zk.watch_children("/watched") as children:
        await anext(events)
        await anext(children)
        await zk.create("/watched/child", make_parents=True)
        assert (await anext(events)).exists
        while (await anext(children)).children != frozenset({"child"}):
            pass


async def watch_tree(zk: corral.Client) -> None:
    async with zk.watch_tree("/") as changes:
        await anext(changes)


async def watch_raw(zk: corral.Client) -> None:
    async with zk.watch_raw("/raw") as events:
        await anext(events)


async def cache(zk: corral.Client) -> None:
    async with zk.cache("/") as cache:
        assert cache.get("/mine") is not None


async def lock(zk: corral.Client) -> None:
    async with zk.lock("/lock"), zk.rwlock("/rwlock").read():
        pass


async def semaphore(zk: corral.Client) -> None:
    async with zk.semaphore("/semaphore", 2):
        pass


async def election(zk: corral.Client) -> None:
    async with zk.election("/election"):
        pass


async def registration(zk: corral.Client) -> None:
    async with zk.registration("/registration", b"") as me:
        await me.update(b"new")


async def group(zk: corral.Client) -> None:
    async with zk.group("/group").join(b"me"):
        assert len(await zk.group("/group").members()) == 1


async def watched_group(zk: corral.Client) -> None:
    async with zk.group("/nobody").watch() as members:
        assert (await anext(members)).members == ()


async def services(zk: corral.Client) -> None:
    async with zk.services("/services").register("web", address="10.0.0.7", port=80):
        pass


async def provider(zk: corral.Client) -> None:
    async with zk.services("/services").provider("api"):
        pass


async def value(zk: corral.Client) -> None:
    shared = zk.value("/value", codec=corral.JSON, default=1)
    await shared.update(lambda old: old + 1)
    assert (await shared.get()).value == 2
    assert await zk.counter("/counter").add(1) == 1


async def barrier(zk: corral.Client) -> None:
    await zk.barrier("/barrier").close()
    await zk.barrier("/barrier").open()


async def double_barrier(zk: corral.Client) -> None:
    async with zk.double_barrier("/double", 1):
        pass


async def queue(zk: corral.Client) -> None:
    await zk.queue("/queue").put(b"item")
    async with zk.queue("/queue").take() as job:
        assert job.data == b"item"


async def partition(zk: corral.Client) -> None:
    async with zk.partition("/partition", ["item"], settle=0.1) as partition:
        async for mine in partition:
            if mine:
                break


FEATURES: dict[str, tuple[str, Feature]] = {
    "nodes": ("3.4", nodes),
    "ACLs": ("3.4", acl),
    "transactions": ("3.4", transaction),
    "watches": ("3.4", watch),
    "values and counters": ("3.4", value),
    "barriers": ("3.4", barrier),
    "queues": ("3.4", queue),
    "create with the Stat": ("3.5", lambda zk: zk.create("/stat", with_stat=True)),
    "containers": ("3.5", lambda zk: zk.create("/container", container=True)),
    "TTL": ("3.5", lambda zk: zk.create("/ttl", ttl=60)),
    "locks": ("3.5", lock),
    "semaphores": ("3.5", semaphore),
    "elections": ("3.5", election),
    "registrations": ("3.5", registration),
    "groups": ("3.5", group),
    "services": ("3.5", services),
    "double barriers": ("3.5", double_barrier),
    "partitions": ("3.5", partition),
    "trees": ("3.6", watch_tree),
    "raw watches": ("3.6", watch_raw),
    "caches": ("3.6", cache),
    "members watched": ("3.6", watched_group),
    "providers": ("3.6", provider),
}
"""What there is, and the first release that it works with."""


@pytest.fixture(params=["the run's", *RELEASES])
async def release_and_address(
    request: pytest.FixtureRequest, server_address: str
) -> AsyncIterator[tuple[str, str]]:
    """A server's release and its address: the server of this run, and in virtual time an embedded one of each
    release."""
    if request.param != "the run's" and not isinstance(asyncio.get_running_loop(), VirtualLoop):
        pytest.skip(
            "on embedded servers in virtual time, where it is quick; nox runs it there (--loop=virtual)"
        )
    if request.param == "the run's":
        found = re.search(r"(\d+\.\d+)\.", await four_letter_word(server_address, "srvr"))
        yield (found[1] if found else "3.8"), server_address
    else:
        async with EmbeddedServer(version=request.param) as server:
            yield request.param, server.address


@pytest.fixture
async def zk(release_and_address: tuple[str, str], root: str) -> AsyncIterator[corral.Client]:
    """A client of it, in a chroot of the test's own."""
    _, address = release_and_address
    async with corral.connect(address, session_timeout=6.0) as zk:
        await zk.ensure_path(root)
        await zk.ensure_path(f"{root}/raw")
        yield zk.chroot(root)


def of(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


@pytest.mark.parametrize("name", FEATURES)
async def test_it_works_or_says_what_it_needs(
    release_and_address: tuple[str, str], zk: corral.Client, name: str
) -> None:
    """W6, L3: what a server is too old for raises `Unimplemented`, with the operation, the server and the
    release that has it; the session stays, and with it what it has. Everything else works."""
    release, address = release_and_address
    since, feature = FEATURES[name]
    session = zk.session_id
    await zk.create("/mine", ephemeral=True)
    async with asyncio.timeout(PATIENCE):
        if of(release) >= of(since):
            await feature(zk)
        else:
            with pytest.raises(corral.Unimplemented) as raised:
                await feature(zk)
            assert re.search(rf"needs ZooKeeper {re.escape(since)}(\.\d)? or newer", str(raised.value))
            assert address in str(raised.value)
        assert (await zk.exists("/mine")) is not None
    assert zk.session_id == session
    assert zk.statistics().reconnects <= 3


async def test_what_is_sent_next_is_not_lost(release_and_address: tuple[str, str], zk: corral.Client) -> None:
    """S2: a write that is sent as soon as an operation was refused as unknown does not go down with the
    connection, which the server closes: it waits for the next one."""
    release, _ = release_and_address
    if of(release) >= of("3.5"):
        pytest.skip("about operations that a server does not know, and this one knows createContainer")
    for number in range(5):
        with pytest.raises(corral.Unimplemented):
            await zk.create("/node", container=True)
        await zk.create(f"/{number}")


async def test_a_watch_that_cannot_be_removed(
    release_and_address: tuple[str, str], zk: corral.Client
) -> None:
    """W5: before 3.5 nobody can remove a watch: the server ends the connection of whoever tries, so it is
    tried once. The watches that stay there disturb nobody."""
    release, _ = release_and_address
    for number in range(5):
        async with zk.watch(f"/{number}") as events, asyncio.timeout(PATIENCE):
            await anext(events)
            waiting = asyncio.create_task(anext(events))
            await zk.exists("/")
            waiting.cancel()
            await asyncio.wait([waiting])
        await zk.exists("/")
    assert zk.statistics().reconnects == (1 if of(release) < of("3.5") else 0)
    for number in range(5):
        await zk.create(f"/{number}")
