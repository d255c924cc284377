"""Every cut and every cancel, on the way to a read-only server, there, and on the way back: zero broken (T3, S8)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest
from scenarios_read_only import SCENARIOS, ReadOnlyStage

import corral
from corral.testing import EmbeddedServer, FaultProxy, VirtualLoop
from corral.testing.enumerators import CancelMode, Report, every_cancel, every_cut

Tell = Callable[[Report], None]

NOT_AT_ONCE = ("connect, read-only",)
"""Entering that is cancelled waits for its connections to close."""


@pytest.fixture
async def stage() -> AsyncIterator[ReadOnlyStage]:
    if not isinstance(asyncio.get_running_loop(), VirtualLoop):
        pytest.skip("waits for sessions to end, on an embedded server of its own: only in virtual time")
    async with (
        EmbeddedServer(seed=1) as server,
        FaultProxy(server.address) as proxy,
        corral.connect(server.address, session_timeout=10) as other,
    ):
        yield ReadOnlyStage(server, proxy, other, itertools.count())


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cut(stage: ReadOnlyStage, name: str, tell: Tell) -> None:
    """T3, S2, W3: the connection is cut at each message, before the server, behind it, and after the reply, by FIN and
    by RST: reads are answered, writes are applied at most once, the session is kept, and nothing stays."""
    tell(await every_cut(stage.proxy, SCENARIOS[name](stage), what=f"{name}: cuts"))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cancel(stage: ReadOnlyStage, name: str, tell: Tell) -> None:
    """T3, S8, L3: cancelled wherever it waits, with the connection cut in that moment, or in a black hole, or neither:
    it ends at once and leaves nothing."""
    scenario = SCENARIOS[name](stage)
    modes = [CancelMode.NOTHING, CancelMode.RST]
    if name not in ("lock, writes refused", "lock, writes wait"):  # these have many points
        modes.append(CancelMode.BLACK_HOLE)
    at_once = name not in NOT_AT_ONCE
    tell(await every_cancel(stage.proxy, scenario, what=f"{name}: cancels", modes=modes, at_once=at_once))
