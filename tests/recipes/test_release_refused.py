"""L6: if the server refuses a release, the error is raised, the lock is still held, and the release can be
repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

import corral
from corral.testing import FaultProxy
from line_kinds import LineKind, every_kind, is_single
from support import children, settle, turns, until_line, within

P = corral.Perm
BOSS = ("digest", b"boss:secret")
NO_DELETE = corral.acl.digest("boss", "secret") + corral.acl.world(P.CREATE | P.READ | P.WRITE)
MENDED = corral.acl.digest("boss", "secret") + corral.acl.world(P.CREATE | P.READ | P.WRITE | P.DELETE)


@pytest.fixture
async def boss(connect: Callable[..., corral.Client]) -> AsyncIterator[corral.Client]:
    """The client that can change the ACL of /it, below which no other may delete, and of /it/leases."""
    async with connect(auth=[BOSS]) as client:
        await client.create("/it", acl=NO_DELETE)
        await client.create("/it/locks")
        await client.create("/it/leases", acl=NO_DELETE)
        yield client
        for path in ("/it/leases", "/it"):
            await client.set_acl(path, corral.acl.OPEN)


async def mend(boss: corral.Client) -> None:
    for path in ("/it/leases", "/it"):
        await boss.set_acl(path, MENDED)


def line_of(kind: LineKind) -> str:
    return "/it" + kind.lines[-1].below


async def nodes(boss: corral.Client, line: str) -> int:
    return len([name for name in await children(boss, line) if name[-1].isdigit()])


@every_kind(is_single)
async def test_a_refused_release(
    zk: corral.Client, boss: corral.Client, kind: LineKind, caplog: pytest.LogCaptureFixture
) -> None:
    """L6: the refusal is raised, with the path and the permission. The hold is as before, and once the ACL is
    changed it can be released, also through the object."""
    made = kind.make(zk, "/it")
    held = await made.acquire()
    for release in (held.release, made.release):
        with pytest.raises(
            corral.NoAuth, match=rf"release '/it': .* grant DELETE on '{line_of(kind)}'"
        ) as failure:
            await within(release())
        assert failure.value.operation == "release"
        assert failure.value.path == "/it"
        assert held.is_valid
        assert "held" in repr(held)
    assert held.node in caplog.text
    async with held.transaction() as guarded:
        guarded.set("/it/locks", b"")
    assert await nodes(boss, line_of(kind)) == 1
    await mend(boss)
    await within(made.release())
    assert not held.is_valid
    assert await held.wait_lost() is None
    assert await nodes(boss, line_of(kind)) == 0


async def test_it_stays_registered(
    connect: Callable[..., corral.Client], proxy: FaultProxy, boss: corral.Client
) -> None:
    """L4, L6: what could not be released is still checked by heartbeats, and its loss is reported."""
    async with connect(proxy.address, session_timeout=2.0) as zk:
        held = await zk.lock("/it").acquire()
        with pytest.raises(corral.NoAuth):
            await held.release()
        assert held.is_valid
        [name] = [name for name in await children(boss, "/it") if name[-1].isdigit()]
        await boss.delete(f"/it/{name}")
        assert isinstance(await within(held.wait_lost()), corral.LockLost)
        await held.release()


@pytest.mark.parametrize("way", ["object", "held"])
async def test_leaving_the_block(zk: corral.Client, boss: corral.Client, way: str) -> None:
    """L6: if the body has ended normally, leaving raises the refusal; the release can be repeated."""
    lock = zk.lock("/it")
    with pytest.raises(corral.NoAuth, match="grant DELETE"):
        async with lock if way == "object" else await lock.acquire() as held:
            pass
    assert held.is_valid
    with pytest.raises(corral.AlreadyHeld):  # it is still ours, and we would wait for it
        await within(lock.acquire())
    await mend(boss)
    await held.release()
    async with asyncio.timeout(30), lock:
        pass


@pytest.mark.parametrize("end", ["error", "cancelled"])
async def test_leaving_a_body_that_raises(
    zk: corral.Client, boss: corral.Client, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """L6: the body's own exception is raised, and a warning with the node's name is logged. An error has a
    note as well; a cancellation has none, since leaving a cancelled body does not wait."""
    error: BaseException = ValueError("the body's") if end == "error" else asyncio.CancelledError()
    with pytest.raises(type(error)) as failure:
        async with zk.lock("/it") as held:
            raise error
    assert failure.value is error
    if end == "error":
        assert "release '/it'" in "".join(error.__notes__)
    await settle(zk)
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert held.node in warning.getMessage()
    assert held.is_valid


async def test_two_who_wait_for_one_release(zk: corral.Client, boss: corral.Client) -> None:
    """L6: each caller that waits for a release gets the refusal, as an error of its own."""
    held = await zk.lock("/it").acquire()
    results = await within(asyncio.gather(held.release(), held.release(), return_exceptions=True))
    assert [type(each) for each in results] == [corral.NoAuth, corral.NoAuth]
    assert results[0] is not results[1]


async def test_several_locks(zk: corral.Client, boss: corral.Client) -> None:
    """L6: of several locks the others are released, and the refusal is raised."""
    lock = zk.multi_lock(["/a", "/it", "/z"])
    held = await lock.acquire()
    with pytest.raises(corral.NoAuth, match="release '/it'"):
        await lock.release()
    assert [each.is_valid for each in held] == [False, True, False]
    await mend(boss)
    await lock.release()
    with pytest.raises(corral.NoAuth, match="release '/it'"):
        async with lock as held:
            await boss.set_acl("/it", NO_DELETE)
    assert [each.is_valid for each in held] == [False, True, False]


async def test_nobody_waits(
    zk: corral.Client, other: corral.Client, boss: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """L3: if the node of a cancelled waiter may not be deleted, a warning with its name is logged."""
    held = await other.lock("/it").acquire()
    waiter = asyncio.create_task(zk.lock("/it").acquire())
    names = await until_line(boss, "/it", 4)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await settle(zk)
    own = next(name for name in names if name[-1].isdigit() and not held.node.endswith(name))
    assert own in caplog.text


async def test_a_downgrade_is_refused_while_it_is_released(
    connect: Callable[..., corral.Client], proxy: FaultProxy, boss: corral.Client
) -> None:
    """L6: a release after a downgrade that is refused deletes the writer's node, which is the one that
    exists."""
    async with connect(proxy.address) as zk:
        held = await zk.rwlock("/it").write().acquire()
        async with proxy.black_hole():
            downgrade = asyncio.create_task(held.downgrade())
            release = asyncio.create_task(held.release())
            await turns()
        results = await within(asyncio.gather(downgrade, release, return_exceptions=True))
        assert [type(each) for each in results] == [corral.NoAuth, corral.NoAuth]
        assert held.is_valid
        await mend(boss)
        await within(held.release())
        assert await nodes(boss, "/it") == 0
