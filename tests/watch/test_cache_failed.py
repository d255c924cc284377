"""A cache that cannot follow raises the reason to its readers, and recovers once it can (W3, S5)."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
import weakref
from collections.abc import Awaitable, Callable

import pytest
from watching import first_of, grow, next_of, registered

import corral
from corral import acl, errors
from corral.testing import FaultProxy, Message, MessageKind
from corral.wire import messages
from support import PATIENCE, turns, until

ONLY_USER = acl.digest("user", "secret")


@pytest.fixture
async def owner(other: corral.Client) -> corral.Client:
    """A client that may read what others may not."""
    other.add_auth("digest", b"user:secret")
    return other


async def close_to_others(owner: corral.Client, path: str) -> None:
    """Replace a node by one that only its owner may read, so that an event for it is sent."""
    async with owner.transaction() as tx:
        tx.delete(path)
        tx.create(path, b"secret", acl=ONLY_USER)


def refusal(cache: corral.Cache) -> corral.NoAuth | None:
    """The error that reading raises."""
    try:
        len(cache)
    except corral.NoAuth as error:
        return error
    return None


async def refused(cache: corral.Cache) -> corral.NoAuth:
    """Wait until reading raises; returns the error."""
    found: list[corral.NoAuth] = []

    async def raises() -> bool:
        if error := refusal(cache):
            found.append(error)
        return bool(found)

    await until(raises, "reading is refused")
    return found[0]


def shows(cache: corral.Cache, expected: dict[str, bytes]) -> Callable[[], Awaitable[bool]]:
    """Whether a cache can be read; if so, checks that it is complete."""

    async def can_be_read() -> bool:
        if refusal(cache):
            return False
        assert {path: node.data for path, node in cache.items()} == expected
        return True

    return can_be_read


@pytest.mark.parametrize("told", [False, True], ids=["no event tells of it", "with an event"])
async def test_it_recovers(zk: corral.Client, owner: corral.Client, told: bool) -> None:
    """W3: a failed cache follows again once it may, and is complete before it can be read; so does its
    `changes`."""
    await owner.create("/tree", b"1")
    async with zk.cache("/tree") as cache:
        events = cache.changes()
        waiting = asyncio.create_task(next_of(events))
        await turns()
        await close_to_others(owner, "/tree")
        await refused(cache)
        with pytest.raises(corral.NoAuth):
            await waiting
        await grow(owner, *(f"/tree/{n}" for n in range(100)))
        await owner.set_acl("/tree", corral.acl.OPEN)
        if told:
            await owner.set("/tree", b"secret")
        expected = {"/tree": b"secret"} | {f"/tree/{n}": b"/tree/%d" % n for n in range(100)}
        await until(shows(cache, expected), "the cache can be read")
        await owner.set("/tree", b"2")

        async def follows() -> bool:
            return cache["/tree"].data == b"2"

        await until(follows, "the cache follows")
        event = await next_of(events)
        assert (event.kind, event.path) == (corral.EventKind.CREATED, "/tree")
        events.close()
    assert registered(zk) == (0, 0)
    await owner.delete("/tree", recursive=True)


async def test_it_may_fail_again_and_again(zk: corral.Client, owner: corral.Client) -> None:
    """W3: it recovers each time, however often that happens."""
    await owner.create("/tree", b"secret")
    async with zk.cache("/tree") as cache:
        for _ in range(3):
            await close_to_others(owner, "/tree")
            await refused(cache)
            await owner.set_acl("/tree", corral.acl.OPEN)
            await until(shows(cache, {"/tree": b"secret"}), "the cache can be read")


async def test_each_refusal_is_an_error_of_its_own(zk: corral.Client, owner: corral.Client) -> None:
    """K4: an error that is raised repeatedly stays the same, and its traceback does not grow."""
    await owner.create("/tree")
    async with zk.cache("/tree") as cache:
        await close_to_others(owner, "/tree")
        first = await refused(cache)
        lengths = set()
        for _ in range(100):
            error = refusal(cache)
            assert error is not None
            assert error is not first
            assert (str(error), error.path, error.operation) == (str(first), first.path, first.operation)
            lengths.add(len(traceback.extract_tb(error.__traceback__)))
        assert len(lengths) == 1
    await owner.set_acl("/tree", corral.acl.OPEN)


@pytest.mark.parametrize("closes_client", [False, True], ids=["the cache is left", "the client is closed"])
async def test_nothing_is_left_of_a_failed_cache(
    connect: Callable[..., corral.Client], owner: corral.Client, closes_client: bool
) -> None:
    """S5, W5: no timer and no other object is left, whichever of client and cache ends first."""
    await owner.create("/tree")
    async with connect() as zk:
        cache = zk.cache("/tree")
        await cache.__aenter__()
        await close_to_others(owner, "/tree")
        await refused(cache)
        assert cache._kept.feed is not None
        feed = weakref.ref(cache._kept.feed)
        if closes_client:
            await zk.close()
            with pytest.raises(corral.ClientClosed):
                len(cache)
        cache.close()
        assert registered(zk) == (0, 0)
        gc.collect()
        assert feed() is None  # a timer would refer to it
    await owner.set_acl("/tree", corral.acl.OPEN)


async def test_a_closed_client_has_no_cache_that_tries_again(
    connect: Callable[..., corral.Client], owner: corral.Client
) -> None:
    """S5: the timer of a failed cache ends with the client, even if nobody leaves the cache."""
    await owner.create("/tree")
    async with connect() as zk:
        cache = await zk.cache("/tree").__aenter__()
        await close_to_others(owner, "/tree")
        await refused(cache)
    assert cache._kept.feed is not None
    assert cache._kept.feed._retry is None
    await owner.set_acl("/tree", corral.acl.OPEN)


async def test_waiting_readers_get_errors_of_their_own(zk: corral.Client, owner: corral.Client) -> None:
    """K4, K5: when one failure ends many waits, each waiter gets its own exception object."""
    await owner.create("/node", acl=ONLY_USER)
    waiting = [asyncio.create_task(next_of(zk.watch("/node"))) for _ in range(3)]
    raised = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(error) for error in raised} == {corral.NoAuth}
    assert len({id(error) for error in raised}) == 3
    await owner.set_acl("/node", corral.acl.OPEN)


@pytest.mark.parametrize("ends", [StopIteration, StopAsyncIteration])
async def test_only_that_ends_an_iteration(
    zk: corral.Client, other: corral.Client, ends: type[Exception]
) -> None:
    """W6: an exception of a filter that would silently end a reader's loop, or cannot be set on a future, is
    raised as another error that says so."""

    def only(path: str) -> bool:
        if "bad" in path:
            raise ends
        return True

    await grow(other, "/tree", "/tree/a")
    async with zk.cache("/tree", only=only) as cache, zk.watch_tree("/tree", only=only) as events:
        await first_of(events)
        await other.create("/tree/bad")
        with pytest.raises(RuntimeError, match=rf"/tree/bad.*{ends.__name__}"):
            await next_of(events)
        with pytest.raises(RuntimeError, match=ends.__name__):
            len(cache)
    with pytest.raises(RuntimeError, match=ends.__name__):
        await zk.cache("/tree", only=only).__aenter__()
    assert await zk.exists("/tree")
    assert registered(zk) == (0, 0)


async def test_only_that_closes_the_cache(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """W5: a filter may do anything to the cache that it filters; the client continues, and logs no error."""
    await grow(other, "/tree", "/tree/a", "/tree/b")
    caches: list[corral.Cache] = []
    closed = asyncio.Event()

    def only(path: str) -> bool:
        if "close" in path:
            caches[0].close()
            closed.set()
        return True

    caches.append(await zk.cache("/tree", only=only).__aenter__())
    await other.create("/tree/close")
    await other.set("/tree/a", b"2")

    async with asyncio.timeout(PATIENCE):
        await closed.wait()
    assert await zk.exists("/tree")
    assert registered(zk) == (0, 0)

    closed.clear()
    caches[0] = zk.cache("/tree", only=only)
    entering = asyncio.create_task(caches[0].__aenter__())  # the filter closes it while it is loaded
    async with asyncio.timeout(PATIENCE):
        await closed.wait()
    assert await zk.exists("/tree")
    assert registered(zk) == (0, 0)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(corral.UsageStateError, match=r"'/tree'.*closed while"):
            await entering
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_closed_while_a_transaction_waits_for_it(
    proxied: corral.Client, proxy: FaultProxy, other: corral.Client
) -> None:
    """S8: a transaction whose outcome a cache was to show does not wait for a cache that is closed."""
    await proxied.create("/tree")

    def shows(message: Message) -> bool:
        return message.kind is MessageKind.REPLY and message.opcode == messages.MULTI_READ.opcode

    async def write() -> None:
        async with proxied.transaction() as tx:
            tx.create("/tree/a")

    async with proxied.cache("/tree") as cache:
        feed = cache._kept.feed
        assert feed is not None

        async def answered() -> bool:
            target = feed._own_write_target
            return target is not None and not feed.reads.is_reached(target)

        async with proxy.delay(2 * PATIENCE, match=shows):
            writing = asyncio.create_task(write())
            await until(answered, "the transaction waits for the cache")
            await turns()
            assert not writing.done()
            cache.close()
            async with asyncio.timeout(PATIENCE):
                await writing
    assert await other.exists("/tree/a")


async def test_a_transaction_that_sets_a_node_twice(zk: corral.Client) -> None:
    """W1: of two states from one transaction the last is shown, although both have the same zxid."""
    await zk.create("/tree", b"0")
    async with zk.cache("/tree") as cache:
        async with zk.transaction() as tx:
            tx.set("/tree", b"1")
            tx.set("/tree", b"2")
        assert cache["/tree"].data == b"2"
        await zk.sync()
        await turns()
        assert cache["/tree"].data == b"2"


@pytest.mark.parametrize(
    "error",
    [
        errors.NoAuth("get", "/a"),
        errors.OtherServerError("get", "/a", -42),
        errors.TransactionFailed(1, errors.NoNode("delete", "/a")),
        errors.FrameTooLarge("get", "/a", 5, 4),
        errors.ClientClosed("the client was closed"),
        LookupError("/a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        FileNotFoundError(2, "gone", "/a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fresh_error(error: Exception) -> None:
    """K4: a copy of an error has its message; a note that is added to one copy is not added to others."""
    error.__cause__ = ValueError("why")
    error.add_note("first")
    twin = errors.fresh(error)
    assert twin is not error
    assert (type(twin), str(twin), twin.args) == (type(error), str(error), error.args)
    assert {**vars(twin)} == {**vars(error)}
    assert twin.__cause__ is error.__cause__
    twin.add_note("second")
    assert error.__notes__ == ["first"]


def test_what_cannot_be_copied_is_as_it_is() -> None:
    """K4: a third party's error that cannot be copied is raised nevertheless."""

    class Own(Exception):
        def __init__(self, one: str, other: str) -> None:
            super().__init__(one + other)

    error = Own("a", "b")
    assert errors.fresh(error) is error
