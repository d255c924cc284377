"""A znode that exists as long as its client does (N1; Curator's ``PersistentNode``).

It is an ephemeral znode at a fixed path, created again in each new session and whenever somebody deletes it.
One job for each such znode does this, from `register` to `unregister`. It repeats two steps, and waits in
between until the znode may have changed:

- *Create it*, unless it is known to exist. The create is bound to the session in which it is sent.
- *Read it*, with a watch. Its owner tells whose it is: this session's (also if the answer to the create was
  lost); an earlier session's of this client, which is replaced at once; or somebody else's.

No create, set or delete is repeated blindly: the next read resolves what its lost answer would have told. The
read may come from a server that lags behind, but then the create that follows it is refused.

When the znode is given up, the job is cancelled wherever it waits: a create that was not sent is never sent.
It then deletes the znode. A create of unknown outcome may still be carried out until a later write is
answered (S2), so a quorum write comes first.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import Any, Literal, TypeAlias

from corral import errors
from corral.ensure import make_path
from corral.types import HIDDEN_STAT, Stat
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

# Of a znode of ours that we may not read, on servers (3.9) that then hide the `Stat`. Version -1 is any.


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
        exist. If we may not read it, all but its owner may be -1."""
        self._context = context
        self._session = context.session
        self._kind = kind
        self._on_taken = on_taken
        self._phase = _Phase.NEW
        self._job: asyncio.Task[None] | None = None
        self._error: errors.CorralError | None = None  # why the znode is not kept any more
        self._removal_error: errors.CorralError | None = None  # why it may not be deleted
        self._is_entered = False  # whether the znode has existed once
        self._is_taken = False  # whether somebody else's znode was there when it was last read
        self._problem = ""  # why it could not be kept, as last logged
        self._own_sessions: dict[int, None] = {}  # in which we may have created it, the newest last
        self._change = 0  # the number of updates
        self._written: int | None = 0  # the newest change that the znode has; None if that is not known
        self._before = context.data  # the data to go back to when an update is refused
        self._updates: list[tuple[int, asyncio.Future[None]]] = []  # those that wait, and for which change
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
        return stat is not None and stat.ephemeral_owner == self._session.session_id != 0

    async def register(self) -> None:
        """Start to keep the znode, and wait until it exists. On an error or a cancel nothing stays."""
        self._session.ensure_loop()
        if self._phase is not _Phase.NEW:
            raise errors.UsageStateError(f"{self.name} was entered before; make another object for it")
        self._check_size("register", self.data)
        registered, full = self._context.shared.registered, self._context.full
        self._phase = _Phase.REGISTERED
        try:
            while (other := registered.get(full)) is not None:
                if other._phase is _Phase.REGISTERED:
                    raise errors.UsageStateError(
                        f"{self.name} is registered through this client already; leave that one first"
                    )
                await other._wait_over()
            self._job = self._session.spawn(self._run, f"corral {self.name}")
            if self._job is None:
                raise self._session.final_error()
            registered[full] = self
            self._job.add_done_callback(self._job_done)
            while not self._is_entered:
                await self._next_step()
        except BaseException:
            self.unregister_nowait()
            raise

    def unregister_nowait(self) -> None:
        """Start to delete the znode, and return at once."""
        if self._phase is not _Phase.REGISTERED:
            return
        if self._job is None:
            self._phase = _Phase.OVER
        else:
            self._give_up()
            self._job.cancel()

    async def unregister(self) -> None:
        """Delete the znode, and wait until it is gone, but at most for the session timeout: without a
        connection it goes later. On cancel the deletion goes on. Raises why it could not be deleted."""
        self.unregister_nowait()
        await self._wait_over(self._session.timeout)
        if self._removal_error is not None:
            raise errors.fresh(self._removal_error)

    async def _wait_over(self, timeout: float | None = None) -> None:
        if self._job is not None:
            await asyncio.wait([self._job], timeout=timeout)

    async def update(self, data: bytes) -> None:
        """Set the data, and wait until the znode has it, or newer data. On an error it keeps what it has."""
        self._check_kept()
        self._check_size("update", data)
        self.data = data
        self._change += 1
        updated: asyncio.Future[None] = self._session.loop.create_future()
        self._updates.append((self._change, updated))
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

    def _check_size(self, verb: str, data: bytes) -> None:
        """Raise `FrameTooLarge` if the larger of our requests with the data, the replacement, would be."""
        size, limit = len(self._replacement(data, 0)), self._session.max_body
        if size > limit:
            raise errors.FrameTooLarge(verb, self._context.path, size + 8, limit + 8)

    def _over(self) -> errors.CorralError:
        if self._error is not None:
            return errors.fresh(self._error)
        return errors.UsageStateError(
            f"{self.name}: {self._phase.value}; use it inside its 'async with' block"
        )

    async def _next_step(self) -> None:
        """Wait for the job's next step. Raises its error if the znode is not kept any more."""
        if self._phase is not _Phase.REGISTERED:
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

    def _give_up(self) -> None:
        """The znode is not kept any more: whoever waits for it gets an error."""
        self._phase = _Phase.LEAVING
        self._wake()
        self._end_updates(self._over())

    def _job_done(self, job: asyncio.Task[None]) -> None:
        registered = self._context.shared.registered
        if registered.get(self._context.full) is self:
            del registered[self._context.full]
        if job.cancelled():
            self._error = self._session.final_error()
        self._give_up()
        self._phase = _Phase.OVER
        self.stat = None

    def _end_updates(self, refusal: BaseException | None = None, *, until: int | None = None) -> bool:
        """The updates, or those up to a change, are done or refused. Returns whether anybody has waited for
        one."""
        updates, self._updates = self._updates, []
        was_awaited = False
        for change, updated in updates:
            if until is not None and change > until:
                self._updates.append((change, updated))
            elif not updated.done():
                was_awaited = True
                if refusal is None:
                    updated.set_result(None)
                else:
                    updated.set_exception(errors.fresh(refusal))
        return was_awaited

    # The job

    async def _run(self) -> None:
        try:
            await self._keep()
        except asyncio.CancelledError:
            job = asyncio.current_task()
            assert job is not None
            if self._phase is not _Phase.LEAVING or job.uncancel():
                raise  # the session ends
        except errors.CorralError as error:
            self._error = error
            self._give_up()
        try:
            await self._remove()
        except errors.SessionError:
            pass  # the session is over, and so is the znode
        except errors.CorralError as error:
            self._removal_error = error
            logger.warning("%s stays until its session ends: %s", self.name, error)

    async def _keep(self) -> None:
        with WatchedRead(self._session, self._context.full, messages.GET, self._context.path) as node:
            while True:
                self._attention = self._session.loop.create_future()
                try:
                    await self._make_present(node)
                except errors.OperationError as error:
                    if not self._is_entered:
                        raise
                    await self._wait_after(error, self._attention)
                else:
                    await node.changed(self._attention)

    async def _make_present(self, node: WatchedRead) -> None:
        """Return when our znode exists, is watched and has its data; or when somebody else has the path, and
        that is watched. Raises `NodeExists` if that is refused."""
        session, rounds = self._session, Rounds()
        while True:
            session_id = session.session_id
            if session_id and not self.is_present:
                await self._create(session_id, rounds)
            found = await node.read()
            if not session.session_id:  # a read-only server has answered: wait for a session
                await ops.current_session(session, self._context.full, self._context.path)
                continue
            if found is None:
                self.stat = None
                if session_id:  # otherwise this read has only waited for a session
                    problem = f"it was deleted {MOST_ROUNDS} times in a row when it had just been created"
                    rounds.again(errors.NoNode("register", self._context.path, problem))
                continue
            data, stat = await self._seen(found)
            if stat is None:
                self._taken("a znode that we may not read")
                return
            if self._is_ours(stat):
                self._present(stat)
                if self._written is None and data == self.data:
                    self._written = self._change  # the write whose answer was lost was carried out
                if await self._set(stat.version):
                    return
                rounds.again(errors.BadVersion("register", self._context.path))
            elif stat.ephemeral_owner in self._own_sessions:
                await self._replace(stat)
                rounds.again(errors.NodeExists("register", self._context.path))
            else:
                owner = f"session 0x{stat.ephemeral_owner:x}" if stat.ephemeral_owner else "no session"
                self._taken(f"a znode of {owner}")
                return

    async def _seen(self, found: Any) -> tuple[bytes | None, Stat | None]:
        """The data and the `Stat` in the answer to a read. The data is None if we may not read it; so is the
        `Stat` if the server hides it and the znode is not ours."""
        if isinstance(found, Stat):
            return None, found
        if not isinstance(found, errors.NoAuth):
            return found  # type: ignore[no-any-return]
        session, context = self._session, self._context
        if not await ops.is_own_ephemeral(session, context.full, context.path):
            return None, None
        return None, HIDDEN_STAT._replace(ephemeral_owner=session.session_id)

    async def _create(self, session_id: int, rounds: Rounds) -> None:
        """Create it. Returns also if it exists, or if the outcome is unknown: the read that follows tells."""
        context, session = self._context, self._session
        self.stat = None
        while True:
            is_first = session_id not in self._own_sessions
            change = self._begin_write(session_id)
            try:
                _, stat = await ops.send_create(
                    session,
                    context.full,
                    context.path,
                    self.data,
                    context.acl,
                    ops.EPHEMERAL,
                    bound_to=session_id,
                )
            except errors.NoNode as error:
                rounds.again(error)
                parent = context.full.rpartition("/")[0] or "/"
                await make_path(session, parent, context.acl, container=True, chroot=context.chroot)
            except (errors.NodeExists, errors.SessionExpired):
                return
            except errors.NotReadOnly:
                if is_first:
                    del self._own_sessions[session_id]  # it was not sent: there is nothing to remove
                raise
            except errors.ReplyError as error:
                rounds.again(error)
                return
            except errors.ConnectionLoss as loss:
                if loss.is_hopeless:
                    raise
                return
            else:
                self._written = change
                self._present(stat)
                self._end_updates(until=change)
                return

    async def _replace(self, found: Stat) -> None:
        """The znode of an earlier session of ours is there until the server expires that session: replace
        it. Returns also if that is in vain: the read that follows tells."""
        # Should it go just now, and somebody else's come with the same version, theirs is replaced: no
        # transaction can check an owner.
        session, path = self._session, self._context.path
        session_id = session.session_id
        if not session_id:
            return
        self._begin_write(session_id)
        body = self._replacement(self.data, found.version)
        try:
            outcome = ops.Outcome.of(await session.request(messages.MULTI, body, path, bound_to=session_id))
        except (errors.SessionExpired, errors.ReplyError):
            return
        except errors.ConnectionLoss as loss:
            if loss.is_hopeless:
                raise
            return
        if outcome.refused is not None:
            refusal = outcome.error("register", path)
            if not isinstance(refusal, errors.NoNode | errors.BadVersion):
                raise refusal

    def _replacement(self, data: bytes, version: int) -> bytes:
        context = self._context
        return messages.encode_multi(
            [
                ops.delete(context.full, version),
                ops.create(context.full, data, context.acl, ops.EPHEMERAL),
            ]
        )

    def _begin_write(self, session_id: int) -> int:
        """Our znode may exist in this session from now on, with the data as it is now. Returns the change
        that this is."""
        self._own_sessions[session_id] = None
        while len(self._own_sessions) > MOST_SESSIONS:
            del self._own_sessions[next(iter(self._own_sessions))]
        self._written, self._before = None, self.data
        return self._change

    async def _set(self, version: int) -> bool:
        """Give our znode its newest data, if it does not have that. False if that has to be tried again after
        another read."""
        context, session = self._context, self._session
        while self._written != self._change:
            data, change = self.data, self._change
            self._written = None
            try:
                self.stat = await ops.send_set(
                    session, context.full, context.path, data, version, bound_to=session.session_id
                )
            except (errors.BadVersion, errors.NoNode, errors.SessionExpired):
                return False
            except errors.OperationError as error:
                if isinstance(error, errors.ConnectionLoss) and not error.is_hopeless:
                    return False
                if change == self._change:
                    self.data = self._before
                if not self._end_updates(error, until=change):
                    logger.warning("%s keeps the data that it has: %s", self.name, error)
            else:
                self._before = data
                self._end_updates(until=change)
                if version != HIDDEN_STAT.version:
                    version = self.stat.version
            self._written = change
        self._end_updates()
        return True

    def _present(self, stat: Stat) -> None:
        if not self.is_present:
            logger.debug("%s exists in session 0x%x", self.name, stat.ephemeral_owner)
        self.stat = stat
        self._is_taken = False
        self._problem = ""
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

    async def _wait_after(self, error: errors.CorralError, attention: asyncio.Future[None]) -> None:
        """A server has refused to keep it: try again later."""
        if self._problem != str(error):
            self._problem = str(error)
            logger.warning("%s is not kept, and will be tried again: %s", self.name, error)
        self._end_updates(error)
        await asyncio.wait([attention], timeout=self._session.timeout * TRY_AGAIN_AFTER)

    async def _remove(self) -> None:
        """Delete our znode, of this session or an earlier one, until it is certainly gone."""
        context, session, rounds = self._context, self._session, Rounds()
        version = self.stat.version if self.stat is not None and self._is_ours(self.stat) else None
        self.stat = None
        if not self._own_sessions:
            return  # no create was sent
        while True:
            try:
                if version is None:
                    await ops.quorum_barrier(session, context.full, context.path)
                    version = await self._own_version()
                    if version is None:
                        return
                await ops.send_delete(
                    session,
                    context.full,
                    context.path,
                    version,
                    bound_to=session.session_id,
                    is_patient=True,
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
            version = None  # it may be somebody else's by now

    async def _own_version(self) -> int | None:
        """The version of our znode, of this session or an earlier one; None if it does not exist."""
        session, full, path = self._session, self._context.full, self._context.path
        try:
            stat = await ops.exists(session, full, path)
        except errors.NoNode:
            return None
        except errors.NoAuth:
            return HIDDEN_STAT.version if await ops.is_own_ephemeral(session, full, path) else None
        return stat.version if stat.ephemeral_owner in self._own_sessions else None

    def __repr__(self) -> str:
        return f"<{self.name}, {self._phase.value}>"
