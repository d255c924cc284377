"""Requests whose connection breaks: a real server behind a proxy (S2, S7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

import corral
from client_support import asks_for, requests_seen
from corral.session.requests import FIRST_FLIGHT, MAX_IN_FLIGHT
from corral.testing import FaultProxy, before, committed
from corral.testing.servers.base import four_letter_word
from corral.wire import messages
from corral.wire.messages import Operation
from support import PATIENCE, turns, until

Connect = Callable[..., corral.Client]


class Write(NamedTuple):
    """A write on `/n`, which has data b"old", version 0 and no children."""

    operation: Operation
    call: Callable[[corral.Client], Awaitable[object]]
    name: str
    """The start of its errors: the verb and the path."""
    times: Callable[[corral.Client], Awaitable[int]]
    """How often it was applied, as another client sees it."""


async def _transact(zk: corral.Client) -> None:
    async with zk.transaction() as tx:
        tx.set("/n", b"new")
        tx.create("/n/s-", sequential=True)


async def _stat(zk: corral.Client) -> corral.Stat:
    await zk.sync("/n")
    stat = await zk.exists("/n")
    assert stat is not None
    return stat


async def _children_made(zk: corral.Client) -> int:
    """How many children were ever created, including deleted ones, by the next sequential number."""
    await zk.sync("/n")
    path = await zk.create("/n/probe-", sequential=True)
    await zk.delete(path)
    return int(path[-10:])


async def _sets(zk: corral.Client) -> int:
    return (await _stat(zk)).version


async def _acl_sets(zk: corral.Client) -> int:
    return (await _stat(zk)).aversion


async def _deletes(zk: corral.Client) -> int:
    await zk.sync("/n")
    return int(await zk.exists("/n") is None)


async def _transactions(zk: corral.Client) -> int:
    applied = await _sets(zk)
    assert await _children_made(zk) == applied
    return applied


WRITES: dict[str, Write] = {
    "create": Write(messages.CREATE, lambda zk: zk.create("/n/a"), "create '/n/a'", _children_made),
    "create sequential": Write(
        messages.CREATE, lambda zk: zk.create("/n/s-", sequential=True), "create '/n/s-'", _children_made
    ),
    "create ephemeral": Write(
        messages.CREATE, lambda zk: zk.create("/n/e", ephemeral=True), "create '/n/e'", _children_made
    ),
    "create with stat": Write(
        messages.CREATE2, lambda zk: zk.create("/n/a", with_stat=True), "create '/n/a'", _children_made
    ),
    "create container": Write(
        messages.CREATE_CONTAINER,
        lambda zk: zk.create("/n/c", container=True),
        "create '/n/c'",
        _children_made,
    ),
    "create ttl": Write(
        messages.CREATE_TTL, lambda zk: zk.create("/n/t", ttl=3600), "create '/n/t'", _children_made
    ),
    "set": Write(messages.SET, lambda zk: zk.set("/n", b"new"), "set '/n'", _sets),
    "delete": Write(messages.DELETE, lambda zk: zk.delete("/n"), "delete '/n'", _deletes),
    "delete recursive": Write(
        messages.MULTI, lambda zk: zk.delete("/n", recursive=True), "delete '/n'", _deletes
    ),
    "set_acl": Write(
        messages.SET_ACL, lambda zk: zk.set_acl("/n", corral.acl.OPEN), "set_acl '/n'", _acl_sets
    ),
    "transaction": Write(messages.MULTI, _transact, "transaction", _transactions),
}


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("case", WRITES)
async def test_a_write_is_never_sent_twice(
    connect: Connect, proxy: FaultProxy, other: corral.Client, case: str, lost: str
) -> None:
    """S2: a write on which the connection breaks raises ConnectionLoss, which names it; the server may have
    applied it or not. It is not sent again, and the session continues."""
    write = WRITES[case]
    await other.create("/n", b"old")
    lose = committed if lost == "reply" else before
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        session = zk.session_id
        async with proxy.cut_at(lose(match=asks_for(write.operation)), reset=True):
            with pytest.raises(corral.ConnectionLoss) as caught:
                await write.call(zk)
        await zk.exists("/")  # a write that is sent again would have come before this
        assert seen.count(write.operation) == 1
        assert proxy.accepted == 2
        assert zk.session_id == session
        assert not isinstance(caught.value, corral.ServerError | corral.SessionError)
        assert str(caught.value).startswith(f"{write.name}: ")
        assert "unknown" in str(caught.value)
        assert await write.times(other) == (1 if lost == "reply" else 0)


READS: dict[str, tuple[Operation, Callable[[corral.Client], Awaitable[Any]], str]] = {
    "get": (messages.GET, lambda zk: zk.get("/n"), "get '/n'"),
    "exists": (messages.EXISTS, lambda zk: zk.exists("/n"), "exists '/n'"),
    "children": (messages.CHILDREN, lambda zk: zk.children("/n"), "children '/n'"),
    "children with stat": (
        messages.CHILDREN2,
        lambda zk: zk.children("/n", with_stat=True),
        "children '/n'",
    ),
    "get_acl": (messages.GET_ACL, lambda zk: zk.get_acl("/n"), "get_acl '/n'"),
    "sync": (messages.SYNC, lambda zk: zk.sync("/n"), "sync '/n'"),
    "count_children": (messages.COUNT_ALL, lambda zk: zk.count_children("/n"), "count_children '/n'"),
    "ephemerals": (messages.GET_EPHEMERALS, lambda zk: zk.ephemerals("/n"), "ephemerals '/n'"),
}


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("case", READS)
async def test_a_read_is_sent_again(
    connect: Connect, proxy: FaultProxy, other: corral.Client, case: str, lost: str
) -> None:
    """S2: a read on which the connection breaks is sent again on the next one, and its caller does not
    notice."""
    operation, call, _ = READS[case]
    await other.create("/n", b"old")
    expected = await call(other)
    lose = committed if lost == "reply" else before
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with proxy.cut_at(lose(match=asks_for(operation)), reset=True) as loss:
            assert await call(zk) == expected
            assert loss.fired.is_set()
        assert seen.count(operation) == 2
        assert proxy.accepted == 2


@pytest.mark.parametrize("case", READS)
async def test_a_read_that_kills_two_connections_fails(
    connect: Connect, proxy: FaultProxy, other: corral.Client, case: str
) -> None:
    """S2: a read on which two connections break fails, since it may be the cause; other requests continue."""
    operation, call, name = READS[case]
    await other.create("/n")
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with proxy.cut_at(before(match=asks_for(operation)), reset=True, times=2):
            with pytest.raises(corral.ConnectionLoss, match=f"^{name}: "):
                await call(zk)
        assert seen.count(operation) == 2
        await call(zk)
        assert proxy.accepted == 3


async def disconnected(zk: corral.Client) -> None:
    """Wait until the client has noticed the loss of its connection."""

    async def noticed() -> bool:
        return zk.state is corral.State.SUSPENDED

    await until(noticed, f"suspended: {zk}")


async def test_requests_wait_while_disconnected(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S2: a request made while disconnected, read or write, waits and is then sent; it does not fail."""
    await other.create("/n", b"old")
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with proxy.refuse():
            await proxy.cut()
            await disconnected(zk)
            calls = [
                write.call
                for case, write in WRITES.items()
                if case not in ("delete", "delete recursive", "create with stat")
            ]
            calls += [call for _, call, _ in READS.values()]
            tasks = [asyncio.create_task(_call(call, zk)) for call in calls]
            await turns()
            assert not any(task.done() for task in tasks)
            assert seen.opcodes == []
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*tasks)
        assert proxy.accepted == 2
    assert await _sets(other) == 2  # the set, and the transaction


async def _call(call: Callable[[corral.Client], Awaitable[object]], zk: corral.Client) -> object:
    return await call(zk)


async def test_what_is_cancelled_while_it_waits_is_not_sent(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S8: a request whose caller was cancelled before it was sent is never sent."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with proxy.refuse():
            await proxy.cut()
            await disconnected(zk)
            waiting = asyncio.create_task(zk.create("/a"))
            staying = asyncio.create_task(zk.create("/b"))
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
        await staying
        assert waiting.cancelled()
        assert await zk.children("/") == ["b"]
        assert seen.count(messages.CREATE) == 1


async def test_the_order_is_kept_over_a_reconnect(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S4: a session is one FIFO: reads that are sent again go first, then the waiting requests in the order
    of the calls. So each read sees exactly the writes that were requested before it."""
    await other.create("/n", b"old")
    read, look, write = messages.GET.opcode, messages.EXISTS.opcode, messages.SET.opcode
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with proxy.black_hole(requests=False):
            # So many that the last of them must wait for answers to others, and so must what follows.
            early: list[asyncio.Task[Any]] = []
            for _ in range(MAX_IN_FLIGHT // 2):
                early += [asyncio.create_task(zk.get("/n")), asyncio.create_task(zk.exists("/n"))]
            tasks: list[asyncio.Task[Any]] = []
            for n in range(10):
                tasks += [asyncio.create_task(zk.set("/n", b"%d" % n)), asyncio.create_task(zk.get("/n"))]

            async def all_sent() -> bool:
                return len(seen.requests) == FIRST_FLIGHT

            await until(all_sent, "as many as may be are in flight")
            async with proxy.refuse():
                await proxy.cut()
                await disconnected(zk)
                for n in range(10, 20):
                    tasks += [asyncio.create_task(zk.set("/n", b"%d" % n)), asyncio.create_task(zk.get("/n"))]
                await turns()
                seen.requests.clear()
        for n in range(20):
            stat = await tasks[2 * n]
            assert await tasks[2 * n + 1] == (b"%d" % n, stat)
            assert stat.version == n + 1
        answers = await asyncio.gather(*early)
        assert {data for data, _ in answers[::2]} == {b"old"}
        assert {stat.version for stat in answers[1::2]} == {0}
        assert seen.opcodes == [read, look] * (MAX_IN_FLIGHT // 2) + [write, read] * 20


async def test_reads_and_writes_in_flight_together(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S2: of many requests in flight when the connection breaks, exactly the writes fail."""
    await other.create("/n", b"old")

    async def all_applied() -> bool:
        return await _sets(other) == 10

    async with connect(proxy.address) as zk:
        async with proxy.black_hole(requests=False):
            tasks: list[asyncio.Task[Any]] = []
            for _ in range(10):
                tasks.append(asyncio.create_task(zk.set("/n", b"new")))
                tasks.append(asyncio.create_task(zk.get("/n")))
            await until(all_applied, "ten writes")
            await proxy.cut()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [corral.ConnectionLoss, tuple] * 10
        assert {data for data, _ in results[1::2]} == {b"new"}
    assert await _sets(other) == 10


async def test_parents_are_made_over_a_loss(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S2: creating parents is sent again, since it changes nothing if they exist; the create itself is
    not."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        async with proxy.cut_at(committed(match=asks_for(messages.CREATE)), reset=True):
            path, _ = await zk.create("/a/b/c", b"leaf", make_parents=True, with_stat=True)
        assert path == "/a/b/c"
        assert seen.count(messages.CREATE2) == 2  # refused for its missing parents, then applied
        assert proxy.accepted == 2
    assert (await other.get("/a/b/c"))[0] == b"leaf"


@pytest.mark.parametrize("reset", [False, True])
async def test_fin_and_reset_are_one_event(connect: Connect, proxy: FaultProxy, reset: bool) -> None:
    """S1: however the connection ends, the session continues at once on the next."""
    async with connect(proxy.address) as zk:
        session = zk.session_id
        await zk.create("/e", ephemeral=True)
        for count in range(2, 6):
            await proxy.cut(reset=reset)
            stat = await zk.exists("/e")
            assert stat is not None
            assert stat.ephemeral_owner == zk.session_id == session
            assert proxy.accepted == count


# Replies that are too large


async def test_a_too_large_reply_fails_its_own_request(
    connect: Connect, proxy: FaultProxy, other: corral.Client
) -> None:
    """S7: a reply over max_reply raises ReplyError, with size and limit, for its own request, which is not
    sent again. Other requests in flight are answered, and the connection stays open."""
    await other.create("/large", bytes(500_000))
    await other.create("/small", b"small")
    async with connect(proxy.address, max_reply=1024) as zk, requests_seen(proxy) as seen:
        paths = ["/small", "/large", "/small", "/large", "/large", "/small"]
        results = await asyncio.gather(*(zk.get(path) for path in paths), return_exceptions=True)
        for path, result in zip(paths, results, strict=True):
            if path == "/small":
                assert not isinstance(result, BaseException)
                assert result[0] == b"small"
            else:
                assert isinstance(result, corral.ReplyError)
                assert not isinstance(result, corral.ConnectionLoss)
                assert str(result).startswith("get '/large': ")
                assert "500,0" in str(result)
                assert "1,024" in str(result)
                assert "max_reply" in str(result)
        assert seen.count(messages.GET) == len(paths)
        assert proxy.accepted == 1
        assert zk.state is corral.State.CONNECTED


async def test_a_reply_of_the_limit_is_taken(connect: Connect, other: corral.Client) -> None:
    """S7: max_reply is the largest reply that is accepted, to the byte."""
    await other.create("/n", bytes(1025))
    async with connect(max_reply=1024) as zk:
        with pytest.raises(corral.ReplyError) as caught:
            await zk.get("/n")
        words = str(caught.value).replace(",", "").split()
        size = int(words[words.index("bytes") - 1])
        await other.set("/n", bytes(1025 - (size - 1024)))
        await zk.sync("/n")
        await zk.get("/n")
        await other.set("/n", bytes(1025 - (size - 1024) + 1))
        await zk.sync("/n")
        with pytest.raises(corral.ReplyError, match=r"1,025 bytes, over the limit of 1,024"):
            await zk.get("/n")


async def test_a_write_whose_reply_is_too_large(connect: Connect, other: corral.Client) -> None:
    """S7: a write whose reply is too large raises ReplyError; it was applied, once."""
    name = "x" * 2000
    async with connect(max_reply=1024) as zk:
        with pytest.raises(corral.ReplyError, match="create '/xx"):
            await zk.create(f"/{name}-", sequential=True)
        assert await zk.exists("/") is not None
    assert await other.children("/") == [f"{name}-0000000000"]


async def test_a_watch_of_what_is_too_large(
    connect: Connect, other: corral.Client, server_address: str, root: str
) -> None:
    """S7, W5: a watch whose state is too large raises ReplyError on each read, and continues when the state
    fits again. If it is left before that, nothing stays registered on the server."""
    await other.create("/n", bytes(5000))
    async with connect(max_reply=1024) as zk:
        async with zk.watch("/n") as events:
            for _ in range(2):
                with pytest.raises(corral.ReplyError, match="get '/n'"):
                    await anext(events)
            await other.set("/n", b"small")
            await zk.sync("/n")
            assert (await anext(events)).data == b"small"
            await other.set("/n", bytes(5000))
            with pytest.raises(corral.ReplyError, match="get '/n'"):
                await anext(events)
            assert f"{root}/n" in (await four_letter_word(server_address, "wchp")).split()
        await zk.sync()
        assert f"{root}/n" not in (await four_letter_word(server_address, "wchp")).split()
