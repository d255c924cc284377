"""Where the servers are: the connect string, the order to try them in, and how long to wait between."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from corral import paths
from corral.errors import UsageTypeError, UsageValueError, shown

DEFAULT_PORT = 2181
NOT_TRIED = "not tried yet"


class Address(NamedTuple):
    """One server, by name or by number."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Hosts(NamedTuple):
    """A parsed connect string. `chroot` is "" for none, else a path."""

    servers: tuple[Address, ...]
    chroot: str

    def __str__(self) -> str:
        return ",".join(map(str, self.servers)) + self.chroot


# The same shape as ZooKeeper's own: name:port, name, 10.0.0.1:port, [::1]:port. The port may be empty here,
# so that the error can say that. A zone (%eth0) is the name of a network interface.
_HOST = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?"
)


def parse(hosts: str | Sequence[str]) -> Hosts:
    """Parse ``"host:port,host:port/chroot"``, or a list of ``"host:port"``.

    Raises `UsageValueError`, which names the part that is wrong, or `UsageTypeError`; no password is shown.
    """
    if not isinstance(hosts, str):
        if not isinstance(hosts, Sequence) or not all(isinstance(host, str) for host in hosts):
            raise UsageTypeError(
                f"hosts must be a str or a list of str such as 'zk1:2181', not {_kind_of(hosts)}"
            )
        if not hosts:
            raise UsageValueError("hosts is an empty list; name at least one server, such as ['zk1:2181']")
    try:
        return _parse_all(hosts)
    except UsageValueError:
        if not any("@" in part for part in hosts):
            raise
    # Raised out here, so that the error with the password in it is not this one's context.
    raise UsageValueError(
        "hosts has an '@' and is no connect string such as 'zk1:2181,zk2:2181/chroot'; credentials belong in "
        "auth=[('digest', b'user:password')], and a chroot with an '@' in zk.chroot(); what was given is not "
        "shown, as it may hold a password"
    )


def _kind_of(hosts: object) -> str:
    """What was given for hosts, without showing it."""
    if isinstance(hosts, Sequence) and not isinstance(hosts, bytes | bytearray | memoryview):
        wrong = next(type(host).__name__ for host in hosts if not isinstance(host, str))
        return f"a {type(hosts).__name__} that holds a value of type {wrong}"
    return shown(hosts)


def _parse_all(hosts: str | Sequence[str]) -> Hosts:
    if not isinstance(hosts, str):
        if any("/" in host for host in hosts):
            raise UsageValueError(
                f"hosts {shown(','.join(hosts))}: a list has no chroot; use zk.chroot('/app') instead"
            )
        hosts = ",".join(hosts)
    if "://" in hosts:
        raise UsageValueError(
            f"hosts {shown(hosts)} is a URL; write host:port, separated by commas, such as "
            "'zk1:2181,zk2:2181/chroot'"
        )
    names, slash, chroot = hosts.partition("/")
    chroot = slash + chroot
    servers = tuple(_parse_one(part.strip(), hosts) for part in names.split(","))
    if chroot == "/":
        chroot = ""
    if "," in chroot:
        raise UsageValueError(
            f"hosts {shown(hosts)}: chroot {shown(chroot)} holds a ','; write it once, at the end: "
            "'zk1:2181,zk2:2181/app' (zk.chroot() takes one with a comma in its name)"
        )
    if _LOOKS_LIKE_SERVER.search(chroot):
        raise UsageValueError("hosts has an '@' and a server behind its first '/'")
    if chroot:
        paths.validate(chroot, "chroot")
    return Hosts(tuple(dict.fromkeys(servers)), chroot)


# Behind a '/' in a password: "me:pass/word@zk1:2181".
_LOOKS_LIKE_SERVER = re.compile(r"@[^/@]*:[0-9]+(?:/|$)")


def _parse_one(part: str, hosts: str) -> Address:
    where = f"hosts {shown(hosts)}: "
    match = _HOST.fullmatch(part)
    if match is None:
        raise UsageValueError(
            f"{where}{_unbracketed(part)}"
            if part.count(":") > 1 and _is_ipv6(part)
            else f"{where}{shown(part)} is no server; write host:port, separated by commas, such as "
            "'zk1:2181,zk2:2181/chroot'"
        )
    if match["v6"] and not _is_ipv6(match["v6"]):
        raise UsageValueError(
            f"{where}{shown(part)} has no IPv6 address in its brackets; write [::1]:2181, or a name or an "
            "IPv4 address without brackets"
        )
    if match["port"] == "":
        raise UsageValueError(
            f"{where}{shown(part)} has an empty port; write host:port, or leave out the ':' for port "
            f"{DEFAULT_PORT}"
        )
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise UsageValueError(f"{where}port {port} is not between 1 and 65535")
    return Address(match["v6"] or match["name"], port)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _unbracketed(part: str) -> str:
    """What to write in place of an IPv6 address without brackets; its last group may be meant as a port."""
    host, _, port = part.rpartition(":")
    if not port.isdecimal() or not _is_ipv6(host):
        host, port = part, str(DEFAULT_PORT)
    return f"{shown(part)} is an IPv6 address without brackets; write host:port as [{host}]:{port}"


class Resolver:
    """Gives, round by round, every address of every server, in random order.

    Names are resolved afresh each round: in Kubernetes a server comes back under another address
    (ZOOKEEPER-2184 is what happens otherwise). The order is random so that clients spread over the
    ensemble, and so that they do not all run to the same server when one fails.
    """

    def __init__(self, servers: Sequence[Address], rng: random.Random) -> None:
        self._servers = servers
        self._rng = rng
        self.failures = {str(server): NOT_TRIED for server in servers}
        """What each server last answered, for the error that ends a vain search."""

    async def round(self, bound: float, *, last: Address | None = None) -> list[Address]:
        """The addresses to try now; `last`, which has just failed us, comes at the end.

        `bound` (seconds) limits each look-up; a name that does not resolve is left out and noted.
        """
        found = await asyncio.gather(*(self._look_up(server, bound) for server in self._servers))
        addresses = list(dict.fromkeys(address for some in found for address in some))
        # An address that a name no longer has is of no more interest, nor is a name that has addresses.
        unresolved = [str(server) for server, some in zip(self._servers, found, strict=True) if not some]
        self.failures = {
            name: self.failures.get(name, NOT_TRIED) for name in (*unresolved, *map(str, addresses))
        }
        self._rng.shuffle(addresses)
        if last in addresses:
            addresses.remove(last)
            addresses.append(last)
        return addresses

    async def _look_up(self, server: Address, bound: float) -> list[Address]:
        if _is_literal(server.host):
            return [server]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(bound):
                infos = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
            self.failed(server, f"name not resolved: {str(error) or 'no answer in time'}")
            return []
        return [Address(str(info[4][0]), server.port) for info in infos]

    def trying(self, server: Address) -> None:
        """Note that an attempt is under way; what an earlier one came to says more."""
        if self.failures.get(str(server), NOT_TRIED) == NOT_TRIED:
            self.failures[str(server)] = "no answer yet"

    def failed(self, server: Address, why: str) -> None:
        """Note what became of an attempt."""
        self.failures[str(server)] = why

    def describe(self) -> str:
        """What each server last answered, in one line."""
        return "; ".join(f"{server}: {why}" for server, why in self.failures.items()) or "no attempt was made"


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Backoff:
    """How long to wait before the next round: nothing at first, then doubling, with jitter.

    Equal jitter (half fixed, half random): clients that lost the same server come back apart, and
    none comes back at once.
    """

    FIRST = 0.05
    LONGEST = 0.9
    """So that a second after the end of an outage everybody is back and knows the last state; ZooKeeper's own
    clients wait for up to a second."""
    LONGEST_IN_ELECTION = 0.2
    """While servers take the connection and turn us away at once: they are electing a leader, which takes a
    fraction of a second and ends for all of them at the same time."""
    ELECTION = 20
    """For so many rounds it may be one; then it is an ensemble without a quorum, which is to be spared."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ceiling = 0.0
        self._elections = 0

    def next(self, *, turned_away: bool = False) -> float:
        """Seconds to wait now; `turned_away` if the last round met a server that took the connection only to
        close it."""
        self._elections = self._elections + 1 if turned_away else 0
        if 0 < self._elections <= self.ELECTION:
            self._ceiling = min(self._ceiling, self.LONGEST_IN_ELECTION)
        ceiling, self._ceiling = self._ceiling, min(max(self._ceiling * 2, self.FIRST), self.LONGEST)
        return ceiling / 2 + self._rng.uniform(0, ceiling / 2)

    def reset(self) -> None:
        """A connection has held: the next retry is at once again."""
        self._ceiling = 0.0
        self._elections = 0
