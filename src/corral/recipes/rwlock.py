"""A read/write lock: readers share, writers exclude, and each waits for those who came before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corral import errors, verify
from corral.session.requests import Request
from corral.wire import messages

from .held import Held, Phase
from .layouts import Sides, is_trusted
from .line import MOST_ROUNDS, Contender, Place
from .lock import InLine
from .site import Site

__all__ = ["HeldWrite", "RWLock", "ReadLock", "WriteLock"]


class RWLock:
    """A read/write lock on a path. Made by ``zk.rwlock(path)``.

    ``async with rw.read():`` shares with other readers, ``async with rw.write():`` excludes everybody. All
    stand in one line, first come, first served: a reader waits for the writers ahead of it, so that no writer
    starves; a writer for everybody ahead.

    A task that has entered either side gets `AlreadyHeld` for either: a writer that wants to go on as a
    reader calls `HeldWrite.downgrade`; a reader that wants to write would wait for itself, and lets go first.

    What happens on cancel and on loss, and when it gives up, is as for `Lock`. The names are those of
    Curator's ``InterProcessReadWriteLock``, which stands in the same line (its own downgrade is wrong before
    5.5: CURATOR-621). kazoo's ``ReadLock`` and ``WriteLock`` do with ``layout="kazoo"``, which has no
    downgrade.
    """

    def __init__(self, site: Site, sides: Sides) -> None:
        self.path = site.path
        self._site = site
        self._sides = sides

    def read(self) -> ReadLock:
        """The side that is shared."""
        return ReadLock(self._site, self._sides.read)

    def write(self) -> WriteLock:
        """The side that excludes."""
        return WriteLock(self._site, self._sides.write)

    async def contenders(self) -> list[Contender]:
        """Who holds it and who waits, readers and writers, in order, with their data.

        What happens on cancel and on loss is as for `Lock.contenders`.
        """
        return await self.read().contenders()

    def __repr__(self) -> str:
        return f"<RWLock {self.path!r}>"


class ReadLock(InLine[Held]):
    """The side of an `RWLock` that is shared."""

    kind = "read lock"
    _held_type = Held

    def _remedy(self, held: Held) -> str:
        if isinstance(held, HeldWrite) and not held.is_downgraded:
            return "to go on as a reader, downgrade() it"
        return super()._remedy(held)


class HeldWrite(Held):
    """A write lock that is held; see `Held`, and `downgrade`."""

    _exchange: _Exchange | None = None

    @property
    def is_downgraded(self) -> bool:
        """Whether it is a reader's by now."""
        return self._exchange is not None and not self._exchange.pending

    async def downgrade(self) -> None:
        """Go on holding as a reader: other readers may come in, but no writer that waits, not for a moment.

        The fencing token stays, which is below that of every writer to come; transactions of this object go
        on to be guarded. Cancelling the wait does not stop it, and calling it again waits on; on loss of the
        connection it goes on waiting, as long as the lock is held.

        Raises `LockLost` if it is lost meanwhile; `UsageStateError` if it is not held, and where there is no
        downgrade: in kazoo's layout, and in a line whose numbers have run out (after 2^31 of them). After
        any other `ServerError` the write lock is held as before. Raises `ConnectionLoss` when
        `ConnectionLoss.MOST_LOSSES` connections in a row broke on this request: then it is unknown which of
        the two is held, and calling it again tries again.

        The algorithm is Curator's since CURATOR-621, a reader's node with the writer's number, but in one
        transaction.
        """
        self._session.ensure_loop()
        exchange = self._exchange
        if exchange is None:
            exchange = self._begin_exchange()
        elif not exchange.pending:
            raise errors.UsageStateError(f"{self.name} was downgraded already")
        elif exchange.error is not None and self._phase is Phase.HELD:
            exchange.send()
        while exchange.is_under_way and self._phase is Phase.HELD:
            await self._next_phase()
        if exchange.error is not None and not isinstance(exchange.error, errors.NoNode):
            raise exchange.error
        while exchange.error is not None and self._phase is Phase.HELD:
            await self._next_phase()  # our node is gone: the next heartbeat says so, and the body is told
        if self._phase is not Phase.HELD:
            raise await self.wait_lost() or errors.UsageStateError(f"{self.name} was released meanwhile")

    def _begin_exchange(self) -> _Exchange:
        if not self.is_valid:
            raise errors.UsageStateError(f"{self.name} is not held, so there is nothing to downgrade")
        layout, writer = self._line.layout, self._place
        if not layout.downgraded or not is_trusted(writer.sequence):
            why = "the numbers of its line have run out" if layout.downgraded else "its layout has none"
            raise errors.UsageStateError(f"{self.name} cannot be downgraded: {why}; release it, then read")
        digits = f"{writer.sequence:010d}"
        name = f"{writer.name.removesuffix(layout.label + digits)}{layout.downgraded}{digits}"
        reader = writer._replace(path=f"{writer.path.removesuffix(writer.name)}{name}", name=name)
        exchange = self._exchange = _Exchange(self._site, writer, reader, self._exchanged)
        self._place = reader  # what is sent from here on is carried out behind the exchange
        return exchange

    def _exchanged(self, exchange: _Exchange) -> None:
        if exchange.error is not None and not exchange.pending:
            self._place, self._exchange = exchange.writer, None
        # Let go of meanwhile: that went for the reader's node, and may have come before this, since what is
        # sent again after a lost connection goes behind what was not sent yet.
        if self._phase is Phase.RELEASING:
            self._remove()
        elif self._phase is not Phase.HELD:
            self._leave()
        self._wake()

    def _leave(self, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.pending and not exchange.is_under_way:
            self._line.leave(exchange.writer)  # it is unknown which of the two nodes there is
        super()._leave(on_done)

    def _left(self, place: Place, failure: BaseException | None) -> None:
        # Before the end of an exchange it is not certain what there is to remove; then it is removed again.
        if self._exchange is None or not self._exchange.is_under_way:
            super()._left(place, failure)

    @property
    def checked(self) -> str:
        """The node whose being there a heartbeat checks; while two are exchanged, their parent."""
        exchange = self._exchange
        return self._line.full if exchange is not None and exchange.pending else self._place.path


class _Exchange:
    """Exchanges a writer's node for a reader's, until it is certain (`requests.Waiter`).

    Sent again after a lost connection: what the old server had passed on was ordered before that, so the
    answer tells (S2). While it is unknown which of the two nodes there is, heartbeats check their parent.
    """

    def __init__(
        self,
        site: Site,
        writer: Place,
        reader: Place,
        on_done: Callable[[_Exchange], None],
    ) -> None:
        self.writer = writer
        self.pending = True
        """Whether it is unknown which of the two nodes there is."""
        self.error: errors.CorralError | None = None
        """Why it was refused; or why it was given up, if it is pending."""
        self._session = site.session
        self._reader = reader
        self._on_done = on_done
        ephemeral = verify.create_flags(ephemeral=True, sequential=False)
        self._body = messages.encode_multi(
            [
                (messages.CREATE, messages.encode_create(reader.path, site.data, site.acl, ephemeral)),
                (messages.DELETE, messages.encode_delete(writer.path, -1)),
            ]
        )
        self._tries = 0
        self.send()

    @property
    def is_under_way(self) -> bool:
        """Whether an answer is to come."""
        return self.pending and self.error is None

    def send(self) -> None:
        """Send it, for the first time or again."""
        self.error = None
        self._session.submit_now(
            Request(messages.MULTI, self._body, self._reader.path, self, bound_to=self._reader.session_id)
        )

    def done(self) -> bool:
        return False

    def set_result(self, results: Sequence[messages.MultiResult], /) -> None:
        codes = [result.error for result in results]
        # A node of this name is there already if it was carried out before, and the answer was lost.
        if any(codes) and codes[0] != errors.NodeExists.code:
            code = codes[errors.refused_index(codes)]
            self.error = errors.server_error(code, "downgrade", self.writer.path)
        self._over()

    def set_exception(self, error: BaseException, /) -> None:
        if isinstance(error, errors.ServerError):
            self.error = error
            self._over()
        elif isinstance(error, errors.ConnectionLoss | errors.ReplyError):
            if isinstance(error, errors.ConnectionLoss):
                again = not error.is_hopeless
            else:
                self._tries += 1
                again = self._tries % MOST_ROUNDS != 0
            if again:
                self.send()
            else:
                self.error = error
                self._on_done(self)
        # Else the session is over, and what it held is lost: that is said to whoever holds it.

    def _over(self) -> None:
        self.pending = False
        self._on_done(self)


class WriteLock(InLine[HeldWrite]):
    """The side of an `RWLock` that excludes."""

    kind = "write lock"
    _held_type = HeldWrite
