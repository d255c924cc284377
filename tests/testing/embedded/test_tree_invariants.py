"""The tree under random writes: its indexes agree, its counters change as they must, and transactions are
atomic."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
from core_support import CONTAINER, EPHEMERAL, OPEN, SEQUENTIAL, TTL, Core, Reply, Wire
from hypothesis import given, settings

from corral.testing.embedded.tree import SPECIAL, Node, Tree
from corral.wire import messages as m
from corral.wire.messages import Operation

NAMES = ["/a", "/a/b", "/a/b/c", "/a/c", "/d", "/d/e", "/nowhere/x", "bad", "/"]
Request = tuple[Operation, tuple[Any, ...]]

paths = st.sampled_from(NAMES)
versions = st.sampled_from([-1, 0, 1])
creates = st.builds(
    lambda path, flags: (m.CREATE2, (path, b"x", OPEN, flags)),
    paths,
    st.sampled_from([0, 0, EPHEMERAL, SEQUENTIAL, EPHEMERAL | SEQUENTIAL]),
)
kinds = st.builds(
    lambda path, has_ttl: (
        (m.CREATE_TTL, (path, b"x", OPEN, TTL, 60_000))
        if has_ttl
        else (m.CREATE_CONTAINER, (path, b"x", OPEN, CONTAINER))
    ),
    paths,
    st.booleans(),
)
others = st.one_of(
    st.builds(lambda path, version: (m.DELETE, (path, version)), paths, versions),
    st.builds(lambda path, version: (m.SET, (path, b"yy", version)), paths, versions),
    st.builds(lambda path, version: (m.CHECK, (path, version)), paths, versions),
)
requests = st.one_of(creates, creates, kinds, others)
acts = st.one_of(
    requests,
    st.lists(requests, max_size=4),
    st.sampled_from(["close", "time"]),
)


def check(tree: Tree, sessions: set[int]) -> None:
    """Invariants of every tree."""
    nodes = {path: node for path, node in tree.nodes.items() if path}
    assert tree.nodes[""] is nodes["/"]
    assert nodes.keys() >= SPECIAL
    for path, node in nodes.items():
        prefix = path.rstrip("/") + "/"
        names = [other[len(prefix) :] for other in nodes if other.startswith(prefix) and other != "/"]
        direct = {name for name in names if "/" not in name}
        assert set(node.children) == direct
        assert tree.count_below(path) == len(names)
        stat = node.stat()
        assert stat.num_children == len(direct)
        assert stat.cversion == 2 * node.creations - len(direct)
        assert node.creations >= len(direct) or path in SPECIAL
        assert stat.pzxid >= max([node.czxid, *(nodes[prefix + name].czxid for name in direct)])
        assert stat.mzxid >= stat.czxid
        assert stat.data_length == len(node.data or b"")
        assert not (node.ephemeral_owner and direct)
    owners = {path: node.ephemeral_owner for path, node in nodes.items() if node.ephemeral_owner}
    indexed = {path: owner for owner, paths in tree.ephemerals.items() for path in paths}
    assert indexed == owners
    assert tree.ephemeral_count() == len(owners)
    assert set(tree.ephemerals) <= sessions
    assert set(tree.containers) == {path for path, node in nodes.items() if node.is_container}
    assert set(tree.ttls) == {path for path, node in nodes.items() if node.ttl}


def dump(tree: Tree) -> dict[str, Any]:
    """The whole content of the tree."""
    return {
        path: (node.data, node.acl.entries, node.stat(), set(node.children))
        for path, node in tree.nodes.items()
    }


def error(wire: Wire, request: Request) -> int | None:
    """The error code of one request; None for a check that succeeds, which is not answered."""
    replies = wire.ask(request[0], *request[1])
    if not replies:
        return None
    (reply,) = replies
    assert isinstance(reply, Reply)
    return reply.error


def one_by_one(core: Core, wire: Wire, operations: list[Request]) -> int | None:
    """The index of the first operation that is refused, if they are sent as single requests."""
    return next((at for at, request in enumerate(operations) if error(wire, request)), None)


@settings(max_examples=150, deadline=None)
@given(st.lists(acts, min_size=10, max_size=40))
def test_whatever_is_written(script: list[Any]) -> None:
    """Random single writes and transactions, sessions that end, and time that passes."""
    core = Core()
    wire = core.client(timeout=10)
    for act in script:
        before = dump(core.zk.tree)
        zxid = core.zk.zxid
        if act == "close":
            wire.ask(m.CLOSE)
            wire = core.client(timeout=10)
            assert core.zk.tree.ephemeral_count() == 0
        elif act == "time":
            core.pass_time(1.0)
        elif isinstance(act, list):
            twin = copy.deepcopy(core)
            single = twin.client(timeout=10)
            expected = one_by_one(twin, single, act)
            results = wire.multi(*act)
            assert core.zk.zxid == zxid + 1
            if expected is None:
                assert not any(result.error for result in results)
                alike = dump(twin.zk.tree)
                assert dump(core.zk.tree).keys() == alike.keys()
                for path, (data, acl, stat, children) in dump(core.zk.tree).items():
                    as_one = alike[path]
                    assert (data, acl, children) == (as_one[0], as_one[1], as_one[3])
                    assert (stat.version, stat.cversion) == (as_one[2].version, as_one[2].cversion)
            else:
                errors = [result.error for result in results]
                assert errors[:expected] == [0] * expected
                assert errors[expected] < -2
                assert errors[expected + 1 :] == [-2] * (len(act) - expected - 1)
                assert dump(core.zk.tree) == before
        else:
            failed = error(wire, act)
            assert core.zk.zxid == zxid + 1
            if failed or act[0] is m.CHECK:
                assert dump(core.zk.tree) == before
        check(core.zk.tree, set(core.zk.sessions.ids()))


def test_the_fresh_tree() -> None:
    """A fresh tree is that of a standalone server before the first write."""
    tree = Tree()
    check(tree, set())
    assert {path: (node.stat().cversion, node.stat().num_children) for path, node in tree.nodes.items()} == {
        "": (-1, 1),
        "/": (-1, 1),
        "/zookeeper": (-2, 2),
        "/zookeeper/quota": (0, 0),
        "/zookeeper/config": (0, 0),
    }
    assert all(node.czxid == node.ctime == node.pzxid == node.version == 0 for node in tree.nodes.values())


def counter_at(core: Core, path: str, creations: int) -> Node:
    """A node whose counter of created children is set to a value."""
    node = core.zk.tree.nodes[path]
    node.creations = creations
    return node


def test_the_counter_stops_at_its_end() -> None:
    """At its end the counter repeats the last number. While a node with that name exists, no other can be
    created."""
    core = Core()
    wire = core.client()
    wire.create("/a")
    node = counter_at(core, "/a", 2**31 - 2)
    assert wire.create("/a/x-", flags=SEQUENTIAL) == "/a/x-2147483646"
    assert wire.create("/a/x-", flags=SEQUENTIAL) == "/a/x-2147483647"
    moved = node.pzxid
    assert wire.refused(m.CREATE, "/a/x-", b"", OPEN, SEQUENTIAL) == -110
    assert wire.create("/a/y-", flags=SEQUENTIAL) == "/a/y-2147483647"
    assert (node.creations, node.pzxid) == (2**31 - 1, moved)
    assert wire.stat("/a").cversion == -5  # 2 * (2^31 - 1) - 3, in 32 bits
    wire.do(m.DELETE, "/a/y-2147483647", -1)
    assert node.pzxid == core.zk.zxid


def test_the_counter_wraps_within_a_transaction() -> None:
    """Within a transaction the server uses the pending state of the parent, whose counter has overflowed."""
    core = Core()
    wire = core.client()
    wire.create("/a")
    counter_at(core, "/a", 2**31 - 1)
    made = wire.multi(*[(m.CREATE, ("/a/x-", b"", OPEN, SEQUENTIAL))] * 2)
    assert [result.value for result in made] == ["/a/x-2147483647", "/a/x--2147483648"]


def test_the_version_wraps() -> None:
    """The versions of data and of the ACL wrap at 32 bits."""
    core = Core()
    wire = core.client()
    wire.create("/a")
    node = core.zk.tree.nodes["/a"]
    node.version = node.aversion = 2**31 - 1
    assert wire.do(m.SET, "/a", b"", 2**31 - 1).version == -(2**31)
    assert wire.do(m.SET_ACL, "/a", OPEN, -1).aversion == -(2**31)
