"""Lists of the nodes in a line: asked for once, and parsed once, for all who ask together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from corral.session.requests import Nobody, Request
from corral.session.supervisor import Session
from corral.wire import messages

from .layouts import is_trusted, numbers

__all__ = ["InOrder", "Listing", "Lists"]

# One list is put off for the creates of at most so many who join: as many as a connection has in flight.
MOST_SHARERS = 1000


class InOrder(NamedTuple):
    """Those of the names that have one of some labels."""

    numbers: list[int]
    """The numbers that can be trusted, in order."""
    names: list[str]
    """The names that they belong to."""
    late: list[str]
    """The names behind all of these: given when the numbers had run out, so their order is not known here."""


class Listing:
    """The names in a line at one moment. Whoever waits must not keep it: it is as long as the line."""

    __slots__ = ("_in_order", "_set", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._set: frozenset[str] | None = None
        self._in_order: dict[tuple[str, ...], InOrder] | None = None

    def is_only(self, name: str) -> bool:
        """Whether there is nothing but this name."""
        return len(self.names) == 1 and self.names[0] == name

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
            order = numbers(self.names, labels)
            trusted = [name for name, number in order.items() if is_trusted(number)]
            trusted.sort(key=order.__getitem__)
            late = (
                [name for name in order if not is_trusted(order[name])] if len(trusted) < len(order) else []
            )
            found = self._in_order[labels] = InOrder([order[name] for name in trusted], trusted, late)
        return found


class Lists:
    """The lists that are asked for through one client.

    While a list waits to be sent, others that ask for the same one share it. Whoever joins a line shares it
    as well: it then goes out behind their create, in place of the one that waited. So a crowd that joins
    together costs one list, not one each.
    """

    def __init__(self) -> None:
        self._unsent: dict[str, tuple[_List, Request]] = {}

    def ask(self, session: Session, full: str, path: str, *first: Request) -> asyncio.Future[Listing]:
        """Send `first`, and a list of the children of `full` behind it; `path` is what errors call it.

        The future is the caller's own: cancelling it takes nothing from those who share the list.
        """
        answer: asyncio.Future[Listing] = session.loop.create_future()
        entry = self._shareable(full) if self._unsent else None
        if entry is not None:
            self._share(session, full, path, answer, entry, first)
            return answer
        shared = _List(self._unsent, full)
        shared.waiting.append(answer)
        request = Request(messages.CHILDREN, messages.encode_children(full, False), path, shared)
        session.submit_now(*first, request)
        if not request.attempts and not answer.done():
            self._unsent[full] = shared, request
        return answer

    def _share(
        self,
        session: Session,
        full: str,
        path: str,
        answer: asyncio.Future[Listing],
        entry: tuple[_List, Request],
        first: Sequence[Request],
    ) -> None:
        """Share a list that waits to be sent; behind `first`, if there is any, in place of the one that
        waits."""
        shared, replaced = entry
        shared.waiting.append(answer)
        if not first:
            return
        replaced.waiter = _GONE  # it is not sent: the new one takes its place
        request = Request(messages.CHILDREN, replaced.body, path, shared)
        try:
            session.submit_now(*first, request)
        except BaseException:  # `first` is too large, and nothing was sent
            shared.waiting.remove(answer)
            replaced.waiter = shared
            raise
        if not request.attempts and not answer.done():
            self._unsent[full] = shared, request

    def _shareable(self, full: str) -> tuple[_List, Request] | None:
        entry = self._unsent.get(full)
        if entry is None:
            return None
        shared, request = entry
        return None if request.sent or len(shared.waiting) >= MOST_SHARERS or shared.done() else entry


class _List:
    """One list, and all who wait for it (`requests.Waiter`)."""

    __slots__ = ("_full", "_unsent", "waiting")

    def __init__(self, unsent: dict[str, tuple[_List, Request]], full: str) -> None:
        self.waiting: list[asyncio.Future[Listing]] = []
        self._unsent = unsent
        self._full = full

    def done(self) -> bool:
        """Whether nobody waits any more: then it is not sent, and nobody may come to share it."""
        for answer in self.waiting:
            if not answer.done():
                return False
        self._forget()
        return True

    def set_result(self, names: list[str], /) -> None:
        if self._unsent:
            self._forget()
        listing = Listing(names)
        for answer in self.waiting:
            if not answer.done():
                answer.set_result(listing)

    def set_exception(self, exception: BaseException, /) -> None:
        self._forget()
        for answer in self.waiting:
            if not answer.done():
                answer.set_exception(exception)

    def _forget(self) -> None:
        entry = self._unsent.get(self._full)
        if entry is not None and entry[0] is self:
            del self._unsent[self._full]


class _Gone(Nobody):
    """The waiter of a request that another has replaced: it is not sent."""

    def done(self) -> bool:
        return True


_GONE = _Gone()
