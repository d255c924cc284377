"""An exclusive lock: the first in the line holds it."""

from __future__ import annotations

from .kit.held import Held
from .kit.queue_lock import QueueLock

__all__ = ["Lock"]


class Lock(QueueLock[Held]):
    """An exclusive, fair lock on a path, across tasks, processes and machines. Made by ``zk.lock(path)``.

    ``async with lock as held:`` waits in line, runs the body and releases the lock. `Held` says what happens
    to the body on a loss. Tasks may share one object, as with `asyncio.Lock`. The lock is not re-entrant: a
    task that has entered the path already gets `AlreadyHeld` instead of waiting for itself. A lock that was
    acquired and not entered refuses nobody. Uncontended, acquiring takes one round trip.

    **On cancel** (a timeout is one) `acquire` ends at once. The znode that it created, or may have created,
    is deleted as soon as a server can be reached. **On loss** of the connection it continues to wait. After
    an expired session, or if somebody deleted its znode, it joins the line again, at the end.

    Waiting for others has no bound but the caller's timeout. Retries have one: `acquire` raises
    `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on the same request, and
    `NoNode` when its znode, or the line itself, was gone 16 times in a row with no wait in between. Then,
    too, its znode is deleted.

    It requires the permissions CREATE, READ and DELETE on the path. The znodes of others need not be
    readable; if one is not, its end is noticed within a third of the session timeout.

    The algorithm is ZooKeeper's lock recipe with Curator's node names: ``InterProcessMutex`` on the same path
    uses the same line. By default we wait for kazoo's ``Lock``, which waits for us only with
    ``extra_lock_patterns=["-lock-"]``. With ``layout="kazoo"`` both wait for each other, and neither shares
    a line with Curator. No setting has all three in one line, unless kazoo is given Curator's names.
    """

    _kind = "lock"
    _held_type = Held
