"""Checks of arguments, before anything is sent. Each error names the value, the rule and the remedy."""

from __future__ import annotations

import base64
import inspect
import ipaddress
import math
import ssl
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, TypeVar

from . import paths
from .errors import UsageTypeError, UsageValueError, shown
from .members import EnsembleMember
from .types import Acl, Perm

F = TypeVar("F")
T = TypeVar("T")

_INT32 = 0x80000000
_INT64 = 1 << 63

# The server's create modes (`CreateMode`).
_EPHEMERAL = 1
_SEQUENTIAL = 2
CONTAINER = 4
WITH_TTL = 5
SEQUENTIAL_WITH_TTL = 6
MAX_TTL = 0xFFFFFFFFFF / 1000
"""The longest time to live, in seconds (about 35 years): the server has 40 bits for milliseconds."""
SESSION_TIMEOUT_LIMIT = 1000
"""Seconds. This and more is refused: servers grant at most 40 s by default, so milliseconds were meant."""
SETTLE_LIMIT = 1000
CONNECT_TIMEOUT_LIMIT = 3600
"""Seconds. This and more is refused for the same reason."""


def data(value: bytes) -> bytes:
    """Check data of a znode: bytes, never None, since other clients fail on null data."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    given = type(value).__name__  # never the value: data can be secret
    if isinstance(value, str):
        given = f"a str of {len(value):,} characters; encode it, such as with .encode()"
    raise UsageTypeError(f"data must be bytes, not {given}")


def version(value: int | None) -> int:
    """Check an expected version, or None for any."""
    if value is None:
        return -1
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(
            f"version must be an int such as stat.version, or None for any, not {shown(value)}"
        )
    if not -_INT32 <= value < _INT32:
        raise UsageValueError(f"version {shown(value)} is not a 32-bit number; take it from a Stat")
    return value


def read_only(value: bool | Literal["wait"]) -> bool | Literal["wait"]:
    """Check whether, and how, a client reads from read-only servers."""
    if value is not True and value is not False and value != "wait":
        raise UsageValueError(
            f"read_only must be True (writes raise NotReadOnly), 'wait' (writes wait) or False, "
            f"not {shown(value)}"
        )
    return value


def limit(value: int, name: str = "limit") -> int:
    """Check how many may hold a semaphore at once, or how many a barrier waits for."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(f"{name} must be an int, not {shown(value)}")
    if not 1 <= value < _INT32:
        raise UsageValueError(f"{name} must be from 1 to {_INT32 - 1}, not {shown(value)}")
    return value


def coroutine_function(value: F, name: str) -> F:
    """Check a function whose result can be awaited. Only calling it tells for certain."""
    if not callable(value) or inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise UsageTypeError(f"{name} must be an async function, not {shown(value)}")
    return value


def integer(value: int, name: str) -> int:
    """Check a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(f"{name} must be an int, not {shown(value)}")
    return value


def codec(value: T) -> T:
    """Check something that encodes and decodes values."""
    if isinstance(value, type) or not all(
        callable(getattr(value, name, None)) for name in ("encode", "decode")
    ):
        raise UsageTypeError(
            "codec must be an object with encode(value) and decode(data), such as corral.JSON, "
            f"not {value.__name__ if isinstance(value, type) else shown(value)}"
        )
    return value


def counter_layout(value: T, layouts: Collection[str]) -> T:
    """Check the name of a counter's layout."""
    if value not in tuple(layouts):
        names = ", ".join(map(repr, layouts))
        raise UsageValueError(f"layout of a counter must be one of {names}, not {shown(value)}")
    return value


def max_attempts(value: int | None) -> int | None:
    """Check how often an item of a queue is handed out before it is put aside, or None for any number."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(f"max_attempts must be an int, or None for no limit, not {shown(value)}")
    if not 1 <= value < _INT32:
        raise UsageValueError(
            f"max_attempts must be from 1 to {_INT32 - 1}, not {shown(value)}; None is no limit"
        )
    return value


def priority(value: int) -> int:
    """Check the priority of an item of a queue: three digits, as in kazoo."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(f"priority must be an int, not {shown(value)}")
    if not 0 <= value <= 999:
        raise UsageValueError(f"priority must be from 0 to 999, not {shown(value)}; lower numbers come first")
    return value


def items(value: Iterable[bytes]) -> list[bytes]:
    """Check several data of znodes, such as a list. Bytes are one such, and not several."""
    if isinstance(value, bytes | bytearray | memoryview | str) or not isinstance(value, Iterable):
        raise UsageTypeError(
            f"items must be several bytes, such as a list, not {type(value).__name__}; put() puts one"
        )
    return [data(each) for each in value]


def failed_item(value: T) -> T:
    """Check an item that was put aside: its name must be that of a znode."""
    name = getattr(value, "name", None)
    if not isinstance(name, str) or "/" in name:
        raise UsageTypeError(f"the item must be one that failed() returned, not {shown(value)}")
    return value


def on_taken(value: T) -> T:
    """Check what a registration does if its path is taken."""
    if value not in ("wait", "raise"):
        raise UsageValueError(f"on_taken must be 'wait' or 'raise', not {shown(value)}")
    return value


def node_name(value: str, what: str) -> str:
    """Check the name of a znode: one part of a path."""
    if not isinstance(value, str):
        raise UsageTypeError(f"{what} must be a str, not {shown(value)}")
    if not value:
        raise UsageValueError(f"{what} is empty; it is the name of a znode, such as 'host-7'")
    if "/" in value:
        raise UsageValueError(f"{what} {shown(value)} contains '/', which separates znodes; replace it")
    paths.validate(f"/{value}", what)
    return value


def port(value: int | None, what: str) -> int | None:
    """Check a port, or None."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(f"{what} must be an int, or None, not {shown(value)}")
    if not 0 <= value <= 65535:
        raise UsageValueError(f"{what} must be from 0 to 65535, not {shown(value)}")
    return value


def flag(value: bool, what: str) -> bool:
    """Check a bool."""
    if not isinstance(value, bool):
        raise UsageTypeError(f"{what} must be True or False, not {shown(value)}")
    return value


def depth(value: int | None) -> int | None:
    """Check a number of levels of a tree, or None for all."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(f"depth must be an int, or None for all levels, not {shown(value)}")
    if value < 0:
        raise UsageValueError(f"depth must be 0 or more, not {shown(value)}; 0 is the znode itself")
    return value


def predicate(value: F, name: str) -> F:
    """Check a function that is called synchronously."""
    if not callable(value):
        raise UsageTypeError(f"{name} must be a function, not {shown(value)}")
    if inspect.iscoroutinefunction(value):
        raise UsageTypeError(f"{name} must be an ordinary function, not a coroutine function: {value!r}")
    return value


def number_or_predicate(value: int | F, name: str) -> int | F:
    """Check a least number, or a function that returns yes or no."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise UsageValueError(f"{name} must be 0 or more, not {shown(value)}")
        return value
    if not callable(value):
        raise UsageTypeError(f"{name} must be an int or a function, not {shown(value)}")
    return predicate(value, name)


def several(value: Sequence[str], name: str) -> Sequence[str]:
    """Check a sequence of strings that is not a string itself."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageTypeError(f"{name} must be a list of strings, not {shown(value)}")
    if not value:
        raise UsageValueError(f"{name} is empty; pass at least one")
    return value


def distinct(values: Sequence[str], name: str) -> None:
    """Check that each value is there once."""
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise UsageValueError(
            f"{name} contains {twice[0]!r} twice, which would wait for itself; name each once"
        )


def acl(value: Sequence[Acl], name: str = "acl") -> tuple[Acl, ...]:
    """Check an access control list: at least one entry, each with permissions, a scheme and an id that fits
    it. No error shows an id of the scheme digest: it may be a password."""
    if (
        isinstance(value, Acl)
        or not isinstance(value, Sequence)
        or not all(isinstance(entry, Acl) for entry in value)
    ):
        raise UsageTypeError(
            f"{name} must be a sequence of corral.Acl such as corral.acl.OPEN, not {type(value).__name__}; "
            "the value is not shown, as it may contain a secret"
        )
    if not value:
        raise UsageValueError(
            f"{name} is empty, so nobody could use the znode; pass an entry, such as corral.acl.OPEN"
        )
    for index, entry in enumerate(value):
        if not isinstance(entry.perms, int) or not 0 <= entry.perms <= Perm.ALL:
            raise UsageValueError(
                f"{name} entry {index}: perms must be of corral.Perm, such as Perm.READ, "
                f"not {shown(entry.perms)}"
            )
        text(entry.scheme, f"{name} entry {index}: its scheme")
        text(entry.id, f"{name} entry {index}: its id")
        if (problem := _id_problem(entry.scheme, entry.id)) is not None:
            raise UsageValueError(f"{name} entry {index}: {problem}")
    return tuple(value)


_SHORTEST_HASH = 20


def _id_problem(scheme: str, identity: str) -> str | None:
    """What is wrong with an id of one of the schemes that every server has; servers may have others."""
    if not scheme:
        return "its scheme is empty; make entries with corral.acl, such as acl.world()"
    if scheme == "world" and identity != "anyone":
        return "the only id of the scheme world is 'anyone'; write acl.world()"
    if scheme == "auth" and identity:
        return (
            "the scheme auth takes no id, since it stands for the identities of this session; write "
            "acl.creator(), or acl.digest(user, password) for somebody else's"
        )
    if scheme == "digest" and not _is_digest(identity):
        return (
            "the id of the scheme digest is the user, ':' and a hash in base64; write "
            "acl.digest(user, password); it is not shown, as it may be secret"
        )
    if scheme == "ip" and not _is_network(identity):
        return (
            f"the id of the scheme ip is an address or a network such as '10.0.0.0/8', not {shown(identity)}"
        )
    if scheme in ("sasl", "x509") and not identity:
        return f"the id of the scheme {scheme} is empty; write the name, as zk.who_am_i() shows it"
    return None


def _is_digest(identity: str) -> bool:
    # Whoever may not change a list reads "x" in place of each hash (Client.get_acl): it is no hash.
    _, colon, hashed = identity.partition(":")
    try:
        return bool(colon) and len(base64.b64decode(hashed, validate=True)) >= _SHORTEST_HASH
    except ValueError:
        return False


def _is_network(identity: str) -> bool:
    address, slash, bits = identity.partition("/")
    try:
        most = ipaddress.ip_address(address).max_prefixlen
    except ValueError:
        return False
    return not slash or (bits.isascii() and bits.isdecimal() and int(bits) <= most)


def text(value: str, what: str) -> str:
    """Check a string that can be sent. Errors do not show it, since it may be a secret."""
    if not isinstance(value, str):
        raise UsageTypeError(f"{what} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        where = error.start  # raised below, since this error contains the text
    else:
        return value
    raise UsageValueError(f"{what} is not valid Unicode; remove the lone surrogate at index {where}")


def credentials(value: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Check pairs of a scheme and a secret; `Credentials` checks the two."""
    if not isinstance(value, Sequence) or not all(
        isinstance(each, tuple) and len(each) == 2 for each in value
    ):
        raise UsageTypeError(
            'auth must be a list of pairs (scheme, secret) such as [("digest", b"user:password")]; '
            "the value is not shown, as it may be secret"
        )
    return list(value)


def tls(
    value: bool | ssl.SSLContext | Callable[[], ssl.SSLContext],
) -> Literal[True] | ssl.SSLContext | Callable[[], ssl.SSLContext] | None:
    """Check `ssl=`; None for connections without TLS."""
    if value is False or value is None:
        return None
    if isinstance(value, ssl.SSLContext):
        if value.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise UsageValueError(
                "ssl is a context for servers; make one for clients: ssl.create_default_context(cafile=...)"
            )
        return value
    if value is True:
        return True
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise UsageTypeError(
            "ssl must be True, an ssl.SSLContext, or a function (not async) that returns one, not "
            f"{shown(value)}"
        )
    return value


def new_path(chroot: str, path: str, *, sequential: bool) -> str:
    """The full path of a znode to create. A sequential one may end with '/', as its name can be the number
    alone."""
    if sequential and isinstance(path, str) and path.endswith("/") and not path.endswith("//"):
        return paths.resolve(chroot, path[:-1] or "/").rstrip("/") + "/"
    return paths.resolve(chroot, path)


def create_flags(
    *, ephemeral: bool = False, sequential: bool = False, container: bool = False, ttl: float | None = None
) -> int:
    """The server's number for a kind of znode (`CreateMode`)."""
    if container and (ephemeral or sequential or ttl is not None):
        raise UsageValueError("a container cannot be ephemeral or sequential and has no ttl; leave those out")
    if ttl is not None and ephemeral:
        raise UsageValueError("an ephemeral znode lives as long as its session and has no ttl; leave one out")
    if container:
        return CONTAINER
    if ttl is not None:
        if not 0.001 <= seconds(ttl, "ttl") <= MAX_TTL:
            raise UsageValueError(f"ttl {ttl} s is not between 0.001 and {MAX_TTL:.0f} seconds")
        return SEQUENTIAL_WITH_TTL if sequential else WITH_TTL
    return _EPHEMERAL * ephemeral | _SEQUENTIAL * sequential


def seconds(value: float, what: str) -> float:
    """Check a time in seconds: positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageTypeError(f"{what} must be a number of seconds, not {shown(value)}")
    if not 0 < value < math.inf or value > sys.float_info.max:
        raise UsageValueError(f"{what} must be a positive, finite number of seconds, not {shown(value)}")
    return float(value)


def session_timeout(value: float) -> float:
    """Check a session timeout in seconds. The protocol has milliseconds, so the least is 0.001."""
    timeout = _below(value, "session_timeout", SESSION_TIMEOUT_LIMIT)
    if timeout < 0.001:
        raise UsageValueError(
            f"session_timeout {value!r} is not between 0.001 and {SESSION_TIMEOUT_LIMIT} seconds"
        )
    return timeout


def connect_timeout(value: float | None) -> float | None:
    """Check how long to wait for the first session, in seconds, or None for no limit."""
    if value is None:
        return None
    return _below(value, "connect_timeout", CONNECT_TIMEOUT_LIMIT, "; None waits without a limit")


def settle(value: float) -> float:
    """Check how long the members of a partition settle, in seconds."""
    return _below(value, "settle", SETTLE_LIMIT)


def _below(value: float, what: str, limit: int, otherwise: str = "") -> float:
    """Check a time in seconds that probably means milliseconds if it reaches `limit`."""
    timeout = seconds(value, what)
    if timeout >= limit:
        unit, name = (3600, "hours") if timeout >= 3600 else (60, "minutes")
        raise UsageValueError(
            f"{what} is in seconds and must be below {limit}; "
            f"{shown(value)} s are {timeout / unit:.1f} {name}; for milliseconds divide by 1000{otherwise}"
        )
    return timeout


def size(value: int, what: str) -> int:
    """Check a frame limit in bytes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageTypeError(f"{what} must be an int, a number of bytes, not {shown(value)}")
    if not 1024 <= value < _INT32:
        raise UsageValueError(f"{what} {shown(value)} is not between 1024 and {_INT32 - 1} bytes")
    return value


def tick_time(value: float, session_timeout: float) -> float:
    """Check the servers' tick in seconds: no session timeout is shorter."""
    tick = seconds(value, "tick_time")
    if tick > session_timeout:
        raise UsageValueError(
            f"tick_time {value!r} is longer than session_timeout {session_timeout!r}, and no server "
            "grants that; pass it in seconds, 2 by default"
        )
    return tick


def config_version(value: int | None) -> int:
    """Check an expected version of the ensemble's configuration, or None for any."""
    if value is None:
        return -1
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageTypeError(
            f"from_version must be an int such as config.version, or None for any, not {shown(value)}"
        )
    if not 0 <= value < _INT64:
        raise UsageValueError(f"from_version {shown(value)} is no version; take it from an EnsembleConfig")
    return value


def reconfiguration(
    joining: Iterable[EnsembleMember | str],
    leaving: Iterable[int],
    members: Iterable[EnsembleMember | str] | None,
) -> tuple[str | None, str | None, str | None]:
    """Check a change of the ensemble's members. Returns its three parts as the server reads them."""
    join, leave = _members(joining, "joining"), _member_ids(leaving)
    whole = None if members is None else _members(members, "members")
    if whole is not None:
        if join or leave:
            raise UsageValueError("reconfigure takes members=, or joining= and leaving=, not both")
        if not whole:
            raise UsageValueError("members is empty; an ensemble has at least one member")
        return None, None, "\n".join(map(str, whole))
    if not join and not leave:
        raise UsageValueError("reconfigure changes nothing; pass joining=, leaving= or members=")
    for member in join:
        if member.client_address is None and member.secure_client_address is None:
            raise UsageValueError(
                f"member {shown(str(member))} is joining, so it needs a client address, such as ';2181'"
            )
        if member.id in leave:
            raise UsageValueError(f"member {member.id} is joining and leaving; name it once")
    return ",".join(map(str, join)) or None, ",".join(map(str, leave)) or None, None


def _members(values: Iterable[EnsembleMember | str], name: str) -> list[EnsembleMember]:
    if isinstance(values, str | bytes | EnsembleMember) or not isinstance(values, Iterable):
        raise UsageTypeError(f"{name} must be a list of members, not {shown(values)}")
    found = [value if isinstance(value, EnsembleMember) else EnsembleMember.parse(value) for value in values]
    for member in found:
        if EnsembleMember.parse(str(member)) != member:
            raise UsageValueError(f"{name}: the fields of {member!r} do not fit; make it by its text")
    if len({member.id for member in found}) < len(found):
        raise UsageValueError(f"{name} has two members with one id; each server has its own")
    return found


def _member_ids(values: Iterable[int]) -> list[int]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UsageTypeError(f"leaving must be a list of ids of members, not {shown(values)}")
    found = list(values)
    for value in found:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageTypeError(f"leaving must be ids of members such as 3, not {shown(value)}")
        if not 0 <= value < _INT64:
            raise UsageValueError(f"leaving: {shown(value)} is no id of a member; take it from config()")
    return list(dict.fromkeys(found))
