"""Services: instances are registered as long as their client is (N1), in Curator's JSON (D1), and are found (N2)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from discovery_support import next_of, next_that, tells_nothing, warnings_of, watched
from lock_support import Rig

import corral
from client_support import asks_for
from corral.testing import committed
from corral.wire.messages import DELETE
from support import until, within


def ids(instances: tuple[corral.ServiceInstance, ...] | list[corral.ServiceInstance]) -> list[str]:
    return [instance.id for instance in instances]


# Registering


async def test_an_instance_is_there_while_its_block_runs(zk: corral.Client, other: corral.Client) -> None:
    """N1, D1: it is an ephemeral znode with Curator's nine keys, as others read it; left, it is gone."""
    services = zk.services("/services")
    registration = services.register(
        "web",
        address="10.0.0.7",
        port=8080,
        ssl_port=8443,
        payload={"version": "1.2"},
        id="host-7",
        uri_spec="{scheme}://{address}:{port}/api",
    )
    async with registration as me:
        assert (me.path, me.is_present) == ("/services/web/host-7", True)
        data, stat = await other.get("/services/web/host-7")
        assert stat.ephemeral_owner == zk.session_id
        assert list(json.loads(data)) == [
            "name", "id", "address", "port", "sslPort", "payload", "registrationTimeUTC", "serviceType", "uriSpec"
        ]  # fmt: skip
        assert await other.services("/services").instances("web") == [me.instance]
        assert me.instance == corral.ServiceInstance(
            "web",
            "host-7",
            "10.0.0.7",
            8080,
            8443,
            {"version": "1.2"},
            me.instance.registration_time,
            corral.ServiceType.DYNAMIC,
            "{scheme}://{address}:{port}/api",
        )
        assert me.instance.registration_time > 1.7e9  # seconds
    assert await services.instances("web") == []


async def test_each_registration_has_an_id_of_its_own(zk: corral.Client, other: corral.Client) -> None:
    """N1: without an id it is a GUID; one that somebody else has is waited for, or refused, as asked."""
    services, theirs = zk.services("/services"), other.services("/services")
    async with services.register("web", address="a") as one, services.register("web", address="b") as two:
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one.instance.id)
        assert ids(await theirs.instances("web")) == sorted([one.instance.id, two.instance.id])
        refused = theirs.register("web", address="c", id=one.instance.id, on_taken="raise")
        with pytest.raises(corral.NodeExists, match=re.escape(one.path)):
            await within(refused.__aenter__())


async def test_update(zk: corral.Client, other: corral.Client) -> None:
    """D1: what is updated is changed, all else stays; an instance that is not enabled says so."""
    async with zk.services("/services").register("web", address="h", port=1, payload="old", id="1") as me:
        before = me.instance
        theirs = other.services("/services")
        for change in ({"payload": {"a": [1, 2]}}, {"enabled": False}, {"payload": None, "enabled": True}):
            await me.update(**change)  # type: ignore[arg-type]
            [found] = await theirs.instances("web")
            assert found == me.instance
            for key, value in change.items():
                assert getattr(found, key) == value
            assert (found.address, found.port, found.registration_time) == ("h", 1, before.registration_time)
            written = json.loads((await other.get(me.path))[0])
            assert written.get("enabled", True) is found.enabled
            assert written.get("enabled") is not True  # old versions of Curator refuse the key
        with pytest.raises(corral.UsageTypeError, match="Curator refuses lists"):
            await me.update(payload=[1])  # type: ignore[arg-type]
        with pytest.raises(corral.UsageTypeError, match="enabled must be True or False"):
            await me.update(enabled=1)  # type: ignore[arg-type]
        assert await theirs.instances("web") == [me.instance]


async def test_a_session_later_it_is_registered_again(rig: Rig) -> None:
    """N1: a new session registers it again, with the newest payload; readers are told that it was gone meanwhile."""
    services = rig.zk.services("/services")
    async with (
        services.register("web", address="h", payload=1) as me,
        rig.other.services("/services").watch("web") as w,
    ):
        await me.update(payload=2)
        assert await next_that(w, lambda found: found and found[0].payload == 2) == (me.instance,)
        before = rig.zk.session_id
        async with rig.away("expired"):
            assert await next_that(w, lambda found: not found) == ()
        assert await next_of(w) == (me.instance,)
        assert rig.zk.session_id != before
        stat = await rig.other.exists(me.path)
        assert stat is not None
        assert stat.ephemeral_owner == rig.zk.session_id


async def test_static(zk: corral.Client, connect: Callable[..., corral.Client]) -> None:
    """D1: a static instance outlives its client, is replaced by the next one with its id, and stays until it is
    removed."""
    async with connect() as gone:
        first = await gone.services("/services").register_static("db", id="main", address="db1", port=5432)
        assert first.service_type is corral.ServiceType.STATIC
    services = zk.services("/services")
    assert await services.instances("db") == [first]
    second = await services.register_static("db", id="main", address="db2", port=5432, payload="moved")
    assert await services.instances("db") == [second]
    assert (second.address, second.payload) == ("db2", "moved")
    assert await services.unregister("db", "main") is True
    assert await services.unregister("db", "main") is False
    assert await services.instances("db") == []


async def test_static_replaces_a_dynamic_one(zk: corral.Client, other: corral.Client) -> None:
    """D1: an ephemeral znode with its id would go with its session, so it is replaced."""
    await other.create("/services/db/main", b"", ephemeral=True, make_parents=True)
    instance = await zk.services("/services").register_static("db", id="main", address="db1")
    stat = await other.exists("/services/db/main")
    assert stat is not None
    assert stat.ephemeral_owner == 0
    await other.close()
    assert await zk.services("/services").instances("db") == [instance]


async def test_what_is_registered_meanwhile_is_not_removed(rig: Rig) -> None:
    """D1: the answer to a removal is lost, and before we are connected again somebody registers the id anew: that
    instance stays, and ours was removed."""
    theirs = rig.other.services("/services")
    await theirs.register_static("db", id="main", address="old")
    async with rig.proxy.refuse():
        async with rig.proxy.cut_at(committed(match=asks_for(DELETE))):
            removing = asyncio.create_task(rig.zk.services("/services").unregister("db", "main"))

            async def is_away() -> bool:
                return rig.zk.state is corral.State.SUSPENDED

            await until(is_away, "the connection is lost")
        assert await theirs.instances("db") == []
        again = await theirs.register_static("db", id="main", address="new")
    assert await within(removing) is True
    assert await theirs.instances("db") == [again]


# Finding


async def test_names(zk: corral.Client, other: corral.Client) -> None:
    """N2: the services that there are, sorted; none if there is nothing."""
    services = zk.services("/services")
    assert await services.names() == []
    assert await services.instances("web") == []
    async with services.register("web", address="h"), services.register("api", address="h"):
        assert await other.services("/services").names() == ["api", "web"]


async def test_instances_have_the_order_of_their_ids(zk: corral.Client, other: corral.Client) -> None:
    """N2: all ways of finding instances have the same ones in the same order."""
    services = zk.services("/services")
    for id in ("c", "a", "b"):
        await services.register_static("web", id=id, address="h")
    found = await services.instances("web")
    assert ids(found) == ["a", "b", "c"]
    async with services.watch("web") as events, services.provider("web") as provider:
        assert list(await next_of(events)) == list(provider.instances) == found


async def test_watch(zk: corral.Client, other: corral.Client) -> None:
    """W1, W2: the instances now, none at first, then each change; a slow reader gets the newest; never the same
    twice, also where a znode was made again with the same JSON."""
    services, theirs = zk.services("/services"), other.services("/services")
    async with services.watch("web") as events:
        assert await next_of(events) == ()
        one = await theirs.register_static("web", id="1", address="h1")
        assert await next_of(events) == (one,)
        two = await theirs.register_static("web", id="2", address="h2")
        await theirs.register_static("web", id="3", address="h3")
        await theirs.unregister("web", "3")
        one = await theirs.register_static("web", id="1", address="h1", payload="new")
        await zk.sync()
        assert await next_of(events) == (one, two)
        data, _ = await other.get("/services/web/2")
        async with other.transaction() as tx:
            tx.delete("/services/web/2")
            tx.create("/services/web/2", data)
        await other.create("/services/web/2/below", b"{}")
        await tells_nothing(zk, events)
        await other.delete("/services", recursive=True)
        assert await next_that(events, lambda found: not found) == ()


async def test_ids_need_not_be_the_names_of_znodes(zk: corral.Client, other: corral.Client) -> None:
    """D1: Curator's sequential instances have a number behind their id in the path alone."""
    data = json.dumps(
        {"name": "web", "id": "1", "address": "h", "serviceType": "DYNAMIC_SEQUENTIAL"}
    ).encode()
    await other.create("/services/web/1", data, sequential=True, make_parents=True)
    [instance] = await zk.services("/services").instances("web")
    assert (instance.id, instance.service_type) == ("1", corral.ServiceType.DYNAMIC_SEQUENTIAL)


async def test_znodes_that_are_not_instances(
    zk: corral.Client, other: corral.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """D1: they are left out and logged once, without their data; others are found beside them, also once they are
    mended."""
    services, theirs = zk.services("/services"), other.services("/services")
    good = await theirs.register_static("web", id="good", address="h")
    await other.create("/services/web/bad", b"secret")
    assert await services.instances("web") == [good]
    caplog.clear()
    async with services.watch("web") as events, services.provider("web") as provider:
        assert await next_of(events) == provider.instances == (good,)
        assert (
            warnings_of(caplog)
            == [
                "znode /services/web/bad is not an instance and is left out: it is not JSON (Expecting value)"
            ]
            * 2
        )  # the watch, and the provider
        caplog.clear()
        await other.set("/services/web/bad", b"{}")
        await tells_nothing(zk, events)
        assert provider.instances == (good,)
        assert warnings_of(caplog) == []
        mended = await theirs.register_static("web", id="bad", address="h")
        assert await next_of(events) == (mended, good)
        await other.set("/services/web/good", b"broken")
        assert await next_of(events) == (mended,)
        assert warnings_of(caplog) == [
            "znode /services/web/good is not an instance and is left out: it is not JSON (Expecting value)"
        ]


async def test_watches_and_providers_share_one_copy(zk: corral.Client) -> None:
    """N2, W4: all readers of a service in a client have one copy of it, and one watch; left, there is none."""
    services = zk.services("/services")
    async with services.watch("web") as one, services.watch("web") as two:
        await next_of(one)
        await next_of(two)
        async with services.provider("web"), zk.services("/services").provider("web"):
            assert watched(zk) == (1, 1)

    async def nothing_left() -> bool:
        return watched(zk) == (0, 0)

    await until(nothing_left, "nothing is registered")


# What cannot be


CALLS: dict[str, Callable[[corral.Services, Any], Any]] = {
    "register": lambda services, name: services.register(name, address="h"),
    "register_static": lambda services, name: services.register_static(name, id="1", address="h"),
    "unregister": lambda services, name: services.unregister(name, "1"),
    "instances": lambda services, name: services.instances(name),
    "watch": lambda services, name: services.watch(name),
    "provider": lambda services, name: services.provider(name),
}
"""What takes the name of a service."""


@pytest.mark.parametrize(
    ("name", "rule"), [("", "is empty"), ("a/b", "'/'"), ("..", r"'\.\.'"), ("a\x00", "forbids"), (None, "must be a str")]
)  # fmt: skip
@pytest.mark.parametrize("call", CALLS)
async def test_names_that_no_znode_can_have(zk: corral.Client, call: str, name: Any, rule: str) -> None:
    """D1: such a name is refused, and the message says why."""

    async def carry_out() -> None:
        found = CALLS[call](zk.services("/services"), name)
        if asyncio.iscoroutine(found):
            await found

    with pytest.raises(corral.UsageError, match=rf"name of a service.*({rule})"):
        await carry_out()


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"id": "a/b"}, "id of an instance.*'/'"),
        ({"id": 7}, "id of an instance must be a str"),
        ({"address": ""}, "address is empty"),
        ({"address": None}, "address must be a str"),
        ({"address": "\ud800"}, "address is not valid Unicode"),
        ({"port": "80"}, "port must be an int"),
        ({"port": 65536}, "port must be from 0 to 65535"),
        ({"ssl_port": -1}, "ssl_port must be from 0 to 65535"),
        ({"uri_spec": "{scheme"}, "braces"),
        ({"uri_spec": "{}"}, "braces"),
        ({"on_taken": "never"}, "on_taken"),
    ],
)
def test_instances_that_cannot_be(zk: corral.Client, wrong: Any, rule: str) -> None:
    """D1: what is wrong in itself is refused at once."""
    with pytest.raises(corral.UsageError, match=rule):
        zk.services("/services").register("web", **{"address": "h", **wrong})


def test_objects_tell_what_they_are(zk: corral.Client) -> None:
    """Reprs name the path or the service."""
    services = zk.services("/services")
    assert repr(services) == "<Services '/services'>"
    assert (
        repr(services.register("web", address="h", id="1"))
        == "<ServiceRegistration '/services/web/1', not present>"
    )
    assert repr(services.watch("web")) == "<ServiceWatch of '/services/web', not started>"
    assert repr(services.provider("web")) == "<ServiceProvider of 'web', not open>"
