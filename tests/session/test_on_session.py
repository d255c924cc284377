"""`Session.on_session`: callbacks for each new session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

import corral
from corral import State
from corral.testing import FaultProxy
from support import turns

Connect = Callable[..., corral.Client]


async def in_another_session(zk: corral.Client, proxy: FaultProxy) -> None:
    """End the client's session, and wait until it has another."""
    before = zk.session_id
    await proxy.expire()
    async for state in zk.states():
        if state is State.CONNECTED and zk.session_id != before:
            break


async def test_each_session_once(connect: Connect, proxy: FaultProxy) -> None:
    """A callback is called in the next turn with the session that there is, then with each new one, and not again when
    a connection is lost and the session goes on."""
    seen: list[int] = []
    async with connect(proxy.address) as zk:
        zk._session.on_session(seen.append)
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [first := zk.session_id]
        await proxy.cut()
        await zk.exists("/")
        assert zk.session_id == first
        await in_another_session(zk, proxy)
        await turns()
        assert seen == [first, zk.session_id]
    await turns()
    assert len(seen) == 2


async def test_unsubscribing(connect: Connect, proxy: FaultProxy) -> None:
    """One that has unsubscribed is not called, not even in the turn in which it has subscribed; doing so twice is no
    error; another one that is the same function is called."""
    seen: list[int] = []
    async with connect(proxy.address) as zk:
        unsubscribe = zk._session.on_session(seen.append)
        zk._session.on_session(seen.append)
        unsubscribe()
        unsubscribe()
        await in_another_session(zk, proxy)
        await turns()
        assert len(seen) == len(set(seen))
        assert seen[-1] == zk.session_id


async def test_one_that_raises_is_logged(
    connect: Connect, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a callback is logged; the other callbacks are called, and the session goes on."""
    seen: list[int] = []

    def fails(session_id: int) -> None:
        raise ValueError("a defect")

    async with connect(proxy.address) as zk:
        for callback in (fails, seen.append):
            zk._session.on_session(callback)
        await in_another_session(zk, proxy)
        await turns()
        assert seen[-1] == zk.session_id
        assert await zk.exists("/") is not None
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert failed
    assert all("a callback for new sessions failed" in record.message for record in failed)


async def test_none_is_called_while_closing(connect: Connect) -> None:
    """Not called once closing has begun, although it had just subscribed, nor afterwards."""
    seen: list[int] = []
    async with connect() as zk:
        session = zk._session
        closing = asyncio.create_task(zk.close())
        while not session._machine.closing:
            session.on_session(seen.append)
            told = len(seen)
            await asyncio.sleep(0)
        await closing
        session.on_session(seen.append)
        await turns()
    assert len(seen) == told


async def test_only_in_the_loop_of_the_client(connect: Connect) -> None:
    """It belongs to the client's event loop, as all of the session does."""
    session = connect()._session
    with pytest.raises(corral.UsageStateError, match="not open"):
        session.on_session(lambda session_id: None)
