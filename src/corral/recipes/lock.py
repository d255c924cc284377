"""An exclusive lock: the first in the line holds it."""

from __future__ import annotations

from .kit.held import Held
from .kit.queue_lock import QueueLock

__all__ = ["Lock"]


class Lock(QueueLock[Held]):
    """An exclusive lock on a path, fair, for tasks, processes and machines. Made by ``zk.lock(path)``.

    ``async with lock as held:`` waits in line, runs the body and releases; what the body is told on a loss
    is in `Held`. One object may be shared by many tasks, as `asyncio.Lock` is. It is not re-entrant: a task
    that has entered the path already gets `AlreadyHeld`, rather than wait for itself. What was acquired and
    not entered refuses nobody. Uncontended, acquiring takes one round trip.

    **On cancel** (a timeout is one) `acquire` ends at once, and the node that it made, or may have made, is
    removed as soon as a server can be reached. **On loss** of the connection it goes on waiting, and after
    an expired session, or when somebody has removed its node, it stands in line again, at the end.

    Waiting for others has no bound but the caller's timeout. Retrying has: `acquire` gives up with
    `ConnectionLoss` when five connections in a row broke on one and the same request
    (`ConnectionLoss.MOST_LOSSES`), and with `NoNode` when 16 times in a row its node, or the line itself, was
    gone with nothing waited for in between. Then, too, its node is removed.

    It takes the permissions CREATE, READ and DELETE on the path; the nodes of others need not be readable.
    The end of one that is not is noticed within a third of the session timeout.

    The algorithm is ZooKeeper's lock recipe, with Curator's node names: ``InterProcessMutex`` on the same
    path stands in the same line. kazoo's ``Lock`` is waited for, but waits for us only with
    ``extra_lock_patterns=["-lock-"]``; with ``layout="kazoo"`` both wait for each other, and Curator for
    neither. No setting has all three in one line, unless kazoo is taught Curator's names.
    """

    _kind = "lock"
    _held_type = Held
