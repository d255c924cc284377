"""Groups: who joins is there as long as its client is (N1), and readers are told as by watches (N2, W1 to W5)."""

from __future__ import annotations

import asyncio
import gc
import random
import re

import pytest
from discovery_support import (
    GroupMirror,
    contents,
    names,
    next_of,
    next_that,
    tells_nothing,
    warnings_of,
    watched,
)
from lock_support import Rig

import corral
from client_support import asks_for, requests_seen
from corral import acl
from corral.testing import FaultProxy, before
from corral.wire import messages
from support import settle, turns, until, within

ONLY_USER = acl.digest("user", "secret")


# Joining


async def test_a_member_is_there_while_its_block_runs(zk: corral.Client, other: corral.Client) -> None:
    """N1: who has joined is a member, with name, data and session; who has left is none. Curator's layout."""
    group = zk.group("/workers")
    async with group.join(b"host-7:8080", name="host-7") as me:
        assert (me.name, me.path, me.data, me.is_present) == (
            "host-7",
            "/workers/host-7",
            b"host-7:8080",
            True,
        )
        assert await other.children("/workers") == ["host-7"]
        [member] = await other.group("/workers").members()
        assert member == ("host-7", b"host-7:8080", await other.exists("/workers/host-7"))
        assert member.stat.ephemeral_owner == zk.session_id
    assert await group.members() == []


async def test_a_made_name_is_a_guid(zk: corral.Client, other: corral.Client) -> None:
    """N1: without a name each member gets one of its own, so that one client can join more than once."""
    group = zk.group("/workers")
    async with group.join() as one, group.join() as two:
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one.name)
        assert names(await group.members()) == sorted([one.name, two.name])
        assert [data for _, data, _ in await group.members()] == [b"", b""]


async def test_a_taken_name_is_waited_for(zk: corral.Client, other: corral.Client) -> None:
    """N1: a name that somebody else has is waited for, or refused, as asked."""
    async with zk.group("/workers").join(name="host-7"):
        with pytest.raises(corral.NodeExists, match=r"'/workers/host-7'.*session 0x"):
            await within(other.group("/workers").join(name="host-7", on_taken="raise").__aenter__())
        second = other.group("/workers").join(b"second", name="host-7")
        entering = asyncio.create_task(second.__aenter__())
        await other.exists("/")
        await turns()
        assert not entering.done()
    await within(entering)
    [member] = await zk.group("/workers").members()
    assert member.data == b"second"
    await second.__aexit__(None, None, None)


async def test_a_session_later_it_is_a_member_again(rig: Rig) -> None:
    """N1: a new session joins again, with the newest data, and readers are told of it."""
    async with rig.zk.group("/workers").join(b"1", name="us") as me, rig.other.group("/workers").watch() as w:
        await me.update(b"2")
        before = rig.zk.session_id
        first = await next_of(w)
        assert contents(first.members)["us"][0] == b"2"
        async with rig.away("expired"):
            assert names((await next_that(w, lambda event: event.left)).members) == []
        joined = await next_that(w, lambda event: event.joined)
        [member] = joined.members
        assert member.data == b"2"
        assert member.stat.ephemeral_owner == rig.zk.session_id != before
        await within(me.wait_present())


async def test_leaving_does_not_remove_who_joins_next(rig: Rig) -> None:
    """N1: a member of this client that takes a name which another one of it is still leaving comes after that, also
    where the removal is lost and made again; a name that is not being left is refused."""
    group = rig.zk.group("/workers")
    first, second = group.join(b"1", name="us"), group.join(b"2", name="us")
    await first.__aenter__()
    with pytest.raises(corral.UsageStateError, match="registered through this client already"):
        await second.__aenter__()
    second = group.join(b"2", name="us")
    async with rig.proxy.cut_at(before(match=asks_for(messages.DELETE))):
        leaving = asyncio.create_task(first.__aexit__(None, None, None))
        await turns()
        await within(second.__aenter__())
    [member] = await rig.other.group("/workers").members()
    assert member.data == b"2"
    await within(leaving)
    await settle(rig.zk)
    assert await rig.other.group("/workers").members() == [member]
    await second.__aexit__(None, None, None)


# Members


async def test_members_are_in_the_order_of_their_names(zk: corral.Client, other: corral.Client) -> None:
    """N2: both ways of reading have the same members in the same order, which is stable."""
    for name in ("c", "a", "b"):
        await other.create(f"/workers/{name}", name.encode(), make_parents=True)
    group = zk.group("/workers")
    async with group.watch() as events:
        first = await next_of(events)
        assert names(first.members) == ["a", "b", "c"]
        assert list(first.members) == await group.members()
        await other.delete("/workers/b")
        await other.create("/workers/aa")
        assert names((await next_that(events, lambda event: len(event.members) == 3)).members) == [
            "a",
            "aa",
            "c",
        ]


async def test_a_group_that_is_not_there_is_empty(zk: corral.Client, other: corral.Client) -> None:
    """W1: a path that does not exist is a group without members, for a read, for a watch, and when it goes away."""
    group = zk.group("/none/workers")
    assert await group.members() == []
    async with group.watch() as events:
        assert await next_of(events) == corral.Members((), (), (), ())
        await other.create("/none/workers/a", b"1", make_parents=True)
        event = await next_of(events)
        assert (names(event.members), names(event.joined)) == (["a"], ["a"])
        await other.delete("/none", recursive=True)
        event = await next_of(events)
        assert (names(event.members), names(event.left)) == ([], ["a"])
        await other.create("/none/workers/a", b"2", make_parents=True)
        event = await next_of(events)
        assert (names(event.joined), event.joined[0].data) == (["a"], b"2")


async def test_one_event_has_all_changes_since_the_last(zk: corral.Client, other: corral.Client) -> None:
    """W2: a reader that stays away gets one event with the state now, and what it has missed for good is not in it."""
    for name in ("gone", "set", "same", "again"):
        await other.create(f"/workers/{name}", b"old", make_parents=True)
    async with zk.group("/workers").watch() as events:
        before = contents((await next_of(events)).members)
        for number in range(20):
            await other.create("/workers/blink")
            await other.set("/workers/set", b"%d" % number)
            await other.delete("/workers/blink")
        await other.delete("/workers/gone")
        await other.delete("/workers/again")
        await other.create("/workers/again", b"old")
        await other.create("/workers/new", b"new")
        await zk.sync()
        event = await next_of(events)
        assert names(event.members) == ["again", "new", "same", "set"]
        assert names(event.joined) == ["new"]
        assert [(member.name, member.data) for member in event.left] == [("gone", b"old")]
        assert sorted(names(event.changed)) == ["again", "set"]
        assert contents(event.members)["set"][0] == b"19"
        assert contents(event.members)["again"][1] > before["again"][1]
        await tells_nothing(zk, events)


@pytest.mark.parametrize("seed", range(5))
async def test_random_changes_end_in_the_truth(rig: Rig, seed: int) -> None:
    """W1, W3: whatever members do, and though connections break, each event follows from the one before, and the last
    state is told."""
    dice = random.Random(seed)
    mirror, group = GroupMirror(), rig.other.group("/workers")
    there = set[str]()
    async with rig.zk.group("/workers").watch() as events:
        mirror.take(await next_of(events))
        for _ in range(60):
            name, action = f"m{dice.randrange(4)}", dice.random()
            path = f"/workers/{name}"
            if action < 0.1:
                await rig.proxy.cut(reset=dice.random() < 0.5)
            elif action < 0.3 and mirror.now.keys() != there:
                mirror.take(await next_of(events))
            elif name not in there:
                await rig.other.create(path, b"%d" % dice.randrange(3), make_parents=True)
                there.add(name)
            elif action < 0.7:
                await rig.other.set(path, b"%d" % dice.randrange(3))
            else:
                await rig.other.delete(path)
                there.remove(name)
        truth = contents(await group.members())
        while contents(list(mirror.now.values())) != truth:
            mirror.take(await next_of(events))


async def test_members_that_we_may_not_read_are_left_out(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """N2: a member whose ACL does not let us read it is left out, by reads and by watches, and breaks neither."""
    other.add_auth("digest", b"user:secret")
    await other.create("/workers/open", make_parents=True)
    await other.create("/workers/closed", acl=ONLY_USER)
    assert names(await zk.group("/workers").members()) == ["open"]
    async with zk.group("/workers").watch() as events:
        assert names((await next_of(events)).members) == ["open"]
    assert names(await other.group("/workers").members()) == ["closed", "open"]
    await other.delete("/workers", recursive=True)


async def test_a_group_that_we_may_not_list(zk: corral.Client, other: corral.Client) -> None:
    """W1: the refusal is raised, by reads and by watches; the next `anext` tries again."""
    other.add_auth("digest", b"user:secret")
    await other.create("/workers", acl=ONLY_USER)
    await other.create("/workers/a", b"1")
    with pytest.raises(corral.NoAuth, match="'/workers'"):
        await zk.group("/workers").members()
    async with zk.group("/workers").watch() as events:
        with pytest.raises(corral.NoAuth, match="'/workers'"):
            await next_of(events)
        await other.set_acl("/workers", corral.acl.OPEN)
        assert names((await next_of(events)).members) == ["a"]


# One cache a path and client


async def test_readers_share_one_copy(
    connect: object, proxy: FaultProxy, rig: Rig, other: corral.Client
) -> None:
    """N2, W4: watches of a group, and a cache of its children, cost the server one watch and one read per change."""
    await other.create("/workers/a", make_parents=True)
    group = rig.zk.group("/workers")
    async with requests_seen(proxy) as requests:
        async with group.watch() as one, rig.zk.group("/workers").watch() as two:
            await next_of(one)
            await next_of(two)
            async with rig.zk.cache("/workers", depth=1):
                assert watched(rig.zk) == (1, 1)
                begun = requests.count(messages.MULTI_READ)
                waiting = [asyncio.create_task(next_of(each)) for each in (one, two)]
                await turns()
                await other.set("/workers/a", b"1")
                for event in await asyncio.gather(*waiting):
                    assert names(event.changed) == ["a"]
                assert requests.count(messages.MULTI_READ) == begun + 1
        assert requests.count(messages.ADD_WATCH) == 1


@pytest.mark.parametrize("how", ["closed", "garbage", "cancelled", "failed"])
async def test_leaving_a_watch_leaves_nothing(zk: corral.Client, other: corral.Client, how: str) -> None:
    """W5: however a reader leaves, nothing stays registered."""
    await other.create("/workers/a", make_parents=True)

    async def follow() -> None:
        async for _ in zk.group("/workers").watch():
            if how == "failed":
                raise LookupError

    if how == "closed":
        async with zk.group("/workers").watch() as events:
            await next_of(events)
    elif how == "garbage":
        events = zk.group("/workers").watch()
        await next_of(events)
        assert watched(zk) == (1, 1)
        del events
        gc.collect()
    else:
        task = asyncio.create_task(follow())

        async def follows() -> bool:
            return watched(zk) == (1, 1) or task.done()

        await until(follows, "it watches")
        task.cancel()
        await asyncio.wait([task])

    async def nothing_left() -> bool:
        return watched(zk) == (0, 0)

    await until(nothing_left, "nothing is registered")


async def test_a_cancelled_reader_misses_nothing(zk: corral.Client, other: corral.Client) -> None:
    """S8, W3: an event that comes as its reader is cancelled is told by the next `anext`."""
    async with zk.group("/workers").watch() as events:
        await next_of(events)
        for number in range(10):
            waiting = asyncio.create_task(next_of(events))
            await turns()
            await other.create(f"/workers/{number}", make_parents=True)
            await turns(number)
            waiting.cancel()
            await asyncio.wait([waiting])
            if waiting.cancelled():
                assert names((await next_of(events)).joined) == [str(number)]
            else:
                assert names(waiting.result().joined) == [str(number)]


async def test_a_watch_has_one_reader_and_ends_with_the_client(
    zk: corral.Client, other: corral.Client
) -> None:
    """W1, S5: a second task gets an error that names the remedy; closing the client is raised in the loop."""
    events = zk.group("/workers").watch()
    await next_of(events)
    waiting = asyncio.create_task(next_of(events))
    await turns()
    with pytest.raises(corral.UsageStateError, match=r"two tasks.*zk\.group\(\.\.\.\)\.watch\(\) in each"):
        await anext(events)
    await zk.close()
    with pytest.raises(corral.ClientClosed):
        await waiting


async def test_paths_are_below_the_chroot(zk: corral.Client, other: corral.Client) -> None:
    """S6: a group of a client with a chroot is below it, and its missing parents are made there."""
    async with zk.chroot("/team").group("/workers").join(name="a") as me:
        assert me.path == "/workers/a"
        assert await other.children("/team/workers") == ["a"]
        async with zk.chroot("/team/workers").group("/").watch() as events:
            assert names((await next_of(events)).members) == ["a"]
        assert names(await zk.chroot("/team/workers").group("/").members()) == ["a"]


# kazoo's layouts


async def test_party(zk: corral.Client, other: corral.Client) -> None:
    """N1: with kazoo's layout the name is the data, and need not be unique; what is no member is ignored."""
    group = zk.group("/party", layout="kazoo")
    await other.create("/party/lock", b"not a member", make_parents=True)
    async with group.join(b"host-7") as one, group.join(name="host-7") as two:
        nodes = sorted(await other.children("/party"))
        assert len(nodes) == 3
        assert all(re.fullmatch(r"[0-9a-f]{32}__party__", node) for node in nodes if node != "lock")
        assert (one.name, two.name, one.data, two.data) == ("host-7", "host-7", b"host-7", b"host-7")
        assert names(await group.members()) == ["host-7", "host-7"]
        async with group.watch() as events:
            assert names((await next_of(events)).members) == ["host-7", "host-7"]
            await two.update(b"host-8")
            event = await next_of(events)
            assert names(event.changed) == ["host-8"]
            assert sorted(names(event.members)) == ["host-7", "host-8"]
            await other.create("/party/another", b"not a member")
            await tells_nothing(zk, events)


async def test_shallow_party(zk: corral.Client, other: corral.Client) -> None:
    """N1: with kazoo's shallow layout the name is in the node's; what is no member is ignored."""
    group = zk.group("/party", layout="kazoo_shallow")
    await other.create("/party/lock-1", b"not a member", make_parents=True)
    async with group.join(name="host-7-a") as me:
        [node] = [node for node in await other.children("/party") if node != "lock-1"]
        assert re.fullmatch(r"[0-9a-f]{32}-host-7-a", node)
        assert (me.name, me.data) == ("host-7-a", b"host-7-a")
        assert names(await group.members()) == ["host-7-a"]
    assert await group.members() == []


def test_names_in_kazoos_layouts(zk: corral.Client) -> None:
    """N1: name and data are one in kazoo's layouts: what cannot be both is refused."""
    for layout in ("kazoo", "kazoo_shallow"):
        group = zk.group("/party", layout=layout)  # type: ignore[arg-type]
        with pytest.raises(corral.UsageValueError, match="pass data or name"):
            group.join(b"data", name="name")
        with pytest.raises(corral.UsageValueError, match="UTF-8"):
            group.join(b"\xff")
        assert re.fullmatch("[0-9a-f]{32}", group.join().name)
    with pytest.raises(corral.UsageValueError, match="'/', which separates"):
        zk.group("/party", layout="kazoo_shallow").join(name="a/b")
    assert zk.group("/party", layout="kazoo").join(name="a/b").name == "a/b"


@pytest.mark.parametrize(
    ("name", "rule"),
    [("", "is empty"), ("a/b", "'/'"), (".", "'.'"), ("..", "'..'"), ("a\x00", "forbids"), ("\ud800", "Unicode|forbids")],
)  # fmt: skip
def test_names_that_no_znode_can_have(zk: corral.Client, name: str, rule: str) -> None:
    """N1: such a name is refused at once, and the message says why."""
    with pytest.raises(corral.UsageValueError, match=rf"name.*({rule})"):
        zk.group("/workers").join(name=name)


async def test_objects_tell_what_they_are(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Reprs and log lines name the path."""
    group = zk.group("/workers")
    me = group.join(b"secret", name="us")
    assert repr(group) == "<Group '/workers'>"
    assert repr(me) == "<Membership '/workers/us', not present>"
    assert repr(group.watch()) == "<GroupWatch of '/workers', not started>"
    await other.create("/workers/us", make_parents=True)
    entering = asyncio.create_task(me.__aenter__())

    async def warned() -> bool:
        return bool(warnings_of(caplog))

    await until(warned, "it is logged that it waits")
    assert warnings_of(caplog) == ["membership '/workers/us' waits: a znode of no session is there"]
    await other.delete("/workers/us")
    await within(entering)
    await me.__aexit__(None, None, None)
