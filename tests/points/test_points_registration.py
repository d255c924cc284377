"""Every cut and every cancel, on a registration: zero broken (N1, S2, S8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import Stage
from scenarios_registration import living, registering, updating

from corral.testing.enumerators import CancelMode, Report, Scenario, every_cancel, every_cut

Tell = Callable[[Report], None]

SCENARIOS: dict[str, Callable[[Stage], Scenario]] = {
    **{f"registration, {scene}": registering(scene) for scene in ("no parent", "free", "taken")},
    "registration, updated": updating(is_deleted=False),
    "registration, deleted by somebody": updating(is_deleted=True),
    "registration, from entering to leaving": living,
}
# Leaving waits for the deletion, in a black hole for as long as the session timeout (L6).
WITHOUT_BLACK_HOLES = ("registration, from entering to leaving",)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """N1, S2: the connection is cut at each message, before the server, behind it, and after the reply; by FIN and by
    RST: the znode is there while it is registered, and gone afterwards."""
    tell(await every_cut(stage.proxy, SCENARIOS[name](stage), choose=stage.choose, what=f"{name}: cuts"))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """N1, S8: cancelled wherever it waits, with the connection cut in that moment, or in a black hole, or neither: it
    ends at once and leaves nothing."""
    modes = [
        mode for mode in CancelMode if mode is not CancelMode.BLACK_HOLE or name not in WITHOUT_BLACK_HOLES
    ]
    tell(
        await every_cancel(
            stage.proxy, SCENARIOS[name](stage), choose=stage.choose, what=f"{name}: cancels", modes=modes
        )
    )
