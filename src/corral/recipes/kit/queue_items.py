"""The items of a queue, and the claims on them, in the layout of kazoo's ``LockingQueue``.

- ``entries/entry-<priority>-<number>``: an item, with its data as it is. Its data version counts how often it
  was handed out.
- ``taken/<name of the entry>``: an ephemeral znode, the *claim* of whoever handles the item now.
- ``failed/<name of the entry>-<attempts>-<number>``: an item that was put aside. Ours alone.

*Claiming* is one transaction: it creates the claim, sets the claim's data once more, and sets the entry's
data to what it is. The last raises the entry's version, which makes three things of one number: the count of
attempts, which also counts consumers that died; the proof that nobody has claimed the item since; and with
the claim's own version, which is 1 where kazoo's is 0, the *fence* of all that follows. Acknowledging, giving
back and putting aside check both versions. They do no harm when they are repeated after a lost answer,
although another claim may have the same path by then.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from corral import errors, paths
from corral.ensure import make_path
from corral.session.requests import Request
from corral.session.session import Session
from corral.session.watchers import WatchEvent, WatchKind
from corral.types import Stat
from corral.wire import messages

from . import ops
from .certain import CertainTransaction
from .context import RecipeContext
from .line import PlaceLost
from .node_names import PROTECTED
from .ops import Outcome, Write
from .protected import QueueNode
from .rounds import Rounds

__all__ = ["Claim", "Ending", "FailedItem", "QueueItems"]

logger = logging.getLogger("corral.recipes")

TRIES = 8
"""How many items a consumer tries to claim before it looks at the queue again: others may be faster each
time."""

MOST_IN_ONE = 500
"""How many items are put in one transaction: of thousands, a server makes seconds, and answers nobody
meanwhile."""

HEADER = 9
"""The size in bytes of the header of each operation of a transaction."""

_ENTRY = re.compile(r"entry-(\d{3})-(\d{10}|-\d{9,10})")
_FAILED = re.compile(r"(entry-(\d{3})-(?:\d{10}|-\d{9,10}))-(\d+)-(?:\d{10}|-\d{9,10})")
_LONGEST = "entry-999--2147483648"
_CLAIM_VERSION = 1
_GONE = (errors.NoNode, errors.BadVersion)


class FailedItem(NamedTuple):
    """An item that was put aside, since it was handed out `attempts` times and never done."""

    name: str
    """The name of its znode in ``failed``. It begins with the name that the item had in the queue."""
    data: bytes
    priority: int
    attempts: int
    stat: Stat


class Ending(enum.Enum):
    """How a claim ends."""

    DONE = "done"
    GIVEN_BACK = "given back"
    PUT_ASIDE = "put aside"


class Claim:
    """An item that is ours to handle, or may be: its claim is requested. It is the place of a `Holding`."""

    def __init__(
        self, items: QueueItems, name: str, data: bytes, attempt: int, session_id: int, guid: bytes
    ) -> None:
        self.name = name
        """The name of the entry, and of the claim."""
        self.data = data
        self.attempt = attempt
        """How often the item was handed out, this time included: the version of the entry."""
        self.ending = Ending.GIVEN_BACK
        """What `leave` does."""
        self.path = items.path
        self.node = QueueNode(paths.join(items.taken, name), name, 0, 0, session_id)
        self._items = items
        self._entry = paths.join(items.entries, name)
        self._guid = guid

    @property
    def priority(self) -> int:
        """The priority of the item."""
        return _priority(self.name)

    @property
    def conditions(self) -> Sequence[tuple[str, int]]:
        """What is true while the claim exists, and nobody has claimed the item since."""
        return [(self.node.path, _CLAIM_VERSION), (self._entry, self.attempt)]

    def writes(self) -> list[Write]:
        """The transaction that claims the item."""
        taken = self.node.path
        return [
            ops.create(taken, b"", self._items.acl, ops.EPHEMERAL),
            ops.set_data(taken, self._guid, 0),
            ops.set_data(self._entry, self.data, self.attempt - 1),
        ]

    def is_claim(self, data: bytes, stat: Stat) -> bool:
        """Whether the znode at the path of the claim is this claim."""
        return data == self._guid and stat.ephemeral_owner == self.node.session_id

    def leave(self, node: QueueNode, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        """Start to end the claim as `ending` says. `on_done` gets the error, or None once it is certain.

        A claim that is gone was lost: that is `LockLost` for an item that is done, and else no error."""
        _End(self._items.session, self, self.ending, on_done).send()

    def sweep_later(self) -> None:
        """The entry has another version. Most often the claim is somebody else's by now. If somebody has set
        the data of the entry, the claim is still ours, and is deleted."""

        async def sweep() -> None:
            session, node = self._items.session, self.node
            while True:
                try:
                    # Behind a delete that was sent before and whose answer was lost.
                    await ops.quorum_barrier(session, node.path, self.path)
                    found = await ops.get(session, node.path, self.path, bound_to=node.session_id)
                    if self.is_claim(*found):
                        await ops.send_delete(
                            session, node.path, self.path, _CLAIM_VERSION, bound_to=node.session_id
                        )
                except (errors.NoNode, errors.BadVersion, errors.SessionError):
                    return
                except errors.CorralError as error:
                    if isinstance(error, errors.ConnectionLoss) and not error.is_hopeless:
                        continue
                    logger.warning("claim %s may stay until its session ends: %s", node.path, error)
                return

        self._items.session.spawn(sweep, f"corral sweep of {self.node.path}")

    def end_writes(self, ending: Ending) -> list[Write]:
        """The transaction that ends the claim. The entry comes first: that tells a lost claim from one that
        this very transaction has removed before its answer was lost."""
        delete = ops.delete(self.node.path, _CLAIM_VERSION)
        if ending is Ending.GIVEN_BACK:
            return [ops.check(self._entry, self.attempt), delete]
        writes = [ops.delete(self._entry, self.attempt), delete]
        if ending is Ending.PUT_ASIDE:
            writes.append(self._items.create_failed(self.name, self.data, self.attempt))
        return writes


class _End(CertainTransaction):
    """The transaction that ends a claim, until its outcome is certain."""

    __slots__ = ("_claim", "_ending", "_on_end", "_sends")

    def __init__(
        self,
        session: Session,
        claim: Claim,
        ending: Ending,
        on_end: Callable[[BaseException | None], None] | None,
    ) -> None:
        self._claim = claim
        self._ending = ending
        self._on_end = on_end
        self._sends = 0
        node = claim.node
        super().__init__(session, claim.end_writes(ending), node.path, node.session_id, self._ended)

    def send(self) -> None:
        self._sends += 1
        super().send()

    def _ended(self, outcome: Outcome | errors.CorralError) -> None:
        claim, failure = self._claim, None
        if isinstance(outcome, errors.CorralError):
            logger.warning("claim %s may stay until its session ends: %s", claim.node.path, outcome)
            failure = outcome
        elif outcome.refused is not None:
            refusal = outcome.error(self._ending.value, claim.path)
            if self._ending is Ending.PUT_ASIDE and outcome.is_refused(2, errors.NoNode):
                claim.ending = Ending.GIVEN_BACK  # there is no `failed`: who finds the item next creates it
                claim.leave(claim.node, self._on_end)
                return
            if not isinstance(refusal, _GONE):
                logger.warning("claim %s stays until its session ends: %s", claim.node.path, refusal)
                failure = refusal
            elif self._ending is Ending.DONE and not (
                # Without its entry: what was sent before was carried out, and its answer lost.
                self._sends > 1 and outcome.is_refused(0, errors.NoNode)
            ):
                failure = errors.LockLost(f"its claim {claim.node.path!r} was gone; nothing was removed")
            if outcome.is_refused(0, errors.BadVersion):
                claim.sweep_later()
        elif self._ending is Ending.PUT_ASIDE:
            _log_put_aside(claim.name, claim.path, claim.attempt)
        if self._on_end is not None:
            self._on_end(failure)


class QueueItems:
    """The items of one queue."""

    def __init__(self, context: RecipeContext, max_attempts: int | None) -> None:
        self.session = context.session
        self.path = context.path
        self.acl = context.acl
        self.entries = paths.join(context.full, "entries")
        self.taken = paths.join(context.full, "taken")
        self.failed = paths.join(context.full, "failed")
        self._context = context
        self._max_attempts = max_attempts
        self._has_failed = False
        self._overhead = 0

    # Putting

    async def put(self, items: Sequence[tuple[bytes, int]]) -> None:
        """Put all items, each data with its priority, or none; once, whatever answers are lost."""
        await self._write([self._create_entry(data, priority) for data, priority in items], "put")

    async def _write(
        self, writes: Sequence[Write], operation: str, not_there: errors.NoNode | None = None
    ) -> None:
        context, rounds = self._context, Rounds()
        # The mark goes beside the entries: among them, kazoo would take it for an item.
        marks = context.shared.marks
        while True:
            async with marks.at(self.session, context.full, self.path, self.acl) as marked:
                outcome = await marked.write(writes)
            if outcome.refused is None:
                return
            refusal = outcome.error(operation, self.path)
            if isinstance(refusal, errors.NodeExists):
                entries = paths.strip(context.chroot, self.entries)
                problem = f"its 2,147,483,647 numbers are used up; let it run empty, then delete {entries!r}"
                raise errors.NodeExists(operation, self.path, problem)
            if not isinstance(refusal, errors.NoNode):
                raise refusal
            if not_there is not None and outcome.refused == 0:
                raise not_there
            rounds.again(refusal)
            await self._make_parents()

    def batches(self, items: Iterable[tuple[bytes, int]]) -> list[list[tuple[bytes, int]]]:
        """The items in as few transactions as the limits allow. Raises `FrameTooLarge` for an item
        that is too large to be put, or to be taken."""
        if not self._overhead:
            self._overhead = self._most_overhead()
        limit, batches, size = self.session.max_body, list[list[tuple[bytes, int]]](), 0
        for data, priority in items:
            least = self._overhead + len(data)
            if least > limit:
                raise errors.FrameTooLarge("put", self.path, least + 8, limit + 8)
            size += len(self._create_entry(data, priority)[1]) + HEADER
            if not batches or size > limit or len(batches[-1]) == MOST_IN_ONE:
                batches.append([])
                size = least
            batches[-1].append((data, priority))
        return batches

    def _create_entry(self, data: bytes, priority: int) -> Write:
        path = paths.join(self.entries, f"entry-{priority:03d}-")
        return ops.create(path, data, self.acl, ops.PERSISTENT_SEQUENTIAL)

    def _most_overhead(self) -> int:
        """The size of the largest transaction with an item, apart from its data."""
        guid = PROTECTED.new_guid().encode()
        mark = paths.join(self._context.full, f"{PROTECTED.prefix}{guid.decode()}-mark")
        put = [self._create_entry(b"", 0), ops.create(mark, guid, self.acl, ops.EPHEMERAL)]
        claim = Claim(self, _LONGEST, b"", 1, 0, guid)
        transactions = [put, claim.writes(), claim.end_writes(Ending.PUT_ASIDE)]
        transactions.append(self._put_aside_writes(_LONGEST, b"", (1 << 31) - 1))
        return max(len(messages.encode_multi(writes)) for writes in transactions)

    # Claiming

    async def claim_first(self, tries: int | None) -> Claim | None:
        """Claim the first item that nobody has claimed; None if there is none, or if others were faster so
        many times. On cancel, and on any error, no claim of ours stays."""
        return await self._claim_one_of(await self._available(None, tries))

    async def wait_and_claim(self, node: QueueNode, rounds: Rounds) -> Claim:
        """Wait for an item, and claim it. For whoever stands first in the line of consumers, by this node.

        Raises `PlaceLost` if our session ended. On cancel, and on any error, no claim of ours stays.
        """
        with _Changes(self.session, (self.entries, self.taken)) as changes:
            while True:
                claim = await self._claim_one_of(await self._available(changes, TRIES))
                if claim is not None:
                    return claim
                # If others were faster, the queue has changed, and this returns at once.
                await changes.wait()
                rounds.waited()
                if node.session_id != self.session.session_id:
                    raise PlaceLost

    async def _available(self, changes: _Changes | None, most: int | None) -> list[str]:
        """The first names, or all, of the items that nobody has claimed, in order."""
        rounds = Rounds()
        while True:
            answers = await asyncio.gather(
                self._list(self.entries, changes), self._list(self.taken, changes), return_exceptions=True
            )
            missing = None
            failures = [answer for answer in answers if isinstance(answer, BaseException)]
            for failure in failures:
                if isinstance(failure, errors.NoNode):
                    missing = failure
                elif not isinstance(failure, errors.ConnectionLoss) or failure.is_hopeless:
                    raise failure
            if missing is not None:
                rounds.again(missing)
                await self._make_parents()
            elif not failures:
                break
        names, taken = answers
        assert not isinstance(names, BaseException)
        assert not isinstance(taken, BaseException)
        claimed = frozenset(taken)
        return _first([name for name in names if name not in claimed], most)

    def _list(self, full: str, changes: _Changes | None) -> asyncio.Future[list[str]]:
        answer: asyncio.Future[list[str]] = self.session.loop.create_future()
        watches = None if changes is None else (full, WatchKind.CHILDREN)
        body = messages.encode_children(full, watches is not None)
        self.session.submit(Request(messages.CHILDREN, body, self.path, answer, watches=watches))
        return answer

    async def _claim_one_of(self, names: Iterable[str]) -> Claim | None:
        for name in names:
            claim = await self._claim(name)
            if claim is not None:
                return claim
        return None

    async def _claim(self, name: str) -> Claim | None:
        """Claim this item, or put it aside if it had all its attempts. None if others have claimed it, or it
        is gone."""
        rounds, entry = Rounds(), paths.join(self.entries, name)
        while True:
            try:
                data, stat = await ops.get(self.session, entry, self.path)
            except errors.NoNode:
                return None
            if self._max_attempts is not None and stat.version >= self._max_attempts:
                refusal = await self._put_aside(name, data, stat.version)
            else:
                claimed = await self._claim_version(name, data, stat.version, rounds)
                if isinstance(claimed, Claim):
                    return claimed
                refusal = claimed
            if refusal is None:
                return None
            # Its data was set meanwhile, or by another claim that is over; or a parent is missing.
            rounds.again(refusal)

    async def _claim_version(
        self, name: str, data: bytes, version: int, rounds: Rounds
    ) -> Claim | errors.ServerError | None:
        """The claim; the refusal if it should be tried again; None if others have the item."""
        session, session_id = self.session, await self._current_session()
        claim = Claim(self, name, data, version + 1, session_id, PROTECTED.new_guid().encode())
        if self._is_last(claim.attempt):
            await self._make_failed()
        body, is_repeated = messages.encode_multi(claim.writes()), False
        try:
            while True:
                try:
                    results = await session.request(messages.MULTI, body, self.path, bound_to=session_id)
                    break
                except errors.ReplyError as error:
                    rounds.again(error)
                except errors.ConnectionLoss as loss:
                    if loss.is_hopeless:
                        raise
                is_repeated = True
            outcome = Outcome.of(results)
            if outcome.refused is None:
                claim.node = claim.node._replace(czxid=results[2].value.mzxid)
                return claim
            if is_repeated and outcome.is_refused(0, errors.NodeExists):
                found, stat = await ops.get(session, claim.node.path, self.path, bound_to=session_id)
                if claim.is_claim(found, stat):
                    claim.node = claim.node._replace(czxid=stat.czxid)
                    return claim
        except (errors.SessionExpired, errors.NoNode):
            return None
        except BaseException:
            claim.leave(claim.node)  # behind what was sent; it does nothing if that was not carried out
            raise
        return await self._refused(outcome, {errors.NodeExists: 0, errors.NoNode: 2}, "take")

    async def _put_aside(self, name: str, data: bytes, version: int) -> errors.ServerError | None:
        """Put an item aside that nobody has claimed. Returns the refusal if it should be tried again."""
        outcome = await ops.multi(self.session, self._put_aside_writes(name, data, version), self.path)
        if outcome.refused is None:
            _log_put_aside(name, self.path, version)
            return None
        if outcome.is_refused(3, errors.NoNode):
            self._has_failed = False
            await self._make_failed()
            return outcome.error("put aside", self.path)
        return await self._refused(outcome, {errors.NodeExists: 0, errors.NoNode: 2}, "put aside")

    def _put_aside_writes(self, name: str, data: bytes, version: int) -> list[Write]:
        taken = paths.join(self.taken, name)
        return [
            ops.create(taken, b"", self.acl, ops.EPHEMERAL),  # so nobody has claimed it, not even kazoo
            ops.delete(taken),
            ops.delete(paths.join(self.entries, name), version),
            self.create_failed(name, data, version),
        ]

    async def _refused(
        self, outcome: Outcome, others: dict[type[errors.ServerError], int], operation: str
    ) -> errors.ServerError | None:
        """None if somebody else has the item, as the refusals of `others` say; the refusal if it should be
        tried again; else raises it."""
        if any(outcome.is_refused(index, refusal) for refusal, index in others.items()):
            return None
        refusal = outcome.error(operation, self.path)
        if outcome.is_refused(0, errors.NoNode):
            await self._make_parents()
        elif not isinstance(refusal, errors.BadVersion):
            raise refusal
        return refusal

    def _is_last(self, attempt: int) -> bool:
        return self._max_attempts is not None and attempt >= self._max_attempts

    def ending_of_failed(self, claim: Claim) -> Ending:
        """What becomes of an item whose attempt has failed."""
        return Ending.PUT_ASIDE if self._is_last(claim.attempt) else Ending.GIVEN_BACK

    async def _current_session(self) -> int:
        """The session to claim in; waits until there is one."""
        while not self.session.session_id:
            await ops.quorum_barrier(self.session, self.taken, self.path)
        return self.session.session_id

    async def _make_parents(self) -> None:
        """Persistent ones: kazoo creates them once, and fails if they vanish; and they have the numbers."""
        await self._make_path(self.entries)
        await self._make_path(self.taken)

    async def _make_failed(self) -> None:
        """Create `failed`, once, ahead of the last attempt: putting aside starts without waiting for
        anything."""
        if not self._has_failed:
            await self._make_path(self.failed)
            self._has_failed = True

    async def _make_path(self, full: str) -> None:
        await make_path(self.session, full, self.acl, chroot=self._context.chroot)

    # What was put aside, and how many there are

    async def size(self) -> int:
        """How many items there are, claimed ones included."""
        try:
            return (await ops.exists(self.session, self.entries, self.path)).num_children
        except errors.NoNode:
            return 0

    async def failed_items(self) -> list[FailedItem]:
        """What was put aside, the oldest first."""
        names = await self._names(self.failed)
        found = await ops.data_of_each(self.session, self.failed, filter(_FAILED.fullmatch, names), self.path)
        items = []
        for name, answer in found.items():
            if isinstance(answer, errors.NoAuth):
                raise answer
            match = _FAILED.fullmatch(name)
            assert match is not None
            items.append(FailedItem(name, answer[0], int(match[2]), int(match[3]), answer[1]))
        return sorted(items, key=lambda item: item.stat.czxid)

    async def _names(self, full: str) -> list[str]:
        while True:
            try:
                return await self._list(full, None)
            except errors.NoNode:
                return []
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise

    async def requeue(self, item: FailedItem) -> None:
        """Put an item into the queue again that was put aside."""
        path = paths.join(self.failed, item.name)
        writes = [ops.delete(path), self._create_entry(item.data, item.priority)]
        await self._write(writes, "requeue", self._not_there("requeue", item))

    async def discard(self, item: FailedItem) -> None:
        """Delete an item that was put aside."""
        path, is_repeated = paths.join(self.failed, item.name), False
        while True:
            try:
                return await ops.send_delete(self.session, path, self.path, -1)
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
                is_repeated = True
            except errors.NoNode:
                if is_repeated:
                    return  # by the request whose answer was lost
                raise self._not_there("discard", item) from None

    def _not_there(self, operation: str, item: FailedItem) -> errors.NoNode:
        problem = f"{item.name!r} is not put aside any more: somebody has requeued or discarded it"
        return errors.NoNode(operation, self.path, problem)

    def create_failed(self, name: str, data: bytes, attempts: int) -> Write:
        """Create the znode of an item that is put aside."""
        path = paths.join(self.failed, f"{name}-{attempts}-")
        return ops.create(path, data, self.acl, ops.PERSISTENT_SEQUENTIAL)


class _Changes:
    """Tells when the names that were listed last may have changed. Used as ``with`` (`watchers.Watcher`)."""

    def __init__(self, session: Session, full: Sequence[str]) -> None:
        self._session = session
        self._full = full
        self._fired = asyncio.Event()

    def __enter__(self) -> _Changes:
        for full in self._full:
            self._session.watch(full, self, WatchKind.CHILDREN)
        return self

    def __exit__(self, *exc: object) -> None:
        for full in self._full:
            self._session.unwatch(full, self, WatchKind.CHILDREN)

    def fire(self, change: WatchEvent, path: str, zxid: int, /) -> None:
        self._fired.set()

    async def wait(self) -> None:
        """Wait for a change since the last wait."""
        await self._fired.wait()
        self._fired.clear()


def _first(names: list[str], most: int | None) -> list[str]:
    """The first names of items, or all, in order."""
    if most is not None:
        # Nearly always the order of the names is that of the items: of a long queue this takes a tenth of the
        # time.
        first = heapq.nsmallest(most, names)
        if all(_ENTRY.fullmatch(name) and "--" not in name for name in first):
            return first
    items = filter(_ENTRY.fullmatch, names)
    return sorted(items, key=_position) if most is None else heapq.nsmallest(most, items, key=_position)


def _position(name: str) -> tuple[int, int]:
    """The sort key of an item: its priority, then its number, which wraps to the negative ones."""
    number = int(name[10:])
    return _priority(name), number if number >= 0 else number + (1 << 32)


def _priority(name: str) -> int:
    return int(name[6:9])


def _log_put_aside(name: str, path: str, attempts: int) -> None:
    logger.warning("item %s of queue %r was put aside: it was handed out %d times", name, path, attempts)
