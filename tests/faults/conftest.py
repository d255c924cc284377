"""Fixtures: servers that a test may break, and that are repaired afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from corral.testing import LocalEnsemble, Server


@pytest.fixture
async def server(make_server: Callable[..., Server]) -> AsyncIterator[Server]:
    """A standalone server of the test's own."""
    async with make_server() as own:
        yield own


@pytest.fixture
async def servers(ensemble: LocalEnsemble) -> AsyncIterator[LocalEnsemble]:
    """The three servers, all running and in agreement when the test begins, whatever the previous test
    did."""
    await mend(ensemble)
    yield ensemble
    await mend(ensemble)


async def mend(ensemble: LocalEnsemble) -> None:
    for each in ensemble.servers:
        if each.paused:
            each.resume()
    await ensemble.start()
    await ensemble.leader()
    await ensemble.followers()
