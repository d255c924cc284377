"""VirtualLoop: the test controls its time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import math
import os
import struct
import threading
import time
import warnings
from collections.abc import AsyncIterator

import anyio
import pytest
from loops import LOOPBACK, PATIENCE, Recorder, pair, run, settle, this, virtual

from corral.errors import UsageValueError
from corral.testing import FaultProxy, TcpProxy
from corral.testing.network.points import before, committed
from corral.testing.virtual.loop import Deadlock, VirtualLoop

# Time


@virtual
async def test_an_hour_passes_at_once_and_exactly() -> None:
    """Sleeping advances the time by exactly what was requested, and takes no real time."""
    loop, began = this(), time.monotonic()
    assert loop.virtual
    assert loop.time() == 1000.0
    await asyncio.sleep(3600)
    assert loop.time() == 4600.0
    await asyncio.sleep(30 * 365 * 86_400)  # where floating point loses nanoseconds
    assert loop.time() == 4600.0 + 30 * 365 * 86_400
    assert time.monotonic() - began < 60


@virtual
async def test_timers_run_in_their_order_each_at_its_time() -> None:
    """However close timers are to each other, none runs before its time, where its callback would find that
    it is too early."""
    loop = this()
    ran: list[tuple[str, float]] = []

    def note(name: str) -> None:
        ran.append((name, loop.time()))

    early = loop.time() + 0.3
    late = math.nextafter(early, math.inf)
    loop.call_at(late, note, "late")
    loop.call_at(early, note, "early")
    loop.call_later(0.1, note, "first")
    loop.call_at(early, note, "early too")
    loop.call_later(0.2, note, "never").cancel()
    await asyncio.sleep(1)
    assert ran == [("first", 1000.1), ("early", early), ("early too", early), ("late", late)]


@virtual
async def test_time_stands_still_while_anything_is_ready() -> None:
    """A thousand turns of the loop take no time, and no timer runs in them."""
    loop = this()
    fired: list[float] = []
    loop.call_later(0.001, lambda: fired.append(loop.time()))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert (loop.time(), fired) == (1000.0, [])
    await asyncio.sleep(0.001)
    assert fired == [1000.001]


@virtual
async def test_timeouts_are_exact() -> None:
    """Timeouts of asyncio and of anyio end their block exactly at their time, and not otherwise."""
    loop = this()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7.3):
            await asyncio.Event().wait()
    assert loop.time() == 1007.3
    async with asyncio.timeout(10):
        await asyncio.sleep(9.9)
    with anyio.move_on_after(5) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert loop.time() == pytest.approx(1022.2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(2), 1)


@virtual
async def test_task_groups_work_as_ever() -> None:
    """Task groups of asyncio and of anyio, with children that wait for different times, and a failure that
    ends them."""
    loop = this()
    ended: list[tuple[float, float]] = []

    async def child(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append((seconds, loop.time()))

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2):
            group.create_task(child(seconds))
    assert ended == [(1, 1001), (2, 1002), (3, 1003)]
    ended.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child, 5)
        tasks.start_soon(child, 50)
        await anyio.sleep(10)
        tasks.cancel_scope.cancel()
    assert ended == [(5, 1008), (50, 1013)]


@virtual
async def test_a_blocked_loop_reads_before_it_looks_at_its_timers() -> None:
    """`block` lets time pass while nothing runs. Afterwards received data is read before timers run, as in
    asyncio."""
    loop = this()
    order: list[str] = []
    async with pair() as (client, server):
        client.data_received = lambda data: order.append("data")
        loop.call_later(5, order.append, "timer")
        server.transport.write(b"x")
        loop.block(60)
        assert loop.time() == 1060
        assert order == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["data", "timer"]
        assert loop.time() == 1060
    with pytest.raises(UsageValueError, match=r"block\(-1\): time only goes forward"):
        loop.block(-1)


@virtual
async def test_all_that_is_due_happens_without_time_passing() -> None:
    """`wait_all_tasks_blocked` waits for messages in both directions, and for jobs in threads, but not for
    timers."""
    loop = this()
    later = asyncio.create_task(asyncio.sleep(1))
    done: list[int] = []

    async def chat() -> None:
        async with pair() as (client, server):
            for n in range(1, 4):
                client.transport.write(b"x")
                await server.got(n)
            done.append(await asyncio.to_thread(lambda: 4))

    chatting = asyncio.create_task(chat())
    await loop.wait_all_tasks_blocked()
    assert done == [4]
    assert chatting.done()
    assert loop.time() == 1000
    assert not later.done()
    await asyncio.gather(loop.wait_all_tasks_blocked(), loop.wait_all_tasks_blocked())
    await later


def test_two_runs_are_the_same_run() -> None:
    """With the same seed everything happens in the same order at the same times; with another seed it
    differs."""

    def trace(seed: int) -> list[tuple[float, str, int]]:
        seen: list[tuple[float, str, int]] = []

        async def chat(name: str, address: tuple[str, int]) -> None:
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(5):
                writer.write(bytes(100))
                await asyncio.sleep(this().rng.random())
                seen.append((this().time(), name, len(await reader.read(100))))
            writer.close()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        async def main() -> None:
            server = await asyncio.start_server(echo, LOOPBACK, 0)
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(chat(name, server.sockets[0].getsockname()))
            await asyncio.sleep(1)
            server.close()

        run(main(), functools.partial(VirtualLoop, seed=seed, latency=(0.01, 0.5), fragment=40))
        return seen

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


# Deadlocks, threads and real I/O


def test_a_loop_in_which_nothing_can_happen_says_so() -> None:
    """A deadlock raises instead of hanging, and the error names the waiting tasks; the loop can still be
    closed in order."""
    cleaned: list[str] = []

    async def forgotten() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            cleaned.append("up")

    async def main() -> None:
        waiting = asyncio.create_task(forgotten(), name="the one that nobody wakes")
        await asyncio.sleep(1)
        await waiting

    with (
        pytest.raises(Deadlock, match=r"at 1001\.0 s: .*the one that nobody wakes"),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        runner.run(main())
    assert cleaned == ["up"]


def test_a_loop_with_nothing_to_do_says_so() -> None:
    """`run_forever` raises, too; a loop that was stopped returns."""
    loop = VirtualLoop()
    try:
        with pytest.raises(Deadlock, match="These tasks wait: none"):
            loop.run_forever()
        loop.call_later(5, loop.stop)
        loop.run_forever()
        assert loop.time() == 1005
    finally:
        loop.close()


@virtual
async def test_a_job_takes_no_time() -> None:
    """While a thread works for it, the loop really waits, and no timer runs."""
    loop = this()
    released = threading.Event()

    def job() -> str:
        # Called from the thread, and therefore after the loop has begun to wait for it.
        loop.call_soon_threadsafe(released.set)
        assert released.wait(PATIENCE)
        return "done"

    async with asyncio.timeout(0.001):
        assert await asyncio.to_thread(job) == "done"
        assert await loop.run_in_executor(None, job) == "done"
    assert loop.time() == 1000


@virtual
async def test_a_job_that_is_awaited_no_more_holds_nothing_up() -> None:
    """When its wait is cancelled, a job continues in its thread, and time continues in the loop."""
    loop = this()
    begun, may_end = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        may_end.wait(PATIENCE)

    waiting = asyncio.create_task(asyncio.to_thread(job))
    await asyncio.sleep(0)
    assert begun.wait(PATIENCE)
    waiting.cancel()
    await asyncio.sleep(10)
    assert loop.time() == 1010
    may_end.set()


@virtual
async def test_a_thread_can_have_the_loop_run_something() -> None:
    """A job calls `run_coroutine_threadsafe`."""
    loop = this()

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(answer(), loop).result()) == 42


def test_a_loop_in_a_thread_waits_for_others() -> None:
    """Inside `awaiting_threads` a loop with nothing to do is no deadlock, and its timers do not run early."""
    loop = VirtualLoop()

    async def answer() -> float:
        return loop.time()

    with loop.awaiting_threads():
        thread = threading.Thread(target=loop.run_forever)
        loop.call_later(10, loop.stop)
        thread.start()
        assert asyncio.run_coroutine_threadsafe(answer(), loop).result(PATIENCE) == 1000
        assert asyncio.run_coroutine_threadsafe(answer(), loop).result(PATIENCE) == 1000
    loop.call_soon_threadsafe(lambda: None)  # so that it looks again
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert loop.time() == 1010
    loop.close()


@virtual
async def test_a_thread_of_ones_own_can_be_awaited() -> None:
    """Time stands still inside `awaiting_threads` until the thread has called."""
    loop = this()
    called = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(called.set))
    with loop.awaiting_threads():
        loop.call_soon(thread.start)
        async with asyncio.timeout(0.001):
            await called.wait()
    thread.join()


@virtual
async def test_a_real_file_descriptor_can_be_awaited() -> None:
    """While a file descriptor is watched, time stands still, as for a job."""
    loop = this()
    reading, writing = os.pipe()
    came: asyncio.Future[bytes] = loop.create_future()
    loop.add_reader(reading, lambda: came.set_result(os.read(reading, 10)))
    wait_really = loop._selector.wait_really

    def write_then_wait(seconds: float) -> bool:
        os.write(writing, b"x")  # only when the loop has begun to wait
        return wait_really(seconds)

    loop._selector.wait_really = write_then_wait  # type: ignore[method-assign]
    async with asyncio.timeout(0.001):
        assert await came == b"x"
    loop.remove_reader(reading)
    os.close(reading)
    os.close(writing)
    await asyncio.sleep(1)
    assert loop.time() == 1001


def test_debug_mode_and_eager_tasks_work() -> None:
    """The loop works in debug mode, and with eager tasks if Python has them."""

    async def main() -> None:
        loop = this()
        loop.set_debug(True)
        if factory := getattr(asyncio, "eager_task_factory", None):
            loop.set_task_factory(factory)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(5))
        async with pair() as (client, server):
            assert "read=polling" in repr(client.transport)
            client.transport.write(b"x")
            assert await server.got(1) == b"x"
        assert loop.time() == 1005

    run(main())


def test_what_is_left_open_is_complained_about() -> None:
    """A transport and a server that were not closed warn as asyncio's own do."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, LOOPBACK, 0)
        await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        await settle()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
            loop = runner.get_loop()
        gc.collect()
    assert loop.is_closed()  # kept alive until here, so that the objects are not collected with it
    said = sorted(str(each.message) for each in caught if each.category is ResourceWarning)
    assert any("unclosed transport" in each for each in said)
    assert any("unclosed <Listener ('127.0.0.1'" in each for each in said)


# Together with faults of the network


class Frames:
    """A server that echoes each frame, in ZooKeeper's format: a length, then that many bytes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ends: list[str] = []

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._talk, LOOPBACK, 0)
        try:
            yield f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                frame = await read_frame(reader)
                self.received.append(frame)
                write_frame(writer, frame)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.ends.append(type(error).__name__)
        finally:
            writer.close()


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))


def write_frame(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(len(frame).to_bytes(4) + frame)


CONNECT = bytes(44)


def request(xid: int, opcode: int = 11) -> bytes:
    """A message that a proxy can read as a request and as a reply, with that many bytes."""
    return struct.pack(">iiq", xid, opcode, 0)


@contextlib.asynccontextmanager
async def through(proxy: TcpProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has completed its handshake."""
    reader, writer = await asyncio.open_connection(LOOPBACK, int(proxy.address.rpartition(":")[2]))
    try:
        write_frame(writer, CONNECT)
        assert await read_frame(reader) == CONNECT
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Frames, FaultProxy]]:
    frames = Frames()
    async with frames.serve() as address, FaultProxy(address) as proxy:
        yield frames, proxy
    await this().wait_all_tasks_blocked()


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@virtual
async def test_a_proxy_cuts_a_virtual_connection(reset: bool) -> None:
    """The client gets FIN or RST, exactly at a point; the server sees the end of the connection."""
    async with proxied() as (frames, proxy), through(proxy) as (reader, writer):
        async with proxy.cut_at(committed("ping"), reset=reset) as cut:
            write_frame(writer, request(7))
            with pytest.raises(ConnectionResetError if reset else asyncio.IncompleteReadError):
                await read_frame(reader)
        assert cut.message is not None
        assert cut.message.xid == 7
        assert frames.received == [CONNECT, request(7)]
        await this().wait_all_tasks_blocked()
        assert frames.ends == ["IncompleteReadError"]
        async with through(proxy) as (reader, writer):
            write_frame(writer, request(8))
            assert await read_frame(reader) == request(8)
            await proxy.cut(reset=reset)
            with pytest.raises(ConnectionResetError if reset else asyncio.IncompleteReadError):
                await read_frame(reader)
        assert this().time() == 1000


@virtual
async def test_a_proxy_is_a_black_hole_for_an_hour() -> None:
    """What it withholds arrives when it ends, and not before."""
    async with proxied() as (frames, proxy), through(proxy) as (reader, writer):
        async with proxy.black_hole(before("ping")) as hole:
            write_frame(writer, request(1))
            await hole.fired.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    await read_frame(reader)
            assert frames.received == [CONNECT]
        assert await read_frame(reader) == request(1)
        assert this().time() == 4600


@virtual
async def test_a_proxy_delays_exactly() -> None:
    """Each direction takes the configured time, and order is kept."""
    async with proxied() as (_, proxy), through(proxy) as (reader, writer):
        async with proxy.delay(0.3):
            for xid in (1, 2):
                write_frame(writer, request(xid))
                await asyncio.sleep(0.1)
            assert await read_frame(reader) == request(1)
            assert this().time() == pytest.approx(1000.6)
            assert await read_frame(reader) == request(2)
            assert this().time() == pytest.approx(1000.7)


@virtual
async def test_a_proxy_refuses_and_half_opens() -> None:
    """New connections are reset; a half-open connection stays open for the client until the fault ends."""
    async with proxied() as (frames, proxy), through(proxy) as (reader, writer):
        async with proxy.refuse():
            with pytest.raises(ConnectionResetError):
                async with through(proxy):
                    pass
        async with proxy.half_open():
            await this().wait_all_tasks_blocked()
            assert frames.ends == ["IncompleteReadError"]
            write_frame(writer, request(1))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    await read_frame(reader)
        with pytest.raises(ConnectionResetError):
            await read_frame(reader)
        assert frames.received == [CONNECT]


@virtual
async def test_a_proxy_without_a_server_resets() -> None:
    """If no server listens behind the proxy, the client gets a reset, which is the closest to a refusal."""
    async with TcpProxy(f"{LOOPBACK}:1") as proxy:
        with pytest.raises(ConnectionResetError):
            async with through(proxy):
                pass
