"""Connecting, with each way in which it can fail: it is bounded, reports the reason, and leaves nothing (S1,
S5, S8)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Callable

import pytest
from fault_support import within

import corral
from corral import State
from corral.testing import FaultProxy, committed
from corral.testing.servers.base import four_letter_word
from corral.testing.servers.ports import free_ports
from support import turns, until

Connect = Callable[..., corral.Client]
Fault = contextlib.AbstractAsyncContextManager[object]
MakeFault = Callable[[FaultProxy], Fault]


def cut_in_the_handshake(proxy: FaultProxy, *, reset: bool = False) -> Fault:
    """Each connection ends when the server has answered the connect request, before the client gets the
    answer."""
    return proxy.cut_at(committed("connect"), reset=reset, times=sys.maxsize)


@contextlib.asynccontextmanager
async def closed_at_once(proxy: FaultProxy) -> AsyncIterator[None]:
    """Each connection ends with FIN as soon as it is accepted."""

    async def cut_on() -> None:
        while True:
            await until(lambda: connected(proxy), "somebody connects")
            await proxy.cut()

    async def connected(proxy: FaultProxy) -> bool:
        return proxy.connections > 0

    async with proxy.black_hole():
        cutting = asyncio.create_task(cut_on())
        try:
            yield
        finally:
            cutting.cancel()
            await asyncio.wait([cutting])


FAULTS: dict[str, MakeFault] = {
    "reset when it connects": lambda proxy: proxy.refuse(),
    "closed when it connects": closed_at_once,
    "no answer": lambda proxy: proxy.black_hole(),
    "the answer is withheld": lambda proxy: proxy.black_hole(requests=False),
    "the answer is lost, FIN": cut_in_the_handshake,
    "the answer is lost, RST": lambda proxy: cut_in_the_handshake(proxy, reset=True),
}

by_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


@by_fault
async def test_no_session_in_time(connect: Connect, proxy: FaultProxy, fault: MakeFault) -> None:
    """S1, S5: entering gives up after `connect_timeout`, and the error has what each server did. The client
    cannot be used again, and no connection is left."""
    client = connect(to=proxy.address, connect_timeout=0.5)
    async with fault(proxy):
        with pytest.raises(corral.ConnectTimeout, match=rf"connect_timeout=0\.5 s; {proxy.address}: \w+"):
            await within(client.__aenter__())
        await until(lambda: nobody(proxy), "the connection is closed")
    assert client.session_id == 0
    assert client.state is State.CLOSED
    with pytest.raises(corral.UsageStateError, match="opened before"):
        await client.__aenter__()


@by_fault
async def test_connects_when_the_fault_ends(
    connect: Connect, proxy: FaultProxy, fault: MakeFault, caplog: pytest.LogCaptureFixture
) -> None:
    """S1: entering keeps trying until there is a server; then the client is a normal one."""
    async with fault(proxy):
        entering = asyncio.create_task(enter_and_read(connect(to=proxy.address, connect_timeout=None)))
        await until(lambda: tried(proxy, caplog), "it tries")
        await turns()
        assert not entering.done()
    assert await within(entering) == []


@by_fault
async def test_cancelled_while_connecting(
    connect: Connect, proxy: FaultProxy, fault: MakeFault, caplog: pytest.LogCaptureFixture
) -> None:
    """S8: entering that is cancelled ends at once, whatever it waits for, and no connection is left."""
    client = connect(to=proxy.address, connect_timeout=None)
    async with fault(proxy):
        entering = asyncio.create_task(client.__aenter__())
        await until(lambda: tried(proxy, caplog), "it tries")
        await turns()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(entering)
        await until(lambda: nobody(proxy), "the connection is closed")
    assert client.state is State.CLOSED


@pytest.mark.parametrize("steps", [*range(6), 8, 12, 16, 24, 32, 48, 64, 96, 128])
async def test_cancelled_at_each_step(
    connect: Connect, proxy: FaultProxy, other: corral.Client, steps: int
) -> None:
    """S8: at whatever step of connecting entering is cancelled, up to the one with a session, no connection
    is left, and no session that the client knows of: it closes that on the server."""
    client = connect(to=proxy.address)
    entering = asyncio.create_task(client.__aenter__())
    await turns(steps)
    entering.cancel()
    await asyncio.wait([entering])
    if not entering.cancelled():
        entering.result()
        await client.close()
    await until(lambda: nobody(proxy), "the connection is closed")
    assert client.state is State.CLOSED or not steps  # at once, entering had not even begun
    assert client.session_id == 0


async def test_cancelled_in_the_tick_of_the_session(
    connect: Connect, server_address: str, proxy: FaultProxy, other: corral.Client
) -> None:
    """S8: a session that is established in the very tick in which entering is cancelled is ended on the
    server."""
    cancelled_with_a_session = 0
    for steps in range(12):
        before = await sessions(server_address)
        client = connect(to=proxy.address)
        states = client.states()
        async with proxy.black_hole(requests=False) as held:
            entering = asyncio.create_task(client.__aenter__())
            await within(held.arrived())
        await turns(steps)
        entering.cancel()
        await asyncio.wait([entering])
        if not entering.cancelled():
            await client.close()
        if State.CONNECTED in [state async for state in states]:
            cancelled_with_a_session += entering.cancelled()
            assert await sessions(server_address) <= before
    assert cancelled_with_a_session


async def sessions(address: str) -> set[str]:
    """The sessions that a server knows."""
    known, _, _ = (await four_letter_word(address, "dump")).partition("ephemeral nodes dump")
    return set(re.findall(r"0x[0-9a-f]+", known))


async def test_nobody_listens(server_address: str, root: str) -> None:
    """S1: a port that refuses connections is reported as that, and does not keep a client from a server that
    answers."""
    [port] = free_ports(1)
    with pytest.raises(corral.ConnectTimeout, match=f"127.0.0.1:{port}: .*[Cc]onnect"):
        await within(corral.connect(f"127.0.0.1:{port}", connect_timeout=0.3).__aenter__())
    for _ in range(6):
        assert await within(enter_and_read(corral.connect(f"127.0.0.1:{port},{server_address}{root}"))) == []


async def test_name_that_does_not_resolve(server_address: str, root: str) -> None:
    """S1: a name that does not resolve is reported as that, and does not keep a client from one that does."""
    with pytest.raises(corral.ConnectTimeout, match=r"nowhere\.invalid:2181: name not resolved"):
        await within(corral.connect("nowhere.invalid", connect_timeout=1.0).__aenter__())
    assert await within(enter_and_read(corral.connect(f"nowhere.invalid,{server_address}{root}"))) == []


async def test_every_server_is_named(connect: Connect, proxy: FaultProxy) -> None:
    """S1: the error of a failed search has the outcome for each server."""
    [port] = free_ports(1)
    async with proxy.refuse():
        with pytest.raises(corral.ConnectTimeout) as raised:
            await within(
                corral.connect(f"{proxy.address},127.0.0.1:{port}", connect_timeout=0.5).__aenter__()
            )
    for address in (proxy.address, f"127.0.0.1:{port}"):
        assert f"{address}: " in str(raised.value)


async def enter_and_read(client: corral.Client) -> list[str]:
    async with client as zk:
        return await zk.children("/")


async def nobody(proxy: FaultProxy) -> bool:
    return proxy.connections == 0


async def tried(proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the server has seen a client; for those that refuse connections the client's log shows it."""
    return proxy.accepted > 0 or "no server takes" in caplog.text
