"""A claim on an item of a queue, and how it ends.

*Claiming* is one transaction: it creates the claim, sets its data once more, and sets the entry's data to
what it is. The last raises the entry's version, which makes three things of one number: the count of
attempts, which also counts consumers that died; the proof that nobody has claimed the item since; and with
the claim's own version, which is 1 where kazoo's is 0, the *fence* of all that follows. Acknowledging, giving
back and putting aside check both versions. They do no harm when they are repeated after a lost answer,
although another claim may have the same path by then.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence

from corral import errors, paths
from corral.types import Stat

from . import ops
from .certain import CertainTransaction
from .ops import Outcome, Write
from .protected import QueueNode
from .queue_layout import QueueLayout, priority_of

__all__ = ["Claim", "Ending", "log_put_aside"]

logger = logging.getLogger("corral.recipes")

_CLAIM_VERSION = 1
_GONE = (errors.NoNode, errors.BadVersion)


class Ending(enum.Enum):
    """How a claim ends."""

    DONE = "done"
    GIVEN_BACK = "given back"
    PUT_ASIDE = "put aside"


class Claim:
    """An item that is ours to handle, or may be: its claim is requested. It is the place of a `Holding`."""

    def __init__(
        self, layout: QueueLayout, name: str, data: bytes, attempt: int, session_id: int, guid: bytes
    ) -> None:
        self.name = name
        """The name of the entry, and of the claim."""
        self.data = data
        self.attempt = attempt
        """How often the item was handed out, this time included: the version of the entry."""
        self.ending = Ending.GIVEN_BACK
        """What `leave` does."""
        self.path = layout.path
        self.node = QueueNode(paths.join(layout.taken, name), name, 0, 0, session_id)
        self._layout = layout
        self._entry = paths.join(layout.entries, name)
        self._guid = guid

    @property
    def priority(self) -> int:
        """The priority of the item."""
        return priority_of(self.name)

    @property
    def conditions(self) -> Sequence[tuple[str, int]]:
        """What is true while the claim exists, and nobody has claimed the item since."""
        return [(self.node.path, _CLAIM_VERSION), (self._entry, self.attempt)]

    def writes(self) -> list[Write]:
        """The transaction that claims the item."""
        taken = self.node.path
        return [
            ops.create(taken, b"", self._layout.acl, ops.EPHEMERAL),
            ops.set_data(taken, self._guid, 0),
            ops.set_data(self._entry, self.data, self.attempt - 1),
        ]

    def is_claim(self, data: bytes, stat: Stat) -> bool:
        """Whether the znode at the path of the claim is this claim."""
        return data == self._guid and stat.ephemeral_owner == self.node.session_id

    def leave(self, node: QueueNode, on_done: Callable[[BaseException | None], None] | None = None) -> None:
        """Start to end the claim as `ending` says. `on_done` gets the error, or None once it is certain.

        A claim that is gone was lost: that is `LockLost` for an item that is done, and else no error."""
        _End(self._layout, self, self.ending, on_done).send()

    def sweep_later(self) -> None:
        """The entry has another version. Most often the claim is somebody else's by now. If somebody has set
        the data of the entry, the claim is still ours, and is deleted."""

        async def sweep() -> None:
            session, node = self._layout.session, self.node
            while True:
                try:
                    # Behind a delete that was sent before and whose answer was lost.
                    await ops.quorum_barrier(session, node.path, self.path)
                    found = await ops.get(session, node.path, self.path, bound_to=node.session_id)
                    if self.is_claim(*found):
                        await ops.send_delete(
                            session,
                            node.path,
                            self.path,
                            _CLAIM_VERSION,
                            bound_to=node.session_id,
                            is_patient=True,
                        )
                except (errors.NoNode, errors.BadVersion, errors.SessionError):
                    return
                except errors.CorralError as error:
                    if isinstance(error, errors.ConnectionLoss) and not error.is_hopeless:
                        continue
                    logger.warning("claim %s may stay until its session ends: %s", node.path, error)
                return

        self._layout.session.spawn(sweep, f"corral sweep of {self.node.path}")

    def end_writes(self, ending: Ending) -> list[Write]:
        """The transaction that ends the claim. The entry comes first: that tells a lost claim from one that
        this very transaction has removed before its answer was lost."""
        delete = ops.delete(self.node.path, _CLAIM_VERSION)
        if ending is Ending.GIVEN_BACK:
            return [ops.check(self._entry, self.attempt), delete]
        writes = [ops.delete(self._entry, self.attempt), delete]
        if ending is Ending.PUT_ASIDE:
            writes.append(self._layout.create_failed(self.name, self.data, self.attempt))
        return writes


class _End(CertainTransaction):
    """The transaction that ends a claim, until its outcome is certain."""

    __slots__ = ("_claim", "_ending", "_on_end", "_sends")

    def __init__(
        self,
        layout: QueueLayout,
        claim: Claim,
        ending: Ending,
        on_end: Callable[[BaseException | None], None] | None,
    ) -> None:
        self._claim = claim
        self._ending = ending
        self._on_end = on_end
        self._sends = 0
        node = claim.node
        super().__init__(layout.session, claim.end_writes(ending), node.path, node.session_id, self._ended)

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
            log_put_aside(claim.name, claim.path, claim.attempt)
        if self._on_end is not None:
            self._on_end(failure)


def log_put_aside(name: str, path: str, attempts: int) -> None:
    """Tell operators."""
    logger.warning("item %s of queue %r was put aside: it was handed out %d times", name, path, attempts)
