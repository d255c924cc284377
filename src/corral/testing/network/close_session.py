"""Ends somebody else's session on a server: a session belongs to whoever knows its id and its password.

The session's client sees what it sees when its session expires: its connection is closed, its ephemerals are
gone, and no server knows the session any more.
"""

from __future__ import annotations

import asyncio

from corral.session.ensemble_probe import LIMIT, probe_zxid

__all__ = ["close_session"]

_TAKEOVERS = 20
"""How often a session is taken over again after its client has taken it back. A server that closes every
connection looks the same, so there is a bound."""


async def close_session(host: str, port: int, session_id: int, password: bytes) -> None:
    """Take a session over and close it. When this returns, the session and its ephemerals are gone.

    It takes milliseconds, and at most 10 seconds. Raises `OSError` (`TimeoutError` is a subclass) if the
    server cannot be reached or does not end the session. If cancelled, it may have ended the session.
    """
    takeovers = 0
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                closed = await probe_zxid(host, port, session_id, password)
                break
            except ConnectionResetError:
                # Our takeover has closed the client's connection, and the client has taken the session back
                # before the server has read our close.
                takeovers += 1
                if takeovers == _TAKEOVERS:
                    raise
        if closed is None:
            # A server refuses a session from the moment it begins to close it. It handles a new session after
            # that: once the new session is open, the ephemerals of the old one are gone.
            await probe_zxid(host, port)
