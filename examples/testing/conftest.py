"""The set-up that a project needs to test its services with corral: the plugin, and the event loop."""

from __future__ import annotations

import pytest

pytest_plugins = ["corral.testing.plugin"]


@pytest.fixture
def anyio_backend() -> str:
    """Run the tests, which are marked `anyio`, on asyncio. pytest-asyncio would do as well."""
    return "asyncio"
