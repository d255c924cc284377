"""Free TCP ports for servers that tests start."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from corral.testing.network import LOOPBACK

from .base import ServerUnavailable

__all__ = ["PORT_ATTEMPTS", "free_ports"]

PORT_ATTEMPTS = 5
"""How often a server that finds its port in use tries another one: between choosing a free port and binding
it, another process may take it."""

_LOWEST_PORT = 10_000
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_DEFAULT = 32_768


def free_ports(count: int) -> list[int]:
    """Choose TCP ports of the loopback interface that nobody listens on.

    They lie below the range from which the kernel takes the source ports of outgoing connections. A client
    that keeps reconnecting to a stopped server could be given the server's own port from that range, and
    connect to itself. Any outgoing connection could also occupy the port, and keep the server from
    restarting.
    """
    try:
        ceiling = int(_EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        ceiling = _EPHEMERAL_DEFAULT
    with contextlib.ExitStack() as bound:  # all stay bound until the end, so that they differ
        ports: list[int] = []
        for _ in range(100 * count):
            if len(ports) == count:
                break
            sock = bound.enter_context(socket.socket())
            # A host whose ephemeral range covers nearly all ports leaves no others to choose from.
            wanted = random.randrange(_LOWEST_PORT, ceiling) if ceiling > _LOWEST_PORT + 1000 else 0
            try:
                sock.bind((LOOPBACK, wanted))
            except OSError:
                continue
            ports.append(sock.getsockname()[1])
    if len(ports) < count:
        raise ServerUnavailable(
            f"found only {len(ports)} of {count} free TCP ports on {LOOPBACK}; stop what listens there, or "
            "narrow net.ipv4.ip_local_port_range"
        )
    return ports
