"""What a project needs to test its services with corral: one line, and the choice of an event loop."""

from __future__ import annotations

import pytest

pytest_plugins = ["corral.testing.plugin"]


@pytest.fixture
def anyio_backend() -> str:
    """The tests are marked `anyio`, whose pytest plugin comes with corral; pytest-asyncio does as well."""
    return "asyncio"
