"""EmbeddedServer: how it starts and ends, and what a restart keeps, with real sockets and in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from frame_client import EPHEMERAL, FrameClient, is_refused

from corral import acl
from corral.errors import UsageStateError, UsageTypeError, UsageValueError
from corral.testing import EmbeddedServer, ServerUnavailable, VirtualLoop
from corral.wire import messages as m
from support import turns

VIRTUAL_TOO = True

End = Callable[[EmbeddedServer], Coroutine[Any, Any, None]]
stop_or_kill = pytest.mark.parametrize(
    "end", [EmbeddedServer.stop, EmbeddedServer.kill], ids=["stop", "kill"]
)
every_end = pytest.mark.parametrize(
    "end", [EmbeddedServer.stop, EmbeddedServer.kill, EmbeddedServer.close], ids=["stop", "kill", "close"]
)


async def test_it_serves_when_start_returns() -> None:
    """Inside `async with` it serves at its address as a standalone server; afterwards the address refuses
    connections."""
    async with EmbeddedServer() as server:
        address = server.address
        assert server.running
        assert await server.role() == "standalone"
        assert await server.four_letter_word("ruok") == "imok"
        assert await server.four_letter_word("what") == ""
        async with FrameClient(address) as client:
            assert await client.begin() is not None
            assert await client.create("/a") == 0
            assert server.zookeeper.tree.find("/a") is not None
    assert not server.running
    assert await is_refused(address)


@stop_or_kill
async def test_one_that_ended_refuses_connections(end: End) -> None:
    """When stop or kill returns, its clients are disconnected and its port refuses connections; repeating the
    call does nothing."""
    async with EmbeddedServer() as server:
        async with FrameClient(server.address) as client:
            await client.begin()
            await end(server)
            assert not server.running
            assert await client.rest() == b""
            assert await is_refused(server.address)
            assert await server.role() is None
            with pytest.raises(ConnectionRefusedError):
                await server.four_letter_word("ruok")
            await end(server)
            await server.stop()


@stop_or_kill
async def test_a_restart_keeps_nodes_sessions_and_the_port(end: End) -> None:
    """A restart keeps sessions and their ephemerals: a session is resumed with its password, or expires
    otherwise."""
    async with EmbeddedServer(tick_time=0.2) as server:
        address = server.address
        async with FrameClient(address) as client:
            session = await client.begin(timeout=0.5)
            assert await client.create("/kept") == 0
            assert await client.create("/kept/mine", flags=EPHEMERAL) == 0
            await end(server)
            await server.start()
            assert server.address == address
            assert not server.zookeeper.connections
        async with FrameClient(address) as client:
            resumed = await client.begin(timeout=0.5, session=session)
            assert resumed == session
            assert await client.exists("/kept/mine")
        async with FrameClient(address) as client:
            await client.begin()
            while await client.exists("/kept/mine"):
                await asyncio.sleep(0.02)
            assert await client.exists("/kept")


@stop_or_kill
def test_nothing_expires_while_it_is_down(end: End) -> None:
    """No session expires while the server is down, however long that is: each has its full timeout
    afterwards. Nothing is left in the event loop."""

    async def go() -> None:
        async with EmbeddedServer() as server:
            async with FrameClient(server.address) as client:
                session = await client.begin()
            await end(server)
            assert live_timers() == 0
            await asyncio.sleep(3600)
            await server.start()
            async with FrameClient(server.address) as client:
                assert await client.begin(session=session) == session

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(go())


def live_timers() -> int:
    """How many callbacks the loop has scheduled for later, if that can be determined."""
    return sum(not timer.cancelled() for timer in getattr(asyncio.get_running_loop(), "_scheduled", ()))


async def test_an_open_connection_does_not_survive_a_restart() -> None:
    """A restart removes the watches of open connections: later changes send no events."""
    async with EmbeddedServer() as server, FrameClient(server.address) as watching:
        await watching.begin()
        assert await watching.ask(m.EXISTS, "/new", True) == -101
        await server.kill()
        await server.start()
        assert server.zookeeper.watches.count() == 0
        assert await watching.rest() == b""


async def test_a_closed_server_starts_as_a_new_one() -> None:
    """close removes the data. It may be called again, and before the first start."""
    server = EmbeddedServer()
    await server.close()
    for _ in range(2):
        async with server, FrameClient(server.address) as client:
            await client.begin()
            assert await client.create("/a") == 0
        await server.close()
        with pytest.raises(UsageStateError, match=r"call start\(\) first"):
            _ = server.address


async def test_two_servers_know_nothing_of_each_other() -> None:
    """Each server has its own port and tree."""
    async with EmbeddedServer() as one, EmbeddedServer() as two:
        assert one.address != two.address
        async with FrameClient(one.address) as a, FrameClient(two.address) as b:
            await a.begin()
            await b.begin()
            assert await a.create("/a") == 0
            assert not await b.exists("/a")


async def test_an_error_inside_passes_and_the_server_goes() -> None:
    """An error inside the block kills the server, and is raised unchanged."""
    server = EmbeddedServer()

    async def fail() -> None:
        async with server, FrameClient(server.address) as client:
            await client.begin()
            addresses.append(server.address)
            raise ZeroDivisionError

    addresses: list[str] = []
    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not server.running
    assert await is_refused(addresses[0])


# Requests and answers at the end


async def test_stop_sends_what_was_answered() -> None:
    """stop answers every request that the server has read before the connection ends."""
    async with EmbeddedServer() as server, FrameClient(server.address) as client:
        await client.begin()
        client.send(*(client.request(m.GET, "/", False) for _ in range(500)))
        while server.zookeeper.packets_received < 501:
            await asyncio.sleep(0.001)
        await server.stop()
        came = await client.rest()
        assert len(came) == 500 * (4 + 16 + 4 + 68)


async def test_kill_in_the_middle_of_requests() -> None:
    """Whenever the server is killed, what it has answered is there after a restart, and of the rest a
    prefix."""
    async with EmbeddedServer() as server:
        for number in range(3, 60, 7):
            async with FrameClient(server.address) as client:
                await client.begin()

                async def write(client: FrameClient = client, number: int = number) -> None:
                    for n in range(100):
                        client.send(client.request(m.CREATE, f"/{number:02}-{n:02}", b"", list(acl.OPEN), 0))
                        await asyncio.sleep(0)

                writing = asyncio.create_task(write())
                await turns(number)
                await server.kill()
                answered = len(await client.rest()) // (4 + 16 + 4 + len("/00-00"))
                await server.start()
                await writing
            done = [path for path in server.zookeeper.tree.nodes if path.startswith(f"/{number:02}-")]
            assert answered <= len(done) < 100
            assert done == [f"/{number:02}-{n:02}" for n in range(len(done))]


@every_end
async def test_a_client_that_does_not_read_does_not_hold_it_up(end: End) -> None:
    """Every way to end it returns at once, even if answers wait for a client that does not read."""
    async with EmbeddedServer() as server:
        async with FrameClient(server.address) as client:
            await client.begin()
            await client.create("/large", bytes(500_000))
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ask_for_much(server, client, 100)
            await turns()
            began = asyncio.get_running_loop().time()
            await end(server)
            assert asyncio.get_running_loop().time() - began < 10
            assert not server.running


@every_end
@pytest.mark.parametrize("before", range(7))
async def test_a_connection_accepted_at_the_end_is_not_served(end: End, before: int) -> None:
    """A client that connects while the server ends is disconnected at any stage, and nothing is left of the
    connection."""
    server = EmbeddedServer()
    await server.start()
    address = server.address

    async def come() -> bytes:
        try:
            async with FrameClient(address) as client:
                client.send(m.encode_connect(0, 4.0, 0, bytes(16), False))
                return await client.rest()
        except ConnectionError:
            return b""

    coming = asyncio.create_task(come())
    await turns(before)
    await end(server)
    assert len(await coming) in (0, 4 + 37)
    await server.close()


# Cancellation and failures


async def test_a_cancelled_start_leaves_nothing() -> None:
    """At whatever point start is cancelled, nothing listens afterwards, and the server can be started
    again."""
    async with EmbeddedServer() as first:
        port = int(first.address.rpartition(":")[2])  # free, once this server is closed
    cancelled = 0
    for after in range(12):
        server = EmbeddedServer(port=port)
        starting = asyncio.create_task(server.start())
        await turns(after)
        starting.cancel()
        try:
            await starting
        except asyncio.CancelledError:
            cancelled += 1
            assert not server.running
            assert await is_refused(f"127.0.0.1:{port}")
            await server.start()
        assert await server.role() == "standalone"
        await server.close()
    assert cancelled > 0


@every_end
async def test_a_cancelled_end_is_an_end(end: End) -> None:
    """At whatever point the end is cancelled, the server is down, and its clients are disconnected."""
    cancelled = 0
    for after in range(10):
        async with EmbeddedServer() as server:
            address = server.address
            async with FrameClient(address) as client:
                await client.begin()
                ending = asyncio.create_task(end(server))
                await turns(after)
                ending.cancel()
                try:
                    await ending
                except asyncio.CancelledError:
                    cancelled += 1
                if after:
                    assert not server.running
                    assert await client.rest() == b""
                    assert await is_refused(address)
    assert 1 < cancelled < 10


async def test_a_taken_port_is_one_clear_error() -> None:
    """If the port is taken the error names the address, the server is down, and it can be started once the
    port is free. The same holds for a restart, which keeps its data."""
    async with EmbeddedServer() as first:
        port = int(first.address.rpartition(":")[2])
        second = EmbeddedServer(port=port)
        with pytest.raises(
            ServerUnavailable, match=rf"^cannot listen on 127.0.0.1:{port}: address already in use$"
        ):
            await second.start()
        assert not second.running
        await first.kill()
        await second.start()
        async with FrameClient(second.address) as client:
            await client.begin()
            await client.create("/kept")
        await second.stop()
        await first.start()
        with pytest.raises(ServerUnavailable, match="address already in use"):
            await second.start()
        await first.stop()
        await second.start()
        assert second.zookeeper.tree.find("/kept") is not None
        await second.close()


async def test_a_host_that_is_none_is_one_clear_error() -> None:
    """The host is a name that does not resolve."""
    with pytest.raises(ServerUnavailable, match=r"^cannot listen on no\.such\.host\.invalid:\d+: "):
        await EmbeddedServer(host="no.such.host.invalid").start()


# Calls in the wrong state


async def test_calls_at_the_wrong_time_are_errors() -> None:
    """A call that the server's state does not allow raises an error that says what to do."""
    server = EmbeddedServer()
    with pytest.raises(UsageStateError, match=r"call start\(\) first"):
        _ = server.address
    with pytest.raises(UsageStateError, match=r"call start\(\) first"):
        await server.role()
    for call in (server.pause, server.resume):
        with pytest.raises(UsageStateError, match=r"does not run; start\(\) it first"):
            call()
    async with server:
        with pytest.raises(UsageStateError, match=r"runs already; stop\(\) it first"):
            await server.start()
        assert server.running
        with pytest.raises(UsageValueError, match="there is no session 0x2a"):
            await server.expire(42)
        server.pause()
        with pytest.raises(UsageStateError, match=r"resume\(\) it first"):
            await server.expire(42)
        await server.stop()
        for call in (server.pause, server.resume):
            with pytest.raises(UsageStateError, match="does not run"):
                call()
        with pytest.raises(UsageStateError, match="does not run"):
            await server.expire(42)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"version": "3.7"}, UsageValueError, "'3.6', '3.8', '3.9', not '3.7'"),
        ({"tick_time": 0.0001}, UsageValueError, "tick_time 0.0001 s is too short"),
        ({"container_check_interval": -1}, UsageValueError, "container_check_interval must be a positive"),
        ({"min_session_timeout": 11}, UsageValueError, "at least 11 s and at most 10 s"),
        ({"max_session_timeout": "1"}, UsageTypeError, "max_session_timeout must be a number of seconds"),
        ({"jute_maxbuffer": 1}, UsageValueError, "jute_maxbuffer 1 is not between"),
        ({"port": 65536}, UsageValueError, "port 65536 is not between 0"),
        ({"port": "2181"}, UsageTypeError, "port must be an int"),
        ({"host": None}, UsageTypeError, "host must be a str"),
    ],
)
async def test_options_that_make_no_sense(options: dict[str, Any], error: type[Exception], says: str) -> None:
    """Invalid options are refused by the constructor, with the value and the rule."""
    with pytest.raises(error, match=says):
        EmbeddedServer(**options)


async def test_with_is_refused_where_there_is_no_thread() -> None:
    """Using `with` without `thread=True` is refused; the error says what to write instead."""
    for _ in range(2):
        with pytest.raises(UsageStateError, match="use 'async with'"), EmbeddedServer():
            pass


# Paused


async def ended(client: FrameClient) -> bool:
    """Whether the connection has ended, or something arrived, once everything that can happen immediately has
    happened."""
    await turns(20)
    return client.reader.at_eof() or bool(client.reader._buffer)  # type: ignore[attr-defined]


async def test_a_paused_server_answers_nobody() -> None:
    """While the server is paused, requests, new clients and four letter words wait; they are answered after
    resume. This can be repeated."""
    async with EmbeddedServer() as server, FrameClient(server.address) as client:
        await client.begin()
        for _ in range(2):
            server.pause()
            assert server.paused
            assert server.running
            server.pause()
            client.send(client.request(m.GET, "/", False))
            async with FrameClient(server.address) as late, FrameClient(server.address) as asking:
                late.send(m.encode_connect(0, 4.0, 0, bytes(16), False))
                asking.writer.write(b"ruok")
                assert not any([await ended(each) for each in (client, late, asking)])
                assert len(server.zookeeper.connections) == 1
                assert await server.role(timeout=0.1) is None
                with pytest.raises(TimeoutError):
                    await server.four_letter_word("ruok", timeout=0.1)
                server.resume()
                server.resume()
                assert not server.paused
                assert await client.reply() is not None
                assert await late.frame() is not None
                assert await asking.rest() == b"imok"
            while len(server.zookeeper.connections) > 1:
                await asyncio.sleep(0.001)


async def test_what_was_sent_before_the_pause_arrives() -> None:
    """An event of an earlier write is sent, even if the server is paused in the same loop turn."""
    async with EmbeddedServer() as server:
        async with FrameClient(server.address) as watching, FrameClient(server.address) as writing:
            await watching.begin()
            await writing.begin()
            assert not await watching.ask(m.EXISTS, "/", True)
            assert await watching.ask(m.EXISTS, "/new", True) == -101
            link = next(iter(server.zookeeper.connections))
            link.send(b"\0\0\0\1!")
            server.pause()
            assert await watching.frame() == b"!"


@pytest.mark.parametrize("comes", [True, False], ids=["another comes", "nobody comes"])
async def test_no_session_expires_while_paused_and_after_it_at_once(comes: bool) -> None:
    """A paused server expires no session, even while other clients connect. On resume, sessions whose time is
    over expire before any request is handled."""
    async with EmbeddedServer(tick_time=0.05) as server, contextlib.AsyncExitStack() as stack:
        async with FrameClient(server.address) as owner, FrameClient(server.address) as other:
            first = await owner.begin(timeout=0.1)
            await other.begin(timeout=1)
            assert first is not None
            await owner.create("/mine", flags=EPHEMERAL)
            server.pause()
            await asyncio.sleep(0.3)
            owner.send(owner.request(m.PING))
            late = await stack.enter_async_context(FrameClient(server.address)) if comes else None
            if late is not None:
                late.send(m.encode_connect(0, 4.0, 0, bytes(16), False))
            await turns(20)
            assert first.session_id in server.zookeeper.sessions
            assert server.zookeeper.tree.find("/mine") is not None
            server.resume()
            assert first.session_id not in server.zookeeper.sessions
            assert server.zookeeper.tree.find("/mine") is None
            assert await owner.rest() == b""
            assert not await other.exists("/mine")
            assert late is None or await late.frame() is not None


@every_end
async def test_a_paused_server_can_be_ended(end: End) -> None:
    """What a paused server has not answered when it ends is never answered; after a restart it is not
    paused."""
    async with EmbeddedServer() as server, FrameClient(server.address) as client:
        await client.begin()
        server.pause()
        client.send(client.request(m.GET, "/", False))
        async with FrameClient(server.address) as late:
            await turns()
            await end(server)
            assert not server.running
            assert not server.paused
            assert [await each.rest() for each in (client, late)] == [b"", b""]
        await server.start()
        assert await server.role() == "standalone"


async def test_clients_that_leave_a_paused_server() -> None:
    """If clients leave while it is paused, their earlier requests are handled on resume; connections that
    sent nothing leave no trace."""
    async with EmbeddedServer() as server:
        async with FrameClient(server.address) as client:
            await client.begin()
            server.pause()
            client.send(client.request(m.CREATE, "/said", b"", list(acl.OPEN), 0))
            await client.writer.drain()
            client.writer.close()
            async with FrameClient(server.address):
                pass
        await turns(20)
        server.resume()
        async with FrameClient(server.address) as other:
            await other.begin()
            assert await other.exists("/said")
            while len(server.zookeeper.connections) > 1:
                await asyncio.sleep(0.001)


# Sessions that the server ends


async def test_an_expired_session_is_over_for_its_client() -> None:
    """`expire` disconnects the client and deletes its ephemerals, and the session cannot be resumed."""
    async with EmbeddedServer() as server, FrameClient(server.address) as other:
        await other.begin()
        async with FrameClient(server.address) as client:
            session = await client.begin()
            assert session is not None
            await client.create("/mine", flags=EPHEMERAL)
            await server.expire(session.session_id)
            assert await client.rest() == b""
            assert not await other.exists("/mine")
        async with FrameClient(server.address) as client:
            refused = await client.begin(session=session)
            assert refused is not None
            assert refused.session_id == 0
            assert await client.rest() == b""


async def ask_for_much(server: EmbeddedServer, client: FrameClient, count: int) -> int:
    """Request a large node so many times; returns how many requests the server has read, once it has read
    some."""
    before = server.zookeeper.packets_received
    client.send(*(client.request(m.GET, "/large", False) for _ in range(count)))
    while server.zookeeper.packets_received == before:
        await asyncio.sleep(0.001)
    return server.zookeeper.packets_received - before


async def test_an_expired_client_that_reads_late_gets_all_of_it() -> None:
    """A client whose session expired still gets everything that was sent to it before, if it reads in time.
    The timer for that is then gone."""
    async with EmbeddedServer(tick_time=60) as server, FrameClient(server.address) as client:
        session = await client.begin()
        assert session is not None
        await client.create("/large", bytes(500_000))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        answered = await ask_for_much(server, client, 20)
        await server.expire(session.session_id)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await client.rest()) == answered * (4 + 16 + 4 + 500_000 + 68)
        await server.stop()
        assert live_timers() == 0


async def test_an_expired_client_that_does_not_read_is_cut_off_in_the_end() -> None:
    """A client that does not read is disconnected in the end."""
    async with EmbeddedServer() as server:
        async with FrameClient(server.address) as client:
            session = await client.begin()
            assert session is not None
            await client.create("/large", bytes(500_000))
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ask_for_much(server, client, 100)
            await turns()
            process = server._process
            assert process is not None
            await server.expire(session.session_id)
            async with asyncio.timeout(30):
                while process._connections:
                    await asyncio.sleep(0.05)


async def wait_for_all(*waits: Awaitable[Any]) -> None:
    """Wait for several."""
    await asyncio.gather(*waits)


async def test_many_clients_may_connect_at_once() -> None:
    """A hundred clients connect before the server accepts the first."""
    async with EmbeddedServer() as server, contextlib.AsyncExitStack() as stack:
        clients = [FrameClient(server.address) for _ in range(300)]
        await wait_for_all(*(stack.enter_async_context(client) for client in clients))
        await wait_for_all(*(client.begin() for client in clients))
        assert len(server.zookeeper.sessions) == 300
