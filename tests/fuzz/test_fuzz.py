"""Whatever a man in the middle does to the messages, a client recovers, raises documented errors only, and
leaves nothing behind (S1, S7, L3, W3). One seed is one run; see `fuzz_run`.

CORRAL_FUZZ_SEEDS is the number of seeds to run, CORRAL_FUZZ_FIRST the first of them; `nox -s fuzz` runs many.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from fuzz_liar import Liar
from fuzz_lies import LIES
from fuzz_plan import CYCLES, Report
from fuzz_relay import Frame
from fuzz_run import LONGEST_TURN, run

import corral
from corral.session.watch_registry import WatchRegistry

FIRST = int(os.environ.get("CORRAL_FUZZ_FIRST", "0"))
SEEDS = int(os.environ.get("CORRAL_FUZZ_SEEDS", "200"))
CHUNK = 10
"""Seeds in one test."""


def run_again_if_slow(seed: int) -> Report:
    """A slow turn of the loop only counts if it is slow twice, since the machine may be busy."""
    report = run(seed)
    return run(seed) if report.signatures == ["the loop is blocked"] else report


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    """Each run passes the checks of `fuzz_run`."""
    broken = []
    for seed in range(first, min(first + CHUNK, FIRST + SEEDS)):
        print(f"seed {seed}")  # shown if the run never ends
        report = run_again_if_slow(seed)
        if report.violations:
            broken.append(str(report))
    assert not broken, "\n\n".join(broken)


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same run, to the last lie."""
    for seed in range(4):
        one, other = run(seed), run(seed)
        assert (one.lies, one.weather, one.numbers) == (other.lies, other.weather, other.numbers)


# The checks can fail: clients with one defect each, and the violation that is reported


def giving_another_shape(zk: corral.Client) -> None:
    async def get(path: str) -> Any:
        return None

    zk.get = get  # type: ignore[method-assign]


def raising_what_is_not_documented(zk: corral.Client) -> None:
    async def get(path: str) -> Any:
        raise IndexError("list index out of range")

    zk.get = get  # type: ignore[method-assign]


def hanging(zk: corral.Client) -> None:
    true, calls = zk.get, itertools.count()

    async def get(path: str) -> Any:
        return await (true(path) if next(calls) == 0 else asyncio.get_running_loop().create_future())

    zk.get = get  # type: ignore[method-assign]


def cancelling_whoever_asks(zk: corral.Client) -> None:
    async def get(path: str) -> Any:
        raise asyncio.CancelledError

    zk.get = get  # type: ignore[method-assign]


def storming(zk: corral.Client) -> None:
    true = zk.sync

    async def sync(path: str = "/") -> None:
        await asyncio.gather(*(true(path) for _ in range(5000)))

    zk.sync = sync  # type: ignore[method-assign]


def blocking(zk: corral.Client) -> None:
    calls = itertools.count()

    async def sync(path: str = "/") -> None:
        until = time.thread_time() + (LONGEST_TURN if next(calls) == 0 else 0)
        while time.thread_time() < until:
            pass

    zk.sync = sync  # type: ignore[method-assign]


def spinning(zk: corral.Client) -> None:
    async def sync(path: str = "/") -> None:
        while True:
            await asyncio.sleep(0)

    zk.sync = sync  # type: ignore[method-assign]


def leaving_late(zk: corral.Client) -> None:
    async def leave(*about: Any) -> None:
        await asyncio.sleep(10)
        await zk.close()

    zk.__aexit__ = leave  # type: ignore[method-assign]


def leaving_a_task(zk: corral.Client) -> None:
    async def leave(*about: Any) -> None:
        await zk.close()
        zk.left = asyncio.create_task(asyncio.sleep(100))  # type: ignore[attr-defined]

    zk.__aexit__ = leave  # type: ignore[method-assign]


def not_closing(zk: corral.Client) -> None:
    async def leave(*about: Any) -> None:
        pass

    zk.__aexit__ = leave  # type: ignore[method-assign]


def forgetting_an_error(zk: corral.Client) -> None:
    async def sync(path: str = "/") -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("nobody knows"))

    zk.sync = sync  # type: ignore[method-assign]


def saying_that_it_is_broken(zk: corral.Client) -> None:
    async def sync(path: str = "/") -> None:
        logging.getLogger("corral.session").critical("the client broke: please report this")

    zk.sync = sync  # type: ignore[method-assign]


BROKEN: dict[Callable[[corral.Client], None], str] = {
    giving_another_shape: "get gave a result of another shape",
    raising_what_is_not_documented: "reading raised IndexError",
    hanging: "reading has not recovered",
    cancelling_whoever_asks: "reading was cancelled, and nobody had",
    storming: "a storm of requests",
    blocking: "the loop is blocked",
    spinning: "the loop spins",
    leaving_late: "leaving is late",
    leaving_a_task: "a task is left",
    not_closing: "get works after leaving",
    forgetting_an_error: "only the loop saw Future exception was never retrieved",
    saying_that_it_is_broken: "logged CRITICAL the client broke",
}


@pytest.mark.parametrize(("broken", "said"), BROKEN.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_broken_client_is_found(broken: Callable[[corral.Client], None], said: str) -> None:
    """Each check works: a client that violates it is found within a few seeds."""

    def make(*args: Any, **options: Any) -> corral.Client:
        zk = corral.connect(*args, **options)
        broken(zk)
        return zk

    for seed in range(10):
        if any(each.startswith(said) for each in run(seed, make, ["reading"]).violations):
            return
    raise AssertionError(f"no run has said {said!r}")


def test_a_session_that_recovers_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches that are not set again after a lost connection are found by workers that wait for the last
    state."""
    monkeypatch.setattr(WatchRegistry, "rearm", lambda *about, **more: ())
    monkeypatch.setattr(WatchRegistry, "invalidate_persistent", lambda *about: None)
    found = {each for seed in range(10) for each in run(seed, workers=["watching_node"]).signatures}
    assert any(each.startswith("watching_node has not recovered") for each in found), found


def test_every_lie_finds_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lie is told at least once in a run of all workers."""
    able = set[str]()

    def tell(self: Liar, frame: Frame) -> None:
        self._known.note(frame)
        for lie in LIES.values():
            if lie.of_requests == frame.to_server and lie.tell(self._rng, frame, self._known) is not None:
                able.add(lie.name)

    monkeypatch.setattr(Liar, "tell", tell)
    for seed in range(10):
        run(seed, workers=tuple(CYCLES))
        if able == set(LIES):
            return
    raise AssertionError(f"never told: {set(LIES) - able}")
