"""T2: SASL's GSSAPI, on a real server that is in a realm of a real KDC on loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from kdc import REALM, Kdc, missing

import corral
from corral.testing import FaultProxy, LocalServer, TcpProxy
from sasl_servers import BOB, PROVIDER, only
from support import started, until, within

Open = Callable[..., corral.Client]
ALICE, CAROL = f"alice@{REALM}", f"carol@{REALM}"

pytestmark = pytest.mark.usefixtures("real_time")


@pytest.fixture(scope="module")
def kdc(real_servers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    if reason := missing():
        pytest.skip(f"about Kerberos: {reason}")
    kdc = Kdc(tmp_path_factory.mktemp("kdc"), ("zookeeper/localhost", "alice", "carol"))
    try:
        kdc.start()
        yield kdc
    finally:
        kdc.stop()


@pytest.fixture(scope="module")
def server(kdc: Kdc) -> Iterator[str]:
    """A real server with Kerberos, by the name that its principal has."""
    jaas = kdc.directory / "jaas.conf"
    jaas.write_text(
        "Server {\n  com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true\n"
        f'  useTicketCache=false keyTab="{kdc.keytab}" principal="zookeeper/localhost@{REALM}";\n}};\n'
    )
    server = LocalServer(
        java_properties={
            "java.security.auth.login.config": str(jaas),
            "java.security.krb5.conf": str(kdc.config),
            "zookeeper.authProvider.1": PROVIDER,
            "zookeeper.sessionRequireClientSASLAuth": "true",
        }
    )
    with started(server):
        yield server.address.replace("127.0.0.1", "localhost")


@pytest.fixture
async def kerberos_proxy(server: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server) as proxy:
        yield proxy


@pytest.fixture
def ccache(kdc: Kdc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A credentials cache of the test's own, with a ticket of alice's."""
    monkeypatch.setenv("KRB5_CONFIG", str(kdc.config))
    name = f"FILE:{tmp_path}/ccache"
    kdc.kinit("alice", name)
    return name


def by_name(proxy: FaultProxy) -> str:
    return proxy.address.replace("127.0.0.1", "localhost")


async def test_a_principal_is_who_it_is(server: str, ccache: str, open_as: Open, home: str) -> None:
    """T2: the principal of the ticket has what access control lists grant it; the servers' principal is found by the
    host's name, or is given where the connect string has an address."""
    async with open_as(server, corral.Kerberos(ccache=ccache)) as zk:
        await zk.create(home, acl=only(ALICE))
        await zk.set(home, b"hers")
    address = server.replace("localhost", "127.0.0.1")
    with pytest.raises(corral.AuthFailed, match=r"zookeeper@127\.0\.0\.1"):
        await within(open_as(address, corral.Kerberos(ccache=ccache)).__aenter__())
    async with open_as(address, corral.Kerberos(ccache=ccache, host="localhost", principal=ALICE)) as zk:
        assert (await zk.get(home))[0] == b"hers"


async def test_a_keytab(kdc: Kdc, server: str, ccache: str, open_as: Open, home: str) -> None:
    """T2: with a keytab no ticket need be there."""
    sasl = corral.Kerberos(principal=CAROL, keytab=f"FILE:{kdc.keytab}", ccache="MEMORY:carol")
    async with open_as(server, sasl) as zk:
        await zk.create(home, acl=only(CAROL))


async def test_tickets_are_taken_afresh(
    kdc: Kdc, kerberos_proxy: FaultProxy, ccache: str, open_as: Open, home: str
) -> None:
    """T2: each connection uses the tickets that are there then: after a reconnect the client is whose ticket has come
    into the cache meanwhile."""
    async with open_as(by_name(kerberos_proxy), corral.Kerberos(ccache=ccache)) as zk:
        session = zk.session_id
        await zk.create(home, acl=only(CAROL))
        with pytest.raises(corral.NoAuth):
            await zk.get(home)
        kdc.kinit("carol", ccache)
        await kerberos_proxy.cut()
        await zk.get(home)
        assert zk.session_id == session


async def test_no_ticket(server: str, ccache: str, open_as: Open, tmp_path: Path) -> None:
    """T2: without a ticket nothing is sent; the error names server, mechanism and principal."""
    client = open_as(server, corral.Kerberos(ccache=f"FILE:{tmp_path}/none"))
    with pytest.raises(corral.AuthFailed) as raised:
        await within(client.__aenter__())
    for part in (server.partition(":")[2], "GSSAPI", "zookeeper@localhost"):
        assert part in str(raised.value)


async def run_out(kdc: Kdc, ccache: str) -> None:
    """Wait until the ticket has run out."""

    async def is_out() -> bool:
        return not kdc.has_ticket(ccache)

    await until(is_out, "the ticket runs out")


async def test_a_ticket_that_runs_out(
    kdc: Kdc, kerberos_proxy: FaultProxy, ccache: str, open_as: Open, home: str
) -> None:
    """T2: a connection outlives its ticket. A reconnect without a valid one waits for a new one while the session
    lives, and then nothing is lost; if none comes, the client ends with `AuthFailed` once the session is over; and
    the first connect fails at once."""
    kdc.kinit("alice", ccache, "3s")
    sasl = corral.Kerberos(ccache=ccache)
    async with open_as(by_name(kerberos_proxy), sasl, session_timeout=4) as zk:
        held = await zk.lock(home).acquire()
        await run_out(kdc, ccache)
        assert await zk.exists(home) is not None
        await kerberos_proxy.cut()
        reading = asyncio.create_task(zk.exists(home))
        states = zk.states()
        while await anext(states) is not corral.State.SUSPENDED:
            pass
        kdc.kinit("alice", ccache)
        assert await within(reading) is not None
        assert held.is_valid
        await held.release()
    kdc.kinit("alice", ccache, "3s")
    async with open_as(by_name(kerberos_proxy), sasl, session_timeout=1) as zk:
        await run_out(kdc, ccache)
        states = zk.states()
        await kerberos_proxy.cut()
        seen = [state async for state in states]
        assert seen[-2:] == [corral.State.EXPIRED, corral.State.AUTH_FAILED]
        with pytest.raises(corral.AuthFailed, match="GSSAPI"):
            await zk.exists(home)
    with pytest.raises(corral.AuthFailed, match="GSSAPI"):
        await within(open_as(by_name(kerberos_proxy), sasl).__aenter__())


async def test_the_loop_is_not_blocked(
    kdc: Kdc, server: str, ccache: str, open_as: Open, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T2, S1: the KDC is asked beside the event loop: here through a proxy in that loop. A KDC that cannot be reached,
    or that does not answer, is waited for within `connect_timeout`."""
    sasl = corral.Kerberos(ccache=ccache)
    async with TcpProxy(f"127.0.0.1:{kdc.port}") as to_kdc:
        port = int(to_kdc.address.rpartition(":")[2])
        monkeypatch.setenv("KRB5_CONFIG", str(kdc.client_config("through_proxy.conf", port)))
        for silence in (to_kdc.refuse, to_kdc.black_hole):
            async with silence():
                with pytest.raises(corral.ConnectTimeout):
                    await within(open_as(server, sasl, connect_timeout=0.5).__aenter__())
        async with open_as(server, sasl) as zk:
            assert await zk.exists(home) is None
        assert to_kdc.accepted


async def test_the_other_mechanism(server: str, sasl_address: str, ccache: str, open_as: Open) -> None:
    """T2: a server that has the other mechanism refuses the client, which says so."""
    with pytest.raises(corral.AuthFailed, match="DIGEST-MD5"):
        await within(open_as(server, BOB).__aenter__())
    with pytest.raises(corral.AuthFailed, match="the server has DIGEST-MD5, not GSSAPI"):
        await within(open_as(sasl_address, corral.Kerberos(ccache=ccache, host="localhost")).__aenter__())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """T2: where the library is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "gssapi", None)
    with pytest.raises(corral.UsageStateError, match=r"corral\[kerberos\]"):
        corral.Kerberos()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"service": ""}, ValueError),
        ({"service": None}, TypeError),
        ({"host": ""}, ValueError),
        ({"principal": b"alice"}, TypeError),
        ({"ccache": Path("/tmp/x")}, TypeError),
    ],
)
def test_bad_input(options: dict[str, object], error: type[Exception]) -> None:
    """T2: wrong arguments are refused at once, by name."""
    with pytest.raises(error, match=f"{next(iter(options))} of Kerberos") as raised:
        corral.Kerberos(**options)  # type: ignore[arg-type]
    assert isinstance(raised.value, corral.UsageError)
