"""A read/write lock: readers share, writers exclude, and each waits for those who came before."""

from __future__ import annotations

from .kit.context import RecipeContext
from .kit.downgrade import WriteHolding
from .kit.held import Held
from .kit.holding import Holding
from .kit.line import Contender
from .kit.node_names import RWLayout
from .kit.queue_lock import QueueLock

__all__ = ["HeldWrite", "RWLock", "ReadLock", "WriteLock"]


class RWLock:
    """A read/write lock on a path. Made by ``zk.rwlock(path)``.

    ``async with rw.read():`` shares with other readers, ``async with rw.write():`` excludes everybody. All
    stand in one line, first come, first served: a reader waits for the writers ahead of it, so that no writer
    starves; a writer for everybody ahead.

    A task that has entered either side gets `AlreadyHeld` for either: a writer that wants to go on as a
    reader calls `HeldWrite.downgrade`; a reader that wants to write would wait for itself, and lets go first.

    What happens on cancel and on loss, and when it gives up, is as for `Lock`. The names are those of
    Curator's ``InterProcessReadWriteLock``, which stands in the same line (its own downgrade is wrong before
    5.5: CURATOR-621). kazoo's ``ReadLock`` and ``WriteLock`` do with ``layout="kazoo"``, which has no
    downgrade.
    """

    def __init__(self, context: RecipeContext, layout: RWLayout) -> None:
        self.path = context.path
        self._context = context
        self._layout = layout

    def read(self) -> ReadLock:
        """The side that is shared."""
        return ReadLock(self._context, self._layout.read)

    def write(self) -> WriteLock:
        """The side that excludes."""
        return WriteLock(self._context, self._layout.write)

    async def contenders(self) -> list[Contender]:
        """Who holds it and who waits, readers and writers, in order, with their data.

        What happens on cancel and on loss is as for `Lock.contenders`.
        """
        return await self.read().contenders()

    def __repr__(self) -> str:
        return f"<RWLock {self.path!r}>"


class ReadLock(QueueLock[Held]):
    """The shared side of an `RWLock`, which says what happens on cancel and on loss."""

    _kind = "read lock"
    _held_type = Held

    def _remedy(self, holding: Holding) -> str:
        if isinstance(holding, WriteHolding) and not holding.is_downgraded:
            return "to go on as a reader, downgrade() it"
        return super()._remedy(holding)


class HeldWrite(Held):
    """A write lock that is held; see `Held`, and `downgrade`."""

    _holding: WriteHolding

    @property
    def is_downgraded(self) -> bool:
        """Whether it is a read lock by now."""
        return self._holding.is_downgraded

    async def downgrade(self) -> None:
        """Go on holding as a reader: other readers may come in, but no writer that waits, not for a moment.

        The fencing token stays, which is below that of every writer to come; transactions of this object go
        on to be guarded. Cancelling the wait does not stop it, and calling it again waits on; on loss of the
        connection it goes on waiting, as long as the lock is held.

        Raises `LockLost` if it is lost meanwhile; `UsageStateError` if it is not held, and where there is no
        downgrade: in kazoo's layout, and in a line whose numbers have run out (after 2^31 of them). After
        any other `ServerError` the write lock is held as before. Raises `ConnectionLoss` when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on this request: then it is unknown which of
        the two is held, and calling it again tries again.

        The algorithm is Curator's since CURATOR-621, a reader's node with the writer's number, but in one
        transaction.
        """
        await self._holding.downgrade()


class WriteLock(QueueLock[HeldWrite]):
    """The exclusive side of an `RWLock`, which says what happens on cancel and on loss."""

    _kind = "write lock"
    _held_type = HeldWrite
    _holding_type = WriteHolding
