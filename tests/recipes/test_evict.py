"""Breaking a lock: an operator evicts a holder that hangs. Its next heartbeat finds that out, and the next in
line holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from lock_support import Rig, noted

import corral
from client_support import asks_for
from corral.testing import VirtualLoop, before, committed
from corral.wire.messages import CHILDREN, DELETE, MULTI
from line_kinds import PATH, LineKind, can_evict, every_kind
from support import PATIENCE, block, children, settle, turns, until_line, within

InLine: TypeAlias = "corral.Lock | corral.Election | corral.WriteLock"


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def made_by(kind: LineKind) -> Callable[[corral.Client], InLine]:
    return lambda client: kind.make(client, PATH, data=b"us")  # type: ignore[no-any-return]


def name_of(held: corral.Held) -> str:
    """The name of the held node."""
    return held.node.rpartition("/")[2]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that recipes log."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "corral.recipes" and record.levelname == "WARNING"
    ]


class Body:
    """A task that holds something until it is cancelled."""

    def __init__(self, line: InLine) -> None:
        self.entered: asyncio.Future[corral.Held] = asyncio.get_running_loop().create_future()
        self.told: list[str] = []
        self.told_at = 0.0
        self._line = line
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._line as held:
            self.entered.set_result(held)
            try:
                with noted(self.told, "told"):
                    await forever()
            finally:
                self.told_at = asyncio.get_running_loop().time()
                await turns(20)  # the clean-up may wait: it is not cancelled again

    async def held(self) -> corral.Held:
        """Its `Held`, as soon as it holds."""
        return await within(asyncio.shield(self.entered))


# The holder


@every_kind(can_evict)
async def test_the_holder_is_removed(rig: Rig, kind: LineKind, caplog: pytest.LogCaptureFixture) -> None:
    """L4: the first in line is evicted: the next in line holds, and the evicted body is cancelled once, and
    ends with LockLost. `evict` returns who was evicted, and its client logs it."""
    make = made_by(kind)
    body = Body(make(rig.zk))
    held = await body.held()
    following = asyncio.create_task(make(rig.other).acquire())
    await until_line(rig.other, "/line", 2)
    caplog.clear()
    removed = await make(rig.other).evict()
    assert removed is not None
    assert (removed.name, removed.data) == (name_of(held), b"us")
    assert (removed.stat.czxid, removed.stat.ephemeral_owner) == (held.fencing_token, rig.zk.session_id)
    [warning] = warnings_of(caplog)
    assert warning.startswith(f"{removed.name} was evicted from {make(rig.other).name}: ")
    assert f"0x{rig.zk.session_id:x}" in warning
    second = await within(following)
    assert second.is_valid
    with pytest.raises(corral.LockLost, match="deleted by somebody else"):
        await within(body.task)
    assert body.told == ["told"]
    assert not held.is_valid
    assert await children(rig.other, "/line") == [name_of(second)]
    await second.release()


async def test_the_next_in_line_holds_at_once(rig: Rig) -> None:
    """L1: the next in line does not wait until the evicted holder was notified: the deletion itself wakes
    it."""
    held = await rig.zk.lock("/line").acquire()
    async with rig.proxy.black_hole():  # nothing can notify the evicted holder
        following = asyncio.create_task(rig.other.lock("/line").acquire())
        await until_line(rig.other, "/line", 2)
        assert held.is_valid
        await rig.other.lock("/line").evict()
        second = await within(following)
        assert second.fencing_token > held.fencing_token
    await within(held.wait_lost())
    await second.release()


async def test_it_is_told_by_its_next_heartbeat(rig: Rig) -> None:
    """S3, L4: the evicted holder learns of it from the first heartbeat that it sends afterwards, at most a
    sixth of its session timeout later. In virtual time this is measured exactly."""
    loop = asyncio.get_running_loop()
    for _ in range(3):
        body = Body(rig.zk.lock("/line"))
        await body.held()
        start, evicted = len(rig.tap.messages), loop.time()
        await rig.other.lock("/line").evict()
        with pytest.raises(corral.LockLost):
            await within(body.task)
        assert rig.tap.requests(start, ours=False).count(MULTI) <= 2  # one may have been in flight before
        if isinstance(loop, VirtualLoop):
            assert 0 < body.told_at - evicted <= rig.zk.session_timeout / 6 + 1e-6
            await asyncio.sleep(0.1)  # the next one at another point of the heartbeat period


async def test_until_then_both_act_and_the_server_knows(rig: Rig) -> None:
    """L5: until it is notified, the evicted holder believes that it holds. Its fencing token is smaller than
    the new holder's, and its guarded transactions are not applied."""
    await rig.other.create("/data", b"old")
    held = await rig.zk.lock("/line").acquire()
    following = asyncio.create_task(rig.other.lock("/line").acquire())
    await until_line(rig.other, "/line", 2)
    # The evicted task does not run until this task waits for something else than the observer's connection.
    async with rig.proxy.black_hole(replies=False):
        await rig.other.lock("/line").evict()
        second = await within(following)
        assert held.is_valid
        assert held.fencing_token < second.fencing_token
        late = held.transaction()
        late.set("/data", b"late")
        committing = asyncio.create_task(late.commit())
        await turns()
    with pytest.raises(corral.LockLost):
        await within(committing)
    async with second.transaction() as tx:
        tx.set("/data", b"new")
    assert (await rig.other.get("/data"))[0] == b"new"
    assert isinstance(await within(held.wait_lost()), corral.LockLost)
    await second.release()


async def test_one_that_hangs(rig: Rig) -> None:
    """A holder that hangs, and does not even clean up when it is cancelled, no longer blocks others: they
    acquire and release. It ends with LockLost whenever it ends, and its late release affects nobody."""
    hanging, told, end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        async with rig.zk.lock("/line"):
            hanging.set()
            while not end.is_set():
                try:
                    await end.wait()
                except asyncio.CancelledError:
                    told.set()

    task = asyncio.create_task(hang())
    await within(hanging.wait())
    await rig.other.lock("/line").evict()
    for client in (rig.other, rig.zk):
        async with asyncio.timeout(PATIENCE), client.lock("/line"):
            pass
    await within(told.wait())
    async with rig.other.lock("/line") as held:
        end.set()
        with pytest.raises(corral.LockLost):
            await within(task)
        await settle(rig.zk)
        assert await children(rig.other, "/line") == [name_of(held)]


async def test_one_whose_event_loop_is_blocked(rig: Rig) -> None:
    """S9: a holder whose event loop is blocked when it is evicted is notified when the loop runs again."""
    body = Body(rig.zk.lock("/line"))
    held = await body.held()
    await rig.other.lock("/line").evict()
    block(rig.zk.session_timeout / 3)
    with pytest.raises(corral.LockLost):
        await within(body.task)
    assert body.told == ["told"]
    assert not held.is_valid


async def test_ones_own(zk: corral.Client, other: corral.Client) -> None:
    """A client may evict itself, and is notified like any other."""
    body = Body(zk.lock("/line"))
    held = await body.held()
    removed = await zk.lock("/line").evict()
    assert removed is not None
    assert removed.name == name_of(held)
    with pytest.raises(corral.LockLost):
        await within(body.task)
    assert await children(other, "/line") == []


async def test_a_leader_in_a_campaign(rig: Rig) -> None:
    """A leader that is evicted becomes a candidate again, at the end of the line."""
    led: list[corral.Held] = []
    leads = asyncio.Event()

    async def lead(held: corral.Held) -> str:
        led.append(held)
        leads.set()
        if len(led) == 1:
            await forever()
        return "a result"

    campaign = asyncio.create_task(rig.zk.election("/line").run(lead))
    await within(leads.wait())
    following = asyncio.create_task(rig.other.election("/line").acquire())
    await until_line(rig.other, "/line", 2)
    removed = await rig.other.election("/line").evict()
    assert removed is not None
    assert removed.name == name_of(led[0])
    second = await within(following)
    await until_line(rig.other, "/line", 2)  # ours has joined again
    assert len(led) == 1
    await second.release()
    assert await within(campaign) == "a result"


# Nobody, or another contender


@pytest.mark.parametrize("parent", [False, True])
@every_kind(can_evict)
async def test_nobody(
    zk: corral.Client, kind: LineKind, parent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If the line is empty, None is returned and nothing is logged. Children with other names do not
    count."""
    if parent:
        await zk.create("/line/readme", make_parents=True)
    assert await made_by(kind)(zk).evict() is None
    assert warnings_of(caplog) == []
    if parent:
        assert await children(zk, "/line") == ["readme"]


@every_kind(can_evict)
async def test_a_given_contender(rig: Rig, kind: LineKind, caplog: pytest.LogCaptureFixture) -> None:
    """A contender given as an argument is evicted, wherever it is in line. The holder and the order of the
    others are not affected. The evicted contender joins again, at the end."""
    make = made_by(kind)
    order: list[str] = []

    async def wait(line: InLine, name: str) -> None:
        async with line:
            order.append(name)

    held = await make(rig.other).acquire()
    tasks = []
    for place, name in enumerate(("first", "second", "third")):
        tasks.append(asyncio.create_task(wait(make(rig.zk), name)))
        await until_line(rig.other, "/line", place + 2)
    line = make(rig.other)
    victim = (await line.contenders())[2]
    removed = await line.evict(victim)
    assert removed == victim
    assert len(warnings_of(caplog)) == 1
    assert victim.name in warnings_of(caplog)[0]
    assert held.is_valid
    assert victim.name not in await children(rig.other, "/line")
    await held.release()
    await within(asyncio.gather(*tasks))
    assert order == ["first", "third", "second"]
    await settle(rig.zk)
    assert await children(rig.other, "/line") == []


@every_kind(can_evict)
async def test_the_one_behind_the_holder(rig: Rig, kind: LineKind) -> None:
    """L1: if the next in line was evicted, it does not hold when the holder releases. The one behind it does,
    alone, and the evicted contender joins again, at the end."""
    make = made_by(kind)
    held = await make(rig.other).acquire()
    waiter = asyncio.create_task(make(rig.zk).acquire())
    await until_line(rig.other, "/line", 2)
    following = asyncio.create_task(make(rig.other).acquire())
    await until_line(rig.other, "/line", 3)
    line = make(rig.other)
    assert await line.evict((await line.contenders())[1]) is not None
    await settle(
        rig.zk
    )  # a write, so that its lease is long: otherwise it would prove its session, and so its node, first
    await held.release()
    second = await within(following)
    names = await until_line(rig.other, "/line", 2)
    assert names[0] == name_of(second)
    assert not waiter.done()
    await second.release()
    third = await within(waiter)
    assert name_of(third) == names[1]
    await third.release()


async def test_one_that_has_gone(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """If the given contender has left, or was evicted already, None is returned and nothing is logged.
    Whoever has its position now is not affected."""
    line = other.lock("/line")
    first = await zk.lock("/line").acquire()
    [gone] = await line.contenders()
    await first.release()
    held = await zk.lock("/line").acquire()
    for _ in range(2):
        assert await line.evict(gone) is None
    assert warnings_of(caplog) == []
    [victim] = await line.contenders()
    assert victim.name == name_of(held)
    assert await line.evict(victim) == victim
    assert await line.evict(victim) is None
    assert len(warnings_of(caplog)) == 1


async def test_a_holder_that_leaves_meanwhile(rig: Rig) -> None:
    """If the first in line leaves while it is being evicted, nobody is evicted: not the next one either,
    which the operator has not seen."""
    held = await rig.other.lock("/line").acquire()
    async with rig.proxy.black_hole(before(match=asks_for(DELETE))) as hole:
        evicting = asyncio.create_task(rig.zk.lock("/line").evict())
        await within(hole.fired.wait())
        await held.release()
        second = await within(rig.other.lock("/line").acquire())
    assert await within(evicting) is None
    assert await children(rig.other, "/line") == [name_of(second)]
    assert second.is_valid
    await second.release()


async def test_not_allowed(zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture) -> None:
    """An operator without the permission in the line's ACL gets NoAuth, and nothing changes."""
    perms = corral.Perm.ALL & ~corral.Perm.DELETE
    await zk.create("/line", acl=[corral.Acl(perms, "world", "anyone")])
    node = await zk.create("/line/_c_1-lock-", ephemeral=True, sequential=True)
    with pytest.raises(corral.NoAuth, match="_c_1-lock-0000000000"):
        await other.lock("/line").evict()
    assert warnings_of(caplog) == []
    assert await zk.exists(node) is not None


# Failures on the operator's side


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("operation", [CHILDREN, DELETE], ids=["list", "delete"])
async def test_a_lost_message(rig: Rig, operation: Any, lost: str, given: bool) -> None:
    """S2: whichever message is lost, before or after the server handled it, even twice: the contender is
    evicted, the operator is told which one it was, and nobody else is evicted."""
    body = Body(rig.other.lock("/line"))
    held = await body.held()
    following = asyncio.create_task(rig.other.lock("/line").acquire())
    await until_line(rig.other, "/line", 2)
    line = rig.zk.lock("/line")
    contender = (await line.contenders())[0] if given else None
    lose = before if lost == "request" else committed
    times = 1 if operation is CHILDREN else 2  # a read that is lost twice may fail
    async with rig.proxy.cut_at(lose(match=asks_for(operation)), reset=True, times=times) as loss:
        removed = await within(line.evict(contender))
        assert loss.fired.is_set() == (operation is DELETE or not given)
    assert removed is not None
    assert removed.name == name_of(held)
    second = await within(following)
    with pytest.raises(corral.LockLost):
        await within(body.task)
    assert await children(rig.other, "/line") == [name_of(second)]
    assert second.is_valid
    await second.release()


async def test_the_operators_session_ends(rig: Rig) -> None:
    """S2: an operator whose session has expired evicts nevertheless, since the node does not belong to its
    session."""
    held = await rig.other.lock("/line").acquire()
    session = rig.zk.session_id
    async with rig.proxy.refuse():
        await rig.proxy.cut()
        evicting = asyncio.create_task(rig.zk.lock("/line").evict())
        await turns()
        await rig.proxy.expire(session)
    removed = await within(evicting)
    assert removed is not None
    assert removed.name == name_of(held)
    assert rig.zk.session_id != session
    assert isinstance(await within(held.wait_lost()), corral.LockLost)


async def test_a_closed_client(rig: Rig) -> None:
    """S5: a closed client evicts nobody, and raises."""
    async with rig.other.lock("/line") as held:
        await rig.zk.close()
        with pytest.raises(corral.ClientClosed):
            await rig.zk.lock("/line").evict()
        assert await children(rig.other, "/line") == [name_of(held)]
