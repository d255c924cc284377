"""Barriers: a gate that is closed and opened, and members that enter and leave together (B1, B2)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest
from lock_support import Rig

import corral
from client_support import asks_for
from corral.testing import Point, before, committed
from corral.wire import messages
from support import PATIENCE, settle, turns, until, within

Connect = Callable[..., corral.Client]
GATE = "/steps/gate"
STEP = "/steps/one"


async def names(client: corral.Client, path: str = STEP) -> list[str]:
    """What is below a double barrier; nothing if the server has removed it, as it does when it is empty."""
    try:
        return sorted(await client.children(path))
    except corral.NoNode:
        return []


async def until_below(client: corral.Client, count: int, path: str = STEP) -> list[str]:
    """Wait until so many znodes are below a double barrier."""
    found: list[str] = []

    async def there() -> bool:
        found[:] = await names(client, path)
        return len(found) == count

    await until(there, f"{count} below {path}")
    return found


# The barrier


async def test_a_closed_barrier_holds_up_whoever_waits(zk: corral.Client, other: corral.Client) -> None:
    """B1: waiting returns at once while it is open, and when it is opened if it is closed."""
    barrier = zk.barrier(GATE, data=b"maintenance")
    await within(barrier.wait())
    assert not await barrier.is_closed()
    await barrier.close()
    assert await barrier.is_closed()
    assert (await other.get(GATE))[0] == b"maintenance"
    waiting = [asyncio.create_task(client.barrier(GATE).wait()) for client in (zk, zk, other)]
    await turns()
    assert await other.barrier(GATE).is_closed()
    assert not any(task.done() for task in waiting)
    await other.barrier(GATE).open()
    await within(asyncio.gather(*waiting))
    assert not await barrier.is_closed()


async def test_closing_and_opening_twice_changes_nothing(zk: corral.Client, other: corral.Client) -> None:
    """B1: a closed one stays as it is, with its data and its znode; an open one stays open; no mark is left."""
    await zk.barrier(GATE, data=b"first").close()
    _, before = await zk.get(GATE)
    await other.barrier(GATE, data=b"second").close()
    assert await zk.get(GATE) == (b"first", before)
    await zk.barrier(GATE).open()
    await zk.barrier(GATE).open()

    async def no_mark() -> bool:
        return await names(zk, "/steps") == []

    await until(no_mark, "no mark is left")


async def test_a_barrier_outlives_its_client(connect: Connect, other: corral.Client) -> None:
    """B1: whoever has closed it may go, and it stays closed."""
    async with connect() as zk:
        await zk.barrier(GATE).close()
    assert await other.barrier(GATE).is_closed()


@pytest.mark.parametrize("how", ["cut", "reset", "black hole", "expired"])
async def test_a_barrier_that_is_opened_while_we_are_away(rig: Rig, how: str) -> None:
    """B1: after each reconnect, and in each new session, a waiter looks again."""
    await rig.other.barrier(GATE).close()
    waiting = asyncio.create_task(rig.zk.barrier(GATE).wait())
    await rig.tap.seen(lambda: messages.EXISTS in rig.tap.requests())
    async with rig.away(how):
        await rig.other.barrier(GATE).open()
        assert not waiting.done()
    await within(waiting)


@pytest.mark.parametrize("lost", [before, committed], ids=["request", "reply"])
@pytest.mark.parametrize("verb", ["close", "open"])
async def test_a_write_whose_answer_is_lost_is_carried_out_once(
    rig: Rig, verb: str, lost: Callable[..., Point]
) -> None:
    """X1, B1: while we do not know whether we have closed it, somebody opens it: then it is not closed again, if it
    was closed before; and it is closed, if not. The same for opening."""
    await rig.other.create("/steps")
    theirs = rig.other.barrier(GATE)
    if verb == "open":
        await theirs.close()
    async with rig.proxy.refuse(), rig.proxy.cut_at(lost(match=asks_for(messages.MULTI)), reset=True) as cut:
        writing = asyncio.create_task(getattr(rig.zk.barrier(GATE), verb)())
        await within(cut.fired.wait())
        await (theirs.open() if verb == "close" else theirs.close())
        assert not writing.done()
    await within(writing)
    assert await theirs.is_closed() is ((verb == "close") is (lost is before))


# The double barrier


class Floor:
    """Who is inside: each member tells when it has entered, and when it is about to leave."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.begun: Counter[int] = Counter()
        """How many have begun each round."""
        self.ended: Counter[int] = Counter()

    async def visit(self, barrier: corral.DoubleBarrier, number: int, stay: float = 0.0) -> None:
        """Enter, stay and leave, in a round with this number."""
        self.begun[number] += 1
        async with barrier:
            assert self.begun[number] >= self.n, "entered without the others"
            await asyncio.sleep(stay)
            self.ended[number] += 1
        assert self.ended[number] >= self.n, "left before the others"


@pytest.mark.parametrize("n", [1, 2, 5])
async def test_members_enter_together_and_leave_together(
    zk: corral.Client, other: corral.Client, n: int
) -> None:
    """B2: nobody is inside before n members have come, nor outside again before n have ended; nothing is left."""
    floor = Floor(n)
    clients = [zk, other] * n
    visits = []
    for count, client in enumerate(clients[:n]):
        assert len(await until_below(other, count)) == count
        assert not floor.ended
        visits.append(asyncio.create_task(floor.visit(client.double_barrier(STEP, n), 1)))
    await within(asyncio.gather(*visits))
    assert await names(other) == []


@pytest.mark.parametrize("seed", range(4))
async def test_round_after_round(connect: Connect, seed: int) -> None:
    """B2: four members, some of them quick and some slow, stay in step for many rounds, by one object each: nobody is
    a round ahead."""
    chance = random.Random(seed)
    floor = Floor(4)

    async def member(zk: corral.Client) -> None:
        barrier = zk.double_barrier(STEP, 4)
        for number in range(20):
            await floor.visit(barrier, number, chance.choice((0, 0, 0.001, 0.01)))

    async with connect() as one, connect() as two, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for zk in (one, one, two, two):
            group.create_task(member(zk))
    assert floor.ended == dict.fromkeys(range(20), 4)


async def test_n_is_a_threshold(zk: corral.Client, other: corral.Client) -> None:
    """B2: who comes while it is open enters at once; it waits for the others when it leaves, and they do not wait for
    it."""
    one, two, late = (client.double_barrier(STEP, 2) for client in (zk, other, zk))
    await within(asyncio.gather(one.enter(), two.enter()))
    await within(late.enter())
    assert len(await names(other)) == 4
    leaving = asyncio.create_task(late.leave())
    await turns(20)
    assert not leaving.done()
    await within(asyncio.gather(one.leave(), two.leave()))
    await within(leaving)

    again = zk.double_barrier(STEP, 2)
    await within(asyncio.gather(one.enter(), two.enter()))
    await within(again.enter())
    await within(asyncio.gather(one.leave(), two.leave()))
    entering = asyncio.create_task(one.enter())
    await within(entering)  # with the one that is still inside
    await within(asyncio.gather(one.leave(), again.leave()))
    assert await names(other) == []


async def test_other_children_are_not_members(zk: corral.Client, other: corral.Client) -> None:
    """B2: neither the flag nor what has no member's name is counted, or waited for."""
    for name in ("lock", "readiness", "_c_1-lock-0000000001"):
        await other.create(f"{STEP}/{name}", make_parents=True)
    one, two = zk.double_barrier(STEP, 2), other.double_barrier(STEP, 2)
    entering = asyncio.create_task(one.enter())
    await until_below(other, 4)
    await settle(zk)
    assert not entering.done()
    await within(two.enter())
    await within(entering)
    await within(asyncio.gather(one.leave(), two.leave()))
    assert len(await names(other)) == 3


async def test_a_flag_that_is_there_for_a_moment_is_not_missed(rig: Rig) -> None:
    """B2: kazoo's members delete the flag as soon as one of them leaves: whoever was there has entered all the same,
    since its watch was set before its znode."""
    barrier = rig.zk.double_barrier(STEP, 2)
    entering = asyncio.create_task(barrier.enter())
    await until_below(rig.other, 1)
    async with rig.other.transaction() as tx:
        tx.create(f"{STEP}/ready")
        tx.delete(f"{STEP}/ready")
    await within(entering)
    await within(barrier.leave())
    assert await names(rig.other) == []


async def test_a_flag_that_comes_with_the_answer_is_not_missed(rig: Rig) -> None:
    """B2: nor is it, if it is there for a moment while the answer to our create is under way."""
    await rig.other.create(STEP, make_parents=True)
    barrier = rig.zk.double_barrier(STEP, 2)
    async with rig.proxy.black_hole(committed(match=asks_for(messages.CREATE2))) as hole:
        entering = asyncio.create_task(barrier.enter())
        await within(hole.fired.wait())
        await until_below(rig.other, 1)
        await rig.other.create(f"{STEP}/ready")
        await rig.other.delete(f"{STEP}/ready")
    await within(entering)
    await within(barrier.leave())


async def test_a_flag_before_our_time_does_not_count(rig: Rig) -> None:
    """B2: a flag that was created and deleted before our znode existed was for others."""
    await rig.other.create(STEP, make_parents=True)
    barrier = rig.zk.double_barrier(STEP, 2)
    async with rig.proxy.black_hole(before(match=asks_for(messages.CREATE2))) as hole:
        entering = asyncio.create_task(barrier.enter())
        await within(hole.fired.wait())
        await rig.other.create(f"{STEP}/ready")
        await rig.other.delete(f"{STEP}/ready")
    await until_below(rig.other, 1)
    await settle(rig.zk)
    await turns(20)
    assert not entering.done()
    theirs = rig.other.double_barrier(STEP, 2)
    await within(asyncio.gather(theirs.enter(), entering))
    await within(asyncio.gather(theirs.leave(), barrier.leave()))


@pytest.mark.parametrize("crowd", [1, 3])
async def test_a_flag_that_was_left_over_lets_nobody_in(
    zk: corral.Client, other: corral.Client, crowd: int
) -> None:
    """B2: when all members of a round have died, their flag is removed before it counts, however many find it; the
    next round needs n again."""
    await other.create(f"{STEP}/ready", make_parents=True)
    await other.set(STEP, b"data of the parent")
    n = crowd + 1
    early = [asyncio.create_task(zk.double_barrier(STEP, n).enter()) for _ in range(crowd)]

    async def removed() -> bool:
        return "ready" not in await names(other) and len(await names(other)) == crowd

    await until(removed, "the flag is removed")
    await settle(zk)
    assert not any(task.done() for task in early)
    last = asyncio.create_task(other.double_barrier(STEP, n).enter())
    await within(asyncio.gather(last, *early))
    assert (await other.get(STEP))[0] == b"data of the parent"


@pytest.mark.parametrize("how", ["cut", "reset", "black hole", "expired"])
async def test_a_barrier_that_opens_while_we_are_away(rig: Rig, how: str) -> None:
    """B1, B2: after each reconnect a member looks again; in a new session it enters again, and counts once."""
    ours, theirs = rig.zk.double_barrier(STEP, 2), rig.other.double_barrier(STEP, 2)
    entering = asyncio.create_task(ours.enter())
    await until_below(rig.other, 1)
    async with rig.away(how):
        if how == "expired":
            await until_below(rig.other, 0)
        following = asyncio.create_task(theirs.enter())
        await until_below(rig.other, 1 if how == "expired" else 3)
    await within(asyncio.gather(entering, following))
    assert len(await names(rig.other)) == 3
    await within(asyncio.gather(ours.leave(), theirs.leave()))
    assert await names(rig.other) == []


async def test_a_member_whose_znode_is_deleted_enters_again(rig: Rig) -> None:
    """B2: somebody deletes the znode of a member that waits: it comes back, so the round has its n."""
    ours, theirs = rig.zk.double_barrier(STEP, 2), rig.other.double_barrier(STEP, 2)
    entering = asyncio.create_task(ours.enter())
    [first] = await until_below(rig.other, 1)
    await rig.other.delete(f"{STEP}/{first}")

    async def back() -> bool:
        return await names(rig.other) not in ([], [first])

    await until(back, "it is back")
    await within(theirs.enter())
    await within(entering)
    await within(asyncio.gather(ours.leave(), theirs.leave()))


async def test_a_member_that_dies_holds_up_nobody(rig: Rig) -> None:
    """B2: a member whose session expires in the body counts as gone, so the others leave; its own leave waits for
    them, and for nobody else."""
    ours = rig.zk.double_barrier(STEP, 3)
    theirs = [rig.other.double_barrier(STEP, 3) for _ in range(2)]
    entering = asyncio.create_task(ours.enter())
    [mine] = await until_below(rig.other, 1)
    await within(asyncio.gather(entering, *(each.enter() for each in theirs)))
    leaving = [asyncio.create_task(theirs[0].leave())]

    async def dead() -> bool:
        return mine not in await names(rig.other)

    async with rig.away("expired"):
        await until(dead, "its znode is gone")
    leaving.append(asyncio.create_task(ours.leave()))
    await settle(rig.zk)
    await turns(20)
    assert not any(task.done() for task in leaving)
    await within(theirs[1].leave())
    await within(asyncio.gather(*leaving))


LOWEST, HIGHEST = "0" * 8 + "-0000-0000-0000-" + "0" * 12, "f" * 8 + "-ffff-ffff-ffff-" + "f" * 12


@pytest.mark.parametrize("again", [True, False], ids=["the same names", "new names"])
async def test_a_slow_leaver_does_not_wait_for_the_next_round(rig: Rig, again: bool) -> None:
    """B2: while it has not heard yet that the others have left, they enter the next round, for which it is needed:
    it waits for none of them, whatever their names are (Curator's use one for all rounds)."""
    ours, names_now = rig.zk.double_barrier(STEP, 3), (LOWEST, HIGHEST)
    entering = asyncio.create_task(ours.enter())
    await until_below(rig.other, 1)
    for name in names_now:
        await rig.other.create(f"{STEP}/{name}", ephemeral=True)
    await rig.other.create(f"{STEP}/ready")
    await within(entering)
    await rig.other.delete(f"{STEP}/{HIGHEST}")
    leaving = asyncio.create_task(ours.leave())
    await until_below(rig.other, 2)
    await settle(rig.zk)
    async with rig.proxy.black_hole():
        for name in ("ready", LOWEST):
            await rig.other.delete(f"{STEP}/{name}")
        for name in names_now:
            new = name if again else name.replace("-0000-", "-1111-").replace("-ffff-", "-1111-")
            await rig.other.create(f"{STEP}/{new}", ephemeral=True, make_parents=True)
        assert not leaving.done()
    await within(leaving)


async def test_the_lowest_stays_until_the_others_have_gone(zk: corral.Client, other: corral.Client) -> None:
    """B2: kazoo's members wait for the lowest name alone, so it must be the last one; and it takes the flag with it."""
    ours = zk.double_barrier(STEP, 2)
    entering = asyncio.create_task(ours.enter())
    [mine] = await until_below(other, 1)
    await other.create(f"{STEP}/{HIGHEST}", ephemeral=True)
    await other.create(f"{STEP}/ready")
    await within(entering)
    leaving = asyncio.create_task(ours.leave())
    await settle(zk)
    await turns(20)
    assert await names(other) == sorted([mine, HIGHEST, "ready"])
    await other.delete(f"{STEP}/{HIGHEST}")
    await within(leaving)
    assert await names(other) == []


@pytest.mark.parametrize("phase", ["enter", "leave", "body", "failing body"])
async def test_an_own_znode_goes_on_every_way_out(rig: Rig, phase: str) -> None:
    """B1: cancelled in each phase, and when its body raises, it ends without waiting for the others, and its znode goes;
    they need not wait for it."""
    ours, theirs = rig.zk.double_barrier(STEP, 2), rig.other.double_barrier(STEP, 2)
    inside = asyncio.Event()

    async def member() -> None:
        async with ours:
            inside.set()
            if phase == "failing body":
                raise ZeroDivisionError
            if phase == "body":
                await asyncio.Event().wait()

    task = asyncio.create_task(member())
    if phase == "enter":
        await until_below(rig.other, 1)
    else:
        await within(theirs.enter())
        await within(inside.wait())
    if phase != "failing body":
        await settle(rig.zk)
        task.cancel()
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    assert done
    assert task.cancelled() or isinstance(task.exception(), ZeroDivisionError)
    if phase == "enter":
        await until_below(rig.other, 0)
    else:
        await within(theirs.leave())
        assert await names(rig.other) == []
    entering = asyncio.create_task(ours.enter())  # it can be used again
    await within(asyncio.gather(theirs.enter(), entering))
    await within(asyncio.gather(theirs.leave(), ours.leave()))


async def test_a_cancelled_body_does_not_wait_for_a_dead_network(rig: Rig) -> None:
    """B1, S8: whoever cancels a body wants it to end; the znode goes when a server can be reached."""
    inside = asyncio.Event()

    async def member() -> None:
        async with rig.zk.double_barrier(STEP, 1):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(member())
    await within(inside.wait())
    async with rig.proxy.black_hole():
        task.cancel()
        await turns(20)
        assert task.done()
        assert "ready" in await names(rig.other)
    await until_below(rig.other, 1)  # the flag, which counts no more


async def test_misuse_is_refused(zk: corral.Client) -> None:
    """B2: one object is one member: it does not enter twice, nor leave before it has entered; the error names it."""
    barrier = zk.double_barrier(STEP, 1)
    with pytest.raises(corral.UsageStateError, match=f"{STEP}.* is not entered"):
        await barrier.leave()
    await within(barrier.enter())
    assert "entered" in repr(barrier)
    with pytest.raises(corral.UsageStateError, match=f"{STEP}.* is entered"):
        await barrier.enter()
    await within(barrier.leave())
    assert "of 1, not entered" in repr(barrier)
    assert GATE in repr(zk.barrier(GATE))


async def test_what_the_server_refuses_names_the_barrier(zk: corral.Client, other: corral.Client) -> None:
    """B1: an error has the barrier's path, and a refused `open` says what is below."""
    await other.create("/ephemeral", ephemeral=True)
    with pytest.raises(corral.NoChildrenForEphemerals, match="/ephemeral/gate"):
        await within(zk.barrier("/ephemeral/gate").close())
    with pytest.raises(corral.NoChildrenForEphemerals, match="/ephemeral"):
        await within(zk.double_barrier("/ephemeral", 2).enter())
    await zk.barrier("/gate").close()
    await other.create("/gate/below")
    with pytest.raises(corral.NotEmpty, match="open '/gate'"):
        await within(zk.barrier("/gate").open())


async def test_closing_the_client_ends_every_wait(connect: Connect, other: corral.Client) -> None:
    """S5: whoever waits at a barrier, or for the others, gets an error that says so."""
    await other.barrier(GATE).close()
    async with connect() as zk:
        entered = zk.double_barrier("/steps/two", 2)
        await within(asyncio.gather(entered.enter(), other.double_barrier("/steps/two", 2).enter()))
        waits = [zk.barrier(GATE).wait(), zk.double_barrier(STEP, 2).enter(), entered.leave()]
        waiting = [asyncio.create_task(each) for each in waits]
        await until_below(other, 1)
        await settle(zk)
    outcomes = await within(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(each) for each in outcomes] == [corral.ClientClosed] * 3


HOPELESS = {
    "close": (messages.MULTI, GATE, lambda zk: zk.barrier(GATE).close()),
    "open": (messages.MULTI, GATE, lambda zk: zk.barrier(GATE).open()),
    "is_closed": (messages.EXISTS, GATE, lambda zk: zk.barrier(GATE).is_closed()),
    "wait": (messages.EXISTS, GATE, lambda zk: zk.barrier(GATE).wait()),
    "enter, the flag": (messages.EXISTS, STEP, lambda zk: zk.double_barrier(STEP, 1).enter()),
    "enter, the znode": (messages.CREATE2, STEP, lambda zk: zk.double_barrier(STEP, 1).enter()),
    "enter, the members": (messages.CHILDREN2, STEP, lambda zk: zk.double_barrier(STEP, 1).enter()),
    "enter, opening": (messages.MULTI, STEP, lambda zk: zk.double_barrier(STEP, 1).enter()),
}
"""The request that always breaks the connection, what the error names, and the call."""


@pytest.mark.parametrize("what", HOPELESS)
async def test_each_retry_has_a_bound(rig: Rig, what: str) -> None:
    """K2, B1: when each connection breaks on the same request it is given up, the error names the barrier, and no znode
    stays."""
    op, named, call = HOPELESS[what]
    await rig.other.create(STEP, make_parents=True)
    async with rig.proxy.cut_at(before(match=asks_for(op)), times=1000):
        with pytest.raises(corral.ConnectionLoss, match=named) as caught:
            await within(call(rig.zk))
    assert caught.value.is_hopeless
    await until_below(rig.other, 0)


async def test_leaving_has_a_bound(rig: Rig) -> None:
    """K2, B1: the same for leaving, and its znode goes."""
    barrier = rig.zk.double_barrier(STEP, 1)
    await within(barrier.enter())
    async with rig.proxy.cut_at(before(match=asks_for(messages.CHILDREN2)), times=1000):
        with pytest.raises(corral.ConnectionLoss, match=STEP):
            await within(barrier.leave())
    await until_below(rig.other, 1)  # the flag, which counts no more
    await within(barrier.enter())
    await within(barrier.leave())
    assert await names(rig.other) == []
