"""Every cut and every cancel, connecting and reconnecting with SASL: zero broken (T2, S2, S8)."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from scenarios import Stage
from scenarios_sasl import connecting, reconnecting

import corral
from corral.testing import FaultProxy
from corral.testing.enumerators import Report, Scenario, every_cancel, every_cut
from sasl_servers import BOB, server_of_test, shared_server

Tell = Callable[[Report], None]
Make = Callable[[Stage], Scenario]

SCENARIOS: dict[str, Make] = {"connect with SASL": connecting, "reconnect with SASL": reconnecting}


@pytest.fixture(scope="module")
def shared(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    with shared_server(pytestconfig, tmp_path_factory, required=True) as address:
        yield address


@pytest.fixture
async def stage(shared: str | None) -> AsyncIterator[Stage]:
    """As the common one, on a server that requires SASL: the observer, too, is bob."""

    def connect(to: str, **options: Any) -> corral.Client:
        return corral.connect(f"{to}{root}", sasl=BOB, **options)

    root = f"/points-{uuid.uuid4().hex[:12]}"
    async with server_of_test(shared, required=True) as address, FaultProxy(address) as proxy:
        async with connect(address) as other:
            await other.ensure_path("/")
            yield Stage(connect, proxy, other, itertools.count())


async def cuts(stage: Stage, name: str) -> Report:
    """The connection is cut at each message, tokens included: before the server, behind it, and after the answer."""
    return await every_cut(stage.proxy, SCENARIOS[name](stage), what=f"{name}: cuts")


async def cancels(stage: Stage, name: str) -> Report:
    """It is cancelled at each wait and around each message. A session that was granted is closed first, within a time
    limit."""
    return await every_cancel(stage.proxy, SCENARIOS[name](stage), what=f"{name}: cancels", at_once=False)


# Reconnecting waits as each read does. One test, so that a part of the points may be any of them.
@pytest.mark.parametrize(
    ("name", "points"),
    [("connect with SASL", cuts), ("connect with SASL", cancels), ("reconnect with SASL", cuts)],
)
async def test_every_point(
    stage: Stage, name: str, points: Callable[[Stage, str], Awaitable[Report]], tell: Tell
) -> None:
    """T2, S2, S8: cut by FIN and by RST, the client gets there, as the same user; cancelled, with the connection cut, in
    a black hole, or neither, it ends, and leaves nothing."""
    tell(await points(stage, name))
