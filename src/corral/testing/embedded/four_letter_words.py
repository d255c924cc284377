"""Four letter words: the commands by which people and monitoring tools ask a server about itself.

A word is the first four bytes of a connection, where a frame would have its length. The answer is text; then
the connection is closed. The format is a real server's. Latencies are 0, since no request takes any time
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from corral.wire import messages

from .server_connection import ServerConnection
from .zookeeper import ZooKeeper

__all__ = ["answer", "known"]

_VERSIONS = {"3.4": "3.4.14", "3.5": "3.5.10", "3.6": "3.6.3", "3.8": "3.8.0", "3.9": "3.9.5"}

_OPERATIONS = {
    messages.PING: "PING", messages.MULTI: "MULT", messages.MULTI_READ: "MLTR", messages.CREATE: "CREA",
    messages.CREATE2: "CREA", messages.CREATE_TTL: "CREA", messages.CREATE_CONTAINER: "CREA",
    messages.DELETE: "DELE", messages.SET: "SETD", messages.RECONFIG: "RECO", messages.SET_ACL: "SETA",
    messages.CLOSE: "CLOS", messages.SYNC: "SYNC", messages.CHECK: "CHEC", messages.EXISTS: "EXIS",
    messages.GET: "GETD", messages.SET_WATCHES: "SETW", messages.SET_WATCHES2: "STW2",
    messages.ADD_WATCH: "ADDW", messages.GET_ACL: "GETA", messages.CHILDREN: "GETC",
    messages.COUNT_ALL: "GETACN", messages.CHILDREN2: "GETC", messages.CHECK_WATCHES: "CHKW",
    messages.REMOVE_WATCHES: "REMW", messages.WHO_AM_I: "HOMI", messages.GET_EPHEMERALS: "GETE",
}  # fmt: skip
_SHORT = {operation.opcode: short for operation, short in _OPERATIONS.items()}


def known(first: bytes | bytearray) -> str | None:
    """The word that a connection begins with; None if its first four bytes are a frame's length."""
    word = bytes(first[:4]).decode("latin-1")
    return word if word in _ANSWERS or word in _NOT_WHITELISTED else None


def answer(server: ZooKeeper, word: str, now: float) -> str:
    """The server's answer to a word. `KeyError` if it is none; `known` checks that."""
    server.tick(now)
    if word in _NOT_WHITELISTED:
        return f"{word} is not executed because it is not in the whitelist.\n"
    return _ANSWERS[word](server)


def _version(server: ZooKeeper) -> str:
    return f"{_VERSIONS[server.config.version]}-embedded, built on 1970-01-01 00:00 UTC"


def _role(server: ZooKeeper) -> str:
    return "read-only" if server.read_only else "standalone"


def _ruok(server: ZooKeeper) -> str:
    return "imok"


def _isro(server: ZooKeeper) -> str:
    return "ro" if server.read_only else "rw"


def _srvr(server: ZooKeeper) -> str:
    return _about(server, "")


def _stat(server: ZooKeeper) -> str:
    clients = "".join(
        f" {_address(connection)}[1]({_traffic(connection)})\n" for connection in server.connections
    )
    return _about(server, f"Clients:\n{clients}\n")


def _about(server: ZooKeeper, clients: str) -> str:
    read_only = "READ-ONLY mode; serving only read-only clients\n" if server.read_only else ""
    return (
        f"Zookeeper version: {_version(server)}\n{read_only}{clients}"
        "Latency min/avg/max: 0/0.0/0\n"
        f"Received: {server.packets_received}\nSent: {server.packets_sent()}\n"
        f"Connections: {len(server.connections)}\nOutstanding: 0\n"
        f"Zxid: 0x{server.zxid:x}\nMode: {_role(server)}\n"
        f"Node count: {len(server.tree.nodes)}\n"
    )


def _mntr(server: ZooKeeper) -> str:
    figures: dict[str, object] = {
        "version": _version(server),
        "server_state": _role(server),
        "ephemerals_count": server.tree.ephemeral_count(),
        "num_alive_connections": len(server.connections),
        "avg_latency": 0.0,
        "outstanding_requests": 0,
        "znode_count": len(server.tree.nodes),
        "global_sessions": len(server.sessions),
        "packets_sent": server.packets_sent(),
        "packets_received": server.packets_received,
        "watch_count": server.watches.count(),
        "min_latency": 0,
        "approximate_data_size": server.tree.data_size(),
        "max_latency": 0,
        "uptime": server.uptime(),
    }
    return "".join(f"zk_{name}\t{figure}\n" for name, figure in figures.items())


def _cons(server: ZooKeeper) -> str:
    return (
        "".join(
            f" {_address(connection)}[1]({_traffic(connection)}{_session(connection)})\n"
            for connection in server.connections
        )
        + "\n"
    )


def _address(connection: ServerConnection) -> str:
    return f"/{connection.host}:{connection.port}"


def _traffic(connection: ServerConnection) -> str:
    return f"queued=0,recved={connection.packets_received},sent={connection.packets_sent}"


def _session(connection: ServerConnection) -> str:
    session = connection.session
    if session is None:
        return ""
    xid = f",lcxid=0x{connection.last_xid:x}" if connection.last_xid >= 0 else ""
    return (
        f",sid=0x{session.id:x},lop={_SHORT.get(connection.last_opcode, 'SESS')},est={connection.established}"
        f",to={session.timeout}{xid},lzxid=0x{connection.last_zxid:x},lresp=0,llat=0,minlat=0,avglat=0,maxlat=0"
    )


def _dump(server: ZooKeeper) -> str:
    return "".join(f"{line}\n" for line in _dump_lines(server))


def _dump_lines(server: ZooKeeper) -> Iterator[str]:
    buckets = server.sessions.buckets()
    yield "SessionTracker dump:"
    yield f"Session Sets ({len(buckets)})/({len(server.sessions)}):"
    for bucket, ids in buckets.items():
        yield f"{len(ids)} expire at {_date(server.wall_time(bucket / 1000))}:"
        yield from (f"\t0x{session_id:x}" for session_id in ids)
    yield "ephemeral nodes dump:"
    yield f"Sessions with Ephemerals ({len(server.tree.ephemerals)}):"
    for owner, paths in server.tree.ephemerals.items():
        yield f"0x{owner:x}:"
        yield from (f"\t{path}" for path in paths)
    yield "Connections dump:"
    yield f"Connections Sets (1)/({len(server.connections)}):"
    yield from (
        f"\tip: {_address(connection)} sessionId: 0x{connection.session_id:x}"
        for connection in server.connections
    )


def _date(milliseconds: int) -> str:
    return time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime(milliseconds / 1000))


def _wchs(server: ZooKeeper) -> str:
    watchers, paths = server.watches.data_watchers(), server.watches.data_paths()
    total = sum(map(len, watchers.values()))
    return f"{len(watchers)} connections watching {len(paths)} paths\nTotal watches:{total}\n"


def _wchc(server: ZooKeeper) -> str:
    lines = []
    for connection, paths in server.watches.data_watchers().items():
        lines += [f"0x{connection.session_id:x}\n", *(f"\t{path}\n" for path in paths)]
    return "".join(lines) + "\n"


def _wchp(server: ZooKeeper) -> str:
    lines = []
    for path, connections in server.watches.data_paths().items():
        lines += [f"{path}\n", *(f"\t0x{connection.session_id:x}\n" for connection in connections)]
    return "".join(lines) + "\n"


def _conf(server: ZooKeeper) -> str:
    config = server.config
    settings = {
        "clientPort": server.port,
        "secureClientPort": -1,
        "dataDir": "(memory)",
        "dataDirSize": 0,
        "dataLogDir": "(memory)",
        "dataLogSize": 0,
        "tickTime": round(config.tick_time * 1000),
        "maxClientCnxns": 0,
        "minSessionTimeout": round(config.least_timeout * 1000),
        "maxSessionTimeout": round(config.most_timeout * 1000),
        "clientPortListenBacklog": -1,
        "serverId": 0,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _envi(server: ZooKeeper) -> str:
    return f"Environment:\nzookeeper.version={_version(server)}\nhost.name=localhost\n"


_ANSWERS: dict[str, Callable[[ZooKeeper], str]] = {
    "ruok": _ruok,
    "isro": _isro,
    "srvr": _srvr,
    "stat": _stat,
    "mntr": _mntr,
    "cons": _cons,
    "dump": _dump,
    "wchs": _wchs,
    "wchc": _wchc,
    "wchp": _wchp,
    "conf": _conf,
    "envi": _envi,
}
_NOT_WHITELISTED = frozenset({"crst", "dirs", "gtmk", "hash", "srst", "stmk"})
"""Words that a real server knows, and that this one does not implement."""
