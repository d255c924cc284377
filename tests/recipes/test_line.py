"""The line: its numbers and their limit, which nodes count, and parents that vanish or cannot be created."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from lock_support import Rig, ended

import corral
from client_support import asks_for
from corral.testing import EmbeddedServer, LocalServer, MessageKind, Server, committed
from corral.wire.messages import CHILDREN, CREATE2, EXISTS, MULTI, SET
from line_kinds import LOCK_NAME
from support import PATIENCE, children, settle, turns, until, until_line, within

MOST, LEAST = 2**31 - 1, -(2**31)


def curator(number: int, place: int = 0) -> str:
    """A node name as Curator generates it, with a given number."""
    return f"_c_7f3e2b11-2222-4333-8444-{place:012d}-lock-{number:010d}"


async def stand(client: corral.Client, path: str, names: list[str]) -> None:
    """Create nodes with exactly these names in a line, in this order."""
    for name in names:
        await client.create(f"{path}/{name}", name.encode(), ephemeral=True)


# Numbers


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 1, 2],
        [9, 10, 99, 100],
        [MOST - 1, MOST, LEAST, LEAST + 1],
        [MOST, MOST, MOST],
        [MOST, LEAST, LEAST + 1, MOST],
        [LEAST, LEAST + 1, -1_000_000_000, -999_999_999],
    ],
    ids=str,
)
async def test_the_order_of_numbers(zk: corral.Client, other: corral.Client, numbers: list[int]) -> None:
    """L9, L10: the line is in the order of joining: that of the numbers, not of the names. Once the server's
    counter has run out, it is so whatever the numbers are."""
    await zk.create("/lock")
    names = [curator(number, place) for place, number in enumerate(numbers)]
    await stand(other, "/lock", names)
    contenders = await zk.lock("/lock").contenders()
    assert [each.name for each in contenders] == names
    assert [each.sequence for each in contenders] == numbers


async def test_a_node_ahead_is_waited_for(zk: corral.Client, other: corral.Client) -> None:
    """L1: nodes that were there before ours are waited for."""
    await zk.create("/lock")
    task = await blocked_by(zk, other, curator(0))
    await other.delete(f"/lock/{curator(0)}")
    await (await within(task)).release()


@pytest.mark.parametrize("number", [5, 1_000_000_000, MOST - 1])
async def test_a_greater_number_is_not_waited_for(
    zk: corral.Client, other: corral.Client, number: int
) -> None:
    """L10: a greater number is behind ours."""
    await zk.create("/lock")
    await stand(other, "/lock", [curator(number)])
    async with asyncio.timeout(PATIENCE), zk.lock("/lock"):
        pass


@pytest.fixture
async def at_the_end() -> AsyncIterator[tuple[corral.Client, corral.Client]]:
    """Two clients of a server whose counter for /lock is at its end."""
    async with (
        EmbeddedServer() as server,
        corral.connect(server.address) as zk,
        corral.connect(server.address) as other,
    ):
        await zk.create("/lock")
        node = server.zookeeper.tree.find("/lock")
        assert node is not None
        node.creations = MOST
        yield zk, other


@pytest.mark.parametrize("number", [0, MOST - 1, -1, -10, -1_000_000_000, LEAST, MOST])
async def test_at_the_end_a_node_ahead_is_waited_for(
    at_the_end: tuple[corral.Client, corral.Client], number: int
) -> None:
    """L10: once the counter has run out, nodes that were there before ours are waited for, whatever their
    numbers, including negative ones of nine and ten digits."""
    zk, other = at_the_end
    task = await blocked_by(zk, other, curator(number))
    await other.delete(f"/lock/{curator(number)}")
    await (await within(task)).release()


@pytest.mark.parametrize("number", [-1, LEAST, MOST])
async def test_at_the_end_who_joins_later_is_not_waited_for(
    at_the_end: tuple[corral.Client, corral.Client], number: int
) -> None:
    """L10: once the counter has run out, nodes that are created after ours do not block us, whatever their
    numbers."""
    zk, other = at_the_end
    ahead = curator(MOST, 1)
    task = await blocked_by(zk, other, ahead)
    await stand(other, "/lock", [curator(number, 2)])
    await other.delete(f"/lock/{ahead}")
    held = await within(task)
    assert held.is_valid
    await held.release()
    assert await children(other, "/lock") == [curator(number, 2)]


@pytest.mark.parametrize("number", [-1, LEAST, MOST])
async def test_numbers_that_have_run_out_are_behind_those_that_have_not(
    zk: corral.Client, other: corral.Client, number: int
) -> None:
    """L10: the server repeats no number before its counter has run out, so nodes with such numbers come
    first."""
    await zk.create("/lock")
    await stand(other, "/lock", [curator(number)])
    async with asyncio.timeout(PATIENCE), zk.lock("/lock") as held:
        assert [each.name for each in await zk.lock("/lock").contenders()] == [
            held.node.rpartition("/")[2],
            curator(number),
        ]


async def blocked_by(zk: corral.Client, other: corral.Client, name: str) -> asyncio.Task[corral.Held]:
    """Join a line that has the node `name`, and check that we wait for it."""
    await stand(other, "/lock", [name])
    task = asyncio.create_task(zk.lock("/lock").acquire())
    await until_line(other, "/lock", 2)
    assert await zk.lock("/lock").try_acquire() is None  # does the same check, and returns
    assert not task.done()
    return task


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("_c_7f3e2b11-2222-4333-8444-555566667777-lock-0000000007", 7),
        ("_c_7f3e2b11222243338444555566667777-lock-0000000007", 7),  # go-zookeeper
        ("lock-0000000007", 7),  # Curator without protection
        ("_c_7f3e2b11-2222-4333-8444-555566667777-lock--000000007", -7),
        ("7f3e2b11222243338444555566667777__lock__0000000007", 7),  # kazoo
        ("7f3e2b11222243338444555566667777__lock__-000000007", -7),
        ("7f3e2b11222243338444555566667777__lock__-0000000007", 7),  # with "__lock__-" as its name
        ("7f3e2b11222243338444555566667777__lock__-2147483647", -2147483647),
    ],
)
async def test_names_of_others(zk: corral.Client, other: corral.Client, name: str, number: int) -> None:
    """L8: which names belong to the line, and where their numbers begin."""
    await zk.create("/lock")
    await stand(other, "/lock", [name])
    [contender] = await zk.lock("/lock").contenders()
    assert (contender.name, contender.sequence, contender.data) == (name, number, name.encode())


@pytest.mark.parametrize(
    "name",
    [
        "0",
        "0000000000",
        "readme",
        "lock-",
        "lock-12345",
        "lock-00000000001",
        "lock-000000000a",
        "-lock-0000000000-more",
        "_c_7f3e2b11-2222-4333-8444-555566667777-latch-0000000000",
        "_c_7f3e2b11-2222-4333-8444-555566667777-__READ__0000000000",
        "7f3e2b11222243338444555566667777__rlock__0000000000",
        "lock_0000000000",
    ],
)
async def test_foreign_children(zk: corral.Client, other: corral.Client, name: str) -> None:
    """L10: nodes that do not belong to the line are neither waited for nor shown. (Curator itself waits for
    ever for a node named "0".)"""
    await zk.create("/lock")
    await stand(other, "/lock", [name])
    lock = zk.lock("/lock")
    assert await lock.contenders() == []
    async with asyncio.timeout(PATIENCE), lock:
        assert len(await lock.contenders()) == 1
    assert await children(other, "/lock") == [name]


async def test_equal_numbers(zk: corral.Client, other: corral.Client) -> None:
    """L10: numbers need not be unique (Curator's downgrade creates equal ones); a node with a number equal to
    ours does not block us."""
    await zk.create("/lock")
    await stand(other, "/lock", ["_c_7f3e2b11-2222-4333-8444-555566667777-lock-0000000001"])
    async with asyncio.timeout(PATIENCE), zk.lock("/lock") as held:
        assert held.node.endswith("lock-0000000001")


# The counter of a real server, at its end


class WornServer:
    """A server with a node whose counter is at its end. Two thousand million creates would take days, so the
    counter is set in the server's own snapshot."""

    def __init__(self) -> None:
        # Without digests of its tree the server does not notice that the snapshot was changed. The zxid that
        # 3.9 adds behind the tree has a checksum of its own, which covers the tree, too.
        self.server = LocalServer(
            java_properties={
                "zookeeper.digest.enabled": "false",
                "zookeeper.serializeLastProcessedZxid.enabled": "false",
            }
        )

    async def set_counter(self, path: str, counter: int) -> None:
        """Restart the server with `number` for the next sequential node below `path`."""
        await self.server.stop()
        await self.server.start()  # which takes a snapshot
        conf = await self.server.four_letter_word("conf")
        directory = next(line.partition("=")[2] for line in conf.splitlines() if line.startswith("dataDir="))
        await self.server.stop()
        newest = max(Path(directory).glob("snapshot.*"), key=lambda file: int(file.suffix[1:], 16))
        newest.write_bytes(self._patched(newest.read_bytes(), path, counter))
        await self.server.start()

    @staticmethod
    def _patched(snapshot: bytes, path: str, counter: int) -> bytes:
        name = struct.pack(">i", len(path)) + path.encode()
        at = snapshot.index(name) + len(name)
        at += 4 + max(0, struct.unpack_from(">i", snapshot, at)[0])  # the data
        at += 8 + 4 * 8 + 4  # the ACL's number; czxid, mzxid, ctime, mtime; version
        patched = bytearray(snapshot)
        struct.pack_into(">i", patched, at, counter)
        # The checksum, as a long, comes before the name of the root, which ends the data that it covers.
        end = len(patched) - 8 - 4 - 1
        assert patched[end + 8 :] == b"\0\0\0\1/"
        assert struct.unpack_from(">q", snapshot, end)[0] == zlib.adler32(snapshot[:end])
        struct.pack_into(">q", patched, end, zlib.adler32(patched[:end]))
        return bytes(patched)


@pytest.fixture
async def worn(real_servers: None) -> AsyncIterator[WornServer]:
    made = WornServer()
    async with made.server:
        yield made


@pytest.mark.parametrize("crowd", ["one by one", "in a burst"])
async def test_a_counter_that_has_run_out(worn: WornServer, crowd: str) -> None:
    """L1, L5, L10: the server's counter does not wrap as documented. It stays at its greatest number, since a
    new one is stored only if it is greater, and within a burst of requests it runs into the negative and
    falls back. Even then one client holds at a time, in the order of joining."""
    async with corral.connect(worn.server.address) as zk:
        await zk.create("/lock")
    await worn.set_counter("/lock", MOST - 2)
    inside = 0
    tokens: list[int] = []
    numbers: list[int] = []

    async def wait(lock: corral.Lock) -> None:
        nonlocal inside
        async with lock as held:
            inside += 1
            assert inside == 1
            tokens.append(held.fencing_token)
            match = LOCK_NAME.search(held.node)
            assert match is not None
            numbers.append(int(match["number"]))
            await turns()
            inside -= 1

    address = worn.server.address
    async with corral.connect(address) as zk, corral.connect(address) as other:
        held = await zk.lock("/lock").acquire()
        waiters = []
        for count in range(8 if crowd == "one by one" else 150):
            waiters.append(asyncio.create_task(wait((zk, other)[count % 2].lock("/lock"))))
            if crowd == "one by one":
                await until_line(zk, "/lock", count + 2)
        await until_line(zk, "/lock", len(waiters) + 1)
        last = asyncio.create_task(wait(other.lock("/lock")))
        await until_line(zk, "/lock", len(waiters) + 2)
        contenders = await other.lock("/lock").contenders()
        zxids = [each.stat.czxid for each in contenders]
        assert zxids == sorted(zxids)
        assert await other.lock("/lock").try_acquire() is None
        assert tokens == []
        await held.release()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*waiters, last)
    assert tokens == sorted(tokens) == zxids[1:]
    assert numbers.count(MOST) > 1


# Parents


async def test_parents_go_again(make_server: Callable[..., Server]) -> None:
    """L2, L10: the parents that a lock creates are containers: the server removes them once they are empty,
    and the lock creates them again."""
    async with make_server() as server, corral.connect(server.address) as zk:
        lock = zk.lock("/made/for/lock")
        for _ in range(2):
            async with asyncio.timeout(PATIENCE), lock:
                assert len(await children(zk, "/made/for/lock")) == 1

            async def gone() -> bool:
                return await zk.exists("/made") is None

            await until(gone, "the parents are gone")


async def test_an_existing_parent_stays(zk: corral.Client) -> None:
    """L2: an existing parent is left as it is, with its data."""
    await zk.create("/lock", b"mine")
    async with zk.lock("/lock"):
        pass
    assert (await zk.get("/lock"))[0] == b"mine"


@pytest.mark.parametrize("depth", ["", "/a", "/a/b"])
@pytest.mark.parametrize("obstacle", ["no permission", "ephemeral"])
async def test_parents_that_cannot_be_made(
    zk: corral.Client, other: corral.Client, obstacle: str, depth: str
) -> None:
    """A lock below a node that takes no children fails with the server's refusal, however far below; it does
    not retry for ever."""
    if obstacle == "ephemeral":
        await other.create("/x", ephemeral=True)
        refusal: type[Exception] = corral.NoChildrenForEphemerals
    else:
        await other.create("/x", acl=corral.acl.WORLD_READ)
        refusal = corral.NoAuth
    for way in ("acquire", "try_acquire"):
        with pytest.raises(refusal):
            await within(getattr(zk.lock(f"/x{depth}"), way)())


async def test_a_line_that_cannot_be_read(
    connect: Callable[..., corral.Client], other: corral.Client
) -> None:
    """L3: an acquire that may create its node but not list the line fails, and leaves no node."""
    acl = [*corral.acl.world(corral.Perm.CREATE | corral.Perm.DELETE), *digest_acl()]
    await other.create("/lock", acl=acl)
    async with connect() as zk:
        for way in ("acquire", "try_acquire"):
            with pytest.raises(corral.NoAuth):
                await within(getattr(zk.lock("/lock"), way)())
        async with connect(auth=[("digest", b"reader:secret")]) as reader:
            await until_line(reader, "/lock", 0)
            await reader.set_acl("/lock", corral.acl.OPEN)


def digest_acl() -> list[corral.Acl]:
    return [*corral.acl.digest("reader", "secret", corral.Perm.ALL)]


async def test_our_node_is_deleted_while_we_wait(zk: corral.Client, other: corral.Client, root: str) -> None:
    """L10: a waiter whose node is deleted joins again once it finds that out, and does not hold without a
    node."""
    first, second = await other.lock("/lock").acquire(), asyncio.create_task(other.lock("/lock").acquire())
    await until_line(other, "/lock", 2)
    task = asyncio.create_task(zk.lock("/lock").acquire())
    names = await until_line(other, "/lock", 3)
    await other.delete(f"/lock/{names[2]}")
    await (await within(second_after(first, second))).release()
    held = await within(task)
    assert held.node != f"{root}/lock/{names[2]}"
    assert await children(other, "/lock") == [held.node.rpartition("/")[2]]
    await held.release()


async def second_after(first: corral.Held, second: asyncio.Task[corral.Held]) -> corral.Held:
    """Release the first, so that the second holds."""
    await first.release()
    return await second


async def test_those_ahead_leave_in_any_order(zk: corral.Client, other: corral.Client) -> None:
    """L1: a waiter does not hold merely because the node before its own is gone: those further ahead count,
    too."""
    holder = await other.lock("/lock").acquire()
    middle = asyncio.create_task(other.lock("/lock").acquire())
    await until_line(other, "/lock", 2)
    task = asyncio.create_task(zk.lock("/lock").acquire())
    await until_line(other, "/lock", 3)
    middle.cancel()
    await ended(middle)
    await until_line(other, "/lock", 2)
    assert await zk.lock("/lock").try_acquire() is None
    assert not task.done()
    assert holder.is_valid
    await holder.release()
    await (await within(task)).release()


# Creates whose outcome is unknown, and creates that were not sent


@pytest.mark.parametrize("then", ["waited for", "cancelled"])
async def test_a_lost_create_is_looked_for_behind_a_quorum_write(rig: Rig, then: str) -> None:
    """S2, L3: a server that lags behind may list the line as it was before the create whose answer was lost. So a
    quorum write is answered before the line is listed, and the node looked for."""
    await rig.other.create("/lock")
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(committed(match=asks_for(CREATE2)), reset=True) as loss:
            task = asyncio.create_task(rig.zk.lock("/lock").acquire())
            if then == "cancelled":
                await until_line(rig.other, "/lock", 1)
                task.cancel()
            await within(loss.fired.wait())
        start = len(rig.tap.messages)
    if then == "cancelled":
        await until_line(rig.other, "/lock", 0)
    else:
        await (await within(task)).release()
    seen = [
        (message.kind, message.opcode)
        for message in rig.tap.messages[start:]
        if message.opcode in (MULTI.opcode, CHILDREN.opcode, EXISTS.opcode)
    ]
    looked = seen.index((MessageKind.REQUEST, EXISTS.opcode))
    listed = max(index for index in range(looked) if seen[index] == (MessageKind.REQUEST, CHILDREN.opcode))
    assert (MessageKind.REPLY, MULTI.opcode) in seen[:listed]


async def test_a_create_does_not_carry_over_to_the_next_session(rig: Rig) -> None:
    """S2: an acquire that begins while there is no connection belongs to the session that there is then. When that one
    turns out to be over, it begins again in the next, behind all that waited: what is not bound to a session
    carries over."""
    await rig.other.create("/lock")
    session = rig.zk.session_id
    async with rig.away("expired"):

        async def is_down() -> bool:
            return rig.zk.state is corral.State.SUSPENDED

        await until(is_down, "the connection is lost")
        assert rig.zk.session_id == session
        start = len(rig.tap.messages)
        acquiring = asyncio.create_task(rig.zk.lock("/lock").acquire())
        await turns()
        setting = asyncio.create_task(rig.zk.set("/", b""))
        await turns()
    held = await within(acquiring)
    await within(setting)
    assert held.session_id == rig.zk.session_id != session
    assert [each for each in rig.tap.requests(start) if each in (CREATE2, SET)] == [SET, CREATE2]
    await held.release()
    await settle(rig.zk)
