"""The operations on znodes, below a chroot: what a client offers, and all that recipes need."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Literal, overload

from . import errors, paths, verify
from .ensure import ROUNDS, make_path
from .session.supervisor import Session
from .transaction import Transaction
from .types import OPEN_ACL, Acl, Stat
from .wire import messages

__all__ = ["Nodes"]

# How many deletes one transaction of a recursive delete has: far below the frame limit with paths of a
# thousand bytes, and short enough not to hold up the leader.
DELETES_PER_TRANSACTION = 256
# How often a recursive `delete` looks at a tree that has not become smaller since it looked last.
TRIES = 16
# How long a refused operation waits for the version that the znode has, in seconds.
VERSION_PATIENCE = 1.0


class Nodes:
    """Operations on znodes. Each sends one request, unless it says otherwise, and waits for its answer.

    **On cancel** the wait ends at once. A request that was not sent yet is not sent; one that was may be
    carried out.

    **On loss** of the connection, a request that was not sent yet waits for the next connection: without a
    bound, so use `asyncio.timeout`. A read that was sent is sent again, and raises `ConnectionLoss` when the
    second connection breaks on it. A write that was sent raises `ConnectionLoss`: it may have been applied.

    Every operation can raise `ServerError` (refused; each names the subclasses to expect), `ConnectionLoss`,
    `ReplyError`, `SessionError` (the client is closed, or its credentials were refused) and `UsageError`.
    `BadVersion` has the version that the znode has, too: after the refusal it is read, for at most 1 s.

    A chroot is a prefix of paths. Whatever makes missing parents makes a missing chroot, too; reads find
    nothing below it; every other operation raises `NoNode`, which names the chroot.
    """

    def __init__(self, session: Session, chroot: str) -> None:
        self._session = session
        self._chroot = chroot

    @property
    def chroot_path(self) -> str:
        """The full path that is "/" for this client; "" if that is the server's own root."""
        return self._chroot

    def _full(self, path: str) -> str:
        return paths.resolve(self._chroot, path)

    def _no_node(self, error: errors.NoNode) -> errors.NoNode:
        """The same error, which names the chroot."""
        return errors.NoNode(error.operation, error.path, chroot=self._chroot)

    async def _bad_version(
        self, operation: str, path: str, expected: int | None, *, of_acl: bool = False
    ) -> errors.BadVersion:
        """The error for a refused version, with the one that the znode has, if a read soon tells."""
        found = None
        try:
            async with asyncio.timeout(VERSION_PATIENCE):
                stat = await self.exists(path)
        except (errors.CorralError, TimeoutError):
            stat = None  # the refusal stands, whatever became of this read
        if stat is not None:
            found = stat.aversion if of_acl else stat.version
        # It can be as expected by now, if the znode was deleted and created again.
        return errors.BadVersion(
            operation, path, expected=expected, found=None if found == expected else found
        )

    async def get(self, path: str) -> tuple[bytes, Stat]:
        """Read a znode's data. Raises `NoNode`.

        Null data, which some clients write, reads as ``b""``. The connected server answers, which may lag
        behind the leader; `sync` first where that matters.
        """
        try:
            result: tuple[bytes, Stat] = await self._session.request(
                messages.GET, messages.encode_get(self._full(path), False), path
            )
        except errors.NoNode as error:
            raise self._no_node(error) from None
        return result

    async def set(self, path: str, data: bytes, *, version: int | None = None) -> Stat:
        """Set a znode's data; returns its new `Stat`. Raises `NoNode`, or `BadVersion` if the data version
        is not `version` (None for any)."""
        body = messages.encode_set(self._full(path), verify.data(data), verify.version(version))
        try:
            result: Stat = await self._session.request(messages.SET, body, path)
        except errors.NoNode as error:
            raise self._no_node(error) from None
        except errors.BadVersion:
            raise await self._bad_version("set", path, version) from None
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
        try:
            result: list[str] | tuple[list[str], Stat] = await self._session.request(
                op, encode(self._full(path), False), path
            )
        except errors.NoNode as error:
            raise self._no_node(error) from None
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

        An `ephemeral` znode is deleted when the session ends. The server deletes a `container` some time
        after its last child. It deletes a znode with a `ttl` (seconds) that has no children when it was not
        changed for that long; servers offer that only with `extendedTypesEnabled`.

        With `make_parents`, missing parents are made, persistent, empty and with the same `acl`; they stay if
        the create fails. A missing chroot is made, too. If others delete the parents again, they are made up
        to 16 times. On loss of the connection the parents are made as by `ensure_path`; the create itself is
        not repeated.

        Raises `NodeExists`, `NoNode` (the parent does not exist), `NoChildrenForEphemerals`, `InvalidAcl`,
        and `SessionExpired` if an ephemeral create could not be sent before its session expired.
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
        for _ in range(ROUNDS if make_parents else 1):
            try:
                bound_to = self._session.session_id if ephemeral else 0
                answer: Any = await self._session.request(op, body, path, bound_to=bound_to)
                break
            except errors.NoNode as error:
                missing = error
                if make_parents:
                    await make_path(self._session, paths.parent_of(full), entries, chroot=self._chroot)
        else:
            raise self._no_node(missing) from None
        await self._session.observers_settled()
        if op is messages.CREATE:
            return paths.strip(self._chroot, answer)
        created, stat = answer
        created = paths.strip(self._chroot, created)
        return (created, stat) if with_stat else created

    async def ensure_path(self, path: str, *, acl: Sequence[Acl] = OPEN_ACL) -> None:
        """Make a znode and its missing parents: persistent, empty, each with this `acl`. One that exists is
        left as it is, and is no error. A missing chroot is made, too: ``ensure_path("/")``.

        All requests are sent together. On cancel a part of them may be carried out. On loss of the connection
        they are sent again, since they do no harm; `ConnectionLoss` is raised when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on one of them. Raises `NoAuth`, `InvalidAcl`,
        `NoChildrenForEphemerals`, and `NoNode` if others deleted a parent again in each of 16 rounds.
        """
        await make_path(self._session, self._full(path), verify.acl(acl), chroot=self._chroot)

    async def delete(self, path: str, *, version: int | None = None, recursive: bool = False) -> None:
        """Delete a znode. Raises `NoNode`, `NotEmpty`, or `BadVersion` if its data version is not `version`.

        With `recursive` everything below it is deleted too, leaves first, in transactions of up to 256
        deletes. So others may see a part of it gone; and after an error, a cancel or a loss of the connection
        a part of it is. When others create or delete znodes below it meanwhile, the tree is read again until
        it is gone. Raises `NotEmpty` after 16 rounds in which it did not become smaller. `version` is checked
        once, before the first delete.
        """
        full = self._full(path)
        expected = verify.version(version)
        if not recursive:
            body = messages.encode_delete(full, expected)
            try:
                await self._session.request(messages.DELETE, body, path)
            except errors.NoNode as error:
                raise self._no_node(error) from None
            except errors.BadVersion:
                raise await self._bad_version("delete", path, version) from None
            return
        if full == "/" or path == "/":
            raise errors.UsageValueError(
                "delete '/', recursive: the root cannot be deleted; name what is below it"
            )
        if version is not None:
            stat = await self.exists(path)
            if stat is not None and stat.version != expected != -1:
                raise errors.BadVersion("delete", path, expected=expected, found=stat.version)
        refused, fruitless, smallest = False, 0, sys.maxsize
        while fruitless < TRIES:
            try:
                found = await self._tree(full)
            except errors.NoNode:
                if refused:
                    return
                raise errors.NoNode("delete", path, chroot=self._chroot) from None
            if len(found) < smallest:
                smallest = len(found)
            else:
                fruitless += 1
            try:
                await self._delete_all(found)
            except errors.TransactionFailed as error:
                if not isinstance(error.cause, errors.NoNode | errors.NotEmpty):
                    raise error.cause from error
                refused = True  # somebody deletes or creates below it at the same time: look again
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
        try:
            result: tuple[list[Acl], Stat] = await self._session.request(
                messages.GET_ACL, messages.encode_get_acl(self._full(path)), path
            )
        except errors.NoNode as error:
            raise self._no_node(error) from None
        return result

    async def set_acl(self, path: str, acl: Sequence[Acl], *, version: int | None = None) -> Stat:
        """Set a znode's access control list. Raises `NoNode`, `InvalidAcl`, or `BadVersion` if its ACL
        version (`Stat.aversion`) is not `version`."""
        body = messages.encode_set_acl(self._full(path), verify.acl(acl), verify.version(version))
        try:
            result: Stat = await self._session.request(messages.SET_ACL, body, path)
        except errors.NoNode as error:
            raise self._no_node(error) from None
        except errors.BadVersion:
            raise await self._bad_version("set_acl", path, version, of_acl=True) from None
        return result

    async def sync(self, path: str = "/") -> None:
        """Bring the connected server up to date with the leader, for the reads that follow.

        This is not a quorum read: a leader that was deposed and does not know it yet answers, too. On loss of
        the connection it is sent again, like a read.
        """
        await self._session.request(messages.SYNC, messages.encode_sync(self._full(path)), path)

    def transaction(self) -> Transaction:
        """Several writes that apply together or not at all: ``async with zk.transaction() as tx:``. See
        `Transaction`."""
        return Transaction(self._session, self._chroot)
