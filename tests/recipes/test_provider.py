"""Providers: they keep themselves current, pick without I/O, and leave out what has failed (N2)."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from discovery_support import warnings_of, watched
from lock_support import Rig

import corral
from client_support import requests_seen
from corral import acl
from corral.testing import FaultProxy
from support import turns, until, within

ONLY_USER = acl.digest("user", "secret")


async def register(zk: corral.Client, *ids: str, enabled: bool = True) -> None:
    """Register instances of "web", by hand."""
    await zk.ensure_path("/services/web")
    for id in ids:
        instance = {"name": "web", "id": id, "address": f"host-{id}", "port": 80, "enabled": enabled}
        data = json.dumps(instance).encode()
        path = f"/services/web/{id}"
        if await zk.exists(path) is None:
            await zk.create(path, data)
        else:
            await zk.set(path, data)


async def remove(zk: corral.Client, id: str) -> None:
    await zk.delete(f"/services/web/{id}")


def provider(zk: corral.Client, strategy: Any = None) -> corral.ServiceProvider:
    return zk.services("/services").provider("web", strategy)


def ids(instances: Sequence[corral.ServiceInstance]) -> list[str]:
    return [instance.id for instance in instances]


def picks(web: corral.ServiceProvider, count: int) -> list[str]:
    return [web.pick().id for _ in range(count)]


async def knows(web: corral.ServiceProvider, *expected: str) -> None:
    """Wait until a provider knows these instances, without iterating over anything."""

    async def does() -> bool:
        return ids(web.instances) == list(expected)

    await until(does, f"the provider knows {expected}")


async def test_it_keeps_itself_current(zk: corral.Client, other: corral.Client) -> None:
    """N2: entered, it knows all instances; it takes in what comes, goes and changes, though nobody iterates."""
    await register(other, "1", "2")
    async with provider(zk) as web:
        assert web.is_current
        assert ids(web.instances) == ["1", "2"]
        assert web.pick() in web.instances
        await register(other, "0")
        await knows(web, "0", "1", "2")
        await remove(other, "1")
        await knows(web, "0", "2")
        await remove(other, "0")
        await knows(web, "2")
        assert picks(web, 3) == ["2"] * 3


async def test_no_instance(zk: corral.Client, other: corral.Client) -> None:
    """N2: entering does not wait for an instance; picking says whether there is none, or none that is enabled."""
    async with provider(zk) as web:
        with pytest.raises(corral.NoInstance, match="'web': it has no instance") as caught:
            web.pick()
        assert (caught.value.service, caught.value.registered) == ("web", 0)
        await register(other, "1", "2", enabled=False)
        await knows(web, "1", "2")
        with pytest.raises(corral.NoInstance, match="none of its 2 instances is enabled") as caught:
            web.pick()
        assert caught.value.registered == 2
        assert isinstance(caught.value, corral.CorralError)
        await register(other, "2")

        async def can_pick() -> bool:
            return bool(web.instances[1].enabled)

        await until(can_pick, "one is enabled")
        assert picks(web, 3) == ["2"] * 3


async def test_picking_sends_nothing(rig: Rig) -> None:
    """N2: pick, note_error and note_success send nothing, and need no connection: the last known instances stay."""
    await register(rig.other, "1", "2")
    async with provider(rig.zk) as web:
        async with requests_seen(rig.proxy) as requests:
            for _ in range(100):
                picked = web.pick()
                web.note_error(picked)
                web.note_success(picked)
            await turns()
            assert requests.opcodes == []
        async with rig.away("cut"):

            async def is_behind() -> bool:
                return not web.is_current

            await until(is_behind, "the connection is lost")
            await remove(rig.other, "1")
            assert sorted(picks(web, 2)) == ["1", "2"]
        await knows(web, "2")


async def test_a_new_session_goes_on(rig: Rig) -> None:
    """W3: also across an expired session the last state comes."""
    await register(rig.other, "1")
    async with provider(rig.zk) as web:
        async with rig.away("expired"):
            assert picks(web, 2) == ["1", "1"]
            await register(rig.other, "2")
            await remove(rig.other, "1")
        await knows(web, "2")


async def test_only_what_has_changed_is_decoded(zk: corral.Client, other: corral.Client) -> None:
    """N2: a change of one instance leaves the objects of all others as they are."""
    await register(other, "1", "2", "3")
    async with provider(zk) as web:
        before = web.instances
        assert web.instances is before
        data = json.dumps({"name": "web", "id": "2", "address": "elsewhere"}).encode()
        await other.set("/services/web/2", data)

        async def is_there() -> bool:
            return web.instances[1].address == "elsewhere"

        await until(is_there, "the change is known")
        assert web.instances[0] is before[0]
        assert web.instances[2] is before[2]


# Strategies


async def test_round_robin(zk: corral.Client, other: corral.Client) -> None:
    """Each instance in turn, from a random one on; the default."""
    await register(other, "1", "2", "3")
    starts = set[str]()
    for _ in range(50):
        async with provider(zk) as web:
            found = picks(web, 7)
            assert Counter(found[:3]) == Counter(["1", "2", "3"])
            assert found[:3] == found[3:6]
            assert found[6] == found[0]
            starts.add(found[0])
    assert starts == {"1", "2", "3"}
    async with provider(zk, corral.RoundRobin(random.Random(1))) as web:
        first = picks(web, 4)
    async with provider(zk, corral.RoundRobin(random.Random(1))) as web:
        assert picks(web, 4) == first


async def test_random(zk: corral.Client, other: corral.Client) -> None:
    """All instances come, in the order that the source of randomness gives."""
    await register(other, "1", "2", "3")
    async with provider(zk, corral.Random(random.Random(1))) as web:
        found = picks(web, 100)
        assert set(found) == {"1", "2", "3"}
        assert found[::3] != found[1::3]
    async with provider(zk, corral.Random(random.Random(1))) as web:
        assert picks(web, 100) == found


async def test_sticky(zk: corral.Client, other: corral.Client) -> None:
    """The same instance until it is gone, disabled or has an error; then another one for good."""
    await register(other, "1", "2", "3")
    async with provider(zk, corral.Sticky()) as web:
        first = web.pick().id
        await register(other, "0")
        await knows(web, "0", "1", "2", "3")
        assert picks(web, 20) == [first] * 20
        await remove(other, first)
        await knows(web, *(id for id in ("0", "1", "2", "3") if id != first))
        second = web.pick().id
        assert second != first
        assert picks(web, 20) == [second] * 20
        web.note_error(web.pick())
        third = web.pick().id
        assert third not in (first, second)
        assert picks(web, 20) == [third] * 20
        web.note_success(next(each for each in web.instances if each.id == second))
        assert picks(web, 20) == [third] * 20


async def test_any_function_is_a_strategy(zk: corral.Client, other: corral.Client) -> None:
    """It gets those that may be picked, in a stable order; what it raises is raised by `pick`."""
    await register(other, "1", "2", "3", "4")
    await register(other, "3", enabled=False)
    seen = list[list[str]]()

    def last(instances: Sequence[corral.ServiceInstance]) -> corral.ServiceInstance:
        seen.append(ids(instances))
        return instances[-1]

    def fails(instances: Sequence[corral.ServiceInstance]) -> corral.ServiceInstance:
        raise LookupError

    async with provider(zk, last) as web, provider(zk, fails) as failing:
        assert web.pick().id == "4"
        web.note_error(web.pick())
        assert web.pick().id == "2"
        assert seen == [["1", "2", "4"], ["1", "2", "4"], ["1", "2"]]
        with pytest.raises(LookupError):
            failing.pick()


# Errors


async def test_all_left_out(zk: corral.Client, other: corral.Client) -> None:
    """If every instance has failed, all are tried rather than none; one that has not is preferred at once."""
    await register(other, "1", "2")
    async with provider(zk) as web:
        for instance in web.instances:
            web.note_error(instance)
        assert sorted(picks(web, 2)) == ["1", "2"]
        await register(other, "3")
        await knows(web, "1", "2", "3")
        assert picks(web, 3) == ["3"] * 3
        web.note_success(web.instances[0])
        assert sorted(picks(web, 2)) == ["1", "3"]


async def test_errors_of_what_is_gone_are_forgotten(zk: corral.Client, other: corral.Client) -> None:
    """An instance that has gone is as new when it comes again; an error of one that is gone is ignored, and an update
    of an instance changes nothing."""
    await register(other, "1", "2")
    async with provider(zk) as web:
        one = web.instances[0]
        web.note_error(one)
        data = json.dumps({"name": "web", "id": "1", "address": "elsewhere"}).encode()
        await other.set("/services/web/1", data)

        async def is_there() -> bool:
            return web.instances[0].address == "elsewhere"

        await until(is_there, "the change is known")
        assert picks(web, 2) == ["2", "2"]
        await remove(other, "1")
        await knows(web, "2")
        web.note_error(one)
        await register(other, "1")
        await knows(web, "1", "2")
        assert sorted(picks(web, 2)) == ["1", "2"]
        await remove(other, "1")
        await knows(web, "2")
        web.note_success(one)


# When it cannot be kept current


async def test_it_works_on_with_what_it_knew(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """W3: refused to read the service, it goes on with the last known instances, logs that once, and recovers."""
    rig.other.add_auth("digest", b"user:secret")
    await register(rig.other, "1")
    async with provider(rig.zk) as web:
        async with rig.away("cut"):
            await rig.other.set_acl("/services/web", ONLY_USER)
            await register(rig.other, "2")

        async def warned() -> bool:
            assert picks(web, 2) == ["1", "1"]
            return bool(warnings_of(caplog))

        await until(warned, "it is logged")
        assert not web.is_current
        await rig.other.set_acl("/services/web", corral.acl.OPEN)
        await knows(web, "1", "2")
        [warning] = warnings_of(caplog)
        assert warning.startswith("service web: its instances are not kept current: ")


async def test_refused_when_it_is_entered(zk: corral.Client, other: corral.Client) -> None:
    """N2: what does not let it know the instances is raised by entering, which can be tried again."""
    other.add_auth("digest", b"user:secret")
    await other.ensure_path("/services")
    await other.create("/services/web", acl=ONLY_USER)
    web = provider(zk)
    with pytest.raises(corral.NoAuth, match="'/services/web'"):
        await within(web.__aenter__())
    await other.set_acl("/services/web", corral.acl.OPEN)
    async with web:
        assert web.instances == ()
    assert watched(zk) == (0, 0)


async def test_the_client_is_closed(zk: corral.Client, other: corral.Client) -> None:
    """S5: when there is no client any more, that is raised."""
    await register(other, "1")
    async with provider(zk) as web:
        await zk.close()
        with pytest.raises(corral.ClientClosed):
            web.pick()


# Entering and leaving


async def test_entering_and_leaving(zk: corral.Client, other: corral.Client) -> None:
    """S8: it can be entered again once it was left, by any task, and not before; outside it is not used."""
    await register(other, "1")
    web = provider(zk)
    for _ in range(2):
        with pytest.raises(corral.UsageStateError, match="this provider of '/services/web' is not open"):
            web.pick()
        await web.__aenter__()
        assert repr(web) == "<ServiceProvider of 'web', current>"
        with pytest.raises(corral.UsageStateError, match="is open already"):
            await web.__aenter__()
        assert web.pick().id == "1"
        web.close()
        web.close()
    assert watched(zk) == (0, 0)


async def test_dropping_it_leaves_nothing(zk: corral.Client, other: corral.Client) -> None:
    """W5: one that is garbage is not kept current any more."""
    web = provider(zk)
    await web.__aenter__()
    assert watched(zk) == (1, 1)
    del web
    gc.collect()

    async def nothing_left() -> bool:
        return watched(zk) == (0, 0)

    await until(nothing_left, "nothing is registered")


async def test_another_thread(real_time: None, zk: corral.Client, other: corral.Client) -> None:
    """S8: used from another thread it says so, instead of breaking."""
    await register(other, "1")
    async with provider(zk) as web:
        with pytest.raises(corral.UsageStateError, match="event loop"):
            await asyncio.to_thread(web.pick)
        assert web.pick().id == "1"


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda zk: provider(zk, 7), "strategy must be a function, not 7"),
        (
            lambda zk: provider(zk, corral.Sticky),
            r"strategy must be an object such as Sticky\(\), not the class",
        ),
        (lambda zk: provider(zk, asyncio.sleep), "ordinary function"),
    ],
)
def test_strategies_that_cannot_be(
    zk: corral.Client, call: Callable[[corral.Client], Any], rule: str
) -> None:
    """What cannot choose is refused at once."""
    with pytest.raises(corral.UsageTypeError, match=rule):
        call(zk)


async def test_what_is_no_instance(zk: corral.Client, proxy: FaultProxy) -> None:
    """`note_error` takes an instance, and says so."""
    async with provider(zk) as web:
        for note in (web.note_error, web.note_success):
            with pytest.raises(corral.UsageTypeError, match=r"corral\.ServiceInstance.*not 'host-1'"):
                note("host-1")  # type: ignore[arg-type]
