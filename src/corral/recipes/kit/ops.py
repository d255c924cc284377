"""Typed operations on full paths, for recipes. `path` is what errors name.

The reads, and the transactions of `multi`, do no harm when the server carries them out twice. They are
therefore repeated after each lost connection, and raise `ConnectionLoss` once it is hopeless
(`errors.ConnectionLoss.is_hopeless`). On cancel they stop at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from corral import errors, paths, verify
from corral.session.session import Session
from corral.types import Acl, Stat, Znode
from corral.wire import messages
from corral.wire.messages import MultiResult, Operation

__all__ = [
    "EPHEMERAL", "EPHEMERAL_SEQUENTIAL", "PERSISTENT", "PERSISTENT_SEQUENTIAL", "Outcome", "Write", "check",
    "children", "create", "current_session", "data_of_each", "delete", "exists", "get", "is_gone",
    "is_own_ephemeral", "multi", "quorum_barrier", "read_children", "send_create", "send_delete", "send_set",
    "set_data", "stat_of_each",
]  # fmt: skip

PERSISTENT = verify.create_flags()
PERSISTENT_SEQUENTIAL = verify.create_flags(sequential=True)
EPHEMERAL = verify.create_flags(ephemeral=True, sequential=False)
EPHEMERAL_SEQUENTIAL = verify.create_flags(ephemeral=True, sequential=True)

# Reads


def get(session: Session, full: str, path: str, *, bound_to: int = 0) -> Awaitable[tuple[bytes, Stat]]:
    """A znode's data and `Stat`. Raises `NoNode`, and `NoAuth` if it takes a permission that we lack."""
    return session.ask(messages.GET, messages.encode_get(full, False), path, bound_to=bound_to)


def exists(
    session: Session, full: str, path: str, *, bound_to: int = 0, at_once: bool = False
) -> Awaitable[Stat]:
    """A znode's `Stat`. Raises `NoNode`. Servers from 3.9 on raise `NoAuth` if we may not read it."""
    body = messages.encode_exists(full, False)
    return session.ask(messages.EXISTS, body, path, bound_to=bound_to, at_once=at_once)


async def is_own_ephemeral(session: Session, full: str, path: str) -> bool:
    """Whether there is an ephemeral of this session at a path. It needs no permission; servers before 3.6 do
    not know this request."""
    body = messages.encode_get_ephemerals(full)
    return full in await session.ask(messages.GET_EPHEMERALS, body, path)


def children(session: Session, full: str, path: str) -> Awaitable[tuple[list[str], Stat]]:
    """The names of a znode's children, and its own `Stat`. Raises `NoNode`, and `NoAuth` if it takes a
    permission that we lack."""
    return session.ask(messages.CHILDREN2, messages.encode_children2(full, False), path)


async def data_of_each(
    session: Session, parent: str, names: Iterable[str], path: str
) -> dict[str, tuple[bytes, Stat] | errors.NoAuth]:
    """Data and `Stat` of each of these children that exists, or the refusal."""
    return await _of_each(session, messages.GET, parent, names, path)


async def read_children(session: Session, full: str, path: str) -> list[tuple[str, Znode]]:
    """The children of a znode that exist and that we may read, in the order of their names; none if there is
    no such znode. Raises `NoAuth` if we may not list them."""
    try:
        names, _ = await children(session, full, path)
    except errors.NoNode:
        return []
    found = await data_of_each(session, full, names, path)
    return [
        (name, Znode(*answer))
        for name, answer in sorted(found.items())
        if not isinstance(answer, errors.NoAuth)
    ]


async def stat_of_each(
    session: Session, parent: str, names: Iterable[str], path: str
) -> dict[str, Stat | errors.NoAuth]:
    """The `Stat` of each of these children that exists, or the refusal."""
    return await _of_each(session, messages.EXISTS, parent, names, path)


async def _of_each(
    session: Session, op: Operation, parent: str, names: Iterable[str], path: str
) -> dict[str, Any]:
    encode = messages.encode_get if op is messages.GET else messages.encode_exists
    found = dict[str, Any]()
    left = list(names)
    while left:
        # All in one write, and without a task for each.
        answers = await asyncio.gather(
            *(session.request(op, encode(paths.join(parent, name), False), path) for name in left),
            return_exceptions=True,
        )
        lost = []
        for name, answer in zip(left, answers, strict=True):
            if isinstance(answer, errors.ConnectionLoss) and not answer.is_hopeless:
                lost.append(name)
            elif not isinstance(answer, BaseException) or isinstance(answer, errors.NoAuth):
                found[name] = answer
            elif not isinstance(answer, errors.NoNode):
                raise answer
        left = lost
    return found


# Single writes. They are sent once: `ConnectionLoss` means that the outcome is unknown, and the caller
# resolves it.


def send_create(
    session: Session,
    full: str,
    path: str,
    data: bytes,
    acl: tuple[Acl, ...],
    flags: int,
    *,
    bound_to: int = 0,
) -> Awaitable[tuple[str, Stat]]:
    """Create a znode; returns its full path and its `Stat`. Raises `NodeExists` and `NoNode`."""
    body = messages.encode_create(full, data, acl, flags)
    return session.request(messages.CREATE2, body, path, bound_to=bound_to)


def send_set(
    session: Session, full: str, path: str, data: bytes, version: int, *, bound_to: int = 0
) -> Awaitable[Stat]:
    """Set a znode's data if its data version is this one (-1 for any). Raises `NoNode` and `BadVersion`."""
    return session.request(messages.SET, messages.encode_set(full, data, version), path, bound_to=bound_to)


def send_delete(
    session: Session, full: str, path: str, version: int, *, bound_to: int = 0, is_patient: bool = False
) -> Awaitable[None]:
    """Delete a znode if its data version is this one (-1 for any). Raises `NoNode`, `BadVersion`, and
    `NotEmpty`. With `is_patient` it waits where writes raise `NotReadOnly`."""
    send = session.request_patiently if is_patient else session.request
    return send(messages.DELETE, messages.encode_delete(full, version), path, bound_to=bound_to)


# Transactions

Write: TypeAlias = "tuple[Operation, bytes]"
"""One operation of a transaction."""


def check(full: str, version: int = -1) -> Write:
    """The znode exists, and has this data version (-1 for any)."""
    return messages.CHECK, messages.encode_check(full, version)


def create(full: str, data: bytes, acl: tuple[Acl, ...], flags: int) -> Write:
    """Create a znode."""
    return messages.CREATE, messages.encode_create(full, data, acl, flags)


def set_data(full: str, data: bytes, version: int = -1) -> Write:
    """Set a znode's data, if its data version is this one (-1 for any)."""
    return messages.SET, messages.encode_set(full, data, version)


def delete(full: str, version: int = -1) -> Write:
    """Delete a znode, if its data version is this one (-1 for any)."""
    return messages.DELETE, messages.encode_delete(full, version)


class Outcome(NamedTuple):
    """Whether a transaction was applied, and if not, why."""

    refused: int | None
    """The index of the operation that the server refused; None if all were applied."""
    code: int
    """The error code of that operation; 0 if all were applied."""

    @classmethod
    def of(cls, results: Sequence[MultiResult]) -> Outcome:
        """The outcome in the server's answer."""
        codes = [result.error for result in results]
        if not any(codes):
            return cls(None, 0)
        refused = errors.refused_index(codes)
        return cls(refused, codes[refused])

    def is_refused(self, index: int, error: type[errors.ServerError]) -> bool:
        """Whether the operation at `index` was refused with this error."""
        return self.refused == index and self.code == error.code

    def error(self, operation: str, path: str) -> errors.ServerError:
        """The error of the refused operation."""
        return errors.server_error(self.code, operation, path)


async def multi(
    session: Session, writes: Sequence[Write], path: str, *, bound_to: int = 0, is_patient: bool = False
) -> Outcome:
    """Apply all writes or none, again after each lost connection: use it only where that does no harm. With
    `is_patient` it waits where writes raise `NotReadOnly`."""
    body = messages.encode_multi(writes)
    answer = await session.ask(messages.MULTI, body, path, bound_to=bound_to, is_patient=is_patient)
    return Outcome.of(answer)


async def quorum_barrier(session: Session, full: str, path: str) -> None:
    """Return once the ensemble has ordered a write behind everything that this session sent before.

    Whether `full` exists does not matter. A `sync` would not do: a server that still follows a deposed leader
    answers it (S2). It waits also where writes raise `NotReadOnly`: what was sent before may have been
    applied.
    """
    await multi(session, [check(full)], path, is_patient=True)


async def current_session(session: Session, full: str, path: str) -> int:
    """The id of the current session; waits until there is one. Raises `NotReadOnly`."""
    while not session.session_id:
        await multi(session, [check(full)], path)
    return session.session_id


async def is_gone(session: Session, full: str, path: str, *, bound_to: int) -> bool:
    """Whether a znode of ours, or its session, is gone, by one small read. Needs no permission."""
    try:
        await exists(session, full, path, bound_to=bound_to, at_once=True)
    except errors.NoAuth:  # it exists
        return False
    except (errors.NoNode, errors.SessionExpired):
        return True
    return False
