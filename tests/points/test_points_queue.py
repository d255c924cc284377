"""Every cut and every cancel, on queues: nothing lost, doubled or orphaned (Q1, X1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenarios import Stage
from scenarios_queue import ITEM, ending_by, handling, putting, putting_aside, requeueing, taking

from corral.testing.enumerators import CancelMode, Report, Scenario, every_cancel, every_cut

Tell = Callable[[Report], None]
Make = Callable[[Stage], Scenario]

SCENARIOS: dict[str, Make] = {
    "put, no parents": putting("put", parents=False),
    "put": putting("put", parents=True),
    "put_many": putting("put_many", parents=True),
    "put_many, two transactions": putting("batches", parents=True),
    "take, item there": taking("take", "there"),
    "take, item comes": taking("take", "comes"),
    "take, no parents": taking("take", "no parents"),
    "take, item given back": taking("take", "given back"),
    "try_take": taking("try_take", "there"),
    "item put aside for another": putting_aside,
    "done": ending_by(lambda job: job.done(), []),
    "release": ending_by(lambda job: job.release(), [ITEM]),
    "requeue": requeueing,
}
BODIES: dict[str, Make] = {
    "body": handling("ends"),
    "failing body": handling("raises"),
    "failing body, last attempt": handling("raises", 1),
}
"""Leaving the block waits for the server, at most until the lease ends (L6): that is how long it takes in a black hole."""

LONG = ("put, no parents", "take, no parents", "take, item given back", "failing body, last attempt")
"""They differ from others by a part of their points alone: they are cancelled in fewer ways."""
FEW = (CancelMode.NOTHING, CancelMode.RST)
NO_BLACK_HOLE = (CancelMode.NOTHING, CancelMode.FIN, CancelMode.RST)


@pytest.mark.parametrize("name", [*SCENARIOS, *BODIES])
async def test_every_cut(stage: Stage, name: str, tell: Tell) -> None:
    """Q1, X1: the connection is cut at each message, before the server, behind it, and after the reply: what was put is
    there once, and is handed out until it is done."""
    make = (SCENARIOS | BODIES)[name]
    tell(await every_cut(stage.proxy, make(stage), choose=stage.choose, what=f"queue, {name}: cuts"))


@pytest.mark.parametrize("name", [*SCENARIOS, *BODIES])
async def test_every_cancel(stage: Stage, name: str, tell: Tell) -> None:
    """Q1, X1: cancelled wherever it waits, with the connection cut in that moment or not: it ends at once, and leaves no
    claim, no place in line and no mark."""
    make = (SCENARIOS | BODIES)[name]
    modes = FEW if name in LONG else NO_BLACK_HOLE if name in BODIES else tuple(CancelMode)
    tell(
        await every_cancel(
            stage.proxy, make(stage), choose=stage.choose, what=f"queue, {name}: cancels", modes=modes
        )
    )
