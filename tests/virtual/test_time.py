"""Everything that the contract gives in seconds, to the millisecond: sessions, leases, backoff, time limits.
Nothing really waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

import corral
from corral import State
from corral.session.hosts import Backoff
from corral.testing import EmbeddedServer, FaultProxy, Message, VirtualLoop, before
from corral.wire import messages

T = 6.0
"""The session timeout, in seconds."""
TICK = 0.5
"""The tick of an embedded server."""


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


def client(proxy: FaultProxy, **options: float) -> corral.Client:
    return corral.connect(proxy.address, session_timeout=T, **options)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def times_of(proxy: FaultProxy, operation: str) -> AsyncIterator[list[float]]:
    """When each request of a kind reached the proxy, in seconds from now."""
    began, times = now(), list[float]()

    def note(message: Message) -> bool:
        if message.kind.value == "request" and message.operation == operation:
            times.append(now() - began)
        return False

    async with proxy.record(note):
        yield times


async def until(zk: corral.Client, wanted: State) -> float:
    """Wait until a client is in a state; returns when that was."""
    async for state in zk.states():
        if state is wanted:
            return now()
    raise AssertionError(f"never {wanted}")


async def test_an_idle_client_pings_each_third_of_its_timeout(proxy: FaultProxy) -> None:
    """S1: an idle client sends a ping every third of T, and nothing else."""
    async with client(proxy) as zk, times_of(proxy, "ping") as pings, proxy.record() as all_of_it:
        await asyncio.sleep(3 * T + 0.1)
        assert pings == pytest.approx([(n + 1) * T / 3 for n in range(9)])
        assert {message.operation for message in all_of_it} == {"ping"}
        assert zk.state is State.CONNECTED


async def test_a_holder_s_heartbeat_keeps_its_pace_whatever_else_is_asked(proxy: FaultProxy) -> None:
    """S1, S3: while something is held there is a heartbeat every T/6, whatever the other traffic."""

    async def traffic(zk: corral.Client) -> None:
        while True:
            await zk.exists("/")
            await asyncio.sleep(T / 50)

    async with client(proxy) as zk, zk.lock("/lock"), times_of(proxy, "transaction") as heartbeats:
        reading = asyncio.create_task(traffic(zk))
        await asyncio.sleep(2 * T)
        reading.cancel()
    gaps = [later - earlier for earlier, later in pairwise(heartbeats)]
    assert gaps == pytest.approx([T / 6] * len(gaps), abs=0.01)
    assert len(gaps) >= 10


@pytest.mark.parametrize(("held", "part"), [(False, 1 / 2), (True, 1 / 3)], ids=["idle", "holding"])
async def test_silence_drops_the_connection_after_a_part_of_the_timeout(
    proxy: FaultProxy, held: bool, part: float
) -> None:
    """S1: if no answer comes for half of T, the connection is dropped; while something is held, if a
    heartbeat is not answered for a third of T."""
    async with client(proxy) as zk, contextlib.AsyncExitStack() as stack:
        if held:
            await stack.enter_async_context(zk.lock("/lock"))
            point = before("transaction")
        else:
            point = before("ping")
        async with proxy.black_hole(point) as hole:
            await hole.fired.wait()
            silent_since = now()
            assert await until(zk, State.SUSPENDED) - silent_since == pytest.approx(T * part, abs=0.001)


async def test_a_holder_is_told_before_anybody_else_can_hold(
    server: EmbeddedServer, proxy: FaultProxy, other: corral.Client
) -> None:
    """L4, S3: at whatever point of its heartbeat period a holder is cut off, it is notified before the server
    lets another client hold, and not much earlier than necessary."""
    steps = 40
    for step in range(steps):
        async with client(proxy) as zk:
            held = await zk.lock("/lock").acquire()
            await asyncio.sleep(T + step * T / 6 / steps)
            waiting = asyncio.create_task(other.lock("/lock").acquire())
            async with proxy.black_hole():
                cut_at = now()
                error = await held.wait_lost()
                told = now() - cut_at
                next_held = await waiting
                entered = now() - cut_at
            assert isinstance(error, corral.LockLost)
            assert T / 3 < told < entered <= T + TICK
            await next_held.release()


async def test_an_expired_session_is_replaced_by_the_client_s_own_clock(
    proxy: FaultProxy, other: corral.Client
) -> None:
    """S3: the session is over after T and a margin of T/2 without contact, even if no server can be reached.
    If a server is being asked just then, that may take T/2 longer at most. The next server that is reached
    grants a new session."""
    async with client(proxy) as zk:
        await zk.create("/mine", ephemeral=True)
        first = zk.session_id
        async with proxy.black_hole():
            heard_last = now()
            assert T * 1.5 - 0.001 <= await until(zk, State.EXPIRED) - heard_last <= T * 2
            assert await other.exists("/mine") is None
            bound = asyncio.create_task(zk.get("/"))
        await bound
        assert zk.session_id not in (0, first)
        assert zk.state is State.CONNECTED


async def test_a_session_outlives_what_its_timeout_covers(proxy: FaultProxy) -> None:
    """S3: after less than T without contact the session is the same, and its ephemerals still exist."""
    async with client(proxy) as zk:
        await zk.create("/mine", ephemeral=True)
        first = zk.session_id
        async with proxy.refuse():
            await proxy.cut()
            await asyncio.sleep(T - Backoff.LONGEST - 0.1)
        assert await zk.exists("/mine") is not None
        assert zk.session_id == first


async def test_retries_are_at_once_and_then_further_and_further_apart(server: EmbeddedServer) -> None:
    """S1: the first retry is immediate; then the delays double from 50 ms to 2 s, with jitter. When a server
    is available again, the client is connected within the longest delay."""
    async with corral.connect(server.address, session_timeout=T) as zk:
        await server.kill()
        down_since = now()
        await asyncio.sleep(60)
        await server.start()
        back = now()
        await until(zk, State.CONNECTED)
        assert 0 < now() - back <= Backoff.LONGEST
        assert back - down_since == 60


async def test_without_a_leader_nothing_is_given_up(proxy: FaultProxy) -> None:
    """S2, S4: servers without a leader reject every client without an answer, for a quarter of an hour:
    requests wait, and a watch continues afterwards, whether the session is over or not."""
    async with client(proxy) as zk, zk.watch("/node") as events:
        await anext(events)
        async with proxy.refuse():
            await proxy.cut()
            reading = asyncio.create_task(zk.exists("/"))
            creating = asyncio.create_task(zk.create("/node"))
            await asyncio.sleep(900)
            assert not reading.done()
        assert await reading is not None
        assert await creating == "/node"
        assert (await anext(events)).kind is corral.EventKind.CREATED


@pytest.mark.parametrize("beside", ["nobody", "one that is down", "one that takes nobody"])
async def test_an_ensemble_that_went_back_in_time(server: EmbeddedServer, beside: str) -> None:
    """S4: a client that is rejected for longer than T by a server that accepts others gets an error that says
    that the client has seen more than the server, whatever the other servers do."""
    async with EmbeddedServer() as another, FaultProxy(another.address) as third, third.refuse():
        hosts = {"nobody": [], "one that is down": ["127.0.0.1:1"], "one that takes nobody": [third.address]}[
            beside
        ]
        async with corral.connect([server.address, *hosts], session_timeout=T) as zk:
            await zk.create("/node")
            for _ in range(100):  # each session takes the new server two zxids further
                newest = (await zk.set("/node", b"new")).mzxid
            port = int(server.address.rpartition(":")[2])
            await server.close()
            async with EmbeddedServer(port=port):
                back = now()
                with pytest.raises(
                    corral.EnsembleBehind, match=f"we have seen 0x{newest:x}: the ensemble was restored"
                ):
                    await zk.get("/node")
                assert T < now() - back < T + 5 * Backoff.LONGEST


async def test_an_ensemble_that_went_back_is_the_end(server: EmbeddedServer) -> None:
    """S4, K5: `EnsembleBehind` is final: the state is closed, its stream ends, and every request, wait and
    access to a cache raises it. Leaving raises nothing."""
    async with corral.connect(server.address, session_timeout=T) as zk, zk.cache("/") as cache:
        states = zk.states()
        for _ in range(100):
            await zk.create("/node-", sequential=True)
        leaders = zk.election("/election").leaders()
        assert await anext(leaders) is None
        observing = asyncio.create_task(leaders.__anext__())
        port = int(server.address.rpartition(":")[2])
        await server.close()
        async with EmbeddedServer(port=port):
            with pytest.raises(corral.EnsembleBehind):
                await zk.get("/")
        assert [state async for state in states][-1] is corral.State.CLOSED
        with pytest.raises(corral.EnsembleBehind):
            await observing
        for use in (
            lambda: zk.get("/"),
            lambda: zk.lock("/l").acquire(),
            lambda: anext(zk.watch("/")),
            lambda: anext(zk.election("/election").leaders()),
        ):
            with pytest.raises(corral.EnsembleBehind):
                await use()
        with pytest.raises(corral.EnsembleBehind):
            cache.get("/")


class Gate:
    """In front of a server: while it is shut, it rejects every client that has seen a transaction before,
    without an answer, as a server does that has no free connections."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self.is_shut = False
        self.strangers = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(writer.close)
            size = await reader.readexactly(4)
            greeting = await reader.readexactly(int.from_bytes(size))
            if self.is_shut and messages.decode_connect(greeting, 0, len(greeting)).last_zxid > 0:
                return
            self.strangers += self.is_shut
            host, _, port = self._server.address.rpartition(":")
            from_server, to_server = await asyncio.open_connection(host, int(port))
            stack.callback(to_server.close)
            to_server.write(size + greeting)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, to_server))
                group.create_task(self._pass_on(from_server, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


async def test_a_server_that_has_room_for_others_alone(server: EmbeddedServer) -> None:
    """S4: a server that accepts others need not have seen less than the client: the client waits until the
    server accepts it."""
    gate = Gate(server)
    async with await asyncio.start_server(gate.serve, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        async with corral.connect(f"{host}:{port}", session_timeout=T) as zk:
            for _ in range(100):
                await zk.set("/", b"")
            gate.is_shut = True
            await server.kill()
            await server.start()
            reading = asyncio.create_task(zk.exists("/"))
            await asyncio.sleep(10 * T)
            assert gate.strangers >= 1
            assert not reading.done()
            gate.is_shut = False
            assert await reading is not None


async def test_one_timeout_for_a_whole_acquire(proxy: FaultProxy, other: corral.Client) -> None:
    """L3: `asyncio.timeout(2)` around an acquire ends it after 2 s, to the millisecond, even in a black hole;
    its node is deleted as soon as a server can be reached."""
    async with client(proxy) as zk:
        for point in (before("create"), before("children"), None):
            async with proxy.black_hole(point):
                began = now()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2):
                        await zk.lock("/lock").acquire()
                assert now() - began == pytest.approx(2, abs=0.001)
            await zk.sync()
            assert await other.lock("/lock").contenders() == []


async def test_releasing_in_a_black_hole_ends_with_the_lease(proxy: FaultProxy, other: corral.Client) -> None:
    """L6: while disconnected a release waits at most until the lease ends, does not raise, and is carried out
    when a server can be reached."""
    async with client(proxy) as zk:
        held = await zk.lock("/lock").acquire()
        await asyncio.sleep(T)
        async with proxy.black_hole():
            began = now()
            await held.release()
            assert 0 < now() - began < T
        await zk.sync()
        assert await other.lock("/lock").contenders() == []


@pytest.mark.parametrize(("timeout", "bound"), [(6.0, 2.0), (20.0, 5.0)])
async def test_closing_is_bounded(proxy: FaultProxy, timeout: float, bound: float) -> None:
    """S5: a client that no server answers closes within a third of T, 5 s at most."""
    async with FaultProxy(proxy.address) as own:
        zk = corral.connect(own.address, session_timeout=timeout)
        async with zk:
            pass
        async with corral.connect(own.address, session_timeout=timeout) as zk, own.black_hole():
            assert zk.session_timeout == min(timeout, 20 * TICK)
            began = now()
            await zk.close()
            assert now() - began == pytest.approx(min(zk.session_timeout / 3, bound), abs=0.001)


async def test_connecting_is_bounded(proxy: FaultProxy) -> None:
    """S1: `connect_timeout` is kept to the millisecond, whatever the servers do."""
    async with proxy.black_hole():
        began = now()
        with pytest.raises(corral.ConnectTimeout):
            await client(proxy, connect_timeout=3.7).__aenter__()
        assert now() - began == pytest.approx(3.7, abs=0.001)


async def test_a_blocked_loop_is_told_of_its_loss_before_any_answer(
    proxy: FaultProxy, other: corral.Client
) -> None:
    """S9: if the loop was blocked for longer than the lease, and the answer to a request is in the socket,
    the loss is declared before the answer is resolved."""
    async with client(proxy) as zk:
        held = await zk.lock("/lock").acquire()
        order = list[str]()

        async def read() -> None:
            await zk.get("/")
            order.append(f"answer, held: {held.is_valid}")

        async def watch() -> None:
            await held.wait_lost()
            order.append("lost")

        reading, watching = asyncio.create_task(read()), asyncio.create_task(watch())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop().block(2 * T)
        await asyncio.wait([reading, watching])
        assert not held.is_valid
        assert order == ["lost", "answer, held: False"]


def test_the_same_seed_gives_the_same_run() -> None:
    """The test controls time and randomness: a run of cuts and retries can be repeated, to the last
    message."""

    async def story() -> list[tuple[float, str]]:
        seen = list[tuple[float, str]]()

        def note(message: Message) -> bool:
            seen.append((now(), f"{message.kind.value} {message.operation}"))
            return False

        async with EmbeddedServer(seed=3) as server, FaultProxy(server.address) as proxy:
            async with proxy.record(note), corral.connect(proxy.address, session_timeout=T) as zk:
                for _ in range(3):
                    async with zk.lock("/lock"):
                        await proxy.cut(reset=True)
                        await asyncio.sleep(1)
        return seen

    runs = []
    for seed in (1, 1, 2):
        with asyncio.Runner(loop_factory=lambda seed=seed: VirtualLoop(seed=seed)) as runner:
            runs.append(runner.run(story()))
    assert runs[0] == runs[1] != runs[2]


async def last_state(zk: corral.Client, what: str) -> None:
    """Follow /node in one of several ways, until its data, or the name of its only child, is the last."""
    match what:
        case "node":
            await zk.wait_until("/node", lambda event: event.data == b"last")
        case "children":
            await zk.wait_children("/node", lambda event: "last" in event.children)
        case "tree":
            async for event in zk.watch_tree("/node"):
                if event.data == b"last":
                    return
        case "cache":
            async with zk.cache("/node") as cache:
                if cache["/node"].data != b"last":
                    async for event in cache.changes():
                        if event.data == b"last":
                            break
                assert cache["/node"].data == b"last"


@pytest.mark.parametrize("length", [0.05, 1.0, 3.0, 7.0, 60.0])
@pytest.mark.parametrize("fault", ["black hole", "no answers", "refused", "server away", "session over"])
@pytest.mark.parametrize("what", ["node", "children", "tree", "cache"])
async def test_the_last_state_comes_within_a_second_of_the_fault_s_end(
    server: EmbeddedServer, proxy: FaultProxy, what: str, fault: str, length: float
) -> None:
    """W3: however long nothing gets through, or there is no server, and even if the session ends: a second
    after the end of the outage every watcher knows the last change."""
    async with corral.connect(server.address) as other, client(proxy) as zk:
        await other.create("/node")
        following = asyncio.create_task(last_state(zk, what))
        await asyncio.sleep(1)
        async with contextlib.AsyncExitStack() as faults:
            if fault == "black hole":
                await faults.enter_async_context(proxy.black_hole())
            elif fault == "no answers":
                await faults.enter_async_context(proxy.black_hole(requests=False))
            elif fault == "refused":
                await faults.enter_async_context(proxy.refuse())
                await proxy.cut()
            for number in range(3):
                await other.set("/node", b"%d" % number)
                await asyncio.sleep(length / 4)
            await asyncio.gather(other.create("/node/last"), other.set("/node", b"last"))
            if fault == "session over":
                await proxy.expire(zk.session_id)
            elif fault == "server away":
                await server.stop()
                await asyncio.sleep(length / 4)
                await server.start()
            else:
                await asyncio.sleep(length / 4)
        ended = now()
        await following
        assert now() - ended <= 1.0
