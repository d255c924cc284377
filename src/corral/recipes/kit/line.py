"""The line: a queue of ephemeral sequential znodes, on which everything that is acquired in turn is built.

The recipe is ZooKeeper's ("ZooKeeper Recipes and Solutions", Locks):

- *join* creates a znode with a GUID in its name, to which the server appends a number, and lists the line in
  the same write.
- *wait_turn* watches the nearest znode that blocks ours, and only that one (no herd).
- *leave* deletes our znode.

`protected` finds out what happened to a create whose answer was lost, `order` who comes first when the
numbers have run out. If the parent vanishes, being a container, it is created again.

The line restores what we know of our place after a reconnect; the session restores only the watch.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, NamedTuple

from corral import errors, paths
from corral.session.requests import Request
from corral.session.watchers import WatchEvent
from corral.types import HIDDEN_STAT, Acl, Stat
from corral.wire import messages

from . import ops
from .context import RecipeContext
from .listing import Listing
from .node_names import Layout
from .order import is_trusted, numbers, position
from .protected import ProtectedNodes, QueueNode
from .rounds import MOST_ROUNDS, Rounds
from .watched_read import WatchedRead

__all__ = ["Ahead", "Contender", "Interrupted", "Line", "PlaceLost"]

LEAST_LEASE = 1 / 4
"""A holder starts with at least this part of T on its lease: enough for a heartbeat and its answer."""


class Ahead(NamedTuple):
    """The znodes ahead of ours that block it."""

    nearest: str | None
    total: int


_NOBODY = Ahead(None, 0)


class Contender(NamedTuple):
    """A holder or a waiter, in the order of the line."""

    name: str
    sequence: int
    data: bytes | None
    """None if the ACL of its znode does not let us read it."""
    stat: Stat
    """All its fields are -1 if we may not read the znode and the server (3.9) hides its `Stat`."""


class PlaceLost(Exception):
    """Our znode is not in the line any more. Internal: the recipe joins again."""


class Interrupted(Exception):
    """What `wait_turn` was told to wait for, too, has happened. Internal."""


class Line(ProtectedNodes):
    """One line, at the full path `full`. It has no state: the caller keeps its own `QueueNode`."""

    def __init__(self, context: RecipeContext, full: str, layout: Layout) -> None:
        super().__init__(context, full, layout.naming, layout.contenders)
        self.layout = layout

    async def join(self, data: bytes, acl: tuple[Acl, ...], rounds: Rounds) -> tuple[QueueNode, Ahead]:
        """Join at the end of the line. Returns our node and who is ahead.

        On cancel, and on any error, our node is removed as soon as a server can be reached. Raises
        `PlaceLost` if our node or our session is gone.
        """
        session = self._session
        guid = self._naming.new_guid()
        prefix = paths.join(self.full, f"{self._naming.prefix}{guid}{self.layout.label}")
        body = messages.encode_create(prefix, data, acl, ops.EPHEMERAL_SEQUENTIAL)
        while True:
            created: asyncio.Future[tuple[str, Stat]] = session.loop.create_future()
            request = Request(messages.CREATE2, body, self.path, created, bound_to=session.session_id)
            listed = self._lists.ask(session, self.full, self.path, request)
            try:
                path, stat = await created
            except BaseException as error:
                _disregard(listed)
                if isinstance(error, asyncio.CancelledError):
                    self._abandon(request, guid)
                    raise
                found = await self._after_failed_create(error, guid, acl, rounds)
                if found is None:
                    continue  # in the session that there is now, if ours has expired
                node = found
                listed = self._lists.ask(session, self.full, self.path)
            else:
                node = QueueNode.of(path, int(path[len(prefix) :]), stat)
            try:
                try:
                    names = await listed
                except (errors.NoNode, errors.ConnectionLoss):
                    names = await self.listing()
                if names == [node.name]:
                    return node, _NOBODY
                return node, await self._ahead(node, Listing.of(names))
            except BaseException:
                self.leave(node)
                raise

    async def wait_turn(
        self, node: QueueNode, ahead: Ahead, rounds: Rounds, unless: asyncio.Future[Any] | None = None
    ) -> bool:
        """Wait until no node ahead of ours blocks it. `ahead` is who was ahead when we joined.

        Returns whether our node was seen in the line since then. If not, `check` or `confirm` it: somebody
        may have removed it, and then it is somebody else's turn.

        Raises `PlaceLost` if our node or our session is gone, and `Interrupted` when `unless` is done before
        our turn comes. On cancel, and then, our node stays: `leave` it.
        """
        # A waiter keeps two names, and never the listing: there are as many waiters as names in the line.
        while ahead.nearest is not None:
            await self._watch_until_gone(node, ahead.nearest, rounds, unless)
            # If nobody else was ahead, it is our turn: newcomers join behind us. Otherwise those ahead may
            # have left in any order, so look again.
            if ahead.total == 1 and not self.layout.downgrade_label:
                return False
            ahead = await self._ahead(node, await self.listing())
        return True

    async def wait_fewer_ahead(self, node: QueueNode, limit: int, rounds: Rounds) -> None:
        """Wait until fewer than `limit` nodes are ahead of ours. Every change of the line is read.

        Raises `PlaceLost` if our node or our session is gone. On cancel our node stays: `leave` it.
        """
        with WatchedRead(self._session, self.full, messages.CHILDREN, self.path) as line:
            while (await self._ahead(node, Listing(await line.read() or ()))).total >= limit:
                await line.changed()
                rounds.waited()

    async def check(self, node: QueueNode) -> None:
        """Raise `PlaceLost` if our node, or our session, is gone, by one small read."""
        if await ops.is_gone(self._session, node.path, self.path, bound_to=node.session_id):
            raise PlaceLost

    def is_proven(self, node: QueueNode) -> bool:
        """Whether our session still exists, and the lease has enough left for a holder to start with."""
        session = self._session
        return node.session_id == session.session_id and session.lease_left >= session.timeout * LEAST_LEASE

    async def confirm(self, node: QueueNode) -> None:
        """Make `is_proven` true, by quorum writes if need be. On a server so slow that a lease never lasts
        that long, it repeats the write every T/16 until it is cancelled.

        Raises `PlaceLost` if our node or our session is gone.
        """
        session = self._session
        while not self.is_proven(node):
            if node.session_id != session.session_id:
                raise PlaceLost
            sent = session.clock()
            try:
                outcome = await ops.multi(
                    session, [ops.check(node.path)], self.path, bound_to=node.session_id
                )
            except errors.SessionExpired:
                raise PlaceLost from None
            if outcome.is_refused(0, errors.NoNode):
                raise PlaceLost
            if not self.is_proven(node):
                # Proven, but by touches too old: the ones after this connection's start need time to count.
                await asyncio.sleep(max(0.0, sent + session.timeout / 16 - session.clock()))

    async def contenders(self) -> list[Contender]:
        """Holders and waiters, in order, with their data. Those that leave meanwhile are left out."""
        order = numbers(await self.listing(), self.layout.contenders)
        found = [Contender(name, order[name], *answer) for name, answer in (await self._read(order)).items()]
        found.sort(key=lambda each: position(each.sequence, each.stat.czxid))
        return found

    async def first(self) -> Contender | None:
        """The first in the line, with its data; None if the line is empty.

        Raises `NoNode` if the first was gone when it was read, `MOST_ROUNDS` times in a row.
        """
        rounds = Rounds()
        while True:
            order = (await self.listing()).in_order(self.layout.contenders)
            candidates = order.names[:1]  # nobody behind it can be first
            if not candidates:
                if not order.late:
                    return None
                seen = await self._read(order.late)
                candidates = sorted(seen, key=lambda name: seen[name][1].czxid)[:1]
            for name, (data, stat) in (await self._read(candidates)).items():
                return Contender(name, numbers([name], self.layout.contenders)[name], data, stat)
            problem = f"whoever was listed first was gone when it was read, {MOST_ROUNDS} times in a row"
            rounds.again(errors.NoNode("get", self.path, problem))

    async def remove(self, contender: Contender, path: str) -> bool:
        """Delete a contender's node; `path` is what errors name. Returns whether it was there.

        On loss of the connection it is deleted again, until that is hopeless; then it may be gone or not.
        """
        body = messages.encode_delete(paths.join(self.full, contender.name), -1)
        tried = False
        while True:
            send = self._session.request_patiently if tried else self._session.request
            try:
                await send(messages.DELETE, body, path)
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
                tried = True
                continue
            except errors.NoNode:
                return tried  # then it was there, and the lost answer said that it is deleted
            return True

    async def wait_for_change(self, first: str | None, rounds: Rounds) -> None:
        """Wait until `first` may not be first any more; of None, until somebody may have joined."""
        if first is not None:
            with self._watched(first) as node:
                while await node.read() is not None:
                    change = await node.changed()
                    rounds.waited()
                    if change is not WatchEvent.DATA_CHANGED:
                        return
            return
        with WatchedRead(self._session, self.full, messages.CHILDREN, self.path) as line:
            names = await line.read()
            if names is not None:
                if not numbers(names, self.layout.contenders):
                    await line.changed()
                    rounds.waited()
                return
        with WatchedRead(self._session, self.full, messages.EXISTS, self.path) as line:
            if await line.read() is None:
                await line.changed()
                rounds.waited()

    async def _ahead(self, node: QueueNode, listing: Listing) -> Ahead:
        """The nodes ahead of ours that block it. Raises `PlaceLost` if ours is not in the list."""
        if node.session_id != self._session.session_id or node.name not in listing:
            raise PlaceLost
        order = listing.in_order(self.layout.blocked_by)
        if is_trusted(node.sequence):
            count = bisect_left(order.numbers, node.sequence)
            return Ahead(order.names[count - 1], count) if count else _NOBODY
        nearest, count, newest = None, len(order.names), -1
        if count:
            nearest = order.names[-1]
        late = await ops.stat_of_each(self._session, self.full, order.late, self.path)
        for name, stat in late.items():
            if isinstance(stat, errors.NoAuth):
                raise stat
            if stat.czxid < node.czxid:
                count += 1
                if stat.czxid > newest:
                    nearest, newest = name, stat.czxid
        return Ahead(nearest, count)

    async def _read(self, names: Iterable[str]) -> dict[str, tuple[bytes | None, Stat]]:
        """Data and `Stat` of each that exists; see `Contender` for those that we may not read."""
        session, full, path = self._session, self.full, self.path
        answers = await ops.data_of_each(session, full, names, path)
        unreadable = [name for name, answer in answers.items() if isinstance(answer, errors.NoAuth)]
        stats = await ops.stat_of_each(session, full, unreadable, path) if unreadable else {}
        found: dict[str, tuple[bytes | None, Stat]] = {
            name: answer for name, answer in answers.items() if not isinstance(answer, errors.NoAuth)
        }
        for name, stat in stats.items():
            found[name] = None, HIDDEN_STAT if isinstance(stat, errors.NoAuth) else stat
        return found

    def _watched(self, name: str) -> WatchedRead:
        # Reads the data, not existence: that leaves no watch where there is no node.
        return WatchedRead(self._session, paths.join(self.full, name), messages.GET, self.path)

    async def _watch_until_gone(
        self, node: QueueNode, name: str, rounds: Rounds, unless: asyncio.Future[Any] | None
    ) -> None:
        with self._watched(name) as ahead:
            while await ahead.read() is not None:
                change = await ahead.changed(unless)
                rounds.waited()
                if unless is not None and unless.done():
                    raise Interrupted
                if change is WatchEvent.DELETED:
                    return
                if node.session_id != self._session.session_id:
                    raise PlaceLost


def _disregard(answer: asyncio.Future[Any]) -> None:
    """Nobody looks at this answer, nor at the error that it may be."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()
