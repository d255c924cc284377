"""Invalid input is refused before anything is sent; the message has the value, the rule and the remedy."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import pytest

import corral
from client_support import requests_seen
from corral.testing import FaultProxy
from corral.wire import framing, messages
from support import PATIENCE

Connect = Callable[..., corral.Client]
Call = Callable[[corral.Client], Any]

ANY: Any = None
RW: Any = "rw"


async def carry_out(result: object) -> None:
    """Await what a call has returned, if it can be awaited."""
    if inspect.isawaitable(result):
        await result


async def refusal(zk: corral.Client, call: Call) -> corral.UsageError:
    """The error of an invalid call."""
    with pytest.raises(corral.UsageError) as caught:
        await carry_out(call(zk))
    return caught.value


# Paths

PATH_TAKERS: dict[str, Callable[[corral.Client, Any], Any]] = {
    "get": lambda zk, path: zk.get(path),
    "set": lambda zk, path: zk.set(path, b""),
    "exists": lambda zk, path: zk.exists(path),
    "children": lambda zk, path: zk.children(path),
    "create": lambda zk, path: zk.create(path),
    "create sequential": lambda zk, path: zk.create(path, sequential=True),
    "create with parents": lambda zk, path: zk.create(path, make_parents=True),
    "delete": lambda zk, path: zk.delete(path),
    "delete recursive": lambda zk, path: zk.delete(path, recursive=True),
    "get_acl": lambda zk, path: zk.get_acl(path),
    "set_acl": lambda zk, path: zk.set_acl(path, corral.acl.OPEN),
    "sync": lambda zk, path: zk.sync(path),
    "count_children": lambda zk, path: zk.count_children(path),
    "count_children, own": lambda zk, path: zk.count_children(path, recursive=False),
    "ephemerals": lambda zk, path: zk.ephemerals(path),
    "check": lambda zk, path: zk.transaction().check(path),
    "set in a transaction": lambda zk, path: zk.transaction().set(path, b""),
    "delete in a transaction": lambda zk, path: zk.transaction().delete(path),
    "create in a transaction": lambda zk, path: zk.transaction().create(path),
    "chroot": lambda zk, path: zk.chroot(path),
    "lock": lambda zk, path: zk.lock(path),
    "group": lambda zk, path: zk.group(path),
    "services": lambda zk, path: zk.services(path),
    "registration": lambda zk, path: zk.registration(path),
    "barrier": lambda zk, path: zk.barrier(path),
    "double barrier": lambda zk, path: zk.double_barrier(path, 2),
    "once": lambda zk, path: zk.once(path),
    "queue": lambda zk, path: zk.queue(path),
    "partition": lambda zk, path: zk.partition(path, [1]),
    "watch": lambda zk, path: zk.watch(path),
    "value": lambda zk, path: zk.value(path),
    "counter": lambda zk, path: zk.counter(path),
}

# Each with the part of the message that states the rule.
BAD_PATHS: list[tuple[Any, type[Exception], str]] = [
    ("", ValueError, "start with '/'"),
    ("a", ValueError, "start with '/'"),
    ("a/b", ValueError, "start with '/'"),
    ("//", ValueError, "must not end with '/'"),
    ("/a//b", ValueError, "empty name"),
    ("/a/./b", ValueError, "'.'"),
    ("/a/..", ValueError, "'..'"),
    ("/a\x00b", ValueError, "index 2"),
    ("/a\x7f", ValueError, "forbids"),
    ("/\ud800", ValueError, "forbids"),
    ("/\ue000", ValueError, "forbids"),
    ("/\ufff0", ValueError, "forbids"),
    ("/\U0001f600", ValueError, "forbids"),
    (None, TypeError, "not None"),
    (b"/a", TypeError, "type bytes"),
    (7, TypeError, "not 7"),
    (["/a"], TypeError, "type list"),
]


@pytest.mark.parametrize("verb", PATH_TAKERS)
async def test_bad_paths(connect: Connect, proxy: FaultProxy, verb: str) -> None:
    """Every verb and factory that takes a path refuses an invalid one with the same error, and sends
    nothing."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        for path, builtin, rule in BAD_PATHS:
            error = await refusal(zk, lambda zk, path=path: PATH_TAKERS[verb](zk, path))
            assert isinstance(error, builtin)
            assert (repr(path) in str(error)) == (not isinstance(path, bytes | list))  # these may be secret
            assert rule in str(error)
        await zk.exists("/")
        assert seen.opcodes == [messages.EXISTS.opcode]


@pytest.mark.parametrize("verb", [verb for verb in PATH_TAKERS if verb != "create sequential"])
async def test_a_path_does_not_end_with_a_slash(zk: corral.Client, verb: str) -> None:
    """Only a sequential node's path may end with '/'; the message has the corrected path."""
    error = await refusal(zk, lambda zk: PATH_TAKERS[verb](zk, "/a/"))
    assert isinstance(error, corral.UsageValueError)
    assert "'/a/' must not end with '/'; write '/a'" in str(error)


@pytest.mark.parametrize("path", ["/a.b", "/...", "/-", "/a b", "/ü", "/日本", "/zookeeper2", "/a\u00a0"])
async def test_unusual_paths_are_good(zk: corral.Client, path: str) -> None:
    """Valid paths, however unusual, are accepted by the client and by the server."""
    assert await zk.create(path) == path
    assert await zk.children("/") == [path[1:]]


# Other arguments


class Bad(NamedTuple):
    """An invalid call."""

    call: Call
    builtin: type[Exception]
    says: tuple[str, ...]
    """What the message contains: the value, the rule, the remedy."""


def _add_to_transaction(**options: Any) -> Call:
    return lambda zk: zk.transaction().create("/a", **options)


async def a_coroutine_function(old: Any) -> Any:
    return old


BAD_ARGUMENTS: dict[str, Bad] = {
    "max_attempts, none": Bad(
        lambda zk: zk.queue("/q", max_attempts=0), ValueError, ("from 1 to", "not 0", "None is no limit")
    ),
    "max_attempts, text": Bad(lambda zk: zk.queue("/q", max_attempts="3"), TypeError, ("an int", "'3'")),
    "priority, negative": Bad(
        lambda zk: zk.queue("/q").put(b"x", priority=-1), ValueError, ("from 0 to 999", "-1", "come first")
    ),
    "priority, great": Bad(
        lambda zk: zk.queue("/q").put_many([b"x"], priority=1000), ValueError, ("from 0 to 999", "1000")
    ),
    "priority, float": Bad(lambda zk: zk.queue("/q").put(b"x", 1.5), TypeError, ("an int", "1.5")),
    "item, text": Bad(lambda zk: zk.queue("/q").put("x"), TypeError, ("bytes, not a str", "encode")),
    "items, bytes": Bad(lambda zk: zk.queue("/q").put_many(b"xyz"), TypeError, ("bytes; put()", "list")),
    "items, None": Bad(lambda zk: zk.queue("/q").put_many(None), TypeError, ("NoneType", "list")),
    "item, too large": Bad(
        lambda zk: zk.queue("/q").put(b"x" * 1048576), ValueError, ("over the limit", "jute.maxbuffer")
    ),
    "failed item, text": Bad(lambda zk: zk.queue("/q").requeue("a"), TypeError, ("failed()", "'a'")),
    "failed item, None": Bad(lambda zk: zk.queue("/q").discard(None), TypeError, ("failed()", "None")),
    "data, text": Bad(
        lambda zk: zk.create("/a", "text"), TypeError, ("bytes, not a str of 4 characters", "encode")
    ),
    "data, None": Bad(lambda zk: zk.create("/a", None), TypeError, ("bytes, not NoneType",)),
    "data, int": Bad(lambda zk: zk.set("/", 7), TypeError, ("bytes, not int",)),
    "data, list": Bad(lambda zk: zk.set("/", [1]), TypeError, ("bytes, not list",)),
    "data of a lock": Bad(lambda zk: zk.lock("/l", data="text"), TypeError, ("bytes, not a str",)),
    "data of a registration": Bad(lambda zk: zk.registration("/r", "text"), TypeError, ("bytes, not a str",)),
    "on_taken of a registration": Bad(
        lambda zk: zk.registration("/r", on_taken="hope"), ValueError, ("'hope'", "'wait'", "'raise'")
    ),
    "data in a transaction": Bad(lambda zk: zk.transaction().set("/", "x"), TypeError, ("bytes, not a str",)),
    "version, text": Bad(lambda zk: zk.set("/", b"", version="1"), TypeError, ("'1'", "stat.version")),
    "version, bool": Bad(lambda zk: zk.delete("/a", version=True), TypeError, ("True", "int")),
    "version, float": Bad(lambda zk: zk.set("/", b"", version=1.0), TypeError, ("1.0", "int")),
    "version, Stat": Bad(
        lambda zk: zk.transaction().check("/", (1, 2)), TypeError, ("tuple", "stat.version")
    ),
    "version, large": Bad(lambda zk: zk.set("/", b"", version=1 << 40), ValueError, (str(1 << 40), "32-bit")),
    "version, beyond what Python writes": Bad(
        lambda zk: zk.set("/", b"", version=10**5000), ValueError, ("thousands of digits", "32-bit")
    ),
    "limit, beyond what Python writes": Bad(
        lambda zk: zk.semaphore("/s", 10**5000), ValueError, ("thousands of digits", "limit")
    ),
    "n of a double barrier": Bad(lambda zk: zk.double_barrier("/d", 0), ValueError, ("n must be", "not 0")),
    "n, text": Bad(lambda zk: zk.double_barrier("/d", "2"), TypeError, ("n must be an int", "'2'")),
    "ttl of a job": Bad(lambda zk: zk.once("/o", ttl=-1), ValueError, ("ttl", "positive", "-1")),
    "a job that is none": Bad(lambda zk: zk.once("/o").run(b"x"), TypeError, ("job", "async function")),
    "data of a barrier": Bad(lambda zk: zk.barrier("/b", data="x"), TypeError, ("bytes, not a str",)),
    "version of ACL": Bad(
        lambda zk: zk.set_acl("/", corral.acl.OPEN, version="1"), TypeError, ("'1'", "stat.version")
    ),
    "version, recursive": Bad(
        lambda zk: zk.delete("/a", version="1", recursive=True), TypeError, ("'1'", "stat.version")
    ),
    "ttl, zero": Bad(lambda zk: zk.create("/a", ttl=0), ValueError, ("0", "positive")),
    "ttl, negative": Bad(lambda zk: zk.create("/a", ttl=-1), ValueError, ("-1", "positive")),
    "ttl, too short": Bad(lambda zk: zk.create("/a", ttl=0.0001), ValueError, ("0.0001", "between 0.001")),
    "ttl, too long": Bad(lambda zk: zk.create("/a", ttl=2e9), ValueError, ("2000000000", "between 0.001")),
    "ttl, infinite": Bad(lambda zk: zk.create("/a", ttl=float("inf")), ValueError, ("inf", "finite")),
    "ttl, nan": Bad(lambda zk: zk.create("/a", ttl=float("nan")), ValueError, ("nan", "finite")),
    "ttl, text": Bad(lambda zk: zk.create("/a", ttl="5"), TypeError, ("'5'", "seconds")),
    "ttl, bool": Bad(lambda zk: zk.create("/a", ttl=True), TypeError, ("True", "seconds")),
    "ttl of an ephemeral": Bad(
        lambda zk: zk.create("/a", ttl=1, ephemeral=True), ValueError, ("leave one out",)
    ),
    "container, ephemeral": Bad(
        lambda zk: zk.create("/a", container=True, ephemeral=True), ValueError, ("container", "leave")
    ),
    "container, sequential": Bad(
        lambda zk: zk.create("/a", container=True, sequential=True), ValueError, ("container", "leave")
    ),
    "container, ttl": Bad(
        lambda zk: zk.create("/a", container=True, ttl=1), ValueError, ("container", "leave")
    ),
    "count_children, a number": Bad(
        lambda zk: zk.count_children("/", recursive=1),
        TypeError,
        ("recursive must be True or False", "not 1"),
    ),
    "acl, empty": Bad(lambda zk: zk.create("/a", acl=[]), ValueError, ("empty", "acl.OPEN")),
    "acl, one entry": Bad(
        lambda zk: zk.create("/a", acl=corral.acl.OPEN[0]), TypeError, ("not Acl", "sequence", "acl.OPEN")
    ),
    "acl, text": Bad(lambda zk: zk.set_acl("/", "world"), TypeError, ("not str", "corral.Acl")),
    "acl, tuples": Bad(lambda zk: zk.create("/a", acl=[(31, "world", "anyone")]), TypeError, ("corral.Acl",)),
    "acl, None": Bad(lambda zk: zk.set_acl("/a", None), TypeError, ("NoneType", "corral.Acl")),
    "acl, a password": Bad(
        lambda zk: zk.create("/a", acl=[corral.Acl(corral.Perm.ALL, "digest", "ann:secret")]),
        ValueError,
        ("entry 0", "hash", "acl.digest(user, password)"),
    ),
    "acl, generator": Bad(
        lambda zk: zk.create("/a", acl=(entry for entry in corral.acl.OPEN)), TypeError, ("sequence",)
    ),
    "acl, dict": Bad(
        lambda zk: zk.create("/a", acl=dict.fromkeys(corral.acl.OPEN)), TypeError, ("sequence",)
    ),
    "acl, perms": Bad(
        lambda zk: zk.create("/a", acl=[corral.Acl(RW, "world", "anyone")]),
        ValueError,
        ("'rw'", "Perm"),
    ),
    "acl, unknown perms": Bad(
        lambda zk: zk.create("/a", acl=[corral.Acl(corral.Perm(99), "world", "anyone")]),
        ValueError,
        ("99", "Perm"),
    ),
    "acl, scheme": Bad(
        lambda zk: zk.create("/a", acl=[corral.Acl(corral.Perm.ALL, ANY, "x")]),
        TypeError,
        ("NoneType", "scheme"),
    ),
    "acl, id": Bad(
        lambda zk: zk.set_acl("/", [corral.Acl(corral.Perm.ALL, "world", ANY)]),
        TypeError,
        ("entry 0", "NoneType", "id"),
    ),
    "acl, surrogate": Bad(
        lambda zk: zk.set_acl("/", [corral.Acl(corral.Perm.ALL, "digest", "\ud800")]),
        ValueError,
        ("entry 0", "Unicode", "index 0"),
    ),
    "acl in a transaction": Bad(_add_to_transaction(acl=[]), ValueError, ("empty", "acl.OPEN")),
    "acl, user with ':'": Bad(lambda zk: corral.acl.digest("a:b", "c"), ValueError, ("':'", "apart")),
    "acl, user in bytes": Bad(lambda zk: corral.acl.digest(ANY, "c"), TypeError, ("a str", "not NoneType")),
    "acl, password with a surrogate": Bad(
        lambda zk: corral.acl.digest("a", "\ud800"), ValueError, ("Unicode", "surrogate")
    ),
    "credentials, text": Bad(
        lambda zk: zk.add_auth("digest", "a:b"), TypeError, ("secret must be bytes, not str", '"digest"')
    ),
    "credentials, no user": Bad(lambda zk: zk.add_auth("digest", b"secret"), ValueError, ("user:password",)),
    "credentials, scheme": Bad(
        lambda zk: zk.add_auth(ANY, b"a:b"), TypeError, ("must be a str, not NoneType", '"digest"')
    ),
    "credentials, swapped": Bad(
        lambda zk: zk.add_auth(b"a:b", "digest"), TypeError, ("must be a str, not bytes", '"digest"')
    ),
    "credentials, swapped text": Bad(
        lambda zk: zk.add_auth("a:b", b"digest"), ValueError, ("scheme must be a name", '"digest"')
    ),
    "codec, a class": Bad(
        lambda zk: zk.value("/v", codec=dict), TypeError, ("encode(value)", "corral.JSON", "not dict")
    ),
    "codec, a module": Bad(
        lambda zk: zk.value("/v", codec=asyncio), TypeError, ("encode(value)", "value of type module")
    ),
    "codec, None": Bad(lambda zk: zk.value("/v", codec=None), TypeError, ("codec", "None")),
    "fn, a coroutine function": Bad(
        lambda zk: zk.value("/v", default=b"").update(a_coroutine_function),
        TypeError,
        ("fn", "ordinary function"),
    ),
    "fn, a value": Bad(lambda zk: zk.value("/v").update(b"new"), TypeError, ("fn", "function")),
    "version of a value": Bad(lambda zk: zk.value("/v").set(b"", version="3"), TypeError, ("'3'", "version")),
    "a value, text": Bad(
        lambda zk: zk.value("/v").set("text"), TypeError, ("value '/v'", "BytesCodec", "type str")
    ),
    "layout of a counter": Bad(
        lambda zk: zk.counter("/n", layout="redis"), ValueError, ("'redis'", "'curator-int'", "'kazoo'")
    ),
    "layout of a counter, a list": Bad(
        lambda zk: zk.counter("/n", layout=["kazoo"]), ValueError, ("type list", "'curator'")
    ),
    "n, float": Bad(lambda zk: zk.counter("/n").add(1.0), TypeError, ("n must be an int", "1.0")),
    "n, bool": Bad(lambda zk: zk.counter("/n").add(True), TypeError, ("n must be an int", "True")),
    "a number, text": Bad(lambda zk: zk.counter("/n").set("3"), TypeError, ("value must be an int", "'3'")),
    "a number, out of range": Bad(
        lambda zk: zk.counter("/n").set(2**63), ValueError, ("counter '/n'", "range of 64 bits")
    ),
    "delete the root": Bad(lambda zk: zk.delete("/", recursive=True), ValueError, ("'/'", "below")),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
async def test_bad_arguments(connect: Connect, proxy: FaultProxy, case: str) -> None:
    """An invalid argument raises a UsageError that is also a ValueError or a TypeError; nothing is sent."""
    call, builtin, says = BAD_ARGUMENTS[case]
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        error = await refusal(zk, call)
        assert isinstance(error, builtin)
        assert [word for word in says if word not in str(error)] == []
        await zk.exists("/")
        assert seen.opcodes == [messages.EXISTS.opcode]


async def test_secrets_are_not_told(zk: corral.Client) -> None:
    """No message and no repr contains a secret."""
    for name, call in TELLTALES.items():
        error = await refusal(zk, call)
        assert "hush" not in str(error), name
        for other in (error.__cause__, error.__context__):
            assert "hush" not in repr(other), name
            assert not isinstance(other, UnicodeError), name  # it would contain the text
    for auth in ([("digest", b"ann:hush")], [("hush", b"digest")]):
        client = corral.connect(auth=auth)
        assert "hush" not in repr(client)
        assert "hush" not in repr(vars(client._session)["_options"])


def _connecting(hosts: Any) -> Call:
    return lambda zk: corral.connect(hosts)


def _with_auth(auth: Any) -> Call:
    return lambda zk: corral.connect(auth=auth)


TELLTALES: dict[str, Call] = {
    "no user": lambda zk: zk.add_auth("digest", b"hush"),
    "text": lambda zk: zk.add_auth("digest", "ann:hush"),  # type: ignore[arg-type]
    "swapped": lambda zk: zk.add_auth(b"ann:hush", "digest"),  # type: ignore[arg-type]
    "swapped text": lambda zk: zk.add_auth("ann:hush", b"digest"),
    "swapped, both text": lambda zk: zk.add_auth("hush", "digest"),  # type: ignore[arg-type]
    "not ASCII": lambda zk: zk.add_auth("hush\u00e9", b"digest"),
    "a pair": _with_auth(("digest", b"ann:hush")),
    "three": _with_auth([("digest", b"ann:hush", 1)]),
    "a dict": _with_auth({"digest": b"ann:hush"}),
    "text in a pair": _with_auth([("digest", "ann:hush")]),
    "swapped in a pair": _with_auth([(b"ann:hush", "digest")]),
    "swapped text in a pair": _with_auth([("ann:hush", b"digest")]),
    "host": _connecting("ann:hush@zk1:2181"),
    "host, second": _connecting("zk1:2181,ann:hush@zk2:2181"),
    "host, scheme": _connecting("digest:ann:hush@zk1:2181"),
    "host, URL": _connecting("zookeeper://ann:hush@zk1:2181/app"),
    "host, no port": _connecting("ann:hush@zk1"),
    "host, slash in the password": _connecting("ann:hush/hush@zk1:2181"),
    "host, slash and no colon": _connecting("hush/hush@zk1:2181"),
    "host, slash, second": _connecting("zk1,ann:hush/hush@zk1:2181"),
    "host, comma in the password": _connecting("ann:hush,hush@zk1:2181"),
    "hosts": _connecting(["zk1:2181", "ann:hush@zk2:2181"]),
    "hosts, URL": _connecting(["zookeeper://ann:hush@zk2:2181"]),
    "hosts, bytes": _connecting(b"ann:hush@zk1"),
    "hosts, list of bytes": _connecting([b"ann:hush@zk1"]),
    "hosts, pairs": _connecting([("zk1", "hush")]),
    "hosts, dict": _connecting({"zk1": "hush"}),
    "user of an ACL": lambda zk: corral.acl.digest("ann:hush", "x"),
    "password of an ACL, bytes": lambda zk: corral.acl.digest("ann", b"hush"),  # type: ignore[arg-type]
    "password of an ACL, surrogate": lambda zk: corral.acl.digest("ann", "hush\ud800"),
    "acl, password": lambda zk: zk.create("/a", acl=[corral.Acl(corral.Perm.ALL, "digest", "ann:hush")]),
    "acl, password of the creator": lambda zk: zk.lock(
        "/a", acl=[corral.Acl(corral.Perm.ALL, "auth", "ann:hush")]
    ),
    "acl, perms": lambda zk: zk.create("/a", acl=[corral.Acl(RW, "digest", "ann:hush")]),
    "acl, id in bytes": lambda zk: zk.create("/a", acl=[corral.Acl(corral.Perm.ALL, "digest", b"hush")]),  # type: ignore[arg-type]
    "acl, id not Unicode": lambda zk: zk.create(
        "/a", acl=[corral.Acl(corral.Perm.ALL, "digest", "hush\ud800")]
    ),
    "acl, tuples": lambda zk: zk.set_acl("/a", [(31, "digest", "ann:hush")]),  # type: ignore[list-item]
    "data, text": lambda zk: zk.create("/a", "hush"),  # type: ignore[call-overload]
    "data, dict": lambda zk: zk.set("/a", {"password": "hush"}),  # type: ignore[arg-type]
    "data of a lock": lambda zk: zk.lock("/l", data="hush"),  # type: ignore[arg-type]
    "data of a transaction": lambda zk: zk.transaction().create("/a", "hush"),  # type: ignore[arg-type]
    "data as a path": lambda zk: zk.create(b"hush", "/a"),  # type: ignore[call-overload]
    "data as a version": lambda zk: zk.transaction().set("/a", b"", b"hush"),  # type: ignore[arg-type]
    "data as a condition": lambda zk: zk.wait_until("/a", b"hush"),  # type: ignore[arg-type]
    "a value that does not encode": lambda zk: zk.value("/v", codec=corral.TEXT).set("hush\ud800"),
    "a value of another type": lambda zk: zk.value("/v").set("hush"),  # type: ignore[arg-type]
    "a value in JSON": lambda zk: zk.value("/v", codec=corral.JSON).set({"hush": {"hush"}}),
    "data as a condition of children": lambda zk: zk.wait_children("/a", b"hush"),  # type: ignore[arg-type]
}
"""Invalid calls, each with a secret in it: hush."""


# Frames


async def test_a_frame_over_the_limit_is_not_sent(connect: Connect, proxy: FaultProxy) -> None:
    """S7: a request over the limit is refused with its size and the limit. One of exactly the limit, which is
    also the server's, is accepted."""
    limit = framing.DEFAULT_MAX_REQUEST
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        with pytest.raises(corral.FrameTooLarge) as caught:
            await zk.set("/", bytes(limit))
        error = caught.value
        assert isinstance(error, ValueError)
        assert error.limit == limit
        assert str(error) == (
            f"set '/': the request is {error.size:,} bytes, over the limit of {limit:,}; "
            "send less, or raise jute.maxbuffer on every server and max_request here"
        )
        fitting = limit - (error.size - limit)
        stat = await zk.set("/", bytes(fitting))
        with pytest.raises(corral.FrameTooLarge, match=f"{limit + 1:,} bytes"):
            await zk.set("/", bytes(fitting + 1))
        assert stat.data_length == fitting
        assert await zk.exists("/") == stat
        assert seen.opcodes == [messages.SET.opcode, messages.EXISTS.opcode]
        assert proxy.accepted == 1


TOO_LARGE: dict[str, Call] = {
    "create": lambda zk: zk.create("/a", bytes(2000)),
    "create ttl": lambda zk: zk.create("/a", bytes(2000), ttl=1),
    "create container": lambda zk: zk.create("/a", bytes(2000), container=True),
    "set": lambda zk: zk.set("/", bytes(2000)),
    "get": lambda zk: zk.get("/" + "x" * 2000),
    "set_acl": lambda zk: zk.set_acl("/", corral.acl.OPEN * 100),
    "lock": lambda zk: zk.lock("/l", data=bytes(2000)).acquire(),
    "registration": lambda zk: zk.registration("/r", bytes(2000)).__aenter__(),
    "partition": lambda zk: zk.partition("/p", [1], data=bytes(2000)).__aenter__(),
    "try a lock": lambda zk: zk.lock("/l", data=bytes(2000)).try_acquire(),
    "watch": lambda zk: anext(zk.watch("/" + "x" * 2000)),
    "add_auth": lambda zk: zk.add_auth("digest", b"ann:" + bytes(2000)),
}


@pytest.mark.parametrize("case", TOO_LARGE)
async def test_whatever_is_too_large_is_not_sent(connect: Connect, proxy: FaultProxy, case: str) -> None:
    """S7: max_request applies to every request; the connection and other requests are not affected."""
    async with connect(proxy.address, max_request=1024) as zk, requests_seen(proxy) as seen:
        before = asyncio.create_task(carry_out(zk.exists("/")))
        with pytest.raises(corral.FrameTooLarge, match=r"2,\d{3} bytes, over the limit of 1,024"):
            await carry_out(TOO_LARGE[case](zk))
        await zk.exists("/")
        await before
        assert seen.opcodes == [messages.EXISTS.opcode] * 2
        assert proxy.accepted == 1


# Arguments of connect


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = {
    "hosts, empty": ({"hosts": ""}, ValueError, ("''", "host:port")),
    "hosts, empty list": ({"hosts": []}, ValueError, ("empty list", "['zk1:2181']")),
    "hosts, empty port": ({"hosts": "a:"}, ValueError, ("'a:'", "empty port", "2181")),
    "hosts, IPv6 and a port": ({"hosts": "::1:99"}, ValueError, ("'::1:99'", "write", "[::1]:99")),
    "hosts, password": ({"hosts": "me:pw@a:1"}, ValueError, ("'@'", "auth=", "not shown")),
    "hosts, empty part": ({"hosts": "a:1,,b:1"}, ValueError, ("'a:1,,b:1'", "''", "host:port")),
    "hosts, chroot alone": ({"hosts": "/app"}, ValueError, ("'/app'", "host:port")),
    "hosts, blank": ({"hosts": "a b:1"}, ValueError, ("'a b:1'", "host:port")),
    "hosts, URL": ({"hosts": "http://a:1"}, ValueError, ("'http:", "host:port")),
    "hosts, port": ({"hosts": "a:port"}, ValueError, ("'a:port'", "host:port")),
    "hosts, port 0": ({"hosts": "a:0"}, ValueError, ("port 0", "between 1 and 65535")),
    "hosts, large port": ({"hosts": "a:65536"}, ValueError, ("port 65536", "between 1 and 65535")),
    "hosts, bare IPv6": ({"hosts": "::1"}, ValueError, ("'::1'", "[::1]:2181")),
    "hosts, no IPv6": ({"hosts": "[abc]:1"}, ValueError, ("'[abc]:1'", "IPv6")),
    "hosts, int": ({"hosts": 2181}, TypeError, ("2181", "'zk1:2181'")),
    "hosts, bytes": ({"hosts": b"a:1"}, TypeError, ("bytes", "'zk1:2181'")),
    "hosts, pairs": (
        {"hosts": [("a", 1)]},
        TypeError,
        ("a list that holds a value of type tuple", "'zk1:2181'"),
    ),
    "hosts, list with chroot": ({"hosts": ["a:1/app"]}, ValueError, ("'a:1/app'", "zk.chroot('/app')")),
    "chroot, slash": ({"hosts": "a:1/app/"}, ValueError, ("chroot '/app/'", "write '/app'")),
    "chroot, relative": ({"hosts": "a:1/../b"}, ValueError, ("chroot '/../b'", "'..'")),
    "chroot, in the middle": ({"hosts": "a:1/app,b:1/"}, ValueError, ("chroot", "'/app,b:1/'")),
    "session_timeout, 0": ({"session_timeout": 0}, ValueError, ("0", "session_timeout", "positive")),
    "session_timeout, negative": ({"session_timeout": -1}, ValueError, ("-1", "session_timeout", "positive")),
    "session_timeout, nan": ({"session_timeout": float("nan")}, ValueError, ("nan", "session_timeout")),
    "session_timeout, huge": (
        {"session_timeout": 1e8},
        ValueError,
        ("100000000", "session_timeout", "is in seconds"),
    ),
    "session_timeout, milliseconds": (
        {"session_timeout": 30000},
        ValueError,
        ("session_timeout is in seconds", "30000 s are 8.3 hours", "for milliseconds divide by 1000"),
    ),
    "session_timeout, a thousand": ({"session_timeout": 1000}, ValueError, ("1000 s are 16.7 minutes",)),
    "connect_timeout, milliseconds": (
        {"connect_timeout": 15000},
        ValueError,
        ("connect_timeout is in seconds", "15000 s are 4.2 hours", "divide by 1000", "None"),
    ),
    "connect_timeout, an hour": ({"connect_timeout": 3600}, ValueError, ("3600 s are 1.0 hours",)),
    "session_timeout, tiny": ({"session_timeout": 1e-5}, ValueError, ("1e-05", "session_timeout", "between")),
    "session_timeout, text": ({"session_timeout": "10"}, TypeError, ("'10'", "session_timeout", "seconds")),
    "session_timeout, None": ({"session_timeout": None}, TypeError, ("None", "session_timeout", "seconds")),
    "session_timeout, bool": ({"session_timeout": True}, TypeError, ("True", "session_timeout", "seconds")),
    "connect_timeout, 0": ({"connect_timeout": 0}, ValueError, ("0", "connect_timeout", "positive")),
    "connect_timeout, inf": ({"connect_timeout": float("inf")}, ValueError, ("inf", "connect_timeout")),
    "connect_timeout, text": ({"connect_timeout": "1"}, TypeError, ("'1'", "connect_timeout", "seconds")),
    "tick_time, 0": ({"tick_time": 0}, ValueError, ("0", "tick_time", "positive")),
    "tick_time, text": ({"tick_time": "2"}, TypeError, ("'2'", "tick_time", "seconds")),
    "tick_time, milliseconds": ({"tick_time": 2000}, ValueError, ("2000", "tick_time", "in seconds")),
    "lease, word": ({"lease": "hope"}, ValueError, ("'hope'", "'quorum'", "'ping'")),
    "read_only, word": ({"read_only": "raise"}, ValueError, ("'raise'", "True", "'wait'", "NotReadOnly")),
    "read_only, number": ({"read_only": 1}, ValueError, ("1", "True", "'wait'")),
    "read_only, unhashable": ({"read_only": ["wait"]}, ValueError, ("list", "True", "'wait'")),
    "lease, None": ({"lease": None}, ValueError, ("None", "'quorum'", "'ping'")),
    "lease, unhashable": ({"lease": ["ping"]}, ValueError, ("['ping']", "'quorum'", "'ping'")),
    "max_request, small": ({"max_request": 5}, ValueError, ("5", "max_request", "bytes")),
    "max_request, huge": ({"max_request": 1 << 31}, ValueError, (str(1 << 31), "max_request", "bytes")),
    "max_request, float": ({"max_request": 1e6}, TypeError, ("1000000.0", "max_request", "int")),
    "max_reply, small": ({"max_reply": -1}, ValueError, ("-1", "max_reply", "bytes")),
    "max_reply, text": ({"max_reply": "64M"}, TypeError, ("'64M'", "max_reply", "int")),
    "default_acl, empty": ({"default_acl": []}, ValueError, ("default_acl is empty", "acl.OPEN")),
    "default_acl, None": ({"default_acl": None}, TypeError, ("default_acl must", "NoneType", "acl.OPEN")),
    "default_acl, entry": (
        {"default_acl": [corral.Acl(corral.Perm.ALL, "world", "all")]},
        ValueError,
        ("default_acl entry 0", "'anyone'", "acl.world()"),
    ),
    "auth, a pair": (
        {"auth": ("digest", b"a:b")},
        TypeError,
        ("list of pairs", '[("digest", b"user:password")]'),
    ),
    "auth, None": ({"auth": None}, TypeError, ("list of pairs",)),
    "auth, text": ({"auth": "digest:a:b"}, TypeError, ("list of pairs",)),
    "auth, half a pair": ({"auth": [("digest",)]}, TypeError, ("list of pairs",)),
    "auth, text secret": (
        {"auth": [("digest", "a:b")]},
        TypeError,
        ('"digest"', "bytes, not str", 'b"user:password"'),
    ),
    "auth, swapped": (
        {"auth": [(b"me:pw", "digest")]},
        TypeError,
        ("list of pairs (scheme, secret)", "scheme must be a str, not bytes", "not shown"),
    ),
    "auth, no user": ({"auth": [("digest", b"secret")]}, ValueError, ("user:password", "':'")),
    "auth, no scheme": ({"auth": [("", b"a:b")]}, ValueError, ("scheme must be a name", '"digest"')),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
async def test_bad_options(case: str) -> None:
    """connect refuses invalid arguments at once, before there is a client."""
    options, builtin, says = BAD_OPTIONS[case]
    with pytest.raises(corral.UsageError) as caught:
        corral.connect(**{"hosts": "localhost", **options})
    assert isinstance(caught.value, builtin)
    assert [word for word in says if word not in str(caught.value)] == []


@pytest.mark.parametrize("value", ["", "host:"])
async def test_hosts_from_the_environment_are_checked(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An invalid CORRAL_HOSTS is refused like an argument; an empty one counts as missing."""
    monkeypatch.setenv("CORRAL_HOSTS", value)
    if value:
        with pytest.raises(corral.UsageValueError, match=r"'host:' has an empty port.*host:port"):
            corral.connect()
    else:
        assert "localhost:2181" in repr(corral.connect())


# Valid calls at the wrong time or place

VERBS: dict[str, Call] = {
    "get": lambda zk: zk.get("/"),
    "set": lambda zk: zk.set("/", b""),
    "exists": lambda zk: zk.exists("/"),
    "children": lambda zk: zk.children("/", with_stat=True),
    "create": lambda zk: zk.create("/a"),
    "create ephemeral": lambda zk: zk.create("/a", ephemeral=True),
    "create with parents": lambda zk: zk.create("/a/b", make_parents=True),
    "delete": lambda zk: zk.delete("/a"),
    "delete recursive": lambda zk: zk.delete("/a", recursive=True),
    "get_acl": lambda zk: zk.get_acl("/"),
    "set_acl": lambda zk: zk.set_acl("/", corral.acl.OPEN),
    "sync": lambda zk: zk.sync(),
    "count_children": lambda zk: zk.count_children("/"),
    "ephemerals": lambda zk: zk.ephemerals(),
    "who_am_i": lambda zk: zk.who_am_i(),
    "transaction": lambda zk: _commit(zk),
    "below a chroot": lambda zk: zk.chroot("/a").get("/"),
    "add_auth": lambda zk: zk.add_auth("digest", b"ann:secret"),
    "lock": lambda zk: zk.lock("/l").acquire(),
    "registration": lambda zk: zk.registration("/r").__aenter__(),
    "partition": lambda zk: zk.partition("/p", [1]).__aenter__(),
    "try a lock": lambda zk: zk.lock("/l").try_acquire(),
    "enter a lock": lambda zk: zk.lock("/l").__aenter__(),
    "is it locked": lambda zk: zk.lock("/l").locked(),
    "who is in line": lambda zk: zk.lock("/l").contenders(),
    "watch": lambda zk: anext(zk.watch("/")),
    "get a value": lambda zk: zk.value("/v").get(),
    "set a value": lambda zk: zk.value("/v").set(b""),
    "set a version of a value": lambda zk: zk.value("/v").set(b"", version=3),
    "watch a value": lambda zk: anext(zk.value("/v").watch()),
    "add": lambda zk: zk.counter("/n").add(),
}


async def _commit(zk: corral.Client) -> None:
    async with zk.transaction() as tx:
        tx.check("/")


async def refused(zk: corral.Client, call: Call) -> corral.UsageStateError:
    """The error of a call at the wrong time or place."""
    async with asyncio.timeout(PATIENCE):
        error = await refusal(zk, call)
    assert isinstance(error, corral.UsageStateError)
    assert isinstance(error, RuntimeError)
    return error


@pytest.mark.parametrize("verb", VERBS)
async def test_not_opened(connect: Connect, verb: str) -> None:
    """A client that was not entered raises an error that says how to enter it; it does not wait for a
    connection that never comes."""
    error = await refused(connect(), VERBS[verb])
    assert "async with corral.connect" in str(error)


@pytest.mark.parametrize("verb", VERBS)
async def test_closed(connect: Connect, proxy: FaultProxy, verb: str) -> None:
    """S5: a closed client raises ClientClosed for every call, and does not connect again."""
    async with connect(proxy.address) as zk:
        pass
    accepted = proxy.accepted
    with pytest.raises(corral.ClientClosed, match="closed"):
        async with asyncio.timeout(PATIENCE):
            await carry_out(VERBS[verb](zk))
    assert proxy.accepted == accepted
    assert proxy.connections == 0


@pytest.mark.parametrize("closed", [False, True])
async def test_opened_twice(connect: Connect, proxy: FaultProxy, closed: bool) -> None:
    """A client can be entered once: entering it again is refused, whether it is open or closed, and does not
    affect it."""
    async with connect(proxy.address) as zk:
        if closed:
            await zk.close()
        error = await refused(zk, lambda zk: zk.__aenter__())
        assert "corral.connect()" in str(error)
        if not closed:
            assert await zk.exists("/") is not None
    assert proxy.accepted == 1


def in_a_thread(work: Callable[[], object]) -> Any:
    """What `work` returns in another thread, or the error that it raises, while this thread waits."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def first_step(result: object) -> None:
    """Run a coroutine up to its first wait, without an event loop."""
    if inspect.iscoroutine(result):
        try:
            result.send(None)
        finally:
            result.close()


def in_no_loop(zk: corral.Client, call: Call) -> None:
    first_step(call(zk))


def in_a_loop(zk: corral.Client, call: Call) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await carry_out(call(zk))

    asyncio.run(main())


ELSEWHERE = {"no loop": in_no_loop, "a loop of its own": in_a_loop}

HELD: dict[str, Callable[[corral.Lock, corral.Held], Coroutine[Any, Any, object]]] = {
    "release": lambda lock, held: held.release(),
    "release by the lock": lambda lock, held: lock.release(),
    "wait_lost": lambda lock, held: held.wait_lost(),
    "transaction": lambda lock, held: _guarded(held),
    "enter": lambda lock, held: held.__aenter__(),
}


async def _guarded(held: corral.Held) -> None:
    async with held.transaction() as tx:
        tx.set("/", b"")


@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("verb", [*VERBS, "close"])
async def test_in_another_thread(connect: Connect, proxy: FaultProxy, place: str, verb: str) -> None:
    """S8: using a client from another thread, with or without an event loop there, raises an error that says
    so. Nothing is sent, and the client continues in its own loop."""
    call: Call = VERBS.get(verb, lambda zk: zk.close())
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        error = in_a_thread(lambda: ELSEWHERE[place](zk, call))
        assert isinstance(error, corral.UsageStateError), repr(error)
        assert "event loop" in str(error)
        assert "another thread" in str(error)
        assert await zk.exists("/") is not None
        assert seen.opcodes == [messages.EXISTS.opcode]


@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("verb", HELD)
async def test_what_is_held_belongs_to_its_loop(
    connect: Connect, proxy: FaultProxy, other: corral.Client, place: str, verb: str
) -> None:
    """S8: the same holds for objects that the client has returned: another thread gets an error, and what is
    held stays held."""
    async with connect(proxy.address) as zk:
        lock = zk.lock("/l")
        held = await lock.acquire()
        async with requests_seen(proxy) as seen:
            error = in_a_thread(lambda: ELSEWHERE[place](zk, lambda zk: HELD[verb](lock, held)))
            assert isinstance(error, corral.UsageStateError), repr(error)
            assert "another thread" in str(error)
            await zk.exists("/")
            assert seen.count(messages.DELETE, messages.SET) == 0
        assert held.is_valid
        assert len(await other.children("/l")) == 1
        await held.release()


@pytest.mark.parametrize("place", ELSEWHERE)
async def test_a_watch_and_states_belong_to_their_loop(connect: Connect, place: str) -> None:
    """S8: iterating a watch or a stream of states in another thread raises an error, also after iteration has
    started."""
    async with connect() as zk, zk.watch("/") as events:
        states = zk.states()
        await anext(events)
        await anext(states)
        for stream in (events, states):
            error = in_a_thread(lambda stream=stream: ELSEWHERE[place](zk, lambda zk: stream.__anext__()))
            assert isinstance(error, corral.UsageStateError), f"{stream}: {error!r}"
            assert "another thread" in str(error)
        await zk.set("/", b"new")
        assert (await anext(events)).data == b"new"


@pytest.mark.parametrize("place", ELSEWHERE)
async def test_after_a_fork(connect: Connect, proxy: FaultProxy, place: str) -> None:
    """S8: in a forked process the client raises an error that says so; the parent's client continues."""
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # "may lead to deadlocks": this child takes no lock
            child = os.fork()
        if child == 0:
            status = 1  # it raised another error
            try:
                for call in VERBS.values():
                    try:
                        ELSEWHERE[place](zk, call)
                    except corral.UsageStateError as error:
                        if "forked process" not in str(error):
                            os._exit(2)
                    else:
                        os._exit(3)
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await zk.exists("/") is not None
        assert seen.opcodes == [messages.EXISTS.opcode]
        assert proxy.accepted == 1


MISUSES: dict[str, tuple[Callable[[corral.Client], Awaitable[object]], str]] = {
    "released without acquire": (lambda zk: zk.lock("/l").release(), "not acquired"),
    "left without entering": (lambda zk: zk.lock("/l").__aexit__(None, None, None), "async with"),
}


@pytest.mark.parametrize("case", MISUSES)
async def test_misuse(connect: Connect, proxy: FaultProxy, case: str) -> None:
    """A call that makes no sense in the current state raises an error that names the lock, and sends
    nothing."""
    call, says = MISUSES[case]
    async with connect(proxy.address) as zk, requests_seen(proxy) as seen:
        error = await refused(zk, call)
        assert "'/l'" in str(error)
        assert says in str(error)
        await zk.exists("/")
        assert seen.opcodes == [messages.EXISTS.opcode]
