"""L8: kazoo is in the same lines as we are: unchanged with `layout="kazoo"`, and with Curator's node names if
it is changed to use those; then all three libraries exclude each other. On an embedded server and on a real
one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import pytest
from curator_peer import Curator
from interop_support import Room, Way, at_most, contend, readers_or_writer, until_line, within

import corral
from support import PATIENCE

kazoo_client = pytest.importorskip("kazoo.client")
kazoo_lock = pytest.importorskip("kazoo.recipe.lock")


class Mutex(kazoo_lock.Lock):  # type: ignore[misc]
    """kazoo's lock with the names of Curator's `InterProcessMutex`."""

    _NODE_NAME = "-lock-"
    _EXCLUDE_NAMES: ClassVar = ["-lock-"]


class Reader(kazoo_lock.ReadLock):  # type: ignore[misc]
    """kazoo's read lock with the names of Curator's `InterProcessReadWriteLock`."""

    _NODE_NAME = "__READ__"
    _EXCLUDE_NAMES: ClassVar = ["__WRIT__"]


class Writer(kazoo_lock.WriteLock):  # type: ignore[misc]
    """kazoo's write lock with the names of Curator's `InterProcessReadWriteLock`."""

    _NODE_NAME = "__WRIT__"
    _EXCLUDE_NAMES: ClassVar = ["__WRIT__", "__READ__"]


class Latch(kazoo_lock.Lock):  # type: ignore[misc]
    """kazoo's lock, on which its election is built, with the names of Curator's `LeaderLatch`."""

    _NODE_NAME = "-latch-"
    _EXCLUDE_NAMES: ClassVar = ["-latch-"]


class Kazoo:
    """A recipe of kazoo's, which blocks, so each call runs in a thread."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    async def acquire(self) -> None:
        """Acquire it. Cancellation does not reach kazoo, which continues to wait."""
        assert await asyncio.to_thread(self._lock.acquire, timeout=PATIENCE)

    async def try_acquire(self) -> bool:
        """Acquire it if that is possible at once; returns whether it was."""
        return bool(await asyncio.to_thread(self._lock.acquire, blocking=False))

    async def release(self) -> None:
        """Release it."""
        await asyncio.to_thread(self._lock.release)

    async def contenders(self) -> list[str]:
        """The data of the holders and waiters, in order."""
        contenders: list[str] = await asyncio.to_thread(self._lock.contenders)
        return contenders

    async def __aenter__(self) -> Kazoo:
        await self.acquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()


class Pair(NamedTuple):
    """Makes our recipe and theirs for a path; both must be in one line."""

    ours: Callable[[corral.Client, str], Any]
    theirs: Callable[..., Any]


EXCLUSIVE = {
    "lock": Pair(lambda zk, path: zk.lock(path, data=b"corral", layout="kazoo"), kazoo_lock.Lock),
    "lock of which kazoo is told": Pair(
        lambda zk, path: zk.lock(path, data=b"corral"),
        partial(kazoo_lock.Lock, extra_lock_patterns=["-lock-"]),
    ),
    "lock with Curator's names": Pair(lambda zk, path: zk.lock(path, data=b"corral"), Mutex),
    "election": Pair(lambda zk, path: zk.election(path, data=b"corral", layout="kazoo"), kazoo_lock.Lock),
    "election with Curator's names": Pair(lambda zk, path: zk.election(path, data=b"corral"), Latch),
    "writers": Pair(
        lambda zk, path: zk.rwlock(path, data=b"corral", layout="kazoo").write(), kazoo_lock.WriteLock
    ),
    "writers with Curator's names": Pair(lambda zk, path: zk.rwlock(path, data=b"corral").write(), Writer),
}
exclusive = pytest.mark.parametrize("pair", EXCLUSIVE.values(), ids=EXCLUSIVE)


@pytest.fixture
async def kazoo(server: str) -> AsyncIterator[Any]:
    """kazoo's client."""
    client = kazoo_client.KazooClient(server)
    await asyncio.to_thread(client.start, PATIENCE)
    yield client
    await asyncio.to_thread(client.stop)
    await asyncio.to_thread(client.close)


@pytest.fixture
async def path(zk: corral.Client, place: str) -> str:
    """The path of the line: a persistent node, since kazoo does not expect a container to be removed."""
    return await zk.create(f"{place}/line")


@exclusive
async def test_each_waits_for_the_other(zk: corral.Client, kazoo: Any, path: str, pair: Pair) -> None:
    """While one side holds the other waits, and both list the same line; when it releases, the other
    holds."""
    ours, theirs = pair.ours(zk, path), Kazoo(pair.theirs(kazoo, path, "kazoo"))
    await theirs.acquire()
    waiting = asyncio.create_task(ours.acquire())
    await until_line(zk, path, 2)
    assert await theirs.contenders() == ["kazoo", "corral"]
    assert [each.data for each in await ours.contenders()] == [b"kazoo", b"corral"]
    assert await ours.try_acquire() is None
    assert not waiting.done()
    await theirs.release()
    held = await within(waiting)
    assert not await theirs.try_acquire()
    their_turn = asyncio.create_task(theirs.acquire())
    await until_line(zk, path, 2)
    assert await theirs.contenders() == ["corral", "kazoo"]
    assert [each.data for each in await ours.contenders()] == [b"corral", b"kazoo"]
    assert not their_turn.done()
    await held.release()
    await within(their_turn)
    assert await ours.try_acquire() is None
    await theirs.release()


@exclusive
async def test_first_come_first_served(zk: corral.Client, kazoo: Any, path: str, pair: Pair) -> None:
    """kazoo's contenders and ours enter in the order in which they joined."""
    entered: list[int] = []

    async def enter(number: int) -> None:
        async with pair.ours(zk, path) if number % 2 else Kazoo(pair.theirs(kazoo, path)):
            entered.append(number)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        async with pair.ours(zk, path):
            for number in range(5):
                group.create_task(enter(number))
                await until_line(zk, path, number + 2)
            assert entered == []
    assert entered == list(range(5))


@exclusive
async def test_in_a_crowd_one_holds(
    zk: corral.Client, other: corral.Client, kazoo: Any, path: str, pair: Pair
) -> None:
    """L1: two contenders of kazoo's and two of ours, forty times on each side."""
    room = Room(other, at_most(1))
    crowd = [[Way("corral", partial(pair.ours, client, path))] for client in (zk, other)]
    for _ in range(2):
        crowd.append([Way("kazoo", lambda: Kazoo(pair.theirs(kazoo, path)))])
    await contend(room, crowd, 20)
    assert room.entered == {"corral": 40, "kazoo": 40}
    await until_line(zk, path, 0)


# Read and write locks


class Sides(NamedTuple):
    """Makes our read/write lock, and theirs."""

    ours: Callable[[corral.Client, str], corral.RWLock]
    reader: type[Any]
    writer: type[Any]


READ_WRITE = {
    "kazoo's names": Sides(
        lambda zk, path: zk.rwlock(path, layout="kazoo"), kazoo_lock.ReadLock, kazoo_lock.WriteLock
    ),
    "Curator's names": Sides(lambda zk, path: zk.rwlock(path), Reader, Writer),
}
read_write = pytest.mark.parametrize("sides", READ_WRITE.values(), ids=READ_WRITE)


@read_write
async def test_readers_share(
    zk: corral.Client, other: corral.Client, kazoo: Any, path: str, sides: Sides
) -> None:
    """kazoo's readers and ours hold together, whoever came first; no writer of either side holds with them."""
    ours, theirs = sides.ours(zk, path), Kazoo(sides.reader(kazoo, path))
    for first, second in itertools.permutations([ours.read(), theirs]):
        async with first, second:
            line = await until_line(zk, path, 2)
            assert [each.name for each in await ours.contenders()] == line
            assert await sides.ours(other, path).write().try_acquire() is None
            assert await until_line(zk, path, 2) == line
            assert not await Kazoo(sides.writer(kazoo, path)).try_acquire()


@read_write
async def test_readers_wait_for_writers(
    zk: corral.Client, other: corral.Client, kazoo: Any, path: str, sides: Sides
) -> None:
    """A reader waits for a writer of the other side, whether that one holds or waits itself."""
    our_writer, their_writer = sides.ours(zk, path).write(), Kazoo(sides.writer(kazoo, path))
    our_reader, their_reader = sides.ours(other, path).read(), Kazoo(sides.reader(kazoo, path))
    async with our_reader:
        writing = asyncio.create_task(our_writer.acquire())
        await until_line(zk, path, 2)
        assert not await their_reader.try_acquire()
    held = await within(writing)
    assert not await their_reader.try_acquire()
    await held.release()
    async with their_reader:
        waiting = asyncio.create_task(their_writer.acquire())
        await until_line(zk, path, 2)
        assert await our_reader.try_acquire() is None
    await within(waiting)
    assert await our_reader.try_acquire() is None
    await their_writer.release()


def readers_and_writers(
    zk: corral.Client, other: corral.Client, kazoo: Any, path: str, sides: Sides
) -> list[list[Way]]:
    """Two contenders of kazoo's and two of ours, which read or write at random."""
    crowd = []
    for client in (zk, other):
        rw = sides.ours(client, path)
        crowd.append([Way("corral", rw.read, "read"), Way("corral", rw.write, "write")])
        crowd.append(
            [
                Way("kazoo", lambda: Kazoo(sides.reader(kazoo, path)), "read"),
                Way("kazoo", lambda: Kazoo(sides.writer(kazoo, path)), "write"),
            ]
        )
    return crowd


@read_write
async def test_in_a_crowd_readers_or_one_writer_hold(
    zk: corral.Client, other: corral.Client, kazoo: Any, path: str, sides: Sides
) -> None:
    """Two contenders of kazoo's and two of ours, forty times on each side."""
    room = Room(other, readers_or_writer)
    await contend(room, readers_and_writers(zk, other, kazoo, path, sides), 20)
    assert room.entered == {"corral": 40, "kazoo": 40}
    await until_line(zk, path, 0)


# All three libraries


@pytest.mark.parametrize("kind", ["lock", "election"])
async def test_of_all_three_one_holds(
    zk: corral.Client, other: corral.Client, kazoo: Any, curator: Curator, path: str, kind: str
) -> None:
    """Two contenders of Curator's, two of kazoo's with Curator's names, and two of ours, forty times each."""
    room = Room(other, at_most(1))
    pair = EXCLUSIVE[f"{kind} with Curator's names"]
    crowd = []
    for client in (zk, other):
        recipe = await (curator.mutex(path) if kind == "lock" else curator.latch(path, "Curator"))
        crowd.append([Way("corral", partial(pair.ours, client, path))])
        crowd.append([Way("kazoo", lambda: Kazoo(pair.theirs(kazoo, path)))])
        crowd.append([Way("Curator", lambda recipe=recipe: recipe)])
    await contend(room, crowd, 20)
    assert room.entered == {"corral": 40, "kazoo": 40, "Curator": 40}
    await until_line(zk, path, 0)


async def test_of_all_three_readers_or_one_writer_hold(
    zk: corral.Client, other: corral.Client, kazoo: Any, curator: Curator, path: str
) -> None:
    """Two contenders of each library, forty times each, which read or write at random."""
    room = Room(other, readers_or_writer)
    crowd = readers_and_writers(zk, other, kazoo, path, READ_WRITE["Curator's names"])
    for _ in range(2):
        reader, writer = await curator.read(path), await curator.write(path)
        crowd.append(
            [Way("Curator", lambda it=reader: it, "read"), Way("Curator", lambda it=writer: it, "write")]
        )
    await contend(room, crowd, 20)
    assert room.entered == {"corral": 40, "kazoo": 40, "Curator": 40}
    await until_line(zk, path, 0)
