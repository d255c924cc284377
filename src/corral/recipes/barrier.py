"""A barrier: a gate on a path, which somebody closes and opens."""

from __future__ import annotations

from corral import errors, paths
from corral.ensure import make_path
from corral.watch.existence import ExistenceWatch

from .kit import ops
from .kit.context import RecipeContext
from .kit.ops import Write
from .kit.rounds import Rounds

__all__ = ["Barrier"]


class Barrier:
    """A gate that holds up whoever waits at it while it is closed. Made by ``zk.barrier(path)``.

    ``await barrier.close()`` closes it, ``await barrier.open()`` opens it, and ``await barrier.wait()``
    returns when it is open. It is closed while the znode at its path exists. That znode is persistent, so a
    barrier stays closed after its client has ended. Any client may open it. Closing a closed one, or opening
    an open one, changes nothing.

    **On cancel** of `close` and `open` they may have been carried out, or not. `wait` leaves nothing behind.
    **On loss** of the connection all of them continue. `close` and `open` are carried out once (X1): if
    another client opens the barrier while the answer to `close` is lost, it is not closed a second time. For
    this they write a znode beside the barrier, which is deleted at once.

    `close` and `open` raise `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on
    the same request, or when the session ended before the outcome was known. `open` raises `NotEmpty` if
    somebody has created znodes below the barrier's.

    They require the permissions CREATE and DELETE on the parent. `wait` and `is_closed` require none. Missing
    parents are created, as containers. The layout is that of Curator's ``DistributedBarrier`` and of kazoo's
    ``Barrier``, which may use the same path.
    """

    def __init__(self, context: RecipeContext) -> None:
        self.path = context.path
        self._context = context
        self._session = context.session
        self._parent = paths.parent_of(context.full)

    async def close(self) -> None:
        """Close it: whoever waits from now on is held up. See `Barrier` for cancel and loss."""
        self._session.ensure_loop()
        context, rounds = self._context, Rounds()
        while True:
            write = ops.create(context.full, context.data, context.acl, ops.PERSISTENT)
            refusal = await self._write("close", write)
            if isinstance(refusal, errors.NoNode):
                rounds.again(refusal)
                await make_path(
                    self._session, self._parent, context.acl, container=True, chroot=context.chroot
                )
            elif refusal is None or isinstance(refusal, errors.NodeExists):
                return
            else:
                raise refusal

    async def open(self) -> None:
        """Open it: whoever waits goes on. See `Barrier` for cancel and loss."""
        self._session.ensure_loop()
        refusal = await self._write("open", ops.delete(self._context.full))
        if refusal is not None and not isinstance(refusal, errors.NoNode):
            raise refusal

    async def _write(self, verb: str, write: Write) -> errors.ServerError | None:
        """Carry out a write once; returns the refusal, if the server refuses it."""
        # Marked beside the barrier's znode: below it, the mark would keep it from being deleted.
        context = self._context
        async with context.shared.marks.at(self._session, self._parent, self.path, context.acl) as marked:
            outcome = await marked.write([write])
        return None if outcome.refused is None else outcome.error(verb, self.path)

    async def wait(self) -> None:
        """Wait until it is open; return at once if it is open now.

        If it is opened and closed again, a waiter may not notice, and continues to wait. Waiting has no
        limit: bound it with `asyncio.timeout`. On cancel nothing stays behind. On loss of the connection it
        continues, across reconnects and new sessions. It also polls, and raises, as `Client.wait_absent`.
        """
        context = self._context
        feeds = context.shared.feeds
        async with ExistenceWatch(feeds, context.full, self.path, reads_data=False) as events:
            async for event in events:
                if not event.exists:
                    return

    async def is_closed(self) -> bool:
        """Whether it is closed, as the connected server knows it.

        On cancel nothing changes. On loss of the connection it repeats the request, and raises
        `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on it.
        """
        self._session.ensure_loop()
        try:
            await ops.exists(self._session, self._context.full, self.path)
        except errors.NoNode:
            return False
        except errors.NoAuth:  # it exists
            return True
        return True

    def __repr__(self) -> str:
        return f"<Barrier {self.path!r}>"
