"""What `zk.watch` promises of one node (W1 to W5, W7), on real ZooKeeper."""

from __future__ import annotations

import asyncio
import gc
import struct
from collections.abc import Callable
from typing import Any

import pytest

import corral
from corral import Client, Event, EventKind
from corral.testing import TcpProxy
from support import PATIENCE, turns, until

GET, EXISTS, SET_WATCHES, REMOVE_WATCHES = 4, 3, 101, 18


def opcode_of(frame: bytes) -> int:
    """The opcode of a request; what a connect request has there is no opcode."""
    return int(struct.unpack_from(">i", frame, 4)[0]) if len(frame) >= 8 else 0


class Recorder:
    """A proxy's match that never fires, and keeps the opcodes of what passes."""

    def __init__(self) -> None:
        self.opcodes: list[int] = []

    def __call__(self, frame: bytes) -> bool:
        self.opcodes.append(opcode_of(frame))
        return False


async def server_watches(address: str, path: str) -> int:
    """How many sessions watch a path, as the server sees it."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"wchp")
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    await writer.wait_closed()
    if path not in lines:
        return 0
    at = lines.index(path) + 1
    return sum(1 for line in lines[at : at + 1000] if line.startswith("\t"))


async def following(events: Any) -> Event:
    """The next event, unless it never comes."""
    async with asyncio.timeout(PATIENCE):
        return await anext(events)


async def test_the_state_now_then_each_change(zk: Client, other: Client) -> None:
    """W1: the first event is the state now; each change follows, with its data and how it came about."""
    async with zk.watch("/a") as events:
        assert await following(events) == Event(EventKind.ABSENT, "/a", None, None)
        await other.create("/a", b"1")
        event = await following(events)
        assert (event.kind, event.data, event.exists) == (EventKind.CREATED, b"1", True)
        stat = await other.set("/a", b"2")
        assert await following(events) == Event(EventKind.CHANGED, "/a", b"2", stat)
        await other.delete("/a")
        assert await following(events) == Event(EventKind.DELETED, "/a", None, None)
    await other.create("/a", b"3")
    async with zk.watch("/a") as events:
        assert (await following(events)).kind is EventKind.PRESENT


async def test_created_again_with_the_same_data_is_news(zk: Client, other: Client) -> None:
    """W1, W6: states are told apart by zxids: deleted and created again is a change, at the same version."""
    await other.create("/a", b"same")
    async with zk.watch("/a") as events:
        first = await following(events)
        async with other.transaction() as tx:
            tx.delete("/a")
            tx.create("/a", b"same")
        event = await following(events)
        assert event.kind is EventKind.CREATED
        assert event.data == first.data
        assert event.stat is not None
        assert first.stat is not None
        assert event.stat.czxid > first.stat.czxid


async def test_no_state_twice(zk: Client, other: Client) -> None:
    """W1: a node that came and went between two events is no event."""
    async with zk.watch("/a") as events:
        assert (await following(events)).kind is EventKind.ABSENT
        waiting = asyncio.create_task(following(events))
        await turns()
        async with other.transaction() as tx:
            tx.create("/a", b"gone before it is read")
            tx.delete("/a")
        await other.create("/a", b"here")
        event = await waiting
        assert (event.kind, event.data) == (EventKind.CREATED, b"here")


async def test_a_slow_reader_gets_the_newest(
    connect: Callable[..., Client], proxy: TcpProxy, other: Client
) -> None:
    """W2: after a thousand writes a slow reader gets the newest state, and nothing was read meanwhile."""
    await other.create("/a", b"0")
    recorder = Recorder()
    async with proxy.lose_request(recorder), connect(proxy.address) as zk, zk.watch("/a") as events:
        await following(events)
        before = recorder.opcodes.count(GET)
        await asyncio.gather(*(other.set("/a", b"%d" % number) for number in range(1, 1001)))
        assert recorder.opcodes.count(GET) == before
        assert (await following(events)).data == b"1000"
        assert recorder.opcodes.count(GET) == before + 1


async def test_many_watchers_share(connect: Callable[..., Client], proxy: TcpProxy, other: Client) -> None:
    """W4: a thousand tasks watch one path at the price of one server watch, and one read a change."""
    await other.create("/a", b"0")
    recorder = Recorder()
    seen: list[list[bytes | None]] = []
    async with proxy.lose_request(recorder), connect(proxy.address) as zk:

        async def follow() -> None:
            mine: list[bytes | None] = []
            seen.append(mine)
            async for event in zk.watch("/a"):
                mine.append(event.data)
                if event.data == b"3":
                    return

        tasks = [asyncio.create_task(follow()) for _ in range(1000)]
        for number in range(1, 4):

            async def everybody(number: int = number) -> bool:
                return len(seen) == 1000 and all(len(mine) == number for mine in seen)

            await until(everybody, f"a thousand watchers have seen {number} states")
            await other.set("/a", b"%d" % number)
        await asyncio.gather(*tasks)
        assert seen[0] == [b"0", b"1", b"2", b"3"]
        assert recorder.opcodes.count(GET) == 4


@pytest.mark.parametrize("how", ["with", "break", "cancel", "error", "forgotten"])
async def test_leaving_ends_the_watch(
    connect: Callable[..., Client], zookeeper: str, root: str, other: Client, how: str
) -> None:
    """W5: however the loop is left, no watch stays, neither on the server nor here."""
    await other.create("/a", b"0")
    async with connect() as zk:
        started = asyncio.Event()

        async def follow() -> None:
            if how == "with":
                async with zk.watch("/a") as events:
                    await anext(events)
                    started.set()
                    await entered.wait()
            elif how == "forgotten":
                events = zk.watch("/a")
                await anext(events)
                started.set()
                await entered.wait()
            else:
                async for _ in zk.watch("/a"):
                    started.set()
                    if how == "cancel":
                        continue
                    await entered.wait()
                    if how == "error":
                        raise ValueError("the body's own")
                    break

        entered = asyncio.Event()
        task = asyncio.create_task(follow())
        await started.wait()
        await turns()
        assert await server_watches(zookeeper, f"{root}/a") == 1
        if how == "cancel":
            task.cancel()
        entered.set()
        await asyncio.wait([task])
        if how == "error":
            assert isinstance(task.exception(), ValueError)
        del task
        gc.collect()

        async def gone() -> bool:
            return await server_watches(zookeeper, f"{root}/a") == 0

        await until(gone, "the server has no watch left")


async def test_one_of_two_leaves(zk: Client, other: Client) -> None:
    """W5, W7: the server's watch stays as long as somebody in the client still watches the path."""
    await other.create("/a", b"0")
    async with zk.watch("/a") as stays:
        await following(stays)
        async with zk.watch("/a") as leaves:
            await following(leaves)
        await other.set("/a", b"1")
        assert (await following(stays)).data == b"1"


async def test_a_lock_waiter_on_the_same_node(zk: Client, other: Client) -> None:
    """W7: a watch and a lock's waiter on one node share the server's watch; each can leave first."""
    async with other.lock("/lock") as held:
        name = held.node.rpartition("/")[2]
        async with zk.watch(f"/lock/{name}") as events:
            await following(events)
            waiting = asyncio.create_task(zk.lock("/lock").acquire())

            async def in_line() -> bool:
                return len(await other.children("/lock")) == 2

            await until(in_line, "the waiter is in the line")
            waiting.cancel()
            await asyncio.wait([waiting])
            await other.set(f"/lock/{name}", b"changed")
            assert (await following(events)).data == b"changed"
            waiting = asyncio.create_task(zk.lock("/lock").acquire())
            await until(in_line, "the waiter is in the line again")
    async with asyncio.timeout(PATIENCE):
        await (await waiting).release()


async def test_cancelled_at_each_step(zk: Client, other: Client) -> None:
    """S8: an `anext` that is cancelled at any step loses nothing: the next one gives what it would have."""
    await other.create("/a", b"0")
    async with zk.watch("/a") as events:
        await following(events)
        for step in range(12):
            data = b"%d" % (step + 1)
            waiting = asyncio.create_task(anext(events))
            await turns(step)
            writing = asyncio.create_task(other.set("/a", data))
            await turns(step)
            waiting.cancel()
            await asyncio.wait([waiting])
            await writing
            last = None if waiting.cancelled() else waiting.result().data
            while last != data:
                last = (await following(events)).data


async def test_closing_a_watch_ends_its_loop(zk: Client) -> None:
    """W5: a watch that another task closes ends like any exhausted iterator."""
    events = zk.watch("/a")
    await following(events)
    waiting = asyncio.create_task(following(events))
    await turns()
    events.close()
    with pytest.raises(StopAsyncIteration):
        await events.__anext__()
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), RuntimeError | StopAsyncIteration)


async def test_the_client_closes_under_a_watch(connect: Callable[..., Client]) -> None:
    """S5: whoever waits for an event when the client closes is told so."""
    async with connect() as zk:
        events = zk.watch("/a")
        await following(events)
        waiting = asyncio.create_task(anext(events))
        await turns()
    with pytest.raises(corral.ClientClosed):
        await waiting


async def test_two_readers_of_one_watch(zk: Client) -> None:
    """Misuse: one watch is for one reader, and the error says what to do."""
    async with zk.watch("/a") as events:
        await following(events)
        waiting = asyncio.create_task(anext(events))
        await turns()
        with pytest.raises(corral.UsageStateError, match=r"zk\.watch\(\) in each"):
            await anext(events)
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_refused_and_allowed_again(connect: Callable[..., Client], other: Client) -> None:
    """An ACL that forbids reading is an error of `anext`, and the next one tries again."""
    secret = connect(auth=[("digest", b"owner:secret")])
    async with secret as owner, connect() as zk, zk.watch("/a") as events:
        await owner.create("/a", b"secret", acl=[corral.Acl.creator()])
        with pytest.raises(corral.NoAuth, match="'/a'"):
            await following(events)
        await owner.set_acl("/a", corral.OPEN_ACL)
        assert (await following(events)).data == b"secret"


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("cut", range(8))
async def test_cut_while_following(
    connect: Callable[..., Client], proxy: TcpProxy, other: Client, cut: int, reset: bool
) -> None:
    """W3: with the connection cut at any moment the last state arrives, and none goes backwards."""
    await other.create("/a", b"0")
    async with connect(proxy.address) as zk:
        seen: list[int] = []

        async def follow() -> None:
            async for event in zk.watch("/a"):
                assert event.data is not None
                seen.append(int(event.data))
                if seen[-1] == 20:
                    return

        task = asyncio.create_task(follow())
        for number in range(1, 21):
            await other.set("/a", b"%d" % number)
            if number % 8 == cut:
                await proxy.cut(reset=reset)
            await turns(cut)
        async with asyncio.timeout(PATIENCE):
            await task
        assert seen == sorted(set(seen))


@pytest.mark.parametrize("lost", [GET, SET_WATCHES])
async def test_lost_answer_to_what_sets_the_watch(
    connect: Callable[..., Client], proxy: TcpProxy, other: Client, lost: int
) -> None:
    """W3: a break between the setting of a watch and our knowing of it loses nothing."""
    await other.create("/a", b"0")
    async with connect(proxy.address) as zk, zk.watch("/a") as events:
        if lost == SET_WATCHES:
            await following(events)
        async with proxy.lose_reply(lambda frame: opcode_of(frame) == lost) as loss:
            if lost == SET_WATCHES:
                await proxy.cut()
                await loss.fired.wait()
            else:
                assert (await following(events)).data == b"0"
                assert loss.fired.is_set()
        await other.set("/a", b"1")
        assert (await following(events)).data == b"1"


async def test_changed_while_cut_off(connect: Callable[..., Client], proxy: TcpProxy, other: Client) -> None:
    """W3: what changed while no server could be reached is delivered after the reconnect."""
    await other.create("/a", b"0")
    async with connect(proxy.address) as zk, zk.watch("/a") as events:
        await following(events)
        waiting = asyncio.create_task(anext(events))
        async with proxy.refuse():
            await proxy.cut()
            await other.set("/a", b"1")
            await other.set("/a", b"2")
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).data == b"2"


async def test_over_a_new_session(connect: Callable[..., Client], proxy: TcpProxy, other: Client) -> None:
    """W3: the last state is delivered over an expired session, and the watch goes on in the new one."""
    await other.create("/a", b"0")
    async with connect(proxy.address, session_timeout=1.0) as zk, zk.watch("/a") as events:
        await following(events)
        session = zk.session_id
        waiting = asyncio.create_task(anext(events))
        async with proxy.refuse():
            await proxy.cut()
            await other.set("/a", b"1")

            async def expired() -> bool:
                return zk.state is corral.State.EXPIRED

            await until(expired, "the client has given its session up")
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).data == b"1"
        assert zk.session_id != session
        await other.set("/a", b"2")
        assert (await following(events)).data == b"2"
