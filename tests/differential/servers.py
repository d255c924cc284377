"""The two servers, with the same configuration."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator

from embedded_side import EmbeddedSide
from sides import SocketSide

from corral.testing import LocalServer
from corral.testing.embedded.releases import RELEASES, Release
from support import started

TICK = 0.05
"""Seconds. The shortest session timeout is two ticks, and programs wait for that."""
MOST = 60.0
"""The longest session timeout, in seconds."""
NEVER = 86_400.0
SOON = 0.1
"""The interval, in seconds, of the search for empty containers. In nearly all programs it is never, since its
time is unpredictable."""


_PROPERTIES = {
    # Every ten seconds a server closes connections that were silent for longer than their session's timeout.
    # That is not the end of the session, for which programs wait.
    "zookeeper.nio.sessionlessCnxnTimeout": "86400000",
}


@contextlib.contextmanager
def real_server(sweep: float) -> Iterator[SocketSide]:
    """An empty ZooKeeper on a local JVM."""
    server = LocalServer(
        tick_time=TICK,
        max_session_timeout=MOST,
        container_check_interval=sweep,
        java_properties=_PROPERTIES,
    )
    with started(server):
        yield SocketSide(server.address, asyncio.run(_release_of(server)))


async def _release_of(server: LocalServer) -> Release:
    """The release that a real server is of, which the embedded one must know."""
    about = await server.four_letter_word("srvr")
    found = re.match(r"Zookeeper version: (\d+\.\d+)\.", about)
    for release in RELEASES:
        if found and found[1] == release:
            return release
    raise AssertionError(f"the embedded server behaves like none of {RELEASES} that this is: {about[:60]!r}")


def embedded_server(sweep: float, release: Release = "3.8") -> EmbeddedSide:
    """An empty embedded server."""
    return EmbeddedSide(tick=TICK, most=MOST, sweep=sweep, release=release)
