"""A value that many clients read, watch and change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from corral import verify
from corral.codecs import Codec
from corral.types import Event
from corral.watch.node import NodeReader

from .kit.context import RecipeContext
from .kit.versioned import NoDefault, Versioned, VersionedNode

__all__ = ["Value", "ValueWatch"]

T = TypeVar("T")


class Value(Generic[T]):
    """A value that many clients share, such as a configuration. Made by ``zk.value(path, codec=, default=)``.

    A value is the data of a persistent znode. The first write creates the znode, and its missing parents,
    which are persistent, too. `codec` is `BYTES`, `TEXT`, `JSON`, or any object with `encode` and `decode`.
    While the znode does not exist, reading gives a copy of `default`; without a default it raises `NoNode`.
    Data that does not decode raises `InvalidValue`. A value that the codec refuses raises `UsageTypeError`
    (after its `TypeError`) or `UsageValueError`, and nothing is written.

    A write is applied **exactly once** when it returns, although the connection may have been lost meanwhile.

    **On cancel** a write is applied once, or not at all. **On loss** of the connection reads and writes wait
    for the next connection, without a bound: use `asyncio.timeout`. A write then finds out whether it was
    applied. If nobody can tell, since the session has expired or somebody has deleted the mark (below), it
    raises `ConnectionLoss`: it was applied once, or not at all. It also raises that when
    `ConnectionLoss.MOST_LOSSES` connections in a row broke on the same request.

    For a write a client keeps a *mark*, an ephemeral child of the znode named ``_c_<uuid>-mark``, until none
    of its tasks writes any more. Whoever deletes the znode at that moment gets `NotEmpty`;
    ``delete(recursive=True)`` deletes the mark, too. The writes of one client's tasks wait for each other.

    Reading requires the permission READ on the znode. Writing requires READ, WRITE, CREATE and DELETE on it,
    and CREATE on its parent for the first write. `acl` is for the znode and the mark, and must grant us READ
    and WRITE. The layout is that of Curator's ``SharedValue``. The algorithm is a compare-and-set by the
    znode's version, in one transaction with the mark.
    """

    def __init__(self, context: RecipeContext, codec: Codec[T], default: T | NoDefault) -> None:
        self._context = context
        self._node = VersionedNode(context, "value", codec, default)
        self.path = context.path

    async def get(self) -> Versioned[T]:
        """The value and its version, as the connected server knows them; `Client.sync` before that makes them
        current.

        Raises `NoNode` if the znode does not exist and there is no default, and `InvalidValue`. On cancel
        nothing changes. On loss of the connection it repeats the request; see the class.
        """
        return await self._node.get()

    async def set(self, value: T, *, version: int | None = None) -> Versioned[T]:
        """Set the value; with `version` only if the znode has that version, -1 being that of a znode that
        does not exist. Returns the value with its new version.

        Raises `BadVersion`, which names both versions, if it has another one. Without `version` it replaces
        whatever is there, and raises `BadVersion` only if other clients were faster 100 times in a row. On
        cancel, on loss of the connection, and for other errors, see the class.
        """
        return await self._node.set(value, None if version is None else verify.version(version))

    async def update(self, fn: Callable[[T], T]) -> Versioned[T]:
        """Replace the value by what `fn` makes of it. Returns the new value with its version.

        `fn` is an ordinary function. It is called again, with the newer value, whenever another client has
        written meanwhile; after a random wait, which is longer the more often that happens, but at most a
        quarter of the session timeout. Only the result of the last call is written, once. An exception of
        `fn` is raised here, and nothing is written. Raises `BadVersion` if other clients were faster 100
        times in a row, `InvalidValue` if the value that is there does not decode, and `NoNode` as `get` does.
        On cancel, on loss of the connection, and for other errors, see the class.
        """
        return await self._node.update(verify.predicate(fn, "fn"))

    def watch(self) -> ValueWatch[T]:
        """The value now, then each newer one: ``async for current in zk.value(path).watch()``; see
        `ValueWatch`."""
        return ValueWatch(self._context, self._node)

    def __repr__(self) -> str:
        return f"<Value {str(self.path)!r}>"


class ValueWatch(NodeReader[Versioned[T]]):
    """The value now, then each newer one, each with its version. For one reader.

    Data that does not decode does not end the loop: it is an item whose `value` raises `InvalidValue`. While
    the znode does not exist, the item has the default, or its `value` raises `NoNode`.

    In all else it is a `NodeWatch`: it shares its server's watch and its reads, promises what it promises,
    and raises what it raises. **On cancel** of ``anext`` nothing is lost. **On loss** of the connection it
    continues, across reconnects and new sessions.
    """

    _verb = "value(...).watch"

    def __init__(self, context: RecipeContext, node: VersionedNode[T]) -> None:
        super().__init__(context.shared.feeds, context.full, context.path)
        self._node = node

    def _item(self, event: Event) -> Versioned[T]:
        return self._node.versioned(event.data, event.stat)
