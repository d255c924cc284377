"""The enumerators find defects: locks that are wrong on purpose, one for each invariant that a run checks,
and each is reported."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from scenarios import Connect, Stage, acquiring

import corral
from corral.testing import FaultProxy
from corral.testing.enumerators import CancelMode, Run, every_cancel, every_cut
from line_kinds import KINDS


class Wrapped:
    """A correct lock; each lock below has one defect."""

    def __init__(self, zk: corral.Client, path: str) -> None:
        self.path = path
        self._zk = zk
        self._lock = zk.lock(path)

    async def acquire(self) -> corral.Held:
        return await self._lock.acquire()

    async def __aenter__(self) -> corral.Held:
        return await self._lock.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        await self._lock.__aexit__(None, None, None)


class LeavesItsNode(Wrapped):
    """Cancelled, it leaves a node in the line, as aiozk does."""

    async def acquire(self) -> corral.Held:
        await self._zk.create(f"{self.path}/_c_x-lock-", ephemeral=True, sequential=True)
        await asyncio.sleep(0.01)
        for name in await self._zk.children(self.path):
            await self._zk.delete(f"{self.path}/{name}")
        return await super().acquire()


class CreatesTwice(Wrapped):
    """When the answer to its create is lost it creates another node, and waits for its own first one."""

    async def acquire(self) -> corral.Held:
        while True:
            try:
                path = await self._zk.create(f"{self.path}/_c_x-lock-", ephemeral=True, sequential=True)
                break
            except corral.ConnectionLoss:
                continue
        while len(await self._zk.children(self.path)) > 1:
            await asyncio.sleep(0.01)
        await self._zk.delete(path)
        return await super().acquire()


class RaisesWhatNobodyExpects(Wrapped):
    """It turns a lost answer into an exception of its own."""

    async def acquire(self) -> corral.Held:
        try:
            await self._zk.set(self.path, b"")
        except corral.ConnectionLoss as error:
            raise RuntimeError("what is this?") from error
        return await super().acquire()


class SwallowsTheCancel(Wrapped):
    """Cancelled, it continues to wait."""

    async def acquire(self) -> corral.Held:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return await super().acquire()


class LeavesATask(Wrapped):
    """It leaves a task that nobody ends."""

    tasks: ClassVar[list[asyncio.Task[None]]] = []

    async def acquire(self) -> corral.Held:
        LeavesATask.tasks.append(asyncio.create_task(asyncio.sleep(3600)))
        return await super().acquire()


class LeavesATimer(Wrapped):
    """It sets a timer that nobody cancels."""

    async def acquire(self) -> corral.Held:
        asyncio.get_running_loop().call_later(3600, print)
        return await super().acquire()


class ForgetsAnError(Wrapped):
    """It leaves a future whose exception nobody retrieves."""

    async def acquire(self) -> corral.Held:
        asyncio.get_running_loop().create_future().set_exception(RuntimeError("forgotten"))
        return await super().acquire()


class IsNotHeld(Wrapped):
    """It claims to hold, and has no node in the line."""

    async def acquire(self) -> corral.Held:
        held = await super().acquire()
        await self._zk.delete(held.node.removeprefix(self._zk.chroot_path))
        return held


WRONG: dict[type[Wrapped], tuple[Callable[..., object], str]] = {
    LeavesItsNode: (every_cancel, "left in the line"),
    CreatesTwice: (every_cut, "hangs"),
    RaisesWhatNobodyExpects: (every_cut, "what is this"),
    SwallowsTheCancel: (every_cancel, "had not ended"),
}
WRONG_AT_ONCE: dict[type[Wrapped], str] = {
    LeavesATask: "tasks are left behind",
    LeavesATimer: "timers are left behind",
    ForgetsAnError: "only the event loop saw",
    IsNotHeld: "ours in the line are|not valid",
}


@pytest.fixture
async def stage(connect: Connect, proxy: FaultProxy, other: corral.Client) -> Stage:
    return Stage(connect, proxy, other, itertools.count(), patience=0.3)


@pytest.mark.parametrize("lock", WRONG, ids=lambda lock: lock.__name__)
async def test_a_wrong_lock_is_found(stage: Stage, lock: type[Wrapped]) -> None:
    """A lock that fails only if it is struck fails at some points, and these are reported with the reason."""
    enumerate_points, reason = WRONG[lock]
    scenario = acquiring("free", kind=KINDS["lock"]._replace(make=lock))(stage)
    if enumerate_points is every_cancel:
        report = await every_cancel(stage.proxy, scenario, modes=[CancelMode.NOTHING], bound=1.0)
    else:
        report = await every_cut(stage.proxy, scenario, bound=1.0)
    assert any(reason in point for point in report.broken), report
    assert 0 < len(report.broken) < report.tried, report
    assert str(report).splitlines()[0].endswith(f"{report.reached} reached, {len(report.broken)} broken")


@pytest.mark.parametrize("lock", WRONG_AT_ONCE, ids=lambda lock: lock.__name__)
async def test_a_lock_that_is_always_wrong_is_found(stage: Stage, lock: type[Wrapped]) -> None:
    """A lock that fails without being struck fails before any point is tried."""
    scenario = acquiring("free", kind=KINDS["lock"]._replace(make=lock))(stage)
    with pytest.raises(AssertionError, match=WRONG_AT_ONCE[lock]):
        await every_cut(stage.proxy, scenario, bound=1.0)
    for task in LeavesATask.tasks:
        task.cancel()


async def test_a_scenario_that_hangs_is_found(stage: Stage) -> None:
    """A scenario that does not end is reported, and its operation is ended."""

    async def hangs(run: Run) -> None:
        await run.operation(asyncio.sleep(3600))

    with pytest.raises(AssertionError, match="hangs"):
        await every_cut(stage.proxy, hangs, bound=0.05)


@pytest.mark.parametrize("every", [every_cut, every_cancel])
async def test_some_of_the_points(stage: Stage, every: Callable[..., Any]) -> None:
    """`choose` is asked once, with all points, and only those that it returns are tried."""
    asked: list[int] = []

    def choose(points: Sequence[Any]) -> Sequence[Any]:
        asked.append(len(points))
        return points[1::2]

    report = await every(stage.proxy, acquiring("free", kind=KINDS["lock"])(stage), choose=choose)
    assert not report.broken, report
    assert asked[0] > 2
    assert [report.tried] == [count // 2 for count in asked]


@pytest.mark.parametrize("every", [every_cut, every_cancel])
async def test_cancelled_itself(proxy: FaultProxy, every: Callable[..., Any]) -> None:
    """An enumerator that is cancelled leaves nothing of the current run."""
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def scenario(run: Run) -> None:
        await run.operation(endless())

    trying = asyncio.create_task(every(proxy, scenario))
    await begun.wait()
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert asyncio.all_tasks() == {asyncio.current_task()}
