"""A znode that says that this client is here."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from corral import errors, verify

from .kit.context import RecipeContext
from .kit.registration import OnTaken, RegisteredNode

__all__ = ["RegisteredObject", "Registration"]


class RegisteredObject:
    """What a registration of any kind has: see `Registration`, which also says what happens on cancel and on
    loss of the connection."""

    _kind = "registration of"

    def __init__(self, context: RecipeContext, on_taken: OnTaken) -> None:
        self.path = context.path
        self._node = RegisteredNode(context, self._kind, on_taken)

    @property
    def is_present(self) -> bool:
        """Whether the znode exists in the current session, as far as this client knows."""
        return self._node.is_present

    async def wait_present(self) -> None:
        """Wait until the znode exists in the current session; return at once if it does.

        The wait has no bound: use `asyncio.timeout`. On cancel nothing changes. On loss of the connection it
        continues. Raises `SessionError` when the client cannot have a session any more, and `UsageStateError`
        outside the ``async with`` block.
        """
        await self._node.wait_present()

    async def __aenter__(self) -> Self:
        await self._node.register()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(exc, asyncio.CancelledError):
            # Whoever cancels a body wants it to end, also on a dead network.
            self._node.unregister_nowait()
            return
        try:
            await self._node.unregister()
        except errors.CorralError as failure:
            if exc is None:
                raise
            exc.add_note(f"corral: meanwhile {failure}")  # which is logged as well

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}, {'present' if self.is_present else 'not present'}>"


class Registration(RegisteredObject):
    """A znode that exists as long as this client does. Made by ``zk.registration(path, data)``.

    ``async with zk.registration("/nodes/host-7", b"up") as me:`` creates an ephemeral znode and waits until
    it exists. It is created again, with its newest data, in each new session, and whenever somebody deletes
    it. Leaving the block deletes it. Different tasks may enter and leave.

    If the path is taken by **an earlier session of this client**, its znode is replaced at once. If it is
    taken by **somebody else**, entering waits until that znode is gone; with ``on_taken="raise"`` it raises
    `NodeExists`. Once the znode has existed, a path that somebody else has taken meanwhile is always waited
    for, which is logged. Others may set the znode's data: it stays until the next `update`, or until the
    znode is created again.

    **On cancel** of entering, or of the body, the task does not wait: a znode that was created, or may have
    been, is deleted in the background, as soon as a server can be reached. **On loss** of the connection,
    entering and `update` wait for the next connection. Neither has a bound but the caller's timeout. Leaving
    waits for at most the session timeout: without a connection the znode is deleted later.

    Entering raises what the server refuses (`NoAuth`, `NoChildrenForEphemerals`), `FrameTooLarge`,
    `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on the same request, and
    `NoNode` or `NodeExists` when others deleted or created the znode, or its parent, 16 times in a row.
    Such an error later is logged, raised by the updates that wait, and the znode is tried again every third
    of the session timeout. Leaving raises what the server refuses, most often `NoAuth`: then the znode stays
    until the session ends. A client has one registration of a path at a time: `UsageStateError` tells. One
    that is still being deleted is waited for.

    It requires the permissions CREATE and DELETE on the parent, and WRITE on the znode for `update`. A znode
    that we may not read, ours or somebody else's, is looked at every third of the session timeout, since
    servers do not report its end. Missing parents are created, as containers. The layout is that of Curator's
    ``PersistentNode``.
    """

    @property
    def data(self) -> bytes:
        """The data that the znode has, or will have."""
        return self._node.data

    async def update(self, data: bytes) -> None:
        """Set the znode's data, and wait until it has it. A later session's znode has it, too.

        If several tasks update at once, the last one wins, and each waits until its data, or newer data, is
        set. On cancel the data may be set. On loss of the connection it continues. Raises `NoAuth` and the
        like if the server refuses it: the data stays as it was. Raises `ConnectionLoss` and `ReplyError` as
        entering does: the znode has the old data or the new. While the znode cannot be created, it raises
        the reason, and the znode will have the new data. Also raises `FrameTooLarge`, `SessionError` when the
        client cannot have a session any more, and `UsageStateError` outside the ``async with`` block.
        """
        await self._node.update(verify.data(data))
