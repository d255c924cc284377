"""A znode that exists as long as its client does (N1; Curator's ``PersistentNode``).

It is an ephemeral znode at a fixed path, created again in each new session and whenever somebody deletes it.
One job for each such znode does this, from `register` to `unregister`. It repeats two steps, and waits in
between until the znode may have changed:

- *Create it*, unless it is known to exist.
- *Read it*, with a watch. Its owner tells whose it is: this session's (also if the answer to the create was
  lost); an earlier session's of this client, which is replaced at once; or somebody else's.

No create, set or delete is repeated blindly: the next read resolves what its lost answer would have told.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Literal, TypeAlias

from corral import errors
from corral.ensure import make_path
from corral.types import Stat
from corral.wire import messages

from . import ops
from .context import RecipeContext
from .rounds import MOST_ROUNDS, Rounds
from .watched_read import WatchedRead

__all__ = ["OnTaken", "RegisteredNode"]

logger = logging.getLogger("corral.recipes")

OnTaken: TypeAlias = Literal["wait", "raise"]

# How long the job waits before it tries again what a server has refused, as a part of T.
TRY_AGAIN_AFTER = 1 / 3
# How many of this client's earlier sessions are remembered, to recognize the znode of one of them.
MOST_SESSIONS = 8


class _Phase(enum.Enum):
    NEW = "not registered yet"
    REGISTERED = "its znode is kept"
    LEAVING = "its znode is being deleted"
    OVER = "its znode is not kept any more"


class RegisteredNode:
    """The znode at the path of a context, with the data of the context until `update` changes it."""

    def __init__(self, context: RecipeContext, kind: str, on_taken: OnTaken) -> None:
        self.data = context.data
        """What the znode has, or will have."""
        self.stat: Stat | None = None
        """The `Stat` of our znode when it was last created, read or set; None while it is not known to
        exist."""
        self._context = context
        self._session = context.session
        self._kind = kind
        self._on_taken = on_taken
        self._phase = _Phase.NEW
        self._job: asyncio.Task[None] | None = None
        self._before: asyncio.Task[None] | None = None
        """The job of a registration of the same path through this client, which still deletes its znode."""
        self._error: errors.CorralError | None = None  # why the job has ended
        self._is_entered = False  # whether the znode has existed once
        self._is_taken = False  # whether somebody else's znode was there when it was last read
        self._own_sessions: dict[int, None] = {}  # in which we may have created it, the newest last
        self._data_set = context.data  # what the znode was last created or set with
        self._updates: list[asyncio.Future[None]] = []  # which wait until the znode has the data
        self._attention: asyncio.Future[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self._kind} {self._context.path!r}"

    @property
    def is_present(self) -> bool:
        """Whether the znode exists in the current session, as far as this client knows."""
        return self._phase is _Phase.REGISTERED and self._is_ours(self.stat)

    def _is_ours(self, stat: Stat | None) -> bool:
        return stat is not None and stat.ephemeral_owner == self._session.session_id

    async def register(self) -> None:
        """Start to keep the znode, and wait until it exists. On an error or a cancel nothing stays."""
        self._session.ensure_loop()
        if self._phase is not _Phase.NEW:
            raise errors.UsageStateError(f"{self.name} was entered before; make another object for it")
        registered = self._context.shared.registered
        before: RegisteredNode | None = registered.get(self._context.full)
        if before is not None and before._phase is _Phase.REGISTERED:
            raise errors.UsageStateError(
                f"{self.name} is registered through this client already; leave that registration first"
            )
        self._phase = _Phase.REGISTERED
        self._before = None if before is None else before._job
        self._job = self._session.spawn(self._run, f"corral {self.name}")
        if self._job is None:
            self._phase = _Phase.OVER
            raise self._session.final_error()
        registered[self._context.full] = self
        self._job.add_done_callback(self._job_done)
        try:
            while not self._is_entered:
                await self._next_step()
        except BaseException:
            self.unregister_nowait()
            raise

    def unregister_nowait(self) -> None:
        """Start to delete the znode, and return at once."""
        if self._phase is _Phase.REGISTERED:
            self._phase = _Phase.LEAVING
            self._call_attention()

    async def unregister(self) -> None:
        """Delete the znode, and wait until it is gone, but at most for the session timeout: without a
        connection it goes later. On cancel the deletion goes on."""
        self.unregister_nowait()
        if self._job is not None:
            await asyncio.wait([self._job], timeout=self._session.timeout)

    async def update(self, data: bytes) -> None:
        """Set the data, and wait until the znode has it, or newer data. On an error it keeps what it has."""
        self._check_kept()
        self._session.check_size(messages.CREATE2, self._create_body(data), self._context.path)
        self.data = data
        updated: asyncio.Future[None] = self._session.loop.create_future()
        self._updates.append(updated)
        self._call_attention()
        await updated

    async def wait_present(self) -> None:
        """Wait until the znode exists in the current session."""
        self._check_kept()
        while not self.is_present:
            await self._next_step()

    # Waiting for the job

    def _check_kept(self) -> None:
        self._session.ensure_loop()
        if self._phase is not _Phase.REGISTERED:
            raise self._over()

    def _over(self) -> errors.CorralError:
        if self._error is not None:
            return errors.fresh(self._error)
        return errors.UsageStateError(
            f"{self.name}: {self._phase.value}; use it inside its 'async with' block"
        )

    async def _next_step(self) -> None:
        """Wait for the job's next step. Raises its error if it has ended."""
        if self._phase is _Phase.OVER:
            raise self._over()
        future: asyncio.Future[None] = self._session.loop.create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _call_attention(self) -> None:
        if self._attention is not None and not self._attention.done():
            self._attention.set_result(None)

    def _job_done(self, job: asyncio.Task[None]) -> None:
        registered = self._context.shared.registered
        if registered[self._context.full] is self:
            del registered[self._context.full]
        self._phase = _Phase.OVER
        self.stat = None
        if job.cancelled():
            self._error = self._session.final_error()
        self._wake()
        self._end_updates(self._over())

    def _end_updates(self, refusal: BaseException | None) -> None:
        updates, self._updates = self._updates, []
        for updated in updates:
            if updated.done():
                continue
            if refusal is None:
                updated.set_result(None)
            else:
                updated.set_exception(errors.fresh(refusal))

    # The job

    async def _run(self) -> None:
        try:
            if self._before is not None:
                await asyncio.wait([self._before])
                self._before = None
            await self._keep()
        except errors.CorralError as error:
            self._error = error
            if self._is_entered:
                logger.warning("%s may stay until its session ends: %s", self.name, error)

    async def _keep(self) -> None:
        with WatchedRead(self._session, self._context.full, messages.EXISTS, self._context.path) as node:
            while self._phase is _Phase.REGISTERED:
                self._attention = self._session.loop.create_future()
                try:
                    await self._make_present(node)
                except errors.OperationError as error:
                    if not self._is_entered:
                        await self._remove()
                        raise
                    await self._wait_after(error)
                else:
                    self._wake()
                    if self._phase is _Phase.REGISTERED:
                        await node.changed(self._attention)
        await self._remove()

    async def _make_present(self, node: WatchedRead) -> None:
        """Return when our znode exists, is watched and has its data; or when somebody else has the path, and
        that is watched. Raises `NodeExists` if that is refused."""
        rounds = Rounds()
        while self._phase is _Phase.REGISTERED:
            if not self.is_present:
                await self._create(rounds)
            found = await node.read()
            if found is None:
                self.stat = None
                problem = f"it was deleted {MOST_ROUNDS} times in a row when it had just been created"
                rounds.again(errors.NoNode("register", self._context.path, problem))
            elif isinstance(found, errors.NoAuth) and not self.is_present:
                self._taken("a znode that we may not read")
                return
            elif isinstance(found, errors.NoAuth) or found.ephemeral_owner == self._session.session_id:
                if isinstance(found, errors.NoAuth):
                    version = -1  # the ACL that we gave it does not let us read it
                else:
                    version = found.version
                    self._present(found)
                if self._has_data() or await self._set(version):
                    return
                rounds.again(errors.BadVersion("register", self._context.path))
            elif found.ephemeral_owner in self._own_sessions:
                await self._replace(found)
                rounds.again(errors.NodeExists("register", self._context.path))
            else:
                owner = f"session 0x{found.ephemeral_owner:x}" if found.ephemeral_owner else "no session"
                self._taken(f"a znode of {owner}")
                return

    async def _create(self, rounds: Rounds) -> None:
        """Create it. Returns also if it exists, or if the outcome is unknown: the read that follows tells."""
        context = self._context
        self.stat, data = None, self.data
        self._remember_session()
        try:
            _, stat = await ops.send_create(
                self._session, context.full, context.path, data, context.acl, ops.EPHEMERAL
            )
        except errors.NoNode as error:
            rounds.again(error)
            await make_path(
                self._session,
                context.full.rpartition("/")[0] or "/",
                context.acl,
                container=True,
                chroot=context.chroot,
            )
        except errors.NodeExists:
            pass
        except errors.ReplyError as error:
            rounds.again(error)
        except errors.ConnectionLoss as loss:
            if loss.is_hopeless:
                raise
        else:
            self._data_set = data
            self._present(stat)
        finally:
            self._remember_session()

    async def _replace(self, found: Stat) -> None:
        """The znode of an earlier session of ours is there until the server expires that session: replace
        it."""
        # Should it go just now, and somebody else's come with the same version, theirs is replaced: no
        # transaction can check an owner.
        context, data = self._context, self.data
        self._remember_session()
        outcome = await ops.multi(
            self._session,
            [
                ops.delete(context.full, found.version),
                ops.create(context.full, data, context.acl, ops.EPHEMERAL),
            ],
            context.path,
        )
        self._remember_session()
        if outcome.refused is None:
            self._data_set = data
        elif not isinstance(
            refusal := outcome.error("register", context.path), errors.NoNode | errors.BadVersion
        ):
            raise refusal

    def _has_data(self) -> bool:
        if self._data_set is not self.data:
            return False
        self._end_updates(None)
        return True

    async def _set(self, version: int) -> bool:
        """Give our znode its data. False if that has to be tried again after another read."""
        context, session, data = self._context, self._session, self.data
        try:
            self.stat = await ops.send_set(
                session, context.full, context.path, data, version, bound_to=session.session_id
            )
        except (errors.BadVersion, errors.NoNode, errors.SessionExpired):
            return False
        except errors.OperationError as error:
            if isinstance(error, errors.ConnectionLoss) and not error.is_hopeless:
                return False
            if data is self.data:
                self.data = self._data_set
                self._end_updates(error)
        else:
            self._data_set = data
        return self._has_data()

    def _remember_session(self) -> None:
        session_id = self._session.session_id
        if session_id:
            self._own_sessions[session_id] = None
            while len(self._own_sessions) > MOST_SESSIONS:
                del self._own_sessions[next(iter(self._own_sessions))]

    def _present(self, stat: Stat) -> None:
        self.stat = stat
        self._is_taken = False
        self._is_entered = True
        self._wake()

    def _taken(self, by: str) -> None:
        """Somebody else has the path."""
        self.stat = None
        if self._on_taken == "raise" and not self._is_entered:
            problem = f"{by} is there; leave it, choose another path, or wait for it with on_taken='wait'"
            raise errors.NodeExists("register", self._context.path, problem)
        if not self._is_taken:
            self._is_taken = True
            logger.warning("%s waits: %s is there", self.name, by)

    async def _wait_after(self, error: errors.CorralError) -> None:
        """A server has refused to keep it: try again later."""
        assert self._attention is not None
        logger.warning("%s is not kept, and will be tried again: %s", self.name, error)
        self._wake()
        await asyncio.wait([self._attention], timeout=self._session.timeout * TRY_AGAIN_AFTER)

    async def _remove(self) -> None:
        """Delete our znode, of this session or an earlier one, until it is certainly gone."""
        context, session, rounds = self._context, self._session, Rounds()
        known = self.stat if self._is_ours(self.stat) else None
        self.stat = None
        while True:
            try:
                if known is None:
                    known = await ops.exists(session, context.full, context.path)
                    if known.ephemeral_owner not in self._own_sessions:
                        return
                await ops.send_delete(
                    session, context.full, context.path, known.version, bound_to=session.session_id
                )
            except (errors.BadVersion, errors.ReplyError, errors.SessionExpired) as error:
                rounds.again(error)
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
            except errors.NoNode:
                return
            else:
                return
            known = None  # it may be somebody else's by now

    def _create_body(self, data: bytes) -> bytes:
        return messages.encode_create(self._context.full, data, self._context.acl, ops.EPHEMERAL)

    def __repr__(self) -> str:
        return f"<{self.name}, {self._phase.value}>"
