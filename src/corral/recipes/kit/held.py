"""What users hold: a lock, a lease of a semaphore, leadership."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from corral import errors
from corral.transaction import Transaction

from .holding import Holding

__all__ = ["Held"]


class Held:
    """A lock that is held. Made by ``acquire()``. As an async context manager it is released on exit.

    The task that enters it owns it, whichever task has acquired it: a dispatcher may acquire, hand it to a
    worker that enters it, and wait for the next. While nobody has entered it, nobody is refused for it.

    **When it is lost** (the lease lapses, the session expires, its znode is deleted, the client is closed),
    the task that entered ``async with`` is cancelled once, before anyone else can hold it. There is one
    exception: if somebody deletes its znode, as `evict` does, the next in line holds at once. The task is
    cancelled when the server reports that, at the latest by the next heartbeat: within a sixth of the session
    timeout.

    On exit, a cancellation by corral, a normal return, or a `SessionError` or `ConnectionLoss` of the body
    becomes `LockLost`. The caller's own cancellation stays a `CancelledError`. Any other exception stays,
    with a note. Where there is no such task (held by ``acquire()`` alone, or entered in a task that has
    ended) nobody is cancelled: use `is_valid` or `wait_lost()`.

    **When the body is cancelled**, leaving does not wait for the server: the release is under way, in the
    background if the connection is down, so that a dead network does not delay a program that is stopping.
    Otherwise leaving waits as `release` does.

    **When its release fails** (see `release`), leaving ``async with`` raises what `release` does if the body
    ended normally. The body's own exception stays, with a note.
    """

    def __init__(self, holding: Holding) -> None:
        self._holding = holding

    @property
    def name(self) -> str:
        """The kind and the path of what is held, as messages name it."""
        return self._holding.name

    @property
    def fencing_token(self) -> int:
        """A number that grows with each acquisition of this path, across all clients: the zxid of the znode's
        creation. Pass it with each write to what the lock protects, and let that refuse an older one."""
        return self._holding.fencing_token

    @property
    def node(self) -> str:
        """The full path of the znode by which it is held, on the server."""
        return self._holding.node

    @property
    def session_id(self) -> int:
        """The id of the session that holds it."""
        return self._holding.session_id

    @property
    def is_valid(self) -> bool:
        """Whether it is held now. Computed from the clock: it is right even before a loss was noticed."""
        return self._holding.is_valid

    def transaction(self) -> Transaction:
        """A transaction that applies only if this is still held. The server checks it, atomically.

        Its commit raises `LockLost` if this is not held any more, or `SessionExpired` if its session expired.
        """
        return self._holding.transaction()

    def wait_lost(self) -> Coroutine[Any, Any, errors.LockLost | None]:
        """Wait until it is lost, and return the error; None once it is released.

        On cancel nothing changes. On loss of the connection it continues to wait while it is held.
        """
        return self._holding.wait_lost()

    def release(self) -> Coroutine[Any, Any, None]:
        """Release it: the next in line may hold it. Does nothing if it was released or lost before.

        Returns when the server has confirmed, or when the lease has ended: with the connection down, the
        release is carried out once there is one again. On cancel the release continues in the background.

        Raises `ServerError` if the server refuses it, most often `NoAuth`: deleting the znode takes the
        DELETE permission on its parent. Then it is still held, and may be released again.

        Raises `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on this request,
        and `ReplyError` when no answer can be used: then it does not count as held any more, but its znode
        may stay until it is released again or its session ends.
        """
        return self._holding.release()

    async def __aenter__(self) -> Self:
        self._holding.enter_now()
        return self

    def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        return self._holding.leave(exc)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name}, {self._holding.phase.value}, "
            f"fencing_token={self.fencing_token}>"
        )
