"""The servers: the connect string, the order of attempts, and the backoff between rounds."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import random
import re
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from corral import paths
from corral.errors import UsageTypeError, UsageValueError, shown

from .threads import on_a_thread

DEFAULT_PORT = 2181
NOT_TRIED = "not tried yet"
NO_ANSWER_YET = "no answer yet"


class Address(NamedTuple):
    """One server, by host name or IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Hosts(NamedTuple):
    """A parsed connect string. `chroot` is a path, or "" for none."""

    servers: tuple[Address, ...]
    chroot: str

    def __str__(self) -> str:
        return ",".join(map(str, self.servers)) + self.chroot


# As ZooKeeper's own: name:port, name, 10.0.0.1:port, [::1]:port. It matches an empty port, for a better
# error. A zone (%eth0) is the name of a network interface.
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
    # Outside the handler, so that the error that contains the password is not the context of this one.
    raise UsageValueError(
        "hosts has an '@' and is no connect string such as 'zk1:2181,zk2:2181/chroot'; credentials belong in "
        "auth=[('digest', b'user:password')], and a chroot with an '@' in zk.chroot(); what was given is not "
        "shown, as it may hold a password"
    )


def _kind_of(hosts: object) -> str:
    """The type of an invalid `hosts`, without showing it."""
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


# After a '/' in a password: "me:pass/word@zk1:2181".
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
    """How to write an IPv6 address without brackets; its last group may be meant as the port."""
    host, _, port = part.rpartition(":")
    if not port.isdecimal() or not _is_ipv6(host):
        host, port = part, str(DEFAULT_PORT)
    return f"{shown(part)} is an IPv6 address without brackets; write host:port as [{host}]:{port}"


class Resolver:
    """Returns, for each round, every address of every server, in random order.

    Names are resolved again for each round, since in Kubernetes a server restarts with another address
    (otherwise ZOOKEEPER-2184 happens). The order is random, so that clients spread over the ensemble, also
    when a server fails.

    A look-up can hang for as long as the system's resolver takes, and cannot be stopped. Each name therefore
    has at most one under way. While it hangs, or after a temporary failure, the addresses of the last one are
    tried.

    `use` replaces the servers by those that are members of the ensemble now. The servers that the user gave
    are then a fallback.
    """

    def __init__(self, servers: Sequence[Address], rng: random.Random) -> None:
        self._given = self._servers = tuple(servers)
        self._rng = rng
        self._known = {server: [server] for server in servers if _is_literal(server.host)}
        self._look_ups: dict[Address, asyncio.Future[_Infos]] = {}
        self.failures = {str(server): NOT_TRIED for server in servers}
        """The result of the last attempt at each server, for error messages."""
        self._remarks: dict[str, tuple[str, str]] = {}  # a result, and what was found out about it
        self._names: dict[Address, str] = {}  # of the addresses of the last round

    async def round(
        self, bound: float, *, last: Address | None = None, with_fallback: bool = False
    ) -> list[Address]:
        """The addresses to try now; `last`, whose connection was lost, comes last. With `with_fallback` those
        of the servers that the user gave, too, behind the members'.

        Waits at most `bound` seconds for look-ups. What they find later is used in the next round.
        """
        servers = self._servers
        if with_fallback:
            servers = tuple(dict.fromkeys((*servers, *self._given)))
        # Forgotten only now: an address of an earlier round may be asked for its name until then.
        for gone in self._known.keys() - {*servers, *self._given}:
            del self._known[gone]
        await self._look_up_all(servers, bound)
        found = [self._known.get(server, []) for server in servers]
        addresses = list(dict.fromkeys(address for some in found for address in some))
        # Drop addresses that no name has any more, and names that have addresses.
        unresolved = [str(server) for server, some in zip(servers, found, strict=True) if not some]
        self.failures = {
            name: self.failures.get(name, NOT_TRIED) for name in (*unresolved, *map(str, addresses))
        }
        self._names = {
            address: server.host
            for server, some in zip(reversed(servers), reversed(found), strict=True)
            for address in some
        }
        self._rng.shuffle(addresses)
        if with_fallback:
            members = self._addresses_of(self._servers)
            addresses.sort(key=lambda address: address not in members)
        if last in addresses:
            addresses.remove(last)
            addresses.append(last)
        return addresses

    async def use(self, members: Sequence[Address], bound: float) -> set[Address]:
        """Use these servers from now on; without any, those that the user gave. Returns the addresses of
        members that have left.

        Waits at most `bound` seconds for look-ups. Addresses are compared, since the user and the servers may
        call one server by different names. An address that never was a member's has not left: it may be a
        proxy's.
        """
        were_members = self._servers if self._servers is not self._given else ()
        gone = self._addresses_of([server for server in were_members if server not in members])
        self._servers = tuple(members) or self._given
        self._known.update({server: [server] for server in members if _is_literal(server.host)})
        await self._look_up_all(self._servers, bound)
        return gone - self._addresses_of(self._servers)

    def _addresses_of(self, servers: Sequence[Address]) -> set[Address]:
        return {address for server in servers for address in self._known.get(server, ())}

    async def _look_up_all(self, servers: Sequence[Address], bound: float) -> None:
        hanging = set(self._look_ups.values())
        for server in servers:
            if not _is_literal(server.host) and server not in self._look_ups:
                self._look_up(server)
        pending = {look_up for look_up in self._look_ups.values() if look_up not in hanging}
        if pending or (hanging and not self._known):
            await asyncio.wait(pending or hanging, timeout=bound)
        for server in self._look_ups.keys() - self._known.keys():
            self.failed(server, f"name not resolved: {NO_ANSWER_YET}")

    def name_of(self, address: Address) -> str:
        """The host name, of those that the user gave or of a member, by which the last round found this
        address; otherwise the address itself. Certificates and Kerberos principals are for names."""
        return self._names.get(address, address.host)

    def _look_up(self, server: Address) -> None:
        loop = asyncio.get_running_loop()
        if type(loop).getaddrinfo is asyncio.BaseEventLoop.getaddrinfo:
            look_up = on_a_thread(
                loop, functools.partial(_addresses_of, server), f"corral look-up of {server.host}"
            )
        else:  # a loop with a resolver of its own
            look_up = loop.create_task(
                loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM),
                name=f"corral look-up of {server.host}",
            )
        self._look_ups[server] = look_up
        look_up.add_done_callback(functools.partial(self._looked_up, server))

    def _looked_up(self, server: Address, look_up: asyncio.Future[_Infos]) -> None:
        self._look_ups.pop(server, None)
        if look_up.cancelled():
            return
        error = look_up.exception()
        if error is None:
            self._known[server] = [Address(str(info[4][0]), server.port) for info in look_up.result()]
            return
        self.failed(server, f"name not resolved: {str(error) or type(error).__name__}")
        if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
            self._known.pop(server, None)  # the name does not exist any more

    async def close(self) -> None:
        """Cancel all look-ups."""
        look_ups = list(self._look_ups.values())
        for look_up in look_ups:
            look_up.cancel()
        if look_ups:
            await asyncio.wait(look_ups)

    def trying(self, server: Address) -> None:
        """An attempt begins. Keep the result of an earlier one, which says more."""
        if self.failures.get(str(server), NOT_TRIED) == NOT_TRIED:
            self.failures[str(server)] = NO_ANSWER_YET

    def failed(self, server: Address, why: str) -> None:
        """An attempt failed, or a look-up."""
        self.failures[str(server)] = why

    def remark(self, server: Address, about: str, what: str) -> None:
        """Whenever the result of the last attempt is `about`, describe it with `what`, too."""
        self._remarks[str(server)] = about, what

    def describe(self) -> str:
        """The result of the last attempt at each server, in one line."""
        lines = [f"{server}: {why}{self._remark(server, why)}" for server, why in self.failures.items()]
        return "; ".join(lines) or "no attempt was made"

    def _remark(self, server: str, why: str) -> str:
        about, what = self._remarks.get(server, ("", ""))
        return f": {what}" if about == why else ""


_Infos: TypeAlias = "Sequence[tuple[Any, Any, Any, Any, tuple[Any, ...]]]"


def _addresses_of(server: Address) -> _Infos:
    return socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Backoff:
    """The delay before the next round: none at first, then doubling, with equal jitter (half fixed, half
    random).

    Clients that lost the same server reconnect at different times, and none at once.
    """

    FIRST = 0.05
    LONGEST = 0.9
    """A second after the end of an outage all clients are back. ZooKeeper's own clients wait for up to a
    second."""
    LONGEST_IN_ELECTION = 0.2
    """While servers accept connections and close them at once. They are electing a leader, which takes a
    fraction of a second and ends for all of them at the same time."""
    ELECTION = 20
    """The most rounds that count as an election. After that the ensemble has no quorum, and must be
    spared."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ceiling = 0.0
        self._elections = 0

    def next(self, *, turned_away: bool = False) -> float:
        """The seconds to wait now. `turned_away`: in the last round a server accepted a connection and closed
        it at once."""
        self._elections = self._elections + 1 if turned_away else 0
        if 0 < self._elections <= self.ELECTION:
            self._ceiling = min(self._ceiling, self.LONGEST_IN_ELECTION)
        ceiling, self._ceiling = self._ceiling, min(max(self._ceiling * 2, self.FIRST), self.LONGEST)
        return ceiling / 2 + self._rng.uniform(0, ceiling / 2)

    def reset(self) -> None:
        """A connection lasted: the next attempt is made at once."""
        self._ceiling = 0.0
        self._elections = 0
