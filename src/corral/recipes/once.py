"""A job that a fleet of clients runs once.

The clients that want to run it stand in a line, as for a lock. The first one runs the job and records that it
is done, in a persistent znode, by a transaction that the server applies only while the lock is held. Whoever
comes to hold the lock reads the record first. Those who wait watch it, so that they need not hold the lock
one after another when the job is done.

The transaction is repeated after a lost connection until it is answered. Nobody else may write the record
while our znode is in the line, and our znode is a condition of the transaction. A record that is found there
is therefore ours, and there is never a second one (X1).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from corral import errors, paths, verify
from corral.types import Stat, Znode

from .kit import ops
from .kit.context import RecipeContext
from .kit.held import Held
from .kit.line import Ahead, Interrupted, PlaceLost
from .kit.node_names import MUTEX
from .kit.ops import Outcome, Write
from .kit.protected import QueueNode
from .kit.queue_lock import QueueLock
from .kit.rounds import MOST_ROUNDS, Rounds
from .kit.watched_read import WatchedRead
from .lock import Lock

__all__ = ["Once"]

logger = logging.getLogger("corral.recipes")

LOCK = "lock"
DONE = "done"

Job: TypeAlias = Callable[[Held], Awaitable["bytes | None"]]


class Once:
    """A job that a fleet of clients runs once. Made by ``zk.once(path)``.

    ``result = await zk.once("/jobs/migrate-7").run(job)`` calls the async function ``job(held)`` in one of
    the clients that ask for it, and records what it returns (`bytes`, or None for ``b""``). All others wait
    for that result. Once it is recorded nobody runs the job, and everybody gets the result by one read.

    **What "once" means.** At most one result is recorded, two clients never run the job at the same time
    (`Held` says how a body is kept from it), and nobody runs it after it was recorded. A client that dies, or
    loses its lock, while it runs the job is replaced: the next in line runs it *again*. An exception of the
    job is raised by its `run`, records nothing, and the next in line runs the job as well. So the job should
    be one that may be carried out again, in part or in whole: do its writes in ZooKeeper by
    ``held.transaction()``, and pass ``held.fencing_token`` to everything else.

    With `ttl` a result counts for so many seconds after it was recorded; then the job is run again. Both
    times are the ensemble's, by the clock of its leader.

    **On cancel** nothing of ours stays in the line. A job that is running is cancelled. If that happens while
    its result is being recorded, it may be recorded. **On loss** of the connection waiting goes on. A job
    that runs goes on until its lock is lost, as with any lock. Then it is cancelled, and its `run` waits for
    the next result, or runs the job again. A lost answer to the recording is found out.

    Waiting has no bound but the caller's timeout. `run` and `try_run` raise what the job raises, and give up
    where `Lock` does. A result that is too large for a request is a `FrameTooLarge`: record where it is, not
    the result itself. After that error, or `NoAuth`, the job has run and counts as not done.

    It requires the permissions CREATE, READ and DELETE on ``path/lock``, and CREATE and READ on the path
    itself; with `ttl` also WRITE on ``path/done``. `data` is what others see of a client in the line, which
    is an ordinary one: ``zk.lock("/jobs/migrate-7/lock")`` shows the `contenders`, and can `evict` a client
    whose job hangs.
    """

    def __init__(self, context: RecipeContext, ttl: float | None) -> None:
        self.path = context.path
        self.ttl = ttl
        """For how many seconds a result counts; None for ever."""
        self._context = context
        self._session = context.session
        self._done = paths.join(context.full, DONE)
        line = context._replace(full=paths.join(context.full, LOCK))
        self._turns = _Turns(line, self._done, ttl)
        self._lock = Lock(line, MUTEX["curator"])

    async def run(self, job: Job) -> bytes:
        """Return the recorded result. If there is none, run the job and record it, or wait until another
        client has done so. See the class for what happens on cancel and on loss, and for the errors.

        Raises `AlreadyHeld` if it is called by the job itself, which would wait for itself.
        """
        result = await self._run(job, wait=True)
        assert result is not None
        return result

    async def try_run(self, job: Job) -> bytes | None:
        """As `run`, but return None at once if another client is running the job, or about to. See the class
        for what happens on cancel and on loss, and for the errors."""
        return await self._run(job, wait=False)

    async def record(self) -> Znode | None:
        """The recorded result (`data`), and when it was recorded (``stat.mtime``), as the connected server
        knows it; None if there is none. It may be older than `ttl`.

        On cancel nothing changes. On loss of the connection it repeats the request, and raises
        `ConnectionLoss` when `ConnectionLoss.MOST_LOSSES` connections in a row broke on it.
        """
        self._session.ensure_loop()
        return await self._read()

    async def reset(self) -> None:
        """Forget the result: the next `run` runs the job. If the job is running, this waits until it is done,
        and forgets that result.

        On cancel it may have been forgotten. On loss of the connection it continues as `Lock` does. Raises
        `LockLost` if the session was lost meanwhile: then it may have been forgotten, too.
        """
        async with self._lock as held:
            writes = [ops.check(held.node), ops.delete(self._done)]
            outcome = await ops.multi(self._session, writes, self.path, bound_to=held.session_id)
            if outcome.is_refused(0, errors.NoNode):
                raise errors.LockLost(f"{held.name}: its znode is gone; nothing was reset")
            if outcome.refused is not None and not outcome.is_refused(1, errors.NoNode):
                raise outcome.error("reset", self.path)

    async def _run(self, job: Job, *, wait: bool) -> bytes | None:
        self._session.ensure_loop()
        verify.coroutine_function(job, "job")
        if self.ttl is None and (record := await self._read()) is not None:
            return record.data
        rounds = Rounds()
        while True:
            try:
                held = await self._turns.turn(wait=wait)
            except Interrupted:
                if (record := await self._read()) is not None:
                    return record.data
                problem = f"its result was recorded and deleted {MOST_ROUNDS} times in a row"
                rounds.again(errors.NoNode("run", self.path, problem))
                continue
            if held is None:
                return None
            try:
                async with held:
                    return await self._result(held, job)
            except errors.LockLost as lost:
                if await held.wait_lost() is None:
                    raise  # of another lock, in the job
                logger.warning("%s; the job is run again, unless its result was recorded", lost)
            except PlaceLost:
                problem = "its znode was deleted; the job is run again, unless its result was recorded"
                logger.warning("%s: %s", held.name, problem)

    async def _result(self, held: Held, job: Job) -> bytes:
        """The result, if it was recorded before we held the lock. Otherwise run the job and record it.

        Raises `PlaceLost` if our znode is gone, and nothing was recorded.
        """
        record = await self._read(held.session_id)
        if record is not None and await self._turns.counts(record.stat, held.node, held.session_id):
            return record.data
        value = await job(held)
        result = b"" if value is None else verify.data(value)
        outcome = None
        if record is not None:
            outcome = await self._write(held, ops.set_data(self._done, result, record.stat.version))
        if outcome is None or outcome.is_refused(1, errors.NoNode):  # or somebody has just deleted it
            create = ops.create(self._done, result, self._context.acl, ops.PERSISTENT)
            outcome = await self._write(held, create)
        # Refused so, it was applied before, and the answer was lost: nobody else writes while we are here.
        if not (
            outcome.refused is None
            or outcome.is_refused(1, errors.NodeExists)
            or outcome.is_refused(1, errors.BadVersion)
        ):
            raise outcome.error("record", self.path)
        await self._session.wait_caches_current()
        return result

    async def _write(self, held: Held, write: Write) -> Outcome:
        writes = [ops.check(held.node), write]
        outcome = await ops.multi(self._session, writes, self.path, bound_to=held.session_id)
        if outcome.is_refused(0, errors.NoNode):
            raise PlaceLost
        return outcome

    async def _read(self, session_id: int = 0) -> Znode | None:
        try:
            return Znode(*await ops.get(self._session, self._done, self.path, bound_to=session_id))
        except errors.NoNode:
            return None

    def __repr__(self) -> str:
        return f"<Once {self.path!r}{'' if self.ttl is None else f', ttl={self.ttl:g}'}>"


class _Turns(QueueLock[Held]):
    """The lock of those who would run the job. Whoever waits for it also watches the record."""

    _kind = "run of"
    _held_type = Held

    def __init__(self, context: RecipeContext, done: str, ttl: float | None) -> None:
        super().__init__(context, MUTEX["curator"])
        self._done = done
        self._ttl = ttl

    async def turn(self, *, wait: bool) -> Held | None:
        """Acquire the lock; None if it is not our turn and we do not wait. Raises `Interrupted` when the job
        is done before our turn comes."""
        holding = await self._take(wait=wait)
        return None if holding is None else Held(holding)

    async def counts(self, record: Stat, node: str, session_id: int) -> bool:
        """Whether a record is not too old. The time to compare with is when our znode was created: a record
        that is newer than that counts, and one that was too old then does not. Raises `PlaceLost` if our
        znode is gone."""
        if self._ttl is None:
            return True
        try:
            ours = await ops.exists(self._session, node, self.path, bound_to=session_id)
        except (errors.NoNode, errors.SessionExpired):
            raise PlaceLost from None
        return ours.ctime - record.mtime < self._ttl

    async def _wait_turn(self, node: QueueNode, ahead: Ahead, rounds: Rounds, *, wait: bool) -> bool | None:
        with WatchedRead.of_existence(self._session, self._done, self.path) as record:
            while True:
                stat = await record.read()
                if stat is not None and await self._is_done(stat, node):
                    raise Interrupted
                if not wait:
                    return None
                try:
                    return await self._line.wait_turn(node, ahead, rounds, record.fired)
                except Interrupted:
                    await record.changed()

    async def _is_done(self, stat: Stat | errors.NoAuth, node: QueueNode) -> bool:
        if isinstance(stat, errors.NoAuth):
            if self._ttl is None:
                return True  # it exists
            raise stat
        return await self.counts(stat, node.path, node.session_id)
