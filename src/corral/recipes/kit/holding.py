"""What is held by a znode of ours: how its body learns of a loss, and how it is released (L4 to L6).

`Holding` is the inner side of `corral.Held`, which users see.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from corral import errors
from corral.transaction import Transaction
from corral.types import Stat

from .context import RecipeContext
from .protected import QueueNode

__all__ = ["HeldPlace", "HoldPhase", "Holding", "Recipe"]

logger = logging.getLogger("corral.recipes")

OUTLIVED_AFTER = 1 / 10
"""A body that still runs this part of T after its lease ended is logged while it runs."""


class HoldPhase(enum.Enum):
    """The state of a `Holding`."""

    HELD = "held"
    RELEASING = "releasing"
    RELEASED = "released"
    LOST = "lost"


_HELD, _RELEASING, _RELEASED, _LOST = HoldPhase  # see `machine` for why


class Recipe(Protocol):
    """The recipe that acquires a `Holding`."""

    @property
    def name(self) -> str:
        """What messages call it."""


class HeldPlace(Protocol):
    """Where the znode of a holding is, such as a `Line`."""

    @property
    def path(self) -> str:
        """The parent of the znode, as errors name it."""

    def leave(
        self, node: QueueNode, on_done: Callable[[BaseException | None], None] | None = None, /
    ) -> None:
        """Start to delete the znode, until that is certain. `on_done` gets the error, or None."""


class Holding:
    """A znode of ours that holds something, and the task that owns it. For the session it is a hold."""

    owner: asyncio.Task[object] | None = None
    """The task that entered it."""
    _failure: BaseException | None = None
    """Why the last attempt to release it failed."""
    _error: errors.SessionError | None = None
    """Why it was lost."""
    _ended = 0.0
    """When it was lost."""
    _task: asyncio.Task[object] | None = None
    """The task whose body runs under it: a loss cancels that."""
    _cancelling = 0
    """How many cancels were pending for that task when it entered."""
    _cancelled = False
    """Whether the loss has cancelled it."""
    _alarm: asyncio.TimerHandle | None = None

    def __init__(
        self,
        context: RecipeContext,
        line: HeldPlace,
        place: QueueNode,
        acquirer: asyncio.Task[object] | None,
        recipe: Recipe,
    ) -> None:
        self.acquirer = acquirer
        """The task that acquired it."""
        self.recipe = recipe
        """The object through which it was acquired."""
        self._context = context
        self._session = context.session
        self._line = line
        self._place = place
        self.phase = _HELD
        """The state that it is in. Only the holding changes it."""
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self) -> bool:
        """Register it, and have the session keep it. False if it was lost in the same turn."""
        self._context.shared.held.add(self._context.full, self)
        self._session.hold(self)
        if self.phase is _HELD:
            return True
        self._unregister()
        return False

    @property
    def name(self) -> str:
        """What is held, as its owner calls it."""
        return self.recipe.name

    @property
    def fencing_token(self) -> int:
        """The zxid of the znode's creation."""
        return self._place.czxid

    @property
    def node(self) -> str:
        """The znode's full path."""
        return self._place.path

    @property
    def conditions(self) -> Sequence[tuple[str, int]]:
        """What a guarded transaction checks: full paths, and data versions (-1 for any)."""
        return [(self.node, -1)]

    def is_node(self, stat: Stat) -> bool:
        """Whether the `Stat` of the znode that is there is that of ours. A name with a GUID is ours alone."""
        return True

    @property
    def checked(self) -> str:
        """The full path of the znode that a heartbeat checks."""
        return self._place.path

    @property
    def is_leaving(self) -> bool:
        """Whether the znode is being deleted by its holder."""
        return self.phase is _RELEASING

    @property
    def session_id(self) -> int:
        """The session that holds it."""
        return self._place.session_id

    @property
    def is_valid(self) -> bool:
        """Whether it is held now, by the clock."""
        return self.phase is _HELD and self._session.is_held(self)

    def transaction(self) -> Transaction:
        """A transaction that the server applies only if the znode exists."""
        return Transaction(self._session, self._context.chroot, self)

    def guard_error(self) -> errors.SessionError:
        """The error of a guarded transaction that the server refused because the znode is gone."""
        return errors.LockLost(f"{self.name}: its znode is gone; nothing was applied")

    async def wait_lost(self) -> errors.LockLost | None:
        """Wait until it is lost, and return the error; None once it is released."""
        self._session.ensure_loop()
        while self.phase in (_HELD, _RELEASING):
            await self._next_phase()
        return self._lost_error() if self.phase is _LOST else None

    async def release(self) -> None:
        """Delete the znode and wait until that is certain, or until the lease has ended."""
        self.release_nowait()
        while (change := self._release_pending()) is not None:
            await change

    def release_nowait(self) -> None:
        """Start the release from any task, and return at once. A failure is logged."""
        self._session.ensure_loop()
        self.start_release()

    def start_release(self) -> None:
        """Start the release. Does nothing if it is under way, was done, or is not needed any more."""
        self._unregister()
        if self.phase is _HELD or self._failure is not None:
            self.phase = _RELEASING
            self._remove()

    def _release_pending(self) -> asyncio.Future[None] | None:
        """What to await before asking again, or None at the end of the release. Raises the reason if it
        failed."""
        if self._failure is not None:
            raise self._release_error(self._failure)
        return self._next_phase() if self.phase is _RELEASING else None

    def _remove(self) -> None:
        self._failure = None
        self._leave(functools.partial(self._left, self._place))

    def _leave(self, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        """Start to delete the znode."""
        self._line.leave(self._place, on_done)

    def _left(self, place: QueueNode, failure: BaseException | None) -> None:
        """The deletion of the znode at `place` has ended."""
        if self.phase is not _RELEASING or place is not self._place:
            return
        if failure is None:
            self._session.unhold(self)
            self._enter(_RELEASED)
            return
        self._failure = failure
        self._context.shared.held.add(self._context.full, self)  # it can be released again
        if isinstance(failure, errors.ServerError):  # so nothing was applied
            self.phase = _HELD
        self._wake()

    def _release_error(self, failure: BaseException) -> BaseException:
        """An exception object of its own for each task that waits."""
        path = self._context.path
        if isinstance(failure, errors.NoAuth):
            remedy = f"grant DELETE on {self._line.path!r} and release it again; until then it is held"
            return errors.NoAuth("release", path, f"the ACL does not allow to delete its znode; {remedy}")
        if isinstance(failure, errors.OtherServerError):
            return errors.OtherServerError("release", path, failure.code)
        if not isinstance(failure, errors.OperationError):
            return failure
        error = type(failure)("release", path, f"its znode {self.node!r} may stay: {failure}")
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
        """For the session: it is not held any more."""
        self._failure = None
        if self.phase is _RELEASING:
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

    def _enter(self, phase: HoldPhase) -> None:
        self.phase = phase
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def _unregister(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._context.shared.held.discard(self._context.full, self)

    def _log_outlived(self) -> None:
        late = self._session.clock() - self._ended
        logger.warning("the body of %s still runs %.2f s after it was lost", self.name, late)

    def _lost_error(self) -> errors.LockLost:
        return errors.LockLost(f"{self.name} was lost: {self._error}")

    def enter_now(self) -> None:
        """The current task enters it."""
        task = asyncio.current_task(self._session.ensure_loop())
        self._session.check_lease()  # the loop may have been blocked since it was acquired
        self.enter(task)

    def enter(self, task: asyncio.Task[object] | None) -> None:
        """This task owns it from now on, and is cancelled if it is lost."""
        if self.phase is not _HELD:
            raise (
                self._lost_error()
                if self.phase is _LOST
                else errors.UsageStateError(f"{self.name} was released; acquire it again")
            )
        if self._task is not None:
            raise errors.UsageStateError(
                f"{self.name} was entered before; use one 'async with' for each acquire()"
            )
        self._task = self.owner = task
        self._cancelling = task.cancelling() if task is not None else 0

    async def leave(self, exc: BaseException | None) -> None:
        """The body has ended, with this exception: release it, or raise `LockLost`. See `corral.Held`."""
        self._session.ensure_loop()
        task, self._task = self._task, None  # from here on a loss cancels nobody
        self._session.check_lease()  # the loop may have been blocked: the body's end is not before the loss
        if self.phase is not _LOST:
            self.start_release()
            if isinstance(exc, asyncio.CancelledError):
                # Whoever cancels a body wants it to end. On a dead network the answer would come at the
                # lease's end only, and a program that is told to stop would hang for that long, for each lock
                # that it holds.
                return
            try:
                while (change := self._release_pending()) is not None:
                    await change
            except errors.CorralError as failure:
                if exc is None:
                    raise
                exc.add_note(f"corral: meanwhile {failure}")  # which is logged as well
            return
        self._unregister()
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
