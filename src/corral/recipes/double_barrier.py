"""A double barrier: members enter together and leave together.

The recipe is ZooKeeper's ("ZooKeeper Recipes and Solutions", Double Barriers). Each member has an ephemeral
znode below the path. The member that finds `n` of them creates the flag `ready`, for which the others wait.
Who leaves deletes its znode and waits for the member with the lowest name, which stays until all others have
gone. So nobody watches more than one znode at a time.

What the recipe leaves open is when a round is over, and who belongs to it. Here the zxid of the flag's
creation decides:

- Members whose znodes are older than the flag were there when it was created. They have entered, whether they
  know it already or not, and those who leave wait for them and for nobody else. Otherwise a member that is
  slow to leave could wait for one that has entered the next round, which waits for it.
- The last of these deletes the flag in one transaction with its own znode, so a round ends at one moment.
- A flag without any older member is left over, from a round whose members have all died. It would let the
  next one in alone, so it is removed before it counts. A write to the parent, in the same transaction, sees
  to it that only one client removes it: two could remove the flag of the next round instead.
"""

from __future__ import annotations

import enum
import logging
from types import TracebackType
from typing import NamedTuple, Self

from corral import errors, paths
from corral.ensure import make_path
from corral.types import Stat

from .kit import ops
from .kit.certain import GuaranteedDelete, create_certainly, delete_certainly
from .kit.context import RecipeContext
from .kit.line import PlaceLost
from .kit.node_names import IS_MEMBER, MEMBER
from .kit.rounds import MOST_ROUNDS, Rounds
from .kit.watched_read import WatchedRead, WatchEvent

__all__ = ["DoubleBarrier"]

logger = logging.getLogger("corral.recipes")

READY = "ready"


class _Phase(enum.Enum):
    OUT = "not entered"
    ENTERING = "entering"
    IN = "entered"
    LEAVING = "leaving"


class _Member(NamedTuple):
    """A znode of ours."""

    name: str
    full: str
    session_id: int
    czxid: int = 0
    opened: int = 0
    """The zxid of the flag by which it has entered: older members belong to our round."""


class DoubleBarrier:
    """A rendezvous of `n` members at both ends of a piece of work. Made by ``zk.double_barrier(path, n)``.

    ``async with zk.double_barrier("/step", 5):`` waits until five members are there, runs the body, and waits
    until they have all left. `enter` and `leave` do the same without a block. One object is one member, and
    may enter again. `n` is a threshold: members that come while the barrier is open enter at once. They wait
    for the others when they leave, and nobody waits for them.

    It is a rendezvous, not a lock. A member counts as gone when its session expires or its znode is deleted:
    the others then leave without it. Its body is not cancelled, and its own `leave` still waits for the
    others. `enter` returns when `n` znodes existed at one moment. By then some of their owners may have died.

    **On cancel**, `enter` and `leave` end at once, and the member's znode is deleted as soon as a server can
    be reached. So it is when the body is cancelled or raises: then leaving the block does not wait for the
    others. **On loss** of the connection both continue. If the session expires in `enter`, it enters again.

    Waiting for the others has no bound but the caller's timeout. Both raise `ConnectionLoss` when
    `ConnectionLoss.MOST_LOSSES` connections in a row broke on the same request, and `enter` raises `NoNode`
    when its znode was deleted 16 times in a row. Then, too, its znode is deleted.

    It requires the permissions CREATE, READ and DELETE on the path and READ on the znodes below it; WRITE on
    the path to remove the flag of a round whose members have all died. Missing parents are created, as
    containers. Children that are not named as members are, by a GUID, are ignored.

    Algorithm and layout are those of Curator's ``DistributedDoubleBarrier`` and kazoo's ``DoubleBarrier``,
    whose members may use the same path. They use one name for all rounds of an object and delete the flag
    when they like: a new round should not begin before theirs have left the last one.
    """

    def __init__(self, context: RecipeContext, n: int) -> None:
        self.path = context.path
        self.n = n
        """How many members the barrier waits for."""
        self._context = context
        self._session = context.session
        self._flag = paths.join(context.full, READY)
        self._phase = _Phase.OUT
        self._member: _Member | None = None

    async def enter(self) -> None:
        """Wait until `n` members are there. See the class for what happens on cancel and on loss, and for the
        errors. Raises `UsageStateError` if this object has entered already, or is entering or leaving."""
        self._session.ensure_loop()
        self._change(_Phase.OUT, _Phase.ENTERING, "make one object for each member")
        rounds = Rounds()
        try:
            while self._member is None:
                await self._try_to_enter(rounds)
        except BaseException:
            self._phase = _Phase.OUT
            raise
        self._phase = _Phase.IN

    async def leave(self) -> None:
        """Wait until all members that entered together have left, or died. See the class for what happens on
        cancel and on loss, and for the errors. Raises `UsageStateError` if this object has not entered."""
        self._session.ensure_loop()
        self._change(_Phase.IN, _Phase.LEAVING, "enter it first")
        member, self._member = self._member, None
        assert member is not None
        try:
            await self._leave(member)
        except BaseException:
            self._delete(member)
            raise
        finally:
            self._phase = _Phase.OUT

    def _change(self, before: _Phase, after: _Phase, remedy: str) -> None:
        if self._phase is not before:
            raise errors.UsageStateError(f"double barrier {self.path!r} is {self._phase.value}; {remedy}")
        self._phase = after

    def _delete(self, member: _Member) -> None:
        GuaranteedDelete(self._session, member.full, member.session_id)

    # Entering

    async def _try_to_enter(self, rounds: Rounds) -> None:
        context, session = self._context, self._session
        with WatchedRead.of_existence(session, self._flag, self.path) as flag:
            await flag.read()  # before our znode exists, so that no flag that is for us is missed (B2)
            session_id = await ops.current_session(session, context.full, self.path)
            name = MEMBER.new_guid()
            member = _Member(name, paths.join(context.full, name), session_id)
            try:
                if await self._create(member, flag, rounds):
                    await flag.changed()
                    await flag.read()
                entered = await self._wait_ready(member, flag, rounds)
            except (PlaceLost, errors.SessionExpired):
                self._delete(member)
                problem = f"its znode was deleted {MOST_ROUNDS} times in a row; find out who deletes it"
                rounds.again(errors.NoNode("enter", self.path, problem))
            except BaseException:
                self._delete(member)
                raise
            else:
                self._member = entered

    async def _create(self, member: _Member, flag: WatchedRead, rounds: Rounds) -> bool:
        """Create our znode. Returns whether the flag has changed before that."""
        context, session = self._context, self._session
        has_changed = False

        def note() -> None:
            nonlocal has_changed
            has_changed = flag.fired.done()

        while True:
            try:
                await create_certainly(
                    session, member.full, self.path, context.data, context.acl, member.session_id, note
                )
            except errors.NoNode as error:
                rounds.again(error)
                await make_path(session, context.full, context.acl, container=True, chroot=context.chroot)
            else:
                return has_changed

    async def _wait_ready(self, member: _Member, flag: WatchedRead, rounds: Rounds) -> _Member:
        """Wait until the barrier is open for our znode. Raises `PlaceLost` if that is gone."""
        session = self._session
        with WatchedRead.of_existence(session, member.full, self.path) as own:
            member = member._replace(czxid=self._known(await own.read()).czxid)
            ready: Stat | None = None
            is_created = False  # whether the flag was created while our znode existed
            while True:
                if own.fired.done():
                    await own.changed()
                    self._known(await own.read())
                names, parent = await self._children()
                is_ours = member.session_id == session.session_id  # else it is about to vanish (L10)
                if parent is None or member.name not in names or not is_ours:
                    raise PlaceLost
                if ready is None and READY in names:
                    ready = self._readable(await flag.read())
                if ready is not None:
                    if ready.czxid > member.czxid or await self._inside(names, ready.czxid):
                        return member._replace(opened=ready.czxid)
                    await self._remove_left_over(member, ready.czxid)
                elif is_created:
                    # Only others delete it so early. Whoever is there now belongs to our round.
                    return member._replace(opened=parent.pzxid)
                elif len(_members(names)) >= self.n:
                    await self._open(member)
                else:
                    is_created = await flag.changed(own.fired) is WatchEvent.CREATED
                    rounds.waited()
                    ready = self._readable(await flag.read())
                    continue
                problem = f"{READY!r} was created and deleted {MOST_ROUNDS} times in a row"
                rounds.again(errors.NoNode("enter", self.path, problem))
                ready, is_created = None, False

    async def _open(self, member: _Member) -> None:
        """Create the flag, unless our znode is gone."""
        context = self._context
        writes = [ops.check(member.full), ops.create(self._flag, b"", context.acl, ops.PERSISTENT)]
        outcome = await ops.multi(self._session, writes, self.path, bound_to=member.session_id)
        if outcome.is_refused(0, errors.NoNode):
            raise PlaceLost
        if outcome.refused is not None and not outcome.is_refused(1, errors.NodeExists):
            raise outcome.error("enter", self.path)

    async def _remove_left_over(self, member: _Member, opened: int) -> None:
        """Remove the flag with this zxid, unless it has an older member or somebody else has removed it. May
        do nothing: look again."""
        context, session = self._context, self._session
        # Whoever removes a flag writes the parent: if its version is still this one, it is still this flag.
        try:
            data, parent = await ops.get(session, context.full, self.path)
        except errors.NoNode:
            raise PlaceLost from None
        names, _ = await self._children()
        ready = await self._ready()
        if ready is None or ready.czxid != opened or await self._inside(names, opened):
            return
        writes = [
            ops.check(member.full),
            ops.set_data(context.full, data, parent.version),
            ops.delete(self._flag),
        ]
        outcome = await ops.multi(session, writes, self.path, bound_to=member.session_id)
        if outcome.refused is None:
            logger.info("double barrier %s: removed the flag of a round whose members have died", self.path)
        elif not isinstance(refusal := outcome.error("enter", self.path), errors.NoNode | errors.BadVersion):
            raise refusal

    # Leaving

    async def _leave(self, member: _Member) -> None:
        session = self._session
        names, _ = await self._children()
        ready = await self._ready()
        if ready is not None:  # it may be newer, if we have entered as one more than n
            member = member._replace(opened=max(member.opened, ready.czxid))
        others = await self._inside(names, member.opened)
        others.pop(member.name, None)
        is_there = True
        while others:
            # Who has the lowest name stays until the others have gone. They wait for it.
            stays = is_there and member.name < min(others)
            if is_there and not stays:
                await delete_certainly(session, member.full, member.session_id)
                is_there = False
            name = max(others) if stays else min(others)
            await self._wait_gone(name, others.pop(name))
            names, _ = await self._children()
            others = {name: czxid for name, czxid in others.items() if name in names}
        if is_there:
            await self._close(member)

    async def _wait_gone(self, name: str, czxid: int) -> None:
        """Wait until a member's znode is gone. Curator and kazoo may create it again, for the next round."""
        full = paths.join(self._context.full, name)
        with WatchedRead.of_existence(self._session, full, self.path) as node:
            while (stat := self._readable(await node.read())) is not None and stat.czxid == czxid:
                await node.changed()

    async def _close(self, member: _Member) -> None:
        """Delete our znode, the last one of the round, and the flag with it."""
        if member.czxid < member.opened:  # else the flag may be that of another round by now
            writes = [ops.delete(member.full), ops.delete(self._flag)]
            try:
                outcome = await ops.multi(self._session, writes, self.path, bound_to=member.session_id)
            except errors.SessionExpired:
                return
            if outcome.refused is None:
                return
        await delete_certainly(self._session, member.full, member.session_id)

    # Reading

    async def _children(self) -> tuple[list[str], Stat | None]:
        try:
            return await ops.children(self._session, self._context.full, self.path)
        except errors.NoNode:
            return [], None

    async def _ready(self) -> Stat | None:
        found = await ops.stat_of_each(self._session, self._context.full, [READY], self.path)
        return self._readable(found.get(READY))

    async def _inside(self, names: list[str], opened: int) -> dict[str, int]:
        """The members that have entered by the flag with this zxid, each with the zxid of its creation."""
        stats = await ops.stat_of_each(self._session, self._context.full, _members(names), self.path)
        known = {name: self._known(stat) for name, stat in stats.items()}
        return {
            name: stat.czxid for name, stat in known.items() if stat.ephemeral_owner and stat.czxid < opened
        }

    def _readable(self, answer: Stat | errors.NoAuth | None) -> Stat | None:
        if isinstance(answer, errors.NoAuth):
            raise answer
        return answer

    def _known(self, answer: Stat | errors.NoAuth | None) -> Stat:
        stat = self._readable(answer)
        if stat is None:
            raise PlaceLost
        return stat

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None:
            await self.leave()
        elif self._phase is _Phase.IN:
            # The others need not wait for a member that has failed, nor it for them.
            member, self._member = self._member, None
            self._phase = _Phase.OUT
            if member is not None:
                self._delete(member)

    def __repr__(self) -> str:
        return f"<DoubleBarrier {self.path!r} of {self.n}, {self._phase.value}>"


def _members(names: list[str]) -> list[str]:
    return [name for name in names if IS_MEMBER.fullmatch(name)]
