"""A registration is there while its client is: made again, with its newest data, whatever has removed it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from typing import Literal

import pytest
from lock_support import Rig, Tap, ended

import corral
from client_support import asks_for
from corral import Perm
from corral.testing import EmbeddedServer, FaultProxy, TcpProxy, before, committed
from corral.wire.messages import CREATE2, DELETE, EXISTS, GET, MULTI, SET
from support import settle, turns, until, within

Connect = Callable[..., corral.Client]

PATH = "/here/host-7"
MOST = corral.ConnectionLoss.MOST_LOSSES


async def owner(client: corral.Client, path: str = PATH) -> int | None:
    """The session that owns the znode; None if there is none."""
    stat = await client.exists(path)
    return None if stat is None else stat.ephemeral_owner


async def until_owner(client: corral.Client, wanted: int | None) -> None:
    async def is_owner() -> bool:
        return await owner(client) == wanted

    await until(is_owner, f"the znode's owner is {wanted}")


async def until_data(client: corral.Client, wanted: bytes) -> None:
    async def has_data() -> bool:
        with contextlib.suppress(corral.NoNode):
            return (await client.get(PATH))[0] == wanted
        return False

    await until(has_data, f"the znode has {wanted!r}")


# There, and not there


async def test_it_is_there_while_the_block_runs(zk: corral.Client, other: corral.Client) -> None:
    """N1: inside the block the znode exists, with the data, owned by our session; its parents were made. Afterwards
    it is gone."""
    async with zk.registration(PATH, b"up") as me:
        data, stat = await other.get(PATH)
        assert (data, stat.ephemeral_owner) == (b"up", zk.session_id)
        assert me.is_present
        assert (me.path, me.data) == (PATH, b"up")
    assert await owner(other) is None
    assert not me.is_present


async def test_what_it_costs(rig: Rig) -> None:
    """N1: entering costs a create, and beside it a read that sets the watch; nothing is asked for while nothing
    happens; leaving costs a delete."""
    await rig.other.create("/here")
    start = len(rig.tap.messages)
    async with rig.zk.registration(PATH):
        await rig.tap.seen(lambda: len(rig.tap.requests(start)) == 2)
        await settle(rig.zk)
    asked = rig.tap.requests(start, ours=False)
    assert asked[:2] == [CREATE2, GET]
    assert asked.count(DELETE) == 1
    assert asked.count(MULTI) == 0


# Made again


@pytest.mark.parametrize("updated", [False, True])
async def test_it_is_made_again_in_the_next_session(rig: Rig, updated: bool) -> None:
    """N1: after the session has expired, the znode is there in the new one, with the newest data: also if that was
    set while there was no session."""
    async with rig.zk.registration(PATH, b"up") as me:
        await me.update(b"busy")
        first = rig.zk.session_id
        async with rig.away("expired"):
            await until_owner(rig.other, None)
            updating = asyncio.create_task(me.update(b"draining")) if updated else None
            await turns()
        await until_data(rig.other, b"draining" if updated else b"busy")
        assert await owner(rig.other) == rig.zk.session_id != first
        await within(me.wait_present())
        if updating is not None:
            await within(updating)


@pytest.mark.parametrize("how", ["cut", "reset", "black hole"])
async def test_it_is_kept_while_the_session_lives(rig: Rig, how: str) -> None:
    """N1: a connection that breaks leaves the znode as it is: it is not made again."""
    async with rig.zk.registration(PATH) as me:
        stat = await rig.other.exists(PATH)
        async with rig.away(how):
            assert me.is_present
        await settle(rig.zk)
        assert await rig.other.exists(PATH) == stat
        assert me.is_present


async def test_it_is_kept_when_the_lease_lapses(rig: Rig) -> None:
    """N1, S3: what is held is lost when the lease lapses; a registration is not, since the session is resumed."""
    async with rig.zk.registration(PATH) as me:
        stat = await rig.other.exists(PATH)
        held = await rig.zk.lock("/lock").acquire()
        async with rig.proxy.black_hole(requests=False):  # so that the server goes on to hear of us
            await within(held.wait_lost())
        await settle(rig.zk)
        assert await rig.other.exists(PATH) == stat
        assert me.is_present


async def test_it_is_made_again_when_somebody_deletes_it(zk: corral.Client, other: corral.Client) -> None:
    """N1: as often as that happens, with the newest data."""
    async with zk.registration(PATH, b"up") as me:
        await me.update(b"busy")
        for _ in range(3):
            await other.delete(PATH)
            await until_data(other, b"busy")
        assert await owner(other) == zk.session_id


async def test_its_parents_are_made_again(rig: Rig) -> None:
    """N1, L10: if they vanish with it."""
    async with rig.zk.registration("/a/b/c", b"up") as me:
        async with rig.away("cut"):
            await rig.other.delete("/a", recursive=True)
        await within(rig.other.wait_present("/a/b/c"))
        assert (await rig.other.get("/a/b/c"))[0] == b"up"
        await within(me.wait_present())


async def test_the_data_of_others_stays_until_it_is_made_again(
    zk: corral.Client, other: corral.Client
) -> None:
    """N1: somebody else's change of the data is not undone; what is made again is ours."""
    async with zk.registration(PATH, b"up"):
        await other.set(PATH, b"edited by hand")
        await settle(zk)
        await settle(other)
        assert (await other.get(PATH))[0] == b"edited by hand"
        await other.delete(PATH)
        await until_data(other, b"up")


# Whose it is


def spoiling_the_session(opening: bytes) -> tuple[bytes, int] | None:
    """A request to resume a session, with a wrong password: the server refuses it, and keeps the session."""
    if len(opening) < 48:
        return None
    (session_id,) = struct.unpack_from(">q", opening, 20)
    if session_id:
        return opening[:32] + bytes(16) + opening[48:], len(opening)
    return opening, len(opening)


async def test_the_znode_of_our_session_before_is_replaced_at_once(
    connect: Connect, other: corral.Client, server_address: str
) -> None:
    """N1: a server may keep our session although the client has a new one. Its znode is ours, so it is replaced: by
    one that has the newest data, and belongs to the session that there is now."""
    async with TcpProxy(server_address, rewrite_opening=spoiling_the_session) as relay:
        async with (
            connect(relay.address, session_timeout=40.0) as zk,
            zk.registration(PATH, b"up") as me,
        ):
            first = zk.session_id
            holder = await zk.create("/first", ephemeral=True)
            before_it = await other.exists(PATH)
            updating = asyncio.create_task(me.update(b"busy"))
            await relay.cut()
            await until_data(other, b"busy")
            after = await other.exists(PATH)
            assert before_it is not None
            assert after is not None
            assert after.ephemeral_owner == zk.session_id != first
            assert after.czxid != before_it.czxid
            assert await owner(other, holder) == first  # so the server keeps that session
            with contextlib.suppress(corral.ConnectionLoss):
                await within(updating)
            await within(me.wait_present())
        await until_owner(other, None)
        await other.delete(holder)


async def test_leaving_deletes_the_znode_of_our_session_before(
    connect: Connect, other: corral.Client, server_address: str
) -> None:
    """N1, L6: left while it has no session, it deletes the znode that the server still keeps for the last one."""
    async with TcpProxy(server_address, rewrite_opening=spoiling_the_session) as relay:
        async with connect(relay.address, session_timeout=40.0) as zk:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(zk.registration(PATH))
                first = zk.session_id
                async with relay.refuse():
                    await relay.cut()
                    leaving = asyncio.create_task(stack.aclose())
                    await turns()
                    assert await owner(other) == first
                await within(leaving)
            assert zk.session_id != first
            assert await owner(other) is None


@pytest.mark.parametrize("whose", ["another session's", "no session's"])
async def test_somebody_elses_znode_is_waited_for(
    zk: corral.Client, other: corral.Client, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    """N1: entering waits until it is gone, and never touches it."""
    await other.create(PATH, b"theirs", ephemeral=whose == "another session's", make_parents=True)
    entering = asyncio.create_task(zk.registration(PATH, b"ours").__aenter__())

    async def is_noticed() -> bool:
        return "waits: a znode of" in caplog.text

    await until(is_noticed, "it has seen that the path is taken")
    await settle(zk)
    assert not entering.done()
    assert (await other.get(PATH))[0] == b"theirs"
    await other.delete(PATH)
    me = await within(entering)
    assert await owner(other) == zk.session_id
    await me.__aexit__(None, None, None)
    assert await owner(other) is None


@pytest.mark.parametrize("whose", ["another session's", "no session's"])
async def test_somebody_elses_znode_is_refused(zk: corral.Client, other: corral.Client, whose: str) -> None:
    """N1: with on_taken="raise" entering says whose it is, and leaves it."""
    await other.create(PATH, b"theirs", ephemeral=whose == "another session's", make_parents=True)
    by = f"session 0x{other.session_id:x}" if whose == "another session's" else "no session"
    with pytest.raises(corral.NodeExists, match=f"register '{PATH}': a znode of {by} is there"):
        await within(zk.registration(PATH, on_taken="raise").__aenter__())
    await settle(zk)
    assert (await other.get(PATH))[0] == b"theirs"


async def test_a_path_that_is_taken_later_is_waited_for(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """N1: also with on_taken="raise", since nobody is there to be told by an exception; that is logged. It is ours
    again when it is free."""
    async with zk.registration(PATH, b"ours", on_taken="raise") as me:
        async with other.transaction() as swap:
            swap.delete(PATH)
            swap.create(PATH, b"theirs", ephemeral=True)

        async def is_noticed() -> bool:
            return not me.is_present

        await until(is_noticed, "it has seen that the path is taken")
        assert f"registration of '{PATH}' waits: a znode of session 0x{other.session_id:x}" in caplog.text
        assert (await other.get(PATH))[0] == b"theirs"
        await other.delete(PATH)
        await within(me.wait_present())
        assert (await other.get(PATH))[0] == b"ours"


async def test_leaving_does_not_touch_somebody_elses_znode(zk: corral.Client, other: corral.Client) -> None:
    """N1: who has taken the path meanwhile keeps it."""
    async with zk.registration(PATH, b"ours") as me:
        async with other.transaction() as swap:
            swap.delete(PATH)
            swap.create(PATH, b"theirs", ephemeral=True)

        async def is_noticed() -> bool:
            return not me.is_present

        await until(is_noticed, "it has seen that the path is taken")
    assert (await other.get(PATH))[0] == b"theirs"


async def test_a_znode_that_this_client_has_created_otherwise(
    zk: corral.Client, other: corral.Client
) -> None:
    """N1: it belongs to this session, so it is taken over, and gets the data."""
    await zk.create(PATH, b"by hand", ephemeral=True, make_parents=True)
    async with zk.registration(PATH, b"up", on_taken="raise") as me:
        await until_data(other, b"up")
        assert me.is_present
    assert await owner(other) is None


# Lost replies


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_create_that_is_lost(rig: Rig, lost: str) -> None:
    """N1, S2: a create whose reply is lost is told by the owner of the znode: it is not created twice."""
    await rig.other.create("/here")
    at = before if lost == "request" else committed
    async with rig.proxy.cut_at(at(match=asks_for(CREATE2)), reset=True) as cut:
        async with rig.zk.registration(PATH, b"up", on_taken="raise"):
            assert cut.message
            data, stat = await rig.other.get(PATH)
            assert (data, stat.version, stat.ephemeral_owner) == (b"up", 0, rig.zk.session_id)
            assert rig.tap.counts[CREATE2] == (2 if lost == "request" else 1)
    assert await owner(rig.other) is None


async def test_an_update_while_the_create_is_lost(rig: Rig) -> None:
    """N1: the znode gets the newest data, also if that was set while the create of older data was under way."""
    async with rig.zk.registration(PATH, b"up") as me:
        await me.update(b"busy")
        async with rig.proxy.cut_at(committed(match=asks_for(CREATE2)), reset=True):
            await rig.other.delete(PATH)
            await rig.tap.seen(lambda: rig.tap.counts[CREATE2] >= 2)
            await within(me.update(b"up"))
        await settle(rig.zk)
        assert (await rig.other.get(PATH))[0] == b"up" == me.data


async def test_an_abandoned_create_is_resolved_behind_a_quorum_write(rig: Rig) -> None:
    """N1, S2: entering is cancelled while its create is under way, and the reply is lost. A server that lags behind
    may not know the znode yet: so a quorum write is answered before it is looked for. Who enters again waits for that."""
    await rig.other.create("/here")
    start = len(rig.tap.messages)
    async with rig.proxy.black_hole(requests=False) as hole:
        entering = asyncio.create_task(rig.zk.registration(PATH).__aenter__())
        await hole.arrived()
        await rig.other.wait_present(PATH)
        entering.cancel()
        await ended(entering)
        again = asyncio.create_task(rig.zk.registration(PATH, b"again").__aenter__())
        await rig.proxy.cut()
    me = await within(again)
    assert (await rig.other.get(PATH))[0] == b"again"
    await settle(rig.zk)
    asked = rig.tap.requests(start, ours=False)
    assert [each for each in asked if each in (CREATE2, MULTI, EXISTS, DELETE)] == [
        CREATE2, MULTI, EXISTS, DELETE, CREATE2
    ]  # fmt: skip
    await me.__aexit__(None, None, None)


# Updating


async def test_update_sets_the_data(zk: corral.Client, other: corral.Client) -> None:
    """N1: when it returns the znode has the data: also data that it had before, if somebody has changed it."""
    async with zk.registration(PATH, b"up") as me:
        for data in (b"busy", b"", b"up"):
            await me.update(data)
            assert (await other.get(PATH))[0] == data == me.data
        await other.set(PATH, b"edited by hand")
        await me.update(b"up")
        assert (await other.get(PATH))[0] == b"up"


async def test_many_updates_at_once(rig: Rig) -> None:
    """N1: all return, the newest wins, and those that are overtaken are not sent."""
    async with rig.zk.registration(PATH, b"up") as me:
        start = len(rig.tap.messages)
        await within(asyncio.gather(*(me.update(b"%d" % number) for number in range(100))))
        assert (await rig.other.get(PATH))[0] == b"99" == me.data
        assert 1 <= rig.tap.requests(start).count(SET) <= 2


async def test_updates_that_never_end(zk: corral.Client) -> None:
    """N1: an update returns when its data was set, although there is always a newer one."""
    async with zk.registration(PATH, b"up") as me, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(me.update(b"first"))
        for _ in range(10_000):
            newer = tasks.create_task(me.update(b"newer"))
            await asyncio.sleep(0)
            if first.done():
                break
        assert not newer.done()


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_an_update_that_is_lost(rig: Rig, lost: str) -> None:
    """N1, S2: it goes on over the loss of the connection."""
    async with rig.zk.registration(PATH, b"up") as me:
        at = before if lost == "request" else committed
        async with rig.proxy.cut_at(at(match=asks_for(SET)), reset=True) as cut:
            await within(me.update(b"busy"))
            assert cut.message
        data, stat = await rig.other.get(PATH)
        assert (data, stat.version) == (b"busy", 1)


async def test_an_update_that_is_cancelled(rig: Rig) -> None:
    """N1, S8: its data may be set; updates go on."""
    async with rig.zk.registration(PATH, b"up") as me:
        async with rig.proxy.black_hole():
            updating = asyncio.create_task(me.update(b"busy"))
            await turns()
            updating.cancel()
            await ended(updating)
        await within(me.update(b"draining"))
        assert (await rig.other.get(PATH))[0] == b"draining"


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_an_update_whose_session_ends(rig: Rig, lost: str) -> None:
    """N1: under way when the session ends, it returns when the next session's znode has the data."""
    async with rig.zk.registration(PATH, b"up") as me:
        async with rig.proxy.black_hole(requests=lost == "request") as hole:
            updating = asyncio.create_task(me.update(b"busy"))
            await hole.arrived()
            async with rig.away("expired"):
                await rig.proxy.cut()
        await within(updating)
        assert (await rig.other.get(PATH))[0] == b"busy"
        assert await owner(rig.other) == rig.zk.session_id


async def test_an_update_that_is_refused(rig: Rig) -> None:
    """N1: the refusal is raised, and the data is as before: also in the next session."""
    acl = [*corral.acl.world(Perm.READ)]
    async with rig.zk.registration(PATH, b"up", acl=corral.acl.OPEN) as me:
        await rig.other.set_acl(PATH, acl)
        for _ in range(2):
            with pytest.raises(corral.NoAuth, match=f"set '{PATH}'"):
                await within(me.update(b"busy"))
        assert me.data == b"up" == (await rig.other.get(PATH))[0]
        assert me.is_present
        async with rig.away("expired"):
            await until_owner(rig.other, None)
        await until_data(rig.other, b"up")
        await within(me.wait_present())
        await me.update(b"busy")


@pytest.mark.parametrize("size", [1_048_576, 1_048_450])
async def test_data_that_is_too_large(rig: Rig, size: int) -> None:
    """S7: refused before anything is sent, by entering and by updating, naming size and limit. That counts the largest
    request that the data will ever travel in."""
    with pytest.raises(corral.FrameTooLarge, match=f"register '{PATH}': the request is 1,048,[0-9]+ bytes"):
        await rig.zk.registration(PATH, bytes(size)).__aenter__()
    async with rig.zk.registration(PATH, b"up") as me:
        await settle(rig.zk)
        start = len(rig.tap.messages)
        with pytest.raises(corral.FrameTooLarge, match=f"update '{PATH}': the request is 1,048,[0-9]+ bytes"):
            await me.update(bytes(size))
        assert rig.tap.requests(start) == []
        assert me.data == b"up"


# Leaving


async def test_a_cancelled_body_does_not_wait(rig: Rig) -> None:
    """N1, L6: on a dead network it ends at once; the znode goes when there is a connection again."""
    is_entered = asyncio.Event()

    async def register() -> None:
        async with rig.zk.registration(PATH):
            is_entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(register())
    await within(is_entered.wait())
    async with rig.proxy.black_hole():
        task.cancel()
        await turns(10)
        assert task.cancelled()
        assert await owner(rig.other) == rig.zk.session_id
    await until_owner(rig.other, None)


async def test_leaving_that_is_cancelled(rig: Rig) -> None:
    """N1, L6: the deletion goes on."""
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(rig.zk.registration(PATH))
    async with rig.proxy.black_hole():
        leaving = asyncio.create_task(stack.aclose())
        await turns()
        leaving.cancel()
        await turns(10)
        assert leaving.cancelled()
    await until_owner(rig.other, None)


async def test_what_was_left_without_a_session_is_not_made_again(rig: Rig) -> None:
    """N1: left while it waits for the next session, it does not appear there."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(rig.zk.registration(PATH))
        async with rig.away("expired"):
            await rig.proxy.cut()

            async def is_expired() -> bool:
                return rig.zk.session_id == 0 or rig.zk.state is not corral.State.CONNECTED

            await until(is_expired, "the client has no connection")
            start = len(rig.tap.messages)
            leaving = asyncio.create_task(stack.aclose())
            await turns()
        await within(leaving)
    await settle(rig.zk)
    assert CREATE2 not in rig.tap.requests(start)
    assert await owner(rig.other) is None


async def test_leaving_that_is_refused(
    connect: Connect, zk: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """N1, L6: where the ACL does not let us delete the znode, leaving says so; the body's own exception stays, with a
    note."""
    boss_of = [*corral.acl.digest("boss", "secret")]
    closed = [*boss_of, *corral.acl.world(Perm.CREATE | Perm.READ | Perm.WRITE)]
    async with connect(auth=[("digest", b"boss:secret")]) as boss:
        await boss.create("/here", acl=closed)
        with pytest.raises(corral.NoAuth, match=f"delete '{PATH}'"):
            async with zk.registration(PATH):
                pass
        assert "stays until its session ends" in caplog.text
        with pytest.raises(ValueError, match="mine") as failure:
            async with zk.registration("/here/host-8"):
                raise ValueError("mine")
        assert "meanwhile delete '/here/host-8'" in failure.value.__notes__[0]
        await boss.set_acl("/here", corral.acl.OPEN)


async def test_the_client_is_closed_inside(
    connect: Connect, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """N1, S5: whoever waits gets an error that says so; leaving is quiet; nothing is logged of a znode that stays."""
    async with connect() as zk, zk.registration(PATH, b"up") as me:
        async with other.transaction() as swap:
            swap.delete(PATH)
            swap.create(PATH, b"theirs", ephemeral=True)

        async def is_noticed() -> bool:
            return not me.is_present

        await until(is_noticed, "it has seen that the path is taken")
        waiting = [asyncio.create_task(me.wait_present()), asyncio.create_task(me.update(b"busy"))]
        await turns()
        await zk.close()
        for each in waiting:
            with pytest.raises(corral.ClientClosed):
                await within(each)
        assert not me.is_present
        for call in (me.wait_present, lambda: me.update(b"x")):
            with pytest.raises(corral.ClientClosed):
                await call()
    assert "stays" not in caplog.text
    assert "not kept" not in caplog.text


# Wrong use


async def test_used_outside_its_block(zk: corral.Client) -> None:
    """S8: an error that says so, before entering and after leaving; one object is entered once."""
    me = zk.registration(PATH)
    for _ in range(2):
        with pytest.raises(corral.UsageStateError, match="use it inside its 'async with' block"):
            await me.update(b"x")
        with pytest.raises(corral.UsageStateError, match="use it inside its 'async with' block"):
            await me.wait_present()
        if not me.is_present:
            with contextlib.suppress(corral.UsageStateError):
                async with me:
                    with pytest.raises(corral.UsageStateError, match="entered before; make another"):
                        await me.__aenter__()
                    assert me.is_present


async def test_one_path_is_registered_once(zk: corral.Client, other: corral.Client) -> None:
    """N1: a second registration of the path through the same client is an error, also below a chroot; the first one is
    not touched."""
    async with zk.registration(PATH, b"first") as me:
        for second in (zk.registration(PATH, b"second"), zk.chroot("/here").registration("/host-7")):
            with pytest.raises(corral.UsageStateError, match="is registered through this client already"):
                await second.__aenter__()
        assert me.is_present
        assert (await other.get(PATH))[0] == b"first"
    async with zk.registration(PATH, b"second"):
        assert (await other.get(PATH))[0] == b"second"


async def test_registered_again_before_the_last_one_is_gone(rig: Rig) -> None:
    """N1: left by a cancel and entered again, as by a task that is restarted: the second waits for the end of the
    first, and then is there."""
    is_entered = asyncio.Event()

    async def register(data: bytes) -> None:
        async with rig.zk.registration(PATH, data, on_taken="raise"):
            is_entered.set()
            await asyncio.Event().wait()

    first = asyncio.create_task(register(b"first"))
    await within(is_entered.wait())
    async with rig.proxy.black_hole():
        first.cancel()
        await ended(first)
        second = asyncio.create_task(register(b"second"))
        await turns()
        assert not second.done()
    await until_data(rig.other, b"second")
    await settle(rig.zk)
    assert [each for each in rig.tap.requests() if each in (CREATE2, DELETE)][-2:] == [DELETE, CREATE2]
    second.cancel()
    await ended(second)
    await until_owner(rig.other, None)


# Refusals, and what is hopeless


async def test_entering_that_is_refused(connect: Connect, zk: corral.Client) -> None:
    """N1: the server's refusal is raised."""
    async with connect(auth=[("digest", b"boss:secret")]) as boss:
        await boss.create("/closed", acl=corral.acl.digest("boss", "secret"))
        with pytest.raises(corral.NoAuth, match="create '/closed/me'"):
            await within(zk.registration("/closed/me").__aenter__())
        await boss.create("/ephemeral", ephemeral=True)
        with pytest.raises(corral.NoChildrenForEphemerals):
            await within(zk.registration("/ephemeral/me").__aenter__())
        await boss.delete("/closed")


async def test_making_it_again_is_refused(
    connect: Connect, zk: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """N1: that is logged, once; updates raise it; and it is tried again until it succeeds, with the newest data."""
    async with connect(auth=[("digest", b"boss:secret")]) as boss:
        await boss.create("/here")
        async with zk.registration(PATH, b"up") as me:
            await boss.set_acl("/here", corral.acl.digest("boss", "secret"))
            await boss.delete(PATH)

            async def is_logged() -> bool:
                return "is not kept, and will be tried again: create '/here/host-7'" in caplog.text

            await until(is_logged, "the refusal is logged")
            assert not me.is_present
            for _ in range(2):
                with pytest.raises(corral.NoAuth, match=f"create '{PATH}'"):
                    await within(me.update(b"busy"))
            assert caplog.text.count("is not kept") == 1
            await boss.set_acl("/here", corral.acl.OPEN)
            await within(me.wait_present())
            assert (await boss.get(PATH))[0] == b"busy"


async def test_a_create_that_breaks_each_connection(rig: Rig) -> None:
    """N1: entering gives up with ConnectionLoss when it is hopeless, and nothing stays."""
    await rig.other.create("/here")
    async with rig.proxy.cut_at(before(match=asks_for(CREATE2)), reset=True, times=1000):
        with pytest.raises(corral.ConnectionLoss) as failure:
            await within(rig.zk.registration(PATH).__aenter__())
        assert failure.value.is_hopeless
        assert rig.tap.counts[CREATE2] == MOST
    await settle(rig.zk)
    assert await owner(rig.other) is None


async def test_making_it_again_is_hopeless(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """N1: once it has existed, a create that breaks each connection is tried again later."""
    async with rig.zk.registration(PATH, b"up") as me:
        async with rig.proxy.cut_at(before(match=asks_for(CREATE2)), reset=True, times=1000):
            await rig.other.delete(PATH)

            async def is_logged() -> bool:
                return "is not kept" in caplog.text

            await until(is_logged, "it has given up for now")
        await within(me.wait_present())
        assert (await rig.other.get(PATH))[0] == b"up"


async def test_a_delete_that_breaks_each_connection(rig: Rig) -> None:
    """N1, L6: leaving gives up and says so."""
    async with rig.proxy.cut_at(before(match=asks_for(DELETE)), reset=True, times=1000):
        with pytest.raises(corral.ConnectionLoss) as failure:
            async with rig.zk.registration(PATH):
                pass
        assert failure.value.is_hopeless


# Znodes that nobody may read


@contextlib.asynccontextmanager
async def unreadable(version: Literal["3.8", "3.9"]) -> AsyncIterator[tuple[FaultProxy, Tap, corral.Client]]:
    """A server that does not tell of the end of a node that we may not read; 3.9 does not tell whether it exists."""
    tap = Tap()
    async with (
        EmbeddedServer(version=version) as server,
        FaultProxy(server.address) as proxy,
        proxy.record(tap.note),
        corral.connect(server.address, auth=[("digest", b"they:secret")]) as they,
    ):
        await they.create("/here")
        yield proxy, tap, they


BLIND = corral.acl.digest("they", "secret") + corral.acl.world(Perm.WRITE | Perm.DELETE)


@pytest.mark.parametrize("version", ["3.8", "3.9"])
@pytest.mark.parametrize("lost", ["nothing", "reply"])
async def test_its_own_acl_does_not_let_it_be_read(version: Literal["3.8", "3.9"], lost: str) -> None:
    """N1: a znode that we may not read is ours all the same, also if the reply to its create is lost; it is updated,
    made again, and deleted."""
    async with (
        unreadable(version) as (proxy, _, they),
        corral.connect(proxy.address, session_timeout=3) as zk,
    ):
        async with contextlib.AsyncExitStack() as stack:
            if lost == "reply":
                point = committed(match=asks_for(CREATE2))
                await stack.enter_async_context(proxy.cut_at(point, reset=True))
            registration = zk.registration(PATH, b"up", on_taken="raise", acl=BLIND)
            async with registration as me:
                assert (await they.get(PATH))[0] == b"up"
                await within(me.update(b"busy"))
                assert (await they.get(PATH))[0] == b"busy"
                await they.delete(PATH)
                await until_data(they, b"busy")
                assert await owner(they) == zk.session_id
            assert await owner(they) is None


@pytest.mark.parametrize("version", ["3.8", "3.9"])
async def test_an_abandoned_znode_that_we_may_not_read(version: Literal["3.8", "3.9"]) -> None:
    """N1, S2: it is found and deleted all the same."""
    async with (
        unreadable(version) as (proxy, _, they),
        corral.connect(proxy.address, session_timeout=3) as zk,
    ):
        async with proxy.black_hole(requests=False) as hole:
            entering = asyncio.create_task(zk.registration(PATH, acl=BLIND).__aenter__())
            await hole.arrived()
            await they.wait_present(PATH)
            entering.cancel()
            await ended(entering)
            await proxy.cut()
        session_id = zk.session_id
        await until_owner(they, None)
        assert zk.session_id == session_id


@pytest.mark.parametrize("version", ["3.8", "3.9"])
async def test_somebody_elses_znode_that_we_may_not_read(version: Literal["3.8", "3.9"]) -> None:
    """N1: it is refused, or waited for, though the server does not tell of its end."""
    async with (
        unreadable(version) as (proxy, tap, they),
        corral.connect(proxy.address, session_timeout=3) as zk,
    ):
        await they.create(PATH, ephemeral=True, acl=corral.acl.digest("they", "secret"))
        with pytest.raises(corral.NodeExists, match="on_taken='wait'"):
            await within(zk.registration(PATH, on_taken="raise").__aenter__())
        start = len(tap.messages)
        entering = asyncio.create_task(zk.registration(PATH).__aenter__())
        await tap.seen(lambda: tap.requests(start).count(GET) + tap.requests(start).count(EXISTS) >= 3)
        assert not entering.done()
        await they.delete(PATH)
        me = await within(entering)
        assert await owner(they) == zk.session_id
        await me.__aexit__(None, None, None)
