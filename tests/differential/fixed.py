"""Programs that are worth keeping, by subject.

Some are corner cases that random programs rarely reach. `FOUND` has former disagreements, each with the
shortest program that shows it.
"""

from __future__ import annotations

from program import (
    CONTAINER,
    EPHEMERAL,
    EVER,
    OPEN,
    PERSISTENT,
    RECURSIVE,
    SEQUENTIAL,
    TTL,
    TTL_SEQUENTIAL,
    Program,
    Request,
    Step,
    digest_id,
)

LATIN, CHINESE, HORSE = "\u00e9", "\u7bc0", "\U0001f40e"
ANN = digest_id("ann", "secret")
DATA, EXIST, CHILD = ("~/data",), ("~/exist",), ("~/child",)


def _create(path: str, flags: int = 0) -> Request:
    return ("create", path, b"", OPEN, flags)


def _node(path: str, flags: int = 0, session: int = 0) -> Step:
    return Step(session, *_create(path, flags))


def _each(*requests: Request, session: int = 0) -> list[Step]:
    return [Step(session, *request) for request in requests]


_BAD_PATHS = (
    *(
        "",
        "a",
        "~/",
        "~//a",
        "~/.",
        "~/..",
        "~/./a",
        "~/a/..",
        "~/\0",
        "~/\x01",
        "~/\x1f",
        "~/\x7f",
        "~/\x9f",
    ),
    *("~/\ue000", "~/\uf8ff", "~/\ufff0", "~/\uffff", f"~/{HORSE}", "/", "//"),
)

CORNERS: dict[str, Program] = {
    # Nodes
    "bad paths: create": [_node(path) for path in _BAD_PATHS],
    "bad paths: create, sequential": [_node(path, SEQUENTIAL) for path in _BAD_PATHS if path not in ("", "/")],
    "bad paths: create below": [_node("~/a"), *(_node(f"{path}/a") for path in _BAD_PATHS if path)],
    "bad paths: delete": _each(*(("delete", path, -1) for path in _BAD_PATHS)),
    "bad paths: set": _each(*(("setData", path, b"", -1) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: set acl": _each(*(("setACL", path, OPEN, -1) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: check": _each(*(("multi", ("check", path, -1)) for path in _BAD_PATHS)),
    "bad paths: get": _each(*(("getData", path, True) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: exists": _each(*(("exists", path, True) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: children": _each(*(("getChildren", path, True) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: children2": _each(*(("getChildren2", path, True) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: get acl": _each(*(("getACL", path) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: count": _each(*(("getAllChildrenNumber", path) for path in _BAD_PATHS if path not in ("", "/"))),
    "bad paths: sync": _each(*(("sync", path) for path in _BAD_PATHS)),
    "bad paths: add watch": _each(*(("addWatch", path, mode) for path in _BAD_PATHS for mode in (0, 1, 2))),
    "bad paths: check watches": _each(*(("checkWatches", path, 3) for path in _BAD_PATHS)),
    "bad paths: remove watches": _each(*(("removeWatches", path, 3) for path in _BAD_PATHS)),
    "bad paths: get ephemerals": _each(*(("getEphemerals", path) for path in _BAD_PATHS)),
    "bad paths: set watches": _each(
        *(("setWatches2", 0, (path,), (path,), (path,), (path,), (path,)) for path in _BAD_PATHS)
    ),
    "the server's own nodes": _each(
        ("exists", "/zookeeper", False),
        ("getData", "/zookeeper", False),
        ("getACL", "/zookeeper"),
        ("getChildren2", "/zookeeper", False),
        ("getData", "/zookeeper/quota", False),
        ("getACL", "/zookeeper/quota"),
        ("exists", "/zookeeper/config", False),
        ("getACL", "/zookeeper/config"),
        ("delete", "/zookeeper", -1),
        ("delete", "/zookeeper/config", -1),
        ("delete", "/zookeeper/quota", -1),
        ("setData", "/zookeeper/config", b"", -1),
        ("setACL", "/zookeeper/config", OPEN, -1),
        _create("/zookeeper/config/a"),
        ("multi", ("delete", "/zookeeper/config", -1)),
        ("reconfig", "", "", "", -1),
    ),
    "names beyond ASCII": [
        *(_node(f"~/{name}") for name in (LATIN, CHINESE, "\u0080\u07ff\u0800", "a b", " ", "a:b%2F\\")),
        Step(0, "getChildren", "~", False),
        Step(0, "delete", f"~/{LATIN}", 0),
    ],
    "many children, in the order of a hash table": [
        *(Step(0, "pipeline", *(_create(f"~/{name}{i}") for i in range(20))) for name in ("a", "lock-", CHINESE)),
        Step(0, "getChildren", "~", False),
        Step(0, "pipeline", *(("delete", f"~/a{i}", -1) for i in range(20))),
        Step(0, "getChildren2", "~", False),
        Step(0, "pipeline", *(_create(f"~/a{i}") for i in reversed(range(20)))),
        Step(0, "getChildren", "~", False),
    ],
    "data: null, empty, large": [
        Step(0, "create", "~/a", None, OPEN, 0),
        Step(0, "getData", "~/a", False),
        Step(0, "setData", "~/a", b"", 0),
        Step(0, "setData", "~/a", None, 1),
        Step(0, "setData", "~/a", bytes(100_000), 2),
        Step(0, "getData", "~/a", False),
    ],
    "sequences count what was ever created": [
        _node("~/a"),
        _node("~/s", SEQUENTIAL),
        Step(0, "delete", "~/a", -1),
        _node("~/s", SEQUENTIAL),
        Step(0, "createTTL", "~/t", b"", OPEN, TTL_SEQUENTIAL, 600_000),
        _node("~/e", EPHEMERAL | SEQUENTIAL),
        _node("~/", SEQUENTIAL),
        Step(0, "create2", "~/s", b"", OPEN, SEQUENTIAL),
        Step(0, "getChildren2", "~", False),
    ],
    "a parent that is made again counts from the start": [
        *(_node("~/p"), _node("~/p/s", SEQUENTIAL), Step(0, "delete", "~/p/s0000000000", -1)),
        *(_node("~/p/s", SEQUENTIAL), Step(0, "delete", "~/p/s0000000001", -1), Step(0, "delete", "~/p", -1)),
        *(_node("~/p"), _node("~/p/s", SEQUENTIAL)),
    ],
    "a refused create does not count": [
        *(_node("~/a"), _node("~/a"), Step(0, "create", "~/s", b"", (), SEQUENTIAL), _node("~/s", SEQUENTIAL)),
    ],
    "a sequence meets a name that is taken": [_node("~/s0000000001"), _node("~/s", SEQUENTIAL)],
    "nothing below an ephemeral": [
        _node("~/e", EPHEMERAL),
        _node("~/e/a"),
        _node("~/e/a", SEQUENTIAL),
        Step(0, "multi", _create("~/f", EPHEMERAL), _create("~/f/a")),
        Step(0, "createTTL", "~/t", b"", OPEN, TTL, 600_000),
        _node("~/t/a"),
        Step(0, "createContainer", "~/c", b"", OPEN, CONTAINER),
        _node("~/c/a"),
        Step(0, "getEphemerals", "~"),
    ],
    "every flag with every way to create": [
        Step(0, *request)
        for flags in (*range(-1, 8), 2**31 - 1)
        for request in (
            ("create", f"~/a{flags}", b"", OPEN, flags),
            ("create2", f"~/b{flags}", b"", OPEN, flags),
            ("createContainer", f"~/c{flags}", b"", OPEN, flags),
            ("createTTL", f"~/d{flags}", b"", OPEN, flags, 600_000),
            ("createTTL", f"~/e{flags}", b"", OPEN, flags, 0),
        )
    ],
    "times to live": _each(
        *(
            ("createTTL", f"~/{number}", b"", OPEN, flags, ttl)
            for number, ttl in enumerate((1, 0, -1, 2**40 - 1, 2**40, 2**40 + 1, 2**63 - 1, -(2**63)))
            for flags in (TTL, TTL_SEQUENTIAL)
        )
    ),
    "versions": [
        _node("~/a"),
        *_each(*(("setData", "~/a", b"", version) for version in (1, 0, 0, -2, -1, 2, -(2**31), 2**31 - 1))),
        *_each(*(("setACL", "~/a", OPEN, version) for version in (1, 0, 0, -1, 2))),
        *_each(*(("multi", ("check", "~/a", version)) for version in (0, 3, -1, -2))),
        *_each(*(("delete", "~/a", version) for version in (0, -2, 3))),
    ],
    "which of several errors": [
        *(_node("~/a"), _node("~/a/b")),
        *_each(
            ("delete", "~/a", 5),
            ("delete", "~/a", 0),
            ("create", "~/x/y", b"", (), 0),
            ("create", "~/a", b"", (), 0),
            ("create", "~/..", b"", (), 0),
            ("create", "~/x/y", b"", OPEN, 9),
            ("create", "~/x/..", b"", OPEN, 0),
            ("createTTL", "~/..", b"", (), TTL, 0),
            ("setACL", "~/a", (), 5),
            ("setACL", "~/x", (), 5),
            ("setData", "~/x", b"", 5),
            ("multi", ("check", "~/x", 5)),
        ),
    ],
    # Access
    "insufficient rights": [
        Step(0, "create", "~/a", b"", ((1, "world", "anyone"),), 0),
        *_each(
            ("setData", "~/a", b"", 0),
            ("setData", "~/a", b"", 5),
            _create("~/a/b"),
            ("setACL", "~/a", OPEN, 0),
            ("setACL", "~/a", OPEN, 5),
            ("setACL", "~/a", (), 0),
            ("getACL", "~/a"),
            ("getData", "~/a", False),
            ("multi", ("check", "~/a", 0)),
            ("delete", "~/a", 0),
        ),
    ],
    "a watch that was refused is not set": [
        Step(0, "create", "~/a", b"", ((2, "world", "anyone"),), 0),
        *_each(("getData", "~/a", True), ("getChildren", "~/a", True), ("getChildren2", "~/a", True), session=1),
        Step(1, "getACL", "~/a"),
        Step(1, "getAllChildrenNumber", "~/a"),
        Step(0, "setData", "~/a", b"", 0),
        Step(1, "checkWatches", "~/a", 3),
    ],
    "deleting takes the parent's right": [
        Step(0, "create", "~/a", b"", ((31 & ~8, "world", "anyone"),), 0),
        Step(0, "create", "~/a/b", b"", OPEN, 0),
        Step(0, "delete", "~/a/b", 0),
        Step(0, "setACL", "~/a", ((8, "world", "anyone"),), 0),
        Step(0, "delete", "~/a/b", 0),
        Step(0, "delete", "~/a", 0),
    ],
    "ephemerals go without rights": [
        Step(0, "create", "~/a", b"", OPEN, 0),
        Step(0, "create", "~/a/e", b"", ((0, "world", "anyone"),), EPHEMERAL),
        Step(0, "setACL", "~/a", ((0, "world", "anyone"),), 0),
        Step(1, "addWatch", "~/a", RECURSIVE),
        Step(0, "close"),
    ],
    "credentials": [
        Step(0, "create", "~/none", b"", ((31, "auth", ""),), 0),
        *_each(
            ("auth", 0, "digest", b"ann:secret"),
            ("auth", 7, "digest", b"ann:secret"),
            ("auth", 0, "digest", b"bob:secret"),
            ("whoAmI",),
            ("create", "~/mine", b"", ((31, "auth", ""),), 0),
            ("create", "~/ann", b"", ((31, "digest", ANN),), 0),
            ("getACL", "~/mine"),
        ),
        *_each(("getData", "~/mine", False), ("getACL", "~/mine"), ("getACL", "~/ann"), session=1),
        *_each(("auth", 0, "digest", b"ann:secret"), ("getData", "~/mine", False), ("setData", "~/ann", b"", 0), session=1),
        Step(0, "resume"),
        *_each(("whoAmI",), ("getData", "~/mine", False)),
    ],
    "whoever may not change a list sees no hashes": [
        Step(0, "create", "~/a", b"", ((1, "world", "anyone"), (16, "digest", ANN), (1, "digest", "a:b"), (1, "ip", "127.0.0.1")), 0),
        Step(0, "getACL", "~/a"),
        Step(0, "create", "~/b", b"", ((1, "world", "anyone"), (16, "digest", ANN), (1, "digest", "a:b:c")), 0),
        Step(0, "create", "~/c", b"", ((1, "world", "anyone"), (16, "digest", ANN), (1, "digest", "a:")), 0),
        Step(0, "getACL", "~/c"),
        Step(0, "auth", 0, "digest", b"ann:secret"),
        Step(0, "getACL", "~/a"),
        Step(0, "setACL", "~/a", ((31, "digest", ANN),), 0),
    ],
    "strange credentials": [
        Step(0, "auth", 0, "digest", secret)
        for secret in (b"", b":", b"a", b"a:", b":b", b"a:b:c", HORSE.encode() + b":x", b"\xff\xfe:x", b"\xe7\xaf:\x80", None)
    ]
    + [Step(0, "whoAmI")],
    "many credentials, in the order of a hash table": [
        *(Step(0, "auth", 0, "digest", f"user{i}:{i}".encode()) for i in range(14)),
        Step(0, "whoAmI"),
        Step(0, "create", "~/a", b"", ((31, "auth", ""),), 0),
        Step(0, "getACL", "~/a"),
    ],
    "schemes that do not work end the connection": [
        Step(session % 3, "auth", 0, scheme, b"x")
        for session, scheme in enumerate(("world", "auth", "nonsense", "", "super", None, "DIGEST", "x509"))
    ],
    "the scheme ip": [Step(0, "auth", 0, "ip", b"x"), Step(0, "auth", 0, "ip", b""), Step(0, "whoAmI")],
    # Transactions
    "transactions see what they have done so far": [
        Step(
            0,
            "multi",
            _create("~/a"),
            _create("~/a/s", SEQUENTIAL),
            _create("~/a/s", SEQUENTIAL),
            ("setData", "~/a", b"x", 0),
            ("setData", "~/a", b"y", 1),
            ("check", "~/a", 2),
            ("delete", "~/a/s0000000000", 0),
            ("create2", "~/a/s", b"", OPEN, SEQUENTIAL),
        ),
        Step(0, "multi", ("delete", "~/a/s0000000001", -1), _create("~/a/s0000000001"), ("check", "~/a/s0000000001", 0)),
        Step(0, "multi", ("delete", "~/a", -1), ("delete", "~/a/s0000000001", -1)),
        Step(0, "multi", ("delete", "~/a/s0000000001", -1), ("delete", "~/a/s0000000002", -1), ("delete", "~/a", -1)),
        _node("~/a"),
        _node("~/a/s", SEQUENTIAL),
    ],
    "transactions that are refused": [
        _node("~/a"),
        Step(0, "multi", ("check", "~", 7)),
        Step(0, "multi", _create("~/b"), ("check", "~", 7), ("delete", "~/b", -1)),
        Step(0, "multi", _create("~/s", SEQUENTIAL), ("delete", "~/a", 5)),
        Step(0, "multi", ("delete", "~/nothing", -1), _create("~/b"), _create("~/a")),
        Step(0, "multi", _create("~/b"), _create("~/..")),
        Step(0, "multi", _create("~/b"), ("create", "~/c", b"", (), 0)),
        Step(0, "multi", _create("~/b"), ("create", "~/c", b"", OPEN, 9)),
        Step(0, "multi", _create("~/e", EPHEMERAL), _create("~/a")),
        Step(0, "getEphemerals", "~"),
        _node("~/s", SEQUENTIAL),
    ],
    "transactions of nothing, and of what may not be in one": [
        Step(0, "multi"),
        Step(0, "multiRead"),
        Step(0, "multi", ("getData", "~", False)),
        Step(0, "multi", _create("~/a"), ("getChildren", "~", False)),
        Step(0, "multi", _create("~/a"), ("exists", "~", False)),
        Step(0, "multiRead", ("getData", "~", False), ("exists", "~", False)),
        Step(0, "multiRead", ("delete", "~", -1)),
        Step(0, "multiRead", ("getData", "~", True), ("getChildren", "~", True), ("getData", "~/x", True)),
        _node("~/b"),
        Step(0, "setData", "~", b"", -1),
    ],
    "a transaction tells its events one operation after the other": [
        *(Step(1, "addWatch", "~", RECURSIVE), Step(2, "addWatch", "~", PERSISTENT)),
        *_each(("getChildren", "~", True), ("exists", "~/a", True), session=0),
        Step(0, "multi", _create("~/a"), ("setData", "~/a", b"", 0), _create("~/a/b"), ("delete", "~/a/b", 0), ("setData", "~", b"", 0)),
        Step(0, "multi", ("setData", "~/a", b"", -1), ("check", "~", 9)),
        Step(0, "multi", ("delete", "~/a", -1), _create("~/a")),
    ],
    "pipelined writes wait for each other": [
        Step(0, "addWatch", "~", RECURSIVE),
        Step(
            0,
            "pipeline",
            _create("~/a"),
            ("multi", _create("~/b"), ("check", "~", 9)),
            _create("~/a/s", SEQUENTIAL),
            ("multi", _create("~/a/s", SEQUENTIAL), _create("~/a/s", SEQUENTIAL), ("delete", "~/a", 9)),
            _create("~/a/s", SEQUENTIAL),
            ("delete", "~/a", -1),
            ("setData", "~/a", b"x", 0),
            ("getData", "~/a", True),
            ("setData", "~/a", b"y", 1),
            ("setData", "~/a", b"z", 1),
            ("getChildren2", "~/a", False),
        ),
        Step(0, "pipeline", _create("~/e", EPHEMERAL), ("getEphemerals", ""), ("closeSession",)),
    ],
    # Watches
    "one-shot watches, and what ends them": [
        _node("~/a"),
        *_each(("getData", "~/a", True), ("exists", "~/a", True), ("getChildren", "~/a", True), ("exists", "~/b", True), session=1),
        *_each(("setACL", "~/a", OPEN, -1), ("setData", "~/a", b"", -1), ("setData", "~/a", b"", -1)),
        *_each(_create("~/a/c"), _create("~/a/d"), ("delete", "~/a/c", -1), _create("~/b"), ("delete", "~/b", -1)),
        *_each(("getData", "~/a", True), ("getChildren2", "~/a", True), ("getChildren", "~", True), session=1),
        *_each(("delete", "~/a/d", -1), ("delete", "~/a", -1)),
    ],
    "a one-shot watch ends the recursive one of its path (ZOOKEEPER-4466)": [
        *(_node("~/a"), Step(1, "addWatch", "~/a", RECURSIVE), _node("~/a/b"), Step(1, "getData", "~/a", True)),
        *_each(("setData", "~/a", b"", -1), ("setData", "~/a", b"", -1), _create("~/a/c"), ("setData", "~/a/b", b"", -1)),
    ],
    "a child watch beside a recursive one": [
        *(_node("~/a"), Step(1, "addWatch", "~/a", RECURSIVE), Step(1, "getChildren", "~/a", True)),
        *_each(_create("~/a/b"), _create("~/a/c"), ("setData", "~/a", b"", -1), ("delete", "~/a/b", -1)),
    ],
    "persistent and recursive on one path": [
        *(_node("~/a"), Step(1, "addWatch", "~/a", PERSISTENT), Step(1, "addWatch", "~/a", RECURSIVE)),
        *_each(_create("~/a/b"), ("setData", "~/a", b"", -1), ("setData", "~/a/b", b"", -1)),
        *(Step(1, "addWatch", "~/a", PERSISTENT), Step(0, "setData", "~/a/b", b"", -1), Step(0, "delete", "~/a/b", -1)),
        Step(0, "delete", "~/a", -1),
        _node("~/a"),
    ],
    "recursive watches above each other": [
        *(_node("~/a"), _node("~/a/b")),
        *_each(("addWatch", "/", RECURSIVE), ("addWatch", "~", RECURSIVE), ("addWatch", "~/a", RECURSIVE), session=1),
        *_each(_create("~/a/b/c"), ("setData", "~/a/b/c", b"", -1), ("delete", "~/a/b/c", -1)),
        *_each(("removeWatches", "~", 3), session=1),
        *_each(("setData", "~", b"", -1), ("setData", "~/a", b"", -1), ("delete", "~/a/b", -1)),
    ],
    "which watches are there, and taking them away": [
        _node("~/a"),
        *(
            Step(1, *request)
            for watch in (
                ("getData", "~/a", True),
                ("exists", "~/a", True),
                ("exists", "~/x", True),
                ("getChildren", "~/a", True),
                ("addWatch", "~/a", PERSISTENT),
                ("addWatch", "~/a", RECURSIVE),
            )
            for kind in (1, 2, 3)
            for request in (
                watch,
                *(("checkWatches", watch[1], looked) for looked in (0, 1, 2, 3, 4, 5, 6)),
                ("removeWatches", watch[1], kind),
                *(("checkWatches", watch[1], looked) for looked in (1, 2, 3)),
                ("removeWatches", watch[1], 3),
            )
        ),
        *_each(("setData", "~/a", b"", -1), _create("~/a/b"), _create("~/x")),
    ],
    "watches of others stay": [
        _node("~/a"),
        *(Step(1, "getData", "~/a", True), Step(2, "getData", "~/a", True), Step(1, "removeWatches", "~/a", 2)),
        *(Step(1, "removeWatches", "~/a", 2), Step(0, "setData", "~/a", b"", -1)),
    ],
    "set watches: what has changed is told, the rest is watched": [
        *(_node("~/data"), _node("~/child"), _node("~/gone"), _node("~/still")),
        *_each(("setWatches", 0, DATA, EXIST, CHILD), ("setWatches", EVER, DATA, EXIST, CHILD), session=1),
        *_each(("setWatches", 0, ("~/nothing",), ("~/still",), ("~/nothing",)), session=1),
        *_each(("setData", "~/data", b"", -1), _create("~/exist"), _create("~/child/a"), ("delete", "~/gone", -1)),
        *_each(
            *(("setWatches", back, DATA, ("~/gone", "~/exist"), CHILD) for back in (1, 2, 3, 4, -3)),
            ("setWatches2", 2, DATA, EXIST, CHILD, ("~/data", "~/nothing"), ("~", "~/nothing")),
            ("setWatches2", EVER, (), (), (), ("~/data",), ("~",)),
            ("setWatches2", 0, (), (), (), (), ()),
            ("setWatches", 0, (), (), ()),
            session=1,
        ),
        *_each(_create("~/nothing"), ("setData", "~/data", b"", -1), ("delete", "~/child/a", -1), ("delete", "~/data", -1)),
    ],
    "watches are the connection's": [
        _node("~/a"),
        *_each(("getData", "~/a", True), ("getChildren", "~/a", True), ("addWatch", "~", RECURSIVE), session=1),
        *(Step(1, "resume"), Step(0, "setData", "~/a", b"", -1)),
        *_each(("getData", "~/a", True), ("getChildren", "~/a", True), ("addWatch", "~", RECURSIVE), ("exists", "~/x", True), session=1),
        *(Step(1, "drop"), Step(0, "setData", "~/a", b"", -1), _node("~/x"), _node("~/a/b")),
        *(Step(1, "resume", 3, True), Step(0, "setData", "~/a", b"", -1)),
    ],
    # Sessions
    "a session closes": [
        *(_node("~/e1", EPHEMERAL), _node("~/e2", EPHEMERAL), _node("~/p")),
        *(_node("~/p/e", EPHEMERAL | SEQUENTIAL), _node("~/p/e", EPHEMERAL | SEQUENTIAL)),
        *_each(("getData", "~/e1", True), ("getChildren", "~", True), ("getChildren", "~/e2", True)),
        *_each(("getData", "~/e1", True), ("exists", "~/e2", True), ("getChildren", "~", True), session=1),
        *(Step(2, "addWatch", "~", RECURSIVE), Step(2, "addWatch", "~/p", PERSISTENT)),
        Step(0, "close"),
        Step(0, "haunt"),
        _node("~/e1", EPHEMERAL),
    ],
    "a session expires": [
        *(_node("~/e1", EPHEMERAL), _node("~/e2", EPHEMERAL), _node("~/p"), _node("~/p/e", EPHEMERAL | SEQUENTIAL)),
        *_each(("getData", "~/e1", True), ("exists", "~/e2", True), ("getChildren", "~", True), session=1),
        *(Step(2, "addWatch", "~", RECURSIVE), Step(2, "addWatch", "~/p", PERSISTENT)),
        Step(0, "expire"),
        Step(0, "haunt"),
        _node("~/e1", EPHEMERAL),
    ],
    "many ephemerals go in the order of a hash table": [
        *(Step(0, "pipeline", *(_create(f"~/e{i}", EPHEMERAL) for i in range(j, 30, 3))) for j in range(3)),
        *(Step(0, "delete", f"~/e{i}", -1) for i in range(5)),
        *(Step(0, "getEphemerals", "~"), Step(1, "addWatch", "~", RECURSIVE), Step(0, "close")),
    ],
    "an ephemeral that was deleted and made by another stays": [
        *(_node("~/e", EPHEMERAL), Step(1, "delete", "~/e", -1), _node("~/e", EPHEMERAL, session=1)),
        *(Step(0, "getEphemerals", ""), Step(0, "close"), Step(1, "getEphemerals", "")),
    ],
    "taking a session over": [
        *(_node("~/e", EPHEMERAL), Step(0, "auth", 0, "digest", b"ann:secret"), Step(0, "resume")),
        *(Step(0, "whoAmI"), Step(0, "getEphemerals", "~"), Step(0, "delete", "~/e", 0)),
        *(Step(0, "wrong_password"), Step(0, "getEphemerals", ""), Step(0, "drop"), Step(0, "wrong_password")),
    ],
    "a client that has seen more than the server": [
        *(_node("~/e", EPHEMERAL), Step(0, "resume", -1), Step(0, "getEphemerals", ""), Step(0, "resume", 0)),
        *(Step(0, "drop"), Step(0, "resume", -1), Step(0, "resume", EVER)),
    ],
    "time-outs are negotiated": [
        *(Step(0, "open", 2_000_000_000), Step(1, "open", 60_000), Step(2, "open", 60_001), Step(3, "open", 29_999)),
    ],
    "connect requests that lack something": [
        *(Step(number, "open", 30_000, cut) for number, cut in enumerate((1, 2, 17, 18, 21, 30))),
        Step(0, "create", "~/a", b"", OPEN, 0),
    ],
    # Invalid requests
    "a check on its own is not answered": [
        *_each(("check", "~", 0), ("check", "~", 9), ("check", "~/x", 0), ("check", "a", 0), ("check", "~", -1)),
    ],
    "operations that do not exist": [
        *(Step(0, "unknown", opcode, b"") for opcode in (0, -1, 10, 77, 99, 1000, 2**31 - 1)),
    ],
    "frames that are too short": [Step(0, "junk", frame) for frame in (b"", b"\0", b"\0\0\0\1\0\0\0")],
    "requests without a body": [
        Step(0, "raw", opcode, b"")
        for opcode in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 101, 103, 104, 105, 106)
    ],
    "requests with too long a body": [
        Step(0, "raw", 3, b"\0\0\0\2/x\0and more"),
        Step(0, "raw", 107, b"more"),
        Step(0, "raw", 14, b"\xff\xff\xff\xff\1\xff\xff\xff\xffmore"),
    ],
    "requests with lengths that cannot be": [
        Step(0, "raw", opcode, length + b"\0" * 40)
        for opcode in (1, 2, 3, 4, 5, 8, 9, 14, 22, 101, 103, 105, 106)
        for length in (b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xfe", b"\0\0\0\x64")
    ],
    "requests that are cut short": [
        _node("~/a"),
        *(
            Step(0, "cut", cut, *request)
            for cut in (1, 4, 5)
            for request in (
                _create("~/b"),
                ("createTTL", "~/b", b"", OPEN, TTL, 1),
                ("delete", "~/a", 0),
                ("setData", "~/a", b"", 0),
                ("setACL", "~/a", OPEN, 0),
                ("multi", _create("~/b")),
                ("multi", _create("~/b"), ("check", "~", 0)),
                ("multiRead", ("getData", "~/a", False)),
                ("getData", "~/a", False),
                ("addWatch", "~/a", 0),
                ("setWatches2", 0, ("~/a",), (), (), (), ()),
                ("removeWatches", "~/a", 3),
            )
        ),
    ],
    "a flag that is neither true nor false": [
        _node("~/a"),
        Step(1, "raw", 8, b"\0\0\0\n/zookeeper\2"),
        Step(1, "checkWatches", "/zookeeper", 1),
        Step(1, "raw", 4, b"\0\0\0\x10/zookeeper/quota\xff"),
        Step(1, "checkWatches", "/zookeeper/quota", 2),
    ],
}  # fmt: skip

FOUND: dict[str, Program] = {
    # 3.8 requires no permission to check whether a node exists.
    "exists without rights": [
        Step(0, "create", "~/a", b"", ((2, "world", "anyone"),), 0),
        Step(0, "exists", "~/a", True),
        Step(0, "setData", "~/a", b"", 0),
    ],
    # A path without a slash has no parent, and a server fails when it looks for one.
    "looking for a watch on what is no path": [
        *_each(("checkWatches", "a", 3), ("checkWatches", "a", 1), ("checkWatches", "", 3)),
    ],
    # While there is a recursive watch, the ancestors are looked up unless the path itself is watched.
    "looking for a watch below what is no path": [
        *_each(("checkWatches", "a/b", 3), ("addWatch", "~", RECURSIVE), ("checkWatches", "a/b", 3)),
        *_each(("addWatch", "a/b", PERSISTENT), ("checkWatches", "a/b", 3), ("checkWatches", "a/c", 1)),
    ],
    # The empty path counts as not watched, even if there is a watch of it.
    "looking for a watch on nothing": [
        *_each(("addWatch", "", RECURSIVE), ("checkWatches", "", 3), ("removeWatches", "", 3)),
    ],
    # The error is followed by the part of the answer that was already made.
    "reading a write": [Step(0, "multiRead", ("delete", "~/a", -1))],
    # The two cannot be decoded together; the answer has no body.
    "reads and a write in one": [Step(0, "multiRead", ("getData", "~/a", False), ("delete", "~/a", -1))],
    # A server would fail at the last operation; here an earlier one is refused first.
    "refused before what cannot be done": [
        Step(0, "multi", ("delete", "~/a", -1), ("create", "~/a", b"", OPEN, TTL)),
        Step(0, "multi", ("create", "~/a", b"", OPEN, 0), ("create", "~/b", b"", OPEN, TTL), ("delete", "~/x", -1)),
        Step(0, "setData", "~", b"", -1),
    ],
    # The hash table of a connection's identities grows with the twelfth.
    "the twelfth credential": [
        *(Step(0, "auth", 0, "digest", f"{user}:x".encode()) for user in "abcdefghijkl"),
        Step(0, "whoAmI"),
    ],
}  # fmt: skip

PROGRAMS = CORNERS | FOUND

SWEPT: dict[str, Program] = {
    "a container goes when its last child has gone": [
        Step(0, "createContainer", "~/c", b"", OPEN, CONTAINER),
        _node("~/c/a"),
        _node("~/c/b"),
        *(Step(1, "addWatch", "~", RECURSIVE), Step(2, "getChildren", "~", True), Step(2, "exists", "~/c", True)),
        Step(1, "getChildren", "~/c", True),
        Step(0, "delete", "~/c/a", -1),
        Step(1, "await", 2, ("delete", "~/c/b", -1)),
        Step(0, "createContainer", "~/c", b"", OPEN, CONTAINER),
    ],
    "a container that never had a child stays": [
        *(Step(0, "createContainer", "~/new", b"", OPEN, CONTAINER), Step(0, "createContainer", "~/c", b"", OPEN, CONTAINER)),
        *(_node("~/c/e", EPHEMERAL), Step(1, "addWatch", "~", RECURSIVE), Step(1, "await", 2, ("delete", "~/c/e", -1))),
        Step(0, "getChildren2", "~", False),
    ],
    "a node goes when its time is up": [
        Step(1, "addWatch", "~", RECURSIVE),
        Step(0, "getChildren", "~", True),
        Step(1, "await", 2, ("createTTL", "~/t", b"", OPEN, TTL, 1)),
        Step(1, "await", 2, ("createTTL", "~/t", b"", OPEN, TTL_SEQUENTIAL, 20)),
        Step(0, "createTTL", "~/later", b"", OPEN, TTL, 600_000),
    ],
    "a node with children outlives its time": [
        Step(0, "multi", ("createTTL", "~/t", b"", OPEN, TTL, 1), _create("~/t/a")),
        *(Step(1, "addWatch", "~", RECURSIVE), Step(1, "await", 2, ("delete", "~/t/a", -1))),
        Step(0, "getChildren2", "~", False),
    ],
}  # fmt: skip
"""Programs in which the servers remove nodes on their own."""
