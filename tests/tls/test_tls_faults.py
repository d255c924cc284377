"""Every fault of a TCP proxy, with TLS: the session, its locks and its watches are as without (T1, S2, S4, L4)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import corral
from corral.testing import TcpProxy, VirtualLoop
from support import turns, until, within
from tls_support import Pki, embedded

ConnectSecure = Callable[..., corral.Client]


@contextlib.asynccontextmanager
async def cut(proxy: TcpProxy, *, reset: bool) -> AsyncIterator[None]:
    await proxy.cut(reset=reset)
    yield


FAULTS: dict[str, Callable[[TcpProxy], contextlib.AbstractAsyncContextManager[Any]]] = {
    "FIN": lambda proxy: cut(proxy, reset=False),
    "RST": lambda proxy: cut(proxy, reset=True),
    "black hole": lambda proxy: proxy.black_hole(),
    "black hole for requests": lambda proxy: proxy.black_hole(replies=False),
    "black hole for replies": lambda proxy: proxy.black_hole(requests=False),
    "delay": lambda proxy: proxy.delay(0.2),
    "half open, server gone": lambda proxy: proxy.half_open(),
    "half open, client gone": lambda proxy: proxy.half_open(gone="client"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_is_over_in_time(secure: str, connect_secure: ConnectSecure, fault: str) -> None:
    """S4, L4, W1: the session is on again, a lock is still held, and a watch reports what has changed meanwhile."""
    async with TcpProxy(secure) as proxy:
        async with connect_secure(secure) as other, connect_secure(proxy.address, session_timeout=8.0) as zk:
            path = await other.create("/fault-", b"1", sequential=True)
            session = zk.session_id
            watch = zk.watch(path)
            await within(anext(watch))
            async with zk.lock(f"{path}/lock") as held:
                async with FAULTS[fault](proxy):
                    await other.set(path, b"2")
                    reading = asyncio.create_task(zk.get(path))
                    await turns()  # it is sent
                assert (await within(reading))[0] == b"2"
                assert (await within(anext(watch))).data == b"2"
                await within(zk.set(path, b"3"))
                assert held.is_valid
            assert zk.session_id == session
            await other.delete(path, recursive=True)


async def test_refused_and_accepted_again(secure: str, connect_secure: ConnectSecure) -> None:
    """S4, L4: while connections are refused nothing reaches the server; afterwards the lock is still held."""
    async with TcpProxy(secure) as proxy, connect_secure(proxy.address, session_timeout=8.0) as zk:
        path = await zk.create("/refused-", sequential=True)
        async with zk.lock(f"{path}/lock") as held:
            async with proxy.refuse():
                await proxy.cut(reset=True)

                async def is_suspended() -> bool:
                    return zk.state is corral.State.SUSPENDED

                await until(is_suspended, "the loss is noticed")
            await within(zk.set(path, b"1"))
            assert held.is_valid
        await zk.delete(path, recursive=True)


async def test_a_session_that_expires(secure: str, connect_secure: ConnectSecure) -> None:
    """L4, S3: the body of a lock is cancelled before the server gives the lock to another; then the client has a new
    session."""
    async with TcpProxy(secure) as proxy, connect_secure(secure) as other:
        async with connect_secure(proxy.address, session_timeout=2.0) as zk:
            path = await other.create("/expires-", sequential=True)
            session = zk.session_id
            waiting: asyncio.Future[Any] | None = None
            is_over = False

            async def acquires() -> None:
                async with other.lock(f"{path}/lock"):
                    assert is_over, "two hold the lock"

            async def holds(hole: contextlib.AsyncExitStack) -> None:
                nonlocal waiting, is_over
                async with zk.lock(f"{path}/lock"):
                    waiting = asyncio.ensure_future(acquires())
                    await hole.enter_async_context(proxy.black_hole())
                    try:
                        await asyncio.sleep(60)
                    finally:
                        is_over = True

            async with contextlib.AsyncExitStack() as hole:
                with pytest.raises(corral.LockLost):
                    await holds(hole)
                assert waiting is not None
                await within(waiting)
            await within(zk.children("/"))
            assert zk.session_id != session
            await other.delete(path, recursive=True)


async def test_a_connection_is_lost_in_the_handshake(secure: str, connect_secure: ConnectSecure) -> None:
    """S4: connections that are cut, reset, or silent from the handshake on are given up, and others made."""
    async with TcpProxy(secure) as proxy:
        async with proxy.black_hole(replies=False) as withheld:
            opening = asyncio.ensure_future(connect_secure(proxy.address).__aenter__())
            await within(withheld.arrived())
            for reset in (False, True):
                await proxy.cut(reset=reset)

                async def connects() -> bool:
                    return proxy.connections > 0

                await until(connects, "it connects again")
        zk = await within(opening)
        await within(zk.children("/"))
        await zk.close()


async def test_cancelled_in_each_turn(pki: Pki) -> None:
    """T1, S8: connecting is cancelled in each turn of the event loop, from the first to the one in which it is done:
    no connection stays open."""
    async with (
        embedded(pki.authority.server_context(pki.server)) as server,
        TcpProxy(server.address) as proxy,
    ):
        is_virtual = isinstance(asyncio.get_running_loop(), VirtualLoop)
        is_done, number = False, 0
        while not is_done:
            number += 1 if is_virtual else 1 + number // 4  # real handshakes take hundreds of turns
            zk = corral.connect(proxy.address, ssl=pki.trusting(), session_timeout=4.0)
            opening = asyncio.ensure_future(zk.__aenter__())
            await turns(number)
            is_done = opening.done()
            opening.cancel()
            await asyncio.wait([opening])
            await zk.close()
            await turns(10)
            if is_virtual:
                assert not proxy.connections, f"cancelled in turn {number}, a connection is open"
            else:  # the kernel takes its time

                async def closed() -> bool:
                    return not proxy.connections

                await until(closed, f"after turn {number} no connection is open")
