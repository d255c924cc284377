"""A queue of items that are handed out to consumers, each until it is done."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self

from corral import errors, paths, verify
from corral.watch.children import ChildrenFeed
from corral.watch.reader import Reader
from corral.watch.shared import Cursor

from .kit.claim import Claim
from .kit.context import RecipeContext
from .kit.held import Held
from .kit.job_holding import JobHolding
from .kit.line import Line, PlaceLost
from .kit.node_names import QUEUE_WAITING
from .kit.queue_items import TRIES, QueueItems
from .kit.queue_layout import FailedItem
from .kit.rounds import MOST_ROUNDS, Rounds

__all__ = ["Job", "Queue", "SizeWatch", "Take"]

DEFAULT_PRIORITY = 100


class Job(Held):
    """An item that is being handled. Made by `Queue.take`. Use it in ``async with``.

    When the block ends normally, the item is **done**: it is removed from the queue. When the block raises or
    is cancelled, the item is **given back**: it keeps its place, and is handed out again. After the queue's
    `max_attempts` it is put aside instead.

    **When it is lost** (the lease lapses, the session expires, its claim is deleted, the client is closed),
    the task that entered the block is cancelled once, before anyone else is handed the item. `Held` says what
    comes out of the block: most often `LockLost`, and then the item was not removed. `LockLost` also comes
    out if the lease ended while the acknowledgement was under way: then the item is removed or handed out
    again.

    **On cancel** of the body, leaving does not wait for the server. The item is given back in the background,
    as soon as a server can be reached. **On loss** of the connection it stays ours while the lease lasts.
    """

    _holding: JobHolding

    @property
    def name(self) -> str:
        """The name of the item in the queue, such as ``entry-100-0000000007``."""
        return self._holding.claim.name

    @property
    def data(self) -> bytes:
        """What was put."""
        return self._holding.claim.data

    @property
    def priority(self) -> int:
        """The priority with which it was put."""
        return self._holding.claim.priority

    @property
    def attempt(self) -> int:
        """How often the item was handed out, this time included. Consumers that died count, and so do those
        that were cancelled just as they took it; kazoo's consumers do not."""
        return self._holding.claim.attempt

    async def done(self) -> None:
        """Acknowledge the item before the block ends, or without a block. Does nothing if it was done before.

        Returns when the server has confirmed. On cancel, and on loss of the connection, the acknowledgement
        goes on in the background.

        Raises `LockLost` if the item was lost; if that happened while the acknowledgement was under way, it
        is removed or handed out again. Raises `UsageStateError` if it was given back. Where the server
        refuses it: see `Held.release`.
        """
        await self._holding.done()

    async def release(self) -> None:
        """Give the item back: it is handed out again, at once. Does nothing if it was done, given back or
        lost before. On cancel, on loss, and where the server refuses: see `Held.release`."""
        await self._holding.release()


class Take:
    """What `Queue.take` returns: ``async with queue.take() as job:``, or ``job = await queue.take()``.

    On cancel and on loss it behaves as `Queue.take` and `Job` say.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._holding: JobHolding | None = None

    def __await__(self) -> Generator[Any, Any, Job]:
        return self._queue._take_job().__await__()

    async def __aenter__(self) -> Job:
        if self._holding is not None:
            raise errors.UsageStateError(f"{self._queue.name}: call take() for each 'async with'")
        self._holding = holding = await self._queue._take()
        holding.enter(holding.acquirer)
        return Job(holding)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._holding is None:
            raise errors.UsageStateError(f"{self._queue.name}: take() was not entered; use 'async with'")
        await self._holding.leave(exc)

    def __repr__(self) -> str:
        return f"<Take from {self._queue.name}>"


class Queue:
    """A queue on a path, with priorities, that survives its consumers. Made by ``zk.queue(path)``.

    ``await queue.put(data, priority=10)`` adds an item. ``async with queue.take() as job:`` waits for one,
    and is the only one to handle it; `Job` says how that ends. ``async for job in queue:`` takes one after
    the other; enter each with ``async with job:``, in the loop or in a task of its own.

    **Promised**: an item that `put` has acknowledged is handed out until it is done, and to one consumer at a
    time. Items of a lower `priority` number come first, and among equals, those that were put first.
    `Job.attempt` counts. After `max_attempts` an item is put aside, where `failed` shows it. All consumers
    should use the same `max_attempts`; each applies its own. **Not promised**: that an item is handed out
    only once; a fair share for each consumer; that items are finished in their order.

    **On cancel** of taking (a timeout is one) it ends at once, and no claim and no place in line stays. **On
    loss** of the connection it continues, also in a new session. The wait for an item has no bound but the
    caller's timeout. Retries have one: `ConnectionLoss` is raised when `ConnectionLoss.MOST_LOSSES`
    connections in a row broke on the same request, and `NoNode` when a znode of the queue was gone 16 times
    in a row.

    Of the consumers that find no item only one watches the queue, and the others wait in line behind it, so
    an item wakes one of them. If that one dies, and no other consumer asks for an item, the next is woken
    when its session expires.

    It requires the permissions CREATE, READ, WRITE and DELETE, also on the items: otherwise taking raises
    `NoAuth`. Missing parents are created, and stay. The layout is that of kazoo's ``LockingQueue``, which may
    put, get and consume in the same queue. All its consumers are told of every item.
    """

    def __init__(self, context: RecipeContext, max_attempts: int | None) -> None:
        self.path = context.path
        self.max_attempts = max_attempts
        self._context = context
        self._session = context.session
        self._items = QueueItems(context, max_attempts)
        self._line = Line(context, paths.join(context.full, "waiting"), QUEUE_WAITING)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"queue {self.path!r}"

    # Putting

    async def put(self, data: bytes, priority: int = DEFAULT_PRIORITY) -> None:
        """Add an item. A lower number comes first: from 0 to 999.

        It is added exactly once, whatever answers are lost. **On cancel** it may be added or not. **On loss**
        of the connection it waits for the next one, finds out whether it was added, and continues. Raises
        `ConnectionLoss` if the session ended before that was known, or when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on it: then it may be added or not. Raises
        `FrameTooLarge` for an item that could not be taken again, and what the server refuses.

        The tasks of one client put one after another: use `put_many` for many.
        """
        await self.put_many([data], priority)

    async def put_many(self, items: Iterable[bytes], priority: int = DEFAULT_PRIORITY) -> None:
        """Add items, in their order: up to 500 in one transaction, as far as the limit of a frame allows.

        Each transaction is added entirely or not at all, and once. If one fails, those before it are added; a
        note of the error says how many items these were. On cancel, on loss, and for the errors: see `put`.
        All items are checked before anything is sent.
        """
        self._session.ensure_loop()
        priority = verify.priority(priority)
        batches = self._items.batches([(data, priority) for data in verify.items(items)])
        count = 0
        for batch in batches:
            try:
                await self._items.put(batch)
            except errors.CorralError as error:
                if len(batches) > 1:
                    error.add_note(f"corral: {count:,} items were put before")
                raise
            count += len(batch)

    # Taking

    def take(self) -> Take:
        """Wait for an item and take it: ``async with queue.take() as job:`` also handles its end.

        ``job = await queue.take()`` takes it without that: enter the `Job`, in any task, or call `Job.done`
        or `Job.release`. One that is dropped instead is given back when it is garbage-collected, and logged.
        On cancel, on loss, and for the errors: see `Queue`.
        """
        return Take(self)

    async def try_take(self) -> Job | None:
        """Take an item if there is one that nobody has taken; otherwise return None. It does not wait in
        line. On cancel and on loss: see `Queue`."""
        holding = await self._hold(await self._items.claim_first(None))
        return None if holding is None else _owned(holding)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Job:
        return await self._take_job()

    async def _take_job(self) -> Job:
        return _owned(await self._take())

    async def _take(self) -> JobHolding:
        self._session.ensure_loop()
        rounds = Rounds()
        while True:
            # Without the line first: busy consumers seldom wait.
            claim = await self._items.claim_first(TRIES)
            try:
                if claim is None:
                    claim = await self._wait_in_line(rounds)
            except PlaceLost:
                pass
            else:
                holding = await self._hold(claim)
                if holding is not None:
                    return holding
            problem = f"its claim, or its place in line, was lost {MOST_ROUNDS} times in a row"
            rounds.again(errors.NoNode("take", self.path, problem))

    async def _wait_in_line(self, rounds: Rounds) -> Claim:
        line = self._line
        node, ahead = await line.join(b"", self._context.acl, rounds)
        try:
            if ahead.total and not await line.wait_turn(node, ahead, rounds):
                await line.check(node)
            return await self._items.wait_and_claim(node, rounds)
        finally:
            line.leave(node)

    async def _hold(self, claim: Claim | None) -> JobHolding | None:
        """Hold what was claimed; None if there is nothing, or it was lost already."""
        if claim is None:
            return None
        try:
            await self._line.confirm(claim.node)
        except PlaceLost:
            return None
        except BaseException:
            claim.leave(claim.node)
            raise
        task = asyncio.current_task(self._session.loop)
        holding = JobHolding(self._context, self._items, claim, task, self)
        return holding if holding.begin() else None

    # Looking

    async def size(self) -> int:
        """How many items are in the queue, as the connected server knows it: those that are being handled are
        included, those that were put aside are not. On cancel nothing changes. On loss of the connection it
        repeats the request, and gives up as `Queue` says."""
        self._session.ensure_loop()
        return await self._items.size()

    def watch_size(self) -> SizeWatch:
        """The size now, then after each change, as an async iterator; see `SizeWatch`."""
        return SizeWatch(self._context.shared.feeds, self._items.entries, self.path, Cursor())

    # What was put aside

    async def failed(self) -> list[FailedItem]:
        """The items that were put aside, the oldest first. On cancel nothing changes. On loss of the
        connection it repeats the requests, and gives up as `Queue` says."""
        self._session.ensure_loop()
        return await self._items.failed_items()

    async def requeue(self, item: FailedItem) -> None:
        """Put an item back into the queue that was put aside: at the end of its priority, with all its
        attempts. Raises `NoNode` if it is not put aside any more. On cancel, on loss, and for other errors:
        see `put`."""
        self._session.ensure_loop()
        await self._items.requeue(verify.failed_item(item))

    async def discard(self, item: FailedItem) -> None:
        """Delete an item that was put aside. Raises `NoNode` if it is not put aside any more. On cancel it
        may be deleted. On loss of the connection it repeats the request, and gives up as `Queue` says."""
        self._session.ensure_loop()
        await self._items.discard(verify.failed_item(item))

    def __repr__(self) -> str:
        return f"<Queue {self.path!r}>"


class SizeWatch(Reader[ChildrenFeed, Cursor, int]):
    """The sizes of a queue as an async iterator. Made by `Queue.watch_size`.

    The first is the size now. Later ones differ from the one before, and the last one is always delivered; a
    slow reader misses those in between. Leaving the loop ends the watch, as with `ChildrenWatch`, which says
    what happens **on cancel** and **on loss**, and what it costs: each change of the queue reads all names.
    """

    _verb = "watch_size"
    _seen: int | None = None

    def _find_feed(self) -> ChildrenFeed:
        key = (ChildrenFeed, self._full)
        return self._feeds.get(key, lambda: ChildrenFeed(self._feeds, key, self._full, self._path))

    def _next_event(self, feed: ChildrenFeed, cursor: Cursor) -> int | None:
        state = feed.state
        if state is None or len(state.children) == self._seen:
            return None
        self._seen = len(state.children)
        return self._seen


def _owned(holding: JobHolding) -> Job:
    """The job of whoever has not entered it yet."""
    job = Job(holding)
    weakref.finalize(job, holding.drop_soon).atexit = False
    return job
