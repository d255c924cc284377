"""One znode with a value that many clients write, each on top of what the one before has written."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
from collections.abc import Callable
from typing import Generic, TypeVar

from corral import errors, paths
from corral.codecs import Codec
from corral.ensure import make_path
from corral.types import Stat

from . import ops
from .context import RecipeContext
from .marks import Known, MarkedWrites
from .rounds import Rounds

__all__ = ["ABSENT", "MOST_ATTEMPTS", "NO_DEFAULT", "NoDefault", "UnfitError", "Versioned", "VersionedNode"]

T = TypeVar("T")

ABSENT = -1
"""The version of a znode that does not exist. (A znode has this version after 2^32 - 1 writes, and then one
update of it may replace what another has written at the same moment.)"""

MOST_ATTEMPTS = 100
"""How often an update is tried while others are faster."""

# After each attempt in which another client was faster, an update waits for a random time. The limit of that
# time is what the quickest attempt took, doubled with each attempt, but at most this part of T: the more
# clients compete, the fewer do so at once.
MOST_DOUBLINGS = 8
LONGEST_WAIT = 1 / 4
SHORTEST_ATTEMPT = 0.001
"""Seconds that an attempt counts for, at least."""


class NoDefault:
    """The type of `NO_DEFAULT`."""

    def __repr__(self) -> str:
        return "<no default>"


NO_DEFAULT = NoDefault()
"""Reading a znode that does not exist is an error."""


class UnfitError(ValueError):
    """Why a codec of ours refuses something. Its message may be shown: it has no data of a znode."""


class Versioned(Generic[T]):
    """A value as it was read or written, and the version that it has."""

    __slots__ = ("_error", "_value", "path", "stat", "version")

    def __init__(
        self, path: str, version: int, stat: Stat | None, value: T | None, error: errors.CorralError | None
    ) -> None:
        self.path = path
        """The znode's path."""
        self.version = version
        """The znode's data version; -1 if it does not exist. Pass it to `Value.set`."""
        self.stat = stat
        """The znode's `Stat` as it was read. None if it does not exist, and for what was just written."""
        self._value = value
        self._error = error

    @property
    def exists(self) -> bool:
        """Whether the znode exists. If not, `value` is the default."""
        return self.version != ABSENT

    @property
    def value(self) -> T:
        """The value, or the default if the znode does not exist. Raises `InvalidValue` if the data does not
        decode, and `NoNode` if there is no znode and no default."""
        if self._error is not None:
            raise errors.fresh(self._error)
        return self._value  # type: ignore[return-value]

    def __repr__(self) -> str:
        state = f"version {self.version}" if self.exists else "absent"
        invalid = ", invalid" if isinstance(self._error, errors.InvalidValue) else ""
        return f"<Versioned {str(self.path)!r}, {state}{invalid}>"


class VersionedNode(Generic[T]):
    """The znode at the path of a context, with a value as its data. Writes are applied exactly once (X1)."""

    def __init__(self, context: RecipeContext, kind: str, codec: Codec[T], default: T | NoDefault) -> None:
        self.path = context.path
        self._context = context
        self._session = context.session
        self._kind = kind
        self._codec = codec
        self._default = default

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self._kind} {str(self.path)!r}"

    def versioned(self, data: bytes | None, stat: Stat | None) -> Versioned[T]:
        """A state of the znode; both are None if it does not exist."""
        value: T | None = None
        error: errors.CorralError | None = None
        version = ABSENT if stat is None else stat.version
        try:
            value = self._decoded(None if data is None else Known(data, version))
        except (errors.InvalidValue, errors.NoNode) as refusal:
            error = refusal
        return Versioned(self.path, version, stat, value, error)

    async def get(self) -> Versioned[T]:
        """The value now. Raises `InvalidValue`, and `NoNode` without a default."""
        self._session.ensure_loop()
        try:
            data, stat = await ops.get(self._session, self._context.full, self.path)
        except errors.NoNode:
            current = self.versioned(None, None)
        else:
            current = self.versioned(data, stat)
        current.value  # noqa: B018  # may raise
        return current

    async def set(self, value: T, version: int | None) -> Versioned[T]:
        """Set the value, if the znode has this version (`ABSENT`: does not exist; None: any)."""
        data = self._encoded(value)
        if version is None:
            return self._written(value, await self._rewrite(lambda _: data))
        async with self._marked() as marked:
            marked.known = None
            if version == ABSENT:
                refusal = await self._create(marked, data)
            else:
                refusal = await self._set(marked, data, version)
        if refusal is None:
            return self._written(value, version)
        raise await self._bad_version(version) if _was_overtaken(refusal) else refusal

    async def update(self, change: Callable[[T], T]) -> Versioned[T]:
        """Replace the value by what `change` makes of it, again whenever another client was faster."""
        value: T

        def rewrite(found: Known | None) -> bytes:
            nonlocal value
            value = change(self._decoded(found))
            return self._encoded(value)

        before = await self._rewrite(rewrite)
        return self._written(value, before)

    async def _rewrite(self, rewrite: Callable[[Known | None], bytes]) -> int:
        """Write what `rewrite` makes of the data; returns the version that it replaced."""
        async with self._marked() as marked:
            quickest = math.inf
            for attempt in range(MOST_ATTEMPTS):
                started = self._session.clock()
                marked.prepare()
                found, marked.known = marked.known, None
                if found is None:
                    found = await self._read()
                data = rewrite(found)
                if found is None:
                    refusal = await self._create(marked, data)
                else:
                    refusal = await self._set(marked, data, found.version)
                if refusal is None:
                    before = ABSENT if found is None else found.version
                    if attempt == 0:  # other clients do not compete, so the next write need not read it
                        marked.known = Known(data, _next(before))
                    return before
                if not _was_overtaken(refusal):
                    raise refusal
                quickest = min(quickest, max(self._session.clock() - started, SHORTEST_ATTEMPT))
                limit = min(
                    quickest * 2 ** min(attempt, MOST_DOUBLINGS), self._session.timeout * LONGEST_WAIT
                )
                await asyncio.sleep(self._session.rng.uniform(0, limit))
        problem = (
            f"other clients were faster {MOST_ATTEMPTS} times in a row; try again, or let fewer write at once"
        )
        raise errors.BadVersion("set", self.path, problem)

    def _marked(self) -> contextlib.AbstractAsyncContextManager[MarkedWrites]:
        context = self._context
        return context.shared.marks.at(self._session, context.full, self.path, context.acl)

    async def _read(self) -> Known | None:
        try:
            data, stat = await ops.get(self._session, self._context.full, self.path)
        except errors.NoNode:
            return None
        return Known(data, stat.version)

    async def _set(self, marked: MarkedWrites, data: bytes, version: int) -> errors.ServerError | None:
        """Set the data, if the znode has this version. Returns the refusal."""
        outcome = await marked.write([ops.set_data(self._context.full, data, version)])
        return None if outcome.refused is None else outcome.error("set", self.path)

    async def _create(self, marked: MarkedWrites, data: bytes) -> errors.ServerError | None:
        """Create the znode with this data, and its parents. Returns the refusal."""
        context, rounds = self._context, Rounds()
        while True:
            outcome = await marked.write([ops.create(context.full, data, context.acl, ops.PERSISTENT)])
            if outcome.refused is None:
                return None
            refusal = outcome.error("create", self.path)
            if not isinstance(refusal, errors.NoNode):
                return refusal
            rounds.again(refusal)
            await make_path(self._session, paths.parent_of(context.full), context.acl, chroot=context.chroot)

    async def _bad_version(self, expected: int) -> errors.BadVersion:
        """The error for a refused version, with the version that the znode has by now."""
        try:
            current = await self._read()
        except errors.CorralError:  # raise the refusal, not the failure of this read
            return errors.BadVersion("set", self.path, expected=expected)
        found = ABSENT if current is None else current.version
        if found == expected:  # it was changed, and deleted and created again
            return errors.BadVersion("set", self.path, expected=expected)
        problem = None
        if found == ABSENT:
            problem = f"the znode does not exist, expected version {expected}"
        elif expected == ABSENT:
            problem = f"version is {found}, expected no znode"
        return errors.BadVersion("set", self.path, problem, expected=expected, found=found)

    def _decoded(self, found: Known | None) -> T:
        if found is None:
            if isinstance(self._default, NoDefault):
                problem = f"no such znode, and the {self._kind} has no default; set it, or pass default="
                raise errors.NoNode("get", self.path, problem)
            return copy.deepcopy(self._default)  # the caller may change it
        try:
            return self._codec.decode(found.data)
        except Exception as cause:
            why = (
                str(cause)
                if isinstance(cause, UnfitError)
                else (
                    f"{type(self._codec).__name__} cannot decode its {len(found.data):,} bytes of data "
                    f"({type(cause).__name__}); correct the data, or pass the codec that fits"
                )
            )
            raise errors.InvalidValue(self._kind, self.path, found.version, why) from cause

    def _encoded(self, value: T) -> bytes:
        codec = type(self._codec).__name__
        try:
            data = self._codec.encode(value)
        except Exception as cause:
            why = (
                str(cause)
                if isinstance(cause, UnfitError)
                else (
                    f"{codec} cannot encode a value of type {type(value).__name__} ({type(cause).__name__}); "
                    "pass a value that it can encode, or another codec"
                )
            )
            cls = errors.UsageTypeError if isinstance(cause, TypeError) else errors.UsageValueError
            raise cls(f"{self.name}: {why}") from cause
        if not isinstance(data, bytes):
            raise errors.UsageTypeError(
                f"{self.name}: {codec}.encode must return bytes, not {type(data).__name__}"
            )
        return data

    def _written(self, value: T, before: int) -> Versioned[T]:
        """What replaced the version `before`."""
        return Versioned(self.path, _next(before), None, value, None)


def _next(version: int) -> int:
    """The version after this one. The server's versions wrap."""
    return (version + 1 + 2**31) % 2**32 - 2**31


def _was_overtaken(refusal: errors.ServerError) -> bool:
    """Whether a write was refused because another client was faster."""
    return isinstance(refusal, errors.BadVersion | errors.NodeExists | errors.NoNode)
