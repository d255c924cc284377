"""Every cut and every cancel with TLS, whose handshake and records no proxy can read: no invariant is violated
(T1, S2, S8)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from parcels import ParcelProxy
from scenarios import Stage, connecting, operating

import corral
from corral.testing import FaultProxy
from corral.testing.enumerators import CancelMode, Report, Scenario, every_cancel, every_cut
from tls_support import Pki

Tell = Callable[[Report], None]
SCENARIOS: dict[str, Callable[[Stage], Scenario]] = {
    "connect": connecting,
    "set": operating("set"),
}


@pytest.fixture
async def tls_stage(secure: str, pki: Pki) -> AsyncIterator[Stage]:
    """A stage whose clients have TLS."""
    context = pki.trusting()

    async with corral.connect(secure, ssl=context, session_timeout=4.0) as admin:
        root = await admin.create("/points-", sequential=True)

        def connect(to: str = secure, **options: Any) -> corral.Client:
            return corral.connect(f"{to}{root}", ssl=context, **options)

        async with ParcelProxy(secure) as proxy, connect(session_timeout=4.0) as other:
            yield Stage(connect, cast(FaultProxy, proxy), other, itertools.count())
        await admin.delete(root, recursive=True)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_cut(tls_stage: Stage, name: str, tell: Tell) -> None:
    """T1, S2: cut before and after each parcel in each direction, by FIN and by RST, in the handshake, too."""
    tell(await every_cut(tls_stage.proxy, SCENARIOS[name](tls_stage), what=f"{name} with TLS: cuts"))


@pytest.mark.parametrize("mode", CancelMode)
async def test_every_cancel_of_connecting(tls_stage: Stage, mode: CancelMode, tell: Tell) -> None:
    """T1, S8: connecting is cancelled wherever it waits, and in each turn of the loop after each parcel; nothing is
    left, neither a task nor a timer nor a socket."""
    scenario = connecting(tls_stage)
    what = f"connect with TLS: cancels, {mode.value}"
    tell(await every_cancel(tls_stage.proxy, scenario, what=what, modes=[mode], at_once=False))
