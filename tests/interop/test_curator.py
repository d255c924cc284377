"""L8: Curator is in the same lines as we are, on an embedded server and on a real one."""

from __future__ import annotations

import asyncio
from functools import partial

from curator_peer import Curator
from interop_support import Room, Way, at_most, contend, names, readers_or_writer, until_line, within

import corral
from support import PATIENCE, children

# The lock


async def test_we_wait_for_curators_mutex(zk: corral.Client, curator: Curator, place: str) -> None:
    """While Curator holds, we wait, and both list the same line; when it releases, we hold."""
    path = f"{place}/lock"
    theirs = await curator.mutex(path)
    await theirs.acquire()
    waiting = asyncio.create_task(zk.lock(path).acquire())
    line = await until_line(zk, path, 2)
    assert [each.name for each in await zk.lock(path).contenders()] == line
    assert names(await theirs.participants()) == line
    assert await zk.lock(path).try_acquire() is None
    assert not waiting.done()
    await theirs.release()
    held = await within(waiting)
    assert names([held.node]) == line[1:]
    await held.release()


async def test_curators_mutex_waits_for_us(zk: corral.Client, curator: Curator, place: str) -> None:
    """While we hold, Curator waits, and both list the same line; when we release, it holds."""
    path = f"{place}/lock"
    theirs, another = await curator.mutex(path), await curator.mutex(path)
    async with zk.lock(path) as held:
        waiting = asyncio.create_task(theirs.acquire())
        line = await until_line(zk, path, 2)
        assert names([held.node]) == line[:1]
        assert names(await another.participants()) == line
        assert [each.name for each in await zk.lock(path).contenders()] == line
        assert not await another.try_acquire()
        assert not waiting.done()
    await within(waiting)
    assert await children(zk, path) == line[1:]
    assert await zk.lock(path).try_acquire() is None
    await theirs.release()


async def test_first_come_first_served(zk: corral.Client, curator: Curator, place: str) -> None:
    """Curator's contenders and ours enter in the order in which they joined."""
    path = f"{place}/lock"
    entered: list[int] = []

    async def enter(number: int) -> None:
        async with zk.lock(path) if number % 2 else await curator.mutex(path):
            entered.append(number)

    async with asyncio.TaskGroup() as group:
        async with zk.lock(path):
            for number in range(6):
                group.create_task(enter(number))
                await until_line(zk, path, number + 2)
            assert entered == []
    assert entered == list(range(6))
    assert await children(zk, path) == []


async def test_one_of_ours_that_gives_up_holds_up_none_of_curators(
    zk: corral.Client, curator: Curator, place: str
) -> None:
    """L3: a cancelled acquire between two of Curator's leaves the line, and the second holds after the
    first."""
    path = f"{place}/lock"
    first, second = await curator.mutex(path), await curator.mutex(path)
    await first.acquire()
    ours = asyncio.create_task(zk.lock(path).acquire())
    await until_line(zk, path, 2)
    waiting = asyncio.create_task(second.acquire())
    before = await until_line(zk, path, 3)
    ours.cancel()
    assert await until_line(zk, path, 2) == [before[0], before[2]]
    assert not waiting.done()
    await first.release()
    await within(waiting)
    await second.release()


async def test_in_a_crowd_one_holds(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """L1: three contenders of Curator's and three of ours, sixty times on each side."""
    path = f"{place}/lock"
    room = Room(other, at_most(1))
    ours = [[Way("corral", partial(client.lock, path))] for client in (zk, zk, other)]
    mutexes = [await curator.mutex(path) for _ in range(3)]
    theirs = [[Way("Curator", lambda mutex=mutex: mutex)] for mutex in mutexes]
    await contend(room, [*ours, *theirs], 20)
    assert room.entered == {"corral": 60, "Curator": 60}
    await until_line(zk, path, 0)


# The read/write lock


async def test_readers_share_with_curators_readers(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """Curator's readers and ours hold together, whoever came first; no writer of either side holds with
    them."""
    path = f"{place}/rw"
    rw, reader, writer = zk.rwlock(path), await curator.read(path), await curator.write(path)
    for first, second in [(rw.read(), reader), (reader, rw.read())]:
        async with first, second:
            line = await until_line(zk, path, 2)
            assert [each.name for each in await rw.contenders()] == line
            assert len(await reader.participants()) == 2
            assert await other.rwlock(path).write().try_acquire() is None
            assert await until_line(zk, path, 2) == line
            assert not await writer.try_acquire()
    await until_line(zk, path, 0)


async def test_we_wait_for_curators_writer(zk: corral.Client, curator: Curator, place: str) -> None:
    """While Curator holds the write lock, our reader and our writer wait; they hold when it has released."""
    path = f"{place}/rw"
    rw, writer = zk.rwlock(path), await curator.write(path)
    await writer.acquire()
    for side in (rw.read(), rw.write()):
        assert await side.try_acquire() is None
    waiting = asyncio.create_task(rw.read().acquire())
    line = await until_line(zk, path, 2)
    assert names(await writer.participants()) == line[:1]
    assert not waiting.done()
    await writer.release()
    held = await within(waiting)
    assert names([held.node]) == line[1:]
    await held.release()


async def test_curators_wait_for_our_writer(zk: corral.Client, curator: Curator, place: str) -> None:
    """While we hold the write lock, Curator's reader and its writer wait; they hold when we have released."""
    path = f"{place}/rw"
    reader, writer = await curator.read(path), await curator.write(path)
    async with zk.rwlock(path).write() as held:
        assert not await reader.try_acquire()
        assert not await writer.try_acquire()
        waiting = asyncio.create_task(reader.acquire())
        await until_line(zk, path, 2)
        assert names(await writer.participants()) == names([held.node])
        assert not waiting.done()
    await within(waiting)
    await reader.release()


async def test_readers_and_writers_are_served_in_their_order(
    zk: corral.Client, curator: Curator, place: str
) -> None:
    """No reader overtakes a waiting writer, of either side, so neither starves."""
    path = f"{place}/rw"
    rw, entered = zk.rwlock(path), list[int]()
    together = asyncio.Barrier(2)
    in_line = [
        rw.write(),
        await curator.read(path),
        rw.read(),
        await curator.write(path),
        rw.read(),
        await curator.read(path),
        rw.write(),
    ]

    async def enter(number: int) -> None:
        async with in_line[number]:
            entered.append(number)
            if number in (1, 2, 4, 5):
                await together.wait()  # two readers, one of each side

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        async with rw.read():
            for number in range(len(in_line)):
                group.create_task(enter(number))
                await until_line(zk, path, number + 2)
            assert entered == []
    assert [entered[0], {*entered[1:3]}, entered[3], {*entered[4:6]}, entered[6]] == [0, {1, 2}, 3, {4, 5}, 6]


async def test_curators_writer_waits_for_our_downgraded(
    zk: corral.Client, curator: Curator, place: str
) -> None:
    """A writer of ours is downgraded: Curator's reader that is next in line acquires, and the writer behind
    it waits until we release (CURATOR-621)."""
    path = f"{place}/rw"
    reader, another, writer = await curator.read(path), await curator.read(path), await curator.write(path)
    async with zk.rwlock(path).write() as held:
        reading = asyncio.create_task(reader.acquire())
        await until_line(zk, path, 2)
        writing = asyncio.create_task(writer.acquire())
        line = await until_line(zk, path, 3)
        await held.downgrade()
        await within(reading)
        assert (await children(zk, path))[1:] == line[1:]
        assert names([held.node]) == (await children(zk, path))[:1]
        assert not await another.try_acquire()  # it is behind the writer
        await reader.release()
        assert not await another.try_acquire()
        assert held.is_valid
        assert not writing.done()
    await within(writing)
    await writer.release()


async def test_in_a_crowd_readers_or_one_writer_hold(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """Three contenders of Curator's and three of ours, sixty times on each side, which read or write at
    random."""
    path = f"{place}/rw"
    room = Room(other, readers_or_writer)
    crowd = []
    for client in (zk, zk, other):
        rw = client.rwlock(path)
        crowd.append([Way("corral", rw.read, "read"), Way("corral", rw.write, "write")])
    for _ in range(3):
        reader, writer = await curator.read(path), await curator.write(path)
        crowd.append(
            [Way("Curator", lambda it=reader: it, "read"), Way("Curator", lambda it=writer: it, "write")]
        )
    await contend(room, crowd, 20)
    assert room.entered == {"corral": 60, "Curator": 60}
    await until_line(zk, path, 0)


# The semaphore


async def test_curator_and_we_share_leases(zk: corral.Client, curator: Curator, place: str) -> None:
    """Curator has one of two leases and we have the other, whoever came first; nobody else gets one until one
    is returned."""
    path = f"{place}/semaphore"
    ours, theirs = zk.semaphore(path, 2), await curator.semaphore(path, 2)
    for first, second in [(ours, theirs), (theirs, ours)]:
        async with first, second:
            await until_line(zk, f"{path}/locks", 0)  # holders are not in that line any more
            assert await ours.try_acquire() is None
            await until_line(zk, f"{path}/locks", 0)
            assert not await theirs.try_acquire()
            line = await until_line(zk, f"{path}/leases", 2)
            assert {*names(await theirs.participants())} == {*line}
            assert [each.name for each in await ours.holders()] == line


async def test_who_waits_for_a_lease_of_the_others(zk: corral.Client, curator: Curator, place: str) -> None:
    """We wait for a lease that Curator holds, and Curator for one that we hold; first come, first served."""
    path = f"{place}/semaphore"
    ours, theirs, another = (
        zk.semaphore(path, 1),
        await curator.semaphore(path, 1),
        await curator.semaphore(path, 1),
    )
    await theirs.acquire()
    waiting = asyncio.create_task(ours.acquire())
    await until_line(zk, f"{path}/leases", 2)
    behind = asyncio.create_task(another.acquire())
    await until_line(zk, f"{path}/locks", 2)
    assert not waiting.done()
    await theirs.release()
    lease = await within(waiting)
    assert lease.is_valid
    await until_line(zk, f"{path}/leases", 2)
    assert not behind.done()
    await lease.release()
    await within(behind)
    await another.release()


async def test_in_a_crowd_as_many_hold_as_there_are_leases(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """Three contenders of Curator's and three of ours, sixty times on each side, two at a time."""
    path = f"{place}/semaphore"
    room = Room(other, at_most(2))
    ours = [[Way("corral", partial(client.semaphore, path, 2))] for client in (zk, zk, other)]
    semaphores = [await curator.semaphore(path, 2) for _ in range(3)]
    theirs = [[Way("Curator", lambda semaphore=semaphore: semaphore)] for semaphore in semaphores]
    await contend(room, [*ours, *theirs], 20, trips=40)
    assert room.entered == {"corral": 60, "Curator": 60}
    await until_line(zk, f"{path}/leases", 0)
    await until_line(zk, f"{path}/locks", 0)


# The election


async def test_we_follow_curators_leader(zk: corral.Client, curator: Curator, place: str) -> None:
    """While Curator's latch leads we are a candidate, and both sides list the same; when it is closed, we
    lead."""
    path = f"{place}/election"
    latch, another = await curator.latch(path, "theirs"), await curator.latch(path, "another")
    await latch.acquire()
    election = zk.election(path, data=b"ours")
    campaign = asyncio.create_task(election.acquire())
    await until_line(zk, path, 2)
    assert [each.data for each in await election.candidates()] == [b"theirs", b"ours"]
    assert await another.participants() == ["theirs", "ours"]
    assert await another.leader() == "theirs"
    assert not campaign.done()
    await latch.release()
    held = await within(campaign)
    assert await another.leader() == "ours"
    await held.release()


async def test_curators_latch_follows_us(zk: corral.Client, curator: Curator, place: str) -> None:
    """While we lead Curator's latch is a candidate; when we resign, it leads."""
    path = f"{place}/election"
    latch, another = await curator.latch(path, "theirs"), await curator.latch(path, "another")
    election = zk.election(path, data=b"ours")
    async with election:
        campaign = asyncio.create_task(latch.acquire())
        await until_line(zk, path, 2)
        assert await another.leader() == "ours"
        assert await another.participants() == ["ours", "theirs"]
        assert [each.data for each in await election.candidates()] == [b"ours", b"theirs"]
        assert not campaign.done()
    await within(campaign)
    leader = await election.leader()
    assert leader is not None
    assert leader.data == b"theirs"
    await latch.release()


async def test_we_without_data_are_a_candidate_to_curator(
    zk: corral.Client, curator: Curator, place: str
) -> None:
    """L10: data is empty, never null, on which `getLeader` fails."""
    path = f"{place}/election"
    latch = await curator.latch(path, "theirs")
    async with zk.election(path):
        assert await latch.participants() == [""]
        assert await latch.leader() == ""


async def test_in_a_crowd_one_leads(
    zk: corral.Client, other: corral.Client, curator: Curator, place: str
) -> None:
    """Three contenders of Curator's and three of ours, sixty times on each side."""
    path = f"{place}/election"
    room = Room(other, at_most(1))
    ours = [[Way("corral", partial(client.election, path))] for client in (zk, zk, other)]
    latches = [await curator.latch(path, f"{number}") for number in range(3)]
    theirs = [[Way("Curator", lambda latch=latch: latch)] for latch in latches]
    await contend(room, [*ours, *theirs], 20)
    assert room.entered == {"corral": 60, "Curator": 60}
    await until_line(zk, path, 0)
