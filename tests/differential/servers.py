"""The two servers, with the same configuration."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from embedded_side import EmbeddedSide
from sides import SocketSide

from corral.testing import LocalServer

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
    asyncio.run(server.start())
    try:
        yield SocketSide(server.address)
    finally:
        asyncio.run(server.close())


def embedded_server(sweep: float) -> EmbeddedSide:
    """An empty embedded server."""
    return EmbeddedSide(tick=TICK, most=MOST, sweep=sweep)
