"""Fixtures of the wire tests."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("recording")


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Nothing here runs on an event loop, except one conversation with a server, which cleans up itself. The
    check of what is left takes longer than most of these tests."""
