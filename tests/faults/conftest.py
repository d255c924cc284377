"""Servers to break, and mended again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from corral.testing import LocalEnsemble, LocalServer


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    """A standalone server of the test's own."""
    async with LocalServer() as own:
        yield own


@pytest.fixture
async def servers(ensemble: LocalEnsemble) -> AsyncIterator[LocalEnsemble]:
    """The three servers, all up and agreed when the test begins, whatever the one before has done to them."""
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
