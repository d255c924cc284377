"""Connections and sessions: connecting, moving, expiring, closing; the read-only server; time."""

from __future__ import annotations

import math

import pytest
from core_support import (
    CHILDREN,
    CLOSED,
    CONTAINER,
    CREATED,
    DELETED,
    EPHEMERAL,
    OPEN,
    SEQUENTIAL,
    TTL,
    WALL,
    Core,
    Event,
    Reply,
    Wire,
)

from corral import acl
from corral.types import Perm
from corral.wire import messages as m

AUTH_FAILED, NOT_READ_ONLY, INVALID_ACL = -115, -119, -114
NONE = (0, 0, 0, bytes(16), False)
"""The answer that there is no such session."""


@pytest.fixture
def core() -> Core:
    """A server with ticks of half a second."""
    return Core()


def resumed(core: Core, wire: Wire, **changes: object) -> Wire:
    """A new connection that requests the session of another."""
    assert wire.connected is not None
    fields = {"session_id": wire.connected.session_id, "password": wire.connected.password} | changes
    other = core.wire()
    other.connect(**fields)  # type: ignore[arg-type]
    return other


# Connecting


def test_a_new_session_takes_a_zxid(core: Core) -> None:
    """The creation of a session takes a zxid, and its end takes another."""
    wire = core.client()
    assert core.zk.zxid == 1
    assert wire.ask(m.CLOSE) == [Reply(1, 2, 0), CLOSED]
    assert core.zk.sessions.ids() == []


@pytest.mark.parametrize(("asked", "given"), [(-1, 1), (0.5, 1), (4, 4), (100, 10)])
def test_time_out(core: Core, asked: float, given: float) -> None:
    """By default the session timeout is between two ticks and twenty."""
    reply = core.wire().connect(timeout=asked)
    assert reply is not None
    assert reply.timeout == given


def test_time_outs_that_were_configured() -> None:
    """Configured limits replace the default ones."""
    core = Core(min_session_timeout=3, max_session_timeout=5)
    replies = [core.wire().connect(timeout=asked) for asked in (1, 9)]
    assert [reply.timeout for reply in replies if reply is not None] == [3, 5]


def test_a_client_that_has_seen_more(core: Core) -> None:
    """A client that has seen a newer zxid is rejected: its connection is closed without an answer."""
    assert core.wire().connect(zxid=1) is None
    core.client()
    assert core.wire().connect(zxid=1) is not None
    assert core.wire().connect(zxid=-5) is not None


def test_a_client_before_3_4(core: Core) -> None:
    """The connect request of a client before 3.4 has no read-only flag, and its answer has none either."""
    for cut, size in ((0, 37), (1, 36)):
        request = m.encode_connect(0, 4.0, 0, bytes(16))
        wire = core.wire()
        wire.feed(request[: len(request) - cut])
        (frame,) = wire.take()
        assert len(frame) == size


@pytest.mark.parametrize(
    "frame", [b"", b"abc", bytes(27), bytes(24) + b"\xff\xff\xff\xfe", bytes(24) + b"\0\0\0\1"]
)
def test_nonsense_for_a_connect_request(core: Core, frame: bytes) -> None:
    """An invalid connect request closes the connection."""
    wire = core.wire()
    wire.feed(frame)
    assert wire.got() == [CLOSED]
    assert core.zk.connections == {}


@pytest.mark.parametrize("frame", [b"", bytes(7)])
def test_a_frame_without_a_header(core: Core, frame: bytes) -> None:
    """A frame without a header closes the connection; the session stays."""
    wire = core.client()
    wire.feed(frame)
    assert wire.got() == [CLOSED]
    assert len(core.zk.sessions) == 1


def test_a_second_connect_request(core: Core) -> None:
    """A second connect request is read as a request with an unknown opcode."""
    wire = core.client()
    wire.feed(m.encode_connect(0, 4.0, 0, bytes(16)))
    assert wire.got() == [Reply(0, -1, -6), CLOSED]


def test_frames_over_the_limit(core: Core) -> None:
    """A frame over the limit closes the connection."""
    wire = core.client()
    wire.feed(bytes(core.zk.config.jute_maxbuffer + 1))
    assert wire.got() == [CLOSED]


def test_nothing_is_heard_after_a_close(core: Core) -> None:
    """Requests after a close are dropped, and reporting the loss of the connection afterwards has no
    effect."""
    wire = core.client()
    wire.ask(m.CLOSE)
    assert wire.ask(m.CREATE, "/a", b"", OPEN, 0) == []
    wire.link.lost(core.now)
    assert core.zk.zxid == 2


# Moving


def test_a_session_moves(core: Core) -> None:
    """When a session moves, its previous connection is closed, its watches are removed, and its ephemerals
    stay."""
    wire = core.client()
    wire.create("/e", flags=EPHEMERAL)
    wire.do(m.GET, "/e", True)
    other = resumed(core, wire)
    assert wire.got() == [CLOSED]
    assert other.connected == wire.connected
    assert core.zk.zxid == 2
    assert core.zk.watches.count() == 0
    assert other.stat("/e").ephemeral_owner == other.link.session_id
    assert [reply for reply in other.ask(m.SET, "/e", b"", -1) if isinstance(reply, Event)] == []


def test_a_session_whose_connection_was_lost(core: Core) -> None:
    """A session whose connection was lost can be resumed, and may get another timeout."""
    wire = core.client(timeout=4)
    wire.link.lost(core.now)
    other = resumed(core, wire, timeout=2.0)
    assert other.connected is not None
    assert other.connected.timeout == 2
    core.pass_time(2.5)
    assert len(core.zk.sessions) == 0


def test_the_wrong_password(core: Core) -> None:
    """A wrong password is refused. The connection that has the session is closed before the password is
    checked."""
    wire = core.client()
    other = resumed(core, wire, password=b"x" * 16)
    assert other.connected == NONE
    assert other.got() == [CLOSED]
    assert wire.got() == [CLOSED]
    assert wire.link.session_id in core.zk.sessions
    assert resumed(core, wire).connected == wire.connected


def test_no_such_session(core: Core) -> None:
    """A session that never existed, or has ended, cannot be resumed."""
    wire = core.client()
    wire.ask(m.CLOSE)
    for other in (resumed(core, wire), resumed(core, wire, session_id=0x1234)):
        assert other.connected == NONE
        assert other.got() == [CLOSED]


# The end


def test_ephemerals_go_with_their_session(core: Core) -> None:
    """When a session ends, its ephemerals are deleted one by one, in the order in which they are listed. Its
    own watches send their events before the answer to the close."""
    wire, watcher = core.client(), core.client()
    wire.create("/a")
    for _ in range(20):
        wire.create("/a/e-", flags=EPHEMERAL | SEQUENTIAL)
    watcher.create("/a/other", flags=EPHEMERAL)
    paths = wire.do(m.GET_EPHEMERALS, "/")
    wire.do(m.CHILDREN, "/a", True)
    watcher.do(m.ADD_WATCH, "/a", 1)
    assert wire.ask(m.CLOSE) == [Event(CHILDREN, "/a"), Reply(wire.xid, core.zk.zxid, 0), CLOSED]
    assert watcher.got() == [Event(DELETED, path) for path in paths]
    stat = watcher.stat("/a")
    assert (stat.num_children, stat.pzxid) == (1, core.zk.zxid)
    assert wire.link.session_id not in core.zk.tree.ephemerals


def test_expiry(core: Core) -> None:
    """A session expires at the end of the tick in which its timeout has passed; its connection is closed
    without a message."""
    wire, watcher = core.client(timeout=1), core.client(timeout=10)
    wire.create("/e", flags=EPHEMERAL)
    wire.do(m.EXISTS, "/e", True)
    watcher.do(m.EXISTS, "/e", True)
    assert core.zk.deadline() == core.now + 1.5
    core.pass_time(1.499)
    assert watcher.got() == []
    core.pass_time(0.001)
    assert watcher.got() == [Event(DELETED, "/e")]
    assert wire.got() == [CLOSED]
    assert core.zk.sessions.ids() == [watcher.link.session_id]


def test_requests_keep_a_session(core: Core) -> None:
    """Any request keeps the session alive, except for adding credentials."""
    wire, other = core.client(timeout=1), core.client(timeout=1)
    for _ in range(10):
        core.now += 0.9
        wire.do(m.PING)
        other.ask(m.AUTH, 0, "ip", b"")
    assert core.zk.sessions.ids() == [wire.link.session_id]


def test_what_is_due_comes_first(core: Core) -> None:
    """A request after the deadline finds the session expired, even if no tick came before it."""
    wire, other = core.client(timeout=1), core.client(timeout=10)
    wire.create("/e", flags=EPHEMERAL)
    core.now += 1.5
    assert other.refused(m.EXISTS, "/e", False) == -101
    assert wire.got() == [CLOSED]


def test_expiring_on_demand(core: Core) -> None:
    """A test can expire a session."""
    wire = core.client()
    assert core.zk.expire(wire.link.session_id, core.now)
    assert wire.got() == [CLOSED]
    assert not core.zk.expire(wire.link.session_id, core.now)


def test_restart(core: Core) -> None:
    """A restart keeps data and sessions, but no connections; no session expires during it."""
    wire = core.client(timeout=1)
    wire.create("/e", b"data", flags=EPHEMERAL)
    core.now += 1000
    core.zk.restart(core.now)
    assert wire.got() == [CLOSED]
    core.pass_time(1.0)
    other = resumed(core, wire)
    assert other.do(m.GET, "/e", False)[0] == b"data"
    core.pass_time(4.5)
    assert len(core.zk.sessions) == 0


# Time


def test_times_of_nodes(core: Core) -> None:
    """Nodes have the time of the wall clock, which advances with the monotonic one."""
    wire = core.client()
    core.now += 1.25
    wire.create("/a")
    core.now += 1.25
    stat = wire.do(m.SET, "/a", b"", -1)
    assert (stat.ctime, stat.mtime) == (WALL + 1.25, WALL + 2.5)


def test_containers(core: Core) -> None:
    """A container that had children is deleted once it has none, in a transaction of its own. One that never
    had any stays."""
    wire = core.client(timeout=10)
    for path in ("/unused", "/used", "/full"):
        wire.do(m.CREATE_CONTAINER, path, b"", OPEN, CONTAINER)
    for path in ("/used/x", "/full/x"):
        wire.create(path)
    wire.do(m.ADD_WATCH, "/used", 1)
    wire.ask(m.DELETE, "/used/x", -1)
    zxid = core.zk.zxid
    assert core.zk.deadline() == core.now + 0.5
    core.pass_time(0.5)
    assert wire.got() == [Event(DELETED, "/used")]
    assert core.zk.zxid == zxid + 1
    assert sorted(wire.children("/")) == ["full", "unused", "zookeeper"]


def test_time_to_live(core: Core) -> None:
    """The TTL counts from the last change of the data, and a node with children stays."""
    wire = core.client(timeout=10)
    for path in ("/set", "/left", "/parent"):
        wire.do(m.CREATE_TTL, path, b"", OPEN, TTL, 1200)
    wire.create("/parent/x")
    core.pass_time(1.0)
    wire.do(m.SET, "/set", b"", -1)
    core.pass_time(0.5)
    assert sorted(wire.children("/")) == ["parent", "set", "zookeeper"]
    wire.do(m.DELETE, "/parent/x", -1)
    core.pass_time(1.0)
    assert sorted(wire.children("/")) == ["zookeeper"]


def test_deadline(core: Core) -> None:
    """A server without sessions has no deadline. A tick at the time that `deadline` returned always handles
    what was due."""
    assert core.zk.deadline() == math.inf
    odd = Core(tick_time=0.033, container_check_interval=0.007)
    odd.now = 1234.56789
    for timeout in (0.1, 0.2, 0.3):
        odd.client(timeout=timeout)
    looks = 0
    while (deadline := odd.zk.deadline()) != math.inf:
        odd.zk.tick(deadline)
        assert odd.zk.deadline() > deadline
        looks += 1
    assert looks == 3


# Identities


def test_authentication(core: Core) -> None:
    """The answer to a credential has no zxid. A client without credentials cannot use "creator" ACLs; with
    one, it can."""
    wire = core.client(host="10.0.0.1")
    assert wire.do(m.WHO_AM_I) == [("ip", "10.0.0.1")]
    assert wire.refused(m.CREATE, "/a", b"", [*acl.creator()], 0) == INVALID_ACL
    assert wire.ask(m.AUTH, 0, "digest", b"me:secret") == [Reply(wire.xid, 0, 0)]
    assert sorted(wire.do(m.WHO_AM_I)) == [("digest", "me"), ("ip", "10.0.0.1")]
    wire.create("/a", acl=[*acl.creator()])
    assert wire.do(m.GET_ACL, "/a")[0] == [*acl.digest("me", "secret")]


@pytest.mark.parametrize(
    ("scheme", "secret"), [("nonsense", b""), ("world", b""), ("sasl", b""), ("digest", None)]
)
def test_authentication_fails(core: Core, scheme: str, secret: bytes | None) -> None:
    """A refused credential closes the connection."""
    wire = core.client()
    assert wire.ask(m.AUTH, 0, scheme, secret) == [Reply(1, 0, AUTH_FAILED), CLOSED]
    assert len(core.zk.sessions) == 1


def test_sasl_without_a_configuration(core: Core) -> None:
    """Without a SASL configuration there is no challenge, and the session continues."""
    wire = core.client()
    assert wire.ask(m.SASL, b"token") == [Reply(1, 0, 0, None)]
    wire.do(m.PING)


def test_credentials_that_do_not_decode(core: Core) -> None:
    """A credential that cannot be decoded closes the connection without an answer."""
    for operation in (m.AUTH, m.SASL):
        assert core.client().ask(operation, body=b"\0\0") == [CLOSED]


def test_events_are_for_those_who_may_read(core: Core) -> None:
    """Events are sent only to clients that may read the node (CVE-2024-23944): the ACL of the node that the
    event names counts. The watch is used up either way."""
    owner, other = core.client(), core.client()
    owner.ask(m.AUTH, 0, "digest", b"me:secret")
    owner.create("/a")
    other.do(m.CHILDREN, "/a", True)
    other.ask(m.EXISTS, "/a/x", True)
    owner.create("/a/x", acl=[*acl.creator()])
    assert other.got() == [Event(CHILDREN, "/a")]
    owner.do(m.SET_ACL, "/a/x", OPEN, -1)
    owner.do(m.SET, "/a/x", b"", -1)
    assert other.got() == []


def test_the_header_of_events() -> None:
    """From 3.9 on the header of an event has the zxid of the change."""
    for version, expected in (("3.8", -1), ("3.9", 2)):
        core = Core(version=version)
        wire = core.client()
        wire.ask(m.EXISTS, "/a", True)
        wire.feed((9).to_bytes(4) + (1).to_bytes(4) + m.encode_create("/a", b"", tuple(OPEN), 0))
        event, _ = wire.take()
        assert isinstance(event, bytes)
        assert event[:16] == m.REPLY_HEADER.pack(-1, expected, 0)


def test_events_come_before_answers(core: Core) -> None:
    """The events of a write are sent before its answer, also to the writer itself."""
    wire = core.client()
    wire.ask(m.EXISTS, "/a", True)
    wire.do(m.CHILDREN, "/", True)
    got = wire.ask(m.CREATE, "/a", b"", OPEN, 0)
    assert got == [Event(CREATED, "/a"), Event(CHILDREN, "/"), Reply(wire.xid, core.zk.zxid, 0, "/a")]


# Read-only


@pytest.fixture
def lonely() -> Core:
    """A server that has lost its quorum."""
    core = Core()
    writer = core.client(timeout=10)
    writer.create("/a", b"data")
    core.zk.read_only = True
    return core


def test_only_for_those_who_say_so(lonely: Core) -> None:
    """Clients that do not accept a read-only server are rejected."""
    assert lonely.wire().connect() is None
    wire = lonely.wire()
    reply = wire.connect(read_only=True)
    assert reply is not None
    assert reply.read_only
    assert wire.do(m.GET, "/a", False)[0] == b"data"


def test_nothing_is_written(lonely: Core) -> None:
    """Every write is refused, and neither creating nor closing a session takes a zxid."""
    zxid = lonely.zk.zxid
    wire = lonely.client(read_only=True)
    for operation, fields in (
        (m.CREATE, ("/b", b"", OPEN, 0)),
        (m.SET, ("/a", b"", -1)),
        (m.DELETE, ("/nowhere", -1)),
        (m.SET_ACL, ("/a", OPEN, -1)),
        (m.CHECK, ("/a", 0)),  # only a 3.8 knows it outside a transaction
        (m.SYNC, ("/a",)),
        (m.MULTI, ()),
        (m.RECONFIG, (None, None, None, -1)),
    ):
        assert wire.refused(operation, *fields) == NOT_READ_ONLY
    assert wire.ask(m.CLOSE) == [Reply(wire.xid, zxid, 0), CLOSED]
    assert lonely.zk.zxid == zxid


def test_a_session_of_the_ensemble(lonely: Core) -> None:
    """A session of the ensemble is neither resumed nor closed by a read-only server."""
    (session_id,) = lonely.zk.sessions.ids()
    password = lonely.zk.sessions.password(session_id)
    assert lonely.wire().connect(session_id=session_id, password=password, read_only=True) is None
    link = next(iter(lonely.zk.connections))
    link.received(lonely.now, (1).to_bytes(4) + m.CLOSE.opcode.to_bytes(4, signed=True))
    assert lonely.zk.sessions.ids() == [session_id]


def test_a_local_session_moves(lonely: Core) -> None:
    """A session that a read-only server created moves like any other."""
    wire = lonely.client(read_only=True)
    other = resumed(lonely, wire, read_only=True)
    assert other.connected == wire.connected
    lonely.pass_time(4.5)
    assert wire.link.session_id not in lonely.zk.sessions
    assert lonely.zk.zxid == 2


def test_perms_are_those_that_exist(core: Core) -> None:
    """All five permission bits of an ACL are stored."""
    wire = core.client()
    wire.create("/a", acl=[*acl.world(Perm.ALL)])
    assert wire.do(m.GET_ACL, "/a")[0] == [*acl.world(Perm.ALL)]
