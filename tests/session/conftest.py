"""Fixtures: a scripted session, for each way in which the server's bytes can arrive."""

from __future__ import annotations

import pytest
from driven import Driven
from scripted import Feed, byte_by_byte, whole, with_a_tail


@pytest.fixture(params=[whole, byte_by_byte, with_a_tail])
def feed(request: pytest.FixtureRequest) -> Feed:
    """How the server's bytes arrive. The machine must behave the same for each."""
    feed: Feed = request.param
    return feed


@pytest.fixture
def driven(feed: Feed) -> Driven:
    """A machine with its timer and its scripted server, connected."""
    driven = Driven(feed)
    driven.connect()
    return driven
