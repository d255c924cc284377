"""TLS: where each connection gets its context, the handshake, and what an operator reads if it fails.

The handshake is asyncio's, by `loop.start_tls` on a connection that is open already, and not by
`create_connection(ssl=...)`: if that one is cancelled in the turn of the loop in which the socket is connected,
it leaves the socket open, and the handshake goes on (Python 3.11 to 3.13). Here whoever waits has the
socket's transport and aborts it.

A connection is closed without waiting for the server's `close_notify`: ZooKeeper's messages have lengths, so a
truncated one is noticed, and a session ends by a message of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias, cast

from .hosts import Address

__all__ = [
    "CLOSED_IN_HANDSHAKE",
    "HandshakeFailed",
    "Tls",
    "TlsOption",
    "explain",
    "open_connection",
    "secure",
]

TlsOption: TypeAlias = Literal[True] | ssl.SSLContext | Callable[[], ssl.SSLContext]
"""What `connect(ssl=...)` takes: True for the authorities that the system trusts, a context, or a function that
returns one."""

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
    protocol: asyncio.BaseProtocol,
    address: Address,
    tls: Tls | None = None,
    server_name: str = "",
    on_reached: Callable[[], None] = lambda: None,
) -> asyncio.Transport:
    """Connect to a server, with TLS if `tls` is given; `protocol` gets the connection when its handshake is
    over. `server_name` is what the certificate must be for: the host as the user has named it.

    `on_reached` is called before the handshake. Raises `OSError`, of which `HandshakeFailed` is one. If this
    fails or is cancelled, the connection is closed, and `protocol` has never had it.
    """
    loop = asyncio.get_running_loop()
    if tls is None:
        plain, _ = await loop.create_connection(lambda: protocol, address.host, address.port)
        return plain
    context, name = tls.context(), _plain(server_name)
    if isinstance(loop, asyncio.BaseEventLoop):
        plain, _ = await loop.create_connection(asyncio.Protocol, address.host, address.port)
        on_reached()
        return await secure(plain, protocol, context, server_name=name)
    # uvloop may read, and lose, what comes before `start_tls`. It has no such gap here.
    stand_in = _StandIn()
    with _explained(name):
        secured, _ = await loop.create_connection(
            lambda: stand_in,
            address.host,
            address.port,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT,
        )
        stand_in.hand_over(secured, protocol)
    return secured


async def secure(
    transport: asyncio.Transport,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_name: str | None = None,
    shutdown_timeout: float | None = None,
) -> asyncio.Transport:
    """Shake hands on a connection that nothing was read from, and give it to `protocol`.

    Raises `OSError`, of which `HandshakeFailed` is one. If this fails or is cancelled, the connection is closed,
    and `protocol` has never had it.
    """
    stand_in = _StandIn()
    try:
        with _explained(server_name):
            if transport.is_closing():
                raise ConnectionResetError
            secured: asyncio.Transport | None = await asyncio.get_running_loop().start_tls(
                transport,
                stand_in,
                context,
                server_side=server_side,
                server_hostname=server_name,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=shutdown_timeout,
            )
            stand_in.hand_over(secured, protocol)
    except BaseException:
        transport.abort()
        raise
    assert secured is not None  # `hand_over` has checked it
    return secured


_HANDSHAKE_TIMEOUT = 3600.0
"""Seconds; whoever connects has a bound of its own, which is shorter."""


@contextlib.contextmanager
def _explained(server_name: str | None) -> Iterator[None]:
    """Raise what goes wrong in a handshake as `HandshakeFailed`."""
    try:
        yield
    except ssl.SSLError as error:
        raise HandshakeFailed(explain(error, server_name)) from error
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        raise HandshakeFailed(CLOSED_IN_HANDSHAKE) from error
    except ValueError as error:  # from Python's ssl
        raise HandshakeFailed(f"TLS: no certificate can be for {server_name!r}: {error}") from error


class _StandIn(asyncio.Protocol):
    """Has the connection until the handshake is over, and keeps what the peer sends in the same moment."""

    def __init__(self) -> None:
        self.is_lost = False
        self.error: Exception | None = None
        """Why, if it was lost by an error."""
        self._received: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost, self.error = True, exc

    def hand_over(self, transport: asyncio.Transport | None, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to its protocol; raises if it is lost already."""
        # asyncio returns also if the connection was lost in the handshake (None), or just after it.
        if transport is None or self.is_lost or transport.is_closing():
            raise self.error or ConnectionResetError()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        data = b"".join(self._received)
        while data and not transport.is_closing():
            if isinstance(protocol, asyncio.BufferedProtocol):
                buffer = memoryview(protocol.get_buffer(len(data)))
                piece, data = data[: len(buffer)], data[len(buffer) :]
                buffer[: len(piece)] = piece
                protocol.buffer_updated(len(piece))
            else:
                cast(asyncio.Protocol, protocol).data_received(data)
                data = b""


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
                f"TLS: the server's certificate is not for {server_name!r}, the name in hosts; connect by a name "
                "or an address that the certificate has, or get one that has this name"
            )
        if error.verify_code in _WRONG_TIME:
            return f"TLS: the server's certificate is not valid now: {why}"
        if error.verify_code in _UNKNOWN_AUTHORITY:
            return (
                f"TLS: no authority that we trust has signed the server's certificate ({why}); trust its own: "
                "ssl=ssl.create_default_context(cafile=...)"
            )
        return f"TLS: the server's certificate is refused: {why}"
    reason = (error.reason or type(error).__name__).replace("_", " ").lower()
    if "certificate" in reason and "alert" in reason or "unknown ca" in reason:
        return (
            f"TLS: the server does not accept our certificate ({reason}); load one that it trusts with "
            "load_cert_chain() of the context"
        )
    if "alert" in reason:
        return f"TLS: the server refuses the handshake ({reason}); do both sides have a version and a cipher in common?"
    return f"TLS: what the server sends is no TLS, or does not fit ({reason}); is it a secure port?"


# Error codes of OpenSSL's verification.
_WRONG_NAME = (62, 63, 64)
_WRONG_TIME = (9, 10)
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21, 27)
