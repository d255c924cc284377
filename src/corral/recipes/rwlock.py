"""A read/write lock: readers share, writers exclude, first come, first served."""

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

    ``async with rw.read():`` shares with other readers; ``async with rw.write():`` excludes everybody. All
    use one line, first come, first served: a reader waits for the writers ahead of it, and a writer for
    everybody ahead, so that no writer starves.

    A task that has entered either side gets `AlreadyHeld` for both. A writer that wants to continue as a
    reader calls `HeldWrite.downgrade`. A reader that wants to write must release first, since it would wait
    for itself.

    On cancel and on loss, and in when it gives up, it behaves as `Lock` does. The node names are those of
    Curator's ``InterProcessReadWriteLock``, which uses the same line (its own downgrade is wrong before 5.5:
    CURATOR-621). ``layout="kazoo"`` is for kazoo's ``ReadLock`` and ``WriteLock``, and has no downgrade.
    """

    def __init__(self, context: RecipeContext, layout: RWLayout) -> None:
        self.path = context.path
        self._context = context
        self._layout = layout

    def read(self) -> ReadLock:
        """The shared side."""
        return ReadLock(self._context, self._layout.read)

    def write(self) -> WriteLock:
        """The exclusive side."""
        return WriteLock(self._context, self._layout.write)

    async def contenders(self) -> list[Contender]:
        """The holders and the waiters, readers and writers, in order, with their data.

        On cancel and on loss it behaves as `Lock.contenders` does.
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
            return "to continue as a reader, downgrade() it"
        return super()._remedy(holding)


class HeldWrite(Held):
    """A write lock that is held; see `Held`, and `downgrade`."""

    _holding: WriteHolding

    @property
    def is_downgraded(self) -> bool:
        """Whether it is a read lock by now."""
        return self._holding.is_downgraded

    async def downgrade(self) -> None:
        """Continue to hold as a reader. Other readers can enter; a waiting writer cannot, not for a moment.

        The fencing token stays: it is below that of every later writer. Transactions of this object are still
        guarded. On cancel only the wait ends, and calling it again continues to wait. On loss of the
        connection it continues to wait while the lock is held.

        Raises `LockLost` if the lock is lost meanwhile. Raises `UsageStateError` if it is not held, and where
        no downgrade exists: in kazoo's layout, and in a line whose numbers have run out (after 2^31). After
        any other `ServerError` the write lock is still held. Raises `ConnectionLoss` when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on this request: then it is unknown which of
        the two is held, and calling it again tries again.

        The algorithm is Curator's since CURATOR-621, a reader's znode with the writer's number, but in one
        transaction.
        """
        await self._holding.downgrade()


class WriteLock(QueueLock[HeldWrite]):
    """The exclusive side of an `RWLock`, which says what happens on cancel and on loss."""

    _kind = "write lock"
    _held_type = HeldWrite
    _holding_type = WriteHolding
