"""Several writes that are applied together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from . import errors, paths, verify
from .session.refused_acl import invalid_acl
from .session.session import Session
from .types import Acl, Stat
from .wire import messages
from .wire.messages import Operation

__all__ = ["Transaction"]


class Guard(Protocol):
    """Something of ours that is held: the condition of a transaction."""

    @property
    def conditions(self) -> Sequence[tuple[str, int]]:
        """The znodes that must exist: full paths, and data versions (-1 for any)."""

    @property
    def session_id(self) -> int: ...

    def guard_error(self) -> errors.SessionError:
        """The error to raise when the server finds a condition unmet."""


class _Op(NamedTuple):
    op: Operation
    body: bytes
    path: str
    version: int | None
    """The data version that it requires, or None for any."""


class Transaction:
    """Collects writes. ``async with`` commits them on a clean exit and drops them on an exception.

    The server applies all of them, in order and with one zxid, or none. After the commit, `results` has one
    entry for each call: the path for `create`, the `Stat` for `set`, None for `check` and `delete`.

    **On cancel** the wait for the commit ends at once. A commit that was not sent yet is not sent. One that
    was sent may be applied.

    **On loss** of the connection, a commit that was sent raises `ConnectionLoss`: it may have been applied.
    One that was not sent yet waits for the next connection, without a bound: use `asyncio.timeout`.
    """

    def __init__(self, session: Session, chroot: str, guard: Guard | None = None) -> None:
        self._session = session
        self._chroot = chroot
        self._guard = guard
        self._ops: list[_Op] = []
        self._committed = False
        self.results: list[str | Stat | None] = []

    def check(self, path: str, version: int | None = None) -> None:
        """Apply the transaction only if the znode exists and its data version is `version` (None for any)."""
        body = messages.encode_check(paths.resolve(self._chroot, path), verify.version(version))
        self._add(messages.CHECK, body, path, version)

    def set(self, path: str, data: bytes, version: int | None = None) -> None:
        """Set the znode's data, if its data version is `version` (None for any)."""
        body = messages.encode_set(
            paths.resolve(self._chroot, path), verify.data(data), verify.version(version)
        )
        self._add(messages.SET, body, path, version)

    def delete(self, path: str, version: int | None = None) -> None:
        """Delete the znode, if its data version is `version` (None for any)."""
        body = messages.encode_delete(paths.resolve(self._chroot, path), verify.version(version))
        self._add(messages.DELETE, body, path, version)

    def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        acl: Sequence[Acl] | None = None,
    ) -> None:
        """Create a znode. The arguments are as for `Client.create`."""
        full = verify.new_path(self._chroot, path, sequential=sequential)
        flags = verify.create_flags(ephemeral=ephemeral, sequential=sequential)
        entries = self._session.default_acl if acl is None else verify.acl(acl)
        body = messages.encode_create(full, verify.data(data), entries, flags)
        self._add(messages.CREATE, body, path)

    def _add(self, op: Operation, body: bytes, path: str, version: int | None = None) -> None:
        self._check_open()
        self._ops.append(_Op(op, body, path, version))

    def _check_open(self) -> None:
        if self._committed:
            raise errors.UsageStateError(
                "this transaction was committed already; begin another with transaction()"
            )

    def __len__(self) -> int:
        return len(self._ops)

    async def commit(self) -> list[str | Stat | None]:
        """Send the writes and return `results`. For cancel and loss see `Transaction`.

        Raises `TransactionFailed` if the server refused one of the writes, `ConnectionLoss`, `FrameTooLarge`,
        and `UsageStateError` if it was committed before. A transaction of a lock (`Held.transaction`) raises
        `LockLost` or `SessionExpired` if the lock is not held any more.
        """
        self._check_open()
        self._committed = True
        if not self._ops:
            return self.results  # of an empty transaction the server would not even check the session
        guard = self._guard
        conditions = () if guard is None else guard.conditions
        ops = [(messages.CHECK, messages.encode_check(path, version)) for path, version in conditions]
        ops += [(op.op, op.body) for op in self._ops]
        answers: list[messages.MultiResult] = await self._session.request(
            messages.MULTI, messages.encode_multi(ops), None, bound_to=guard.session_id if guard else 0
        )
        codes = [answer.error for answer in answers]
        if any(codes):
            index = errors.refused_index(codes)
            code = codes[index]
            if guard is not None and index < len(conditions):
                if code in (errors.NoNode.code, errors.BadVersion.code):
                    raise guard.guard_error()
                raise errors.server_error(code, "check", paths.strip(self._chroot, conditions[index][0]))
            index -= len(conditions)
            refused = self._ops[index]
            path = paths.named(self._chroot, refused.path)
            cause = (
                invalid_acl(refused.op, refused.body, path)
                if code == errors.InvalidAcl.code
                else errors.server_error(code, refused.op.name, path, expected=refused.version)
            )
            raise errors.TransactionFailed(index, cause)
        self.results = [self._result(answer.value) for answer in answers[len(conditions) :]]
        await self._session.wait_caches_current()
        return self.results

    def _result(self, value: Any) -> str | Stat | None:
        return paths.strip(self._chroot, value) if isinstance(value, str) else value

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.commit()

    def __repr__(self) -> str:
        ops = ", ".join(errors.describe(op.op.name, op.path) for op in self._ops)
        return f"<Transaction of {len(self._ops)}: {ops}>"
