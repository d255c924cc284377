"""Read/write locks: readers share, writers exclude, first come, first served; the downgrade; node names (L1
to L10)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Iterator

import pytest
from lock_support import WAYS_TO_LOSE, Rig, ended

import corral
from corral.testing import EmbeddedServer, Message, MessageKind, before, committed
from support import PATIENCE, block, children, turns, until, until_line, within

Connect = Callable[..., corral.Client]

NAME = re.compile(r"_c_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-__(READ|WRIT)__(\d{10})")
MOST = 2**31 - 1


def sides(line: list[str]) -> str:
    """The sides in a line: "WRW" for a writer, a reader and a writer."""
    return "".join("R" if "__READ__" in name or "__rlock__" in name else "W" for name in line)


async def start(side: corral.ReadLock | corral.WriteLock, length: int) -> asyncio.Task[corral.Held]:
    """Begin to acquire; returns when the line has this length."""
    task: asyncio.Task[corral.Held] = asyncio.create_task(side.acquire())

    async def is_so_long() -> bool:
        return len(await side.contenders()) == length

    await until(is_so_long, f"the line has {length} contenders")
    return task


# Sharing and excluding


async def test_readers_share(zk: corral.Client, other: corral.Client) -> None:
    """L1: any number of readers hold it together, in one client and in several."""
    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(other.rwlock("/rw").read())]
        readers = [asyncio.create_task(zk.rwlock("/rw").read().acquire()) for _ in range(5)]
        held += await asyncio.gather(*readers)
        assert all(each.is_valid for each in held)
        assert sides(await children(zk, "/rw")) == "RRRRRR"
        for each in held[1:]:
            await each.release()


async def test_a_writer_excludes_everybody(zk: corral.Client, other: corral.Client) -> None:
    """L1: while a writer holds it nobody else does, and a writer waits for every reader ahead."""
    async with other.rwlock("/rw").write():
        assert await zk.rwlock("/rw").read().try_acquire() is None
        assert await zk.rwlock("/rw").write().try_acquire() is None
    readers = [await (await start(other.rwlock("/rw").read(), 1 + n)) for n in range(2)]
    assert await zk.rwlock("/rw").write().try_acquire() is None
    writing = await start(zk.rwlock("/rw").write(), 3)
    await readers[0].release()
    await until_line(zk, "/rw", 2)
    await zk.sync()
    await turns()
    assert not writing.done()
    await readers[1].release()
    await (await within(writing)).release()


async def test_first_come_first_served(zk: corral.Client, other: corral.Client) -> None:
    """L1: a reader behind a waiting writer waits, too, so that no writer starves; the readers between two
    writers acquire together."""
    first = await other.rwlock("/rw").read().acquire()
    writer = await start(zk.rwlock("/rw").write(), 2)
    readers = [await start(client.rwlock("/rw").read(), 3 + n) for n, client in enumerate((zk, other))]
    last = await start(other.rwlock("/rw").write(), 5)
    assert await zk.rwlock("/rw").read().try_acquire() is None
    await turns()
    assert not any(task.done() for task in (writer, *readers, last))
    await first.release()
    held = await within(writer)
    await turns()
    assert not any(task.done() for task in (*readers, last))
    await held.release()
    both = [await within(reader) for reader in readers]
    await turns()
    assert not last.done()
    for each in both:
        await each.release()
    await (await within(last)).release()


async def test_exclusion_in_a_crowd(connect: Connect) -> None:
    """L1: with many that read, write and downgrade at random, across several clients, no writer holds it
    together with anybody else."""
    rng = random.Random(7)
    inside: list[str] = []
    done = {"R": 0, "W": 0, "D": 0}

    @contextlib.contextmanager
    def being(what: str) -> Iterator[None]:
        inside.append(what)
        assert inside == ["W"] or "W" not in inside, inside
        yield
        inside.remove(what)

    async def go(client: corral.Client) -> None:
        rw = client.rwlock("/rw")
        for _ in range(6):
            what = rng.choice("RRWD")
            async with rw.read() if what == "R" else rw.write() as held:
                with being("R" if what == "R" else "W"):
                    await turns(rng.randrange(5))
                if isinstance(held, corral.HeldWrite) and what == "D":
                    await held.downgrade()
                    with being("R"):
                        await client.sync()
            done[what] += 1

    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect()) for _ in range(3)]
        await asyncio.gather(*(go(client) for client in clients for _ in range(4)))
    assert min(done.values()) > 3
    assert sum(done.values()) == 72


async def test_a_wake_up_is_for_one(rig: Rig) -> None:
    """L1: a waiting writer watches the nearest node ahead, a reader the nearest writer: each gets one event,
    whatever else joins or leaves."""
    ahead = await rig.other.rwlock("/rw").write().acquire()
    reader = await start(rig.zk.rwlock("/rw").read(), 2)
    passing = [await start(rig.other.rwlock("/rw").read(), 3 + n) for n in range(3)]
    await ahead.release()
    held = await within(reader)
    for task in passing:
        await (await within(task)).release()
    await rig.zk.sync()
    assert [event.path.rpartition("/")[2][-18:-10] for event in rig.tap.events()] == ["__WRIT__"]
    await held.release()


# One task


@pytest.mark.parametrize(
    ("first", "second", "remedy"),
    [
        ("read", "write", "not re-entrant"),
        ("write", "read", r"downgrade\(\)"),
        ("read", "read", "not re-entrant"),
        ("write", "write", "not re-entrant"),
    ],
)
async def test_no_task_waits_for_itself(zk: corral.Client, first: str, second: str, remedy: str) -> None:
    """L7: a task that holds either side gets an error for either, with the remedy: an upgrade is an error,
    not a deadlock. Another object, and a chroot, make no difference."""
    async with getattr(zk.rwlock("/d/rw"), first)():
        for rw in (zk.rwlock("/d/rw"), zk.chroot("/d").rwlock("/rw")):
            for way in ("acquire", "try_acquire"):
                with pytest.raises(corral.AlreadyHeld, match=remedy):
                    await getattr(getattr(rw, second)(), way)()
    async with asyncio.timeout(PATIENCE), getattr(zk.rwlock("/d/rw"), second)():
        pass


async def test_a_lock_on_the_path_is_another_line(zk: corral.Client) -> None:
    """L8, L10: the nodes of a lock and of a read/write lock at one path are not in each other's line."""
    async with zk.rwlock("/rw").write():
        names = await children(zk, "/rw")
        assert await zk.lock("/rw").contenders() == []
        assert [each.name for each in await zk.rwlock("/rw").contenders()] == names


async def test_reprs_and_names(zk: corral.Client) -> None:
    """The names of the sides in messages and reprs."""
    rw = zk.rwlock("/rw")
    assert repr(rw) == "<RWLock '/rw'>"
    assert repr(rw.read()) == "<ReadLock '/rw', not acquired>"
    async with rw.write() as held:
        assert held.name == "write lock '/rw'"
        assert repr(held) == f"<HeldWrite write lock '/rw', held, fencing_token={held.fencing_token}>"
    with pytest.raises(corral.UsageStateError, match="read lock '/rw' is not acquired"):
        await rw.read().release()
    with pytest.raises(corral.UsageValueError, match="layout must be 'curator' or 'kazoo', not 'redis'"):
        zk.rwlock("/rw", layout="redis")  # type: ignore[arg-type]


async def test_what_does_not_exclude_is_no_error(zk: corral.Client) -> None:
    """L7: a task may hold nodes of different lines at one path."""
    async with asyncio.timeout(PATIENCE), zk.election("/x"), zk.lock("/x"), zk.rwlock("/x").write():
        async with zk.semaphore("/x", 1), zk.rwlock("/x", layout="kazoo").read():
            pass
        with pytest.raises(corral.AlreadyHeld):
            await zk.election("/x").try_acquire()


async def test_it_was_lost_before_it_was_entered(rig: Rig) -> None:
    """S9: after a blocked loop, a body that has lost its lock by the clock does not start."""
    held = await rig.zk.lock("/lock").acquire()
    block(rig.zk.session_timeout * 1.1)
    with pytest.raises(corral.LockLost):
        async with held:
            pytest.fail("entered")


# Losing it


@pytest.mark.parametrize("how", WAYS_TO_LOSE)
@pytest.mark.parametrize("side", ["read", "write", "downgraded"])
async def test_the_body_is_told_of_a_loss(rig: Rig, side: str, how: str) -> None:
    """L4: whichever side is held, and after a downgrade, the body is cancelled when it is lost."""

    async def hold() -> None:
        rw = rig.zk.rwlock("/rw")
        async with rw.read() if side == "read" else rw.write() as held:
            if isinstance(held, corral.HeldWrite) and side == "downgraded":
                await held.downgrade()
            held_node.set_result(held.node)
            await asyncio.Event().wait()

    held_node: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    holding = asyncio.create_task(hold())
    node = (await within(held_node)).rpartition("/")[2]
    async with rig.losing(how, f"/rw/{node}"):
        await ended(holding)
    assert isinstance(holding.exception(), corral.LockLost)
    await until_line(rig.other, "/rw", 0)


# The downgrade


def exchanges(message: Message) -> bool:
    """Whether this is the transaction that exchanges a writer's node for a reader's."""
    return (
        message.kind is MessageKind.REQUEST
        and message.operation == "transaction"
        and b"__READ__" in message.body
    )


async def test_a_downgrade_lets_readers_in_and_no_writer(zk: corral.Client, other: corral.Client) -> None:
    """As Curator has done since CURATOR-621: new readers may share it, unless they are behind a waiting
    writer. The waiting writer acquires when the last of those ahead has released."""
    async with zk.rwlock("/rw", data=b"me").write() as held:
        token, node = held.fencing_token, held.node
        waiting = await start(other.rwlock("/rw").write(), 2)
        behind = await start(other.rwlock("/rw").read(), 3)
        assert not held.is_downgraded
        await held.downgrade()
        assert held.is_downgraded
        assert held.node == node.replace("__WRIT__", "__READ__")
        assert held.fencing_token == token
        found = await other.rwlock("/rw").contenders()
        assert sides([each.name for each in found]) == "RWR"
        assert found[0].data == b"me"
        assert await other.rwlock("/rw").write().try_acquire() is None
        await other.sync()
        await turns()
        assert held.is_valid
        assert not waiting.done()
        assert not behind.done()  # its turn comes after the writer's
        async with held.transaction() as tx:
            tx.create("/proof")
    later = await within(waiting)
    assert later.fencing_token > token
    await later.release()
    await (await within(behind)).release()
    assert await children(other, "/rw") == []


async def test_readers_come_in_after_a_downgrade(zk: corral.Client, other: corral.Client) -> None:
    """A reader that waits only for the writer acquires with the downgrade."""
    async with zk.rwlock("/rw").write() as held:
        reading = await start(other.rwlock("/rw").read(), 2)
        await held.downgrade()
        theirs = await within(reading)
        assert held.is_valid
        await theirs.release()


async def test_downgraded_a_task_may_not_read_twice(zk: corral.Client) -> None:
    """L7: after a downgrade the task holds the read lock: a second read lock is refused, since the task would
    wait for itself."""
    async with zk.rwlock("/rw").write() as held:
        await held.downgrade()
        with pytest.raises(corral.AlreadyHeld, match="not re-entrant"):
            await zk.rwlock("/rw").read().acquire()
        with pytest.raises(corral.UsageStateError, match="downgraded already"):
            await held.downgrade()
    released = await zk.rwlock("/rw").write().acquire()
    await released.release()
    with pytest.raises(corral.UsageStateError, match="not held"):
        await released.downgrade()


async def test_there_is_no_downgrade_in_kazoos_layout(zk: corral.Client) -> None:
    """kazoo's layout has no downgrade: a clear error is raised, and the write lock is still held."""
    async with zk.rwlock("/rw", layout="kazoo").write() as held:
        with pytest.raises(corral.UsageStateError, match="its layout has none"):
            await held.downgrade()
        assert held.is_valid
        assert re.fullmatch(r"[0-9a-f]{32}__lock__\d{10}", held.node.rpartition("/")[2])
    async with zk.rwlock("/rw", layout="kazoo").read() as held_to_read:
        assert re.fullmatch(r"[0-9a-f]{32}__rlock__\d{10}", held_to_read.node.rpartition("/")[2])


async def test_there_is_no_downgrade_where_the_numbers_have_run_out() -> None:
    """L10: after 2^31 - 1 numbers repeat, and would not identify a place in line: a downgrade is refused."""
    async with EmbeddedServer() as server, corral.connect(server.address) as zk:
        await zk.create("/rw")
        node = server.zookeeper.tree.find("/rw")
        assert node is not None
        node.creations = MOST
        async with zk.rwlock("/rw").write() as held:
            with pytest.raises(corral.UsageStateError, match="have run out"):
                await held.downgrade()
            assert held.is_valid


async def test_a_downgrade_that_is_refused(zk: corral.Client, other: corral.Client) -> None:
    """A refusal by the server is raised, and the write lock is still held."""
    async with zk.rwlock("/rw").write() as held:
        await other.set_acl("/rw", corral.acl.world(corral.Perm.READ | corral.Perm.DELETE))
        with pytest.raises(corral.NoAuth):
            await held.downgrade()
        assert held.is_valid
        assert "__WRIT__" in held.node
        assert sides(await children(other, "/rw")) == "W"
        assert await other.rwlock("/rw").contenders()
    assert await children(other, "/rw") == []


async def test_a_downgrade_of_what_somebody_has_deleted(rig: Rig) -> None:
    """L4, L5: if its node was deleted, a downgrade creates no new one, and raises LockLost."""

    async def hold() -> None:
        async with rig.zk.rwlock("/rw").write() as held:
            await rig.other.delete("/rw/" + held.node.rpartition("/")[2])
            await held.downgrade()

    with pytest.raises(corral.LockLost):
        await within(hold())
    assert await children(rig.other, "/rw") == []


@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("then", ["held", "released", "lost", "released at once"])
async def test_a_downgrade_whose_message_is_lost(rig: Rig, lost: str, then: str) -> None:
    """S2, L6: whether the answer or the request is lost, in the end exactly one node of ours exists, the
    reader's; or none, if the lock was released, or lost, before the outcome was known."""
    held = await rig.zk.rwlock("/rw").write().acquire()
    waiting = await start(rig.other.rwlock("/rw").write(), 2)
    lose = before if lost == "request" else committed
    async with rig.proxy.refuse(), rig.proxy.cut_at(lose(match=exchanges), reset=True) as cut:
        downgrading = asyncio.create_task(held.downgrade())
        if then == "released at once":
            await turns(1)
            releasing = asyncio.create_task(held.release())
        async with asyncio.timeout(PATIENCE):
            await cut.fired.wait()
        await until(lambda: _is(rig.zk, corral.State.SUSPENDED, corral.State.LAPSED), "the client knows")
        assert then == "released at once" or not waiting.done()  # it may have been applied
        if then == "released":
            releasing = asyncio.create_task(held.release())
            await turns()
        elif then == "lost":
            await within(held.wait_lost())
    if then == "held":
        await within(downgrading)
        assert held.is_valid
        assert sides(await children(rig.other, "/rw")) == "RW"
        assert not waiting.done()
        await held.release()
    else:
        await ended(downgrading)
        expected = corral.LockLost if then == "lost" else corral.UsageStateError
        assert isinstance(downgrading.exception(), expected)
        if then != "lost":
            await within(releasing)
    await (await within(waiting)).release()
    await until_line(rig.other, "/rw", 0)


async def _is(zk: corral.Client, *states: corral.State) -> bool:
    return zk.state in states


async def test_a_downgrade_that_is_refused_when_it_was_let_go(rig: Rig) -> None:
    """L6: if it is released while a downgrade is in flight that the server refuses, no node is left."""
    held = await rig.zk.rwlock("/rw").write().acquire()
    await rig.other.set_acl("/rw", corral.acl.world(corral.Perm.READ | corral.Perm.DELETE))
    async with rig.proxy.black_hole():
        downgrading = asyncio.create_task(held.downgrade())
        await turns()
        releasing = asyncio.create_task(held.release())
        await turns()
    await within(releasing)
    await ended(downgrading)
    assert isinstance(downgrading.exception(), corral.NoAuth)
    await until_line(rig.other, "/rw", 0)
    assert rig.zk.state is corral.State.CONNECTED


async def test_a_release_that_overtakes_a_downgrade(rig: Rig) -> None:
    """L6: if it is released while the downgrade is in flight and there is no room to send the release, no
    node is left when the connection is lost. A request that is sent again goes after those that were not sent
    yet."""
    held = await rig.zk.rwlock("/rw").write().acquire()
    async with rig.proxy.black_hole(before(match=exchanges)) as hole:
        downgrading = asyncio.create_task(held.downgrade())
        async with asyncio.timeout(PATIENCE):
            await hole.fired.wait()
        reads = [asyncio.create_task(rig.zk.exists("/")) for _ in range(1500)]
        await turns()
        releasing = asyncio.create_task(held.release())
        await turns()
        await rig.proxy.cut()
    await within(asyncio.gather(*reads))
    await within(releasing)
    with pytest.raises(corral.UsageStateError, match="released meanwhile"):
        await within(downgrading)
    await until_line(rig.other, "/rw", 0)
    assert rig.zk.state is corral.State.CONNECTED


async def test_a_downgrade_is_waited_for_again(rig: Rig) -> None:
    """If a downgrade is cancelled while in flight, another call waits for it."""
    async with rig.zk.rwlock("/rw").write() as held:
        async with rig.proxy.black_hole():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await held.downgrade()
            assert not held.is_downgraded
            again = asyncio.create_task(held.downgrade())
            await turns()
        await within(again)
        assert held.is_downgraded


@pytest.mark.parametrize("ahead", [0, 1500])
async def test_a_downgrade_outlives_heartbeats(rig: Rig, ahead: int) -> None:
    """S3: while it is unknown which of the two nodes exists, heartbeats still prove the session, and do not
    take the lock for lost. This also holds when more requests are waiting than a server reads at once."""
    async with rig.zk.rwlock("/rw").write() as held:
        async with rig.proxy.black_hole(before(match=exchanges)) as hole:
            downgrading = asyncio.create_task(held.downgrade())
            async with asyncio.timeout(PATIENCE):
                await hole.fired.wait()
            reads = [asyncio.create_task(rig.zk.exists("/")) for _ in range(ahead)]
            await turns()
            await rig.proxy.cut()
        await within(downgrading)
        await within(asyncio.gather(*reads))
        seen = len(rig.tap.messages)
        await rig.tap.seen(lambda: any(each.operation == "transaction" for each in rig.tap.messages[seen:]))
        assert held.is_valid
