"""The kinds of recipes with a line, one row each: a new recipe is a new row, and every conformance test runs
on it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

import corral
from client_support import asks_for
from corral import Contender
from corral.testing import Message
from corral.wire.messages import CREATE2
from support import children, until_line, within

PATH = "/line"

GUID = r"_c_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LOCK_NAME = re.compile(rf"{GUID}-lock-(?P<number>\d{{10}}|-\d{{9}}|-[1-9]\d{{9}})")
LATCH_NAME = re.compile(rf"{GUID}-latch-\d{{10}}")
LEASE_NAME = re.compile(rf"{GUID}-lease-\d{{10}}")
READ_NAME = re.compile(rf"{GUID}-__READ__\d{{10}}")
WRITE_NAME = re.compile(rf"{GUID}-__WRIT__\d{{10}}")
KAZOO_NAME = re.compile(r"[0-9a-f]{32}__lock__\d{10}")


class Line(NamedTuple):
    """One line of nodes below the path of a recipe, and which contenders have a node in it."""

    below: str
    """Appended to the path."""
    holders: bool = True
    """Whether each holder has a node in it."""
    waiters: bool = True
    """Whether each waiter has a node in it."""
    first_waiter: bool = False
    """Whether the first waiter has one, even if the others have none."""

    def length(self, holders: int, waiters: int) -> int:
        """How many nodes it has with this many holders and waiters."""
        first = self.first_waiter and waiters > 0
        return holders * self.holders + (waiters if self.waiters else int(first))


class LineKind(NamedTuple):
    """One kind of recipe with a line. An acquire returns a `Held`, or a tuple of them."""

    make: Callable[..., Any]
    """Makes one from a client and a path, with options such as `data` and `acl`."""
    name: re.Pattern[str]
    """The name of a holder's node."""
    called: str
    """The name in messages, in front of the path."""
    limit: int | None = 1
    """How many can hold it at once; None: any number."""
    rival: Callable[..., Any] | None = None
    """Makes a recipe that excludes it; another one of its own kind if None."""
    lines: tuple[Line, ...] = (Line(""),)
    """In the order in which they are joined."""

    @property
    def crowd(self) -> int:
        """How many hold it at once in these tests."""
        return self.limit or 3

    @property
    def is_exclusive(self) -> bool:
        """Whether only one can hold it."""
        return self.limit == 1

    @property
    def is_one_line(self) -> bool:
        """Whether the first in the line at its path holds it."""
        return self.lines == (Line(""),) and self.is_exclusive

    def opponent(self, client: corral.Client, path: str = PATH, **options: Any) -> Any:
        """A recipe that excludes it."""
        return (self.rival or self.make)(client, path, **options)

    async def make_lines(self, client: corral.Client, path: str = PATH) -> None:
        """Create the lines beforehand: those that a recipe creates itself may be removed while they are
        empty."""
        for line in self.lines:
            await client.create(path + line.below, make_parents=True)

    async def fill(self, client: corral.Client, path: str = PATH) -> list[Any]:
        """Acquire it, or its rivals, until no more can hold it."""
        return [
            await within(self.opponent(client, path).acquire())
            for _ in range(1 if self.rival else self.limit or 1)
        ]

    async def until_standing(
        self, client: corral.Client, holders: int, waiters: int, path: str = PATH
    ) -> None:
        """Wait until this many hold it and this many wait for it, as `client` sees it."""
        for line in self.lines:
            await until_line(client, path + line.below, line.length(holders, waiters))

    async def is_standing(self, client: corral.Client, holders: int, waiters: int, path: str = PATH) -> bool:
        """Whether this many hold it and this many wait for it, as `client` sees it."""
        lengths = [len(await children(client, path + line.below)) for line in self.lines]
        return lengths == [line.length(holders, waiters) for line in self.lines]

    async def nodes(self, client: corral.Client, path: str, session: int) -> set[str]:
        """The nodes in its lines that belong to a session."""
        return {node async for node, owner in self._all_nodes(client, path) if owner == session}

    async def owners(self, client: corral.Client, path: str = PATH) -> Counter[int]:
        """How many nodes each session has in its lines."""
        return Counter([owner async for _, owner in self._all_nodes(client, path)])

    async def _all_nodes(self, client: corral.Client, path: str) -> AsyncIterator[tuple[str, int]]:
        for line in self.lines:
            for name in await children(client, path + line.below):
                stat = await client.exists(f"{path}{line.below}/{name}")
                if stat is not None:
                    yield f"{path}{line.below}/{name}", stat.ephemeral_owner

    def creates_in(self, number: int, path: str = PATH) -> Callable[[Message], bool]:
        """Matches the creation of a node in the `number`-th of its lines."""
        folder = f"{path}{self.lines[number].below}/"
        return lambda message: asks_for(CREATE2)(message) and folder in (message.path or "")

    async def seen(self, made: Any) -> list[Contender]:
        """Its holders, then its waiters."""
        if isinstance(made, corral.Semaphore):
            return [*await made.holders(), *await made.waiters()]
        contenders: list[Contender] = await made.contenders()
        return contenders


def each_held(acquired: Any) -> Sequence[corral.Held]:
    """The result of an acquire as a list."""
    return acquired if isinstance(acquired, tuple) else (acquired,)


async def release(acquired: Any) -> None:
    """Release everything that an acquire returned."""
    await asyncio.gather(*(held.release() for held in each_held(acquired)))


def is_valid(acquired: Any) -> bool:
    """Whether everything that an acquire returned is held; checks that it is all or nothing."""
    states = {held.is_valid for held in each_held(acquired)}
    assert len(states) == 1
    return states.pop()


def node_below(held: Any, path: str = PATH) -> str:
    """The path, without the chroot, of the node by which it is held; of the first of several."""
    node = each_held(held)[0].node
    return node[node.index(f"{path}/") :]


def nodes_below(acquired: Any, path: str = PATH) -> set[str]:
    """All of them."""
    return {node_below(held, path) for held in each_held(acquired)}


@asynccontextmanager
async def filled(kind: LineKind, client: corral.Client, path: str = PATH) -> AsyncIterator[list[Any]]:
    """As `fill`; releases at the end of the block."""
    async with AsyncExitStack() as stack:
        held = await kind.fill(client, path)
        for each in held:
            stack.push_async_callback(release, each)
        yield held


KINDS = {
    "lock": LineKind(lambda zk, path, **options: zk.lock(path, **options), LOCK_NAME, "lock"),
    "lock, kazoo's": LineKind(
        lambda zk, path, **options: zk.lock(path, layout="kazoo", **options), KAZOO_NAME, "lock"
    ),
    "election": LineKind(
        lambda zk, path, **options: zk.election(path, **options), LATCH_NAME, "leadership of"
    ),
    "election, kazoo's": LineKind(
        lambda zk, path, **options: zk.election(path, layout="kazoo", **options), KAZOO_NAME, "leadership of"
    ),
    "read lock": LineKind(
        lambda zk, path, **options: zk.rwlock(path, **options).read(),
        READ_NAME,
        "read lock",
        limit=None,
        rival=lambda zk, path, **options: zk.rwlock(path, **options).write(),
    ),
    "write lock": LineKind(
        lambda zk, path, **options: zk.rwlock(path, **options).write(),
        WRITE_NAME,
        "write lock",
        rival=lambda zk, path, **options: zk.rwlock(path, **options).read(),
    ),
    "semaphore of one": LineKind(
        lambda zk, path, **options: zk.semaphore(path, 1, **options),
        LEASE_NAME,
        "semaphore",
        lines=(Line("/locks", holders=False), Line("/leases", waiters=False, first_waiter=True)),
    ),
    "semaphore of two": LineKind(
        lambda zk, path, **options: zk.semaphore(path, 2, **options),
        LEASE_NAME,
        "semaphore",
        limit=2,
        lines=(Line("/locks", holders=False), Line("/leases", waiters=False, first_waiter=True)),
    ),
    "two locks": LineKind(
        lambda zk, path, **options: zk.multi_lock([f"{path}/b", f"{path}/a"], **options),
        LOCK_NAME,
        "lock",
        lines=(Line("/a"), Line("/b", waiters=False)),
    ),
}


def every_kind(which: Callable[[LineKind], bool] = lambda kind: True) -> pytest.MarkDecorator:
    """Runs a test on each kind, or on those that `which` selects."""
    chosen = {name: kind for name, kind in KINDS.items() if which(kind)}
    return pytest.mark.parametrize("kind", chosen.values(), ids=chosen)


def is_single(kind: LineKind) -> bool:
    """Whether an acquire returns one `Held`."""
    return kind is not KINDS["two locks"]


def can_evict(kind: LineKind) -> bool:
    """Whether an operator can evict its holder."""
    return kind.is_one_line
