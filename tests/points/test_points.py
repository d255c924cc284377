"""Every cut and every cancellation, for every scenario: no invariant is violated (S2, S8, L3, W3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from scenarios import (
    FOLLOWED,
    OPERATIONS,
    Stage,
    acquiring,
    campaigning,
    connecting,
    downgrading,
    evicting,
    following,
    giving_up,
    holding,
    losing_a_create,
    observing,
    operating,
    watching,
)

from corral.testing.enumerators import CancelMode, Report, Scenario, every_cancel, every_cut
from line_kinds import KINDS

Tell = Callable[[Report], None]
Make = Callable[[Stage], Scenario]

ONLY_HANDED_OVER = ("election, kazoo's", "semaphore of two")
"""They differ from other kinds only in names or a number."""
LINES: dict[str, Make] = {
    f"{name}, {scene}": acquiring(scene, kind=kind)
    for name, kind in KINDS.items()
    for scene in ("no line", "free", "handed over")
    if scene == "handed over" or name not in ONLY_HANDED_OVER
}
BEHIND: dict[str, Make] = {
    f"{name}, behind another": acquiring("behind another", kind=KINDS[name])
    for name in ("lock", "semaphore of one")
}
TRIES: dict[str, Make] = {
    f"try_acquire of a {name}, {scene}": acquiring(scene, "try_acquire", KINDS[name])
    for name in ("lock", "read lock", "semaphore of one", "two locks")
    for scene in ("free", "held")
}
LOST: dict[str, Make] = {
    f"{name}, its {lost} is lost": losing_a_create(-1, lost, KINDS[name])
    for name in ("lock", "semaphore of one")
    for lost in ("request", "reply")
}
OTHERS: dict[str, Make] = {
    "lock, with a body": holding,
    "downgrade": downgrading,
    "evict": evicting,
    **{f"campaign, {scene}": campaigning(scene) for scene in ("no line", "free", "handed over")},
    **{f"observer, {phase}": observing(phase) for phase in ("no parent", "no leader", "a leader")},
}
VERBS: dict[str, Make] = {name: operating(name) for name in OPERATIONS}
WATCHES: dict[str, Make] = {name: following(name) for name in FOLLOWED}
NOT_AT_ONCE: dict[str, tuple[bool, Sequence[CancelMode]]] = {
    # If entering is cancelled when its session is established, it ends that session on the server, within a
    # time limit.
    "connect": (False, list(CancelMode)),
    # Leaving the block waits for the release, at most until the lease ends (L6). In a black hole it takes
    # that long, so those points are left to the tests of L6.
    "lock, with a body": (False, [CancelMode.NOTHING, CancelMode.FIN, CancelMode.RST]),
}
SCENARIOS: dict[str, Make] = {
    "connect": connecting,
    **VERBS,
    **LINES,
    **BEHIND,
    **TRIES,
    **LOST,
    **OTHERS,
    "watch": watching,
    **WATCHES,
}


@pytest.mark.parametrize("name", [*SCENARIOS, "lock, given up"])
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """S2, L3, W3: the connection is cut at each message, before the server, after the server, and after the
    reply, by FIN and by RST; the invariants hold."""
    make = SCENARIOS.get(name, giving_up)
    tell(await every_cut(stage.proxy, make(stage), choose=stage.choose, what=f"{name}: cuts"))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """S8, L3: cancelled wherever it waits, in the tick in which the awaited result is there, and between,
    with the connection cut at that moment, or in a black hole, or neither: it ends at once and leaves
    nothing."""
    make = SCENARIOS[name]
    at_once, modes = NOT_AT_ONCE.get(name, (True, list(CancelMode)))
    what = f"{name}: cancels"
    tell(
        await every_cancel(
            stage.proxy, make(stage), choose=stage.choose, what=what, modes=modes, at_once=at_once
        )
    )
