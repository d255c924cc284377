"""The text of an ensemble's configuration: every one that a server writes is read back, and any other is a clear
error."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corral
from corral import EnsembleConfig, EnsembleMember, QuorumAddress
from corral.members import parse_config

PORTS = st.integers(1, 65535)
NAMES = st.text(string.ascii_letters + string.digits + ".-_", min_size=1, max_size=20)
HOSTS = NAMES | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


CLIENTS = st.none() | st.builds(lambda host, port: f"{bracketed(host)}:{port}", HOSTS, PORTS)
ADDRESSES = st.lists(st.builds(QuorumAddress, HOSTS, PORTS, PORTS), min_size=1, max_size=3).map(tuple)
MEMBERS = st.builds(
    EnsembleMember,
    st.integers(0, (1 << 63) - 1),
    ADDRESSES,
    st.sampled_from(["participant", "observer"]),
    CLIENTS,
    CLIENTS,
)
CONFIGS = st.builds(
    lambda version, members: EnsembleConfig(version, tuple(sorted(members, key=lambda each: each.id))),
    st.integers(0, (1 << 63) - 1),
    st.lists(MEMBERS, min_size=1, max_size=5, unique_by=lambda member: member.id),
)


@settings(max_examples=50)
@given(MEMBERS)
def test_a_member_is_read_back(member: EnsembleMember) -> None:
    """T4: the text of a member is that member."""
    assert EnsembleMember.parse(str(member)) == member
    assert (member.host, member.quorum_port, member.election_port) == member.addresses[0]


@settings(max_examples=50)
@given(CONFIGS)
def test_a_configuration_is_read_back(config: EnsembleConfig) -> None:
    """T4: the text of a configuration is that configuration."""
    assert parse_config(str(config).encode(), 0) == config
    for member in config.members:
        assert config.member(member.id) == member
    assert set(config.hosts()) == {host for member in config.members for host in member.hosts()}


@given(CONFIGS, st.data())
def test_a_broken_configuration_is_an_error(config: EnsembleConfig, data: st.DataObject) -> None:
    """T4: a configuration with some bytes replaced is read, or refused with an error that names the znode; it never
    raises anything else."""
    text = bytearray(str(config).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + 1] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b";", b":", b"|", b"\n", b"="])
        )
        if not text:
            break
    try:
        read = parse_config(bytes(text), 7)
    except corral.InvalidValue as error:
        said = (error.path, error.version, "ensemble configuration" in str(error))
        assert said == ("/zookeeper/config", 7, True)
    else:
        assert parse_config(str(read).encode(), 0) == read or not read.members


@given(st.text())
def test_any_text_is_a_member_or_an_error(text: str) -> None:
    """T4: any text is a member or a `UsageValueError`."""
    try:
        member = EnsembleMember.parse(text)
    except corral.UsageValueError:
        return
    assert EnsembleMember.parse(str(member)) == member


@pytest.mark.parametrize(
    ("text", "member"),
    [
        (
            "server.1=zk1:2888:3888;2181",
            EnsembleMember(1, (QuorumAddress("zk1", 2888, 3888),), "participant", "0.0.0.0:2181"),
        ),
        ("server.2 = zk2:1:2:Observer", EnsembleMember(2, (QuorumAddress("zk2", 1, 2),), "observer")),
        (
            "server.3=a:1:2|b:3:4:observer;c:5",
            EnsembleMember(3, (QuorumAddress("a", 1, 2), QuorumAddress("b", 3, 4)), "observer", "c:5"),
        ),
        (
            "server.4=[::1]:1:2;[::]:3",
            EnsembleMember(4, (QuorumAddress("::1", 1, 2),), client_address="[::]:3"),
        ),
        (
            "server.5=a:1:2:participant;;a:6",
            EnsembleMember(5, (QuorumAddress("a", 1, 2),), secure_client_address="a:6"),
        ),
    ],
)
def test_the_shorter_forms(text: str, member: EnsembleMember) -> None:
    """T4: the forms that a server reads, as operators write them."""
    assert EnsembleMember.parse(text) == member


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"\xff", "decode"),
        (b"server.1=a:1:2;3", "no version"),
        (b"version=1", "no member"),
        (b"server.1=a:1:2\nversion=0x1", "no version"),
        (b"server.1=a:1:2\nversion=1\nversion=2", "second"),
        (b"server.1=a:1:2\nserver.1=b:1:2\nversion=1", "twice"),
        (b"server.1=a:1:2\nnonsense\nversion=1", "no '='"),
        (b"server.x=a:1:2\nversion=1", "server.x"),
        (b"server.1=a:1\nversion=1", "host:port:port"),
        (b"server.1=a:1:2:leader\nversion=1", "role"),
        (b"server.1=a:1:2:observer|b:1:2:participant\nversion=1", "role"),
        (b"server.1=a:0:2\nversion=1", "port 0"),
        (b"server.1=a:1:2;b:70000\nversion=1", "port 70000"),
        (b"server.1=a:1:2;b:c:3\nversion=1", "client address"),
        (b"server.1=a:1:2;1;2;3\nversion=1", "two client addresses"),
        (b"server.1=[x]:1:2\nversion=1", "host:port:port"),
        (b"server.1=[1::2::3]:1:2\nversion=1", "IPv6"),
        (b"server.9999999999999999999=a:1:2\nversion=1", "id"),
    ],
)
def test_what_is_wrong_is_named(text: bytes, problem: str) -> None:
    """T4: the error says what is wrong."""
    with pytest.raises(corral.InvalidValue) as caught:
        parse_config(text, 0)
    assert problem in str(caught.value)


def test_groups_and_weights_are_left_out() -> None:
    """T4: lines that are not about members, such as those of a hierarchical quorum, do not disturb."""
    text = b"server.1=a:1:2:participant\ngroup.1=1\nweight.1=2\nsomething=new\nversion=a"
    assert parse_config(text, 0) == EnsembleConfig(10, (EnsembleMember(1, (QuorumAddress("a", 1, 2),)),))


def test_where_clients_reach_a_member() -> None:
    """S1: a member that accepts clients at all its addresses is reached at those of its quorum."""

    def hosts(text: str, *, secure: bool = False) -> tuple[str, ...]:
        return EnsembleMember.parse(text).hosts(secure=secure)

    assert hosts("server.1=a:1:2") == ()
    assert hosts("server.1=a:1:2;b:3") == ("b:3",)
    assert hosts("server.1=a:1:2|b:1:2;3") == ("a:3", "b:3")
    assert hosts("server.1=[fe80::1]:1:2;[::]:3") == ("[fe80::1]:3",)
    assert hosts("server.1=0.0.0.0:1:2;0.0.0.0:3") == ()
    assert hosts("server.1=a:1:2;b:3", secure=True) == ()
    assert hosts("server.1=a:1:2;b:3;4", secure=True) == ("a:4",)


def test_they_are_frozen() -> None:
    """The records cannot be changed, and can be compared and hashed."""
    member = EnsembleMember.parse("server.1=a:1:2;3")
    with pytest.raises(AttributeError):
        member.id = 2  # type: ignore[misc]
    assert {member} == {EnsembleMember.parse("server.1=a:1:2:participant;0.0.0.0:3")}
    assert EnsembleConfig(1, (member,)).member(2) is None
