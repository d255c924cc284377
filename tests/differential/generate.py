"""Random programs.

A program has a *flavour*, which determines what most of its steps are about; a mix of all operations rarely
goes deep into any of them. Its requests are mostly *likely* ones, which the server will probably grant, since
a refused request changes nothing.
"""

from __future__ import annotations

from random import Random

import pools
from choices import Choice, just, mapped, one_of, only, sampled, several, tuples, weighted
from program import (
    CONTAINER,
    EPHEMERAL,
    OPEN,
    PERSISTENT,
    RECURSIVE,
    SEQUENTIAL,
    TTL,
    TTL_SEQUENTIAL,
    Program,
    Request,
    Step,
)


def _request(name: str, *fields: Choice) -> Choice:
    return tuples(just(name), *fields)


def _is_harmless(request: Request) -> bool:
    """Not a request that ends a real server: see `NOT_COMPARED`."""
    *_, flags, ttl = request
    return flags in (TTL, TTL_SEQUENTIAL) or ttl >= 0


booleans = sampled((False, True))
data = sampled(pools.DATA)
back = sampled(pools.BACK)


class _Kind:
    """Requests for all operations, made from these values."""

    def __init__(
        self, paths: Choice, leaves: Choice, watched: Choice, versions: Choice, acls: Choice, flags: Choice
    ) -> None:
        new = weighted((2, leaves), (1, sampled(pools.SEQUENCES)))
        readable = only(lambda path: path not in pools.ROOT_OF_ALL, paths)
        self.create = _request("create", new, data, acls, flags)
        self.creates = one_of(
            self.create,
            _request("create2", new, data, acls, flags),
            _request("createContainer", new, data, acls, weighted((5, just(CONTAINER)), (1, flags))),
            only(
                _is_harmless,
                _request(
                    "createTTL",
                    new,
                    data,
                    acls,
                    weighted((5, sampled((TTL, TTL_SEQUENTIAL))), (1, flags)),
                    weighted((3, just(600_000)), (1, sampled(pools.TTLS))),
                ),
            ),
        )
        self.delete = _request("delete", leaves, versions)
        self.set_data = _request("setData", readable, data, versions)
        self.check = _request("check", paths, versions)
        self.set_acl = _request("setACL", readable, acls, versions)
        self.writes = weighted((3, self.create), (2, self.delete), (2, self.set_data), (1, self.creates))
        get, children = _request("getData", readable, booleans), _request("getChildren", readable, booleans)
        exists = _request("exists", readable, booleans)
        self.reads = one_of(
            get,
            children,
            exists,
            _request("getChildren2", readable, booleans),
            _request("getACL", readable),
            _request("getAllChildrenNumber", readable),
            _request("sync", readable),
            _request("getEphemerals", sampled(pools.PREFIXES)),
            _request("whoAmI"),
        )
        self.watching = one_of(
            *(
                _request(name, readable, just(True))
                for name in ("exists", "getData", "getChildren", "getChildren2")
            ),
            _request("addWatch", watched, sampled((PERSISTENT, RECURSIVE))),
        )
        of_type = (watched, sampled(pools.WATCHER_TYPES))
        lists = several(watched, 0, 3)
        self.watches = one_of(
            _request("checkWatches", *of_type),
            _request("removeWatches", *of_type),
            _request("setWatches", back, lists, lists, lists),
            _request("setWatches2", back, lists, lists, lists, lists, lists),
            _request("addWatch", watched, sampled((PERSISTENT, RECURSIVE, 2, -1))),
        )
        granted = one_of(self.create, self.delete, self.set_data, self.check, self.creates)
        self.multi = _transaction("multi", only(_is_plain, granted), one_of(get, children))
        # A later operation can only succeed if it sees the effect of an earlier one.
        self.dependent = _transaction("multi", one_of(self.create, self.delete), self.set_data)
        self.multi_read = _transaction("multiRead", one_of(get, children), one_of(exists, self.delete))


def _transaction(name: str, proper: Choice, odd: Choice) -> Choice:
    return mapped(lambda ops: (name, *ops), several(weighted((40, proper), (1, odd)), 0, 5))


def _is_plain(request: Request) -> bool:
    """Not a request that a real server corrupts or misreads in a transaction: see `NOT_COMPARED`."""
    is_create = request[0].startswith("create")
    return not (is_create and (request[3] is None or pools.HORSE in str(request[3])))


_nodes = sampled(pools.NODES)
_likely_paths = weighted((12, _nodes), (1, sampled(pools.DEEP)), (1, sampled(pools.NUMBERED)))
_likely_leaves = weighted((6, sampled(pools.LEAVES)), (1, sampled(pools.NUMBERED)))
_wild_paths = weighted(
    (4, _nodes),
    *((1, sampled(pool)) for pool in (pools.DEEP, pools.NUMBERED, pools.UNUSUAL, pools.BAD)),
)
_any_acls = weighted(
    (4, sampled(pools.LIKELY_ACLS)),
    (2, sampled(pools.ACLS)),
    (1, sampled(pools.BAD_ACLS)),
)

likely = _Kind(
    paths=_likely_paths,
    leaves=_likely_leaves,
    watched=weighted((12, _likely_paths), (1, just("/"))),
    versions=sampled(pools.LIKELY_VERSIONS),
    acls=just(OPEN),
    flags=sampled(pools.LIKELY_FLAGS),
)
close_by = _Kind(
    paths=sampled(pools.FEW),
    leaves=sampled(pools.FEW),
    watched=sampled((*pools.FEW, "~")),
    versions=just(-1),
    acls=just(OPEN),
    flags=sampled((0, 0, EPHEMERAL)),
)
"""Paths so close to each other that most requests are granted, and affect earlier ones."""
fenced = _Kind(
    paths=sampled(pools.FEW),
    leaves=sampled(pools.FEW),
    watched=sampled(pools.FEW),
    versions=just(-1),
    acls=sampled(pools.LIKELY_ACLS),
    flags=just(0),
)
"""The same, with access control."""
guarded = _Kind(
    paths=_likely_paths,
    leaves=_likely_leaves,
    watched=_likely_paths,
    versions=sampled(pools.LIKELY_VERSIONS),
    acls=_any_acls,
    flags=weighted((4, just(0)), (1, sampled(pools.LIKELY_FLAGS))),
)
wild = _Kind(
    paths=_wild_paths,
    leaves=_wild_paths,
    watched=weighted((4, _wild_paths), (1, sampled(pools.ROOT_OF_ALL))),
    versions=sampled(pools.VERSIONS),
    acls=weighted((2, just(OPEN)), (1, _any_acls)),
    flags=weighted((1, sampled(pools.LIKELY_FLAGS)), (1, sampled(pools.FLAGS))),
)
ephemerals = _request(
    "create",
    weighted((1, _likely_leaves), (1, sampled(pools.SEQUENCES))),
    data,
    just(OPEN),
    sampled((EPHEMERAL, EPHEMERAL | SEQUENTIAL)),
)
auth = _request(
    "auth",
    just(0),
    just("digest"),
    weighted((2, sampled(pools.LIKELY_CREDENTIALS)), (1, sampled(pools.CREDENTIALS))),
)
bad_auth = _request("auth", just(0), sampled(pools.BAD_SCHEMES), just(b"x"))
anything = one_of(
    wild.writes,
    wild.reads,
    wild.watching,
    wild.watches,
    wild.set_acl,
    wild.multi,
    wild.multi_read,
    wild.check,
)
# Not a transaction, since the rest would be another valid one, nor an auth, which would end the connection.
cut_short = mapped(
    lambda cut: ("cut", cut[0], *cut[1]),
    tuples(
        sampled((1, 2, 4, 5, 8, 12)),
        one_of(likely.writes, likely.reads, likely.watching, likely.watches, likely.set_acl),
    ),
)

# Steps

sessions = sampled((0, 0, 1, 1, 2))


def _steps(requests: Choice) -> Choice:
    return mapped(lambda pair: Step(pair[0], *pair[1]), tuples(sessions, requests))


def _is_seen_at_once(request: Request) -> bool:
    """Not a request whose effect the next ones see only once it is applied: see `NOT_COMPARED`."""
    name, *ops = request
    if name == "multi":
        ttl = (TTL, TTL_SEQUENTIAL)
        return not any(op[0] in ("create", "create2", "createContainer") and op[4] in ttl for op in ops)
    return bool(name != "setACL")


def _pipelines(requests: Choice) -> Choice:
    pairs = tuples(sessions, several(only(_is_seen_at_once, requests), 2, 6))
    return mapped(lambda pair: Step(pair[0], "pipeline", *pair[1]), pairs)


def _session_step(name: str, *fields: Choice) -> Choice:
    return mapped(lambda values: Step(*values), tuples(sessions, just(name), *fields))


resume = _session_step("resume", back, booleans)
drop = _session_step("drop")
close = _session_step("close")
haunt = _session_step("haunt")
wrong_password = _session_step("wrong_password")
expire = _session_step("expire")
"""It takes a tenth of a second on a real server, so it is rare."""

FLAVOURS: dict[str, Choice] = {
    "everything": weighted(
        (6, _steps(likely.writes)),
        (3, _steps(likely.watching)),
        (2, _steps(likely.reads)),
        (1, _steps(likely.multi)),
        (6, _steps(anything)),
        (1, _steps(cut_short)),
        (2, _pipelines(one_of(likely.writes, anything))),
        (1, _steps(auth)),
        (1, resume),
        (1, close),
        (1, drop),
    ),
    "the tree": weighted(
        (6, _steps(likely.writes)),
        (2, _steps(wild.writes)),
        (3, _steps(likely.reads)),
        (2, _steps(likely.multi)),
    ),
    "watches": weighted(
        (6, _steps(close_by.writes)),
        (6, _steps(close_by.watching)),
        (4, _steps(close_by.watches)),
        (4, _steps(likely.writes)),
        (4, _steps(likely.watching)),
        (2, _steps(likely.watches)),
        (1, _steps(likely.multi)),
        (2, resume),
        (1, close),
    ),
    "access": weighted(
        (6, _steps(fenced.writes)),
        (4, _steps(fenced.set_acl)),
        (3, _steps(fenced.watching)),
        (3, _steps(fenced.reads)),
        (2, _steps(auth)),
        (1, _steps(fenced.multi)),
        (2, _steps(guarded.create)),
        (1, _steps(guarded.creates)),
        (2, _steps(guarded.set_acl)),
        (1, _steps(guarded.multi)),
        (1, resume),
        (1, close),
        (1, _steps(bad_auth)),
    ),
    "sessions": weighted(
        (4, _steps(ephemerals)),
        (3, _steps(likely.watching)),
        (3, _steps(likely.writes)),
        (3, resume),
        (2, close),
        (2, drop),
        (1, wrong_password),
        (1, haunt),
        (1, _steps(likely.reads)),
        (1, _steps(auth)),
    ),
    "transactions": weighted(
        (4, _steps(close_by.multi)),
        (4, _steps(close_by.dependent)),
        (4, _steps(likely.multi)),
        (1, _steps(wild.multi)),
        (2, _steps(likely.writes)),
        (1, _steps(likely.watching)),
        (1, _steps(likely.multi_read)),
        (1, _steps(auth)),
    ),
    "pipelines": weighted(
        (4, _pipelines(one_of(likely.writes, likely.multi, likely.watching, likely.reads))),
        (1, _steps(likely.watching)),
        (1, close),
    ),
    "expiry": weighted(
        (12, _steps(ephemerals)), (8, _steps(likely.watching)), (2, resume), (1, haunt), (1, expire)
    ),
}
LENGTHS = (3, 6, 12, 24, 40)
"""The possible numbers of steps."""
_WEIGHTS = {"everything": 4, "watches": 4, "access": 4, "expiry": 1}
_FLAVOURS = [name for name in FLAVOURS for _ in range(_WEIGHTS.get(name, 2))]


def _made(*nodes: tuple[str, int]) -> tuple[Step, ...]:
    return tuple(Step(0, "create", path, b"", OPEN, flags) for path, flags in nodes)


BEGINNINGS: tuple[tuple[Step, ...], ...] = (
    (),
    _made(("~/a", 0)),
    _made(("~/a", 0), ("~/a/a", 0), ("~/b", 0)),
    _made(("~/a", 0), ("~/a/a", 0), ("~/a/a/a", 0), ("~/a/b", 0), ("~/s", SEQUENTIAL)),
    _made(("~/a", 0), ("~/a/s", SEQUENTIAL | EPHEMERAL), ("~/b", EPHEMERAL), ("~/s", SEQUENTIAL)),
)
"""Initial nodes; without them most requests would find none."""


def program(number: int, seed: str = "") -> Program:
    """A program; the same for the same number and seed."""
    random = Random(f"{seed} {number}")
    steps = FLAVOURS[random.choice(_FLAVOURS)]
    length = random.choice(LENGTHS)
    return [*random.choice(BEGINNINGS), *several(steps, length, length)(random)]
