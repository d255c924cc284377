"""The operations on znodes below a chroot: the part of a client that recipes use, too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Literal, overload

from . import errors, paths, verify
from .ensure import ROUNDS, make_path
from .session.session import Session
from .transaction import Transaction
from .types import Acl, Identity, Stat
from .wire import messages

__all__ = ["Nodes"]

# The most deletes in one transaction of a recursive delete: with paths of a thousand bytes far below the
# frame limit, and short enough not to delay other clients' writes at the leader.
DELETES_PER_TRANSACTION = 256
# How often a recursive delete reads a tree that has not become smaller before it gives up.
TRIES = 16
# How long the error for a refused version waits for the znode's current version, in seconds.
VERSION_PATIENCE = 1.0


class Nodes:
    """Operations on znodes. Each sends one request, unless its docstring says otherwise, and waits for the
    answer.

    **On cancel** the wait ends at once. A request that was not sent yet is not sent. One that was sent may be
    carried out.

    **On loss** of the connection, a request that was not sent yet waits for the next connection, without a
    bound: use `asyncio.timeout`. A read that was sent is sent again, and raises `ConnectionLoss` when a
    second connection breaks on it. A write that was sent raises `ConnectionLoss`: it may have been applied.

    Every operation can raise `ServerError` (the docstrings name the subclasses to expect), `ConnectionLoss`,
    `ReplyError`, `SessionError` (the client is closed, or its credentials were refused) and `UsageError`.
    `BadVersion` names the expected and the current version: the current one is read after the refusal, which
    takes at most 1 s.

    A chroot is a prefix of paths. Operations that create missing parents create a missing chroot, too. Reads
    find nothing below a missing chroot, and every other operation raises `NoNode`, which names it.
    """

    def __init__(self, session: Session, chroot: str) -> None:
        self._session = session
        self._chroot = chroot

    @property
    def chroot_path(self) -> str:
        """The full path of the chroot, which this client calls "/"; "" without a chroot."""
        return self._chroot

    def _full(self, path: str) -> str:
        return paths.resolve(self._chroot, path)

    def _acl(self, acl: Sequence[Acl] | None) -> tuple[Acl, ...]:
        return self._session.default_acl if acl is None else verify.acl(acl)

    async def _bad_version(
        self, operation: str, path: str, expected: int | None, *, of_acl: bool = False
    ) -> errors.BadVersion:
        """The error for a refused version, with the current one if a read within `VERSION_PATIENCE` finds
        it."""
        found = None
        try:
            async with asyncio.timeout(VERSION_PATIENCE):
                stat = await self.exists(path)
        except (errors.CorralError, TimeoutError):
            stat = None  # raise the refusal, not the failure of this read
        if stat is not None:
            found = stat.aversion if of_acl else stat.version
        # If the znode was deleted and created again, its version can be the expected one by now.
        return errors.BadVersion(
            operation, path, expected=expected, found=None if found == expected else found
        )

    async def get(self, path: str) -> tuple[bytes, Stat]:
        """Read a znode's data and its `Stat`. Raises `NoNode`.

        Null data, which some clients write, reads as ``b""``. The answer comes from the connected server,
        which may lag behind the leader; call `sync` first where that matters.
        """
        full, named = paths.locate(self._chroot, path)
        result: tuple[bytes, Stat] = await self._session.request(
            messages.GET, messages.encode_get(full, False), named
        )
        return result

    async def set(self, path: str, data: bytes, *, version: int | None = None) -> Stat:
        """Set a znode's data and return its new `Stat`. Raises `NoNode`, and `BadVersion` if the data version
        is not `version` (None for any)."""
        full, named = paths.locate(self._chroot, path)
        body = messages.encode_set(full, verify.data(data), verify.version(version))
        try:
            result: Stat = await self._session.request(messages.SET, body, named)
        except errors.BadVersion:
            raise await self._bad_version("set", path, version) from None
        await self._session.wait_caches_current()
        return result

    async def exists(self, path: str) -> Stat | None:
        """Return the znode's `Stat`, or None if the znode does not exist. Raises `NoAuth` if the ACL does not
        let us read it and the server (3.8.4, 3.9.2 and later) hides its `Stat` then."""
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
        """Return the names of a znode's children, in no order; `with_stat` adds the znode's own `Stat`.
        Raises `NoNode`."""
        op, encode = (
            (messages.CHILDREN2, messages.encode_children2)
            if with_stat
            else (messages.CHILDREN, messages.encode_children)
        )
        full, named = paths.locate(self._chroot, path)
        result: list[str] | tuple[list[str], Stat] = await self._session.request(
            op, encode(full, False), named
        )
        return result

    async def count_children(self, path: str, *, recursive: bool = True) -> int:
        """Return the number of znodes below a znode: all of them, or its own children if not `recursive`.
        Raises `NoNode`.

        To count all, the server looks at every znode that it has, so do not call this often. It counts what
        we may not read, too. Needs READ on `path`, and ZooKeeper 3.6 or newer: an older server raises
        `Unimplemented` and closes the connection, see `who_am_i`. The number of own children is from the
        znode's `Stat`, which any server has, and which servers from 3.9 on show only with READ.
        """
        verify.flag(recursive, "recursive")
        full, named = paths.locate(self._chroot, path)
        if not recursive:
            stat: Stat = await self._session.request(
                messages.EXISTS, messages.encode_exists(full, False), named
            )
            return stat.num_children
        total: int = await self._session.request(messages.COUNT_ALL, messages.encode_count_all(full), named)
        return total

    async def ephemerals(self, path: str = "/") -> list[str]:
        """Return the paths of this session's ephemeral znodes, in no order: those at `path` and below it.
        What locks and other recipes hold is among them.

        Needs no permission, and ZooKeeper 3.6 or newer: an older server raises `Unimplemented` and closes the
        connection, see `who_am_i`. After a session has expired, the answer is the new session's.
        """
        full, named = paths.locate(self._chroot, path)
        found: list[str] = await self._session.request(
            messages.GET_EPHEMERALS, messages.encode_get_ephemerals(full), named
        )
        # The server compares text: "/a" finds "/ab", too.
        below = full.rstrip("/") + "/"
        return [paths.strip(self._chroot, each) for each in found if each == full or each.startswith(below)]

    async def who_am_i(self) -> list[Identity]:
        """Return who this session is to the server: by its address, by its credentials, by SASL, and by its
        client certificate. These are what access control lists are compared with, and, except ``ip``, what
        `corral.acl.creator` stands for.

        Needs ZooKeeper 3.7 or newer. An older server raises `Unimplemented` and closes the connection, as for
        each request that it does not know: writes that are unanswered then raise `ConnectionLoss`, everything
        else continues on the next connection, and locks stay held.
        """
        found: list[tuple[str, str]] = await self._session.request(messages.WHO_AM_I, b"", None)
        return [Identity(*each) for each in found]

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
        acl: Sequence[Acl] | None = None,
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
        acl: Sequence[Acl] | None = None,
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
        acl: Sequence[Acl] | None = None,
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
        acl: Sequence[Acl] | None = None,
        make_parents: bool = False,
        with_stat: bool = False,
    ) -> str | tuple[str, Stat]:
        """Create a znode and return its path, with the server's number if it is `sequential`; `with_stat`
        adds its `Stat`.

        The server deletes an `ephemeral` znode when the session ends, and a `container` some time after its
        last child is deleted. It deletes a znode with a `ttl` (seconds) that has no children when it was not
        changed for that long; it offers this only with `extendedTypesEnabled`.

        `acl` is the access control list, such as those of `corral.acl`; None for the client's default
        (`default_acl=` of `corral.connect`). A znode does not inherit its parent's.

        `make_parents` creates missing parents, a missing chroot included: persistent, empty and with the same
        `acl`, so that who may not change the znode cannot replace it either. Whoever else is to create znodes
        beside it needs CREATE in that list. The parents stay if the create fails. If other clients delete
        them again, they are created up to 16 times. On loss of the connection they are created as by
        `ensure_path`; the create itself is not repeated.

        Raises `NodeExists`, `NoNode` (the parent does not exist), `NoChildrenForEphemerals`, `InvalidAcl`,
        and `SessionExpired` if an ephemeral create could not be sent before its session expired.
        """
        full = verify.new_path(self._chroot, path, sequential=sequential)
        flags = verify.create_flags(ephemeral=ephemeral, sequential=sequential, container=container, ttl=ttl)
        data, entries = verify.data(data), self._acl(acl)
        if ttl is not None:
            op, body = messages.CREATE_TTL, messages.encode_create_ttl(full, data, entries, flags, ttl)
        else:
            # An open cache shows this client's writes at once, so it needs the stat.
            stat_wanted = with_stat or self._session.is_observed
            op = messages.CREATE2 if stat_wanted else messages.CREATE
            if container:
                op = messages.CREATE_CONTAINER
            body = messages.encode_create(full, data, entries, flags)
        named = paths.named(self._chroot, path)
        rounds = ROUNDS if make_parents else 0
        while True:
            try:
                bound_to = self._session.session_id if ephemeral else 0
                answer: Any = await self._session.request(op, body, named, bound_to=bound_to)
                break
            except errors.NoNode:
                if rounds == 0:
                    raise
            rounds -= 1
            await make_path(self._session, paths.parent_of(full), entries, chroot=self._chroot)
        await self._session.wait_caches_current()
        if op is messages.CREATE:
            return paths.strip(self._chroot, answer)
        created, stat = answer
        created = paths.strip(self._chroot, created)
        return (created, stat) if with_stat else created

    async def ensure_path(self, path: str, *, acl: Sequence[Acl] | None = None) -> None:
        """Create a znode and its missing parents: persistent, empty, each with this `acl` (None for the
        client's default). Znodes that exist stay as they are. A missing chroot is created, too:
        ``ensure_path("/")``.

        All requests are sent together. On cancel some of them may be carried out. On loss of the connection
        they are sent again, since repeating them changes nothing; raises `ConnectionLoss` when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on one of them. Raises `NoAuth`, `InvalidAcl`,
        `NoChildrenForEphemerals`, and `NoNode` if other clients deleted a parent again in each of 16 rounds.
        """
        await make_path(self._session, self._full(path), self._acl(acl), chroot=self._chroot)

    async def delete(self, path: str, *, version: int | None = None, recursive: bool = False) -> None:
        """Delete a znode. Raises `NoNode`, `NotEmpty`, and `BadVersion` if its data version is not `version`
        (None for any).

        `recursive` deletes everything below it, too, leaves first, in transactions of up to 256 deletes.
        Other clients can see the tree partly deleted, and an error, a cancel or a loss of the connection
        leaves it so. If other clients create or delete znodes below it meanwhile, the tree is read again
        until it is gone. Raises `NotEmpty` after 16 rounds in which it did not become smaller. `version` is
        checked once, before the first delete.
        """
        full, named = paths.locate(self._chroot, path)
        expected = verify.version(version)
        if not recursive:
            body = messages.encode_delete(full, expected)
            try:
                await self._session.request(messages.DELETE, body, named)
            except errors.BadVersion:
                raise await self._bad_version("delete", path, version) from None
            return
        if full == "/" or path == "/":
            raise errors.UsageValueError(
                "delete '/', recursive: the root cannot be deleted; delete what is below it"
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
                raise errors.NoNode("delete", named) from None
            if len(found) < smallest:
                smallest = len(found)
            else:
                fruitless += 1
            try:
                await self._delete_all(found)
            except errors.TransactionFailed as error:
                if not isinstance(error.cause, errors.NoNode | errors.NotEmpty):
                    raise error.cause from error
                refused = True  # another client deletes or creates below it at the same time: read it again
                continue
            except (errors.ConnectionLoss, errors.ReplyError) as error:
                what = "the answer to one of its transactions was lost; read the tree to see what is left"
                raise type(error)("delete", path, f"{what}: {error}") from error
            return
        problem = f"other clients kept creating znodes below it for {TRIES} rounds; stop them, then delete it"
        raise errors.NotEmpty("delete", path, problem)

    async def _tree(self, full: str) -> list[str]:
        """The full paths of a znode and of everything below it, parents before children."""
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
        # A delete takes 17 bytes and its path, which has at most three bytes a character.
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
        """Read a znode's access control list and its `Stat`. Raises `NoNode`."""
        full, named = paths.locate(self._chroot, path)
        result: tuple[list[Acl], Stat] = await self._session.request(
            messages.GET_ACL, messages.encode_get_acl(full), named
        )
        return result

    async def set_acl(self, path: str, acl: Sequence[Acl], *, version: int | None = None) -> Stat:
        """Set a znode's access control list and return its new `Stat`. Raises `NoNode`, `InvalidAcl`, and
        `BadVersion` if its ACL version (`Stat.aversion`) is not `version` (None for any)."""
        full, named = paths.locate(self._chroot, path)
        body = messages.encode_set_acl(full, verify.acl(acl), verify.version(version))
        try:
            result: Stat = await self._session.request(messages.SET_ACL, body, named)
        except errors.BadVersion:
            raise await self._bad_version("set_acl", path, version, of_acl=True) from None
        return result

    async def sync(self, path: str = "/") -> None:
        """Bring the connected server up to date with the leader, for the reads that follow.

        This is not a quorum read: a leader that was deposed and has not noticed yet answers, too. On loss of
        the connection the request is sent again, like a read.
        """
        await self._session.request(messages.SYNC, messages.encode_sync(self._full(path)), path)

    def transaction(self) -> Transaction:
        """Several writes that are applied together or not at all: ``async with zk.transaction() as tx:``. See
        `Transaction`."""
        return Transaction(self._session, self._chroot)
