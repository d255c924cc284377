"""Writes that are applied exactly once, whatever happens between a write and its answer (X1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from lock_support import Rig, end_session

import corral
from client_support import asks_for
from corral.recipes.kit.rounds import MOST_ROUNDS
from corral.recipes.kit.versioned import MOST_ATTEMPTS
from corral.testing import EmbeddedServer, before, committed
from corral.wire import messages
from corral.wire.messages import CREATE, GET, MULTI
from support import settle, turns, until, within

PATH = "/number"
POINTS = {"request": before, "reply": committed}

Act = Callable[[corral.Client], Awaitable[object]]


async def number(zk: corral.Client, path: str = PATH) -> int:
    """What the znode has."""
    await zk.sync()
    return int((await zk.get(path))[0])


async def no_mark(zk: corral.Client, path: str = PATH) -> None:
    """Wait until nobody's mark is there."""

    async def gone() -> bool:
        return await zk.children(path) == []

    await until(gone, "no mark is left")


def counter(zk: corral.Client) -> corral.Counter:
    return zk.counter(PATH, layout="kazoo")


@contextlib.asynccontextmanager
async def adding(rig: Rig, lost: str) -> AsyncIterator[asyncio.Task[int]]:
    """One is added to 5. Inside the block the "request" or the "reply" of the transaction is lost, and no server can
    be reached until the block ends."""
    await rig.other.create(PATH, b"5")
    async with rig.proxy.cut_at(POINTS[lost]("transaction")) as cut, rig.proxy.refuse():
        task = asyncio.create_task(counter(rig.zk).add(1))
        await within(cut.fired.wait())
        yield task
    await asyncio.wait([task])


async def mark_of(zk: corral.Client) -> str:
    """The path of the one mark."""
    [name] = await zk.children(PATH)
    return f"{PATH}/{name}"


async def nothing(zk: corral.Client) -> None:
    pass


async def write_six(zk: corral.Client) -> None:
    await zk.set(PATH, b"6")


async def write_and_back(zk: corral.Client) -> None:
    await zk.set(PATH, b"6")
    await zk.set(PATH, b"5")


async def delete(zk: corral.Client) -> None:
    await zk.delete(PATH, recursive=True)


async def create_again(zk: corral.Client) -> None:
    await delete(zk)
    await zk.create(PATH, b"50")


async def delete_mark(zk: corral.Client) -> None:
    await zk.delete(await mark_of(zk))


MEANWHILE: dict[str, tuple[Act, int | None, int | None]] = {
    # what another client does; what `add` then returns, if its request was lost, and if its reply was
    "nothing": (nothing, 6, 6),
    "another writes the same bytes": (write_six, 7, 6),
    "another writes what was there before": (write_and_back, 6, 6),
    "another deletes the znode": (delete, 1, 1),
    "another creates it again": (create_again, None, None),
    "another deletes the mark": (delete_mark, None, None),
}


@pytest.mark.parametrize("lost", POINTS)
@pytest.mark.parametrize("meanwhile", MEANWHILE)
async def test_a_lost_answer(rig: Rig, meanwhile: str, lost: str) -> None:
    """X1: a transaction that was lost, or whose answer was, is counted once, whatever others write meanwhile. Where
    nobody can tell any more, `add` says so."""
    act, *results = MEANWHILE[meanwhile]
    expected = results[lost == "reply"]
    async with adding(rig, lost) as task:
        await act(rig.other)
    if expected is not None:
        assert task.result() == expected
    else:
        with pytest.raises(corral.ConnectionLoss, match=f"'{PATH}'.*mark.*deleted"):
            task.result()
    left = {"another creates it again": 50, "another deletes the mark": 5 + (lost == "reply")}
    if meanwhile != "another writes what was there before":
        assert await number(rig.other) == left.get(meanwhile, expected)
    assert await counter(rig.zk).add(1) == await number(rig.other)
    await no_mark(rig.other)


async def test_the_mark_is_read_behind_a_quorum_write(rig: Rig) -> None:
    """X1, S2: after a loss a quorum write is asked for, and then the mark: a server that has lost its leader could
    show it as it was."""
    start = len(rig.tap.messages)
    async with adding(rig, "reply"):
        pass
    asked = rig.tap.requests(start, ours=False)
    assert asked[asked.index(MULTI) + 1 : asked.index(MULTI) + 3] == [MULTI, GET]


@pytest.mark.parametrize("lost", POINTS)
async def test_the_session_ends_meanwhile(rig: Rig, lost: str) -> None:
    """X1: the session is over, and the mark with it: nobody can tell, and `add` says so. The next one is right."""
    async with adding(rig, lost) as task:
        await end_session(rig.tap, rig.server, rig.zk.session_id)
    with pytest.raises(corral.ConnectionLoss, match=f"'{PATH}'.*session ended"):
        task.result()
    assert await number(rig.other) == 5 + (lost == "reply")
    assert await counter(rig.zk).add(1) == 6 + (lost == "reply")
    await no_mark(rig.other)


@pytest.mark.parametrize("lost", POINTS)
async def test_the_create_of_the_znode(rig: Rig, lost: str) -> None:
    """X1: the write that creates the znode is counted once, too."""
    async with rig.proxy.cut_at(POINTS[lost]("transaction")) as cut:
        assert await counter(rig.zk).add(3) == 3
    assert cut.fired.is_set()
    assert await number(rig.other) == 3
    await no_mark(rig.other)


@pytest.mark.parametrize("how", ["kazoo", "corral"])
async def test_another_creates_the_znode_meanwhile(rig: Rig, how: str) -> None:
    """X1: the request that creates it was lost, and another client creates it. Where that has never had a child, it is
    certain that it is not ours; otherwise `add` says that it cannot know."""
    async with rig.proxy.cut_at(before("transaction")) as cut, rig.proxy.refuse():
        task = asyncio.create_task(counter(rig.zk).add(3))
        await within(cut.fired.wait())
        if how == "kazoo":
            await rig.other.create(PATH, b"10")
        else:
            await counter(rig.other).add(10)
    if how == "kazoo":
        assert await task == 13
    else:
        with pytest.raises(corral.ConnectionLoss):
            await task
    assert await number(rig.other) == (13 if how == "kazoo" else 10)
    await no_mark(rig.other)


@pytest.mark.parametrize("operation", [CREATE, MULTI])
async def test_a_request_that_breaks_each_connection(rig: Rig, operation: Any) -> None:
    """X1, K2: it gives up when as many connections as always have broken; then nothing was written."""
    await rig.other.create(PATH, b"5")
    async with rig.proxy.cut_at(before(match=asks_for(operation)), reset=True, times=1000):
        with pytest.raises(corral.ConnectionLoss) as failure:
            await within(counter(rig.zk).add(1))
    assert failure.value.is_hopeless
    assert await number(rig.other) == 5
    await settle(rig.zk)
    await no_mark(rig.other)


async def test_in_a_new_session(rig: Rig) -> None:
    """X1: a session that ends between two adds, or while the first waits to be sent, changes nothing."""
    assert await counter(rig.zk).add(1) == 1
    before_it = rig.zk.session_id
    async with rig.away("expired"):
        task = asyncio.create_task(counter(rig.zk).add(1))
        await turns()
    assert await within(task) == 2
    assert rig.zk.session_id != before_it
    assert await number(rig.other) == 2
    await no_mark(rig.other)


async def test_the_session_ends_while_a_task_waits_for_its_turn(rig: Rig) -> None:
    """X1: of three tasks the second learns that its outcome is unknown, and the third adds in the new session: the
    mark of the old one does not matter any more."""
    await rig.other.create(PATH, b"5")
    async with rig.proxy.cut_at(committed("transaction", nth=2)) as cut, rig.proxy.refuse():
        tasks = [asyncio.create_task(counter(rig.zk).add(1)) for _ in range(3)]
        await within(cut.fired.wait())
        await end_session(rig.tap, rig.server, rig.zk.session_id)
    first, second, third = await within(asyncio.gather(*tasks, return_exceptions=True))
    assert first == 6
    assert isinstance(second, corral.ConnectionLoss)
    assert third == 8
    assert await number(rig.other) == 8
    await no_mark(rig.other)


# One mark, for a moment


async def test_tasks_of_one_client_share_a_mark(rig: Rig) -> None:
    """X1: tasks of a client write in turn, by one mark, and never compete: no transaction is refused."""
    await rig.other.create(PATH, b"0")
    start = len(rig.tap.messages)
    results = await asyncio.gather(*(counter(rig.zk).add(1) for _ in range(10)))
    assert sorted(results) == list(range(1, 11))
    asked = rig.tap.requests(start, ours=False)
    assert asked.count(MULTI) == 10
    assert asked.count(CREATE) == 1
    await no_mark(rig.other)


async def test_clients_with_a_chroot(rig: Rig) -> None:
    """X1: they count together with their client, and errors name the path as they do."""
    await rig.other.create(PATH, b"0")
    below = rig.zk.chroot(PATH)
    results = await asyncio.gather(
        *(counter(rig.zk).add(1) for _ in range(5)),
        *(below.counter("/", layout="kazoo").add(1) for _ in range(5)),
    )
    assert sorted(results) == list(range(1, 11))
    await no_mark(rig.other)
    async with rig.proxy.cut_at(before("transaction")) as cut, rig.proxy.refuse():
        task = asyncio.create_task(below.counter("/", layout="kazoo").add(1))
        await within(cut.fired.wait())
        await delete_mark(rig.other)
    with pytest.raises(corral.ConnectionLoss, match="transaction '/': the mark"):
        await task


async def test_a_delete_by_another_at_that_moment(rig: Rig) -> None:
    """X1: while a client writes, the znode has a child: deleting it takes `recursive`, for that moment."""
    await rig.other.create(PATH, b"5")
    async with rig.proxy.delay(0.5, match=asks_for(MULTI)):
        task = asyncio.create_task(counter(rig.zk).add(1))

        async def marked() -> bool:
            return await rig.other.children(PATH) != []

        await until(marked, "the mark is there")
        with pytest.raises(corral.NotEmpty):
            await rig.other.delete(PATH)
    assert await task == 6
    await no_mark(rig.other)
    await rig.other.delete(PATH)


async def test_a_delete_by_the_same_client(zk: corral.Client) -> None:
    """X1: whoever has written may delete the znode at once: the mark goes before."""
    await counter(zk).add(1)
    await zk.delete(PATH)
    await asyncio.gather(*(counter(zk).add(1) for _ in range(3)))
    await zk.delete(PATH)
    assert await zk.exists(PATH) is None


async def test_the_mark_is_deleted_between_two_writes(rig: Rig) -> None:
    """X1: somebody deletes the mark while nothing is under way: the write makes another, and is counted once."""
    await rig.other.create(PATH, b"5")
    async with rig.proxy.delay(0.5, match=asks_for(MULTI)):
        task = asyncio.create_task(counter(rig.zk).add(1))

        async def marked() -> bool:
            return await rig.other.children(PATH) != []

        await until(marked, "the mark is there")
        await delete_mark(rig.other)
    assert await task == 6
    assert await number(rig.other) == 6
    await no_mark(rig.other)


# Servers whose answers lead nowhere


@contextlib.asynccontextmanager
async def answering(lie: Callable[[bytes], bytes]) -> AsyncIterator[tuple[corral.Client, list[int]]]:
    """A client of a server that answers each transaction by `lie`, which gets the true answer; and a list that grows by
    each of them."""
    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        await zk.create(PATH, b"5")
        handlers, answered = server.zookeeper._handlers, list[int]()
        true = handlers[MULTI.opcode]

        def handle(*args: Any) -> Any:
            answered.append(MULTI.opcode)
            return lie(true(*args))

        handlers[MULTI.opcode] = handle
        yield zk, answered


async def test_an_answer_that_cannot_be_used() -> None:
    """X1: then the mark tells as well that the write was applied."""
    async with answering(lambda truth: truth[:-3]) as (zk, answered):
        with pytest.raises(corral.ReplyError):  # the quorum write is answered in the same way
            await within(counter(zk).add(1))
        assert len(answered) == 2
        assert await number(zk) == 6

    def once(truth: bytes) -> bytes:
        return truth[:-3] if len(answered) == 1 else truth

    async with answering(once) as (zk, answered):
        assert await within(counter(zk).add(1)) == 6
        assert await number(zk) == 6


async def test_others_are_always_faster() -> None:
    """X1, K2: a server that refuses each version as if others were always faster does not keep it busy for ever."""
    refused = messages.encode_multi_reply([(-1, -103, b""), (-1, -2, b"")])
    async with answering(lambda truth: refused) as (zk, answered):
        with pytest.raises(corral.BadVersion, match=f"'{PATH}'.*100 times in a row"):
            await within(counter(zk).add(1))
        assert len(answered) == MOST_ATTEMPTS


async def test_a_mark_that_is_never_there() -> None:
    """X1, K2: nor does one that has each mark deleted at once."""
    refused = messages.encode_multi_reply([(-1, 0, b""), (-1, -101, b"")])
    async with answering(lambda truth: refused) as (zk, answered):
        with pytest.raises(corral.NoNode):
            await within(counter(zk).add(1))
        assert len(answered) == MOST_ROUNDS


# Permissions

READ_WRITE = corral.Perm.READ | corral.Perm.WRITE
DELETE_NOT = corral.Perm.ALL & ~corral.Perm.DELETE


async def test_a_znode_that_allows_no_children(rig: Rig) -> None:
    """X1: without CREATE on the znode nothing is written, and the error says what is needed."""
    await rig.other.create(PATH, b"5", acl=corral.acl.world(READ_WRITE))
    with pytest.raises(corral.NoAuth, match=f"'{PATH}'.*CREATE and DELETE"):
        await counter(rig.zk).add(1)
    assert await number(rig.other) == 5


async def test_a_znode_whose_children_cannot_be_deleted(rig: Rig) -> None:
    """X1: without DELETE on the znode, the one mark stays as long as the session, and is used again."""
    await rig.other.create(PATH, b"5", acl=corral.acl.world(DELETE_NOT))
    for expected in (6, 7, 8):
        assert await counter(rig.zk).add(1) == expected
        await turns()
        await settle(rig.zk)
        assert len(await rig.other.children(PATH)) == 1
    await rig.zk.close()
    assert await rig.other.children(PATH) == []


@pytest.mark.parametrize("permission", [corral.Perm.READ, corral.Perm.WRITE])
async def test_a_mark_that_we_may_not_use(rig: Rig, permission: corral.Perm) -> None:
    """X1: without WRITE on the mark nothing is written. Without READ a lost answer cannot be resolved."""
    await rig.other.create(PATH, b"5")
    acl = [*corral.acl.world(corral.Perm.ALL & ~permission)]
    async with rig.proxy.cut_at(committed("transaction")):
        with pytest.raises((corral.NoAuth, corral.ConnectionLoss), match="acl="):
            await rig.zk.counter(PATH, layout="kazoo", acl=acl).add(1)
    assert await number(rig.other) == (6 if permission is corral.Perm.READ else 5)
    await no_mark(rig.other)


async def test_an_ephemeral_znode(rig: Rig) -> None:
    """X1: it can have no mark; nothing is written."""
    await rig.other.create(PATH, b"5", ephemeral=True)
    with pytest.raises(corral.NoChildrenForEphemerals):
        await counter(rig.zk).add(1)
    assert await number(rig.other) == 5
