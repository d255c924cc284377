"""The members of an ensemble, as ``/zookeeper/config`` has them: records, and their text in both directions.

The format is the server's own (`QuorumServer`, `QuorumMaj`): a line for each member, and the version::

    server.1=zk1:2888:3888:participant;0.0.0.0:2181
    server.2=zk2:2888:3888|zk2-b:2888:3888:observer;zk2:2181
    version=100000000

A server writes what it keeps, with the role and both addresses in full. It reads shorter forms, too: without
the role of a participant, and with a client port alone, which means all addresses of the host.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from .errors import InvalidValue, UsageTypeError, UsageValueError, shown

__all__ = ["CONFIG", "EnsembleConfig", "EnsembleMember", "QuorumAddress", "parse_config"]

CONFIG = "/zookeeper/config"
"""The full path of the znode that has the configuration. No chroot applies to it."""

_MOST_ID = (1 << 63) - 1


class QuorumAddress(NamedTuple):
    """Where the other servers reach a member."""

    host: str
    """A name or an IP address, without brackets."""
    quorum_port: int
    """The port on which it accepts followers while it leads."""
    election_port: int
    """The port on which leaders are elected."""

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.quorum_port}:{self.election_port}"


@dataclass(frozen=True, slots=True)
class EnsembleMember:
    """A server of an ensemble. Frozen; two are equal if all their fields are."""

    id: int
    """Its number, which is in its file ``myid``."""
    addresses: tuple[QuorumAddress, ...]
    """Where the other servers reach it; several with ``multiAddress.enabled`` (ZooKeeper 3.6)."""
    role: Literal["participant", "observer"] = "participant"
    """Whether it votes."""
    client_address: str | None = None
    """Where it accepts clients, as ``host:port``. The host ``0.0.0.0`` means all its addresses. None if the
    configuration does not say: it is then in the server's own ``zoo.cfg``."""
    secure_client_address: str | None = None
    """Where it accepts clients by TLS. No release up to 3.9 tells it; the one after that may
    (ZOOKEEPER-4276)."""

    @property
    def host(self) -> str:
        """The host of its first address."""
        return self.addresses[0].host

    @property
    def quorum_port(self) -> int:
        """The quorum port of its first address."""
        return self.addresses[0].quorum_port

    @property
    def election_port(self) -> int:
        """The election port of its first address."""
        return self.addresses[0].election_port

    def hosts(self, *, secure: bool = False) -> tuple[str, ...]:
        """Where clients reach it, each as ``host:port``; empty if the configuration does not say.

        A server that accepts clients at all its addresses (``0.0.0.0``, which is what a port alone means) is
        reached at the hosts of its quorum addresses. `secure`: by TLS.
        """
        address = self.secure_client_address if secure else self.client_address
        if address is None:
            return ()
        host, port = _split(address)
        if not _is_wildcard(host):
            return (address,)
        reachable = [each.host for each in self.addresses if not _is_wildcard(each.host)]
        return tuple(f"{_bracketed(host)}:{port}" for host in dict.fromkeys(reachable))

    @classmethod
    def parse(cls, text: str) -> EnsembleMember:
        """Parse ``"server.4=zk4:2888:3888:participant;zk4:2181"``, as in a server's configuration.

        Raises `UsageValueError` or `UsageTypeError`.
        """
        if not isinstance(text, str):
            raise UsageTypeError(f"a member must be a str such as {_EXAMPLE!r}, not {shown(text)}")
        key, equals, value = text.partition("=")
        match = _KEY.fullmatch(key.strip())
        if not equals or match is None:
            raise UsageValueError(f"member {shown(text)}: write {_EXAMPLE!r}")
        return _member(int(match[1]), value.strip())

    def __str__(self) -> str:
        """The member as in a server's configuration."""
        servers = "|".join(map(str, self.addresses))
        secure = "" if self.secure_client_address is None else f";{self.secure_client_address}"
        client = f";{self.client_address or ''}" if self.client_address or secure else ""
        return f"server.{self.id}={servers}:{self.role}{client}{secure}"


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
    """The members of an ensemble at one version. Frozen; two are equal if all their fields are."""

    version: int
    """The zxid of the change that made it: it grows with each. 0 if members are not configured dynamically:
    on a standalone server, and with ``reconfigEnabled=false``, where each server has its own file."""
    members: tuple[EnsembleMember, ...]
    """The members, by their ids; none on a standalone server."""

    def member(self, id: int) -> EnsembleMember | None:
        """The member with this id, if there is one."""
        return next((member for member in self.members if member.id == id), None)

    def hosts(self, *, secure: bool = False) -> tuple[str, ...]:
        """Where clients reach the members, each as ``host:port``; see `EnsembleMember.hosts`."""
        return tuple(dict.fromkeys(host for each in self.members for host in each.hosts(secure=secure)))

    def __str__(self) -> str:
        """The configuration as the server writes it."""
        return "\n".join([*map(str, self.members), f"version={self.version:x}"])


def parse_config(data: bytes, version: int) -> EnsembleConfig:
    """Parse the data of the znode `CONFIG`; `version` is its data version, for the error.

    Raises `InvalidValue`. Lines that are not about members, such as groups and weights, are left out, since
    newer servers may have others.
    """
    try:
        return _config(data.decode())
    except ValueError as error:  # a UnicodeDecodeError, too
        raise InvalidValue("ensemble configuration", CONFIG, version, str(error)) from error


def _config(text: str) -> EnsembleConfig:
    if not text.strip():
        return EnsembleConfig(0, ())  # a standalone server
    members: dict[int, EnsembleMember] = {}
    version: int | None = None
    for line in text.split("\n"):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not key and not equals:
            continue
        if not equals:
            raise ValueError(f"the line {shown(line)} has no '='")
        if key == "version":
            if version is not None or not _VERSION.fullmatch(value):
                raise ValueError(f"{shown(value)} is no version, or the second one")
            version = int(value, 16)
        elif key.startswith("server."):
            member = EnsembleMember.parse(f"{key}={value}")
            if member.id in members:
                raise ValueError(f"member {member.id} is there twice")
            members[member.id] = member
    if version is None or not members:
        raise ValueError("it has no version" if members else "it has no member")
    return EnsembleConfig(version, tuple(members[id] for id in sorted(members)))


_EXAMPLE = "server.4=zk4:2888:3888:participant;zk4:2181"
_KEY = re.compile(r"server\.([0-9]{1,19})", re.ASCII)
_VERSION = re.compile(r"[0-9a-f]{1,16}", re.ASCII)
_HOST = r"(?:\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\]|[A-Za-z0-9._-]+)"
_SERVER = re.compile(
    rf"(?P<host>{_HOST}):(?P<quorum>[0-9]{{1,5}}):(?P<election>[0-9]{{1,5}})(?::(?P<role>[A-Za-z]+))?",
    re.ASCII,
)
_CLIENT = re.compile(rf"(?:(?P<host>{_HOST}):)?(?P<port>[0-9]{{1,5}})", re.ASCII)


def _member(id: int, value: str) -> EnsembleMember:
    """The member of a value such as "zk4:2888:3888:participant;zk4:2181"."""
    where = f"member {shown(f'server.{id}={value}')}: "
    if id > _MOST_ID:
        raise UsageValueError(f"{where}its id is over {_MOST_ID}")
    servers, *clients = value.split(";")
    if len(clients) > 2:
        raise UsageValueError(f"{where}it has more than two client addresses; write {_EXAMPLE!r}")
    addresses: list[QuorumAddress] = []
    roles = set[str]()
    for part in servers.split("|"):
        match = _SERVER.fullmatch(part.strip())
        if match is None:
            raise UsageValueError(f"{where}{shown(part)} is no host:port:port; write {_EXAMPLE!r}")
        host = _checked_host(match["host"], where)
        addresses.append(QuorumAddress(host, _port(match["quorum"], where), _port(match["election"], where)))
        if match["role"]:
            roles.add(match["role"].lower())
    if len(roles) > 1 or not roles <= {"participant", "observer"}:
        raise UsageValueError(f"{where}its role must be 'participant' or 'observer', once")
    role = cast(Literal["participant", "observer"], roles.pop() if roles else "participant")
    client, secure = (_client(part.strip(), where) for part in (*clients, "", "")[:2])
    return EnsembleMember(id, tuple(addresses), role, client, secure)


def _client(part: str, where: str) -> str | None:
    if not part:
        return None
    match = _CLIENT.fullmatch(part)
    if match is None:
        raise UsageValueError(f"{where}{shown(part)} is no client address; write host:port, or the port")
    host = "0.0.0.0" if match["host"] is None else _checked_host(match["host"], where)
    return f"{_bracketed(host)}:{_port(match['port'], where)}"


def _checked_host(text: str, where: str) -> str:
    if not text.startswith("["):
        return text
    host = text[1:-1]
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise UsageValueError(f"{where}{shown(text)} has no IPv6 address in its brackets") from None
    return host


def _port(text: str, where: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise UsageValueError(f"{where}port {port} is not between 1 and 65535")
    return port


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
