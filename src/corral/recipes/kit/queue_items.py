"""The items of a queue: putting and claiming them, and those that were put aside.

`queue_layout` has their znodes; `claim` what follows when one is claimed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from corral import errors, paths
from corral.ensure import make_path
from corral.session.requests import Request
from corral.session.session import Session
from corral.session.watchers import WatchEvent, WatchKind
from corral.wire import messages

from . import ops
from .claim import Claim, Ending, log_put_aside
from .context import RecipeContext
from .line import PlaceLost
from .node_names import PROTECTED
from .ops import Outcome, Write
from .protected import QueueNode
from .queue_layout import LONGEST_NAME, FailedItem, QueueLayout, failed_item, first_items
from .rounds import Rounds

__all__ = ["TRIES", "QueueItems"]

TRIES = 8
"""How many items a consumer tries to claim before it looks at the queue again: others may be faster each
time."""

MOST_IN_ONE = 500
"""How many items are put in one transaction: of thousands, a server makes seconds, and answers nobody
meanwhile."""

HEADER = 9
"""The size in bytes of the header of each operation of a transaction."""


class QueueItems:
    """The items of one queue."""

    def __init__(self, context: RecipeContext, max_attempts: int | None) -> None:
        self._layout = layout = QueueLayout(context)
        self.session = context.session
        self.path = context.path
        self.entries = layout.entries
        self.taken = layout.taken
        self.failed = layout.failed
        self._context = context
        self._max_attempts = max_attempts
        self._has_failed = False
        self._overhead = 0

    # Putting

    async def put(self, items: Sequence[tuple[bytes, int]]) -> None:
        """Put all items, each data with its priority, or none; once, whatever answers are lost."""
        await self._write([self._layout.create_entry(data, priority) for data, priority in items], "put")

    async def _write(
        self, writes: Sequence[Write], operation: str, not_there: errors.NoNode | None = None
    ) -> None:
        context, rounds = self._context, Rounds()
        # The mark goes beside the entries: among them, kazoo would take it for an item.
        marks = context.shared.marks
        while True:
            async with marks.at(self.session, context.full, self.path, self._context.acl) as marked:
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
            size += len(self._layout.create_entry(data, priority)[1]) + HEADER
            if not batches or size > limit or len(batches[-1]) == MOST_IN_ONE:
                batches.append([])
                size = least
            batches[-1].append((data, priority))
        return batches

    def _most_overhead(self) -> int:
        """The size of the largest transaction with an item, apart from its data."""
        guid = PROTECTED.new_guid().encode()
        mark = paths.join(self._context.full, f"{PROTECTED.prefix}{guid.decode()}-mark")
        put = [self._layout.create_entry(b"", 0), ops.create(mark, guid, self._context.acl, ops.EPHEMERAL)]
        claim = Claim(self._layout, LONGEST_NAME, b"", 1, 0, guid)
        transactions = [put, claim.writes(), claim.end_writes(Ending.PUT_ASIDE)]
        transactions.append(self._layout.put_aside(LONGEST_NAME, b"", (1 << 31) - 1))
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
        return first_items([name for name in names if name not in claimed], most)

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
        session = self.session
        session_id = await ops.current_session(session, self.taken, self.path)
        claim = Claim(self._layout, name, data, version + 1, session_id, PROTECTED.new_guid().encode())
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
        outcome = await ops.multi(self.session, self._layout.put_aside(name, data, version), self.path)
        if outcome.refused is None:
            log_put_aside(name, self.path, version)
            return None
        if outcome.is_refused(3, errors.NoNode):
            self._has_failed = False
            await self._make_failed()
            return outcome.error("put aside", self.path)
        return await self._refused(outcome, {errors.NodeExists: 0, errors.NoNode: 2}, "put aside")

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
        await make_path(self.session, full, self._context.acl, chroot=self._context.chroot)

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
        items = []
        for name, answer in (await ops.data_of_each(self.session, self.failed, names, self.path)).items():
            if isinstance(answer, errors.NoAuth):
                raise answer
            if (item := failed_item(name, *answer)) is not None:
                items.append(item)
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
        writes = [ops.delete(path), self._layout.create_entry(item.data, item.priority)]
        await self._write(writes, "requeue", self._not_there("requeue", item))

    async def discard(self, item: FailedItem) -> None:
        """Delete an item that was put aside."""
        path, is_repeated = paths.join(self.failed, item.name), False
        while True:
            try:
                return await ops.send_delete(self.session, path, self.path, -1, is_patient=is_repeated)
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
