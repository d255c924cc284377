"""Every cut and every cancel, on barriers and on jobs that run once: zero broken (S2, S8, B1, B2, X1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import Stage
from scenarios_gates import entering, leaving, resetting, running, switching, undoing, waiting_at_a_barrier

from corral.testing.enumerators import Report, Scenario, every_cancel, every_cut

Tell = Callable[[Report], None]
Make = Callable[[Stage], Scenario]

SCENARIOS: dict[str, Make] = {
    **{
        f"{verb} a barrier, {before}": switching(verb, before)
        for verb in ("close", "open")
        for before in ("no parent", "open", "closed")
    },
    "wait at a barrier": waiting_at_a_barrier,
    **{
        f"enter a double barrier, {scene}": entering(scene)
        for scene in ("alone", "last", "first", "one more", "left over")
    },
    **{f"leave a double barrier, {place}": leaving(place) for place in ("lowest", "not the lowest")},
    **{f"once, {scene}": running(scene) for scene in ("free", "behind another", "handed over", "done")},
    "once, done, with a ttl": running("done", 3600.0),
    "once, reset": resetting,
}
# Their waits are those of others.
NOT_CANCELLED = (
    "close a barrier, open", "open a barrier, no parent", "enter a double barrier, one more",
    "enter a double barrier, last", "enter a double barrier, left over", "leave a double barrier, not the lowest",
    "once, handed over", "once, done, with a ttl",
)  # fmt: skip
UNDONE: dict[str, Make] = {f"{verb} a barrier, undone": undoing(verb) for verb in ("close", "open")}


@pytest.mark.parametrize("name", [*SCENARIOS, *UNDONE])
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """S2, B1, B2, X1: the connection is cut at each message, before the server, behind it, and after the reply; by FIN
    and by RST: what is promised holds."""
    make = SCENARIOS.get(name) or UNDONE[name]
    tell(await every_cut(stage.proxy, make(stage), choose=stage.choose, what=f"{name}: cuts"))


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in NOT_CANCELLED])
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """S8, L3, B1, B2: cancelled wherever it waits, in the tick in which what it waits for is there, and between; with
    the connection cut in that moment, or in a black hole, or neither: it ends at once and leaves nothing."""
    tell(
        await every_cancel(stage.proxy, SCENARIOS[name](stage), choose=stage.choose, what=f"{name}: cancels")
    )
