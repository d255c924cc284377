"""Something held: what the body of ``async with`` is told on a loss, and how it is given up (L4 to L6)."""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from corral import errors
from corral.transaction import Transaction

from .line import Line, Place
from .site import Site

__all__ = ["Held"]

logger = logging.getLogger("corral.recipes")

# A body that is still running this part of T after its lease ended is logged while it runs.
OUTLIVED_AFTER = 1 / 10


class Phase(enum.Enum):
    """Where a `Held` stands."""

    HELD = "held"
    RELEASING = "releasing"
    RELEASED = "released"
    LOST = "lost"


_HELD, _RELEASING, _RELEASED, _LOST = Phase  # see `machine` for why


class Recipe(Protocol):
    """Whoever makes a `Held`."""

    @property
    def name(self) -> str:
        """What it is, as its owner calls it."""

    def over(self, held: Held) -> None:
        """Its owner is done with it."""

    def kept(self, held: Held) -> None:
        """Its owner was done with it, but the server refused to remove it."""


class Held:
    """A lock that is held. Made by ``acquire()``; as an async context manager it is released on exit.

    The task that enters it owns it, whichever task has acquired it: a dispatcher may acquire, hand it to a
    worker that enters it, and wait for the next. While nobody has entered it nobody is refused for it.

    **When it is lost** (the lease lapses, the session expires, its node is deleted, the client is closed) the
    task that entered ``async with`` is cancelled once, before anybody else can hold it. One case is an
    exception: if somebody deletes its node, as `evict` does, the next in line holds at once. The task is
    cancelled when the server tells of that, at the latest by the next heartbeat: within a sixth of the
    session timeout.

    On exit a cancellation of our making, a normal return, or a `SessionError` or `ConnectionLoss` of the
    body becomes `LockLost`; the caller's own cancellation stays a `CancelledError`; any other exception
    stays, with a note. Where there is no such task (held by ``acquire()`` alone, or entered in a task that
    has ended) nobody is cancelled: ask `is_valid`, or `wait_lost()`.

    **When the body is cancelled** leaving does not wait for the server: the release is under way, in the
    background if the connection is down, so a program that is told to stop is not held up by a dead network.
    Otherwise leaving waits as `release` does.

    **When its release fails** (see `release`), leaving ``async with`` raises what `release` does if the body
    ended normally; the body's own exception stays, with a note.
    """

    owner: asyncio.Task[object] | None = None
    """The task that entered it."""
    _failure: BaseException | None = None
    """Why the last attempt to release it failed."""

    def __init__(
        self,
        site: Site,
        line: Line,
        place: Place,
        acquirer: asyncio.Task[object] | None,
        via: Recipe,
    ) -> None:
        self.acquirer = acquirer
        """The task that acquired it."""
        self.via = via
        """The object through which it was acquired."""
        self._site = site
        self._session = site.session
        self._line = line
        self._place = place
        self._phase = _HELD
        self._waiting: list[asyncio.Future[None]] = []
        self._error: errors.SessionError | None = None
        self._ended = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cancelled = False
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self) -> bool:
        """Have the session keep it, and tell of its loss. False if that has come already."""
        self._session.hold(self)
        return self._phase is _HELD

    @property
    def name(self) -> str:
        """What is held, as its owner calls it."""
        return self.via.name

    @property
    def fencing_token(self) -> int:
        """A number that grows with each acquisition of this path, over all clients: the zxid of the node's
        creation. Pass it with each write to what the lock protects, and let that refuse an older one."""
        return self._place.czxid

    @property
    def node(self) -> str:
        """The full path of the node that stands for it on the server."""
        return self._place.path

    @property
    def checked(self) -> str:
        """The node whose being there a heartbeat checks."""
        return self._place.path

    @property
    def is_leaving(self) -> bool:
        """Whether its node is being deleted by its holder."""
        return self._phase is _RELEASING

    @property
    def session_id(self) -> int:
        """The session that holds it."""
        return self._place.session_id

    @property
    def is_valid(self) -> bool:
        """Whether it is held now: computed from the clock, so right even when nothing was noticed yet."""
        return self._phase is _HELD and self._session.is_held(self)

    def transaction(self) -> Transaction:
        """A transaction that applies only if this is still held: checked by the server, atomically.

        Raises `LockLost` on commit if it is not; if its session expired, `SessionExpired`.
        """
        return Transaction(self._session, self._site.nodes.chroot_path, self)

    def gone(self) -> errors.SessionError:
        """The error for a guarded transaction that found the node gone."""
        return errors.LockLost(f"{self.name}: its node is gone, so nothing was applied")

    async def wait_lost(self) -> errors.LockLost | None:
        """Wait until it is lost, and return the error; None once it is released.

        On cancel nothing changes. On loss of the connection it waits on, for as long as it is held.
        """
        self._session.ensure_loop()
        while self._phase in (_HELD, _RELEASING):
            await self._next_phase()
        return self._lost_error() if self._phase is _LOST else None

    async def release(self) -> None:
        """Give it up: the next in line may hold it. Never raises for being late, nor for being twice.

        Returns when the server has confirmed, or when the lease has ended: with the connection down it is
        done as soon as there is one again. Cancelling the wait does not stop it.

        Raises `ServerError` if the server refuses it, most often `NoAuth`: deleting its node takes the DELETE
        permission on its parent. Then it is held as before, and may be released again.

        Raises `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on this request,
        and `ReplyError` when no answer can be used: then it does not count as held any more, but its node may
        stay until it is released again or its session ends.
        """
        self._session.ensure_loop()
        self._give_up()
        await self._given_up()

    def let_go(self) -> None:
        """Give it up without waiting until the server has confirmed; a failure is logged."""
        self._session.ensure_loop()
        self._give_up()

    def _give_up(self) -> None:
        self._over()
        if self._phase is _HELD or self._failure is not None:
            self._phase = _RELEASING
            self._remove()

    async def _given_up(self) -> None:
        while self._phase is _RELEASING and self._failure is None:
            await self._next_phase()
        if self._failure is not None:
            raise self._release_error(self._failure)

    def _remove(self) -> None:
        self._failure = None
        self._leave(functools.partial(self._left, self._place))

    def _leave(self, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        """Remove its node."""
        self._line.leave(self._place, on_done)

    def _left(self, place: Place, failure: BaseException | None) -> None:
        """The removal of the node at `place` has ended."""
        if self._phase is not _RELEASING or place is not self._place:
            return
        if failure is None:
            self._session.unhold(self)
            self._enter(_RELEASED)
            return
        self._failure = failure
        self.via.kept(self)
        if isinstance(failure, errors.ServerError):  # so nothing was applied
            self._phase = _HELD
        self._wake()

    def _release_error(self, failure: BaseException) -> BaseException:
        """An error for each who waits."""
        path = self._site.path
        if isinstance(failure, errors.NoAuth):
            remedy = f"grant DELETE on {self._line.path!r} and release it again; until then it is held"
            return errors.NoAuth("release", path, f"the ACL does not allow to delete its node; {remedy}")
        if isinstance(failure, errors.OtherServerError):
            return errors.OtherServerError("release", path, failure.code)
        if not isinstance(failure, errors.OperationError):
            return failure
        error = type(failure)("release", path, f"its node {self.node!r} may stay: {failure}")
        if isinstance(failure, errors.ConnectionLoss) and isinstance(error, errors.ConnectionLoss):
            error.losses = failure.losses
        return error

    def _next_phase(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._session.loop.create_future()
        if self._waiting:
            self._waiting = [each for each in self._waiting if not each.done()]  # the cancelled ones go
        self._waiting.append(future)
        return future

    def lost(self, error: errors.SessionError, ended: float) -> None:
        """The session's word that it is held no longer."""
        self._failure = None
        if self._phase is _RELEASING:
            self._enter(_RELEASED)  # the deletion goes on, but nobody has to wait for it any more
            return
        self._error = error
        self._ended = ended
        self._leave()
        self._enter(_LOST)
        task = self._task
        if task is not None and not task.done():
            self._cancelled = True
            task.cancel(f"{self.name} was lost")
            self._alarm = self._session.loop.call_later(
                self._session.timeout * OUTLIVED_AFTER, self._log_outlived
            )

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def _over(self) -> None:
        """Its owner is done with it."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.via.over(self)

    def _log_outlived(self) -> None:
        late = self._session.clock() - self._ended
        logger.warning("the body of %s still runs %.2f s after it was lost", self.name, late)

    def _lost_error(self) -> errors.LockLost:
        return errors.LockLost(f"{self.name} was lost: {self._error}")

    async def __aenter__(self) -> Self:
        task = asyncio.current_task(self._session.ensure_loop())
        self._session.check_lease()  # the loop may have been blocked since it was acquired
        self.enter(task)
        return self

    def enter(self, task: asyncio.Task[object] | None) -> None:
        """From now on it is this task's, which is cancelled should it be lost."""
        if self._phase is not _HELD:
            raise (
                self._lost_error()
                if self._phase is _LOST
                else errors.UsageStateError(f"{self.name} was released; acquire it again")
            )
        if self._task is not None:
            raise errors.UsageStateError(
                f"{self.name} was entered before; use one 'async with' for each acquire()"
            )
        self._task = self.owner = task
        self._cancelling = task.cancelling() if task is not None else 0

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._session.ensure_loop()
        task, self._task = self._task, None  # from here on a loss cancels nobody
        self._session.check_lease()  # the loop may have been blocked: the body's end is not before the loss
        if self._phase is not _LOST:
            self._give_up()
            if isinstance(exc, asyncio.CancelledError):
                # Whoever cancels a body wants it to end. On a dead network the answer would come at the
                # lease's end only, and a program that is told to stop would hang for that long, for each lock
                # that it holds.
                return
            try:
                await self._given_up()
            except errors.CorralError as failure:
                if exc is None:
                    raise
                exc.add_note(f"corral: meanwhile {failure}")  # which is logged as well
            return
        self._over()
        late = self._session.clock() - self._ended
        logger.info("the body of %s ended %.3f s after it was lost", self.name, late)
        cancelled_by_us = False
        if self._cancelled and asyncio.current_task() is task and task is not None:
            cancelled_by_us = task.uncancel() <= self._cancelling
            if not isinstance(exc, asyncio.CancelledError):
                await _absorb_pending_cancel(keep=not cancelled_by_us)
        if (
            exc is None
            or (isinstance(exc, asyncio.CancelledError) and cancelled_by_us)
            or _is_caused_by_loss(exc)
        ):
            raise self._lost_error() from exc
        if isinstance(exc, Exception):
            exc.add_note(f"corral: meanwhile {self._lost_error()}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {self._phase.value}, fencing_token={self.fencing_token}>"


async def _absorb_pending_cancel(*, keep: bool) -> None:
    """Take delivery of a `cancel()` that the body did not live to see, so that it does not hit what follows.

    A task that is cancelled while it runs is told at its next await; if the body returned before that, the
    next await is ours. Python 3.13's `uncancel` clears it by itself. With `keep` the caller has cancelled
    as well, and a task is told once for both.
    """
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if keep:
            raise


def _is_caused_by_loss(error: BaseException) -> bool:
    """Whether a body's exception says no more than that its lock, session or connection is gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_caused_by_loss, error.exceptions))
    return isinstance(error, errors.SessionError | errors.ConnectionLoss)
