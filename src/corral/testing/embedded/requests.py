"""The handlers of requests, by opcode: each takes a request and returns the body of its reply.

A handler's connection has a session. It raises `Refused`, or `DecodeError` for a request that it cannot read.
When it returns, its changes are applied and the events that they cause are sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corral.types import Stat
from corral.wire import messages
from corral.wire.messages import Operation

from . import acls
from .codes import BAD_ARGUMENTS, MARSHALLING_ERROR, NO_NODE, OK, RECONFIG_DISABLED, Refused
from .database import NO_ZXID, Database, event
from .server_connection import Buffer, ServerConnection
from .tree import Node
from .watches import Mode
from .writes import Change, Writes

__all__ = ["BODY", "REFUSED_READ_ONLY", "Handler", "Requests"]

BODY = 8
"""The offset of a request's body, behind xid and opcode."""

DELETE_CONTAINER = 20
REFUSED_READ_ONLY = {op.opcode for op in messages.OPERATIONS.values() if op.is_write} | {
    messages.SYNC.opcode,
    DELETE_CONTAINER,
}
"""The opcodes that a read-only server refuses."""

Handler = Callable[[ServerConnection, Buffer], bytes | None]
"""Takes a whole request; returns the body of the reply, or None to send no reply."""


class Requests:
    """Serves requests from a database. `handlers` has the handlers by opcode, except that of closeSession."""

    def __init__(self, database: Database, *, version: str, extended_types: bool, sasl: bool) -> None:
        self._database = database
        self._tree = database.tree
        self._watches = database.watches
        self._writes = Writes(self._tree, version=version, extended_types=extended_types, sasl=sasl)
        self._follows_38 = version == "3.8"
        m = messages
        table: dict[Operation, Handler] = {
            m.CREATE: self._create,
            m.CREATE2: self._create2,
            m.CREATE_CONTAINER: self._create_container,
            m.CREATE_TTL: self._create_ttl,
            m.DELETE: self._delete,
            m.SET: self._set,
            m.SET_ACL: self._set_acl,
            m.CHECK: self._check,
            m.MULTI: self._multi,
            m.RECONFIG: self._reconfig,
            m.EXISTS: self._exists,
            m.GET: self._get,
            m.GET_ACL: self._get_acl,
            m.CHILDREN: self._children,
            m.CHILDREN2: self._children2,
            m.SYNC: self._sync,
            m.MULTI_READ: self._multi_read,
            m.GET_EPHEMERALS: self._get_ephemerals,
            m.COUNT_ALL: self._count_all,
            m.SET_WATCHES: self._set_watches,
            m.SET_WATCHES2: self._set_watches2,
            m.ADD_WATCH: self._add_watch,
            m.CHECK_WATCHES: self._check_watches,
            m.REMOVE_WATCHES: self._remove_watches,
            m.PING: self._ping,
            m.WHO_AM_I: self._who_am_i,
        }
        self.handlers: dict[int, Handler] = {
            **{operation.opcode: handler for operation, handler in table.items()},
            DELETE_CONTAINER: self._delete_container,
        }

    # Writes

    def _decode_write(self, operation: Operation, frame: Buffer) -> Any:
        """Decode a write and take a zxid for it; up to 3.8, even a write that does not decode takes one."""
        if self._follows_38:
            self._database.zxid += 1
            return operation.request.decode(frame, BODY, len(frame))
        fields = operation.request.decode(frame, BODY, len(frame))
        self._database.zxid += 1
        return fields

    def _make(self, operation: Operation, connection: ServerConnection, frame: Buffer) -> tuple[str, Stat]:
        fields = self._decode_write(operation, frame)
        creation = self._writes.create(self._tree, connection, operation.opcode, *fields)
        return creation.path, self._database.apply(creation).stat()

    def _create(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, _ = self._make(messages.CREATE, connection, frame)
        return messages.CREATE.reply.encode(path)

    def _create2(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return messages.CREATE2.reply.encode(*self._make(messages.CREATE2, connection, frame))

    def _create_container(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return messages.CREATE_CONTAINER.reply.encode(
            *self._make(messages.CREATE_CONTAINER, connection, frame)
        )

    def _create_ttl(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return messages.CREATE_TTL.reply.encode(*self._make(messages.CREATE_TTL, connection, frame))

    def _delete(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, version = self._decode_write(messages.DELETE, frame)
        self._database.apply(self._writes.delete(self._tree, connection, path, version))
        return b""

    def _set(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, data, version = self._decode_write(messages.SET, frame)
        node = self._database.apply(self._writes.set_data(self._tree, connection, path, data, version))
        return messages.SET.reply.encode(node.stat())

    def _set_acl(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, entries, version = self._decode_write(messages.SET_ACL, frame)
        node = self._database.apply(self._writes.set_acl(self._tree, connection, path, entries, version))
        return messages.SET_ACL.reply.encode(node.stat())

    def _check(self, connection: ServerConnection, frame: Buffer) -> None:
        """A check outside a transaction. If it succeeds, a real server fails to encode the reply, and sends
        none."""
        path, version = self._decode_write(messages.CHECK, frame)
        self._writes.check(self._tree, connection, path, version)

    def _multi(self, connection: ServerConnection, frame: Buffer) -> bytes:
        self._database.zxid += 1
        operations = messages.decode_multi(frame, BODY, len(frame))
        results = []
        for opcode, error, change in self._writes.transaction(connection, operations):
            if change is None:
                results.append((messages.ERROR_OPCODE, error, b""))
            else:
                results.append((opcode, OK, self._result(opcode, change, self._database.apply(change))))
        return messages.encode_multi_reply(results)

    @staticmethod
    def _result(opcode: int, change: Change, node: Node) -> bytes:
        if opcode == messages.CREATE.opcode:
            return messages.CREATE.reply.encode(change.path)
        if opcode == messages.CREATE2.opcode:
            return messages.CREATE2.reply.encode(change.path, node.stat())
        if opcode == messages.SET.opcode:
            return messages.SET.reply.encode(node.stat())
        return b""

    def _reconfig(self, connection: ServerConnection, frame: Buffer) -> bytes:
        messages.RECONFIG.request.decode(frame, BODY, len(frame))
        self._database.zxid += 1
        raise Refused(RECONFIG_DISABLED)

    def _delete_container(self, connection: ServerConnection, frame: Buffer) -> bytes:
        """The server's internal request. A real server accepts it from a client, but reads its header as the
        path."""
        self._database.zxid += 1
        raise Refused(BAD_ARGUMENTS)

    # Reads

    def _readable(self, path: str, connection: ServerConnection) -> Node:
        node = self._tree.nodes.get(path)
        if node is None:
            raise Refused(NO_NODE)
        node.acl.demand(acls.READ, connection.identities)
        return node

    def _exists(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, watch = messages.EXISTS.request.decode(frame, BODY, len(frame))
        if "\0" in path:
            raise Refused(BAD_ARGUMENTS)
        node = self._tree.nodes.get(path)
        if node is not None and not self._follows_38:
            node.acl.demand(acls.READ, connection.identities)
        if watch:
            self._watches.watch_data(path, connection)
        if node is None:
            raise Refused(NO_NODE)
        return messages.EXISTS.reply.encode(node.stat())

    def _get(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, watch = messages.GET.request.decode(frame, BODY, len(frame))
        node = self._readable(path, connection)
        if watch:
            self._watches.watch_data(path, connection)
        return messages.GET.reply.encode(node.data, node.stat())

    def _get_acl(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path = messages.GET_ACL.request.decode(frame, BODY, len(frame))
        node = self._tree.nodes.get(path)
        if node is None:
            raise Refused(NO_NODE)
        acl, identities = node.acl, connection.identities
        acl.demand(acls.READ | acls.ADMIN, identities)
        entries = acl.entries if acl.allows(acls.ADMIN, identities) else acl.masked()
        return messages.GET_ACL.reply.encode(entries, node.stat())

    def _children(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, watch = messages.CHILDREN.request.decode(frame, BODY, len(frame))
        return messages.CHILDREN.reply.encode(self._list(path, watch, connection).children.listed())

    def _children2(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, watch = messages.CHILDREN2.request.decode(frame, BODY, len(frame))
        node = self._list(path, watch, connection)
        return messages.CHILDREN2.reply.encode(node.children.listed(), node.stat())

    def _list(self, path: str, watch: bool, connection: ServerConnection) -> Node:
        node = self._readable(path, connection)
        if watch:
            self._watches.watch_children(path, connection)
        return node

    def _sync(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return messages.SYNC.reply.encode(messages.SYNC.request.decode(frame, BODY, len(frame)))

    def _multi_read(self, connection: ServerConnection, frame: Buffer) -> bytes:
        operations = messages.decode_multi(frame, BODY, len(frame))
        reads = [operation in (messages.GET, messages.CHILDREN) for operation, _ in operations]
        if not all(reads):
            # Reads mixed with writes do not decode. Writes alone do, and get an empty list of results.
            raise Refused(MARSHALLING_ERROR, b"" if any(reads) else messages.encode_multi_reply([]))
        results: list[tuple[int, int, bytes]] = []
        for operation, fields in operations:
            try:
                node = self._readable(fields[0], connection)
            except Refused as refused:
                results.append((messages.ERROR_OPCODE, refused.code, b""))
            else:
                if operation is messages.GET:
                    body = messages.GET.reply.encode(node.data, node.stat())
                else:
                    body = messages.CHILDREN.reply.encode(node.children.listed())
                results.append((operation.opcode, OK, body))
        return messages.encode_multi_reply(results)

    def _get_ephemerals(self, connection: ServerConnection, frame: Buffer) -> bytes:
        prefix = messages.GET_EPHEMERALS.request.decode(frame, BODY, len(frame))
        paths = self._tree.ephemerals_of(connection.session_id)
        if prefix.strip() not in ("", "/"):
            paths = [path for path in paths if path.startswith(prefix)]
        return messages.GET_EPHEMERALS.reply.encode(paths)

    def _count_all(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path = messages.COUNT_ALL.request.decode(frame, BODY, len(frame))
        self._readable(path, connection)
        return messages.COUNT_ALL.reply.encode(self._tree.count_below(path))

    # Watches

    def _set_watches(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return self._restore(
            connection, *messages.SET_WATCHES.request.decode(frame, BODY, len(frame)), [], []
        )

    def _set_watches2(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return self._restore(connection, *messages.SET_WATCHES2.request.decode(frame, BODY, len(frame)))

    def _restore(self, connection: ServerConnection, zxid: int, *paths: list[str]) -> bytes:
        data, exist, children, persistent, recursive = paths
        missed = self._watches.restore(
            connection, zxid, data, exist, children, persistent, recursive, self._tree.find
        )
        for kind, path in missed:
            connection.send(event(kind, path, NO_ZXID))
        return b""

    def _add_watch(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, mode = messages.ADD_WATCH.request.decode(frame, BODY, len(frame))
        if mode not in (0, 1):
            raise Refused(MARSHALLING_ERROR)
        self._watches.watch_persistently(path, connection, Mode.RECURSIVE if mode else Mode.PERSISTENT)
        return messages.ADD_WATCH.reply.encode(OK)

    def _check_watches(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, kind = messages.CHECK_WATCHES.request.decode(frame, BODY, len(frame))
        self._watches.check(path, kind, connection)
        return b""

    def _remove_watches(self, connection: ServerConnection, frame: Buffer) -> bytes:
        path, kind = messages.REMOVE_WATCHES.request.decode(frame, BODY, len(frame))
        self._watches.remove(path, kind, connection)
        return b""

    # Others

    def _ping(self, connection: ServerConnection, frame: Buffer) -> bytes:
        return b""

    def _who_am_i(self, connection: ServerConnection, frame: Buffer) -> bytes:
        users = [(scheme, name.partition(":")[0]) if scheme == "digest" else (scheme, name)
                 for scheme, name in connection.identities]  # fmt: skip
        return messages.WHO_AM_I.reply.encode(users)
