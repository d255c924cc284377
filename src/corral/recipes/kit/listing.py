"""Lists of the names in a line: requested once, and parsed once, for all tasks that need them together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from corral.session.requests import Nobody, Request
from corral.session.session import Session
from corral.wire import messages

from .order import InOrder, in_order

__all__ = ["Listing", "Lists"]

# One list waits for the creates of at most this many tasks that join: as many as a connection has in flight.
MOST_SHARERS = 1000


class Listing:
    """The names in a line at one moment. A waiter must not keep it, since it is as long as the line."""

    __slots__ = ("_in_order", "_set", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._set: frozenset[str] | None = None
        self._in_order: dict[tuple[str, ...], InOrder] | None = None

    def __contains__(self, name: str) -> bool:
        if self._set is None:
            self._set = frozenset(self.names)
        return name in self._set

    def in_order(self, labels: tuple[str, ...]) -> InOrder:
        """The nodes with these labels, in the order of their numbers."""
        if self._in_order is None:
            self._in_order = {}
        found = self._in_order.get(labels)
        if found is None:
            found = self._in_order[labels] = in_order(self.names, labels)
        return found


class Lists:
    """The lists that are requested through one client.

    While a list waits to be sent, all tasks that need the same list share it. A task that joins a line shares
    it as well: the list is then sent behind that task's create. A crowd that joins together therefore costs
    one list, not one for each.
    """

    def __init__(self) -> None:
        self._unsent: dict[str, Request] = {}  # each with a _SharedListing as its waiter

    def ask(
        self, session: Session, full: str, path: str, create: Request | None = None
    ) -> asyncio.Future[Listing]:
        """Send `create`, and behind it a list of the children of `full`; `path` is what errors name.

        The future is the caller's own: cancelling it does not affect the others that share the list.
        """
        answer: asyncio.Future[Listing] = session.loop.create_future()
        unsent = self._unsent
        replaced = unsent.get(full)
        if replaced is not None and (shared := _shareable(replaced)) is not None:
            shared.others.append(answer)
            if create is None:
                return answer
            # A new request takes its place, so that it is sent once, and behind this create.
            body, replaced.waiter = replaced.body, _GONE
        else:
            body, replaced = messages.encode_children(full, False), None
            shared = _SharedListing(unsent, full, answer)
        request = Request(messages.CHILDREN, body, path, shared)
        try:
            if create is None:
                session.submit_now(request)
            else:
                session.submit_now(create, request)
        except BaseException:  # the create is too large, and nothing was sent
            if replaced is not None:
                shared.others.remove(answer)
                replaced.waiter = shared
            raise
        if not request.attempts and not answer.done():
            unsent[full] = request
        elif replaced is not None:
            unsent.pop(full, None)
        return answer


def _shareable(request: Request) -> _SharedListing | None:
    """The list that this request reads, if others may share it."""
    shared = request.waiter
    assert isinstance(shared, _SharedListing)
    is_full = len(shared.others) >= MOST_SHARERS
    return None if request.sent or is_full or shared.done() else shared


class _SharedListing(Listing):
    """A requested list, and the futures that wait for it (`requests.Waiter`)."""

    __slots__ = ("_first", "_full", "_unsent", "others")

    def __init__(self, unsent: dict[str, Request], full: str, first: asyncio.Future[Listing]) -> None:
        # Not by `super().__init__`, which would cost a call for each lock that is acquired.
        self.names = ()
        self._set = self._in_order = None
        self._unsent = unsent
        self._full = full
        self._first = first
        self.others: list[asyncio.Future[Listing]] = []

    def done(self) -> bool:
        """Whether nobody waits any more: then it is not sent, and nobody shares it."""
        if not self._first.done():
            return False
        for answer in self.others:
            if not answer.done():
                return False
        self._forget()
        return True

    def set_result(self, names: list[str], /) -> None:
        self.names = names
        for answer in self._release():
            if not answer.done():
                answer.set_result(self)

    def set_exception(self, exception: BaseException, /) -> None:
        for answer in self._release():
            if not answer.done():
                answer.set_exception(exception)

    def _release(self) -> Sequence[asyncio.Future[Listing]]:
        """The futures that wait. They refer to the list from here on, so the list drops them."""
        self._forget()
        waiting = (self._first, *self.others)
        del self._first, self.others
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
