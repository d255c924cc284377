"""Every cut and every cancel, on a member of a partition: zero broken (P1, S8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import Stage
from scenarios_partition import by_loop, by_run

from corral.testing.enumerators import CancelMode, Report, Scenario, every_cancel, every_cut

Tell = Callable[[Report], None]

SCENARIOS: dict[str, Callable[[Stage], Scenario]] = {"partition, loop": by_loop, "partition, run": by_run}
# Leaving waits for the releases, in a black hole until the lease ends (L6).
MODES = [CancelMode.NOTHING, CancelMode.RST]


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """P1, S2: the connection is cut at each message, before the server, behind it, and after the reply; by FIN and by
    RST: the member owns its items all the same, and leaves nothing."""
    tell(await every_cut(stage.proxy, SCENARIOS[name](stage), choose=stage.choose, what=f"{name}: cuts"))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """P1, S8: cancelled wherever it waits, with the connection cut in that moment or not: nothing is left."""
    scenario = SCENARIOS[name](stage)
    tell(await every_cancel(stage.proxy, scenario, choose=stage.choose, what=f"{name}: cancels", modes=MODES))
