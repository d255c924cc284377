"""Creating a znode so that it is found again when the answer is lost (Curator's "protection").

The name has a GUID. The session may lose the answer to a create, and with it the znode's number and whether
there is a znode at all. After the reconnect a quorum write is answered before the children are listed. The
create cannot come after that write: what the old server had passed on was ordered before it, and what it
passes on later is refused as SessionMoved (S2). Then the GUID tells.

A znode that belongs to the session before this one is about to vanish, and does not count (L10). When the
creating task is cancelled, the outcome is followed to the end, and the znode removed (L3).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from corral import errors, paths
from corral.ensure import make_path
from corral.session.requests import Request
from corral.types import Acl, Stat

from . import ops
from .certain import GuaranteedDelete
from .context import RecipeContext
from .listing import Listing
from .node_names import Naming
from .order import numbers
from .rounds import Rounds

__all__ = ["ProtectedNodes", "QueueNode"]

logger = logging.getLogger("corral.recipes")

_UNKNOWN = (errors.ConnectionLoss, errors.ReplyError)
"""After these errors a create may have been carried out."""


class QueueNode(NamedTuple):
    """A sequential znode of ours."""

    path: str
    """Its full path."""
    name: str
    sequence: int
    czxid: int
    session_id: int

    @classmethod
    def of(cls, path: str, sequence: int, stat: Stat) -> QueueNode:
        """The node at a full path."""
        return cls(path, path.rpartition("/")[2], sequence, stat.czxid, stat.ephemeral_owner)


class ProtectedNodes:
    """Ephemeral sequential znodes with a GUID in their names, below the parent `full`."""

    def __init__(self, context: RecipeContext, full: str, naming: Naming, labels: tuple[str, ...]) -> None:
        self.full = full
        self.path = (
            context.path
            if full is context.full
            else paths.named(context.chroot, paths.strip(context.chroot, full))
        )
        """The parent as errors name it."""
        self._context = context
        self._session = context.session
        self._lists = context.shared.lists
        self._naming = naming
        self._labels = labels

    async def listing(self) -> Listing:
        """The names of the parent's children; none if there is no parent.

        On loss of the connection the request is repeated until that is hopeless, and then raises
        `ConnectionLoss`.
        """
        while True:
            try:
                return Listing.of(await self._lists.ask(self._session, self.full, self.path))
            except errors.NoNode:
                return Listing(())
            except errors.ConnectionLoss as loss:  # twice on one read; it changes nothing, so go on
                if loss.is_hopeless:
                    raise

    def leave(self, node: QueueNode, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        """Start to delete our node, and return at once. See `GuaranteedDelete` for `on_done`."""
        GuaranteedDelete(self._session, node.path, node.session_id, on_done)

    async def _after_failed_create(
        self, error: BaseException, guid: str, acl: tuple[Acl, ...], rounds: Rounds
    ) -> QueueNode | None:
        """Our node, if it exists all the same. None if it does not, and the create may be repeated. Otherwise
        raises `error`."""
        if isinstance(error, errors.NoNode):
            rounds.again(error)
            await make_path(self._session, self.full, acl, container=True, chroot=self._context.chroot)
        elif isinstance(error, _UNKNOWN):
            found = await self._find_or_sweep(guid)
            if found is not None:
                return found
            if isinstance(error, errors.ReplyError):
                rounds.again(error)
            elif error.is_hopeless:
                raise error
        elif not isinstance(error, errors.SessionExpired):
            raise error
        return None

    async def _find_or_sweep(self, guid: str) -> QueueNode | None:
        try:
            return await self._find(guid)
        except BaseException:
            self._sweep_later(guid)
            raise

    async def _find(self, guid: str) -> QueueNode | None:
        """After a create of unknown outcome: our node, or None if the create did not happen."""
        # One after the other, not in one pipeline: after a lost connection the list could be sent again
        # behind which the write is sent again.
        await ops.quorum_barrier(self._session, self.full, self.path)
        for name in await self.listing():
            if guid in name and (node := await self._owned(name)) is not None:
                return node
        return None

    async def _owned(self, name: str) -> QueueNode | None:
        path = paths.join(self.full, name)
        number = numbers([name], self._labels).get(name)
        stat = (await ops.stat_of_each(self._session, self.full, [name], self.path)).get(name)
        if isinstance(stat, errors.NoAuth):  # the ACL that we gave it does not let us read it
            GuaranteedDelete(self._session, path, 0)
            return None
        if number is None or stat is None or stat.ephemeral_owner != self._session.session_id:
            return None
        return QueueNode.of(path, number, stat)

    def _abandon(self, request: Request, guid: str) -> None:
        """The task that waited for a create was cancelled: whatever the outcome, the node must go."""
        request.hand_over(_Abandoned(self, guid))

    def _sweep_later(self, guid: str) -> None:
        async def sweep() -> None:
            try:
                found = await self._find(guid)
            except errors.SessionError:
                return  # its session is over, and so is the node
            except errors.CorralError as error:
                logger.warning(
                    "a znode with %s in %s may stay until its session ends: %s", guid, self.full, error
                )
                return
            if found is not None:
                self.leave(found)

        self._session.spawn(sweep, f"corral sweep of {self.full}")


class _Abandoned:
    """Waits for the answer to a create in place of the task that was cancelled (`requests.Waiter`)."""

    __slots__ = ("_guid", "_nodes")

    def __init__(self, nodes: ProtectedNodes, guid: str) -> None:
        self._nodes = nodes
        self._guid = guid

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        path, stat = result
        self._nodes.leave(QueueNode.of(path, 0, stat))  # its number does not matter any more

    def set_exception(self, exception: BaseException, /) -> None:
        if isinstance(exception, _UNKNOWN):
            self._nodes._sweep_later(self._guid)
