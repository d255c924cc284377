"""Lists of the names in a line: requested once, and parsed once, for all tasks that need them together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from corral.session.requests import Nobody, PatientRequest, Request
from corral.session.session import Session
from corral.types import State
from corral.wire import messages

from .order import InOrder, in_order

__all__ = ["Listing", "Lists"]

# One list waits for the creates of at most this many tasks that join: as many as a connection has in flight.
MOST_SHARERS = 1000


class Listing(list[str]):
    """The names in a line at one moment. A waiter must not keep it, since it is as long as the line."""

    __slots__ = ("_in_order", "_set")

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        self._set: frozenset[str] | None = None
        self._in_order: dict[tuple[str, ...], InOrder] | None = None

    @classmethod
    def of(cls, names: list[str]) -> Listing:
        """The names as a listing, which they may be already."""
        return names if isinstance(names, cls) else cls(names)

    def __contains__(self, name: object) -> bool:
        if self._set is None:
            self._set = frozenset(self)
        return name in self._set

    def in_order(self, labels: tuple[str, ...]) -> InOrder:
        """The nodes with these labels, in the order of their numbers."""
        if self._in_order is None:
            self._in_order = {}
        found = self._in_order.get(labels)
        if found is None:
            found = self._in_order[labels] = in_order(self, labels)
        return found


class Lists:
    """The lists that are requested through one client.

    While a list waits to be sent, all tasks that need the same list share it. A task that joins a line shares
    it as well: the list is then sent behind that task's create. A crowd that joins together therefore costs
    one list, not one for each.
    """

    def __init__(self) -> None:
        self._unsent: dict[str, Request] = {}  # each with _Sharers as its waiter

    def ask(
        self, session: Session, full: str, path: str, create: Request | None = None
    ) -> asyncio.Future[list[str]]:
        """Send `create`, and behind it a list of the children of `full`; `path` is what errors name.

        The future is the caller's own: cancelling it does not affect the others that share the list, which is
        then one `Listing` for all of them.
        """
        answer: asyncio.Future[list[str]] = session.loop.create_future()
        shared = self._unsent.get(full)
        if shared is not None and create is None and shared.is_patient and session.state is State.READ_ONLY:
            shared = None  # that one waits behind a create
        if shared is not None and (sharers := _shareable(shared)) is not None:
            self._share(session, full, shared, sharers, answer, create)
            return answer
        body = messages.encode_children(full, False)
        if create is None:
            request = Request(messages.CHILDREN, body, path, answer)
            session.submit_now(request)
        else:
            request = PatientRequest(messages.CHILDREN, body, path, answer)
            session.submit_now(create, request)
        if not request.attempts and not answer.done():
            request.waiter = _Sharers(self._unsent, full, answer)
            self._unsent[full] = request
        return answer

    def _share(
        self,
        session: Session,
        full: str,
        unsent: Request,
        sharers: _Sharers,
        answer: asyncio.Future[list[str]],
        create: Request | None,
    ) -> None:
        """Have `answer` resolved by a list that waits to be sent, or by one behind `create` in its place."""
        sharers.waiting.append(answer)
        if create is None:
            return
        request = PatientRequest(messages.CHILDREN, unsent.body, unsent.path, sharers)
        unsent.waiter = _GONE
        try:
            session.submit_now(create, request)
        except BaseException:  # the create is too large, and nothing was sent
            sharers.waiting.remove(answer)
            unsent.waiter = sharers
            raise
        if not request.attempts and not answer.done():
            self._unsent[full] = request
        else:
            self._unsent.pop(full, None)


def _shareable(request: Request) -> _Sharers | None:
    """Those who wait for the list that this request reads, if others may join them."""
    sharers = request.waiter
    assert isinstance(sharers, _Sharers)
    is_full = len(sharers.waiting) > MOST_SHARERS
    return None if request.sent or is_full or sharers.done() else sharers


class _Sharers:
    """The futures that wait for one list (`requests.Waiter`)."""

    __slots__ = ("_full", "_unsent", "waiting")

    def __init__(self, unsent: dict[str, Request], full: str, first: asyncio.Future[list[str]]) -> None:
        self._unsent = unsent
        self._full = full
        self.waiting = [first]

    def done(self) -> bool:
        """Whether nobody waits any more: then it is not sent, and nobody joins."""
        for answer in self.waiting:
            if not answer.done():
                return False
        self._forget()
        return True

    def set_result(self, names: list[str], /) -> None:
        listing = Listing(names)
        for answer in self._release():
            if not answer.done():
                answer.set_result(listing)

    def set_exception(self, exception: BaseException, /) -> None:
        for answer in self._release():
            if not answer.done():
                answer.set_exception(exception)

    def _release(self) -> Sequence[asyncio.Future[list[str]]]:
        self._forget()
        waiting, self.waiting = self.waiting, []
        return waiting

    def _forget(self) -> None:
        request = self._unsent.get(self._full)
        if request is not None and request.waiter is self:
            del self._unsent[self._full]


class _Gone(Nobody):
    """The waiter of a request that another request has replaced: it is not sent."""

    def done(self) -> bool:
        return True


_GONE = _Gone()
