"""The operations on znodes, below a chroot: what a client offers, and all that recipes need."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, overload

from . import errors, paths, verify
from .session.supervisor import Session
from .transaction import Transaction
from .types import OPEN_ACL, Acl, Stat
from .wire import messages

__all__ = ["Nodes"]

# How many deletes one transaction of a recursive delete has: far below the frame limit with paths of a
# thousand bytes, and short enough not to hold up the leader.
DELETES_PER_TRANSACTION = 256
# How often `create` makes parents that vanish again, and `delete` walks a tree that grows again.
TRIES = 16


class Nodes:
    """Operations on znodes. Each sends one request, unless it says otherwise, and waits for its answer.

    **On cancel** the wait ends at once. A request not yet sent is not sent; one that was may be carried out.

    **On loss** of the connection, requests that are not yet sent wait for the next one, and reads that are
    under way are sent again. A write that is under way raises `ConnectionLoss`: it may have been applied.

    Every operation can raise `ServerError` (refused; each names the subclasses to expect), `ConnectionLoss`,
    `SessionError` (the client is closed, or its credentials were refused) and `UsageError`.
    """

    def __init__(self, session: Session, chroot: str) -> None:
        self._session = session
        self._chroot = chroot

    @property
    def chroot_path(self) -> str:
        """The full path that is "/" here; "" if that is the server's own root."""
        return self._chroot

    def _full(self, path: str) -> str:
        return paths.resolve(self._chroot, path)

    async def get(self, path: str) -> tuple[bytes, Stat]:
        """Read a znode's data. Raises `NoNode`.

        Null data, which some clients write, is given as ``b""``. The read is as of the connected server,
        which may lag behind the leader; `sync` first where that matters.
        """
        result: tuple[bytes, Stat] = await self._session.request(
            messages.GET, messages.encode_get(self._full(path), False), path
        )
        return result

    async def set(self, path: str, data: bytes, *, version: int | None = None) -> Stat:
        """Set a znode's data; returns its new `Stat`. Raises `NoNode`, or `BadVersion` if the data version
        is not `version` (None for any)."""
        body = messages.encode_set(self._full(path), verify.data(data), verify.version(version))
        result: Stat = await self._session.request(messages.SET, body, path)
        await self._session.observers_settled()
        return result

    async def exists(self, path: str) -> Stat | None:
        """The znode's `Stat`, or None if there is no such znode."""
        try:
            result: Stat = await self._session.request(
                messages.EXISTS, messages.encode_exists(self._full(path), False), path
            )
        except errors.NoNode:
            return None
        return result

    @overload
    async def children(self, path: str) -> list[str]: ...

    @overload
    async def children(self, path: str, *, with_stat: Literal[True]) -> tuple[list[str], Stat]: ...

    @overload
    async def children(self, path: str, *, with_stat: bool) -> list[str] | tuple[list[str], Stat]: ...

    async def children(self, path: str, *, with_stat: bool = False) -> list[str] | tuple[list[str], Stat]:
        """The names of a znode's children, unordered; with its own `Stat` if `with_stat`. Raises `NoNode`."""
        op, encode = (
            (messages.CHILDREN2, messages.encode_children2)
            if with_stat
            else (messages.CHILDREN, messages.encode_children)
        )
        result: list[str] | tuple[list[str], Stat] = await self._session.request(
            op, encode(self._full(path), False), path
        )
        return result

    @overload
    async def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl: float | None = None,
        acl: Sequence[Acl] = OPEN_ACL,
        make_parents: bool = False,
    ) -> str: ...

    @overload
    async def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl: float | None = None,
        acl: Sequence[Acl] = OPEN_ACL,
        make_parents: bool = False,
        with_stat: Literal[True],
    ) -> tuple[str, Stat]: ...

    @overload
    async def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl: float | None = None,
        acl: Sequence[Acl] = OPEN_ACL,
        make_parents: bool = False,
        with_stat: bool,
    ) -> str | tuple[str, Stat]: ...

    async def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl: float | None = None,
        acl: Sequence[Acl] = OPEN_ACL,
        make_parents: bool = False,
        with_stat: bool = False,
    ) -> str | tuple[str, Stat]:
        """Create a znode; returns its path, with the number added if it is `sequential`.

        An `ephemeral` znode goes with the session. A `container` is removed by the server some time after
        its last child. A znode with a `ttl` (seconds) is removed when it has no children and was not changed
        for so long; servers offer that only with `extendedTypesEnabled`. With `make_parents` those that
        are missing are made first, persistent, empty and with the same `acl`; they stay if the rest fails.

        Raises `NodeExists`, `NoNode` (a missing parent), `NoChildrenForEphemerals`, `InvalidAcl`. If an
        ephemeral create could not be sent before its session expired: `SessionExpired`.
        """
        full = verify.new_path(self._chroot, path, sequential=sequential)
        flags = verify.create_flags(ephemeral=ephemeral, sequential=sequential, container=container, ttl=ttl)
        data, entries = verify.data(data), verify.acl(acl)
        if ttl is not None:
            op, body = messages.CREATE_TTL, messages.encode_create_ttl(full, data, entries, flags, ttl)
        else:
            # With caches open we ask for the stat as well: they show what we have written.
            stat_wanted = with_stat or self._session.is_observed
            op = messages.CREATE2 if stat_wanted else messages.CREATE
            if container:
                op = messages.CREATE_CONTAINER
            body = messages.encode_create(full, data, entries, flags)
        for _ in range(TRIES if make_parents else 1):
            try:
                bound_to = self._session.session_id if ephemeral else 0
                answer: Any = await self._session.request(op, body, path, bound_to=bound_to)
                break
            except errors.NoNode as error:
                missing = error
                if make_parents:
                    await self.make(paths.parent_of(full), entries)
        else:
            raise missing
        await self._session.observers_settled()
        if op is messages.CREATE:
            return paths.strip(self._chroot, answer)
        created, stat = answer
        created = paths.strip(self._chroot, created)
        return (created, stat) if with_stat else created

    async def make(self, full: str, acl: Sequence[Acl] = OPEN_ACL, *, container: bool = False) -> None:
        """Make the znode at a full path, and its parents, where they are missing. For recipes.

        All requests go out together: within a session they are carried out in order. On loss they are sent
        again, since making a znode that exists changes nothing.
        """
        op, flags = (messages.CREATE_CONTAINER, verify.CONTAINER) if container else (messages.CREATE, 0)
        names = full[1:].split("/")
        below = ["/" + "/".join(names[: i + 1]) for i in range(len(names))] if full != "/" else []
        answers = await asyncio.gather(
            *(
                self._session.request(
                    op, messages.encode_create(path, b"", tuple(acl), flags), paths.strip(self._chroot, path)
                )
                for path in below
            ),
            return_exceptions=True,
        )
        if any(isinstance(answer, errors.ConnectionLoss) for answer in answers):
            await self.make(full, acl, container=container)
            return
        # An ancestor that we may not create can be there all the same: a refusal counts only if the last
        # one failed, for itself or for want of that ancestor. NoNode alone: one vanished again meanwhile.
        last = answers[-1] if answers else None
        if isinstance(last, BaseException) and not isinstance(last, errors.NodeExists):
            for answer in answers:
                if isinstance(answer, BaseException) and not isinstance(
                    answer, errors.NodeExists | errors.NoNode
                ):
                    raise answer

    async def delete(self, path: str, *, version: int | None = None, recursive: bool = False) -> None:
        """Delete a znode. Raises `NoNode`, `NotEmpty`, or `BadVersion` if its data version is not `version`.

        With `recursive` everything below it goes too, leaves first, in transactions of bounded size: not all
        at once, so others may see a part of it gone, and after a failure or a cancel a part of it is. What
        others create in the meantime goes as well, or `NotEmpty` is raised if they never stop.
        """
        full = self._full(path)
        expected = verify.version(version)
        if not recursive:
            body = messages.encode_delete(full, expected)
            await self._session.request(messages.DELETE, body, path)
            return
        if full == "/" or path == "/":
            raise errors.UsageValueError(
                "delete '/', recursive: the root cannot be deleted; name what is below it"
            )
        if version is not None:
            stat = await self.exists(path)
            if stat is not None and stat.version != expected != -1:
                raise errors.BadVersion("delete", path)
        refused, refilled = False, 0
        while refilled < TRIES:
            try:
                found = await self._tree(full)
            except errors.NoNode:
                if refused:
                    return
                raise errors.NoNode("delete", path) from None
            try:
                await self._delete_all(found)
            except errors.TransactionFailed as error:
                if not isinstance(error.cause, errors.NoNode | errors.NotEmpty):
                    raise error.cause from error
                # Somebody deletes (which is progress) or creates below it at the same time: look again.
                refused, refilled = True, refilled + isinstance(error.cause, errors.NotEmpty)
                continue
            except (errors.ConnectionLoss, errors.ReplyError) as error:
                what = "the answer to a part of it was lost, so the outcome is unknown"
                raise type(error)("delete", path, f"{what}: {error}") from error
            return
        raise errors.NotEmpty("delete", path, "others keep creating znodes below it")

    async def _tree(self, full: str) -> list[str]:
        """The full paths of a znode and of all below it, each before its children."""
        found = [full]
        level = [full]
        while level:
            answers = await asyncio.gather(
                *(
                    self._session.request(
                        messages.CHILDREN,
                        messages.encode_children(path, False),
                        paths.strip(self._chroot, path),
                    )
                    for path in level
                ),
                return_exceptions=True,
            )
            below: list[str] = []
            for path, answer in zip(level, answers, strict=True):
                if not isinstance(answer, BaseException):
                    below += [paths.join(path, name) for name in answer]
                elif path == full or not isinstance(answer, errors.NoNode):
                    raise answer
            found += below
            level = below
        return found

    async def _delete_all(self, found: list[str]) -> None:
        # A path is at most three bytes a character, and there are 17 bytes around it.
        room = self._session.max_body // 2
        while found:
            transaction, size = self.transaction(), 0
            for _ in range(min(len(found), DELETES_PER_TRANSACTION)):
                size += 3 * len(found[-1]) + 17
                if size > room and len(transaction):
                    break
                transaction.delete(paths.strip(self._chroot, found.pop()))
            await transaction.commit()

    async def get_acl(self, path: str) -> tuple[list[Acl], Stat]:
        """A znode's access control list. Raises `NoNode`."""
        result: tuple[list[Acl], Stat] = await self._session.request(
            messages.GET_ACL, messages.encode_get_acl(self._full(path)), path
        )
        return result

    async def set_acl(self, path: str, acl: Sequence[Acl], *, version: int | None = None) -> Stat:
        """Set a znode's access control list. Raises `NoNode`, `InvalidAcl`, or `BadVersion` if its ACL
        version (`Stat.aversion`) is not `version`."""
        body = messages.encode_set_acl(self._full(path), verify.acl(acl), verify.version(version))
        result: Stat = await self._session.request(messages.SET_ACL, body, path)
        return result

    async def sync(self, path: str = "/") -> None:
        """Bring the connected server up to date with the leader, for reads that follow.

        That is not a quorum read: a leader that has been deposed and does not know it answers too.
        """
        await self._session.request(messages.SYNC, messages.encode_sync(self._full(path)), path)

    def transaction(self) -> Transaction:
        """Several writes that apply together or not at all: ``async with zk.transaction() as tx:``."""
        return Transaction(self._session, self._chroot)
