"""TLS: where each connection gets its context, and what an operator reads if a handshake fails.

A connection is aborted, without waiting for the server's ``close_notify``: ZooKeeper's messages have lengths,
so a truncated one is noticed, and a session ends by a message of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Literal, TypeAlias

from .hosts import Address

__all__ = [
    "CLOSED_IN_HANDSHAKE",
    "HandshakeFailed",
    "Tls",
    "TlsOption",
    "explain",
    "open_connection",
]

TlsOption: TypeAlias = Literal[True] | ssl.SSLContext | Callable[[], ssl.SSLContext]
"""What `connect(ssl=...)` takes: True for the system's authorities, a context, or a function that returns
one."""

CLOSED_IN_HANDSHAKE = "the server closed the connection in the TLS handshake"


class HandshakeFailed(ConnectionError):
    """There is no TLS connection. The message says what is wrong, and what to do."""


class Tls:
    """Gives the context of each connection."""

    def __init__(self, option: TlsOption) -> None:
        self._option = ssl.create_default_context() if option is True else option

    def context(self) -> ssl.SSLContext:
        """The context for the next connection. Raises `HandshakeFailed` if the user's function gives none."""
        option = self._option
        if isinstance(option, ssl.SSLContext):
            return option
        name = getattr(option, "__qualname__", type(option).__qualname__)
        try:
            context = option()
        except Exception as error:
            # What else it raises may have a password in its text.
            why = f": {error}" if isinstance(error, OSError) else ""
            raise HandshakeFailed(f"ssl={name}() raised {type(error).__name__}{why}") from error
        if not isinstance(context, ssl.SSLContext):
            raise HandshakeFailed(f"ssl={name}() returned a {type(context).__name__}, not an ssl.SSLContext")
        return context


async def open_connection(
    protocol: asyncio.BaseProtocol, address: Address, tls: Tls | None = None, server_name: str = ""
) -> asyncio.Transport:
    """Connect to a server, with TLS if `tls` is given. `server_name` is what the certificate must be for: the
    host as the user has named it.

    `protocol` gets the connection when its handshake is over. Raises `OSError`, of which `HandshakeFailed` is
    one. If this is cancelled in the turn in which the handshake ends, `protocol` may have a connection.
    """
    loop = asyncio.get_running_loop()
    if tls is None:
        transport, _ = await loop.create_connection(lambda: protocol, address.host, address.port)
        return transport
    context, server_name = tls.context(), _plain(server_name)
    try:
        transport, _ = await loop.create_connection(
            lambda: protocol,
            address.host,
            address.port,
            ssl=context,
            server_hostname=server_name,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT,
        )
    except ssl.SSLError as error:
        raise HandshakeFailed(explain(error, server_name)) from error
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        raise HandshakeFailed(CLOSED_IN_HANDSHAKE) from error
    except ValueError as error:  # from Python's ssl
        raise HandshakeFailed(f"TLS: no certificate can be for {server_name!r}: {error}") from error
    return transport


_HANDSHAKE_TIMEOUT = 3600.0
"""Seconds; whoever connects has a bound of its own, which is shorter."""


def _plain(host: str) -> str:
    """The name that a certificate has for a host: without the interface of an IPv6 address, and without the
    dot at the end of a complete domain name."""
    return host.partition("%")[0].rstrip(".")


def explain(error: ssl.SSLError, server_name: str | None = None) -> str:
    """What went wrong, and what to do, in one line."""
    if isinstance(error, ssl.SSLEOFError):
        return CLOSED_IN_HANDSHAKE
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        if error.verify_code in _WRONG_NAME:
            return (
                f"TLS: the server's certificate is not for {server_name!r}, the name in hosts; connect by a "
                "name or an address that the certificate has, or get one that has this name"
            )
        if error.verify_code in _WRONG_TIME:
            return f"TLS: the server's certificate is not valid now: {why}"
        if error.verify_code in _UNKNOWN_AUTHORITY:
            return (
                f"TLS: no authority that we trust has signed the server's certificate ({why}); trust its "
                "own: ssl=ssl.create_default_context(cafile=...)"
            )
        return f"TLS: the server's certificate is refused: {why}"
    reason = (error.reason or type(error).__name__).replace("_", " ").lower()
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return (
            f"TLS: the server does not accept our certificate ({reason}); load one that it trusts with "
            "load_cert_chain() of the context"
        )
    if "alert" in reason:
        return (
            f"TLS: the server refuses the handshake ({reason}); the two sides may have no version or no "
            "cipher in common"
        )
    return f"TLS: what the server sends is no TLS, or does not fit ({reason}); is it a secure port?"


# Error codes of OpenSSL's verification.
_WRONG_NAME = (62, 63, 64)
_WRONG_TIME = (9, 10)
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21, 27)
