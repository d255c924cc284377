"""The line: a queue of sequential ephemeral nodes, on which everything that takes turns is built.

The recipe is ZooKeeper's ("ZooKeeper Recipes and Solutions", Locks), with what it takes to be right:

*join*  creates a node whose name has a GUID and whose end is a number given by the server, and lists the line
        in the same write. *wait_turn*  watches the nearest node that blocks ours, and only that (no herd).
*leave* deletes our node.

What can go wrong, and what is done about it here:

- The create's answer is lost: whether there is a node, and its number, is unknown; only the GUID finds it.
  After the reconnect a quorum write goes out before the list, in one pipeline. The create cannot come after
  that write: what the old server had passed on was ordered before it, and what it passes on later is refused
  as SessionMoved. A `sync` would not do: a server that follows a deposed leader answers it (S2).
- The waiter is cancelled while the create is under way: its outcome is followed to the end, and the node
  removed, behind its back (L3). A create that was not sent yet is not sent.
- The node found belongs to the session before this one, and is about to vanish: it does not count (L10).
- The parent vanishes, being a container: it is made again.
- The numbers run out. The server's counter is a signed 32-bit one, and at 2^31 - 1 it neither wraps nor
  stops: it gives that number again and again, and within one burst of creates negative ones (seen on 3.8.0:
  `DataTree.createNode` keeps a parent's cversion only if it has grown). So a number is trusted while it is
  below that. Those beyond were given later, and among them the zxid of creation has the order, at the price
  of reading their stats (L10).

The knowledge of our place is restored here; the session restores only the watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from corral import errors, paths, verify
from corral.ensure import make_path
from corral.nodes import Nodes
from corral.session.requests import Request
from corral.session.supervisor import Session
from corral.session.watches import Change
from corral.types import OPEN_ACL, Acl, Stat
from corral.wire import messages

from .layouts import Layout, numbers
from .removal import Removal
from .watched import Watched

logger = logging.getLogger("corral.recipes")

# The last number that the server gives; it gives it more than once.
_LAST_NUMBER = 0x7FFFFFFF
_EPHEMERAL_SEQUENTIAL = verify.create_flags(ephemeral=True, sequential=True)
# After these a create may have been carried out.
_UNKNOWN = (errors.ConnectionLoss, errors.ReplyError)


class Place(NamedTuple):
    """A node of ours in a line."""

    path: str
    """Its full path."""
    name: str
    sequence: int
    czxid: int
    session_id: int


class Contender(NamedTuple):
    """Somebody who stands in a line, in the order of the line."""

    name: str
    sequence: int
    data: bytes
    stat: Stat


class PlaceLost(Exception):
    """Our node is not in the line any more; internal, the recipe joins again."""


class Line:
    """One line, at the full path `full`. It has no state: a place is in whoever holds it."""

    def __init__(self, nodes: Nodes, session: Session, full: str, layout: Layout) -> None:
        self.full = full
        self._nodes = nodes
        self._session = session
        self.layout = layout

    async def join(self, data: bytes, acl: tuple[Acl, ...] = OPEN_ACL) -> tuple[Place, list[str]]:
        """Stand at the end of the line; returns our place and the names in the line, ours among them.

        On cancel, and on any error, no node of ours is left, or it is removed as soon as a server can be
        reached.
        """
        session = self._session
        naming = self.layout.naming
        guid = naming.new_guid()
        prefix = paths.join(self.full, f"{naming.prefix}{guid}{self.layout.label}")
        create = messages.encode_create(prefix, data, acl, _EPHEMERAL_SEQUENTIAL)
        listing = messages.encode_children(self.full, False)
        new_future = session.loop.create_future
        while True:
            created, listed = new_future(), new_future()
            request = Request(messages.CREATE2, create, prefix, created, bound_to=session.session_id)
            session.submit_now(request, Request(messages.CHILDREN, listing, self.full, listed))
            try:
                path, stat = await created
            except BaseException as error:
                _disregard(listed)
                if isinstance(error, asyncio.CancelledError):
                    self._follow_up(request, guid)
                    raise
                if isinstance(error, errors.NoNode):
                    await make_path(
                        self._session, self.full, acl, container=True, chroot=self._nodes.chroot_path
                    )
                elif isinstance(error, _UNKNOWN):
                    found = await self._find_or_sweep(guid)
                    if found is not None:
                        return found
                elif not isinstance(error, errors.SessionExpired):
                    raise
                continue  # in the session that there is now, if ours has expired
            place = _place(path, int(path[len(prefix) :]), stat)
            try:
                try:
                    return place, await listed
                except (errors.NoNode, errors.ConnectionLoss):
                    return place, await self.names()
            except BaseException:
                self.leave(place)
                raise

    def is_alone(self, place: Place, names: Sequence[str]) -> bool:
        """Whether there is nobody but us in the line, so that it is our turn, or it would be."""
        return len(names) == 1 and names[0] == place.name

    async def wait_turn(self, place: Place, names: Sequence[str]) -> None:
        """Wait until no node ahead of ours blocks it. `names` is the line as it was when we joined.

        Raises `PlaceLost` if our node or our session is gone. On cancel our node stays: `leave` it.
        """
        while True:
            nearest, ahead = await self._ahead(place, names)
            if nearest is None:
                return
            await self._watch_until_gone(place, nearest)
            # If nobody else was ahead, it is our turn: whoever joins stands behind us. Otherwise those
            # ahead may have left in any order, so look again.
            if ahead == 1 and not self.layout.downgraded:
                return
            names = await self.names()

    async def ahead(self, place: Place, names: Sequence[str]) -> int:
        """How many ahead of us block us. Raises `PlaceLost` if our node or our session is gone."""
        _, ahead = await self._ahead(place, names)
        return ahead

    def leave(self, place: Place, on_done: Callable[[], None] | None = None) -> None:
        """Delete our node, and see to it that it is deleted; returns at once, `on_done` tells when it is."""
        Removal(self._session, place.path, place.session_id, on_done)

    def is_proven(self, place: Place, least: float) -> bool:
        """Whether our session is what it was, and the lease has at least `least` seconds left."""
        session = self._session
        return place.session_id == session.session_id and session.lease_left >= least

    async def confirm(self, place: Place, least: float) -> None:
        """See to it that `is_proven`, by a quorum write if need be.

        Raises `PlaceLost` if our node or our session is gone.
        """
        while True:
            if place.session_id != self._session.session_id:
                raise PlaceLost
            if self._session.lease_left >= least:
                return
            sent = self._session.clock()
            try:
                [result] = await self._session.request(
                    messages.MULTI,
                    messages.encode_multi([(messages.CHECK, messages.encode_check(place.path, -1))]),
                    place.path,
                    bound_to=place.session_id,
                )
            except errors.ConnectionLoss:
                continue
            except errors.SessionExpired:
                raise PlaceLost from None
            if result.error == errors.NoNode.code:
                raise PlaceLost
            if self._session.lease_left < least:
                # Proven, but by touches too old: the ones after this connection's start need time to count.
                await asyncio.sleep(max(0.0, sent + self._session.timeout / 16 - self._session.clock()))

    async def contenders(self) -> list[Contender]:
        """Who stands in the line, in order, with their data. Those who leave meanwhile are left out."""
        order = numbers(await self.names(), self.layout.contenders)
        names = list(order)
        answers = await asyncio.gather(
            *(
                self._session.request(
                    messages.GET, messages.encode_get(paths.join(self.full, name), False), name
                )
                for name in names
            ),
            return_exceptions=True,
        )
        found = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, errors.NoNode):
                continue
            if isinstance(answer, BaseException):
                raise answer
            found.append(Contender(name, order[name], *answer))
        found.sort(key=lambda each: _position(each.sequence, each.stat.czxid))
        return found

    async def first(self) -> Contender | None:
        """Who is first in the line, with its data; None if nobody is."""
        while True:
            order = numbers(await self.names(), self.layout.contenders)
            if not order:
                return None
            positions = order if _are_trusted(order) else await self._positions(order)
            if not positions:
                continue
            name = min(positions, key=positions.__getitem__)
            path = paths.join(self.full, name)
            try:
                data, stat = await self._session.request(messages.GET, messages.encode_get(path, False), path)
            except (errors.NoNode, errors.ConnectionLoss):
                continue
            return Contender(name, order[name], data, stat)

    async def wait_for_change(self, first: str | None) -> None:
        """Wait until the one that was `first` may be so no more; of None, until somebody may have come."""
        if first is not None:
            with Watched(self._session, paths.join(self.full, first), messages.GET) as node:
                while await node.read() is not None and await node.changed() is Change.DATA_CHANGED:
                    pass
            return
        with Watched(self._session, self.full, messages.CHILDREN) as line:
            names = await line.read()
            if names is not None:
                if not numbers(names, self.layout.contenders):
                    await line.changed()
                return
        with Watched(self._session, self.full, messages.EXISTS) as line:
            if await line.read() is None:
                await line.changed()

    async def names(self) -> list[str]:
        """The names of the line's children, contenders or not; none if there is no line."""
        while True:
            try:
                return await self._list()
            except errors.NoNode:
                return []
            except errors.ConnectionLoss:  # twice on one read; it changes nothing, so go on
                continue

    def _list(self) -> asyncio.Future[list[str]]:
        return self._session.request(messages.CHILDREN, messages.encode_children(self.full, False), self.full)

    async def _ahead(self, place: Place, names: Sequence[str]) -> tuple[str | None, int]:
        """The nearest name ahead of ours that blocks it, and how many do."""
        if place.name not in names or place.session_id != self._session.session_id:
            raise PlaceLost
        if len(names) == 1:
            return None, 0
        order = numbers(names, self.layout.blocked_by)
        ours = place.sequence
        if not is_trusted(ours) or not _are_trusted(order):
            ours = _position(ours, place.czxid)
            order = await self._positions(order)
        nearest, last, ahead = None, -1, 0
        for name, position in order.items():
            if position < ours:
                ahead += 1
                if position > last:
                    nearest, last = name, position
        return nearest, ahead

    async def _positions(self, order: dict[str, int]) -> dict[str, int]:
        """The place of each in a line whose numbers have run out; without those that are gone by now."""
        late = [name for name, number in order.items() if not is_trusted(number)]
        paths_of = [paths.join(self.full, name) for name in late]
        while True:
            answers = await asyncio.gather(
                *(
                    self._session.request(messages.EXISTS, messages.encode_exists(path, False), path)
                    for path in paths_of
                ),
                return_exceptions=True,
            )
            failures = [answer for answer in answers if isinstance(answer, BaseException)]
            if not any(isinstance(failure, errors.ConnectionLoss) for failure in failures):
                break
        for failure in failures:
            if not isinstance(failure, errors.NoNode):
                raise failure
        positions = {name: number for name, number in order.items() if is_trusted(number)}
        for name, answer in zip(late, answers, strict=True):
            if not isinstance(answer, BaseException):
                positions[name] = _position(order[name], answer.czxid)
        return positions

    async def _watch_until_gone(self, place: Place, name: str) -> None:
        # Reading the data, not existence: no watch is left where there is no node.
        with Watched(self._session, paths.join(self.full, name), messages.GET) as node:
            while await node.read() is not None and await node.changed() is not Change.DELETED:
                if place.session_id != self._session.session_id:
                    raise PlaceLost

    def _follow_up(self, request: Request, guid: str) -> None:
        """Nobody waits for a create any more: whatever becomes of it, its node must go."""
        if not request.sent:
            return  # nor will it be, as nobody waits for it
        future: Any
        future, request.waiter = request.waiter, _Abandoned(self, guid)
        # The answer may be there: it came in the tick of the cancel, before it or after it.
        value, error = request.unclaimed or (None, None)
        if not future.cancelled():
            error = future.exception()
            value = None if error else future.result()
        if value is not None:
            request.resolve(value)
        elif error is not None:
            request.reject(error)

    async def _find_or_sweep(self, guid: str) -> tuple[Place, list[str]] | None:
        try:
            return await self._find(guid)
        except BaseException:
            self._sweep_later(guid)
            raise

    def _sweep_later(self, guid: str) -> None:
        async def sweep() -> None:
            try:
                found = await self._find(guid)
            except errors.SessionError:
                return  # its session is over, and so is the node
            except errors.CorralError as error:
                logger.warning(
                    "a node with %s in %s may stay until its session ends: %s", guid, self.full, error
                )
                return
            if found is not None:
                self.leave(found[0])

        self._session.spawn(sweep, f"corral sweep of {self.full}")

    async def _find(self, guid: str) -> tuple[Place, list[str]] | None:
        """After a create of unknown outcome: our place and the line, or None if the create did not happen."""
        while True:
            check = messages.encode_multi([(messages.CHECK, messages.encode_check(self.full, -1))])
            write = self._session.request(messages.MULTI, check, self.full)
            listed = self._list()
            try:
                await write  # whatever its result: it has been ordered after the create
                names = await listed
            except errors.ConnectionLoss:
                continue
            except errors.NoNode:
                return None
            finally:
                _disregard(listed)
            for name in names:
                if guid in name and (place := await self._owned(name)) is not None:
                    return place, names
            return None

    async def _owned(self, name: str) -> Place | None:
        path = paths.join(self.full, name)
        while True:
            try:
                stat = await self._session.request(messages.EXISTS, messages.encode_exists(path, False), path)
            except errors.NoNode:
                return None
            except errors.ConnectionLoss:
                continue
            mine = stat.ephemeral_owner == self._session.session_id
            return _place(path, numbers([name], self.layout.contenders)[name], stat) if mine else None


def is_trusted(number: int) -> bool:
    """Whether the server gives this number once only."""
    return 0 <= number < _LAST_NUMBER


def _are_trusted(order: dict[str, int]) -> bool:
    return not order or 0 <= min(order.values()) <= max(order.values()) < _LAST_NUMBER


def _position(number: int, czxid: int) -> int:
    """What orders a line: the number, and where that is not trusted, behind all of these, the creation."""
    return number if is_trusted(number) else _LAST_NUMBER + czxid


def _place(path: str, number: int, stat: Stat) -> Place:
    return Place(path, path.rpartition("/")[2], number, stat.czxid, stat.ephemeral_owner)


def _disregard(answer: asyncio.Future[Any]) -> None:
    """Nobody will look at this answer, nor at the error that it may be."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()


class _Abandoned:
    """Waits for the answer to a create in place of whoever was cancelled (`requests.Waiter`)."""

    __slots__ = ("_guid", "_line")

    def __init__(self, line: Line, guid: str) -> None:
        self._line = line
        self._guid = guid

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        path, stat = result
        self._line.leave(_place(path, 0, stat))  # its number does not matter any more

    def set_exception(self, exception: BaseException, /) -> None:
        if isinstance(exception, _UNKNOWN):
            self._line._sweep_later(self._guid)
