"""Every cut and every cancel, on groups and services: zero broken (N1, N2, S8, W3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import Stage
from scenarios_discovery import (
    FOLLOWED,
    Make,
    following,
    joining,
    reading,
    registering_static,
    unregistering,
    updating,
)

from corral.testing.enumerators import CancelMode, Report, every_cancel, every_cut

Tell = Callable[[Report], None]

MEMBERS: dict[str, Make] = {f"join, {scene}": joining(scene) for scene in ("no group", "free", "handed over")}
OTHERS: dict[str, Make] = {
    "update": updating,
    **{f"register_static, {scene}": registering_static(scene) for scene in ("nothing", "static", "dynamic")},
    "unregister": unregistering,
    "read": reading,
    **{name: following(name) for name in FOLLOWED},
}
SCENARIOS: dict[str, Make] = {**MEMBERS, **OTHERS}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """N1, N2, S2, W3: the connection is cut at each message, before the server, behind it, and after the reply; by
    FIN and by RST: what is promised holds."""
    tell(await every_cut(stage.proxy, SCENARIOS[name](stage), choose=stage.choose, what=f"{name}: cuts"))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """N1, N2, S8: cancelled wherever it waits, with the connection cut in that moment, or in a black hole, or
    neither: it ends at once and leaves nothing."""
    # Leaving a group waits until that is done, at most for the session timeout: a black hole is left to others.
    modes = [mode for mode in CancelMode if name not in MEMBERS or mode is not CancelMode.BLACK_HOLE]
    what = f"{name}: cancels"
    tell(await every_cancel(stage.proxy, SCENARIOS[name](stage), choose=stage.choose, what=what, modes=modes))
