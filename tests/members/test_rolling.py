"""Fleets of servers that change under their clients: all replaced one by one, and upgraded one by one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

import pytest
from fleet import under_load

from corral.testing import LocalEnsemble

NEWER = "CORRAL_ZOOKEEPER_NEWER_CLASSPATH"
"""The class path of a newer ZooKeeper, to upgrade to."""

Record = Callable[[str, object], None]


async def test_a_rolling_replacement(reconfigurable: LocalEnsemble, record_property: Record) -> None:
    """S1, S2, L4, W3, X1, Q1: all three members are replaced, one by one, by servers that the clients were not told of.
    Their sessions and locks are the same at the end, no item and no number is lost or doubled, watches and caches are
    current. Until the leader goes, no write is lost either."""
    before = set(reconfigurable.hosts.split(","))
    root = f"/replacement-{uuid.uuid4().hex[:8]}"
    leader = await reconfigurable.leader()
    old = [each for each in reconfigurable.servers if each is not leader] + [leader]
    async with under_load(reconfigurable.hosts, root, follow_members=True) as fleet:
        for server in old:
            if server is leader:
                assert fleet.unknown == 0
            await reconfigurable.add_server()
            await reconfigurable.remove_server(server, drain=10)
        assert before.isdisjoint(reconfigurable.hosts.split(","))
    print(fleet)
    record_property("members", f"replacement: {fleet}")


async def test_a_rolling_upgrade(real_servers: None, record_property: Record) -> None:
    """S1, S2, L4, W3, X1, Q1: each server is stopped, and started as a newer ZooKeeper with its data, the leader last.
    Clients lose nothing."""
    newer = os.environ.get(NEWER)
    if not newer:
        pytest.skip(f"{NEWER} names no newer ZooKeeper to upgrade to")
    root = "/upgrade"
    async with LocalEnsemble(3) as ensemble:
        followers = await ensemble.followers()
        first = await version_of(ensemble)
        async with under_load(ensemble.hosts, root, follow_members=False) as fleet:
            for server in [*followers, *(each for each in ensemble.servers if each not in followers)]:
                await server.stop()
                server.classpath = newer
                await server.start()
                await ensemble.followers()
        last = await version_of(ensemble)
        assert first != last
    print(fleet)
    record_property("members", f"upgrade from {first} to {last}: {fleet}")


async def version_of(ensemble: LocalEnsemble) -> str:
    """The one version of all servers."""
    answers = [await server.four_letter_word("srvr") for server in ensemble.servers]
    [version] = {answer.splitlines()[0].split()[2].split("-")[0] for answer in answers}
    return version
