"""L3: cancels of an acquire at moments that neither the conformance suite nor `tests/points` reaches."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from lock_support import Rig, assert_nothing_left, ended

from client_support import asks_for
from corral.testing import Message, MessageKind, before, committed
from corral.wire.messages import CREATE2, DELETE, MULTI, PING
from line_kinds import KINDS, PATH
from support import settle, until_line, within

LOCK = KINDS["lock"]


async def test_another_sessions_node_with_our_name_is_not_ours(rig: Rig) -> None:
    """L10: a node that has our GUID and another session is not taken for ours: it is waited for. The create is repeated
    under the same name, as one that did not happen."""
    await rig.other.create(PATH)
    prefix: list[str] = []

    def create(message: Message) -> bool:
        if not asks_for(CREATE2)(message):
            return False
        assert message.path is not None
        prefix.append(message.path.rpartition("/")[2])
        return True

    lock = rig.zk.lock(PATH)
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(before(match=create), reset=True) as loss:
            task = asyncio.create_task(lock.acquire())
            await within(loss.fired.wait())
        foreign = await rig.other.create(f"{PATH}/{prefix[0]}", ephemeral=True, sequential=True)
    names = await until_line(rig.other, PATH, 2)
    await settle(rig.zk)
    assert not task.done()
    await rig.other.delete(foreign)
    held = await within(task)
    assert held.node.rpartition("/")[2] == names[1]
    assert names[1].startswith(prefix[0])
    await held.release()


@pytest.mark.parametrize("moment", ["unanswered", "its request is lost", "its answer is lost", *range(5)])
async def test_cancelled_while_it_proves_its_session(rig: Rig, moment: str | int) -> None:
    """L3: a waiter whose turn comes when its lease is short proves its session first. It can be cancelled there as well:
    with the connection lost or not, and in each turn of the loop after the answer."""
    session = rig.zk.session_id
    point = before if moment == "its request is lost" else committed

    def cancel(turns: int) -> None:
        if turns == 0:
            task.cancel()
        else:
            asyncio.get_running_loop().call_soon(cancel, turns - 1)

    def at_the_answer(message: Message) -> bool:
        if (
            message.kind is MessageKind.REPLY
            and message.operation == "transaction"
            and isinstance(moment, int)
        ):
            cancel(moment)
        return False

    async with AsyncExitStack() as stack:
        async with rig.other.lock(PATH):
            task = asyncio.create_task(rig.zk.lock(PATH).acquire())
            await until_line(rig.other, PATH, 2)
            start = len(rig.tap.messages)
            # Pings are a third of a session timeout apart, and prove nothing.
            await rig.tap.seen(lambda: rig.tap.requests(start, ours=False).count(PING) >= 3)
            assert MULTI not in rig.tap.requests(ours=False)
            if isinstance(moment, int):
                await stack.enter_async_context(rig.proxy.record(at_the_answer))
            else:
                at = point(match=asks_for(MULTI))
                fault = (
                    rig.proxy.black_hole(at) if moment == "unanswered" else rig.proxy.cut_at(at, reset=True)
                )
                reached = await stack.enter_async_context(fault)
        if not isinstance(moment, int):
            await within(reached.fired.wait())
            task.cancel()
        await ended(task)
    assert task.cancelled() or isinstance(moment, int)
    if not task.cancelled():  # in its last turns
        await task.result().release()
    assert MULTI in rig.tap.requests(ours=False)
    await assert_nothing_left(rig, LOCK, session)


@pytest.mark.parametrize("server", ["there", "gone"])
async def test_closing_while_a_node_is_still_to_be_removed(rig: Rig, server: str) -> None:
    """S5, L3: closing the client while it still has to find and remove the node of a cancelled acquire
    leaves no task; the node goes with the session, at the latest when that expires."""
    await rig.other.create(PATH)
    async with AsyncExitStack() as stack:
        async with rig.proxy.black_hole(requests=False):
            task = asyncio.create_task(rig.zk.lock(PATH).acquire())
            await until_line(rig.other, PATH, 1)
            task.cancel()
            if server == "gone":
                await stack.enter_async_context(rig.proxy.refuse())
            await rig.proxy.cut()
            await ended(task)
        await within(rig.zk.close())
    await until_line(rig.other, PATH, 0)


async def test_a_broken_release_of_a_cancelled_waiter(rig: Rig) -> None:
    """L3: the deletion of a cancelled waiter's node, itself lost with its connection, is done by the next."""
    session = rig.zk.session_id
    lock = rig.zk.lock(PATH)
    async with rig.other.lock(PATH):
        for lose in (before, committed):
            task = asyncio.create_task(lock.acquire())
            await until_line(rig.other, PATH, 2)
            async with rig.proxy.cut_at(lose(match=asks_for(DELETE)), reset=True) as loss:
                task.cancel()
                await within(loss.fired.wait())
                await until_line(rig.other, PATH, 1)
    await assert_nothing_left(rig, LOCK, session)
