"""What the tests of bytes share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("recording")


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Nothing here runs on an event loop, but for one conversation with a server that cleans up itself; and
    the look at what is left takes longer than most of these tests."""
