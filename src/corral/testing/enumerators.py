"""Every cut and every cancel: run a scenario once to count its points, then once for each point.

    async def scenario(run: Run) -> None:  # fresh each time; its client is behind `proxy`
        async with corral.connect(proxy.address) as zk:
            outcome = await run.operation(zk.lock("/lock").acquire())
            ...  # whatever the outcome is, check what must be true

    report = await every_cut(proxy, scenario)
    assert not report.broken, report

A scenario checks its own invariants, best through a client that is not behind the proxy, and raises an
exception if one is violated. Each run is also checked for invariants of its own: it ends within its bound,
leaves no task and no timer behind, and reports no error only to the event loop. This module does not depend
on corral's client: any client may be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, cast

from corral.testing.network.points import Message, MessageKind, Moment, Point
from corral.testing.network.proxy import FaultProxy

__all__ = [
    "CancelMode",
    "Choose",
    "InvariantViolated",
    "Outcome",
    "Report",
    "Run",
    "Scenario",
    "every_cancel",
    "every_cut",
]

T = TypeVar("T")

BOUND = 30.0
"""Seconds after which an operation counts as hanging."""

AT_ONCE = 10
"""Turns of the event loop within which a cancelled operation must end: it may not wait for anything any
more."""

TURNS_AFTER_MESSAGE = 5
"""The operation is cancelled in each of that many turns after a message. By then all effects of the message
have spread."""


class InvariantViolated(AssertionError):
    """A run has violated an invariant."""


class CancelMode(enum.Enum):
    """What happens to the connection at the moment of a cancel."""

    NOTHING = "no cut"
    FIN = "FIN"
    RST = "RST"
    BLACK_HOLE = "black hole"
    """Nothing passes until the cancelled operation has ended."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The outcome of an operation: a value, an error, or that its run cancelled it."""

    value: T | None
    error: BaseException | None
    cancelled: bool

    def result(self) -> T:
        """Return the value, or raise the error; None if it was cancelled."""
        if self.error is not None:
            raise self.error
        return cast(T, self.value)


class Run:
    """One run of a scenario. This one cancels nothing: it counts the points."""

    def __init__(self, proxy: FaultProxy, bound: float = BOUND) -> None:
        self.steps = 0
        """How often the operation has waited."""
        self.messages = 0
        """How many messages, without pings, arrived at the proxy while it ran."""
        self.reached = False
        """Whether the run has reached its point."""
        self._proxy = proxy
        self._bound = bound
        self._task: asyncio.Task[Any] | None = None

    async def operation(self, coroutine: Coroutine[Any, Any, T]) -> Outcome[T]:
        """Run the operation under test in a task of its own, and return its outcome.

        It may take at most `bound` seconds (30); then it is cancelled, and `InvariantViolated` is raised. If
        this is cancelled, it cancels the operation and does not wait for its end.
        """
        async with self._proxy.record(self._on_message):
            self._task = asyncio.get_running_loop().create_task(self._observed(coroutine))
            try:
                await asyncio.wait([self._task], timeout=self._bound)
            except asyncio.CancelledError:
                self._task.cancel()
                raise
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=self._bound)
                raise InvariantViolated(f"the operation hangs: not done after {self._bound:g} s")
        coroutine.close()  # the task may have been cancelled before it started
        await self._ended()
        if self._task.cancelled():
            if not self.reached:
                raise InvariantViolated("the operation ended as cancelled, but the run had not cancelled it")
            return Outcome(None, None, True)
        error = self._task.exception()
        return Outcome(None if error else self._task.result(), error, False)

    async def _observed(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await _observe(coroutine, self._waits)

    def _waits(self, awaited: asyncio.Future[Any] | None) -> None:
        self._on_wait(self.steps, awaited)
        self.steps += 1

    def _on_message(self, message: Message) -> bool:
        if self._task is not None and not self._task.done() and message.operation != "ping":
            self._on_traffic(self.messages)
            self.messages += 1
        return False

    # Hooks for runs that cancel

    def _on_wait(self, step: int, awaited: asyncio.Future[Any] | None) -> None:
        """Called when the operation is about to wait for the `step`-th time (from 0)."""

    def _on_traffic(self, number: int) -> None:
        """Called when the `number`-th message (from 0) has arrived at the proxy."""

    async def _ended(self) -> None:
        """Called when the operation has ended."""


class _Cancelling(Run):
    """A run that cancels its operation, and cuts the connection in the same turn of the event loop."""

    def __init__(self, proxy: FaultProxy, bound: float, mode: CancelMode, at_once: bool) -> None:
        super().__init__(proxy, bound)
        self._mode = mode
        self._at_once = at_once
        self._cutting: asyncio.Task[None] | None = None
        self._late = False

    def _strike(self, _: object = None) -> None:
        if self._task is None or self._task.done():
            return
        loop = asyncio.get_running_loop()
        self.reached = True
        self._task.cancel()
        if self._mode is CancelMode.BLACK_HOLE:
            self._cutting = loop.create_task(self._black_hole(self._task))
        elif self._mode is not CancelMode.NOTHING:
            self._cutting = loop.create_task(self._proxy.cut(reset=self._mode is CancelMode.RST))
        self._in_turns(AT_ONCE, self._look)

    def _look(self) -> None:
        self._late = self._task is not None and not self._task.done()

    async def _black_hole(self, task: asyncio.Task[Any]) -> None:
        async with self._proxy.black_hole():
            await asyncio.wait([task], timeout=self._bound)

    async def _ended(self) -> None:
        if self._cutting is not None:
            await asyncio.wait([self._cutting])
        if self._late and self._at_once:
            raise InvariantViolated(
                f"cancelled, the operation had not ended {AT_ONCE} turns of the event loop later"
            )

    def _in_turns(self, turns: int, act: Callable[[], None]) -> None:
        if turns == 0:
            act()
        else:
            asyncio.get_running_loop().call_soon(self._in_turns, turns - 1, act)


class _AtStep(_Cancelling):
    """Cancels while the operation waits, or in the turn in which its wait ends."""

    def __init__(
        self, proxy: FaultProxy, bound: float, mode: CancelMode, at_once: bool, step: int, *, as_it_ends: bool
    ) -> None:
        super().__init__(proxy, bound, mode, at_once)
        self._step = step
        self._as_it_ends = as_it_ends

    def _on_wait(self, step: int, awaited: asyncio.Future[Any] | None) -> None:
        if step != self._step:
            return
        if self._as_it_ends and awaited is not None:
            awaited.add_done_callback(self._strike)  # before the task adds its own callback
        else:
            asyncio.get_running_loop().call_soon(self._strike)

    def __str__(self) -> str:
        when = "as it is answered" if self._as_it_ends else "while it waits"
        return f"cancelled at wait {self._step}, {when}, {self._mode.value}"


class _AtMessage(_Cancelling):
    """Cancels some turns of the event loop after a message has arrived at the proxy."""

    def __init__(
        self, proxy: FaultProxy, bound: float, mode: CancelMode, at_once: bool, number: int, turns: int
    ) -> None:
        super().__init__(proxy, bound, mode, at_once)
        self._number = number
        self._turns = turns

    def _on_traffic(self, number: int) -> None:
        if number == self._number:
            self._in_turns(self._turns, self._strike)

    def __str__(self) -> str:
        return f"cancelled {self._turns} turns after message {self._number}, {self._mode.value}"


Scenario: TypeAlias = Callable[[Run], Awaitable[None]]


@dataclass(slots=True)
class Report:
    """How many points were tried, how many were reached, and at which of them an invariant was violated."""

    what: str
    tried: int = 0
    reached: int = 0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        summary = f"{self.what}: {self.tried} points tried, {self.reached} reached, {len(self.broken)} broken"
        return "\n  ".join([summary, *self.broken])


Choose: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]
"""Chooses of all points those that are tried, as `random.sample` does."""


async def every_cut(
    proxy: FaultProxy,
    scenario: Scenario,
    *,
    what: str = "cuts",
    bound: float = BOUND,
    choose: Choose = list,
) -> Report:
    """Cut the connection at each message of a scenario: before each request reaches the server, after the
    server has carried it out, and after its reply; before each event passes, and after it. Each cut is made
    with FIN and with RST.

    Runs differ, so a point may not be reached; its run then has no cut, but is checked all the same. Each run
    may take three times `bound` seconds; one that takes longer is reported as broken. If this is cancelled,
    it cancels the current run. `choose` may leave out points, where all of them take too long.
    """
    report = Report(what)
    async with proxy.record(lambda message: message.operation != "ping") as seen:
        await _checked(scenario, Run(proxy, bound))
    for point, reset in choose([(point, reset) for point in _cut_points(seen) for reset in (False, True)]):
        async with proxy.cut_at(point, reset=reset) as cut:
            error = await _error_of(scenario, Run(proxy, bound))
        at = cut.message or "not reached"
        _count(report, f"{point} ({at}), {'RST' if reset else 'FIN'}", cut.fired.is_set(), error)
    return report


async def every_cancel(
    proxy: FaultProxy,
    scenario: Scenario,
    *,
    what: str = "cancels",
    modes: Sequence[CancelMode] = tuple(CancelMode),
    at_once: bool = True,
    bound: float = BOUND,
    choose: Choose = list,
) -> Report:
    """Cancel a scenario's operation at each of its waits: while it waits, and in the turn of the event loop
    in which the wait ends. Cancel it also in each of the first turns after each message. All of this is done
    in each of the `modes`.

    With `at_once`, the cancelled operation must end within a few turns of the event loop, else within its
    bound. Each run may take three times `bound` seconds; one that takes longer is reported as broken. If
    `every_cancel` itself is cancelled, it cancels the current run. `choose` may leave out points, where
    all of them take too long.
    """
    report = Report(what)
    count = Run(proxy, bound)
    await _checked(scenario, count)

    def points() -> Iterator[_Cancelling]:
        for mode in modes:
            for step in range(count.steps):
                for as_it_ends in (False, True):
                    yield _AtStep(proxy, bound, mode, at_once, step, as_it_ends=as_it_ends)
            for number in range(count.messages):
                for turns in range(TURNS_AFTER_MESSAGE):
                    yield _AtMessage(proxy, bound, mode, at_once, number, turns)

    for run in choose(list(points())):
        error = await _error_of(scenario, run)
        _count(report, str(run), run.reached, error)
    return report


def _cut_points(seen: Sequence[Message]) -> Iterator[Point]:
    requests = sum(message.kind is MessageKind.REQUEST for message in seen)
    events = sum(message.kind is MessageKind.EVENT for message in seen)
    for moment in Moment:
        for nth in range(1, (events if moment.of_event else requests) + 1):
            yield Point(moment, nth=nth)


def _count(report: Report, point: str, reached: bool, error: Exception | None) -> None:
    report.tried += 1
    report.reached += reached
    if error is not None:
        report.broken.append(f"{point}: {type(error).__name__}: {error}")


async def _error_of(scenario: Scenario, run: Run) -> Exception | None:
    try:
        await _checked(scenario, run)
    except Exception as error:
        return error
    return None


async def _checked(scenario: Scenario, run: Run) -> None:
    """Run a scenario, and check the invariants of every run."""
    async with _nothing_left():
        try:
            async with asyncio.timeout(3 * run._bound) as scope:
                await scenario(run)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise InvariantViolated(f"the scenario hangs: not done after {3 * run._bound:g} s") from error


@contextlib.asynccontextmanager
async def _nothing_left() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    unheard: list[str] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(
        lambda _, context: unheard.append(f"{context.get('message')}: {context.get('exception')!r}")
    )
    timers = _timers(loop)
    await asyncio.sleep(0)  # a timer that is due in this turn is not listed; its owner sets it again
    tasks, timers = asyncio.all_tasks(), timers | _timers(loop)
    try:
        yield
        left = set[asyncio.Task[Any]]()
        for _ in range(AT_ONCE):  # what was closed may need some turns to end
            await asyncio.sleep(0)
            left = {task for task in asyncio.all_tasks() - tasks if not task.done()}
        gc.collect()  # a future reports "exception was never retrieved" when it is collected
        if left:
            raise InvariantViolated(f"tasks are left behind: {left}")
        if overdue := _timers(loop) - timers:
            raise InvariantViolated(f"timers are left behind: {overdue}")
        if unheard:
            raise InvariantViolated(f"errors that only the event loop saw: {unheard}")
    finally:
        loop.set_exception_handler(handler)


def _timers(loop: asyncio.AbstractEventLoop) -> set[str]:
    """The callbacks of the loop's timers; none for a loop that keeps them elsewhere, such as uvloop's.

    Callbacks are compared, not timers, since an earlier task may have set a new timer for the same callback.
    """
    return {repr(timer._callback) for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()}


@types.coroutine
def _observe(
    coroutine: Coroutine[Any, Any, T], on_wait: Callable[[asyncio.Future[Any] | None], None]
) -> Generator[Any, Any, T]:
    """Run a coroutine. Before each wait, call `on_wait` with the future it waits for (None for
    `sleep(0)`)."""
    error: BaseException | None = None
    while True:
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return cast(T, stop.value)
        on_wait(awaited)
        error = None
        try:
            yield awaited
        except BaseException as thrown:
            error = thrown
