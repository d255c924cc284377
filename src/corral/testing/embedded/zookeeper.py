"""A standalone ZooKeeper server without I/O: frames and the time go in, frames come out.

It does what a real server does, in one thread and synchronously. A real server passes a request through a
pipeline of processors; here a request is done when `ServerConnection.received` returns. What clients can
observe is the same, and tests compare it with a real server:

- The order of frames. A watch event that a write causes reaches the writer before the write's reply, and
  every other client before any reply that could show the change.
- zxids. Every write takes one, even if it is refused, and so does opening and closing a session. A reply has
  the zxid of the last write that was processed.
- Which of several errors is the answer (see `writes`).
- A request that does not decode is answered with `MARSHALLING_ERROR`. One with an unknown opcode is answered
  with `UNIMPLEMENTED`, and its connection is closed. For a connect request that cannot be served, the
  connection is closed without an answer.
- A connection has one session. A session belongs to the last connection that asked for it; the one before is
  closed, even if the new one's password turns out to be wrong.

Every method that takes `now` first handles what is due by then: sessions expire, containers are removed. The
outcome therefore depends on when frames arrive, not on when `tick` is called.

As on any standalone server, ``/zookeeper/config`` is empty, and a client's reconfig is refused. `reconfigure`
sets a configuration nevertheless, for clients that follow the members.

There is no quorum and no disk, and of SASL only DIGEST-MD5; quotas are neither counted nor enforced. Other
differences, which a well-behaved client does not notice:

- A connection that never opens a session stays open, and requests are never throttled.
- In a real server, it is a race whether an expired client gets the events of its own ephemerals; here it
  never does.
- The wire layer is the client's: null paths and lists are read as empty ones, strings that are not UTF-8 do
  not decode, an ACL has only the permissions that exist, and characters beyond U+FFFF are written as UTF-8.
- Clients cannot make the server's internal requests: createSession is unknown, and deleteContainer is
  answered as by a 3.8, which misreads it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corral.wire import messages
from corral.wire.compile import DecodeError
from corral.wire.framing import DEFAULT_MAX_REQUEST

from . import acls
from .codes import AUTH_FAILED, AUTH_REQUIRED, MARSHALLING_ERROR, NOT_READ_ONLY, OK, UNIMPLEMENTED, Refused
from .database import NO_ZXID, Database
from .releases import Release, lacks, rules
from .requests import BODY, REFUSED_READ_ONLY, Requests
from .sasl import SaslExchange
from .server_connection import Buffer, FrameTransport, ServerConnection
from .sessions import PASSWORD_SIZE, Session, Sessions
from .tree import Tree
from .watches import ServerWatches
from .writes import Deletion, NewData

__all__ = ["Config", "Release", "ZooKeeper"]

_HEADER = struct.Struct(">ii")
_LEAST_CONNECT = 28  # a connect request with an empty password, without the field that 3.4 added


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a server is configured. Times are in seconds.

    - ``tick_time``: sessions expire in steps of it.
    - ``min_session_timeout``, ``max_session_timeout``: the bounds of session timeouts; None for 2 and 20
      ticks.
    - ``container_check_interval``: how often empty containers and expired TTL nodes are removed.
    - ``extended_types``: whether TTL nodes can be created.
    - ``jute_maxbuffer``: the largest frame, in bytes.
    - ``version``: the release to behave like, where releases differ; up to 3.6 it is 3.8 without the requests
      that later releases added, and sends events of nodes that their watcher may not read.
    - ``read_only``: whether it starts like a server that has lost its quorum.
    - ``seed``: makes session ids, passwords and SASL's challenges the same in each run.
    - ``sasl``: the users of SASL's DIGEST-MD5 with their secrets; None for a server without SASL.
    - ``require_sasl``: whether connections that have not authenticated by SASL are refused.
    """

    tick_time: float = 0.5
    min_session_timeout: float | None = None
    max_session_timeout: float | None = None
    container_check_interval: float = 0.5
    extended_types: bool = True
    jute_maxbuffer: int = DEFAULT_MAX_REQUEST
    version: Release = "3.8"
    read_only: bool = False
    seed: int | None = None
    sasl: Mapping[str, str] | None = field(default=None, repr=False)
    require_sasl: bool = False

    @property
    def least_timeout(self) -> float:
        """The shortest session timeout, in seconds."""
        return 2 * self.tick_time if self.min_session_timeout is None else self.min_session_timeout

    @property
    def most_timeout(self) -> float:
        """The longest session timeout, in seconds."""
        return 20 * self.tick_time if self.max_session_timeout is None else self.max_session_timeout


class ZooKeeper:
    """The server.

    `now` is monotonic seconds in every method, and never decreases. `wall` is seconds since the epoch at the
    first `now`. The times of nodes are computed from the two.
    """

    def __init__(self, config: Config, *, now: float, wall: float) -> None:
        self.config = config
        self.database = Database(version=config.version, wall=self._wall_now)
        self.connections: dict[ServerConnection, None] = {}
        """The connections that are open, oldest first."""
        self.read_only = config.read_only
        """May be changed while connections are open; it affects their next requests."""
        seed = random.getrandbits(64) if config.seed is None else config.seed & (1 << 64) - 1
        self.sessions: Sessions[ServerConnection] = Sessions(
            _milliseconds(config.tick_time),
            _milliseconds(config.least_timeout),
            _milliseconds(config.most_timeout),
            seed.to_bytes(8),
            _clock(now),
        )
        self.port = 0
        """The port that it listens on, for its answer to ``conf``; 0 if none."""
        self.packets_received = 0
        self._sent_before = 0  # on connections that are closed
        self._wall = wall - now
        self._started = self._now = now
        self._handlers = Requests(
            self.database,
            version=rules(config.version),
            extended_types=config.extended_types,
            sasl=config.sasl is not None,
        ).handlers
        self._rng = random.Random(seed)
        for operation in lacks(config.version):
            del self._handlers[operation.opcode]
        self._interval = _milliseconds(config.container_check_interval)
        self._next_check = _clock(now) + self._interval
        self._due = 0
        self._plan()

    @property
    def tree(self) -> Tree:
        """The nodes."""
        return self.database.tree

    @property
    def watches(self) -> ServerWatches[ServerConnection]:
        """The watches of all connections."""
        return self.database.watches

    @property
    def zxid(self) -> int:
        """The zxid of the last transaction."""
        return self.database.zxid

    # Connections

    def accept(
        self, transport: FrameTransport, now: float, *, host: str = "127.0.0.1", port: int = 0
    ) -> ServerConnection:
        """Accept a client's connection. Access control by ``ip`` uses its address."""
        self.tick(now)
        connection = ServerConnection(self, transport, host, port, self.wall_time(now))
        self.connections[connection] = None
        return connection

    def received(self, connection: ServerConnection, now: float, frame: Buffer) -> None:
        """Handle a frame of an open connection."""
        if _clock(now) >= self._due:
            self.tick(now)
            if not connection.is_open:
                return  # its session has expired
        self._now = now
        self.packets_received += 1
        connection.packets_received += 1
        if len(frame) > self.config.jute_maxbuffer:
            self._drop(connection)
        elif connection.session is None:
            self._connect(connection, frame)
        elif len(frame) < BODY:
            self._drop(connection)
        else:
            self._request(connection, connection.session, frame)

    def lost(self, connection: ServerConnection, now: float) -> None:
        """Forget a connection that its client has closed."""
        self._now = max(self._now, now)
        self._forget(connection)

    def _drop(self, connection: ServerConnection) -> None:
        """Close a connection."""
        self._forget(connection)
        connection.close()

    def _forget(self, connection: ServerConnection) -> None:
        if connection in self.connections:
            del self.connections[connection]
            self._sent_before += connection.packets_sent
            self.watches.forget(connection)
            if connection.session is not None and connection.session.connection is connection:
                connection.session.connection = None

    # Time

    def tick(self, now: float) -> None:
        """Expire sessions, and remove empty containers and expired TTL nodes."""
        self._now = now
        milliseconds = _clock(now)
        if milliseconds < self._due:
            return
        for session in self.sessions.expired(milliseconds):
            if self.read_only and not session.is_local:
                self.sessions.touch(session, milliseconds)  # only a leader expires these
            else:
                self._end(session)
        if milliseconds >= self._next_check:
            behind = (milliseconds - self._next_check) // self._interval
            self._next_check += (behind + 1) * self._interval
            if not self.read_only:
                for path in self.tree.expired(self._wall_now()):
                    self.database.zxid += 1
                    self.database.apply(Deletion(path))
        self._plan()

    def deadline(self) -> float:
        """When `tick` next has something to do; infinity if nothing is scheduled."""
        due = self.sessions.deadline()
        if self.tree.containers or self.tree.ttls:
            due = self._next_check if due is None else min(due, self._next_check)
        return float("inf") if due is None else due / 1000

    def restart(self, now: float) -> None:
        """Start again, as a new process does with the data of one that has ended.

        Nodes and sessions are kept, and the timeout of each session begins anew. Connections, watches and a
        read-only server's own sessions are lost.
        """
        for connection in list(self.connections):
            self._drop(connection)
        self._started = self._now = now
        self.packets_received = self._sent_before = 0
        self.sessions.restart(_clock(now))
        self._next_check = _clock(now) + self._interval
        self._plan()

    def wall_time(self, now: float) -> int:
        """The wall-clock time at `now`, in milliseconds since the epoch."""
        return _clock(self._wall + now)

    def packets_sent(self) -> int:
        """How many frames were sent since the start."""
        return self._sent_before + sum(connection.packets_sent for connection in self.connections)

    def uptime(self) -> int:
        """Milliseconds since the start."""
        return _clock(self._now - self._started)

    def _wall_now(self) -> int:
        return self.wall_time(self._now)

    def _plan(self) -> None:
        self._due = min(self.sessions.next_look, self._next_check)

    # Sessions

    def expire(self, session_id: int, now: float) -> bool:
        """End a session as if it had expired; returns False if there is none."""
        self.tick(now)
        session = self.sessions.find(session_id)
        if session is not None:
            self._end(session)
        return session is not None

    def reconfigure(self, members: Sequence[str], now: float) -> None:
        """Set the configuration to these members, as the transaction of a reconfiguration does."""
        self.tick(now)
        database = self.database
        database.zxid += 1
        config = "\n".join([*members, f"version={database.zxid:x}"])
        database.apply(NewData("/zookeeper/config", config.encode(), -1))

    def _end(self, session: Session[ServerConnection]) -> None:
        """End a session, and close its connection without an answer.

        In a real server, the events of the session's own ephemerals race with the closing of its connection;
        here the connection is closed first.
        """
        if session.connection is not None:
            self._drop(session.connection)
        self._close_session(session)

    def _close_session(self, session: Session[ServerConnection]) -> None:
        self.sessions.remove(session)
        if session.is_local:
            return
        self.database.zxid += 1
        paths = self.tree.ephemerals_of(session.id)
        self.tree.ephemerals.pop(session.id, None)
        for path in paths:
            self.database.apply(Deletion(path))

    def _connect(self, connection: ServerConnection, frame: Buffer) -> None:
        try:
            asked = messages.decode_connect(frame, 0, len(frame))
        except DecodeError:
            return self._drop(connection)
        if (self.read_only and not asked.read_only) or asked.last_zxid > self.zxid:
            return self._drop(connection)
        is_old = len(frame) <= _LEAST_CONNECT + len(asked.password)
        milliseconds = _clock(self._now)
        timeout = self.sessions.negotiate(_milliseconds(asked.timeout))
        session: Session[ServerConnection] | None
        if asked.session_id == 0:
            if not self.read_only:
                self.database.zxid += 1
            session = self.sessions.open(timeout, milliseconds, is_local=self.read_only)
        else:
            session = self.sessions.find(asked.session_id)
            if session is not None:
                if self.read_only and not session.is_local:
                    return self._drop(connection)
                if session.connection is not None:
                    self._drop(session.connection)
                if asked.password != self.sessions.password(session.id):
                    session = None
        if session is None:
            connection.send(_connect_reply(0, 0, bytes(PASSWORD_SIZE), self.read_only, is_old))
            return self._drop(connection)
        session.timeout = timeout
        session.connection = connection
        connection.session = session
        self.sessions.touch(session, milliseconds)
        password = self.sessions.password(session.id)
        connection.send(_connect_reply(timeout, session.id, password, self.read_only, is_old))

    # Requests

    def _request(
        self, connection: ServerConnection, session: Session[ServerConnection], frame: Buffer
    ) -> None:
        xid, opcode = _HEADER.unpack_from(frame)
        if opcode == messages.AUTH.opcode:
            return self._authenticate(connection, xid, frame)
        if opcode == messages.SASL.opcode:
            return self._sasl(connection, xid, frame)
        if self.config.require_sasl and not any(scheme == "sasl" for scheme, _ in connection.identities):
            connection.reply(xid, 0, AUTH_REQUIRED)
            return self._drop(connection)
        self.sessions.touch(session, _clock(self._now))
        if self.read_only and (opcode in REFUSED_READ_ONLY or (opcode == _CLOSE and not session.is_local)):
            return connection.reply(xid, self.zxid, NOT_READ_ONLY)
        if opcode == _CLOSE:
            self._close_session(session)
            connection.reply(xid, self.zxid, OK)
            return self._drop(connection)
        handler = self._handlers.get(opcode)
        if handler is None:
            connection.reply(xid, NO_ZXID, UNIMPLEMENTED)
            return self._drop(connection)
        try:
            body = handler(connection, frame)
        except Refused as refused:
            connection.reply(xid, self.zxid, refused.code, refused.body)
        except DecodeError:
            connection.reply(xid, self.zxid, MARSHALLING_ERROR)
        else:
            if body is not None:
                connection.reply(messages.PING_XID if opcode == _PING else xid, self.zxid, OK, body)
        connection.last_opcode = opcode
        if xid >= 0:
            connection.last_xid = xid
        connection.last_zxid = self.zxid

    # Authentication

    def _authenticate(self, connection: ServerConnection, xid: int, frame: Buffer) -> None:
        try:
            _, scheme, secret = messages.AUTH.request.decode(frame, BODY, len(frame))
        except DecodeError:
            return self._drop(connection)
        if scheme == "digest" and secret is not None:
            connection.add_identity(acls.digest_identity(secret))
        elif scheme != "ip":  # a connection has that identity from the start
            connection.reply(xid, 0, AUTH_FAILED)
            return self._drop(connection)
        connection.reply(xid, 0, OK)

    def _sasl(self, connection: ServerConnection, xid: int, frame: Buffer) -> None:
        """Answer a token; without a challenge, if the server is not configured for SASL."""
        try:
            token = messages.SASL.request.decode(frame, BODY, len(frame))
        except DecodeError:
            return self._drop(connection)
        encode, users = messages.SASL.reply.encode, self.config.sasl
        if users is None:
            return connection.reply(xid, 0, OK, encode(None))
        exchange = connection.sasl = connection.sasl or SaslExchange(users, self._rng)
        answer = exchange.challenge()
        if answer is None:
            try:
                user, answer = exchange.verify(token or b"")
            except Refused as refused:
                code = AUTH_REQUIRED if self.config.require_sasl else refused.code
                connection.reply(xid, 0, code, encode(None))
                return self._drop(connection)
            connection.add_identity(("sasl", user))
        connection.reply(xid, 0, OK, encode(answer))


_PING = messages.PING.opcode
_CLOSE = messages.CLOSE.opcode


def _clock(now: float) -> int:
    # Whole milliseconds. The small addition makes up for rounding: a deadline that `deadline` returned must
    # count as reached when it is passed back as `now`.
    return int(now * 1000 + 0.001)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _connect_reply(timeout: int, session_id: int, password: bytes, read_only: bool, is_old: bool) -> bytes:
    body = messages.encode_connect_reply(timeout / 1000, session_id, password, read_only)
    if is_old:
        body = body[:-1]
    return len(body).to_bytes(4) + body
