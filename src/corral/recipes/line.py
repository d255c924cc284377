"""The line: a queue of sequential ephemeral nodes, on which everything that takes turns is built.

The recipe is ZooKeeper's ("ZooKeeper Recipes and Solutions", Locks), with what it takes to be right:

*join*  creates a node whose name has a GUID and whose end is a number given by the server, and lists the line
        in the same write. *wait_turn*  watches the nearest node that blocks ours, and only that (no herd).
*leave* deletes our node.

What can go wrong, and what is done about it here:

- The create's answer is lost: whether there is a node, and its number, is unknown; only the GUID finds it.
  After the reconnect a quorum write is answered before the list is asked for. The create cannot come after
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
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from corral import errors, paths, verify
from corral.ensure import make_path
from corral.session.requests import Request
from corral.session.watchers import WatchEvent
from corral.types import Acl, Stat
from corral.wire import messages
from corral.wire.messages import Operation

from .layouts import LAST_NUMBER, Layout, is_trusted, numbers
from .listing import Listing
from .removal import Removal
from .site import Site
from .watched import Watched

logger = logging.getLogger("corral.recipes")

# How often in a row something is begun anew that has waited for nothing in between.
MOST_ROUNDS = 16
_EPHEMERAL_SEQUENTIAL = verify.create_flags(ephemeral=True, sequential=True)
_UNKNOWN_STAT = Stat(*[-1] * len(Stat._fields))
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


class Ahead(NamedTuple):
    """Who is ahead of a place, and blocks it."""

    nearest: str | None
    number: int


_NOBODY = Ahead(None, 0)


class Contender(NamedTuple):
    """Somebody who stands in a line, in the order of the line."""

    name: str
    sequence: int
    data: bytes | None
    """None if the ACL of its node does not let us read it."""
    stat: Stat
    """All its fields are -1 if we may not read the node, and the server (3.9) refuses to tell of it then."""


class PlaceLost(Exception):
    """Our node is not in the line any more; internal, the recipe joins again."""


class Rounds:
    """Counts what is begun anew without having waited for anything, and gives up: a server that answers so
    that nothing ever comes of it would otherwise be asked as fast as it answers."""

    _count = 0

    def again(self, error: errors.CorralError) -> None:
        """One more round, because of `error`. Raises it after `MOST_ROUNDS`."""
        self._count += 1
        if self._count >= MOST_ROUNDS:
            raise error

    def waited(self) -> None:
        """Something was waited for, and came: begin to count anew."""
        self._count = 0


class Line:
    """One line, at the full path `full`. It has no state: a place is in whoever holds it.

    Requests that change nothing when they are repeated are sent again after each lost connection, until it is
    hopeless (`errors.ConnectionLoss.is_hopeless`); then `ConnectionLoss` is raised.
    """

    def __init__(self, site: Site, full: str, layout: Layout) -> None:
        self.full = full
        self.path = site.path if full is site.full else paths.strip(site.nodes.chroot_path, full)
        """What errors call it."""
        self.layout = layout
        self._nodes = site.nodes
        self._session = site.session
        self._lists = site.holders.lists

    async def join(self, data: bytes, acl: tuple[Acl, ...], rounds: Rounds) -> tuple[Place, Ahead]:
        """Stand at the end of the line; returns our place and who is ahead.

        On cancel, and on any error, no node of ours is left, or it is removed as soon as a server can be
        reached. Raises `PlaceLost` if our node or our session is gone.
        """
        session = self._session
        naming = self.layout.naming
        guid = naming.new_guid()
        prefix = paths.join(self.full, f"{naming.prefix}{guid}{self.layout.label}")
        create = messages.encode_create(prefix, data, acl, _EPHEMERAL_SEQUENTIAL)
        while True:
            created: asyncio.Future[tuple[str, Stat]] = session.loop.create_future()
            request = Request(messages.CREATE2, create, self.path, created, bound_to=session.session_id)
            listed = self._lists.ask(session, self.full, self.path, request)
            try:
                path, stat = await created
            except BaseException as error:
                _disregard(listed)
                if isinstance(error, asyncio.CancelledError):
                    self._follow_up(request, guid)
                    raise
                found = await self._after_failed_create(error, guid, acl, rounds)
                if found is None:
                    continue  # in the session that there is now, if ours has expired
                place = found
                listed = self._lists.ask(session, self.full, self.path)
            else:
                place = _place(path, int(path[len(prefix) :]), stat)
            try:
                try:
                    listing = await listed
                except (errors.NoNode, errors.ConnectionLoss):
                    listing = await self.listing()
                if listing.names == [place.name]:
                    return place, _NOBODY
                return place, await self._ahead(place, listing)
            except BaseException:
                self.leave(place)
                raise

    async def _after_failed_create(
        self, error: BaseException, guid: str, acl: tuple[Acl, ...], rounds: Rounds
    ) -> Place | None:
        """Our place, if the node exists all the same; None if it does not and the create may be repeated."""
        if isinstance(error, errors.NoNode):
            rounds.again(error)
            await make_path(self._session, self.full, acl, container=True, chroot=self._nodes.chroot_path)
        elif isinstance(error, _UNKNOWN):
            found = await self._find_or_sweep(guid)
            if found is not None:
                return found
            if isinstance(error, errors.ReplyError):
                rounds.again(error)
            elif error.is_hopeless:
                raise error
        elif not isinstance(error, errors.SessionExpired):
            raise error
        return None

    async def wait_turn(self, place: Place, ahead: Ahead, rounds: Rounds) -> bool:
        """Wait until no node ahead of ours blocks it. `ahead` is who did when we joined.

        Returns whether our node was seen in the line since then. If not, `check` or `confirm` it: somebody
        may have removed it, and then it is somebody else's turn.

        Raises `PlaceLost` if our node or our session is gone. On cancel our node stays: `leave` it.
        """
        # While it waits, a waiter keeps two names, and never the line: it is one of as many as the line has.
        while ahead.nearest is not None:
            await self._watch_until_gone(place, ahead.nearest, rounds)
            # If nobody else was ahead, it is our turn: whoever joins stands behind us. Otherwise those
            # ahead may have left in any order, so look again.
            if ahead.number == 1 and not self.layout.downgraded:
                return False
            ahead = await self._ahead(place, await self.listing())
        return True

    async def count_ahead(self, place: Place, names: Sequence[str]) -> int:
        """How many of the names are ahead of us. Raises `PlaceLost` if our node or our session is gone."""
        return (await self._ahead(place, Listing(names))).number

    def leave(self, place: Place, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        """Delete our node, and see to it that it is deleted; returns at once. See `Removal` for `on_done`."""
        Removal(self._session, place.path, place.session_id, on_done)

    async def check(self, place: Place) -> None:
        """Raise `PlaceLost` if our node, or our session, is gone, by one small read."""
        exists = messages.encode_exists(place.path, False)
        try:
            await self._session.ask(
                messages.EXISTS, exists, self.path, bound_to=place.session_id, at_once=True
            )
        except errors.NoAuth:
            pass  # it is there
        except (errors.NoNode, errors.SessionExpired):
            raise PlaceLost from None

    def is_proven(self, place: Place, least: float) -> bool:
        """Whether our session is what it was, and the lease has at least `least` seconds left."""
        session = self._session
        return place.session_id == session.session_id and session.lease_left >= least

    async def confirm(self, place: Place, least: float) -> None:
        """See to it that `is_proven`, by a quorum write if need be.

        Raises `PlaceLost` if our node or our session is gone.
        """
        session = self._session
        check = messages.encode_multi([(messages.CHECK, messages.encode_check(place.path, -1))])
        while True:
            if place.session_id != session.session_id:
                raise PlaceLost
            if session.lease_left >= least:
                return
            sent = session.clock()
            try:
                [result] = await session.ask(messages.MULTI, check, self.path, bound_to=place.session_id)
            except errors.SessionExpired:
                raise PlaceLost from None
            if result.error == errors.NoNode.code:
                raise PlaceLost
            if session.lease_left < least:
                # Proven, but by touches too old: the ones after this connection's start need time to count.
                await asyncio.sleep(max(0.0, sent + session.timeout / 16 - session.clock()))

    async def contenders(self) -> list[Contender]:
        """Who stands in the line, in order, with their data. Those who leave meanwhile are left out."""
        order = numbers((await self.listing()).names, self.layout.contenders)
        found = [Contender(name, order[name], *answer) for name, answer in (await self._read(order)).items()]
        found.sort(key=lambda each: _position(each.sequence, each.stat.czxid))
        return found

    async def first(self) -> Contender | None:
        """Who is first in the line, with its data; None if nobody is.

        Raises `NoNode` if whoever is listed first is gone when it is looked at, `MOST_ROUNDS` times in a row.
        """
        rounds = Rounds()
        while True:
            order = (await self.listing()).in_order(self.layout.contenders)
            candidates = order.names[:1]  # behind those there can be nobody who is first
            if not candidates:
                if not order.late:
                    return None
                seen = await self._read(order.late)
                candidates = sorted(seen, key=lambda name: seen[name][1].czxid)[:1]
            for name, (data, stat) in (await self._read(candidates)).items():
                return Contender(name, numbers([name], self.layout.contenders)[name], data, stat)
            problem = f"whoever is listed first was gone each of {MOST_ROUNDS} times that it was looked at"
            rounds.again(errors.NoNode("get", self.path, problem))

    async def wait_for_change(self, first: str | None, rounds: Rounds) -> None:
        """Wait until the one that was `first` may be so no more; of None, until somebody may have come."""
        if first is not None:
            with self._watched(first) as node:
                while await node.read() is not None:
                    change = await node.changed()
                    rounds.waited()
                    if change is not WatchEvent.DATA_CHANGED:
                        return
            return
        with Watched(self._session, self.full, messages.CHILDREN, self.path) as line:
            names = await line.read()
            if names is not None:
                if not numbers(names, self.layout.contenders):
                    await line.changed()
                    rounds.waited()
                return
        with Watched(self._session, self.full, messages.EXISTS, self.path) as line:
            if await line.read() is None:
                await line.changed()
                rounds.waited()

    async def listing(self) -> Listing:
        """The names of the line's children, contenders or not; none if there is no line."""
        while True:
            try:
                return await self._lists.ask(self._session, self.full, self.path)
            except errors.NoNode:
                return Listing(())
            except errors.ConnectionLoss as loss:  # twice on one read; it changes nothing, so go on
                if loss.is_hopeless:
                    raise

    async def _ahead(self, place: Place, listing: Listing) -> Ahead:
        """Who is ahead of us, and blocks us."""
        if place.session_id != self._session.session_id or place.name not in listing:
            raise PlaceLost
        order = listing.in_order(self.layout.blocked_by)
        if is_trusted(place.sequence):
            count = bisect_left(order.numbers, place.sequence)
            return Ahead(order.names[count - 1], count) if count else _NOBODY
        nearest, count, newest = None, len(order.names), -1
        if count:
            nearest = order.names[-1]
        for name, stat in (await self._ask_each(messages.EXISTS, order.late)).items():
            if isinstance(stat, errors.NoAuth):
                raise stat
            if stat.czxid < place.czxid:
                count += 1
                if stat.czxid > newest:
                    nearest, newest = name, stat.czxid
        return Ahead(nearest, count)

    async def _read(self, names: Iterable[str]) -> dict[str, tuple[bytes | None, Stat]]:
        """Data and `Stat` of each that is there; see `Contender` for those that we may not read."""
        found = await self._ask_each(messages.GET, names)
        unreadable = [name for name, answer in found.items() if isinstance(answer, errors.NoAuth)]
        stats = await self._ask_each(messages.EXISTS, unreadable) if unreadable else {}
        for name in unreadable:
            del found[name]
        for name, stat in stats.items():
            found[name] = None, _UNKNOWN_STAT if isinstance(stat, errors.NoAuth) else stat
        return found

    async def _ask_each(self, op: Operation, names: Iterable[str]) -> dict[str, Any]:
        """The answer for each that is there, which may be `NoAuth`."""
        found = dict[str, Any]()
        encode = messages.encode_get if op is messages.GET else messages.encode_exists
        left = list(names)
        while left:
            answers = await asyncio.gather(
                *(
                    self._session.request(op, encode(paths.join(self.full, name), False), self.path)
                    for name in left
                ),
                return_exceptions=True,
            )
            lost = []
            for name, answer in zip(left, answers, strict=True):
                if isinstance(answer, errors.ConnectionLoss) and not answer.is_hopeless:
                    lost.append(name)
                elif not isinstance(answer, BaseException) or isinstance(answer, errors.NoAuth):
                    found[name] = answer
                elif not isinstance(answer, errors.NoNode):
                    raise answer
            left = lost
        return found

    def _watched(self, name: str) -> Watched:
        # Reading the data, not existence: no watch is left where there is no node.
        return Watched(self._session, paths.join(self.full, name), messages.GET, self.path)

    async def _watch_until_gone(self, place: Place, name: str, rounds: Rounds) -> None:
        with self._watched(name) as node:
            while await node.read() is not None:
                change = await node.changed()
                rounds.waited()
                if change is WatchEvent.DELETED:
                    return
                if place.session_id != self._session.session_id:
                    raise PlaceLost

    def _follow_up(self, request: Request, guid: str) -> None:
        """Nobody waits for a create any more: whatever becomes of it, its node must go."""
        request.hand_over(_Abandoned(self, guid))

    async def _find_or_sweep(self, guid: str) -> Place | None:
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
                self.leave(found)

        self._session.spawn(sweep, f"corral sweep of {self.full}")

    async def _find(self, guid: str) -> Place | None:
        """After a create of unknown outcome: our place, or None if the create did not happen."""
        check = messages.encode_multi([(messages.CHECK, messages.encode_check(self.full, -1))])
        # Whatever its result: it has been ordered after the create. Not in one pipeline with the list: either
        # of them may be sent again, behind the other.
        await self._session.ask(messages.MULTI, check, self.path)
        for name in (await self.listing()).names:
            if guid in name and (place := await self._owned(name)) is not None:
                return place
        return None

    async def _owned(self, name: str) -> Place | None:
        path = paths.join(self.full, name)
        number = numbers([name], self.layout.contenders).get(name)
        stat = (await self._ask_each(messages.EXISTS, [name])).get(name)
        if isinstance(stat, errors.NoAuth):  # the ACL that was asked for does not let us read it
            Removal(self._session, path, 0)
            return None
        if number is None or stat is None or stat.ephemeral_owner != self._session.session_id:
            return None
        return _place(path, number, stat)


def _position(number: int, czxid: int) -> int:
    """What orders a line: the number, and where that is not trusted, behind all of these, the creation."""
    return number if is_trusted(number) else LAST_NUMBER + czxid


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
