"""Transactions on a real server: all or nothing, their results, and what is never sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import corral
from client_support import requests_seen
from corral.testing import FaultProxy
from corral.wire import messages

Connect = Callable[..., corral.Client]
Fill = Callable[[corral.Transaction], None]


async def test_all_of_it_applies_at_one_zxid(zk: corral.Client, other: corral.Client) -> None:
    """On a normal exit all writes apply, in order, at one zxid; `results` has what each call alone would have
    returned."""
    await zk.create("/config", b"v3")
    await zk.create("/old")
    async with zk.transaction() as tx:
        tx.check("/config", version=0)
        tx.set("/config", b"v4", version=0)
        tx.create("/audit")
        tx.create("/audit/entry-", b"...", sequential=True)
        tx.create("/audit/mine", ephemeral=True, acl=corral.acl.WORLD_READ)
        tx.delete("/old", version=0)
        assert tx.results == []
    await other.sync()
    data, stat = await other.get("/config")
    assert data == b"v4"
    assert tx.results == [None, stat, "/audit", "/audit/entry-0000000000", "/audit/mine", None]
    assert await other.exists("/old") is None
    entry, mine = await asyncio.gather(other.exists("/audit/entry-0000000000"), other.exists("/audit/mine"))
    assert entry is not None
    assert mine is not None
    assert entry.czxid == mine.czxid == stat.mzxid
    assert mine.ephemeral_owner == zk.session_id
    assert (await other.get_acl("/audit/mine"))[0] == list(corral.acl.WORLD_READ)


REFUSALS: dict[str, tuple[Fill, type[corral.ServerError], str, str]] = {
    "check": (lambda tx: tx.check("/a", version=7), corral.BadVersion, "check", "/a"),
    "check, nothing there": (lambda tx: tx.check("/none"), corral.NoNode, "check", "/none"),
    "set": (lambda tx: tx.set("/a", b"new", version=7), corral.BadVersion, "set", "/a"),
    "delete": (lambda tx: tx.delete("/a"), corral.NotEmpty, "delete", "/a"),
    "delete, version": (lambda tx: tx.delete("/a/b", version=7), corral.BadVersion, "delete", "/a/b"),
    "create": (lambda tx: tx.create("/a"), corral.NodeExists, "create", "/a"),
    "create below nothing": (lambda tx: tx.create("/x/y"), corral.NoNode, "create", "/x/y"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("index", [0, 1, 2])
async def test_one_refusal_applies_none(
    zk: corral.Client, other: corral.Client, case: str, index: int
) -> None:
    """If one write is refused none applies; the error has its index and, as a ServerError, its cause."""
    fill, cause, operation, path = REFUSALS[case]
    await zk.create("/a/b", b"old", make_parents=True)
    tx = zk.transaction()
    good = iter("123")
    for _ in range(index):
        tx.create(f"/good-{next(good)}")
    fill(tx)
    tx.set("/a/b", b"new")
    with pytest.raises(corral.TransactionFailed) as caught:
        await tx.commit()
    error = caught.value
    assert isinstance(error, corral.ServerError)
    assert error.index == index
    assert type(error.cause) is cause
    assert (error.cause.operation, error.cause.path) == (operation, path)
    assert f"operation {index} was refused: {operation} {path!r}" in str(error)
    assert tx.results == []
    await other.sync()
    assert await other.children("/") == ["a"]
    assert (await other.get("/a/b"))[0] == b"old"


async def test_an_exception_in_the_body_sends_nothing(connect: Connect, proxy: FaultProxy) -> None:
    """An exception of the body is raised unchanged, and nothing was sent; the same holds for a
    cancellation."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:

        async def fail(error: BaseException) -> None:
            async with zk.transaction() as tx:
                tx.create("/a")
                raise error

        for error in (ValueError("the caller's"), asyncio.CancelledError()):
            with pytest.raises(type(error)) as caught:
                await fail(error)
            assert caught.value is error
        assert await zk.exists("/a") is None
        assert seen.opcodes == [messages.EXISTS.opcode]


async def test_collecting_sends_nothing(connect: Connect, proxy: FaultProxy) -> None:
    """Nothing is sent before the commit; that sends one request, whatever the number of writes."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        tx = zk.transaction()
        for n in range(100):
            tx.create(f"/{n}")
        await zk.exists("/")
        assert seen.opcodes == [messages.EXISTS.opcode]
        assert await tx.commit() == [f"/{n}" for n in range(100)] == tx.results
        assert seen.opcodes == [messages.EXISTS.opcode, messages.MULTI.opcode]


async def test_an_empty_transaction_is_nothing(connect: Connect, proxy: FaultProxy) -> None:
    """Committing an empty transaction succeeds, and sends nothing."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with zk.transaction() as tx:
            pass
        assert tx.results == []
        await zk.exists("/")
        assert seen.opcodes == [messages.EXISTS.opcode]


REUSES: dict[str, Callable[[corral.Transaction], object]] = {
    "check": lambda tx: tx.check("/a"),
    "set": lambda tx: tx.set("/a", b""),
    "delete": lambda tx: tx.delete("/a"),
    "create": lambda tx: tx.create("/a"),
}


@pytest.mark.parametrize("refused", [False, True])
async def test_a_transaction_is_for_once(zk: corral.Client, refused: bool) -> None:
    """After its commit, refused or not, a transaction accepts no more writes and no other commit."""
    tx = zk.transaction()
    tx.check("/none" if refused else "/")
    result = (await asyncio.gather(tx.commit(), return_exceptions=True))[0]
    assert isinstance(result, corral.TransactionFailed) == refused
    for add in REUSES.values():
        with pytest.raises(corral.UsageStateError, match="committed"):
            add(tx)
    with pytest.raises(corral.UsageStateError, match="committed"):
        await tx.commit()


async def test_a_commit_in_the_body_is_the_one(zk: corral.Client) -> None:
    """After a commit by hand inside `async with`, the exit raises an error that says so, and does not commit again."""

    async def commit_inside() -> None:
        async with zk.transaction() as tx:
            tx.create("/s-", sequential=True)
            await tx.commit()

    with pytest.raises(corral.UsageStateError, match="committed"):
        await commit_inside()
    assert await zk.children("/") == ["s-0000000000"]


async def test_too_large_is_refused_before_sending(connect: Connect, proxy: FaultProxy) -> None:
    """S7: a transaction over the frame limit is refused with size and limit; nothing of it was sent, and the
    connection is not affected."""
    async with connect(proxy.address, max_request=4096) as zk, requests_seen(proxy) as seen:
        tx = zk.transaction()
        for n in range(5):
            tx.create(f"/{n}", bytes(1000))
        with pytest.raises(
            corral.FrameTooLarge, match=r"transaction: the request is 5,\d{3} bytes.* 4,096"
        ) as caught:
            await tx.commit()
        assert caught.value.size > caught.value.limit == 4096
        assert await zk.children("/") == []
        assert seen.opcodes == [messages.CHILDREN.opcode]
        assert proxy.accepted == 1


async def test_later_writes_see_the_earlier_ones(zk: corral.Client) -> None:
    """A transaction can create a node, set it and delete it; its order is that of the calls."""
    async with zk.transaction() as tx:
        tx.create("/a")
        tx.create("/a/b")
        tx.set("/a/b", b"data", version=0)
        tx.check("/a/b", version=1)
        tx.delete("/a/b", version=1)
    assert await zk.children("/a") == []
    stat = tx.results[2]
    assert isinstance(stat, corral.Stat)
    assert stat.version == 1


async def test_the_check_of_a_lock_is_named_below_the_chroot(zk: corral.Client) -> None:
    """If the server refuses to check the node of a lock, the error has the path as the caller's client names
    it, and nothing is applied."""
    await zk.create("/l")
    async with zk.lock("/l", acl=corral.acl.digest("ann", "secret")) as held:
        tx = held.transaction()
        tx.create("/a")
        with pytest.raises(corral.NoAuth) as caught:
            await tx.commit()
        assert caught.value.path == held.node.removeprefix(zk.chroot_path)
        assert zk.chroot_path not in str(caught.value)
        assert await zk.exists("/a") is None
