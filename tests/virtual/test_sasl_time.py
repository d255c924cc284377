"""SASL and the time that things take. Nothing really waits."""

from __future__ import annotations

import asyncio

import pytest

import corral
from corral.testing import EmbeddedServer
from sasl_servers import BOB, USERS

T = 6.0
"""The session timeout, in seconds."""


async def test_an_ensemble_that_went_back_and_requires_sasl() -> None:
    """T2, S4: a client that is rejected for longer than T finds out that it has seen more than the servers, also where
    they refuse whoever has not authenticated."""
    server = EmbeddedServer(sasl=USERS, require_sasl=True)
    await server.start()
    async with corral.connect(server.address, sasl=BOB, session_timeout=T) as zk:
        for _ in range(100):
            await zk.create("/node-", sequential=True)
        port = int(server.address.rpartition(":")[2])
        await server.close()
        async with EmbeddedServer(port=port, sasl=USERS, require_sasl=True), asyncio.timeout(10 * T):
            with pytest.raises(corral.EnsembleBehind):
                await zk.exists("/")


async def test_a_session_lives_through_long_exchanges() -> None:
    """T2, S1: a client that asks for nothing keeps its session on a server that requires SASL, over many connections:
    its pings count, and its tokens do not have to."""
    async with (
        EmbeddedServer(sasl=USERS, require_sasl=True) as server,
        corral.connect(server.address, sasl=BOB, session_timeout=T) as zk,
    ):
        session = zk.session_id
        for _ in range(5):
            await asyncio.sleep(3 * T)
            await server.stop()
            await server.start()
        await asyncio.sleep(3 * T)
        assert (zk.session_id, zk.state) == (session, corral.State.CONNECTED)
