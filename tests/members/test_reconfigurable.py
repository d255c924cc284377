"""LocalEnsemble, with members that come and go."""

from __future__ import annotations

import asyncio

import pytest

import corral
from corral.errors import UsageStateError, UsageValueError
from corral.testing import LocalEnsemble, LocalServer
from corral.testing.servers import ensemble as ensemble_module
from corral.testing.servers.ports import free_ports
from support import turns, until, within


async def test_a_server_comes_and_goes(reconfigurable: LocalEnsemble, superuser: corral.Client) -> None:
    """A server that was added is a member, serves, and keeps its port; one that was removed is neither, and is down."""
    before = await superuser.ensemble.config()
    added = await reconfigurable.add_server(role="observer", heap="128m")
    assert added in reconfigurable.servers

    async def observes() -> bool:
        return await added.role() == "observer"

    await until(observes, "it serves as an observer")
    await superuser.sync()
    config = await superuser.ensemble.config()
    assert added.address in config.hosts()
    assert [each.role for each in config.members] == ["participant"] * 3 + ["observer"]
    await reconfigurable.remove_server(added)
    assert added not in reconfigurable.servers
    assert not added.running
    await superuser.sync()
    assert (await superuser.ensemble.config()).members == before.members


async def test_a_cancelled_server_is_killed(
    reconfigurable: LocalEnsemble, superuser: corral.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S8: if adding is cancelled while the server starts, no process is left, and the members are the same."""
    begun = asyncio.Event()

    def ports(count: int) -> list[int]:
        begun.set()
        return free_ports(count)

    monkeypatch.setattr(ensemble_module, "free_ports", ports)
    before = await superuser.ensemble.config()
    adding = asyncio.create_task(reconfigurable.add_server())
    await within(begun.wait())
    await turns()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(adding)
    assert len(reconfigurable.servers) == 3
    assert await superuser.ensemble.config() == before


async def test_others_cannot_be_changed() -> None:
    """An ensemble whose members are fixed says so, before anything is started."""
    ensemble = LocalEnsemble(3)
    with pytest.raises(UsageStateError, match="reconfigurable=True"):
        await ensemble.add_server()
    with pytest.raises(UsageStateError, match="reconfigurable=True"):
        await ensemble.remove_server(ensemble.servers[0])
    with pytest.raises(UsageStateError, match="reconfigurable=True"):
        assert ensemble.superuser
    with pytest.raises(UsageValueError, match="both partitionable and reconfigurable"):
        LocalEnsemble(3, reconfigurable=True, partitionable=True)
    down = LocalEnsemble(3, reconfigurable=True)
    with pytest.raises(UsageStateError, match=r"call start\(\)"):
        await down.add_server()
    with pytest.raises(UsageValueError, match="not a server of"):
        await down.remove_server(LocalServer())


def test_a_class_path_can_be_given() -> None:
    """It is that of the next start, of one server or of all of an ensemble."""
    assert LocalServer().classpath is None
    assert LocalServer(classpath="/jars/*").classpath == "/jars/*"
    ensemble = LocalEnsemble(3, classpath="/jars/*")
    assert [server.classpath for server in ensemble.servers] == ["/jars/*"] * 3
    ensemble.servers[0].classpath = "/newer/*"
    assert [server.classpath for server in ensemble.servers] == ["/newer/*", "/jars/*", "/jars/*"]
