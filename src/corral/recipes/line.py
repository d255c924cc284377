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
  below that; beyond, the zxid of creation has the order, at the price of reading the stats (L10).

The knowledge of our place is restored here; the session restores only the watch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from corral import errors, paths, verify
from corral.nodes import Nodes
from corral.session.requests import Request
from corral.session.supervisor import Session
from corral.session.watches import Change
from corral.types import OPEN_ACL, Acl, Stat
from corral.wire import messages

from .removal import Removal

logger = logging.getLogger("corral.recipes")

# The last number that the server gives; it gives it more than once.
_LAST_NUMBER = 0x7FFFFFFF
_EPHEMERAL_SEQUENTIAL = verify.create_flags(ephemeral=True, sequential=True)
# After these a create may have been carried out.
_UNKNOWN = (errors.ConnectionLoss, errors.ReplyError)


class Layout(NamedTuple):
    """What the nodes of a line are called, so that others stand in it too (INTEROP)."""

    name: str
    """What stands between the GUID and the number of our own nodes."""
    contenders: tuple[str, ...]
    """What may stand before the number of a node in the line; others are ignored."""

    @classmethod
    def of(cls, name: str, *others: str) -> Layout:
        """Our own `name`, and what other clients put before their numbers."""
        return cls(name, (name, *others))

    def number(self, name: str) -> int | None:
        """The number of a node of this name, if it stands in the line: "%010d" of a signed 32-bit number."""
        digits = name[-10:]
        if digits.isdecimal():
            # A minus before ten digits that begin with 0 is not part of the number.
            if digits[0] != "0" and name[-11:-10] == "-" and name.endswith(self.contenders, 0, -11):
                return int(name[-11:])
        elif not (digits[0:1] == "-" and digits[1:].isdecimal() and len(digits) == 10):
            return None
        return int(digits) if name.endswith(self.contenders, 0, -10) else None


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
        self._layout = layout

    async def join(self, data: bytes, acl: Sequence[Acl] = OPEN_ACL) -> tuple[Place, list[str]]:
        """Stand at the end of the line; returns our place and the names in the line, ours among them.

        On cancel, and on any error, no node of ours is left, or it is removed as soon as a server can be
        reached.
        """
        session = self._session
        guid = _new_guid()
        prefix = paths.join(self.full, f"_c_{guid}-{self._layout.name}")
        create = messages.encode_create(prefix, data, tuple(acl), _EPHEMERAL_SEQUENTIAL)
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
                    await self._nodes.make(self.full, container=True)
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

    async def wait_turn(
        self, place: Place, names: Sequence[str], blocks: Callable[[str], bool] = lambda name: True
    ) -> None:
        """Wait until no node ahead of ours blocks it. `names` is the line as it was when we joined.

        Raises `PlaceLost` if our node or our session is gone. On cancel our node stays: `leave` it.
        """
        while True:
            nearest, ahead = await self._ahead(place, names, blocks)
            if nearest is None:
                return
            await self._watch_until_gone(place, nearest)
            # If nobody else was ahead, it is our turn: whoever joins stands behind us. Otherwise those
            # ahead may have left in any order, so look again.
            if ahead == 1:
                return
            names = await self.names()

    async def is_blocked(self, place: Place, names: Sequence[str]) -> bool:
        """Whether anybody stands ahead of us. Raises `PlaceLost` if our node or our session is gone."""
        _, ahead = await self._ahead(place, names, lambda name: True)
        return ahead > 0

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
        names = [name for name in await self.names() if self._layout.number(name) is not None]
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
            found.append(Contender(name, self._number(name), *answer))
        found.sort(key=lambda contender: contender.stat.czxid)
        return found

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

    def _number(self, name: str) -> int:
        number = self._layout.number(name)
        assert number is not None
        return number

    async def _ahead(
        self, place: Place, names: Sequence[str], blocks: Callable[[str], bool]
    ) -> tuple[str | None, int]:
        """The nearest name that blocks ours, and how many do."""
        if place.name not in names or place.session_id != self._session.session_id:
            raise PlaceLost
        if len(names) == 1:
            return None, 0
        order, ours = self._order(names), place.sequence
        if order and not (min(order.values()) >= 0 and max(order.values()) < _LAST_NUMBER):
            order, ours = await self._order_of_creation(order), place.czxid
        nearest, last, ahead = None, -1, 0
        for name, position in order.items():
            if position < ours and blocks(name):
                ahead += 1
                if position > last:
                    nearest, last = name, position
        return nearest, ahead

    def _order(self, names: Iterable[str]) -> dict[str, int]:
        """The number of each that stands in the line."""
        number_of, order = self._layout.number, dict[str, int]()
        for name in names:
            number = number_of(name)
            if number is not None:
                order[name] = number
        return order

    async def _order_of_creation(self, names: Iterable[str]) -> dict[str, int]:
        """The zxid of creation of each node that is still there."""
        names = list(names)
        paths_of = [paths.join(self.full, name) for name in names]
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
        return {
            name: answer.czxid
            for name, answer in zip(names, answers, strict=True)
            if not isinstance(answer, BaseException)
        }

    async def _watch_until_gone(self, place: Place, name: str) -> None:
        session, path = self._session, paths.join(self.full, name)
        body = messages.encode_get(path, True)
        signal = _Signal(session.loop)
        session.watch(path, signal)
        try:
            while True:
                # Reading the data, not existence: no watch is left where there is no node.
                read = session.loop.create_future()
                session.submit_now(Request(messages.GET, body, path, read, watches=path))
                try:
                    await read
                except errors.NoNode:
                    return
                except errors.ConnectionLoss:
                    continue
                if await signal.fired is Change.DELETED:
                    return
                signal.rearm()
                if place.session_id != session.session_id:
                    raise PlaceLost
        finally:
            session.unwatch(path, signal)

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
            return _place(path, self._number(name), stat) if mine else None


def _new_guid() -> str:
    """As `str(uuid.uuid4())`, in a third of the time; nobody looks at which bits of a GUID are random."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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


class _Signal:
    """Waits for a node's change."""

    __slots__ = ("_loop", "fired")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.rearm()

    def rearm(self) -> None:
        """Wait for the next change."""
        self.fired: asyncio.Future[Change] = self._loop.create_future()

    def fire(self, change: Change) -> None:
        if not self.fired.done():
            self.fired.set_result(change)
