"""A real server that has lost its quorum, and goes on as a read-only server (``readonlymode.enabled``)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fault_support import until_state, within

import corral
from corral import State
from corral.testing import LocalEnsemble

pytestmark = pytest.mark.usefixtures("real_servers")

TICK = 1.0
T = 20 * TICK
"""Longer than the partition, so that the session survives it."""
SYNC_LIMIT = 2


async def test_a_server_that_is_cut_off_serves_reads() -> None:
    """T3, S3: a client of a follower that is cut off from its peers becomes READ_ONLY there. Reads are answered, a
    watch reports the state, and writes raise, or wait without standing before reads. When the partition heals, both
    clients have the session and the ephemerals that they had, and what waited is written. A client that knows the
    other servers, too, goes there."""
    servers = LocalEnsemble(
        3,
        partitionable=True,
        tick_time=TICK,
        sync_limit=SYNC_LIMIT,
        java_properties={"readonlymode.enabled": "true"},
        extra_config={"localSessionsEnabled": "true", "localSessionsUpgradingEnabled": "true"},
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(servers.close)
        await servers.start()
        follower = (await servers.followers())[0]

        def connect(hosts: str, **options: object) -> corral.Client:
            return corral.connect(hosts, session_timeout=T, **options)  # type: ignore[arg-type]

        zk = await stack.enter_async_context(connect(follower.address, read_only=True))
        waiting = await stack.enter_async_context(connect(follower.address, read_only="wait"))
        everywhere = await stack.enter_async_context(connect(servers.hosts, read_only=True))
        events = await stack.enter_async_context(zk.watch("/data"))
        await zk.create("/data", b"old")
        for each in (zk, waiting):
            await each.create(
                "/ephemeral-", ephemeral=True, sequential=True
            )  # which no local session can own
        before = zk.session_id, waiting.session_id

        async with servers.partition(follower):
            await until_state(zk, State.READ_ONLY)
            await until_state(waiting, State.READ_ONLY)
            assert zk.server == follower.address
            data, stat = await within(zk.get("/data"))
            assert data == b"old"
            assert len(await within(zk.children("/"))) == 4
            assert (await within(anext(events))).data == b"old"
            for write in (
                zk.set("/data", b"new"),
                zk.create("/other"),
                zk.delete("/data"),
                zk.sync(),
                zk.set_acl("/data", corral.acl.OPEN),
                zk.lock("/lock").acquire(),
            ):
                with pytest.raises(corral.NotReadOnly):
                    await within(write)
            setting = asyncio.create_task(waiting.set("/data", b"waited", version=stat.version))
            assert (await within(waiting.get("/data")))[0] == b"old"
            assert not setting.done()
            await until_state(everywhere, State.CONNECTED)
            assert everywhere.server != follower.address

        assert (await within(setting)).version == stat.version + 1
        await until_state(zk, State.CONNECTED)
        assert (zk.session_id, waiting.session_id) == before
        assert (await within(anext(events))).data == b"waited"
        assert len(await within(everywhere.children("/"))) == 4
