"""Read-only servers on the virtual clock: what is answered, refused and delayed, and what that proves (T3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import corral
from corral import State
from corral.testing import EmbeddedServer, FaultProxy, Message, MessageKind, VirtualLoop, committed
from corral.wire import messages
from support import turns, until, within

T = 6.0
ONE_ROUND = 2.0
"""Seconds in which the client has tried its one server again, in any state."""

Mode = Literal[True, "wait"]


def now() -> float:
    return asyncio.get_running_loop().time()


class Net:
    """A server that may become a read-only one, and a proxy in front of it, through which our client connects."""

    def __init__(self, server: EmbeddedServer, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.requests: list[Message] = []

    async def be_read_only(self) -> None:
        """The server loses its quorum: it closes all connections, and goes on as a read-only server."""
        self.server.zookeeper.read_only = True
        await self.proxy.cut()

    def be_read_write(self) -> None:
        """The server takes writes again. Unlike a real one it keeps the connections of read-only clients."""
        self.server.zookeeper.read_only = False

    def counts(self, start: int = 0) -> Counter[str]:
        """How often each operation was requested since then."""
        return Counter(message.operation for message in self.requests[start:])

    @contextlib.asynccontextmanager
    async def client(self, read_only: Mode = True, **options: Any) -> AsyncIterator[corral.Client]:
        options = {"session_timeout": T, **options}
        async with corral.connect(self.proxy.address, read_only=read_only, **options) as zk:
            yield zk


@pytest.fixture
async def net(server: EmbeddedServer, proxy: FaultProxy) -> AsyncIterator[Net]:
    net = Net(server, proxy)

    def note(message: Message) -> bool:
        if message.kind is MessageKind.REQUEST:
            net.requests.append(message)
        return False

    async with proxy.record(note):
        yield net


async def until_state(zk: corral.Client, *states: State) -> None:
    async def is_there() -> bool:
        return zk.state in states

    await until(is_there, f"{states}")


class States:
    """The states of a client, with times."""

    def __init__(self, zk: corral.Client) -> None:
        self.seen: list[tuple[State, float]] = []
        self._task = asyncio.create_task(self._follow(zk))

    async def _follow(self, zk: corral.Client) -> None:
        async for state in zk.states():
            self.seen.append((state, now()))

    @property
    def names(self) -> list[State]:
        return [state for state, _ in self.seen]

    def at(self, state: State) -> float:
        return next(at for each, at in self.seen if each is state)


WRITES: dict[str, Callable[[corral.Client], Awaitable[object]]] = {
    "create": lambda zk: zk.create("/new"),
    "create, with its parents": lambda zk: zk.create("/x/y", make_parents=True),
    "create, ephemeral": lambda zk: zk.create("/new", ephemeral=True),
    "create, container": lambda zk: zk.create("/new", container=True),
    "create, ttl": lambda zk: zk.create("/new", ttl=5),
    "set": lambda zk: zk.set("/data", b"new"),
    "delete": lambda zk: zk.delete("/data"),
    "delete, recursive": lambda zk: zk.delete("/data", recursive=True),
    "set_acl": lambda zk: zk.set_acl("/data", corral.acl.OPEN),
    "sync": lambda zk: zk.sync("/data"),
    "ensure_path": lambda zk: zk.ensure_path("/x/y"),
    "transaction": lambda zk: _transact(zk),
    "lock": lambda zk: zk.lock("/lock").acquire(),
    "try_acquire": lambda zk: zk.lock("/lock").try_acquire(),
    "registration": lambda zk: zk.registration("/me").__aenter__(),
    "value": lambda zk: zk.value("/value").set(b"x"),
    "counter": lambda zk: zk.counter("/counter").add(1),
    "queue": lambda zk: zk.queue("/queue").put(b"x"),
    "barrier": lambda zk: zk.barrier("/barrier").close(),
}


async def _transact(zk: corral.Client) -> None:
    async with zk.transaction() as tx:
        tx.set("/data", b"new")


@pytest.mark.parametrize("is_new", [False, True], ids=["session", "no session"])
@pytest.mark.parametrize("name", WRITES)
async def test_a_write_is_refused(net: Net, other: corral.Client, name: str, is_new: bool) -> None:
    """T3: while only a read-only server answers, a write raises NotReadOnly, at once, and sends nothing, whether the
    client has a session or never had one. Nothing of it stays, and nothing of it is done later."""
    await other.create("/data", b"old")
    if is_new:
        await net.be_read_only()
    async with net.client() as zk:
        if not is_new:
            await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        start = len(net.requests)
        tasks = asyncio.all_tasks()
        with pytest.raises(corral.NotReadOnly) as refusal:
            await within(WRITES[name](zk))
        assert "read-only" in str(refusal.value)
        assert isinstance(refusal.value, corral.ServerError)
        sent = net.counts(start)
        assert not {"create", "set", "delete", "set_acl", "sync", "transaction"} & set(sent)
        assert asyncio.all_tasks() <= tasks
        assert (await zk.get("/data"))[0] == b"old"
        net.be_read_write()
        await until_state(zk, State.CONNECTED)
        await zk.sync()
        await asyncio.sleep(0.1)
        assert sorted(await other.children("/")) == ["data", "zookeeper"]
        assert zk.statistics().waiting == 0


@pytest.mark.parametrize("read_only", [True, "wait"])
async def test_reads_are_answered(net: Net, other: corral.Client, read_only: Mode) -> None:
    """T3: every kind of read is answered, a watch reports the state, a cache is loaded, and recipes can be looked
    at; also by a client that has never had a session."""
    await other.create("/data", b"old")
    await other.create("/data/child", b"1")
    async with other.lock("/lock", data=b"holder"):
        await net.be_read_only()
        async with net.client(read_only) as zk, zk.chroot("/data").cache("/") as cache:
            assert zk.state is State.READ_ONLY
            assert zk.server == net.proxy.address == zk.statistics().server
            assert zk.session_id == 0
            assert (await zk.get("/data"))[0] == b"old"
            assert await zk.exists("/nothing") is None
            assert await zk.children("/data") == ["child"]
            assert (await zk.get_acl("/data"))[0] == list(corral.acl.OPEN)
            assert (await anext(zk.watch("/data"))).data == b"old"
            assert cache.get("/child").data == b"1"
            assert [each.data for each in await zk.lock("/lock").contenders()] == [b"holder"]
            assert zk.statistics().bytes_received > 0
        net.be_read_write()


async def test_a_client_that_does_not_want_it(net: Net) -> None:
    """T3: without read_only=True a client does not read from a read-only server, and waits instead."""
    await net.be_read_only()
    with pytest.raises(corral.ConnectTimeout):
        await corral.connect(net.proxy.address, session_timeout=T, connect_timeout=5).__aenter__()


async def test_a_server_that_takes_writes_comes_first(net: Net, server: EmbeddedServer) -> None:
    """T3: of two servers, one of them read-only, the client takes the other one, whichever it tries first."""
    server.zookeeper.read_only = True
    async with EmbeddedServer() as healthy:
        for _ in range(8):
            hosts = f"{server.address},{healthy.address}"
            async with corral.connect(hosts, session_timeout=T, read_only=True) as zk:
                assert zk.state is State.CONNECTED
                assert zk.server == healthy.address


async def test_waiting_writes(net: Net, other: corral.Client) -> None:
    """T3: with read_only="wait" writes wait, in their order, and reads do not wait for them. A cancelled one is never
    sent. When a server takes writes, the others are sent."""
    await other.create("/data", b"old")
    async with net.client("wait") as zk:
        await net.be_read_only()
        before = asyncio.create_task(zk.create("/log-", b"before", sequential=True))
        await until_state(zk, State.READ_ONLY)
        writes = [asyncio.create_task(zk.create("/log-", b"%d" % n, sequential=True)) for n in range(5)]
        await turns()
        writes.pop(2).cancel()
        assert (await within(zk.get("/data")))[0] == b"old"
        assert sorted(await within(zk.children("/"))) == ["data", "zookeeper"]
        await asyncio.sleep(T / 2)
        assert not any(write.done() for write in writes)
        assert not net.counts()["create"]
        net.be_read_write()
        paths = [await within(write) for write in (before, *writes)]
        assert paths == sorted(paths)
        assert [(await zk.get(path))[0] for path in paths] == [b"before", b"0", b"1", b"3", b"4"]
        assert zk.state is State.CONNECTED


async def test_what_waited_when_it_became_read_only(net: Net, other: corral.Client) -> None:
    """T3: what was requested without any server is sorted when a read-only server is found: reads are answered,
    writes refused."""
    await other.create("/data", b"old")
    async with net.client() as zk:
        async with net.proxy.refuse():
            await net.be_read_only()
            await until_state(zk, State.SUSPENDED)
            write = asyncio.create_task(zk.set("/data", b"new"))
            read = asyncio.create_task(zk.get("/data"))
            await asyncio.sleep(0.1)
            assert not read.done()
            assert not write.done()
        assert (await within(read))[0] == b"old"
        with pytest.raises(corral.NotReadOnly):
            await within(write)


@pytest.mark.parametrize("how", ["closed", "expired"])
async def test_the_end_of_a_waiting_write(net: Net, how: str) -> None:
    """T3, S2: a write that waits raises ClientClosed when the client is closed. One that is bound to the session
    raises SessionExpired when that expires, and another one waits on, and is sent in the new session."""
    async with net.client("wait") as zk:
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        bound = asyncio.create_task(zk.create("/ephemeral", ephemeral=True))
        free = asyncio.create_task(zk.create("/persistent"))
        await turns()
        if how == "closed":
            await zk.close()
            for write in (bound, free):
                with pytest.raises(corral.ClientClosed):
                    await within(write)
            return
        await asyncio.sleep(2 * T)
        with pytest.raises(corral.SessionExpired):
            await within(bound)
        assert not free.done()
        net.be_read_write()
        assert await within(free) == "/persistent"


@pytest.mark.parametrize("read_only", [True, "wait"])
async def test_a_read_only_server_proves_nothing(net: Net, server: EmbeddedServer, read_only: Mode) -> None:
    """S3, S9: what a read-only server answers renews no lease: a lock is lost when the lease that the last quorum
    write has proven ends, however much is read meanwhile. The session counts as expired when it would without any
    contact. Both are states in between, and no heartbeat is sent."""
    async with net.client(read_only) as zk:
        states = States(zk)
        holder = await zk.lock("/lock").acquire()
        await asyncio.sleep(T)
        session = zk.session_id
        await net.be_read_only()
        lost_contact = now()
        ends = now() + (zk.statistics().lease_left or 0)
        start = len(net.requests)
        await until_state(zk, State.READ_ONLY)
        while now() < lost_contact + 2 * T:
            await zk.exists("/")
            assert holder.is_valid == (now() < ends)
            await asyncio.sleep(0.05)
        await turns()
        assert states.names == [
            State.CONNECTED, State.SUSPENDED, State.READ_ONLY, State.LAPSED, State.READ_ONLY, State.EXPIRED,
            State.READ_ONLY,
        ]  # fmt: skip
        assert states.at(State.LAPSED) == pytest.approx(ends, abs=0.001)
        assert lost_contact + T <= states.at(State.EXPIRED) <= lost_contact + 1.5 * T
        assert not net.counts(start)["transaction"]
        assert isinstance(await holder.wait_lost(), corral.LockLost)
        net.be_read_write()
        await until_state(zk, State.CONNECTED)
        assert zk.session_id not in (0, session)


async def test_the_session_goes_on(net: Net, other: corral.Client) -> None:
    """T3, S3: when a server takes writes again within the session, the client has the session that it had, with its
    ephemerals and its lock, although it has read elsewhere in between. The read-only server's session is closed."""
    async with net.client() as zk:
        states = States(zk)
        session = zk.session_id
        await zk.create("/ephemeral", ephemeral=True)
        async with zk.lock("/lock") as held:
            await net.be_read_only()
            await until_state(zk, State.READ_ONLY)
            assert zk.session_id == session
            await zk.get("/ephemeral")
            net.be_read_write()
            began = now()
            await until_state(zk, State.CONNECTED)
            assert now() - began <= ONE_ROUND
            assert held.is_valid
            await asyncio.sleep(2 * T)
            assert held.is_valid
        assert zk.session_id == session
        await turns()
        assert states.names == [State.CONNECTED, State.SUSPENDED, State.READ_ONLY, State.CONNECTED]
        assert len(net.server.zookeeper.sessions) == 2  # ours and the other client's


async def test_the_search_is_bounded(net: Net) -> None:
    """T3, S1: while only a read-only server answers, the client looks for another one at least every second or so, and
    not much more often."""
    async with net.client() as zk:
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        await asyncio.sleep(20)
        start, began = len(net.requests), now()
        await asyncio.sleep(100)
        attempts = net.counts(start)["connect"]
        assert 100 <= attempts <= 300, attempts
        net.be_read_write()
        await until_state(zk, State.CONNECTED)
        assert now() - began - 100 <= ONE_ROUND


async def test_reads_move_with_the_client(net: Net, other: corral.Client) -> None:
    """T3, S2: reads that are under way when the client moves, there or back, are answered. Moving on purpose does not
    count as a connection that died on them."""
    await other.create("/data", b"old")
    async with net.client() as zk:

        async def read() -> None:
            while True:
                assert (await zk.get("/data"))[0] == b"old"
                await asyncio.sleep(0.001)

        readers = [asyncio.create_task(read()) for _ in range(20)]
        for _ in range(10):
            await net.be_read_only()
            await until_state(zk, State.READ_ONLY)
            net.be_read_write()
            await until_state(zk, State.CONNECTED)
        await turns()
        assert not any(reader.done() for reader in readers)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


async def test_the_read_only_connection_is_lost(net: Net, other: corral.Client) -> None:
    """T3: when the connection to the read-only server breaks, the client is SUSPENDED, and reads wait until it is
    connected again, to whichever kind of server."""
    await other.create("/data", b"old")
    async with net.client() as zk:
        states = States(zk)
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        async with net.proxy.refuse():
            await net.proxy.cut()
            await until_state(zk, State.SUSPENDED)
            read = asyncio.create_task(zk.get("/data"))
            await asyncio.sleep(0.1)
            assert not read.done()
        assert (await within(read))[0] == b"old"
        assert zk.state is State.READ_ONLY
        await turns()
        assert states.names[-3:] == [State.READ_ONLY, State.SUSPENDED, State.READ_ONLY]


async def test_a_read_only_server_that_falls_silent(net: Net, other: corral.Client) -> None:
    """T3, S1: a read-only server that answers nothing for half of the session timeout is left."""
    await other.create("/data", b"old")
    async with net.client() as zk:
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        async with net.proxy.black_hole():
            read = asyncio.create_task(zk.get("/data"))
            began = now()
            await until_state(zk, State.SUSPENDED, State.EXPIRED)
            assert now() - began <= T / 2 + T / 3 + 0.1
        assert (await within(read))[0] == b"old"


class Changes:
    """What a watch reports."""

    def __init__(self, zk: corral.Client, path: str) -> None:
        self.data: list[bytes | None] = []
        self._task = asyncio.create_task(self._follow(zk, path))

    async def _follow(self, zk: corral.Client, path: str) -> None:
        with contextlib.suppress(corral.ClientClosed):
            async for event in zk.watch(path):
                self.data.append(event.data)

    async def until(self, *data: bytes) -> None:
        async def is_there() -> bool:
            return self.data == list(data)

        await until(is_there, f"{data}, but {self.data}", patience=T / 2)


@pytest.mark.parametrize("is_missed", [False, True], ids=["nothing missed", "a change missed"])
async def test_watches(net: Net, other: corral.Client, is_missed: bool) -> None:
    """W1, W3: a watch goes on over a read-only server: a change that was missed before is read there, one that follows
    is read when the client is back, none twice. A watch, or a cache, that begins there does the same."""
    paths = ("/old", "/new", "/cached")
    for path in paths:
        await other.create(path, b"1")
    async with net.client() as zk:
        states = States(zk)
        old = Changes(zk, "/old")
        await old.until(b"1")
        async with net.proxy.refuse():
            await net.proxy.cut()
            if is_missed:
                for path in paths:
                    await other.set(path, b"2")
            net.server.zookeeper.read_only = True
        await until_state(zk, State.READ_ONLY)
        seen = [b"1", b"2"] if is_missed else [b"1"]
        await old.until(*seen)
        new = Changes(zk, "/new")
        await new.until(seen[-1])
        async with zk.cache("/cached") as cache:
            assert cache["/cached"].data == seen[-1]
            async with net.proxy.refuse():
                await net.proxy.cut()
                net.be_read_write()
                for path in paths:
                    await other.set(path, b"3")
            await until_state(zk, State.CONNECTED)
            await old.until(*seen, b"3")
            await new.until(seen[-1], b"3")
            for path in paths:
                await other.set(path, b"4")
            await old.until(*seen, b"3", b"4")
            await new.until(seen[-1], b"3", b"4")
            await zk.sync()
            assert cache["/cached"].data == b"4"
        assert zk.statistics().watches["node"] == 2
        assert State.EXPIRED not in states.names


async def test_a_change_while_moving(net: Net, other: corral.Client) -> None:
    """W3: a change that comes right when the server takes writes again, before the client has moved, is seen."""
    await other.create("/data", b"0")
    async with net.client() as zk:
        changes = Changes(zk, "/data")
        await changes.until(b"0")
        seen = [b"0"]
        for n in range(1, 6):
            await net.be_read_only()
            await until_state(zk, State.READ_ONLY)
            net.be_read_write()
            await other.set("/data", b"%d" % n)
            seen.append(b"%d" % n)
            await changes.until(*seen)
            await until_state(zk, State.CONNECTED)


async def test_a_read_only_server_that_is_behind(net: Net, other: corral.Client) -> None:
    """T3: a read-only server that has seen less than we have turns us away, and we do not go back in time."""
    await other.create("/data", b"old")
    async with EmbeddedServer(read_only=True) as behind:
        async with corral.connect(
            f"{net.proxy.address},{behind.address}", session_timeout=T, read_only=True
        ) as zk:
            assert zk.server == net.proxy.address
            await zk.get("/data")
            async with net.proxy.refuse():
                await net.proxy.cut()
                await asyncio.sleep(T)
                assert zk.state is State.SUSPENDED
            await until_state(zk, State.CONNECTED)


async def test_credentials(net: Net, other: corral.Client) -> None:
    """T3, S4: the credentials are presented to read-only servers, too, and those that are added there."""
    for user in ("one", "two"):
        await other.create(f"/{user}", b"x", acl=corral.acl.digest(user, "secret"))
    async with net.client(auth=[("digest", b"one:secret")]) as zk:
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        assert (await zk.get("/one"))[0] == b"x"
        with pytest.raises(corral.NoAuth):
            await zk.get("/two")
        zk.add_auth("digest", b"two:secret")
        assert (await zk.get("/two"))[0] == b"x"
        net.be_read_write()
        await until_state(zk, State.CONNECTED)
        assert (await zk.get("/one"))[0] == (await zk.get("/two"))[0] == b"x"


async def test_a_lock_that_waits(net: Net, other: corral.Client) -> None:
    """T3, L3: with read_only="wait" acquiring waits for a server that takes writes. The list of the line waits with the
    create before it, so the line is joined once; others can be read meanwhile. Cancelled, it leaves nothing."""
    theirs = await other.lock("/lock", data=b"theirs").acquire()
    async with net.client("wait") as zk:
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        lock = zk.lock("/lock")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await lock.acquire()
        acquiring = asyncio.create_task(lock.acquire())
        await turns()
        assert [each.data for each in await within(lock.contenders())] == [b"theirs"]
        assert not acquiring.done()
        net.be_read_write()
        await until_state(zk, State.CONNECTED)
        await theirs.release()
        held = await within(acquiring)
        assert held.is_valid
        assert len(await other.children("/lock")) == 1
        assert net.counts()["create"] == 1
        await held.release()


@pytest.mark.parametrize("read_only", [True, "wait"])
async def test_what_was_held_goes_later(net: Net, other: corral.Client, read_only: Mode) -> None:
    """T3, L6: releasing a lock, or cancelling an acquire, while only a read-only server answers ends in time, and the
    node goes when a server takes writes: the deletion waits also where writes raise."""
    async with net.client(read_only) as zk, other.lock("/other"):
        held = await zk.lock("/lock").acquire()
        waiting = asyncio.create_task(zk.lock("/other").acquire())

        async def is_in_line() -> bool:
            return len(await other.children("/other")) == 2

        await until(is_in_line, "the waiter is in line")
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        began = now()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert now() == began
        await held.release()
        assert now() - began <= T
        assert len(net.server.zookeeper.tree.nodes["/lock"].children.listed()) == 1
        net.be_read_write()

        async def are_gone() -> bool:
            return not await other.children("/lock") and len(await other.children("/other")) == 1

        await until(are_gone, "nothing of ours is in line")


@pytest.mark.parametrize("name", ["counter", "lock", "ensure_path"])
async def test_an_unknown_outcome_is_not_called_a_refusal(net: Net, other: corral.Client, name: str) -> None:
    """T3, X1: a write whose answer was lost may have been applied. Whoever finds out what happened, or repeats it,
    does not say NotReadOnly, but waits for a server that can tell."""
    await other.counter("/counter").add(1)
    await other.lock("/lock").try_acquire()
    async with net.client() as zk:
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "counter": lambda: zk.counter("/counter").add(1),
            "lock": lambda: zk.lock("/lock").try_acquire(),
            "ensure_path": lambda: zk.ensure_path("/new"),
        }
        operation = "transaction" if name == "counter" else "create"

        def lose(message: Message) -> bool:
            if message.kind is MessageKind.REPLY and message.operation == operation:
                net.server.zookeeper.read_only = True
            return False

        async with net.proxy.record(lose), net.proxy.cut_at(committed(operation)):
            task = asyncio.ensure_future(operations[name]())
            await until_state(zk, State.READ_ONLY)
        await asyncio.sleep(1)
        assert not task.done()
        net.be_read_write()
        await within(task)
        if name == "counter":
            assert await other.counter("/counter").get() == 2
        if name == "lock":
            await asyncio.sleep(1)
            assert len(await other.children("/lock")) == 1


@pytest.mark.parametrize("read_only", [True, "wait"])
async def test_a_registration(net: Net, other: corral.Client, read_only: Mode) -> None:
    """T3, N1: a registration survives, and is made again when its session has expired meanwhile; while there is only a
    read-only server, it does not ask again and again."""
    async with net.client(read_only) as zk, zk.registration("/me", b"up") as me:
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        await asyncio.sleep(1.6 * T)
        start = len(net.requests)
        await asyncio.sleep(10 * T)
        asked = net.counts(start)
        assert asked["get"] + asked["exists"] <= 100, asked
        net.be_read_write()
        await net.server.expire(next(iter(net.server.zookeeper.tree.ephemerals)))
        await until_state(zk, State.CONNECTED)
        await within(other.wait_present("/me"))

        async def is_ours() -> bool:
            stat = await other.exists("/me")
            return stat is not None and stat.ephemeral_owner == zk.session_id and me.is_present

        await until(is_ours, "the registration is of the new session")


async def test_a_server_that_takes_writes_by_now(net: Net) -> None:
    """T3, S5: a server that has a quorum again when it is asked to serve reads has opened a session for us: we close
    it, and connect with our own."""
    async with net.client() as zk:
        await zk.create("/ephemeral", ephemeral=True)
        session = zk.session_id
        connects = 0

        def recover(message: Message) -> bool:
            nonlocal connects
            if message.kind is MessageKind.REQUEST and message.operation == "connect":
                connects += 1
                if connects == 2:  # the one that is read-only
                    net.be_read_write()
            return False

        states = States(zk)
        async with net.proxy.record(recover):
            await net.be_read_only()
            await until_state(zk, State.SUSPENDED, State.READ_ONLY)
            await until_state(zk, State.CONNECTED)
        assert connects == 3
        await turns(20)
        assert State.READ_ONLY not in states.names
        assert zk.session_id == session
        await turns(20)
        assert len(net.server.zookeeper.sessions) == 1


@pytest.mark.parametrize("is_searching", [False, True])
async def test_closing(net: Net, is_searching: bool) -> None:
    """S5: closing a client that reads from a read-only server is bounded, and leaves no task, and no session on it."""
    async with net.client() as zk:
        if is_searching:
            await zk.create("/data")
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY)
        reading = asyncio.create_task(zk.get("/"))
        await turns(1)
        began = now()
        await zk.close()
        assert now() - began <= T / 3
        assert zk.state is State.CLOSED
        with contextlib.suppress(corral.ClientClosed):
            await within(reading)
    await asyncio.sleep(1)
    assert not any(
        session.is_local for session in map(net.server.zookeeper.sessions.find, _ids(net)) if session
    )


@pytest.mark.parametrize("is_reading", [False, True], ids=["no server", "read-only"])
async def test_closing_the_session(net: Net, is_reading: bool) -> None:
    """S5: the session is closed on a server that takes writes again while the client is being closed."""
    async with net.client() as zk:
        await zk.create("/ephemeral", ephemeral=True)
        await net.be_read_only()
        await until_state(zk, State.READ_ONLY if is_reading else State.SUSPENDED)
        closing = asyncio.create_task(zk.close())
        await asyncio.sleep(T / 6)
        assert not closing.done()
        net.be_read_write()
        await within(closing)
        await turns(20)
        assert not net.server.zookeeper.sessions.ids()


def _ids(net: Net) -> list[int]:
    return net.server.zookeeper.sessions.ids()


async def test_the_log(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    """T3: one line says that reads are answered, and by whom; the line of the way back says what was lost."""
    async with net.client() as zk:
        with caplog.at_level(logging.WARNING, "corral"):
            await net.be_read_only()
            await until_state(zk, State.READ_ONLY)
            await asyncio.sleep(2 * T)
            net.be_read_write()
            await until_state(zk, State.CONNECTED)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("contact lost: ")
    assert [line for line in lines if "answers reads" in line] == [
        f"read-only: {net.proxy.address} answers reads, and no server takes writes; trying on"
    ]
    assert "expired" in lines[-2]
    assert "is on" in lines[-1]


async def test_the_code_in_the_guide_runs() -> None:
    """T3: the example in docs/read_only.md works on a read-only server, and on one that takes writes."""
    guide = (Path(__file__).parents[2] / "docs/read_only.md").read_text()
    code: dict[str, Any] = {}
    exec(guide.partition("```python\n")[2].partition("```")[0], code)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.hosts.update({f"zk{n}": ["127.0.0.1"] for n in (1, 2, 3)})
    async with EmbeddedServer(port=2181) as server:
        async with corral.connect(server.address) as other:
            await other.create("/config", b"v1")
            server.zookeeper.read_only = True
            await within(code["main"]())
            assert (await other.get("/config"))[0] == b"v1"
            server.zookeeper.read_only = False
            await within(code["main"]())
            assert (await other.get("/config"))[0] == b"v2"


async def test_a_read_only_server_that_opens_no_sessions() -> None:
    """T3: from 3.7 on a read-only server needs localSessionsEnabled to serve anybody. The error says so. The bytes are
    those of a real one."""
    golden = Path(__file__).parent.parent / "wire/golden/no-sessions.json"
    answer = bytes.fromhex(json.loads(golden.read_text())["exchanges"]["connect"]["reply"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(4)
        if first[:1] == b"\0":  # else the client asks whether this is a port for TLS
            size = int.from_bytes(first)
            connect = messages.decode_connect(await reader.readexactly(size), 0, size)
            if connect.read_only:
                writer.write(len(answer).to_bytes(4) + answer)
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 2181)
    with pytest.raises(corral.ConnectTimeout, match="localSessionsEnabled"):
        await corral.connect(
            "127.0.0.1:2181", session_timeout=T, connect_timeout=3, read_only=True
        ).__aenter__()
    server.close()


async def test_a_read_only_server_that_is_too_old() -> None:
    """T3: what a read-only server is too old for raises `Unimplemented` that names that server."""
    async with EmbeddedServer(read_only=True, version="3.5") as old:
        async with corral.connect(old.address, session_timeout=T, read_only=True) as zk:
            assert zk.state is State.READ_ONLY
            with pytest.raises(corral.Unimplemented, match=f"the server {old.address} does not offer it"):
                await zk.who_am_i()
