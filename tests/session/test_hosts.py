"""The servers' addresses: the connect string, the order in which they are tried, and the delays between
attempts."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from corral import errors
from corral.session.hosts import Address, Backoff, Hosts, Resolver, parse
from support import PATIENCE, until

A, B, C = Address("10.0.0.1", 2181), Address("10.0.0.2", 2181), Address("10.0.0.3", 2182)


@pytest.mark.parametrize(
    ("hosts", "servers", "chroot"),
    [
        ("zk1", [("zk1", 2181)], ""),
        ("zk1:99", [("zk1", 99)], ""),
        ("zk1,zk2:65535", [("zk1", 2181), ("zk2", 65535)], ""),
        ("zk1:1/app", [("zk1", 1)], "/app"),
        ("zk1,zk2/app/deep", [("zk1", 2181), ("zk2", 2181)], "/app/deep"),
        ("zk1/", [("zk1", 2181)], ""),
        (" zk1:1 , zk2:2 ", [("zk1", 1), ("zk2", 2)], ""),
        ("10.0.0.1:2", [("10.0.0.1", 2)], ""),
        ("[::1]:2", [("::1", 2)], ""),
        ("[fe80::1%eth0]", [("fe80::1%eth0", 2181)], ""),
        ("[fe80::1%eth-0]:2181", [("fe80::1%eth-0", 2181)], ""),
        ("[fe80::1%br_0.1~a-]:7/app", [("fe80::1%br_0.1~a-", 7)], "/app"),
        ("zk1/people@home", [("zk1", 2181)], "/people@home"),
        ("[2001:db8::2],zk/app", [("2001:db8::2", 2181), ("zk", 2181)], "/app"),
        ("my_zk-1.prod.example.com.:7", [("my_zk-1.prod.example.com.", 7)], ""),
        ("zk1:1,zk2:2,zk1:1,zk2,zk2", [("zk1", 1), ("zk2", 2), ("zk2", 2181)], ""),
        (["zk1:1", "zk2"], [("zk1", 1), ("zk2", 2181)], ""),
        (("zk1:1", "zk1:1"), [("zk1", 1)], ""),
    ],
)
def test_connect_strings(hosts: Any, servers: list[tuple[str, int]], chroot: str) -> None:
    """The connect string is ZooKeeper's own: names, numeric addresses, IPv6 in brackets, a default port of
    2181, and one chroot for all at the end. A server that is given twice counts once."""
    assert parse(hosts) == Hosts(tuple(Address(*server) for server in servers), chroot)


@pytest.mark.parametrize(
    ("hosts", "error", "named"),
    [
        ("", errors.UsageValueError, "''"),
        (",", errors.UsageValueError, "''"),
        ("zk1,,zk2", errors.UsageValueError, "''"),
        ("zk1,", errors.UsageValueError, "''"),
        ("/app", errors.UsageValueError, "''"),
        ("zk1:0", errors.UsageValueError, "port 0"),
        ("zk1:65536", errors.UsageValueError, "port 65536"),
        ("zk1:", errors.UsageValueError, "'zk1:' has an empty port"),
        ("zk0,[::1]:", errors.UsageValueError, "'[::1]:' has an empty port"),
        ("zk1:\u0662\u0661", errors.UsageValueError, "is no server"),
        ("zk1:abc", errors.UsageValueError, "'zk1:abc'"),
        ("zk1:-1", errors.UsageValueError, "'zk1:-1'"),
        ("zk1:123456", errors.UsageValueError, "'zk1:123456'"),
        ("a,zk 1", errors.UsageValueError, "'zk 1'"),
        ("zk1;zk2", errors.UsageValueError, "'zk1;zk2'"),
        (
            "::1",
            errors.UsageValueError,
            "'::1' is an IPv6 address without brackets; write host:port as [::1]:2181",
        ),
        ("::1:99", errors.UsageValueError, "[::1]:99"),
        ("2001:db8::5:2181", errors.UsageValueError, "[2001:db8::5]:2181"),
        ("fe80::1%eth0", errors.UsageValueError, "[fe80::1%eth0]:2181"),
        ("[fe80::1%]:1", errors.UsageValueError, "'[fe80::1%]:1'"),
        ("[fe80::1%a/b]:1", errors.UsageValueError, "'[fe80::1%a'"),
        ("[fe80::1%a b]:1", errors.UsageValueError, "'[fe80::1%a b]:1'"),
        ("[::1", errors.UsageValueError, "'[::1'"),
        ("[]:1", errors.UsageValueError, "'[]:1'"),
        ("[::zz]:1", errors.UsageValueError, "'[::zz]:1'"),
        ("[1.2.3.4]:1", errors.UsageValueError, "'[1.2.3.4]:1'"),
        ("zk1://app", errors.UsageValueError, "'zk1://app' is a URL"),
        ("http://zk1", errors.UsageValueError, "'http://zk1' is a URL"),
        ("zk1/app/", errors.UsageValueError, "chroot '/app/'"),
        ("zk1//app", errors.UsageValueError, "chroot '//app'"),
        ("zk1/a/../b", errors.UsageValueError, "chroot '/a/../b'"),
        ("zk1/app,zk2/app", errors.UsageValueError, "once, at the end"),
        (["zk1/app"], errors.UsageValueError, "zk.chroot"),
        (
            [],
            errors.UsageValueError,
            "hosts is an empty list; name at least one server, such as ['zk1:2181']",
        ),
        ((), errors.UsageValueError, "empty list"),
        ([""], errors.UsageValueError, "''"),
        (None, errors.UsageTypeError, "None"),
        (2181, errors.UsageTypeError, "2181"),
        (b"zk1", errors.UsageTypeError, "a value of type bytes"),
        (["zk1", 2], errors.UsageTypeError, "a list that holds a value of type int"),
        ({"zk1"}, errors.UsageTypeError, "a value of type set"),
        ([("zk1", 2181)], errors.UsageTypeError, "a list that holds a value of type tuple"),
    ],
)
def test_bad_connect_strings(hosts: Any, error: type[Exception], named: str) -> None:
    """An invalid connect string is refused, and the error quotes the part that is wrong."""
    with pytest.raises(error) as caught:
        parse(hosts)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "hosts",
    [
        "me:pass@zk1:2181",
        "me:pass@zk1",
        "digest:me:pass@zk1:2181/app",
        "zk1:2181,me:pass@zk2:2181",
        "zookeeper://me:pass@zk1:2181/app",
        "me:pass/word@zk1:2181",
        "pass/word@zk1:2181,zk2",
        "me:pass,word@zk1",
        ["me:pass@zk1"],
        ["zookeeper://me:pass@zk1"],
    ],
)
def test_a_password_is_not_shown(hosts: Any) -> None:
    """A host string with credentials is refused. The error says where they belong, and neither it nor its
    context shows them."""
    with pytest.raises(errors.UsageValueError, match="credentials belong in auth=") as caught:
        parse(hosts)
    assert "pass" not in str(caught.value).replace("password", "")
    assert caught.value.__context__ is None


hostnames = st.from_regex(r"[a-z][a-z0-9-]{0,10}(\.[a-z]{1,5})?", fullmatch=True)
addresses = st.builds(
    Address, hostnames | st.ip_addresses().map(str), st.integers(min_value=1, max_value=65535)
)


@given(st.lists(addresses, min_size=1, unique=True), st.sampled_from(["", "/app", "/a/b"]))
def test_what_is_written_is_read(servers: list[Address], chroot: str) -> None:
    """Parsed hosts, written as a string, parse to the same hosts."""
    hosts = Hosts(tuple(servers), chroot)
    assert parse(str(hosts)) == hosts


# The order


async def test_every_server_in_random_order() -> None:
    """S1: each round tries every server once, and any of them may be the first."""
    resolver = Resolver([A, B, C], random.Random(1))
    rounds = [tuple(await resolver.round(PATIENCE)) for _ in range(200)]
    assert {frozenset(each) for each in rounds} == {frozenset([A, B, C])}
    assert len(set(rounds)) == 6
    assert min(Counter(each[0] for each in rounds).values()) > 30


async def test_who_has_just_failed_us_comes_last() -> None:
    """S1: the server whose connection was lost is tried again only after all others."""
    resolver = Resolver([A, B, C], random.Random(1))
    rounds = [await resolver.round(PATIENCE, last=B) for _ in range(50)]
    assert {each[-1] for each in rounds} == {B}
    assert {each[0] for each in rounds} == {A, C}
    assert B not in (await Resolver([A, C], random.Random(1)).round(PATIENCE, last=B))


class Names:
    """What names resolve to, in place of the operating system's resolver."""

    def __init__(self) -> None:
        self.known: dict[str, list[str] | Exception] = {}
        self.silent = threading.Event()
        """Once set, lookups that hang continue."""
        self.calls: Counter[str] = Counter()

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        self.calls[host] += 1
        found = self.known.get(host, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        if host.startswith("hangs"):
            self.silent.wait(PATIENCE)
        if isinstance(found, Exception):
            raise found
        kind = socket.SOCK_STREAM
        return [
            (socket.AF_INET6, kind, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, kind, 6, "", (each, port))
            for each in found
        ]


@pytest.fixture
def names(real_time: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """What names resolve to in this test."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.silent.set()


async def test_every_address_of_a_name(names: Names) -> None:
    """S1: a name stands for all of its addresses, each with the name's port; an address that two names share
    is tried once."""
    names.known = {"one": ["10.0.0.1", "2001:db8::1"], "two": ["10.0.0.1"]}
    resolver = Resolver([Address("one", 5), Address("two", 5), Address("two", 6)], random.Random(1))
    assert sorted(await resolver.round(PATIENCE)) == [
        Address("10.0.0.1", 5),
        Address("10.0.0.1", 6),
        Address("2001:db8::1", 5),
    ]
    assert resolver.name_of(Address("10.0.0.1", 5)) == "one"
    assert resolver.name_of(Address("10.0.0.1", 6)) == "two"


async def test_names_are_resolved_afresh_each_round(names: Names) -> None:
    """S1: a server that comes back under another address is found (a client that does not resolve again has
    ZOOKEEPER-2184). What its old address answered is no longer reported."""
    resolver = Resolver([Address("zk", 5)], random.Random(1))
    for number in range(3):
        address = Address(f"10.0.0.{number}", 5)
        names.known = {"zk": [address.host]}
        assert await resolver.round(PATIENCE) == [address]
        resolver.failed(address, f"refused {number}")
    assert resolver.describe() == "10.0.0.2:5: refused 2"


@pytest.mark.parametrize(
    "why", [socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), UnicodeError("label too long")]
)
async def test_a_name_that_does_not_resolve_is_left_out(names: Names, why: Exception) -> None:
    """S1: a name that does not resolve does not stop the round. It is left out, and if no server is found the
    error says so. It is tried again once it resolves."""
    names.known = {"bad": why, "good": ["10.0.0.1"]}
    resolver = Resolver([Address("bad", 5), Address("good", 5)], random.Random(1))
    assert await resolver.round(PATIENCE) == [Address("10.0.0.1", 5)]
    assert f"bad:5: name not resolved: {why}" in resolver.describe()
    names.known["bad"] = ["10.0.0.2"]
    assert len(await resolver.round(PATIENCE)) == 2
    assert "not resolved" not in resolver.describe()


async def test_a_name_server_that_is_silent_is_not_waited_for(names: Names) -> None:
    """S1: every lookup has a time limit, and no second lookup is started while it hangs: its late result
    serves later rounds. It does not occupy a thread of the application's executor, and closing does not wait
    for it."""
    names.known = {"hangs": ["10.0.0.2"], "hangs-too": ["10.0.0.3"]}
    servers = [Address("hangs", 5), A, Address("hangs-too", 5)]
    resolver, other = Resolver(servers, random.Random(1)), Resolver(servers, random.Random(1))
    assert await other.round(0.01) == [A]
    for _ in range(5):
        assert await resolver.round(0.01) == [A]
        assert "hangs:5: name not resolved: no answer yet" in resolver.describe()
    assert names.calls == {"hangs": 2, "hangs-too": 2}
    assert asyncio.get_running_loop()._default_executor is None  # type: ignore[attr-defined]
    await other.close()
    names.silent.set()
    await until(lambda: found_by(resolver, 3), "what was found in the end is tried")


async def found_by(resolver: Resolver, count: int) -> bool:
    return len(await resolver.round(PATIENCE)) == count


async def test_what_was_known_of_a_name(names: Names) -> None:
    """S1: while a name temporarily fails to resolve, its previous addresses are tried; if the name no longer
    exists, they are dropped."""
    names.known = {"zk": ["10.0.0.1"]}
    resolver, address = Resolver([Address("zk", 5)], random.Random(1)), Address("10.0.0.1", 5)
    assert await resolver.round(PATIENCE) == [address]
    names.known["zk"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    assert await resolver.round(PATIENCE) == [address]
    del names.known["zk"]
    assert await resolver.round(PATIENCE) == []
    assert "Name or service not known" in resolver.describe()


async def test_nothing_to_try(names: Names) -> None:
    """S1: a round can be empty; the description still names every server."""
    resolver = Resolver([Address("one", 1), Address("two", 2)], random.Random(1))
    assert await resolver.round(PATIENCE) == []
    assert "one:1: name not resolved" in resolver.describe()
    assert "two:2: name not resolved" in resolver.describe()


# The delays between rounds


@given(st.randoms(use_true_random=True))
def test_waits_grow_within_bounds(rng: random.Random) -> None:
    """S1: the first retry is immediate. Then each delay is between half of a bound and the bound, which
    doubles from 50 ms to 2 s. After a good connection the next retry is immediate again."""
    backoff = Backoff(rng)
    for _ in range(2):
        assert backoff.next() == 0
        bounds = [min(0.05 * 2**n, Backoff.LONGEST) for n in range(12)]
        for bound, wait in zip(bounds, [backoff.next() for _ in bounds], strict=True):
            assert bound / 2 <= wait <= bound
        backoff.reset()


def test_an_election_is_waited_for_in_short_steps() -> None:
    """S1: while servers reject us, as they do without a leader, the delays stay short, so that we notice the
    end of an election soon. If it goes on for long, the delays grow, to spare the ensemble."""
    backoff = Backoff(random.Random(7))
    waits = [backoff.next(turned_away=True) for _ in range(Backoff.ELECTION)]
    assert max(waits) <= Backoff.LONGEST_IN_ELECTION
    assert sum(waits) > 1
    later = [backoff.next(turned_away=True) for _ in range(5)]
    assert later[-1] >= Backoff.LONGEST / 2


def test_waits_are_jittered() -> None:
    """S1: clients that lost the same server at the same time reconnect at different times."""
    first, second = Backoff(random.Random(1)), Backoff(random.Random(2))
    waits = [(first.next(), second.next()) for _ in range(20)][1:]
    assert all(one != other for one, other in waits)
    assert all(one[0] != next_[0] for one, next_ in pairwise(waits))


# The members of the ensemble


async def test_members_replace_the_given_servers(names: Names) -> None:
    """S1: the members are tried; those that the user gave only as a fallback, behind them. Without members they are
    used again."""
    names.known = {"one": ["10.0.1.1"], "two": ["10.0.1.2"]}
    one, two = Address("10.0.1.1", 5), Address("10.0.1.2", 5)
    resolver = Resolver([A, B], random.Random(1))
    assert await resolver.use([Address("one", 5), Address("two", 5), A], PATIENCE) == set()
    assert set(await resolver.round(PATIENCE)) == {one, two, A}
    rounds = [await resolver.round(PATIENCE, with_fallback=True) for _ in range(20)]
    assert {frozenset(each[:3]) for each in rounds} == {frozenset([one, two, A])}
    assert {tuple(each[3:]) for each in rounds} == {(B,)}
    assert [resolver.name_of(each) for each in (one, two, A)] == ["one", "two", A.host]
    await resolver.use([], PATIENCE)
    assert set(await resolver.round(PATIENCE)) == {A, B}
    assert set(await resolver.round(PATIENCE, with_fallback=True)) == {A, B}


async def test_which_members_have_left(names: Names) -> None:
    """S1: addresses are compared, not names; what never was a member's has not left, nor has a member whose name does
    not resolve any more."""
    names.known = {
        "one": ["10.0.1.1"],
        "alias": ["10.0.1.1"],
        "two": ["10.0.1.2"],
        "three": ["10.0.1.3", "10.0.1.4"],
    }
    one, two, three = (Address(name, 5) for name in ("one", "two", "three"))
    resolver = Resolver([A], random.Random(1))
    assert await resolver.use([one, two, three], PATIENCE) == set()
    assert await resolver.use([Address("alias", 5), two], PATIENCE) == {
        Address("10.0.1.3", 5),
        Address("10.0.1.4", 5),
    }
    del names.known["two"]
    assert await resolver.use([Address("alias", 5), two], PATIENCE) == set()
    assert await resolver.use([two], PATIENCE) == {Address("10.0.1.1", 5)}


async def test_an_address_has_its_name_until_the_next_round(names: Names) -> None:
    """S1: a member that leaves while it is connected to keeps its name; later it is forgotten."""
    names.known = {"one": ["10.0.1.1"], "two": ["10.0.1.2"]}
    resolver = Resolver([A], random.Random(1))
    await resolver.use([Address("one", 5)], PATIENCE)
    [address] = await resolver.round(PATIENCE)
    await resolver.use([Address("two", 5)], PATIENCE)
    assert resolver.name_of(address) == "one"
    await resolver.round(PATIENCE)
    assert resolver.name_of(address) == address.host


async def test_a_member_whose_name_hangs_delays_nothing(names: Names) -> None:
    """S1: looking up members is bounded; what is found late is tried in later rounds."""
    names.known = {"hangs": ["10.0.1.1"]}
    resolver = Resolver([A], random.Random(1))
    await resolver.use([Address("hangs", 5), B], 0.01)
    assert await resolver.round(0.01) == [B]
    names.silent.set()
    await until(lambda: found_by(resolver, 2), "what was found in the end is tried")
    await resolver.close()
