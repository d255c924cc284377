"""Items that are shared out among members: each has one owner at a time (P1 to P3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

from corral import errors, paths
from corral.watch.children import ChildrenWatch

from .assignment import Assign, items_by_name, items_of
from .kit.context import RecipeContext
from .kit.held import Held
from .kit.holding import Holding
from .kit.node_names import MUTEX, PROTECTED
from .kit.registration import RegisteredNode
from .lock import Lock

__all__ = ["Partition"]

logger = logging.getLogger("corral.recipes")

T = TypeVar("T")

# Members that change all the time do not put the assignment off for ever: at most this many times `settle`.
MOST_SETTLING = 10
_GUID_LENGTH = 36


class Partition(Generic[T]):
    """Shares out items among the members of a group. Made by ``zk.partition(path, items)``.

    ``async with zk.partition("/shards", range(64), data=b"host-7") as partition:`` joins as a member. Leaving
    the block leaves the group, and releases all items. Inside, either ``async for mine in partition:`` or
    ``await partition.run(consume)``.

    **Promised**: an item is never owned by two members. Each item is a `Lock`, which the old owner releases
    when it does not use the item any more, and for which the new owner waits. When the members have settled,
    each item has an owner. A member that is gone keeps its items until its session expires, and then for as
    long as the others take to settle. **Not promised**: an item that moves has no owner for a while. A
    process that was paused for longer than its lease may still run for a moment when it resumes: where that
    matters, use the fencing token or `Held.transaction`, as for any lock.

    *Which items a member gets* is a pure function of items and members: `assign`. *When items move*: members
    that join or leave are noticed at once, but items are assigned again only when the members have not
    changed for `settle` seconds, or have changed for ten times as long. One that is back by then moves
    nothing.

    **When the lease is lost** (see `Held`) all items are lost at once. They are acquired again in the new
    session. **On loss** of the connection, members and items stay as they are while the lease lasts.
    **On cancel** of entering nothing stays. If the body is cancelled, leaving does not wait: items and
    membership go in the background.

    Entering raises what `Registration` raises. The loop and `run` raise an error that ended the work on the
    members or on an item: what `Lock` and `ChildrenWatch` raise, or what `assign` raises. The next `anext`,
    or the next `run`, tries again. All members must have the same items, and the same `assign`.

    It requires the permissions CREATE, READ and DELETE on the path and what is below. Members are the znodes
    ``members/<id>``, which have `data`. Each item is a lock at ``locks/<name>`` with Curator's node names,
    where `data` tells who owns it; the name is ``str(item)``, percent-encoded. There is no such recipe in
    Curator; kazoo's ``SetPartitioner`` has another layout, and stops everybody while items move.
    """

    def __init__(self, context: RecipeContext, items: Iterable[T], settle: float, assign: Assign[T]) -> None:
        self.path = context.path
        self.id = PROTECTED.new_guid()
        """The id of this member."""
        self._names = {item: name for name, item in items_by_name(items).items()}
        self._settle = settle
        self._assign = assign
        self._context = context
        self._session = context.session
        self._me = RegisteredNode(self._below("members", self.id), "membership of", "raise")
        self._is_entered = False
        self._is_left = False
        self._members: frozenset[str] | None = None  # as settled
        self._mine: frozenset[T] = frozenset()  # what is assigned to us
        self._held: dict[T, Holding] = {}
        self._to_leave: set[T] = set()  # held, and not assigned to us any more
        self._told: dict[T, Holding] = {}  # what the loop was told last
        self._consumers: dict[T, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()  # consumers that were cancelled
        self._failures: list[BaseException] = []  # of consumers
        self._jobs: dict[T | None, asyncio.Task[None]] = {}  # one for each item, and one for the members
        self._failed: list[tuple[T | None, BaseException]] = []  # jobs, and why; to be raised
        self._ended: list[T | None] = []  # those that were raised
        self._user: str | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def _below(self, *names: str) -> RecipeContext:
        context = self._context
        full, path = context.full, str(context.path)
        for name in names:
            full, path = paths.join(full, name), paths.join(path, name)
        return context._replace(full=full, path=paths.named(context.chroot, path))

    # For the user

    @property
    def items(self) -> tuple[T, ...]:
        """All items, sorted by name."""
        return tuple(self._names)

    @property
    def members(self) -> frozenset[str]:
        """The ids of the members by which the items were assigned last; empty before the first time."""
        return self._members or frozenset()

    @property
    def mine(self) -> frozenset[T]:
        """The items that are ours now, and stay ours."""
        return frozenset(self._owned())

    def held(self, item: T) -> Held:
        """The lock of an item that is ours, for its fencing token, its transactions and `Held.is_valid`.

        It may be entered: leaving the block releases the item, which is then acquired again. Raises
        `UsageStateError` if the item is not ours now.
        """
        held = self._held.get(item)
        if held is None:
            raise errors.UsageStateError(f"{errors.shown(item)} is not ours now; see the set of the loop")
        return Held(held)

    async def __aenter__(self) -> Self:
        await self._me.register()
        self._is_entered = True
        self._start(None)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        held = self._leave()
        if isinstance(exc, asyncio.CancelledError):
            return
        while self._consumers:  # of a `run` in another task
            await self._next_change()
        releases = [each.release() for each in held]
        results = await asyncio.gather(*releases, self._me.unregister(), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if exc is None:
                raise failure
            exc.add_note(f"corral: meanwhile {failure}")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> frozenset[T]:
        """Wait until the items that are ours differ from what was returned last, and return them.

        An item that is to move away is absent from the set that is returned; **it is released when the loop
        asks for the next set**. So stop using what is absent before you go on. An item that was lost is
        absent as well, though it may have another owner by then. One that was lost and acquired again is
        absent from one set in between. The first set is not empty.

        On cancel no change is lost. On loss of the connection it waits. See the class for the errors.
        """
        with self._used_by("the loop"):
            while True:
                for item in self._to_leave - self._told.keys():
                    self._held[item].release_nowait()
                if self._is_left:
                    raise StopAsyncIteration
                self._raise_failures()
                owned = self._owned()
                # What was acquired again meanwhile is not what the loop was told of.
                told = {item: held for item, held in owned.items() if self._told.get(item, held) is held}
                if told != self._told:
                    self._told = told
                    return frozenset(told)
                await self._next_change()

    async def run(self, consume: Callable[[T, Held], Awaitable[object]]) -> None:
        """Run ``consume(item, held)`` in a task for each item while it is ours, until this is cancelled.

        The task is cancelled when the item is to move away, and the item is released when the task has ended:
        clean up in ``finally``, as long as that takes. When the item is lost, the task is cancelled before
        anyone else can own it. If `consume` returns, the item stays ours, and nothing is done with it until
        it moves. An exception of `consume` cancels all the tasks, waits for them and is raised, except a
        `SessionError` or `ConnectionLoss` once the item is lost.

        On cancel all tasks are cancelled and waited for; then their items are released. On loss of the
        connection it continues. See the class for the errors. Then the member stays: call `run` again, or
        leave the block.
        """
        with self._used_by("run"):
            self._failures.clear()
            try:
                while not self._is_left and not self._failures:
                    self._supervise(consume)
                    await self._next_change()
            except BaseException:
                await self._end_consumers()
                for failure in self._failures:  # nobody else tells of it
                    logger.error("partition %r: a consumer has failed", str(self.path), exc_info=failure)
                raise
            await self._end_consumers()
            if self._failures:
                failure, *others = self._failures
                for other in others:
                    failure.add_note(f"corral: meanwhile {other!r}")
                raise failure

    # What both do

    @contextlib.contextmanager
    def _used_by(self, user: str) -> Iterator[None]:
        self._session.ensure_loop()
        if not self._is_entered:
            raise errors.UsageStateError(
                f"partition {self.path!r} is used inside its block: "
                "'async with zk.partition(...) as partition:'"
            )
        if self._user is not None:
            raise errors.UsageStateError(
                f"partition {self.path!r} is used by {self._user} already; use one loop, or one run()"
            )
        self._user = user
        ended, self._ended = self._ended, []
        for key in ended:
            is_wanted = not self._is_left if key is None else key in self._mine
            if is_wanted and key not in self._jobs:
                self._start(key)
        try:
            yield
        finally:
            self._user = None

    def _owned(self) -> dict[T, Holding]:
        return {
            item: held for item, held in self._held.items() if item not in self._to_leave and held.is_valid
        }

    async def _next_change(self) -> None:
        future: asyncio.Future[None] = self._session.loop.create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _raise_failures(self) -> None:
        """Raise what has ended jobs. They begin again when somebody asks again."""
        if self._failed:
            self._ended += [key for key, _ in self._failed]
            _, error = self._failed[0]
            self._failed.clear()
            raise errors.fresh(error)

    # The consumers of `run`

    def _supervise(self, consume: Callable[[T, Held], Awaitable[object]]) -> None:
        """Stop the consumers of what is to move away, release what has none, and start those of what is
        ours."""
        self._raise_failures()
        for item in tuple(self._to_leave):
            task = self._consumers.get(item)
            if task is None:
                self._held[item].release_nowait()
            elif task not in self._stopping:
                self._stopping.add(task)
                task.cancel()
        for item, holding in self._owned().items():
            if item not in self._consumers:
                name = f"corral partition {self.path} {item}"
                task = self._session.loop.create_task(self._consume(item, holding, consume), name=name)
                self._consumers[item] = task
                task.add_done_callback(partial(self._consumed, item))

    async def _end_consumers(self) -> None:
        """Cancel all consumers and wait until they have ended. Who cancels us again has to wait, too: their
        items are ours until then."""
        cancelled: asyncio.CancelledError | None = None
        for task in self._consumers.values():
            if task not in self._stopping:
                self._stopping.add(task)
                task.cancel()
        while self._consumers:
            try:
                await self._next_change()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _consume(
        self, item: T, holding: Holding, consume: Callable[[T, Held], Awaitable[object]]
    ) -> None:
        held = Held(holding)
        try:
            async with held:
                await consume(item, held)
                # Otherwise `consume` has swallowed its cancel.
                if asyncio.current_task() not in self._stopping and held.is_valid:
                    await self._session.loop.create_future()
        except errors.LockLost as lost:
            if await held.wait_lost() is None:
                raise  # of another lock, in `consume`
            logger.info("partition %r, item %s: %s", str(self.path), item, lost)

    def _consumed(self, item: T, task: asyncio.Task[None]) -> None:
        del self._consumers[item]
        self._stopping.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)
        self._wake()

    # The jobs

    def _start(self, key: T | None) -> None:
        job = self._follow_members if key is None else partial(self._own, key)
        task = self._session.spawn(job, f"corral partition {self.path} {'members' if key is None else key}")
        if task is None:
            self._fail(key, self._session.final_error())
            return
        self._jobs[key] = task
        task.add_done_callback(partial(self._job_done, key))

    def _job_done(self, key: T | None, job: asyncio.Task[None]) -> None:
        if self._jobs.get(key) is job:  # otherwise it was told to end
            del self._jobs[key]
            self._fail(key, self._session.final_error())

    def _fail(self, key: T | None, error: BaseException) -> None:
        self._jobs.pop(key, None)
        self._failed.append((key, error))
        self._wake()

    async def _follow_members(self) -> None:
        """Assign the items again whenever the members have settled."""
        loop, context = self._session.loop, self._below("members")
        seen, changed_at = self._members, 0.0
        try:
            async with ChildrenWatch(context.shared.feeds, context.full, context.path) as changes:
                while True:
                    left = None
                    if seen is not None and seen != self._members:
                        left = min(self._settle, changed_at + MOST_SETTLING * self._settle - loop.time())
                    try:
                        async with asyncio.timeout(left):
                            event = await anext(changes)
                    except TimeoutError:
                        assert seen is not None
                        self._assign_again(seen)
                        continue
                    if seen is None or seen == self._members:
                        changed_at = loop.time()
                    seen = frozenset(name for name in event.children if len(name) == _GUID_LENGTH)
        except (errors.CorralError, _AssignFailed) as error:
            self._fail(None, error.__cause__ or error if isinstance(error, _AssignFailed) else error)

    def _assign_again(self, members: frozenset[str]) -> None:
        try:
            mine = items_of(self.id, self.items, sorted(members), self._assign)
        except Exception as error:  # of the user's function
            raise _AssignFailed from error
        before, self._mine, self._members = self._mine, mine, members
        logger.debug("partition %r: %d of %d items", str(self.path), len(mine), len(self._names))
        for item in mine:
            self._to_leave.discard(item)
            if item not in self._jobs:
                self._start(item)
        for item in before - mine:
            self._give_up(item)
        self._wake()

    def _give_up(self, item: T) -> None:
        """The item is not ours any more: leave its line; or, if it is held, wait for its user."""
        if item in self._held:
            self._to_leave.add(item)
        elif (job := self._jobs.pop(item, None)) is not None:
            job.cancel()

    async def _own(self, item: T) -> None:
        """Acquire the item, again when it was lost, while it is assigned to us."""
        context = self._below("locks", self._names[item])
        lock = Lock(context, MUTEX["curator"])
        try:
            while item in self._mine:
                held = await lock._take(wait=True)
                assert held is not None
                self._held[item] = held
                self._wake()
                try:
                    await held.wait_lost()
                finally:
                    del self._held[item]
                    self._to_leave.discard(item)
                    self._wake()
        except errors.CorralError as error:
            self._fail(item, error)
        else:
            self._jobs.pop(item, None)

    def _leave(self) -> list[Holding]:
        """Leave the group, and begin to release all items that no consumer uses. Returns what is held."""
        self._is_left = True
        self._mine = frozenset()
        for key in tuple(self._jobs):
            if key is None:
                self._jobs.pop(None).cancel()
            else:
                self._give_up(key)
        self._me.unregister_nowait()
        for item, held in self._held.items():
            if item not in self._consumers:
                held.release_nowait()
        self._wake()
        return list(self._held.values())

    def __repr__(self) -> str:
        state = "left" if self._is_left else f"{len(self.mine)} of {len(self._names)} items are ours"
        return f"<{type(self).__name__} {self.path!r}, {state}>"


class _AssignFailed(Exception):
    """The user's function has raised its cause."""
