"""Reading, watching and changing the members of real ensembles, and what servers without members answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

import corral
from corral import EnsembleMember, QuorumAddress
from corral.testing import FaultProxy, LocalEnsemble, LocalServer, committed
from corral.testing.servers.ports import free_ports
from support import until, within

OBSERVER = 100
"""The id of a member that does not run: an observer does not count."""


def member(id: int, role: Any = "observer", ports: list[int] | None = None) -> EnsembleMember:
    """A member that does not run."""
    client, quorum, election = ports or free_ports(3)
    address = QuorumAddress("127.0.0.1", quorum, election)
    return EnsembleMember(id, (address,), role, f"127.0.0.1:{client}")


async def test_the_configuration(reconfigurable: LocalEnsemble, superuser: corral.Client) -> None:
    """T4: it has the servers, with their addresses and roles; a chroot does not matter."""
    config = await superuser.ensemble.config()
    assert sorted(config.hosts()) == sorted(reconfigurable.hosts.split(","))
    assert len(config.members) == 3
    assert {each.role for each in config.members} == {"participant"}
    assert {each.host for each in config.members} == {"127.0.0.1"}
    assert config.version > 0
    assert await superuser.chroot("/somewhere").ensemble.config() == config


async def test_members_join_and_leave(superuser: corral.Client) -> None:
    """W1, W3, W4: a watch tells the configuration now and each change; reconfigure returns what it has made."""
    first = await superuser.ensemble.config()
    joins = member(OBSERVER)
    async with superuser.ensemble.watch() as watch, superuser.ensemble.watch() as another:
        assert await within(anext(watch)) == first
        joined = await superuser.ensemble.reconfigure(joining=[joins], from_version=first.version)
        assert joined.member(OBSERVER) == joins
        assert joined.version > first.version
        assert await within(anext(watch)) == joined
        moved = member(OBSERVER)
        changed = await superuser.ensemble.reconfigure(joining=[str(moved)])
        assert changed.member(OBSERVER) == moved
        assert await within(anext(watch)) == changed
        left = await superuser.ensemble.reconfigure(leaving=[OBSERVER])
        assert left.members == first.members
        assert await within(anext(watch)) == left
        assert await within(anext(another)) == left
    whole = await superuser.ensemble.reconfigure(members=[*left.members, joins], from_version=left.version)
    assert whole.members == joined.members
    back = await superuser.ensemble.reconfigure(members=map(str, left.members))
    assert back.members == first.members
    await superuser.sync()
    assert await superuser.ensemble.config() == back


async def test_what_is_refused(reconfigurable: LocalEnsemble, superuser: corral.Client) -> None:
    """S2: each refusal has its own error, which says what to do, and nothing has changed."""
    before = await superuser.ensemble.config()
    reconfigure = superuser.ensemble.reconfigure
    with pytest.raises(corral.BadVersion, match="the version is not 0x1; read config"):
        await reconfigure(joining=[member(OBSERVER)], from_version=1)
    with pytest.raises(corral.NewConfigNoQuorum, match="start the new servers first"):
        await reconfigure(joining=[member(OBSERVER + each, "participant") for each in range(4)])
    with pytest.raises(corral.BadArguments, match="one with standaloneEnabled=false"):
        await reconfigure(leaving=[each.id for each in before.members])
    async with corral.connect(reconfigurable.hosts) as anybody:
        assert await anybody.ensemble.config() == before
        with pytest.raises(corral.NoAuth, match="nobody but the superuser"):
            await anybody.ensemble.reconfigure(leaving=[OBSERVER])
    await superuser.sync()
    assert await superuser.ensemble.config() == before


async def test_one_at_a_time(reconfigurable: LocalEnsemble) -> None:
    """S2: while one reconfiguration waits for its quorum, another one is refused."""
    leader, followers = await reconfigurable.leader(), await reconfigurable.followers()
    auth = [reconfigurable.superuser]
    async with (
        corral.connect(leader.address, session_timeout=8, auth=auth) as zk,
        corral.connect(leader.address, session_timeout=8) as other,
    ):

        async def received() -> int:
            [ours] = [
                line
                for line in (await leader.four_letter_word("cons")).splitlines()
                if f"0x{zk.session_id:x}" in line
            ]
            return int(re.findall(r"recved=(\d+)", ours)[0])

        before = await received()

        async def are_there() -> bool:
            return await received() >= before + 2

        for follower in followers:
            follower.pause()
        try:
            both = [
                asyncio.create_task(zk.ensemble.reconfigure(joining=[member(OBSERVER + number)]))
                for number in range(2)
            ]
            await until(are_there, "the leader has both")
            await other.exists("/")  # the leader takes up requests in order: it has looked at both
        finally:
            for follower in followers:
                follower.resume()
        first, second = await asyncio.gather(*both, return_exceptions=True)
        await zk.ensemble.reconfigure(leaving=[OBSERVER, OBSERVER + 1])
        assert isinstance(first, corral.EnsembleConfig)
        assert isinstance(second, corral.ReconfigInProgress)
    await reconfigurable.followers()


async def test_a_lost_answer(reconfigurable: LocalEnsemble, superuser: corral.Client) -> None:
    """S2: with the answer lost, the outcome is unknown. `config` tells it; the same call with `from_version` cannot
    apply it twice."""
    leader = await reconfigurable.leader()
    async with (
        FaultProxy(leader.address) as proxy,
        corral.connect(proxy.address, session_timeout=4, auth=[reconfigurable.superuser]) as zk,
    ):
        before, joins = await zk.ensemble.config(), member(OBSERVER)
        async with proxy.cut_at(committed("reconfig")):
            with pytest.raises(corral.ConnectionLoss, match="outcome is unknown"):
                await zk.ensemble.reconfigure(joining=[joins], from_version=before.version)
        await zk.sync()
        assert (await zk.ensemble.config()).member(OBSERVER) == joins
        with pytest.raises(corral.BadVersion):
            await zk.ensemble.reconfigure(joining=[joins], from_version=before.version)
        await zk.ensemble.reconfigure(leaving=[OBSERVER])


async def test_a_standalone_server_has_no_members(zk: corral.Client) -> None:
    """T4, S2: its configuration is empty, and it refuses to be reconfigured, as the embedded one does."""
    config = await zk.ensemble.config()
    assert config == corral.EnsembleConfig(0, ())
    assert config.hosts() == ()
    async with zk.ensemble.watch() as watch:
        assert await within(anext(watch)) == config
    with pytest.raises(corral.ReconfigDisabled, match="reconfigEnabled"):
        await zk.ensemble.reconfigure(leaving=[1])


async def test_a_standalone_server_that_would_reconfigure(real_servers: None) -> None:
    """S2: a real server without an ensemble offers no reconfiguration, even if it is enabled."""
    async with (
        LocalServer(extra_config={"reconfigEnabled": "true"}) as server,
        corral.connect(server.address) as zk,
    ):
        with pytest.raises(corral.Unimplemented, match="standalone"):
            await zk.ensemble.reconfigure(leaving=[1])


async def test_static_members_are_told(ensemble: LocalEnsemble) -> None:
    """T4: without dynamic configuration a server tells what its file says, at version 0."""
    async with corral.connect(ensemble.hosts) as zk:
        config = await zk.ensemble.config()
        assert config.version == 0
        assert [each.id for each in config.members] == [1, 2, 3]
        assert config.hosts() == ()
        with pytest.raises(corral.ReconfigDisabled):
            await zk.ensemble.reconfigure(leaving=[1])


Call = Callable[[Any], Any]

WRONG: dict[str, tuple[Call, type[corral.UsageError], str]] = {
    "nothing": (lambda e: e.reconfigure(), corral.UsageValueError, "changes nothing"),
    "empty": (lambda e: e.reconfigure(members=[]), corral.UsageValueError, "at least one member"),
    "both": (
        lambda e: e.reconfigure(members=["server.1=a:1:2"], leaving=[2]),
        corral.UsageValueError,
        "not both",
    ),
    "no client address": (
        lambda e: e.reconfigure(joining=["server.1=a:1:2"]),
        corral.UsageValueError,
        "needs a client address",
    ),
    "joining and leaving": (
        lambda e: e.reconfigure(joining=["server.1=a:1:2;3"], leaving=[1]),
        corral.UsageValueError,
        "name it once",
    ),
    "twice": (
        lambda e: e.reconfigure(joining=["server.1=a:1:2;3", "server.1=b:1:2;3"]),
        corral.UsageValueError,
        "two members with one id",
    ),
    "a text": (
        lambda e: e.reconfigure(joining="server.1=a:1:2;3"),
        corral.UsageTypeError,
        "a list of members",
    ),
    "a number": (lambda e: e.reconfigure(joining=[1]), corral.UsageTypeError, "must be a str"),
    "fields that do not fit": (
        lambda e: e.reconfigure(
            joining=[EnsembleMember(1, (QuorumAddress("a,b", 1, 2),), client_address="a:3")]
        ),
        corral.UsageValueError,
        "host:port:port",
    ),
    "another text in a field": (
        lambda e: e.reconfigure(joining=[EnsembleMember(1, (QuorumAddress("a", 1, 2),), client_address="3")]),
        corral.UsageValueError,
        "do not fit",
    ),
    "no id": (lambda e: e.reconfigure(leaving=["1"]), corral.UsageTypeError, "ids of members"),
    "a negative id": (lambda e: e.reconfigure(leaving=[-1]), corral.UsageValueError, "no id"),
    "ids in a text": (lambda e: e.reconfigure(leaving="1"), corral.UsageTypeError, "list of ids"),
    "a version": (
        lambda e: e.reconfigure(leaving=[1], from_version="1"),
        corral.UsageTypeError,
        "from_version",
    ),
    "a negative version": (
        lambda e: e.reconfigure(leaving=[1], from_version=-1),
        corral.UsageValueError,
        "from_version",
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_bad_input(zk: corral.Client, what: str) -> None:
    """A wrong call is refused before anything is sent; the message has the value, the rule and the remedy."""
    call, kind, problem = WRONG[what]
    sent = zk.statistics().bytes_sent
    with pytest.raises(kind, match=problem):
        await call(zk.ensemble)
    assert zk.statistics().bytes_sent == sent


def test_following_is_a_flag() -> None:
    """A wrong `follow_members` is refused."""
    with pytest.raises(corral.UsageTypeError, match="follow_members"):
        corral.connect("zk1", follow_members="yes")  # type: ignore[arg-type]
