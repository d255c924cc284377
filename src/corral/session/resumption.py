"""Tasks resume in the turn of the event loop in which their answers are read.

A task that awaits an `asyncio.Future` resumes one turn after the future is resolved. For a client that is
mostly idle that is an additional turn for each round trip: a call of ``select``, the bookkeeping of the loop,
and whatever other work is ready first. A `SessionFuture` that is resolved while the connection reads is kept
until all that has arrived is read. Then the tasks resume, in the order in which their futures were resolved.

That is safe because it happens at one place, `Resumption.resume`: below it on the stack is only the event
loop's callback for the connection. No task is running, so one may be resumed. The machine is between two
entries, so tasks may use the session. What they resolve in turn, and what is resolved elsewhere, resumes in
the next turn, as with any future. So one turn of the loop resumes each task at most once.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["Resumption", "SessionFuture"]

T = TypeVar("T")
_Resume: TypeAlias = "Callable[[Any], object]"

_set_result = asyncio.Future.set_result
_set_exception = asyncio.Future.set_exception
_add_done_callback = asyncio.Future.add_done_callback


class Resumption:
    """The tasks of one session that are to resume when all that has arrived is read."""

    __slots__ = ("_due", "_loop", "is_reading")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[tuple[contextvars.Context, _Resume, SessionFuture[Any]]] = []
        self.is_reading = False
        """Whether the connection reads: set by it before, and cleared by `resume` after."""

    def create_future(self) -> SessionFuture[Any]:
        """A future for one task to await."""
        future: SessionFuture[Any] = SessionFuture(loop=self._loop)
        future.resumption = self
        future.resume = None
        return future

    def resolved(self, future: SessionFuture[Any], resume: _Resume, context: contextvars.Context) -> None:
        """The future that a task awaits is done: have the task resume."""
        if self.is_reading:
            self._due.append((context, resume, future))
        else:
            self._loop.call_soon(resume, future, context=context)

    def resume(self) -> None:
        """All that has arrived is read: resume the tasks. To be called while no task runs."""
        self.is_reading = False
        if not self._due:
            return
        due, self._due = iter(self._due), []
        try:
            for context, resume, future in due:
                context.run(resume, future)
        except BaseException:  # a task has raised KeyboardInterrupt or SystemExit
            for context, resume, future in due:
                self._loop.call_soon(resume, future, context=context)
            raise


class SessionFuture(asyncio.Future[T], Generic[T]):
    """A future whose task resumes as the module says. Its other callbacks are called as those of any
    future."""

    __slots__ = ("context", "resume", "resumption")

    resumption: Resumption
    resume: _Resume | None
    """Has the task that awaits it resume; None while there is none."""
    context: contextvars.Context
    """The context of that task."""

    def add_done_callback(self, fn: _Resume, /, *, context: contextvars.Context | None = None) -> None:
        # A task passes its context, and hardly anything else does.
        if context is None or self.resume is not None or self.done():
            _add_done_callback(self, fn, context=context)
        else:
            self.resume, self.context = fn, context

    def remove_done_callback(self, fn: _Resume, /) -> int:
        removed = super().remove_done_callback(fn)
        if self.resume == fn:
            self.resume = None
            removed += 1
        return removed

    def set_result(self, result: T, /) -> None:
        _set_result(self, result)
        self._resolved()

    def set_exception(self, exception: type | BaseException, /) -> None:
        _set_exception(self, exception)
        self._resolved()

    def cancel(self, msg: Any = None) -> bool:
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self._resolved()
        return is_cancelled

    def _resolved(self) -> None:
        resume = self.resume
        if resume is not None:
            self.resume = None  # it refers to the task, whose frames refer to this future
            self.resumption.resolved(self, resume, self.context)
