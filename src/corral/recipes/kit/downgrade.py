"""Going on as a reader with a write lock: the writer's znode is exchanged for a reader's.

One transaction creates the reader's znode, with the writer's number, and deletes the writer's. While it is
unknown which of the two exists, heartbeats check their parent.
"""

from __future__ import annotations

from collections.abc import Callable

from corral import errors

from . import ops
from .certain import CertainTransaction
from .holding import Holding, HoldPhase
from .line import Line
from .order import is_trusted
from .protected import QueueNode

__all__ = ["WriteHolding"]


class _Exchange:
    """The transaction, and what is known of its outcome."""

    def __init__(self, writer: QueueNode) -> None:
        self.writer = writer
        self.is_pending = True
        """Whether it is unknown which of the two znodes exists."""
        self.error: errors.CorralError | None = None
        """Why the server refused it; or why it was given up, if it is pending."""
        self.transaction: CertainTransaction | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether an answer is to come."""
        return self.is_pending and self.error is None


class WriteHolding(Holding):
    """A write lock that is held, and may become a read lock."""

    _line: Line
    _exchange: _Exchange | None = None

    @property
    def is_downgraded(self) -> bool:
        """Whether it is a read lock by now."""
        return self._exchange is not None and not self._exchange.is_pending

    async def downgrade(self) -> None:
        """Exchange the writer's znode for a reader's; see `corral.HeldWrite.downgrade`."""
        self._session.ensure_loop()
        exchange = self._exchange
        if exchange is None:
            exchange = self._begin_exchange()
        elif not exchange.is_pending:
            raise errors.UsageStateError(f"{self.name} was downgraded already")
        elif exchange.error is not None and self.phase is HoldPhase.HELD:
            self._send(exchange)
        while exchange.is_under_way and self.phase is HoldPhase.HELD:
            await self._next_phase()
        if exchange.error is not None and not isinstance(exchange.error, errors.NoNode):
            raise exchange.error
        while exchange.error is not None and self.phase is HoldPhase.HELD:
            await self._next_phase()  # our znode is gone: the next heartbeat says that, and cancels the body
        if self.phase is not HoldPhase.HELD:
            raise await self.wait_lost() or errors.UsageStateError(f"{self.name} was released meanwhile")

    def _begin_exchange(self) -> _Exchange:
        if not self.is_valid:
            raise errors.UsageStateError(f"{self.name} is not held, so there is nothing to downgrade")
        layout, writer = self._line.layout, self._place
        if not layout.downgrade_label or not is_trusted(writer.sequence):
            why = "the numbers of its line have run out" if layout.downgrade_label else "its layout has none"
            raise errors.UsageStateError(f"{self.name} cannot be downgraded: {why}; release it, then read")
        digits = f"{writer.sequence:010d}"
        name = f"{writer.name.removesuffix(layout.label + digits)}{layout.downgrade_label}{digits}"
        reader = writer._replace(path=f"{writer.path.removesuffix(writer.name)}{name}", name=name)
        exchange = self._exchange = _Exchange(writer)
        context = self._context
        writes = [
            ops.create(reader.path, context.data, context.acl, ops.EPHEMERAL),
            ops.delete(writer.path),
        ]
        exchange.transaction = CertainTransaction(
            self._session, writes, reader.path, reader.session_id, self._exchanged
        )
        self._place = reader  # what is sent from here on is carried out behind the exchange
        self._send(exchange)
        return exchange

    def _send(self, exchange: _Exchange) -> None:
        exchange.error = None
        assert exchange.transaction is not None
        exchange.transaction.send()

    def _exchanged(self, outcome: ops.Outcome | errors.CorralError) -> None:
        """The exchange was carried out, refused or given up."""
        exchange = self._exchange
        assert exchange is not None
        if isinstance(outcome, ops.Outcome):
            exchange.is_pending = False
            # The reader's znode exists if the exchange was carried out before, and the answer lost.
            if outcome.refused is not None and not outcome.is_refused(0, errors.NodeExists):
                exchange.error = outcome.error("downgrade", exchange.writer.path)
        else:
            exchange.error = outcome
            exchange.is_pending = not isinstance(outcome, errors.ServerError)
        if exchange.error is not None and not exchange.is_pending:
            self._place, self._exchange = exchange.writer, None
        # If it was released meanwhile, that deleted the reader's znode, and may have come before the
        # exchange: what is sent again after a lost connection goes behind what was not sent yet.
        if self.phase is HoldPhase.RELEASING:
            self._remove()
        elif self.phase is not HoldPhase.HELD:
            self._leave()
        self._wake()

    def _leave(self, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.is_pending and not exchange.is_under_way:
            self._line.leave(exchange.writer)  # it is unknown which of the two znodes exists
        super()._leave(on_done)

    def _left(self, place: QueueNode, failure: BaseException | None) -> None:
        # Before the end of an exchange it is not certain which znode to delete; then it is deleted again.
        if self._exchange is None or not self._exchange.is_under_way:
            super()._left(place, failure)

    @property
    def checked(self) -> str:
        """The full path of the znode that a heartbeat checks: the parent, while two are exchanged."""
        exchange = self._exchange
        return self._line.full if exchange is not None and exchange.is_pending else self._place.path
