"""Shared values: read, written, changed and watched by many clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from lock_support import Rig

import corral
from client_support import requests_seen
from corral.testing import FaultProxy
from corral.wire.messages import CREATE, GET, MULTI
from support import settle, turns, within

PATH = "/config/limits"
DEFAULT = {"rps": 10}


def limits(zk: corral.Client, path: str = PATH) -> corral.Value[Any]:
    return zk.value(path, codec=corral.JSON, default=DEFAULT)


async def test_the_default_until_it_is_set(zk: corral.Client, other: corral.Client) -> None:
    """What does not exist has the default, and no version that a znode has; the first write creates it, with its
    parents, none of which the server removes."""
    value = limits(zk)
    absent = await value.get()
    assert (absent.value, absent.version, absent.exists, absent.stat) == (DEFAULT, -1, False, None)
    written = await value.set({"rps": 20})
    assert (written.value, written.version, written.exists) == ({"rps": 20}, 0, True)
    current = await limits(other).get()
    assert (current.value, current.version, current.exists) == ({"rps": 20}, 0, True)
    assert current.stat is not None
    assert current.stat.version == 0
    assert (await other.get(PATH))[0] == b'{"rps":20}'


async def test_without_a_default(zk: corral.Client) -> None:
    """Reading and changing what does not exist names it and the remedy; setting it is possible."""
    value = zk.value("/v", codec=corral.TEXT)
    for call in (value.get(), value.update(str.upper)):
        with pytest.raises(corral.NoNode, match="'/v': no such znode, and the value has no default"):
            await call
    assert (await value.set("a")).value == "a"
    assert (await value.update(str.upper)).value == "A"


async def test_bytes(zk: corral.Client) -> None:
    """Without a codec it is the data."""
    value = zk.value("/v", default=b"none")
    assert (await value.get()).value == b"none"
    await value.set(b"\x00\xff")
    assert (await value.get()).value == b"\x00\xff"


async def test_the_default_is_copied(zk: corral.Client) -> None:
    """Whoever changes the default that it was given changes nobody else's."""
    value = limits(zk)
    (await value.get()).value["rps"] = 0

    def change(old: Any) -> Any:
        assert old == DEFAULT
        old["rps"] += 1
        return old

    assert (await value.update(change)).value == {"rps": 11}
    await zk.delete(PATH)
    assert (await value.get()).value == {"rps": 10}


async def test_update(zk: corral.Client, other: corral.Client) -> None:
    """X1: it changes the newest value, and is called again with a newer one if another client was faster."""
    await limits(other).set({"rps": 1})
    given = []

    def change(old: Any) -> Any:
        given.append(old)
        if len(given) == 1:
            competing.append(asyncio.ensure_future(other.set(PATH, b'{"rps":100}')))
        return {"rps": old["rps"] + 1}

    competing: list[asyncio.Future[Any]] = []
    changed = await limits(zk).update(change)
    await competing[0]
    final = (await limits(other).get()).value
    # Whichever was first: both writes were applied, and if ours was the second, it was made of the other's.
    assert (given, final) in [
        ([{"rps": 1}], {"rps": 100}),
        ([{"rps": 1}, {"rps": 100}], {"rps": 101}),
    ]
    assert changed.value == {"rps": given[-1]["rps"] + 1}


async def test_updates_of_many_clients(zk: corral.Client, other: corral.Client) -> None:
    """X1: none is lost."""

    async def append(client: corral.Client, names: list[str]) -> None:
        value = client.value("/v", codec=corral.JSON, default=[])
        for name in names:
            await value.update(lambda old, name=name: [*old, name])

    mine, theirs = ([f"{who}{number}" for number in range(20)] for who in "ab")
    await within(asyncio.gather(append(zk, mine), append(other, theirs)))
    names = (await zk.value("/v", codec=corral.JSON).get()).value
    assert [name for name in names if name in mine] == mine
    assert [name for name in names if name in theirs] == theirs
    assert len(names) == 40


async def test_what_a_function_raises(rig: Rig) -> None:
    """It is raised, and nothing is written."""
    await rig.other.create("/v", b"1")
    start = len(rig.tap.messages)
    with pytest.raises(ZeroDivisionError):
        await rig.zk.value("/v", codec=corral.JSON).update(lambda old: old / 0)
    assert rig.tap.requests(start, ours=False).count(MULTI) == 0
    assert (await rig.other.get("/v"))[1].version == 0
    await turns()
    await settle(rig.zk)
    assert await rig.other.children("/v") == []


# Versions


async def test_set_a_version(zk: corral.Client, other: corral.Client) -> None:
    """With a version, it is set only if the znode has that one; the error names both."""
    value = limits(zk)
    first = await value.set({"rps": 1})
    second = await value.set({"rps": 2}, version=first.version)
    assert second.version == first.version + 1
    with pytest.raises(corral.BadVersion, match=f"'{PATH}': version is 1, expected 0") as caught:
        await value.set({"rps": 3}, version=first.version)
    assert (caught.value.expected, caught.value.found) == (0, 1)
    assert (await limits(other).get()).value == {"rps": 2}


async def test_set_what_does_not_exist(zk: corral.Client) -> None:
    """The version of what does not exist is -1: set with it, it is created, or somebody else was faster."""
    value = limits(zk)
    absent = await value.get()
    written = await value.set({"rps": 1}, version=absent.version)
    assert written.version == 0
    with pytest.raises(corral.BadVersion, match="version is 0, expected no znode") as caught:
        await value.set({"rps": 2}, version=absent.version)
    assert (caught.value.expected, caught.value.found) == (-1, 0)
    await zk.delete(PATH)
    with pytest.raises(corral.BadVersion, match="the znode does not exist, expected version 0") as caught:
        await value.set({"rps": 2}, version=written.version)
    assert (caught.value.expected, caught.value.found) == (0, -1)
    assert await zk.exists(PATH) is None


async def test_set_replaces_what_does_not_decode(zk: corral.Client) -> None:
    """Setting a value does not need the one before."""
    await zk.create("/v", b"{")
    value = zk.value("/v", codec=corral.JSON)
    assert (await value.set(1)).version == 1
    assert (await value.get()).value == 1


# Data that does not decode, and values that do not encode


async def test_data_that_does_not_decode(zk: corral.Client) -> None:
    """Reading and changing it raise an error that names path, version and codec, and shows no data."""
    await zk.create("/v", b"{secret")
    value = zk.value("/v", codec=corral.JSON, default=0)
    for call in (value.get, lambda: value.update(lambda old: old + 1)):
        with pytest.raises(corral.InvalidValue, match="value '/v' at version 0: JsonCodec") as caught:
            await call()
        assert (caught.value.path, caught.value.version) == ("/v", 0)
        assert isinstance(caught.value.__cause__, json.JSONDecodeError)
        assert "secret" not in str(caught.value)
        assert "secret" not in repr(caught.value.__cause__)
    assert (await zk.get("/v"))[1].version == 0
    await zk.set("/v", b"secret\xff")
    for codec in (corral.JSON, corral.TEXT):
        with pytest.raises(corral.InvalidValue) as caught:
            await zk.value("/v", codec=codec).get()
        for error in (caught.value.__cause__, caught.value.__context__):
            assert "secret" not in repr(error)
            assert not isinstance(error, UnicodeError)  # it has the data in it


class Odd:
    """A codec of somebody else's, that raises what it likes."""

    def encode(self, value: object, /) -> bytes:
        if value == "text":
            return "text"  # type: ignore[return-value]
        raise LookupError(value)

    def decode(self, data: bytes, /) -> object:
        raise LookupError(data)


REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "JSON": (
        corral.JSON,
        {1, 2},
        TypeError,
        r"value '/v': JsonCodec cannot encode a value of type set \(TypeError\)",
    ),
    "JSON, NaN": (corral.JSON, float("nan"), ValueError, "JsonCodec cannot encode a value of type float"),
    "TEXT": (corral.TEXT, b"bytes", TypeError, "TextCodec cannot encode a value of type bytes"),
    "TEXT, surrogate": (corral.TEXT, "\ud800", ValueError, "TextCodec"),
    "BYTES": (corral.BYTES, "text", TypeError, "BytesCodec cannot encode a value of type str"),
    "another": (Odd(), 1, ValueError, r"Odd cannot encode a value of type int \(LookupError\)"),
    "another, no bytes": (Odd(), "text", TypeError, r"Odd.encode must return bytes, not str"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_value_that_does_not_encode(
    zk: corral.Client, proxy: FaultProxy, connect: Any, case: str
) -> None:
    """It is a usage error that names what was wrong, before anything is sent."""
    codec, bad, builtin, says = REFUSED[case]
    async with connect(proxy.address) as client, requests_seen(proxy) as seen:
        with pytest.raises(corral.UsageError, match=says) as caught:
            await client.value("/v", codec=codec).set(bad)
        assert isinstance(caught.value, builtin)
        await client.exists("/")
        assert len(seen.requests) == 1
        with pytest.raises(corral.UsageError, match=says):
            await client.value("/v", codec=codec, default=0).update(lambda old: bad)
        assert seen.count(MULTI) == 0
    assert await zk.exists("/v") is None


async def test_a_value_that_is_too_large(connect: Any, zk: corral.Client) -> None:
    """S7: it is refused before it is sent, and leaves no mark."""
    await zk.create("/v", b"")
    async with connect(max_request=4096) as client:
        for call in (
            lambda value: value.set(bytes(5000)),
            lambda value: value.set(bytes(5000), version=0),
            lambda value: value.update(lambda old: bytes(5000)),
        ):
            with pytest.raises(corral.FrameTooLarge, match="'/v'"):
                await call(client.value("/v"))
        await turns()
        await settle(client)
    assert (await zk.get("/v"))[1].version == 0
    assert await zk.children("/v") == []


# The watch


async def test_watch(zk: corral.Client, other: corral.Client) -> None:
    """W1, W3: the value now, or the default, then each newer one; a value that does not decode is an item, and no
    end."""
    async with limits(zk).watch() as values:
        absent = await within(anext(values))
        assert (absent.value, absent.exists) == (DEFAULT, False)
        await limits(other).set({"rps": 1})
        assert (await within(anext(values))).value == {"rps": 1}
        await other.set(PATH, b"{")
        bad = await within(anext(values))
        for _ in range(2):
            with pytest.raises(corral.InvalidValue, match=f"'{PATH}' at version 1"):
                bad.value  # noqa: B018
        assert (bad.version, bad.exists) == (1, True)
        assert repr(bad) == f"<Versioned '{PATH}', version 1, invalid>"
        await limits(other).set({"rps": 2})
        good = await within(anext(values))
        assert (good.value, good.version) == ({"rps": 2}, 2)
        assert good.stat is not None
        await other.delete(PATH)
        assert (await within(anext(values))).value == DEFAULT


async def test_watch_without_a_default(zk: corral.Client) -> None:
    """What does not exist is an item whose value raises."""
    async with zk.value("/v").watch() as values:
        absent = await within(anext(values))
        assert not absent.exists
        with pytest.raises(corral.NoNode):
            absent.value  # noqa: B018


async def test_watches_share(rig: Rig) -> None:
    """W4, W5: watches of values, counters and nodes of one path share one read for each change; nothing stays."""
    await rig.other.create("/v", b"1")
    start = len(rig.tap.messages)
    async with (
        rig.zk.value("/v", codec=corral.JSON).watch() as values,
        rig.zk.counter("/v", layout="kazoo").watch() as numbers,
        rig.zk.watch("/v") as events,
    ):
        assert (await within(anext(values))).value == await within(anext(numbers)) == 1
        assert (await within(anext(events))).data == b"1"
        assert rig.tap.requests(start).count(GET) == 1
        await rig.other.set("/v", b"2")
        value, number, event = await within(asyncio.gather(anext(values), anext(numbers), anext(events)))
        assert (value.value, number, event.data) == (2, 2, b"2")
        assert rig.tap.requests(start).count(GET) == 2
    assert rig.zk.statistics().watches["node"] == 0


async def test_a_write_is_no_news_but_once(zk: corral.Client, other: corral.Client) -> None:
    """W1: the marks of writers are no changes of the value."""
    async with zk.counter("/v").watch() as numbers:
        seen = [await within(anext(numbers))]
        for _ in range(3):
            await other.counter("/v").add()
            await turns()
            await settle(other)
            seen.append(await within(anext(numbers)))
    assert seen == [0, 1, 2, 3]


# The rest


async def test_a_chroot(zk: corral.Client) -> None:
    """Paths are those of the client; a missing chroot is created by the first write."""
    below = zk.chroot("/app")
    value = below.value("/v", codec=corral.TEXT, default="none")
    await value.set("a")
    assert (await zk.get("/app/v"))[0] == b"a"
    with pytest.raises(corral.BadVersion, match="'/v'"):
        await value.set("b", version=7)


async def test_a_permission(zk: corral.Client) -> None:
    """The znode has the ACL that was given; a refusal names the znode."""
    acl = [*corral.acl.world(corral.Perm.ALL & ~corral.Perm.ADMIN)]
    await zk.value("/v", acl=acl).set(b"a")
    assert (await zk.get_acl("/v"))[0] == acl
    await zk.create("/w", b"a", acl=corral.acl.world(corral.Perm.ALL & ~corral.Perm.WRITE))
    with pytest.raises(corral.NoAuth, match=r"'/w'.*WRITE"):
        await zk.value("/w").set(b"b")


async def test_a_cache_has_own_writes_at_once(zk: corral.Client) -> None:
    """A cache shows what its own client has set, as it does for `Client.set`."""
    async with zk.cache("/") as cache:
        await zk.value("/v").set(b"a")
        assert cache["/v"].data == b"a"
        await zk.value("/v").set(b"b")
        assert cache["/v"].data == b"b"


async def test_how_much_is_sent(rig: Rig) -> None:
    """A write in between reads and creates the mark in one round trip, and a series of them needs the transaction
    alone."""
    value = rig.zk.value("/v", default=b"")
    await value.set(b"a")
    await turns()
    await settle(rig.zk)
    start = len(rig.tap.messages)
    for _ in range(5):
        await value.update(lambda old: old + b"a")
    asked = rig.tap.requests(start, ours=False)
    assert [asked.count(each) for each in (GET, CREATE, MULTI)] == [1, 1, 5]
