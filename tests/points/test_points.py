"""Every cut and every cancel, on everything that there is: zero broken (S2, S8, L3, W3)."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
from scenarios import (
    FOLLOWED,
    OPERATIONS,
    RECIPES,
    Connect,
    Stage,
    acquiring,
    acquiring_several,
    connecting,
    downgrading,
    following,
    giving_up,
    holding,
    operating,
    watching,
)

import corral
from corral.testing import FaultProxy
from corral.testing.enumerators import CancelMode, Report, Scenario, every_cancel, every_cut

Tell = Callable[[Report], None]
Make = Callable[[Stage], Scenario]

LOCKS: dict[str, Make] = {
    "lock, no line yet": acquiring("no line"),
    "lock, free": acquiring("free"),
    "lock, handed over": acquiring("handed over"),
    "try_acquire, free": acquiring("free", "try_acquire"),
    "try_acquire, held": acquiring("held", "try_acquire"),
    "lock, with a body": holding,
}
OTHERS: dict[str, Make] = {
    f"{name}, {kind}": acquiring(kind, recipe=recipe)
    for name, recipe in RECIPES.items()
    if name != "lock"
    for kind in ("no line", "free", "handed over")
}
TRIES: dict[str, Make] = {
    f"try_acquire of a {name}, {kind}": acquiring(kind, "try_acquire", recipe)
    for name, recipe in RECIPES.items()
    if name in ("semaphore", "read lock")
    for kind in ("free", "held")
}
SEVERAL: dict[str, Make] = {
    "several locks, free": acquiring_several("free"),
    "several locks, handed over": acquiring_several("handed over"),
    "downgrade": downgrading,
}
VERBS: dict[str, Make] = {name: operating(name) for name in OPERATIONS}
WATCHES: dict[str, Make] = {name: following(name) for name in FOLLOWED}
NOT_AT_ONCE: dict[str, tuple[bool, Sequence[CancelMode]]] = {
    # Cancelled as its session comes, entering ends that session on the server, which is bounded.
    "connect": (False, list(CancelMode)),
    # Leaving the block waits for the release, at most until the lease ends (L6): that is how long it takes in
    # a black hole, so those points are left to the tests of L6.
    "lock, with a body": (False, [CancelMode.NOTHING, CancelMode.FIN, CancelMode.RST]),
}
SCENARIOS: dict[str, Make] = {
    "connect": connecting,
    **VERBS,
    **LOCKS,
    **OTHERS,
    **TRIES,
    **SEVERAL,
    "watch": watching,
    **WATCHES,
}


@pytest.fixture
async def stage(connect: Connect, proxy: FaultProxy, other: corral.Client) -> Stage:
    return Stage(connect, proxy, other, itertools.count())


@pytest.fixture(autouse=True)
def quick_garbage() -> Iterator[None]:
    """Each point collects garbage: do not look again and again at what was there before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", [*SCENARIOS, "lock, given up"])
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """S2, L3, W3: the connection is cut at each message, before the server, behind it, and after the reply;
    by FIN and by RST: what is promised holds."""
    make = SCENARIOS.get(name, giving_up)
    tell(await every_cut(stage.proxy, make(stage), what=f"{name}: cuts"))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """S8, L3: cancelled wherever it waits, in the tick in which what it waits for is there, and between; with
    the connection cut in that moment, or in a black hole, or neither: it ends at once and leaves nothing."""
    make = SCENARIOS[name]
    at_once, modes = NOT_AT_ONCE.get(name, (True, list(CancelMode)))
    what = f"{name}: cancels"
    tell(await every_cancel(stage.proxy, make(stage), what=what, modes=modes, at_once=at_once))
