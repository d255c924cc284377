"""A number that many clients add to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from corral import verify
from corral.codecs import Codec
from corral.types import Event
from corral.watch.node import NodeReader

from .kit.context import RecipeContext
from .kit.versioned import UnfitError, VersionedNode

__all__ = ["LAYOUTS", "Counter", "CounterLayout", "CounterWatch"]

CounterLayout: TypeAlias = Literal["curator", "curator-int", "kazoo"]


class _Layout(Codec[int], Protocol):
    def has(self, data: bytes, /) -> bool:
        """Whether some data is a number in this layout. No data is 0 in all of them."""


class _Binary:
    """A signed number of so many bytes, big-endian."""

    def __init__(self, size: int) -> None:
        self._size = size

    def has(self, data: bytes, /) -> bool:
        return len(data) in (0, self._size)

    def encode(self, value: int, /) -> bytes:
        try:
            return value.to_bytes(self._size, "big", signed=True)
        except OverflowError:
            raise UnfitError(f"the number would be out of the range of {8 * self._size} bits") from None

    def decode(self, data: bytes, /) -> int:
        if not self.has(data):
            raise _unfit(data, f"a number of {self._size} bytes")
        return int.from_bytes(data, "big", signed=True)


class _Decimal:
    """A whole number in decimal digits."""

    _FORM = re.compile(rb"(-?[0-9]{1,4300})?")  # Python does not read and write longer ones

    def has(self, data: bytes, /) -> bool:
        return self._FORM.fullmatch(data) is not None

    def encode(self, value: int, /) -> bytes:
        try:
            return str(value).encode()
        except ValueError:
            raise UnfitError("the number would have thousands of digits") from None

    def decode(self, data: bytes, /) -> int:
        if not self.has(data):
            raise _unfit(data, "a whole number in decimal digits")
        return int(data or b"0")


LAYOUTS: Mapping[CounterLayout, _Layout] = {
    "curator": _Binary(8),
    "curator-int": _Binary(4),
    "kazoo": _Decimal(),
}


def _unfit(data: bytes, expected: str) -> UnfitError:
    names = [name for name, layout in LAYOUTS.items() if layout.has(data)]
    hint = f"layout={names[0]!r} has this form" if names else "no layout has this form"
    return UnfitError(f"{len(data):,} bytes of data, which are not {expected}; {hint}")


class Counter:
    """A number that many clients add to. Made by ``zk.counter(path)``.

    ``total = await zk.counter("/jobs/done").add(1)``. The number is the data of a persistent znode, which the
    first write creates, with its missing parents. It is 0 while the znode does not exist. `layout` is the
    form of the data, which all clients of a path must agree on:

    - ``"curator"``: 64 bits, for Curator's ``DistributedAtomicLong``;
    - ``"curator-int"``: 32 bits, for Curator's ``SharedCount`` and ``DistributedAtomicInteger``, and for
      kazoo's ``Counter`` with ``support_curator=True``;
    - ``"kazoo"``: decimal digits, for kazoo's ``Counter`` of whole numbers.

    A znode without data, as kazoo creates it, is 0. Data of another form raises `InvalidValue`, which names
    the layout that fits. A result out of the range of the layout raises `UsageValueError`, and nothing is
    written.

    An `add` that returns was applied **exactly once**, although the connection may have been lost meanwhile.
    **On cancel** and **on loss** of the connection a counter behaves as `Value` does. That class also says
    which permissions it requires, and what the mark is by which a client recognizes its own writes. The
    algorithm is that of `Value`, too.

    If other clients are faster 100 times in a row, writing raises `BadVersion`. Before each further attempt
    it waits for a random time, which is longer the more often that happens, but at most a quarter of the
    session timeout. The tasks of one client do not compete.
    """

    def __init__(self, context: RecipeContext, layout: CounterLayout) -> None:
        self._context = context
        self._node = VersionedNode[int](context, "counter", LAYOUTS[layout], 0)
        self.path = context.path

    async def get(self) -> int:
        """The number, as the connected server knows it; `Client.sync` before that makes it current.

        Raises `InvalidValue`. On cancel nothing changes. On loss of the connection it repeats the request;
        see `Value`.
        """
        return (await self._node.get()).value

    async def add(self, n: int = 1) -> int:
        """Add `n`, which may be negative, and return the new number. For errors, on cancel and on loss of the
        connection, see the class."""
        verify.integer(n, "n")
        return (await self._node.update(lambda number: number + n)).value

    async def set(self, value: int) -> None:
        """Set the number, whatever it was, and whatever form the data had. For errors, on cancel and on loss
        of the connection, see the class."""
        await self._node.set(verify.integer(value, "value"), None)

    def watch(self) -> CounterWatch:
        """The number now, then each newer one: ``async for total in zk.counter(path).watch()``; see
        `CounterWatch`."""
        return CounterWatch(self._context, self._node)

    def __repr__(self) -> str:
        return f"<Counter {str(self.path)!r}>"


class CounterWatch(NodeReader[int]):
    """The number now, then each newer one; 0 while the znode does not exist. For one reader.

    ``anext`` raises `InvalidValue` for data of another form; the next ``anext`` waits for the next state. In
    all else it is a `NodeWatch`: it shares its server's watch and its reads, promises what it promises, and
    raises what it raises. **On cancel** of ``anext`` nothing is lost. **On loss** of the connection it
    continues, across reconnects and new sessions.
    """

    _verb = "counter(...).watch"

    def __init__(self, context: RecipeContext, node: VersionedNode[int]) -> None:
        super().__init__(context.shared.feeds, context.full, context.path)
        self._node = node

    def _item(self, event: Event) -> int:
        return self._node.versioned(event.data, event.stat).value
