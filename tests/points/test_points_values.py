"""Every cut and every cancel, on what is written exactly once: zero broken (X1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import Stage
from scenarios_values import WRITES, contended, writing

from corral.testing.enumerators import Report, Scenario, every_cancel, every_cut

Tell = Callable[[Report], None]
Make = Callable[[Stage], Scenario]

SCENARIOS: dict[str, Make] = {
    **{name: writing(name) for name in WRITES},
    "two tasks add while another client does": contended,
}
LOST: dict[str, Make] = {
    f"add, the {lost} of its transaction is lost": writing("add", lost) for lost in ("request", "reply")
}


@pytest.mark.parametrize("name", [*SCENARIOS, *LOST])
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """X1: the connection is cut at each message, before the server, behind it, and after the reply: a write that
    returns was applied once, and no mark stays."""
    make = {**SCENARIOS, **LOST}[name]
    tell(await every_cut(stage.proxy, make(stage), choose=stage.choose, what=f"{name}: cuts"))


@pytest.mark.parametrize("name", [*SCENARIOS, *LOST])
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """X1: cancelled wherever it waits, with the connection cut in that moment, or in a black hole, or neither: it ends
    at once, was applied once or not at all, and no mark stays."""
    make = {**SCENARIOS, **LOST}[name]
    # A group of tasks ends when its tasks have ended, each some turns later.
    tell(await every_cancel(stage.proxy, make(stage), choose=stage.choose, what=f"{name}: cancels"))
