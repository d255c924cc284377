"""The two servers, configured alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from embedded_side import EmbeddedSide
from sides import SocketSide

from corral.testing import LocalServer

TICK = 0.05
"""Seconds. Sessions expire after two at the least, and programs wait for that."""
MOST = 60.0
"""The longest time-out of a session, in seconds."""
NEVER = 86_400.0
SOON = 0.1
"""How often, in seconds, empty containers are looked for. In nearly all programs never: what a server does of
its own accord it does at any time."""


_PROPERTIES = {
    # Every ten seconds a server closes connections that were silent for longer than their session's time-out.
    # That is another end than the session's, which programs wait for.
    "zookeeper.nio.sessionlessCnxnTimeout": "86400000",
}


@contextlib.contextmanager
def real_server(sweep: float) -> Iterator[SocketSide]:
    """A ZooKeeper on a local JVM, with nothing in it."""
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
    """An embedded server, with nothing in it."""
    return EmbeddedSide(tick=TICK, most=MOST, sweep=sweep)
