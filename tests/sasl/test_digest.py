"""T2: SASL's DIGEST-MD5, on servers that know some users: embedded and real."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

import pytest

import corral
from corral.testing import EmbeddedServer, FaultProxy, after, before
from corral.wire import messages
from sasl_servers import BOB, SECRET, USERS, only
from support import within

Open = Callable[..., corral.Client]


async def refused(client: corral.Client) -> str:
    """Why entering raises `AuthFailed`."""
    with pytest.raises(corral.AuthFailed) as raised:
        await within(client.__aenter__())
    assert client.state is corral.State.CLOSED
    return str(raised.value)


# Accepted


@pytest.mark.parametrize("user", USERS)
async def test_a_user_is_who_he_is(sasl_address: str, open_as: Open, home: str, user: str) -> None:
    """T2: whoever has proven to be a user has what access control lists grant that user, and nobody else has it;
    names and secrets may be of any alphabet."""
    async with open_as(sasl_address, corral.DigestMD5(user, USERS[user])) as zk:
        await zk.create(home, b"his", acl=only(user))
        assert (await zk.get(home))[0] == b"his"
        assert list((await zk.get_acl(home))[0]) == only(user)
        other = corral.DigestMD5("eve", USERS["eve"]) if user != "eve" else BOB
        for sasl in (None, other) if user != "super" else (None,):
            async with open_as(sasl_address, sasl) as stranger:
                with pytest.raises(corral.NoAuth):
                    await stranger.get(home)
        await zk.delete(home)


async def test_the_creator_and_the_superuser(sasl_address: str, open_as: Open, home: str) -> None:
    """T2: what is made for its creator alone is the SASL user's; the user `super` may do everything there."""
    async with open_as(sasl_address) as zk, open_as(sasl_address, None) as stranger:
        await zk.create(home, acl=corral.acl.CREATOR_ALL)
        assert list((await zk.get_acl(home))[0]) == only("bob")
        with pytest.raises(corral.NoAuth):
            await stranger.get(home)
        async with open_as(sasl_address, corral.DigestMD5("super", USERS["super"])) as zeus:
            await zeus.set(home, b"x")
            await zeus.delete(home)


async def test_both_kinds_of_credentials(sasl_address: str, open_as: Open, home: str) -> None:
    """T2, S6: `auth` and `sasl` together give both identities, on each connection."""
    both = corral.acl.sasl("bob", corral.Perm.READ) + corral.acl.digest("ann", "hush", corral.Perm.WRITE)
    async with FaultProxy(sasl_address) as proxy:
        async with open_as(proxy.address, auth=[("digest", b"ann:hush")]) as zk:
            await zk.create(home, acl=both)
            for _ in range(2):
                await zk.get(home)
                await zk.set(home, b"x")
                await proxy.cut()
            await zk.get(home)
            await zk.delete(home)


async def test_each_connection_authenticates(required_proxy: FaultProxy, open_as: Open, home: str) -> None:
    """T2, S4: after a reconnect the user is known again before anything else is sent: watches are set again, what
    is held stays held, and a server that requires SASL refuses nothing."""
    async with open_as(required_proxy.address) as zk:
        await zk.create(home, b"0", acl=only("bob"))
        watch, held = zk.watch(home), await zk.lock(f"{home}/lock", acl=only("bob")).acquire()
        assert (await anext(watch)).data == b"0"
        async with required_proxy.record() as seen:
            await required_proxy.cut()
            await zk.exists(home)
            await zk.set(home, b"1")
            assert (await anext(watch)).data == b"1"
        assert held.is_valid
        asked = [message.opcode for message in seen if message.kind.value == "request"]
        assert asked[:3] == [0, messages.SASL.opcode, messages.SASL.opcode]
        assert asked.count(messages.SASL.opcode) == 2
        await held.release()
        await zk.delete(home, recursive=True)


# Refused


@pytest.mark.parametrize(
    "wrong",
    [corral.DigestMD5("bob", "hush-other"), corral.DigestMD5("nobody", "hush"), corral.DigestMD5("bob", "")],
    ids=["secret", "user", "empty"],
)
async def test_wrong_credentials(sasl_proxy: FaultProxy, open_as: Open, wrong: corral.DigestMD5) -> None:
    """T2: who is refused gets an error that names server and mechanism; nothing is tried again, nothing is left."""
    why = await refused(open_as(sasl_proxy.address, wrong))
    for part in (sasl_proxy.address, "DIGEST-MD5", "-115"):
        assert part in why
    assert sasl_proxy.accepted == 1


async def test_a_server_without_sasl(server_address: str, open_as: Open) -> None:
    """T2: a server that has no SASL is not used: the error names it and says what it lacks."""
    why = await refused(open_as(server_address))
    for part in (server_address, "DIGEST-MD5", "JAAS"):
        assert part in why


async def test_a_server_that_requires_sasl(required_address: str, open_as: Open, home: str) -> None:
    """T2: a client that has not authenticated ends with its first operation, with an error that says what the server
    requires; one whose secret is wrong is refused at once."""
    async with open_as(required_address, None) as zk:
        with pytest.raises(corral.AuthFailed, match=r"requires authentication.*-124.*sasl="):
            await within(zk.exists(home))
        assert zk.state is corral.State.AUTH_FAILED
    assert "-124" in await refused(open_as(required_address, corral.DigestMD5("bob", "hush-other")))
    async with open_as(required_address) as zk:
        assert await zk.exists(home) is None


async def test_an_idle_client_is_told_by_its_ping(required_address: str, open_as: Open) -> None:
    """T2: a client that asks for nothing learns from its ping that the server requires SASL."""
    async with open_as(required_address, None) as zk:
        states = zk.states()
        seen = await within(_all(states))
    assert seen == [corral.State.CONNECTED, corral.State.AUTH_FAILED]


async def _all(states: corral.StateStream) -> list[corral.State]:
    return [state async for state in states]


async def test_refused_at_a_reconnect(open_as: Open, home: str) -> None:
    """T2: a server that does not accept the secret any more ends the client; what it holds is lost."""
    first = EmbeddedServer(sasl=USERS)
    await first.start()
    async with open_as(first.address) as zk:
        held = await zk.lock(home).acquire()
        port = int(first.address.rpartition(":")[2])
        await first.close()
        new = corral.DigestMD5("bob", "hush-new")
        async with EmbeddedServer(sasl={"bob": "hush-new"}, port=port) as server:
            async with open_as(
                server.address, new
            ) as other:  # or the server would be behind what we have seen
                for _ in range(20):
                    await other.create("/n-", sequential=True)
            assert await within(_all(zk.states()))
            assert zk.state is corral.State.AUTH_FAILED
            assert isinstance(await within(held.wait_lost()), corral.LockLost)
            with pytest.raises(corral.AuthFailed, match="DIGEST-MD5"):
                await zk.exists("/")


# Secrets, and bad input


async def test_no_secret_is_shown(
    sasl_address: str, required_address: str, server_address: str, open_as: Open, home: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """T2: neither a repr, nor a log line at any level, nor an error with its traceback shows a secret: accepted, cut
    off, and refused in each way."""
    caplog.set_level(logging.DEBUG)
    shown = [repr(BOB), str(BOB), repr([BOB])]
    async with FaultProxy(sasl_address) as proxy, open_as(proxy.address) as zk:
        await zk.exists(home)
        async with proxy.cut_at(after("sasl")), proxy.cut_at(before("sasl", nth=2)):
            await proxy.cut()
            await zk.exists(home)
        shown += [repr(zk), repr(zk.statistics()), repr(vars(zk))]
    for address, sasl in (
        (sasl_address, corral.DigestMD5("bob", "hush-other")),
        (required_address, corral.DigestMD5("nobody", "hush-other")),
        (server_address, BOB),
    ):
        try:
            async with open_as(address, sasl):
                raise AssertionError("accepted")
        except corral.AuthFailed as error:
            shown += [repr(error), "".join(traceback.format_exception(error))]
    shown += [record.getMessage() for record in caplog.records] + [caplog.text]
    assert "bob" in shown[0]
    assert SECRET not in "\n".join(shown)


@pytest.mark.parametrize(
    ("make", "error", "parts"),
    [
        (lambda: corral.DigestMD5("", "hush"), ValueError, ("user of DigestMD5 is empty",)),
        (lambda: corral.DigestMD5(None, "hush"), TypeError, ("user of DigestMD5", "NoneType")),
        (lambda: corral.DigestMD5("bob", b"hush"), TypeError, ("secret of DigestMD5", "bytes")),
        (lambda: corral.DigestMD5("bob", "hush\ud800"), ValueError, ("secret of DigestMD5", "surrogate")),
        (lambda: corral.connect(sasl=("bob", "hush")), TypeError, ("sasl must be corral.DigestMD5", "tuple")),
        (lambda: corral.connect(sasl=corral.DigestMD5), TypeError, ("sasl must be corral.DigestMD5", "type")),
        (lambda: EmbeddedServer(sasl=["hush"]), TypeError, ("sasl must be a dict", "list")),
        (lambda: EmbeddedServer(sasl={"a@hush": "hush"}), ValueError, ("a user in sasl", "'@'")),
        (lambda: EmbeddedServer(sasl={"a": b"hush"}), TypeError, ("a secret in sasl", "bytes")),
        (lambda: EmbeddedServer(require_sasl=True), ValueError, ("require_sasl", "pass the users")),
    ],
)
def test_bad_input(make: Callable[[], object], error: type[Exception], parts: tuple[str, ...]) -> None:
    """T2: wrong arguments are refused at once, and no message shows what may be a secret."""
    with pytest.raises(error) as raised:
        make()
    assert isinstance(raised.value, corral.UsageError)
    for part in parts:
        assert part in str(raised.value)
    assert "hush" not in "".join(traceback.format_exception_only(raised.value))
