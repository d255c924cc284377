"""FaultProxy: each fault strikes exactly at its point, with scripted servers and with real ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from raw_session import NO_NODE, RawSession
from test_tcp_proxy import Client, Echo, arrives, connection, frame, turns, within

import corral
from corral.errors import UsageValueError
from corral.testing import (
    FaultProxy,
    Message,
    MessageKind,
    Moment,
    Point,
    after,
    after_event,
    before,
    committed,
    on_event,
)
from corral.testing.network import LOOPBACK
from corral.testing.servers.base import four_letter_word
from corral.wire import messages
from support import PATIENCE, until

Connect = Callable[..., corral.Client]

GREETING = frame(b"hello, I am a connect request")
GET = messages.GET.opcode
NODE_EXISTS = -110


MOMENTS = [before, committed, after]


def request(xid: int, path: str, opcode: int = GET) -> bytes:
    raw = path.encode()
    return frame(struct.pack(">iii", xid, opcode, len(raw)) + raw + b"\0")


def event(path: str) -> bytes:
    raw = path.encode()
    header = struct.pack(">iqi", messages.NOTIFICATION_XID, 0, 0)
    return frame(header + struct.pack(">iii", 3, 3, len(raw)) + raw)


def about(path: str) -> Callable[[Message], bool]:
    return lambda message: message.path == path


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with Echo() as server:
        yield server


@pytest.fixture
async def fault(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(echo.address) as between:
        yield between


@contextlib.asynccontextmanager
async def scripted(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that handles each connection with the given function; yields its address."""
    async with await asyncio.start_server(serve, LOOPBACK, 0) as server:
        yield f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"


async def greet(client: Client) -> None:
    """Exchange the connect request and its answer, which have another format than other messages."""
    await arrives(client, GREETING)


async def assert_ended(client: Client, *, reset: bool) -> None:
    """Check how the connection ends, and that nothing was received before that."""
    if reset:
        with pytest.raises(ConnectionResetError):
            await client.rest()
    else:
        assert await client.rest() == b""


# Where a cut strikes


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("step", [1, 7, 1000], ids=["byte by byte", "in pieces", "whole"])
@pytest.mark.parametrize("make_point", MOMENTS)
async def test_cut_at_each_moment(make_point: Callable[..., Point], step: int, reset: bool) -> None:
    """With "before" the server has received everything before the request, and nothing of it. With
    "committed" the server has the request, and the client nothing of its reply. With "after" the client has
    the whole reply. The pieces in which bytes arrive make no difference."""
    first, second = request(1, "/first"), request(2, "/second")
    async with Echo(step) as echo, FaultProxy(echo.address) as proxy, connection(proxy) as client:
        async with proxy.cut_at(make_point("get", match=about("/second")), reset=reset) as cut:
            await greet(client)
            for message in (first, second):
                for start in range(0, len(message), step):
                    client.writer.write(message[start : start + step])
                    await asyncio.sleep(0)
                if message is first:
                    assert await client.get(len(first)) == first
            if make_point is after and not reset:  # a reset discards data that was not read
                assert await client.get(len(second)) == second
            if make_point is after and reset:
                with pytest.raises(ConnectionResetError):
                    await client.rest()
            else:
                await assert_ended(client, reset=reset)
            assert cut.fired.is_set()
            assert cut.message is not None
            assert (cut.message.operation, cut.message.path) == ("get", "/second")
        await within(echo.ended.wait())
        assert bytes(echo.received) == GREETING + first + (b"" if make_point is before else second)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_after_a_reply_the_client_has_it(server_address: str, root: str, reset: bool) -> None:
    """A client whose connection ends after a reply has received that reply, however the connection ends."""
    async with FaultProxy(server_address) as proxy, corral.connect(proxy.address + root) as zk:
        for number in range(3):
            async with proxy.cut_at(after("create"), reset=reset) as cut:
                assert await zk.create(f"/n-{number}") == f"/n-{number}"
            assert cut.fired.is_set()
            await zk.sync()
        assert proxy.accepted == 4


async def test_all_that_passed_before_a_cut_arrives() -> None:
    """A cut waits until each side has received everything that passed before it, however much that is and
    however slowly a side reads."""
    large = request(1, "/" + "x" * (16 << 20))
    asked: asyncio.Queue[bytes] = asyncio.Queue()
    cut_there = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(GREETING)))
        await cut_there.wait()
        asked.put_nowait(await reader.read())
        writer.close()

    async with scripted(serve) as address, FaultProxy(address) as proxy, connection(proxy) as client:
        await greet(client)
        async with proxy.cut_at(before("get", nth=2)) as cut:
            client.writer.write(large + request(2, "/never"))
            await within(cut.fired.wait())
            cut_there.set()
            assert await within(asked.get()) == large
    async with Echo() as echo, FaultProxy(echo.address) as proxy, connection(proxy) as client:
        await greet(client)
        async with proxy.cut_at(after("get")) as cut:
            client.writer.write(large)
            await within(cut.fired.wait())
            await turns()
            assert await client.rest() == large


async def test_replies_are_paired_by_number() -> None:
    """The reply to a request is the one with its xid, even if other replies come first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(GREETING)))
        requests = [await reader.readexactly(len(request(1, "/a"))) for _ in range(2)]
        writer.writelines(reversed(requests))
        await reader.read()
        writer.close()

    async with scripted(serve) as address, FaultProxy(address) as proxy, connection(proxy) as client:
        await greet(client)
        async with proxy.cut_at(committed("get")) as cut:
            client.writer.write(request(1, "/a") + request(2, "/b"))
            assert await client.rest() == request(2, "/b")
        assert cut.message is not None
        assert cut.message.path == "/a"


@pytest.mark.parametrize("make_point", MOMENTS)
async def test_the_connect_is_a_request(fault: FaultProxy, make_point: Callable[..., Point]) -> None:
    """The exchange that opens a session can be cut like any other."""
    async with fault.cut_at(make_point("connect")) as cut, connection(fault) as client:
        client.writer.write(GREETING)
        if make_point is after:
            assert await client.get(len(GREETING)) == GREETING
        await assert_ended(client, reset=False)
        assert cut.fired.is_set()


async def test_nth_and_times(fault: FaultProxy) -> None:
    """nth counts matching messages across connections; times is how many are struck from there on."""
    fates = []
    async with fault.cut_at(before("get", nth=2), times=2, reset=True):
        for number in range(1, 5):
            async with connection(fault) as client:
                await greet(client)
                other = request(9, "/x", messages.EXISTS.opcode)
                client.writer.write(other)
                assert await client.get(len(other)) == other  # not counted
                client.writer.write(request(number, "/x"))
                try:
                    await client.get(len(request(number, "/x")))
                except (ConnectionResetError, asyncio.IncompleteReadError):
                    fates.append("cut")
                else:
                    fates.append("passed")
    assert fates == ["passed", "cut", "cut", "passed"]


async def test_a_reply_that_cannot_come_is_not_counted(fault: FaultProxy) -> None:
    """If the connection ends before the awaited reply, the next request that matches is the one."""
    async with fault.cut_at(committed("get"), reset=True) as cut:
        async with connection(fault) as client:
            await greet(client)
            async with fault.black_hole(requests=False) as held:
                client.writer.write(request(1, "/x"))
                await within(held.arrived())
                await within(fault.cut())
        assert not cut.fired.is_set()
        async with connection(fault) as client:
            await greet(client)
            client.writer.write(request(9, "/x"))
            await assert_ended(client, reset=True)
        assert cut.fired.is_set()


async def test_a_fault_that_has_ended_does_not_strike(fault: FaultProxy) -> None:
    """A reply that has not come when the fault ends is delivered."""
    async with connection(fault) as client:
        await greet(client)
        async with fault.black_hole(requests=False) as held:
            async with fault.cut_at(committed("get")) as cut:
                client.writer.write(request(1, "/x"))
                await within(held.arrived())
        assert await client.get(len(request(1, "/x"))) == request(1, "/x")
        assert not cut.fired.is_set()


async def test_several_faults_at_once(fault: FaultProxy) -> None:
    """Of two faults at one request the first one strikes, and the other waits for the next request."""
    async with fault.cut_at(before("get")) as first, fault.cut_at(before("get")) as second:
        for struck in (first, second):
            async with connection(fault) as client:
                await greet(client)
                client.writer.write(request(1, "/x"))
                await assert_ended(client, reset=False)
            assert struck.fired.is_set()
            assert second.fired.is_set() == (struck is second)


async def test_a_point_is_where_a_message_passes(fault: FaultProxy) -> None:
    """A message that another fault withholds has not reached the point yet: a cut strikes when the message is
    passed on."""
    async with connection(fault) as client:
        await greet(client)
        async with fault.cut_at(committed("get")) as cut:
            async with fault.black_hole(requests=False) as hole:
                client.writer.write(request(1, "/x"))
                await within(hole.arrived(len(request(1, "/x"))))
                await turns()
                assert not cut.fired.is_set()
            await assert_ended(client, reset=False)
            assert cut.fired.is_set()


async def test_what_had_to_wait_is_counted_once(fault: FaultProxy) -> None:
    """The request with which a black hole begins is counted by other faults before it, and not again when it
    is passed on."""
    async with connection(fault) as client:
        await greet(client)
        async with fault.cut_at(before("get", nth=2)) as cut:
            async with fault.black_hole(before("get")) as hole:
                client.writer.write(request(1, "/x"))
                await within(hole.fired.wait())
            assert await client.get(len(request(1, "/x"))) == request(1, "/x")
            assert not cut.fired.is_set()
            client.writer.write(request(2, "/x"))
            await assert_ended(client, reset=False)


async def test_a_cut_while_everything_is_slow(fault: FaultProxy, echo: Echo) -> None:
    """After a delayed reply the client has it, and nothing of the next one."""
    first, second = request(1, "/first"), request(2, "/second")
    async with fault.delay(0.005), connection(fault) as client:
        await greet(client)
        async with fault.cut_at(after("get")):
            client.writer.write(first + second)
            assert await client.rest() == first
        await within(echo.ended.wait())


# Black holes and half-open connections, at a point


@pytest.mark.parametrize("make_point", MOMENTS)
async def test_a_black_hole_from_a_point_on(
    fault: FaultProxy, echo: Echo, make_point: Callable[..., Point]
) -> None:
    """A black hole does nothing until its point; from there on nothing passes. With "before" the request
    itself does not pass either. With "committed" the server gets the request. With "after" the client gets
    the reply. When the fault ends everything is delivered."""
    first, second, third = request(1, "/first"), request(2, "/second"), request(3, "/third")
    async with connection(fault) as client:
        await greet(client)
        async with fault.black_hole(make_point("get", nth=2)) as hole:
            await arrives(client, first)
            assert not hole.fired.is_set()
            client.writer.write(second)
            await within(hole.fired.wait())
            assert hole.message is not None
            assert hole.message.path == "/second"
            client.writer.write(third)
            await within(hole.arrived(len(third)))
            await turns()
            assert bytes(echo.received) == GREETING + first + (b"" if make_point is before else second)
            if make_point is after:
                assert await client.get(len(second)) == second
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
        late = third if make_point is after else second + third
        assert await client.get(len(late)) == late


async def test_a_black_hole_one_way_from_a_point_on(fault: FaultProxy, echo: Echo) -> None:
    """The same holds for one direction; the other direction passes."""
    async with connection(fault) as client:
        await greet(client)
        async with fault.black_hole(committed("get"), requests=False) as hole:
            client.writer.write(request(1, "/x"))
            await within(hole.fired.wait())
            client.writer.write(request(2, "/y"))
            assert await echo.got(len(GREETING + request(1, "/x") + request(2, "/y")))
            await turns()
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
        late = request(1, "/x") + request(2, "/y")
        assert await client.get(len(late)) == late


async def test_a_black_hole_from_a_point_on_is_for_new_connections_too(fault: FaultProxy, echo: Echo) -> None:
    """From the point on, and not before it, new connections are silent as well."""
    async with contextlib.AsyncExitStack() as stack:
        async with fault.black_hole(before("get")) as hole:
            client = await stack.enter_async_context(connection(fault))
            await greet(client)
            client.writer.write(request(1, "/x"))
            await within(hole.fired.wait())
            another = await stack.enter_async_context(connection(fault))
            another.writer.write(GREETING)
            await within(hole.arrived(len(GREETING)))
            assert echo.accepted == 1
        assert await another.get(len(GREETING)) == GREETING


@pytest.mark.parametrize("gone", ["server", "client"])
@pytest.mark.parametrize("make_point", MOMENTS)
async def test_half_open_from_a_point_on(
    fault: FaultProxy, echo: Echo, make_point: Callable[..., Point], gone: Literal["server", "client"]
) -> None:
    """The connection on which the point is reached is half-open from there on: one side sees the end; the
    other sees nothing, until it is reset when the fault ends. Other connections are not affected."""
    get, reply = request(1, "/x"), request(1, "/x") if make_point is after else b""
    async with connection(fault) as other, connection(fault) as client:
        await greet(other)
        await greet(client)
        async with fault.half_open(make_point("get", match=about("/x")), gone=gone) as reached:
            client.writer.write(get)
            await within(reached.fired.wait())
            if gone == "server":
                await within(echo.ended.wait())
                assert await client.get(len(reply)) == reply
                client.writer.write(request(2, "/lost"))
            else:
                assert await client.rest() == reply
                echo._writers[1].write(b"lost")
            await arrives(other, request(1, "/y"))
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
            assert client.reader.at_eof() == (gone == "client")
            assert echo.ended.is_set() == (gone == "server")
        if gone == "server":
            with pytest.raises(ConnectionResetError):
                await client.rest()
        await within(echo.ended.wait())
        assert echo.resets == (gone == "client")
    greetings_and_get = GREETING * 2 + (b"" if make_point is before else get)
    assert bytes(echo.received) == greetings_and_get + request(1, "/y")


async def test_a_delay_of_some(fault: FaultProxy, echo: Echo) -> None:
    """A message that matches is delayed, and those after it wait for it; those before it do not."""
    first, second, third = (request(number, f"/{number}") for number in (1, 2, 3))
    async with connection(fault) as client:
        await greet(client)
        async with fault.delay(3600, match=about("/2")):
            client.writer.write(first + second + third)
            assert await client.get(len(first)) == first
            assert bytes(echo.received) == GREETING + first
        assert await client.get(len(second + third)) == second + third


# Counting and recording


async def test_pings_are_counted_by_name_alone(fault: FaultProxy) -> None:
    """Pings depend on time: a point without an operation does not count them; one that names them does."""
    ping = frame(struct.pack(">ii", messages.PING_XID, messages.PING.opcode))
    async with connection(fault) as client:
        await greet(client)
        async with fault.cut_at(before()) as unnamed, fault.black_hole(before("ping")) as named:
            client.writer.write(ping)
            await within(named.fired.wait())
            assert not unnamed.fired.is_set()


@pytest.mark.parametrize(
    "make",
    [
        lambda: before("created"),
        lambda: before("get", nth=0),
        lambda: Point(Moment.AFTER, nth=-1),
    ],
)
def test_a_point_that_cannot_be_reached(make: Callable[[], Point]) -> None:
    """An unknown operation and a count below one are refused, with an error that names them."""
    with pytest.raises(UsageValueError, match=r"created|counts from 1"):
        make()


async def test_no_times(fault: FaultProxy) -> None:
    """A fault with `times=0` is refused."""
    with pytest.raises(UsageValueError, match="times cannot be 0"):
        async with fault.cut_at(before(), times=0):
            pass


@pytest.mark.parametrize("greeted", [False, True])
@pytest.mark.parametrize(
    "nonsense",
    [b"srvr", b"\xff\xff\xff\xff?", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/1.1\r\n\r\n"],
)
async def test_what_is_not_zookeepers_passes(fault: FaultProxy, nonsense: bytes, greeted: bool) -> None:
    """Bytes that are not valid messages pass, with everything after them, while a fault waits for a message:
    four letter words, TLS, and others."""
    async with fault.cut_at(before("get")) as cut, fault.record() as seen, connection(fault) as client:
        if greeted:
            await greet(client)
        await arrives(client, nonsense)
        await arrives(client, request(1, "/x"))
        assert not cut.fired.is_set()
        assert len(seen) == 2 * greeted


async def test_half_a_frame_before_the_end_passes(fault: FaultProxy, echo: Echo) -> None:
    """The part of a message that a client has sent when it closes still reaches the server."""
    async with connection(fault) as client:
        await greet(client)
        client.writer.write(request(1, "/x")[:7])
        client.writer.close()
        await within(echo.ended.wait())
    assert bytes(echo.received) == GREETING + request(1, "/x")[:7]


streams = st.lists(st.binary(max_size=40).map(frame), min_size=1, max_size=8)
edges = st.lists(st.integers(0, 300), max_size=8)


async def write_in_pieces(writer: asyncio.StreamWriter, data: bytes, cuts: list[int]) -> None:
    """Write it, split at some places."""
    places = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        writer.write(data[start:end])
        await asyncio.sleep(0)


@settings(max_examples=60, deadline=None)
@given(asked=streams, answered=streams, cuts_there=edges, cuts_back=edges)
def test_any_frames_cut_up_anyhow(
    asked: list[bytes], answered: list[bytes], cuts_there: list[int], cuts_back: list[int]
) -> None:
    """Any frames, in any pieces, in both directions at once, pass unchanged. They are recorded one by one,
    those of each direction in order."""
    there, back = b"".join(asked), b"".join(answered)
    arrived: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await write_in_pieces(writer, back, cuts_back)
        arrived.append(await reader.read())
        writer.close()

    async def main() -> None:
        async with scripted(serve) as address, FaultProxy(address) as proxy, proxy.record() as seen:
            async with connection(proxy) as client:
                await write_in_pieces(client.writer, there, cuts_there)
                assert await client.get(len(back)) == back

            async def gone() -> bool:
                return bool(arrived)

            await until(gone, "the server has seen the end")
        assert arrived == [there]
        assert [frame(message.body) for message in seen if message.kind is MessageKind.REQUEST] == asked
        assert [
            frame(message.body) for message in seen if message.kind is not MessageKind.REQUEST
        ] == answered

    asyncio.run(main())


# With real ZooKeeper


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_a_real_server(server_address: str, root: str, reset: bool) -> None:
    """The node whose create was cut before the server does not exist. With the other points it does, and
    after the reply the client knows that."""
    async with FaultProxy(server_address) as proxy, proxy.record() as seen:
        for make_point in MOMENTS:
            path = f"{root}/{make_point.__name__}"
            async with proxy.cut_at(make_point("create", match=about(path)), reset=reset) as cut:
                async with RawSession(proxy.address) as session:
                    if make_point is after:
                        assert await session.create(path) == 0
                    else:
                        with pytest.raises((ConnectionError, EOFError)):
                            await session.create(path)
            assert cut.fired.is_set()
        async with RawSession(server_address) as session:
            assert await session.exists(f"{root}/before") == NO_NODE
            assert await session.exists(f"{root}/committed") == 0
            assert await session.exists(f"{root}/after") == 0
    replied = [
        message.path
        for message in seen
        if message.kind is MessageKind.REPLY and message.operation == "create"
    ]
    assert replied == [f"{root}/committed", f"{root}/after"]


async def test_what_a_message_tells(server_address: str, root: str) -> None:
    """A record has each message that matches: its connection, the operation by name and by number, the path,
    and the reply's error."""
    node, none = f"{root}/n", f"{root}/none"
    async with FaultProxy(server_address) as proxy, proxy.record() as seen:
        async with proxy.record(lambda message: message.error != 0) as refusals:
            for _ in range(2):
                async with RawSession(proxy.address) as session:
                    await session.create(node)
            async with RawSession(proxy.address) as session:
                await session.exists(none)
    told = [
        (each.connection, each.kind, each.operation, each.opcode, each.path, each.xid, each.error)
        for each in seen
    ]
    ask, answer = MessageKind.REQUEST, MessageKind.REPLY
    assert told == [
        (1, ask, "connect", 0, None, 0, 0),
        (1, answer, "connect", 0, None, 0, 0),
        (1, ask, "create", 1, node, 1, 0),
        (1, answer, "create", 1, node, 1, 0),
        (2, ask, "connect", 0, None, 0, 0),
        (2, answer, "connect", 0, None, 0, 0),
        (2, ask, "create", 1, node, 1, 0),
        (2, answer, "create", 1, node, 1, NODE_EXISTS),
        (3, ask, "connect", 0, None, 0, 0),
        (3, answer, "connect", 0, None, 0, 0),
        (3, ask, "exists", 3, none, 1, 0),
        (3, answer, "exists", 3, none, 1, NO_NODE),
    ]
    assert [str(each) for each in refusals] == [f"reply to create {node!r}", f"reply to exists {none!r}"]


async def test_four_letter_words(server_address: str) -> None:
    """A server's four letter words work through the proxy, and are not messages."""
    async with FaultProxy(server_address) as proxy, proxy.record() as seen:
        assert "Zookeeper version" in await four_letter_word(proxy.address, "srvr")
        assert seen == []


async def test_events_are_counted(fault: FaultProxy, echo: Echo) -> None:
    """Of many events the nth that matches strikes; those before it have passed."""
    events = [event(path) for path in ("/a", "/b", "/a", "/a")]
    async with connection(fault) as client:
        await greet(client)
        async with fault.cut_at(on_event(match=about("/a"), nth=2)) as cut:
            echo._writers[0].write(b"".join(events))
            assert await client.rest() == events[0] + events[1]
        assert cut.message is not None
        assert (cut.message.kind, cut.message.path) == (MessageKind.EVENT, "/a")
    async with connection(fault) as client:
        await greet(client)
        async with fault.cut_at(after_event(nth=2)):
            echo._writers[1].write(b"".join(events))
            assert await client.rest() == events[0] + events[1]


@pytest.mark.parametrize("make_point", [on_event, after_event])
async def test_events(
    server_address: str, root: str, zk: corral.Client, make_point: Callable[..., Point]
) -> None:
    """An event is a message with its path. With a cut before it, it never passes; with a cut after it, it has
    passed."""
    async with FaultProxy(server_address) as proxy, corral.connect(proxy.address + root) as behind:
        async with behind.watch("/n") as events:
            assert not (await anext(events)).exists
            async with proxy.cut_at(make_point(match=about(f"{root}/n"))) as cut:
                await zk.create("/n", b"1")
                event = await within(anext(events))
            assert event.data == b"1"
            assert cut.fired.is_set()
            assert cut.message is not None
            assert cut.message.kind is MessageKind.EVENT

        async def again() -> bool:
            return proxy.accepted == 2

        await until(again, "connected again")


async def test_any_client_library(server_address: str, root: str) -> None:
    """kazoo through the proxy: its create is applied and its reply is lost, and kazoo reports that; the next
    request passes."""

    def work(address: str) -> str:
        client = KazooClient(address, timeout=4)
        client.start(timeout=20)
        try:
            with pytest.raises(ConnectionLoss):
                client.create_async(f"{root}/lost").get(timeout=20)
            assert client.exists_async(f"{root}/lost").get(timeout=20)
            return str(client.create_async(f"{root}/told").get(timeout=20))
        finally:
            client.stop()
            client.close()

    async with FaultProxy(server_address) as proxy, proxy.cut_at(committed("create")) as cut:
        assert await asyncio.to_thread(work, proxy.address) == f"{root}/told"
        assert cut.fired.is_set()


def test_it_works_on_uvloop() -> None:
    """Each point is as exact with uvloop."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        for make_point in MOMENTS:
            for reset in (False, True):
                await test_cut_at_each_moment(make_point, 7, reset)
            async with Echo() as echo, FaultProxy(echo.address) as proxy:
                await test_a_black_hole_from_a_point_on(proxy, echo, make_point)
            for gone in ("server", "client"):
                async with Echo() as echo, FaultProxy(echo.address) as proxy:
                    await test_half_open_from_a_point_on(proxy, echo, make_point, gone)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# Sessions that end


async def test_a_session_is_expired_on_the_server(proxy: FaultProxy, connect: Connect) -> None:
    """When `expire` returns the session's ephemerals are gone. Its client is notified, and gets a new
    session."""
    async with connect() as other, connect(proxy.address) as zk:
        await zk.create("/mine", ephemeral=True)
        first = zk.session_id
        await proxy.expire(first)
        assert await other.exists("/mine") is None
        async with asyncio.timeout(PATIENCE):
            async for state in zk.states():
                if state is corral.State.CONNECTED and zk.session_id != first:
                    break
        await proxy.expire(first)  # already over: nothing happens
        assert await zk.exists("/mine") is None


async def test_every_connected_session_is_expired_without_an_id(proxy: FaultProxy, connect: Connect) -> None:
    """The sessions that are connected through the proxy expire, and no others."""
    async with connect() as other, connect(proxy.address) as one, connect(proxy.address) as two:
        await asyncio.gather(*(zk.create(f"/{n}", ephemeral=True) for n, zk in enumerate((other, one, two))))
        await proxy.expire()
        assert await other.children("/") == ["0"]


async def test_only_sessions_that_were_seen_can_be_expired(proxy: FaultProxy, connect: Connect) -> None:
    """If the session is unknown the error names it and the remedy."""
    with pytest.raises(corral.UsageStateError, match="no session is connected"):
        await proxy.expire()
    async with connect() as other:
        with pytest.raises(corral.UsageValueError, match=f"0x{other.session_id:x} was not seen"):
            await proxy.expire(other.session_id)


async def test_each_of_many_sessions_is_expired(proxy: FaultProxy, connect: Connect) -> None:
    """None of 20 sessions is left, nor any of their ephemerals, repeatedly, even if their clients reconnect
    while others are being expired."""
    async with connect() as other, contextlib.AsyncExitStack() as stack:
        await other.create("/in")
        clients = [await stack.enter_async_context(connect(proxy.address)) for _ in range(20)]
        for _ in range(3):
            before = [zk.session_id for zk in clients]
            await asyncio.gather(*(zk.create("/in/n-", ephemeral=True, sequential=True) for zk in clients))
            await proxy.expire()
            assert await other.children("/in") == []
            for zk, session_id in zip(clients, before, strict=True):
                async with asyncio.timeout(PATIENCE):
                    async for state in zk.states():
                        if state is corral.State.CONNECTED and zk.session_id != session_id:
                            break


async def test_a_session_that_its_client_takes_back_is_expired(server_address: str, connect: Connect) -> None:
    """A client may resume its session before the server has read the close. It is expired nevertheless, and
    so are the others."""

    def is_connected(message: Message) -> bool:
        return message.kind is MessageKind.REPLY and message.operation == "connect"

    async with contextlib.AsyncExitStack() as stack:
        between = await stack.enter_async_context(FaultProxy(server_address))
        proxy = await stack.enter_async_context(FaultProxy(between.address))
        other = await stack.enter_async_context(connect())
        clients = [await stack.enter_async_context(connect(proxy.address)) for _ in range(3)]
        await asyncio.gather(*(zk.create(f"/{n}", ephemeral=True) for n, zk in enumerate(clients)))

        connected = await stack.enter_async_context(between.record(is_connected))

        def is_early(message: Message) -> bool:
            """A close, before the client has reconnected after the connection of `expire`."""
            return message.operation == "close" and len(connected) < 2

        async with between.delay(PATIENCE, match=is_early):
            await proxy.expire()
            assert len(connected) > 3  # one more than the sessions: the first was resumed by its client
        assert await other.children("/") == []


async def test_a_server_that_does_not_end_sessions(proxy: FaultProxy, connect: Connect) -> None:
    """However the server behaves, `expire` ends, with an error that names the server."""
    async with FaultProxy(str(proxy.address)) as front, connect(front.address) as zk:
        session_id = zk.session_id
        async with proxy.cut_at(before("close"), times=1000) as cut:
            with pytest.raises(ConnectionResetError, match=f"{proxy.address} closed the connection"):
                await front.expire(session_id)
            assert cut.fired.is_set()
