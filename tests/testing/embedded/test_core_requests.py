"""Single requests: which error takes precedence, which zxid the answer has, and how a malformed body is
answered."""

from __future__ import annotations

from typing import Any

import pytest
from core_support import (
    CHANGED,
    CLOSED,
    CONTAINER,
    EPHEMERAL,
    OPEN,
    SEQUENTIAL,
    TTL,
    Core,
    Event,
    Reply,
    Wire,
)

from corral import acl
from corral.testing.embedded import acls
from corral.types import Acl, Perm
from corral.wire import messages as m
from corral.wire.messages import MultiResult, Operation

MARSHALLING, UNIMPLEMENTED, BAD_ARGUMENTS = -5, -6, -8
NO_NODE, NO_AUTH, BAD_VERSION, NO_CHILDREN, NODE_EXISTS, NOT_EMPTY = -101, -102, -103, -108, -110, -111
INVALID_ACL, NO_WATCHER, RECONFIG_DISABLED = -114, -121, -123

PRIVATE = [Acl(Perm.ALL, *acls.digest_identity(b"somebody:else"))]


@pytest.fixture(params=["3.8", "3.9"])
def core(request: pytest.FixtureRequest) -> Core:
    """A server, in each version."""
    return Core(version=request.param)


@pytest.fixture
def wire(core: Core) -> Wire:
    """A session, with some nodes."""
    wire = core.client()
    for path, flags, entries in (
        ("/a", 0, OPEN),
        ("/a/b", 0, OPEN),
        ("/ephemeral", EPHEMERAL, OPEN),
        ("/private", 0, PRIVATE),
        ("/readable", 0, list(acl.WORLD_READ)),
    ):
        wire.create(path, flags=flags, acl=entries)
    return wire


BAD_PATHS = [
    "", "a", "/a/", "/a//b", "//a", "/a/.", "/a/..", "/./a", "/a/../b", "/a/\0", "/a/\x01", "/a/\x7f",
    "/a/\x9f", "/a/\ue000", "/a/\uf8ff", "/a/\ufff0", "/a/\U0001f40e",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths(wire: Wire, path: str) -> None:
    """Writes refuse invalid paths. A create checks first whether the parent exists."""
    assert wire.refused(m.SET, path, b"", -1) == BAD_ARGUMENTS
    assert [each.error for each in wire.multi((m.CHECK, (path, -1)))] == [BAD_ARGUMENTS]
    assert wire.refused(m.SET_ACL, path, OPEN, -1) == BAD_ARGUMENTS
    expected = NO_NODE if path in ("/a//b", "/./a", "/a/../b") else BAD_ARGUMENTS
    assert wire.refused(m.CREATE, path, b"", OPEN, 0) == expected


@pytest.mark.parametrize("path", ["/a/...", "/a/.b", "/a/ \u00a0", "/a/\ufeff", "/a/\uffef", "/a/né-節"])
def test_odd_but_good_paths(wire: Wire, path: str) -> None:
    """These paths are valid."""
    assert wire.create(path) == path
    assert path.rpartition("/")[2] in wire.children("/a")


@pytest.mark.parametrize(
    ("path", "flags", "acl", "expected"),
    [
        ("/a", -1, [], BAD_ARGUMENTS),
        ("/a", 7, OPEN, BAD_ARGUMENTS),
        ("/a", TTL, OPEN, BAD_ARGUMENTS),  # this opcode requires a TTL
        ("a", 0, [], BAD_ARGUMENTS),
        ("/nowhere/x", 0, [], INVALID_ACL),
        ("/nowhere/x", 0, OPEN, NO_NODE),
        ("/nowhere/..", 0, OPEN, NO_NODE),
        ("/private/..", 0, OPEN, NO_AUTH),
        ("/readable/x", 0, OPEN, NO_AUTH),
        ("/ephemeral/..", 0, OPEN, BAD_ARGUMENTS),
        ("/ephemeral/x", 0, OPEN, NO_CHILDREN),
        ("/a", 0, OPEN, NODE_EXISTS),
        ("/", 0, OPEN, NODE_EXISTS),
    ],
)
def test_create_is_refused(wire: Wire, path: str, flags: int, acl: list[Acl], expected: int) -> None:
    """A create that is wrong in several ways is refused for the first one in the server's order."""
    assert wire.refused(m.CREATE, path, b"", acl, flags) == expected
    assert wire.refused(m.CREATE2, path, b"", acl, flags) == expected
    assert wire.refused(m.CREATE_CONTAINER, path, b"", acl, flags) == expected


@pytest.mark.parametrize(
    ("path", "version", "expected"),
    [
        ("a", -1, BAD_ARGUMENTS),
        ("/", -1, BAD_ARGUMENTS),
        ("/zookeeper", 7, BAD_ARGUMENTS),
        ("/zookeeper/config", -1, BAD_ARGUMENTS),
        ("/nowhere/x", -1, NO_NODE),
        ("/nowhere", -1, NO_NODE),
        ("/readable/x", -1, NO_AUTH),
        ("/a", 7, BAD_VERSION),
        ("/a", 0, NOT_EMPTY),
    ],
)
def test_delete_is_refused(wire: Wire, path: str, version: int, expected: int) -> None:
    """A delete checks the parent's ACL before the node."""
    assert wire.refused(m.DELETE, path, version) == expected


@pytest.mark.parametrize(
    ("path", "version", "expected"),
    [("/nowhere", 7, NO_NODE), ("/readable", 7, NO_AUTH), ("/a", 7, BAD_VERSION), ("/a", -2, BAD_VERSION)],
)
def test_set_is_refused(wire: Wire, path: str, version: int, expected: int) -> None:
    """Refusals of setting the data and of setting the ACL."""
    assert wire.refused(m.SET, path, b"", version) == expected
    assert wire.refused(m.SET_ACL, path, OPEN, version) == expected
    assert wire.refused(m.SET_ACL, path, [], version) == INVALID_ACL


def test_the_config_can_be_read_only(wire: Wire) -> None:
    """The config node has the ACL with which the server creates it."""
    assert wire.refused(m.SET, "/zookeeper/config", b"", -1) == NO_AUTH
    entries, stat = wire.do(m.GET_ACL, "/zookeeper/config")
    assert (entries, stat.aversion) == (list(acl.WORLD_READ), -1)


def test_reads_are_refused(core: Core, wire: Wire) -> None:
    """Reads need the READ permission, except that before 3.9 `exists` does not."""
    for operation, fields in (
        (m.GET, ("/private", False)),
        (m.CHILDREN, ("/private", False)),
        (m.CHILDREN2, ("/private", False)),
        (m.GET_ACL, ("/private",)),
        (m.COUNT_ALL, ("/private",)),
    ):
        assert wire.refused(operation, *fields) == NO_AUTH
    assert [each.error for each in wire.multi((m.CHECK, ("/private", 0)))] == [NO_AUTH]
    if core.zk.config.version == "3.8":
        assert wire.stat("/private").version == 0
    else:
        assert wire.refused(m.EXISTS, "/private", False) == NO_AUTH


def test_reads_of_nothing(wire: Wire) -> None:
    """Reads do not validate paths: an invalid one does not exist, except that `exists` refuses a null
    character. The empty path is the root's."""
    for operation in (m.GET, m.CHILDREN, m.CHILDREN2, m.EXISTS):
        assert wire.refused(operation, "/a/", False) == NO_NODE
        wire.do(operation, "", False)
    assert wire.refused(m.EXISTS, "/\0", False) == BAD_ARGUMENTS
    assert wire.refused(m.GET_ACL, "nowhere") == NO_NODE
    assert wire.do(m.SYNC, "anything at all") == "anything at all"


# zxids

WRITES: list[tuple[Operation, tuple[Any, ...]]] = [
    (m.CREATE, ("/a", b"", OPEN, 0)),
    (m.CREATE2, ("/a", b"", OPEN, 0)),
    (m.CREATE_CONTAINER, ("/a", b"", OPEN, CONTAINER)),
    (m.CREATE_TTL, ("/a", b"", OPEN, TTL, 1)),
    (m.DELETE, ("/a", -1)),
    (m.SET, ("/nowhere", b"", -1)),
    (m.SET_ACL, ("/a", [], -1)),
    (m.RECONFIG, (None, None, None, -1)),
]


@pytest.mark.parametrize(("operation", "fields"), WRITES)
def test_a_refused_write_takes_a_zxid(
    core: Core, wire: Wire, operation: Operation, fields: tuple[Any, ...]
) -> None:
    """A refused write takes a zxid, and its answer has it."""
    before = core.zk.zxid
    (reply,) = wire.ask(operation, *fields)
    assert isinstance(reply, Reply)
    assert reply.error
    assert (core.zk.zxid, reply.zxid) == (before + 1, before + 1)


READS: list[tuple[Operation, tuple[Any, ...]]] = [
    (m.EXISTS, ("/a", False)),
    (m.GET, ("/nowhere", False)),
    (m.GET_ACL, ("/a",)),
    (m.CHILDREN, ("/a", False)),
    (m.CHILDREN2, ("/a", False)),
    (m.SYNC, ("/a",)),
    (m.WHO_AM_I, ()),
    (m.GET_EPHEMERALS, ("/",)),
    (m.COUNT_ALL, ("/",)),
    (m.ADD_WATCH, ("/a", 0)),
    (m.REMOVE_WATCHES, ("/a", 3)),
    (m.SET_WATCHES, (1 << 40, ["/a"], [], [])),
    (m.SET_WATCHES2, (1 << 40, ["/a"], [], [], [], [])),
    (m.MULTI_READ, ((m.GET, ("/a", False)),)),
]


@pytest.mark.parametrize(("operation", "fields"), READS)
def test_a_read_has_the_last_zxid(
    core: Core, wire: Wire, operation: Operation, fields: tuple[Any, ...]
) -> None:
    """A read takes no zxid, refused or not; its answer has the last one."""
    before = core.zk.zxid
    (reply,) = wire.ask(operation, *fields)
    assert isinstance(reply, Reply)
    assert (core.zk.zxid, reply.zxid) == (before, before)


def test_ping(core: Core, wire: Wire) -> None:
    """The answer to a ping has the xid of pings, whatever xid the ping had."""
    assert wire.ask(m.PING) == [Reply(m.PING_XID, core.zk.zxid, 0)]


@pytest.mark.parametrize(
    "operation",
    [op for op in m.OPERATIONS.values() if op not in (m.AUTH, m.SASL, m.PING, m.CLOSE, m.WHO_AM_I, m.CHECK)],
)
@pytest.mark.parametrize("body", [b"", b"\0\0\0\x09/a", b"\xff\xff\xff\xfe"])
def test_a_body_that_does_not_decode(core: Core, wire: Wire, operation: Operation, body: bytes) -> None:
    """A body that cannot be decoded gets an error, and the session continues. Up to 3.8 a write has taken its
    zxid before that is noticed."""
    before = core.zk.zxid
    assert wire.refused(operation, body=body) == MARSHALLING
    takes = operation.is_write and operation is not m.RECONFIG
    if core.zk.config.version != "3.8":
        takes = operation is m.MULTI
    assert core.zk.zxid == before + takes
    wire.do(m.GET, "/a", False)


@pytest.mark.parametrize("opcode", [0, -1, -10, 10, 23, 99, 108, 1000])
def test_an_unknown_opcode(core: Core, opcode: int) -> None:
    """An unknown opcode gets an answer without a zxid, and the connection is closed; the session stays."""
    wire = core.client()
    wire.feed((1).to_bytes(4) + opcode.to_bytes(4, signed=True) + b"body")
    assert wire.got() == [Reply(1, -1, UNIMPLEMENTED), CLOSED]
    assert wire.link.session_id in core.zk.sessions


def test_the_servers_own_opcode(core: Core, wire: Wire) -> None:
    """A client that sends the server's internal request to delete a container is refused."""
    wire.feed((1).to_bytes(4) + (20).to_bytes(4) + b"/a/b")
    assert wire.got() == [Reply(1, core.zk.zxid, BAD_ARGUMENTS)]


def test_reconfig_is_disabled(wire: Wire) -> None:
    """reconfig is disabled, as it is unless configured."""
    assert wire.refused(m.RECONFIG, "server.1=x", None, None, -1) == RECONFIG_DISABLED


def test_a_bare_check(core: Core, wire: Wire) -> None:
    """A check outside a transaction that succeeds is not answered; 3.9 does not know it (ZOOKEEPER-2623)."""
    if core.zk.config.version == "3.9":
        assert wire.ask(m.CHECK, "/a", 0) == [Reply(wire.xid, -1, UNIMPLEMENTED), CLOSED]
        return
    assert wire.ask(m.CHECK, "/a", 0) == []
    assert wire.refused(m.CHECK, "/a", 7) == BAD_VERSION


# Kinds of nodes


def test_kinds(core: Core, wire: Wire) -> None:
    """The opcode, not the flags, makes a node a container; other flags are still used."""
    wire.do(m.CREATE_CONTAINER, "/c0", b"", OPEN, 0)
    assert wire.do(m.CREATE_CONTAINER, "/c1", b"", OPEN, EPHEMERAL)[1].ephemeral_owner == 0
    wire.do(m.CREATE_CONTAINER, "/c2-", b"", OPEN, SEQUENTIAL)
    wire.create("/plain", flags=CONTAINER)
    path, stat = wire.do(m.CREATE_TTL, "/t-", b"", OPEN, TTL + 1, 1000)
    assert (path, stat.ephemeral_owner) == ("/t-0000000008", 0)
    assert set(core.zk.tree.containers) == {"/c0", "/c1", "/c2-0000000006"}
    assert set(core.zk.tree.ttls) == {path}


@pytest.mark.parametrize(
    ("flags", "ttl"), [(TTL, 0), (TTL, -1), (TTL, 1 << 40), (0, 1000), (EPHEMERAL, 1000), (CONTAINER, -1)]
)
def test_ttl_and_flags_must_agree(wire: Wire, flags: int, ttl: int) -> None:
    """A create needs a TTL between a millisecond and about 34 years if its flags say TTL, and none
    otherwise."""
    assert wire.refused(m.CREATE_TTL, "/t", b"", OPEN, flags, ttl) == BAD_ARGUMENTS


def test_without_extended_types() -> None:
    """Without extended types no node can have a TTL."""
    wire = Core(extended_types=False).client()
    assert wire.refused(m.CREATE_TTL, "/t", b"", OPEN, TTL, 1000) == UNIMPLEMENTED
    wire.do(m.CREATE_CONTAINER, "/c", b"", OPEN, CONTAINER)


def test_null_data(wire: Wire) -> None:
    """Null data is stored and sent as null, not as empty data, although clients read it as empty."""
    wire.do(m.CREATE, "/null", None, OPEN, 0)
    wire.feed((99).to_bytes(4) + (4).to_bytes(4) + m.encode_get("/null", False))
    (frame,) = wire.take()
    assert isinstance(frame, bytes)
    assert frame[16:20] == b"\xff\xff\xff\xff"
    assert wire.stat("/null").data_length == 0


def test_the_acl_of_a_node(core: Core) -> None:
    """A client that may not change the ACL sees no password hashes; one that may neither read nor change the
    node does not see the ACL."""
    owner, other = core.client(), core.client()
    owner.ask(m.AUTH, 0, "digest", b"me:secret")
    owner.create("/a", acl=[*acl.creator(), *acl.world(Perm.READ)])
    owner.create("/b", acl=[*acl.creator()])
    (mine,) = acl.digest("me", "secret")
    assert owner.do(m.GET_ACL, "/a")[0] == [mine, *acl.world(Perm.READ)]
    assert other.do(m.GET_ACL, "/a")[0] == [Acl(Perm.ALL, "digest", "me:x"), *acl.world(Perm.READ)]
    assert other.refused(m.GET_ACL, "/b") == NO_AUTH
    assert owner.do(m.SET_ACL, "/b", [*OPEN, *OPEN], 0).aversion == 1
    assert other.do(m.GET_ACL, "/b")[0] == OPEN


def test_ephemerals_of_a_session(core: Core, wire: Wire) -> None:
    """A session gets its own ephemerals below a prefix, which need not be a path."""
    core.client().create("/others", flags=EPHEMERAL)
    for name in ("/a/x1", "/a/x2", "/a/y"):
        wire.create(name, flags=EPHEMERAL)
    assert sorted(wire.do(m.GET_EPHEMERALS, "/a/x")) == ["/a/x1", "/a/x2"]
    for everything in ("/", "", " "):
        assert sorted(wire.do(m.GET_EPHEMERALS, everything)) == ["/a/x1", "/a/x2", "/a/y", "/ephemeral"]


def test_counting(wire: Wire) -> None:
    """countAll counts the whole subtree below a path."""
    assert wire.do(m.COUNT_ALL, "/") == 8
    assert wire.do(m.COUNT_ALL, "/a") == 1
    assert wire.do(m.COUNT_ALL, "/a/b") == 0


# Transactions


def refused(code: int) -> MultiResult:
    """The result of an operation that was not applied."""
    return MultiResult(m.ERROR_OPCODE, code, None)


def test_a_refused_transaction(core: Core, wire: Wire) -> None:
    """In a refused transaction the operations before the refused one have no error, and those after it
    "runtime inconsistency". No event is sent."""
    watcher = core.client()
    watcher.do(m.ADD_WATCH, "/", 1)
    assert wire.multi(
        (m.CREATE, ("/new", b"", OPEN, 0)),
        (m.SET, ("/new", b"x", 1)),
        (m.DELETE, ("/new", -1)),
    ) == [refused(0), refused(BAD_VERSION), refused(-2)]
    assert watcher.got() == []


def test_a_transaction_sees_itself(wire: Wire) -> None:
    """Each operation sees the effects of those before it."""
    results = wire.multi(
        (m.CREATE, ("/new", b"", OPEN, 0)),
        (m.CREATE, ("/new/e", b"", OPEN, EPHEMERAL)),
        (m.SET, ("/new", b"x", 0)),
        (m.CHECK, ("/new", 1)),
        (m.DELETE, ("/new/e", 0)),
        (m.DELETE, ("/new", 1)),
        (m.CREATE, ("/new", b"again", OPEN, 0)),
    )
    assert [result.error for result in results] == [0] * 7
    assert wire.stat("/new").cversion == 0
    assert wire.multi(
        (m.CREATE, ("/new/e", b"", OPEN, EPHEMERAL)), (m.CREATE, ("/new/e/x", b"", OPEN, 0))
    ) == [refused(0), refused(NO_CHILDREN)]


def test_its_events_come_before_its_answer(wire: Wire) -> None:
    """Events of a transaction come before its answer, in the order of its operations."""
    wire.do(m.ADD_WATCH, "/a", 1)
    got = wire.ask(m.MULTI, (m.SET, ("/a/b", b"", -1)), (m.SET, ("/a", b"", -1)))
    assert got[:2] == [Event(CHANGED, "/a/b"), Event(CHANGED, "/a")]
    assert isinstance(got[2], Reply)


def test_opcodes_of_results(core: Core, wire: Wire) -> None:
    """In a transaction the flags decide which kind of node a create makes; before 3.9 a create2 has the
    result of a create (ZOOKEEPER-4026)."""
    results = wire.multi(
        (m.CREATE, ("/n1", b"", OPEN, CONTAINER)),
        (m.CREATE2, ("/n2", b"", OPEN, 0)),
        (m.CREATE_CONTAINER, ("/n3", b"", OPEN, 0)),
        (m.CREATE_TTL, ("/n4", b"", OPEN, TTL, 1000)),
        (m.CREATE_TTL, ("/n5", b"", OPEN, 0, -1)),
    )
    is_old = core.zk.config.version == "3.8"
    assert [result.opcode for result in results] == ([15, 1, 1, 15, 1] if is_old else [15, 15, 15, 15, 1])
    assert set(core.zk.tree.containers) == ({"/n1"} if is_old else {"/n1", "/n3"})
    assert set(core.zk.tree.ttls) == {"/n4"}


def test_transactions_that_make_no_sense(core: Core, wire: Wire) -> None:
    """A transaction with reads in it, or with flags that the version does not allow there, is refused as a
    whole."""
    before = set(core.zk.tree.nodes)
    write = (m.CREATE, ("/new", b"", OPEN, 0))
    assert wire.refused(m.MULTI, write, (m.GET, ("/a", False))) == MARSHALLING
    odd = TTL if core.zk.config.version == "3.8" else 9
    assert wire.refused(m.MULTI, write, (m.CREATE, ("/odd", b"", OPEN, odd))) == MARSHALLING
    assert set(core.zk.tree.nodes) == before


def test_multi_read(wire: Wire) -> None:
    """Each read of a multi-read has its own result, and sets no watch."""
    (reply,) = wire.ask(
        m.MULTI_READ,
        (m.GET, ("/a", True)),
        (m.CHILDREN, ("/a", True)),
        (m.GET, ("/private", False)),
        (m.CHILDREN, ("/nowhere", False)),
    )
    assert isinstance(reply, Reply)
    data, *others = reply.value
    assert data.value[0] == b""
    assert others == [MultiResult(8, 0, ["b"]), refused(NO_AUTH), refused(NO_NODE)]
    assert len(wire.ask(m.SET, "/a", b"", -1)) == 1


def test_multi_read_of_a_write(wire: Wire) -> None:
    """A multi-read with a write in it gets an error, followed by the part of the answer that was already
    made."""
    body = m.encode_multi([(m.CHECK, m.CHECK.request.encode("/a", 0))])
    wire.feed((1).to_bytes(4) + (22).to_bytes(4) + body)
    (frame,) = wire.take()
    assert isinstance(frame, bytes)
    assert frame[12:] == bytes.fromhex("fffffffb ffffffff01ffffffff")
    assert wire.refused(m.MULTI_READ, (m.SET, ("/a", b"", -1))) == MARSHALLING
    assert wire.stat("/a").version == 0


def test_watches_that_are_not_there(wire: Wire) -> None:
    """Checking or removing a watch that does not exist is refused; unknown modes and types cannot be
    decoded."""
    assert wire.refused(m.CHECK_WATCHES, "/a", 3) == NO_WATCHER
    assert wire.refused(m.REMOVE_WATCHES, "/a", 3) == NO_WATCHER
    assert wire.refused(m.REMOVE_WATCHES, "/a", 9) == MARSHALLING
    assert wire.refused(m.ADD_WATCH, "/a", 2) == MARSHALLING


LACKED: dict[str, list[tuple[Operation, tuple[Any, ...]]]] = {
    "3.5": [
        (m.CREATE2, ("/x", b"", OPEN, 0)),
        (m.RECONFIG, ("", "", "", -1)),
        (m.CHECK_WATCHES, ("/", 3)),
        (m.REMOVE_WATCHES, ("/", 3)),
        (m.CREATE_CONTAINER, ("/x", b"", OPEN, CONTAINER)),
        (m.CREATE_TTL, ("/x", b"", OPEN, TTL, 1)),
    ],
    "3.6": [
        (m.MULTI_READ, ((m.GET, ("/", False)),)),
        (m.GET_EPHEMERALS, ("/",)),
        (m.COUNT_ALL, ("/",)),
        (m.SET_WATCHES2, (0, [], [], [], [], [])),
        (m.ADD_WATCH, ("/", 0)),
    ],
    "3.8": [(m.WHO_AM_I, ())],
}
"""What the releases before this one do not know."""


@pytest.mark.parametrize("version", ["3.4", "3.5", "3.6", "3.8"])
def test_requests_that_an_old_release_does_not_know(version: str) -> None:
    """Operations that a release does not have are answered as any unknown opcode: with an error, and the
    connection is closed. The session stays."""
    core = Core(version=version)
    for since, requests in LACKED.items():
        for operation, fields in requests:
            wire = core.client()
            answer = wire.ask(operation, *fields)
            if since > version:
                assert answer == [Reply(wire.xid, -1, UNIMPLEMENTED), CLOSED]
                assert wire.link.session_id in core.zk.sessions
            else:
                assert CLOSED not in answer


@pytest.mark.parametrize("version", ["3.6", "3.8"])
def test_events_of_what_one_may_not_read(version: str) -> None:
    """Before the fix of CVE-2024-23944, which 3.6 does not have, events are sent to whoever watches."""
    core = Core(version=version)
    owner, other = core.client(), core.client()
    owner.do(m.CREATE, "/x", b"", OPEN, 0)
    other.do(m.GET, "/x", True)
    owner.do(m.SET_ACL, "/x", [Acl(Perm.WRITE, "world", "anyone")], -1)
    owner.do(m.SET, "/x", b"", -1)
    assert len(other.got()) == (version == "3.6")
