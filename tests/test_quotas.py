"""Quotas, on a real server that enforces them: from ZooKeeper 3.7 on, with `enforceQuota`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import corral
from corral.testing import LocalServer
from corral.testing.servers.base import four_letter_word
from support import within

LIMITS = "/zookeeper/quota/full/zookeeper_limits"
STATS = "/zookeeper/quota/full/zookeeper_stats"


@pytest.fixture
async def zk(real_servers: None) -> AsyncIterator[corral.Client]:
    """A client whose "/full" may have three znodes, itself included, and 20 bytes, and is full."""
    async with (
        LocalServer(extra_config={"enforceQuota": "true"}) as server,
        corral.connect(server.address) as client,
    ):
        if "version: 3.6" in await four_letter_word(server.address, "srvr"):
            pytest.skip("ZooKeeper 3.6 only logs what is beyond a quota")
        await client.create(LIMITS, b"countHardLimit=3,byteHardLimit=20", make_parents=True)
        await client.create(STATS)
        await client.create("/full/a", b"x" * 15, make_parents=True)
        await client.create("/full/b")
        yield client


async def lock(zk: corral.Client) -> None:
    async with zk.lock("/full/lock"):
        raise AssertionError("acquired")


TOO_MUCH: dict[str, tuple[str, Callable[[corral.Client], Awaitable[object]]]] = {
    "create": ("create '/full/c'", lambda zk: zk.create("/full/c")),
    "sequential": ("create '/full/s-'", lambda zk: zk.create("/full/s-", ephemeral=True, sequential=True)),
    "container": ("create '/full/c'", lambda zk: zk.create("/full/c", container=True)),
    "parents": ("create '/full/x'", lambda zk: zk.ensure_path("/full/x/y")),
    "set": ("set '/full/a'", lambda zk: zk.set("/full/a", b"x" * 21)),
    "lock": ("create '/full/lock'", lock),
    "queue": ("create '/full/queue'", lambda zk: zk.queue("/full/queue").put(b"")),
    "registration": ("create '/full/me'", lambda zk: zk.registration("/full/me").__aenter__()),
}


async def test_what_does_not_fit(zk: corral.Client) -> None:
    """A write beyond a hard quota raises QuotaExceeded, which names the operation and the path; nothing is
    applied, and what fits still is. In a transaction it is the cause."""
    for called, call in TOO_MUCH.values():
        with pytest.raises(corral.QuotaExceeded, match=rf"^{called}: a quota .* would be exceeded"):
            await within(call(zk))
    tx = zk.transaction()
    tx.create("/other")
    tx.create("/full/c")
    with pytest.raises(corral.TransactionFailed) as failed:
        await tx.commit()
    assert (failed.value.index, type(failed.value.cause)) == (1, corral.QuotaExceeded)
    assert await zk.exists("/other") is None
    assert sorted(await zk.children("/full")) == ["a", "b"]
    assert (await zk.get("/full/a"))[1].version == 0
    await zk.set("/full/a", b"x" * 20)
    await zk.delete("/full/b")
    await zk.create("/full/c")
    assert (await zk.get(STATS))[0] == b"count=3,bytes=20"
    await zk.delete("/zookeeper/quota/full", recursive=True)
    await zk.create("/full/d")
