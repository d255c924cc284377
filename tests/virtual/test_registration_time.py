"""A registration on the virtual clock."""

from __future__ import annotations

import asyncio

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy
from support import turns

T = 6.0


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("how", ["black hole", "refused"])
async def test_leaving_on_a_dead_network(proxy: FaultProxy, other: corral.Client, how: str) -> None:
    """N1, L6: leaving waits for the session timeout at most; the znode goes when there is a connection again."""
    async with corral.connect(proxy.address, session_timeout=T) as zk:
        me = await zk.registration("/me").__aenter__()
        async with proxy.black_hole() if how == "black hole" else proxy.refuse():
            if how == "refused":
                await proxy.cut()
            began = now()
            await me.__aexit__(None, None, None)
            assert now() - began == pytest.approx(T)
        await other.wait_absent("/me")
        assert now() - began <= 2 * T


async def test_a_cancelled_body_on_a_dead_network(proxy: FaultProxy, other: corral.Client) -> None:
    """N1, L6: a body that is cancelled ends in no time at all."""

    async def register(zk: corral.Client) -> None:
        async with zk.registration("/me"):
            await asyncio.Event().wait()

    async with corral.connect(proxy.address, session_timeout=T) as zk:
        task = asyncio.create_task(register(zk))
        await other.wait_present("/me")
        async with proxy.black_hole():
            began = now()
            task.cancel()
            await asyncio.wait([task])
            assert now() == began
        await other.wait_absent("/me")


async def test_an_update_waits_for_as_long_as_it_takes(proxy: FaultProxy, other: corral.Client) -> None:
    """N1: through an outage of ten sessions, and then it is done."""
    async with corral.connect(proxy.address, session_timeout=T) as zk, zk.registration("/me", b"up") as me:
        async with proxy.refuse():
            await proxy.cut()
            updating = asyncio.create_task(me.update(b"busy"))
            await asyncio.sleep(10 * T)
            assert not updating.done()
            assert not me.is_present
            assert await other.exists("/me") is None
        await updating
        assert (await other.get("/me"))[0] == b"busy"


async def test_two_clients_take_turns(server: EmbeddedServer, other: corral.Client) -> None:
    """N1: one who waits for the path has it when the other one's session has expired, and that one waits when it comes
    back."""
    async with FaultProxy(server.address) as proxy, corral.connect(proxy.address, session_timeout=T) as zk:
        async with zk.registration("/me", b"first") as first:
            waiting = asyncio.create_task(other.registration("/me", b"second").__aenter__())
            async with proxy.black_hole():
                second = await waiting
                assert (await other.get("/me"))[0] == b"second"
            async for state in zk.states():
                if state is corral.State.CONNECTED:
                    break
            await zk.sync()
            await turns(20)
            assert not first.is_present
            assert second.is_present
            await second.__aexit__(None, None, None)
            await first.wait_present()
            assert (await other.get("/me"))[0] == b"first"
