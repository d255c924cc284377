"""The meaning of the golden bytes: every operation, at least once, with the meaning of each answer."""

from __future__ import annotations

import hashlib
import re
from unittest.mock import ANY

from recording import PASSWORD, SESSION_ID, Either, Recording, Step, Znode, Zxid

from corral import acl
from corral.types import Acl, Perm, Stat
from corral.wire import messages
from corral.wire.messages import ConnectReply, MultiResult

OPEN = list(acl.OPEN)
READ = [*acl.world(Perm.READ)]
HORSE = Acl(Perm.READ, "digest", "\U0001f40e:x")
"""A character beyond U+FFFF, which Java writes as two surrogates. It is not allowed in paths, but in ids."""

EPHEMERAL, SEQUENTIAL, CONTAINER, TTL = 1, 2, 4, 5
CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4
CONNECTED = 3
PERSISTENT, RECURSIVE = 0, 1
TEN_MINUTES = 600_000

NO_PASSWORD = bytes(16)

NOT_SUPPORTED = -6
BAD_ARGUMENTS = -8
ROLLED_BACK = -2
NO_NODE = -101
NO_AUTH = -102
BAD_VERSION = -103
NO_CHILDREN_FOR_EPHEMERALS = -108
NODE_EXISTS = -110
NOT_EMPTY = -111
INVALID_ACL = -114
AUTH_FAILED = -115
NOT_READ_ONLY = -119
NO_WATCHER = -121


def event(kind: int, path: str) -> tuple[int, int, str]:
    """A watch event; while the connection is open the state is always this one."""
    return (kind, CONNECTED, path)


def refused(code: int) -> MultiResult:
    """The result of an operation of a transaction that was not applied, or of a read that failed."""
    return MultiResult(messages.ERROR_OPCODE, code, None)


m = messages

STANDALONE: list[Step] = [
    Step(
        "connect",
        None,
        (0, 4.0, 0, NO_PASSWORD),
        ConnectReply(0, 4.0, SESSION_ID, PASSWORD, False),
    ),
    Step("ping", m.PING),
    # Nodes of every kind
    Step("create", m.CREATE, ("~", b"root", OPEN, 0), "~"),
    Step("exists: no, watch", m.EXISTS, ("~/a", True), error=NO_NODE),
    Step(
        "create2",
        m.CREATE2,
        ("~/a", b"one", OPEN, 0),
        ("~/a", Znode("create2", length=3)),
        events=(event(CREATED, "~/a"),),
    ),
    Step("get, watch", m.GET, ("~/a", True), (b"one", Znode("create2", length=3))),
    Step(
        "set",
        m.SET,
        ("~/a", b"three", 0),
        Znode("create2", "set", version=1, length=5),
        events=(event(CHANGED, "~/a"),),
    ),
    Step("exists: yes", m.EXISTS, ("~/a", False), Znode("create2", "set", version=1, length=5)),
    Step("children, watch", m.CHILDREN, ("~", True), ["a"]),
    Step(
        "create: ephemeral, sequential",
        m.CREATE,
        ("~/e-", b"", OPEN, EPHEMERAL | SEQUENTIAL),
        "~/e-0000000001",
        events=(event(CHILDREN, "~"),),
    ),
    Step(
        "children2",
        m.CHILDREN2,
        ("~", False),
        (
            ["a", "e-0000000001"],
            Znode(
                "create",
                children_changed="create: ephemeral, sequential",
                cversion=2,
                length=4,
                children=2,
            ),
        ),
    ),
    Step("children: none", m.CHILDREN, ("~/a", False), []),
    Step(
        "exists: ephemeral",
        m.EXISTS,
        ("~/e-0000000001", False),
        Znode("create: ephemeral, sequential", owner=SESSION_ID),
    ),
    Step(
        "create container",
        m.CREATE_CONTAINER,
        ("~/container", b"", OPEN, CONTAINER),
        ("~/container", Znode("create container")),
    ),
    Step(
        "create ttl",
        m.CREATE_TTL,
        ("~/ttl", b"", OPEN, TTL, TEN_MINUTES),
        ("~/ttl", Znode("create ttl")),
    ),
    Step("create: null data", m.CREATE, ("~/null", None, OPEN, 0), "~/null"),
    Step("get: null data", m.GET, ("~/null", False), (b"", Znode("create: null data"))),
    Step("create: Latin and Chinese", m.CREATE, ("~/né-節", b"", OPEN, 0), "~/né-節"),
    # Access control
    Step("get acl", m.GET_ACL, ("~/a",), (OPEN, Znode("create2", "set", version=1, length=5))),
    Step(
        "set acl",
        m.SET_ACL,
        ("~/a", [*READ, HORSE], 0),
        Znode("create2", "set", version=1, aversion=1, length=5),
    ),
    Step(
        "get acl: beyond U+FFFF",
        m.GET_ACL,
        ("~/a",),
        ([*READ, HORSE], Znode("create2", "set", version=1, aversion=1, length=5)),
    ),
    Step("set: no auth", m.SET, ("~/a", b"", -1), error=NO_AUTH),
    Step("create: invalid acl", m.CREATE, ("~/b", b"", [], 0), error=INVALID_ACL),
    Step("auth", m.AUTH, (0, "digest", b"user:secret")),
    Step("who am i", m.WHO_AM_I, (), [("digest", "user"), ("ip", ANY)]),
    # Refusals
    Step("get: no node", m.GET, ("~/missing", False), error=NO_NODE),
    Step("create: node exists", m.CREATE, ("~", b"", OPEN, 0), error=NODE_EXISTS),
    Step("set: bad version", m.SET, ("~", b"", 7), error=BAD_VERSION),
    Step("delete: not empty", m.DELETE, ("~", -1), error=NOT_EMPTY),
    Step(
        "create: below an ephemeral",
        m.CREATE,
        ("~/e-0000000001/b", b"", OPEN, 0),
        error=NO_CHILDREN_FOR_EPHEMERALS,
    ),
    Step("create: bad path", m.CREATE, ("~/..", b"", OPEN, 0), error=BAD_ARGUMENTS),
    Step("remove watches: no watcher", m.REMOVE_WATCHES, ("~", 1), error=NO_WATCHER),
    # Transactions
    Step(
        "multi",
        m.MULTI,
        [
            (m.CHECK, ("~", 0)),
            (m.CREATE, ("~/m1", b"m", OPEN, 0)),
            (m.CREATE2, ("~/m2", b"", OPEN, 0)),
            (m.CREATE_CONTAINER, ("~/m3", b"", OPEN, CONTAINER)),
            (m.CREATE_TTL, ("~/m4", b"", OPEN, TTL, TEN_MINUTES)),
            (m.SET, ("~/m1", b"more", 0)),
            (m.DELETE, ("~/m2", 0)),
        ],
        [
            MultiResult(13, 0, None),
            MultiResult(1, 0, "~/m1"),
            # ZOOKEEPER-4026: before 3.9 a create2 has the result of a create.
            Either((MultiResult(1, 0, "~/m2"), MultiResult(15, 0, ("~/m2", ANY)))),
            # The results of these two have the opcode of a create2.
            MultiResult(15, 0, ("~/m3", Znode("multi"))),
            MultiResult(15, 0, ("~/m4", Znode("multi"))),
            MultiResult(5, 0, Znode("multi", version=1, length=4)),
            MultiResult(2, 0, None),
        ],
    ),
    Step(
        "multi: refused",
        m.MULTI,
        [
            (m.CREATE, ("~/b", b"", OPEN, 0)),
            (m.CHECK, ("~", 7)),
            (m.DELETE, ("~/b", -1)),
        ],
        [refused(0), refused(BAD_VERSION), refused(ROLLED_BACK)],
    ),
    Step("multi: empty", m.MULTI, [], []),
    Step(
        "multi read",
        m.MULTI_READ,
        [
            (m.GET, ("~/m1", False)),
            (m.CHILDREN, ("~/m1", False)),
            (m.GET, ("~/missing", False)),
        ],
        [
            MultiResult(4, 0, (b"more", Znode("multi", version=1, length=4))),
            MultiResult(8, 0, []),
            refused(NO_NODE),
        ],
    ),
    Step(
        "multi read: null data",
        m.MULTI_READ,
        [(m.GET, ("~/null", False))],
        [MultiResult(4, 0, (b"", Znode("create: null data")))],
    ),
    # Watches
    Step("exists, watch", m.EXISTS, ("~/m1", True), Znode("multi", version=1, length=4)),
    Step("check watches", m.CHECK_WATCHES, ("~/m1", messages.WATCHER_DATA)),
    Step("check watches: no watcher", m.CHECK_WATCHES, ("~/m1", messages.WATCHER_CHILDREN), error=NO_WATCHER),
    Step("remove watches", m.REMOVE_WATCHES, ("~/m1", messages.WATCHER_ANY)),
    Step(
        "set watches",
        m.SET_WATCHES,
        (Zxid("create"), ["~/m1", "~/missing"], ["~/m3"], ["~"]),
        events=(
            event(CHANGED, "~/m1"),
            event(DELETED, "~/missing"),
            event(CREATED, "~/m3"),
            event(CHILDREN, "~"),
        ),
    ),
    Step(
        "set watches2",
        m.SET_WATCHES2,
        (Zxid("multi read"), ["~/m1"], ["~/missing"], ["~/m1"], ["~/m3"], ["~/m4"]),
    ),
    Step(
        "delete",
        m.DELETE,
        ("~/m1", 1),
        # The watches of its data and of its children are set separately, and one event fires both.
        events=(event(DELETED, "~/m1"),),
    ),
    Step("add watch: persistent", m.ADD_WATCH, ("~", PERSISTENT), 0),
    Step("add watch: recursive", m.ADD_WATCH, ("~/container", RECURSIVE), 0),
    Step(
        "create: seen by a recursive watch",
        m.CREATE,
        ("~/container/c", b"", OPEN, 0),
        "~/container/c",
        events=(event(CREATED, "~/container/c"),),
    ),
    Step(
        "create: seen by a persistent watch",
        m.CREATE,
        ("~/d", b"", OPEN, 0),
        "~/d",
        events=(event(CHILDREN, "~"),),
    ),
    # Others
    Step("sync", m.SYNC, ("~",), "~"),
    Step("get ephemerals", m.GET_EPHEMERALS, ("~",), ["~/e-0000000001"]),
    Step("count all", m.COUNT_ALL, ("~",), 10),
    # Sessions
    Step(
        "connect: resumed",
        None,
        (Zxid("multi"), 4.0, SESSION_ID, PASSWORD, True),
        ConnectReply(0, 4.0, SESSION_ID, PASSWORD, False),
        on="resumed",
    ),
    Step("close", m.CLOSE, on="resumed"),
    Step(
        "connect: no such session",
        None,
        (0, 4.0, 0x1234, b"p" * 16),
        ConnectReply(0, 0.0, 0, NO_PASSWORD, False),
        on="refused",
    ),
    Step(
        "connect: as before 3.4",
        None,
        (0, 4.0, 0, NO_PASSWORD),
        ConnectReply(0, 4.0, ANY, ANY, False),
        on="ancient",
        cut=1,
    ),
    Step("auth: failed", m.AUTH, (0, "nonsense", b""), error=AUTH_FAILED, on="ancient"),
]


# Conversations that need servers of their own

NEW_SERVER = "server.7=127.0.0.1:10001:10002:observer;127.0.0.1:10003"
CONFIG = Stat(0, Zxid("reconfig"), 0, 0, -1, 0, -1, 0, ANY, 0, 0)
"""No transaction created the configuration node."""

ENSEMBLE: list[Step] = [
    Step("connect", None, (0, 4.0, 0, NO_PASSWORD), ConnectReply(0, 4.0, SESSION_ID, PASSWORD, False)),
    Step("reconfig", m.RECONFIG, (NEW_SERVER, None, None, -1), (ANY, CONFIG)),
]
"""With a leader that allows every client to reconfigure."""

READ_ONLY: list[Step] = [
    Step("connect", None, (0, 4.0, 0, NO_PASSWORD, True), ConnectReply(0, 4.0, SESSION_ID, PASSWORD, True)),
    Step("children", m.CHILDREN, ("/", False), ["zookeeper"]),
    Step("create: not read-only", m.CREATE, ("~", b"", OPEN, 0), error=NOT_READ_ONLY),
]
"""With a server that has lost its quorum, and may create sessions of its own."""

NO_SESSIONS: list[Step] = [
    Step("connect", None, (0, 4.0, 0, NO_PASSWORD, True), error=NOT_READ_ONLY),
]
"""With a server that may not: it answers with a reply header instead of the answer to a connect request."""

SASL_USER, SASL_PASSWORD = "corral", "secret"
_CNONCE = "Y29ycmFs"


def digest_md5(recording: Recording, method: str) -> str:
    """The response that proves, for the challenge in the recording, that the client knows the password (RFC
    2831)."""

    def md5(*parts: str | bytes) -> bytes:
        return hashlib.md5(b":".join(p.encode() if isinstance(p, str) else p for p in parts)).digest()

    realm, nonce = _realm_and_nonce(recording)
    session = md5(md5(SASL_USER, realm, SASL_PASSWORD), nonce, _CNONCE).hex()
    return md5(session, nonce, "00000001", _CNONCE, "auth", md5(method, f"zookeeper/{realm}").hex()).hex()


def _realm_and_nonce(recording: Recording) -> tuple[str, str]:
    found = re.search(rb'realm="(.*?)",nonce="(.*?)"', recording.exchanges["sasl: challenge"].reply)
    assert found
    return found[1].decode(), found[2].decode()


def sasl_response(recording: Recording) -> tuple[bytes]:
    """The token that responds to the challenge."""
    realm, nonce = _realm_and_nonce(recording)
    return (
        f'username="{SASL_USER}",realm="{realm}",nonce="{nonce}",cnonce="{_CNONCE}",nc=00000001,qop=auth,'
        f'digest-uri="zookeeper/{realm}",response={digest_md5(recording, "AUTHENTICATE")},'
        "charset=utf-8".encode(),
    )


SASL: list[Step] = [
    Step("connect", None, (0, 4.0, 0, NO_PASSWORD), ConnectReply(0, 4.0, SESSION_ID, PASSWORD, False)),
    Step(
        "sasl: challenge",
        m.SASL,
        (b"",),
        lambda recording: 'realm="{}",nonce="{}",charset=utf-8,algorithm=md5-sess'.format(
            *_realm_and_nonce(recording)
        ).encode(),
    ),
    Step(
        "sasl: response",
        m.SASL,
        sasl_response,
        lambda recording: f"rspauth={digest_md5(recording, '')}".encode(),
    ),
    Step(
        "connect: to be refused",
        None,
        (0, 4.0, 0, NO_PASSWORD),
        ConnectReply(0, 4.0, ANY, ANY, False),
        on="refused",
    ),
    Step("sasl: challenge again", m.SASL, (b"",), ANY, on="refused"),
    Step("sasl: failed", m.SASL, (b"nonsense",), error=AUTH_FAILED, on="refused"),
]
"""With a server that knows `SASL_USER`."""

CONVERSATIONS = {
    "standalone": STANDALONE,
    "ensemble": ENSEMBLE,
    "read-only": READ_ONLY,
    "no-sessions": NO_SESSIONS,
    "sasl": SASL,
}
