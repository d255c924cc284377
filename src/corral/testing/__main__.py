"""``python -m corral.testing``: run a ZooKeeper server without a JVM, for clients in any language."""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
from collections.abc import Sequence

from corral.errors import UsageError
from corral.testing import EmbeddedServer, ServerUnavailable
from corral.testing.embedded.releases import RELEASES
from corral.testing.network import LOOPBACK
from corral.wire.framing import DEFAULT_MAX_REQUEST

__all__ = ["main"]

_PORT = 2181
_PROGRAM = "python -m corral.testing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit status. `arguments` default to the command
    line's."""
    parser = _parser()
    options = parser.parse_args(arguments)
    least, most = options.session_timeout or (None, None)
    try:
        server = EmbeddedServer(
            tick_time=options.tick_time,
            min_session_timeout=least,
            max_session_timeout=most,
            container_check_interval=options.container_check_interval,
            jute_maxbuffer=options.jute_maxbuffer,
            version=options.version,
            read_only=options.read_only,
            ssl=_context(parser, options),
            host=options.host,
            port=options.port,
        )
    except UsageError as error:
        parser.error(str(error))
    try:
        asyncio.run(_serve(server))
    except ServerUnavailable as error:
        print(f"{_PROGRAM}: {error}; --port 0 takes a free port", file=sys.stderr)
        return 1
    return 0


def _context(parser: argparse.ArgumentParser, options: argparse.Namespace) -> ssl.SSLContext | None:
    """The context for TLS, if a certificate is given."""
    if options.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    except OSError as error:
        parser.error(f"--tls-certificate {options.tls_certificate}: {error}")
    return context


async def _serve(server: EmbeddedServer) -> None:
    """Serve until a signal arrives."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with server:
        version = (await server.four_letter_word("srvr")).partition("\n")[0]
        print(f"{server.address} serves as {version.partition(': ')[2].partition(',')[0]}", flush=True)
        await ended.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=(
            "Runs a standalone ZooKeeper server in memory, for any client in any language. Once it serves, "
            "it prints one line with its address; it runs until Ctrl-C or SIGTERM. Nothing is stored: all "
            "data is lost when it ends."
        ),
        epilog="All times are in seconds.",
    )
    add = parser.add_argument
    add("--host", default=LOOPBACK, help="the address to listen on; 0.0.0.0 for all (default: %(default)s)")
    add(
        "--port",
        type=int,
        default=_PORT,
        help="the port; 0 for a free one (default: %(default)s)",
    )
    add(
        "--version",
        choices=RELEASES,
        default="3.8",
        help="the ZooKeeper release to behave like, where releases differ (default: %(default)s)",
    )
    add(
        "--tick-time",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="ZooKeeper's clock: sessions expire in steps of it (default: %(default)s)",
    )
    add(
        "--session-timeout",
        type=float,
        nargs=2,
        metavar=("LEAST", "MOST"),
        help="the bounds of session timeouts (default: 2 and 20 ticks)",
    )
    add(
        "--container-check-interval",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="how often empty containers and expired TTL nodes are removed (default: %(default)s)",
    )
    add(
        "--jute-maxbuffer",
        type=int,
        default=DEFAULT_MAX_REQUEST,
        metavar="BYTES",
        help="the size of the largest request (default: %(default)s)",
    )
    add("--read-only", action="store_true", help="serve only reads, like a server that has lost its quorum")
    add("--tls-certificate", metavar="FILE", help="speak TLS, with this certificate (PEM)")
    add("--tls-key", metavar="FILE", help="the certificate's private key (default: in the same file)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
